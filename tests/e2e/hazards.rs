//! What has been published against PgBouncer and its like, tried here: nobody gets in, nothing is lost or told, memory
//! stays bounded.
//!
//! Plaintext before TLS stands in `hostile`, and with it all that broken messages can do.

use std::fs;
use std::io::{Read, Seek, SeekFrom};

use postgres_protocol::password::scram_sha_256;

use crate::support::script::sasl_initial;
use crate::support::{self, Message, Proxy, Script, Setup, Wire};

/// Every SHOW command that anybody may give.
const SHOWS: [&str; 22] = [
    "ACTIVE_SOCKETS",
    "CLIENTS",
    "CONFIG",
    "DATABASES",
    "DNS_HOSTS",
    "DNS_ZONES",
    "LISTS",
    "MEM",
    "PEERS",
    "PEER_POOLS",
    "POOLS",
    "SERVERS",
    "SOCKETS",
    "STATE",
    "STATS",
    "STATS_AVERAGES",
    "STATS_TOTALS",
    "TOTALS",
    "USERS",
    "VERSION",
    "HELP",
    "FDS",
];

#[test]
fn no_secret_is_logged_or_shown() {
    let stored = scram_sha_256(b"of-carol-w8rT");
    let setup = Setup::new()
        .set("auth_type", "plain")
        .set("verbose", 3)
        .set("auth_ldap_options", "ldapurl=\"ldap://x\" ldapbindpasswd=of-ldap-k2Lm")
        .secret("alice", "of-alice-q7Zx")
        .secret("carol", &stored)
        .database("other", "user=alice password=of-server-h5Gn");
    let proxy = setup.start();
    let secrets = ["of-alice-q7Zx", "of-carol-w8rT", "of-server-h5Gn", "of-ldap-k2Lm", "guessed-p9Vb", "admin-secret"];
    let scram = &stored[stored.len() - 40..];

    let login = |user: &str, password: &str| proxy.login().user(user).password(password);
    let _alice = login("alice", "of-alice-q7Zx").attempt();
    let _carol = login("carol", "of-carol-w8rT").attempt();
    let _other = login("alice", "of-alice-q7Zx").database("other").attempt();
    assert!(login("alice", "guessed-p9Vb").attempt().is_err());
    let mut console = proxy.login().user("admin").database("pgbouncer").password("admin-secret").client();
    let mut told = String::new();
    for show in SHOWS {
        let reply = console.query(&format!("SHOW {show}"));
        told.push_str(&format!("{:?} {:?} {:?}\n", reply.rows(), reply.error(), console.notices));
    }
    told.push_str(&proxy.log());
    assert!(told.contains("user=carol") && told.contains("auth_ldap_options"), "it looks in the right place:\n{told}");

    for secret in secrets.into_iter().chain([scram]) {
        assert!(!told.contains(secret), "{secret} in:\n{told}");
    }
}

/// Does the process's memory hold this text?
fn remembers(proxy: &Proxy, text: &[u8]) -> bool {
    let pid = proxy.pid().as_raw_nonzero();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rw"))).any(|line| {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|end| u64::from_str_radix(end, 16).unwrap());
        let mut bytes = Vec::new();
        // A mapping that has gone meanwhile holds nothing any more.
        let read = memory.seek(SeekFrom::Start(from)).and_then(|_| (&memory).take(to - from).read_to_end(&mut bytes));
        let _ = read;
        bytes.windows(text.len()).any(|window| window == text)
    })
}

#[test]
fn a_password_that_was_refused_leaves_the_memory() {
    if support::beyond_pgbouncer() {
        return;
    }
    let setup = Setup::new().set("auth_type", "plain");
    let role = setup.role().to_owned();
    let proxy = setup.secret(&role, "right-one-x4Tz").start();
    let mut waiting = Wire::tcp(proxy.port);
    waiting.send(proxy.login().startup());
    waiting.expect(b'R');
    // All of the message but its end: it must lie in memory until that comes.
    let message = Script::new().message(b'p', b"mistyped-m3Qd\0");
    let (most, end) = message.as_ref().split_at(message.as_ref().len() - 1);
    waiting.send(most);
    support::eventually("what was sent so far is in memory", || remembers(&proxy, b"mistyped-m3Qd").then_some(()));

    waiting.send(end);
    waiting.until_end();

    assert!(!remembers(&proxy, b"mistyped-m3Qd"));
}

