//! From an accepted socket to a logged-in client: who are you, which pool, welcome.
//!
//! ```text
//!   hello ─► limits ─► handshake ─► database ─► pool ─► (a server, where nothing is known of one) ─► greeting
//!                                                  └──► (replication: a server of its own) ───────┘
//! ```
//!
//! A user or database that does not exist is found out only after the same dialogue as everybody else's, so that nobody
//! learns from outside which names there are. The janitor leaves an order on the card of a login that takes too long.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::task::Poll;

use zeroize::Zeroizing;

use super::auth_query::{Asker, Question};
use super::canceler::Canceler;
use super::console::{Admitted, ConsoleClient};
use super::farewell::{Codes, Farewell};
use super::hello::{Hello, hello};
use super::records::{Applicant, Asked, Outside};
use super::replication::Replica;
use super::session::{Belongings, Client};
use super::throttle::{Rate, Verdict};
use super::{Seat, Shared};
use crate::admin::{self, Rights};
use crate::auth::{
    Credential, Denial, DenialKind, Handshake, ITERATIONS_MAX, Input, Method, Proof, Secret, Step, credential_from,
};
use crate::cancel::key::CancelKey;
use crate::cancel::table::Entry;
use crate::config::userlist::USER_LENGTH_MAX;
use crate::config::{AuthType, Config, pam};
use crate::net::buffers::Inbox;
use crate::net::compute::{NotComputed, Origin, Source, network};
use crate::net::pam::Attempt;
use crate::net::stream::Stream;
use crate::net::tls::{PeerNames, Signing, TlsStream};
use crate::net::{workers, world};
use crate::pool::{Admission, Ask, Denied, Greeting, Lease, NoPool, Pool, Refusal, Start, Ticket, Waiter};
use crate::protocol::parameters::{ParameterSet, UNREADABLE, classify_startup};
use crate::stats::counters::bump;
use crate::stats::lines;
use crate::stats::roster::{ClientCard, Endpoint, EnteredClient, Names, Order};
use crate::wire::error::{self, sqlstate};
use crate::wire::framing::Header;
use crate::wire::startup::{Replication, StartupError, StartupMessage, negotiate_protocol_version};
use crate::wire::{Frontend, backend};

/// The longest password message: a password has at most 65,530 bytes, a SCRAM message far less.
const PASSWORD_MESSAGE_MAX: usize = 65_536 + 64;

/// What came of a connection.
pub(super) enum LoggedIn {
    /// A client of a pool.
    Client(Box<Client>),
    /// A replication client, with its server.
    Replica(Box<Replica>),
    /// A client of the console.
    Console(Box<ConsoleClient>),
    /// It was refused, or left, or was a cancel request.
    Nobody,
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
                Order::None | Order::Heed => steps.as_mut().poll(cx),
                order => Poll::Ready(Err(Farewell::ordered(order))),
            }
        })
        .await
    };
    match outcome {
        Ok(Way::Canceled) => LoggedIn::Nobody,
        Ok(Way::Client(ready)) => {
            let Arrival { shared, entered, stream, inbox, .. } = arrival;
            let Ready { pool, wish, belongings, lease } = *ready;
            let client = Box::new(Client::new(shared, entered, stream, inbox, pool, wish, belongings));
            match lease {
                Some(lease) => LoggedIn::Replica(Box::new(Replica::new(client, lease))),
                None => LoggedIn::Client(client),
            }
        }
        Ok(Way::Console(admitted)) => {
            let Arrival { shared, entered, stream, inbox, unsent, .. } = arrival;
            LoggedIn::Console(Box::new(ConsoleClient::new(shared, entered, stream, inbox, unsent, admitted)))
        }
        Err(farewell) => {
            let farewell = super::unless_tls_broke(farewell, &arrival.stream);
            // There may be half a password in it.
            arrival.inbox.wipe();
            arrival.log_failure(&farewell);
            if !farewell.goes_unlogged() {
                super::log_farewell(&arrival.shared, &card, &farewell).await;
            }
            let codes = match card.console.load(Relaxed) {
                true => Codes::Pgbouncer,
                false => Codes::of(&arrival.config.settings),
            };
            if let Some(message) = farewell.message(codes) {
                arrival.unsent.extend_from_slice(&message);
                arrival.stream.send_parting(&arrival.unsent);
            }
            LoggedIn::Nobody
        }
    }
}

