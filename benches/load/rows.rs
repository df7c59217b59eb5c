//! The rows of the table: what is put on each contender, and what is promised of it.

use crate::Outcome;
use crate::options::Options;
use crate::pgbench::Workload;
use crate::pooler::Auth;

/// One row.
pub(crate) struct Row {
    /// Its name on the command line and in the CSV.
    pub(crate) name: &'static str,
    /// Its name in the tables.
    pub(crate) title: &'static str,
    pub(crate) auth: Auth,
    /// `worker_threads` for pgweir; `None` leaves its default.
    pub(crate) threads: Option<u32>,
    pub(crate) load: Load,
    pub(crate) promises: &'static [Promise],
    /// Whether it is measured when no row is named.
    pub(crate) ordinary: bool,
}

/// What makes the load.
pub(crate) enum Load {
    Pgbench(Workload),
    /// Clients that log in and leave, so many at any moment, and one that is logged in and asks.
    Logins {
        at_once: usize,
    },
    /// Thousands of clients that do nothing, and fifty that work beside them.
    Idle,
}

/// A figure and its bound.
pub(crate) struct Promise {
    /// The figure's key in the sample.
    pub(crate) figure: &'static str,
    pub(crate) title: &'static str,
    pub(crate) bound: Bound,
}

/// How a figure is judged.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    /// pgweir's figure divided by PgBouncer's of the same round.
    RatioAtMost(f64),
    RatioAtLeast(f64),
    /// pgweir's figure itself, in the figure's unit.
    AtMost(f64),
}

const fn ratio(figure: &'static str, title: &'static str, most: f64) -> Promise {
    Promise { figure, title, bound: Bound::RatioAtMost(most) }
}

const fn at_most(figure: &'static str, title: &'static str, most: f64) -> Promise {
    Promise { figure, title, bound: Bound::AtMost(most) }
}

const fn at_least(figure: &'static str, title: &'static str, least: f64) -> Promise {
    Promise { figure, title, bound: Bound::RatioAtLeast(least) }
}

/// A row of pgbench's, with the defaults that most rows have.
const fn row(name: &'static str, title: &'static str, load: Workload, promises: &'static [Promise]) -> Row {
    Row { name, title, auth: Auth::Scram, threads: None, load: Load::Pgbench(load), promises, ordinary: true }
}

const fn pgbench(clients: u32, arguments: &'static [&'static str]) -> Workload {
    Workload { clients, arguments, script: None, sampling: 0.1 }
}

const fn script(clients: u32, arguments: &'static [&'static str], script: &'static str) -> Workload {
    Workload { clients, arguments, script: Some(script), sampling: 1.0 }
}

/// The load of the plainest row, which others are compared with.
pub(crate) const PLAIN: Workload = pgbench(50, &["-S"]);

const CPU: &str = "CPU per transaction";

/// Ten thousand rows of a thousand characters.
const MANY_ROWS: &str = "select repeat('x', 1000) from generate_series(1, 10000);\n";
/// One value of ten million characters.
const ONE_VALUE: &str = "select repeat('x', 10000000);\n";
const PIPELINE: &str = "\
\\set aid random(1, 100000 * :scale)
\\startpipeline
select abalance from pgbench_accounts where aid = :aid;
select abalance from pgbench_accounts where aid = :aid;
select abalance from pgbench_accounts where aid = :aid;
select abalance from pgbench_accounts where aid = :aid;
select abalance from pgbench_accounts where aid = :aid;
select abalance from pgbench_accounts where aid = :aid;
select abalance from pgbench_accounts where aid = :aid;
select abalance from pgbench_accounts where aid = :aid;
select abalance from pgbench_accounts where aid = :aid;
select abalance from pgbench_accounts where aid = :aid;
\\endpipeline
";

