//! Where a run took place: without that its numbers say little.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use crate::options::Options;
use crate::pooler::{Contender, POOL_SIZE, Part};

/// Machine, kernel, versions, commit and the choices made, as Markdown.
pub(crate) fn describe(contenders: &[Contender], options: &Options) -> String {
    let mut text = String::new();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let _ = writeln!(text, "- machine: {cores} cores, {}, {} memory", processor(), memory());
    let _ = writeln!(text, "- kernel: {}", first_line("uname", &["-srm"]));
    let _ = writeln!(text, "- server: {}", first_line("pg_config", &["--version"]));
    for contender in contenders.iter().filter(|contender| contender.part != Part::Direct) {
        let _ = writeln!(text, "- {}: {}", contender.name, contender.version);
    }
    let folder = env!("CARGO_MANIFEST_DIR");
    let commit = first_line("git", &["-C", folder, "rev-parse", "--short", "HEAD"]);
    let changed = first_line("git", &["-C", folder, "status", "--porcelain", "--untracked-files=no"]);
    let _ = writeln!(text, "- commit: {commit}{}", if changed.is_empty() { "" } else { ", with changes" });
    let _ = writeln!(
        text,
        "- {} rounds, {} s each after {} s of warming, {POOL_SIZE} servers, transaction mode, scale {}",
        options.rounds,
        options.measured.as_secs(),
        options.warming.as_secs(),
        options.scale
    );
    text
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    model.unwrap_or("unknown processor").trim().to_owned()
}

fn memory() -> String {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().split(' ').next()?.parse::<u64>().ok());
    total.map_or("unknown".into(), |kib| format!("{} GiB", (kib + 512 * 1024) / (1024 * 1024)))
}

/// The first line a program prints, or nothing.
fn first_line(program: &str, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else { return String::new() };
    String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("").trim().to_owned()
}
