//! Cards of live clients and servers: what SHOW reads, KILL orders and the janitor sweeps.
//!
//! A card is a connection's public face. Its task writes it with relaxed stores on the hot path; everybody else reads
//! it, or leaves an [`Order`] on it and wakes the task. The roster itself is locked only when a connection comes or
//! goes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::SystemTime;

use super::moment::Moment;
use crate::wire::startup::Replication;

/// One end of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket: the port that names it, and the peer's process and user where the kernel told them.
    Unix {
        /// Port number that names the socket file.
        port: u16,
        /// Peer process.
        pid: Option<i32>,
        /// Peer user.
        uid: Option<u32>,
    },
}

/// What a client is doing, in the words of SHOW CLIENTS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ClientState {
    /// Not yet logged in.
    Login,
    /// Logged in, with or without a server (SHOW says `idle` where it has none).
    Active,
    /// In line for a server.
    Waiting,
    /// Not a client: a request to cancel that has no connection to pass it on yet.
    WaitingCancel,
    /// Not a client: a request to cancel that is being passed on.
    ActiveCancel,
}

/// What a server is doing, in the words of SHOW SERVERS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ServerState {
    /// Connecting or logging in.
    New,
    /// On loan to a client.
    Active,
    /// On the shelf, ready.
    Idle,
    /// On the shelf, due for server_check_query before use.
    Used,
    /// Running server_reset_query or server_check_query.
    Tested,
    /// Kept back until a cancel request for it has settled.
    BeingCanceled,
    /// Not a server: a connection that carries a request to cancel, to a server or to a peer.
    ActiveCancel,
}

/// Why a connection's task must end at its next look at the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// No order.
    None,
    /// KILL_CLIENT.
    Kill,
    /// KILL, or its database is no longer configured.
    DatabaseRemoved,
    /// query_timeout passed while its server was at work.
    QueryTimeout,
    /// query_timeout passed while it was in line.
    QueryTimeoutInLine,
    /// transaction_timeout passed.
    TransactionTimeout,
    /// idle_transaction_timeout passed.
    IdleTransactionTimeout,
    /// client_idle_timeout passed.
    ClientIdleTimeout,
    /// client_login_timeout passed.
    ClientLoginTimeout,
    /// The process stops.
    Shutdown,
    /// Its dedicated server is marked to be closed.
    ServerUnwanted,
    /// It could not come to a stop within suspend_timeout.
    SuspendTimeout,
    /// Not to leave: to look at the suspension (`pool::suspension`), which has something for it.
    Heed,
}

impl Order {
    /// Must the connection end?
    #[inline]
    pub fn dismisses(self) -> bool {
        !matches!(self, Order::None | Order::Heed)
    }
}

const ORDERS: [Order; 13] = [
    Order::None,
    Order::Kill,
    Order::DatabaseRemoved,
    Order::QueryTimeout,
    Order::QueryTimeoutInLine,
    Order::TransactionTimeout,
    Order::IdleTransactionTimeout,
    Order::ClientIdleTimeout,
    Order::ClientLoginTimeout,
    Order::Shutdown,
    Order::ServerUnwanted,
    Order::SuspendTimeout,
    Order::Heed,
];
const CLIENT_STATES: [ClientState; 5] = [
    ClientState::Login,
    ClientState::Active,
    ClientState::Waiting,
    ClientState::WaitingCancel,
    ClientState::ActiveCancel,
];
const SERVER_STATES: [ServerState; 7] = [
    ServerState::New,
    ServerState::Active,
    ServerState::Idle,
    ServerState::Used,
    ServerState::Tested,
    ServerState::BeingCanceled,
    ServerState::ActiveCancel,
];

/// Who a connection is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Names {
    /// Database as the client names it.
    pub database: Arc<str>,
    /// User name.
    pub user: Arc<str>,
}

