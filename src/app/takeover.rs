//! `-R`: takes the sockets of a running process, its clients' and servers' with them, and goes on in its place.
//!
//! ```text
//!   new process                                        old process (pgweir, or PgBouncer 1.25)
//!      │ Unix socket, user "pgbouncer" ──────────────────► │
//!      │ SUSPEND ────────────────────────────────────────► │ everybody stops at the edge of a message
//!      │ SHOW HANDOVER, or SHOW FDS of PgBouncer ────────► │
//!      │ ◄───────────────────── rows, each with its socket │
//!      │ everything that can fail on our side is done      │
//!      │ SHUTDOWN ───────────────────────────────────────► │ tells those it could not hand over, ends
//!      │ ◄───────────────────────────── end of the stream  ✕
//!      ▼ adopts, listens
//! ```
//!
//! Until SHUTDOWN the old process only waits: if this one fails or dies, the end of the connection makes the old one
//! resume, and no client has noticed. What was received is plain descriptors by then, whose closing says nothing to
//! anybody. PgBouncer: `takeover.c`, and "-R" in its usage page.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::process::Pidfile;
use crate::admin;
use crate::client::Shared;
use crate::client::handover::{Inquiries, Taken, inherit_client, inherit_idle_server, inherit_pool};
use crate::config::Settings;
use crate::net::descriptors::Receiver;
use crate::net::world;
use crate::protocol::handover::state::{ClientState, ServerState, StatementState};
use crate::protocol::handover::{self, BadRow, Row, Task};
use crate::wire::error::ErrorFields;
use crate::wire::framing::{HEADER_LEN, Header, MESSAGE_LEN_MAX};
use crate::wire::{Backend, backend, frontend, startup};

/// How long the old process has to remove its pidfile, once its connection has ended.
const PIDFILE_PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked for.
const PIDFILE_PERIOD: Duration = Duration::from_millis(20);

/// A running process that keeps still for us, and all it has shown.
#[derive(Debug)]
pub struct Takeover {
    old: Receiver,
    /// Does it speak SHOW HANDOVER?
    is_pgweir: bool,
    listeners: Vec<OwnedFd>,
    /// Pools and statements.
    loose: Vec<Row>,
    connections: Vec<Taken>,
}

/// Why the running process could not be replaced. It goes on as if nothing had been.
#[derive(Debug)]
pub enum TakeoverError {
    /// The connection to it broke.
    Io(io::Error),
    /// It did not let us in, or refused a command; its words.
    Refused(String),
    /// It asks for a password: it runs as another user.
    Stranger,
    /// What it said makes no sense.
    Unexpected(&'static str),
    /// It sent a row that cannot be.
    Row(BadRow),
}

impl fmt::Display for TakeoverError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("takeover failed, the running process goes on: ")?;
        match self {
            TakeoverError::Io(error) => write!(out, "{error}"),
            TakeoverError::Refused(text) => write!(out, "it said \"{text}\""),
            TakeoverError::Stranger => {
                out.write_str("it asks for a password, because it runs as another user: start this one as that user")
            }
            TakeoverError::Unexpected(what) => write!(out, "unexpected {what}"),
            TakeoverError::Row(bad) => write!(out, "{bad}"),
        }
    }
}

impl std::error::Error for TakeoverError {}

impl From<io::Error> for TakeoverError {
    fn from(error: io::Error) -> TakeoverError {
        TakeoverError::Io(error)
    }
}

impl From<BadRow> for TakeoverError {
    fn from(bad: BadRow) -> TakeoverError {
        TakeoverError::Row(bad)
    }
}

/// Finds the process that runs with these settings, stops it and has it show everything. `None` where there is none.
/// Blocks, for suspend_timeout if need be.
///
/// # Errors
/// See [`TakeoverError`].
pub fn begin(settings: &Settings) -> Result<Option<Takeover>, TakeoverError> {
    let Some(dir) = settings.unix_socket_dir.as_deref().filter(|dir| !dir.is_empty()) else {
        tracing::warn!("unix_socket_dir is empty: a running process cannot be found");
        return Ok(None);
    };
    let path = format!("{dir}/.s.PGSQL.{}", settings.listen_port);
    let socket = match connect(&path) {
        Ok(socket) => socket,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let mut takeover = Takeover {
        old: Receiver::new(socket),
        is_pgweir: false,
        listeners: Vec::new(),
        loose: Vec::new(),
        connections: Vec::new(),
    };
    takeover.log_in()?;
    tracing::info!("login OK, sending SUSPEND");
    takeover.command("SUSPEND")?;
    let show = if takeover.is_pgweir { "SHOW HANDOVER" } else { "SHOW FDS" };
    tracing::info!("SUSPEND finished, sending {show}");
    takeover.command(show)?;
    let (sockets, connections) = (takeover.listeners.len(), takeover.connections.len());
    tracing::info!("{show} finished: {sockets} listening sockets, {connections} connections");
    Ok(Some(takeover))
}

fn connect(path: &str) -> io::Result<UnixStream> {
    match path.strip_prefix('@') {
        Some(name) => UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?),
        None => UnixStream::connect(path),
    }
}

