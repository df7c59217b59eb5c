//! SHOW CLIENTS, SERVERS, SOCKETS and ACTIVE_SOCKETS: one row for each connection, from its card.
//!
//! Rows come in PgBouncer's order: by pool, then by state, then by age. `ptr` and `link` are numbers of connections
//! here, not addresses in memory: they are the same in both tables and in the log, and tell a stranger nothing.
//!
//! Of buffers only this is known here: what a client in line has sent and nobody has looked at yet (`recv_pos`,
//! `pkt_avail`). A connection at rest has no buffer, and a busy one does not stop to publish its own: those are 0.

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use crate::admin::Context;
use crate::admin::table::{Column, Table, Value};
use crate::stats::moment::Moment;
use crate::stats::roster::{ClientCard, ClientState, Endpoint, Order, ServerCard, ServerState};

/// Columns of SHOW CLIENTS and SHOW SERVERS.
pub const COLUMNS: [Column; 21] = [
    Column::text("type"),
    Column::text("user"),
    Column::text("database"),
    Column::text("replication"),
    Column::text("state"),
    Column::text("addr"),
    Column::int4("port"),
    Column::text("local_addr"),
    Column::int4("local_port"),
    Column::text("connect_time"),
    Column::text("request_time"),
    Column::int4("wait"),
    Column::int4("wait_us"),
    Column::int4("close_needed"),
    Column::text("ptr"),
    Column::text("link"),
    Column::int4("remote_pid"),
    Column::text("tls"),
    Column::text("application_name"),
    Column::int4("prepared_statements"),
    Column::int4("id"),
];

/// Columns of SHOW SOCKETS and SHOW ACTIVE_SOCKETS.
pub const COLUMNS_WITH_BUFFERS: [Column; COLUMNS.len() + BUFFERS.len()] = {
    let mut columns = [COLUMNS[0]; COLUMNS.len() + BUFFERS.len()];
    let mut index = 0;
    while index < columns.len() {
        columns[index] = if index < COLUMNS.len() { COLUMNS[index] } else { BUFFERS[index - COLUMNS.len()] };
        index += 1;
    }
    columns
};

const BUFFERS: [Column; 7] = [
    Column::int4("recv_pos"),
    Column::int4("pkt_pos"),
    Column::int4("pkt_remain"),
    Column::int4("send_pos"),
    Column::int4("send_remain"),
    Column::int4("pkt_avail"),
    Column::int4("send_avail"),
];

/// Which sockets SHOW SOCKETS and its kin list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All.
    All,
    /// Those that may hold bytes under way: clients in line, logging in or with a request at a server, and servers at
    /// work. PgBouncer looks whether their buffers are empty, and so leaves out who waits for a server's answer; what
    /// it lists is listed here too, but for the console that asks.
    Active,
}

/// Fills SHOW CLIENTS: those that have logged in.
pub fn clients(table: &mut Table, context: &Context, now: Moment) {
    for card in logged_in(context) {
        let state = match card.state() {
            ClientState::Waiting => "waiting",
            ClientState::WaitingCancel => "waiting_cancel_req",
            ClientState::ActiveCancel => "active_cancel_req",
            _ if card.link() == 0 => "idle",
            _ => "active",
        };
        table.push(client_row(context, &card, state, now));
    }
}

/// Fills SHOW SERVERS.
pub fn servers(table: &mut Table, context: &Context) {
    for card in servers_in_order(context) {
        let state = match card.state() {
            ServerState::Active if card.link() == 0 => "idle",
            ServerState::Active => "active",
            ServerState::Idle => "idle",
            ServerState::Used => "used",
            ServerState::Tested => "tested",
            ServerState::New => "new",
            ServerState::BeingCanceled => "being_canceled",
            ServerState::ActiveCancel => "active_cancel",
        };
        table.push(server_row(context, &card, state));
    }
}

