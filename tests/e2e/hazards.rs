//! What has been published against PgBouncer and its like, tried here: nobody gets in, nothing is lost or told, memory
//! stays bounded, and one line of the log names who was sent away and for what.
//!
//! | published | what it was | tried by |
//! |---|---|---|
//! | CVE-2012-4575 | a long database name ends PgBouncer | `a_name_of_any_length_or_shape_is_only_a_name` |
//! | CVE-2015-4054 | so does a password before the startup packet | `what_comes_out_of_turn_is_refused` |
//! | CVE-2015-6817 | unknown users become `auth_user` | `an_unknown_user_never_becomes_auth_user` |
//! | CVE-2021-3935, -23214, -43766 | plaintext before a client's TLS is taken for its own | `encryption` |
//! | CVE-2021-23222, -43767, 2024-10977 | so is a false server's before a server's TLS | `encryption` |
//! | CVE-2024-27304 | where a length wraps, a value is taken for messages | `lengths_that_wrap_smuggle_nothing` |
//! | CVE-2025-2291 | `auth_query` lets expired passwords in | `a_password_past_its_time_is_no_password` |
//! | CVE-2025-12819 | a search_path answers `auth_query` | `a_search_path_does_not_answer_auth_query` |
//! | CVE-2026-6664 | a length in a SCRAM message ends PgBouncer | `lengths_in_scram_messages_are_looked_at` |
//! | CVE-2026-6665 | a server's long nonce overflows its stack | `servers` |
//! | CVE-2026-6666 | an error without SQLSTATE ends it | `servers`, `sqlstates`, `hostile` |
//! | CVE-2026-6667 | everybody on the console may KILL_CLIENT | `a_statistician_and_a_stranger_command_nothing` |
//! | fixed without a number | long passwords end PgBouncer | `long_passwords_are_right_or_wrong` |
//! | | names with line ends forge lines of a log | `no_line_of_the_log_is_forged` |
//! | | secrets are logged, shown, left in memory | `no_secret_is_…`, `a_password_that_was_refused_…` |
//! | | SCRAM: old nonces, missing fields | `scram_takes_no_liberties` |
//! | | channel binding talked out of, another's channel | `scram_is_bound_to_its_own_channel`, `servers`, `tls` |
//! | | a server that need not prove itself | `servers` |
//! | | slow logins, half-open floods, endless handshakes | `floods` |
//! | reported | a listed authority's certificates for something else, authorities that may not sign | `certificates` |
//! | | storms of logins, made-up databases, passwords of the console guessed without limit | `limits`, `floods` |
//! | reported | SCRAM iterations without a bound, logins that leave their work behind | `derivations`, `servers` |
//! | | one address or name that keeps all others from logging in | `derivations` |
//! | reported | user names that name another's entry of a directory, or write a filter | `ldap` |
//! | | TLS that was meant for another protocol | `encryption`, `tls` |
//! | reported | an encoding left behind misreads or breaks the next client's parameters | `session_state` |
//! | | a value in such an encoding, or a very long one, stays with the next client | `session_state`, `hostile` |
//! | | a client changes what others are told at their login | `greeting` |
//! | reported | after a failover, logins hear of the old server for ever | `greeting` |
//! | | bytes slipped into an encrypted session, new keys without end | `encryption` |
//! | | a COPY that fails before it has read the Sync behind it: strangers are answered | `answers`,
//! `protocol::exchange`
//! |
//! | | a Query inside a batch without Sync keeps a server, or its answer is lost | `answers` |
//! | | messages that end a server's session, or that it answers unasked (Flush with a body) | `answers` |
//! | | SQL that drops or replaces the pooler's prepared statements | `answers` |
//! | | DISCARD ALL with a Parse behind it: a stranger meets "already exists" | `answers` |
//!
//! What does not apply:
//!
//! - CVE-2024-1597 (pgjdbc) and the like in drivers: they write values into the text of queries. The pooler does so in
//!   the SETs for parameters alone, which `session_state` tries.
//! - CVE-2025-49146 (pgjdbc: channel binding was required and not insisted on): nothing requires it here, it is used
//!   wherever a server offers it. `server_tls_sslmode=verify-full` is the way to be sure of a server. To one that asks
//!   for a password in clear, a password known in clear is sent, as by libpq and PgBouncer.
//! - CVE-2023-22332, CVE-2024-45624, CVE-2025-46801 (Pgpool-II): its SHOW commands tell passwords, it caches results,
//!   it asks servers who may log in. The first is looked for in `no_secret_is_logged_or_shown`, the others are not done
//!   here.
//! - Renegotiation, compression and early data of TLS: none is ever agreed on.

