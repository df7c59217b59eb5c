//! SHOW CLIENTS, SERVERS, SOCKETS and ACTIVE_SOCKETS: one row for each connection, from its card.
//!
//! Rows come in PgBouncer's order: by pool, then by state, then by age. `ptr` and `link` are numbers of connections
//! here, not addresses in memory: they are the same in both tables and in the log, and tell a stranger nothing.
//! Positions in buffers are always 0: a connection at rest has no buffer, and a busy one does not publish its own.

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use crate::admin::Context;
use crate::admin::table::{Column, Table, Value};
use crate::stats::moment::Moment;
use crate::stats::roster::{ClientCard, ClientState, Endpoint, ServerCard, ServerState};

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
    /// Those that may hold bytes under way: not at rest. PgBouncer looks whether their buffers are empty.
    Active,
}

/// Fills SHOW CLIENTS: those that have logged in.
pub fn clients(table: &mut Table, context: &Context, now: Moment) {
    for card in logged_in(context) {
        let state = match card.state() {
            ClientState::Waiting => "waiting",
            _ if card.link() == 0 => "idle",
            _ => "active",
        };
        table.push(client_row(context, &card, state, now));
    }
}

/// Fills SHOW SERVERS.
pub fn servers(table: &mut Table, context: &Context, now: Moment) {
    for card in servers_in_order(context) {
        let state = match card.state() {
            ServerState::Active if card.link() == 0 => "idle",
            ServerState::Active => "active",
            ServerState::Idle => "idle",
            ServerState::Used => "used",
            ServerState::Tested => "tested",
            ServerState::New => "new",
            ServerState::BeingCanceled => "being_canceled",
        };
        table.push(server_row(context, &card, state, now));
    }
}

/// Fills SHOW SOCKETS and SHOW ACTIVE_SOCKETS. PgBouncer leaves out servers it holds back for a cancel request; we show
/// them.
pub fn sockets(table: &mut Table, context: &Context, now: Moment, which: Which) {
    let mut rows = Vec::new();
    for card in logged_in(context) {
        let active = card.state() == ClientState::Waiting || card.link() != 0 || card.rest_at().is_none();
        let state = if card.state() == ClientState::Waiting { "cl_waiting" } else { "cl_active" };
        if which == Which::All || active {
            rows.push((card.names(), client_row(context, &card, state, now)));
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
        };
        let at_rest = matches!(card.state(), ServerState::Idle | ServerState::Used);
        if which == Which::All || !at_rest {
            rows.push(((card.database.clone(), card.user.clone()), server_row(context, &card, state, now)));
        }
    }
    // Stable: within a pool, clients stay before servers.
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    for card in context.roster.clients().iter().filter(|card| card.state() == ClientState::Login) {
        rows.push((card.names(), client_row(context, card, "cl_login", now)));
    }
    for (_, mut row) in rows {
        row.resize(COLUMNS_WITH_BUFFERS.len(), Value::Int4(0));
        table.push(row);
    }
}

/// Clients by pool, waiting ones last.
fn logged_in(context: &Context) -> Vec<Arc<ClientCard>> {
    let mut cards = context.roster.clients();
    cards.retain(|card| card.state() != ClientState::Login);
    cards.sort_by_cached_key(|card| (card.names(), card.state() == ClientState::Waiting));
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
        ServerState::BeingCanceled => 5,
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
    application_name: Arc<str>,
    prepared_statements: u32,
    id: u64,
}

fn client_row(context: &Context, card: &ClientCard, state: &'static str, now: Moment) -> Vec<Value> {
    let names = card.names.get();
    // Nothing is under way for a client at rest, nor for one idle in a transaction.
    let under_way = card.state() == ClientState::Waiting || (card.link() != 0 && card.idle_in_xact_at().is_none());
    let row = Row {
        kind: "C",
        user: names.map_or("(nouser)", |names| &names.user),
        database: names.map_or("(nodb)", |names| &names.database),
        replication: match card.replication.load(Relaxed) {
            0 => "none",
            1 => "logical",
            _ => "physical",
        },
        state,
        peer: &card.peer,
        local: &card.local,
        connected: card.connected,
        connected_at: card.connected_at,
        request_at: card.request_at(),
        wait_us: if under_way { now.micros_since(card.request_at()) } else { 0 },
        close_needed: false,
        link: card.link(),
        remote_pid: match card.peer {
            Endpoint::Unix { pid, .. } => pid.unwrap_or(0),
            Endpoint::Tcp(_) => 0,
        },
        application_name: card.application_name.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        prepared_statements: card.prepared_statements.load(Relaxed),
        id: card.id,
    };
    values(context, &row)
}

fn server_row(context: &Context, card: &ServerCard, state: &'static str, now: Moment) -> Vec<Value> {
    let row = Row {
        kind: "S",
        user: &card.user,
        database: &card.database,
        replication: "none",
        state,
        peer: &card.peer,
        local: &card.local,
        connected: card.connected,
        connected_at: card.connected_at,
        request_at: card.request_at(),
        wait_us: if card.state() == ServerState::Active { now.micros_since(card.request_at()) } else { 0 },
        close_needed: card.close_needed.load(Relaxed),
        link: card.link(),
        remote_pid: card.remote_pid(),
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
        Value::text(""),
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
