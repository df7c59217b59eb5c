//! Who gets which server: the whole pooling policy of one pool, as facts in and orders out.
//!
//! Pure: it reads no clock, holds no lock and starts no task; `tests/sim` runs it a million events at a time.
//!
//! ```text
//!                    client_waits                       server_opened
//!       ask ──────────────────────► line ◄──── Grant ◄───────┬──────────── opening ◄── Open
//!        │                                                   │                 │
//!        │ take     ┌──────────────── server_released ───────┤             open_failed
//!        ▼          ▼                                        │
//!      active ──► shelf ── server_check_delay ──► used ── Check ──► tested ──► back as released, or lost
//! ```
//!
//! It *owns* idle servers as `S`: production puts a server in, the simulation an integer. Servers away from the shelf
//! are the caller's, each with a [`Loan`] that must come back. Every method that states a fact leaves its consequences
//! in a queue, which the caller empties with [`Scheduler::next_order`] after releasing its lock. Only the two calls of
//! each transaction, [`Scheduler::take`] and [`Scheduler::server_released`], answer directly.
//!
//! What always holds: nobody waits while a server is on the shelf; no more servers are opened than `pool_size`, plus
//! the reserve once someone waited long enough; grants go in order of arrival.

mod upkeep;

use std::collections::VecDeque;
use std::time::Duration;

use super::hosts::Hosts;
use super::idle::{Held, Resting, Reuse, Shelf};
use super::orders::{Counts, Ended, Errand, Loan, Order, Outlook, Policy, Purpose, Reason, Refused, Slip};
use super::waiting::{Line, Place};
use crate::stats::moment::Moment;
use crate::stats::roster::ServerState;

/// Servers of one pool that may be logging in at the same time.
///
/// PgBouncer opens one at a time, which makes the last of 25 clients of a cold pool wait for 25 logins in a row.
/// Without a bound, a thousand clients would meet a restarted Postgres with `pool_size` simultaneous logins from each
/// pool, each a fork and, with SCRAM, thousands of hash rounds. Three keep a cold start short, and the burst small.
/// After a failure it is one, so that a broken database is asked once in each `server_login_retry`.
pub const OPENINGS_MAX: u32 = 3;

/// Whom the pool serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// Clients queue, servers close as they come home.
    Paused,
    /// Clients are refused, servers close as they come home.
    Ended(Ended),
}

/// What became of a server that was handed back.
#[derive(Debug)]
pub enum Returned<S, W> {
    /// It rests. Nothing else happened.
    Rests,
    /// Something is to be done, and there may be more orders in the queue.
    Do(Order<S, W>),
}

/// The rules and books of one pool.
#[derive(Debug)]
pub struct Scheduler<S, W> {
    policy: Policy,
    gate: Gate,
    shelf: Shelf<S>,
    /// Due for a check before use; the most recently used is last.
    used: Vec<Resting<S>>,
    line: Line<W>,
    active: u32,
    tested: u32,
    being_canceled: u32,
    opening: u32,
    /// Of those away from the shelf, how many belong to an older generation. `<= active + tested + being_canceled`.
    close_needed: u32,
    /// Servers opened before it last rose are not used again.
    generation: u64,
    /// When the last attempt began, if it failed.
    failed: Option<Moment>,
    /// A cap across pools refused the last opening, and no room was made since.
    capped: bool,
    /// How often room was made.
    room: u64,
    /// When a server was last closed for its age.
    lifetime_closed: Option<Moment>,
    hosts: Hosts,
    orders: VecDeque<Order<S, W>>,
}

impl<S: Held, W: Clone> Scheduler<S, W> {
    /// An empty pool.
    pub fn new(policy: Policy) -> Scheduler<S, W> {
        Scheduler {
            policy,
            gate: Gate::Open,
            shelf: Shelf::new(),
            used: Vec::new(),
            line: Line::new(),
            active: 0,
            tested: 0,
            being_canceled: 0,
            opening: 0,
            close_needed: 0,
            generation: 0,
            failed: None,
            capped: false,
            room: 0,
            lifetime_closed: None,
            hosts: Hosts::default(),
            orders: VecDeque::new(),
        }
    }

    /// The next thing to do, to be carried out after the lock is released.
    pub fn next_order(&mut self) -> Option<Order<S, W>> {
        self.orders.pop_front()
    }

