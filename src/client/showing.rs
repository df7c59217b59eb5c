//! Gathers the rows of SHOW FDS and SHOW HANDOVER: listeners, clients with their servers, idle servers.
//!
//! Each client's row is made by its own task, one after the other, so that no more than two descriptors are open twice
//! at a time.

use std::collections::HashSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::Shared;
use crate::config::Config;
use crate::net::listen::ListenSocket;
use crate::net::world;
use crate::pool::Checked;
use crate::pool::suspension::{Exhibit, Exhibits};
use crate::protocol::handover::state::StatementState;
use crate::protocol::handover::{Row, Task};
use crate::protocol::statements::Statement;
use crate::stats::roster::{ClientCard, Endpoint};

/// How long a client's task is waited for before it is looked whether the client is still there.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// How often, before it is passed over: its server is being set up for it, and does not answer.
const LOOKS_MAX: u32 = 40;

/// What a successor wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// PgBouncer's columns, of connections only.
    Fds,
    /// Everything.
    Handover,
}

/// Where rows go.
pub(super) trait Sink {
    /// Takes a row, and the socket it is about.
    async fn put(&mut self, row: Row, socket: Option<OwnedFd>) -> std::io::Result<()>;
}

/// Puts every row into the sink. `sockets` says that only rows whose socket can be sent are of any use.
pub(super) async fn gather(
    shared: &Shared,
    depth: Depth,
    sockets: Sockets,
    sink: &mut impl Sink,
) -> std::io::Result<()> {
    let config = shared.registry.config();
    let mut gathering = Gathering { shared, depth, sockets, config, known: HashSet::new(), sink };
    for listener in shared.listeners.all() {
        let (row, socket) = listener_row(&listener.socket);
        gathering.sink.put(row, socket).await?;
    }
    if depth == Depth::Handover {
        for pool in shared.registry.pools().into_iter().filter(|pool| !pool.rules().lookups) {
            gathering.sink.put(pool.row(), None).await?;
        }
    }
    for card in shared.roster.clients() {
        let logged_in = card.logged_in.load(Relaxed) && !card.console.load(Relaxed);
        if logged_in && let Some(exhibits) = ask(shared, &card).await {
            gathering.put_client(exhibits).await?;
        }
    }
    for pool in shared.registry.pools().into_iter().filter(|pool| !pool.rules().lookups) {
        for (exhibit, checked) in pool.exhibits(world::now()) {
            // PgBouncer would lend a server that is due for a check without one.
            if checked == Checked::Yes || depth == Depth::Handover || sockets == Sockets::Stay {
                gathering.put_connection(exhibit).await?;
            }
        }
    }
    Ok(())
}

/// Do sockets go with their rows?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sockets {
    /// They do.
    Go,
    /// The rows are only looked at.
    Stay,
}

struct Gathering<'a, S> {
    shared: &'a Shared,
    depth: Depth,
    sockets: Sockets,
    config: Arc<Config>,
    /// Statements that have had their row.
    known: HashSet<u64>,
    sink: &'a mut S,
}

impl<S: Sink> Gathering<'_, S> {
    async fn put_client(&mut self, exhibits: Exhibits) -> std::io::Result<()> {
        let Exhibits { client, server } = exhibits;
        // A client whose server stays behind would wait for an answer for ever.
        let whole = client.socket.is_some() && server.as_ref().is_none_or(|server| server.socket.is_some());
        if self.sockets == Sockets::Go && !whole {
            return Ok(());
        }
        self.put_connection(client).await?;
        match server {
            Some(server) => self.put_connection(server).await,
            None => Ok(()),
        }
    }

    async fn put_connection(&mut self, exhibit: Exhibit) -> std::io::Result<()> {
        let Exhibit { id, mut row, socket, statements } = exhibit;
        if row.user.as_ref().is_some_and(|user| self.config.secrets.find(user).is_some()) {
            // A successor has it from there.
            row.password = None;
        }
        match self.depth {
            Depth::Fds => row.state = None,
            Depth::Handover => self.put_statements(statements).await?,
        }
        if self.sockets == Sockets::Go {
            if socket.is_none() {
                return Ok(());
            }
            self.shared.registry.suspension().note_taken(id);
        }
        self.sink.put(row, socket).await
    }

    async fn put_statements(&mut self, statements: Vec<Arc<Statement>>) -> std::io::Result<()> {
        for statement in statements {
            if self.known.insert(statement.id()) {
                let state = StatementState { id: statement.id(), body: statement.body().to_vec() };
                self.sink.put(Row { state: Some(state.to_text()), ..Row::new(Task::Statement) }, None).await?;
            }
        }
        Ok(())
    }
}

/// What a client's task shows; `None` when it leaves first.
async fn ask(shared: &Shared, card: &ClientCard) -> Option<Exhibits> {
    let suspension = shared.registry.suspension();
    let mut told = suspension.ask(card);
    for _ in 0..LOOKS_MAX {
        match tokio::time::timeout(LOOK_PERIOD, &mut told).await {
            Ok(exhibits) => return exhibits.ok(),
            Err(_) if shared.roster.client(card.id).is_none() => break,
            Err(_) => {}
        }
    }
    suspension.unask(card);
    None
}

fn listener_row(socket: &ListenSocket) -> (Row, Option<OwnedFd>) {
    let mut row = Row::new(Task::Pooler);
    let socket = match socket {
        ListenSocket::Tcp(socket) => {
            if let Ok(address) = socket.local_addr() {
                (row.addr, row.port) = crate::server::address(&Endpoint::Tcp(address));
            }
            row.fd = socket.as_raw_fd();
            socket.try_clone().ok().map(OwnedFd::from)
        }
        ListenSocket::Unix(socket) => {
            row.fd = socket.as_raw_fd();
            socket.try_clone().ok().map(OwnedFd::from)
        }
    };
    (row, socket)
}
