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
//!        │ server_errand
//!        └──► being canceled, abandoned ──► back as released, or lost
//! ```
//!
//! It *owns* idle servers as `S`: production puts a server in, the simulation an integer. Servers away from the shelf
//! are the caller's, each with a [`Loan`] that must come back. Every method that states a fact leaves its consequences
//! in a queue, which the caller empties with [`Scheduler::next_order`] after releasing its lock. Only the two calls of
//! each transaction, [`Scheduler::take`] and [`Scheduler::server_released`], answer directly.
//!
//! What always holds: nobody waits while a server is on the shelf; no more servers are opened than `pool_size`, plus
//! the reserve once someone waited long enough; grants go in order of arrival.

mod dedicated;
mod inherited;
mod upkeep;

use std::collections::VecDeque;
use std::time::Duration;

use super::hosts::Hosts;
use super::idle::{Held, Resting, Reuse, Shelf};
use super::orders::{Counts, Ended, Errand, Loan, Order, Outlook, Policy, Purpose, Reason, Refused, Slip};
use super::waiting::{Line, Place};
use crate::config::LoadBalanceHosts;
use crate::stats::moment::Moment;
use crate::stats::roster::ServerState;

/// Servers of one pool that may be logging in at the same time.
///
/// PgBouncer opens one at a time, which makes the last of 25 clients of a cold pool wait for 25 logins in a row.
/// Without a bound, a thousand clients would meet a restarted Postgres with `pool_size` simultaneous logins from each
/// pool, each a fork and, with SCRAM, thousands of hash rounds. Three keep a cold start short, and the burst small.
/// After a failure it is one, so that a broken database is asked once in each `server_login_retry`.
pub const OPENINGS_MAX: u32 = 3;

