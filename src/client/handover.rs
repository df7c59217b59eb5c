//! A client as it is shown to a successor, and as it is taken from a predecessor, alone or with the server on loan to
//! it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, UNIX_EPOCH};

use rustix::net::sockopt::socket_peercred;
use tokio::sync::OnceCell;

use super::auth_query::{Asker, Question};
use super::farewell::{Codes, Farewell};
use super::relay::Relay;
use super::session::{Belongings, Client, Leaving};
use super::withdrawn::Dropping;
use super::{Shared, log_farewell, serve_session};
use crate::auth::{Credential, Proof, Secret, credential_from};
use crate::cancel::key::CancelKey;
use crate::net::buffers::Inbox;
use crate::net::stream::{Raw, Stream};
use crate::net::workers::Carried;
use crate::net::world;
use crate::pool::suspension::{Exhibit, Exhibits};
use crate::pool::{Denied, Lease, NoPool, Origin, Pool};
use crate::protocol::exchange::Exchange;
use crate::protocol::handover::state::{ClientState, PoolState, ServerState};
use crate::protocol::handover::{Row, Task};
use crate::protocol::outstanding::Undo;
use crate::protocol::parameters::ParameterSet;
use crate::protocol::statements::Statement;
use crate::server::{Inherited, Server, address};
use crate::stats::lines::Tag;
use crate::stats::moment::Moment;
use crate::stats::roster::{ClientCard, ClientState as Doing, Endpoint, Names, Order, ServerCard};
use crate::wire::frontend;
use crate::wire::startup::Replication;

/// What a relay knows of a client that has a server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Has anything gone to the server?
    pub(super) begun: bool,
    /// When the query under way began.
    pub(super) query_start: Option<Moment>,
    /// When the transaction began.
    pub(super) xact_start: Option<Moment>,
}

impl Client {
    /// Answers whoever asks for this client, if somebody does.
    pub(super) fn show_if_asked(&self, server: Option<(&Server, Progress)>) {
        let suspension = self.shared.registry.suspension();
        if let Some(tell) = suspension.asked(self.card()) {
            if self.card().replication() != Replication::Off {
                // Its server belongs to no pool, and its stream cannot wait for a successor to learn that.
                return;
            }
            let encrypted =
                self.stream.tls().is_some() || server.is_some_and(|(server, _)| server.stream.tls().is_some());
            if encrypted {
                // Its keys cannot be handed over.
                return;
            }
            // Who has asked may have gone.
            let _ = tell.send(self.exhibits(server));
        }
    }

    fn exhibits(&self, server: Option<(&Server, Progress)>) -> Exhibits {
        let now = world::now();
        let fd = |stream: &Stream| stream.descriptor().map_or(0, |socket| socket.as_raw_fd());
        let progress = server.map_or(Progress::default(), |(_, progress)| progress);
        let mut client = self.row(progress, now);
        client.fd = fd(&self.stream);
        client.link = server.map_or(0, |(server, _)| fd(&server.stream));
        let shown_server = server.map(|(server, _)| {
            let (mut row, state) = server.row(now);
            row.link = client.fd;
            row.state = Some(state.to_text());
            let socket = server.second_socket().ok().flatten();
            let statements = server.statements.iter().collect();
            Exhibit { id: server.card().id, row: self.pool.with_secrets(row), socket, statements }
        });
        let socket = self.stream.descriptor().and_then(|socket| socket.try_clone_to_owned().ok());
        let statements = self.statements.iter().map(|(_, statement)| statement.clone()).collect();
        let client = Exhibit { id: self.card().id, row: self.pool.with_secrets(client), socket, statements };
        Exhibits { client, server: shown_server }
    }

    fn row(&self, progress: Progress, now: Moment) -> Row {
        let card = self.card();
        let (database, user) = card.names();
        let mut row =
            Row { user: Some(user.to_string()), database: Some(database.to_string()), ..Row::new(Task::Client) };
        (row.addr, row.port) = address(&card.peer);
        row.cancel = self.cancel_key().to_number();
        row.note_parameters(|name| self.wish.get(name));
        let age = |at: Option<Moment>| at.map(|at| now.micros_since(at));
        let since_1970 = card.connected_at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let state = ClientState {
            id: card.id,
            connected_at: u64::try_from(since_1970.as_micros()).unwrap_or(0),
            age: now.micros_since(card.connected),
            request_age: now.micros_since(card.request_at()),
            xact_age: age(progress.xact_start),
            idle_in_xact_age: age(card.idle_in_xact_at()),
            rest_age: age(card.rest_at()),
            begun: progress.begun,
            drops_batch: self.dropping == Dropping::Batch,
            query_age: age(progress.query_start),
            application_name: card.application_name.lock().unwrap_or_else(PoisonError::into_inner).to_string(),
            parameters: self.wish.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            statements: self.statements.iter().map(|(name, statement)| (name.to_vec(), statement.id())).collect(),
        };
        row.state = Some(state.to_text());
        row
    }
}

