//! The simulated process: a few pools under common caps, their servers as integers, clients as integers.
//!
//! It keeps its own plain books of who waits, who has what and which servers exist, carries out the scheduler's orders
//! as the real pool does, and compares after every event.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use pgweir::config::LoadBalanceHosts;
use pgweir::pool::idle::{Held, Reuse};
use pgweir::pool::orders::{Ended, Errand, Loan, Order, Outlook, Policy, Purpose, Refused, Slip};
use pgweir::pool::quota::{Caps, Names, Quota};
use pgweir::pool::scheduler::{OPENINGS_MAX, Returned, Scheduler};
use pgweir::pool::waiting::Place;
use pgweir::stats::moment::Moment;
use pgweir::stats::roster::ServerState;

use crate::rng::Rng;

const WORKERS: u64 = 3;
const HISTORY: usize = 40;

#[derive(Debug)]
pub(crate) struct Server {
    id: u32,
    home: usize,
    /// To be closed when it is free.
    marked: Arc<AtomicBool>,
}

impl Held for Server {
    fn home(&self) -> usize {
        self.home
    }

    fn mark(&self, _: ServerState) {}

    fn close_needed(&self) -> bool {
        self.marked.load(Relaxed)
    }
}

/// A server away from the shelf.
struct Away {
    server: Server,
    loan: Loan,
    errand: Errand,
}

struct Pool {
    names: Names,
    caps: Caps,
    policy: Policy,
    scheduler: Scheduler<Server, u32>,
    /// Who waits, in order of arrival, with the time of arrival.
    line: VecDeque<(u32, Place, Moment)>,
    /// Who waits for a server of its own, in order of arrival.
    dedicated_line: VecDeque<(u32, Place, Moment)>,
    notified: BTreeSet<u32>,
    away: Vec<Away>,
    opening: Vec<Slip>,
    /// Openings for one client each.
    dedicated_opening: Vec<(u32, Slip)>,
    /// Ids of logged-in servers.
    servers: BTreeSet<u32>,
    members: usize,
    paused: bool,
    ended: bool,
    /// The largest limit since its servers last fitted; a pool made smaller shrinks as servers come home.
    roof: u32,
    /// Set by every passing failure: until then a client is never turned away for `server_login_retry`.
    failed: bool,
}

pub(crate) struct World {
    seed: u64,
    rng: Rng,
    now: Moment,
    pools: Vec<Pool>,
    quota: Quota<usize>,
    dirty: BTreeSet<u32>,
    ids: u32,
    /// The marks of all servers there were.
    marks: BTreeMap<u32, Arc<AtomicBool>>,
    history: VecDeque<(Moment, usize, &'static str)>,
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let mut rng = Rng::new(seed);
        let cap_database = rng.pick(&[0, 0, 1, 3, 6]);
        let cap_user = rng.pick(&[0, 0, 0, 2, 5]);
        let pools = [("a", "x"), ("a", "y"), ("b", "x")]
            .into_iter()
            .map(|(database, user)| {
                let names = Names { database: database.into(), user: user.into() };
                Pool::new(names, Caps { database: cap_database, user: cap_user }, policy(&mut rng))
            })
            .collect();
        World {
            seed,
            rng,
            now: Moment(1_000_000),
            pools,
            quota: Quota::new(),
            dirty: BTreeSet::new(),
            ids: 0,
            marks: BTreeMap::new(),
            history: VecDeque::new(),
        }
    }

