//! Every pool by name, and what holds for whole databases: reload, limits on clients, PAUSE and its kin.
//!
//! One read-write lock over the directory, read at each login and written when a pool or database comes or goes. Pools
//! are told to act only after it is released. The console's commands are in `control`, the rows of SHOW DATABASES and
//! SHOW USERS in `views`.

mod control;
mod crowd;
mod suspend;
mod views;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::Notify;

pub use control::{ControlError, Released, State, Stop};
pub use crowd::{Admission, Denied};
pub use views::{DatabaseView, UserView};

use super::cancels::PeerPool;
use super::ledger::Ledger;
use super::orders::Ended;
use super::quota::Names;
use super::rules::Rules;
use super::suspension::Suspension;
use super::{Pool, Surroundings, lock};
use crate::auth::{Credential, KeyCache, Proof, Secret, credential_from};
use crate::config::{Config, Database, Host};
use crate::net::dns::Dns;
use crate::net::tls::Tls;
use crate::net::workers::Workers;
use crate::net::world;
use crate::stats::counters::Totals;
use crate::stats::lines;
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
    /// The peers that were sent something, by `peer_id`.
    peers: Mutex<BTreeMap<u32, Arc<PeerPool>>>,
    crowd: Arc<Crowd>,
}

/// What the servers of a pool are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Clients,
    Lookups,
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
    /// The clients' pools, by user.
    pools: BTreeMap<Arc<str>, Arc<Pool>>,
    /// The pools that run auth_query, by auth_user.
    lookups: BTreeMap<Arc<str>, Arc<Pool>>,
    paused: bool,
    disabled: bool,
    /// Since when an automatic database has had neither client nor server.
    inactive_since: Option<Moment>,
    /// What pools that are no more had counted.
    retired: Totals,
}

impl Entry {
    fn all(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.values().chain(self.lookups.values())
    }

    fn take_all(&mut self) -> Vec<Arc<Pool>> {
        let (pools, lookups) = (std::mem::take(&mut self.pools), std::mem::take(&mut self.lookups));
        pools.into_values().chain(lookups.into_values()).collect()
    }
}

impl Registry {
    /// A registry without pools.
    pub fn new(config: Arc<Config>, roster: Arc<Roster>, workers: Workers, keys: KeyCache) -> Arc<Registry> {
        let dns = Dns::new(&config.settings, workers.clone());
        let surroundings = Surroundings {
            roster,
            workers,
            keys,
            ledger: Ledger::default(),
            dns: dns.clone(),
            suspension: Suspension::default(),
            tls: Tls::default(),
            progress: Notify::new(),
        };
        let mut directory = Directory { config, databases: BTreeMap::new(), paused: false, stopping: None };
        directory.enter_configured();
        let registry = Arc::new(Registry {
            surroundings: Arc::new(surroundings),
            directory: RwLock::new(directory),
            peers: Mutex::default(),
            crowd: Arc::default(),
        });
        let weak = Arc::downgrade(&registry);
        dns.watch(move |host, gone| {
            let Some(registry) = weak.upgrade() else { return };
            for pool in registry.pools() {
                pool.addresses_gone(host, gone, world::now());
            }
        });
        registry
    }

    /// Where the hosts of all databases are looked up.
    pub fn dns(&self) -> &Dns {
        &self.surroundings.dns
    }

    /// SUSPEND, as tasks see it.
    pub fn suspension(&self) -> &Suspension {
        &self.surroundings.suspension
    }

    /// The encryption in force; none until it is put there.
    pub fn tls(&self) -> &Tls {
        &self.surroundings.tls
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
        self.enter(database, user, Some(credential))
    }

    /// The same for a client of whom nothing new is known: the pool goes on proving what it can.
    ///
    /// # Errors
    /// See [`NoPool`].
    pub fn pool_as_it_is(&self, database: &str, user: &str) -> Result<Arc<Pool>, NoPool> {
        self.enter(database, user, None)
    }

    fn enter(&self, database: &str, user: &str, credential: Option<&Credential>) -> Result<Arc<Pool>, NoPool> {
        let directory = self.read();
        let found = directory.admits(database)?;
        let user = found.user.as_deref().unwrap_or(user);
        let credential = forced_credential(&directory.config, found).or_else(|| credential.cloned());
        if let Some(pool) = directory.databases.get(database).and_then(|entry| entry.pools.get(user)) {
            let pool = pool.clone();
            drop(directory);
            if let Some(credential) = credential {
                pool.offer_credential(credential);
            }
            return Ok(pool);
        }
        let user: Arc<str> = user.into();
        drop(directory);
        self.create(database, user, credential.unwrap_or(Credential::None), Use::Clients)
    }