impl Takeover {
    /// The old process' listening sockets, taken out.
    pub fn take_listeners(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.listeners)
    }

    fn log_in(&mut self) -> Result<(), TakeoverError> {
        let mut out = Vec::new();
        startup::startup_message(&mut out, &[("user", admin::DATABASE), ("database", admin::DATABASE)]);
        self.old.send(&out)?;
        loop {
            let (tag, body) = self.message()?;
            match Backend::from_byte(tag) {
                Some(Backend::Authentication) if body != [0, 0, 0, 0] => return Err(TakeoverError::Stranger),
                Some(Backend::ParameterStatus) => {
                    let parameter = backend::parse_parameter_status(&body);
                    self.is_pgweir |= parameter.is_some_and(|(name, _)| name == handover::ANNOUNCEMENT);
                }
                Some(Backend::ErrorResponse) => return Err(refused(&body)),
                Some(Backend::ReadyForQuery) => return Ok(()),
                _ => {}
            }
        }
    }

    /// Runs one command, and keeps the rows it gives.
    fn command(&mut self, sql: &str) -> Result<(), TakeoverError> {
        self.send(sql)?;
        loop {
            let (tag, body) = self.message()?;
            match Backend::from_byte(tag) {
                Some(Backend::DataRow) => self.keep(Row::parse(&body)?)?,
                Some(Backend::ErrorResponse) => return Err(refused(&body)),
                Some(Backend::ReadyForQuery) => return Ok(()),
                Some(Backend::RowDescription | Backend::CommandComplete | Backend::NoticeResponse) => {}
                _ => return Err(TakeoverError::Unexpected("message from the running process")),
            }
        }
    }

    fn keep(&mut self, row: Row) -> Result<(), TakeoverError> {
        if !row.task.has_socket() {
            self.loose.push(row);
            return Ok(());
        }
        let socket = self.old.descriptor().ok_or(TakeoverError::Unexpected("row without its socket"))?;
        match row.task {
            Task::Pooler => self.listeners.push(socket),
            _ => self.connections.push(Taken { row, socket }),
        }
        Ok(())
    }

    fn send(&mut self, sql: &str) -> Result<(), TakeoverError> {
        let mut out = Vec::new();
        frontend::query(&mut out, &format!("{sql};"));
        Ok(self.old.send(&out)?)
    }

    fn message(&mut self) -> Result<(u8, Vec<u8>), TakeoverError> {
        loop {
            let fresh = self.old.fresh();
            let header = Header::parse(fresh, MESSAGE_LEN_MAX)
                .map_err(|_| TakeoverError::Unexpected("message length from the running process"))?;
            if let Some(Header { tag, len }) = header
                && let Some(body) = fresh.get(HEADER_LEN..len)
            {
                let body = body.to_vec();
                self.old.take(len);
                return Ok((tag, body));
            }
            if self.old.fill()? == 0 {
                return Err(TakeoverError::Unexpected("end of the connection"));
            }
        }
    }

    /// Ends the old process and waits until it is gone, and its pidfile too. From here on everything is ours.
    ///
    /// # Errors
    /// It did not end: it goes on.
    pub fn finish(&mut self, pidfile: Option<&Path>) -> Result<(), TakeoverError> {
        tracing::info!("sending SHUTDOWN");
        self.send("SHUTDOWN")?;
        loop {
            match self.message() {
                Ok((tag, body)) if Backend::from_byte(tag) == Some(Backend::ErrorResponse) => {
                    return Err(refused(&body));
                }
                Ok(_) => {}
                // Its end is its answer.
                Err(_) => break,
            }
        }
        if let Some(path) = pidfile {
            await_pidfile(path);
        }
        tracing::info!("old process killed, resuming work");
        Ok(())
    }

    /// Brings every connection to life.
    pub fn adopt(self, shared: &Arc<Shared>) {
        self.skip_numbers(shared);
        let state = |row: &Row| row.state.as_deref().and_then(StatementState::parse);
        let (statements, pools): (Vec<_>, Vec<_>) = self.loose.iter().partition(|row| row.task == Task::Statement);
        let statements = statements
            .into_iter()
            .filter_map(state)
            .map(|statement| (statement.id, shared.catalogue.take_over(statement.id, &statement.body)));
        let statements = Arc::new(statements.collect::<HashMap<_, _>>());
        pools.into_iter().for_each(|row| inherit_pool(shared, row));
        let (clients, servers): (Vec<_>, Vec<_>) =
            self.connections.into_iter().partition(|taken| taken.row.task == Task::Client);
        let (lent, idle): (Vec<_>, Vec<_>) = servers.into_iter().partition(|taken| taken.row.link != 0);
        let mut lent: HashMap<i32, Taken> = lent.into_iter().map(|taken| (taken.row.fd, taken)).collect();
        for server in idle {
            inherit_idle_server(shared, server, &statements);
        }
        let inquiries = Inquiries::default();
        for client in clients {
            let server = lent.remove(&client.row.link);
            inherit_client(shared, client, server, &statements, &inquiries);
        }
        // Those whose client could not be handed over close with their descriptors.
    }

    /// Numbers that are in use are given to nobody else.
    fn skip_numbers(&self, shared: &Shared) {
        let id = |taken: &Taken| {
            let state = taken.row.state.as_deref()?;
            match taken.row.task {
                Task::Client => ClientState::parse(state).map(|state| state.id),
                _ => ServerState::parse(state).map(|state| state.id),
            }
        };
        shared.roster.skip_ids(self.connections.iter().filter_map(id).max().unwrap_or(0));
        if !self.is_pgweir {
            // PgBouncer's servers have statements of the same names as ours, and nobody knows up to which number.
            let since_1970 = world::wall_clock().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
            shared.catalogue.skip_ids(since_1970.as_secs());
        }
    }
}

fn refused(body: &[u8]) -> TakeoverError {
    TakeoverError::Refused(ErrorFields::parse(body).message.into_owned())
}

/// Waits until the old process' pidfile is gone. A process that dies before it could remove its own leaves it to us.
fn await_pidfile(path: &Path) {
    let since = world::now();
    while Pidfile::check(path).is_err() {
        if world::now().since(since) > PIDFILE_PATIENCE {
            tracing::warn!("pidfile \"{}\" is still there", path.display());
            return;
        }
        std::thread::sleep(PIDFILE_PERIOD);
    }
}
