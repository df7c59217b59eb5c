//! SUSPEND: everybody comes to a stop at the edge of a message, all buffers empty, until RESUME or a successor.
//!
//! ```text
//!   Running ─ SUSPEND ─► Draining ─ nobody waits for a server ─► Frozen ─► the command is answered
//!      ▲                     └──────────────── suspend_timeout ────┘ ▲
//!      └──────── RESUME, SIGUSR2, the end of who suspended ──────────┘
//! ```
//!
//! While *draining*, clients finish the message they are in and are read no further; servers go on, so that those who
//! wait for one get it. Once *frozen*, servers stop too, each between two messages. Every task is told by
//! [`Order::Heed`] on its client's card, looks here what is wanted, says on the card that it is still, and from then on
//! touches no socket. What a task has can be asked for at any time ([`Suspension::ask`]): SHOW FDS and a takeover.
//! PgBouncer: `per_loop_suspend`.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{oneshot, watch};

use crate::protocol::handover::Row;
use crate::protocol::statements::Statement;
use crate::stats::roster::{ClientCard, Order, Roster};

/// How far a suspension is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is none.
    Running,
    /// Clients stop.
    Draining,
    /// Servers stop too.
    Frozen,
}

/// A connection as it can be handed over: its row, and its socket a second time. No socket where it cannot be handed
/// over, as with TLS, whose state no descriptor carries.
#[derive(Debug)]
pub struct Exhibit {
    /// Its number in the roster.
    pub id: u64,
    /// What SHOW FDS says of it.
    pub row: Row,
    /// The same socket under another number.
    pub socket: Option<OwnedFd>,
    /// The prepared statements that its state names.
    pub statements: Vec<Arc<Statement>>,
}

/// What a client's task shows: itself, and the server on loan to it.
#[derive(Debug)]
pub struct Exhibits {
    /// The client.
    pub client: Exhibit,
    /// Its server.
    pub server: Option<Exhibit>,
}

/// The state of suspension, one for the process.
#[derive(Debug)]
pub struct Suspension {
    phase: watch::Sender<Phase>,
    /// Who wants to see which client.
    asked: Mutex<HashMap<u64, oneshot::Sender<Exhibits>>>,
    /// Has a successor got everything, since the suspension began?
    handed_over: AtomicBool,
    /// The connections that it got.
    taken: Mutex<HashSet<u64>>,
}

impl Default for Suspension {
    fn default() -> Suspension {
        Suspension {
            phase: watch::Sender::new(Phase::Running),
            asked: Mutex::default(),
            handed_over: AtomicBool::new(false),
            taken: Mutex::default(),
        }
    }
}

impl Suspension {
    /// How far it is.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Is there one?
    pub fn is_on(&self) -> bool {
        self.phase() != Phase::Running
    }

    /// Tells of each change: listeners do not accept while there is a suspension.
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// A successor has got every socket that can be handed over, while everybody kept still. It is at the other end of
    /// this connection.
    pub fn note_handed_over(&self, successor: u64) {
        self.note_taken(successor);
        self.handed_over.store(self.phase() == Phase::Frozen, Relaxed);
    }

    /// Has a successor all that can be handed over? Then this process must end without a word to any of these.
    pub fn handed_over(&self) -> bool {
        self.phase() == Phase::Frozen && self.handed_over.load(Relaxed)
    }

    /// A successor has got this connection's socket.
    pub fn note_taken(&self, id: u64) {
        self.taken().insert(id);
    }

    /// Has a successor this connection's socket?
    pub(super) fn is_taken(&self, id: u64) -> bool {
        self.taken().contains(&id)
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, HashSet<u64>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins one; false where there is one.
    pub(super) fn begin(&self) -> bool {
        self.handed_over.store(false, Relaxed);
        self.taken().clear();
        self.step(Phase::Running, Phase::Draining)
    }

    /// Nobody waits for a server any more, or has waited long enough; false where it has ended meanwhile.
    pub(super) fn freeze(&self) -> bool {
        self.step(Phase::Draining, Phase::Frozen)
    }

    /// Ends it; false where there was none.
    pub(super) fn end(&self) -> bool {
        self.phase.send_replace(Phase::Running) != Phase::Running
    }

    fn step(&self, from: Phase, to: Phase) -> bool {
        self.phase.send_if_modified(|phase| {
            let fits = *phase == from;
            if fits {
                *phase = to;
            }
            fits
        })
    }

    /// Has every client's task look here.
    pub(super) fn call(&self, roster: &Roster) {
        for card in roster.clients() {
            card.give_order(Order::Heed);
        }
    }

    /// Asks a client's task to show what it has. Nothing comes where the client leaves meanwhile or never logs in.
    pub fn ask(&self, card: &ClientCard) -> oneshot::Receiver<Exhibits> {
        let (tell, told) = oneshot::channel();
        self.lock().insert(card.id, tell);
        card.give_order(Order::Heed);
        told
    }

    /// Is this client's task asked? The answer is to be sent at once.
    pub fn asked(&self, card: &ClientCard) -> Option<oneshot::Sender<Exhibits>> {
        self.lock().remove(&card.id)
    }

    /// Nobody asks for this client any more.
    pub fn unask(&self, card: &ClientCard) {
        self.lock().remove(&card.id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Exhibits>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Is everything that this client sent where it belongs, so that servers may stop too? Either its task keeps still, or
/// it has its server.
pub(super) fn drained(card: &ClientCard) -> bool {
    still(card) || card.link() != 0
}

/// Does the client's task keep still? The console's do what they are told.
pub(super) fn still(card: &ClientCard) -> bool {
    card.frozen.load(Relaxed) || (card.console.load(Relaxed) && card.logged_in.load(Relaxed))
}