    /// The pool in which `user` runs auth_query. No client gets a server of it, not even one that logs in as the same
    /// user: whatever a client leaves behind on a server (a search_path, a temporary table) could answer the query with
    /// a secret of its own making. The database's forced user does not matter here.
    ///
    /// # Errors
    /// See [`NoPool`].
    pub fn lookup_pool(&self, database: &str, user: &str) -> Result<Arc<Pool>, NoPool> {
        let directory = self.read();
        let found = directory.admits(database)?;
        let credential = lookup_credential(&directory.config, found, user);
        if let Some(pool) = directory.databases.get(database).and_then(|entry| entry.lookups.get(user)) {
            let pool = pool.clone();
            drop(directory);
            pool.offer_credential(credential);
            return Ok(pool);
        }
        drop(directory);
        self.create(database, user.into(), credential, Use::Lookups)
    }

    fn create(
        &self,
        database: &str,
        user: Arc<str>,
        credential: Credential,
        purpose: Use,
    ) -> Result<Arc<Pool>, NoPool> {
        let mut directory = self.write();
        let found = directory.admits(database)?;
        let rules = Rules::new(&directory.config, found, database, &user);
        let rules = if purpose == Use::Lookups { rules.for_lookups() } else { rules };
        let everywhere = directory.paused;
        let name = match directory.databases.get_key_value(database) {
            Some((name, _)) => name.clone(),
            None => Arc::from(database),
        };
        if !directory.databases.contains_key(&name) {
            tracing::info!("registered new auto-database: {name}");
        }
        let entry = directory.databases.entry(name.clone()).or_default();
        entry.inactive_since = None;
        let paused = everywhere || entry.paused;
        let pools = match purpose {
            Use::Clients => &mut entry.pools,
            Use::Lookups => &mut entry.lookups,
        };
        let pool = pools
            .entry(user.clone())
            .or_insert_with(|| Pool::new(Names { database: name, user }, rules, credential, self.surroundings.clone()));
        if paused {
            // Under the directory's lock, or a RESUME could come in between and be undone. A new pool has no orders
            // yet.
            pool.lock().pause();
        }
        Ok(pool.clone())
    }

    /// Counts a client in under its database and the user it logs in as, until the admission is dropped. The console is
    /// a database too.
    ///
    /// # Errors
    /// `max_db_client_connections` or `max_user_client_connections` is reached.
    pub fn admit(&self, database: &str, user: &str) -> Result<Admission, Denied> {
        let limits = views::client_limits(&self.config(), database, user);
        self.crowd.admit(database, user, limits)
    }

    /// As [`Registry::admit`], whatever the limits.
    pub fn count_in(&self, database: &str, user: &str) -> Admission {
        self.crowd.count_in(database, user)
    }

