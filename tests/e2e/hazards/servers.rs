//! False servers: whoever answers in PostgreSQL's place learns no password and puts no words into its mouth, and the
//! log says what gave it away.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use postgres_protocol::password::{md5, scram_sha_256};

use super::{until_lines, whole_errors};
use crate::support::gate::FakeServer;
use crate::support::tls::{Authority, Tunnel, serve};
use crate::support::{self, Message, Postgres, Proxy, Script, Setup, Wire};
use crate::tls::STARTTLS;

const SASL: &[u8] = b"\0\0\0\x0a";
const CONTINUE: &[u8] = b"\0\0\0\x0b";
const FINAL: &[u8] = b"\0\0\0\x0c";
const OK: &[u8] = b"\0\0\0\0";

/// How far memory may grow for one false server.
const GROWTH_MAX_KIB: i64 = 6 * 1024;

fn asks(wire: &mut Wire, code: &[u8], payload: &[u8]) {
    wire.send(Script::new().message(b'R', &[code, payload].concat()));
}

/// Asks for SCRAM; the pooler's nonce.
fn offers_scram(wire: &mut Wire) -> String {
    asks(wire, SASL, b"SCRAM-SHA-256\0\0");
    let first = String::from_utf8(wire.expect(b'p').body).unwrap();
    first.rsplit("r=").next().unwrap().to_owned()
}

fn challenges(wire: &mut Wire, rest: &str) {
    let nonce = offers_scram(wire);
    asks(wire, CONTINUE, format!("r={nonce}{rest}").as_bytes());
}

/// Takes the pooler's proof without a look at it.
fn takes_any_proof(wire: &mut Wire) {
    challenges(wire, "theirs,s=c2FsdA==,i=1");
    wire.expect(b'p');
}

type Deceit = (&'static str, fn(&mut Wire), &'static str);

/// What false servers do, and what gives them away. The pooler knows the user's password.
const DECEITS: [Deceit; 16] = [
    (
        "lets us in before any proof",
        |wire| {
            offers_scram(wire);
            asks(wire, OK, b"");
        },
        "failed to verify server signature",
    ),
    (
        "lets us in without its own proof",
        |wire| {
            takes_any_proof(wire);
            asks(wire, OK, b"");
        },
        "failed to verify server signature",
    ),
    (
        "signs with another secret",
        |wire| {
            takes_any_proof(wire);
            asks(wire, FINAL, format!("v={}", BASE64.encode([7; 32])).as_bytes());
        },
        "invalid server signature",
    ),
    (
        "signs with nothing",
        |wire| {
            takes_any_proof(wire);
            asks(wire, FINAL, b"v=");
        },
        "a SCRAM proof or signature is not 32 bytes of base64",
    ),
    (
        "reports an error in place of a proof",
        |wire| {
            takes_any_proof(wire);
            asks(wire, FINAL, b"e=other-error");
        },
        "the server reports an error in the SCRAM exchange",
    ),
    (
        "asks for a second proof",
        |wire| {
            takes_any_proof(wire);
            asks(wire, CONTINUE, b"r=abc,s=c2FsdA==,i=1");
        },
        "an authentication request out of turn",
    ),
    (
        "begins anew",
        |wire| {
            offers_scram(wire);
            offers_scram(wire);
        },
        "an authentication request out of turn",
    ),
    (
        "has a nonce of its own",
        |wire| {
            offers_scram(wire);
            asks(wire, CONTINUE, b"r=abcdefgh,s=c2FsdA==,i=1");
        },
        "the server's nonce does not begin with ours",
    ),
    (
        "cuts our nonce short",
        |wire| {
            let nonce = offers_scram(wire);
            asks(wire, CONTINUE, format!("r={},s=c2FsdA==,i=1", &nonce[..nonce.len() - 1]).as_bytes());
        },
        "the server's nonce does not begin with ours",
    ),
    // CVE-2026-6665: it overflowed the buffer for the final message.
    (
        "has a nonce of 60 KB",
        |wire| challenges(wire, &format!("{},s=c2FsdA==,i=1", "x".repeat(60_000))),
        "the server's nonce is too long or not printable",
    ),
    (
        "has a message of a megabyte",
        |wire| challenges(wire, &format!("{},s=c2FsdA==,i=1", "x".repeat(1_000_000))),
        "an authentication request without a code",
    ),
    (
        "has a salt of 40 KB",
        |wire| challenges(wire, &format!(",s={},i=1", "c2Fs".repeat(10_000))),
        "the server's salt is empty or too long",
    ),
    ("wants too many iterations", |wire| challenges(wire, ",s=c2FsdA==,i=1000001"), "and 1000000 are the most"),
    (
        "wants no iterations",
        |wire| challenges(wire, ",s=c2FsdA==,i=0"),
        "the server's number of iterations is not a number from 1 to 1000000",
    ),
    (
        "has a weaker mechanism only",
        |wire| asks(wire, SASL, b"SCRAM-SHA-1\0\0"),
        "none of the server's SASL authentication mechanisms are supported",
    ),
    (
        "asks for a method nobody has",
        |wire| asks(wire, b"\0\0\0\x07", b""),
        "the server asks for authentication method 7, which is not supported",
    ),
];

