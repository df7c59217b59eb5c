//! SHOW POOLS, DATABASES, USERS, LISTS, PEERS and PEER_POOLS: what is pooled, and how many.
//!
//! The console itself is a database with one pool in these tables, as in PgBouncer; the pool room knows nothing of it,
//! so its rows are put in here.

use std::sync::atomic::Ordering::Relaxed;

use crate::admin::table::{Column, Table, Value};
use crate::admin::{Context, DATABASE};
use crate::config::{Host, PoolMode};
use crate::stats::moment::Moment;
use crate::stats::roster::ClientState;

/// Columns of SHOW POOLS.
pub const POOLS: [Column; 17] = [
    Column::text("database"),
    Column::text("user"),
    Column::int4("cl_active"),
    Column::int4("cl_waiting"),
    Column::int4("cl_active_cancel_req"),
    Column::int4("cl_waiting_cancel_req"),
    Column::int4("sv_active"),
    Column::int4("sv_active_cancel"),
    Column::int4("sv_being_canceled"),
    Column::int4("sv_idle"),
    Column::int4("sv_used"),
    Column::int4("sv_tested"),
    Column::int4("sv_login"),
    Column::int4("maxwait"),
    Column::int4("maxwait_us"),
    Column::text("pool_mode"),
    Column::text("load_balance_hosts"),
];

/// Columns of SHOW DATABASES.
pub const DATABASES: [Column; 17] = [
    Column::text("name"),
    Column::text("host"),
    Column::int4("port"),
    Column::text("database"),
    Column::text("force_user"),
    Column::int4("pool_size"),
    Column::int4("min_pool_size"),
    Column::int4("reserve_pool_size"),
    Column::int4("server_lifetime"),
    Column::text("pool_mode"),
    Column::text("load_balance_hosts"),
    Column::int4("max_connections"),
    Column::int4("current_connections"),
    Column::int4("max_client_connections"),
    Column::int4("current_client_connections"),
    Column::int4("paused"),
    Column::int4("disabled"),
];

/// Columns of SHOW USERS.
pub const USERS: [Column; 8] = [
    Column::text("name"),
    Column::text("pool_size"),
    Column::text("reserve_pool_size"),
    Column::text("pool_mode"),
    Column::int4("max_user_connections"),
    Column::int4("current_connections"),
    Column::int4("max_user_client_connections"),
    Column::int4("current_client_connections"),
];

/// Columns of SHOW LISTS.
pub const LISTS: [Column; 2] = [Column::text("list"), Column::int4("items")];

/// Columns of SHOW PEERS.
pub const PEERS: [Column; 4] =
    [Column::int4("peer_id"), Column::text("host"), Column::int4("port"), Column::int4("pool_size")];

/// Columns of SHOW PEER_POOLS.
pub const PEER_POOLS: [Column; 5] = [
    Column::int4("peer_id"),
    Column::int4("cl_active_cancel_req"),
    Column::int4("cl_waiting_cancel_req"),
    Column::int4("sv_active_cancel"),
    Column::int4("sv_login"),
];

/// Fills SHOW POOLS.
pub fn pools(table: &mut Table, context: &Context, now: Moment) {
    for view in context.registry.pool_views(now) {
        table.push(vec![
            Value::text(view.database),
            Value::text(view.user),
            Value::int(view.cl_active),
            Value::int(view.cl_waiting),
            Value::int(view.cl_active_cancel_req),
            Value::int(view.cl_waiting_cancel_req),
            Value::int(view.sv_active),
            Value::int(view.sv_active_cancel),
            Value::int(view.sv_being_canceled),
            Value::int(view.sv_idle),
            Value::int(view.sv_used),
            Value::int(view.sv_tested),
            Value::int(view.sv_login),
            Value::int(view.maxwait_us / SECOND_US),
            Value::int(view.maxwait_us % SECOND_US),
            Value::text(view.pool_mode),
            Value::maybe(view.load_balance_hosts),
        ]);
    }
    let mut console = vec![Value::text(DATABASE), Value::text(DATABASE), Value::int(console_clients(context))];
    console.resize(POOLS.len() - 2, Value::Int4(0));
    console.extend([Value::text(PoolMode::Statement), Value::Null]);
    table.push(console);
    sort_by_names(table);
}

/// Fills SHOW DATABASES.
pub fn databases(table: &mut Table, context: &Context) {
    for view in context.registry.database_views() {
        table.push(vec![
            Value::text(view.name),
            Value::text(view.host),
            Value::int(view.port),
            Value::text(view.database),
            Value::maybe(view.force_user),
            Value::int(view.pool_size),
            Value::int(view.min_pool_size),
            Value::int(view.reserve_pool_size),
            Value::int(view.server_lifetime),
            Value::maybe(view.pool_mode),
            Value::maybe(view.load_balance_hosts),
            Value::int(view.max_connections),
            Value::int(view.current_connections),
            Value::int(view.max_client_connections),
            Value::int(view.current_client_connections),
            Value::Int4(i32::from(view.paused)),
            Value::Int4(i32::from(view.disabled)),
        ]);
    }
    table.push(console_database(context));
    sort_by_names(table);
}

