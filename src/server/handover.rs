//! A server as it is shown to a successor, and as it is taken from a predecessor.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use super::Server;
use crate::net::buffers::Inbox;
use crate::net::stream::Stream;
use crate::net::{workers, world};
use crate::protocol::exchange::Exchange;
use crate::protocol::handover::state::ServerState;
use crate::protocol::handover::{Row, Task};
use crate::protocol::parameters::ParameterSet;
use crate::protocol::statements::{ServerStatements, Statement};
use crate::stats::moment::Moment;
use crate::stats::roster::{CancelTarget, Endpoint, EnteredServer, Reach, ServerCard};
use crate::wire::framing::Framer;

/// A server that another process opened.
pub struct Inherited {
    /// Its place in the roster.
    pub entered: EnteredServer,
    /// Its socket, on the calling worker's reactor.
    pub stream: Stream,
    /// What it has reported.
    pub parameters: ParameterSet,
    /// The statements it holds, the least recently used first.
    pub statements: Vec<Arc<Statement>>,
    /// The numbers of those it may hold or not.
    pub suspects: Vec<u64>,
    /// What it owes.
    pub exchange: Exchange,
}

impl Server {
    /// Goes on with a server that another process opened.
    pub fn inherit(inherited: Inherited) -> Box<Server> {
        let statements = ServerStatements::inherited(inherited.statements, inherited.suspects);
        let server = Box::new(Server {
            entered: inherited.entered,
            home: workers::current(),
            stream: inherited.stream,
            inbox: Inbox::default(),
            framer: Framer::default(),
            exchange: inherited.exchange,
            parameters: inherited.parameters,
            statements,
        });
        server.note_statement_count();
        server
    }

    /// Its row of SHOW FDS, with all that a pgweir wants to know; what only the pool knows is missing.
    pub fn row(&self, now: Moment) -> (Row, ServerState) {
        let card = self.card();
        let mut row = Row {
            user: Some(card.user.to_string()),
            database: Some(card.database.to_string()),
            ..Row::new(Task::Server)
        };
        row.fd = self.stream.descriptor().map_or(0, |socket| socket.as_raw_fd());
        (row.addr, row.port) = address(&card.peer);
        row.note_parameters(|name| self.parameters.get(name));
        let mut state = self.state(card, now);
        if let Some(target) = card.cancel_target.get() {
            row.cancel = cancel_key(target);
            state.cancel_reach = Some(match &target.reach {
                Reach::Tcp(address) => address.to_string(),
                Reach::Unix(path) => path.clone(),
            });
            state.cancel_pid = target.pid;
            state.cancel_secret = target.secret.to_vec();
        }
        (row, state)
    }

    fn state(&self, card: &ServerCard, now: Moment) -> ServerState {
        let since_1970 = card.connected_at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let at_rest = self.exchange.at_rest();
        ServerState {
            id: card.id,
            connected_at: u64::try_from(since_1970.as_micros()).unwrap_or(0),
            age: now.micros_since(card.connected),
            rest_age: 0,
            served: true,
            close_needed: card.close_needed.load(Relaxed),
            application_name: card.application_name.lock().unwrap_or_else(PoisonError::into_inner).to_string(),
            parameters: self.parameters.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            statements: self.statements.iter().map(|statement| statement.id()).collect(),
            suspects: self.statements.suspects().collect(),
            exchange: if at_rest { serde_json::Value::Null } else { self.exchange.to_json() },
            ..ServerState::default()
        }
    }

    /// Its socket a second time, if a descriptor is all there is to hand over.
    ///
    /// # Errors
    /// The process may have no more descriptors.
    pub fn second_socket(&self) -> std::io::Result<Option<OwnedFd>> {
        self.stream.descriptor().map(|socket| socket.try_clone_to_owned()).transpose()
    }
}

/// The columns `addr` and `port` of SHOW FDS.
pub fn address(end: &Endpoint) -> (String, i32) {
    match end {
        Endpoint::Tcp(address) => (address.ip().to_string(), i32::from(address.port())),
        Endpoint::Unix { port, .. } => ("unix".to_owned(), i32::from(*port)),
    }
}

/// The column `cancel` of SHOW FDS: process id and secret. A secret of another length than four bytes has no room.
fn cancel_key(target: &CancelTarget) -> u64 {
    let secret = <[u8; 4]>::try_from(&*target.secret).map_or(0, u32::from_be_bytes);
    u64::from(target.pid.cast_unsigned()) << 32 | u64::from(secret)
}

impl Inherited {
    /// How to send this server a cancel request, from its row and what a pgweir says beyond it.
    pub fn cancel_target(row: &Row, state: Option<&ServerState>, peer: &Endpoint) -> Option<CancelTarget> {
        if let Some(state) = state
            && let Some(reach) = &state.cancel_reach
        {
            let reach = reach.parse::<SocketAddr>().map_or_else(|_| Reach::Unix(reach.clone()), Reach::Tcp);
            let secret = state.cancel_secret.as_slice().into();
            return Some(CancelTarget { reach, pid: state.cancel_pid, secret, encrypted_as: None });
        }
        let Endpoint::Tcp(address) = peer else { return None };
        let key = row.cancel.to_be_bytes();
        let (pid, secret) = key.split_first_chunk::<4>()?;
        let (reach, pid) = (Reach::Tcp(*address), i32::from_be_bytes(*pid));
        // What is taken over is not encrypted.
        Some(CancelTarget { reach, pid, secret: secret.into(), encrypted_as: None })
    }

    /// The moment that lies so many microseconds back.
    pub fn ago(micros: u64) -> Moment {
        Moment(world::now().0.saturating_sub(micros).max(1))
    }
}
