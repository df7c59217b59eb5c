//! One promise of the policy each; `tests/sim` mixes them.

mod dedicated;

use std::cell::RefCell;

use super::*;
use crate::config::LoadBalanceHosts;

/// A server that is only a number.
#[derive(Debug, PartialEq, Eq)]
struct Number(u32);

thread_local! {
    /// Servers of this test that are marked to be closed.
    static MARKED: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

impl Held for Number {
    fn home(&self) -> usize {
        0
    }

    fn mark(&self, _: ServerState) {}

    fn close_needed(&self) -> bool {
        MARKED.with_borrow(|marked| marked.contains(&self.0))
    }
}

type Pool = Scheduler<Number, &'static str>;

fn policy() -> Policy {
    Policy {
        pool_size: 2,
        min_pool_size: 0,
        reserve_pool_size: 0,
        reserve_pool_timeout: Duration::from_secs(5),
        query_wait_timeout: Duration::from_secs(120),
        query_wait_notify: Duration::ZERO,
        server_lifetime: Duration::from_secs(3600),
        server_idle_timeout: Duration::from_secs(600),
        server_login_retry: Duration::from_secs(15),
        check_after: None,
        reuse: Reuse::MostRecent,
        prefill: false,
        hosts: 1,
        load_balance_hosts: LoadBalanceHosts::RoundRobin,
    }
}

fn at(seconds: u64) -> Moment {
    Moment(1 + seconds * 1_000_000)
}

/// What came of a fact, in words, and the tokens to go on with.
#[derive(Debug, Default)]
struct Deeds {
    said: Vec<String>,
    slips: Vec<Slip>,
    away: Vec<(Number, Loan)>,
}

fn deeds(pool: &mut Pool) -> Deeds {
    let mut deeds = Deeds::default();
    while let Some(order) = pool.next_order() {
        deeds.add(order);
    }
    deeds
}

impl Deeds {
    fn add(&mut self, order: Order<Number, &'static str>) {
        match order {
            Order::Grant { server, loan, waiter, .. } => {
                self.said.push(format!("grant {} to {waiter}", server.0));
                self.away.push((server, loan));
            }
            Order::Open { slip, purpose, .. } => {
                self.said.push(format!("open for {purpose:?}"));
                self.slips.push(slip);
            }
            Order::OpenDedicated { slip, purpose, waiter, .. } => {
                self.said.push(format!("open for {waiter} alone: {purpose:?}"));
                self.slips.push(slip);
            }
            Order::Check { server, loan } => {
                self.said.push(format!("check {}", server.0));
                self.away.push((server, loan));
            }
            Order::Close { server, reason } => self.said.push(format!("close {}: {}", server.0, reason.text())),
            Order::Refuse { waiter, why } => self.said.push(format!("refuse {waiter}: {why:?}")),
            Order::Notify { waiter } => self.said.push(format!("notify {waiter}")),
        }
    }
}

/// A pool with these servers, at most [`OPENINGS_MAX`], idle since `at(0)`.
fn stocked(policy: Policy, servers: &[u32]) -> Pool {
    let mut pool = Pool::new(Policy { pool_size: 0, ..policy.clone() });
    let places: Vec<_> = servers.iter().map(|_| pool.client_waits("stock", 0, at(0)).unwrap()).collect();
    let slips = deeds(&mut pool).slips;
    for place in places {
        pool.client_left(place);
    }
    for (&number, slip) in servers.iter().zip(slips) {
        pool.server_opened(Number(number), slip, at(0));
    }
    pool.set_policy(policy, at(0));
    assert_eq!(pool.counts(at(0)).idle as usize, servers.len());
    pool
}

fn give_back(pool: &mut Pool, (server, loan): (Number, Loan), now: Moment) -> Deeds {
    let mut all = Deeds::default();
    if let Returned::Do(order) = pool.server_released(server, loan, now) {
        all.add(order);
    }
    let rest = deeds(pool);
    all.said.extend(rest.said);
    all.slips.extend(rest.slips);
    all.away.extend(rest.away);
    all
}

#[test]
fn an_idle_server_is_lent_at_once_and_the_last_used_goes_first() {
    let mut pool = stocked(policy(), &[1, 2]);

    let (server, loan) = pool.take(0).unwrap();

    assert_eq!(server, Number(2));
    assert!(give_back(&mut pool, (server, loan), at(1)).said.is_empty());
    assert_eq!(pool.counts(at(1)), Counts { idle: 2, ..Counts::default() });
}

#[test]
fn servers_go_to_clients_in_order_of_arrival() {
    let mut pool = stocked(policy(), &[1]);
    let lent = pool.take(0).unwrap();
    for waiter in ["ann", "bob"] {
        pool.client_waits(waiter, 0, at(1)).unwrap();
    }
    assert_eq!(deeds(&mut pool).said, ["open for Demand"], "one place is left");

    let mut first = give_back(&mut pool, lent, at(2));
    let second = give_back(&mut pool, first.away.remove(0), at(3));

    assert_eq!((first.said, second.said), (vec!["grant 1 to ann".to_owned()], vec!["grant 1 to bob".to_owned()]));
}

#[test]
fn a_client_that_left_never_gets_a_server() {
    let mut pool = stocked(policy(), &[1]);
    let lent = pool.take(0).unwrap();
    let place = pool.client_waits("ann", 0, at(1)).unwrap();
    deeds(&mut pool);

    assert_eq!(pool.client_left(place), Some("ann"));

    assert!(give_back(&mut pool, lent, at(2)).said.is_empty());
    assert_eq!(pool.client_left(place), None);
}

#[test]
fn few_servers_are_opened_at_a_time() {
    let mut pool = Pool::new(Policy { pool_size: 20, ..policy() });
    for _ in 0..10 {
        pool.client_waits("ann", 0, at(1)).unwrap();
    }

    let mut opening = deeds(&mut pool).slips;
    assert_eq!(opening.len(), OPENINGS_MAX as usize);

    pool.server_opened(Number(1), opening.remove(0), at(2));
    assert_eq!(deeds(&mut pool).said, ["grant 1 to ann", "open for Demand"]);
}

#[test]
fn the_reserve_is_for_those_who_waited_long_enough() {
    let mut pool = stocked(Policy { pool_size: 1, reserve_pool_size: 1, ..policy() }, &[1]);
    let _lent = pool.take(0).unwrap();
    pool.client_waits("ann", 0, at(1)).unwrap();

    pool.tick(1, at(5), |_| false);
    assert!(deeds(&mut pool).said.is_empty());
    pool.tick(1, at(6), |_| false);
    assert_eq!(deeds(&mut pool).said, ["open for Reserve"]);
}

#[test]
fn a_refused_login_turns_everyone_away_where_no_server_is_left() {
    let mut pool = Pool::new(policy());
    pool.client_waits("ann", 0, at(1)).unwrap();
    pool.client_waits("bob", 0, at(1)).unwrap();
    let mut opening = deeds(&mut pool).slips;

    pool.open_failed(opening.remove(0), Outlook::Hopeless, at(2));
    assert!(deeds(&mut pool).said.is_empty(), "another attempt is under way");
    pool.open_failed(opening.remove(0), Outlook::Hopeless, at(2));

    assert_eq!(deeds(&mut pool).said, ["refuse ann: LoginFailed", "refuse bob: LoginFailed"]);
}

#[test]
fn with_a_server_left_a_refused_login_turns_nobody_away() {
    let mut pool = stocked(policy(), &[1]);
    let _lent = pool.take(0).unwrap();
    pool.client_waits("ann", 0, at(1)).unwrap();
    let slip = deeds(&mut pool).slips.remove(0);

    pool.open_failed(slip, Outlook::Hopeless, at(2));

    assert!(deeds(&mut pool).said.is_empty());
    assert_eq!(pool.counts(at(2)).waiting, 1);
}

#[test]
fn while_a_failure_is_fresh_newcomers_are_turned_away_and_then_one_attempt_is_made() {
    let mut pool = Pool::new(policy());
    pool.client_waits("ann", 0, at(1)).unwrap();
    let slip = deeds(&mut pool).slips.remove(0);
    pool.open_failed(slip, Outlook::Passing, at(2));
    assert!(deeds(&mut pool).said.is_empty(), "who waits keeps waiting");

    assert_eq!(pool.client_waits("bob", 0, at(15)), Err(Refused::LoginRetry));
    pool.client_waits("cyd", 0, at(16)).unwrap();
    pool.client_waits("dan", 0, at(16)).unwrap();

    assert_eq!(deeds(&mut pool).said, ["open for Demand"], "for ann, who came first");
}

#[test]
fn a_server_without_a_lifetime_serves_once() {
    let mut pool = stocked(Policy { server_lifetime: Duration::ZERO, ..policy() }, &[1]);
    pool.tick(1, at(1), |_| false);
    assert!(deeds(&mut pool).said.is_empty(), "it has not served yet");

    let lent = pool.take(0).unwrap();

    assert_eq!(give_back(&mut pool, lent, at(1)).said, ["close 1: server lifetime over"]);
}

#[test]
fn old_servers_are_not_all_replaced_at_once() {
    let mut pool = stocked(Policy { server_idle_timeout: Duration::ZERO, ..policy() }, &[1, 2]);
    let [one, two] = [pool.take(0).unwrap(), pool.take(0).unwrap()];

    assert_eq!(give_back(&mut pool, one, at(3600)).said, ["close 2: server lifetime over"]);
    assert!(give_back(&mut pool, two, at(3601)).said.is_empty());
    pool.tick(1, at(3600 + 1799), |_| false);
    assert!(pool.take(0).is_some_and(|(server, _)| server == Number(1)));
}

#[test]
fn idle_servers_go_after_a_while_but_for_the_minimum() {
    let mut pool = stocked(Policy { min_pool_size: 1, ..policy() }, &[1, 2]);

    pool.tick(1, at(601), |_| false);

    assert_eq!(deeds(&mut pool).said, ["close 1: server idle timeout"]);
}

#[test]
fn the_minimum_is_kept_for_clients_and_for_forced_users() {
    let minimum = Policy { min_pool_size: 2, ..policy() };
    let mut lonely = Pool::new(minimum.clone());
    lonely.tick(0, at(1), |_| false);
    assert!(deeds(&mut lonely).said.is_empty());

    lonely.tick(1, at(2), |_| false);
    assert_eq!(deeds(&mut lonely).said, ["open for Minimum", "open for Minimum"]);

    let mut forced = Pool::new(Policy { prefill: true, ..minimum });
    forced.tick(0, at(1), |_| false);
    assert_eq!(deeds(&mut forced).said.len(), 2);
}

#[test]
fn a_dirty_server_is_closed_by_the_next_tick() {
    let mut pool = stocked(policy(), &[1, 2]);

    pool.tick(1, at(1), |server| *server == Number(1));

    assert_eq!(deeds(&mut pool).said, ["close 1: idle server got dirty"]);
}

#[test]
fn a_rested_server_is_checked_before_it_is_lent() {
    let mut pool = stocked(Policy { check_after: Some(Duration::from_secs(30)), ..policy() }, &[1]);
    pool.tick(1, at(31), |_| false);
    assert_eq!(pool.counts(at(31)).used, 1);
    assert!(pool.take(0).is_none());

    pool.client_waits("ann", 0, at(32)).unwrap();
    let mut checking = deeds(&mut pool);
    assert_eq!(checking.said, ["check 1"]);

    assert_eq!(give_back(&mut pool, checking.away.remove(0), at(33)).said, ["grant 1 to ann"]);
}

#[test]
fn without_a_check_delay_every_server_is_checked_before_every_use() {
    let mut pool = stocked(Policy { pool_size: 1, check_after: Some(Duration::ZERO), ..policy() }, &[1]);
    let lent = pool.take(0).unwrap();
    pool.client_waits("ann", 0, at(1)).unwrap();
    deeds(&mut pool);

    let mut checking = give_back(&mut pool, lent, at(2));

    assert_eq!(checking.said, ["check 1"]);
    assert_eq!(give_back(&mut pool, checking.away.remove(0), at(3)).said, ["grant 1 to ann"]);
}

#[test]
fn reconnect_replaces_servers_wherever_they_are() {
    let mut pool = stocked(Policy { pool_size: 3, ..policy() }, &[1, 2]);
    let lent = pool.take(0).unwrap();
    let _other = pool.take(0).unwrap();
    pool.client_waits("ann", 0, at(1)).unwrap();
    let slip = deeds(&mut pool).slips.remove(0);

    pool.reconnect(at(2));
    assert_eq!(pool.counts(at(2)).close_needed, 2);
    pool.server_opened(Number(3), slip, at(3));
    assert_eq!(deeds(&mut pool).said, ["close 3: connect string changed", "open for Demand"]);

    assert_eq!(give_back(&mut pool, lent, at(4)).said, ["close 2: close_needed"]);
    assert_eq!(pool.counts(at(4)).close_needed, 1);
}

#[test]
fn with_load_balance_hosts_disable_one_attempt_finds_out_which_host_works() {
    let disable = LoadBalanceHosts::Disable;
    let mut pool = Pool::new(Policy { hosts: 2, load_balance_hosts: disable, pool_size: 3, ..policy() });
    for client in ["ann", "bob", "cid"] {
        pool.client_waits(client, 0, at(0)).unwrap();
    }

    let mut first = deeds(&mut pool);
    assert_eq!(first.said, ["open for Demand"]);
    pool.open_failed(first.slips.remove(0), Outlook::Passing, at(1));
    pool.tick(3, at(15), |_| false);
    let mut second = deeds(&mut pool);
    assert_eq!(second.said, ["open for Demand"]);
    pool.server_opened(Number(1), second.slips.remove(0), at(16));

    assert_eq!(deeds(&mut pool).said, ["grant 1 to ann", "open for Demand", "open for Demand"]);
}

#[test]
fn servers_that_are_marked_go_and_the_others_stay() {
    let mut pool = stocked(Policy { pool_size: 3, ..policy() }, &[1, 2, 3]);
    let (three, two) = (pool.take(0).unwrap(), pool.take(0).unwrap());

    MARKED.set(vec![1, 2]);
    pool.close_marked(at(1));

    assert_eq!(deeds(&mut pool).said, ["close 1: database configuration changed"]);
    assert_eq!(give_back(&mut pool, two, at(2)).said, ["close 2: close_needed"]);
    assert!(give_back(&mut pool, three, at(3)).said.is_empty());
    assert_eq!(pool.counts(at(3)), Counts { idle: 1, ..Counts::default() });
}

#[test]
fn a_server_due_for_a_check_that_is_marked_goes_unchecked() {
    let mut pool = stocked(Policy { check_after: Some(Duration::from_secs(1)), ..policy() }, &[1]);
    pool.tick(1, at(10), |_| false);
    assert_eq!(pool.counts(at(10)).used, 1);

    MARKED.set(vec![1]);
    pool.close_marked(at(11));

    assert_eq!(deeds(&mut pool).said, ["close 1: database configuration changed"]);
}

#[test]
fn a_server_marked_while_it_logs_in_is_replaced() {
    let mut pool = Pool::new(policy());
    pool.client_waits("ann", 0, at(0)).unwrap();
    let slip = deeds(&mut pool).slips.remove(0);

    MARKED.set(vec![1]);
    pool.server_opened(Number(1), slip, at(1));

    assert_eq!(deeds(&mut pool).said, ["close 1: connect string changed", "open for Demand"]);
}

#[test]
fn a_paused_pool_lends_nothing_and_empties() {
    let mut pool = stocked(policy(), &[1, 2]);
    let lent = pool.take(0).unwrap();

    pool.pause();
    assert_eq!(deeds(&mut pool).said, ["close 1: pause mode"]);
    pool.client_waits("ann", 0, at(1)).unwrap();
    assert_eq!(give_back(&mut pool, lent, at(2)).said, ["close 2: pause mode"]);
    pool.resume(at(3));

    assert_eq!(deeds(&mut pool).said, ["open for Demand"]);
}

#[test]
fn a_pool_that_ended_refuses_and_empties() {
    let mut pool = stocked(policy(), &[1, 2]);
    let [one, two] = [pool.take(0).unwrap(), pool.take(0).unwrap()];
    pool.client_waits("ann", 0, at(1)).unwrap();

    pool.end(Ended::Killed);

    assert_eq!(deeds(&mut pool).said, ["refuse ann: Ended(Killed)"]);
    assert_eq!(pool.client_waits("bob", 0, at(2)), Err(Refused::Ended(Ended::Killed)));
    assert_eq!(give_back(&mut pool, one, at(2)).said, ["close 2: database removed"]);
    pool.server_lost(two.1, at(3));
    assert_eq!(pool.counts(at(3)), Counts::default());
}

#[test]
fn a_smaller_pool_size_closes_what_is_beyond_it() {
    let mut pool = stocked(Policy { pool_size: 3, ..policy() }, &[1, 2, 3]);
    let lent = pool.take(0).unwrap();

    pool.set_policy(Policy { pool_size: 1, ..policy() }, at(1));
    pool.tick(1, at(1), |_| false);

    assert_eq!(
        deeds(&mut pool).said,
        ["close 1: too many servers in the pool", "close 2: too many servers in the pool"]
    );
    assert!(give_back(&mut pool, lent, at(2)).said.is_empty(), "it is the one that may stay");
}

#[test]
fn under_a_full_cap_nothing_is_tried_until_there_is_news() {
    let mut pool = Pool::new(policy());
    pool.client_waits("ann", 0, at(1)).unwrap();
    let slip = deeds(&mut pool).slips.remove(0);
    pool.open_refused(slip, at(1));
    pool.client_waits("bob", 0, at(2)).unwrap();
    assert!(deeds(&mut pool).said.is_empty());

    pool.room_made(at(3));

    let mut opening = deeds(&mut pool);
    assert_eq!(opening.said, ["open for Demand", "open for Demand"]);
    pool.room_made(at(4));
    pool.open_refused(opening.slips.remove(0), at(4));
    assert_eq!(deeds(&mut pool).said, ["open for Demand"], "the refusal crossed news of room");
}

#[test]
fn who_waits_too_long_is_told_once_and_then_refused() {
    let rules = Policy { query_wait_notify: Duration::from_secs(5), ..policy() };
    let mut pool = stocked(Policy { pool_size: 1, ..rules }, &[1]);
    let _lent = pool.take(0).unwrap();
    pool.client_waits("ann", 0, at(0)).unwrap();

    pool.tick(1, at(6), |_| false);
    pool.tick(1, at(7), |_| false);
    assert_eq!(deeds(&mut pool).said, ["notify ann"]);
    pool.tick(1, at(121), |_| false);

    assert_eq!(deeds(&mut pool).said, ["refuse ann: QueryWaitTimeout"]);
}

#[test]
fn the_one_idle_longest_is_evicted_and_never_one_that_somebody_waits_for() {
    let checked = Policy { pool_size: 3, check_after: Some(Duration::from_secs(30)), ..policy() };
    let mut pool = stocked(checked, &[1, 2]);
    assert_eq!(pool.evict(), Some(Number(1)));

    pool.tick(1, at(31), |_| false);
    assert_eq!(pool.idlest_since(), Some(at(0)));
    pool.client_waits("ann", 0, at(32)).unwrap();

    assert_eq!(pool.idlest_since(), None);
    assert_eq!(pool.evict(), None);
}
