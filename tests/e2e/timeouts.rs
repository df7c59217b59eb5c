//! Everything that may not last for ever.
//!
//! A short time is set once all that must not run into it is done: on a busy machine a login alone may take longer.

use std::time::Duration;

use crate::support::{self, Client, Gate, Login, Postgres, Proxy, Script, Setup, Wire, eventually};

/// One server, held by the first client in a transaction; the second has none.
fn held(setup: Setup) -> (Proxy, Client, Client) {
    let proxy = setup.set("default_pool_size", 1).start();
    let (mut holder, waiter) = (proxy.client(), proxy.client());
    holder.ok("BEGIN");
    (proxy, holder, waiter)
}

/// Changes the configuration of a running pooler.
#[track_caller]
fn reload(proxy: &Proxy, change: impl FnOnce(Setup) -> Setup) {
    proxy.rewrite(change);
    proxy.console().ok("RELOAD");
}

/// Waits until the server connection with this process id is gone.
#[track_caller]
fn until_without(proxy: &Proxy, pid: &str) {
    proxy.until("SERVERS", |servers| servers.find(&[("remote_pid", pid)]).is_none());
}

#[test]
fn query_wait_timeout_ends_a_wait_for_a_server() {
    let mut changes: Vec<fn(Setup) -> Setup> = vec![|setup| setup.set("query_wait_timeout", 1)];
    // The narrower settings are newer than PgBouncer 1.25.
    if !support::beyond_pgbouncer() {
        changes.push(|setup| setup.database("app", "query_wait_timeout=1"));
        changes.push(|setup| setup.database("app", "query_wait_timeout=60").own_user("query_wait_timeout=1"));
    }
    for change in changes {
        let (proxy, mut holder, mut waiter) = held(Setup::new());
        reload(&proxy, change);

        waiter.send(Script::new().query("SELECT 1"));

        assert_eq!(waiter.farewell(), "query_wait_timeout");
        assert_eq!(holder.ok("COMMIT").status(), 'I');
    }
}

#[test]
fn query_wait_timeout_ends_a_login_that_waits_for_its_first_server() {
    let gate = Gate::open();
    gate.silence();
    let proxy = Setup::new().through(gate.port).set("query_wait_timeout", 1).start();

    assert_eq!(proxy.login().refusal(), "query_wait_timeout");
}

#[test]
fn query_wait_notify_tells_who_waits() {
    let (proxy, mut holder, mut waiter) = held(Setup::new().set("query_wait_notify", 1));

    waiter.send(Script::new().query("SELECT 1"));

    let notice = waiter.wire.expect(b'N').fields();
    assert_eq!(notice[&'M'], "No server connection available in postgres backend, client being queued");
    assert_eq!(notice[&'S'], "NOTICE");
    assert!(!waiter.wire.stirs_within(Duration::from_millis(1200)), "it is said once");
    holder.ok("COMMIT");
    assert_eq!(waiter.reply().shape(), "TDCZ");
    proxy.until_pool("cl_waiting", 0);
}

#[test]
fn query_timeout_ends_a_query_and_its_server() {
    let changes: [fn(Setup) -> Setup; 3] = [
        |setup| setup.set("query_timeout", "0.5"),
        |setup| setup.own_user("query_timeout=1"),
        |setup| setup.set("query_timeout", 60).own_user("query_timeout=1"),
    ];
    for change in changes {
        let proxy = Setup::new().closing_abandoned_servers().start();
        let mut client = proxy.client();
        let pid = client.pid();
        reload(&proxy, change);

        client.send(Script::new().query("SELECT pg_sleep(60)"));

        assert!(["query timeout", "query_timeout"].contains(&client.farewell().as_str()));
        until_without(&proxy, &pid);
        Postgres::shared().admin().ok(&format!("SELECT pg_terminate_backend({pid})"));
    }
}

