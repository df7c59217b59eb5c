//! Who gets which server, and when.
//!
//! A [`Pool`] is the servers of one (database, user). A client's task asks it for a server at the start of a
//! transaction ([`Pool::ask`]) and gives the [`Lease`] back at the end ([`Lease::release`]); those two are the hot
//! path, each one short lock with an answer under it. Everything else is *facts in, orders out*: the world tells the
//! [`scheduler::Scheduler`] what happened, the lock is released, and then this file carries out what the scheduler
//! wants done: it hands servers to waiting clients, opens, checks and closes them.
//!
//! Reading order:
//! - [`scheduler`], the policy, with its words in [`orders`] and its parts [`waiting`] (the line), [`idle`] (the shelf)
//!   and [`hosts`]; all pure, simulated in `tests/sim`
//! - [`quota`]: caps across pools, pure; `ledger` keeps it for the process and hands out permits
//! - [`rules`]: what the configuration says of one pool
//! - [`greeting`]: what a client that logs in is told of its server, pure
//! - this file: the pool, and the orders turned into deeds; `errands`: the deeds that take time; `abandoned`: what is
//!   done with a server that its client has left in the middle
//! - [`lease`]: what a client holds while it waits, and while it has a server
//! - [`cancel_line`]: connections that carry requests to cancel, pure; `cancels`: their tickets, and the peers
//! - [`registry`]: every pool by name; reload, PAUSE and its kin, limits on clients
//! - [`suspension`]: SUSPEND; `adopt`: servers that a predecessor opened, and those shown to a successor
//!
//! Locks are std mutexes, each private to its file, and held for no call that could block. They nest in one order only:
//! registry, pool, waiter or greeting. Servers and permits are dropped with no lock held, since a permit's end may wake
//! other pools.

mod abandoned;
mod adopt;
pub mod cancel_line;
mod cancels;
mod errands;
pub mod greeting;
pub mod hosts;
pub mod idle;
pub mod lease;
mod ledger;
pub mod orders;
pub mod quota;
pub mod registry;
pub mod rules;
pub mod scheduler;
pub mod suspension;
pub mod waiting;

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

pub use abandoned::LeftAt;
pub use adopt::{Checked, Origin};
pub use cancels::{CancelTicket, Carrier, Logged, PeerPool, PeerPoolView};
pub use greeting::{Cause, Greeting};
pub use lease::{Ask, Lease, Refusal, Start, Ticket, Waiter};
pub use registry::{Admission, ControlError, DatabaseView, Denied, NoPool, Registry, Released, State, Stop, UserView};
pub use rules::Rules;

use crate::auth::{Credential, KeyCache};
use crate::config::{Host, LoadBalanceHosts, PoolMode};
use crate::net::dns::Dns;
use crate::net::tls::Tls;
use crate::net::workers::Workers;
use crate::protocol::parameters::ParameterSet;
use crate::server::{ConnectError, Means, Server};
use crate::stats::counters::{Counters, bump};
use crate::stats::moment::Moment;
use crate::stats::roster::{self, Endpoint, Roster, ServerCard, ServerState};
use crate::wire::startup::Replication;
use cancel_line::CancelLine;
use greeting::Known;
use idle::Held;
use lease::{Outcome, Turn};
use ledger::{Ledger, Permit};
use orders::{Counts, Ended, Loan, Order, Reason, Refused};
use quota::Names;
use scheduler::{Returned, Scheduler};
use suspension::Suspension;
use waiting::Place;

/// A server in the pool's keeping, with its place under the caps.
struct Kept {
    server: Box<Server>,
    permit: Permit,
}

impl Held for Kept {
    fn home(&self) -> usize {
        self.server.home()
    }

    fn mark(&self, state: ServerState) {
        self.server.card().set_state(state);
    }

    fn close_needed(&self) -> bool {
        self.server.card().close_needed.load(Relaxed)
    }
}

