//! From a target to a logged-in server: dial, startup, prove ourselves, first ReadyForQuery.
//!
//! Every failure becomes one [`ConnectError`], which `pool` keeps and shows to the clients that wait: the server's own
//! text and SQLSTATE where it spoke, ours where it did not. Manual: "Start-up", "Message Flow".

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use zeroize::Zeroizing;

use super::Server;
use super::check::run_query;
use crate::auth::{Credential, KeyCache, Prover, ProverStep};
use crate::config::Host;
use crate::net::buffers::Inbox;
use crate::net::compute::{Compute, Origin, Source};
use crate::net::dial::{DialError, Dialled, dial};
use crate::net::dns::Dns;
use crate::net::sockopt::TcpOptions;
use crate::net::tls::{self, InForce, RequestError, TlsStream};
use crate::net::{workers, world};
use crate::protocol::exchange::Exchange;
use crate::protocol::parameters::ParameterSet;
use crate::protocol::statements::ServerStatements;
use crate::stats::lines;
use crate::stats::roster::{CancelTarget, Names, Reach, Roster, ServerCard};
use crate::wire::error::{ErrorFields, sqlstate};
use crate::wire::framing::Framer;
use crate::wire::startup::Replication;
use crate::wire::{Backend, backend, frontend, startup};

/// Everything needed to open one server connection of a pool.
#[derive(Clone, Debug)]
pub struct Target {
    /// The database as clients name it.
    pub database: Arc<str>,
    /// The user to log in as.
    pub user: Arc<str>,
    /// The database as the server names it.
    pub dbname: String,
    /// Where the server is.
    pub host: Host,
    /// What we can prove.
    pub credential: Credential,
    /// What the connection is for.
    pub replication: Replication,
    /// Parameters of the startup message beside user, database and replication.
    pub startup: Vec<(String, String)>,
    /// Longest time for the whole of it; zero is no limit.
    pub connect_timeout: Duration,
    /// Run once the server is logged in; errors are only logged.
    pub connect_query: Option<String>,
    /// The tcp_* settings.
    pub tcp: TcpOptions,
    /// With what.
    pub means: Means,
    /// log_connections.
    pub log_connections: bool,
}

/// What it takes to connect, whoever the pool is for.
#[derive(Clone, Debug)]
pub struct Means {
    /// Where names are looked up.
    pub dns: Dns,
    /// Derived keys, shared by the process.
    pub keys: KeyCache,
    /// Where they are derived.
    pub compute: Compute,
    /// Encryption, as of the moment it was decided to connect.
    pub tls: Arc<InForce>,
}

/// Why a server connection could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectError {
    /// The server's SQLSTATE, or ours.
    pub sqlstate: String,
    /// What happened: the server's own text, or ours.
    pub message: String,
    /// Did the server say so itself?
    pub from_server: bool,
    /// How bad the server called it: FATAL, mostly. Empty where we say it.
    pub severity: String,
    /// More of it.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl ConnectError {
    fn ours(message: impl Into<String>) -> ConnectError {
        ConnectError {
            sqlstate: sqlstate::CANNOT_ESTABLISH_CONNECTION.to_owned(),
            message: message.into(),
            from_server: false,
            severity: String::new(),
            detail: None,
            hint: None,
        }
    }

    fn lost(error: &io::Error) -> ConnectError {
        ConnectError { detail: Some(error.to_string()), ..ConnectError::ours("server conn crashed?") }
    }
}

/// Opens one connection, on the reactor of the calling worker.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect(target: &Target, roster: &Arc<Roster>) -> Result<Box<Server>, Arc<ConnectError>> {
    let attempt = Box::pin(attempt(target, roster));
    let outcome = if target.connect_timeout.is_zero() {
        attempt.await
    } else {
        match tokio::time::timeout(target.connect_timeout, attempt).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ConnectError {
                detail: Some(format!("{} did not answer within {:?}", target.host, target.connect_timeout)),
                ..ConnectError::ours("connect timeout")
            }),
        }
    };
    outcome.map_err(Arc::new)
}

async fn attempt(target: &Target, roster: &Arc<Roster>) -> Result<Box<Server>, ConnectError> {
    let dialled = dial(&target.host, &target.tcp, &target.means.dns).await.map_err(|error| match error {
        DialError::Lookup(error) => ConnectError {
            detail: Some(format!("{}: {error}", target.host)),
            ..ConnectError::ours("server DNS lookup failed")
        },
        DialError::Connect(error) => {
            ConnectError { detail: Some(format!("{}: {error}", target.host)), ..ConnectError::ours("connect failed") }
        }
    })?;
    let (mut server, reach) = enter(target, roster, dialled);
    if target.log_connections {
        tracing::info!(conn = ?lines::Tag::server(server.card()), "{}", lines::new_server(&server.card().local));
    }
    encrypt(&mut server, target).await?;
    log_in(&mut server, target, reach).await?;
    if let Some(sql) = &target.connect_query {
        let mut query = Vec::new();
        frontend::query(&mut query, sql);
        match run_query(&mut server, &query).await {
            Ok(()) => {}
            Err(super::TidyError::Failed(message)) => tracing::warn!(%message, "connect_query failed"),
            Err(error) => return Err(ConnectError::ours(format!("connect_query: {error}"))),
        }
    }
    Ok(server)
}

