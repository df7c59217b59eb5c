//! One connection from an application.
//!
//! ```text
//!   accept ──► hello ──► login ──► session ⇄ relay ──► farewell
//!                 └► cancel request, console
//! ```
//!
//! - `hello` the first packets: TLS taken up, GSS refused, cancel, or startup
//! - `login` drives `auth::Handshake`, finds the pool, greets
//! - [`auth_query`] asks a server for the secrets of users who are not in auth_file
//! - `records` auth_type hba: which record fits, and the methods peer and cert
//! - `session` ★ the loop: rest → request → acquire → relay → release; all safe points
//! - `relay` ★ both directions between one client and one server until at rest
//! - `prepared` the relay's part that renames prepared statements
//! - `reports` the relay's part that notes what a server reports of its parameters
//! - `departure` a client that leaves: what it has sent is carried out
//! - `withdrawn` a request that was cancelled in the queue
//! - `replication` a client that has a server of its own
//! - `showing` who answers to SHOW FDS
//! - [`handover`] a client as it goes to a successor and comes from a predecessor
//! - `console` a client whose server is us
//! - `canceler` a connection with a request to cancel: to the server, or on to a peer
//! - [`throttle`] how many logins an address may try
//! - [`overdue`] the timeouts of clients, for the janitor
//! - [`farewell`] every reason a client is refused or dropped, and its words

pub mod auth_query;
mod canceler;
mod console;
mod departure;
pub mod farewell;
pub mod handover;
mod hello;
mod login;
pub mod overdue;
mod prepared;
mod records;
mod relay;
mod replication;
mod reports;
mod session;
mod showing;
pub mod throttle;
mod withdrawn;

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use crate::admin;
use crate::auth::KeyCache;
use crate::cancel::table::CancelTable;
use crate::net::ldap::Directories;
use crate::net::listen::Listeners;
use crate::net::pam::Pam;
use crate::net::stream::{Raw, Stream};
use crate::net::tls::TlsStream;
use crate::net::workers::{Carried, Workers};
use crate::net::world;
use crate::pool::Registry;
use crate::protocol::parameters::Tracked;
use crate::protocol::shared::{Catalogue, Interner};
use crate::stats::lines;
use crate::stats::roster::{ClientCard, Endpoint, Roster};
use farewell::Farewell;
use replication::Replica;
use session::{Client, Leaving};
use throttle::Throttle;

/// What all clients share.
pub struct Shared {
    /// The threads that carry clients.
    pub workers: Workers,
    /// The pools, and through them the configuration in force.
    pub registry: Arc<Registry>,
    /// Every connection's card.
    pub roster: Arc<Roster>,
    /// Derived keys.
    pub keys: KeyCache,
    /// Cancel keys.
    pub cancels: Arc<CancelTable>,
    /// Prepared statements by text.
    pub catalogue: Catalogue,
    /// Parameter sets, each kept once.
    pub interner: Interner,
    /// The parameters that follow a client. track_extra_parameters needs a restart.
    pub tracked: Tracked,
    /// What the consoles share.
    pub console: Arc<admin::Context>,
    /// Checks passwords with LDAP directories.
    pub directories: Directories,
    /// Checks passwords with PAM.
    pub pam: Pam,
    /// What auth_query said of users, as long as it is good.
    pub looked_up: auth_query::LookedUp,
    /// Clients that count against max_client_conn.
    pub seats: Arc<Seats>,
    /// Which addresses try to log in too often.
    pub throttle: Mutex<Throttle>,
    /// The sockets that clients arrive at.
    pub listeners: Listeners,
}

/// What a logged-in client takes by itself, in bytes, beside its card.
pub const SESSION_BYTES: usize = size_of::<Client>();

/// Clients that count against max_client_conn: those past their startup message, the console's not.
#[derive(Debug, Default)]
pub struct Seats {
    taken: AtomicU32,
}

impl Seats {
    /// Takes one of `most` seats.
    fn take(self: &Arc<Self>, most: u32) -> Option<Seat> {
        if self.taken.fetch_add(1, SeqCst) >= most {
            self.taken.fetch_sub(1, SeqCst);
            return None;
        }
        Some(Seat { seats: self.clone() })
    }
}

