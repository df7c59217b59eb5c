//! SHOW CONFIG, STATE, VERSION, MEM, DNS_HOSTS, DNS_ZONES and HELP: the process itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::sockets;
use crate::admin::table::{Column, Table, Value};
use crate::admin::{Context, PGBOUNCER_VERSION};
use crate::auth::Credential;
use crate::config::{Database, Peer, UserRules};
use crate::net::buffers::SMALL_LEN;
use crate::pool::{Pool, State};
use crate::protocol::outstanding::Due;
use crate::protocol::parameters::ParameterSet;
use crate::protocol::statements::Statement;
use crate::server::Server;
use crate::stats::lines;
use crate::stats::moment::Moment;
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
\tSHOW CONFIG|VERSION|STATE|FDS|MEM|DNS_HOSTS|DNS_ZONES|HELP
\tSET key = value
\tRELOAD
\tPAUSE [<db>], RESUME [<db>], SUSPEND
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
    for (key, shown) in [("active", State::Active), ("paused", State::Paused), ("suspended", State::Suspended)] {
        table.push(vec![Value::text(key), yes_or_no(state == shown)]);
    }
}

/// Fills SHOW VERSION: the PgBouncer whose console this is, and nothing else, because tools such as pgbouncer_fdw take
/// all that follows the first digit for its number. Our own version is in the log and in `-V`.
pub fn version(table: &mut Table) {
    table.push(vec![Value::Text(lines::version(PGBOUNCER_VERSION).to_string())]);
}

/// Fills SHOW MEM: PgBouncer's caches by name, with the sizes of our own kind of each.
///
/// `used` counts what lives; `size` is what one of them takes by itself, what it points to left out; `memtotal` is
/// their product. `free` is always 0: what ends goes back to the allocator, nothing is kept for the next. Clients and
/// servers are counted with their cards. A connection is lent a buffer while something is under way, which is what
/// `iobuf_cache` counts; replies outstanding are kept inside of their server and not counted.
pub fn mem(table: &mut Table, context: &Context, now: Moment) {
    let registry = &context.registry;
    let (clients, servers) = (context.roster.clients(), context.roster.servers());
    let users = registry.user_views().len();
    let pools = registry.pool_views(now).len();
    let prepared = servers.iter().map(|card| card.prepared_statements.load(Relaxed) as usize).sum();
    let under_way = clients.iter().filter(|card| sockets::is_under_way(card)).count();
    let caches: [(&str, usize, usize); 12] = [
        ("user_cache", size_of::<UserRules>(), users),
        ("credentials_cache", size_of::<Credential>(), pools),
        ("db_cache", size_of::<Database>(), registry.database_views().len() + CONSOLE),
        ("peer_cache", size_of::<Peer>(), registry.config().peers.len()),
        ("peer_pool_cache", size_of::<Peer>(), registry.peer_pool_views().len()),
        ("pool_cache", size_of::<Pool>(), pools + CONSOLE),
        ("outstanding_request_cache", size_of::<Due>(), 0),
        ("server_cache", size_of::<Server>() + size_of::<ServerCard>(), servers.len()),
        ("client_cache", context.client_bytes + size_of::<ClientCard>(), clients.len()),
        ("iobuf_cache", SMALL_LEN, under_way),
        ("var_list_cache", size_of::<ParameterSet>(), clients.len() + servers.len()),
        ("server_prepared_statement_cache", size_of::<Arc<Statement>>(), prepared),
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

/// Fills SHOW DNS_HOSTS. The addresses have PgBouncer's port 0, since the port is the database's.
pub fn dns_hosts(table: &mut Table, context: &Context) {
    for host in context.registry.dns_hosts() {
        let addresses: Vec<String> =
            host.addresses.iter().map(|address| SocketAddr::new(*address, 0).to_string()).collect();
        table.push(vec![
            Value::text(&*host.name),
            Value::Int8(i64::try_from(host.ttl).unwrap_or(i64::MAX)),
            Value::Text(addresses.join(",")),
        ]);
    }
}

/// Fills SHOW DNS_ZONES.
pub fn dns_zones(table: &mut Table, context: &Context) {
    for zone in context.registry.dns_zones() {
        table.push(vec![Value::text(&*zone.name), Value::Int8(zone.serial.into()), Value::int(zone.count)]);
    }
}

/// The console is one database with one pool.
const CONSOLE: usize = 1;

fn yes_or_no(yes: bool) -> Value {
    Value::text(if yes { "yes" } else { "no" })
}
