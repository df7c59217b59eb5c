//! Visitors who are slow, many or large: nobody who is logged in waits for them, each goes when its time is over, and
//! what they can make the pooler remember is bounded.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{lines_of, repelled, until_lines, whole_errors};
use crate::support::tls::client_hello;
use crate::support::{self, PATIENCE, Setup, Wire, eventually};
use crate::tls::{SSL_REQUEST, encrypting};

/// What a visitor sends at a time, and then a byte at a time.
struct Slow {
    what: &'static str,
    first: Vec<u8>,
    /// Is the first answered by a request for a password?
    asked: bool,
    /// Sent after that.
    then: Vec<u8>,
    /// Sent byte by byte, over and over.
    drops: Vec<u8>,
}

/// A TLS record of this type.
fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 3, 1], &u16::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
}

fn slow_ones(startup: Vec<u8>) -> Vec<Slow> {
    let slow = |what, first: &[u8], then: &[u8], drops: &[u8]| {
        let (first, then, drops) = (first.to_vec(), then.to_vec(), drops.to_vec());
        Slow { what, first, asked: false, then, drops }
    };
    let hello = client_hello();
    let long_startup = [&10_000u32.to_be_bytes()[..], &196_608u32.to_be_bytes(), b"user\0"].concat();
    let (head, body) = hello.split_at(9);
    vec![
        slow("says nothing", b"", b"", b""),
        slow("begins a startup packet", &long_startup, b"", b"x"),
        slow("begins a request for TLS", &SSL_REQUEST[..5], b"", b""),
        slow("asks for TLS and leaves it at that", &SSL_REQUEST, b"", b""),
        slow("says its ClientHello byte by byte", &SSL_REQUEST, head, &body[..body.len() - 40]),
        slow("cuts its ClientHello into records", &SSL_REQUEST, &record(0x16, &[1, 0, 0xff, 0]), &record(0x16, b"x")),
        slow("says its ClientHello and no more", &SSL_REQUEST, &hello, b""),
        slow("begins TLS without asking", &hello[..60], b"", b""),
        Slow { asked: true, ..slow("says its password byte by byte", &startup, b"p\0\0\xea\x60", b"x") },
    ]
}

#[test]
fn a_slow_login_ends_with_client_login_timeout_whatever_it_is_slow_with() {
    if support::beyond_pgbouncer() {
        return;
    }
    let setup = encrypting("allow").set("client_login_timeout", 600).set("auth_type", "plain");
    let role = setup.role().to_owned();
    let proxy = setup.secret(&role, "secret").start();
    let startup = proxy.login().startup();
    let slow_ones = slow_ones(startup);
    let there = AtomicUsize::new(0);

    std::thread::scope(|scope| {
        for slow in &slow_ones {
            let (proxy, there) = (&proxy, &there);
            scope.spawn(move || {
                repelled(proxy, "client_login_timeout", |wire| {
                    wire.send(&slow.first);
                    if slow.first == SSL_REQUEST {
                        assert_eq!(wire.byte(), b'S', "{}", slow.what);
                    }
                    if slow.asked {
                        wire.expect(b'R');
                    }
                    wire.send(&slow.then);
                    there.fetch_add(1, Ordering::Relaxed);
                    // For two seconds, and by less than a whole message; then it is just silent.
                    let (mut drops, deadline) = (slow.drops.iter().cycle().take(100), Instant::now() + PATIENCE);
                    while !wire.stirs_within(Duration::from_millis(20)) {
                        assert!(Instant::now() < deadline, "{} for ever", slow.what);
                        let Some(drop) = drops.next() else { continue };
                        wire.send([*drop]);
                    }
                });
            });
        }
        let login = proxy.login().password("secret");
        let mut client = login.client();
        assert_eq!(client.value("SELECT 1"), "1");
        let mut console = proxy.console();
        eventually("all have come", || (there.load(Ordering::Relaxed) == slow_ones.len()).then_some(()));
        console.ok("SET client_login_timeout = 1");
    });

    until_lines(&proxy, "pooler error: client_login_timeout", slow_ones.len());
}

#[test]
fn half_open_handshakes_are_cheap_and_end() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = encrypting("allow").set("client_login_timeout", 600).set("max_client_conn", 3).start();
    let mut holder = proxy.client();
    let mut console = proxy.console();
    let before = proxy.data_kib();
    let hello = client_hello();

    let mut crowd: Vec<Wire> = (0..300).map(|_| Wire::tcp(proxy.port)).collect();
    for (number, wire) in crowd.iter_mut().enumerate() {
        wire.send(SSL_REQUEST);
        assert_eq!(wire.byte(), b'S');
        // Some have got as far as to wait for the client's last word.
        wire.send(&hello[..hello.len() - number % 4]);
    }

    assert_eq!(holder.value("SELECT 1"), "1");
    assert_eq!(proxy.client().value("SELECT 1"), "1", "they take none of the three places");
    let grown = proxy.data_kib() - before;
    assert!(grown < 300 * 64, "{grown} KiB for 300 connections");
    console.ok("SET client_login_timeout = 1");
    for wire in &mut crowd {
        wire.rest();
    }
    until_lines(&proxy, "pooler error: client_login_timeout", crowd.len());
}

