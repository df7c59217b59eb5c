use super::*;
use proptest::prelude::*;

const TIMES: Times = Times {
    max_ttl: Duration::from_secs(15),
    nxdomain_ttl: Duration::from_secs(5),
    zone_check_period: Duration::from_secs(60),
};

fn at(seconds: u64) -> Moment {
    Moment(1 + seconds * 1_000_000)
}

fn ip(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

fn ips(last: &[u8]) -> Vec<IpAddr> {
    last.iter().map(|last| ip(*last)).collect()
}

fn v6() -> IpAddr {
    "fd00::1".parse().unwrap()
}

fn nothing() -> Result<Vec<IpAddr>, Failure> {
    Err(Failure::NoAddress("there is no such name".into()))
}

fn silence() -> Result<Vec<IpAddr>, Failure> {
    Err(Failure::NoAnswer("timed out".into()))
}

/// A cache that was told this of `db.example` at `at(0)`.
fn knowing(answer: Result<Vec<IpAddr>, Failure>) -> Cache {
    let mut cache = Cache::new(TIMES);
    assert_eq!(cache.find("db.example", None, at(0)), Found::Ask(0));
    assert_eq!(cache.answered("db.example", answer, at(0)), ips(&[]));
    cache
}

#[test]
fn many_who_ask_share_one_query() {
    let mut cache = Cache::new(TIMES);

    assert_eq!(cache.find("db.example", None, at(0)), Found::Ask(0));
    assert_eq!(cache.find("db.example", None, at(0)), Found::Wait(0));
    assert_eq!(cache.sums(), Sums { names: 1, zones: 1, queries: 1 });
    cache.answered("db.example", Ok(ips(&[1])), at(1));

    assert_eq!(cache.find("db.example", Some(0), at(1)), Found::Addresses(ips(&[1])));
    assert_eq!(cache.find("db.example", None, at(1)), Found::Addresses(ips(&[1])));
    assert_eq!(cache.sums().queries, 0);
}

#[test]
fn an_answer_counts_for_dns_max_ttl() {
    let mut cache = knowing(Ok(ips(&[1])));

    assert_eq!(cache.find("db.example", None, at(15)), Found::Addresses(ips(&[1])));
    assert_eq!(cache.find("db.example", None, at(16)), Found::Ask(1));
}

#[test]
fn no_address_counts_for_dns_nxdomain_ttl() {
    let mut cache = knowing(nothing());

    assert_eq!(cache.find("db.example", None, at(5)), Found::Nothing("there is no such name".into()));
    assert_eq!(cache.find("db.example", None, at(6)), Found::Ask(1));
    cache.answered("db.example", Ok(Vec::new()), at(6));
    assert_eq!(cache.find("db.example", None, at(7)), Found::Nothing("the name has no address".into()));
}

#[test]
fn who_waited_for_an_answer_gets_it_however_short_it_counts() {
    let mut cache = Cache::new(Times::default());
    assert_eq!(cache.find("db", None, at(0)), Found::Ask(0));
    cache.answered("db", Ok(ips(&[1])), at(0));

    assert_eq!(cache.find("db", Some(0), at(3)), Found::Addresses(ips(&[1])));
    assert_eq!(cache.find("db", None, at(3)), Found::Ask(1));
    assert_eq!(cache.find("db", Some(1), at(3)), Found::Wait(1));
}

#[test]
fn addresses_take_turns_within_the_family_in_front() {
    let mut cache = knowing(Ok(vec![ip(1), ip(2), ip(3), v6()]));
    let mut next = || cache.find("db.example", None, at(1));

    assert_eq!(next(), Found::Addresses(vec![ip(1), ip(2), ip(3), v6()]));
    assert_eq!(next(), Found::Addresses(vec![ip(2), ip(3), ip(1), v6()]));
    assert_eq!(next(), Found::Addresses(vec![ip(3), ip(1), ip(2), v6()]));
    assert_eq!(next(), Found::Addresses(vec![ip(1), ip(2), ip(3), v6()]));
}

#[test]
fn the_same_addresses_in_another_order_are_nothing_new() {
    let mut cache = knowing(Ok(ips(&[1, 2])));
    cache.find("db.example", None, at(1));

    cache.find("db.example", None, at(16));
    assert_eq!(cache.answered("db.example", Ok(ips(&[2, 1, 2])), at(16)), ips(&[]));

    assert_eq!(cache.find("db.example", None, at(17)), Found::Addresses(ips(&[2, 1])), "the turn goes on");
}

#[test]
fn a_new_answer_tells_which_addresses_are_gone() {
    let mut cache = knowing(Ok(ips(&[1, 2])));

    assert_eq!(cache.answered("db.example", Ok(ips(&[2, 3])), at(1)), ips(&[1]));
    assert!(cache.holds("db.example", ip(2)) && cache.holds("db.example", ip(3)));
    assert!(!cache.holds("db.example", ip(1)));
    assert_eq!(cache.answered("db.example", Ok(ips(&[2, 3])), at(2)), ips(&[]), "told once");
}

#[test]
fn a_name_that_vanished_leaves_its_servers_alone_until_it_is_back() {
    let mut cache = knowing(Ok(ips(&[1])));

    assert_eq!(cache.answered("db.example", nothing(), at(1)), ips(&[]));
    assert_eq!(cache.find("db.example", None, at(2)), Found::Nothing("there is no such name".into()));
    assert!(cache.holds("db.example", ip(1)));
    assert_eq!(cache.answered("db.example", Ok(ips(&[2])), at(9)), ips(&[1]));
}

#[test]
fn addresses_stay_while_the_name_server_is_silent() {
    let mut cache = knowing(Ok(ips(&[1])));

    assert_eq!(cache.find("db.example", None, at(16)), Found::Ask(1));
    cache.answered("db.example", silence(), at(20));

    assert_eq!(cache.find("db.example", Some(1), at(20)), Found::Addresses(ips(&[1])));
    assert_eq!(cache.find("db.example", None, at(25)), Found::Addresses(ips(&[1])));
    assert_eq!(cache.find("db.example", None, at(26)), Found::Ask(2), "for dns_nxdomain_ttl");
    let mut cache = knowing(silence());
    assert_eq!(cache.find("db.example", None, at(1)), Found::Nothing("timed out".into()));
}

#[test]
fn what_is_in_doubt_is_asked_for_again() {
    let mut cache = knowing(Ok(ips(&[1])));

    cache.expire("db.example");

    assert_eq!(cache.hosts(at(1))[0], HostView { name: "db.example".into(), ttl: 0, addresses: ips(&[1]) });
    assert_eq!(cache.find("db.example", None, at(1)), Found::Ask(1));
}

#[test]
fn shorter_times_count_for_what_is_known_already() {
    let mut cache = knowing(Ok(ips(&[1])));

    cache.set_times(Times { max_ttl: Duration::from_secs(2), ..TIMES }, at(1));

    assert_eq!(cache.hosts(at(1))[0].ttl, 2);
    assert_eq!(cache.find("db.example", None, at(4)), Found::Ask(1));
}

#[test]
fn names_nobody_can_ask_for_are_forgotten_with_their_zones() {
    let mut cache = knowing(Ok(ips(&[1])));
    cache.find("db.other", None, at(0));
    cache.answered("db.other", Ok(ips(&[2])), at(0));
    cache.find("db", None, at(0));

    cache.retain(|name| name == "db.other");

    let names: Vec<_> = cache.hosts(at(1)).into_iter().map(|host| host.name).collect();
    assert_eq!(names, ["db".into(), "db.other".into()], "one is being asked for");
    assert_eq!(cache.zones(), [ZoneView { name: "other".into(), serial: 0, count: 1 }]);
    assert_eq!(cache.answered("db.example", Ok(ips(&[1])), at(1)), ips(&[]));
}

#[test]
fn a_zone_is_what_follows_the_first_dot() {
    let mut cache = Cache::new(TIMES);
    for name in ["a.example.com", "b.example.com", "c.example.org", "short", "dot."] {
        cache.find(name, None, at(0));
    }

    let zone = |name: &str, count| ZoneView { name: name.into(), serial: 0, count };
    assert_eq!(cache.zones(), [zone("example.com", 2), zone("example.org", 1)]);
}

#[test]
fn zones_are_asked_in_every_period_one_round_at_a_time() {
    let mut cache = Cache::new(TIMES);
    assert_eq!(cache.zones_due(at(0)), None, "there is none");
    cache.find("db.example", None, at(0));

    assert_eq!(cache.zones_due(at(10)), None);
    assert_eq!(cache.zones_due(at(69)), None);
    assert_eq!(cache.zones_due(at(70)), Some(vec!["example".into()]));
    assert_eq!(cache.zones_due(at(500)), None, "under way");
    cache.zones_done(at(501));
    assert_eq!(cache.zones_due(at(560)), None);
    assert_eq!(cache.zones_due(at(561)), Some(vec!["example".into()]));

    cache.zones_done(at(561));
    cache.set_times(Times { zone_check_period: Duration::ZERO, ..TIMES }, at(562));
    assert_eq!(cache.zones_due(at(9999)), None, "off");
}

#[test]
fn a_later_serial_number_has_the_zones_names_asked_for_again() {
    let mut cache = knowing(Ok(ips(&[1])));
    cache.find("db.other", None, at(0));
    cache.answered("db.other", Ok(ips(&[2])), at(0));

    let first = cache.serial("example", 7).unwrap();
    assert_eq!(first, ZoneChange { old: 0, names: vec!["db.example".into()] });
    assert_eq!(cache.find("db.example", None, at(1)), Found::Wait(1));
    assert_eq!(cache.find("db.other", None, at(1)), Found::Addresses(ips(&[2])));
    cache.answered("db.example", Ok(ips(&[3])), at(1));

    assert_eq!(cache.serial("example", 7), None);
    assert_eq!(cache.serial("example", 6), None, "a name server that lags behind");
    assert_eq!(cache.serial("example", 9).unwrap().old, 7);
    assert_eq!(cache.serial("example", 10).unwrap().names, [] as [Arc<str>; 0], "under way already");
    assert_eq!(cache.zones()[0].serial, 10);
    assert_eq!(cache.serial("nowhere", 1), None);
}

#[test]
fn serial_numbers_wrap_around() {
    let mut cache = knowing(Ok(ips(&[1])));
    cache.serial("example", u32::MAX);

    assert_eq!(cache.serial("example", 3).unwrap().old, u32::MAX);
    assert_eq!(cache.serial("example", u32::MAX), None);
}

proptest! {
    /// Whatever answers come: who is told "gone" is gone, nobody is told twice, and an address of the last answer that
    /// had any is never taken for gone.
    #[test]
    fn what_is_gone_was_there_and_is_not(answers in prop::collection::vec(prop::collection::vec(0u8..5, 0..4), 1..12)) {
        let mut cache = Cache::new(TIMES);
        let mut last: Vec<IpAddr> = Vec::new();
        for (second, answer) in (0u64..).map(|n| n * 20).zip(answers) {
            prop_assert!(matches!(cache.find("db", None, at(second)), Found::Ask(_)));
            let addresses = ips(&answer);
            let gone = cache.answered("db", Ok(addresses.clone()), at(second));
            if addresses.is_empty() {
                prop_assert!(gone.is_empty());
            } else {
                let expected: Vec<_> = last.iter().filter(|old| !addresses.contains(old)).copied().collect();
                prop_assert!(gone.len() == expected.len() && gone.iter().all(|address| expected.contains(address)));
                last = addresses;
                last.sort();
                last.dedup();
            }
            prop_assert!(last.iter().all(|address| cache.holds("db", *address)));
            prop_assert!(gone.iter().all(|address| !cache.holds("db", *address)));
        }
    }
}
