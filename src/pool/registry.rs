//! Every pool by name, and what holds for whole databases: reload, limits on clients, PAUSE and its kin.
//!
//! One read-write lock over the directory, read at each login and written when a pool or database comes or goes. Pools
//! are told to act only after it is released. The console's commands are in `control`, the rows of SHOW DATABASES and
//! SHOW USERS in `views`.

mod control;
mod crowd;
mod views;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::Notify;

pub use control::{ControlError, Released, State, Stop};
pub use crowd::{Admission, Denied};
pub use views::{DatabaseView, UserView};

use super::ledger::Ledger;
use super::orders::Ended;
use super::quota::Names;
use super::rules::Rules;
use super::{Pool, Surroundings};
use crate::auth::{Credential, KeyCache, Proof, Secret, credential_from};
use crate::config::{Config, Database};
use crate::net::workers::Workers;
use crate::stats::counters::Totals;
use crate::stats::moment::Moment;
use crate::stats::roster::{ClientState, Order, Roster};
use crowd::Crowd;

/// Why there is no pool for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPool {
    /// Not configured, and no `*` to fall back on.
    NoSuchDatabase,
    /// DISABLE.
    Disabled,
    /// The process stops.
    ShuttingDown,
}

/// Every pool of the process.
pub struct Registry {
    surroundings: Arc<Surroundings>,
    directory: RwLock<Directory>,
    crowd: Arc<Crowd>,
}

struct Directory {
    config: Arc<Config>,
    databases: BTreeMap<Arc<str>, Entry>,
    /// PAUSE without a name.
    paused: bool,
    stopping: Option<Stop>,
}

/// What is known of one database that has a name of its own: configured, or met by way of `*`.
#[derive(Default)]
struct Entry {
    pools: BTreeMap<Arc<str>, Arc<Pool>>,
    paused: bool,
    disabled: bool,
    /// Since when an automatic database has had neither client nor server.
    inactive_since: Option<Moment>,
    /// What pools that are no more had counted.
    retired: Totals,
}

impl Registry {
    /// A registry without pools.
    pub fn new(config: Arc<Config>, roster: Arc<Roster>, workers: Workers, keys: KeyCache) -> Arc<Registry> {
        let surroundings = Surroundings { roster, workers, keys, ledger: Ledger::default(), progress: Notify::new() };
        let mut directory = Directory { config, databases: BTreeMap::new(), paused: false, stopping: None };
        directory.enter_configured();
        Arc::new(Registry {
            surroundings: Arc::new(surroundings),
            directory: RwLock::new(directory),
            crowd: Arc::default(),
        })
    }

    /// The configuration that holds now.
    pub fn config(&self) -> Arc<Config> {
        self.read().config.clone()
    }

    /// The pool for a client that has logged in as `user` and can prove `credential` to servers. The pool is that of
    /// the forced user where the database has one; `credential` does not matter then.
    ///
    /// # Errors
    /// See [`NoPool`].
    pub fn pool(&self, database: &str, user: &str, credential: &Credential) -> Result<Arc<Pool>, NoPool> {
        let directory = self.read();
        let found = directory.admits(database)?;
        let user = found.user.as_deref().unwrap_or(user);
        let credential = forced_credential(&directory.config, found).unwrap_or_else(|| credential.clone());
        if let Some(pool) = directory.databases.get(database).and_then(|entry| entry.pools.get(user)) {
            let pool = pool.clone();
            drop(directory);
            pool.offer_credential(credential);
            return Ok(pool);
        }
        let user: Arc<str> = user.into();
        drop(directory);
        self.create(database, user, credential)
    }

    fn create(&self, database: &str, user: Arc<str>, credential: Credential) -> Result<Arc<Pool>, NoPool> {
        let mut directory = self.write();
        let found = directory.admits(database)?;
        let rules = Rules::new(&directory.config, found, database, &user);
        let everywhere = directory.paused;
        let name = match directory.databases.get_key_value(database) {
            Some((name, _)) => name.clone(),
            None => Arc::from(database),
        };
        let entry = directory.databases.entry(name.clone()).or_default();
        entry.inactive_since = None;
        let paused = everywhere || entry.paused;
        let pool = entry
            .pools
            .entry(user.clone())
            .or_insert_with(|| Pool::new(Names { database: name, user }, rules, credential, self.surroundings.clone()));
        if paused {
            // Under the directory's lock, or a RESUME could come in between and be undone. A new pool has no orders
            // yet.
            pool.lock().pause();
        }
        Ok(pool.clone())
    }

    /// Counts a client in under its database and the user it logs in as, until the admission is dropped. The console's
    /// clients are not counted.
    ///
    /// # Errors
    /// `max_db_client_connections` or `max_user_client_connections` is reached.
    pub fn admit(&self, database: &str, user: &str) -> Result<Admission, Denied> {
        let limits = views::client_limits(&self.config(), database, user);
        self.crowd.admit(database, user, limits)
    }