use std::fs;
use std::io::{Read, Seek, SeekFrom};

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use postgres_protocol::password::{md5, scram_sha_256};
use sha2::{Digest, Sha256};

use crate::support::script::sasl_initial;
use crate::support::tls::{Authority, Tunnel};
use crate::support::{self, Login, Message, Postgres, Proxy, Script, Setup, Wire};
use crate::tls::{STARTTLS, encrypting};

mod certificates;
mod derivations;
mod encryption;
mod floods;
mod servers;

/// Each is an ErrorResponse that ends a connection, with an SQLSTATE and a text.
#[track_caller]
fn whole_errors(told: &[Message]) {
    for message in told.iter().filter(|message| message.tag == b'E') {
        let fields = message.fields();
        assert_eq!(fields.get(&'S').map(String::as_str), Some("FATAL"), "{message:?}");
        assert_eq!(fields.get(&'V').map_or("FATAL", String::as_str), "FATAL", "{message:?}");
        let sqlstate = fields.get(&'C').map_or("", String::as_str);
        assert!(sqlstate.len() == 5 && sqlstate.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{message:?}");
        assert!(!fields.get(&'M').is_none_or(String::is_empty), "{message:?}");
    }
}

/// How many lines of the log have this in them.
fn lines_of(proxy: &Proxy, text: &str) -> usize {
    proxy.log().lines().filter(|line| line.contains(text)).count()
}

/// Waits until so many lines of the log have this in them.
#[track_caller]
fn until_lines(proxy: &Proxy, text: &str, count: usize) {
    let what = format!("{count} lines of the log say {text:?}");
    support::eventually(&what, || (lines_of(proxy, text) == count).then_some(()));
}

/// Lets a visitor attack and sees it sent away: told nothing but errors with all they must have, and in one line of the
/// log, which names its address and what was refused. What it was told, as far as it is in clear.
#[track_caller]
fn repelled(proxy: &Proxy, said: &str, attack: impl FnOnce(&mut Wire)) -> Vec<Message> {
    let mut wire = Wire::tcp(proxy.port);
    let whence = wire.socket().local_addr().unwrap().as_socket().unwrap().to_string();
    attack(&mut wire);
    let told = in_clear(&wire.rest());
    assert!(told.iter().all(|message| message.tag == b'E'), "{said}: {told:?}");
    whole_errors(&told);
    let about = format!("@{whence} pooler error: ");
    // A broken handshake is noted when its connection has gone.
    proxy.until_log(&about);
    let log = proxy.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(&about)).collect();
    assert!(lines.len() == 1 && lines[0].contains(said), "{said}: {lines:?}");
    assert!(lines[0].contains(" WARNING C-0x"), "{lines:?}");
    told
}

/// The messages at the start of these bytes, up to the first TLS record.
fn in_clear(mut bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Some((&[tag @ b' '..=b'~', a, b, c, d], rest)) = bytes.split_first_chunk::<5>() {
        let (body, rest) = rest.split_at(u32::from_be_bytes([a, b, c, d]) as usize - 4);
        messages.push(Message { tag, body: body.to_vec() });
        bytes = rest;
    }
    messages
}

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
    if support::beyond_pgbouncer() {
        return;
    }
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
    proxy.until_log("user=carol");
    told.push_str(&proxy.log());
    assert!(told.contains("user=carol") && told.contains("auth_ldap_options"), "it looks in the right place:\n{told}");

    for secret in secrets.into_iter().chain([scram]) {
        assert!(!told.contains(secret), "{secret} in:\n{told}");
    }
}