/// Every row there is.
static ALL: [Row; 18] = [
    Row {
        threads: Some(1),
        ..row("simple-1", "`-S` simple, 50 clients, one thread", PLAIN, &[ratio("cpu_us", CPU, 1.05)])
    },
    row("simple", "`-S` simple, 50 clients, default threads", PLAIN, &[ratio("cpu_us", CPU, 1.10)]),
    row(
        "extended",
        "`-S` extended, 50 clients",
        pgbench(50, &["-S", "-M", "extended"]),
        &[ratio("cpu_us", CPU, 1.10), at_least("tps", "transactions per second", 0.97)],
    ),
    row("prepared", "`-S` prepared, 50 clients", pgbench(50, &["-S", "-M", "prepared"]), &[ratio("cpu_us", CPU, 1.00)]),
    row("read-write", "`-N`, 50 clients", pgbench(50, &["-N"]), &[ratio("cpu_us", CPU, 1.05)]),
    row(
        "thousand",
        "`-S` simple, 1000 clients",
        pgbench(1000, &["-S"]),
        &[
            ratio("cpu_us", CPU, 1.10),
            ratio("p99_us", "p99 latency", 1.0),
            at_most("errors", "errors", 0.0),
            at_most("backends", "backends", 25.0),
        ],
    ),
    row(
        "connect-scram",
        "connect, select, disconnect (`-C`, SCRAM)",
        pgbench(10, &["-S", "-C"]),
        &[ratio("cpu_us", "CPU per connection", 1.10)],
    ),
    Row {
        auth: Auth::Md5,
        ..row(
            "connect-md5",
            "connect, select, disconnect (`-C`, md5)",
            pgbench(10, &["-S", "-C"]),
            &[ratio("cpu_us", "CPU per connection", 1.10)],
        )
    },
    Row {
        auth: Auth::ScramTls,
        ..row(
            "connect-tls",
            "connect, select, disconnect (`-C`, SCRAM over TLS)",
            pgbench(10, &["-S", "-C"]),
            &[ratio("cpu_us", "CPU per connection", 1.00)],
        )
    },
    Row {
        auth: Auth::ScramTls,
        load: Load::Logins { at_once: 10 },
        ..row(
            "logins-tls",
            "log in and leave (SCRAM over TLS), 10 at once",
            PLAIN,
            &[at_least("tps", "connections per second", 1.5), ratio("cpu_us", "CPU per connection", 1.00)],
        )
    },
    Row {
        auth: Auth::ScramTls,
        load: Load::Logins { at_once: 200 },
        ..row(
            "storm-tls",
            "log in and leave (SCRAM over TLS), 200 at once",
            PLAIN,
            &[ratio("wait_p99_us", "p99 wait of a logged-in client meanwhile", 1.00)],
        )
    },
    Row {
        auth: Auth::ScramTls,
        ..row("simple-tls", "`-S` simple over TLS, 50 clients", PLAIN, &[ratio("cpu_us", CPU, 1.00)])
    },
    row(
        "big",
        "10 MB results of 1 KB rows, 4 clients",
        script(4, &[], MANY_ROWS),
        &[ratio("cpu_us", "CPU per result", 0.35)],
    ),
    Row {
        ordinary: false,
        ..row(
            "big-value",
            "10 MB results of one value, 4 clients",
            script(4, &[], ONE_VALUE),
            &[ratio("cpu_us", "CPU per result", 0.35)],
        )
    },
    row(
        "pipeline",
        "pipeline of 10, extended, 50 clients",
        Workload { sampling: 0.1, ..script(50, &["-M", "extended"], PIPELINE) },
        &[ratio("cpu_us", "CPU per pipeline", 1.20)],
    ),
    row("latency", "`-S` simple, 1 client", pgbench(1, &["-S"]), &[ratio("added_us", "added latency", 1.1)]),
    Row {
        load: Load::Idle,
        ..row(
            "idle",
            "idle clients, logged in by SCRAM",
            PLAIN,
            &[
                at_most("idle_bytes", "bytes of memory per idle client", 2500.0),
                at_most("idle_cpu_ms", "CPU ms per second while all idle", 2.0),
                at_most("beside_idle", "CPU of 50 busy clients, against the same without the idle", 1.15),
            ],
        )
    },
    Row {
        auth: Auth::ScramTls,
        load: Load::Idle,
        ordinary: false,
        ..row(
            "idle-tls",
            "idle clients, logged in by SCRAM over TLS",
            PLAIN,
            &[ratio("idle_bytes", "bytes of memory per idle client", 0.50)],
        )
    },
];

/// The rows to measure.
///
/// # Errors
/// When a name is no row's, or when the limit of open files (`files`) is too low for the idle clients.
pub(crate) fn chosen(options: &Options, files: u64) -> Outcome<Vec<&'static Row>> {
    let mut rows: Vec<&Row> = Vec::new();
    for name in &options.rows {
        rows.push(ALL.iter().find(|row| row.name == name).ok_or(format!("no row is called {name}:\n{}", listing()))?);
    }
    if rows.is_empty() {
        rows = ALL.iter().filter(|row| row.ordinary).collect();
    }
    let wanted = options.idle_clients as u64 + 200;
    if files < wanted && rows.iter().any(|row| matches!(row.load, Load::Idle)) {
        return Err(format!(
            "the idle row wants {wanted} open files and the limit is {files}: raise it (ulimit -Hn), or use a lower --idle"
        ));
    }
    Ok(rows)
}

/// Names and titles, a line each.
pub(crate) fn listing() -> String {
    let line =
        |row: &Row| format!("  {:14} {}{}", row.name, row.title, if row.ordinary { "" } else { " (only when named)" });
    ALL.iter().map(line).collect::<Vec<_>>().join("\n")
}