/// The generation of a pool that has seen no RECONNECT; there is one before it, for servers that are to close anyway.
const FIRST_GENERATION: u64 = 1;

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
    /// Those who wait for a server of their own, see `dedicated`.
    dedicated_line: Line<W>,
    dedicated: u32,
    dedicated_opening: u32,
    /// Of the dedicated ones, how many belong to an older generation.
    dedicated_unwanted: u32,
    active: u32,
    tested: u32,
    being_canceled: u32,
    abandoned: u32,
    opening: u32,
    /// Of those away from the shelf, how many belong to an older generation; dedicated ones are counted apart.
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
            dedicated_line: Line::new(),
            dedicated: 0,
            dedicated_opening: 0,
            dedicated_unwanted: 0,
            active: 0,
            tested: 0,
            being_canceled: 0,
            abandoned: 0,
            opening: 0,
            close_needed: 0,
            generation: FIRST_GENERATION,
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
            Gate::Open if self.shared() == 0 && self.must_not_retry(now) => return Err(Refused::LoginRetry),
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
        if let Some(place) = slip.place {
            return self.dedicated_opened(server, &slip, place, now);
        }
        self.opening -= 1;
        if slip.generation == self.generation {
            self.failed = None;
        }
        let loan = Loan { generation: slip.generation, connected: now, served: false, errand: Errand::Tested };
        let unfit = match self.unfit(&server, &loan, now) {
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

    /// An attempt to open a server failed. Where that concerns one waiter alone, it leaves the line and is given, to be
    /// told.
    pub fn open_failed(&mut self, slip: Slip, outlook: Outlook, now: Moment) -> Option<W> {
        if let Some(place) = slip.place {
            return self.dedicated_failed(&slip, place, outlook, now);
        }
        self.opening -= 1;
        if slip.generation == self.generation {
            self.failed = Some(slip.launched);
            let usable = self.shared() - self.close_needed;
            if outlook == Outlook::Hopeless && usable == 0 && self.opening == 0 {
                self.refuse_line(Refused::LoginFailed);
            }
        }
        self.plan(now);
        None
    }

    /// A cap across pools left no room for an opening.
    pub fn open_refused(&mut self, slip: Slip, now: Moment) {
        self.strike_opening(&slip);
        self.capped |= slip.purpose != Purpose::Minimum && slip.room == self.room;
        self.plan(now);
    }

    /// An opening was given up before it came to anything.
    pub fn open_abandoned(&mut self, slip: Slip, now: Moment) {
        self.strike_opening(&slip);
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
        let order = match self.unfit(&server, &loan, now) {
            Some(reason) => Some(Order::Close { server, reason }),
            None if self.gives_way(now) => Some(Order::Close { server, reason: Reason::Evicted }),
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
        self.close_needed = self.away();
        self.dedicated_unwanted = self.dedicated;
        self.failed = None;
        self.close_resting(Reason::ConfigurationChanged);
        self.plan(now);
    }

    /// Some servers were marked to be closed: those at rest go now, all others as they come home.
    pub fn close_marked(&mut self, now: Moment) {
        self.close_such(Reason::ConfigurationChanged, Held::close_needed);
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

    /// Does a server stand for what was heard of PostgreSQL: one that is open, leads where new ones lead, and is
    /// neither due for a check before it is used again nor in the middle of it? While PAUSE holds everybody up there is
    /// none to ask, and nobody is to wait for one.
    pub fn has_trusted_server(&self) -> bool {
        self.gate != Gate::Open || !self.shelf.is_empty() || self.active + self.being_canceled > self.close_needed
    }

    /// Is a server on its way that could go to the first in line: one being opened, checked or reset?
    pub fn is_server_coming(&self) -> bool {
        self.opening + self.tested > 0
    }

    /// How many are where.
    pub fn counts(&self, now: Moment) -> Counts {
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        Counts {
            waiting: count(self.line.len() + self.dedicated_line.len()),
            idle: count(self.shelf.len()),
            used: count(self.used.len()),
            active: self.active + self.dedicated,
            dedicated: self.dedicated,
            tested: self.tested,
            being_canceled: self.being_canceled + self.abandoned,
            abandoned: self.abandoned,
            opening: self.opening + self.dedicated_opening,
            close_needed: self.close_needed + self.dedicated_unwanted,
            maxwait_us: [&self.line, &self.dedicated_line]
                .into_iter()
                .filter_map(|line| Some(now.micros_since(line.head()?.since)))
                .max()
                .unwrap_or(0),
        }
    }

    /// Decides what to open or check for those who wait. Each server under way is meant for one of them.
    fn plan(&mut self, now: Moment) {
        if self.gate != Gate::Open {
            return;
        }
        // Room goes to whoever came first, whichever line it stands in.
        let since = self.line.iter().nth((self.tested + self.opening) as usize).map(|in_line| in_line.since);
        let dedicated_since = self.dedicated_line.first_unserved().map(|(_, in_line)| in_line.since);
        if dedicated_since.is_some() && (since.is_none() || dedicated_since < since) {
            self.plan_dedicated(now);
        }
        self.plan_shared(now);
        if dedicated_since.is_some() {
            self.plan_dedicated(now);
        }
    }

    fn plan_shared(&mut self, now: Moment) {
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
        let (slip, host) = self.slip(purpose, None, now);
        self.orders.push_back(Order::Open { slip, host, worker, purpose });
    }

    fn slip(&mut self, purpose: Purpose, place: Option<Place>, now: Moment) -> (Slip, usize) {
        let host = self.hosts.next(self.policy.hosts, self.policy.load_balance_hosts, self.failed.is_some());
        (Slip { generation: self.generation, launched: now, purpose, room: self.room, place }, host)
    }

    fn may_open(&self, now: Moment) -> Option<Purpose> {
        let since = self.line.head().map(|head| head.since);
        self.may_begin(self.opening, self.shared() + self.dedicated, now).then(|| self.room(since, now)).flatten()
    }

    /// May another login begin beside so many of its kind, with so many servers connected, if there is room?
    fn may_begin(&self, opening: u32, connected: u32, now: Moment) -> bool {
        // Where one host is kept for as long as it works, the first server tells whether it does.
        let sticky = self.policy.hosts > 1 && self.policy.load_balance_hosts == LoadBalanceHosts::Disable;
        let unproven = self.failed.is_some() || (sticky && connected == 0);
        let openings_max = if unproven { 1 } else { OPENINGS_MAX };
        !self.capped && opening < openings_max && !self.must_not_retry(now)
    }

    /// Is there room for one more, for somebody who has waited since then?
    fn room(&self, since: Option<Moment>, now: Moment) -> Option<Purpose> {
        let (policy, servers) = (&self.policy, self.servers());
        if policy.pool_size == 0 || servers < policy.pool_size {
            return Some(Purpose::Demand);
        }
        // One at a time, so that each is owed to somebody who waited long enough and not to the one before.
        let alone = self.opening + self.dedicated_opening == 0;
        let overdue = since.is_some_and(|since| now.since(since) >= policy.reserve_pool_timeout);
        let reserve = !policy.reserve_pool_timeout.is_zero() && servers < self.limit() && alone;
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
    fn unfit(&mut self, server: &S, loan: &Loan, now: Moment) -> Option<Reason> {
        if self.gate != Gate::Open {
            return self.closed();
        }
        if loan.generation < self.generation || server.close_needed() {
            return Some(Reason::CloseNeeded);
        }
        if loan.errand == Errand::Dedicated {
            return Some(Reason::ReplicationOver);
        }
        if self.lifetime_over(loan.connected, loan.served, now) {
            return Some(Reason::LifetimeOver);
        }
        // It has been struck off by now, and counts itself only once it stays.
        (self.policy.pool_size != 0 && self.servers() >= self.limit()).then_some(Reason::TooMany)
    }

    /// Why nobody is served, if so.
    fn closed(&self) -> Option<Reason> {
        match self.gate {
            Gate::Open => None,
            Gate::Paused => Some(Reason::Paused),
            Gate::Ended(Ended::Shutdown) => Some(Reason::Shutdown),
            Gate::Ended(Ended::Killed | Ended::DatabaseGone) => Some(Reason::DatabaseRemoved),
        }
    }

    fn close_resting(&mut self, reason: Reason) {
        while let Some(resting) = self.shelf.take(0, Reuse::LeastRecent) {
            self.orders.push_back(Order::Close { server: resting.server, reason });
        }
        for resting in self.used.drain(..) {
            self.orders.push_back(Order::Close { server: resting.server, reason });
        }
    }

    /// Closes the servers at rest for which `goes` says so.
    pub(super) fn close_such(&mut self, reason: Reason, goes: impl Fn(&S) -> bool) {
        let orders = &mut self.orders;
        let mut close = |server: S| orders.push_back(Order::Close { server, reason });
        self.shelf.sweep(|resting| goes(&resting.server).then_some(()), |resting, ()| close(resting.server));
        for resting in self.used.extract_if(.., |resting| goes(&resting.server)) {
            close(resting.server);
        }
    }

    fn refuse_all(&mut self, why: Refused) {
        self.refuse_line(why);
        while let Some(in_line) = self.dedicated_line.pop() {
            self.orders.push_back(Order::Refuse { waiter: in_line.waiter, why });
        }
    }

    fn refuse_line(&mut self, why: Refused) {
        while let Some(in_line) = self.line.pop() {
            self.orders.push_back(Order::Refuse { waiter: in_line.waiter, why });
        }
    }

    /// Strikes a server off the list of its errand.
    fn strike(&mut self, loan: &Loan) {
        *self.list(loan.errand) -= 1;
        if loan.generation < self.generation {
            match loan.errand {
                Errand::Dedicated => self.dedicated_unwanted -= 1,
                _ => self.close_needed -= 1,
            }
        }
    }

    fn list(&mut self, errand: Errand) -> &mut u32 {
        match errand {
            Errand::Active => &mut self.active,
            Errand::Tested => &mut self.tested,
            Errand::BeingCanceled => &mut self.being_canceled,
            Errand::Abandoned => &mut self.abandoned,
            Errand::Dedicated => &mut self.dedicated,
        }
    }

    fn strike_opening(&mut self, slip: &Slip) {
        match slip.place {
            Some(place) => {
                self.dedicated_opening -= 1;
                self.dedicated_line.set_served(place, false);
            }
            None => self.opening -= 1,
        }
    }

    /// Servers that are logged in and go from client to client.
    fn shared(&self) -> u32 {
        let resting = u32::try_from(self.shelf.len() + self.used.len()).unwrap_or(u32::MAX);
        resting + self.away()
    }

    /// Of those, the ones that are not on the shelf.
    fn away(&self) -> u32 {
        self.active + self.tested + self.being_canceled + self.abandoned
    }

    /// Servers that hold a place in the pool, logged in or not.
    fn servers(&self) -> u32 {
        self.shared() + self.opening + self.dedicated + self.dedicated_opening
    }

    /// The most servers the pool may have; meaningful where `pool_size` is not zero.
    fn limit(&self) -> u32 {
        self.policy.pool_size.saturating_add(self.policy.reserve_pool_size)
    }
}

#[cfg(test)]
mod tests;