/// Does the process's memory hold this text?
pub(crate) fn remembers(proxy: &Proxy, text: &[u8]) -> bool {
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

    support::eventually("it is forgotten", || (!remembers(&proxy, b"mistyped-m3Qd")).then_some(()));
}

#[test]
fn a_statistician_and_a_stranger_command_nothing() {
    let proxy = Proxy::start();
    let client = proxy.client();
    let mut statistician = proxy.login().user("stats").database("pgbouncer").client();
    let clients = proxy.show("CLIENTS");
    let id = clients.cell(&[("user", &proxy.role)], if support::proxy::is_pgbouncer() { "ptr" } else { "id" });
    let said = " pooler error: admin access needed";

    for command in [
        "KILL app",
        "KILL",
        "PAUSE",
        "PAUSE app",
        "RESUME",
        "DISABLE app",
        "ENABLE app",
        "RELOAD",
        "RECONNECT",
        "SUSPEND",
        "SHUTDOWN",
        "SHUTDOWN WAIT_FOR_CLIENTS",
        "WAIT_CLOSE",
        "SET auth_type = 'any'",
        "SET admin_users = 'stats'",
        "SHOW FDS",
        &format!("KILL_CLIENT {id}"),
    ] {
        let before = lines_of(&proxy, said);
        let error = statistician.query(command).error().unwrap_or_else(|| panic!("{command} was carried out"));
        assert_eq!((error[&'M'].as_str(), error[&'C'].as_str()), ("admin access needed", "08P01"), "{command}");
        until_lines(&proxy, said, before + 1);
    }

    let application = proxy.login().database("pgbouncer").startup();
    repelled(&proxy, "not allowed", |wire| wire.send(application));
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
    let before = proxy.data_kib();

    let oversized = ["n,,n=,r=".to_owned() + &"x".repeat(60_000), "n,,n=".to_owned() + &"u".repeat(60_000) + ",r=abc"];
    for first in &oversized {
        let (mut wire, _) = challenge(&proxy, first.as_bytes());
        wire.send(Script::new().message(b'p', b"c=biws,r=abc,p=AAAA"));
        assert!(wire.until_end().iter().all(|message| message.tag == b'E'), "nobody gets in");
    }
    let malformed = ["", "n,,", "n,,r=abc", "p=tls-server-end-point,,n=,r=abc", "n,,m=x,n=,r=abc", "n,,n=,r="];
    for first in malformed {
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

    assert!(proxy.data_kib() - before < 6 * 1024, "{before} to {} KiB", proxy.data_kib());
    if !support::proxy::is_pgbouncer() {
        let attempts = oversized.len() + malformed.len() + 3;
        until_lines(&proxy, " pooler error: SASL authentication failed", attempts);
    }
    assert_eq!(proxy.login().password("secret").client().value("SELECT 1"), "1");
}

#[test]
fn connections_that_say_nothing_cost_little_and_go_away() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Setup::new().set("client_login_timeout", 600).set("max_client_conn", 5).start();
    let mut console = proxy.console();
    let before = proxy.data_kib();
    let startup = proxy.login().startup();

    // Mute ones and slow ones take none of the five places.
    let mut crowd: Vec<Wire> = (0..200).map(|_| Wire::tcp(proxy.port)).collect();
    for (number, wire) in crowd.iter_mut().enumerate() {
        wire.send(&startup[..number % startup.len()]);
    }

    assert_eq!(proxy.client().value("SELECT 1"), "1");
    let grown = proxy.data_kib() - before;
    assert!(grown < 200 * 40, "{grown} KiB for 200 connections");
    console.ok("SET client_login_timeout = 1");
    for wire in &mut crowd {
        let told = wire.until_end();
        assert!(told.iter().all(|message| message.tag == b'E'), "{told:?}");
    }
}

