//! The effective settings of one pool: what `[pgbouncer]`, `[databases]` and `[users]` say of one (database, user).
//!
//! Pure: no clock, lock, socket or task.
//!
//! A user's own setting beats the database's, which beats the general one. PgBouncer reads the pool's user here, which
//! for a database with a forced user is the forced one.

use std::time::Duration;

use super::idle::Reuse;
use super::lease::Start;
use super::orders::Policy;
use super::quota::{Caps, Names};
use crate::auth::Credential;
use crate::config::{Config, Database, Host, LoadBalanceHosts, PoolMode};
use crate::net::sockopt::TcpOptions;
use crate::server::{Means, Target};
use crate::wire::startup::Replication;

/// Effective values for one (database, user).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// When a server goes back to the pool.
    pub pool_mode: PoolMode,
    /// Servers the pool may have; zero is no limit.
    pub pool_size: u32,
    /// Servers kept open even when nobody needs them.
    pub min_pool_size: u32,
    /// Servers beyond `pool_size`.
    pub reserve_pool_size: u32,
    /// How long a client waits before the reserve is used; zero never uses it.
    pub reserve_pool_timeout: Duration,
    /// How long a client may wait for a server; zero is forever.
    pub query_wait_timeout: Duration,
    /// After how long a waiting client is told so; zero never.
    pub query_wait_notify: Duration,
    /// Age at which a server is closed once idle; zero closes it after its first use.
    pub server_lifetime: Duration,
    /// How long a server may rest; zero is forever.
    pub server_idle_timeout: Duration,
    /// Limit for connecting and logging in; zero is none.
    pub server_connect_timeout: Duration,
    /// Pause after a failed attempt to open a server.
    pub server_login_retry: Duration,
    /// Query between two clients of a server, if any.
    pub server_reset_query: Option<String>,
    /// Reset in every pool mode, not in session mode alone?
    pub server_reset_query_always: bool,
    /// Query that proves a rested server works; nothing is no check, an empty text the empty query.
    pub server_check_query: Option<String>,
    /// Rest after which a server is checked.
    pub server_check_delay: Duration,
    /// Use servers evenly?
    pub server_round_robin: bool,
    /// Close servers marked for closing at the end of a transaction in session mode?
    pub server_fast_close: bool,
    /// Servers the database may have over all its pools; zero is no cap.
    pub max_db_connections: u32,
    /// Servers the user may have over all pools; zero is no cap.
    pub max_user_connections: u32,
    /// Longest a query may take; zero is no limit.
    pub query_timeout: Duration,
    /// Longest a transaction may take; zero is no limit.
    pub transaction_timeout: Duration,
    /// Longest a client may idle in a transaction; zero is no limit.
    pub idle_transaction_timeout: Duration,
    /// Longest a client may rest between transactions; zero is no limit.
    pub client_idle_timeout: Duration,
    /// How long what a client sent may go on when the client has left; zero is not at all.
    pub abandoned_query_timeout: Duration,
    /// Cancel what a client has left, and keep its server?
    pub cancel_abandoned_queries: bool,
    /// How long PostgreSQL has to end what it was asked to cancel; zero is no limit.
    pub cancel_wait_timeout: Duration,
    /// Prepared statements kept on each server; zero turns the feature off.
    pub max_prepared_statements: u32,
    /// Longest message a client may send, in bytes.
    pub max_packet_size: u32,
    /// Buffers in a row a relay may fill before others get their turn.
    pub sbuf_loopcnt: u32,
    /// Refuse simple queries?
    pub disable_pqexec: bool,
    /// Log every closing?
    pub log_disconnections: bool,
    /// log_connections.
    pub log_connections: bool,
    /// Is the pool's user the one whom the database forces on its clients?
    pub forced_user: bool,
    /// Do the servers run auth_query, and nothing else?
    pub lookups: bool,
    /// The user whom the database forces on its clients.
    pub forced_to: Option<String>,
    /// The database's name at the server.
    pub dbname: String,
    /// Where the database lives, at least one.
    pub hosts: Vec<Host>,
    /// How several hosts are used.
    pub load_balance_hosts: LoadBalanceHosts,
    /// Query to run on each new server.
    pub connect_query: Option<String>,
    /// Startup parameters for each new server.
    pub startup: Vec<(String, String)>,
    /// The tcp_* settings, for each new server.
    pub tcp: TcpOptions,
}