/// A client's place under max_client_conn, given up on drop.
#[derive(Debug)]
struct Seat {
    seats: Arc<Seats>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken.fetch_sub(1, SeqCst);
    }
}

/// Serves one accepted connection from its first byte to its last, on the calling worker, or from one safe point to the
/// next on that and others.
///
/// Logging in takes big futures and buffers, so it is a task of its own that is gone when the session begins: ten
/// thousand idle clients are ten thousand sessions.
pub async fn serve(shared: Arc<Shared>, socket: Raw, peer: Endpoint, local: Endpoint, carried: Carried) {
    let Ok(stream) = Stream::adopt(socket) else { return };
    let id = shared.roster.next_id();
    let card = ClientCard::new(id, peer, local, world::wall_clock(), world::now());
    card.set_worker(carried.worker());
    let entered = shared.roster.enter_client(card);
    match Box::pin(login::log_in(shared, entered, stream)).await {
        login::LoggedIn::Client(client) => {
            tokio::spawn(serve_session(client, carried));
        }
        login::LoggedIn::Replica(replica) => {
            tokio::spawn(serve_replica(replica, carried));
        }
        login::LoggedIn::Console(console) => Box::pin(console.run()).await,
        login::LoggedIn::Nobody => {}
    }
}

/// Serves a logged-in client, until it leaves or moves to another worker.
async fn serve_session(mut client: Box<Client>, mut carried: Carried) {
    match client.run().await {
        Leaving::For(farewell) => {
            let farewell = unless_tls_broke(farewell, &client.stream);
            Box::pin(log_farewell(&client.shared, client.card(), &farewell)).await;
            client.say_farewell(&farewell);
        }
        Leaving::ToWorker(worker) => {
            carried.move_to(worker);
            let there = carried.handle().clone();
            there.spawn(serve_moved(client, carried));
        }
    }
}

/// Serves a replication client to its end. It stays on its worker, whose load it is part of until then.
async fn serve_replica(mut replica: Box<Replica>, _carried: Carried) {
    let farewell = replica.run().await;
    let client = replica.client();
    let farewell = unless_tls_broke(farewell, &client.stream);
    log_farewell(&client.shared, client.card(), &farewell).await;
    client.say_farewell(&farewell);
}

/// As [`serve_session`], for a client that comes from another worker. Boxed, because it may move on from there.
fn serve_moved(mut client: Box<Client>, carried: Carried) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        match client.stream.move_here() {
            Ok(()) => serve_session(client, carried).await,
            Err(_) => log_farewell(&client.shared, client.card(), &Farewell::ClientGone).await,
        }
    })
}

/// Why a client leaves that seems to be gone: where its TLS broke, it has not just hung up.
fn unless_tls_broke(farewell: Farewell, stream: &Stream) -> Farewell {
    match (farewell, stream.tls().and_then(TlsStream::fault)) {
        (Farewell::ClientGone, Some(fault)) => Farewell::TlsBroken(fault.to_string()),
        (farewell, _) => farewell,
    }
}

/// Logs why a client leaves. Where it is to be told, this ends only when the log has it (or after a moment): who looks
/// into the log because of what a client says finds it there.
async fn log_farewell(shared: &Shared, card: &ClientCard, farewell: &Farewell) {
    let config = shared.registry.config();
    let tag = lines::Tag::client(card);
    if !farewell.is_quiet() && config.settings.log_pooler_errors {
        tracing::warn!(conn = ?tag, "{}", lines::pooler_error(&farewell.text()));
    }
    // Who leaves without a word is probably a probe of some monitoring, and PgBouncer is silent about it too.
    let probe = matches!(farewell, Farewell::ClientGone) && card.names.get().is_none();
    if config.settings.log_disconnections && !probe {
        let age = world::now().since(card.connected);
        tracing::info!(conn = ?tag, "{}", lines::closing(&farewell.text(), age));
    }
    if !farewell.is_quiet() {
        shared.console.process.log_written().await;
    }
}