    /// One random event and all that follows from it.
    pub(crate) fn step(&mut self) {
        let pool = self.rng.index(self.pools.len());
        match self.rng.up_to(99) {
            0..26 => self.client_asks(pool),
            26..30 => self.dedicated_asks(pool),
            30..53 => self.server_comes_back(pool),
            53..57 => self.server_dies_on_loan(pool),
            57..60 => self.client_leaves(pool),
            60..62 => self.dedicated_leaves(pool),
            62..73 => self.opening_ends(pool),
            73..76 => self.dedicated_opening_ends(pool),
            76..86 => self.time_passes(),
            86..93 => self.tick(),
            93 => self.idle_server_dies(pool),
            94 => self.mark_servers(pool),
            95 => self.pause_or_resume(pool),
            96 => self.reconnect(pool),
            97 => self.new_policy(pool),
            98 => self.kill(pool),
            _ => self.errand(pool),
        }
        self.check();
    }

    /// Everything works from here on, and nobody is refused for waiting long: everyone must be served, and then nothing
    /// may be left.
    pub(crate) fn finish(&mut self) {
        for pool in 0..self.pools.len() {
            self.note(pool, "finish");
            if std::mem::take(&mut self.pools[pool].paused) {
                self.pools[pool].scheduler.resume(self.now);
            }
            self.pools[pool].policy.query_wait_timeout = Duration::ZERO;
            let policy = self.pools[pool].policy.clone();
            self.pools[pool].scheduler.set_policy(policy, self.now);
            self.carry_out(pool);
        }
        for round in 0.. {
            if self.pools.iter().all(|pool| pool.line.is_empty() && pool.dedicated_line.is_empty()) {
                break;
            }
            assert!(round < 2_000, "seed {}: someone waits for ever", self.seed);
            for pool in 0..self.pools.len() {
                self.wind_up(pool);
            }
            self.now = self.now + Duration::from_millis(333);
            self.tick();
            self.check();
        }
        for pool in 0..self.pools.len() {
            self.pools[pool].ended = true;
            self.pools[pool].scheduler.end(Ended::Shutdown);
            self.carry_out(pool);
            self.wind_up(pool);
        }
        self.check();
        for pool in &self.pools {
            assert_eq!(pool.scheduler.counts(self.now).servers(), 0, "seed {}: a server leaks", self.seed);
            assert_eq!(self.quota.open_in_database(&pool.names.database), 0, "seed {}: a booking leaks", self.seed);
            assert_eq!(self.quota.open_for_user(&pool.names.user), 0, "seed {}: a booking leaks", self.seed);
        }
    }

    /// All that is under way comes to its end.
    fn wind_up(&mut self, pool: usize) {
        while let Some(slip) = self.pools[pool].opening.pop() {
            self.opened(pool, slip);
        }
        while let Some((_, slip)) = self.pools[pool].dedicated_opening.pop() {
            self.opened(pool, slip);
        }
        while let Some(away) = self.pools[pool].away.pop() {
            self.released(pool, away);
        }
    }

    fn dedicated_asks(&mut self, at: usize) {
        self.note(at, "replication client asks");
        let worker = self.rng.up_to(WORKERS) as usize;
        self.ids += 1;
        let pool = &mut self.pools[at];
        match pool.scheduler.dedicated_waits(self.ids, worker, self.now) {
            Ok(place) => pool.dedicated_line.push_back((self.ids, place, self.now)),
            Err(refused) => assert!(pool.ended, "refused for no reason: {refused:?}"),
        }
        self.carry_out(at);
    }

    fn dedicated_leaves(&mut self, at: usize) {
        let len = self.pools[at].dedicated_line.len();
        if len == 0 {
            return;
        }
        self.note(at, "replication client leaves");
        let which = self.rng.index(len);
        let pool = &mut self.pools[at];
        let (client, place, _) = pool.dedicated_line.remove(which).expect("in range");
        assert_eq!(pool.scheduler.dedicated_left(place), Some(client));
        assert_eq!(pool.scheduler.dedicated_left(place), None, "nobody leaves twice");
        // Mostly the opening is given up with it; now and then it is too late for that.
        let under_way = pool.dedicated_opening.iter().position(|(whom, _)| *whom == client);
        if let Some(under_way) = under_way
            && !self.rng.one_in(4)
        {
            let (_, slip) = self.pools[at].dedicated_opening.swap_remove(under_way);
            self.unbook(at);
            self.pools[at].scheduler.open_abandoned(slip, self.now);
            self.carry_out(at);
            self.room_after_close(at);
        }
    }

