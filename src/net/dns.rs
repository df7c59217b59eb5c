//! Names of servers to addresses: one cache for the process, one query for each name at a time.
//!
//! - `cache` what is known and for how long; which addresses a new answer no longer has
//! - `files` `resolv.conf` and `/etc/hosts`
//! - `resolver` questions to name servers
//!
//! A name is looked for in `/etc/hosts` and then asked of the name servers, never of the C library, whose resolver
//! takes a thread for each query. Both files are read again for each query, so that a change needs no reload. Queries
//! run as tasks of worker 0; whoever waits for one may give up without harm to the others.

pub mod cache;
pub mod files;
mod resolver;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::workers::Workers;
use super::world;
use crate::config::Settings;
use crate::stats::moment::Moment;
use cache::{Cache, Failure, Found, HostView, Sums, Times, ZoneView};
use files::ResolvConf;
use resolver::Resolver;

const HOSTS_FILE: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Names of one address that are looked at.
const NAMES_MAX: usize = 4;

/// Hears of addresses that a name has no longer.
type Watch = Box<dyn Fn(&str, &[IpAddr]) + Send + Sync>;

/// Names to addresses. A clone is the same.
#[derive(Clone)]
pub struct Dns {
    shared: Arc<Shared>,
}

struct Shared {
    cache: Mutex<Cache>,
    /// Rings after every answer.
    answers: Notify,
    workers: Workers,
    /// `resolv_conf`, where it is set.
    resolv_conf: Option<PathBuf>,
    /// For the text of `resolv.conf` that was read last.
    resolver: Mutex<Option<Arc<Resolver>>>,
    watch: OnceLock<Watch>,
}

/// The addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// In the order to try them; at least one.
    pub addresses: Vec<IpAddr>,
    /// Was the question asked just now? If not, the answer may be older than the server's move.
    pub fresh: bool,
}

impl Dns {
    /// A cache that knows nothing yet.
    pub fn new(settings: &Settings, workers: Workers) -> Dns {
        Dns {
            shared: Arc::new(Shared {
                cache: Mutex::new(Cache::new(times(settings))),
                answers: Notify::new(),
                workers,
                resolv_conf: settings.resolv_conf.clone(),
                resolver: Mutex::default(),
                watch: OnceLock::new(),
            }),
        }
    }

    /// Can a query be made?
    ///
    /// # Errors
    /// `resolv_conf` cannot be read.
    pub fn check(&self) -> Result<(), String> {
        self.resolver().map(drop).map_err(|failure| failure.text().to_string())
    }

    /// Says who hears of addresses that a name has no longer; once, at the start. It is called with no lock held.
    pub fn watch(&self, watch: impl Fn(&str, &[IpAddr]) + Send + Sync + 'static) {
        let _ = self.shared.watch.set(Box::new(watch));
    }

    /// The settings are others. Names for which `wanted` says no are forgotten.
    pub fn apply(&self, settings: &Settings, wanted: impl FnMut(&str) -> bool) {
        let mut cache = self.cache();
        cache.set_times(times(settings), world::now());
        cache.retain(wanted);
    }

    /// The addresses of a name or of an address written as text.
    ///
    /// # Errors
    /// Why there are none.
    ///
    /// Cancel safe: a query under way goes on for the next who asks.
    pub async fn lookup(&self, name: &str) -> Result<Answer, Arc<str>> {
        if let Ok(address) = name.parse() {
            return Ok(Answer { addresses: vec![address], fresh: true });
        }
        let mut since = None;
        loop {
            // Listen before looking, so that an answer in between is heard.
            let answered = self.shared.answers.notified();
            let mut answered = std::pin::pin!(answered);
            answered.as_mut().enable();
            let found = self.cache().find(name, since, world::now());
            match found {
                Found::Addresses(addresses) => return Ok(Answer { addresses, fresh: since.is_some() }),
                Found::Nothing(why) => return Err(why),
                Found::Ask(round) => {
                    since.get_or_insert(round);
                    self.ask(name.into());
                }
                Found::Wait(round) => {
                    since.get_or_insert(round);
                }
            }
            answered.await;
        }
    }

    /// The names of an address that lead back to it, as PostgreSQL finds out who a client is. Nothing of it is
    /// remembered: whoever has the address says its names, and how many there are.
    ///
    /// # Errors
    /// Why there are none.
    ///
    /// Cancel safe: nobody is asked any further for who waits no more.
    pub async fn names_of(&self, address: IpAddr) -> Result<Vec<String>, Arc<str>> {
        let dns = self.clone();
        // A set, because it ends its tasks when it is dropped.
        let mut asking = JoinSet::new();
        let asked = async move { dns.proven_names(address.to_canonical()).await };
        asking.spawn_on(asked, self.shared.workers.handle(0));
        match asking.join_next().await {
            Some(Ok(names)) => names.map_err(|failure| failure.text().clone()),
            _ => Err("the query was given up".into()),
        }
    }

    async fn proven_names(&self, address: IpAddr) -> Result<Vec<String>, Failure> {
        let names = match files::name_in_hosts_file(&read(Path::new(HOSTS_FILE)).unwrap_or_default(), address) {
            Some(name) => vec![name],
            None => self.resolver()?.names(address).await?,
        };
        let mut proven = Vec::new();
        for name in names.into_iter().take(NAMES_MAX) {
            // The dot keeps it from being looked for in other domains.
            if self.resolve(&format!("{name}.")).await.is_ok_and(|addresses| addresses.contains(&address)) {
                proven.push(name);
            }
        }
        Ok(proven)
    }

