//! What the console and the signals ask for: PAUSE, RESUME, DISABLE, ENABLE, RECONNECT, WAIT_CLOSE, KILL, and an end.
//!
//! Commands for one database take its name as clients give it; one that only `*` stands for becomes known thereby. The
//! console's own database is refused by the console.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::{Directory, Registry};
use crate::pool::Pool;
use crate::pool::cancels::until;
use crate::pool::orders::{Counts, Ended};
use crate::stats::moment::Moment;

/// Ends when what a command waits for has come about. Dropping it stops the waiting, not the command. Cancel safe.
pub type Released = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Why a command is turned down. Displayed in PgBouncer's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlError {
    /// PAUSE or KILL while everything is paused.
    AlreadyPaused,
    /// RESUME while nothing is paused.
    NotPaused,
    /// RESUME of a database that is not paused.
    DatabaseNotPaused(String),
    /// No such database.
    NoSuchDatabase(String),
    /// SUSPEND while a database is paused.
    DatabasesPaused,
    /// The process stops.
    ShuttingDown,
}

impl fmt::Display for ControlError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlError::AlreadyPaused => out.write_str("already suspended/paused"),
            ControlError::NotPaused => out.write_str("pooler is not paused/suspended"),
            ControlError::DatabaseNotPaused(name) => write!(out, "database {name} is not paused"),
            ControlError::NoSuchDatabase(name) => write!(out, "no such database: {name}"),
            ControlError::DatabasesPaused => out.write_str("cannot suspend with paused databases"),
            ControlError::ShuttingDown => out.write_str("pooler is shutting down"),
        }
    }
}

impl std::error::Error for ControlError {}

/// What SHOW STATE says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Serving.
    Active,
    /// PAUSE without a name.
    Paused,
    /// SUSPEND.
    Suspended,
}

/// How the process is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Clients that wait are refused, those that have a server keep it to the end of its use.
    WaitForServers,
    /// Clients stay until they leave.
    WaitForClients,
}