#[test]
fn lengths_in_scram_messages_are_looked_at() {
    if support::beyond_pgbouncer() {
        return;
    }
    let setup = Setup::new().set("auth_type", "scram-sha-256");
    let role = setup.role().to_owned();
    let proxy = setup.secret(&role, "secret").start();
    let startup = proxy.login().startup();
    let first = |claimed: u32, sent: &[u8]| {
        Script::new().message(b'p', &[b"SCRAM-SHA-256\0", &claimed.to_be_bytes()[..], sent].concat())
    };
    let whole: &[u8] = b"n,,n=,r=abcdefgh";
    let claims = [u32::MAX, 0x7fff_ffff, 0x8000_0000, 0x7fff_fff0, 17, 15, 0, u32::MAX - 3];
    let mut messages: Vec<Script> = claims.iter().map(|claimed| first(*claimed, whole)).collect();
    messages.extend([&b""[..], b"SCRAM-SHA-256", b"SCRAM-SHA-256\0", b"SCRAM-SHA-256\0\0\0"].map(|body| {
        let whole_but_for_length = Script::new();
        whole_but_for_length.message(b'p', body)
    }));
    for message in messages {
        repelled(&proxy, "SASL authentication failed", |wire| {
            wire.send(&startup);
            wire.expect(b'R');
            wire.send(message);
        });
    }

    let tried = lines_of(&proxy, "password authentication failed");
    for body in [&b"\0"[..], b"OAUTHBEARER\0\xff\xff\xff\xff"] {
        repelled(&proxy, "client selected an invalid SASL authentication mechanism", |wire| {
            wire.send(&startup);
            wire.expect(b'R');
            wire.send(Script::new().message(b'p', body));
        });
    }
    assert_eq!(lines_of(&proxy, "password authentication failed"), tried, "nobody tried one");

    // The lengths of messages themselves, before and within the exchange.
    for claimed in [0, 3, 70_000, 0x7fff_ffff, u32::MAX] {
        for opened in [false, true] {
            repelled(&proxy, "bad packet header: '70", |wire| {
                wire.send(&startup);
                wire.expect(b'R');
                if opened {
                    wire.send(sasl_initial("SCRAM-SHA-256", whole));
                    wire.expect(b'R');
                }
                wire.send([&b"p"[..], &u32::to_be_bytes(claimed), whole].concat());
            });
        }
    }
    assert_eq!(proxy.login().password("secret").client().value("SELECT 1"), "1");
}

#[test]
fn what_comes_out_of_turn_is_refused() {
    if support::beyond_pgbouncer() {
        return;
    }
    let setup = Setup::new().set("auth_type", "plain");
    let role = setup.role().to_owned();
    let proxy = setup.secret(&role, "secret").start();
    let startup = proxy.login().startup();
    let password = Script::new().message(b'p', b"secret\0");

    repelled(&proxy, "bad packet header: '70000000'", |wire| wire.send(&password));
    repelled(&proxy, "bad packet header: '51000000'", |wire| wire.send(Script::new().query("SELECT 1")));
    for (next, said) in [
        (Script::new().query("SELECT 1").as_ref(), "unknown pkt: 'Q'"),
        (&startup, "unknown pkt: '\\x00'"),
        (&[0, 0, 0, 8, 4, 210, 22, 47], "unknown pkt: '\\x00'"),
        (Script::new().message(b'R', &[0; 4]).as_ref(), "unknown pkt: 'R'"),
        (Script::new().sync().as_ref(), "unknown pkt: 'S'"),
        (Script::new().message(b'p', b"wrong\0secret\0").as_ref(), "password authentication failed"),
        (Script::new().message(b'p', b"secret").as_ref(), "password authentication failed"),
    ] {
        repelled(&proxy, said, |wire| {
            wire.send(&startup);
            wire.expect(b'R');
            wire.send(next);
        });
    }
    // The right password behind a wrong one does not help.
    let wrong = Script::new().message(b'p', b"wrong\0");
    repelled(&proxy, "password authentication failed", |wire| {
        wire.send(&startup);
        wire.expect(b'R');
        wire.send([wrong.as_ref(), password.as_ref()].concat());
    });
    assert_eq!(proxy.login().password("secret").client().value("SELECT 1"), "1");
}

/// Reads everybody's secret.
fn guard() -> String {
    let name = Postgres::shared().role();
    Postgres::shared().admin().ok(&format!("ALTER ROLE {name} SUPERUSER"));
    name
}