/// What pools share.
struct Surroundings {
    roster: Arc<Roster>,
    workers: Workers,
    /// Derived keys, for logging in to servers.
    keys: KeyCache,
    /// Encryption, towards clients and towards servers.
    tls: Tls,
    ledger: Ledger,
    /// Where hosts are looked up.
    dns: Dns,
    suspension: Suspension,
    /// Rings after every change but the quick ones: PAUSE and WAIT_CLOSE look again.
    progress: Notify,
}

impl Surroundings {
    fn means(&self) -> Means {
        Means {
            dns: self.dns.clone(),
            keys: self.keys.clone(),
            compute: self.workers.compute().clone(),
            tls: self.tls.current(),
        }
    }
}

/// The servers of one (database, user), and the clients that share them.
pub struct Pool {
    names: Names,
    surroundings: Arc<Surroundings>,
    scheduler: Mutex<Scheduler<Kept, Turn>>,
    rules: Mutex<Arc<Rules>>,
    rules_version: AtomicU64,
    /// [`Rules::resets`], for the hot path.
    resets: AtomicBool,
    credential: Mutex<Credential>,
    counters: Counters,
    /// What new clients are told; no other lock is taken while it is held.
    known: Mutex<Known>,
    /// See [`Pool::news`].
    news: Notify,
    last_error: Mutex<Option<Arc<ConnectError>>>,
    /// Servers whose client is done but for which a cancel request is still under way.
    held_back: Mutex<Vec<(Kept, Loan)>>,
    members: AtomicUsize,
    /// Requests to cancel for clients of this pool.
    cancel_line: Mutex<CancelLine>,
    /// Requests of its own, for servers that clients have left.
    own_cancels: Mutex<CancelLine>,
    /// Where the next server goes that is opened for nobody in particular.
    next_worker: AtomicUsize,
    /// Since when it has had neither client nor server, in microseconds of [`Moment`]; 0 is not known.
    empty_since: AtomicU64,
}

/// The row of a pool in SHOW POOLS.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields are the columns of SHOW POOLS")]
pub struct PoolView {
    pub database: Arc<str>,
    pub user: Arc<str>,
    pub cl_active: u32,
    pub cl_waiting: u32,
    pub cl_active_cancel_req: u32,
    pub cl_waiting_cancel_req: u32,
    pub sv_active: u32,
    pub sv_active_cancel: u32,
    pub sv_being_canceled: u32,
    pub sv_idle: u32,
    pub sv_used: u32,
    pub sv_tested: u32,
    pub sv_login: u32,
    /// How long the first in line has waited: `maxwait` in whole seconds and `maxwait_us` are made of it.
    pub maxwait_us: u64,
    pub pool_mode: PoolMode,
    /// Nothing for a single host.
    pub load_balance_hosts: Option<LoadBalanceHosts>,
}

impl Pool {
    fn new(names: Names, rules: Rules, credential: Credential, surroundings: Arc<Surroundings>) -> Arc<Pool> {
        let pool = Arc::new(Pool {
            names,
            scheduler: Mutex::new(Scheduler::new(rules.policy())),
            rules_version: AtomicU64::new(1),
            resets: AtomicBool::new(rules.resets()),
            rules: Mutex::new(Arc::new(rules)),
            credential: Mutex::new(credential),
            counters: Counters::new(surroundings.workers.count()),
            surroundings,
            known: Mutex::default(),
            news: Notify::new(),
            last_error: Mutex::default(),
            held_back: Mutex::default(),
            members: AtomicUsize::new(0),
            cancel_line: Mutex::default(),
            own_cancels: Mutex::default(),
            next_worker: AtomicUsize::new(0),
            empty_since: AtomicU64::new(0),
        });
        pool.surroundings.ledger.enter(&pool);
        pool
    }

    /// The database as clients name it.
    pub fn database(&self) -> &Arc<str> {
        &self.names.database
    }

    /// The user servers are logged in as: the database's forced user where it has one.
    pub fn user(&self) -> &Arc<str> {
        &self.names.user
    }

    /// The settings that hold for this pool now.
    pub fn rules(&self) -> Arc<Rules> {
        lock(&self.rules).clone()
    }

