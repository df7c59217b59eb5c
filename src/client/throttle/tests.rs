use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn admitted(throttle: &mut Throttle, rate: Rate, at_us: u64) -> bool {
    throttle.admit(HOME, rate, Moment(at_us)) == Verdict::Admitted
}

#[test]
fn no_limit_is_the_default() {
    assert_eq!(Rate::of(&Settings::default()), None);
}

#[test]
fn a_burst_is_let_in_and_then_one_for_each_interval() {
    let mut throttle = Throttle::default();
    let rate = Rate { per_second: 10, burst: 3 };
    let start = 5_000_000;

    let at_once = (0..5).filter(|_| admitted(&mut throttle, rate, start)).count();

    assert_eq!(at_once, 3);
    assert!(!admitted(&mut throttle, rate, start + 99_999));
    assert!(admitted(&mut throttle, rate, start + 100_000));
    assert!(!admitted(&mut throttle, rate, start + 100_000));
    let after_a_rest = (0..5).filter(|_| admitted(&mut throttle, rate, start + 60_000_000)).count();
    assert_eq!(after_a_rest, 3, "a rest saves up no more than the burst");
}

#[test]
fn a_refusal_is_logged_once_per_address_and_second() {
    let mut throttle = Throttle::default();
    let rate = Rate { per_second: 1, burst: 1 };
    let other = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    throttle.admit(HOME, rate, Moment(0));
    throttle.admit(other, rate, Moment(0));

    for (address, at_us, first) in
        [(HOME, 1, true), (HOME, 2, false), (other, 3, true), (HOME, 999_999, false), (other, 999_999, false)]
    {
        assert_eq!(throttle.admit(address, rate, Moment(at_us)), Verdict::Refused { first }, "{address} at {at_us}");
    }
    assert_eq!(throttle.admit(HOME, rate, Moment(1_000_000)), Verdict::Admitted);
    assert_eq!(throttle.admit(HOME, rate, Moment(1_000_001)), Verdict::Refused { first: true });
}

#[test]
fn the_addresses_of_one_network_share_a_bucket() {
    let mut throttle = Throttle::default();
    let rate = Rate { per_second: 1, burst: 1 };
    let mut first_of = |text: &str| {
        let address: IpAddr = text.parse().expect("an address");
        throttle.admit(address, rate, Moment(0)) == Verdict::Admitted
    };

    assert!(first_of("2001:db8:1:2::1"));
    assert!(!first_of("2001:db8:1:2:ffff::1"), "the same /64");
    assert!(first_of("2001:db8:1:3::1"));
    assert!(first_of("192.0.2.1"));
    assert!(!first_of("::ffff:192.0.2.1"), "the same host, on a socket for both families");
    assert!(first_of("192.0.2.2"));
}

#[test]
fn memory_is_bounded_and_who_comes_often_is_not_forgotten() {
    let mut throttle = Throttle::default();
    let rate = Rate { per_second: 1, burst: 1 };
    assert!(admitted(&mut throttle, rate, 0));

    for number in 0..u128::try_from(5 * ADDRESSES_MAX).unwrap() {
        let stranger = IpAddr::V6(Ipv6Addr::from(number << 64));
        throttle.admit(stranger, rate, Moment(1));
        if number % 1000 == 0 {
            assert!(!admitted(&mut throttle, rate, 1), "after {number} strangers");
        }
    }

    assert!(throttle.len() <= 2 * ADDRESSES_MAX);
}

proptest! {
    #[test]
    fn in_no_stretch_of_time_are_more_let_in_than_burst_and_rate_allow(
        per_second in 1u32..2_000,
        burst in 1u32..50,
        pauses_us in prop::collection::vec(0u64..50_000, 1..200),
    ) {
        let rate = Rate { per_second, burst };
        let mut throttle = Throttle::default();
        let mut now = 1_000_000_000;
        let mut let_in = Vec::new();
        for pause in pauses_us {
            now += pause;
            if admitted(&mut throttle, rate, now) {
                let_in.push(now);
            }
        }

        let interval = u64::try_from(rate.interval().as_micros()).unwrap();
        for (at, from) in let_in.iter().enumerate() {
            for (count, to) in (1u64..).zip(&let_in[at..]) {
                prop_assert!(count <= u64::from(burst) + (to - from) / interval);
            }
        }
    }

    #[test]
    fn who_keeps_to_the_rate_is_never_refused(per_second in 1u32..2_000, burst in 1u32..5, count in 1u64..200) {
        let rate = Rate { per_second, burst };
        let interval = u64::try_from(rate.interval().as_micros()).unwrap();
        let mut throttle = Throttle::default();

        for number in 0..count {
            prop_assert!(admitted(&mut throttle, rate, 7 + number * interval));
        }
    }
}
