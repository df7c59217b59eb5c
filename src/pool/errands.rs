//! The deeds that take time: opening a server, resetting or checking one, keeping one back while a cancel request
//! settles.
//!
//! Each runs as a task on the worker thread where the server's socket lives, or is to live. What the task holds gives
//! up by being dropped, so that a task that dies returns its place to the pool.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::idle::Held;
use super::lease::{Outcome, Refusal, Turn, Waiter};
use super::ledger::Permit;
use super::orders::{Errand, Loan, Outlook, Purpose, Reason, Slip};
use super::quota::Names;
use super::{Cause, Kept, Pool, lease, lock};
use crate::net::world;
use crate::server::{self, ConnectError, Server};
use crate::stats::lines::{self, Tag};
use crate::stats::moment::Moment;
use crate::stats::roster::ServerState;

/// SQLSTATE of a Postgres that is starting up, shutting down or in recovery: it passes.
const CANNOT_CONNECT_NOW: &str = "57P03";
/// Limit for a reset or check query where `server_connect_timeout` is off.
const TIDY_TIMEOUT: Duration = Duration::from_secs(60);

/// What a task that opens a server holds.
struct Opening {
    pool: Arc<Pool>,
    slip: Option<Slip>,
    permit: Option<Permit>,
    /// The one client that the server is for.
    waiter: Option<Arc<Waiter>>,
    /// The round of the greeting in which it began.
    round: u64,
}

impl Drop for Opening {
    fn drop(&mut self) {
        let Some(slip) = self.slip.take() else { return };
        self.permit = None;
        let now = world::now();
        match self.waiter {
            // Its client has left, which says nothing of the caps.
            Some(_) => self.pool.lock().open_abandoned(slip, now),
            None => self.pool.lock().open_refused(slip, now),
        }
        self.pool.carry_out(now);
        self.pool.news.notify_waiters();
    }
}

/// What a task that resets or checks a server holds beside the server itself.
pub(super) struct Outing {
    pub(super) pool: Arc<Pool>,
    pub(super) note: Option<(Permit, Loan)>,
    pub(super) cause: Cause,
    /// What is said of a query that fails.
    pub(super) failure: &'static str,
}

impl Drop for Outing {
    fn drop(&mut self) {
        let Some((permit, loan)) = self.note.take() else { return };
        drop(permit);
        let now = world::now();
        self.pool.lock().server_lost(loan, now);
        self.pool.carry_out(now);
        self.pool.news.notify_waiters();
    }
}

impl Pool {
    pub(super) fn open(
        self: &Arc<Pool>,
        slip: Slip,
        host: usize,
        worker: Option<usize>,
        purpose: Purpose,
        now: Moment,
    ) {
        if let Some(opening) = self.prepare(slip, purpose, None, now) {
            let worker = worker.unwrap_or_else(|| self.next_worker.fetch_add(1, Relaxed));
            self.surroundings.workers.handle(worker).spawn(opening.run(host));
        }
    }

    /// Opens a server for one client, for as long as that waits.
    pub(super) fn open_dedicated(
        self: &Arc<Pool>,
        slip: Slip,
        host: usize,
        worker: usize,
        purpose: Purpose,
        turn: &Turn,
        now: Moment,
    ) {
        if let Some(opening) = self.prepare(slip, purpose, Some(turn.waiter().clone()), now) {
            let task = self.surroundings.workers.handle(worker).spawn(opening.run(host));
            turn.opening(task.abort_handle());
        }
    }

    /// Takes a place under the caps; nothing where there is none.
    fn prepare(
        self: &Arc<Pool>,
        slip: Slip,
        purpose: Purpose,
        waiter: Option<Arc<Waiter>>,
        now: Moment,
    ) -> Option<Opening> {
        let Some(permit) = self.surroundings.ledger.permit(self, purpose, now) else {
            self.lock().open_refused(slip, now);
            return None;
        };
        if purpose == Purpose::Reserve {
            tracing::warn!(
                database = &*self.names.database,
                user = &*self.names.user,
                "taking connection from reserve_pool"
            );
        }
        let round = lock(&self.known).round();
        Some(Opening { pool: self.clone(), slip: Some(slip), permit: Some(permit), waiter, round })
    }

    /// Runs `server_reset_query`, then the server goes home.
    pub(super) fn reset(self: &Arc<Pool>, kept: Kept, loan: Loan) {
        let queries = Vec::from_iter(self.rules().server_reset_query.clone());
        self.send_out(kept, loan, queries, Cause::Client, "reset query failed");
    }

    /// Runs `server_check_query` on a server that rested long, then it goes home.
    pub(super) fn check(self: &Arc<Pool>, mut kept: Kept, loan: Loan, now: Moment) {
        if !self.is_undisturbed(&mut kept.server) {
            return self.discard(kept, loan, Reason::Dirty.text(), now);
        }
        match self.rules().server_check_query.clone() {
            Some(query) => self.send_out(kept, loan, vec![query], Cause::Server, "test query failed"),
            None => self.shelve(kept, loan, now),
        }
    }

