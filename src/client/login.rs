//! From an accepted socket to a logged-in client: who are you, which pool, welcome.
//!
//! ```text
//!   hello ─► limits ─► handshake ─► database ─► pool ─► (first server, if the pool never had one) ─► greeting
//! ```
//!
//! A user or database that does not exist is found out only after the same dialogue as everybody else's, so that nobody
//! learns from outside which names there are. The janitor leaves an order on the card of a login that takes too long.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::task::Poll;

use super::console::ConsoleClient;
use super::farewell::Farewell;
use super::hello::{Hello, hello};
use super::session::{Belongings, Client};
use super::{Seat, Shared};
use crate::admin::{self, Rights};
use crate::auth::{Credential, Denial, Handshake, Input, Method, Proof, Secret, Step, credential_from};
use crate::cancel::forward::{Outcome, forward};
use crate::cancel::key::CancelKey;
use crate::config::{AuthType, Config, Database};
use crate::net::buffers::Inbox;
use crate::net::sockopt::TcpOptions;
use crate::net::stream::Stream;
use crate::net::{workers, world};
use crate::pool::{Ask, Denied, NoPool, Pool, Ticket, Waiter};
use crate::protocol::parameters::{ParameterSet, classify_startup};
use crate::stats::counters::bump;
use crate::stats::lines;
use crate::stats::roster::{ClientCard, Endpoint, EnteredClient, Names, Order};
use crate::wire::error::{self, sqlstate};
use crate::wire::framing::Header;
use crate::wire::startup::{Replication, StartupMessage, negotiate_protocol_version};
use crate::wire::{Frontend, backend};

/// The longest password message: a password has at most 65,530 bytes, a SCRAM message far less.
const PASSWORD_MESSAGE_MAX: usize = 65_536 + 64;

/// What came of a connection.
pub(super) enum LoggedIn {
    /// A client of a pool.
    Client(Box<Client>),
    /// A client of the console.
    Console(Box<ConsoleClient>),
    /// It was refused, or left.
    Nobody(Farewell),
    /// It was a cancel request.
    Canceler,
}

/// One connection on its way in.
struct Arrival {
    shared: Arc<Shared>,
    config: Arc<Config>,
    entered: EnteredClient,
    stream: Stream,
    inbox: Inbox,
    /// What leaves with the next send: each send of a login wakes the client once.
    unsent: Vec<u8>,
}

/// Lets a connection in, or says why not.
pub(super) async fn log_in(shared: Arc<Shared>, entered: EnteredClient, stream: Stream) -> LoggedIn {
    let config = shared.registry.config();
    let mut arrival = Arrival { shared, config, entered, stream, inbox: Inbox::default(), unsent: Vec::new() };
    let card = arrival.entered.card().clone();
    let outcome = {
        let mut steps = std::pin::pin!(arrival.steps());
        std::future::poll_fn(|cx| {
            card.set_waker(cx.waker());
            match card.order() {
                Order::None => steps.as_mut().poll(cx),
                order => Poll::Ready(Err(Farewell::ordered(order))),
            }
        })
        .await
    };
    match outcome {
        Ok(Way::Canceled) => LoggedIn::Canceler,
        Ok(Way::Client(ready)) => {
            let Arrival { shared, entered, stream, inbox, .. } = arrival;
            let Ready { pool, wish, belongings } = *ready;
            LoggedIn::Client(Box::new(Client::new(shared, entered, stream, inbox, pool, wish, belongings)))
        }
        Ok(Way::Console(rights)) => {
            let Arrival { shared, entered, stream, inbox, unsent, .. } = arrival;
            LoggedIn::Console(Box::new(ConsoleClient::new(&shared, entered, stream, inbox, unsent, rights)))
        }
        Err(farewell) => {
            if let Some(message) = farewell.message() {
                arrival.unsent.extend_from_slice(&message);
                arrival.stream.send_parting(&arrival.unsent);
            }
            arrival.log_failure(&farewell);
            LoggedIn::Nobody(farewell)
        }
    }
}

/// Where a connection may go.
enum Way {
    Client(Box<Ready>),
    Console(Rights),
    Canceled,
}

/// What a client needs beside its socket.
struct Ready {
    pool: Arc<Pool>,
    wish: ParameterSet,
    belongings: Belongings,
}

impl Arrival {
    async fn steps(&mut self) -> Result<Way, Farewell> {
        match hello(&mut self.stream, &mut self.inbox).await? {
            Hello::Cancel { pid, secret } => {
                self.cancel(pid, &secret).await;
                Ok(Way::Canceled)
            }
            Hello::Startup(message) => self.startup(message).await,
        }
    }

