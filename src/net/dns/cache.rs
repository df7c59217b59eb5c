//! What is known of names and for how long, and which addresses a new answer no longer has: the cache's policy.
//!
//! Pure: no clock, lock, socket or task.
//!
//! As in PgBouncer, `dns_max_ttl` and `dns_nxdomain_ttl` alone say how long an answer counts, whatever its records say,
//! and a name is asked for again only when somebody wants to connect to it, or when its zone has changed. Whoever asks
//! for one name at the same time shares one query. Unlike PgBouncer, a name whose addresses are known keeps them while
//! the name server cannot be reached, and loses them only by an answer.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::stats::moment::Moment;

/// How long things count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// `dns_max_ttl`: addresses.
    pub max_ttl: Duration,
    /// `dns_nxdomain_ttl`: that there are none.
    pub nxdomain_ttl: Duration,
    /// `dns_zone_check_period`: how often the zones' serial numbers are asked for; zero is never.
    pub zone_check_period: Duration,
}

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The answer says so.
    NoAddress(Arc<str>),
    /// There was no answer.
    NoAnswer(Arc<str>),
}

impl Failure {
    /// In words.
    pub fn text(&self) -> &Arc<str> {
        match self {
            Failure::NoAddress(text) | Failure::NoAnswer(text) => text,
        }
    }
}

/// What the cache says to somebody who wants a name's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Here they are, the one to try first in front.
    Addresses(Vec<IpAddr>),
    /// It has none.
    Nothing(Arc<str>),
    /// Nobody knows. The caller sends the query now, and then waits for the answer that follows this round.
    Ask(u64),
    /// Nobody knows, and a query is under way; the answer follows this round.
    Wait(u64),
}

/// A row of SHOW DNS_HOSTS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostView {
    /// The name.
    pub name: Arc<str>,
    /// Whole seconds until it is asked for again.
    pub ttl: u64,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A row of SHOW DNS_ZONES.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneView {
    /// The zone: what follows the first dot of a name.
    pub name: Arc<str>,
    /// Its serial number; 0 is not known.
    pub serial: u32,
    /// Names in it.
    pub count: usize,
}

/// The rows of SHOW LISTS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Names known.
    pub names: usize,
    /// Zones known.
    pub zones: usize,
    /// Queries under way.
    pub queries: usize,
}

/// A zone has another serial number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneChange {
    /// The number it had; 0 is not known.
    pub old: u32,
    /// Names to be asked for again, now.
    pub names: Vec<Arc<str>>,
}

#[derive(Debug, Default)]
struct Name {
    /// Addresses of the preferred family are in front. Empty where there are none.
    addresses: Vec<IpAddr>,
    /// The last addresses there were: servers may be connected to them still.
    before: Vec<IpAddr>,
    failure: Option<Arc<str>>,
    /// Until when the answer counts; none is "not any more".
    until: Option<Moment>,
    /// Answers so far.
    round: u64,
    /// Is a query under way?
    asking: bool,
    /// Which of the leading addresses goes first next time.
    turn: usize,
}

#[derive(Debug, Default)]
struct Zone {
    serial: Option<u32>,
}

/// Names and zones.
#[derive(Debug, Default)]
pub struct Cache {
    times: Times,
    names: BTreeMap<Arc<str>, Name>,
    zones: BTreeMap<Arc<str>, Zone>,
    /// When the zones are asked next.
    zones_due: Option<Moment>,
    /// Are they being asked?
    zones_asking: bool,
}

impl Cache {
    /// An empty one.
    pub fn new(times: Times) -> Cache {
        Cache { times, ..Cache::default() }
    }

    /// Other times count from now on, for answers that are yet to come and for those that are known.
    pub fn set_times(&mut self, times: Times, now: Moment) {
        if times.zone_check_period != self.times.zone_check_period {
            self.zones_due = None;
        }
        for name in self.names.values_mut() {
            let longest = now + if name.failure.is_some() { times.nxdomain_ttl } else { times.max_ttl };
            name.until = name.until.map(|until| until.min(longest));
        }
        self.times = times;
    }

    /// What is known of a name. `since` is the round that the caller was told to wait for, if it was: an answer to its
    /// own question counts for it, however short answers count.
    pub fn find(&mut self, name: &str, since: Option<u64>, now: Moment) -> Found {
        if !self.names.contains_key(name) {
            let name: Arc<str> = name.into();
            if let Some(zone) = zone_of(&name) {
                self.zones.entry(zone.into()).or_default();
            }
            self.names.insert(name, Name::default());
        }
        let known = self.names.get_mut(name).expect("it was just put there");
        let counts = known.until.is_some_and(|until| now <= until) || since.is_some_and(|round| known.round > round);
        if counts && known.round > 0 {
            return match &known.failure {
                Some(failure) => Found::Nothing(failure.clone()),
                None => Found::Addresses(known.next()),
            };
        }
        match std::mem::replace(&mut known.asking, true) {
            true => Found::Wait(known.round),
            false => Found::Ask(known.round),
        }
    }

