//! Clients and servers that are broken or mean: they get a clear answer at most, and nobody else pays for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use crate::support::gate::FakeServer;
use crate::support::random::Random;
use crate::support::{self, Client, Message, Postgres, Proxy, Script, Setup, Wire};

/// How far memory may grow because of what a client merely claims.
const GROWTH_MAX_KIB: i64 = 6 * 1024;

/// The pooler still serves, and the visitor was told FATAL or nothing before it was thrown out.
#[track_caller]
fn thrown_out(proxy: &Proxy, mut wire: Wire, what: &str) {
    for message in wire.until_end() {
        if message.tag == b'E' {
            let fields = message.fields();
            assert_eq!(fields[&'S'], "FATAL", "{what}: {fields:?}");
            assert_eq!(fields[&'C'].len(), 5, "{what}: {fields:?}");
            assert!(!fields[&'M'].is_empty(), "{what}: {fields:?}");
        }
    }
    assert_eq!(proxy.client().value("SELECT 1"), "1", "{what}");
}

#[test]
fn broken_first_packets_are_thrown_out() {
    let proxy = Proxy::start();
    let version = 196_608u32.to_be_bytes();
    let packets: Vec<(&str, Vec<u8>)> = vec![
        ("a length of 0", vec![0, 0, 0, 0, 0, 3, 0, 0]),
        ("a length of 4", vec![0, 0, 0, 4, 0, 3, 0, 0]),
        ("a length of 7", vec![0, 0, 0, 7, 0, 3, 0, 0]),
        ("a negative length", vec![0xff; 8]),
        ("the greatest length", [0x7fff_ffffu32.to_be_bytes(), version].concat()),
        ("a length just too long", [100_000_000u32.to_be_bytes(), version].concat()),
        ("an unknown version", Script::startup_version(9 << 16, &[("user", "x")])),
        ("no terminator", Script::untagged(&[&version, b"user\0x\0".as_slice()].concat())),
        ("a name without a value", Script::untagged(&[&version, b"user\0x\0database\0".as_slice()].concat())),
        ("two terminators", Script::untagged(&[&version, b"user\0x\0\0\0".as_slice()].concat())),
        ("no user", Script::startup(&[("database", "app")])),
        ("an empty user", Script::startup(&[("user", ""), ("database", "app")])),
        ("a very long user", Script::startup(&[("user", &"u".repeat(5000)), ("database", "app")])),
        ("a very long database", Script::startup(&[("user", &proxy.role), ("database", &"d".repeat(5000))])),
        ("bytes that are no text", Script::untagged(&[&version, b"user\0\xff\xfe\xfd\0\0".as_slice()].concat())),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("TLS without asking", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), &[7; 512]].concat()),
        ("a query before the login", Script::new().query("SELECT 1").as_ref().to_vec()),
    ];
    for (what, packet) in packets {
        let mut wire = Wire::tcp(proxy.port);
        wire.send(packet);
        wire.socket().shutdown(std::net::Shutdown::Write).unwrap_or_default();
        thrown_out(&proxy, wire, what);
    }
}

#[test]
fn a_claimed_length_before_login_costs_no_memory() {
    let setup = Setup::new().set("auth_type", "plain");
    let role = setup.role().to_owned();
    let proxy = setup.secret(&role, "x").start();
    let before = proxy.data_kib();
    let mut visitors: Vec<Wire> = (0..50).map(|_| Wire::tcp(proxy.port)).collect();

    for (index, wire) in visitors.iter_mut().enumerate() {
        if index % 2 == 0 {
            // A start-up packet of a gigabyte.
            wire.send([0x4000_0000u32.to_be_bytes(), 196_608u32.to_be_bytes()].concat());
        } else {
            // A password of a gigabyte.
            wire.send(proxy.login().startup());
            assert_eq!(wire.expect(b'R').body[3], 3);
            wire.send([b"p".as_slice(), &0x4000_0000u32.to_be_bytes(), &[b'x'; 1000]].concat());
        }
    }

    proxy.login().password("x").client().pid();
    let after = proxy.data_kib();
    assert!(after - before < GROWTH_MAX_KIB, "{before} KiB before, {after} after");
    let mut oversized = visitors.swap_remove(0);
    if !support::proxy::is_pgbouncer() {
        oversized.until_end();
    }
}

