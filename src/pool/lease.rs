//! What a client holds: a waiter for its life, a ticket while it is in line, a lease while it has a server.
//!
//! Each gives up by being dropped. A dropped ticket leaves the line, and where a grant had just been made, the
//! untouched server goes back. A dropped lease *closes* its server: only [`Lease::release`] says that the server is
//! clean, and [`Lease::abandon`] that it can be made so, so a dirty one cannot come back by omission.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use tokio::task::AbortHandle;

use super::abandoned::LeftAt;
use super::orders::{Errand, Loan};
use super::waiting::Place;
use super::{Kept, Pool, lock};
use crate::net::world;
use crate::server::{ConnectError, Server};
use crate::stats::counters::bump;
use crate::stats::lines::{self, Tag};
use crate::stats::moment::Moment;
use crate::stats::roster::{ClientCard, ClientState, ServerState};
use crate::wire::startup::Replication;

/// The answer of [`Pool::ask`].
pub enum Ask {
    /// Here it is.
    Granted(Lease),
    /// In line. The client's card is woken when there is news for the ticket.
    Waiting(Ticket),
    /// Not even in line.
    Refused(Refusal),
}

/// PgBouncer's words where a server refuses a replication connection.
pub(super) const DEDICATED_LOGIN_FAILED: &str = "login failed";

/// Why a client gets no server.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// `query_wait_timeout` passed.
    QueryWaitTimeout,
    /// The pool has no usable server, and the login of the next one was turned down for good: the server's own words.
    ServerLoginFailed(Arc<ConnectError>),
    /// The server that was to be this client's alone turned its login down.
    DedicatedLoginFailed(Arc<ConnectError>),
    /// The pool has no server, and the last attempt failed less than `server_login_retry` ago: the cached error.
    LoginRetry(Arc<ConnectError>),
    /// The database is no longer configured.
    DatabaseGone,
    /// KILL.
    Killed,
    /// The process stops.
    Shutdown,
}

impl Refusal {
    /// May a client that needs no server yet stay? One may be had later, unless PostgreSQL has just said otherwise.
    pub fn may_pass(&self) -> bool {
        matches!(self, Refusal::QueryWaitTimeout | Refusal::LoginRetry(_))
    }
}

impl fmt::Display for Refusal {
    /// PgBouncer's words.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::QueryWaitTimeout => out.write_str("query_wait_timeout"),
            Refusal::ServerLoginFailed(error) => out.write_str(&error.message),
            Refusal::DedicatedLoginFailed(error) if error.from_server => out.write_str(DEDICATED_LOGIN_FAILED),
            Refusal::DedicatedLoginFailed(error) => out.write_str(&error.message),
            Refusal::LoginRetry(error) => {
                write!(out, "server login has been failing, cached error: {} (server_login_retry)", error.message)
            }
            Refusal::Killed | Refusal::DatabaseGone => out.write_str("database removed"),
            Refusal::Shutdown => out.write_str("server shutting down"),
        }
    }
}

/// How a pool reaches one client. Made once for each client, used again for each wait.
pub struct Waiter {
    card: Arc<ClientCard>,
    pool: Arc<Pool>,
    slot: Mutex<Slot>,
    dedicated: Option<Box<Dedicated>>,
}

/// How a server that is opened for one client starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// What it is for.
    pub replication: Replication,
    /// Startup parameters, which go before those of the database.
    pub parameters: Vec<(String, String)>,
}

/// What only a client with a server of its own has.
struct Dedicated {
    start: Start,
    /// The opening under way.
    opening: Mutex<Option<AbortHandle>>,
}

/// Where the answer to a wait is put.
struct Slot {
    /// Number of the present wait, or of the last; it may begin anew, for no order is that old.
    turn: u32,
    /// Is the client still waiting?
    open: bool,
    /// Is a notice due (`query_wait_notify`)?
    notice: bool,
    outcome: Option<Outcome>,
}

/// How a wait ends.
pub(super) enum Outcome {
    Granted { kept: Kept, loan: Loan, waited_us: u64 },
    Refused(Refusal),
}

impl Waiter {
    /// For the client with this card, in this pool.
    pub fn new(card: Arc<ClientCard>, pool: Arc<Pool>) -> Arc<Waiter> {
        Waiter::with(card, pool, None)
    }