/// Fills SHOW SOCKETS and SHOW ACTIVE_SOCKETS. PgBouncer leaves out requests to cancel, the connections that carry them
/// and servers it holds back for them; we show them.
pub fn sockets(table: &mut Table, context: &Context, now: Moment, which: Which) {
    let mut rows = Vec::new();
    for card in logged_in(context) {
        let state = match card.state() {
            ClientState::Waiting => "cl_waiting",
            ClientState::WaitingCancel => "cl_waiting_cancel_req",
            ClientState::ActiveCancel => "cl_active_cancel_req",
            _ => "cl_active",
        };
        if which == Which::All || is_under_way(&card) {
            rows.push((pool_of(&card), client_row(context, &card, state, now), card.held()));
        }
    }
    for card in servers_in_order(context) {
        let state = match card.state() {
            ServerState::Active => "sv_active",
            ServerState::Idle => "sv_idle",
            ServerState::Used => "sv_used",
            ServerState::Tested => "sv_tested",
            ServerState::New => "sv_login",
            ServerState::BeingCanceled => "sv_being_canceled",
            ServerState::ActiveCancel => "sv_active_cancel",
        };
        let at_work = match card.state() {
            ServerState::Active => context.roster.client(card.link()).is_some_and(|client| is_under_way(&client)),
            ServerState::Idle | ServerState::Used => false,
            ServerState::New | ServerState::Tested | ServerState::BeingCanceled | ServerState::ActiveCancel => true,
        };
        if which == Which::All || at_work {
            rows.push(((card.database.clone(), card.user.clone()), server_row(context, &card, state), 0));
        }
    }
    // Stable: within a pool, clients stay before servers.
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    for card in context.roster.clients().iter().filter(|card| card.state() == ClientState::Login) {
        rows.push((card.names(), client_row(context, card, "cl_login", now), 0));
    }
    for (_, mut row, held) in rows {
        let held = Value::int(held);
        let zero = || Value::Int4(0);
        row.extend([held.clone(), zero(), zero(), zero(), zero(), held, zero()]);
        table.push(row);
    }
}

/// Is something under way for this client: does it stand in line, or owe its server an answer? Not so at rest, idle in
/// a transaction, or between two transactions of a session.
pub(super) fn is_under_way(card: &ClientCard) -> bool {
    let asked = card.link() != 0 && card.xact_at().is_some() && card.idle_in_xact_at().is_none();
    matches!(card.state(), ClientState::Waiting | ClientState::WaitingCancel) || asked
}

/// The pool whose list a client is in.
fn pool_of(card: &ClientCard) -> (Arc<str>, Arc<str>) {
    match card.pool.get() {
        Some(pool) => (pool.database.clone(), pool.user.clone()),
        None => card.names(),
    }
}

/// Clients by pool, waiting ones behind others and requests to cancel last; those for peers are in no pool, and come
/// after all. Who was killed is still on the way out, but for PgBouncer gone at once.
fn logged_in(context: &Context) -> Vec<Arc<ClientCard>> {
    let mut cards = context.roster.clients();
    cards.retain(|card| {
        let killed = matches!(card.order(), Order::Kill | Order::DatabaseRemoved);
        card.state() != ClientState::Login && !killed
    });
    let rank = |card: &ClientCard| match card.state() {
        ClientState::Login | ClientState::Active => 0,
        ClientState::Waiting => 1,
        ClientState::ActiveCancel => 2,
        ClientState::WaitingCancel => 3,
    };
    cards.sort_by_cached_key(|card| (card.database().is_none(), pool_of(card), rank(card)));
    cards
}

/// Servers by pool and state.
fn servers_in_order(context: &Context) -> Vec<Arc<ServerCard>> {
    let rank = |card: &ServerCard| match card.state() {
        ServerState::Active => 0,
        ServerState::Idle => 1,
        ServerState::Used => 2,
        ServerState::Tested => 3,
        ServerState::New => 4,
        ServerState::ActiveCancel => 5,
        ServerState::BeingCanceled => 6,
    };
    let mut cards = context.roster.servers();
    cards.sort_by_cached_key(|card| (card.database.clone(), card.user.clone(), rank(card)));
    cards
}

