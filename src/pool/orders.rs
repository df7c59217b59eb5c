//! The words between the scheduler and the world: what it decides, and the tokens that keep its books straight.
//!
//! Pure: no clock, lock, socket or task.

use std::time::Duration;

use super::idle::Reuse;
use super::waiting::Place;
use crate::config::LoadBalanceHosts;
use crate::stats::moment::Moment;

/// The settings the scheduler obeys; effective values for one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Servers the pool may have; zero is no limit.
    pub pool_size: u32,
    /// Servers to keep open even when nobody needs them.
    pub min_pool_size: u32,
    /// Servers beyond `pool_size` for clients that waited `reserve_pool_timeout`.
    pub reserve_pool_size: u32,
    /// How long the first in line waits before the reserve is used; zero never uses it.
    pub reserve_pool_timeout: Duration,
    /// How long a client may wait; zero is forever.
    pub query_wait_timeout: Duration,
    /// After how long a waiting client is told so; zero never.
    pub query_wait_notify: Duration,
    /// Age at which a server is closed once idle; zero closes it after its first use.
    pub server_lifetime: Duration,
    /// How long a server may rest; zero is forever.
    pub server_idle_timeout: Duration,
    /// Pause after a failed attempt to open a server.
    pub server_login_retry: Duration,
    /// Rest after which a server is checked before it is lent; nothing where there is no check query.
    pub check_after: Option<Duration>,
    /// Which idle server goes next.
    pub reuse: Reuse,
    /// Keep `min_pool_size` even without a client (databases with a forced user).
    pub prefill: bool,
    /// How many hosts there are, at least one.
    pub hosts: usize,
    /// How they are used.
    pub load_balance_hosts: LoadBalanceHosts,
}

/// What a server away from the shelf is doing; its list in PgBouncer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// On loan to a client.
    Active,
    /// Running a reset or check query.
    Tested,
    /// Kept back until a cancel request for it has settled.
    BeingCanceled,
    /// Left by its client in the middle: until PostgreSQL has ended what it does for that client.
    Abandoned,
    /// With the one client it was opened for, until that leaves: a replication connection.
    Dedicated,
}

/// The scheduler's note on a server that is away from the shelf. Comes with the server, goes back with it, or alone
/// when the server is lost. There is no other way to make or copy one.
#[derive(Debug)]
#[must_use = "a note that is not handed back keeps its place in the pool taken for ever"]
pub struct Loan {
    pub(super) generation: u64,
    pub(super) connected: Moment,
    pub(super) served: bool,
    pub(super) errand: Errand,
}

/// Permission to open one server. Handed back with the server, or with the failure.
#[derive(Debug)]
#[must_use = "a slip that is not handed back keeps its place in the pool taken for ever"]
pub struct Slip {
    pub(super) generation: u64,
    pub(super) launched: Moment,
    pub(super) purpose: Purpose,
    /// How often room was made in the caps when this was issued: a refusal that crossed such news is not believed.
    pub(super) room: u64,
    /// The place in the dedicated line of the one client that the server is for; nothing for a server of the pool's.
    pub(super) place: Option<Place>,
}

/// Why a server is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A client waits.
    Demand,
    /// A client waited `reserve_pool_timeout`.
    Reserve,
    /// `min_pool_size`: evicts nobody.
    Minimum,
}

/// Why a server is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// RECONNECT or a new target, met at rest.
    ConfigurationChanged,
    /// RECONNECT or a new target, met on return.
    CloseNeeded,
    /// RECONNECT or a new target, met while logging in.
    ConnectStringChanged,
    /// Spoke or hung up while idle.
    Dirty,
    /// `server_idle_timeout`.
    IdleTimeout,
    /// `server_lifetime`.
    LifetimeOver,
    /// The pool became smaller.
    TooMany,
    /// PAUSE.
    Paused,
    /// Its place was needed: by another pool under a common cap, or for a replication connection of this one.
    Evicted,
    /// It was opened for a replication client that has left. Such a server never serves another.
    ReplicationOver,
    /// KILL, or the database is no longer configured.
    DatabaseRemoved,
    /// The process stops.
    Shutdown,
}

