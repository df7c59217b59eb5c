//! Who stands between a client and the pooler, or between the pooler and a server, before TLS has begun.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use rustls::ClientConnection;

use super::{lines_of, repelled, until_lines};
use crate::cancel::cancel_packet;
use crate::support::gate::FakeServer;
use crate::support::tls::{Tunnel, client_hello, connect};
use crate::support::{self, Postgres, Proxy, Script, Setup, Wire};
use crate::tls::{SSL_REQUEST, STARTTLS, encrypting, tunnelled};

const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];

/// A login, and a query that would be seen to have run.
fn injected(proxy: &Proxy, table: &str) -> Vec<u8> {
    [&proxy.login().startup(), Script::new().query(&format!("CREATE TABLE {table}()")).as_ref()].concat()
}

#[track_caller]
fn nothing_ran(proxy: &Proxy, table: &str) {
    let sql = format!("SELECT to_regclass('{table}') IS NULL");
    assert_eq!(Postgres::shared().admin().value(&sql), "t");
    assert_eq!(Postgres::shared().backends(&proxy.role), 0, "no server was asked for it");
}

#[test]
fn nothing_sent_before_tls_is_part_of_the_session() {
    if support::beyond_pgbouncer() {
        return;
    }
    for sslmode in ["allow", "require"] {
        let proxy = encrypting(sslmode).start();
        let table = format!("injected_{sslmode}");
        let (injected, hello) = (injected(&proxy, &table), client_hello());
        let after = |request: &str| format!("received unencrypted data after {request} request");

        // In one piece with the request, in a victim's name; the handshake would be the victim's own.
        for (request, said) in [(SSL_REQUEST, after("SSL")), (GSSENC_REQUEST, after("GSSAPI encryption"))] {
            for next in [&injected[..], &hello, &SSL_REQUEST, &GSSENC_REQUEST, b"\0"] {
                let told = repelled(&proxy, &said, |wire| wire.send([&request, next].concat()));
                assert_eq!(told[0].fields()[&'C'], "08P01");
            }
        }
        // Behind the answer: before, in place of and behind the handshake's first message.
        for next in [injected.clone(), [&injected[..], &hello].concat(), [&hello[..], &injected].concat()] {
            let told = repelled(&proxy, "TLS handshake error: handshake failed: ", |wire| {
                wire.send(SSL_REQUEST);
                assert_eq!(wire.byte(), b'S');
                wire.send(&next);
            });
            assert!(told.is_empty(), "nothing is said in clear: {told:?}");
        }
        // Without a request.
        repelled(&proxy, "TLS handshake error: ", |wire| wire.send([&hello[..], &injected].concat()));

        nothing_ran(&proxy, &table);
    }
}

#[test]
fn requests_for_encryption_are_few_bare_and_in_order() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = encrypting("require").start();
    let answered = |wire: &mut Wire, request: [u8; 8], answer: u8| {
        wire.send(request);
        assert_eq!(wire.byte(), answer);
    };
    let mut polite = Wire::tcp(proxy.port);
    answered(&mut polite, GSSENC_REQUEST, b'N');
    answered(&mut polite, SSL_REQUEST, b'S');

    repelled(&proxy, "too many encryption requests", |wire| {
        (0..2).for_each(|_| answered(wire, GSSENC_REQUEST, b'N'));
        wire.send(GSSENC_REQUEST);
    });
    repelled(&proxy, "TLS handshake error", |wire| {
        answered(wire, SSL_REQUEST, b'S');
        wire.send(SSL_REQUEST);
    });
    repelled(&proxy, "received direct SSL connection request behind another", |wire| {
        answered(wire, GSSENC_REQUEST, b'N');
        wire.send(client_hello());
    });
    for code in [&SSL_REQUEST[4..], &GSSENC_REQUEST[4..]] {
        let packet = Script::untagged(&[code, b"more"].concat());
        repelled(&proxy, "bad packet header: '0000000c'", |wire| wire.send(packet));
    }

    let without = Proxy::start();
    repelled(&without, "too many encryption requests", |wire| {
        (0..2).for_each(|_| answered(wire, SSL_REQUEST, b'N'));
        wire.send(SSL_REQUEST);
    });
    repelled(&without, "TLS is not enabled (client_tls_sslmode)", |wire| wire.send(client_hello()));
}

/// What is done to a session behind its client's back, or by a client that wears it out.
type Deed = fn(&mut ClientConnection, &mut TcpStream);

const DEEDS: [Deed; 3] = [
    |_, socket| {
        let _ = socket.write_all(Script::new().query("CREATE TABLE slipped_in()").as_ref());
    },
    |tls, socket| {
        let mut record = Vec::new();
        tls.writer().write_all(Script::new().query("CREATE TABLE slipped_in()").as_ref()).unwrap();
        tls.write_tls(&mut record).unwrap();
        *record.last_mut().unwrap() ^= 1;
        let _ = socket.write_all(&record);
    },
    |tls, socket| {
        for _ in 0..100 {
            tls.refresh_traffic_keys().unwrap();
            let _ = tls.write_tls(socket);
        }
    },
];