#[test]
fn query_timeout_counts_the_wait_for_a_server_too() {
    let other = Postgres::shared().role();
    let setup = Setup::new().database("app", "max_db_connections=1").user(&other, "query_timeout=60");
    let proxy = setup.secret(&other, "").start();
    let mut waiter = proxy.client();
    waiter.pid();
    let mut holder = proxy.login().user(&other).client();
    holder.ok("BEGIN");
    reload(&proxy, |setup| setup.set("query_timeout", 1));

    waiter.send(Script::new().query("SELECT 1"));

    assert_eq!(waiter.farewell(), "query_timeout");
    assert_eq!(holder.ok("COMMIT").status(), 'I');
}

#[test]
fn idle_transaction_timeout_ends_who_idles_in_a_transaction() {
    for setup in [
        Setup::new().set("idle_transaction_timeout", "0.5"),
        Setup::new().own_user("idle_transaction_timeout=1"),
        Setup::new().set("idle_transaction_timeout", 60).own_user("idle_transaction_timeout=1"),
    ] {
        let proxy = setup.closing_abandoned_servers().start();
        let mut client = proxy.client();
        let pid = client.value("BEGIN; SELECT pg_backend_pid()");

        assert_eq!(client.farewell(), "idle transaction timeout");

        until_without(&proxy, &pid);
    }
}

#[test]
fn idle_transaction_timeout_spares_who_works_and_who_is_out_of_a_transaction() {
    let proxy = Setup::new().set("idle_transaction_timeout", "0.6").start();
    let mut busy = proxy.client();
    let mut idle = proxy.client();
    idle.pid();

    busy.send(Script::new().query("BEGIN; SELECT pg_sleep(1.5)").query("COMMIT"));
    assert_eq!([busy.reply().status(), busy.reply().status()], ['T', 'I']);

    assert!(!idle.wire.stirs_within(Duration::from_millis(50)));
    assert_eq!(idle.value("SELECT 1"), "1");
}

#[test]
fn transaction_timeout_ends_a_long_transaction_however_busy() {
    for setup in [
        Setup::new().set("transaction_timeout", "0.8"),
        Setup::new().own_user("transaction_timeout=1"),
        Setup::new().set("transaction_timeout", 60).own_user("transaction_timeout=1"),
    ] {
        let proxy = setup.start();
        let mut client = proxy.client();

        let last = eventually("the transaction is ended", || {
            // Where there is one already, this is a warning.
            let reply = client.query("BEGIN");
            (!reply.is_ready()).then_some(reply)
        });

        // The error may have been read already, or be lost in the crossing of the two.
        if let Some(error) = last.error() {
            assert_eq!(error[&'M'], "transaction timeout");
        }
        proxy.until_log("transaction timeout");
    }
}

#[test]
fn client_idle_timeout_ends_who_says_nothing() {
    for setup in [
        Setup::new().set("client_idle_timeout", "0.5"),
        Setup::new().own_user("client_idle_timeout=1"),
        Setup::new().set("client_idle_timeout", 60).own_user("client_idle_timeout=1"),
    ] {
        let proxy = setup.start();
        let mut client = proxy.client();

        assert_eq!(client.farewell(), "client_idle_timeout");

        proxy.until_pool("sv_idle", 1);
    }
}

#[test]
fn client_idle_timeout_spares_who_is_in_a_transaction() {
    let proxy = Setup::new().set("client_idle_timeout", "0.5").start();
    let mut wire = Wire::tcp(proxy.port);
    wire.send([proxy.login().startup().as_slice(), Script::new().query("BEGIN").as_ref()].concat());
    // One of the login, one of the query.
    for _ in 0..2 {
        while wire.message().tag != b'Z' {}
    }

    assert!(!wire.stirs_within(Duration::from_millis(1500)));

    wire.send(Script::new().query("COMMIT"));
    assert_eq!(wire.expect(b'C').strings(), ["COMMIT"]);
}

