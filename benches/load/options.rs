//! The command line of the benchmark.

use std::path::PathBuf;
use std::time::Duration;

use crate::{Outcome, rows};

/// What `--help` prints.
pub(crate) const USAGE: &str = "\
usage: cargo bench --bench load -- [options]      (or: make bench ARGS='[options]')

  --pgbouncer PATH   measure this PgBouncer too; may be repeated. Ratios are to the first one given,
                     and to the installed one when none is. (Any program that reads a pgbouncer.ini
                     will do: another build of pgweir, for one.)
  --pgweir PATH      measure this binary in the role of pgweir, in place of the one just built
  --rounds N         rounds; each measures every row for every pooler (3)
  --seconds S        length of one measurement (5)
  --warm S           seconds of load before each measurement, left out of it (2)
  --rows A,B,...     only these rows; --list names them
  --idle N           clients of the idle row (10000)
  --scale N          pgbench scale factor (20)
  --out DIR          where samples.csv and report.md go (benches/out)
  --quick            1 round, 2 seconds, 1 second of warming
  --perf             afterwards: instructions and system calls per transaction (perf, strace)
  --readme           print the README's table at the end, in place of the full report
  --list             name the rows and leave
";

/// The choices of one run.
pub(crate) struct Options {
    pub(crate) pgweir: PathBuf,
    pub(crate) pgbouncers: Vec<PathBuf>,
    pub(crate) rounds: usize,
    pub(crate) measured: Duration,
    pub(crate) warming: Duration,
    /// Names of rows; empty means the default ones.
    pub(crate) rows: Vec<String>,
    pub(crate) idle_clients: usize,
    pub(crate) scale: u32,
    pub(crate) out: PathBuf,
    pub(crate) perf: bool,
    pub(crate) readme: bool,
}

/// The options in `arguments`, or `None` when there is nothing to measure.
///
/// # Errors
/// On an unknown option, or a value that makes no sense.
pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Outcome<Option<Options>> {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut options = Options {
        pgweir: PathBuf::from(env!("CARGO_BIN_EXE_pgweir")),
        pgbouncers: Vec::new(),
        rounds: 3,
        measured: Duration::from_secs(5),
        warming: Duration::from_secs(2),
        rows: Vec::new(),
        idle_clients: 10_000,
        scale: 20,
        out: manifest.join("benches/out"),
        perf: false,
        readme: false,
    };
    let mut asked_to_run = false;
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} wants a value"));
        match argument.as_str() {
            // `cargo bench` says so; `cargo test --benches` does not, and then nothing is measured.
            "--bench" => asked_to_run = true,
            "--pgweir" => options.pgweir = value()?.into(),
            "--pgbouncer" => options.pgbouncers.push(value()?.into()),
            "--rounds" => options.rounds = number(&argument, &value()?)?,
            "--seconds" => options.measured = Duration::from_secs(number(&argument, &value()?)?),
            "--warm" => options.warming = Duration::from_secs(number(&argument, &value()?)?),
            "--rows" => options.rows = value()?.split(',').map(|name| name.trim().to_owned()).collect(),
            "--idle" => options.idle_clients = number(&argument, &value()?)?,
            "--scale" => options.scale = number(&argument, &value()?)?,
            "--out" => options.out = value()?.into(),
            "--quick" => {
                options.rounds = 1;
                options.measured = Duration::from_secs(2);
                options.warming = Duration::from_secs(1);
            }
            "--perf" => options.perf = true,
            "--readme" => options.readme = true,
            "--list" => {
                println!("{}", rows::listing());
                return Ok(None);
            }
            "-h" | "--help" => {
                println!("{USAGE}");
                return Ok(None);
            }
            _ => return Err(format!("unknown option {argument}")),
        }
    }
    if !asked_to_run {
        println!("nothing measured: run it with `cargo bench --bench load`");
        return Ok(None);
    }
    Ok(Some(options))
}

/// A positive whole number.
fn number<N: std::str::FromStr + PartialOrd + From<u8>>(option: &str, text: &str) -> Outcome<N> {
    match text.parse::<N>() {
        Ok(number) if number >= N::from(1) => Ok(number),
        _ => Err(format!("{option}: expected a whole number of at least 1, got \"{text}\"")),
    }
}