    fn dedicated_opening_ends(&mut self, at: usize) {
        if self.pools[at].dedicated_opening.is_empty() {
            return;
        }
        let which = self.rng.index(self.pools[at].dedicated_opening.len());
        let (client, slip) = self.pools[at].dedicated_opening.swap_remove(which);
        if !self.rng.one_in(6) {
            self.note(at, "dedicated server opened");
            return self.opened(at, slip);
        }
        self.note(at, "dedicated opening failed");
        let outlook = self.rng.pick(&[Outlook::Hopeless, Outlook::Passing]);
        self.unbook(at);
        let pool = &mut self.pools[at];
        pool.failed |= outlook == Outlook::Passing;
        let told = pool.scheduler.open_failed(slip, outlook, self.now);
        let waits = pool.dedicated_line.iter().position(|(whom, ..)| *whom == client);
        assert_eq!(told, waits.filter(|_| outlook == Outlook::Hopeless).map(|_| client), "told the wrong one");
        if let (Some(_), Some(position)) = (told, waits) {
            pool.dedicated_line.remove(position);
        }
        self.carry_out(at);
        self.room_after_close(at);
    }

    fn client_asks(&mut self, at: usize) {
        self.note(at, "client asks");
        let worker = self.rng.up_to(WORKERS) as usize;
        loop {
            let pool = &mut self.pools[at];
            match pool.scheduler.take(worker) {
                Some((server, loan)) => {
                    assert!(!pool.paused && !pool.ended, "lent from a closed pool");
                    assert!(pool.line.is_empty(), "someone was here before");
                    if !self.dirty.contains(&server.id) {
                        return pool.lend(server, loan);
                    }
                    self.vanish(at, server.id);
                    self.pools[at].scheduler.server_lost(loan, self.now);
                }
                None => {
                    self.ids += 1;
                    match pool.scheduler.client_waits(self.ids, worker, self.now) {
                        Ok(place) => pool.line.push_back((self.ids, place, self.now)),
                        Err(Refused::LoginRetry) => {
                            let dedicated = pool.away.iter().filter(|away| away.errand == Errand::Dedicated).count();
                            assert!(pool.failed && pool.servers.len() == dedicated, "turned away for no reason");
                        }
                        Err(refused) => assert!(pool.ended, "refused for no reason: {refused:?}"),
                    }
                }
            }
            self.carry_out(at);
            if self.pools[at].scheduler.counts(self.now).idle == 0 || !self.pools[at].line.is_empty() {
                return;
            }
        }
    }

    fn server_comes_back(&mut self, at: usize) {
        if let Some(away) = self.some_away(at) {
            self.note(at, "server comes back");
            self.released(at, away);
        }
    }

    fn released(&mut self, at: usize, away: Away) {
        let worker = self.rng.up_to(WORKERS) as usize;
        let server = Server { home: worker, ..away.server };
        match self.pools[at].scheduler.server_released(server, away.loan, self.now) {
            Returned::Rests => {}
            Returned::Do(order) => self.deed(at, order),
        }
        self.carry_out(at);
    }

    fn server_dies_on_loan(&mut self, at: usize) {
        if let Some(away) = self.some_away(at) {
            self.note(at, "server lost");
            self.vanish(at, away.server.id);
            self.pools[at].scheduler.server_lost(away.loan, self.now);
            self.carry_out(at);
            self.room_after_close(at);
        }
    }