    /// All pools, by database and user.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.read().databases.values().flat_map(|entry| entry.pools.values().cloned()).collect()
    }

    /// What each database's pools have counted, those that are no more included.
    pub fn totals(&self) -> Vec<(Arc<str>, Totals)> {
        let directory = self.read();
        let sum = |entry: &Entry| {
            let mut totals = entry.retired;
            for pool in entry.pools.values() {
                totals += pool.counters().totals();
            }
            totals
        };
        directory.databases.iter().map(|(name, entry)| (name.clone(), sum(entry))).collect()
    }

    /// A new configuration holds from now on. Pools get their new rules, servers that lead elsewhere close as they come
    /// home, and databases that are no longer configured end, clients and all.
    pub fn apply(&self, config: Arc<Config>, now: Moment) {
        let mut changed = Vec::new();
        let mut gone = Vec::new();
        let mut directory = self.write();
        directory.config = config.clone();
        directory.enter_configured();
        directory.databases.retain(|name, entry| match config.database(name) {
            Some(database) => {
                for (user, pool) in &entry.pools {
                    let credential = forced_credential(&config, database);
                    changed.push((pool.clone(), Rules::new(&config, database, name, user), credential));
                }
                true
            }
            None => {
                gone.push((name.clone(), std::mem::take(&mut entry.pools)));
                false
            }
        });
        drop(directory);
        for (pool, rules, credential) in changed {
            if let Some(credential) = credential {
                pool.offer_credential(credential);
            }
            pool.apply(rules, now);
        }
        for (name, pools) in gone {
            tracing::warn!("dropping database '{name}' as it does not exist anymore or inactive auto-database");
            self.end(&name, pools.into_values(), Ended::DatabaseGone, now);
        }
    }

    /// Does what time asks for, some three times a second: in each pool, and here what outlives its use.
    pub fn tick(&self, now: Moment) {
        self.prefill();
        for pool in self.pools() {
            pool.tick(now);
        }
        self.sweep(now);
        self.surroundings.progress.notify_waiters();
    }

    /// Databases with a forced user and `min_pool_size` have their pool, client or not.
    fn prefill(&self) {
        let config = self.config();
        for (name, database) in config.databases.iter().filter(|(name, _)| *name != "*") {
            let minimum = database.min_pool_size.unwrap_or(config.settings.min_pool_size);
            if let (true, Some(user)) = (minimum > 0, &database.user) {
                // A database that is disabled or a process that stops opens nothing.
                let _ = self.pool(name, user, &Credential::None);
            }
        }
    }

    /// Drops pools that were empty for `pool_idle_timeout`, and automatic databases unused for `autodb_idle_timeout`.
    fn sweep(&self, now: Moment) {
        let directory = self.read();
        let config = directory.config.clone();
        let automatic = |name: &str| !config.databases.contains_key(name);
        let due =
            !config.settings.pool_idle_timeout.is_zero() || directory.databases.keys().any(|name| automatic(name));
        drop(directory);
        if !due {
            return;
        }
        let (pools_after, databases_after) = (config.settings.pool_idle_timeout, config.settings.autodb_idle_timeout);
        let mut gone = Vec::new();
        let mut directory = self.write();
        directory.databases.retain(|name, entry| {
            let Entry { pools, retired, .. } = entry;
            pools.retain(|_, pool| {
                let stays = pools_after.is_zero() || !pool.empty_for(pools_after, now);
                if !stays {
                    *retired += pool.counters().totals();
                }
                stays
            });
            if !automatic(name) || entry.pools.values().any(|pool| pool.in_use(now)) {
                entry.inactive_since = None;
                return true;
            }
            let since = *entry.inactive_since.get_or_insert(now);
            if databases_after.is_zero() || entry.paused || entry.disabled || now.since(since) <= databases_after {
                return true;
            }
            gone.push((name.clone(), std::mem::take(&mut entry.pools)));
            false
        });
        drop(directory);
        for (name, pools) in gone {
            tracing::warn!("dropping database '{name}' as it does not exist anymore or inactive auto-database");
            self.end(&name, pools.into_values(), Ended::DatabaseGone, now);
        }
    }

    /// Ends pools that are in the directory no more, and the clients of their database.
    fn end(&self, database: &str, pools: impl Iterator<Item = Arc<Pool>>, ended: Ended, now: Moment) {
        for pool in pools {
            pool.end(ended, now);
        }
        for card in self.surroundings.roster.clients() {
            let console = card.console.load(std::sync::atomic::Ordering::Relaxed);
            if !console && card.state() != ClientState::Login && &*card.names().0 == database {
                card.give_order(Order::Kill);
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Directory> {
        self.directory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Directory> {
        self.directory.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directory {
    /// The configuration of a database that clients may enter now.
    fn admits(&self, name: &str) -> Result<&Database, NoPool> {
        let database = self.config.database(name).ok_or(NoPool::NoSuchDatabase)?;
        if self.stopping.is_some() {
            return Err(NoPool::ShuttingDown);
        }
        match self.databases.get(name) {
            Some(entry) if entry.disabled => Err(NoPool::Disabled),
            _ => Ok(database),
        }
    }

    /// Every configured database has its entry from the start: it is listed, and can be paused, before it is used.
    fn enter_configured(&mut self) {
        let config = self.config.clone();
        for name in config.databases.keys().filter(|name| *name != "*") {
            self.databases.entry(Arc::from(name.as_str())).or_default();
        }
    }
}

impl Pool {
    /// Has it a client or a server?
    fn in_use(&self, now: Moment) -> bool {
        let counts = self.counts(now);
        self.members() > 0 || counts.servers() > 0 || counts.waiting > 0
    }

    /// Was it empty for this long? Nobody else must hold it either, or a client could be about to join.
    fn empty_for(self: &Arc<Pool>, span: Duration, now: Moment) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        if self.in_use(now) {
            self.empty_since.store(0, Relaxed);
            return false;
        }
        let since = match self.empty_since.load(Relaxed) {
            0 => {
                self.empty_since.store(now.0, Relaxed);
                now
            }
            micros => Moment(micros),
        };
        now.since(since) > span && Arc::strong_count(self) == 1
    }
}

/// What the forced user of a database proves: its password, or where it has none, its secret in the auth_file.
fn forced_credential(config: &Config, database: &Database) -> Option<Credential> {
    let user = database.user.as_deref()?;
    let secret = database.password.as_ref().map(crate::config::Secret::reveal).or_else(|| config.secrets.find(user));
    Some(secret.map_or(Credential::None, |secret| credential_from(&Secret::parse(secret), &Proof::Nothing)))
}