/// A pooler before a server that does this after the start-up packet; with this secret for its role, and without TLS.
fn before(secret: &str, play: impl Fn(&mut Wire) + Clone + Send + 'static) -> (Proxy, FakeServer) {
    let server = FakeServer::start(move |mut wire| {
        wire.packet();
        play(&mut wire);
        wire.rest();
    });
    let setup = Setup::new().through(server.port).set("server_tls_sslmode", "disable").set("server_login_retry", 60);
    let role = setup.role().to_owned();
    (setup.secret(&role, secret).start(), server)
}

/// The login is refused with these words, and one line of the log has them.
#[track_caller]
fn found_out(proxy: &Proxy, what: &str, said: &str) {
    let refusal = proxy.login().attempt().err().unwrap_or_else(|| panic!("{what}: somebody got in"));
    whole_errors(&refusal.seen);
    assert!(refusal.message().ends_with(said), "{what}: {refusal:?}");
    proxy.until_log(" WARNING server login failed: ");
    let log = proxy.log();
    let failures: Vec<&str> = log.lines().filter(|line| line.contains(" WARNING server login failed: ")).collect();
    assert!(failures.len() == 1 && failures[0].contains(said), "{what}: {log}");
    assert!(failures[0].contains(&format!(" user={}", proxy.role)), "{what}: {failures:?}");
}

#[test]
fn a_server_that_cheats_at_scram_is_found_out() {
    if support::beyond_pgbouncer() {
        return;
    }
    for (what, play, said) in DECEITS {
        let (proxy, _server) = before("secret", play);
        let (memory, cpu) = (proxy.data_kib(), proxy.cpu());

        found_out(&proxy, what, said);

        assert!(proxy.data_kib() - memory < GROWTH_MAX_KIB, "{what}");
        assert!((proxy.cpu() - cpu).as_secs() < 5, "{what}: {:?}", proxy.cpu() - cpu);
    }
}

#[test]
fn a_hash_is_no_answer_to_a_question_for_the_password() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (in_clear, hashed): (&[u8], &[u8]) = (b"\0\0\0\x03", b"\0\0\0\x05salt");
    let (scram, md5) = (scram_sha_256(b"secret"), md5(b"secret", "whoever"));
    for (question, secret) in [(in_clear, &scram), (hashed, &scram), (in_clear, &md5)] {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = heard.clone();
        let (proxy, _server) = before(secret, move |wire| {
            asks(wire, question, b"");
            hears.lock().unwrap().extend(wire.rest());
        });

        found_out(&proxy, "asks for less than SCRAM", "wrong password type");

        assert!(heard.lock().unwrap().is_empty());
    }
}

/// A pooler that asks for TLS of whoever answers, trusting any certificate, and has the password of its role.
fn to_tls(port: u16) -> Setup {
    let setup = Setup::new().through(port).set("server_tls_sslmode", "require").set("server_login_retry", 60);
    let role = setup.role().to_owned();
    setup.secret(&role, "secret")
}

#[test]
fn what_is_said_of_channel_binding_fits_the_offer() {
    if support::beyond_pgbouncer() {
        return;
    }
    for (offer, begins) in [
        ("SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0", "SCRAM-SHA-256-PLUS\0????p=tls-server-end-point,,n=,r="),
        ("SCRAM-SHA-256-PLUS\0\0", "SCRAM-SHA-256-PLUS\0????p=tls-server-end-point,,n=,r="),
        // A server that has it, and from whose offer somebody has taken it, notices by the y.
        ("SCRAM-SHA-256\0\0", "SCRAM-SHA-256\0????y,,n=,r="),
    ] {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = heard.clone();
        let server = FakeServer::start(move |mut wire| {
            wire.packet();
            wire.send(b"S");
            let mut wire = serve(wire, &Authority::other().server);
            wire.packet();
            asks(&mut wire, SASL, offer.as_bytes());
            hears.lock().unwrap().extend(wire.expect(b'p').body);
            asks(&mut wire, OK, b"");
            wire.rest();
        });
        let proxy = to_tls(server.port).start();

        found_out(&proxy, offer, "failed to verify server signature");

        let mut heard = heard.lock().unwrap().clone();
        let length = heard.iter().position(|byte| *byte == 0).unwrap() + 1;
        heard[length..length + 4].fill(b'?');
        let heard = String::from_utf8(heard).unwrap();
        assert!(heard.starts_with(begins), "{offer}: {heard}");
    }
}

