//! Servers opened for one client each.

use super::*;

/// Ann waits for a server of her own, and it is logged in as number 9.
fn served(pool: &mut Pool) -> (Number, Loan) {
    pool.dedicated_waits("ann", 0, at(1)).unwrap();
    let slip = deeds(pool).slips.remove(0);
    pool.server_opened(Number(9), slip, at(2));
    deeds(pool).away.remove(0)
}

#[test]
fn it_is_opened_though_others_rest_and_never_serves_another() {
    let mut pool = stocked(policy(), &[1]);
    pool.dedicated_waits("ann", 0, at(1)).unwrap();
    let mut opened = deeds(&mut pool);
    assert_eq!(opened.said, ["open for ann alone: Demand"]);
    assert_eq!(pool.counts(at(1)), Counts { idle: 1, waiting: 1, opening: 1, ..Counts::default() });

    pool.server_opened(Number(9), opened.slips.remove(0), at(2));
    let mut granted = deeds(&mut pool);
    assert_eq!(granted.said, ["grant 9 to ann"]);
    assert_eq!(pool.counts(at(2)), Counts { idle: 1, active: 1, dedicated: 1, ..Counts::default() });

    let back = give_back(&mut pool, granted.away.remove(0), at(3));
    assert_eq!(back.said, ["close 9: replication client was closed"]);
}

#[test]
fn a_pool_full_of_idle_servers_makes_room() {
    let mut pool = stocked(policy(), &[1, 2]);

    pool.dedicated_waits("ann", 0, at(1)).unwrap();

    assert_eq!(deeds(&mut pool).said, ["close 1: evicted", "open for ann alone: Demand"]);
    assert_eq!(pool.counts(at(1)).servers(), 2);
}

#[test]
fn in_a_busy_pool_the_next_server_makes_room_for_whoever_came_first() {
    let mut pool = stocked(policy(), &[1, 2]);
    let (first, second) = (pool.take(0).unwrap(), pool.take(0).unwrap());
    pool.client_waits("bob", 0, at(1)).unwrap();
    pool.dedicated_waits("ann", 0, at(2)).unwrap();
    pool.client_waits("cid", 0, at(3)).unwrap();
    assert!(deeds(&mut pool).said.is_empty());

    assert_eq!(give_back(&mut pool, first, at(4)).said, ["grant 2 to bob"]);
    assert_eq!(give_back(&mut pool, second, at(5)).said, ["close 1: evicted", "open for ann alone: Demand"]);
}

#[test]
fn who_leaves_meanwhile_gets_none_and_the_server_is_closed() {
    let mut pool = Pool::new(policy());
    let place = pool.dedicated_waits("ann", 0, at(1)).unwrap();
    let slip = deeds(&mut pool).slips.remove(0);

    assert_eq!(pool.dedicated_left(place), Some("ann"));
    pool.server_opened(Number(9), slip, at(2));

    assert_eq!(deeds(&mut pool).said, ["close 9: replication client was closed"]);
    assert_eq!(pool.counts(at(2)), Counts::default());
}

#[test]
fn an_opening_given_up_leaves_room_for_the_next() {
    let mut pool = Pool::new(Policy { pool_size: 1, ..policy() });
    let place = pool.dedicated_waits("ann", 0, at(1)).unwrap();
    let slip = deeds(&mut pool).slips.remove(0);
    pool.dedicated_waits("bob", 0, at(1)).unwrap();
    assert!(deeds(&mut pool).said.is_empty());

    pool.dedicated_left(place);
    pool.open_abandoned(slip, at(2));

    assert_eq!(deeds(&mut pool).said, ["open for bob alone: Demand"]);
}

#[test]
fn a_refusal_concerns_one_alone_and_does_not_stop_the_others() {
    let mut pool = Pool::new(policy());
    pool.dedicated_waits("ann", 0, at(1)).unwrap();
    pool.client_waits("bob", 0, at(1)).unwrap();
    let mut opened = deeds(&mut pool);

    let told = pool.open_failed(opened.slips.remove(0), Outlook::Hopeless, at(2));

    assert_eq!(opened.said, ["open for ann alone: Demand", "open for Demand"]);
    assert_eq!(told, Some("ann"));
    assert!(deeds(&mut pool).said.is_empty());
    assert!(pool.client_waits("cid", 0, at(2)).is_ok(), "nothing is wrong with the servers of others");
    assert_eq!(deeds(&mut pool).said, ["open for Demand"]);
}

