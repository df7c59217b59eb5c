//! How a request to cancel gets its connection: a ticket for the line of a pool or a peer. And the peers.
//!
//! A ticket gives up by being dropped, at whatever stage. Whoever is next looks again whenever a pool's books change,
//! as PAUSE and WAIT_CLOSE do. The requests that a pool makes itself, for servers that clients have left, have a line
//! of their own, in which nobody waits.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::cancel_line::{CancelCounts, CancelLine, Room, Stage, Turn, room_at_peer, room_in_pool};
use super::ledger::Permit;
use super::{Pool, Surroundings, lock};
use crate::config::{Host, Peer};
use crate::net::dial::Dialled;
use crate::net::world;
use crate::stats::lines::{self, Tag};
use crate::stats::moment::Moment;
use crate::stats::roster::{EnteredServer, Names, ServerCard, ServerState};

/// A peer that requests to cancel are passed on to. It has no servers: each request has a connection of its own.
pub struct PeerPool {
    id: u16,
    entry: Mutex<Entry>,
    removed: AtomicBool,
    requests: Mutex<CancelLine>,
    surroundings: Arc<Surroundings>,
}

/// What the configuration says of a peer.
struct Entry {
    host: Host,
    pool_size: u32,
}

impl Entry {
    fn new(peer: &Peer, default_pool_size: u32) -> Entry {
        Entry { host: peer.host.clone(), pool_size: peer.pool_size.unwrap_or(default_pool_size) }
    }
}

/// The row of a peer in SHOW PEER_POOLS.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields are the columns of SHOW PEER_POOLS")]
pub struct PeerPoolView {
    pub peer_id: u16,
    pub cl_active_cancel_req: u32,
    pub cl_waiting_cancel_req: u32,
    pub sv_active_cancel: u32,
    pub sv_login: u32,
}

impl PeerPool {
    pub(super) fn new(id: u16, peer: &Peer, default_pool_size: u32, surroundings: Arc<Surroundings>) -> Arc<PeerPool> {
        Arc::new(PeerPool {
            id,
            entry: Mutex::new(Entry::new(peer, default_pool_size)),
            removed: AtomicBool::new(false),
            requests: Mutex::default(),
            surroundings,
        })
    }

    /// Its `peer_id`.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Where it listens, by the configuration that holds now.
    pub fn host(&self) -> Host {
        lock(&self.entry).host.clone()
    }

    /// Ends when the peer is no longer configured.
    pub async fn removed(&self) {
        until(&self.surroundings.progress, || self.removed.load(SeqCst).then_some(())).await;
    }

    pub(super) fn apply(&self, peer: &Peer, default_pool_size: u32) {
        *lock(&self.entry) = Entry::new(peer, default_pool_size);
    }

    pub(super) fn remove(&self) {
        self.removed.store(true, SeqCst);
    }

    /// The row of SHOW PEER_POOLS.
    pub fn view(&self) -> PeerPoolView {
        let counts = lock(&self.requests).counts();
        PeerPoolView {
            peer_id: self.id,
            cl_active_cancel_req: counts.telling,
            cl_waiting_cancel_req: counts.waiting,
            sv_active_cancel: counts.telling,
            sv_login: counts.connecting,
        }
    }
}

/// Whose line a ticket is for.
enum Desk {
    Pool(Arc<Pool>),
    /// Requests of the pool's own. There is one at most for each server, and PostgreSQL has taken those.
    Abandoned(Arc<Pool>),
    Peer(Arc<PeerPool>),
}

impl Desk {
    fn line(&self) -> &Mutex<CancelLine> {
        match self {
            Desk::Pool(pool) => &pool.cancel_line,
            Desk::Abandoned(pool) => &pool.own_cancels,
            Desk::Peer(peer) => &peer.requests,
        }
    }

    fn surroundings(&self) -> &Surroundings {
        match self {
            Desk::Pool(pool) | Desk::Abandoned(pool) => &pool.surroundings,
            Desk::Peer(peer) => &peer.surroundings,
        }
    }

    /// Whose names its connections are shown with: those to a peer have none.
    fn names(&self) -> Names {
        match self {
            Desk::Pool(pool) | Desk::Abandoned(pool) => {
                Names { database: pool.database().clone(), user: pool.user().clone() }
            }
            Desk::Peer(_) => Names { database: "(nodb)".into(), user: "(nouser)".into() },
        }
    }

    fn room(&self, counts: CancelCounts) -> Room {
        match self {
            Desk::Pool(pool) => {
                let servers = pool.counts(Moment(0)).servers();
                room_in_pool(pool.rules().pool_size, servers, counts.connections())
            }
            Desk::Abandoned(_) => Room::Free,
            Desk::Peer(peer) => room_at_peer(lock(&peer.entry).pool_size, counts.connections()),
        }
    }
}

/// A request's place in the line of its pool or peer, and then its right to a connection. Dropped, it gives up both.
pub struct CancelTicket {
    desk: Desk,
    /// Nothing only while `self` is on its way out.
    turn: Option<Turn>,
    /// Held while there is a connection to a server of a pool.
    permit: Option<Permit>,
}

impl CancelTicket {
    /// For a request that concerns a server of this pool.
    pub fn for_pool(pool: &Arc<Pool>) -> CancelTicket {
        CancelTicket::at(Desk::Pool(pool.clone()))
    }

    /// For a request of the pool's own, that concerns a server which a client has left.
    pub(super) fn for_abandoned(pool: &Arc<Pool>) -> CancelTicket {
        CancelTicket::at(Desk::Abandoned(pool.clone()))
    }

