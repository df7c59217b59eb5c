//! What the console asks of the pools.
//!
//! A trait, so that the console's tests need no pool: `pool::Registry` is the real implementor, the tests' double the
//! other. It speaks in the pool room's own views and errors.

use std::pin::Pin;
use std::sync::Arc;

use crate::config::Config;
use crate::net::dns::cache::{HostView, Sums, ZoneView};
use crate::net::world;
use crate::pool::{ControlError, DatabaseView, PeerPoolView, PoolView, Registry, State, UserView};
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
    /// For SHOW PEER_POOLS.
    fn peer_pool_views(&self) -> Vec<PeerPoolView>;
    /// For SHOW DATABASES.
    fn database_views(&self) -> Vec<DatabaseView>;
    /// For SHOW USERS.
    fn user_views(&self) -> Vec<UserView>;
    /// For SHOW STATS: the counters of each database that has or had a pool.
    fn totals(&self) -> TotalsByDatabase;
    /// For SHOW CONFIG and PEERS: the configuration in force.
    fn config(&self) -> Arc<Config>;
    /// For SHOW DNS_HOSTS.
    fn dns_hosts(&self) -> Vec<HostView>;
    /// For SHOW DNS_ZONES.
    fn dns_zones(&self) -> Vec<ZoneView>;
    /// For SHOW LISTS.
    fn dns_sums(&self) -> Sums;

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
    /// Stops everybody at the edge of a message; the wait ends when all have come to a stop.
    ///
    /// # Errors
    /// See [`Pooling::pause`].
    fn suspend(&self) -> Result<Done, ControlError>;
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

    fn peer_pool_views(&self) -> Vec<PeerPoolView> {
        self.peers().iter().map(|peer| peer.view()).collect()
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

    fn dns_hosts(&self) -> Vec<HostView> {
        self.dns().hosts()
    }

    fn dns_zones(&self) -> Vec<ZoneView> {
        self.dns().zones()
    }

    fn dns_sums(&self) -> Sums {
        self.dns().sums()
    }

    fn pause(&self, database: Option<&str>) -> Result<Done, ControlError> {
        Registry::pause(self, database, world::now())
    }

    fn resume(&self, database: Option<&str>) -> Result<(), ControlError> {
        Registry::resume(self, database, world::now())
    }

    fn suspend(&self) -> Result<Done, ControlError> {
        Registry::suspend(self, world::now())
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