    /// All pools, by database and user.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.read().databases.values().flat_map(|entry| entry.all().cloned()).collect()
    }

    /// The peer with this id, if it is configured.
    pub fn peer(&self, id: u16) -> Option<Arc<PeerPool>> {
        // Looked up and entered under the directory's lock, so that a reload that removes it comes before or after.
        let directory = self.read();
        let config = &directory.config;
        let peer = config.peers.get(&u32::from(id))?;
        let new = || PeerPool::new(id, peer, config.settings.default_pool_size, self.surroundings.clone());
        Some(lock(&self.peers).entry(u32::from(id)).or_insert_with(new).clone())
    }

    /// The peers that were sent something, by id.
    pub fn peers(&self) -> Vec<Arc<PeerPool>> {
        lock(&self.peers).values().cloned().collect()
    }

    /// What each database's pools have counted, those that are no more included.
    pub fn totals(&self) -> Vec<(Arc<str>, Totals)> {
        let directory = self.read();
        let sum = |entry: &Entry| {
            let mut totals = entry.retired;
            for pool in entry.all() {
                totals += pool.counters().totals();
            }
            totals
        };
        directory.databases.iter().map(|(name, entry)| (name.clone(), sum(entry))).collect()
    }

    /// A new configuration holds from now on. Pools get their new rules, servers that lead elsewhere close as they come
    /// home, and databases that are no longer configured end, clients and all.
    pub fn apply(&self, config: Arc<Config>, now: Moment) {
        let named = |name: &str, host: &Host| matches!(host, Host::Tcp { host, .. } if host == name);
        self.surroundings.dns.apply(&config.settings, |name| {
            let databases = config.databases.values().flat_map(|database| &database.hosts);
            databases.chain(config.peers.values().map(|peer| &peer.host)).any(|host| named(name, host))
        });
        let mut changed = Vec::new();
        let mut gone = Vec::new();
        let mut directory = self.write();
        directory.config = config.clone();
        directory.enter_configured();
        directory.databases.retain(|name, entry| match config.database(name) {
            Some(database) => {
                for (user, pool) in &entry.pools {
                    let credential =
                        forced_credential(&config, database).filter(|_| database.user.as_deref() == Some(user));
                    changed.push((pool.clone(), Rules::new(&config, database, name, user), credential));
                }
                for (user, pool) in &entry.lookups {
                    let credential = lookup_credential(&config, database, user);
                    let rules = Rules::new(&config, database, name, user).for_lookups();
                    changed.push((pool.clone(), rules, Some(credential)));
                }
                true
            }
            None => {
                gone.push((name.clone(), entry.take_all()));
                false
            }
        });
        drop(directory);
        self.apply_to_peers(&config);
        for (pool, rules, credential) in changed {
            if let Some(credential) = credential {
                pool.offer_credential(credential);
            }
            pool.apply(rules, now);
        }
        for (name, pools) in gone {
            tracing::warn!("dropping database '{name}' as it does not exist anymore or inactive auto-database");
            self.end(&name, pools, Ended::DatabaseGone, now);
        }
    }

    /// Peers get their new addresses and sizes. What is under way to one that is no longer configured is given up.
    fn apply_to_peers(&self, config: &Config) {
        lock(&self.peers).retain(|id, pool| match config.peers.get(id) {
            Some(peer) => {
                pool.apply(peer, config.settings.default_pool_size);
                true
            }
            None => {
                tracing::warn!("dropping peer {id} as it does not exist anymore");
                pool.remove();
                false
            }
        });
        self.surroundings.progress.notify_waiters();
    }

    /// Does what time asks for, some three times a second: in each pool, and here what outlives its use. While there
    /// is a suspension, time asks for nothing.
    pub fn tick(&self, now: Moment) {
        if self.suspension().is_on() {
            return;
        }
        self.surroundings.dns.tick(now);
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
    /// One in which no server has ever let anybody in may be a name that a stranger made up: it goes after
    /// `server_login_retry`.
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
            let Entry { pools, lookups, retired, .. } = entry;
            let mut keep = |user: &Arc<str>, pool: &mut Arc<Pool>| {
                let rules = pool.rules();
                let filled_again = rules.forced_user && rules.min_pool_size > 0;
                let empty_for = if pools_after.is_zero() || filled_again { None } else { pool.empty_for(now) };
                match empty_for.filter(|span| *span > pools_after && Arc::strong_count(pool) == 1) {
                    None => true,
                    Some(span) => {
                        tracing::info!("{}", lines::idle_pool(name, user, span));
                        *retired += pool.counters().totals();
                        false
                    }
                }
            };
            pools.retain(&mut keep);
            lookups.retain(&mut keep);
            if !automatic(name) || entry.all().any(|pool| pool.in_use(now)) {
                entry.inactive_since = None;
                return true;
            }
            let since = *entry.inactive_since.get_or_insert(now);
            let after = match entry.all().any(|pool| pool.has_let_in()) {
                true if databases_after.is_zero() => return true,
                true => databases_after,
                false => config.settings.server_login_retry,
            };
            if entry.paused || entry.disabled || now.since(since) <= after {
                return true;
            }
            gone.push((name.clone(), entry.take_all()));
            false
        });
        drop(directory);
        for (name, pools) in gone {
            tracing::warn!("dropping database '{name}' as it does not exist anymore or inactive auto-database");
            self.end(&name, pools, Ended::DatabaseGone, now);
        }
    }

    /// Ends pools that are in the directory no more, and the clients of their database.
    fn end(&self, database: &str, pools: Vec<Arc<Pool>>, ended: Ended, now: Moment) {
        for pool in pools {
            pool.end(ended, now);
        }
        for card in self.surroundings.roster.clients() {
            let console = card.console.load(std::sync::atomic::Ordering::Relaxed);
            if !console && card.state() != ClientState::Login && card.database().is_some_and(|name| **name == *database)
            {
                card.give_order(Order::DatabaseRemoved);
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
        if self.stopping == Some(Stop::WaitForServers) {
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

    /// How long it has had neither client nor server. Before it is dropped, nobody else must hold it either, or a
    /// client could be about to join.
    fn empty_for(&self, now: Moment) -> Option<Duration> {
        use std::sync::atomic::Ordering::Relaxed;
        if self.in_use(now) {
            self.empty_since.store(0, Relaxed);
            return None;
        }
        let since = match self.empty_since.load(Relaxed) {
            0 => {
                self.empty_since.store(now.0, Relaxed);
                now
            }
            micros => Moment(micros),
        };
        Some(now.since(since))
    }
}

/// What the forced user of a database proves: its password, or where it has none, its secret in the auth_file.
fn forced_credential(config: &Config, database: &Database) -> Option<Credential> {
    let user = database.user.as_deref()?;
    let secret = database.password.as_ref().map(crate::config::Secret::reveal).or_else(|| config.secrets.find(user));
    Some(secret.map_or(Credential::None, |secret| credential_from(&Secret::parse(secret), &Proof::Nothing)))
}

/// What proves the user who runs auth_query: its secret in the auth_file. Where it has none there and is the database's
/// forced user too, the password given there.
fn lookup_credential(config: &Config, database: &Database, user: &str) -> Credential {
    let forced = database.password.as_ref().filter(|_| database.user.as_deref() == Some(user));
    let secret = config.secrets.find(user).or_else(|| forced.map(crate::config::Secret::reveal));
    secret.map_or(Credential::None, |secret| credential_from(&Secret::parse(secret), &Proof::Nothing))
}
