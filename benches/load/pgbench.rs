//! Runs pgbench and reads what it says, second by second.
//!
//! pgbench connects all its clients, begins, and prints a progress line each second with the moment and the rate since
//! the line before. The pooler's account is read at the line that ends the warming and again at the line that ends the
//! measurement, so log-in, warming and farewell are outside. Transactions between the two lines are the rates times
//! the seconds between the moments: pgbench rounds those to a millisecond and the rates to a tenth, which over five
//! seconds is an error of at most 0.03 %. Our reading comes a little after pgbench's: the time used is scaled by the
//! ratio of the two windows.
//!
//! pgbench's `-T` counts from before its clients connect, so it is set far beyond the measurement, and pgbench is told
//! that its time is over with the signal that its own timer would send: it then ends in order and writes its logs.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{Cluster, DATABASE};
use crate::kernel::{Memory, Processor};
use crate::options::Options;
use crate::pooler::Running;
use crate::report::Sample;
use crate::scratch::Scratch;
use crate::{Outcome, check_interrupted};

/// What pgbench is asked to do.
#[derive(Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) clients: u32,
    /// pgbench's own options for the kind of work.
    pub(crate) arguments: &'static [&'static str],
    /// A script of our own in place of a built-in one.
    pub(crate) script: Option<&'static str>,
    /// The share of transactions whose latency is logged.
    pub(crate) sampling: f64,
}

/// Threads of pgbench itself: fewer would make it the bottleneck, more would take the processor from the pooler.
const PGBENCH_THREADS: u32 = 2;

/// Puts `load` on a running contender and reads all its figures.
///
/// # Errors
/// When pgbench fails, which is a result of its own: the text is its last words.
pub(crate) fn measure(
    load: &Workload,
    running: &mut Running,
    cluster: &Cluster,
    scratch: &Scratch,
    options: &Options,
) -> Outcome<Sample> {
    let warm_lines = options.warming.as_secs() as usize;
    let measured_lines = options.measured.as_secs() as usize;
    let log_prefix = scratch.path("latency");
    let mut command = command(load, running, cluster, scratch)?;
    command.args(["-T", "600"]);
    command.args(["-P", "1", "--progress-timestamp", "--log"]);
    command.args(["--sampling-rate", &load.sampling.to_string()]).arg("--log-prefix").arg(&log_prefix);
    command.arg(DATABASE).stdout(Stdio::piped()).stderr(Stdio::piped());

    let mut process = Pgbench(command.spawn().map_err(|error| format!("pgbench: {error}"))?);
    let window = Window::watch(&mut process, running, warm_lines, measured_lines);
    let backends = cluster.backends();
    process.end_time();
    let window = window?;
    let failed = process.finish()?;

    let mut sample = window.figures()?;
    sample.put("backends", backends?);
    sample.put("errors", failed);
    let (p50, p99) = latencies(scratch, &window)?;
    sample.put("p50_us", p50);
    sample.put("p99_us", p99);
    Ok(sample)
}

/// Runs exactly `each` transactions per client, and says nothing about time.
///
/// # Errors
/// When pgbench fails.
pub(crate) fn run_exactly(
    load: &Workload,
    each: u32,
    running: &Running,
    cluster: &Cluster,
    scratch: &Scratch,
) -> Outcome<()> {
    let mut command = command(load, running, cluster, scratch)?;
    command.args(["-t", &each.to_string(), DATABASE]).stdout(Stdio::piped()).stderr(Stdio::piped());
    Pgbench(command.spawn().map_err(|error| format!("pgbench: {error}"))?).finish().map(drop)
}

fn command(load: &Workload, running: &Running, cluster: &Cluster, scratch: &Scratch) -> Outcome<Command> {
    let mut command = cluster.client("pgbench");
    command.args(["-h", "127.0.0.1", "-p", &running.port.to_string(), "-U", running.role, "-n"]);
    command.args(["-c", &load.clients.to_string(), "-j", &PGBENCH_THREADS.min(load.clients).to_string()]);
    command.args(load.arguments);
    command.env("PGSSLMODE", if running.encrypts { "require" } else { "disable" });
    if let Some(script) = load.script {
        command.arg("-f").arg(scratch.write("script.sql", script)?);
    }
    Ok(command)
}

/// A pgbench process; ended when dropped.
struct Pgbench(Child);

impl Pgbench {
    /// Tells pgbench that its time is over.
    fn end_time(&self) {
        if let Some(pid) = Pid::from_raw(self.0.id() as i32) {
            let _ = kill_process(pid, Signal::ALARM);
        }
    }

    /// Waits for the end and returns the count of failed transactions.
    fn finish(&mut self) -> Outcome<f64> {
        let mut summary = String::new();
        let mut complaints = String::new();
        if let Some(ref mut stdout) = self.0.stdout {
            stdout.read_to_string(&mut summary).map_err(|error| format!("pgbench: {error}"))?;
        }
        if let Some(ref mut stderr) = self.0.stderr {
            stderr.read_to_string(&mut complaints).map_err(|error| format!("pgbench: {error}"))?;
        }
        let status = self.0.wait().map_err(|error| format!("pgbench: {error}"))?;
        if !status.success() {
            let error = complaints.lines().find(|line| line.contains("error")).unwrap_or("pgbench failed");
            return Err(error.to_owned());
        }
        let failed = summary.lines().find_map(|line| line.strip_prefix("number of failed transactions: "));
        Ok(failed.and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or(0.0))
    }
}