#[test]
fn a_statistician_and_a_stranger_command_nothing() {
    let proxy = Proxy::start();
    let client = proxy.client();
    let mut statistician = proxy.login().user("stats").database("pgbouncer").client();
    let id = proxy.show("CLIENTS").cell(&[("user", &proxy.role)], "id");

    for command in [
        "KILL app",
        "PAUSE",
        "DISABLE app",
        "RELOAD",
        "RECONNECT",
        "SUSPEND",
        "SHUTDOWN",
        "WAIT_CLOSE",
        "SET auth_type = 'any'",
        "SHOW FDS",
        &format!("KILL_CLIENT {id}"),
    ] {
        let reply = statistician.query(command);
        assert!(!reply.error_message().is_empty(), "{command}: {reply:?}");
    }

    assert!(proxy.login().database("pgbouncer").attempt().is_err(), "an application's user has no console");
    let mut client = client;
    assert_eq!(client.value("SELECT 1"), "1");
}

/// The pooler's answer to this first SCRAM message, and its nonce.
fn challenge(proxy: &Proxy, first: &[u8]) -> (Wire, Option<Message>) {
    let mut wire = Wire::tcp(proxy.port);
    wire.send(proxy.login().startup());
    wire.expect(b'R');
    wire.send(sasl_initial("SCRAM-SHA-256", first));
    let answer = wire.next();
    (wire, answer)
}

#[test]
fn scram_takes_no_liberties() {
    let setup = Setup::new().set("auth_type", "scram-sha-256");
    let role = setup.role().to_owned();
    let proxy = setup.secret(&role, "secret").start();
    let before = proxy.rss_kib();

    let oversized = ["n,,n=,r=".to_owned() + &"x".repeat(60_000), "n,,n=".to_owned() + &"u".repeat(60_000) + ",r=abc"];
    for first in &oversized {
        let (mut wire, _) = challenge(&proxy, first.as_bytes());
        wire.send(Script::new().message(b'p', b"c=biws,r=abc,p=AAAA"));
        assert!(wire.until_end().iter().all(|message| message.tag == b'E'), "nobody gets in");
    }
    for first in ["", "n,,", "n,,r=abc", "p=tls-server-end-point,,n=,r=abc", "n,,m=x,n=,r=abc", "n,,n=,r="] {
        let (mut wire, answer) = challenge(&proxy, first.as_bytes());
        let refused = answer.is_none_or(|message| message.tag == b'E');
        let nothing_else = refused || {
            wire.send(Script::new().message(b'p', b"c=biws,r=abc,p=AAAA"));
            wire.until_end().iter().all(|message| message.tag == b'E')
        };
        assert!(nothing_else, "{first}");
    }
    // The nonce of one exchange is good for that one alone, and must come back whole.
    let (_, Some(other)) = challenge(&proxy, b"n,,n=,r=abc") else { panic!("a challenge") };
    let other = String::from_utf8_lossy(&other.body[4..]).into_owned();
    let nonce = other.split(',').next().unwrap().strip_prefix("r=").unwrap().to_owned();
    let proof = "A".repeat(43) + "=";
    for claimed in [nonce.as_str(), "abc", ""] {
        let (mut wire, _) = challenge(&proxy, b"n,,n=,r=abc");
        wire.send(Script::new().message(b'p', format!("c=biws,r={claimed},p={proof}").as_bytes()));
        assert!(wire.until_end().iter().all(|message| message.tag == b'E'), "{claimed}");
    }

    assert!(proxy.rss_kib() - before < 6 * 1024, "{before} to {} KiB", proxy.rss_kib());
    assert_eq!(proxy.login().password("secret").client().value("SELECT 1"), "1");
}

#[test]
fn connections_that_say_nothing_cost_little_and_go_away() {
    let proxy = Setup::new().set("client_login_timeout", 2).set("max_client_conn", 5).start();
    let before = proxy.rss_kib();
    let startup = proxy.login().startup();

    // Mute ones and slow ones take none of the five places.
    let mut crowd: Vec<Wire> = (0..200).map(|_| Wire::tcp(proxy.port)).collect();
    for (number, wire) in crowd.iter_mut().enumerate() {
        wire.send(&startup[..number % startup.len()]);
    }

    assert_eq!(proxy.client().value("SELECT 1"), "1");
    let grown = proxy.rss_kib() - before;
    assert!(grown < 200 * 40, "{grown} KiB for 200 connections");
    for wire in &mut crowd {
        let told = wire.until_end();
        assert!(told.iter().all(|message| message.tag == b'E'), "{told:?}");
    }
}