/// The public face of one application connection.
#[derive(Debug)]
pub struct ClientCard {
    /// Number of the connection, unique in this process; the `id` column.
    pub id: u64,
    /// The application's end.
    pub peer: Endpoint,
    /// Our end.
    pub local: Endpoint,
    /// When it was accepted.
    pub connected_at: SystemTime,
    /// When it was accepted, on the rules' clock.
    pub connected: Moment,
    /// Set once the startup message was read.
    pub names: OnceLock<Names>,
    /// The pool it is a member of: with a forced user, not that of its own name. Set when it has logged in; for a
    /// request to cancel, the pool of the client it is for.
    pub pool: OnceLock<Names>,
    /// The client's application_name, as last known.
    pub application_name: Mutex<Arc<str>>,
    /// Prepared statements the client holds.
    pub prepared_statements: AtomicU32,
    /// Version and cipher of its TLS, once there is some.
    pub tls: OnceLock<Box<str>>,
    /// Is this a console client?
    pub console: AtomicBool,
    /// Has it been let in?
    pub logged_in: AtomicBool,
    cancel_asked: AtomicBool,
    /// Number of the present wait for a server, odd while there is one; and of the one that was cancelled last.
    wait: AtomicU32,
    cancelled_wait: AtomicU32,
    replication: AtomicU8,
    /// Does its task keep still, all it had in hand passed on (SUSPEND)?
    pub frozen: AtomicBool,
    state: AtomicU8,
    link: AtomicU64,
    /// When the last request began; also when waiting began. Microseconds of [`Moment`].
    request_at: AtomicU64,
    /// When the transaction began; 0 outside of one.
    xact_at: AtomicU64,
    /// When the server last had nothing to do for this client inside a transaction; 0 otherwise.
    idle_in_xact_at: AtomicU64,
    /// When the client last came to rest without a server; 0 while it has one.
    rest_at: AtomicU64,
    order: AtomicU8,
    /// Bytes it had sent when it got in line.
    held: AtomicU32,
    /// Number of the worker it is to run on; it moves there at its next safe point.
    worker: AtomicUsize,
    waker: Mutex<Option<Waker>>,
}

impl ClientCard {
    /// A card for a connection just accepted.
    pub fn new(id: u64, peer: Endpoint, local: Endpoint, connected_at: SystemTime, now: Moment) -> ClientCard {
        ClientCard {
            id,
            peer,
            local,
            connected_at,
            connected: now,
            names: OnceLock::new(),
            pool: OnceLock::new(),
            application_name: Mutex::new(Arc::from("")),
            prepared_statements: AtomicU32::new(0),
            tls: OnceLock::new(),
            replication: AtomicU8::new(0),
            console: AtomicBool::new(false),
            logged_in: AtomicBool::new(false),
            cancel_asked: AtomicBool::new(false),
            wait: AtomicU32::new(0),
            cancelled_wait: AtomicU32::new(0),
            frozen: AtomicBool::new(false),
            state: AtomicU8::new(ClientState::Login as u8),
            link: AtomicU64::new(0),
            request_at: AtomicU64::new(now.0),
            xact_at: AtomicU64::new(0),
            idle_in_xact_at: AtomicU64::new(0),
            rest_at: AtomicU64::new(0),
            order: AtomicU8::new(Order::None as u8),
            held: AtomicU32::new(0),
            worker: AtomicUsize::new(0),
            waker: Mutex::new(None),
        }
    }

    /// What it asked for at its start.
    pub fn replication(&self) -> Replication {
        replication_of(&self.replication)
    }

    /// Notes what it asks for.
    pub fn set_replication(&self, replication: Replication) {
        self.replication.store(replication as u8, Relaxed);
    }

    /// What the client is doing.
    pub fn state(&self) -> ClientState {
        CLIENT_STATES[usize::from(self.state.load(Relaxed)) % CLIENT_STATES.len()]
    }

    /// Says what the client is doing.
    pub fn set_state(&self, state: ClientState) {
        self.state.store(state as u8, Relaxed);
    }

    /// The id of the server on loan to this client; 0 is none. Sequentially consistent: cancel requests rely on it.
    pub fn link(&self) -> u64 {
        self.link.load(SeqCst)
    }

    /// Says which server is on loan.
    pub fn set_link(&self, server_id: u64) {
        self.link.store(server_id, SeqCst);
    }

    /// When the last request began.
    pub fn request_at(&self) -> Moment {
        Moment(self.request_at.load(Relaxed))
    }

    /// Notes the begin of a request.
    pub fn set_request_at(&self, now: Moment) {
        self.request_at.store(now.0, Relaxed);
    }

    /// When the present transaction began, if there is one.
    pub fn xact_at(&self) -> Option<Moment> {
        moment_or_none(&self.xact_at)
    }

    /// Notes the begin of a transaction, or its end.
    pub fn set_xact_at(&self, at: Option<Moment>) {
        self.xact_at.store(at.map_or(0, |moment| moment.0.max(1)), Relaxed);
    }

    /// Since when the client is idle inside a transaction, if it is.
    pub fn idle_in_xact_at(&self) -> Option<Moment> {
        moment_or_none(&self.idle_in_xact_at)
    }

