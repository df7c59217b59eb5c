//! One connection from an application.
//!
//! ```text
//!   accept ──► hello ──► login ──► session ⇄ relay ──► farewell
//!                 └► cancel request, console
//! ```
//!
//! - `hello` the first packets: TLS and GSS refused, cancel, or startup
//! - `login` drives `auth::Handshake`, finds the pool, greets
//! - `session` ★ the loop: rest → request → acquire → relay → release; all safe points
//! - `relay` ★ both directions between one client and one server until at rest
//! - `prepared` the relay's part that renames prepared statements
//! - `console` a client whose server is us
//! - [`overdue`] the timeouts of clients, for the janitor
//! - [`farewell`] every reason a client is refused or dropped, and its words

mod console;
pub mod farewell;
mod hello;
mod login;
pub mod overdue;
mod prepared;
mod relay;
mod session;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use crate::admin;
use crate::auth::KeyCache;
use crate::cancel::table::CancelTable;
use crate::net::stream::{Raw, Stream};
use crate::net::workers::{Carried, Workers};
use crate::net::world;
use crate::pool::Registry;
use crate::protocol::parameters::Tracked;
use crate::protocol::shared::{Catalogue, Interner};
use crate::stats::lines;
use crate::stats::roster::{ClientCard, Endpoint, Roster};
use session::{Client, Leaving};

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
    /// Clients that count against max_client_conn.
    pub seats: Arc<Seats>,
}

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
    let card = entered.card().clone();
    let farewell = match Box::pin(login::log_in(shared.clone(), entered, stream)).await {
        login::LoggedIn::Client(client) => {
            tokio::spawn(serve_session(client, carried));
            return;
        }
        login::LoggedIn::Console(console) => Box::pin(console.run()).await,
        login::LoggedIn::Nobody(farewell) => farewell,
        login::LoggedIn::Canceler => return,
    };
    log_farewell(&shared, &card, &farewell);
}

/// Serves a logged-in client, until it leaves or moves to another worker.
async fn serve_session(mut client: Box<Client>, mut carried: Carried) {
    match client.run().await {
        Leaving::For(farewell) => {
            client.say_farewell(&farewell);
            log_farewell(&client.shared, client.card(), &farewell);
        }
        Leaving::ToWorker(worker) => {
            carried.move_to(worker);
            let there = carried.handle().clone();
            there.spawn(serve_moved(client, carried));
        }
    }
}

/// As [`serve_session`], for a client that comes from another worker. Boxed, because it may move on from there.
fn serve_moved(mut client: Box<Client>, carried: Carried) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        match client.stream.move_here() {
            Ok(()) => serve_session(client, carried).await,
            Err(_) => log_farewell(&client.shared, client.card(), &farewell::Farewell::ClientGone),
        }
    })
}

fn log_farewell(shared: &Shared, card: &ClientCard, farewell: &farewell::Farewell) {
    let config = shared.registry.config();
    let tag = lines::Tag::client(card);
    if !farewell.is_quiet() && config.settings.log_pooler_errors {
        tracing::warn!(conn = ?tag, "{}", lines::pooler_error(&farewell.text()));
    }
    if config.settings.log_disconnections {
        let age = world::now().since(card.connected);
        tracing::info!(conn = ?tag, "{}", lines::closing(&farewell.text(), age));
    }
}