    /// Changes whenever [`Pool::rules`] does.
    pub fn rules_version(&self) -> u64 {
        self.rules_version.load(Relaxed)
    }

    /// What happened in this pool.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What a client that logs in is to be told, and the round in which that is so. A client that asks for a server to
    /// learn more hands the round to [`Pool::confirm_greeting`].
    pub fn greeting(&self) -> (Greeting, u64) {
        let trusted = self.lock().has_trusted_server();
        let known = lock(&self.known);
        let greeting = match known.current().cloned() {
            None => Greeting::Unknown,
            Some(parameters) if trusted => Greeting::Current(parameters),
            Some(parameters) => Greeting::Doubtful(parameters),
        };
        (greeting, known.round())
    }

    /// What to tell the client that asked for a server in this round and got this one. Nothing where servers may be
    /// others again by now.
    pub fn confirm_greeting(&self, server: &Server, round: u64) -> Option<ParameterSet> {
        let told = lock(&self.known).confirmed(server.parameters(), round);
        self.news.notify_waiters();
        told
    }

    /// Has a server of this pool ever let anybody in?
    pub fn has_let_in(&self) -> bool {
        lock(&self.known).is_any()
    }

    /// Is a server being opened or checked that could go to whoever waits first?
    pub fn is_server_coming(&self) -> bool {
        self.lock().is_server_coming()
    }

