//! Ten thousand clients that log in by SCRAM and then do nothing, over TLS in one row.
//!
//! Three figures come of it. Memory: what the pooler's process holds with the crowd, less what it held after one client
//! had come and gone, divided by the crowd. Idle cost: processor time per second while nobody does anything. And the
//! cost of a transaction for fifty clients at work beside the crowd, against the same without it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::kernel::{Memory, Processor};
use crate::login::{Client, Visitors};
use crate::options::Options;
use crate::pgbench::{self, Workload};
use crate::pooler::{Auth, Contender, Running};
use crate::report::Sample;
use crate::rows::PLAIN;
use crate::scratch::Scratch;
use crate::{Outcome, check_interrupted};

/// Time for the pooler to finish what the last log-ins left to do.
const SETTLING: Duration = Duration::from_secs(2);

/// The idle row for one contender.
///
/// # Errors
/// When the pooler or one of the log-ins fails.
pub(crate) fn measure(
    auth: Auth,
    contender: &Contender,
    cluster: &Cluster,
    scratch: &Scratch,
    options: &Options,
) -> Outcome<Sample> {
    let mut alone = contender.start(auth, None, cluster, scratch)?;
    let without = pgbench::measure(&PLAIN, &mut alone, cluster, scratch, options)?;
    drop(alone);

    let mut running = contender.start(auth, None, cluster, scratch)?;
    let pid = running.pid().ok_or("there is no pooler to crowd")?;
    let one = Workload { clients: 1, ..PLAIN };
    pgbench::run_exactly(&one, 10, &running, cluster, scratch)?;
    std::thread::sleep(SETTLING);
    let memory_before = Memory::of(pid)?;
    let before_logins = Processor::of(pid)?;

    let mut crowd = gather(options.idle_clients, &running)?;
    let login_us = Processor::of(pid)?.us_since(before_logins) / crowd.len() as f64;
    std::thread::sleep(SETTLING);
    let memory_with = Memory::of(pid)?;

    let (idle_from, idle_since) = (Processor::of(pid)?, Instant::now());
    std::thread::sleep(options.measured.max(Duration::from_secs(4)));
    check_interrupted()?;
    let idle_us = Processor::of(pid)?.us_since(idle_from);
    let idle_s = idle_since.elapsed().as_secs_f64();

    let beside = pgbench::measure(&PLAIN, &mut running, cluster, scratch, options)?;
    crowd.iter_mut().try_for_each(Client::is_undisturbed)?;

    let mut sample = Sample::default();
    sample.put("idle_bytes", (memory_with.pss_kib - memory_before.pss_kib) * 1024.0 / crowd.len() as f64);
    sample.put("idle_rss_bytes", (memory_with.rss_kib - memory_before.rss_kib) * 1024.0 / crowd.len() as f64);
    sample.put("before_rss_kib", memory_before.rss_kib);
    sample.put("with_rss_kib", memory_with.rss_kib);
    sample.put("login_cpu_us", login_us);
    sample.put("idle_cpu_ms", idle_us / 1e3 / idle_s);
    if let (Some(with), Some(without)) = (beside.get("cpu_us"), without.get("cpu_us")) {
        sample.put("alone_cpu_us", without);
        sample.put("beside_cpu_us", with);
        sample.put("beside_idle", with / without);
    }
    Ok(sample)
}

/// Logs `count` clients in, several at a time, and keeps them.
fn gather(count: usize, running: &Running) -> Outcome<Vec<Client>> {
    const AT_ONCE: usize = 8;
    let next = AtomicUsize::new(0);
    let visitors = Visitors::of(running)?;
    let gathered = Mutex::new(Vec::with_capacity(count));
    let worker = || -> Outcome<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            check_interrupted()?;
            let client = visitors.log_in(number);
            let client = client.map_err(|trouble| format!("idle client {number} cannot log in: {trouble}"))?;
            gathered.lock().map_err(|_| "another log-in failed")?.push(client);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|one| one.join().unwrap_or(Err("a log-in thread panicked".into())))
    })?;
    gathered.into_inner().map_err(|_| "a log-in thread panicked".into())
}
