//! Clients that log in and leave, over and over, and a logged-in one beside them that wants answers meanwhile.
//!
//! pgbench's `-C` measures pgbench, too: libpq makes a TLS context, reads files and derives keys for each connection,
//! which takes several times the pooler's share of a login. Here the clients are our own ([`crate::login`]) and leave
//! the processor to the pooler, which is then what limits the row.
//!
//! The logged-in client asks, waits for the answer, counts the wait, and asks again a little later.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use rustix::process::setpriority_process;
use rustix::thread::gettid;

use crate::kernel::{Memory, Processor};
use crate::login::{Client, Visitors};
use crate::options::Options;
use crate::pgbench::at_share;
use crate::pooler::Running;
use crate::report::Sample;
use crate::{Outcome, check_interrupted};

/// What the logged-in client asks, and how long it is silent in between.
const SILENCE: Duration = Duration::from_millis(2);
const QUESTION: &str = "select 1";

/// The nice value of the clients that log in: the logged-in one is to wait for the pooler, not for them.
const NICE: i32 = 10;

/// What all threads of a storm see.
struct Storm {
    visitors: Visitors,
    begun: AtomicUsize,
    done: AtomicUsize,
    /// Only what is asked now counts.
    counts: AtomicBool,
    over: AtomicBool,
}

/// Lets clients log in and leave, `at_once` of them at any moment, and reads all figures.
///
/// # Errors
/// When a login or a question of the logged-in client fails.
pub(crate) fn measure(at_once: usize, running: &Running, options: &Options) -> Outcome<Sample> {
    let storm = Storm {
        visitors: Visitors::of(running)?,
        begun: AtomicUsize::new(1),
        done: AtomicUsize::new(0),
        counts: AtomicBool::new(false),
        over: AtomicBool::new(false),
    };
    let settled = storm.visitors.log_in(0)?;
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| storm.ask(settled));
        let visits: Vec<_> = (0..at_once).map(|_| scope.spawn(|| storm.visit())).collect();
        let sample = storm.watch(running, options);
        storm.over.store(true, Relaxed);
        let waits_us = joined(asking);
        visits.into_iter().try_for_each(joined)?;
        let (mut sample, mut waits_us) = (sample?, waits_us?);
        waits_us.sort_unstable();
        for (figure, share) in [("wait_p50_us", 0.5), ("wait_p99_us", 0.99), ("wait_max_us", 1.0)] {
            sample.put(figure, at_share(&waits_us, share).ok_or("nothing was asked")? as f64);
        }
        Ok(sample)
    })
}

impl Storm {
    /// One visitor after the other.
    fn visit(&self) -> Outcome<()> {
        setpriority_process(Some(gettid()), NICE).map_err(|error| format!("nice: {error}"))?;
        while !self.over.load(Relaxed) {
            self.visitors.log_in(self.begun.fetch_add(1, Relaxed))?.leave();
            self.done.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// The logged-in client: its waits, in microseconds.
    fn ask(&self, mut client: Client) -> Outcome<Vec<u64>> {
        let mut waits_us = Vec::new();
        while !self.over.load(Relaxed) {
            let counts = self.counts.load(Relaxed);
            let asked = Instant::now();
            client.ask(QUESTION)?;
            if counts {
                waits_us.push(asked.elapsed().as_micros() as u64);
            }
            std::thread::sleep(SILENCE);
        }
        client.leave();
        Ok(waits_us)
    }

    fn watch(&self, running: &Running, options: &Options) -> Outcome<Sample> {
        let read = || -> Outcome<_> {
            let load = Processor::of(std::process::id())?;
            Ok((running.pid().map(Processor::of).transpose()?, load, self.done.load(Relaxed), Instant::now()))
        };
        std::thread::sleep(options.warming);
        self.counts.store(true, Relaxed);
        let (pooler_from, load_from, done_from, since) = read()?;
        std::thread::sleep(options.measured);
        let (pooler, load, done, now) = read()?;
        self.counts.store(false, Relaxed);
        check_interrupted()?;
        let (logins, seconds) = ((done - done_from) as f64, (now - since).as_secs_f64());
        if logins < 1.0 {
            return Err("not one login in the whole measurement".into());
        }
        let mut sample = Sample::default();
        sample.put("tps", logins / seconds);
        sample.put("load_cpu_us", load.us_since(load_from) / logins);
        if let (Some(from), Some(to)) = (pooler_from, pooler) {
            let used_us = to.us_since(from);
            sample.put("cpu_us", used_us / logins);
            sample.put("busy_share", used_us / 1e6 / seconds);
        }
        if let Some(memory) = running.pid().map(Memory::of).transpose()? {
            sample.put("rss_kib", memory.rss_kib);
            sample.put("pss_kib", memory.pss_kib);
        }
        Ok(sample)
    }
}

fn joined<T>(thread: ScopedJoinHandle<'_, Outcome<T>>) -> Outcome<T> {
    thread.join().unwrap_or(Err("a client's thread panicked".into()))
}
