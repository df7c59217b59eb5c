//! What the operator asked for.
//!
//! [`load`] reads everything there is to read and makes one immutable [`Config`], shared as an `Arc` until the next
//! RELOAD makes another. Layers, each overriding the one before: defaults, the file (`pgbouncer.ini`, or TOML where its
//! name ends in `.toml`) or the variables of an image of PgBouncer, our own variables, the command line.
//!
//! ```text
//!  ini ─┐                                 settings.rs, keys.rs: THE tables
//!  toml ┼─► draft (text, with places) ─► resolve (typed, checked) ─► Config
//!  env ─┘                                       │
//!                                   all problems at once, each file:line
//! ```
//!
//! Pure: this file is types, and so is all of the room but `load`, which alone touches files. To add a setting: one row
//! in `settings.rs` (or `keys.rs` for `[databases]`, `[users]`, `[peers]`), the code that obeys it, and
//! `UPDATE_GOLDEN=1 cargo test --lib config::` for the reference page and the samples. To add a way of writing values:
//! one [`values::Kind`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub mod connstr;
mod draft;
mod env;
pub mod hba;
pub mod ident;
pub mod ini;
pub mod keys;
pub mod ldap;
mod load;
pub mod pam;
mod problem;
mod records;
pub mod reference;
mod resolve;
mod secret;
mod settings;
mod table;
pub mod toml;
pub mod url;
pub mod userlist;
pub mod values;
mod words;

pub use draft::Draft;
pub use env::environment_configures;
pub use keys::UserRules;
pub use load::{Sources, load, load_bytes, load_environment};
pub use problem::{Fault, Place, Problem};
pub use records::{Files, Skipped};
pub use secret::Secret;
pub use settings::{SetEffect, SetError, Settings, Shown, table};
pub use table::{Change, Origin, Scope, SettingInfo};
pub use userlist::Secrets;
pub use values::{CONSOLE, List};
pub use words::{AuthType, LoadBalanceHosts, LogFormat, PoolMode, SslMode, SslNegotiation, SyslogFacility, Word};

/// The longest name of a database, in bytes, as in PostgreSQL.
const DATABASE_LENGTH_MAX: usize = 63;

/// Everything the operator asked for, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `[pgbouncer]`.
    pub settings: Settings,
    /// `[databases]` by name; the one called `*` stands in for any other name.
    pub databases: BTreeMap<String, Database>,
    /// `[users]` by name.
    pub users: BTreeMap<String, UserRules>,
    /// `[peers]` by number.
    pub peers: BTreeMap<u32, Peer>,
    /// The users of `auth_file` and their secrets.
    pub secrets: Secrets,
    /// The records of `auth_hba_file`.
    pub hba: hba::Hba,
    /// The file it came from, if any.
    pub path: Option<PathBuf>,
    /// What is not as by default, and where it was said, for the log of the start.
    pub given: Vec<Given>,
    /// What the operator should know: each is to be logged as a warning.
    pub notices: Vec<String>,
}

impl Config {
    /// What is wrong with the settings of TLS or the files they name, in PgBouncer's words, with the place of the
    /// setting that is blamed: the first in the text.
    pub fn tls_problem(&self, what: &str) -> String {
        let blamed = self.given.iter().filter_map(|given| Some((what.find(&*given.name)?, given)));
        // Of two that begin alike, the longer one is meant.
        match blamed.min_by_key(|(at, given)| (*at, std::cmp::Reverse(given.name.len()))) {
            Some((_, given)) => format!("TLS setup failed: {}: {what}", given.place),
            None => format!("TLS setup failed: {what}"),
        }
    }

    /// The entry a client's database name leads to: its own, or `*`, which is not for names too long to have one.
    pub fn database(&self, name: &str) -> Option<&Database> {
        let fallback = || self.databases.get("*").filter(|_| name.len() <= DATABASE_LENGTH_MAX);
        self.databases.get(name).or_else(fallback)
    }
}

/// Something that is not as by default, and who said so; printed, it is a line of the log:
/// `pool_mode = transaction (environment: POOL_MODE)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The setting, or what it is about: "database app", "user ann".
    pub name: String,
    /// Its value as it would be written in a file, secrets as stars.
    pub value: String,
    /// Where it was said.
    pub place: Place,
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Given { name, value, place } = self;
        let space = if value.is_empty() { "" } else { " " };
        write!(f, "{name} ={space}{value} ({place})")
    }
}

/// One entry of `[databases]`. What is `None` is as the settings of the whole process say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// The name clients use; `*` for the fallback.
    pub name: String,
    /// The name at the server; `None` is the name the client used.
    pub dbname: Option<String>,
    /// Where its servers are, at least one.
    pub hosts: Vec<Host>,
    /// The user every client becomes.
    pub user: Option<String>,
    /// The password of that user; `None` leaves it to `auth_file`.
    pub password: Option<Secret>,
    /// Who runs `auth_query`.
    pub auth_user: Option<String>,
    /// The query for secrets.
    pub auth_query: Option<String>,
    /// The entry in which `auth_query` runs.
    pub auth_dbname: Option<String>,
    /// Servers per pool; 0 is no limit.
    pub pool_size: Option<u32>,
    /// Servers kept open per pool.
    pub min_pool_size: Option<u32>,
    /// Servers beyond the pool's size.
    pub reserve_pool_size: Option<u32>,
    /// When a server goes back to its pool.
    pub pool_mode: Option<PoolMode>,
    /// Servers of all its pools; 0 is no limit.
    pub max_db_connections: Option<u32>,
    /// Clients of all its pools; 0 is no limit.
    pub max_db_client_connections: Option<u32>,
    /// How long a server may live; never zero.
    pub server_lifetime: Option<Duration>,
    /// How long a client may wait for a server; never zero.
    pub query_wait_timeout: Option<Duration>,
    /// Which host a new server connects to.
    pub load_balance_hosts: LoadBalanceHosts,
    /// Run on each new server.
    pub connect_query: Option<String>,
    /// Parameters each server starts with.
    pub startup: Vec<(String, String)>,
}

/// Where servers are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// Reached by TCP.
    Tcp {
        /// A name or an address.
        host: String,
        /// The port, never zero.
        port: u16,
    },
    /// Reached by a Unix socket.
    Unix {
        /// The socket's directory; with `@` in front, the name of an abstract one.
        dir: String,
        /// The number in the socket's name, never zero.
        port: u16,
    },
}

impl Host {
    /// The host that `text` names.
    pub fn new(text: &str, port: u16) -> Host {
        match text.starts_with(['/', '@']) {
            true => Host::Unix { dir: text.to_string(), port },
            false => Host::Tcp { host: text.to_string(), port },
        }
    }

    /// The port, or the number in the socket's name.
    pub fn port(&self) -> u16 {
        match self {
            Host::Tcp { port, .. } | Host::Unix { port, .. } => *port,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Host::Tcp { host, port } => write!(f, "{host}:{port}"),
            Host::Unix { dir, port } => write!(f, "{dir}:{port}"),
        }
    }
}

/// One entry of `[peers]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it listens.
    pub host: Host,
    /// How many requests to cancel may be on their way to it at once.
    pub pool_size: Option<u32>,
}
