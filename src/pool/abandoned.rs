//! Servers that a client has left in the middle: by hanging up, by a timeout, by KILL and its like.
//!
//! ```text
//!                                                  ┌─ answered ─► ROLLBACK, where a transaction is open ─► goes home
//!   Lease::abandon ─► cancel, again and again ─────┤
//!                     ▲ PostgreSQL works, or       └─ closed, or cancel_wait_timeout is over ─► closed
//!                     │ does not end by itself
//! ```
//!
//! PostgreSQL goes on with a query whose client has gone, so to close the connection is not to be rid of the backend.
//! A server counts against `pool_size` and the caps until PostgreSQL has answered or closed: a pool never has more
//! backends than it may have. PgBouncer closes at once, and so opens the next beside the one that still works;
//! `cancel_abandoned_queries = 0` does the same here.
//!
//! The request to cancel goes over a connection of its own. A server is not given to anybody before that connection has
//! ended: a request that is late would hit the next client.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::errands::Outing;
use super::idle::Held;
use super::orders::{Errand, Loan};
use super::{CancelTicket, Cause, Kept, Logged, Pool};
use crate::net::world;
use crate::protocol::exchange::TransactionStatus;
use crate::server::Server;
use crate::server::cancel::{self, tell};
use crate::server::check::{TidyError, run_query};
use crate::stats::lines::Tag;
use crate::stats::moment::Moment;
use crate::stats::roster::{CancelTarget, ServerState};
use crate::wire::frontend;

/// How far what a client sent has gone to the server that it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftAt {
    /// All of it, in whole messages.
    MessageEnd,
    /// Part of a message, or not all that the server is taken to have.
    MidMessage,
}

/// Pause before PostgreSQL is asked again; each is twice the one before. A request that comes between two queries
/// cancels nothing.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A server cannot be made clean.
struct Unfit;

/// What comes of asking PostgreSQL to cancel while something ends.
struct Ended<T> {
    outcome: T,
    /// Was it asked?
    cancelled: bool,
}

impl Pool {
    /// A server has been left by its client, which may be in the middle of anything.
    pub(super) fn abandon(
        self: &Arc<Pool>,
        kept: Kept,
        mut loan: Loan,
        left: LeftAt,
        reason: &'static str,
        now: Moment,
    ) {
        // A walsender streams, which is no query, and serves nobody else.
        if !self.rules().cancel_abandoned_queries || loan.errand == Errand::Dedicated {
            return self.discard(kept, loan, reason, now);
        }
        self.lock().server_errand(&mut loan, Errand::Abandoned);
        kept.mark(ServerState::BeingCanceled);
        let home = kept.home();
        let Kept { server, permit } = kept;
        let note = Some((permit, loan));
        let outing = Outing { pool: self.clone(), note, cause: Cause::Client, failure: "reset query failed" };
        self.surroundings.workers.handle(home).spawn(outing.wind_up(server, left, reason));
    }

    /// Sends PostgreSQL one request to cancel, and waits until it has been dealt with. `sent` says that it may have
    /// reached PostgreSQL.
    async fn request_cancel(self: &Arc<Pool>, target: &CancelTarget, sent: &AtomicBool) {
        let mut ticket = CancelTicket::for_abandoned(self);
        ticket.admitted().await;
        let rules = self.rules();
        let tls = self.surroundings.tls.current();
        let dialled = within(rules.server_connect_timeout, cancel::dial(target, &rules.tcp, &tls)).await;
        let dialled = match dialled.unwrap_or(Err(std::io::ErrorKind::TimedOut.into())) {
            Ok(dialled) => dialled,
            Err(error) => {
                let (database, user) = (&*self.names.database, &*self.names.user);
                tracing::warn!(database, user, "cancel request: connect failed: {error}");
                return;
            }
        };
        let logged = Logged { connections: rules.log_connections, disconnections: rules.log_disconnections };
        let mut carrier = ticket.carrier(&dialled, 0, logged);
        ticket.connected();
        carrier.connected();
        sent.store(true, Relaxed);
        let told = tell(dialled.stream, target.pid, &target.secret).await;
        carrier.told(told);
    }
}