/// A connection that a predecessor had.
#[derive(Debug)]
pub struct Taken {
    /// What it said of it.
    pub row: Row,
    /// Its socket.
    pub socket: OwnedFd,
}

/// Statements that servers and clients of a predecessor hold, by number.
pub type Statements = Arc<HashMap<u64, Arc<Statement>>>;

/// Users whom PgBouncer had from auth_query: it hands their clients over, and says nothing of what they could prove.
/// The first of a user's clients asks anew, the others wait for the answer.
#[derive(Clone, Debug, Default)]
pub struct Inquiries(Arc<Mutex<HashMap<[Arc<str>; 2], Inquiry>>>);

/// Done once the pool has what the answer can prove.
type Inquiry = Arc<OnceCell<()>>;

impl Inquiries {
    /// The one about this user of this database.
    fn about(&self, database: &Arc<str>, user: &Arc<str>) -> Inquiry {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry([database.clone(), user.clone()]).or_default().clone()
    }
}

/// Goes on with a pool that a predecessor had, its welcome and what it could prove. A database that is not configured
/// any more has none.
pub fn inherit_pool(shared: &Shared, row: &Row) {
    let Some(state) = row.state.as_deref().and_then(PoolState::parse) else { return };
    let (Some(database), Some(user)) = (&row.database, &row.user) else { return };
    let credential = Credential::from_parts(&state.credential).unwrap_or(Credential::None);
    // What the auth_file says now counts, but for keys, of which it only has the proof.
    let credential = match credential_of(shared, database, user, row) {
        Some(stored) => stored.or_held(&credential),
        None => credential,
    };
    let Ok(pool) = shared.registry.pool(database, user, &credential) else { return };
    if let Some(welcome) = state.welcome {
        pool.adopt_welcome(parameter_set(&welcome));
    }
}

/// Puts an idle server of a predecessor on its pool's shelf. One of PgBouncer's is closed: nobody knows which
/// statements it holds and what else it was told.
pub fn inherit_idle_server(shared: &Arc<Shared>, server: Taken, statements: &Statements) {
    let (shared, statements) = (shared.clone(), statements.clone());
    let handle = shared.workers.handle(0).clone();
    handle.spawn(async move {
        let Ok(mut stream) = Raw::from_descriptor(server.socket).and_then(Stream::adopt) else { return };
        let state = server.row.state.as_deref().and_then(ServerState::parse);
        let known = state.filter(|state| state.exchange.is_null());
        let pool = pool_of(&shared, &server.row);
        let (Some(state), Some(pool)) = (known, pool) else {
            let mut goodbye = Vec::new();
            frontend::terminate(&mut goodbye);
            return stream.send_parting(&goodbye);
        };
        let server =
            inherit_server(&shared, &pool, &server.row, Some(&state), stream, &statements, Exchange::default());
        pool.adopt_idle(server, &state, Inherited::ago(state.rest_age), world::now());
    });
}

