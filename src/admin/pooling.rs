//! What the console asks of the pools.
//!
//! A trait, so that the console's tests need no pool: `pool::Registry` is the real implementor, the tests' double the
//! other. It speaks in the pool room's own views and errors.

use std::pin::Pin;
use std::sync::Arc;

use crate::config::Config;
use crate::net::world;
use crate::pool::{ControlError, DatabaseView, PoolView, Registry, State, UserView};
use crate::stats::averages::TotalsByDatabase;
use crate::stats::counters::Totals;
use crate::stats::moment::Moment;

/// Ends when what a command asked for has come about.
pub type Done = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The pools, as the console sees them. A database of `None` is all of them.
pub trait Pooling: Send + Sync {
    /// Active, paused or suspended.
    fn state(&self) -> State;
    /// For SHOW POOLS.
    fn pool_views(&self, now: Moment) -> Vec<PoolView>;
    /// For SHOW DATABASES.
    fn database_views(&self) -> Vec<DatabaseView>;
    /// For SHOW USERS.
    fn user_views(&self) -> Vec<UserView>;
    /// For SHOW STATS: the counters of each database that has or had a pool.
    fn totals(&self) -> TotalsByDatabase;
    /// For SHOW CONFIG and PEERS: the configuration in force.
    fn config(&self) -> Arc<Config>;

    /// Lends no more servers; the wait ends when all are released.
    ///
    /// # Errors
    /// As [`ControlError`] says; so for the others.
    fn pause(&self, database: Option<&str>) -> Result<Done, ControlError>;
    /// Lends servers again.
    ///
    /// # Errors
    /// See [`Pooling::pause`].
    fn resume(&self, database: Option<&str>) -> Result<(), ControlError>;
    /// Refuses new clients.
    ///
    /// # Errors
    /// See [`Pooling::pause`].
    fn disable(&self, database: &str) -> Result<(), ControlError>;
    /// Accepts new clients.
    ///
    /// # Errors
    /// See [`Pooling::pause`].
    fn enable(&self, database: &str) -> Result<(), ControlError>;
    /// Marks every server to be replaced as it comes home.
    ///
    /// # Errors
    /// See [`Pooling::pause`].
    fn reconnect(&self, database: Option<&str>) -> Result<(), ControlError>;
    /// The wait ends when no server is left that is marked to be replaced.
    ///
    /// # Errors
    /// See [`Pooling::pause`].
    fn wait_close(&self, database: Option<&str>) -> Result<Done, ControlError>;
    /// Closes servers, orders clients away, and pauses.
    ///
    /// # Errors
    /// See [`Pooling::pause`].
    fn kill(&self, database: Option<&str>) -> Result<(), ControlError>;
}

impl Pooling for Arc<Registry> {
    fn state(&self) -> State {
        Registry::state(self)
    }

    fn pool_views(&self, now: Moment) -> Vec<PoolView> {
        self.pools().iter().map(|pool| pool.view(now)).collect()
    }

    fn database_views(&self) -> Vec<DatabaseView> {
        Registry::database_views(self)
    }

    fn user_views(&self) -> Vec<UserView> {
        Registry::user_views(self)
    }

    fn totals(&self) -> TotalsByDatabase {
        let mut totals = TotalsByDatabase::from_iter(Registry::totals(self));
        // As in PgBouncer, a database that nobody has used yet has no row.
        totals.retain(|_, totals| *totals != Totals::default());
        for pool in self.pools() {
            totals.entry(pool.database().clone()).or_default();
        }
        totals
    }

    fn config(&self) -> Arc<Config> {
        Registry::config(self)
    }

    fn pause(&self, database: Option<&str>) -> Result<Done, ControlError> {
        Registry::pause(self, database, world::now())
    }

    fn resume(&self, database: Option<&str>) -> Result<(), ControlError> {
        Registry::resume(self, database, world::now())
    }

    fn disable(&self, database: &str) -> Result<(), ControlError> {
        Registry::disable(self, database)
    }

    fn enable(&self, database: &str) -> Result<(), ControlError> {
        Registry::enable(self, database)
    }

    fn reconnect(&self, database: Option<&str>) -> Result<(), ControlError> {
        Registry::reconnect(self, database, world::now())
    }

    fn wait_close(&self, database: Option<&str>) -> Result<Done, ControlError> {
        Registry::wait_close(self, database)
    }

    fn kill(&self, database: Option<&str>) -> Result<(), ControlError> {
        Registry::kill(self, database, world::now())
    }
}