impl Drop for Pgbench {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The measurement proper: what happened between two progress lines.
struct Window {
    begin: Reading,
    end: Reading,
    transactions: f64,
    memory: Option<Memory>,
}

/// What was known when a progress line came.
#[derive(Clone, Copy)]
struct Reading {
    /// pgbench's clock: seconds since the epoch.
    moment_s: f64,
    /// Ours, read together with the account.
    read_at: Instant,
    processor: Option<Processor>,
    /// pgbench's own account.
    load: Processor,
}

impl Window {
    fn watch(pgbench: &mut Pgbench, running: &Running, warm_lines: usize, measured_lines: usize) -> Outcome<Window> {
        let stderr = pgbench.0.stderr.take().ok_or("pgbench has no stderr")?;
        let mut lines = BufReader::new(stderr).lines();
        let mut begin: Option<Reading> = None;
        let mut last_moment_s = 0.0;
        let (mut seen, mut transactions) = (0, 0.0);
        for line in lines.by_ref() {
            let line = line.map_err(|error| format!("pgbench: {error}"))?;
            let Some((moment_s, rate)) = progress(&line) else {
                // A client that is aborted is never an acceptable part of a measurement.
                if line.contains("error") {
                    return Err(line);
                }
                continue;
            };
            check_interrupted()?;
            seen += 1;
            if begin.is_some() {
                transactions += rate * (moment_s - last_moment_s);
            }
            last_moment_s = moment_s;
            if seen == warm_lines {
                begin = Some(Reading::take(moment_s, running, pgbench)?);
            }
            let Some(begin) = begin else { continue };
            if seen == warm_lines + measured_lines {
                let end = Reading::take(moment_s, running, pgbench)?;
                let memory = running.pid().map(Memory::of).transpose()?;
                // Keep reading to the end: a full pipe would stop pgbench.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(Window { begin, end, transactions, memory });
            }
        }
        Err("pgbench ended before the measurement did".into())
    }

    fn seconds(&self) -> f64 {
        self.end.moment_s - self.begin.moment_s
    }

    fn figures(&self) -> Outcome<Sample> {
        if self.transactions < 1.0 {
            return Err("not one transaction in the whole measurement".into());
        }
        let mut sample = Sample::default();
        sample.put("tps", self.transactions / self.seconds());
        let scale = self.seconds() / (self.end.read_at - self.begin.read_at).as_secs_f64();
        sample.put("load_cpu_us", self.end.load.us_since(self.begin.load) * scale / self.transactions);
        if let (Some(begin), Some(end)) = (self.begin.processor, self.end.processor) {
            let used_us = end.us_since(begin) * scale;
            sample.put("cpu_us", used_us / self.transactions);
            sample.put("busy_share", used_us / 1e6 / self.seconds());
        }
        if let Some(memory) = self.memory {
            sample.put("rss_kib", memory.rss_kib);
            sample.put("pss_kib", memory.pss_kib);
        }
        Ok(sample)
    }
}

impl Reading {
    fn take(moment_s: f64, running: &Running, pgbench: &Pgbench) -> Outcome<Reading> {
        let processor = running.pid().map(Processor::of).transpose()?;
        let load = Processor::of(pgbench.0.id())?;
        Ok(Reading { moment_s, read_at: Instant::now(), processor, load })
    }
}

/// Moment and rate of `progress: 1700000000.123 s, 21745.3 tps, lat …`.
fn progress(line: &str) -> Option<(f64, f64)> {
    let mut parts = line.strip_prefix("progress: ")?.split(", ");
    let moment_s = parts.next()?.strip_suffix(" s")?.parse().ok()?;
    let rate = parts.next()?.strip_suffix(" tps")?.parse().ok()?;
    Some((moment_s, rate))
}

/// Median and 99th percentile, in microseconds, of the logged transactions that ended inside the window. The logs
/// are removed.
fn latencies(scratch: &Scratch, window: &Window) -> Outcome<(f64, f64)> {
    let mut all_us: Vec<u64> = Vec::new();
    for entry in fs::read_dir(scratch.path("")).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("latency.")) {
            continue;
        }
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        all_us.extend(text.lines().filter_map(|line| latency_within(line, window)));
        fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    all_us.sort_unstable();
    match (at_share(&all_us, 0.5), at_share(&all_us, 0.99)) {
        (Some(median), Some(high)) => Ok((median as f64, high as f64)),
        _ => Err("pgbench logged no latency".into()),
    }
}

/// Of sorted values, the one below which this share of them lies.
pub(crate) fn at_share(sorted: &[u64], share: f64) -> Option<u64> {
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied()
}

/// The latency of a log line `client number latency script epoch_s epoch_us`, if it ended inside the window.
fn latency_within(line: &str, window: &Window) -> Option<u64> {
    let fields: Vec<&str> = line.split(' ').collect();
    let latency_us = fields.get(2)?.parse().ok()?;
    let ended_s = fields.get(4)?.parse::<f64>().ok()? + fields.get(5)?.parse::<f64>().ok()? / 1e6;
    (ended_s >= window.begin.moment_s && ended_s <= window.end.moment_s).then_some(latency_us)
}