    async fn startup(&mut self, message: StartupMessage) -> Result<Way, Farewell> {
        let names = Names { database: Arc::from(&*message.database), user: Arc::from(&*message.user) };
        let _ = self.entered.card().names.set(names);
        self.log_attempt(&message);
        if message.needs_negotiation() {
            negotiate_protocol_version(&mut self.unsent, &message.protocol_options);
        }
        if message.database == admin::DATABASE {
            return self.console(&message).await.map(Way::Console);
        }
        if self.shared.console.process.shutting_down() {
            return Err(Farewell::ShuttingDown);
        }
        if message.replication != Replication::Off {
            return Err(Farewell::Replication);
        }
        let settings = &self.config.settings;
        let seat = self.shared.seats.take(settings.max_client_conn).ok_or(Farewell::Limit("max_client_conn"))?;
        let wishes = classify_startup(&message, &self.shared.tracked, &settings.ignore_startup_parameters)
            .map_err(Farewell::Startup)?;
        let credential = self.authenticate(&message).await?;
        self.enter_pool(&message, wishes, credential, seat).await.map(|ready| Way::Client(Box::new(ready)))
    }

    /// The entry of [databases] that the client asks for, or the fallback.
    fn database(&self, name: &str) -> Option<&Database> {
        self.config.databases.get(name).or_else(|| self.config.databases.get("*"))
    }

    /// Runs the dialogue; what can be proved to servers in this user's name is its result.
    async fn authenticate(&mut self, message: &StartupMessage) -> Result<Credential, Farewell> {
        let method = method_of(self.config.settings.auth_type);
        if method == Method::Any {
            let database = self.database(&message.database);
            if database.is_some_and(|database| database.user.is_none()) {
                return Err(Farewell::NoForcedUser);
            }
        }
        let secret = self.config.secrets.find(&message.user).map(Secret::parse);
        let proof = self.handshake(method, &message.user, secret.clone()).await?;
        Ok(secret.map_or(Credential::None, |secret| credential_from(&secret, &proof)))
    }

    async fn handshake(&mut self, method: Method, user: &str, secret: Option<Secret>) -> Result<Proof, Farewell> {
        let mut nonce = [0; 32];
        world::fill_random(&mut nonce).map_err(|_| Farewell::Internal("no random numbers"))?;
        let mut handshake = Handshake::new(method, user, secret, nonce, &self.shared.keys);
        let mut step = handshake.step(Input::Begin);
        loop {
            step = match step {
                Step::Send(bytes) => {
                    self.send(&bytes).await?;
                    let len = self.password_message().await?;
                    let next = handshake.step(Input::Message(&self.inbox.fresh()[5..len]));
                    self.inbox.skip(len);
                    next
                }
                Step::Derive(derivation) => {
                    let keys = tokio::task::spawn_blocking(move || derivation.run())
                        .await
                        .map_err(|_| Farewell::Internal("key derivation was given up"))?;
                    handshake.step(Input::Derived(keys))
                }
                Step::Accept { last, proof } => {
                    self.unsent.extend_from_slice(&last);
                    return Ok(proof);
                }
                Step::Deny(denial) => return Err(Farewell::Denied(denial)),
            };
        }
    }

    /// Waits until a password message is whole in the inbox; its length.
    async fn password_message(&mut self) -> Result<usize, Farewell> {
        loop {
            let header = Header::parse(self.inbox.fresh(), PASSWORD_MESSAGE_MAX)
                .map_err(|broken| Farewell::BadPacket(broken.to_string()))?;
            if let Some(header) = header {
                match Frontend::from_byte(header.tag) {
                    Some(Frontend::Password) => {}
                    Some(Frontend::Terminate) => return Err(Farewell::Terminated),
                    _ => return Err(Farewell::BadPacket(format!("unknown pkt: '{}'", header.tag.escape_ascii()))),
                }
                if self.inbox.fresh().len() >= header.len {
                    return Ok(header.len);
                }
            }
            match self.stream.fill(&mut self.inbox).await {
                Ok(0) | Err(_) => return Err(Farewell::ClientGone),
                Ok(_) => {}
            }
        }
    }