    /// Notes that the client is idle inside a transaction, or no longer.
    pub fn set_idle_in_xact_at(&self, at: Option<Moment>) {
        self.idle_in_xact_at.store(at.map_or(0, |moment| moment.0.max(1)), Relaxed);
    }

    /// Since when the client rests without a server, if it does.
    pub fn rest_at(&self) -> Option<Moment> {
        moment_or_none(&self.rest_at)
    }

    /// Notes that the client rests, or no longer.
    pub fn set_rest_at(&self, at: Option<Moment>) {
        self.rest_at.store(at.map_or(0, |moment| moment.0.max(1)), Relaxed);
    }

    /// Bytes of the request that stands in line; 0 where none does.
    pub fn held(&self) -> u32 {
        if self.state() == ClientState::Waiting { self.held.load(Relaxed) } else { 0 }
    }

    /// Notes how many bytes a request has that gets in line.
    pub fn set_held(&self, len: usize) {
        self.held.store(u32::try_from(len).unwrap_or(u32::MAX), Relaxed);
    }

    /// The order left on the card.
    pub fn order(&self) -> Order {
        ORDERS[usize::from(self.order.load(Relaxed)) % ORDERS.len()]
    }

    /// Leaves an order and wakes the client's task. The first order to leave stands.
    pub fn give_order(&self, order: Order) {
        let _ = self.order.fetch_update(SeqCst, SeqCst, |present| {
            let dismissed = present != Order::None as u8 && present != Order::Heed as u8;
            (!dismissed).then_some(order as u8)
        });
        self.wake();
    }

    /// A request to cancel came for a client of the console: wakes its task, which sees to it itself.
    pub fn ask_to_cancel(&self) {
        self.cancel_asked.store(true, SeqCst);
        self.wake();
    }

    /// Did a request to cancel come since this was last asked? Only for clients of the console.
    pub fn take_cancel(&self) -> bool {
        self.cancel_asked.swap(false, SeqCst)
    }

    /// A request of the client begins to wait for a server.
    pub fn begin_wait(&self) {
        self.wait.fetch_or(1, SeqCst);
    }

    /// It waits no longer.
    pub fn end_wait(&self) {
        if self.wait.load(SeqCst) % 2 == 1 {
            self.wait.fetch_add(1, SeqCst);
        }
    }

    /// A request to cancel came: if a request of this client waits for a server, that one is cancelled, and no later
    /// one. Wakes its task.
    pub fn cancel_wait(&self) -> bool {
        let wait = self.wait.load(SeqCst);
        let waits = wait % 2 == 1;
        if waits {
            self.cancelled_wait.store(wait, SeqCst);
            self.wake();
        }
        waits
    }

    /// Was the request that waits for a server cancelled? For the client's own task.
    pub fn wait_cancelled(&self) -> bool {
        self.cancelled_wait.load(SeqCst) == self.wait.load(SeqCst)
    }

    /// The client's task is about to heed: what comes after this call is a new order.
    pub fn heeded(&self) {
        let _ = self.order.compare_exchange(Order::Heed as u8, Order::None as u8, SeqCst, SeqCst);
    }

    /// Remembers how to wake the client's task. A task keeps one waker for its life, so this is called once for each.
    pub fn set_waker(&self, waker: &Waker) {
        let mut known = lock(&self.waker);
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    /// Wakes the client's task.
    pub fn wake(&self) {
        if let Some(waker) = lock(&self.waker).as_ref() {
            waker.wake_by_ref();
        }
    }

    /// The worker it is to run on.
    #[inline]
    pub fn worker(&self) -> usize {
        self.worker.load(Relaxed)
    }

    /// Says on which worker it is to run.
    pub fn set_worker(&self, worker: usize) {
        self.worker.store(worker, Relaxed);
    }

    /// The database it asked for, or for a request to cancel, that of the client it is for.
    pub fn database(&self) -> Option<&Arc<str>> {
        self.names.get().or_else(|| self.pool.get()).map(|names| &names.database)
    }

    /// Database and user, empty before the startup message.
    pub fn names(&self) -> (Arc<str>, Arc<str>) {
        match self.names.get() {
            Some(names) => (names.database.clone(), names.user.clone()),
            None => (Arc::from(""), Arc::from("")),
        }
    }
}

fn replication_of(stored: &AtomicU8) -> Replication {
    const ALL: [Replication; 3] = [Replication::Off, Replication::Physical, Replication::Logical];
    ALL[usize::from(stored.load(Relaxed)) % ALL.len()]
}

fn moment_or_none(at: &AtomicU64) -> Option<Moment> {
    match at.load(Relaxed) {
        0 => None,
        micros => Some(Moment(micros)),
    }
}

/// Where a CancelRequest for a backend goes, and what it says.
#[derive(Clone)]
pub struct CancelTarget {
    /// Where the server listens.
    pub reach: Reach,
    /// Process id from BackendKeyData.
    pub pid: i32,
    /// Secret from BackendKeyData, 4 to 256 bytes.
    pub secret: Box<[u8]>,
    /// The host's name, where the server's own connection is encrypted: then requests are, too.
    pub encrypted_as: Option<Box<str>>,
}

impl std::fmt::Debug for CancelTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CancelTarget({:?}, pid {})", self.reach, self.pid)
    }
}