    fn errand(&mut self, at: usize) {
        if let Some(mut away) = self.some_away(at) {
            away.errand = match away.errand {
                Errand::Active => self.rng.pick(&[Errand::Tested, Errand::BeingCanceled, Errand::Abandoned]),
                // PostgreSQL has answered: a request to cancel may still be under way, or a reset be due.
                Errand::Abandoned => self.rng.pick(&[Errand::Tested, Errand::BeingCanceled]),
                Errand::BeingCanceled | Errand::Tested => Errand::Tested,
                // It knows no errands: it is closed with its client.
                Errand::Dedicated => return self.pools[at].away.push(away),
            };
            self.note(at, "server goes on an errand");
            self.pools[at].scheduler.server_errand(&mut away.loan, away.errand);
            self.pools[at].away.push(away);
        }
    }

    fn client_leaves(&mut self, at: usize) {
        let len = self.pools[at].line.len();
        if len == 0 {
            return;
        }
        self.note(at, "client leaves");
        let which = self.rng.index(len);
        let (client, place, _) = self.pools[at].line.remove(which).expect("in range");
        let pool = &mut self.pools[at];
        assert_eq!(pool.scheduler.client_left(place), Some(client));
        assert_eq!(pool.scheduler.client_left(place), None, "nobody leaves twice");
    }

    fn opening_ends(&mut self, at: usize) {
        if self.pools[at].opening.is_empty() {
            return;
        }
        let which = self.rng.index(self.pools[at].opening.len());
        let slip = self.pools[at].opening.swap_remove(which);
        if !self.rng.one_in(6) {
            self.note(at, "server opened");
            return self.opened(at, slip);
        }
        self.note(at, "opening failed");
        let outlook = self.rng.pick(&[Outlook::Hopeless, Outlook::Passing]);
        self.unbook(at);
        let pool = &mut self.pools[at];
        pool.failed = true;
        let alone = pool.scheduler.open_failed(slip, outlook, self.now);
        assert_eq!(alone, None, "what fails for all concerns nobody alone");
        self.carry_out(at);
        self.room_after_close(at);
    }

    fn opened(&mut self, at: usize, slip: Slip) {
        self.ids += 1;
        let marked = Arc::new(AtomicBool::new(self.rng.up_to(99) < 3));
        self.marks.insert(self.ids, marked.clone());
        let server = Server { id: self.ids, home: self.rng.up_to(WORKERS) as usize, marked };
        self.pools[at].servers.insert(self.ids);
        self.pools[at].scheduler.server_opened(server, slip, self.now);
        self.carry_out(at);
    }

    fn time_passes(&mut self) {
        let span_us = self.rng.pick(&[10, 1_000, 100_000, 2_000_000, 40_000_000]);
        self.now = self.now + Duration::from_micros(self.rng.up_to(span_us));
    }

    fn tick(&mut self) {
        for at in 0..self.pools.len() {
            self.note(at, "tick");
            let (pool, dirty) = (&mut self.pools[at], &self.dirty);
            pool.scheduler.tick(pool.members, self.now, |server| dirty.contains(&server.id));
            self.carry_out(at);
            let pool = &self.pools[at];
            let timeout = pool.policy.query_wait_timeout;
            assert!(
                timeout.is_zero() || pool.waiting().all(|(_, _, since)| self.now.since(*since) <= timeout),
                "seed {}: someone waits beyond query_wait_timeout",
                self.seed
            );
        }
    }

    fn idle_server_dies(&mut self, at: usize) {
        let pool = &self.pools[at];
        let idle: Vec<u32> =
            pool.servers.iter().copied().filter(|id| pool.away.iter().all(|away| away.server.id != *id)).collect();
        if !idle.is_empty() {
            self.note(at, "idle server dies");
            self.dirty.insert(self.rng.pick(&idle));
        }
    }