#[test]
fn an_unknown_user_never_becomes_auth_user() {
    let guard = guard();
    for auth_type in ["trust", "plain", "md5", "scram-sha-256"] {
        let proxy = Setup::new().set("auth_type", auth_type).set("auth_user", &guard).start();

        // Many at once, for each other's answers could be mixed up.
        std::thread::scope(|scope| {
            for number in 0..20 {
                let login = proxy.login().user(&format!("unknown_{number}")).password("");
                scope.spawn(move || {
                    let refusal = login.attempt().err().expect("nobody gets in");
                    assert_eq!(refusal.message(), "no such user", "{auth_type}");
                    whole_errors(&refusal.seen);
                });
            }
        });

        let clients = proxy.show("CLIENTS");
        assert!(clients.all(&[("user", &guard)]).is_empty(), "{auth_type}: {clients:?}");
        if support::proxy::is_pgbouncer() {
            continue;
        }
        until_lines(&proxy, " pooler error: no such user", 20);
        let log = proxy.log();
        for number in 0..20 {
            let whom = format!(": app/unknown_{number}@127.0.0.1:");
            let about = |line: &&str| line.contains(&whom) && line.contains(" pooler error: no such user");
            assert_eq!(log.lines().filter(about).count(), 1, "{auth_type}: {log}");
        }
    }
}

#[test]
fn a_password_past_its_time_is_no_password() {
    let guard = guard();
    let mut admin = Postgres::shared().admin();
    for (auth_type, secret) in [
        ("plain", scram_sha_256(b"secret")),
        ("md5", String::new()),
        ("md5", scram_sha_256(b"secret")),
        ("scram-sha-256", scram_sha_256(b"secret")),
    ] {
        let user = Postgres::shared().role();
        let secret = if secret.is_empty() { md5(b"secret", &user) } else { secret };
        admin.ok(&format!("ALTER ROLE {user} PASSWORD '{secret}' VALID UNTIL '2999-01-01'"));
        let proxy = Setup::new().set("auth_type", auth_type).set("auth_user", &guard).start();
        let login = proxy.login().user(&user).password("secret");
        // Whoever is in stays in, and what was found out of the password does not outlive it.
        let mut early = login.client();
        assert_eq!(early.value("SELECT current_user"), user);

        admin.ok(&format!("ALTER ROLE {user} VALID UNTIL '2001-01-01'"));

        let refusal = login.attempt().err().unwrap_or_else(|| panic!("{auth_type}: it is no longer valid"));
        whole_errors(&refusal.seen);
        let said = refusal.message();
        assert!(said.ends_with(" authentication failed"), "{auth_type}: {said}");
        until_lines(&proxy, &format!(" pooler error: {said}"), 1);
        assert_eq!(early.value("SELECT 1"), "1");
    }
}