impl Outing {
    /// Ends what the client began, and hands the server on or closes it.
    async fn wind_up(mut self, mut server: Box<Server>, left: LeftAt, reason: &'static str) {
        let limit = self.pool.rules().cancel_wait_timeout;
        let ended = within(limit, self.make_clean(&mut server, left)).await;
        let Some((permit, loan)) = self.note.take() else { return };
        let (kept, now) = (Kept { server, permit }, world::now());
        match ended {
            Some(Ok(())) => self.pool.come_home(kept, loan, now),
            Some(Err(Unfit)) | None => self.pool.discard(kept, loan, reason, now),
        }
    }

    async fn make_clean(&self, server: &mut Server, left: LeftAt) -> Result<(), Unfit> {
        let card = server.card().clone();
        let target = card.cancel_target.get();
        let works = !server.waits();
        if left == LeftAt::MidMessage || card.close_needed.load(Relaxed) {
            let run_out = server.run_out(left == LeftAt::MessageEnd);
            self.cancel_while(run_out, target, works).await;
            return Err(Unfit);
        }
        let Ended { outcome, cancelled } = self.cancel_while(server.finish(), target, works).await;
        if let Err(error) = outcome {
            tracing::debug!(conn = ?Tag::server(&card), "left by its client, and lost: {error}");
            return Err(Unfit);
        }
        if cancelled {
            // Takes up a cancellation that PostgreSQL has not acted on yet; whether it hits this is all the same.
            ask(server, "").await?;
        }
        if server.exchange.status() != TransactionStatus::Idle {
            ask(server, "ROLLBACK").await?;
        }
        match server.exchange.at_rest() {
            true => Ok(()),
            false => Err(Unfit),
        }
    }

    /// Waits for `ending`, and has PostgreSQL cancel meanwhile: at once where it `works`, else when it takes long. No
    /// request is under way any more when this ends.
    async fn cancel_while<T>(
        &self,
        ending: impl Future<Output = T>,
        target: Option<&CancelTarget>,
        works: bool,
    ) -> Ended<T> {
        let mut ending = std::pin::pin!(ending);
        let Some(target) = target else { return Ended { outcome: ending.await, cancelled: false } };
        let (mut pause, mut cancelled) = (PAUSE_MIN, false);
        if !works && let Ok(outcome) = tokio::time::timeout(pause, &mut ending).await {
            return Ended { outcome, cancelled };
        }
        loop {
            let sent = AtomicBool::new(false);
            let mut request = std::pin::pin!(self.pool.request_cancel(target, &sent));
            let mut ended = None;
            loop {
                tokio::select! {
                    biased;
                    outcome = &mut ending, if ended.is_none() => {
                        if !sent.load(Relaxed) {
                            return Ended { outcome, cancelled };
                        }
                        ended = Some(outcome);
                    }
                    () = &mut request => break,
                }
            }
            cancelled |= sent.load(Relaxed);
            if let Some(outcome) = ended {
                return Ended { outcome, cancelled };
            }
            if let Ok(outcome) = tokio::time::timeout(pause, &mut ending).await {
                return Ended { outcome, cancelled };
            }
            pause = PAUSE_MAX.min(pause * 2);
        }
    }
}

/// Runs a query of our own, which may fail.
async fn ask(server: &mut Server, sql: &str) -> Result<(), Unfit> {
    let mut query = Vec::with_capacity(sql.len() + 8);
    frontend::query(&mut query, sql);
    match run_query(server, &query).await {
        Ok(()) | Err(TidyError::Failed(_) | TidyError::InTransaction) => Ok(()),
        Err(TidyError::Lost(_) | TidyError::Timeout) => Err(Unfit),
    }
}

/// What comes of it in this time; zero is no limit.
async fn within<T>(limit: Duration, coming: impl Future<Output = T>) -> Option<T> {
    match limit.is_zero() {
        true => Some(coming.await),
        false => tokio::time::timeout(limit, coming).await.ok(),
    }
}