/// Where a connection may go.
enum Way {
    Client(Box<Ready>),
    Console(Admitted),
    Canceled,
}

/// What a client needs beside its socket.
struct Ready {
    pool: Arc<Pool>,
    wish: ParameterSet,
    belongings: Belongings,
    /// The server of a replication client.
    lease: Option<Lease>,
}

/// What a client that waited for its greeting has got.
enum Had {
    Greeting(ParameterSet),
    Server(Lease),
    Refusal(Refusal),
}

/// What is known of the user who logs in.
#[derive(Default)]
struct Found {
    /// Nothing for a user we do not know.
    secret: Option<Secret>,
    /// The name that auth_query was asked for, if it was.
    asked_as: Option<String>,
}

impl Arrival {
    async fn steps(&mut self) -> Result<Way, Farewell> {
        let tls = self.shared.registry.tls().current();
        let signing = Signing { compute: self.shared.workers.compute(), source: self.source() };
        let hello = hello(&mut self.stream, &mut self.inbox, &tls, signing).await?;
        if let Some(tls) = self.stream.tls() {
            let _ = self.entered.card().tls.set(tls.description().into());
        }
        match hello {
            Hello::Cancel { pid, secret } => {
                let canceler = Canceler { shared: &self.shared, config: &self.config, entered: &self.entered };
                Box::pin(canceler.run(pid, &secret)).await;
                Ok(Way::Canceled)
            }
            Hello::Startup(message) => self.startup(message).await,
        }
    }

    async fn startup(&mut self, mut message: StartupMessage) -> Result<Way, Farewell> {
        let names = Names { database: Arc::from(&*message.database), user: Arc::from(&*message.user) };
        let _ = self.entered.card().names.set(names);
        self.entered.card().set_replication(message.replication);
        if message.database == admin::DATABASE {
            self.entered.card().console.store(true, Relaxed);
        }
        self.throttle()?;
        message.check().map_err(Farewell::Startup)?;
        self.log_attempt(&message);
        if message.user.len() > USER_LENGTH_MAX {
            return Err(Farewell::UserTooLong);
        }
        if message.needs_negotiation() {
            negotiate_protocol_version(&mut self.unsent, &message.protocol_options);
        }
        if message.database == admin::DATABASE {
            let rights = self.console(&mut message).await?;
            let admission = match rights {
                // Administrators get in when the limits are reached: that is when they are needed.
                Rights::Admin => self.shared.registry.count_in(&message.database, &message.user),
                Rights::Stats => self.admit(&message)?,
            };
            return Ok(Way::Console(Admitted { rights, admission, cancel: self.cancel_key()? }));
        }
        let on_unix_socket = matches!(self.entered.card().peer, Endpoint::Unix { .. });
        if self.shared.console.process.turns_away(on_unix_socket) {
            return Err(Farewell::ShuttingDown);
        }
        let settings = &self.config.settings;
        let seat = self.shared.seats.take(settings.max_client_conn).ok_or(Farewell::Limit("max_client_conn"))?;
        let wishes = classify_startup(&message, &self.shared.tracked, &settings.ignore_startup_parameters)
            .map_err(Farewell::Startup)?;
        self.check_any(&message)?;
        let outside = self.outside(&message).await?;
        let found = match outside {
            Some(_) => Found::default(),
            None => self.find_user(&mut message).await?,
        };
        let entered = match self.authenticate(&message, found.secret, outside).await {
            Ok(credential) => self.enter_pool(&message, wishes, credential, seat).await,
            Err(farewell) => Err(farewell),
        };
        if entered.is_err() {
            self.doubt(found.asked_as, &message);
        }
        entered.map(|ready| Way::Client(Box::new(ready)))
    }