    /// Lends an idle server to a client of this worker, if there is one and nobody was here before.
    pub fn take(&mut self, worker: usize) -> Option<(S, Loan)> {
        if self.shelf.is_empty() || !self.line.is_empty() || self.gate != Gate::Open {
            return None;
        }
        let resting = self.shelf.take(worker, self.policy.reuse)?;
        self.active += 1;
        let loan =
            Loan { generation: self.generation, connected: resting.connected, served: true, errand: Errand::Active };
        Some((resting.server, loan))
    }

    /// A client found no idle server and wants to wait for one.
    ///
    /// # Errors
    /// The pool serves nobody any more, or has no server and its last attempt to open one failed so recently that
    /// waiting is pointless (`server_login_retry`). PgBouncer turns clients away until an attempt succeeds; here the
    /// first that asks after the pause waits for the attempt it causes, and so is spared an error that may be out of
    /// date.
    pub fn client_waits(&mut self, waiter: W, worker: usize, now: Moment) -> Result<Place, Refused> {
        match self.gate {
            Gate::Ended(ended) => return Err(Refused::Ended(ended)),
            Gate::Open if self.connected() == 0 && self.must_not_retry(now) => return Err(Refused::LoginRetry),
            Gate::Open | Gate::Paused => {}
        }
        debug_assert!(self.gate != Gate::Open || self.shelf.is_empty() || !self.line.is_empty());
        let place = self.line.join(waiter, worker, now);
        self.plan(now);
        Ok(place)
    }

    /// A client no longer waits. Gives its waiter where it still stood in line; otherwise an order for it was made.
    pub fn client_left(&mut self, place: Place) -> Option<W> {
        self.line.leave(place).map(|in_line| in_line.waiter)
    }

    /// A server is logged in.
    pub fn server_opened(&mut self, server: S, slip: Slip, now: Moment) {
        self.opening -= 1;
        if slip.generation == self.generation {
            self.failed = None;
        }
        let loan = Loan { generation: slip.generation, connected: now, served: false, errand: Errand::Tested };
        let unfit = match self.unfit(&loan, now) {
            Some(Reason::CloseNeeded) => Some(Reason::ConnectStringChanged),
            other => other,
        };
        let order = match unfit {
            Some(reason) => Some(Order::Close { server, reason }),
            None => self.settle(server, &loan, now),
        };
        self.orders.extend(order);
        self.plan(now);
    }

    /// An attempt to open a server failed.
    pub fn open_failed(&mut self, slip: Slip, outlook: Outlook, now: Moment) {
        self.opening -= 1;
        if slip.generation == self.generation {
            self.failed = Some(slip.launched);
            let usable = self.connected() - self.close_needed;
            if outlook == Outlook::Hopeless && usable == 0 && self.opening == 0 {
                self.refuse_all(Refused::LoginFailed);
            }
        }
        self.plan(now);
    }

    /// A cap across pools left no room for an opening.
    pub fn open_refused(&mut self, slip: Slip, now: Moment) {
        self.opening -= 1;
        self.capped |= slip.purpose != Purpose::Minimum && slip.room == self.room;
        self.plan(now);
    }

    /// A server was closed under a cap that had refused this pool.
    pub fn room_made(&mut self, now: Moment) {
        self.room += 1;
        self.capped = false;
        self.plan(now);
    }

    /// A clean server comes back: from a client, or from a check or reset.
    pub fn server_released(&mut self, server: S, loan: Loan, now: Moment) -> Returned<S, W> {
        self.strike(&loan);
        let order = match self.unfit(&loan, now) {
            Some(reason) => Some(Order::Close { server, reason }),
            None => self.settle(server, &loan, now),
        };
        match order {
            None if self.line.is_empty() => Returned::Rests,
            None => {
                self.plan(now);
                self.next_order().map_or(Returned::Rests, Returned::Do)
            }
            Some(Order::Close { server, reason }) => {
                self.plan(now);
                Returned::Do(Order::Close { server, reason })
            }
            Some(order) => Returned::Do(order),
        }
    }

    /// A server away from the shelf is no more.
    pub fn server_lost(&mut self, loan: Loan, now: Moment) {
        self.strike(&loan);
        self.plan(now);
    }

    /// A server on loan goes on another errand before it can come back.
    pub fn server_errand(&mut self, loan: &mut Loan, errand: Errand) {
        *self.list(loan.errand) -= 1;
        *self.list(errand) += 1;
        loan.errand = errand;
    }