/// Goes on with a client of a predecessor, and the server on loan to it.
pub fn inherit_client(
    shared: &Arc<Shared>,
    client: Taken,
    server: Option<Taken>,
    statements: &Statements,
    inquiries: &Inquiries,
) {
    let carried = shared.workers.carry();
    let handle = carried.handle().clone();
    let (shared, statements, inquiries) = (shared.clone(), statements.clone(), inquiries.clone());
    handle.spawn(async move {
        let Ok(mut stream) = Raw::from_descriptor(client.socket).and_then(Stream::adopt) else { return };
        let state = client.row.state.as_deref().and_then(ClientState::parse);
        let Ok(entered) = enter(&shared, &client.row, state.as_ref(), &stream, &carried) else { return };
        let card = entered.card().clone();
        match admit(&shared, &card, &client.row) {
            Ok((pool, belongings)) => {
                let wish = shared.interner.share(wish_of(&client.row, state.as_ref()));
                let mut session = Box::new(Client::new(
                    shared.clone(),
                    entered,
                    stream,
                    Inbox::default(),
                    pool.clone(),
                    wish,
                    belongings,
                ));
                if let Some(state) = &state {
                    session.inherit_statements(state, &statements);
                    if state.drops_batch {
                        session.dropping = Dropping::Batch;
                    }
                }
                if let Some(lease) = server.and_then(|server| lease(&shared, &pool, server, &session, &statements)) {
                    // It goes on at once: a transaction that has its server needs no password.
                    let served = session.serve_linked(lease, state.as_ref()).await;
                    if !served {
                        return;
                    }
                }
                session.inquire(&client.row, &inquiries).await;
                tokio::spawn(serve_session(session, carried));
            }
            Err(farewell) => {
                let codes = Codes::of(&shared.registry.config().settings);
                stream.send_parting(&farewell.message(codes).unwrap_or_default());
                log_farewell(&shared, &card, &farewell).await;
            }
        }
    });
}

fn enter(
    shared: &Shared,
    row: &Row,
    state: Option<&ClientState>,
    stream: &Stream,
    carried: &Carried,
) -> io::Result<crate::stats::roster::EnteredClient> {
    let (peer, local) = ends(stream, row)?;
    let id = state.map_or_else(|| shared.roster.next_id(), |state| state.id);
    let connected_at =
        state.map_or_else(world::wall_clock, |state| UNIX_EPOCH + Duration::from_micros(state.connected_at));
    let connected = state.map_or_else(world::now, |state| Inherited::ago(state.age));
    let card = ClientCard::new(id, peer, local, connected_at, connected);
    card.set_worker(carried.worker());
    let name = |name: &Option<String>| Arc::from(name.as_deref().unwrap_or_default());
    let _ = card.names.set(Names { database: name(&row.database), user: name(&row.user) });
    if let Some(state) = state {
        let ago = |age: Option<u64>| age.map(Inherited::ago);
        card.set_request_at(Inherited::ago(state.request_age));
        card.set_xact_at(ago(state.xact_age));
        card.set_idle_in_xact_at(ago(state.idle_in_xact_age));
        card.set_rest_at(ago(state.rest_age));
        *card.application_name.lock().unwrap_or_else(PoisonError::into_inner) = Arc::from(&*state.application_name);
    }
    Ok(shared.roster.enter_client(card))
}

/// Both ends of a connected socket, asked of the socket itself.
fn ends(stream: &Stream, row: &Row) -> io::Result<(Endpoint, Endpoint)> {
    let Some(socket) = stream.descriptor() else { return Err(io::ErrorKind::NotConnected.into()) };
    if let Stream::Tcp(socket) = stream {
        return Ok((Endpoint::Tcp(socket.peer_addr()?), Endpoint::Tcp(socket.local_addr()?)));
    }
    let port = u16::try_from(row.port).unwrap_or(0);
    let who = socket_peercred(socket).ok();
    let pid = who.as_ref().map(|who| who.pid.as_raw_pid());
    let uid = who.as_ref().map(|who| who.uid.as_raw());
    Ok((Endpoint::Unix { port, pid, uid }, Endpoint::Unix { port, pid: None, uid: None }))
}

/// Everything that a login gives a client, but for the dialogue. max_client_conn does not count: it is in already.
fn admit(shared: &Arc<Shared>, card: &Arc<ClientCard>, row: &Row) -> Result<(Arc<Pool>, Belongings), Farewell> {
    let (database, user) = card.names();
    let seat = shared.seats.take(u32::MAX).ok_or(Farewell::Limit("max_client_conn"))?;
    let admission = shared.registry.admit(&database, &user).map_err(|denied| {
        Farewell::Limit(match denied {
            Denied::MaxDbClientConnections => "max_db_client_connections",
            Denied::MaxUserClientConnections => "max_user_client_connections",
        })
    })?;
    let pool = pool_for(shared, &database, &user, row).map_err(|no| match no {
        NoPool::Disabled => Farewell::DatabaseDisabled(database.to_string()),
        _ => Farewell::NoSuchDatabase(database.to_string()),
    })?;
    let _ = card.pool.set(Names { database: pool.database().clone(), user: pool.user().clone() });
    let member = pool.join();
    let key = CancelKey::from_number(row.cancel);
    let cancel = shared.cancels.enter(card, || Ok(key)).map_err(|_| Farewell::Internal("no cancel key"))?;
    Ok((pool, Belongings { member, admission, cancel, seat }))
}