    /// Refuses whose address tries too often, before it costs a line of the log or a derivation of keys, and before
    /// anything is told of a password, be it the console's. Administrators get in through a Unix socket.
    fn throttle(&self) -> Result<(), Farewell> {
        let (Some(rate), Endpoint::Tcp(peer)) = (Rate::of(&self.config.settings), &self.entered.card().peer) else {
            return Ok(());
        };
        let mut throttle = self.shared.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        match throttle.admit(peer.ip(), rate, world::now()) {
            Verdict::Admitted => Ok(()),
            Verdict::Refused { first } => Err(Farewell::Throttled { logged: first }),
        }
    }

    /// auth_type=any looks at no name, so the database has to force one.
    fn check_any(&self, message: &StartupMessage) -> Result<(), Farewell> {
        let any = self.config.settings.auth_type == AuthType::Any;
        match self.config.database(&message.database) {
            Some(database) if any && database.user.is_none() => Err(Farewell::NoForcedUser),
            _ => Ok(()),
        }
    }

    /// What is known of the user: from auth_file, or else from auth_query, whose spelling of the name counts then.
    async fn find_user(&mut self, message: &mut StartupMessage) -> Result<Found, Farewell> {
        if self.config.settings.auth_type == AuthType::Any {
            return Ok(Found::default());
        }
        if let Some(secret) = self.config.secrets.find(&message.user) {
            return Ok(Found { secret: Some(Secret::parse(secret)), asked_as: None });
        }
        let Some(question) = Question::for_clients_of(&message.database, &self.config) else {
            return Ok(Found::default());
        };
        let mut asker = Asker {
            shared: &self.shared,
            config: &self.config,
            card: self.entered.card(),
            stream: &mut self.stream,
            inbox: &mut self.inbox,
        };
        match asker.ask(&question, &message.database, &message.user).await? {
            Some((name, secret)) => {
                let asked_as = Some(std::mem::replace(&mut message.user, name));
                Ok(Found { secret: Some(secret), asked_as })
            }
            None => Err(Farewell::NoSuchUser),
        }
    }

    /// After a login that failed, what auth_query said of the user may be out of date.
    fn doubt(&self, asked_as: Option<String>, message: &StartupMessage) {
        if let Some(user) = asked_as {
            self.shared.looked_up.forget(&message.database, &user);
        }
    }

    /// Runs the dialogue; what can be proved to servers in this user's name is its result.
    async fn authenticate(
        &mut self,
        message: &StartupMessage,
        secret: Option<Secret>,
        outside: Option<Outside>,
    ) -> Result<Credential, Farewell> {
        let proof = self.prove(message, secret.clone(), outside).await?;
        Ok(match (secret, proof) {
            (Some(secret), proof) => credential_from(&secret, &proof),
            (None, Proof::Password(password)) => Credential::Plain(password),
            (None, _) => Credential::None,
        })
    }

    /// Who checks this client's password, where neither auth_file nor auth_query does.
    async fn outside(&self, message: &StartupMessage) -> Result<Option<Outside>, Farewell> {
        let settings = &self.config.settings;
        match settings.auth_type {
            AuthType::Ldap => {
                let options =
                    settings.auth_ldap_options.as_ref().ok_or(Farewell::Unproven("auth_ldap_options is null"))?;
                self.applicant(message, None, false).ldap(&"auth_ldap_options", options.reveal()).map(Some)
            }
            AuthType::Pam => Ok(Some(Outside::Pam(pam::SERVICE.into()))),
            AuthType::Hba => {
                let certified = self.stream.tls().and_then(TlsStream::peer_names);
                let applicant = self.applicant(message, certified.as_ref(), false);
                Box::pin(applicant.outside(&self.config.hba, self.shared.registry.dns())).await
            }
            _ => Ok(None),
        }
    }