    /// Keeps a server from the next client until the cancel requests against it have settled.
    pub(super) fn hold_back(self: &Arc<Pool>, kept: Kept, mut loan: Loan) {
        self.lock().server_errand(&mut loan, Errand::BeingCanceled);
        kept.mark(ServerState::BeingCanceled);
        lock(&self.held_back).push((kept, loan));
        // They may have settled before the server was in the list.
        self.cancel_settled();
    }

    /// After a cancel request: an empty query takes up a cancellation that Postgres has not acted on yet, and then the
    /// reset is due as after any client.
    pub(super) fn tidy_after_cancel(self: &Arc<Pool>, kept: Kept, loan: Loan) {
        let mut queries = vec![String::new()];
        if self.resets.load(Relaxed) {
            queries.extend(self.rules().server_reset_query.clone());
        }
        self.send_out(kept, loan, queries, Cause::Client, "reset query failed");
    }

    /// Runs queries on a server that has no client. `cause` is whose doing it may be that it reports parameters then.
    fn send_out(
        self: &Arc<Pool>,
        kept: Kept,
        mut loan: Loan,
        queries: Vec<String>,
        cause: Cause,
        failure: &'static str,
    ) {
        self.lock().server_errand(&mut loan, Errand::Tested);
        kept.mark(ServerState::Tested);
        let within = match self.rules().server_connect_timeout {
            Duration::ZERO => TIDY_TIMEOUT,
            limit => limit,
        };
        let home = kept.home();
        let Kept { server, permit } = kept;
        let outing = Outing { pool: self.clone(), note: Some((permit, loan)), cause, failure };
        self.surroundings.workers.handle(home).spawn(outing.run(server, queries, within));
    }
}

impl Opening {
    async fn run(mut self, host: usize) {
        let pool = self.pool.clone();
        let credential = lock(&pool.credential).clone();
        let start = self.waiter.as_deref().and_then(Waiter::start);
        let means = pool.surroundings.means();
        let Some(target) = pool.rules().target(&pool.names, host, credential, start, means) else { return };
        let connected = server::connect(&target, &pool.surroundings.roster).await;
        let now = world::now();
        let (Some(slip), Some(permit)) = (self.slip.take(), self.permit.take()) else { return };
        match connected {
            Ok(server) => {
                // A client's own server reports what that client asked for. One at an address that the host has lost
                // since is closed.
                if self.waiter.is_none() && !server.card().close_needed.load(Relaxed) {
                    lock(&pool.known).opened(server.parameters(), self.round);
                }
                let kept = Kept { server, permit };
                kept.mark(ServerState::Idle);
                pool.lock().server_opened(kept, slip, now);
            }
            Err(error) => {
                log_failure(&pool.names, &error, start.is_some(), now.since(slip.launched));
                let outlook = outlook(&error);
                if self.waiter.is_none() || outlook == Outlook::Passing {
                    *lock(&pool.last_error) = Some(error.clone());
                }
                drop(permit);
                let alone = pool.lock().open_failed(slip, outlook, now);
                if let Some(turn) = alone {
                    // One that left meanwhile needs no refusal.
                    let _ = turn.deliver(Outcome::Refused(Refusal::DedicatedLoginFailed(error)));
                }
            }
        }
        pool.carry_out(now);
        pool.news.notify_waiters();
    }
}

impl Outing {
    async fn run(mut self, mut server: Box<Server>, queries: Vec<String>, within: Duration) {
        let before = server.parameters().clone();
        for query in queries {
            let card = server.card().clone();
            server = match server::tidy(server, &query, within).await {
                Ok(server) => server,
                Err(error) => {
                    tracing::warn!(conn = ?Tag::server(&card), "{}: {error}", self.failure);
                    return;
                }
            };
        }
        self.pool.heard(&server, &before, self.cause);
        if let Some((permit, loan)) = self.note.take() {
            self.pool.shelve(Kept { server, permit }, loan, world::now());
            if self.cause == Cause::Server {
                self.pool.news.notify_waiters();
            }
        }
    }
}

/// Two lines, as PgBouncer has them: what went wrong, and that a connection ended.
fn log_failure(names: &Names, error: &ConnectError, dedicated: bool, age: Duration) {
    let (database, user) = (&*names.database, &*names.user);
    let told = match (error.from_server, &error.detail) {
        (true, _) => format!("{} {}", error.severity, error.message),
        (false, Some(detail)) => format!("{} ({detail})", error.message),
        (false, None) => error.message.clone(),
    };
    let told = told.strip_prefix("server login failed: ").unwrap_or(&told);
    tracing::warn!(database, user, "server login failed: {told}");
    let reason = if dedicated && error.from_server { lease::DEDICATED_LOGIN_FAILED } else { &error.message };
    tracing::info!(database, user, "{}", lines::closing(reason, age));
}

/// Would another attempt end alike? The server's own refusals and those of our proof against it do, a server that
/// cannot be reached or is starting up may be back in a moment, and those who wait keep waiting (`query_wait_timeout`).
fn outlook(error: &ConnectError) -> Outlook {
    let refused = error.from_server || error.message.starts_with("server login failed");
    match refused && error.sqlstate != CANNOT_CONNECT_NOW {
        true => Outlook::Hopeless,
        false => Outlook::Passing,
    }
}
