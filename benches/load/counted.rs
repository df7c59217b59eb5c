//! Instructions and system calls per transaction, in separate runs: counting disturbs what is counted.
//!
//! Each figure is the difference between a long run and a short one of the same clients, divided by the transactions
//! between them, so that start, log-in and farewell cancel out exactly.

use std::fmt::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::Cluster;
use crate::pgbench::{self, Workload};
use crate::pooler::{Contender, Part};
use crate::rows::{Load, Row};
use crate::scratch::Scratch;
use crate::{Outcome, check_interrupted};

/// Transactions per client of the short run and of the long one.
const SHORT: u32 = 20;
const LONG: u32 = 120;

/// Counts for every row of pgbench's that is not about connecting, as a Markdown table.
///
/// # Errors
/// When interrupted. A tool that is missing or may not count is named in the table in place of a number.
pub(crate) fn measure(
    rows: &[&Row],
    contenders: &[Contender],
    cluster: &Cluster,
    scratch: &Scratch,
) -> Outcome<String> {
    let mut table = String::from(
        "\n## Counted\n\n| row | pooler | instructions in user space | system calls |\n|---|---|---:|---:|\n",
    );
    for row in rows {
        let Load::Pgbench(ref load) = row.load else { continue };
        if load.arguments.contains(&"-C") {
            continue;
        }
        for contender in contenders.iter().filter(|contender| contender.part != Part::Direct) {
            check_interrupted()?;
            let cell = |tool: Tool| match per_transaction(tool, row, load, contender, cluster, scratch) {
                Ok(count) => format!("{count:.1}"),
                Err(trouble) => trouble.lines().next().unwrap_or("failed").to_owned(),
            };
            let line = format!("| {} | {} | {} | {} |", row.name, contender.name, cell(Tool::Perf), cell(Tool::Strace));
            eprintln!("{line}");
            let _ = writeln!(table, "{line}");
        }
    }
    Ok(table)
}

#[derive(Clone, Copy)]
enum Tool {
    Perf,
    Strace,
}

impl Tool {
    /// Attached to `pid`, writing its count to `file` when interrupted.
    fn attach(self, pid: u32, file: &std::path::Path) -> Outcome<Child> {
        let pid = pid.to_string();
        let mut command = match self {
            Tool::Perf => Command::new("perf"),
            Tool::Strace => Command::new("strace"),
        };
        match self {
            Tool::Perf => command.args(["stat", "-x,", "-e", "instructions:u", "-p", &pid, "-o"]).arg(file),
            Tool::Strace => command.args(["-f", "-c", "-qq", "-p", &pid, "-o"]).arg(file),
        };
        let tool = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut tool = tool.map_err(|error| format!("{}: {error}", self.name()))?;
        // Neither tool says when it has attached; the kernel does for strace, and perf needs no more than a moment.
        let patience = Instant::now() + Duration::from_secs(5);
        while matches!(self, Tool::Strace) && !is_traced(&pid) {
            if Instant::now() > patience || !matches!(tool.try_wait(), Ok(None)) {
                let _ = tool.kill();
                let _ = tool.wait();
                return Err("strace cannot attach".into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(300));
        Ok(tool)
    }

    fn name(self) -> &'static str {
        match self {
            Tool::Perf => "perf",
            Tool::Strace => "strace",
        }
    }

    fn count_in(self, text: &str) -> Option<f64> {
        match self {
            Tool::Perf => text.lines().find(|line| line.contains("instructions"))?.split(',').next()?.parse().ok(),
            Tool::Strace => {
                // % time, seconds, usecs/call, calls, [errors], total
                let total = text.lines().find(|line| line.trim_end().ends_with("total"))?;
                total.split_whitespace().nth(3)?.parse().ok()
            }
        }
    }
}

fn per_transaction(
    tool: Tool,
    row: &Row,
    load: &Workload,
    contender: &Contender,
    cluster: &Cluster,
    scratch: &Scratch,
) -> Outcome<f64> {
    let mut counts = [0.0; 2];
    for (count, each) in counts.iter_mut().zip([SHORT, LONG]) {
        let running = contender.start(row.auth, row.threads, cluster, scratch)?;
        // The servers are connected before the counting begins.
        pgbench::run_exactly(load, SHORT, &running, cluster, scratch)?;
        let file = scratch.path("counted");
        let mut tool_process = tool.attach(running.pid().ok_or("no process to count")?, &file)?;
        let ran = pgbench::run_exactly(load, each, &running, cluster, scratch);
        if let Some(pid) = Pid::from_raw(tool_process.id() as i32) {
            let _ = kill_process(pid, Signal::INT);
        }
        let _ = tool_process.wait();
        ran?;
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        *count = tool.count_in(&text).ok_or(format!("{} counts nothing here", tool.name()))?;
    }
    Ok((counts[1] - counts[0]) / f64::from((LONG - SHORT) * load.clients))
}

fn is_traced(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
}