    /// The answer to a query. Returns the addresses that the name had and has no longer.
    pub fn answered(&mut self, name: &str, answer: Result<Vec<IpAddr>, Failure>, now: Moment) -> Vec<IpAddr> {
        let Some(known) = self.names.get_mut(name) else { return Vec::new() };
        known.asking = false;
        known.round += 1;
        let failure = match answer {
            Ok(addresses) if !addresses.is_empty() => {
                known.until = Some(now + self.times.max_ttl);
                return known.replace(addresses);
            }
            Ok(_) => Failure::NoAddress("the name has no address".into()),
            Err(failure) => failure,
        };
        known.until = Some(now + self.times.nxdomain_ttl);
        if known.addresses.is_empty() || matches!(failure, Failure::NoAddress(_)) {
            known.addresses.clear();
            known.failure = Some(failure.text().clone());
        }
        Vec::new()
    }

    /// Nobody could connect, or servers may be elsewhere by now: what is known of the name counts no more.
    pub fn expire(&mut self, name: &str) {
        if let Some(known) = self.names.get_mut(name) {
            known.until = None;
        }
    }

    /// Is this one of the name's addresses, as far as is known?
    pub fn holds(&self, name: &str, address: IpAddr) -> bool {
        self.names.get(name).is_none_or(|known| known.before.is_empty() || known.before.contains(&address))
    }

    /// Forgets names that nobody can ask for any more, and zones without a name.
    pub fn retain(&mut self, mut wanted: impl FnMut(&str) -> bool) {
        self.names.retain(|name, known| known.asking || wanted(name));
        let names = &self.names;
        self.zones.retain(|zone, _| names.keys().any(|name| zone_of(name) == Some(zone)));
    }

    /// The zones, if it is time to ask for their serial numbers. [`Cache::zones_done`] has to follow.
    pub fn zones_due(&mut self, now: Moment) -> Option<Vec<Arc<str>>> {
        let period = self.times.zone_check_period;
        if period.is_zero() || self.zones_asking || self.zones.is_empty() {
            return None;
        }
        let due = *self.zones_due.get_or_insert(now + period);
        if now < due {
            return None;
        }
        self.zones_asking = true;
        Some(self.zones.keys().cloned().collect())
    }

    /// All zones have been asked.
    pub fn zones_done(&mut self, now: Moment) {
        self.zones_asking = false;
        self.zones_due = Some(now + self.times.zone_check_period);
    }

    /// A zone's serial number. Where it is a later one than before, all names of the zone are to be asked for again;
    /// the first counts as later, since nobody knows what the zone had when its names were asked for.
    pub fn serial(&mut self, zone: &str, serial: u32) -> Option<ZoneChange> {
        let known = self.zones.get_mut(zone)?;
        // Serial numbers wrap around (RFC 1982).
        let later = known.serial.is_none_or(|old| serial.wrapping_sub(old).cast_signed() > 0);
        if !later {
            return None;
        }
        let old = known.serial.replace(serial).unwrap_or(0);
        let mut names = Vec::new();
        for (name, known) in &mut self.names {
            if zone_of(name) == Some(zone) && known.round > 0 && !known.asking {
                known.asking = true;
                known.until = None;
                names.push(name.clone());
            }
        }
        Some(ZoneChange { old, names })
    }

    /// The rows of SHOW DNS_HOSTS, by name.
    pub fn hosts(&self, now: Moment) -> Vec<HostView> {
        let row = |(name, known): (&Arc<str>, &Name)| HostView {
            name: name.clone(),
            ttl: known.until.map_or(0, |until| until.since(now).as_secs()),
            addresses: known.addresses.clone(),
        };
        self.names.iter().map(row).collect()
    }

    /// The rows of SHOW DNS_ZONES, by name.
    pub fn zones(&self) -> Vec<ZoneView> {
        let row = |(name, zone): (&Arc<str>, &Zone)| ZoneView {
            name: name.clone(),
            serial: zone.serial.unwrap_or(0),
            count: self.names.keys().filter(|host| zone_of(host) == Some(name)).count(),
        };
        self.zones.iter().map(row).collect()
    }

    /// How many there are.
    pub fn sums(&self) -> Sums {
        let asking = self.names.values().filter(|known| known.asking).count();
        let queries = asking + usize::from(self.zones_asking);
        Sums { names: self.names.len(), zones: self.zones.len(), queries }
    }
}

impl Name {
    /// The addresses, those of the first one's family in turn, and behind them the others, to fall back on.
    fn next(&mut self) -> Vec<IpAddr> {
        let mut addresses = self.addresses.clone();
        let leading = addresses.iter().take_while(|address| address.is_ipv4() == addresses[0].is_ipv4()).count();
        if leading > 1 {
            addresses[..leading].rotate_left(self.turn % leading);
            self.turn = (self.turn + 1) % leading;
        }
        addresses
    }

    /// Takes over new addresses, at least one; returns those that are gone. The same ones in another order are nothing
    /// new: the turn goes on.
    fn replace(&mut self, mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        let mut seen = Vec::with_capacity(addresses.len());
        addresses.retain(|address| {
            !seen.contains(address) && {
                seen.push(*address);
                true
            }
        });
        let gone = self.before.iter().filter(|address| !addresses.contains(address)).copied().collect();
        let same = self.addresses.len() == addresses.len() && self.addresses.iter().all(|old| addresses.contains(old));
        if !same {
            self.addresses = addresses;
            self.turn = 0;
        }
        self.before.clone_from(&self.addresses);
        self.failure = None;
        gone
    }
}

/// The zone a name is taken to be in, as PgBouncer takes it: what follows the first dot.
fn zone_of(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, zone)| zone).filter(|zone| !zone.is_empty())
}

#[cfg(test)]
mod tests;
