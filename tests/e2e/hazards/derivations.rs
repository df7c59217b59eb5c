//! Key derivations that strangers ask for: bounded, over with the login that wanted them, and shared so that no address
//! and no name keeps everybody else from logging in.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use postgres_protocol::password::scram_sha_256;
use socket2::{Domain, Socket, Type};

use crate::support::{self, Proxy, Script, Setup, Wire};

/// A stored secret of so many rounds that no password fits.
fn secret_of(iterations: u32) -> String {
    let [salt, key] = [BASE64.encode("salt"), BASE64.encode([7; 32])];
    format!("SCRAM-SHA-256${iterations}:{salt}${key}:{key}")
}

/// A pooler that takes passwords in clear text. Its role's secret costs 4096 rounds, that of `costly` as many as there
/// may be.
fn taking_passwords(more: impl FnOnce(Setup) -> Setup) -> Proxy {
    let setup = Setup::new().set("auth_type", "plain").set("max_client_conn", 1000).set("client_login_timeout", 0);
    let role = setup.role().to_owned();
    let setup = setup.secret(&role, &scram_sha_256(b"sesame")).secret("costly", &secret_of(1_000_000));
    more(setup).start()
}

/// Sends a password for this user, from 127.0.0.1 or another address.
fn claims(proxy: &Proxy, from: [u8; 4], user: &str, password: &str) -> Wire {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], proxy.port)).into()).unwrap();
    let mut wire = Wire::over(socket).unwrap();
    wire.send(proxy.login().user(user).startup());
    wire.expect(b'R');
    wire.send(Script::new().message(b'p', format!("{password}\0").as_bytes()));
    wire
}

#[test]
fn a_stored_secret_of_two_billion_rounds_is_refused_by_name_and_number() {
    if support::beyond_pgbouncer() {
        return;
    }
    for (auth_type, told) in [
        ("plain", "password authentication failed"),
        ("md5", "password authentication failed"),
        ("scram-sha-256", "SASL authentication failed"),
    ] {
        let setup = Setup::new().secret("absurd", &secret_of(2_147_483_647)).set("auth_type", auth_type);
        let proxy = setup.start();

        assert_eq!(proxy.login().user("absurd").password("sesame").refusal(), told);
        proxy.until_log("the SCRAM secret of user \"absurd\" has 2147483647 iterations, and 1000000 are the most");
    }
    let (status, log) = Setup::new().set("scram_iterations", 1_000_001).refused();
    assert!(!status.success() && log.contains("scram_iterations") && log.contains("1000000"), "{log}");
}

#[test]
fn passwords_of_those_who_have_left_are_not_checked() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = taking_passwords(|setup| setup.secret("slow", &secret_of(100_000)));

    for guess in 0..200 {
        drop(claims(&proxy, [127, 0, 0, 1], "slow", &format!("guess {guess}")));
    }

    // Under the same name, from the same address: nothing is left to wait for.
    let mut last = claims(&proxy, [127, 0, 0, 1], "slow", "the last guess");
    let told = last.until_end();
    assert_eq!(told.last().unwrap().fields()[&'M'], "password authentication failed");
}

#[test]
fn one_address_keeps_nobody_else_from_logging_in() {
    if support::beyond_pgbouncer() {
        return;
    }
    // A name that nobody has costs as many rounds.
    let proxy = taking_passwords(|setup| setup.set("scram_iterations", 1_000_000));
    let mut crowd: Vec<Wire> = (0..50)
        .map(|number| claims(&proxy, [127, 0, 0, 2], &format!("nobody{number}"), &format!("guess {number}")))
        .collect();

    let mut client = proxy.login().password("sesame").client();

    assert_eq!(client.value("SELECT 1"), "1");
    let waiting =
        crowd.iter_mut().filter_map(|wire| (!wire.stirs_within(Duration::from_millis(1))).then_some(())).count();
    assert!(waiting > 25, "{waiting} of 50 wait: were they done first?");
}

#[test]
fn one_name_keeps_nobody_else_from_logging_in() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = taking_passwords(|setup| setup);
    let mut crowd: Vec<Wire> =
        (0..50u8).map(|number| claims(&proxy, [127, 0, 1, number], "costly", &format!("guess {number}"))).collect();

    let mut client = proxy.login().password("sesame").client();

    assert_eq!(client.value("SELECT 1"), "1");
    let waiting =
        crowd.iter_mut().filter_map(|wire| (!wire.stirs_within(Duration::from_millis(1))).then_some(())).count();
    assert!(waiting > 25, "{waiting} of 50 wait: were they done first?");
}