#[test]
fn broken_messages_after_login_are_thrown_out() {
    let proxy = Proxy::start();
    let scripts: Vec<(&str, Vec<u8>)> = vec![
        ("an unknown type", Script::new().message(b'!', b"what").as_ref().to_vec()),
        ("a zero type", Script::new().message(0, b"").as_ref().to_vec()),
        ("a length of 0", b"Q\0\0\0\0".to_vec()),
        ("a length of 3", b"Q\0\0\0\x03".to_vec()),
        ("a negative length", b"Q\xff\xff\xff\xff".to_vec()),
        ("a server's message", Script::new().message(b'Z', b"I").as_ref().to_vec()),
        ("a Parse without end", Script::new().message(b'P', b"name").sync().as_ref().to_vec()),
        ("a Bind without end", Script::new().message(b'B', b"portal\0name").sync().as_ref().to_vec()),
        ("a Describe of nothing", Script::new().message(b'D', b"").sync().as_ref().to_vec()),
        ("a Describe without end", Script::new().message(b'D', b"Sname").sync().as_ref().to_vec()),
        ("a Close without end", Script::new().message(b'C', b"Sname").sync().as_ref().to_vec()),
        ("a password after login", Script::new().message(b'p', b"secret\0").as_ref().to_vec()),
        ("a start-up packet after login", proxy.login().startup()),
    ];
    for (what, script) in scripts {
        let mut client = proxy.client();
        client.send(script);
        client.send(Script::new().terminate());
        client.wire.socket().shutdown(std::net::Shutdown::Write).unwrap_or_default();
        let mut bystander = proxy.client();
        client.wire.until_end();
        assert_eq!(bystander.value("SELECT 1"), "1", "{what}");
        proxy.until_pool("sv_active", 0);
    }
}

#[test]
fn queries_without_end_are_the_servers_to_refuse() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    client.send(Script::new().message(b'Q', b"SELECT 1"));
    let reply = client.reply();
    assert!(reply.error().is_some(), "{reply:?}");
    assert_eq!(proxy.client().value("SELECT 1"), "1");
}

#[test]
fn half_a_header_holds_no_server() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let mut dawdler = proxy.client();

    dawdler.send(b"Q\0\0");

    assert_eq!(proxy.client().value("SELECT 1"), "1");
    dawdler.send([&[0, 13], b"SELECT 1\0".as_slice()].concat());
    assert_eq!(dawdler.reply().value(), "1");
}

#[test]
fn half_a_message_holds_no_server() {
    // PgBouncer lends a server as soon as it has seen the header.
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let mut dawdler = proxy.client();

    dawdler.send(b"Q\0\0\0\x0dSELE");

    assert_eq!(proxy.client().value("SELECT 1"), "1");
    dawdler.send(b"CT 1\0");
    assert_eq!(dawdler.reply().value(), "1");
}

#[test]
fn a_claimed_length_after_login_costs_no_memory() {
    let setup = Setup::new().closing_abandoned_servers();
    let proxy = setup.set("default_pool_size", 20).set("max_client_conn", 200).start();
    let mut clients: Vec<Client> = (0..20).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.ok("BEGIN").status(), 'T'));
    let before = proxy.data_kib();

    for (index, client) in clients.iter_mut().enumerate() {
        let tag = [b"Q", b"P", b"B", b"d"][index % 4];
        client.send([tag.as_slice(), &0x3fff_ffffu32.to_be_bytes(), b"name\0name\0xxxx"].concat());
    }

    proxy.show("CLIENTS");
    std::thread::sleep(Duration::from_millis(200));
    let after = proxy.data_kib();
    assert!(after - before < GROWTH_MAX_KIB, "{before} KiB before, {after} after");
    clients.into_iter().for_each(|client| client.wire.reset());
    Postgres::shared().until_backends(&proxy.role, 0);
}

