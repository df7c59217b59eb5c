//! SHOW CONFIG, STATE, VERSION, MEM, DNS_HOSTS, DNS_ZONES and HELP: the process itself.

use crate::admin::table::{Column, Table, Value};
use crate::admin::{Context, PGBOUNCER_VERSION};
use crate::pool::State;
use crate::stats::roster::{ClientCard, ServerCard};

/// Columns of SHOW CONFIG.
pub const CONFIG: [Column; 4] =
    [Column::text("key"), Column::text("value"), Column::text("default"), Column::text("changeable")];

/// Columns of SHOW STATE.
pub const STATE: [Column; 2] = [Column::text("key"), Column::text("value")];

/// Columns of SHOW VERSION.
pub const VERSION: [Column; 1] = [Column::text("version")];

/// Columns of SHOW MEM.
pub const MEM: [Column; 5] =
    [Column::text("name"), Column::int4("size"), Column::int4("used"), Column::int4("free"), Column::int4("memtotal")];

/// Columns of SHOW DNS_HOSTS.
pub const DNS_HOSTS: [Column; 3] = [Column::text("hostname"), Column::int8("ttl"), Column::text("addrs")];

/// Columns of SHOW DNS_ZONES.
pub const DNS_ZONES: [Column; 3] = [Column::text("zonename"), Column::int8("serial"), Column::int4("count")];

/// What SHOW HELP lists, in the notice's DETAIL.
pub const HELP: &str = "
\tSHOW CLIENTS|SERVERS|SOCKETS|ACTIVE_SOCKETS
\tSHOW POOLS|DATABASES|USERS|LISTS|PEERS|PEER_POOLS
\tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
\tSHOW CONFIG|VERSION|STATE|MEM|DNS_HOSTS|DNS_ZONES|HELP
\tSET key = value
\tRELOAD
\tPAUSE [<db>], RESUME [<db>]
\tDISABLE <db>, ENABLE <db>
\tRECONNECT [<db>], WAIT_CLOSE [<db>]
\tKILL [<db>], KILL_CLIENT <id>
\tSHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]";

/// Fills SHOW CONFIG.
pub fn config(table: &mut Table, context: &Context) {
    for shown in context.registry.config().settings.show() {
        table.push(vec![
            Value::text(shown.name),
            Value::maybe(shown.value),
            Value::maybe(shown.default),
            yes_or_no(shown.changeable),
        ]);
    }
}

/// Fills SHOW STATE.
pub fn state(table: &mut Table, context: &Context) {
    let state = context.registry.state();
    for (key, holds) in [("active", state == State::Active), ("paused", state == State::Paused), ("suspended", false)] {
        table.push(vec![Value::text(key), yes_or_no(holds)]);
    }
}

/// Fills SHOW VERSION. Tools look for PgBouncer's number in it, so that comes first.
pub fn version(table: &mut Table, context: &Context) {
    let version = context.process.version();
    table.push(vec![Value::Text(format!("PgBouncer {PGBOUNCER_VERSION} (pgweir {version})"))]);
}

/// Fills SHOW MEM: the cards of clients and servers. PgBouncer's other caches do not exist here, and nothing is kept
/// free for later.
pub fn mem(table: &mut Table, context: &Context) {
    let caches = [
        ("server_cache", size_of::<ServerCard>(), context.roster.server_count()),
        ("client_cache", size_of::<ClientCard>(), context.roster.client_count()),
    ];
    for (name, size, used) in caches {
        table.push(vec![
            Value::text(name),
            Value::int(size),
            Value::int(used),
            Value::Int4(0),
            Value::int(size.saturating_mul(used)),
        ]);
    }
}

fn yes_or_no(yes: bool) -> Value {
    Value::text(if yes { "yes" } else { "no" })
}