    /// For the client with this card, which will ask for a server of its own ([`Pool::ask_dedicated`]).
    pub fn dedicated(card: Arc<ClientCard>, pool: Arc<Pool>, start: Start) -> Arc<Waiter> {
        Waiter::with(card, pool, Some(Box::new(Dedicated { start, opening: Mutex::new(None) })))
    }

    fn with(card: Arc<ClientCard>, pool: Arc<Pool>, dedicated: Option<Box<Dedicated>>) -> Arc<Waiter> {
        let slot = Mutex::new(Slot { turn: 0, open: false, notice: false, outcome: None });
        Arc::new(Waiter { card, pool, slot, dedicated })
    }

    /// How its own server is to start, if it is to have one.
    pub fn start(&self) -> Option<&Start> {
        self.dedicated.as_deref().map(|dedicated| &dedicated.start)
    }

    /// The client's card.
    pub fn card(&self) -> &Arc<ClientCard> {
        &self.card
    }

    /// The pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Opens the slot for a new wait.
    pub(super) fn begin(self: &Arc<Waiter>) -> Turn {
        let mut slot = lock(&self.slot);
        debug_assert!(!slot.open, "one wait at a time");
        slot.turn = slot.turn.wrapping_add(1);
        slot.open = true;
        slot.notice = false;
        Turn { waiter: self.clone(), turn: slot.turn }
    }

    /// Closes the slot: there will be no answer.
    pub(super) fn give_up(&self) {
        lock(&self.slot).open = false;
    }
}

/// One wait of one client, as the line knows it.
#[derive(Clone)]
pub(super) struct Turn {
    waiter: Arc<Waiter>,
    turn: u32,
}

impl Turn {
    /// Puts the answer into the slot and wakes the client.
    ///
    /// # Errors
    /// The client no longer waits; it gives the answer back.
    pub(super) fn deliver(&self, outcome: Outcome) -> Result<(), Outcome> {
        let mut slot = lock(&self.waiter.slot);
        if !slot.open || slot.turn != self.turn {
            return Err(outcome);
        }
        slot.outcome = Some(outcome);
        drop(slot);
        self.waiter.card.wake();
        Ok(())
    }

    /// Remembers the opening under way for this turn, which ends when the client leaves.
    pub(super) fn opening(&self, task: AbortHandle) {
        let Some(dedicated) = &self.waiter.dedicated else { return };
        // The lock is held over the look at the slot: whoever leaves now closes the slot first, and then looks here.
        let mut opening = lock(&dedicated.opening);
        let slot = lock(&self.waiter.slot);
        if slot.open && slot.turn == self.turn {
            *opening = Some(task);
        } else {
            task.abort();
        }
    }

    /// The waiter.
    pub(super) fn waiter(&self) -> &Arc<Waiter> {
        &self.waiter
    }

    /// Makes a notice due and wakes the client.
    pub(super) fn notify(&self) {
        let mut slot = lock(&self.waiter.slot);
        if slot.open && slot.turn == self.turn {
            slot.notice = true;
            drop(slot);
            self.waiter.card.wake();
        }
    }
}

/// A place in line; dropping it leaves.
pub struct Ticket {
    waiter: Arc<Waiter>,
    place: Place,
    worker: usize,
}

impl Ticket {
    pub(super) fn new(waiter: &Arc<Waiter>, place: Place, worker: usize) -> Ticket {
        waiter.card.set_state(ClientState::Waiting);
        Ticket { waiter: waiter.clone(), place, worker }
    }

    /// The outcome, once there is one. The client's card is woken when it is worth asking; after an answer there is
    /// none other.
    pub fn poll(&mut self) -> Option<Result<Lease, Refusal>> {
        let mut slot = lock(&self.waiter.slot);
        let outcome = slot.outcome.take()?;
        slot.open = false;
        drop(slot);
        self.waiter.card.set_state(ClientState::Active);
        match outcome {
            Outcome::Granted { kept, loan, waited_us } => {
                let shard = self.waiter.pool.counters.shard(self.worker);
                bump(&shard.server_assignment_count, u64::from(self.waiter.dedicated.is_none()));
                bump(&shard.wait_time, waited_us);
                Some(Ok(Lease::begin(kept, loan, &self.waiter)))
            }
            Outcome::Refused(refusal) => Some(Err(refusal)),
        }
    }