    /// New settings hold from now on.
    pub fn set_policy(&mut self, policy: Policy, now: Moment) {
        self.policy = policy;
        if self.policy.check_after.is_none() {
            for resting in std::mem::take(&mut self.used) {
                let loan = Loan {
                    generation: self.generation,
                    connected: resting.connected,
                    served: resting.served,
                    errand: Errand::Tested,
                };
                let order = self.settle(resting.server, &loan, now);
                self.orders.extend(order);
            }
        }
        self.plan(now);
    }

    /// PAUSE: clients queue, idle servers close now and all others as they come home.
    pub fn pause(&mut self) {
        if self.gate == Gate::Open {
            self.gate = Gate::Paused;
            self.close_resting(Reason::Paused);
        }
    }

    /// RESUME.
    pub fn resume(&mut self, now: Moment) {
        if self.gate == Gate::Paused {
            self.gate = Gate::Open;
            self.plan(now);
        }
    }

    /// RECONNECT: every server open now is closed, idle ones at once and all others as they come home.
    pub fn reconnect(&mut self, now: Moment) {
        self.generation += 1;
        self.close_needed = self.active + self.tested + self.being_canceled;
        self.failed = None;
        self.close_resting(Reason::ConfigurationChanged);
        self.plan(now);
    }

    /// The last failure says nothing any more: there is another credential to try.
    pub fn forget_failure(&mut self) {
        self.failed = None;
    }

    /// The pool serves nobody any more: those who wait are refused, idle servers close now and others as they come
    /// home.
    pub fn end(&mut self, ended: Ended) {
        self.gate = Gate::Ended(ended);
        self.refuse_all(Refused::Ended(ended));
        self.close_resting(match ended {
            Ended::Killed | Ended::DatabaseGone => Reason::DatabaseRemoved,
            Ended::Shutdown => Reason::Shutdown,
        });
    }

    /// Since when the server rests that [`Scheduler::evict`] would give.
    pub fn idlest_since(&self) -> Option<Moment> {
        match self.shelf.oldest_since() {
            Some(since) => Some(since),
            None if self.line.is_empty() => self.used.first().map(|resting| resting.since),
            None => None,
        }
    }

    /// Gives up the server that rested longest, to be closed: another pool needs its place under a common cap. Servers
    /// due for a check go too, unless someone here waits for them.
    pub fn evict(&mut self) -> Option<S> {
        match self.shelf.take_oldest() {
            Some(resting) => Some(resting.server),
            None if self.line.is_empty() && !self.used.is_empty() => Some(self.used.remove(0).server),
            None => None,
        }
    }

    /// How many are where.
    pub fn counts(&self, now: Moment) -> Counts {
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        Counts {
            waiting: count(self.line.len()),
            idle: count(self.shelf.len()),
            used: count(self.used.len()),
            active: self.active,
            tested: self.tested,
            being_canceled: self.being_canceled,
            opening: self.opening,
            close_needed: self.close_needed,
            maxwait_us: self.line.head().map_or(0, |in_line| now.micros_since(in_line.since)),
        }
    }

    /// Decides what to open or check for those who wait. Each server under way is meant for one of them.
    fn plan(&mut self, now: Moment) {
        if self.gate != Gate::Open {
            return;
        }
        while self.line.len() > (self.tested + self.opening) as usize {
            if let Some(resting) = self.used.pop() {
                self.tested += 1;
                let loan = Loan {
                    generation: self.generation,
                    connected: resting.connected,
                    served: resting.served,
                    errand: Errand::Tested,
                };
                self.orders.push_back(Order::Check { server: resting.server, loan });
            } else if let Some(purpose) = self.may_open(now) {
                let served_before = (self.tested + self.opening) as usize;
                let worker = self.line.iter().nth(served_before).map(|in_line| in_line.worker);
                self.open(worker, purpose, now);
            } else {
                break;
            }
        }
    }

    fn open(&mut self, worker: Option<usize>, purpose: Purpose, now: Moment) {
        self.opening += 1;
        let host = self.hosts.next(self.policy.hosts, self.policy.load_balance_hosts, self.failed.is_some());
        let slip = Slip { generation: self.generation, launched: now, purpose, room: self.room };
        self.orders.push_back(Order::Open { slip, host, worker, purpose });
    }

