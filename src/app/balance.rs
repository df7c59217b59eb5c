//! How many workers carry clients: as few as can, as many as must.
//!
//! A pool is shared by all threads, and its waiting clients are served strictly in turn; so with clients on several
//! threads many a server has to change reactors on its way to the next client (two `epoll_ctl` and a wake-up of the
//! other thread). Measured with 50 busy clients on two threads that do not need both, this costs a quarter more CPU per
//! transaction. So one worker carries everybody while it has time to spare; when the workers in use are busy, one more
//! takes its share of the clients, and gives them back when it has long had nothing to do.
//!
//! Clients move at safe points, each by itself at its next request: an idle one costs nothing.

use std::time::Duration;

use crate::net::workers::Workers;
use crate::stats::moment::Moment;
use crate::stats::roster::Roster;

/// The share of a core above which the workers in use are too busy, on average.
const BUSY_SHARE: f64 = 0.75;

/// How long they must be too busy before one more joins: a burst of logins is no reason.
const BUSY_FOR: Duration = Duration::from_secs(2);

/// The share below which the remaining workers would be, were there one less.
const SPARE_SHARE: f64 = 0.5;

/// How long there must be one worker too many before it is sent home.
const SPARE_FOR: Duration = Duration::from_secs(3);

/// Decides how many workers take part. Pure: shares of cores and times in, a number out.
#[derive(Debug)]
pub struct Balance {
    workers: usize,
    in_use: usize,
    /// Since when those in use have been too busy.
    busy_since: Option<Moment>,
    /// Since when there has been one too many.
    spare_since: Option<Moment>,
}

impl Balance {
    /// One worker in use, of so many.
    pub fn new(workers: usize) -> Balance {
        Balance { workers, in_use: 1, busy_since: None, spare_since: None }
    }

    /// How many are to be in use from now on; `shares` are the parts of a core that each worker has used since last
    /// asked.
    pub fn decide(&mut self, shares: &[f64], now: Moment) -> usize {
        let used: f64 = shares.iter().sum();
        let in_use = self.in_use as f64;
        let busy = self.in_use < self.workers && used / in_use > BUSY_SHARE;
        let spare = self.in_use > 1 && used / (in_use - 1.0) < SPARE_SHARE;
        if lasts(&mut self.busy_since, busy, now) >= BUSY_FOR {
            self.in_use += 1;
            self.busy_since = None;
        } else if lasts(&mut self.spare_since, spare, now) >= SPARE_FOR {
            self.in_use -= 1;
            self.spare_since = None;
        }
        self.in_use
    }
}

/// How long something has been so without a break; zero where it is not so.
fn lasts(since: &mut Option<Moment>, is_so: bool, now: Moment) -> Duration {
    if !is_so {
        *since = None;
        return Duration::ZERO;
    }
    now.since(*since.get_or_insert(now))
}

/// Tells clients where to run, after the number of workers in use has changed.
pub fn spread(workers: &Workers, roster: &Roster, in_use: usize) {
    let before = workers.taking();
    workers.set_taking(in_use);
    for (number, card) in roster.clients().iter().enumerate() {
        let share = number % in_use;
        let stranded = card.worker() >= in_use;
        let for_a_new_one = share >= before;
        if stranded || for_a_new_one {
            card.set_worker(share);
        }
    }
}

/// How much of a core each thread has used, from the kernel's own accounting.
#[derive(Debug)]
pub struct Meter {
    /// Kernel's number of each worker's thread.
    threads: Vec<i32>,
    /// Nanoseconds on a core, when last read.
    read: Vec<u64>,
    read_at: Moment,
}

impl Meter {
    /// For these threads, in order of the workers' numbers.
    pub fn new(threads: Vec<i32>, now: Moment) -> Meter {
        let read = threads.iter().map(|thread| cpu_ns(*thread)).collect();
        Meter { threads, read, read_at: now }
    }

    /// The shares since last asked.
    pub fn shares(&mut self, now: Moment) -> Vec<f64> {
        let elapsed_ns = now.micros_since(self.read_at).max(1) as f64 * 1000.0;
        self.read_at = now;
        let threads = self.threads.iter().zip(&mut self.read);
        threads
            .map(|(thread, read)| {
                let used = cpu_ns(*thread);
                let share = used.saturating_sub(*read) as f64 / elapsed_ns;
                *read = used;
                share
            })
            .collect()
    }
}

/// Nanoseconds a thread of this process has spent on a core; the first number of its schedstat (proc(5)). A kernel
/// without it gives 0: then one worker carries everybody, unless worker_threads says otherwise by being met with load
/// it cannot.
fn cpu_ns(thread: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap_or_default();
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000)
    }

    #[test]
    fn workers_are_added_one_by_one_while_those_in_use_stay_busy() {
        let mut balance = Balance::new(3);

        assert_eq!(balance.decide(&[0.9, 0.0, 0.0], at(1)), 1);
        assert_eq!(balance.decide(&[0.9, 0.0, 0.0], at(3)), 2);
        assert_eq!(balance.decide(&[0.8, 0.8, 0.0], at(4)), 2);
        assert_eq!(balance.decide(&[0.8, 0.8, 0.0], at(6)), 3);
        assert_eq!(balance.decide(&[1.0, 1.0, 1.0], at(9)), 3);
    }

    #[test]
    fn a_burst_adds_nobody() {
        let mut balance = Balance::new(2);

        for second in 1..10 {
            let share = if second % 2 == 0 { 1.0 } else { 0.1 };
            assert_eq!(balance.decide(&[share, 0.0], at(second)), 1);
        }
    }

    #[test]
    fn a_worker_goes_home_only_after_it_was_spare_for_a_while() {
        let mut balance = Balance::new(2);
        balance.decide(&[0.9, 0.0], at(1));
        assert_eq!(balance.decide(&[0.9, 0.0], at(3)), 2);

        assert_eq!(balance.decide(&[0.1, 0.1], at(4)), 2);
        assert_eq!(balance.decide(&[0.4, 0.4], at(5)), 2);
        assert_eq!(balance.decide(&[0.1, 0.1], at(6)), 2);
        assert_eq!(balance.decide(&[0.1, 0.1], at(9)), 1);
    }
}