fn pool_for(shared: &Shared, database: &str, user: &str, row: &Row) -> Result<Arc<Pool>, NoPool> {
    match credential_of(shared, database, user, row) {
        Some(credential) => shared.registry.pool(database, user, &credential),
        None => shared.registry.pool_as_it_is(database, user),
    }
}

/// What the auth_file and a predecessor together can prove in this user's name. `None` for a user whom auth_query found
/// for the predecessor, which says no more of it here: PgBouncer 1.25, whose SHOW FDS leaves out the passwords of all
/// users that it has ever seen (`show_one_fd`).
fn credential_of(shared: &Shared, database: &str, user: &str, row: &Row) -> Option<Credential> {
    let config = shared.registry.config();
    let secret = match config.secrets.find(user) {
        Some(secret) => Secret::parse(secret),
        None if Question::for_clients_of(database, &config).is_none() => return Some(Credential::None),
        None => Secret::parse(row.password.as_deref().filter(|password| !password.is_empty())?),
    };
    Some(credential_with(&secret, row))
}

/// What a stored secret and the keys that a predecessor got from a client can prove.
fn credential_with(secret: &Secret, row: &Row) -> Credential {
    let keys = row.scram_client_key.as_deref().zip(row.scram_server_key.as_deref());
    let keys = keys.and_then(|(client_key, server_key)| Credential::from_keys(secret, client_key, server_key));
    keys.unwrap_or_else(|| credential_from(secret, &Proof::Nothing))
}

fn wish_of(row: &Row, state: Option<&ClientState>) -> ParameterSet {
    match state {
        Some(state) => parameter_set(&state.parameters),
        None => row.parameters().into_iter().collect(),
    }
}