    /// Their address is gone: those at rest must close now, the others as they come back.
    fn mark_servers(&mut self, at: usize) {
        self.note(at, "servers are marked");
        for id in self.pools[at].servers.clone() {
            if self.rng.up_to(1) == 0 {
                self.marks[&id].store(true, Relaxed);
            }
        }
        self.pools[at].scheduler.close_marked(self.now);
        self.carry_out(at);
        let pool = &self.pools[at];
        for id in pool.servers.iter().filter(|id| self.marks[id].load(Relaxed)) {
            assert!(pool.away.iter().any(|away| away.server.id == *id), "seed {}: {id} rests marked", self.seed);
        }
    }

    fn pause_or_resume(&mut self, at: usize) {
        self.note(at, "pause or resume");
        let pool = &mut self.pools[at];
        pool.paused = !pool.paused;
        match pool.paused {
            true => pool.scheduler.pause(),
            false => pool.scheduler.resume(self.now),
        }
        self.carry_out(at);
    }

    fn reconnect(&mut self, at: usize) {
        self.note(at, "reconnect");
        self.pools[at].scheduler.reconnect(self.now);
        self.carry_out(at);
    }

    fn new_policy(&mut self, at: usize) {
        self.note(at, "reload");
        let policy = policy(&mut self.rng);
        let pool = &mut self.pools[at];
        pool.roof = pool.roof.max(limit(&policy));
        pool.policy = policy.clone();
        pool.scheduler.set_policy(policy, self.now);
        self.carry_out(at);
    }

    /// KILL: the pool ends, and one of the same name takes its place.
    fn kill(&mut self, at: usize) {
        if !self.rng.one_in(4) || self.pools.len() > 12 || self.pools[at].ended {
            return;
        }
        self.note(at, "kill");
        let pool = &mut self.pools[at];
        pool.ended = true;
        pool.scheduler.end(self.rng.pick(&[Ended::Killed, Ended::DatabaseGone]));
        let heir = Pool::new(pool.names.clone(), pool.caps, policy(&mut self.rng));
        self.pools.push(heir);
        self.carry_out(at);
    }

    fn carry_out(&mut self, at: usize) {
        while let Some(order) = self.pools[at].scheduler.next_order() {
            self.deed(at, order);
        }
    }

    fn deed(&mut self, at: usize, order: Order<Server, u32>) {
        let pool = &mut self.pools[at];
        match order {
            Order::Grant { server, loan, waiter, waited_us }
                if pool.dedicated_line.iter().any(|(whom, ..)| *whom == waiter) =>
            {
                let position = pool.dedicated_line.iter().position(|(whom, ..)| *whom == waiter).expect("just seen");
                let (_, _, since) = pool.dedicated_line.remove(position).expect("in range");
                assert_eq!(waited_us, self.now.micros_since(since));
                assert!(!pool.paused && !pool.ended, "granted by a closed pool");
                pool.away.push(Away { server, loan, errand: Errand::Dedicated });
            }
            Order::Grant { server, loan, waiter, waited_us } => {
                let (first, _, since) = pool.line.pop_front().expect("granted to nobody");
                assert_eq!(first, waiter, "seed {}: not first come, first served", self.seed);
                assert_eq!(waited_us, self.now.micros_since(since));
                assert!(!pool.paused && !pool.ended, "granted by a closed pool");
                assert!(!server.close_needed(), "seed {}: granted though marked", self.seed);
                pool.lend(server, loan);
            }
            Order::Open { slip, purpose, .. } => self.open(at, slip, purpose, None),
            Order::OpenDedicated { slip, purpose, waiter, .. } => self.open(at, slip, purpose, Some(waiter)),
            Order::Check { server, loan } => {
                pool.away.push(Away { server, loan, errand: Errand::Tested });
            }
            Order::Close { server, .. } => {
                self.vanish(at, server.id);
                self.room_after_close(at);
            }
            Order::Refuse { waiter, why } => {
                let place = |line: &VecDeque<(u32, Place, Moment)>| line.iter().position(|(whom, ..)| *whom == waiter);
                let line = if place(&pool.line).is_some() { &mut pool.line } else { &mut pool.dedicated_line };
                let position = place(line).expect("refused nobody");
                let (_, _, since) = line.remove(position).expect("in range");
                match why {
                    Refused::QueryWaitTimeout => assert!(self.now.since(since) > pool.policy.query_wait_timeout),
                    Refused::LoginFailed => assert!(pool.failed),
                    Refused::Ended(_) => assert!(pool.ended),
                    Refused::LoginRetry => panic!("this is said at the door only"),
                }
            }
            Order::Notify { waiter } => {
                assert!(pool.waiting().any(|(client, ..)| *client == waiter), "told somebody who does not wait");
                assert!(pool.notified.insert(waiter), "told twice");
            }
        }
    }