impl Rules {
    /// What `config` says for this user of this database. `name` is the database as the client names it, which for the
    /// fallback entry `*` is also its name at the server.
    pub fn new(config: &Config, database: &Database, name: &str, user: &str) -> Rules {
        let settings = &config.settings;
        let own = config.users.get(user);
        let of_user = |choose: fn(&crate::config::UserRules) -> Option<Duration>, general: Duration| {
            own.and_then(choose).filter(|span| !span.is_zero()).unwrap_or(general)
        };
        Rules {
            pool_mode: own.and_then(|own| own.pool_mode).or(database.pool_mode).unwrap_or(settings.pool_mode),
            pool_size: own.and_then(|own| own.pool_size).or(database.pool_size).unwrap_or(settings.default_pool_size),
            min_pool_size: database.min_pool_size.unwrap_or(settings.min_pool_size),
            reserve_pool_size: own
                .and_then(|own| own.reserve_pool_size)
                .or(database.reserve_pool_size)
                .unwrap_or(settings.reserve_pool_size),
            reserve_pool_timeout: settings.reserve_pool_timeout,
            query_wait_timeout: own
                .and_then(|own| own.query_wait_timeout)
                .or(database.query_wait_timeout)
                .unwrap_or(settings.query_wait_timeout),
            query_wait_notify: settings.query_wait_notify,
            server_lifetime: nonzero_span(database.server_lifetime).unwrap_or(settings.server_lifetime),
            server_idle_timeout: settings.server_idle_timeout,
            server_connect_timeout: settings.server_connect_timeout,
            server_login_retry: settings.server_login_retry,
            server_reset_query: settings.server_reset_query.clone(),
            server_reset_query_always: settings.server_reset_query_always,
            server_check_query: settings.server_check_query.clone(),
            server_check_delay: settings.server_check_delay,
            server_round_robin: settings.server_round_robin,
            server_fast_close: settings.server_fast_close,
            max_db_connections: nonzero(database.max_db_connections).unwrap_or(settings.max_db_connections),
            max_user_connections: nonzero(own.and_then(|own| own.max_user_connections))
                .unwrap_or(settings.max_user_connections),
            query_timeout: of_user(|own| own.query_timeout, settings.query_timeout),
            transaction_timeout: of_user(|own| own.transaction_timeout, settings.transaction_timeout),
            idle_transaction_timeout: of_user(|own| own.idle_transaction_timeout, settings.idle_transaction_timeout),
            client_idle_timeout: of_user(|own| own.client_idle_timeout, settings.client_idle_timeout),
            abandoned_query_timeout: settings.abandoned_query_timeout,
            cancel_abandoned_queries: settings.cancel_abandoned_queries,
            cancel_wait_timeout: settings.cancel_wait_timeout,
            max_prepared_statements: settings.max_prepared_statements,
            max_packet_size: settings.max_packet_size,
            sbuf_loopcnt: settings.sbuf_loopcnt,
            disable_pqexec: settings.disable_pqexec,
            log_disconnections: settings.log_disconnections,
            log_connections: settings.log_connections,
            forced_user: database.user.as_deref() == Some(user),
            lookups: false,
            forced_to: database.user.clone(),
            dbname: database.dbname.clone().unwrap_or_else(|| name.to_owned()),
            hosts: database.hosts.clone(),
            load_balance_hosts: database.load_balance_hosts,
            connect_query: database.connect_query.clone(),
            startup: database.startup.clone(),
            tcp: TcpOptions::from_settings(settings),
        }
    }

    /// The same for servers that run auth_query. No client ever has one of those: there is nothing to reset, and none
    /// waits for a user who logs in.
    #[must_use]
    pub fn for_lookups(self) -> Rules {
        Rules { server_reset_query: None, min_pool_size: 0, forced_user: false, lookups: true, ..self }
    }

    /// Is a server reset between two clients?
    pub fn resets(&self) -> bool {
        self.server_reset_query.is_some() && (self.server_reset_query_always || self.pool_mode == PoolMode::Session)
    }

    /// Do servers opened under these rules lead elsewhere than those opened under `other`? They do not outlive a reload
    /// then.
    pub fn leads_elsewhere(&self, other: &Rules) -> bool {
        self.dbname != other.dbname
            || self.hosts != other.hosts
            || self.load_balance_hosts != other.load_balance_hosts
            || self.connect_query != other.connect_query
            || self.startup != other.startup
            || self.forced_to != other.forced_to
    }

    /// The caps across pools.
    pub fn caps(&self) -> Caps {
        Caps { database: self.max_db_connections, user: self.max_user_connections }
    }

    /// What the scheduler obeys.
    pub fn policy(&self) -> Policy {
        Policy {
            pool_size: self.pool_size,
            min_pool_size: self.min_pool_size,
            reserve_pool_size: self.reserve_pool_size,
            reserve_pool_timeout: self.reserve_pool_timeout,
            query_wait_timeout: self.query_wait_timeout,
            query_wait_notify: self.query_wait_notify,
            server_lifetime: self.server_lifetime,
            server_idle_timeout: self.server_idle_timeout,
            server_login_retry: self.server_login_retry,
            check_after: self.server_check_query.as_ref().map(|_| self.server_check_delay),
            reuse: if self.server_round_robin { Reuse::LeastRecent } else { Reuse::MostRecent },
            prefill: self.forced_user,
            hosts: self.hosts.len().max(1),
            load_balance_hosts: self.load_balance_hosts,
        }
    }

    /// Where and how to log in, for the host with this index; `own` is what a client wants of a server that is its
    /// alone.
    pub fn target(
        &self,
        names: &Names,
        host: usize,
        credential: Credential,
        own: Option<&Start>,
        means: Means,
    ) -> Option<Target> {
        let own_parameters = own.map_or(&[][..], |own| &own.parameters);
        let is_own = |name: &str| own_parameters.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        let general = self.startup.iter().filter(|(name, _)| !is_own(name));
        Some(Target {
            database: names.database.clone(),
            user: names.user.clone(),
            dbname: self.dbname.clone(),
            host: self.hosts.get(host).or(self.hosts.first())?.clone(),
            credential,
            startup: general.chain(own_parameters).cloned().collect(),
            replication: own.map_or(Replication::Off, |own| own.replication),
            connect_timeout: self.server_connect_timeout,
            connect_query: self.connect_query.clone(),
            tcp: self.tcp.clone(),
            means,
            log_connections: self.log_connections,
        })
    }
}

/// Per database and per user, these settings use zero for "as in general".
fn nonzero(count: Option<u32>) -> Option<u32> {
    count.filter(|count| *count != 0)
}

fn nonzero_span(span: Option<Duration>) -> Option<Duration> {
    span.filter(|span| !span.is_zero())
}