impl Reason {
    /// PgBouncer's words for the log.
    pub fn text(self) -> &'static str {
        match self {
            Reason::ConfigurationChanged => "database configuration changed",
            Reason::CloseNeeded => "close_needed",
            Reason::ConnectStringChanged => "connect string changed",
            Reason::Dirty => "idle server got dirty",
            Reason::IdleTimeout => "server idle timeout",
            Reason::LifetimeOver => "server lifetime over",
            Reason::TooMany => "too many servers in the pool",
            Reason::Paused => "pause mode",
            Reason::Evicted => "evicted",
            Reason::ReplicationOver => "replication client was closed",
            Reason::DatabaseRemoved => "database removed",
            Reason::Shutdown => "server shutting down",
        }
    }
}

/// Why the pool serves nobody any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// KILL.
    Killed,
    /// The database is no longer configured.
    DatabaseGone,
    /// The process stops once servers are free.
    Shutdown,
}

/// Why a waiting client gets no server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// `query_wait_timeout` passed.
    QueryWaitTimeout,
    /// No usable server is left and the last login was turned down.
    LoginFailed,
    /// No server is left, the last attempt failed, and `server_login_retry` has not passed: not even queued.
    LoginRetry,
    /// The pool serves nobody any more.
    Ended(Ended),
}

/// How a failed attempt to open a server concerns those who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// The next attempt will most likely end alike (wrong password, no such database): tell them, if no server is left.
    Hopeless,
    /// It may pass (no route, a server starting up): they keep waiting.
    Passing,
}

/// What the scheduler wants done, to be carried out after its lock is released.
#[derive(Debug)]
pub enum Order<S, W> {
    /// Lend the server to the waiter.
    Grant {
        /// The server.
        server: S,
        /// To be handed back with it.
        loan: Loan,
        /// Who gets it.
        waiter: W,
        /// How long it waited, in microseconds.
        waited_us: u64,
    },
    /// Open a server.
    Open {
        /// To be handed back with the outcome.
        slip: Slip,
        /// Which of the hosts.
        host: usize,
        /// On which worker thread; nothing where it does not matter.
        worker: Option<usize>,
        /// What for.
        purpose: Purpose,
    },
    /// Open a server for this waiter alone. It stays in line meanwhile.
    OpenDedicated {
        /// To be handed back with the outcome.
        slip: Slip,
        /// Which of the hosts.
        host: usize,
        /// On which worker thread.
        worker: usize,
        /// What for: demand, or out of the reserve.
        purpose: Purpose,
        /// Whom.
        waiter: W,
    },
    /// Run the check query, then hand the server back.
    Check {
        /// The server.
        server: S,
        /// To be handed back with it.
        loan: Loan,
    },
    /// Close a server. Its place in the pool is free already.
    Close {
        /// The server.
        server: S,
        /// Why.
        reason: Reason,
    },
    /// Turn a waiter away.
    Refuse {
        /// Whom.
        waiter: W,
        /// Why.
        why: Refused,
    },
    /// Tell a waiter that it waits (`query_wait_notify`).
    Notify {
        /// Whom.
        waiter: W,
    },
}

/// How many servers and clients are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Clients in line.
    pub waiting: u32,
    /// Servers on the shelf.
    pub idle: u32,
    /// Servers due for a check before use.
    pub used: u32,
    /// Servers on loan, dedicated ones included.
    pub active: u32,
    /// Of those, the ones opened for one client.
    pub dedicated: u32,
    /// Servers running a reset or check query.
    pub tested: u32,
    /// Servers kept back until a cancel request has settled, and those that a client has left in the middle.
    pub being_canceled: u32,
    /// Of those, the ones that a client has left.
    pub abandoned: u32,
    /// Servers connecting or logging in.
    pub opening: u32,
    /// Servers away from the shelf that close on their return (`close_needed`).
    pub close_needed: u32,
    /// How long the first in line has waited, in microseconds.
    pub maxwait_us: u64,
}

impl Counts {
    /// Servers that are logged in.
    pub fn connected(&self) -> u32 {
        self.idle + self.used + self.active + self.tested + self.being_canceled
    }

    /// Servers that hold a place in the pool.
    pub fn servers(&self) -> u32 {
        self.connected() + self.opening
    }

    /// Servers away from the shelf.
    pub fn away(&self) -> u32 {
        self.active + self.tested + self.being_canceled
    }
}