    fn open(&mut self, at: usize, slip: Slip, purpose: Purpose, whom: Option<u32>) {
        let pool = &mut self.pools[at];
        assert!(!pool.ended && !pool.paused, "opened by a closed pool");
        // The order may have others of its kind beside it: the scheduler has counted them all.
        let counts = pool.scheduler.counts(self.now);
        assert!(counts.opening <= 2 * OPENINGS_MAX, "too many at once");
        if let Some(whom) = whom {
            assert!(pool.dedicated_opening.iter().all(|(known, _)| *known != whom), "opened twice for one client");
        }
        let policy = &pool.policy;
        if policy.pool_size != 0 {
            match purpose {
                Purpose::Demand | Purpose::Minimum => assert!(counts.servers() <= policy.pool_size, "beyond pool_size"),
                Purpose::Reserve => {
                    assert!(counts.servers() <= limit(policy), "beyond the reserve");
                    let first = |line: &VecDeque<(u32, Place, Moment)>| line.front().map(|(_, _, since)| *since);
                    let since = match whom {
                        Some(_) => first(&pool.dedicated_line),
                        None => first(&pool.line),
                    };
                    let since = since.expect("the reserve is for those who wait");
                    assert!(self.now.since(since) >= policy.reserve_pool_timeout, "too early for the reserve");
                }
            }
        }
        let (names, caps) = (pool.names.clone(), pool.caps);
        let mut room = self.quota.take(&names, caps);
        while room.is_err() && purpose != Purpose::Minimum {
            let Some(victim) = self.victim(&names, room.expect_err("just seen")) else { break };
            self.note(victim, "evicted from");
            let server = self.pools[victim].scheduler.evict().expect("it was idle a moment ago");
            let victims = self.pools[victim].names.clone();
            self.pools[victim].servers.remove(&server.id);
            self.dirty.remove(&server.id);
            room = self.quota.exchange(&victims, &names, caps);
            if room.is_err() {
                self.give_back(&victims);
            }
        }
        let wait = purpose != Purpose::Minimum;
        if room.is_ok() || (wait && self.quota.take_or_wait(&names, caps, at).is_ok()) {
            match whom {
                Some(whom) => self.pools[at].dedicated_opening.push((whom, slip)),
                None => self.pools[at].opening.push(slip),
            }
        } else {
            self.pools[at].scheduler.open_refused(slip, self.now);
        }
    }

    fn victim(&self, names: &Names, full: pgweir::pool::quota::Full) -> Option<usize> {
        use pgweir::pool::quota::Full;
        let related = |pool: &Pool| match full {
            Full::Database => pool.names.database == names.database,
            Full::User => pool.names.user == names.user,
        };
        (0..self.pools.len())
            .filter(|at| related(&self.pools[*at]))
            .filter_map(|at| Some((self.pools[at].scheduler.idlest_since()?, at)))
            .min()
            .map(|(_, at)| at)
    }

    /// A logged-in server is gone; its booking stays until [`World::room_after_close`].
    fn vanish(&mut self, at: usize, id: u32) {
        assert!(self.pools[at].servers.remove(&id), "closed twice");
        self.dirty.remove(&id);
        self.unbook(at);
    }