    async fn enter_pool(
        &mut self,
        message: &StartupMessage,
        wishes: Vec<(String, String)>,
        credential: Credential,
        seat: Seat,
    ) -> Result<Ready, Farewell> {
        let registry = self.shared.registry.clone();
        let admission = registry.admit(&message.database, &message.user).map_err(|denied| {
            Farewell::Limit(match denied {
                Denied::MaxDbClientConnections => "max_db_client_connections",
                Denied::MaxUserClientConnections => "max_user_client_connections",
            })
        })?;
        let pool = registry.pool(&message.database, &message.user, &credential).map_err(|no| match no {
            NoPool::NoSuchDatabase => Farewell::NoSuchDatabase(message.database.clone()),
            NoPool::Disabled => Farewell::DatabaseDisabled(message.database.clone()),
            _ => Farewell::Internal("bouncer resources exhaustion"),
        })?;
        let names = Names { database: pool.database().clone(), user: pool.user().clone() };
        let _ = self.entered.card().pool.set(names);
        let member = pool.join();
        let welcome = self.welcome(&pool).await?;
        let mut wish = welcome.with_wishes(&wishes);
        if self.config.settings.application_name_add_host {
            let name = wishes.iter().find(|(name, _)| name == "application_name").map_or("app", |(_, value)| value);
            let address = lines::Address(&self.entered.card().peer);
            wish = wish.with("application_name", &format!("{name} - {address}"));
        }
        let wish = self.shared.interner.share(wish);
        if let Some(name) = wish.get("application_name") {
            let mut known = self.entered.card().application_name.lock().unwrap_or_else(PoisonError::into_inner);
            *known = Arc::from(name);
        }
        let peer_id = u16::try_from(self.config.settings.peer_id).unwrap_or(0);
        let entry = self
            .shared
            .cancels
            .enter(self.entered.card(), || {
                let mut random = [0; 8];
                world::fill_random(&mut random)?;
                Ok(CancelKey::new(random, peer_id))
            })
            .map_err(|_| Farewell::Internal("no cancel key"))?;
        self.greet(&welcome, &wish, entry.key()).await?;
        bump(&pool.counters().shard(workers::current()).client_login_count, 1);
        let belongings = Belongings { member, admission, cancel: entry, seat };
        Ok(Ready { pool, wish, belongings })
    }

    /// What the pool's servers report when they are new. A pool that never had a server has to get one first: then the
    /// client stands in line like any other.
    async fn welcome(&mut self, pool: &Arc<Pool>) -> Result<Arc<ParameterSet>, Farewell> {
        if let Some(welcome) = pool.welcome() {
            return Ok(welcome);
        }
        let waiter = Waiter::new(self.entered.card().clone(), pool.clone());
        match pool.ask(&waiter, workers::current(), world::now()) {
            Ask::Granted(lease) => lease.release_untouched(workers::current(), world::now()),
            Ask::Refused(refusal) => return Err(Farewell::Refused(refusal)),
            Ask::Waiting(mut ticket) => {
                let stream = &mut self.stream;
                let inbox = &mut self.inbox;
                std::future::poll_fn(|cx| poll_welcome(&mut ticket, stream, inbox, pool, cx)).await?;
            }
        }
        pool.welcome().ok_or(Farewell::ServerCrashed(None))
    }

    async fn greet(&mut self, welcome: &ParameterSet, wish: &ParameterSet, key: &CancelKey) -> Result<(), Farewell> {
        let mut out = Vec::with_capacity(512);
        backend::authentication_ok(&mut out);
        for (name, value) in welcome.iter() {
            backend::parameter_status(&mut out, name, wish.get(name).unwrap_or(value));
        }
        backend::backend_key_data(&mut out, key.pid(), key.secret());
        if let Some(notice) = &self.config.settings.login_notify_message {
            error::notice_response(&mut out, error::NOTICE, sqlstate::SUCCESSFUL_COMPLETION, notice, None, None);
        }
        backend::ready_for_query(&mut out, b'I');
        self.send(&out).await
    }

    /// The console: by peer identity on a Unix socket, by name with auth_type=any, else with a password like anybody.
    async fn console(&mut self, message: &StartupMessage) -> Result<Rights, Farewell> {
        let settings = &self.config.settings;
        let user = &message.user;
        self.entered.card().console.store(true, Relaxed);
        let rights = Rights::of(user, settings.auth_type, &settings.admin_users, &settings.stats_users);
        if user == admin::DATABASE && self.is_own_user() {
            tracing::info!(conn = ?lines::Tag::client(self.entered.card()), "pgbouncer access from unix socket");
            return Ok(Rights::Admin);
        }
        let method = method_of(settings.auth_type);
        if method != Method::Any {
            let secret = self.config.secrets.find(user).map(Secret::parse);
            self.handshake(method, user, secret).await?;
        }
        rights.ok_or(Farewell::NotAllowed)
    }