    /// What is known of the name counts no more: the next who wants it asks anew.
    pub fn expire(&self, name: &str) {
        self.cache().expire(name);
    }

    /// Is this one of the name's addresses, as far as is known?
    pub fn holds(&self, name: &str, address: IpAddr) -> bool {
        name.parse::<IpAddr>().is_ok() || self.cache().holds(name, address)
    }

    /// Time has passed: asks for the zones' serial numbers when that is due.
    pub fn tick(&self, now: Moment) {
        let due = self.cache().zones_due(now);
        if let Some(zones) = due {
            let asking = AskingZones { dns: self.clone() };
            self.shared.workers.handle(0).spawn(asking.run(zones));
        }
    }

    /// The rows of SHOW DNS_HOSTS.
    pub fn hosts(&self) -> Vec<HostView> {
        self.cache().hosts(world::now())
    }

    /// The rows of SHOW DNS_ZONES.
    pub fn zones(&self) -> Vec<ZoneView> {
        self.cache().zones()
    }

    /// For SHOW LISTS.
    pub fn sums(&self) -> Sums {
        self.cache().sums()
    }

    /// Pretends that an answer said so.
    #[cfg(test)]
    pub(super) fn know(&self, name: &str, address: IpAddr) {
        self.deliver(name, Ok(vec![address]));
    }

    fn ask(&self, name: Arc<str>) {
        let asking = Asking { dns: self.clone(), name: Some(name) };
        self.shared.workers.handle(0).spawn(asking.run());
    }

    fn deliver(&self, name: &str, answer: Result<Vec<IpAddr>, Failure>) {
        let gone = self.cache().answered(name, answer, world::now());
        if !gone.is_empty() {
            tracing::debug!("{name} has other addresses now, and no longer {gone:?}");
            if let Some(watch) = self.shared.watch.get() {
                watch(name, &gone);
            }
        }
        self.shared.answers.notify_waiters();
    }

    /// Where `/etc/hosts` says nothing, the name servers are asked.
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Failure> {
        let mut addresses = files::in_hosts_file(&read(Path::new(HOSTS_FILE)).unwrap_or_default(), name);
        if addresses.is_empty() {
            addresses = match files::of_localhost(name) {
                Some(local) => local,
                None => self.resolver()?.addresses(name).await?,
            };
        }
        sort(&mut addresses, reachable);
        Ok(addresses)
    }

    /// The name servers of today.
    fn resolver(&self) -> Result<Arc<Resolver>, Failure> {
        let text = match &self.shared.resolv_conf {
            Some(path) => read(path).map_err(|error| {
                Failure::NoAnswer(format!("resolv_conf: cannot read {}: {error}", path.display()).into())
            })?,
            // Without the file, the C library asks this machine.
            None => read(Path::new(RESOLV_CONF)).unwrap_or_default(),
        };
        let conf = ResolvConf::parse(&text);
        let mut held = lock(&self.shared.resolver);
        match held.as_ref().filter(|resolver| *resolver.conf() == conf) {
            Some(resolver) => Ok(resolver.clone()),
            None => Ok(held.insert(Arc::new(Resolver::new(conf))).clone()),
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        lock(&self.shared.cache)
    }
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Dns({:?})", self.sums())
    }
}

/// A query under way. Whoever waits for its answer gets one, even if the task dies.
struct Asking {
    dns: Dns,
    name: Option<Arc<str>>,
}

impl Asking {
    async fn run(mut self) {
        let Some(name) = self.name.clone() else { return };
        let answer = self.dns.resolve(&name).await;
        if let Err(failure) = &answer {
            tracing::warn!("DNS lookup failed: {name}: {}", failure.text());
        }
        self.name = None;
        self.dns.deliver(&name, answer);
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            self.dns.deliver(&name, Err(Failure::NoAnswer("the query was given up".into())));
        }
    }
}

/// A round of questions for the zones' serial numbers.
struct AskingZones {
    dns: Dns,
}

impl AskingZones {
    async fn run(self, zones: Vec<Arc<str>>) {
        for zone in zones {
            let serial = match self.dns.resolver() {
                Ok(resolver) => resolver.serial(&zone).await,
                Err(failure) => Err(failure),
            };
            match serial {
                Ok(serial) => self.note(&zone, serial),
                Err(failure) => tracing::debug!("failure to get zone '{zone}' serial: {}", failure.text()),
            }
        }
    }

    fn note(&self, zone: &str, serial: u32) {
        let change = self.dns.cache().serial(zone, serial);
        let Some(change) = change else { return };
        tracing::info!("zone '{zone}' serial changed: old={} new={serial}", change.old);
        for name in change.names {
            self.dns.ask(name);
        }
    }
}

impl Drop for AskingZones {
    fn drop(&mut self) {
        self.dns.cache().zones_done(world::now());
    }
}

fn times(settings: &Settings) -> Times {
    Times {
        max_ttl: settings.dns_max_ttl,
        nxdomain_ttl: settings.dns_nxdomain_ttl,
        zone_check_period: settings.dns_zone_check_period,
    }
}

/// Puts first what the C library would (RFC 6724, as far as families go): what can be reached, and there IPv6.
fn sort(addresses: &mut [IpAddr], reachable: impl Fn(IpAddr) -> bool) {
    addresses.sort_by_cached_key(|address| (!reachable(*address), address.is_ipv4()));
}

/// Has the kernel a way there? Connecting a UDP socket sends nothing.
fn reachable(address: IpAddr) -> bool {
    let from: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((from, 0)).and_then(|socket| socket.connect((address, 9))).is_ok()
}

/// The system's own small files are read in place: they are in memory.
fn read(path: &Path) -> std::io::Result<String> {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