    fn unbook(&mut self, at: usize) {
        let names = self.pools[at].names.clone();
        self.give_back(&names);
    }

    fn give_back(&mut self, names: &Names) {
        for woken in self.quota.give_back(names).into_iter().flatten() {
            self.pools[woken].scheduler.room_made(self.now);
        }
    }

    /// Pools that heard of room have orders now.
    fn room_after_close(&mut self, except: usize) {
        for at in 0..self.pools.len() {
            if at != except {
                self.carry_out(at);
            }
        }
    }

    fn some_away(&mut self, at: usize) -> Option<Away> {
        let len = self.pools[at].away.len();
        (len > 0).then(|| {
            let which = self.rng.index(len);
            self.pools[at].away.swap_remove(which)
        })
    }

    /// The promises.
    fn check(&mut self) {
        for at in 0..self.pools.len() {
            self.carry_out(at);
        }
        for pool in &mut self.pools {
            let counts = pool.scheduler.counts(self.now);
            let on = |errand| pool.away.iter().filter(|away| away.errand == errand).count() as u32;
            let (waiting, opening) = (pool.line.len() as u32, pool.opening.len() as u32);
            let (alone, opening_alone) = (pool.dedicated_line.len() as u32, pool.dedicated_opening.len() as u32);
            assert_eq!(counts.waiting, waiting + alone, "seed {}: the lines", self.seed);
            assert_eq!(counts.opening, opening + opening_alone, "seed {}: openings", self.seed);
            assert!(opening <= OPENINGS_MAX && opening_alone <= OPENINGS_MAX, "seed {}: too many at once", self.seed);
            assert_eq!(counts.active, on(Errand::Active) + on(Errand::Dedicated), "seed {}: active", self.seed);
            assert_eq!(counts.dedicated, on(Errand::Dedicated), "seed {}: dedicated", self.seed);
            assert_eq!(counts.tested, on(Errand::Tested), "seed {}: tested", self.seed);
            let being_canceled = on(Errand::BeingCanceled) + on(Errand::Abandoned);
            assert_eq!(counts.being_canceled, being_canceled, "seed {}: being canceled", self.seed);
            assert_eq!(counts.abandoned, on(Errand::Abandoned), "seed {}: abandoned", self.seed);
            assert_eq!(counts.connected() as usize, pool.servers.len(), "seed {}: servers", self.seed);
            assert!(counts.close_needed <= counts.away(), "seed {}: close_needed", self.seed);
            if pool.paused || pool.ended {
                assert_eq!(counts.idle + counts.used, 0, "seed {}: a closed pool keeps servers", self.seed);
            } else {
                assert!(counts.idle == 0 || waiting == 0, "seed {}: idle while someone waits", self.seed);
                assert!(counts.used == 0 || waiting <= counts.tested + opening, "used is not checked");
            }
            let (size, caps) = (pool.policy.pool_size, pool.caps);
            let sticky = pool.policy.hosts > 1 && pool.policy.load_balance_hosts == LoadBalanceHosts::Disable;
            let openings_max = if sticky && counts.connected() == 0 { 1 } else { OPENINGS_MAX };
            let room = size == 0 || counts.servers() < size;
            if caps == Caps::default() && !pool.failed && !pool.paused && !pool.ended {
                if room && opening < openings_max {
                    assert!(waiting <= counts.tested + opening, "seed {}: nothing is done", self.seed);
                }
                if (room || counts.idle > 0) && opening_alone < openings_max {
                    let served = pool.dedicated_line.iter().filter(|(whom, ..)| pool.opens_for(*whom)).count() as u32;
                    assert_eq!(served, alone, "seed {}: nothing is done for replication", self.seed);
                }
            }
            if counts.servers() <= limit(&pool.policy) {
                pool.roof = limit(&pool.policy);
            }
            assert!(counts.servers() <= pool.roof, "seed {}: {} servers", self.seed, counts.servers());
        }
        for pool in &self.pools {
            let books = |choose: fn(&Names) -> &str| {
                let related = self.pools.iter().filter(|other| choose(&other.names) == choose(&pool.names));
                related
                    .map(|other| other.servers.len() + other.opening.len() + other.dedicated_opening.len())
                    .sum::<usize>() as u32
            };
            let in_database = books(|names| &names.database);
            let of_user = books(|names| &names.user);
            assert_eq!(self.quota.open_in_database(&pool.names.database), in_database, "seed {}: books", self.seed);
            assert_eq!(self.quota.open_for_user(&pool.names.user), of_user, "seed {}: books", self.seed);
            assert!(pool.caps.database == 0 || in_database <= pool.caps.database, "seed {}: a cap", self.seed);
            assert!(pool.caps.user == 0 || of_user <= pool.caps.user, "seed {}: a cap", self.seed);
        }
    }

