//! The deeds that take time: opening a server, resetting or checking one, keeping one back while a cancel request
//! settles.
//!
//! Each runs as a task on the worker thread where the server's socket lives, or is to live. What the task holds gives
//! up by being dropped, so that a task that dies returns its place to the pool.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::idle::Held;
use super::ledger::Permit;
use super::orders::{Errand, Loan, Outlook, Purpose, Reason, Slip};
use super::{Kept, Pool, lock};
use crate::net::world;
use crate::server::{self, ConnectError, Server};
use crate::stats::lines::Tag;
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
}

impl Drop for Opening {
    fn drop(&mut self) {
        let Some(slip) = self.slip.take() else { return };
        self.permit = None;
        let now = world::now();
        self.pool.lock().open_refused(slip, now);
        self.pool.carry_out(now);
    }
}

/// What a task that resets or checks a server holds beside the server itself.
struct Outing {
    pool: Arc<Pool>,
    note: Option<(Permit, Loan)>,
}

impl Drop for Outing {
    fn drop(&mut self) {
        let Some((permit, loan)) = self.note.take() else { return };
        drop(permit);
        let now = world::now();
        self.pool.lock().server_lost(loan, now);
        self.pool.carry_out(now);
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
        let Some(permit) = self.surroundings.ledger.permit(self, purpose, now) else {
            return self.lock().open_refused(slip, now);
        };
        if purpose == Purpose::Reserve {
            tracing::warn!(
                database = &*self.names.database,
                user = &*self.names.user,
                "taking connection from reserve_pool"
            );
        }
        let worker = worker.unwrap_or_else(|| self.next_worker.fetch_add(1, Relaxed));
        let opening = Opening { pool: self.clone(), slip: Some(slip), permit: Some(permit) };
        self.surroundings.workers.handle(worker).spawn(opening.run(host));
    }

    /// Runs `server_reset_query`, then the server goes home.
    pub(super) fn reset(self: &Arc<Pool>, kept: Kept, loan: Loan) {
        let queries = Vec::from_iter(self.rules().server_reset_query.clone());
        self.send_out(kept, loan, queries, "reset query failed");
    }

    /// Runs `server_check_query` on a server that rested long, then it goes home.
    pub(super) fn check(self: &Arc<Pool>, mut kept: Kept, loan: Loan, now: Moment) {
        if kept.server.has_spoken() {
            return self.discard(kept, loan, Reason::Dirty.text(), now);
        }
        match self.rules().server_check_query.clone() {
            Some(query) => self.send_out(kept, loan, vec![query], "test query failed"),
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
        self.send_out(kept, loan, queries, "reset query failed");
    }

    /// Runs queries on a server that has no client.
    fn send_out(self: &Arc<Pool>, kept: Kept, mut loan: Loan, queries: Vec<String>, failure: &'static str) {
        self.lock().server_errand(&mut loan, Errand::Tested);
        kept.mark(ServerState::Tested);
        let within = match self.rules().server_connect_timeout {
            Duration::ZERO => TIDY_TIMEOUT,
            limit => limit,
        };
        let home = kept.home();
        let Kept { server, permit } = kept;
        let outing = Outing { pool: self.clone(), note: Some((permit, loan)) };
        self.surroundings.workers.handle(home).spawn(outing.run(server, queries, within, failure));
    }

    /// A server has logged in: what it reported is what new clients are told.
    fn take_welcome(&self, server: &Server) {
        let mut welcome = lock(&self.welcome);
        if welcome.stale || welcome.parameters.is_none() {
            welcome.parameters = Some(Arc::new(server.parameters().clone()));
            welcome.stale = false;
        }
    }
}

impl Opening {
    async fn run(mut self, host: usize) {
        let pool = self.pool.clone();
        let credential = lock(&pool.credential).clone();
        let Some(target) = pool.rules().target(&pool.names, host, credential, pool.surroundings.keys.clone()) else {
            return;
        };
        let connected = server::connect(&target, &pool.surroundings.roster).await;
        let now = world::now();
        let (Some(slip), Some(permit)) = (self.slip.take(), self.permit.take()) else { return };
        match connected {
            Ok(server) => {
                pool.take_welcome(&server);
                let kept = Kept { server, permit };
                kept.mark(ServerState::Idle);
                pool.lock().server_opened(kept, slip, now);
            }
            Err(error) => {
                tracing::warn!(
                    database = &*pool.names.database,
                    user = &*pool.names.user,
                    "server login failed: {}",
                    error.message
                );
                let outlook = outlook(&error);
                *lock(&pool.last_error) = Some(error);
                drop(permit);
                pool.lock().open_failed(slip, outlook, now);
            }
        }
        pool.carry_out(now);
    }
}

impl Outing {
    async fn run(mut self, mut server: Box<Server>, queries: Vec<String>, within: Duration, failure: &'static str) {
        for query in queries {
            let card = server.card().clone();
            server = match server::tidy(server, &query, within).await {
                Ok(server) => server,
                Err(error) => {
                    tracing::warn!(conn = ?Tag::server(&card), "{failure}: {error}");
                    return;
                }
            };
        }
        if let Some((permit, loan)) = self.note.take() {
            self.pool.shelve(Kept { server, permit }, loan, world::now());
        }
    }
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
