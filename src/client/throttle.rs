//! How many logins one address may try, to databases and to the console: `login_rate_limit` a second, and
//! `login_rate_burst` at once.
//!
//! Pure: no clock, lock, socket or task.
//!
//! One token bucket for each address, kept as the moment at which it will be full again: what is taken moves that
//! moment on, and whoever would move it too far is refused. Guessing passwords goes over many addresses, and IPv6 gives
//! everybody 2^64 of them, so those are counted by their /64. The buckets are of two generations, and the older is
//! dropped when the younger is as large as may be: a bucket that nobody touched for long is full anyway, and memory
//! stays bounded whoever knocks.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::Settings;
use crate::net::compute::network;
use crate::stats::moment::Moment;

/// Addresses remembered in each of the two generations: 1.6 MB at most in both.
pub const ADDRESSES_MAX: usize = 14_000;

/// For how long further refusals of one address stay out of the log.
const LOG_PERIOD: Duration = Duration::from_secs(1);

/// How many logins an address may try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Logins per second, at least one.
    per_second: u32,
    /// Logins at once, after a rest: at least one.
    burst: u32,
}

impl Rate {
    /// The limit these settings ask for, if any.
    pub fn of(settings: &Settings) -> Option<Rate> {
        let per_second = settings.login_rate_limit;
        (per_second > 0).then(|| Rate { per_second, burst: settings.login_rate_burst.max(1) })
    }

    /// What one login takes, in microseconds.
    fn interval(self) -> Duration {
        Duration::from_micros(1_000_000 / u64::from(self.per_second.min(1_000_000)))
    }
}

/// What becomes of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may go on.
    Admitted,
    /// It is one too many.
    Refused {
        /// Is this the first of its address for a while, and to be logged?
        first: bool,
    },
}

/// The buckets of all addresses that came lately.
#[derive(Debug, Default)]
pub struct Throttle {
    young: HashMap<IpAddr, Bucket>,
    old: HashMap<IpAddr, Bucket>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// When it will be full.
    full_at: Moment,
    /// When a refusal was last logged.
    logged_at: Option<Moment>,
}

impl Throttle {
    /// Takes a token for a login from this address at `now`.
    pub fn admit(&mut self, address: IpAddr, rate: Rate, now: Moment) -> Verdict {
        self.bucket(network(address)).take(rate, now)
    }

    /// How many addresses are remembered.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Is none remembered?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn bucket(&mut self, address: IpAddr) -> &mut Bucket {
        if self.young.len() >= ADDRESSES_MAX && !self.young.contains_key(&address) {
            self.old = std::mem::take(&mut self.young);
        }
        match self.young.entry(address) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(self.old.remove(&address).unwrap_or_default()),
        }
    }
}

impl Bucket {
    fn take(&mut self, rate: Rate, now: Moment) -> Verdict {
        let full_at = self.full_at.max(now) + rate.interval();
        if full_at.since(now) <= rate.interval() * rate.burst {
            self.full_at = full_at;
            return Verdict::Admitted;
        }
        let first = self.logged_at.is_none_or(|logged| now.since(logged) >= LOG_PERIOD);
        if first {
            self.logged_at = Some(now);
        }
        Verdict::Refused { first }
    }
}

#[cfg(test)]
mod tests;