    fn applicant<'a>(
        &'a self,
        message: &'a StartupMessage,
        certified: Option<&'a PeerNames>,
        known: bool,
    ) -> Applicant<'a> {
        Applicant {
            card: self.entered.card(),
            tls: self.stream.tls().is_some(),
            certified,
            physical_replication: message.replication == Replication::Physical,
            database: &message.database,
            user: &message.user,
            known,
        }
    }

    /// The client shows who it is, as auth_type or the record that fits it says.
    async fn prove(
        &mut self,
        message: &StartupMessage,
        secret: Option<Secret>,
        outside: Option<Outside>,
    ) -> Result<Proof, Farewell> {
        let certified = self.stream.tls().and_then(TlsStream::peer_names);
        let applicant = self.applicant(message, certified.as_ref(), secret.is_some());
        let method = match (self.config.settings.auth_type, &outside) {
            (_, Some(outside)) => outside.method(),
            (AuthType::Cert, None) => {
                applicant.is_certified(None)?;
                return Ok(Proof::Nothing);
            }
            (AuthType::Hba, None) => {
                match Box::pin(applicant.apply(&self.config.hba, self.shared.registry.dns())).await? {
                    Asked::Dialogue(method) => method,
                    Asked::Nothing => return Ok(Proof::Nothing),
                }
            }
            (auth_type, None) => method_of(auth_type),
        };
        self.handshake(method, &message.user, secret, outside).await
    }

    async fn handshake(
        &mut self,
        method: Method,
        user: &str,
        secret: Option<Secret>,
        mut outside: Option<Outside>,
    ) -> Result<Proof, Farewell> {
        let tag = lines::Tag::client(self.entered.card());
        if secret.is_none() && method != Method::Any && outside.is_none() {
            tracing::info!(conn = ?tag, "{}", lines::no_such_user(user));
        }
        if let Some(asked) = secret.as_ref().and_then(Secret::excess)
            && matches!(method, Method::Plain | Method::Md5 | Method::Scram)
        {
            tracing::error!(
                conn = ?tag,
                "the SCRAM secret of user \"{user}\" has {asked} iterations, and {ITERATIONS_MAX} are the most: set \
                 the password again with a smaller scram_iterations"
            );
        }
        let mut nonce = [0; 32];
        world::fill_random(&mut nonce).map_err(|_| Farewell::Internal("no random numbers"))?;
        let end_point = self.stream.tls().and_then(TlsStream::end_point);
        let mut handshake = Handshake::new(method, user, secret, nonce, &self.shared.keys).bound_to(end_point);
        let mut step = handshake.step(Input::Begin);
        loop {
            step = match step {
                Step::Send(bytes) => {
                    self.send(&bytes).await?;
                    let len = self.password_message().await?;
                    let next = handshake.step(Input::Message(&self.inbox.fresh()[5..len]));
                    self.inbox.skip_secret(len);
                    next
                }
                Step::Derive(mut derivation) => {
                    let origin = Origin { source: self.source(), user: Some(user.into()) };
                    let (compute, work) = (self.shared.workers.compute(), move || derivation.advance());
                    let keys = Box::pin(compute.run_for(origin, &mut self.stream, &mut self.inbox, work)).await;
                    handshake.step(Input::Derived(keys.map_err(|why| match why {
                        NotComputed::Gone => Farewell::ClientGone,
                        NotComputed::Failed(_) => Farewell::Internal("key derivation was given up"),
                    })?))
                }
                Step::Ask(password) => {
                    let right = match outside.take() {
                        Some(outside) => Box::pin(self.ask_outside(outside, user, password)).await?,
                        None => false,
                    };
                    handshake.step(Input::Answered(right))
                }
                Step::Accept { last, proof } => {
                    self.unsent.extend_from_slice(&last);
                    return Ok(proof);
                }
                Step::Deny(denial) => return Err(Farewell::Denied(denial)),
            };
        }
    }

    /// Whose work it is that this login makes.
    fn source(&self) -> Source {
        match self.entered.card().peer {
            Endpoint::Tcp(address) => Source::Network(network(address.ip())),
            Endpoint::Unix { uid, .. } => Source::Local(uid),
        }
    }

    /// Is this the user's password? Nobody is asked for a client that leaves meanwhile.
    async fn ask_outside(
        &mut self,
        outside: Outside,
        user: &str,
        password: Zeroizing<String>,
    ) -> Result<bool, Farewell> {
        let (shared, card) = (&self.shared, self.entered.card());
        let answer = async move {
            match outside {
                Outside::Ldap(options) => shared.directories.check(options, user.to_owned(), password).await,
                Outside::Pam(service) => {
                    let host = match &card.peer {
                        Endpoint::Tcp(address) => address.ip().to_string(),
                        Endpoint::Unix { .. } => "unix".to_owned(),
                    };
                    shared.pam.check(&Attempt { service, user: user.to_owned(), host }, &password).await
                }
            }
        };
        let mut answer = std::pin::pin!(answer);
        let (stream, inbox) = (&mut self.stream, &mut self.inbox);
        let answer = std::future::poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Ok(answer)),
            Poll::Pending => stream.poll_gone(cx, inbox).map(|()| Err(Farewell::ClientGone)),
        })
        .await?;
        if let Err(refusal) = &answer {
            tracing::warn!(conn = ?lines::Tag::client(self.entered.card()), "{refusal}");
        }
        Ok(answer.is_ok())
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

    /// Counts the client in under its database and user, as far as their limits let it.
    fn admit(&self, message: &StartupMessage) -> Result<Admission, Farewell> {
        self.shared.registry.admit(&message.database, &message.user).map_err(|denied| {
            Farewell::Limit(match denied {
                Denied::MaxDbClientConnections => "max_db_client_connections",
                Denied::MaxUserClientConnections => "max_user_client_connections",
            })
        })
    }

    async fn enter_pool(
        &mut self,
        message: &StartupMessage,
        mut wishes: Vec<(String, String)>,
        credential: Credential,
        seat: Seat,
    ) -> Result<Ready, Farewell> {
        let registry = self.shared.registry.clone();
        let admission = self.admit(message)?;
        let pool = registry.pool(&message.database, &message.user, &credential).map_err(|no| match no {
            NoPool::NoSuchDatabase => Farewell::NoSuchDatabase(message.database.clone()),
            NoPool::Disabled => Farewell::DatabaseDisabled(message.database.clone()),
            NoPool::ShuttingDown => Farewell::ShuttingDown,
        })?;
        let names = Names { database: pool.database().clone(), user: pool.user().clone() };
        let _ = self.entered.card().pool.set(names);
        let member = pool.join();
        if self.config.settings.application_name_add_host {
            let known = wishes.iter().position(|(name, _)| name == "application_name");
            let name = known.map_or("app".to_owned(), |at| wishes.swap_remove(at).1);
            let address = lines::Address(&self.entered.card().peer);
            wishes.push(("application_name".to_owned(), format!("{name} - {address}")));
        }
        let (greeting, wish, lease) = match message.replication {
            Replication::Off => {
                let greeting = self.greeting(&pool).await?;
                let wish = greeting.with_wishes(&wishes);
                (greeting, wish, None)
            }
            replication => {
                wishes.extend(message.options.iter().map(|options| ("options".to_owned(), options.clone())));
                let lease = self.dedicated(&pool, Start { replication, parameters: wishes }).await?;
                (lease.parameters().clone(), lease.parameters().clone(), Some(lease))
            }
        };
        let wish = self.shared.interner.share(wish);
        if let Some(name) = wish.get("application_name") {
            let mut known = self.entered.card().application_name.lock().unwrap_or_else(PoisonError::into_inner);
            *known = Arc::from(name);
        }
        let entry = self.cancel_key()?;
        self.greet(&greeting, &wish, entry.key()).await?;
        bump(&pool.counters().shard(workers::current()).client_login_count, 1);
        let belongings = Belongings { member, admission, cancel: entry, seat };
        Ok(Ready { pool, wish, belongings, lease })
    }

    /// A key for requests to cancel.
    fn cancel_key(&self) -> Result<Entry, Farewell> {
        let peer_id = u16::try_from(self.config.settings.peer_id).unwrap_or(0);
        let drawn = self.shared.cancels.enter(self.entered.card(), || {
            let mut random = [0; 8];
            world::fill_random(&mut random)?;
            Ok(CancelKey::new(random, peer_id))
        });
        drawn.map_err(|_| Farewell::Internal("no cancel key"))
    }

    /// What the client is told of its server. Where the pool knows nothing, or nothing that is not outdated, a server
    /// must be had first, and the client waits in line like any other: until one is opened or comes free, for
    /// query_wait_timeout and client_login_timeout at most. Unlike PgBouncer, a full pool opens none beyond its size
    /// for a login. Where the greeting is only doubtful, the client waits as long as a server is on its way, and is
    /// told what is known where none is: a database that is down and a cap that is reached turn away queries, not
    /// logins. Where PostgreSQL itself refuses the pool's user, the client hears that now.
    async fn greeting(&mut self, pool: &Arc<Pool>) -> Result<ParameterSet, Farewell> {
        let waiter = Waiter::new(self.entered.card().clone(), pool.clone());
        loop {
            let (greeting, round) = pool.greeting();
            if let Greeting::Current(parameters) = greeting {
                return Ok(parameters);
            }
            let now = world::now();
            self.entered.card().set_request_at(now);
            let had = match pool.ask(&waiter, workers::current(), now) {
                Ask::Granted(lease) => Had::Server(lease),
                Ask::Refused(refusal) => Had::Refusal(refusal),
                Ask::Waiting(ticket) => self.await_greeting(pool, ticket).await?,
            };
            match had {
                Had::Greeting(parameters) => return Ok(parameters),
                Had::Server(lease) => {
                    let parameters = pool.confirm_greeting(&lease, round);
                    lease.release_untouched(workers::current(), world::now());
                    // Where there are none, RECONNECT came in between.
                    if let Some(parameters) = parameters {
                        return Ok(parameters);
                    }
                }
                Had::Refusal(refusal) => {
                    return match pool.greeting().0 {
                        Greeting::Current(parameters) | Greeting::Doubtful(parameters) if refusal.may_pass() => {
                            Ok(parameters)
                        }
                        _ => Err(Farewell::Refused(refusal)),
                    };
                }
            }
        }
    }

    /// Waits in line until there is a server, a refusal, or something to tell without either.
    async fn await_greeting(&mut self, pool: &Pool, mut ticket: Ticket) -> Result<Had, Farewell> {
        let (stream, inbox) = (&mut self.stream, &mut self.inbox);
        let mut news = std::pin::pin!(pool.news());
        std::future::poll_fn(|cx| {
            loop {
                match ticket.poll() {
                    Some(Ok(lease)) => return Poll::Ready(Ok(Had::Server(lease))),
                    Some(Err(refusal)) => return Poll::Ready(Ok(Had::Refusal(refusal))),
                    None => {}
                }
                match pool.greeting().0 {
                    Greeting::Current(parameters) => return Poll::Ready(Ok(Had::Greeting(parameters))),
                    Greeting::Doubtful(parameters) if !pool.is_server_coming() => {
                        return Poll::Ready(Ok(Had::Greeting(parameters)));
                    }
                    _ => {}
                }
                // What came since the last look is heard: news are listened to from when they are asked for.
                match news.as_mut().poll(cx) {
                    Poll::Ready(()) => news.set(pool.news()),
                    Poll::Pending => break,
                }
            }
            stream.poll_gone(cx, inbox).map(|()| Err(Farewell::ClientGone))
        })
        .await
    }

    /// A server for a replication client alone. It is opened now, not at the first request as PgBouncer does: so the
    /// greeting tells what this server reports, a refusal comes at the login, and a role that may do nothing but
    /// replicate needs no ordinary server first.
    async fn dedicated(&mut self, pool: &Arc<Pool>, start: Start) -> Result<Lease, Farewell> {
        let waiter = Waiter::dedicated(self.entered.card().clone(), pool.clone(), start);
        let now = world::now();
        self.entered.card().set_request_at(now);
        match pool.ask_dedicated(&waiter, workers::current(), now) {
            Ask::Granted(lease) => Ok(lease),
            Ask::Refused(refusal) => Err(Farewell::Refused(refusal)),
            Ask::Waiting(mut ticket) => {
                let (stream, inbox) = (&mut self.stream, &mut self.inbox);
                std::future::poll_fn(|cx| match ticket.poll() {
                    Some(granted) => Poll::Ready(granted.map_err(Farewell::Refused)),
                    None => stream.poll_gone(cx, inbox).map(|()| Err(Farewell::ClientGone)),
                })
                .await
            }
        }
    }

    async fn greet(&mut self, greeting: &ParameterSet, wish: &ParameterSet, key: &CancelKey) -> Result<(), Farewell> {
        let mut out = Vec::with_capacity(512);
        backend::authentication_ok(&mut out);
        for (name, value) in greeting.iter() {
            let value = wish.get(name).unwrap_or(value);
            if value != UNREADABLE {
                backend::parameter_status(&mut out, name, value);
            }
        }
        backend::backend_key_data(&mut out, key.pid(), key.secret());
        if let Some(notice) = &self.config.settings.login_notify_message {
            error::notice_response(&mut out, error::NOTICE, sqlstate::SUCCESSFUL_COMPLETION, notice, None, None);
        }
        backend::ready_for_query(&mut out, b'I');
        self.send(&out).await
    }

    /// The console: by peer identity on a Unix socket, by name with auth_type=any, else with a password like anybody.
    async fn console(&mut self, message: &mut StartupMessage) -> Result<Rights, Farewell> {
        if message.user == admin::DATABASE && is_own_user(self.entered.card()) {
            tracing::info!(conn = ?lines::Tag::client(self.entered.card()), "pgbouncer access from unix socket");
            return Ok(Rights::Admin);
        }
        let outside = self.outside(message).await?;
        let found = match outside {
            Some(_) => Found::default(),
            None => self.find_user(message).await?,
        };
        if let Err(farewell) = self.prove(message, found.secret, outside).await {
            self.doubt(found.asked_as, message);
            return Err(farewell);
        }
        let settings = &self.config.settings;
        let rights = Rights::of(&message.user, settings.auth_type, &settings.admin_users, &settings.stats_users);
        rights.ok_or(Farewell::NotAllowed)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Farewell> {
        self.unsent.extend_from_slice(bytes);
        let unsent = std::mem::take(&mut self.unsent);
        self.stream.send_all(&unsent).await.map_err(|_| Farewell::ClientGone)
    }

    fn log_attempt(&self, message: &StartupMessage) {
        if self.config.settings.log_connections {
            let card = self.entered.card();
            let tls = card.tls.get().map(|tls| &**tls);
            let line = lines::login_attempt(&message.database, &message.user, tls, message.replication);
            tracing::info!(conn = ?lines::Tag::client(self.entered.card()), "{line}");
        }
    }

    fn log_failure(&self, farewell: &Farewell) {
        if let Farewell::Denied(Denial { kind: DenialKind::SaslFailed, .. }) = farewell {
            // PgBouncer has this line for SCRAM alone; for the others the error sent to the client says it.
            let tag = lines::Tag::client(self.entered.card());
            tracing::error!(conn = ?tag, "{}", lines::PASSWORD_FAILED);
        }
        if let Farewell::Startup(
            error @ (StartupError::Unsupported { value, .. } | StartupError::UnsupportedInOptions { value, .. }),
        ) = farewell
        {
            tracing::warn!(conn = ?lines::Tag::client(self.entered.card()), "{error}={value}");
        }
        let refused = matches!(
            farewell,
            Farewell::Denied(_)
                | Farewell::Unproven(_)
                | Farewell::NotAllowed
                | Farewell::NoSuchDatabase(_)
                | Farewell::NoSuchUser
                | Farewell::UserTooLong
        );
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

/// Is this a Unix socket whose other end runs as the user we run as?
pub(super) fn is_own_user(card: &ClientCard) -> bool {
    match card.peer {
        Endpoint::Unix { uid: Some(uid), .. } => uid == rustix::process::getuid().as_raw(),
        _ => false,
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