/// What a row says of either kind of connection.
struct Row<'a> {
    kind: &'static str,
    user: &'a str,
    database: &'a str,
    replication: &'static str,
    state: &'static str,
    peer: &'a Endpoint,
    local: &'a Endpoint,
    connected: Moment,
    connected_at: SystemTime,
    request_at: Moment,
    wait_us: u64,
    close_needed: bool,
    link: u64,
    remote_pid: i32,
    tls: &'a str,
    application_name: Arc<str>,
    prepared_statements: u32,
    id: u64,
}

fn client_row(context: &Context, card: &ClientCard, state: &'static str, now: Moment) -> Vec<Value> {
    let user = card.names.get().map(|names| &*names.user);
    let row = Row {
        kind: "C",
        user: user.unwrap_or("(nouser)"),
        database: card.database().map_or("(nodb)", |name| name),
        replication: card.replication().name(),
        state,
        peer: &card.peer,
        local: &card.local,
        connected: card.connected,
        connected_at: card.connected_at,
        request_at: card.request_at(),
        wait_us: if is_under_way(card) { now.micros_since(card.request_at()) } else { 0 },
        close_needed: false,
        link: card.link(),
        remote_pid: match card.peer {
            Endpoint::Unix { pid, .. } => pid.unwrap_or(0),
            Endpoint::Tcp(_) => 0,
        },
        tls: card.tls.get().map_or("", |tls| tls),
        application_name: card.application_name.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        prepared_statements: card.prepared_statements.load(Relaxed),
        id: card.id,
    };
    values(context, &row)
}

fn server_row(context: &Context, card: &ServerCard, state: &'static str) -> Vec<Value> {
    // PgBouncer's own end of a Unix socket has its own port, whichever end that is.
    let local = match &card.local {
        Endpoint::Unix { pid, uid, .. } => {
            Endpoint::Unix { port: context.registry.config().settings.listen_port, pid: *pid, uid: *uid }
        }
        local => local.clone(),
    };
    let row = Row {
        kind: "S",
        user: &card.user,
        database: &card.database,
        replication: card.replication().name(),
        state,
        peer: &card.peer,
        local: &local,
        connected: card.connected,
        connected_at: card.connected_at,
        request_at: card.request_at(),
        // Clients wait, servers do not: as in PgBouncer.
        wait_us: 0,
        close_needed: card.close_needed.load(Relaxed),
        link: card.link(),
        remote_pid: card.remote_pid(),
        tls: card.tls.get().map_or("", |tls| tls),
        application_name: card.application_name.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        prepared_statements: card.prepared_statements.load(Relaxed),
        id: card.id,
    };
    values(context, &row)
}

fn values(context: &Context, row: &Row<'_>) -> Vec<Value> {
    let (addr, port) = address(row.peer);
    let (local_addr, local_port) = address(row.local);
    let local_time = |at| Value::Text(context.process.local_time(at));
    vec![
        Value::text(row.kind),
        Value::text(row.user),
        Value::text(row.database),
        Value::text(row.replication),
        Value::text(row.state),
        Value::Text(addr),
        Value::int(port),
        Value::Text(local_addr),
        Value::int(local_port),
        local_time(row.connected_at),
        local_time(row.connected_at + row.request_at.since(row.connected)),
        Value::int(row.wait_us / SECOND_US),
        Value::int(row.wait_us % SECOND_US),
        Value::Int4(i32::from(row.close_needed)),
        Value::Text(pointer(row.id)),
        Value::Text(if row.link == 0 { String::new() } else { pointer(row.link) }),
        Value::Int4(row.remote_pid),
        Value::text(row.tls),
        Value::text(&row.application_name),
        Value::int(row.prepared_statements),
        Value::int(row.id),
    ]
}

fn address(endpoint: &Endpoint) -> (String, u16) {
    match endpoint {
        Endpoint::Tcp(address) => {
            let ip: IpAddr = address.ip();
            (ip.to_string(), address.port())
        }
        Endpoint::Unix { port, .. } => ("unix".to_owned(), *port),
    }
}

fn pointer(id: u64) -> String {
    format!("0x{id:x}")
}

/// A time of day in UTC, in the form of PgBouncer's tables.
pub fn utc(at: SystemTime) -> String {
    let at = jiff::Timestamp::try_from(at).unwrap_or_default();
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

const SECOND_US: u64 = 1_000_000;