/// The console's row, with PgBouncer's values for it.
fn console_database(context: &Context) -> Vec<Value> {
    let config = context.registry.config();
    let settings = &config.settings;
    vec![
        Value::text(DATABASE),
        Value::Null,
        Value::int(settings.listen_port),
        Value::text(DATABASE),
        Value::text(DATABASE),
        Value::Int4(2),
        Value::Int4(0),
        Value::int(settings.reserve_pool_size),
        Value::int(settings.server_lifetime.as_secs()),
        Value::text(PoolMode::Statement),
        Value::Null,
        Value::int(settings.max_db_connections),
        Value::Int4(0),
        Value::int(settings.max_db_client_connections),
        Value::int(console_clients(context)),
        Value::Int4(0),
        Value::Int4(0),
    ]
}

/// Fills SHOW USERS. A pool size is text, right-aligned in nine places, and blank where the user has none of their own;
/// PgBouncer 1.25.2 shows the previous user's there.
pub fn users(table: &mut Table, context: &Context) {
    let size = |size: Option<u32>| Value::Text(size.map_or(String::new(), |size| format!("{size:9}")));
    let views = context.registry.user_views();
    let knows_console = views.iter().any(|view| &*view.name == DATABASE);
    for view in views {
        table.push(vec![
            Value::text(view.name),
            size(view.pool_size),
            size(view.reserve_pool_size),
            Value::maybe(view.pool_mode),
            Value::int(view.max_user_connections),
            Value::int(view.current_connections),
            Value::int(view.max_user_client_connections),
            Value::int(view.current_client_connections),
        ]);
    }
    if !knows_console {
        let mut console = vec![Value::text(DATABASE), size(None), size(None), Value::Null];
        console.resize(USERS.len(), Value::Int4(0));
        table.push(console);
    }
    sort_by_names(table);
}

/// Fills SHOW LISTS. Cards of connections that have ended are not kept, so nothing is ever free.
pub fn lists(table: &mut Table, context: &Context, now: Moment) {
    let registry = &context.registry;
    let users = registry.user_views();
    let console_user = usize::from(!users.iter().any(|view| &*view.name == DATABASE));
    let clients = context.roster.clients();
    let logging_in = clients.iter().filter(|card| card.state() == ClientState::Login).count();
    let dns = registry.dns_sums();
    let lists = [
        ("databases", registry.database_views().len() + 1),
        ("users", users.len() + console_user),
        ("peers", registry.config().peers.len()),
        ("pools", registry.pool_views(now).len() + 1),
        ("peer_pools", registry.peer_pool_views().len()),
        ("free_clients", 0),
        ("used_clients", clients.len()),
        ("login_clients", logging_in),
        ("free_servers", 0),
        ("used_servers", context.roster.server_count()),
        ("dns_names", dns.names),
        ("dns_zones", dns.zones),
        ("dns_queries", dns.queries),
        ("dns_pending", 0),
    ];
    for (list, items) in lists {
        table.push(vec![Value::text(list), Value::int(items)]);
    }
}

/// Fills SHOW PEERS.
pub fn peers(table: &mut Table, context: &Context) {
    let config = context.registry.config();
    for (peer_id, peer) in &config.peers {
        let host = match &peer.host {
            Host::Tcp { host, .. } => host,
            Host::Unix { dir, .. } => dir,
        };
        table.push(vec![
            Value::int(*peer_id),
            Value::text(host),
            Value::int(peer.host.port()),
            Value::int(peer.pool_size.unwrap_or(config.settings.default_pool_size)),
        ]);
    }
}

/// Fills SHOW PEER_POOLS: the peers that were sent something.
pub fn peer_pools(table: &mut Table, context: &Context) {
    for view in context.registry.peer_pool_views() {
        table.push(vec![
            Value::int(view.peer_id),
            Value::int(view.cl_active_cancel_req),
            Value::int(view.cl_waiting_cancel_req),
            Value::int(view.sv_active_cancel),
            Value::int(view.sv_login),
        ]);
    }
}

fn console_clients(context: &Context) -> usize {
    let cards = context.roster.clients();
    cards.iter().filter(|card| card.console.load(Relaxed) && card.state() != ClientState::Login).count()
}

/// PgBouncer keeps these lists in order of their names.
fn sort_by_names(table: &mut Table) {
    let name = |row: &[Value], column: usize| match &row[column] {
        Value::Text(text) => text.clone(),
        _ => String::new(),
    };
    table.rows.sort_by_cached_key(|row| (name(row, 0), name(row, 1)));
}

const SECOND_US: u64 = 1_000_000;