    fn note(&mut self, pool: usize, event: &'static str) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back((self.now, pool, event));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("SIM_SEED={} and the last events:", self.seed);
            for (at, pool, event) in &self.history {
                eprintln!("{:>12} us  pool {pool}  {event}", at.0);
            }
        }
    }
}

impl Pool {
    fn new(names: Names, caps: Caps, policy: Policy) -> Pool {
        Pool {
            names,
            caps,
            roof: limit(&policy),
            scheduler: Scheduler::new(policy.clone()),
            policy,
            line: VecDeque::new(),
            dedicated_line: VecDeque::new(),
            notified: BTreeSet::new(),
            away: Vec::new(),
            opening: Vec::new(),
            dedicated_opening: Vec::new(),
            servers: BTreeSet::new(),
            members: 1,
            paused: false,
            ended: false,
            failed: false,
        }
    }

    /// Everyone in either line.
    fn waiting(&self) -> impl Iterator<Item = &(u32, Place, Moment)> {
        self.line.iter().chain(&self.dedicated_line)
    }

    fn opens_for(&self, client: u32) -> bool {
        self.dedicated_opening.iter().any(|(whom, _)| *whom == client)
    }

    fn lend(&mut self, server: Server, loan: Loan) {
        assert!(self.servers.contains(&server.id), "lent a server that is no more");
        assert!(self.away.iter().all(|away| away.server.id != server.id), "lent twice");
        self.away.push(Away { server, loan, errand: Errand::Active });
    }
}

fn policy(rng: &mut Rng) -> Policy {
    let seconds = |rng: &mut Rng, choices: &[u64]| Duration::from_secs(rng.pick(choices));
    Policy {
        pool_size: rng.pick(&[0, 1, 1, 2, 3, 5, 8]),
        min_pool_size: rng.pick(&[0, 0, 0, 1, 4]),
        reserve_pool_size: rng.pick(&[0, 0, 1, 2]),
        reserve_pool_timeout: seconds(rng, &[0, 1, 5]),
        query_wait_timeout: seconds(rng, &[3, 20, 120]),
        query_wait_notify: seconds(rng, &[0, 1, 5]),
        server_lifetime: seconds(rng, &[0, 30, 3600]),
        server_idle_timeout: seconds(rng, &[0, 2, 600]),
        server_login_retry: seconds(rng, &[0, 1, 15]),
        check_after: rng.pick(&[None, Some(Duration::ZERO), Some(Duration::from_secs(3))]),
        reuse: rng.pick(&[Reuse::MostRecent, Reuse::LeastRecent]),
        prefill: rng.one_in(2),
        hosts: rng.pick(&[1, 2, 3]),
        load_balance_hosts: rng.pick(&[LoadBalanceHosts::RoundRobin, LoadBalanceHosts::Disable]),
    }
}

fn limit(policy: &Policy) -> u32 {
    match policy.pool_size {
        0 => u32::MAX,
        size => size + policy.reserve_pool_size,
    }
}