fn parameter_set(parameters: &[(String, String)]) -> ParameterSet {
    parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn pool_of(shared: &Shared, row: &Row) -> Option<Arc<Pool>> {
    let (database, user) = (row.database.as_deref()?, row.user.as_deref()?);
    let pool = pool_for(shared, database, user, row).ok()?;
    // A forced user may be another by now.
    (**pool.user() == *user).then_some(pool)
}

/// The client's server as its lease. `None` where that cannot be: the client goes on without it, as after a crash.
fn lease(
    shared: &Arc<Shared>,
    pool: &Arc<Pool>,
    server: Taken,
    client: &Client,
    statements: &Statements,
) -> Option<Lease> {
    let stream = Raw::from_descriptor(server.socket).and_then(Stream::adopt).ok()?;
    let state = server.row.state.as_deref().and_then(ServerState::parse);
    let exchange = state.as_ref().and_then(|state| match state.exchange.is_null() {
        true => Some(Exchange::default()),
        false => Exchange::from_json(&state.exchange, |id| statements.get(&id).cloned()),
    });
    let origin = if exchange.is_some() { Origin::Known } else { Origin::Foreign };
    let exchange = exchange.unwrap_or_else(Exchange::foreign);
    let server = inherit_server(shared, pool, &server.row, state.as_ref(), stream, statements, exchange);
    Some(pool.adopt_lent(server, client.waiter(), origin))
}

fn inherit_server(
    shared: &Shared,
    pool: &Pool,
    row: &Row,
    state: Option<&ServerState>,
    stream: Stream,
    statements: &Statements,
    exchange: Exchange,
) -> Box<Server> {
    let unknown = Endpoint::Unix { port: u16::try_from(row.port).unwrap_or(0), pid: None, uid: None };
    let (peer, local) = ends(&stream, row).unwrap_or((unknown.clone(), unknown));
    let id = state.map_or_else(|| shared.roster.next_id(), |state| state.id);
    let connected_at =
        state.map_or_else(world::wall_clock, |state| UNIX_EPOCH + Duration::from_micros(state.connected_at));
    let connected = state.map_or_else(world::now, |state| Inherited::ago(state.age));
    let names = Names { database: pool.database().clone(), user: pool.user().clone() };
    let target = Inherited::cancel_target(row, state, &peer);
    let card = ServerCard::new(id, names, peer, local, connected_at, connected);
    if let Some(target) = target {
        let _ = card.cancel_target.set(target);
    }
    let mut parameters: ParameterSet = row.parameters().into_iter().collect();
    let (mut held, mut suspects) = (Vec::new(), Vec::new());
    if let Some(state) = state {
        parameters = parameter_set(&state.parameters);
        held = state.statements.iter().filter_map(|id| statements.get(id).cloned()).collect();
        suspects.clone_from(&state.suspects);
        card.close_needed.store(state.close_needed, std::sync::atomic::Ordering::Relaxed);
        *card.application_name.lock().unwrap_or_else(PoisonError::into_inner) = Arc::from(&*state.application_name);
    }
    let parameters = shared.interner.share(parameters);
    let entered = shared.roster.enter_server(card);
    Server::inherit(Inherited { entered, stream, parameters, statements: held, suspects, exchange })
}

impl Client {
    fn inherit_statements(&mut self, state: &ClientState, statements: &Statements) {
        for (name, id) in &state.statements {
            if let Some(statement) = statements.get(id) {
                // It had them in its predecessor, so they fit here.
                let _ = self.statements.insert(name, statement.clone(), 0);
            }
        }
        self.note_statement_count();
    }

    /// Serves a client that comes with a server, until it gives that back. Says whether it stays.
    async fn serve_linked(&mut self, lease: Lease, state: Option<&ClientState>) -> bool {
        let ago = |age: Option<u64>| age.map(Inherited::ago);
        let progress = Progress {
            begun: state.is_none_or(|state| state.begun),
            query_start: ago(state.and_then(|state| state.query_age)),
            xact_start: ago(state.and_then(|state| state.xact_age)),
        };
        match self.go_on(lease, progress).await {
            Ok(()) => return true,
            Err(Leaving::For(farewell)) => {
                self.say_farewell(&farewell);
                log_farewell(&self.shared, self.card(), &farewell).await;
            }
            Err(Leaving::ToWorker(_)) => {}
        }
        false
    }

    /// Finds out by auth_query, as at a login, what can be proved to servers in this client's name, where its
    /// predecessor did not say. Ends early where the client is to leave.
    async fn inquire(&mut self, row: &Row, inquiries: &Inquiries) {
        let (shared, card, config) = (self.shared.clone(), self.card().clone(), self.shared.registry.config());
        let (database, user) = card.names();
        let forced = config.database(&database).is_some_and(|found| found.user.is_some());
        let Some(question) = Question::for_clients_of(&database, &config) else { return };
        if forced || credential_of(&shared, &database, &user, row).is_some() {
            return;
        }
        let inquiry = inquiries.about(&database, &user);
        let ask = async || {
            let (stream, inbox) = (&mut self.stream, &mut self.inbox);
            let mut asker = Asker { shared: &shared, config: &config, card: &card, stream, inbox };
            match asker.ask(&question, &database, &user).await {
                Ok(Some((_, secret))) => drop(shared.registry.pool(&database, &user, &credential_with(&secret, row))),
                Ok(None) => tracing::warn!(conn = ?Tag::client(&card), "auth_query does not know the user any more"),
                // The next one asks.
                Err(Farewell::ClientGone) => return Err(()),
                // The log has the reason. Who logs in asks again.
                Err(_) => {}
            }
            Ok(())
        };
        let mut asking = std::pin::pin!(inquiry.get_or_try_init(ask));
        std::future::poll_fn(|cx| {
            card.set_waker(cx.waker());
            match card.order() {
                Order::None | Order::Heed => asking.as_mut().poll(cx).map(|_| ()),
                // The session obeys it.
                _ => Poll::Ready(()),
            }
        })
        .await;
        card.set_state(Doing::Active);
    }

    /// Relays on with the server that it had in a predecessor, to the end of that loan.
    async fn go_on(&mut self, mut lease: Lease, progress: Progress) -> Result<(), Leaving> {
        self.begin().await;
        self.card().set_rest_at(None);
        for due in lease.exchange.owed() {
            if let Some(Undo::Parsed { name: Some(name), .. }) = due.undo.as_deref() {
                self.statements.renumber(name, due.number);
            }
        }
        let mut relay = Relay::inherited(self, &mut lease, progress);
        let ended = relay.run().await;
        let left = relay.left_at();
        self.part(lease, ended, left).map_err(Leaving::For)
    }
}
