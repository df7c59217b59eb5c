//! The console: a client of the database `pgbouncer` talks to us, not to Postgres.
//!
//! ```text
//!  message ─► console.rs ─► command.rs ─► control.rs ─┬─► show/      tables of what is
//!             (simple and   (text to      (who may do  ├─► pooling.rs PAUSE, KILL… to the pools
//!              extended)     Command)      it; deeds)  └─► ProcessControl: RELOAD, SET, SHUTDOWN
//!                                             │
//!  replies ◄─ table.rs ◄──────────────────────┘
//! ```
//!
//! - [`console`]: one client's conversation, message by message; it owns no socket
//! - [`extended`]: prepared statements and portals, which PgBouncer's console does not have
//! - [`command`]: the language
//! - [`control`]: rights, and what each command does
//! - [`pooling`]: what the console asks of the pools
//! - [`show`]: the tables, by subject
//! - [`table`]: columns and rows as messages
//!
//! The `client` room logs the application in, sees that it asks for the database `pgbouncer`, finds its [`Rights`], and
//! hands each message to [`Console::message`]. To add a command: a line in `command.rs`, an arm in `control.rs`. To add
//! a table: a line in `show/mod.rs` and a function beside its kin.

pub mod command;
pub mod console;
pub mod control;
pub mod extended;
pub mod pooling;
pub mod show;
pub mod table;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

pub use command::ShutdownMode;
pub use console::{Console, Fatal, Wait};
pub use control::Rights;
pub use pooling::Pooling;

use crate::config::SetEffect;
use crate::stats::averages::{Averages, TotalsByDatabase};
use crate::stats::counters::Counters;
use crate::stats::roster::Roster;

/// The database that is the console, and the user PgBouncer shows for it.
pub const DATABASE: &str = crate::config::CONSOLE;

/// The PgBouncer whose console this is: tools compare this number to learn which columns to expect.
pub const PGBOUNCER_VERSION: &str = "1.25.2";

/// What all consoles share.
pub struct Context {
    /// The pools.
    pub registry: Arc<dyn Pooling>,
    /// The cards of all clients and servers.
    pub roster: Arc<Roster>,
    /// Snapshots for the averages.
    pub averages: Arc<Averages>,
    /// The process.
    pub process: Arc<dyn ProcessControl>,
    /// The console's own row in SHOW STATS.
    pub counters: Counters,
    /// What a client's session takes by itself, in bytes, for SHOW MEM.
    pub client_bytes: usize,
}

impl Context {
    /// The counters by database, the console's own included: what [`Averages::roll`] takes a snapshot of.
    pub fn totals(&self) -> TotalsByDatabase {
        let mut totals = self.registry.totals();
        totals.insert(Arc::from(DATABASE), self.counters.totals());
        totals
    }
}

/// What only the process can do. `app` implements it.
pub trait ProcessControl: Send + Sync {
    /// Reads the configuration again and applies it. The error says what is wrong with it; nothing was applied then.
    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

    /// Begins to stop the process.
    fn shutdown(&self, how: ShutdownMode);

    /// Is the process stopping?
    fn shutting_down(&self) -> bool;

    /// Is a client that has just connected, on a Unix socket or by TCP, not let in, because the process is stopping? A
    /// process that waits for its clients closes its TCP ports: who still arrives there had connected before.
    fn turns_away(&self, _on_unix_socket: bool) -> bool {
        self.shutting_down()
    }

    /// Changes one setting until the next reload, and says what that does.
    ///
    /// # Errors
    /// Why not: no such setting, or a value it cannot have.
    fn set(&self, name: &str, value: &str) -> Result<SetEffect, String>;

    /// Ends when what has been logged so far is written, or after a moment.
    fn log_written(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }

    /// A time of day in the process' time zone, as `2026-01-31 23:59:59 CET`. UTC unless the process knows better.
    fn local_time(&self, at: SystemTime) -> String {
        show::sockets::utc(at)
    }
}

#[cfg(test)]
mod tests;