/// An address that can be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// TCP.
    Tcp(SocketAddr),
    /// The path of a Unix socket; with a leading `@`, an abstract one.
    Unix(String),
}

/// The public face of one connection to Postgres.
#[derive(Debug)]
pub struct ServerCard {
    /// Number of the connection, unique in this process (clients and servers share the numbers).
    pub id: u64,
    /// The pool's database as clients name it.
    pub database: Arc<str>,
    /// The user it is logged in as.
    pub user: Arc<str>,
    /// Postgres' end.
    pub peer: Endpoint,
    /// Our end.
    pub local: Endpoint,
    /// The name or address it was connected to, as configured; set where that is not a Unix socket.
    pub host: OnceLock<Box<str>>,
    /// When the connection was made.
    pub connected_at: SystemTime,
    /// When the connection was made, on the rules' clock.
    pub connected: Moment,
    /// How to reach the backend with a CancelRequest; set once it has told its key.
    pub cancel_target: OnceLock<CancelTarget>,
    /// Prepared statements on this server.
    pub prepared_statements: AtomicU32,
    /// Version and cipher of its TLS, where there is some.
    pub tls: OnceLock<Box<str>>,
    /// Marked to be closed once it is free.
    pub close_needed: AtomicBool,
    /// Cancel requests under way against this server. Sequentially consistent, see `cancel`.
    pub cancels: AtomicU32,
    /// Is it being given its client's parameters? A request to cancel is for the client's queries, not for that.
    pub setting_parameters: AtomicBool,
    /// The server's application_name, as last known.
    pub application_name: Mutex<Arc<str>>,
    replication: AtomicU8,
    state: AtomicU8,
    link: AtomicU64,
    loans: AtomicU64,
    request_at: AtomicU64,
}

impl ServerCard {
    /// A card for a connection just made.
    pub fn new(
        id: u64,
        names: Names,
        peer: Endpoint,
        local: Endpoint,
        connected_at: SystemTime,
        now: Moment,
    ) -> ServerCard {
        ServerCard {
            id,
            database: names.database,
            user: names.user,
            peer,
            local,
            host: OnceLock::new(),
            connected_at,
            connected: now,
            cancel_target: OnceLock::new(),
            prepared_statements: AtomicU32::new(0),
            tls: OnceLock::new(),
            close_needed: AtomicBool::new(false),
            cancels: AtomicU32::new(0),
            setting_parameters: AtomicBool::new(false),
            application_name: Mutex::new(Arc::from("")),
            replication: AtomicU8::new(0),
            state: AtomicU8::new(ServerState::New as u8),
            link: AtomicU64::new(0),
            loans: AtomicU64::new(0),
            request_at: AtomicU64::new(now.0),
        }
    }

    /// What it was opened for.
    pub fn replication(&self) -> Replication {
        replication_of(&self.replication)
    }

    /// Notes what it is opened for.
    pub fn set_replication(&self, replication: Replication) {
        self.replication.store(replication as u8, Relaxed);
    }

    /// What the server is doing.
    pub fn state(&self) -> ServerState {
        SERVER_STATES[usize::from(self.state.load(Relaxed)) % SERVER_STATES.len()]
    }

    /// Says what the server is doing.
    pub fn set_state(&self, state: ServerState) {
        self.state.store(state as u8, Relaxed);
    }

    /// The id of the client that has it; 0 is none.
    pub fn link(&self) -> u64 {
        self.link.load(Relaxed)
    }

    /// How often it was lent: tells one loan from another to the same client.
    pub fn loans(&self) -> u64 {
        self.loans.load(Relaxed)
    }

    /// Counts a loan. Only by the one task that has the server, and before it is linked to the client.
    pub fn count_loan(&self) {
        self.loans.store(self.loans.load(Relaxed) + 1, Relaxed);
    }