#[test]
fn visitors_who_say_nothing_lock_nobody_out() {
    let proxy = Setup::new().set("client_login_timeout", 600).set("max_client_conn", 300).start();
    let mut console = proxy.console();
    let mut mute: Vec<Wire> = (0..200).map(|_| Wire::tcp(proxy.port)).collect();

    assert_eq!(proxy.client().value("SELECT 1"), "1");

    console.ok("SET client_login_timeout = 1");
    for wire in &mut mute {
        wire.until_end();
    }
}

#[test]
fn noise_before_and_after_login_harms_nobody() {
    let proxy = Proxy::start();
    let before = proxy.data_kib();
    for seed in 0..300 {
        let mut random = Random(seed);
        if seed % 2 == 0 {
            let mut wire = Wire::tcp(proxy.port);
            wire.send(random.bytes(300));
            wire.reset();
            continue;
        }
        let mut client = proxy.client();
        let mut script = Script::new();
        for _ in 0..random.below(8) {
            let tag = b"QPBDECSHFdcfXp"[random.below(14) as usize];
            script = script.message(tag, &random.bytes(60));
        }
        client.send(script.sync());
        client.send(random.bytes(40));
        client.wire.reset();
    }

    proxy.until_pool("sv_active", 0);
    assert_eq!(proxy.client().value("SELECT 1"), "1");
    let after = proxy.data_kib();
    assert!(after - before < 2 * GROWTH_MAX_KIB, "{before} KiB before, {after} after");
}

/// A pooler whose only server is one that behaves like this after the start-up packet.
fn before(serve: impl Fn(Wire) + Clone + Send + 'static) -> (Proxy, FakeServer) {
    let server = FakeServer::start(move |mut wire| {
        let mut length = [0; 4];
        // Decline encryption first, where it is asked for.
        for _ in 0..2 {
            for byte in &mut length {
                *byte = wire.byte();
            }
            let body: Vec<u8> = (4..u32::from_be_bytes(length)).map(|_| wire.byte()).collect();
            if body[..2] != [4, 210] {
                break;
            }
            wire.send(b"N");
        }
        serve(wire);
    });
    let proxy = Setup::new().through(server.port).set("server_login_retry", 1).start();
    (proxy, server)
}

fn error_without_sqlstate(text: &str) -> Vec<u8> {
    Script::new().message(b'E', &[b"SFATAL\0M", text.as_bytes(), b"\0\0"].concat()).as_ref().to_vec()
}

#[test]
fn a_server_error_without_sqlstate_is_passed_on() {
    let (proxy, _server) = before(|mut wire| wire.send(error_without_sqlstate("go away")));

    let refusal = proxy.login().refusal();

    assert!(refusal.contains("go away"), "{refusal}");
}

