//! Servers that a predecessor opened come into a pool, and a pool's own are shown to a successor.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::idle::Held;
use super::orders::Reason;
use super::scheduler::Returned;
use super::suspension::Exhibit;
use super::{Kept, Lease, Pool, Waiter, lock};
use crate::auth::Credential;
use crate::protocol::handover::state::{PoolState, ServerState};
use crate::protocol::handover::{Row, Task};
use crate::protocol::parameters::ParameterSet;
use crate::server::Server;
use crate::stats::moment::Moment;
use crate::stats::roster::ServerState as Doing;

/// How far a server that is on loan is to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A pgweir: all is known of it.
    Known,
    /// PgBouncer: nobody knows what it owes, nor its prepared statements. It is closed when its client is done.
    Foreign,
}

impl Pool {
    /// Puts a server on the shelf that a predecessor opened and that rests since `since`.
    pub fn adopt_idle(self: &Arc<Pool>, server: Box<Server>, state: &ServerState, since: Moment, now: Moment) {
        let kept = self.keep(server);
        if state.close_needed {
            return self.close(kept, "close_needed", now);
        }
        kept.mark(Doing::Idle);
        let connected = kept.server.card().connected;
        let returned = self.lock().adopt_resting(kept, connected, since, state.served, now);
        if let Returned::Do(order) = returned {
            self.perform(order, now);
        }
        self.carry_out(now);
    }

    /// Puts a server on loan to a client that had it in a predecessor.
    pub fn adopt_lent(self: &Arc<Pool>, server: Box<Server>, waiter: &Arc<Waiter>, origin: Origin) -> Lease {
        let kept = self.keep(server);
        let card = kept.server.card();
        let outdated = origin == Origin::Foreign || card.close_needed.load(Relaxed);
        card.close_needed.store(outdated, Relaxed);
        let loan = self.lock().adopt_active(card.connected, outdated);
        Lease::begin(kept, loan, waiter)
    }

    /// A place under the caps for a server that is open already, whatever they say.
    fn keep(self: &Arc<Pool>, server: Box<Server>) -> Kept {
        Kept { server, permit: self.surroundings.ledger.permit_open(self) }
    }

    /// What a predecessor told new clients, unless a server of our own has told us.
    pub fn adopt_welcome(&self, welcome: ParameterSet) {
        lock(&self.welcome).parameters.get_or_insert_with(|| Arc::new(welcome));
    }

    /// What a successor is to know of this pool.
    pub fn row(&self) -> Row {
        let welcome =
            self.welcome().map(|set| set.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect());
        let credential = lock(&self.credential).to_parts();
        Row {
            database: Some(self.names.database.to_string()),
            user: Some(self.names.user.to_string()),
            state: Some(PoolState { welcome, credential }.to_text()),
            ..Row::new(Task::Pool)
        }
    }

    /// The servers that rest, with their sockets. Those whose socket cannot be handed over, or for which no descriptor
    /// is left, are passed over.
    pub fn exhibits(&self, now: Moment) -> Vec<(Exhibit, Checked)> {
        let scheduler = self.lock();
        let idle = scheduler.idle().map(|resting| (resting, Checked::Yes));
        let used = scheduler.used().map(|resting| (resting, Checked::Due));
        let exhibit = |(resting, checked): (&super::idle::Resting<Kept>, Checked)| {
            let (mut row, mut state) = resting.server.server.row(now);
            state.rest_age = now.micros_since(resting.since);
            state.served = resting.served;
            row.state = Some(state.to_text());
            let socket = resting.server.server.second_socket().ok()?;
            let statements = resting.server.server.statements.iter().collect();
            let id = resting.server.server.card().id;
            Some((Exhibit { id, row: self.with_secrets(row), socket, statements }, checked))
        };
        idle.chain(used).filter_map(exhibit).collect()
    }

    /// Closes the servers at rest that a successor did not get.
    pub(super) fn close_left_behind(self: &Arc<Pool>, now: Moment) {
        let suspension = &self.surroundings.suspension;
        self.lock().close_such(Reason::Shutdown, |kept| !suspension.is_taken(kept.server.card().id));
        self.carry_out(now);
    }

    /// A row of this pool's with what its servers are logged in to with.
    #[must_use]
    pub fn with_secrets(&self, mut row: Row) -> Row {
        let credential = lock(&self.credential);
        row.password = match &*credential {
            Credential::None => None,
            Credential::Plain(secret) | Credential::Md5(secret) => Some(secret.to_string()),
            Credential::ScramKeys { secret, .. } | Credential::ScramSecretOnly(secret) => Some(secret.to_text()),
        };
        if let Credential::ScramKeys { keys, .. } = &*credential {
            row.scram_client_key = Some(keys.client_key().to_vec());
            row.scram_server_key = Some(keys.server_key().to_vec());
        }
        row
    }
}

/// Is a resting server due for `server_check_query` before it is used again?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// It is not.
    Yes,
    /// It is.
    Due,
}