    /// Says which client has it.
    pub fn set_link(&self, client_id: u64) {
        self.link.store(client_id, Relaxed);
    }

    /// When the last request began.
    pub fn request_at(&self) -> Moment {
        Moment(self.request_at.load(Relaxed))
    }

    /// Notes the begin of a request.
    pub fn set_request_at(&self, now: Moment) {
        self.request_at.store(now.0, Relaxed);
    }

    /// Process id of the backend; 0 before it has told.
    pub fn remote_pid(&self) -> i32 {
        self.cancel_target.get().map_or(0, |target| target.pid)
    }
}

/// Every live connection's card.
#[derive(Debug, Default)]
pub struct Roster {
    next_id: AtomicU64,
    logging_in: AtomicUsize,
    clients: Mutex<HashMap<u64, Arc<ClientCard>>>,
    servers: Mutex<HashMap<u64, Arc<ServerCard>>>,
}

impl Roster {
    /// A number no other connection of this process has; never 0.
    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Relaxed) + 1
    }

    /// Enters a client; it is struck off when the guard is dropped.
    pub fn enter_client(self: &Arc<Self>, card: ClientCard) -> EnteredClient {
        let card = Arc::new(card);
        lock(&self.clients).insert(card.id, card.clone());
        self.logging_in.fetch_add(1, Relaxed);
        EnteredClient { roster: self.clone(), card }
    }

    /// Enters a server; it is struck off when the guard is dropped.
    pub fn enter_server(self: &Arc<Self>, card: ServerCard) -> EnteredServer {
        let card = Arc::new(card);
        lock(&self.servers).insert(card.id, card.clone());
        EnteredServer { roster: self.clone(), card }
    }

    /// All clients, in order of id.
    pub fn clients(&self) -> Vec<Arc<ClientCard>> {
        let mut cards: Vec<_> = lock(&self.clients).values().cloned().collect();
        cards.sort_unstable_by_key(|card| card.id);
        cards
    }

    /// All servers, in order of id.
    pub fn servers(&self) -> Vec<Arc<ServerCard>> {
        let mut cards: Vec<_> = lock(&self.servers).values().cloned().collect();
        cards.sort_unstable_by_key(|card| card.id);
        cards
    }

    /// The client with this id.
    pub fn client(&self, id: u64) -> Option<Arc<ClientCard>> {
        lock(&self.clients).get(&id).cloned()
    }

    /// The server with this id.
    pub fn server(&self, id: u64) -> Option<Arc<ServerCard>> {
        lock(&self.servers).get(&id).cloned()
    }

    /// How many clients are such.
    pub fn count_clients(&self, such: impl Fn(&ClientCard) -> bool) -> usize {
        lock(&self.clients).values().filter(|card| such(card)).count()
    }

    /// No new connection gets a number up to this one: connections that were taken over have them.
    pub fn skip_ids(&self, last: u64) {
        self.next_id.fetch_max(last, Relaxed);
    }

    /// How many clients are logging in.
    pub fn logging_in(&self) -> usize {
        self.logging_in.load(Relaxed)
    }

    /// How many clients there are, those logging in and the console's included.
    pub fn client_count(&self) -> usize {
        lock(&self.clients).len()
    }

    /// How many servers there are.
    pub fn server_count(&self) -> usize {
        lock(&self.servers).len()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client's place in the roster, given up on drop.
#[derive(Debug)]
pub struct EnteredClient {
    roster: Arc<Roster>,
    card: Arc<ClientCard>,
}

impl EnteredClient {
    /// The card.
    pub fn card(&self) -> &Arc<ClientCard> {
        &self.card
    }

    /// The client has logged in. Once.
    pub fn logged_in(&self) {
        if !self.card.logged_in.swap(true, Relaxed) {
            self.card.set_state(ClientState::Active);
            self.roster.logging_in.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for EnteredClient {
    fn drop(&mut self) {
        self.logged_in();
        lock(&self.roster.clients).remove(&self.card.id);
    }
}

/// A server's place in the roster, given up on drop.
#[derive(Debug)]
pub struct EnteredServer {
    roster: Arc<Roster>,
    card: Arc<ServerCard>,
}

impl EnteredServer {
    /// The card.
    pub fn card(&self) -> &Arc<ServerCard> {
        &self.card
    }
}

impl Drop for EnteredServer {
    fn drop(&mut self) {
        lock(&self.roster.servers).remove(&self.card.id);
    }
}