/// Copies bytes until either end is gone.
fn copy(from: &UnixStream, to: &UnixStream) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    let mut chunk = [0; 4096];
    while let Ok(got @ 1..) = from.read(&mut chunk) {
        if to.write_all(&chunk[..got]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// Stands between pooler and PostgreSQL with a TLS connection to each, and passes on what it reads, with this change.
fn in_between(mut near: Wire, change: fn(Message) -> Message) {
    near.packet();
    near.send(b"S");
    let mut near = serve(near, &Authority::other().server);
    let startup = near.packet();
    let (_tunnel, mut far) = Tunnel::open(Postgres::encrypted().port, &STARTTLS);
    far.send(Script::untagged(&startup));
    let ends = [&near, &far].map(|wire| UnixStream::from(wire.socket().try_clone().unwrap()));
    thread::spawn(move || copy(&ends[0], &ends[1]));
    while let Some(message) = far.next().map(change) {
        near.send(Script::new().message(message.tag, &message.body));
    }
    let _ = near.socket().shutdown(Shutdown::Both);
}

#[test]
fn who_stands_between_pooler_and_server_cannot_pass_a_login_on() {
    if support::beyond_pgbouncer() {
        return;
    }
    let as_it_is: fn(Message) -> Message = |message| message;
    let without_binding: fn(Message) -> Message = |message| match message.tag {
        b'R' if message.body.starts_with(SASL) => Message { tag: b'R', body: [SASL, b"SCRAM-SHA-256\0\0"].concat() },
        _ => message,
    };
    for (change, said) in [(as_it_is, "SCRAM channel binding check failed"), (without_binding, "negotiation error")] {
        let server = FakeServer::start(move |wire| in_between(wire, change));
        let proxy = to_tls(server.port).start();
        let mut admin = Postgres::encrypted().admin();
        let role = &proxy.role;
        admin.ok(&format!("CREATE ROLE {role} LOGIN PASSWORD 'secret'; GRANT by_scram TO {role}"));

        let refusal = proxy.login().attempt().err().expect("nobody gets in");

        assert!(refusal.message().contains(said), "{refusal:?}");
        let line = format!("server login failed: FATAL {}", refusal.message());
        until_lines(&proxy, &line, 1);
    }
}

/// An error as old poolers and what only looks like a server send it: without SQLSTATE (CVE-2026-6666).
fn bare_error() -> Script {
    Script::new().message(b'E', b"SFATAL\0Mno code here\0\0")
}

/// Lets everybody in, and answers every query with an error that has no SQLSTATE.
fn answers_without_sqlstate(wire: &mut Wire) {
    let greeting = Script::new().message(b'R', OK).message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]);
    let greeting = greeting.message(b'S', b"server_version\x0015.0\0").message(b'S', b"TimeZone\0Asia/Tokyo\0");
    wire.send(greeting.message(b'Z', b"I"));
    while let Some(message) = wire.next() {
        if matches!(message.tag, b'Q' | b'S') {
            wire.send([bare_error().as_ref(), Script::new().message(b'Z', b"I").as_ref()].concat());
        }
    }
}

#[test]
fn an_error_without_sqlstate_is_understood_wherever_it_comes() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (proxy, server) = before("", answers_without_sqlstate);

    // To a query it is the client's to understand.
    assert_eq!(proxy.client().query("SELECT 1").error_message(), "no code here");
    // To the SETs for a client.
    let refusal = proxy.login().parameter("timezone", "UTC").client().query("SELECT 1").error().unwrap();
    assert_eq!((refusal[&'C'].as_str(), refusal[&'M'].as_str()), ("22023", "no code here"));

    let setup = || Setup::new().through(server.port).set("server_tls_sslmode", "disable");
    // To connect_query.
    let proxy = setup().database("app", "connect_query='SELECT 1'").start();
    let _ = proxy.client();
    proxy.until_log("connect_query failed");
    // To auth_query.
    let proxy = setup().set("auth_type", "md5").set("auth_user", "guard").start();
    let refusal = proxy.login().user("whoever").attempt().err().expect("a refusal");
    whole_errors(&refusal.seen);
    assert_eq!(refusal.message(), "bouncer config error");
    proxy.until_log("S: error in auth_query: FATAL no code here");
    // To server_reset_query.
    let proxy = setup().set("pool_mode", "session").set("server_reset_query", "DISCARD ALL").start();
    proxy.client().query("SELECT 1");
    proxy.until_log("reset query failed: ");
}
