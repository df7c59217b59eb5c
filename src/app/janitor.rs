//! Three times a second: lets the pools notice that time has passed, orders overdue clients away, rolls the averages.
//!
//! No request arms a timer; this is where time passes. Cards are looked at only while a limit is set that could be
//! over, so that ten thousand idle clients cost nothing while they are idle.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::balance::{self, Balance, Meter};
use super::systemd;
use crate::client::Shared;
use crate::client::overdue::Deadlines;
use crate::net::world;
use crate::stats::averages;
use crate::stats::moment::Moment;
use crate::stats::roster::{Names, Order};

/// PgBouncer's own rhythm: a limit is noticed at most this much late.
const PERIOD: Duration = Duration::from_millis(333);

/// Runs until the process ends.
pub async fn run(shared: Arc<Shared>, mut meter: Meter) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut rolled = world::now();
    let mut balance = Balance::new(shared.workers.count());
    loop {
        ticks.tick().await;
        let now = world::now();
        shared.registry.tick(now);
        if !shared.registry.suspension().is_on() {
            sweep(&shared, now);
            wake_for_fast_close(&shared);
            if shared.workers.count() > 1 {
                rebalance(&shared, &mut balance, &mut meter, now);
            }
        }
        let period = shared.registry.config().settings.stats_period;
        if now.since(rolled) >= period {
            rolled = now;
            roll(&shared, now);
        }
    }
}

/// Lets another worker help, or sends one home.
fn rebalance(shared: &Shared, balance: &mut Balance, meter: &mut Meter, now: Moment) {
    let in_use = balance.decide(&meter.shares(now), now);
    if in_use != shared.workers.taking() {
        tracing::debug!("{in_use} of {} worker threads carry clients", shared.workers.count());
        balance::spread(&shared.workers, &shared.roster, in_use);
    }
}

/// Wakes the sessions whose server is marked to be closed: with server_fast_close they end when it is at rest.
fn wake_for_fast_close(shared: &Shared) {
    if !shared.registry.config().settings.server_fast_close {
        return;
    }
    for server in shared.roster.servers() {
        if server.close_needed.load(Relaxed)
            && let Some(client) = shared.roster.client(server.link())
        {
            client.wake();
        }
    }
}

/// Orders every overdue client away.
fn sweep(shared: &Shared, now: Moment) {
    let login = shared.registry.config().settings.client_login_timeout;
    let mut by_pool: HashMap<Names, Deadlines> = HashMap::new();
    for pool in shared.registry.pools() {
        let deadlines = Deadlines::of(&pool.rules());
        if !deadlines.is_none() {
            let names = Names { database: pool.database().clone(), user: pool.user().clone() };
            by_pool.insert(names, deadlines);
        }
    }
    let logins = if login.is_zero() { 0 } else { shared.roster.logging_in() };
    if by_pool.is_empty() && logins == 0 {
        return;
    }
    for card in shared.roster.clients() {
        let pool = card.pool.get().and_then(|pool| by_pool.get(pool).copied()).unwrap_or_default();
        let deadlines = Deadlines { login, ..pool };
        if let Some(order) = deadlines.overdue(&card, now)
            && card.order() == Order::None
        {
            card.give_order(order);
        }
    }
}

fn roll(shared: &Shared, now: Moment) {
    let averages = shared.console.averages.roll(now, shared.console.totals());
    if shared.registry.config().settings.log_stats {
        tracing::info!("{}", averages::log_line(&averages));
    }
    systemd::status(&averages);
}