    /// For a request to be passed on to this peer.
    pub fn for_peer(peer: &Arc<PeerPool>) -> CancelTicket {
        CancelTicket::at(Desk::Peer(peer.clone()))
    }

    fn at(desk: Desk) -> CancelTicket {
        let turn = lock(desk.line()).join();
        CancelTicket { desk, turn: Some(turn), permit: None }
    }

    /// Ends when it may open its connection: it is the first in line, and there is room. In a pool, twice `pool_size`
    /// is the most that servers and requests may have together.
    pub async fn admitted(&mut self) {
        let progress = self.progress();
        until(&progress.progress, || self.try_pass().then_some(())).await;
        // The next in line may have room, too.
        progress.progress.notify_waiters();
    }

    /// Its connection stands, and is shown from now on. `link` is the connection that the request came with.
    pub fn carrier(&self, dialled: &Dialled, link: u64, logged: Logged) -> Carrier {
        let (roster, names) = (&self.desk.surroundings().roster, self.desk.names());
        let (peer, local) = (dialled.peer.clone(), dialled.local.clone());
        let card = ServerCard::new(roster.next_id(), names, peer, local, world::wall_clock(), world::now());
        card.set_link(link);
        let to_peer = match &self.desk {
            Desk::Peer(peer) => Some(peer.id),
            Desk::Pool(_) | Desk::Abandoned(_) => None,
        };
        let carrier = Carrier { entered: roster.enter_server(card), to_peer, logged, reason: GIVEN_UP };
        if logged.connections {
            tracing::info!(conn = ?carrier.tag(), "{}", lines::new_server(&carrier.card().local));
        }
        carrier
    }

    /// The request goes out over its connection.
    pub fn connected(&mut self) {
        self.move_to(Stage::Telling);
    }

    /// Its connection could not be made: its place is free for others.
    pub fn rest(&mut self) {
        self.move_to(Stage::Resting);
        self.permit = None;
        self.desk.surroundings().progress.notify_waiters();
    }

    /// It tries again, as the last in line.
    pub fn rejoin(&mut self) {
        self.move_to(Stage::InLine);
    }

    fn progress(&self) -> Arc<Surroundings> {
        match &self.desk {
            Desk::Pool(pool) | Desk::Abandoned(pool) => pool.surroundings.clone(),
            Desk::Peer(peer) => peer.surroundings.clone(),
        }
    }

    fn try_pass(&mut self) -> bool {
        let (next, counts) = {
            let line = lock(self.desk.line());
            (self.turn.as_ref().is_some_and(|turn| line.is_next(turn)), line.counts())
        };
        // Only the first in line comes any further, so that nobody else can take the room that is found here.
        if !next {
            return false;
        }
        let room = self.desk.room(counts);
        if room == Room::None {
            return false;
        }
        if let Desk::Pool(pool) | Desk::Abandoned(pool) = &self.desk {
            let Some(permit) = pool.surroundings.ledger.cancel_permit(pool, room == Room::Free, world::now()) else {
                return false;
            };
            self.permit = Some(permit);
        }
        self.move_to(Stage::Connecting);
        true
    }

    fn move_to(&mut self, stage: Stage) {
        if let Some(turn) = &mut self.turn {
            lock(self.desk.line()).move_to(turn, stage);
        }
    }
}

impl Drop for CancelTicket {
    fn drop(&mut self) {
        if let Some(turn) = self.turn.take() {
            lock(self.desk.line()).leave(turn);
        }
        self.permit = None;
        if let Desk::Pool(pool) = &self.desk {
            pool.cancel_settled();
        }
        self.desk.surroundings().progress.notify_waiters();
    }
}

/// Which of a connection's lines are wanted in the log.
#[derive(Clone, Copy, Debug)]
pub struct Logged {
    /// log_connections.
    pub connections: bool,
    /// log_disconnections.
    pub disconnections: bool,
}

/// Why the connection of a request is closed that came to nothing else.
const GIVEN_UP: &str = "client gave up on cancel request, so we also give up forwarding to server";

/// The connection that carries a request, as SHOW SERVERS and the log have it. Its end is logged whatever ends it.
pub struct Carrier {
    entered: EnteredServer,
    to_peer: Option<u16>,
    logged: Logged,
    reason: &'static str,
}

impl Carrier {
    /// Its public face.
    pub fn card(&self) -> &Arc<ServerCard> {
        self.entered.card()
    }

    /// The request goes out over this connection.
    pub fn connected(&self) {
        self.card().set_state(ServerState::ActiveCancel);
    }

    /// What became of the request: why the connection is closed.
    pub fn told(&mut self, told: std::io::Result<()>) -> &'static str {
        self.reason = match told {
            Ok(()) => "successfully sent cancel request",
            Err(error) => {
                tracing::warn!(conn = ?self.tag(), "sending cancel request failed: {error}");
                "failed to send cancel request"
            }
        };
        self.reason
    }

    fn tag(&self) -> Tag<'_> {
        let tag = Tag::server(self.entered.card());
        match self.to_peer {
            Some(id) => tag.of_peer(id),
            None => tag,
        }
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        if self.logged.disconnections {
            let age = world::now().since(self.card().connected);
            tracing::info!(conn = ?self.tag(), "{}", lines::closing(self.reason, age));
        }
    }
}

/// Asks `check` now and whenever `progress` rings, until it answers.
pub(super) async fn until<T>(progress: &Notify, mut check: impl FnMut() -> Option<T>) -> T {
    loop {
        // Listen before looking, so that what happens in between is heard.
        let mut rung = std::pin::pin!(progress.notified());
        rung.as_mut().enable();
        if let Some(found) = check() {
            return found;
        }
        rung.await;
    }
}
