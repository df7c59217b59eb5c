use std::task::Poll;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn what_can_be_reached_goes_first_and_there_ipv6() {
    let mut addresses = ["10.0.0.2", "fd00::dead", "10.0.0.1", "fd00::1"].map(ip);

    sort(&mut addresses, |address| address != ip("fd00::dead"));

    assert_eq!(addresses, ["fd00::1", "10.0.0.2", "10.0.0.1", "fd00::dead"].map(ip));
    assert!(reachable(ip("127.0.0.1")));
}

/// With a worker of its own and a `resolv.conf` that leads nowhere.
fn dns() -> Dns {
    let settings = Settings { resolv_conf: Some("/nonexistent/resolv.conf".into()), ..Settings::default() };
    Dns::new(&settings, Workers::new(vec![tokio::runtime::Handle::current()]))
}

#[tokio::test]
async fn an_address_needs_no_query() {
    let dns = dns();

    for text in ["127.0.0.1", "::1"] {
        let answer = dns.lookup(text).await.unwrap();
        assert_eq!(answer, Answer { addresses: vec![ip(text)], fresh: true });
        assert!(dns.holds(text, ip(text)));
    }
    assert_eq!(dns.sums(), Sums::default());
}

#[tokio::test]
async fn localhost_needs_no_name_server() {
    let dns = dns();

    let answer = dns.lookup("localhost").await.unwrap();

    assert!(answer.fresh && answer.addresses.contains(&ip("127.0.0.1")));
    assert!(!dns.lookup("localhost").await.unwrap().fresh, "known by now");
    assert_eq!(dns.hosts()[0].name, "localhost".into());
}

#[tokio::test]
async fn a_missing_resolv_conf_is_named() {
    let dns = dns();

    let told = dns.lookup("db.invalid").await.unwrap_err();

    assert!(told.starts_with("resolv_conf: cannot read /nonexistent/resolv.conf: "), "{told}");
    assert_eq!(dns.check().unwrap_err(), *told);
}

#[tokio::test]
async fn who_gives_up_does_not_keep_others_from_an_answer() {
    let dns = dns();
    let mut first = Box::pin(dns.lookup("localhost"));
    let poll = std::future::poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx))).await;
    assert!(poll.is_pending(), "the query is a task of its own");

    drop(first);

    assert!(dns.lookup("localhost").await.is_ok());
    assert_eq!(dns.sums().queries, 0);
}