#[test]
fn a_search_path_does_not_answer_auth_query() {
    let guard = guard();
    let mut admin = Postgres::shared().admin();
    // What the default auth_query calls, with the types it calls it for, and a trace of who did.
    admin.ok("CREATE SCHEMA evil; GRANT ALL ON SCHEMA evil TO PUBLIC; CREATE TABLE evil.trace(who text)");
    admin.ok("GRANT ALL ON evil.trace TO PUBLIC");
    admin.ok("CREATE FUNCTION evil.equal(name, text) RETURNS bool LANGUAGE plpgsql AS \
         'BEGIN INSERT INTO evil.trace VALUES (current_user); RETURN true; END'; \
         CREATE OPERATOR evil.= (FUNCTION = evil.equal, LEFTARG = name, RIGHTARG = text); \
         CREATE FUNCTION evil.equal(name, name) RETURNS bool LANGUAGE plpgsql AS \
         'BEGIN INSERT INTO evil.trace VALUES (current_user); RETURN true; END'; \
         CREATE OPERATOR evil.= (FUNCTION = evil.equal, LEFTARG = name, RIGHTARG = name); \
         CREATE TABLE evil.pg_authid AS SELECT 'victim'::name AS rolname, 'mine'::text AS rolpassword, \
         NULL::timestamptz AS rolvaliduntil, true AS rolcanlogin; GRANT ALL ON evil.pg_authid TO PUBLIC");
    let path = "evil, pg_catalog";
    // It would work, if anybody ran the query with that path.
    admin.ok(&format!("SET search_path = {path}"));
    let ask = "SELECT CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_authid WHERE rolname='x'";
    assert_eq!(admin.value(ask), "mine");
    admin.ok("RESET search_path");
    let user = Postgres::shared().role();
    admin.ok(&format!("ALTER ROLE {user} PASSWORD '{}'", scram_sha_256(b"secret")));
    let setup = Setup::new().set("auth_type", "plain").set("auth_user", &guard);
    let proxy = setup.set("track_extra_parameters", "search_path").start();
    let login = |user: &str, password: &str| proxy.login().user(user).password(password);
    let with_options = |login: Login| login.parameter("options", "-c search_path=evil,pg_catalog");

    for _ in 0..2 {
        for login in [login("victim", "mine"), login("nobody", "mine")] {
            for login in [login.clone().parameter("search_path", path), with_options(login)] {
                let refusal = login.attempt().err().expect("nobody gets in");
                assert_eq!(refusal.message(), "no such user");
                whole_errors(&refusal.seen);
            }
        }
        let mut client = login(&user, "secret").parameter("search_path", path).client();
        assert_eq!(client.value("SELECT current_user"), user);
    }

    assert_eq!(admin.value(&format!("SELECT count(*) FROM evil.trace WHERE who = '{guard}'")), "0");
    until_lines(&proxy, " pooler error: no such user", 8);
}

#[test]
fn a_name_of_any_length_or_shape_is_only_a_name() {
    let proxy = Setup::new().database("*", "").set("server_login_retry", 60).start();
    let before = proxy.data_kib();
    let names = [63, 64, 127, 128, 200, 1000, 5000, 9900].map(|length| "d".repeat(length));
    let shapes = ["../../etc/passwd", "a b=c host=evil", "%s%n%x", "'; DROP TABLE x; --", "\u{1b}[2J", "{}", "*"];

    for name in names.iter().map(String::as_str).chain(shapes) {
        for login in [proxy.login().database(name), proxy.login().user(name)] {
            let refusal = login.attempt().err().unwrap_or_else(|| panic!("there is no {name}"));
            whole_errors(&refusal.seen);
            assert!(!refusal.message().is_empty() || support::proxy::is_pgbouncer(), "{name}");
        }
    }

    assert_eq!(proxy.client().value("SELECT 1"), "1");
    assert!(proxy.data_kib() - before < 6 * 1024, "{before} to {} KiB", proxy.data_kib());
    assert!(!proxy.show("DATABASES").rows.is_empty());
}

#[test]
fn no_line_of_the_log_is_forged() {
    let proxy = Proxy::start();
    let forged = "2001-01-01 00:00:00.000 UTC [1] LOG forged";
    let bytes = "\u{7}\u{1b}[31m";
    for separator in ["\n", "\r\n", "\r", "\u{85}", "\u{2028}"] {
        let name = format!("x{separator}{forged}{bytes}");
        for login in [
            proxy.login().user(&name),
            proxy.login().database(&name),
            proxy.login().parameter(&name, "x"),
            proxy.login().parameter("options", &format!("-c {name}=x")),
            proxy.login().parameter("application_name", &name),
        ] {
            let _ = login.attempt();
        }
    }

    proxy.until_log("forged");
    let log = proxy.log();
    assert!(!log.lines().any(|line| line.starts_with("2001-")), "{log}");
    assert!(support::proxy::is_pgbouncer() || !log.contains(['\u{7}', '\u{1b}', '\r']), "{log:?}");
}

#[test]
fn long_passwords_are_right_or_wrong() {
    for length in [1023, 1024, 2000, 65_530] {
        let setup = Setup::new().set("auth_type", "plain");
        let role = setup.role().to_owned();
        let password = "x".repeat(length);
        if support::proxy::is_pgbouncer() && length > 2000 {
            continue;
        }
        let proxy = setup.secret(&role, &password).start();

        assert_eq!(proxy.login().password(&password).client().value("SELECT 1"), "1", "{length}");
        let startup = proxy.login().startup();
        repelled(&proxy, "password authentication failed", |wire| {
            wire.send(&startup);
            wire.expect(b'R');
            wire.send(Script::new().message(b'p', &[&password.as_bytes()[1..], b"y\0"].concat()));
        });
    }
}

