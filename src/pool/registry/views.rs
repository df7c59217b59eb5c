//! The rows of SHOW DATABASES and SHOW USERS.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::crowd::Limits;
use super::{Entry, Registry};
use crate::config::{CONSOLE, Config, Database, Host, LoadBalanceHosts, PoolMode};

/// The row of a database in SHOW DATABASES. The console's own database is not among them.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields are the columns of SHOW DATABASES")]
pub struct DatabaseView {
    pub name: Arc<str>,
    /// Host names, addresses or socket directories, separated by commas.
    pub host: String,
    pub port: u16,
    pub database: String,
    pub force_user: Option<String>,
    pub pool_size: u32,
    pub min_pool_size: u32,
    pub reserve_pool_size: u32,
    /// Whole seconds.
    pub server_lifetime: u64,
    pub pool_mode: Option<PoolMode>,
    /// Nothing for a single host.
    pub load_balance_hosts: Option<LoadBalanceHosts>,
    pub max_connections: u32,
    pub current_connections: u32,
    pub max_client_connections: u32,
    pub current_client_connections: u32,
    pub paused: bool,
    pub disabled: bool,
}

/// The row of a user in SHOW USERS.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields are the columns of SHOW USERS")]
pub struct UserView {
    pub name: Arc<str>,
    pub pool_size: Option<u32>,
    pub reserve_pool_size: Option<u32>,
    pub pool_mode: Option<PoolMode>,
    pub max_user_connections: u32,
    pub current_connections: u32,
    pub max_user_client_connections: u32,
    pub current_client_connections: u32,
}

impl Registry {
    /// The rows of SHOW DATABASES, by name: those configured, and those in use by way of `*`.
    pub fn database_views(&self) -> Vec<DatabaseView> {
        let directory = self.read();
        let rows = directory.databases.iter().filter_map(|(name, entry)| {
            let database = directory.config.database(name)?;
            Some(self.database_view(&directory.config, name, database, entry))
        });
        rows.collect()
    }

    fn database_view(&self, config: &Config, name: &Arc<str>, database: &Database, entry: &Entry) -> DatabaseView {
        let settings = &config.settings;
        let lifetime = database.server_lifetime.filter(|span| !span.is_zero()).unwrap_or(settings.server_lifetime);
        let hosts: Vec<&str> = database.hosts.iter().map(|host| host_and_port(host).0).collect();
        DatabaseView {
            name: name.clone(),
            host: hosts.join(","),
            port: database.hosts.first().map_or(0, |host| host_and_port(host).1),
            database: database.dbname.clone().unwrap_or_else(|| name.to_string()),
            force_user: database.user.clone(),
            pool_size: database.pool_size.unwrap_or(settings.default_pool_size),
            min_pool_size: database.min_pool_size.unwrap_or(settings.min_pool_size),
            reserve_pool_size: database.reserve_pool_size.unwrap_or(settings.reserve_pool_size),
            server_lifetime: lifetime.as_secs(),
            pool_mode: database.pool_mode,
            load_balance_hosts: (hosts.len() > 1).then_some(database.load_balance_hosts),
            max_connections: nonzero(database.max_db_connections).unwrap_or(settings.max_db_connections),
            current_connections: self.surroundings.ledger.open_in_database(name),
            max_client_connections: max_db_client_connections(config, database),
            current_client_connections: self.crowd.in_database(name),
            paused: entry.paused,
            disabled: entry.disabled,
        }
    }

    /// The rows of SHOW USERS, by name: those of `[users]` and `auth_file`, those with clients and those with pools.
    pub fn user_views(&self) -> Vec<UserView> {
        let config = self.config();
        let mut names: BTreeSet<Arc<str>> = config.users.keys().map(|name| Arc::from(name.as_str())).collect();
        names.extend(config.secrets.users().map(Arc::from));
        names.extend(self.crowd.users());
        names.extend(self.pools().iter().map(|pool| pool.user().clone()));
        names.into_iter().map(|name| self.user_view(&config, name)).collect()
    }

    fn user_view(&self, config: &Config, name: Arc<str>) -> UserView {
        let own = config.users.get(&*name);
        UserView {
            pool_size: own.and_then(|own| own.pool_size),
            reserve_pool_size: own.and_then(|own| own.reserve_pool_size),
            pool_mode: own.and_then(|own| own.pool_mode),
            max_user_connections: nonzero(own.and_then(|own| own.max_user_connections))
                .unwrap_or(config.settings.max_user_connections),
            current_connections: self.surroundings.ledger.open_for_user(&name),
            max_user_client_connections: max_user_client_connections(config, &name),
            current_client_connections: self.crowd.of_user(&name),
            name,
        }
    }
}

/// The limits that a client of this database and user meets.
pub(super) fn client_limits(config: &Config, database: &str, user: &str) -> Limits {
    Limits {
        database: match config.database(database).filter(|_| database != CONSOLE) {
            Some(entry) => max_db_client_connections(config, entry),
            None => config.settings.max_db_client_connections,
        },
        user: max_user_client_connections(config, user),
    }
}

fn max_db_client_connections(config: &Config, database: &Database) -> u32 {
    nonzero(database.max_db_client_connections).unwrap_or(config.settings.max_db_client_connections)
}

fn max_user_client_connections(config: &Config, user: &str) -> u32 {
    let own = config.users.get(user).and_then(|own| own.max_user_client_connections);
    nonzero(own).unwrap_or(config.settings.max_user_client_connections)
}

/// Per database and per user, zero stands for "as in general".
fn nonzero(count: Option<u32>) -> Option<u32> {
    count.filter(|count| *count != 0)
}

fn host_and_port(host: &Host) -> (&str, u16) {
    match host {
        Host::Tcp { host, port } => (host, *port),
        Host::Unix { dir, port } => (dir, *port),
    }
}