    fn may_open(&self, now: Moment) -> Option<Purpose> {
        let openings_max = if self.failed.is_some() { 1 } else { OPENINGS_MAX };
        if self.capped || self.opening >= openings_max || self.must_not_retry(now) {
            return None;
        }
        let (policy, servers) = (&self.policy, self.connected() + self.opening);
        if policy.pool_size == 0 || servers < policy.pool_size {
            return Some(Purpose::Demand);
        }
        // One at a time, so that each is owed to somebody who waited long enough and not to the one before.
        let overdue = self.line.head().is_some_and(|head| now.since(head.since) >= policy.reserve_pool_timeout);
        let reserve = !policy.reserve_pool_timeout.is_zero() && servers < self.limit() && self.opening == 0;
        (reserve && overdue).then_some(Purpose::Reserve)
    }

    fn must_not_retry(&self, now: Moment) -> bool {
        self.failed.is_some_and(|launched| now.since(launched) < self.policy.server_login_retry)
    }

    /// A clean server that may stay: to the first in line, or to rest.
    fn settle(&mut self, server: S, loan: &Loan, now: Moment) -> Option<Order<S, W>> {
        // PgBouncer's way to have every server checked before every use: `server_check_delay = 0`.
        if loan.errand != Errand::Tested && self.policy.check_after == Some(Duration::ZERO) {
            server.mark(ServerState::Used);
            self.used.push(Resting::new(server, loan.connected, loan.served, now));
            return None;
        }
        match self.line.pop() {
            Some(in_line) => {
                self.active += 1;
                Some(Order::Grant {
                    server,
                    loan: Loan {
                        generation: loan.generation,
                        connected: loan.connected,
                        served: true,
                        errand: Errand::Active,
                    },
                    waiter: in_line.waiter,
                    waited_us: now.micros_since(in_line.since),
                })
            }
            None => {
                self.shelf.put(Resting::new(server, loan.connected, loan.served, now));
                None
            }
        }
    }

    /// Why a server may not stay, if so.
    fn unfit(&mut self, loan: &Loan, now: Moment) -> Option<Reason> {
        match self.gate {
            Gate::Open => {}
            Gate::Paused => return Some(Reason::Paused),
            Gate::Ended(Ended::Shutdown) => return Some(Reason::Shutdown),
            Gate::Ended(Ended::Killed | Ended::DatabaseGone) => return Some(Reason::DatabaseRemoved),
        }
        if loan.generation < self.generation {
            return Some(Reason::CloseNeeded);
        }
        if self.lifetime_over(loan.connected, loan.served, now) {
            return Some(Reason::LifetimeOver);
        }
        // It has been struck off by now, and counts itself only once it stays.
        (self.policy.pool_size != 0 && self.connected() + self.opening >= self.limit()).then_some(Reason::TooMany)
    }

    fn close_resting(&mut self, reason: Reason) {
        while let Some(resting) = self.shelf.take(0, Reuse::LeastRecent) {
            self.orders.push_back(Order::Close { server: resting.server, reason });
        }
        for resting in self.used.drain(..) {
            self.orders.push_back(Order::Close { server: resting.server, reason });
        }
    }

    fn refuse_all(&mut self, why: Refused) {
        while let Some(in_line) = self.line.pop() {
            self.orders.push_back(Order::Refuse { waiter: in_line.waiter, why });
        }
    }

    /// Strikes a server off the list of its errand.
    fn strike(&mut self, loan: &Loan) {
        *self.list(loan.errand) -= 1;
        if loan.generation < self.generation {
            self.close_needed -= 1;
        }
    }

    fn list(&mut self, errand: Errand) -> &mut u32 {
        match errand {
            Errand::Active => &mut self.active,
            Errand::Tested => &mut self.tested,
            Errand::BeingCanceled => &mut self.being_canceled,
        }
    }

    fn connected(&self) -> u32 {
        let resting = u32::try_from(self.shelf.len() + self.used.len()).unwrap_or(u32::MAX);
        resting + self.active + self.tested + self.being_canceled
    }

    /// The most servers the pool may have; meaningful where `pool_size` is not zero.
    fn limit(&self) -> u32 {
        self.policy.pool_size.saturating_add(self.policy.reserve_pool_size)
    }
}

#[cfg(test)]
mod tests;