#[test]
fn a_handshake_has_bounds() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = encrypting("allow").start();
    let before = proxy.data_kib();
    let begin = |wire: &mut Wire| {
        wire.send(SSL_REQUEST);
        assert_eq!(wire.byte(), b'S');
    };
    // Each claims a ClientHello of 64 KB, which would be taken, and sends it in records of a byte.
    let pieces = [record(0x16, &[1, 0, 0xff, 0xf0]), record(0x16, b"x").repeat(60_000)].concat();
    let sixteen_megabytes = [record(0x16, &[1, 0xff, 0xff, 0xff]), record(0x16, &[0; 16_384]).repeat(8)].concat();
    let large_record = [&[0x16, 3, 1, 0xff, 0xff][..], &[0; 70_000]].concat();
    for (what, bytes) in [
        ("TLS message in too many pieces", &pieces),
        ("HandshakePayloadTooLarge", &sixteen_megabytes),
        ("MessageTooLarge", &large_record),
        ("handshake failed: ", &record(0x14, &[1]).repeat(1000)),
        ("handshake failed: ", &record(0x15, &[1, 0]).repeat(1000)),
        ("handshake failed: ", &record(0x16, b"").repeat(1000)),
        ("handshake failed: ", &record(0x17, b"select 1")),
    ] {
        repelled(&proxy, what, |wire| {
            begin(wire);
            wire.send(bytes);
        });
    }

    // As far as they may go, many at a time.
    let mut crowd: Vec<Wire> = (0..40).map(|_| Wire::tcp(proxy.port)).collect();
    for wire in &mut crowd {
        begin(wire);
        wire.send(&pieces[..100_000]);
    }
    assert_eq!(proxy.client().value("SELECT 1"), "1");
    let grown = proxy.data_kib() - before;
    assert!(grown < 40 * 300, "{grown} KiB for 40 of them");
}

#[test]
fn who_comes_when_max_client_conn_is_reached_is_told_and_noted() {
    let proxy = Setup::new().set("max_client_conn", 2).start();
    let mut holders = [proxy.client(), proxy.client()];

    for _ in 0..100 {
        let said = "no more connections allowed (max_client_conn)";
        let told = repelled(&proxy, said, |wire| wire.send(proxy.login().startup()));
        let code = if support::proxy::is_pgbouncer() { "08P01" } else { "53300" };
        assert_eq!((told[0].fields()[&'C'].as_str(), told[0].fields()[&'M'].as_str()), (code, said));
    }

    holders.iter_mut().for_each(|holder| assert_eq!(holder.value("SELECT 1"), "1"));
}

#[test]
fn a_flood_that_takes_all_descriptors_passes() {
    if support::beyond_pgbouncer() {
        return;
    }
    let few = ["/bin/sh", "-c", "ulimit -n 100; exec \"$0\" \"$@\""];
    let setup = Setup::new().wrapped(&few).set("max_client_conn", 20).set("client_login_timeout", 600);
    let proxy = setup.start();
    let mut holder = proxy.client();
    let mut console = proxy.console();
    assert_eq!(holder.value("SELECT 1"), "1");
    let began = Instant::now();

    let mut crowd: Vec<Wire> = (0..150).map(|_| Wire::tcp(proxy.port)).collect();
    proxy.until_log("accept() failed: ");

    assert_eq!(holder.value("SELECT 1"), "1");
    console.ok("SET client_login_timeout = 1");
    for wire in &mut crowd {
        whole_errors(&wire.until_end());
    }
    eventually("there is room again", || proxy.login().attempt().ok());
    let lines = lines_of(&proxy, "accept() failed: ");
    let most = usize::try_from(began.elapsed().as_secs() / 5 + 1).unwrap();
    assert!(lines <= most, "{lines} lines in {:?}", began.elapsed());
    assert!(proxy.log().contains("(on 127.0.0.1:"), "{}", proxy.log());
}

#[test]
fn databases_that_strangers_make_up_leave_nothing_behind() {
    if support::beyond_pgbouncer() {
        return;
    }
    let guard = support::Postgres::shared().role();
    let setup = Setup::new().database("*", "").set("auth_type", "md5").set("auth_user", &guard);
    let proxy = setup.set("server_login_retry", 1).set("autodb_idle_timeout", 0).start();
    let before = proxy.data_kib();

    // Before anybody has shown a password: auth_query would run in these databases.
    for number in 0..200 {
        let login = proxy.login().user("stranger").database(&format!("made_up_{number}"));
        let refusal = login.attempt().err().expect("a refusal");
        whole_errors(&refusal.seen);
    }

    proxy.until("DATABASES", |shown| !shown.rows.iter().any(|row| row["name"].starts_with("made_up_")));
    let grown = proxy.data_kib() - before;
    assert!(grown < 6 * 1024, "{grown} KiB for 200 names");
    until_lines(&proxy, "registered new auto-database: made_up_", 200);
    until_lines(&proxy, "dropping database 'made_up_", 200);
}