    /// Is this a Unix socket whose other end runs as the user we run as?
    fn is_own_user(&self) -> bool {
        match self.entered.card().peer {
            Endpoint::Unix { uid: Some(uid), .. } => uid == rustix::process::getuid().as_raw(),
            _ => false,
        }
    }

    async fn cancel(&mut self, pid: i32, secret: &[u8]) {
        let tag = lines::Tag::client(self.entered.card());
        let Some(client) = CancelKey::from_request(pid, secret).and_then(|key| self.shared.cancels.find(&key)) else {
            tracing::debug!(conn = ?tag, "cancel request with an unknown key");
            return;
        };
        let settings = &self.config.settings;
        let tcp = TcpOptions::from_settings(settings);
        let pool = self.pool_of(&client);
        let settled = |_| {
            if let Some(pool) = &pool {
                pool.cancel_settled();
            }
        };
        let _counted = pool.as_ref().map(|pool| CountedCancel::new(pool.clone()));
        match forward(&client, &self.shared.roster, &tcp, settings.cancel_wait_timeout, settled).await {
            Outcome::Told => tracing::debug!(conn = ?lines::Tag::client(&client), "cancel request forwarded"),
            Outcome::NothingRuns => tracing::debug!(conn = ?lines::Tag::client(&client), "nothing to cancel"),
            Outcome::Failed(error) => {
                tracing::warn!(conn = ?lines::Tag::client(&client), "cancel request failed: {error}");
            }
        }
    }

    /// The pool a client is a member of.
    fn pool_of(&self, client: &ClientCard) -> Option<Arc<Pool>> {
        let names = client.pool.get()?;
        let pools = self.shared.registry.pools();
        pools.into_iter().find(|pool| *pool.database() == names.database && *pool.user() == names.user)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Farewell> {
        self.unsent.extend_from_slice(bytes);
        let unsent = std::mem::take(&mut self.unsent);
        self.stream.send_all(&unsent).await.map_err(|_| Farewell::ClientGone)
    }

    fn log_attempt(&self, message: &StartupMessage) {
        if self.config.settings.log_connections {
            let replication = match message.replication {
                Replication::Off => lines::Replication::No,
                Replication::Physical => lines::Replication::Physical,
                Replication::Logical => lines::Replication::Logical,
            };
            let line = lines::login_attempt(&message.database, &message.user, None, replication);
            tracing::info!(conn = ?lines::Tag::client(self.entered.card()), "{line}");
        }
    }

    fn log_failure(&self, farewell: &Farewell) {
        let refused = matches!(farewell, Farewell::Denied(_) | Farewell::NotAllowed | Farewell::NoSuchDatabase(_));
        if refused && self.config.settings.log_connections {
            let (database, user) = self.entered.card().names();
            let tag = lines::Tag::client(self.entered.card());
            tracing::info!(conn = ?tag, "{}", lines::login_failed(&database, &user));
            if let Farewell::Denied(Denial { why, kind }) = farewell {
                tracing::debug!(conn = ?tag, ?kind, "login denied: {why}");
            }
        }
    }
}

fn poll_welcome(
    ticket: &mut Ticket,
    stream: &mut Stream,
    inbox: &mut Inbox,
    pool: &Pool,
    cx: &mut std::task::Context<'_>,
) -> Poll<Result<(), Farewell>> {
    match ticket.poll() {
        Some(Ok(lease)) => {
            lease.release_untouched(workers::current(), world::now());
            return Poll::Ready(Ok(()));
        }
        Some(Err(refusal)) => return Poll::Ready(Err(Farewell::Refused(refusal))),
        None => {}
    }
    if pool.welcome().is_some() {
        return Poll::Ready(Ok(()));
    }
    stream.poll_gone(cx, inbox).map(|()| Err(Farewell::ClientGone))
}

/// One cancel request under way, for SHOW POOLS.
struct CountedCancel {
    pool: Arc<Pool>,
}

impl CountedCancel {
    fn new(pool: Arc<Pool>) -> CountedCancel {
        pool.cancel_requests().active.fetch_add(1, Relaxed);
        CountedCancel { pool }
    }
}

impl Drop for CountedCancel {
    fn drop(&mut self) {
        self.pool.cancel_requests().active.fetch_sub(1, Relaxed);
    }
}

/// The dialogue for an auth_type. The configuration refuses the types that have none yet.
fn method_of(auth_type: AuthType) -> Method {
    match auth_type {
        AuthType::Any => Method::Any,
        AuthType::Trust => Method::Trust,
        AuthType::Plain => Method::Plain,
        AuthType::Md5 => Method::Md5,
        _ => Method::Scram,
    }
}