#[test]
fn while_the_server_cannot_be_reached_it_waits_for_the_next_attempt() {
    let mut pool = Pool::new(policy());
    pool.dedicated_waits("ann", 0, at(1)).unwrap();
    let slip = deeds(&mut pool).slips.remove(0);

    assert_eq!(pool.open_failed(slip, Outlook::Passing, at(2)), None);

    assert!(deeds(&mut pool).said.is_empty());
    pool.tick(1, at(15), |_| false);
    assert!(deeds(&mut pool).said.is_empty(), "server_login_retry counts from the attempt");
    pool.tick(1, at(16), |_| false);
    assert_eq!(deeds(&mut pool).said, ["open for ann alone: Demand"]);
}

#[test]
fn reconnect_means_it_too_and_says_so() {
    let mut pool = Pool::new(policy());
    let (_server, loan) = served(&mut pool);

    pool.reconnect(at(3));

    assert!(pool.has_dedicated());
    assert_eq!(pool.counts(at(3)).close_needed, 1);
    pool.server_lost(loan, at(4));
    assert!(!pool.has_dedicated());
    assert_eq!(pool.counts(at(4)), Counts::default());
}

#[test]
fn one_opened_before_reconnect_is_replaced_for_the_one_who_waits() {
    let mut pool = Pool::new(policy());
    pool.dedicated_waits("ann", 0, at(1)).unwrap();
    let slip = deeds(&mut pool).slips.remove(0);

    pool.reconnect(at(2));
    pool.server_opened(Number(9), slip, at(3));

    assert_eq!(deeds(&mut pool).said, ["close 9: connect string changed", "open for ann alone: Demand"]);
}

#[test]
fn a_paused_pool_opens_none_until_it_resumes() {
    let mut pool = Pool::new(policy());
    pool.pause();
    pool.dedicated_waits("ann", 0, at(1)).unwrap();
    assert!(deeds(&mut pool).said.is_empty());

    pool.resume(at(2));

    assert_eq!(deeds(&mut pool).said, ["open for ann alone: Demand"]);
}

#[test]
fn it_waits_no_longer_than_query_wait_timeout_and_is_told_that_it_waits() {
    let mut pool = Pool::new(Policy { pool_size: 1, query_wait_notify: Duration::from_secs(5), ..policy() });
    let (server, loan) = served(&mut pool);
    pool.dedicated_waits("bob", 0, at(10)).unwrap();

    pool.tick(2, at(16), |_| false);
    assert_eq!(deeds(&mut pool).said, ["notify bob"]);
    pool.tick(2, at(131), |_| false);

    assert_eq!(deeds(&mut pool).said, ["refuse bob: QueryWaitTimeout"]);
    assert!(give_back(&mut pool, (server, loan), at(132)).slips.is_empty());
}

#[test]
fn its_place_may_come_out_of_the_reserve() {
    let mut pool = Pool::new(Policy { pool_size: 1, reserve_pool_size: 1, ..policy() });
    let (_server, _loan) = served(&mut pool);
    pool.dedicated_waits("bob", 0, at(10)).unwrap();
    assert!(deeds(&mut pool).said.is_empty());

    pool.tick(2, at(15), |_| false);

    assert_eq!(deeds(&mut pool).said, ["open for bob alone: Reserve"]);
}

#[test]
fn when_the_pool_ends_those_who_wait_are_refused() {
    let mut pool = Pool::new(policy());
    pool.dedicated_waits("ann", 0, at(1)).unwrap();
    let slip = deeds(&mut pool).slips.remove(0);

    pool.end(Ended::Killed);
    pool.server_opened(Number(9), slip, at(2));

    assert_eq!(deeds(&mut pool).said, ["refuse ann: Ended(Killed)", "close 9: database removed"]);
    assert!(matches!(pool.dedicated_waits("bob", 0, at(3)), Err(Refused::Ended(Ended::Killed))));
}