#[test]
fn servers_that_break_the_login_harm_nobody() {
    let behaviours: Vec<(&str, Vec<u8>)> = vec![
        ("noise", vec![0xff; 100]),
        ("a huge claim", [b"R".as_slice(), &0x7fff_ffffu32.to_be_bytes(), &[0; 10]].concat()),
        ("a length of 1", b"R\0\0\0\x01".to_vec()),
        ("an empty request", Script::new().message(b'R', b"").as_ref().to_vec()),
        ("an unknown method", Script::new().message(b'R', &[0, 0, 0, 99]).as_ref().to_vec()),
        ("half an md5 request", Script::new().message(b'R', &[0, 0, 0, 5, 1]).as_ref().to_vec()),
        ("no mechanism", Script::new().message(b'R', &[0, 0, 0, 10, 0]).as_ref().to_vec()),
        ("SCRAM's end at once", Script::new().message(b'R', b"\0\0\0\x0cv=abc").as_ref().to_vec()),
        ("SCRAM's middle at once", Script::new().message(b'R', b"\0\0\0\x0br=abc,s=abc,i=1").as_ref().to_vec()),
        ("half a key", Script::new().message(b'R', &[0; 4]).message(b'K', &[0; 3]).as_ref().to_vec()),
        ("a broken parameter", Script::new().message(b'R', &[0; 4]).message(b'S', b"name").as_ref().to_vec()),
        ("a row", Script::new().message(b'R', &[0; 4]).message(b'D', &[0; 20]).as_ref().to_vec()),
        ("a broken error", Script::new().message(b'E', b"S").as_ref().to_vec()),
    ];
    for (what, bytes) in behaviours {
        let (proxy, _server) = before(move |mut wire| wire.send(&bytes));
        let before = proxy.data_kib();

        let mut wire = Wire::tcp(proxy.port);
        proxy.console().ok("SET query_wait_timeout = 1");
        wire.send(proxy.login().startup());
        let told = wire.until_end();

        let told_why = told.iter().any(|message| message.tag == b'E');
        assert!(told_why || support::proxy::is_pgbouncer(), "{what}: {told:?}");
        assert!(proxy.data_kib() - before < GROWTH_MAX_KIB, "{what}");
        assert_eq!(proxy.show("STATE").rows.len(), 3, "{what}");
    }
}

#[test]
fn a_scram_challenge_with_absurd_iterations_is_refused() {
    if support::beyond_pgbouncer() {
        return;
    }
    let server = FakeServer::start(|mut wire| {
        let length: Vec<u8> = (0..4).map(|_| wire.byte()).collect();
        let length = u32::from_be_bytes(length.try_into().unwrap());
        for _ in 4..length {
            wire.byte();
        }
        wire.send(Script::new().message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"));
        let first = wire.expect(b'p');
        let text = String::from_utf8_lossy(&first.body).into_owned();
        let nonce = text.rsplit("r=").next().unwrap();
        let challenge = format!("r={nonce}x,s=c2FsdA==,i=2000000000");
        wire.send(Script::new().message(b'R', &[b"\0\0\0\x0b", challenge.as_bytes()].concat()));
        wire.until_end();
    });
    let setup = Setup::new().through(server.port).set("server_tls_sslmode", "disable").set("query_wait_timeout", 5);
    let role = setup.role().to_owned();
    let proxy = setup.secret(&role, "secret").start();

    let refusal = proxy.login().refusal();

    assert!(!refusal.is_empty());
    assert!(proxy.cpu() < Duration::from_secs(20), "{:?}", proxy.cpu());
}

/// A server that logs anybody in and answers its first query with these bytes.
fn answering(bytes: Vec<u8>) -> (Proxy, FakeServer) {
    before(move |mut wire| {
        wire.send(Script::new().message(b'R', &[0; 4]).message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]));
        wire.send(Script::new().message(b'S', b"server_version\x0015.0\0").message(b'Z', b"I"));
        while let Some(Message { tag, .. }) = wire.next() {
            if tag == b'Q' {
                wire.send(&bytes);
                break;
            }
        }
        wire.until_end();
    })
}

#[test]
fn servers_that_break_the_protocol_in_a_query_are_closed() {
    // PgBouncer waits for what such a message claims to bring.
    if support::beyond_pgbouncer() {
        return;
    }
    for (what, bytes) in [
        ("a length of 2", b"T\0\0\0\x02".to_vec()),
        ("a broken ReadyForQuery", Script::new().message(b'Z', b"").as_ref().to_vec()),
        ("noise", vec![0xfe; 64]),
    ] {
        let (proxy, _server) = answering(bytes);
        let mut client = proxy.client();

        client.send(Script::new().query("SELECT 1"));

        let told = std::iter::from_fn(|| client.wire.next()).any(|message| message.tag == b'E');
        assert!(told, "{what}: the client must learn of it");
        proxy.until_pool("sv_active", 0);
    }
}