impl Registry {
    /// PAUSE. The future ends when every server has been released (and thereby closed), or the pause is over.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn pause(self: &Arc<Self>, database: Option<&str>, now: Moment) -> Result<Released, ControlError> {
        let mut directory = self.write();
        if directory.paused || self.suspension().is_on() {
            return Err(ControlError::AlreadyPaused);
        }
        match database {
            None => directory.paused = true,
            Some(name) => directory.find(name)?.paused = true,
        }
        let pools = directory.pools(database);
        // The pools change with the directory, so that two commands at a time cannot leave them different from it.
        for pool in &pools {
            pool.lock().pause();
        }
        drop(directory);
        for pool in &pools {
            pool.carry_out(now);
        }
        let name = database.map(Arc::<str>::from);
        Ok(self.wait_until(name, |directory, name, counts| {
            let paused = match name {
                None => directory.paused,
                Some(name) => directory.paused || directory.databases.get(name).is_some_and(|entry| entry.paused),
            };
            !paused || counts.away() == 0
        }))
    }

    /// RESUME.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn resume(&self, database: Option<&str>, now: Moment) -> Result<(), ControlError> {
        let mut directory = self.write();
        match database {
            None if directory.stopping.is_some() => return Err(ControlError::ShuttingDown),
            None if self.suspension().is_on() => {
                drop(directory);
                self.end_suspension();
                return Ok(());
            }
            None if !directory.paused => return Err(ControlError::NotPaused),
            None => directory.paused = false,
            Some(name) => {
                let entry =
                    directory.databases.get_mut(name).ok_or_else(|| ControlError::NoSuchDatabase(name.to_owned()))?;
                if !std::mem::take(&mut entry.paused) {
                    return Err(ControlError::DatabaseNotPaused(name.to_owned()));
                }
            }
        }
        // Where one of the two pauses is over, the other may still hold.
        let free: Vec<_> = directory
            .databases
            .values()
            .filter(|entry| !entry.paused && !directory.paused)
            .flat_map(|entry| entry.all().cloned())
            .collect();
        for pool in &free {
            pool.lock().resume(now);
        }
        drop(directory);
        for pool in free {
            pool.carry_out(now);
        }
        self.surroundings.progress.notify_waiters();
        Ok(())
    }

    /// DISABLE: new clients are turned away, present ones stay.
    ///
    /// # Errors
    /// There is no such database.
    pub fn disable(&self, database: &str) -> Result<(), ControlError> {
        self.write().find(database)?.disabled = true;
        Ok(())
    }

    /// ENABLE.
    ///
    /// # Errors
    /// There is no such database.
    pub fn enable(&self, database: &str) -> Result<(), ControlError> {
        self.write().find(database)?.disabled = false;
        Ok(())
    }

    /// RECONNECT: servers open now are closed, idle ones at once, others as they come home.
    ///
    /// # Errors
    /// There is no such database.
    pub fn reconnect(&self, database: Option<&str>, now: Moment) -> Result<(), ControlError> {
        for pool in self.named(database)? {
            pool.reconnect(now);
        }
        Ok(())
    }

    /// WAIT_CLOSE: the future ends when no server that RECONNECT meant is left.
    ///
    /// # Errors
    /// There is no such database.
    pub fn wait_close(self: &Arc<Self>, database: Option<&str>) -> Result<Released, ControlError> {
        self.named(database)?;
        Ok(self.wait_until(database.map(Arc::from), |_, _, counts| counts.close_needed == 0))
    }

    /// KILL: drops clients and servers; the database stays paused.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn kill(&self, database: Option<&str>, now: Moment) -> Result<(), ControlError> {
        let mut directory = self.write();
        if directory.paused || self.suspension().is_on() {
            return Err(ControlError::AlreadyPaused);
        }
        if let Some(name) = database {
            directory.find(name)?;
        }
        let mut killed = Vec::new();
        for (name, entry) in &mut directory.databases {
            let all_in_use = database.is_none() && entry.all().next().is_some();
            if all_in_use || database == Some(&**name) {
                entry.paused = true;
                let pools = entry.take_all();
                for pool in &pools {
                    entry.retired += pool.counters().totals();
                }
                killed.push((name.clone(), pools));
            }
        }
        drop(directory);
        for (name, pools) in killed {
            self.end(&name, pools, Ended::Killed, now);
        }
        Ok(())
    }

    /// Is everything suspended or paused? Single databases have their own column in SHOW DATABASES.
    pub fn state(&self) -> State {
        match self.read().paused {
            _ if self.suspension().is_on() => State::Suspended,
            true => State::Paused,
            false => State::Active,
        }
    }

    /// The process is about to end: nobody new is let in, and nobody who waits keeps waiting where the end waits only
    /// for servers.
    pub fn stop(&self, stop: Stop, now: Moment) {
        let mut directory = self.write();
        directory.stopping = Some(stop);
        let pools = directory.pools(None);
        drop(directory);
        if stop == Stop::WaitForServers {
            for pool in pools {
                pool.end(Ended::Shutdown, now);
            }
        }
    }

    /// Servers on loan, or on the way home from one; those that clients have left in the middle are counted apart.
    pub fn servers_away(&self, now: Moment) -> u32 {
        let away = |counts: Counts| counts.away() - counts.abandoned;
        self.pools().iter().map(|pool| away(pool.counts(now))).sum()
    }

    /// Servers that clients have left in the middle, and that PostgreSQL works on still.
    pub fn servers_abandoned(&self, now: Moment) -> u32 {
        self.pools().iter().map(|pool| pool.counts(now).abandoned).sum()
    }

    fn named(&self, database: Option<&str>) -> Result<Vec<Arc<Pool>>, ControlError> {
        let mut directory = self.write();
        if let Some(name) = database {
            directory.find(name)?;
        }
        Ok(directory.pools(database))
    }

    /// Waits for something to hold of every pool of a database, or of all.
    fn wait_until(
        self: &Arc<Self>,
        database: Option<Arc<str>>,
        done: fn(&Directory, Option<&str>, &Counts) -> bool,
    ) -> Released {
        let registry = self.clone();
        Box::pin(async move {
            let holds = || {
                let directory = registry.read();
                let pools = directory.pools(database.as_deref());
                pools.iter().all(|pool| {
                    let mut counts = pool.counts(Moment(0));
                    counts.close_needed = counts.close_needed.max(pool.servers_marked());
                    done(&directory, database.as_deref(), &counts)
                })
            };
            until(&registry.surroundings.progress, || holds().then_some(())).await;
        })
    }
}

impl Directory {
    fn pools(&self, database: Option<&str>) -> Vec<Arc<Pool>> {
        let meant = |name: &str| database.is_none_or(|database| database == name);
        let entries = self.databases.iter().filter(|(name, _)| meant(name));
        entries.flat_map(|(_, entry)| entry.all().cloned()).collect()
    }

    /// The entry of a database; made, where only `*` stands for it.
    fn find(&mut self, name: &str) -> Result<&mut super::Entry, ControlError> {
        if self.config.database(name).is_none() || name == "*" {
            return Err(ControlError::NoSuchDatabase(name.to_owned()));
        }
        Ok(self.databases.entry(Arc::from(name)).or_default())
    }
}
