//! `make bench`: pgbench through pgweir, through PgBouncer and through no pooler, in interleaved rounds.
//!
//! One run starts a private PostgreSQL ([`cluster`]), and then, round by round and row by row ([`rows`]), puts every
//! pooler in turn before it ([`pooler`]), with one and the same `pgbouncer.ini`. pgbench supplies the load
//! ([`pgbench`]), the kernel says what the pooler's process spent ([`kernel`]), and [`report`] turns the samples into
//! medians, spreads and ratios paired by round. Ten thousand idle clients are our own, in [`crowd`], and so are those
//! that do nothing but log in, in [`storm`].
//! `docs/benchmarks.md` says how each figure comes about and how far it can be trusted.
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod cluster;
mod context;
mod counted;
mod crowd;
mod kernel;
mod login;
mod options;
mod pgbench;
mod pooler;
mod report;
mod rows;
mod scratch;
mod storm;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use cluster::Cluster;
use options::Options;
use pooler::{Contender, Part};
use report::Ledger;
use rows::{Load, Row};
use scratch::Scratch;

/// What went wrong, as a sentence for whoever runs the benchmark.
pub(crate) type Outcome<T> = Result<T, String>;

/// Set by Ctrl-C or SIGTERM: the run ends at its next step, and everything it started ends with it.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let options = match options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => return ExitCode::SUCCESS,
        Err(trouble) => {
            eprintln!("load: {trouble}\n\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    watch_for_interrupts();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if INTERRUPTED.load(Ordering::Relaxed) => {
            eprintln!("load: interrupted; PostgreSQL and the poolers are stopped, and the scratch folder is gone");
            ExitCode::from(130)
        }
        Err(trouble) => {
            eprintln!("load: {trouble}");
            ExitCode::FAILURE
        }
    }
}

/// The whole benchmark: prepare, measure, report.
fn run(options: &Options) -> Outcome<()> {
    let files = kernel::raise_file_limit();
    let scratch = Scratch::create()?;
    let contenders = pooler::line_up(options, &scratch)?;
    let rows = rows::chosen(options, files)?;
    let context = context::describe(&contenders, options);
    eprintln!("{context}");

    let cluster = Cluster::start(&scratch, options.scale)?;
    let mut ledger = Ledger::open(options, &contenders)?;
    for round in 0..options.rounds {
        for row in &rows {
            for contender in in_turn(&contenders, round) {
                // The crowd takes its time to gather, and an old PgBouncer derives ten thousand keys for it.
                if matches!(row.load, Load::Idle) && !matches!(contender.part, Part::Ours | Part::Measure) {
                    continue;
                }
                check_interrupted()?;
                let outcome = measure(row, contender, &cluster, &scratch, options);
                check_interrupted()?;
                ledger.enter(round, row, contender, outcome)?;
            }
        }
    }
    let counted = if options.perf { counted::measure(&rows, &contenders, &cluster, &scratch)? } else { String::new() };
    ledger.publish(&context, &rows, &counted)
}

/// One row for one contender: a fresh process, warmed, measured and ended.
fn measure(
    row: &Row,
    contender: &Contender,
    cluster: &Cluster,
    scratch: &Scratch,
    options: &Options,
) -> Outcome<report::Sample> {
    match row.load {
        Load::Pgbench(ref load) => {
            let mut running = contender.start(row.auth, row.threads, cluster, scratch)?;
            pgbench::measure(load, &mut running, cluster, scratch, options)
        }
        Load::Logins { at_once } => {
            let running = contender.start(row.auth, row.threads, cluster, scratch)?;
            storm::measure(at_once, &running, options)
        }
        Load::Idle => crowd::measure(row.auth, contender, cluster, scratch, options),
    }
}

/// The contenders, each round beginning with another one, so that none always follows the same neighbour.
fn in_turn(contenders: &[Contender], round: usize) -> impl Iterator<Item = &Contender> {
    let (later, first) = contenders.split_at(round % contenders.len());
    first.iter().chain(later)
}

/// Turns Ctrl-C and SIGTERM into [`INTERRUPTED`], so that what was started is stopped in order.
fn watch_for_interrupts() {
    std::thread::spawn(|| {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            loop {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                INTERRUPTED.store(true, Ordering::Relaxed);
            }
        });
    });
}

/// # Errors
/// When Ctrl-C or SIGTERM has come.
pub(crate) fn check_interrupted() -> Outcome<()> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err("interrupted".into()) } else { Ok(()) }
}