fn enter(target: &Target, roster: &Arc<Roster>, dialled: Dialled) -> (Box<Server>, Reach) {
    let names = Names { database: target.database.clone(), user: target.user.clone() };
    let card = ServerCard::new(roster.next_id(), names, dialled.peer, dialled.local, world::wall_clock(), world::now());
    card.set_replication(target.replication);
    if let Host::Tcp { host, .. } = &target.host {
        let _ = card.host.set(host.as_str().into());
    }
    let entered = roster.enter_server(card);
    // A new answer that came after the card was there found it; one that came before is seen here.
    if let (Host::Tcp { host, .. }, Reach::Tcp(address)) = (&target.host, &dialled.reach)
        && !target.means.dns.holds(host, address.ip())
    {
        entered.card().close_needed.store(true, Relaxed);
    }
    let server = Server {
        entered,
        home: workers::current(),
        stream: dialled.stream,
        inbox: Inbox::default(),
        framer: Framer::default(),
        exchange: Exchange::default(),
        parameters: ParameterSet::default(),
        statements: ServerStatements::default(),
    };
    (Box::new(server), dialled.reach)
}

/// Takes up TLS, as far as server_tls_sslmode wants it and the server has it.
async fn encrypt(server: &mut Server, target: &Target) -> Result<(), ConnectError> {
    let Host::Tcp { host, .. } = &target.host else { return Ok(()) };
    tls::request(&mut server.stream, &target.means.tls, host).await.map_err(|error| match error {
        RequestError::Io(error) => ConnectError::lost(&error),
        RequestError::Handshake(_) => {
            tracing::warn!(conn = ?lines::Tag::server(server.card()), "{error}");
            ConnectError { detail: Some(error.to_string()), ..ConnectError::ours("server conn crashed?") }
        }
        other => ConnectError::ours(other.to_string()),
    })?;
    if let Some(encrypted) = server.stream.tls() {
        let description = encrypted.description();
        if target.log_connections {
            tracing::info!(conn = ?lines::Tag::server(server.card()), "SSL established: {description}");
        }
        let _ = server.card().tls.set(description.into());
    }
    Ok(())
}

async fn send_startup(server: &mut Server, target: &Target) -> io::Result<()> {
    let mut parameters = vec![("user", &*target.user), ("database", target.dbname.as_str())];
    if target.replication != Replication::Off {
        parameters.push(("replication", target.replication.word()));
    }
    parameters.extend(target.startup.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let mut out = Vec::with_capacity(128);
    startup::startup_message(&mut out, &parameters);
    server.stream.send_all(&out).await
}

async fn log_in(server: &mut Server, target: &Target, reach: Reach) -> Result<(), ConnectError> {
    send_startup(server, target).await.map_err(|error| ConnectError::lost(&error))?;
    let mut nonce = [0; 32];
    world::fill_random(&mut nonce).map_err(|error| ConnectError::ours(format!("no random numbers: {error}")))?;
    let end_point = server.stream.tls().and_then(TlsStream::end_point);
    let prover = Prover::new(&target.user, &target.credential, nonce, &target.means.keys);
    let mut prover = prover.bound_to(end_point);
    loop {
        let (tag, body) = server.next_message().await.map_err(|error| ConnectError::lost(&error))?;
        match Backend::from_byte(tag) {
            Some(Backend::Authentication) => answer(server, target, &mut prover, &body).await?,
            Some(Backend::ParameterStatus) => server.note_parameter(&body),
            Some(Backend::BackendKeyData) => {
                if let Some((pid, secret)) = backend::parse_backend_key_data(&body) {
                    let cancel = CancelTarget {
                        reach: reach.clone(),
                        pid,
                        secret: secret.into(),
                        encrypted_as: encrypted_as(server, target),
                    };
                    let _ = server.card().cancel_target.set(cancel);
                }
            }
            Some(Backend::ReadyForQuery) => return Ok(()),
            Some(Backend::ErrorResponse) => return Err(server_said(&body)),
            Some(Backend::NoticeResponse | Backend::NegotiateProtocolVersion) => {}
            _ => return Err(ConnectError::ours(format!("unexpected message '{}' during login", tag.escape_ascii()))),
        }
    }
}

/// The host's name, where the connection is encrypted.
fn encrypted_as(server: &Server, target: &Target) -> Option<Box<str>> {
    match &target.host {
        Host::Tcp { host, .. } if server.stream.tls().is_some() => Some(host.as_str().into()),
        _ => None,
    }
}

fn server_said(body: &[u8]) -> ConnectError {
    let fields = ErrorFields::parse(body);
    ConnectError {
        sqlstate: fields.code.into_owned(),
        message: fields.message.into_owned(),
        from_server: true,
        severity: fields.severity.into_owned(),
        detail: fields.detail.map(Cow::into_owned),
        hint: fields.hint.map(Cow::into_owned),
    }
}

async fn answer(server: &mut Server, target: &Target, prover: &mut Prover, body: &[u8]) -> Result<(), ConnectError> {
    let mut step = prover.step(body);
    loop {
        match step {
            ProverStep::Send(message) => {
                // It may be the password.
                let message = Zeroizing::new(message);
                return server.stream.send_all(&message).await.map_err(|error| ConnectError::lost(&error));
            }
            ProverStep::Derive(mut derivation) => {
                let origin = Origin { source: Source::Server, user: Some(target.user.clone()) };
                let keys = target.means.compute.run(origin, move || derivation.advance()).await;
                let given_up = |why| ConnectError::ours(format!("key derivation was given up: {why}"));
                step = prover.derived(&keys.map_err(given_up)?);
            }
            ProverStep::Nothing | ProverStep::Ok => return Ok(()),
            ProverStep::Fail(error) => {
                return Err(ConnectError { detail: error.detail(), ..ConnectError::ours(error.to_string()) });
            }
        }
    }
}
