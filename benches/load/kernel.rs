//! What the kernel says a process has used.
//!
//! Processor time is the sum of `/proc/PID/task/*/schedstat`, nanoseconds on the processor for each living thread. A
//! thread that ended takes its account with it, so the ticks of `/proc/PID/stat`, which keep those of ended threads,
//! are read beside it, and used where the two disagree by more than their own grain.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::Outcome;

/// Processor time of a process since it began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Processor {
    living_threads_ns: u64,
    ticks: u64,
}

/// Ticks per second in `/proc/PID/stat`: the ABI's USER_HZ, 100 on every architecture that PostgreSQL runs on.
const TICKS_PER_SECOND: u64 = 100;

impl Processor {
    /// Reads the account of process `pid`.
    ///
    /// # Errors
    /// When the process has ended.
    pub(crate) fn of(pid: u32) -> Outcome<Processor> {
        let gone = |error: std::io::Error| format!("process {pid} cannot be read: {error}");
        let mut living_threads_ns = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task")).map_err(gone)? {
            let path = task.map_err(gone)?.path().join("schedstat");
            // A thread may end between the listing and the reading.
            let Ok(text) = fs::read_to_string(path) else { continue };
            living_threads_ns += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(gone)?;
        // The name, in parentheses, may hold spaces; utime and stime are fields 14 and 15.
        let after_name = stat.rsplit(") ").next().unwrap_or("");
        let ticks = after_name.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(Processor { living_threads_ns, ticks })
    }

    /// Microseconds used between `earlier` and this reading.
    pub(crate) fn us_since(self, earlier: Processor) -> f64 {
        let by_threads = self.living_threads_ns.saturating_sub(earlier.living_threads_ns) as f64 / 1e3;
        let by_ticks = (self.ticks - earlier.ticks) as f64 * (1e6 / TICKS_PER_SECOND as f64);
        let grain = 3.0 * 1e6 / TICKS_PER_SECOND as f64;
        if by_ticks > by_threads + grain { by_ticks } else { by_threads }
    }
}

/// Memory of a process, in KiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Resident: every page present, shared ones counted in full.
    pub(crate) rss_kib: f64,
    /// Proportional: a shared page counted by its share.
    pub(crate) pss_kib: f64,
}

impl Memory {
    /// Reads `/proc/PID/smaps_rollup`.
    ///
    /// # Errors
    /// When the process has ended or belongs to someone else.
    pub(crate) fn of(pid: u32) -> Outcome<Memory> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let line = |name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name));
            found
                .and_then(|rest| rest.trim().split(' ').next()?.parse::<f64>().ok())
                .ok_or(format!("{path}: no {name}"))
        };
        Ok(Memory { rss_kib: line("Rss:")?, pss_kib: line("Pss:")? })
    }
}

/// Raises our limit of open files, which all we start inherits, as far as it goes, and says how far that is.
pub(crate) fn raise_file_limit() -> u64 {
    const PLENTY: u64 = 65_536;
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(PLENTY);
    // Root may go beyond the hard limit; the kernel says no to everybody else, and then the hard limit has to do.
    for target in [most.max(PLENTY), most] {
        let wish = Rlimit { current: Some(target), maximum: Some(target.max(most)) };
        if setrlimit(Resource::Nofile, wish).is_ok() {
            return target;
        }
    }
    limit.current.unwrap_or(1024)
}
