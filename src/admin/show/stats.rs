//! SHOW STATS, STATS_TOTALS, STATS_AVERAGES and TOTALS: counters and averages by database, or over all.
//!
//! The order is that of PgBouncer's source, not its manual. The console is a database among them, as there.

use crate::admin::Context;
use crate::admin::table::{Column, Table, Value};
use crate::stats::averages;
use crate::stats::counters::Totals;
use crate::stats::moment::Moment;

/// Columns of SHOW STATS.
pub const STATS: [Column; 25] = [
    Column::text("database"),
    Column::numeric("total_server_assignment_count"),
    Column::numeric("total_xact_count"),
    Column::numeric("total_query_count"),
    Column::numeric("total_received"),
    Column::numeric("total_sent"),
    Column::numeric("total_xact_time"),
    Column::numeric("total_query_time"),
    Column::numeric("total_wait_time"),
    Column::numeric("total_client_parse_count"),
    Column::numeric("total_server_parse_count"),
    Column::numeric("total_bind_count"),
    Column::numeric("total_client_login_count"),
    Column::numeric("avg_server_assignment_count"),
    Column::numeric("avg_xact_count"),
    Column::numeric("avg_query_count"),
    Column::numeric("avg_recv"),
    Column::numeric("avg_sent"),
    Column::numeric("avg_xact_time"),
    Column::numeric("avg_query_time"),
    Column::numeric("avg_wait_time"),
    Column::numeric("avg_client_parse_count"),
    Column::numeric("avg_server_parse_count"),
    Column::numeric("avg_bind_count"),
    Column::numeric("avg_client_login_count"),
];

/// Columns of SHOW STATS_TOTALS; no `total_` before the names, whatever PgBouncer's manual says.
pub const STATS_TOTALS: [Column; 13] = [
    Column::text("database"),
    Column::numeric("server_assignment_count"),
    Column::numeric("xact_count"),
    Column::numeric("query_count"),
    Column::numeric("bytes_received"),
    Column::numeric("bytes_sent"),
    Column::numeric("xact_time"),
    Column::numeric("query_time"),
    Column::numeric("wait_time"),
    Column::numeric("client_parse_count"),
    Column::numeric("server_parse_count"),
    Column::numeric("bind_count"),
    Column::numeric("client_login_count"),
];

/// Columns of SHOW STATS_AVERAGES; only the last four say `avg_`.
pub const STATS_AVERAGES: [Column; 13] = [
    Column::text("database"),
    Column::numeric("server_assignment_count"),
    Column::numeric("xact_count"),
    Column::numeric("query_count"),
    Column::numeric("bytes_received"),
    Column::numeric("bytes_sent"),
    Column::numeric("xact_time"),
    Column::numeric("query_time"),
    Column::numeric("wait_time"),
    Column::numeric("avg_client_parse_count"),
    Column::numeric("avg_server_parse_count"),
    Column::numeric("avg_bind_count"),
    Column::numeric("avg_client_login_count"),
];

/// As [`STATS`], with `stats_login_counts` off: the columns of 1.25.
pub const STATS_125: [Column; 23] = without_logins(&STATS);
/// As [`STATS_TOTALS`], likewise.
pub const STATS_TOTALS_125: [Column; 12] = without_logins(&STATS_TOTALS);
/// As [`STATS_AVERAGES`], likewise.
pub const STATS_AVERAGES_125: [Column; 12] = without_logins(&STATS_AVERAGES);

/// The last of each dozen of counts, behind the database's name.
const fn is_login_count(column: usize) -> bool {
    column > 0 && column.is_multiple_of(12)
}

const fn without_logins<const N: usize>(columns: &[Column]) -> [Column; N] {
    let mut left = [columns[0]; N];
    let (mut from, mut to) = (0, 0);
    while from < columns.len() {
        if !is_login_count(from) {
            left[to] = columns[from];
            to += 1;
        }
        from += 1;
    }
    left
}

/// Columns of SHOW TOTALS.
pub const TOTALS: [Column; 2] = [Column::text("name"), Column::numeric("value")];

/// Rows of SHOW TOTALS, each once with `total_` and once with `avg_` before its name.
const TOTALS_ROWS: [&str; 12] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
];

/// Fills SHOW STATS.
pub fn stats(table: &mut Table, context: &Context, now: Moment) {
    for (database, totals) in context.totals() {
        let averages = context.averages.of_database(&database, &totals, now);
        push_row(table, &database, values(&totals).into_iter().chain(values(&averages)));
    }
}

/// Fills SHOW STATS_TOTALS.
pub fn stats_totals(table: &mut Table, context: &Context) {
    for (database, totals) in context.totals() {
        push_row(table, &database, values(&totals));
    }
}

/// Fills SHOW STATS_AVERAGES.
pub fn stats_averages(table: &mut Table, context: &Context, now: Moment) {
    for (database, totals) in context.totals() {
        let averages = context.averages.of_database(&database, &totals, now);
        push_row(table, &database, values(&averages));
    }
}

/// Fills SHOW TOTALS.
pub fn totals(table: &mut Table, context: &Context, now: Moment) {
    let totals = averages::sum(&context.totals());
    let averages = context.averages.of_all(&totals, now);
    for (prefix, numbers) in [("total_", totals), ("avg_", averages)] {
        for (name, number) in TOTALS_ROWS.into_iter().zip(values(&numbers)) {
            table.push(vec![Value::Text(format!("{prefix}{name}")), Value::Numeric(number)]);
        }
    }
}

/// Adds a row, without the login counts where the table has no columns for them.
fn push_row(table: &mut Table, database: &str, numbers: impl IntoIterator<Item = u64>) {
    let mut row: Vec<Value> =
        std::iter::once(Value::text(database)).chain(numbers.into_iter().map(Value::Numeric)).collect();
    if row.len() > table.columns.len() {
        let mut column = 0;
        row.retain(|_| {
            column += 1;
            !is_login_count(column - 1)
        });
    }
    table.push(row);
}

/// In the order of the columns.
fn values(totals: &Totals) -> [u64; 12] {
    [
        totals.server_assignment_count,
        totals.xact_count,
        totals.query_count,
        totals.bytes_received,
        totals.bytes_sent,
        totals.xact_time,
        totals.query_time,
        totals.wait_time,
        totals.client_parse_count,
        totals.server_parse_count,
        totals.bind_count,
        totals.client_login_count,
    ]
}