    /// Is the client to be told that it waits (`query_wait_notify`)? True at most once for each wait.
    pub fn notice_due(&mut self) -> bool {
        std::mem::take(&mut lock(&self.waiter.slot).notice)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let pool = &self.waiter.pool;
        let was_open = std::mem::replace(&mut lock(&self.waiter.slot).open, false);
        let dedicated = self.waiter.dedicated.as_deref();
        if let Some(opening) = dedicated.and_then(|dedicated| lock(&dedicated.opening).take()) {
            opening.abort();
        }
        if !was_open {
            return;
        }
        self.waiter.card.set_state(ClientState::Active);
        // Out of the line, or else an order for this turn was made: it finds the slot closed, or is in it by now.
        drop(match dedicated {
            Some(_) => pool.lock().dedicated_left(self.place),
            None => pool.lock().client_left(self.place),
        });
        let outcome = lock(&self.waiter.slot).outcome.take();
        if let Some(Outcome::Granted { kept, loan, .. }) = outcome {
            pool.shelve(kept, loan, world::now());
        }
    }
}

/// A server on loan. Dropping it closes the server; [`Lease::release`] gives it back clean.
pub struct Lease {
    /// Nothing only while `self` is on its way out.
    held: Option<(Kept, Loan)>,
    waiter: Arc<Waiter>,
}

impl Lease {
    pub(super) fn begin(kept: Kept, loan: Loan, waiter: &Arc<Waiter>) -> Lease {
        let card = kept.server.card();
        card.set_state(ServerState::Active);
        card.count_loan();
        card.set_link(waiter.card.id);
        waiter.card.set_link(card.id);
        Lease { held: Some((kept, loan)), waiter: waiter.clone() }
    }

    /// Gives the server back. It must be at rest: outside of a transaction, nothing owed, nothing of the client's left
    /// in its streams.
    pub fn release(mut self, now: Moment) {
        if let Some((kept, loan)) = self.take() {
            self.waiter.pool.come_home(kept, loan, now);
        }
    }

    /// Gives the server back to which nothing was sent: no reset is due, and it does not count as an assignment.
    pub fn release_untouched(mut self, worker: usize, now: Moment) {
        self.waiter.pool.counters.shard(worker).server_assignment_count.fetch_sub(1, Relaxed);
        if let Some((kept, mut loan)) = self.take() {
            // With server_lifetime 0 it would close, and its first query would find none. Had it served before, it
            // would have closed then.
            loan.served = false;
            if kept.server.card().loans() == 1 {
                // It is as it was opened: with server_check_delay 0 its first use needs no check.
                self.waiter.pool.lock().server_errand(&mut loan, Errand::Tested);
            }
            match kept.server.card().cancels.load(std::sync::atomic::Ordering::SeqCst) {
                0 => self.waiter.pool.shelve(kept, loan, now),
                _ => self.waiter.pool.hold_back(kept, loan),
            }
        }
    }

    /// Hands a server over whose client has left, or had to, in the middle of something. PostgreSQL is asked to cancel
    /// what it does for that client, and the server is kept where it can be made clean; where not, it is closed when
    /// PostgreSQL has done with it, and the reason goes to the log.
    pub fn abandon(mut self, left: LeftAt, reason: &'static str) {
        if let Some((kept, loan)) = self.take() {
            self.waiter.pool.abandon(kept, loan, left, reason, world::now());
        }
    }

    /// Closes the server; the reason goes to the log.
    pub fn close(mut self, reason: &str) {
        self.close_for(reason);
    }

    /// The pool the server belongs to.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.waiter.pool
    }

    /// The server, no longer linked to the client: cancel requests for the client no longer mean it.
    fn take(&mut self) -> Option<(Kept, Loan)> {
        let (kept, loan) = self.held.take()?;
        self.waiter.card.set_link(0);
        kept.server.card().set_link(0);
        Some((kept, loan))
    }

    fn close_for(&mut self, reason: &str) {
        if let Some((kept, loan)) = self.take() {
            self.waiter.pool.discard(kept, loan, reason, world::now());
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.close_for("client disconnect while server was not ready");
    }
}

const HELD: &str = "a lease has its server until it is given back, which consumes it";

impl Deref for Lease {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.held.as_ref().expect(HELD).0.server
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.held.as_mut().expect(HELD).0.server
    }
}

/// PgBouncer's line for the end of a server.
pub(super) fn log_closing(server: &Server, reason: &str, wanted: bool, now: Moment) {
    if wanted {
        let card = server.card();
        let line = lines::closing(reason, now.since(card.connected));
        tracing::info!(conn = ?Tag::server(card), "{line}");
    }
}