#[test]
fn client_login_timeout_ends_who_never_logs_in() {
    let setup = Setup::new().set("auth_type", "scram-sha-256").set("client_login_timeout", 600);
    let role = setup.role().to_owned();
    let proxy = setup.secret(&role, "secret").start();
    let mut mute = Wire::tcp(proxy.port);
    let mut half = Wire::tcp(proxy.port);
    let packet = proxy.login().startup();
    half.send(&packet[..packet.len() / 2]);
    let mut unproven = Wire::tcp(proxy.port);
    unproven.send(&packet);
    assert_eq!(unproven.expect(b'R').body[3], 10);

    proxy.console().ok("SET client_login_timeout = 1");

    for (wire, what) in [(&mut mute, "mute"), (&mut half, "half a packet"), (&mut unproven, "unproven")] {
        let last = wire.until_end();
        let error = last.iter().find(|message| message.tag == b'E');
        let text = error.unwrap_or_else(|| panic!("{what}: no error before the end: {last:?}")).fields()[&'M'].clone();
        assert_eq!(text, "client_login_timeout", "{what}");
    }
}

#[test]
fn server_connect_timeout_gives_up_on_a_silent_server() {
    let gate = Gate::open();
    let proxy =
        Setup::new().through(gate.port).set("server_connect_timeout", 1).set("server_login_retry", "0.3").start();
    gate.silence();
    let mut wire = Wire::tcp(proxy.port);
    wire.send(proxy.login().startup());

    proxy.until_log("connect timeout");
    gate.cut();
    gate.reopen();

    while wire.message().tag != b'Z' {}
}

#[test]
fn a_server_that_never_answers_its_check_is_given_up() {
    let gate = Gate::open();
    let setup = Setup::new().through(gate.port).set("server_check_delay", 0).set("server_login_retry", "0.3");
    let proxy = setup.start();
    let mut client = proxy.client();
    client.pid();
    reload(&proxy, |setup| setup.set("server_connect_timeout", 1).set("query_wait_timeout", 2));
    gate.silence();

    client.send(Script::new().query("SELECT 1"));
    let told = client.wire.until_end();

    assert!(told.iter().any(|message| message.tag == b'E'), "{told:?}");
    reload(&proxy, |setup| setup.set("server_connect_timeout", 60).set("query_wait_timeout", 60));
    gate.cut();
    gate.reopen();
    eventually("clients are served again", || proxy.login().attempt().ok());
}

#[test]
fn timeouts_of_zero_are_off() {
    let mut setup = Setup::new();
    for name in [
        "query_wait_timeout",
        "query_wait_notify",
        "query_timeout",
        "idle_transaction_timeout",
        "transaction_timeout",
        "client_idle_timeout",
        "server_idle_timeout",
        "client_login_timeout",
    ] {
        setup = setup.set(name, 0);
    }
    let (proxy, mut holder, mut waiter) = held(setup);
    let mut idle: Client = Login::to(proxy.port).user(&proxy.role).database("app").client();
    waiter.send(Script::new().query("SELECT 1"));

    for client in [&mut holder, &mut waiter, &mut idle] {
        assert!(!client.wire.stirs_within(Duration::from_millis(500)));
    }

    holder.ok("COMMIT");
    assert_eq!(waiter.reply().value(), "1");
}

#[test]
fn query_timeout_ends_a_login_that_waits_for_its_first_server() {
    let hole = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = hole.local_addr().unwrap().port();
    let setup = Setup::new().set("query_timeout", 0.3).database("hole", &format!("host=127.0.0.1 port={port}"));
    let proxy = setup.start();

    assert_eq!(proxy.login().database("hole").refusal(), "query_timeout");
}

#[test]
fn a_server_that_falls_silent_while_it_takes_the_clients_parameters_is_given_up() {
    let gate = Gate::open();
    let proxy = Setup::new().through(gate.port).set("default_pool_size", 1).start();
    let mut other = proxy.login().parameter("application_name", "another").client();
    proxy.client().value("SELECT 1");
    reload(&proxy, |setup| setup.set("query_timeout", 0.5));
    gate.silence();

    let reply = other.query("SELECT 1");

    assert_eq!(reply.error_message(), "query timeout");
    reload(&proxy, |setup| setup.set("query_timeout", 0));
    gate.cut();
    gate.reopen();
    assert_eq!(proxy.client().value("SELECT 1"), "1");
}