    /// Ends when, since it was called, a server has told something for the greeting, or it turned out that one that was
    /// opened or checked could not.
    pub fn news(&self) -> Notified<'_> {
        self.news.notified()
    }

    /// A server on loan reports a parameter. Where it speaks of itself, new clients are told from now on.
    pub fn reported(&self, server: &ServerCard, name: &str, value: &str) {
        if !server.close_needed.load(Relaxed) {
            lock(&self.known).report(name, value, Cause::Client);
        }
    }

    /// A server that had reported `before` was listened to, or has answered a query of ours: what it says now of itself
    /// is what new clients are told.
    pub fn heard(&self, server: &Server, before: &ParameterSet, cause: Cause) {
        if !server.parameters().is(before) && !server.card().close_needed.load(Relaxed) {
            lock(&self.known).heard(before, server.parameters(), cause);
        }
    }

    /// Is an idle server as it was left? Then what it has said meanwhile is only what others NOTIFY, and parameters.
    #[inline]
    fn is_undisturbed(&self, server: &mut Server) -> bool {
        !server.has_input() || self.hear_out(server)
    }

    #[cold]
    fn hear_out(&self, server: &mut Server) -> bool {
        let before = server.parameters().clone();
        let undisturbed = server.hear_at_rest();
        self.heard(server, &before, Cause::Server);
        undisturbed
    }

    /// Counts a client that is logged in, until the guard is dropped.
    pub fn join(self: &Arc<Pool>) -> Member {
        self.members.fetch_add(1, Relaxed);
        Member { pool: self.clone() }
    }

    /// Asks for a server: once at the start of each transaction. `worker` is the thread the client runs on. The waiter
    /// must have been made for this pool.
    ///
    /// Answers at once. Where nothing is idle the client is in line, until the ticket is dropped.
    pub fn ask(self: &Arc<Pool>, waiter: &Arc<Waiter>, worker: usize, now: Moment) -> Ask {
        debug_assert!(Arc::ptr_eq(self, waiter.pool()), "a waiter of another pool");
        loop {
            let mut scheduler = self.lock();
            let Some((mut kept, loan)) = scheduler.take(worker) else {
                return self.queue(scheduler, waiter, worker, now);
            };
            drop(scheduler);
            if self.is_undisturbed(&mut kept.server) {
                bump(&self.counters.shard(worker).server_assignment_count, 1);
                return Ask::Granted(Lease::begin(kept, loan, waiter));
            }
            self.discard(kept, loan, Reason::Dirty.text(), now);
        }
    }

    #[cold]
    fn queue(
        self: &Arc<Pool>,
        mut scheduler: MutexGuard<'_, Scheduler<Kept, Turn>>,
        waiter: &Arc<Waiter>,
        worker: usize,
        now: Moment,
    ) -> Ask {
        let turn = waiter.begin();
        let answer = scheduler.client_waits(turn, worker, now);
        drop(scheduler);
        self.in_line(waiter, answer, worker, now)
    }

    fn in_line(
        self: &Arc<Pool>,
        waiter: &Arc<Waiter>,
        answer: Result<Place, Refused>,
        worker: usize,
        now: Moment,
    ) -> Ask {
        let ask = match answer {
            Ok(place) => Ask::Waiting(Ticket::new(waiter, place, worker)),
            Err(refused) => {
                waiter.give_up();
                Ask::Refused(self.refusal(refused))
            }
        };
        self.carry_out(now);
        ask
    }

    /// As [`Pool::ask`], for a server that is opened for this waiter alone: one made by [`Waiter::dedicated`]. The
    /// client is always in line first, until the server is logged in.
    pub fn ask_dedicated(self: &Arc<Pool>, waiter: &Arc<Waiter>, worker: usize, now: Moment) -> Ask {
        debug_assert!(waiter.start().is_some(), "a waiter that says how the server is to start");
        let turn = waiter.begin();
        let answer = self.lock().dedicated_waits(turn, worker, now);
        self.in_line(waiter, answer, worker, now)
    }

    /// A cancel request has settled: servers that were kept back for it are put in order and go home. The server's
    /// `cancels` must have been lowered before.
    pub fn cancel_settled(self: &Arc<Pool>) {
        let settled: Vec<_> = {
            let mut held_back = lock(&self.held_back);
            held_back.extract_if(.., |(kept, _)| kept.server.card().cancels.load(SeqCst) == 0).collect()
        };
        for (kept, loan) in settled {
            self.tidy_after_cancel(kept, loan);
        }
    }

    /// The row of SHOW POOLS.
    pub fn view(&self, now: Moment) -> PoolView {
        let counts = self.counts(now);
        let rules = self.rules();
        let cancels = lock(&self.cancel_line).counts();
        let own_cancels = lock(&self.own_cancels).counts();
        PoolView {
            database: self.names.database.clone(),
            user: self.names.user.clone(),
            cl_active: self.members().saturating_sub(counts.waiting),
            cl_waiting: counts.waiting,
            cl_active_cancel_req: cancels.telling,
            cl_waiting_cancel_req: cancels.waiting,
            sv_active: counts.active,
            sv_active_cancel: cancels.telling + own_cancels.telling,
            sv_being_canceled: counts.being_canceled,
            sv_idle: counts.idle,
            sv_used: counts.used,
            sv_tested: counts.tested,
            sv_login: counts.opening + cancels.connecting + own_cancels.connecting,
            maxwait_us: counts.maxwait_us,
            pool_mode: rules.pool_mode,
            load_balance_hosts: (rules.hosts.len() > 1).then_some(rules.load_balance_hosts),
        }
    }

    /// How many servers and waiting clients are where.
    pub fn counts(&self, now: Moment) -> Counts {
        self.lock().counts(now)
    }

    /// Clients logged in.
    pub fn members(&self) -> u32 {
        u32::try_from(self.members.load(Relaxed)).unwrap_or(u32::MAX)
    }

    /// A server whose client is done comes home: by way of a held-back cancel or a reset, where one is due.
    fn come_home(self: &Arc<Pool>, kept: Kept, loan: Loan, now: Moment) {
        // The client's link was cleared before, both sequentially consistent: a canceler that is not seen here raises
        // `cancels` later, and so finds the link gone when it looks again.
        if kept.server.card().cancels.load(SeqCst) != 0 {
            self.hold_back(kept, loan);
        } else if self.resets.load(Relaxed) {
            self.reset(kept, loan);
        } else {
            self.shelve(kept, loan, now);
        }
    }

    /// A clean server goes to the first in line, or to rest.
    fn shelve(self: &Arc<Pool>, kept: Kept, loan: Loan, now: Moment) {
        // Said before the lock: once it is on the shelf, the next client may say otherwise.
        kept.mark(ServerState::Idle);
        let returned = self.lock().server_released(kept, loan, now);
        if let Returned::Do(order) = returned {
            self.perform(order, now);
            self.carry_out(now);
        }
    }

    /// A server away from the shelf is closed.
    fn discard(self: &Arc<Pool>, kept: Kept, loan: Loan, reason: &str, now: Moment) {
        self.close(kept, reason, now);
        self.lock().server_lost(loan, now);
        self.carry_out(now);
    }

    /// Does everything the scheduler wants done.
    fn carry_out(self: &Arc<Pool>, now: Moment) {
        loop {
            let order = self.lock().next_order();
            match order {
                Some(order) => self.perform(order, now),
                None => return self.surroundings.progress.notify_waiters(),
            }
        }
    }

    fn perform(self: &Arc<Pool>, order: Order<Kept, Turn>, now: Moment) {
        match order {
            Order::Grant { server, loan, waiter, waited_us } => {
                let outcome = Outcome::Granted { kept: server, loan, waited_us };
                if let Err(Outcome::Granted { kept, loan, .. }) = waiter.deliver(outcome) {
                    // The client left while the grant was on its way; nobody has touched the server.
                    let returned = self.lock().server_released(kept, loan, now);
                    if let Returned::Do(next) = returned {
                        self.perform(next, now);
                    }
                }
            }
            Order::Open { slip, host, worker, purpose } => self.open(slip, host, worker, purpose, now),
            Order::OpenDedicated { slip, host, worker, purpose, waiter } => {
                self.open_dedicated(slip, host, worker, purpose, &waiter, now);
            }
            Order::Check { server, loan } => self.check(server, loan, now),
            Order::Close { server, reason } => self.close(server, reason.text(), now),
            Order::Refuse { waiter, why } => {
                // A client that left meanwhile needs no refusal.
                let _ = waiter.deliver(Outcome::Refused(self.refusal(why)));
            }
            Order::Notify { waiter } => waiter.notify(),
        }
    }

    /// Closes a server; its permit goes with it.
    fn close(&self, kept: Kept, reason: &str, now: Moment) {
        let Kept { server, permit } = kept;
        let log = self.rules().log_disconnections;
        lease::log_closing(&server, reason, log, now);
        server.terminate();
        drop(permit);
    }

    fn refusal(&self, refused: Refused) -> Refusal {
        let last_error = || lock(&self.last_error).clone();
        match refused {
            Refused::QueryWaitTimeout => Refusal::QueryWaitTimeout,
            Refused::LoginFailed => last_error().map_or(Refusal::Shutdown, Refusal::ServerLoginFailed),
            Refused::LoginRetry => last_error().map_or(Refusal::Shutdown, Refusal::LoginRetry),
            Refused::Ended(Ended::Killed) => Refusal::Killed,
            Refused::Ended(Ended::DatabaseGone) => Refusal::DatabaseGone,
            Refused::Ended(Ended::Shutdown) => Refusal::Shutdown,
        }
    }

    /// Does what time asks for, some three times a second.
    fn tick(self: &Arc<Pool>, now: Moment) {
        let members = self.members.load(Relaxed);
        let dedicated = {
            let mut scheduler = self.lock();
            scheduler.tick(members, now, |kept| !self.is_undisturbed(&mut kept.server));
            scheduler.has_dedicated()
        };
        self.carry_out(now);
        if dedicated {
            // One that was just being handed to its client when it was marked.
            self.drop_unwanted();
        }
        self.cancel_settled();
    }

    /// A login brought a credential: servers are opened with it from now on.
    fn offer_credential(&self, credential: Credential) {
        let mut held = lock(&self.credential);
        let credential = credential.or_held(&held);
        if *held != credential {
            *held = credential;
            drop(held);
            self.lock().forget_failure();
        }
    }

    /// New settings hold from now on. Servers that lead elsewhere than the new ones close as they come home.
    fn apply(self: &Arc<Pool>, rules: Rules, now: Moment) {
        let old = self.rules();
        if *old == rules {
            return;
        }
        let policy = rules.policy();
        let elsewhere = rules.leads_elsewhere(&old);
        self.resets.store(rules.resets(), Relaxed);
        *lock(&self.rules) = Arc::new(rules);
        self.rules_version.fetch_add(1, Relaxed);
        self.lock().set_policy(policy, now);
        if elsewhere {
            self.reconnect(now);
        } else {
            self.carry_out(now);
        }
    }

    /// RECONNECT: every server open now is closed, at once or as it comes home.
    fn reconnect(self: &Arc<Pool>, now: Moment) {
        for host in &self.rules().hosts {
            if let Host::Tcp { host, .. } = host {
                self.surroundings.dns.expire(host);
            }
        }
        for card in self.server_cards() {
            card.close_needed.store(true, Relaxed);
        }
        // Before the scheduler takes leave of what is being opened now: what it keeps then renews the greeting.
        lock(&self.known).outdate();
        self.lock().reconnect(now);
        self.carry_out(now);
        self.drop_unwanted();
    }

    /// Orders the clients away whose dedicated server is marked to be closed: such a connection may last for ever, so
    /// nobody waits for its end.
    fn drop_unwanted(&self) {
        for card in self.server_cards() {
            if card.replication() != Replication::Off
                && card.close_needed.load(Relaxed)
                && let Some(client) = self.surroundings.roster.client(card.link())
            {
                client.give_order(roster::Order::ServerUnwanted);
            }
        }
    }

    /// A host has these addresses no longer: servers connected to one of them are closed, at once or as they come home.
    fn addresses_gone(self: &Arc<Pool>, host: &str, gone: &[IpAddr], now: Moment) {
        let leads_there = |card: &ServerCard| {
            let address = match &card.peer {
                Endpoint::Tcp(address) => address.ip(),
                Endpoint::Unix { .. } => return false,
            };
            gone.contains(&address) && card.host.get().is_some_and(|known| **known == *host)
        };
        let mut found = false;
        for card in self.server_cards().filter(|card| leads_there(card)) {
            card.close_needed.store(true, Relaxed);
            found = true;
        }
        if found {
            lock(&self.known).outdate();
            self.lock().close_marked(now);
            self.carry_out(now);
            self.drop_unwanted();
        }
    }

    /// Servers that are marked to be closed and are not closed yet.
    fn servers_marked(&self) -> u32 {
        let marked = self.server_cards().filter(|card| card.close_needed.load(Relaxed)).count();
        u32::try_from(marked).unwrap_or(u32::MAX)
    }

    fn server_cards(&self) -> impl Iterator<Item = Arc<ServerCard>> {
        let cards = self.surroundings.roster.servers().into_iter();
        cards.filter(|card| card.database == self.names.database && card.user == self.names.user)
    }

    fn end(self: &Arc<Pool>, ended: Ended, now: Moment) {
        self.lock().end(ended);
        self.carry_out(now);
        // Nobody looks into a pool that has ended, so what it keeps back would be forgotten here.
        let held_back = std::mem::take(&mut *lock(&self.held_back));
        for (kept, loan) in held_back {
            self.discard(kept, loan, Reason::DatabaseRemoved.text(), now);
        }
    }

    /// Room was made under a cap that had refused this pool.
    fn room_made(self: &Arc<Pool>, now: Moment) {
        self.lock().room_made(now);
        self.carry_out(now);
    }

    fn lock(&self) -> MutexGuard<'_, Scheduler<Kept, Turn>> {
        lock(&self.scheduler)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Pool").field("database", &self.names.database).field("user", &self.names.user).finish()
    }
}

/// A logged-in client's share in its pool; leaves on drop.
#[derive(Debug)]
pub struct Member {
    pool: Arc<Pool>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.pool.members.fetch_sub(1, Relaxed);
    }
}

/// A panic elsewhere must not take the whole pool with it; what the lock protects is changed in steps that each hold.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
