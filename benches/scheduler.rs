//! Nanoseconds for what a pool does once per transaction: lend an idle server, take it back, each under its lock.
//!
//! `cargo bench --bench scheduler`. Prints one line for each case: the median of several rounds, and the spread.

use std::hint::black_box;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use pgweir::config::LoadBalanceHosts;
use pgweir::pool::idle::{Held, Reuse};
use pgweir::pool::orders::{Order, Policy};
use pgweir::pool::scheduler::{Returned, Scheduler};
use pgweir::stats::moment::Moment;
use pgweir::stats::roster::ServerState;

const ROUNDS: usize = 9;
const TURNS: u64 = 2_000_000;
const SERVERS: usize = 25;

struct Server {
    home: usize,
    /// As much as the real pool moves about.
    _rest: [u64; 2],
}

impl Held for Server {
    fn home(&self) -> usize {
        self.home
    }

    fn mark(&self, _: ServerState) {}

    fn close_needed(&self) -> bool {
        false
    }
}

type Pool = Mutex<Scheduler<Server, u32>>;

fn main() {
    report("lend and take back, own worker's server", Reuse::MostRecent, 0, idle_pool);
    report("lend and take back, other worker's server", Reuse::MostRecent, 1, idle_pool);
    report("lend and take back, server_round_robin", Reuse::LeastRecent, 0, idle_pool);
    report("wait, take back and grant", Reuse::MostRecent, 0, busy_pool);
}

fn report(what: &str, reuse: Reuse, worker: usize, round: fn(&Pool, usize)) {
    let mut nanoseconds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let pool = Mutex::new(stocked(reuse));
            #[allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]
            let begin = Instant::now();
            round(&pool, worker);
            begin.elapsed().as_nanos() as f64 / TURNS as f64
        })
        .collect();
    nanoseconds.sort_by(f64::total_cmp);
    let (median, low, high) = (nanoseconds[ROUNDS / 2], nanoseconds[0], nanoseconds[ROUNDS - 1]);
    println!("{what:<45} {median:6.1} ns ({low:.1} .. {high:.1})");
}

/// Somebody asks while servers are idle.
fn idle_pool(pool: &Pool, worker: usize) {
    for turn in 0..TURNS {
        let (server, loan) = pool.lock().expect("no thread panicked").take(worker).expect("all are idle");
        let returned = pool.lock().expect("no thread panicked").server_released(black_box(server), loan, Moment(turn));
        assert!(matches!(returned, Returned::Rests));
    }
}

/// Everything is on loan, and somebody is always in line.
fn busy_pool(pool: &Pool, worker: usize) {
    let mut lent = Vec::new();
    while let Some(away) = pool.lock().expect("no thread panicked").take(worker) {
        lent.push(away);
    }
    for turn in 0..TURNS {
        let mut scheduler = pool.lock().expect("no thread panicked");
        scheduler.client_waits(1, worker, Moment(turn)).expect("the line is open");
        assert!(scheduler.next_order().is_none(), "the pool is full");
        drop(scheduler);
        let (server, loan) = lent.pop().expect("one is lent");
        match pool.lock().expect("no thread panicked").server_released(black_box(server), loan, Moment(turn)) {
            Returned::Do(Order::Grant { server, loan, .. }) => lent.push((server, loan)),
            _ => panic!("somebody waits"),
        }
    }
}

fn stocked(reuse: Reuse) -> Scheduler<Server, u32> {
    let policy = Policy {
        pool_size: SERVERS as u32,
        min_pool_size: SERVERS as u32,
        reserve_pool_size: 0,
        reserve_pool_timeout: Duration::ZERO,
        query_wait_timeout: Duration::from_secs(120),
        query_wait_notify: Duration::from_secs(5),
        server_lifetime: Duration::from_secs(3600),
        server_idle_timeout: Duration::from_secs(600),
        server_login_retry: Duration::from_secs(15),
        check_after: Some(Duration::from_secs(30)),
        reuse,
        prefill: true,
        hosts: 1,
        load_balance_hosts: LoadBalanceHosts::RoundRobin,
    };
    let mut scheduler = Scheduler::new(policy);
    while scheduler.counts(Moment(1)).idle < SERVERS as u32 {
        scheduler.tick(0, Moment(1), |_| false);
        while let Some(order) = scheduler.next_order() {
            let Order::Open { slip, .. } = order else { panic!("only openings are due") };
            scheduler.server_opened(Server { home: 0, _rest: [0; 2] }, slip, Moment(1));
        }
    }
    scheduler
}