#[test]
fn what_a_server_says_while_idle_reaches_nobody() {
    // PgBouncer keeps such a server, and what it says may reach the next client.
    if support::beyond_pgbouncer() {
        return;
    }
    let (speak, connections) = (Arc::new(Barrier::new(2)), Arc::new(AtomicUsize::new(0)));
    let when = Arc::clone(&speak);
    let (proxy, _server) = before(move |mut wire| {
        wire.send(Script::new().message(b'R', &[0; 4]).message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]));
        wire.send(Script::new().message(b'S', b"server_version\x0015.0\0").message(b'Z', b"I"));
        let first = connections.fetch_add(1, Ordering::SeqCst) == 0;
        while let Some(Message { tag, .. }) = wire.next() {
            if tag == b'Q' {
                wire.send(Script::new().message(b'C', b"SELECT 0\0").message(b'Z', b"I"));
            }
            if tag == b'Q' && first {
                when.wait();
                wire.send(Script::new().message(b'D', &[0, 0]).message(b'Z', b"I"));
            }
        }
    });
    let mut client = proxy.client();
    assert_eq!(client.query("SELECT 1").shape(), "CZ");
    proxy.until_pool("sv_idle", 1);

    speak.wait();
    proxy.until_serverless();

    assert_eq!(client.query("SELECT 1").shape(), "CZ");
}

#[test]
fn a_parameter_too_long_to_be_followed_is_not_left_to_the_next_client() {
    if support::beyond_pgbouncer() {
        return;
    }
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let (proxy, _server) = before(move |mut wire| {
        counted.fetch_add(1, Ordering::SeqCst);
        wire.send(Script::new().message(b'R', &[0; 4]).message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]));
        wire.send(Script::new().message(b'S', b"search_path\0public\0").message(b'Z', b"I"));
        while let Some(Message { tag, .. }) = wire.next() {
            if tag == b'Q' {
                let long = [b"search_path\0".as_slice(), &[b'x'; 20_000], b"\0"].concat();
                wire.send(Script::new().message(b'S', &long).message(b'C', b"SET\0").message(b'Z', b"I"));
            }
        }
    });

    for number in 1..=3 {
        let mut client = proxy.client();
        assert_eq!(client.query("SET search_path TO long").shape(), "CZ");
        assert_eq!(connections.load(Ordering::SeqCst), number, "each has a server of its own");
        client.leave();
    }
}

#[test]
fn a_query_answered_in_the_middle_of_another_message_does_not_end_the_conversation() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let mut client = proxy.client();
    let stray = Script::new().copy_data(&[b'x'; 100_000]);
    let (head, rest) = stray.as_ref().split_at(15);

    client.send([Script::new().query("SELECT 1").as_ref(), head].concat());
    assert_eq!(client.reply().value(), "1");
    client.send(rest);

    assert_eq!(client.value("SELECT 2"), "2");
}

#[test]
fn who_leaves_in_the_middle_of_a_message_leaves_no_server_behind_for_others() {
    for mode in ["transaction", "session"] {
        let setup = Setup::new().set("pool_mode", mode).set("default_pool_size", 1).set("server_reset_query", "");
        let proxy = setup.start();
        let mut leaver = proxy.client();
        let server = leaver.pid();
        let stray = Script::new().copy_data(&[b'x'; 100_000]);

        leaver.send([Script::new().query("SELECT 1").as_ref(), &stray.as_ref()[..15]].concat());
        assert_eq!(leaver.reply().value(), "1");
        drop(leaver);

        let mut next = proxy.client();
        assert_eq!(next.value("SELECT 2"), "2", "{mode}");
        assert_ne!(next.pid(), server, "{mode}");
    }
}