#[test]
fn what_is_slipped_into_an_encrypted_session_ends_it() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = encrypting("require").start();
    for (deed, logged_in) in DEEDS.into_iter().flat_map(|deed| [(deed, false), (deed, true)]) {
        let mut wire = Wire::tcp(proxy.port);
        let whence = wire.socket().local_addr().unwrap().as_socket().unwrap().to_string();
        wire.send(SSL_REQUEST);
        assert_eq!(wire.byte(), b'S');
        let (mut tls, mut socket) = connect(wire);
        if logged_in {
            let mut stream = rustls::Stream::new(&mut tls, &mut socket);
            stream.write_all(&proxy.login().startup()).unwrap();
            let mut greeting = Vec::new();
            while !greeting.ends_with(b"Z\0\0\0\x05I") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                greeting.push(byte[0]);
            }
        }

        deed(&mut tls, &mut socket);

        let _ = socket.read_to_end(&mut Vec::new());
        // What comes with the last of the handshake is counted to it.
        let said = if logged_in { "TLS error: " } else { "TLS " };
        proxy.until_log(&format!("@{whence} pooler error: {said}"));
        assert_eq!(lines_of(&proxy, &format!("@{whence} pooler error: ")), 1);
    }
    assert_eq!(Postgres::shared().admin().value("SELECT to_regclass('slipped_in') IS NULL"), "t");
    let (_tunnel, mut client) = tunnelled(&proxy, &STARTTLS);
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_handshake_that_is_meant_for_another_protocol_fails() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = encrypting("require").start();
    for (arguments, said) in [
        (&["-alpn", "http/1.1"][..], "ALPN must be \"postgresql\""),
        (&["-alpn", "http/1.1", STARTTLS[0], STARTTLS[1]], "ALPN must be \"postgresql\""),
        (&[], "received direct SSL connection request without ALPN protocol negotiation extension"),
    ] {
        let before = lines_of(&proxy, " pooler error: ");
        let (_tunnel, wire) = Tunnel::open(proxy.port, arguments);
        assert!(proxy.login().over(wire).is_err());
        until_lines(&proxy, " pooler error: ", before + 1);
        let log = proxy.log();
        let last = log.lines().rfind(|line| line.contains(" pooler error: ")).unwrap();
        assert!(last.contains(said), "{last}");
    }
    assert_eq!(Postgres::shared().backends(&proxy.role), 0);
}

#[test]
fn who_does_without_tls_where_it_is_required_gets_no_further() {
    let proxy = encrypting("require").start();
    let console = proxy.login().user("admin").database("pgbouncer").password("admin-secret").startup();

    for startup in [proxy.login().startup(), console] {
        for refused_before in [false, true] {
            let told = repelled(&proxy, "SSL required", |wire| {
                if refused_before {
                    wire.send(GSSENC_REQUEST);
                    assert_eq!(wire.byte(), b'N');
                }
                wire.send(&startup);
            });
            let expected = if support::proxy::is_pgbouncer() { "08P01" } else { "28000" };
            assert_eq!(told[0].fields()[&'C'], expected);
        }
    }
    assert_eq!(Postgres::shared().backends(&proxy.role), 0);
}

#[test]
fn a_key_to_cancel_may_travel_inside_tls() {
    let proxy = encrypting("require").start();
    let (_tunnel, mut client) = tunnelled(&proxy, &STARTTLS);
    client.send(Script::new().query("SELECT pg_sleep(60)"));
    Postgres::shared().until_sleeping(&proxy.role, 1);

    let (_other, mut wire) = Tunnel::open(proxy.port, &STARTTLS);
    wire.send(cancel_packet(&client));
    assert!(wire.until_end().is_empty());

    assert_eq!(client.reply().error().unwrap()[&'C'], "57014");
}

/// What a false server that lets everybody in says.
fn welcome() -> Script {
    let greeting = Script::new().message(b'R', &[0; 4]).message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]);
    greeting.message(b'S', b"server_version\x0015.0\0").message(b'Z', b"I")
}

#[test]
fn nothing_a_false_server_says_before_tls_is_heard() {
    if support::beyond_pgbouncer() {
        return;
    }
    let lie = Script::new().message(b'E', b"SFATAL\0C28P01\0Mgo to evil.example\0\0");
    let eager = "received unencrypted data after SSL response";
    for (sslmode, answer, next, logged) in [
        ("prefer", [b"S", welcome().as_ref()].concat(), Script::new(), eager),
        ("require", [b"S", welcome().as_ref()].concat(), Script::new(), eager),
        ("prefer", [b"N", welcome().as_ref()].concat(), Script::new(), eager),
        ("require", b"S".to_vec(), welcome(), "TLS handshake error: handshake failed: "),
        // Servers without TLS may answer so; whoever stands between could put words into the server's mouth.
        ("require", lie.as_ref().to_vec(), Script::new(), "bad sslreq answer"),
        ("prefer", lie.as_ref().to_vec(), Script::new(), "bad sslreq answer"),
        ("require", b"N".to_vec(), Script::new(), "server refused SSL"),
    ] {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = heard.clone();
        let server = FakeServer::start(move |mut wire| {
            wire.packet();
            wire.send(&answer);
            if !next.as_ref().is_empty() {
                assert_eq!(wire.byte(), 0x16, "a handshake");
                wire.send(&next);
            }
            hears.lock().unwrap().extend(wire.rest());
        });
        let setup = Setup::new().through(server.port).set("server_tls_sslmode", sslmode);
        let proxy = setup.set("query_wait_timeout", 1).set("server_login_retry", 60).start();

        let refusal = proxy.login().attempt().err().expect("nobody gets in");

        assert!(!refusal.message().contains("evil") && refusal.code().len() == 5, "{refusal:?}");
        proxy.until_log(logged);
        let log = proxy.log();
        assert!(!log.contains("evil"), "{log}");
        let attempts: Vec<&str> = log.lines().filter(|line| line.contains(" server login failed: ")).collect();
        assert!(attempts.len() == 1 && attempts[0].contains(logged), "{sslmode}, {logged}: {log}");
        let heard = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
        assert!(!heard.contains(&proxy.role), "no user is named in clear: {heard}");
    }
}