#[test]
fn lengths_that_wrap_smuggle_nothing() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Proxy::start();
    let smuggled = Script::new().query("CREATE TABLE smuggled()");
    for tag in *b"QPBDECFdHSp" {
        for claimed in [0, 3, 0x8000_0000, 0xffff_fffc, u32::MAX] {
            let mut client = proxy.client();
            let whence = client.wire.socket().local_addr().unwrap().as_socket().unwrap().to_string();
            let header = [&[tag][..], &u32::to_be_bytes(claimed)].concat();
            client.send([&header, b"x\0x\0".as_slice(), smuggled.as_ref()].concat());

            let told = client.wire.until_end();
            whole_errors(&told);
            let hex: String = header.iter().map(|byte| format!("{byte:02x}")).collect();
            let said = format!("@{whence} pooler error: bad packet header: '{hex}'");
            until_lines(&proxy, &said, 1);
        }
    }
    assert_eq!(Postgres::shared().admin().value("SELECT to_regclass('smuggled') IS NULL"), "t");
    proxy.until_pool("sv_active", 0);
}

/// The mechanism a client chooses, and what it says of the channel it believes to have.
type Claim = (&'static str, ChannelBinding);

#[test]
fn scram_is_bound_to_its_own_channel() {
    if support::beyond_pgbouncer() {
        return;
    }
    let setup = encrypting("allow").set("auth_type", "scram-sha-256");
    let role = setup.role().to_owned();
    let proxy = setup.secret(&role, "secret").start();
    let certificate = |authority: &Authority| {
        use rustls::pki_types::pem::PemObject;
        let der = rustls::pki_types::CertificateDer::from_pem_file(&authority.server.certificate).unwrap();
        Sha256::digest(&der).to_vec()
    };
    let (ours, other) = (certificate(Authority::shared()), certificate(Authority::other()));
    let (plus, plain) = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256");
    let end_point = |hash: &[u8]| ChannelBinding::tls_server_end_point(hash.to_vec());
    let (no, wrong) = ("client selected an invalid SASL authentication mechanism", "SASL authentication failed");

    let claims: [(Claim, bool, &str); 8] = [
        ((plus, end_point(&ours)), true, ""),
        ((plain, ChannelBinding::unsupported()), true, ""),
        ((plus, end_point(&other)), true, wrong),
        ((plus, end_point(&ours[..16])), true, wrong),
        ((plus, ChannelBinding::unsupported()), true, wrong),
        ((plain, end_point(&ours)), true, wrong),
        ((plain, ChannelBinding::unrequested()), true, wrong),
        ((plus, end_point(&ours)), false, no),
    ];
    for ((mechanism, binding), encrypted, said) in claims {
        let before = lines_of(&proxy, " pooler error: ");
        let (_tunnel, mut wire) = match encrypted {
            true => {
                let (tunnel, wire) = Tunnel::open(proxy.port, &STARTTLS);
                (Some(tunnel), wire)
            }
            false => (None, Wire::tcp(proxy.port)),
        };
        let mut dialogue = ScramSha256::new(b"secret", binding);
        wire.send(proxy.login().startup());
        wire.expect(b'R');
        wire.send(sasl_initial(mechanism, dialogue.message()));
        let mut answer = wire.message();
        if answer.tag == b'R' {
            dialogue.update(&answer.body[4..]).unwrap();
            wire.send(Script::new().message(b'p', dialogue.message()));
            answer = wire.message();
        }
        assert_eq!(answer.tag == b'R', said.is_empty(), "{mechanism}, {said}: {answer:?}");
        if !said.is_empty() {
            whole_errors(std::slice::from_ref(&answer));
            assert_eq!(answer.fields()[&'M'], said, "{mechanism}");
            until_lines(&proxy, " pooler error: ", before + 1);
            assert!(lines_of(&proxy, &format!(" pooler error: {said}")) > 0, "{}", proxy.log());
        }
    }
}
