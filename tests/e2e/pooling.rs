//! Who gets which server, and when: the three modes, the sizes, the order.

use std::collections::BTreeSet;

use crate::support::{self, Client, Gate, Login, Postgres, Proxy, Script, Setup, eventually};

#[test]
fn clients_share_one_server_transaction_by_transaction() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let (mut one, mut other) = (proxy.client(), proxy.client());

    let pids = [one.pid(), other.pid(), one.pid(), other.pid()];

    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    assert_eq!(Postgres::shared().backends(&proxy.role), 1);
}

#[test]
fn a_transaction_keeps_its_server_until_it_ends() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let (mut holder, mut waiter) = (proxy.client(), proxy.client());
    holder.ok("BEGIN");
    let held = holder.pid();

    waiter.send(Script::new().query("SELECT pg_backend_pid()"));
    proxy.until_pool("cl_waiting", 1);

    assert_eq!(holder.pid(), held);
    assert_eq!(holder.ok("COMMIT").status(), 'I');
    assert_eq!(waiter.reply().value(), held);
}

#[test]
fn a_failed_transaction_keeps_its_server_until_it_is_rolled_back() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let (mut holder, mut waiter) = (proxy.client(), proxy.client());
    holder.ok("BEGIN");
    assert_eq!(holder.query("SELECT 1/0").status(), 'E');

    waiter.send(Script::new().query("SELECT 7"));
    proxy.until_pool("cl_waiting", 1);

    assert_eq!(holder.query("SELECT 1").status(), 'E');
    assert_eq!(holder.ok("ROLLBACK").status(), 'I');
    assert_eq!(waiter.reply().value(), "7");
}

#[test]
fn a_session_keeps_its_server_until_the_client_leaves() {
    let proxy = Setup::new().set("pool_mode", "session").set("default_pool_size", 1).start();
    let (mut holder, mut waiter) = (proxy.client(), proxy.client());
    let held = holder.pid();
    holder.ok("SET work_mem = '7MB'");

    waiter.send(Script::new().query("SELECT pg_backend_pid()"));
    proxy.until_pool("cl_waiting", 1);
    assert_eq!(holder.value("SHOW work_mem"), "7MB");
    holder.leave();

    assert_eq!(waiter.reply().value(), held);
    assert_ne!(waiter.value("SHOW work_mem"), "7MB", "server_reset_query ran in between");
}

#[test]
fn server_reset_query_is_not_run_in_transaction_mode_unless_always() {
    let sequence = |setup: Setup| {
        let name = format!("resets_of_{}", setup.role());
        Postgres::shared().admin().ok(&format!("CREATE SEQUENCE {name}; GRANT ALL ON {name} TO PUBLIC"));
        setup.set("server_reset_query", format!("SELECT nextval('{name}')")).set("default_pool_size", 1)
    };
    let resets = |proxy: &Proxy| {
        let sql = format!("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM resets_of_{}", proxy.role);
        Postgres::shared().admin().value(&sql)
    };

    let never = sequence(Setup::new()).start();
    let mut client = never.client();
    client.pid();
    client.pid();
    client.leave();
    never.until_pool("sv_idle", 1);
    assert_eq!(resets(&never), "0");

    let always = sequence(Setup::new()).set("server_reset_query_always", 1).start();
    let mut client = always.client();
    client.pid();
    client.pid();
    always.until_pool("sv_idle", 1);
    assert_eq!(resets(&always), "2");
}

#[test]
fn a_failing_reset_query_costs_the_server_not_the_next_client() {
    // PgBouncer hands the server on as it is.
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Setup::new()
        .set("server_reset_query", "SELECT 1/0")
        .set("server_reset_query_always", 1)
        .set("default_pool_size", 1)
        .start();
    let (mut one, mut other) = (proxy.client(), proxy.client());

    let first = one.pid();

    assert_ne!(other.pid(), first);
}

#[test]
fn statement_mode_refuses_transaction_blocks() {
    let proxy = Setup::new().set("pool_mode", "statement").start();
    let mut client = proxy.client();
    assert_eq!(client.value("SELECT 1"), "1");
    assert_eq!(client.ok("SELECT 1; SELECT 2").shape(), "TDCTDCZ");

    client.send(Script::new().query("BEGIN"));

    assert_eq!(client.farewell(), "transaction blocks not allowed in statement pooling mode");
    assert_eq!(proxy.client().value("SELECT 3"), "3");
}

#[test]
fn a_thousand_clients_share_25_servers() {
    let proxy = Setup::new().set("max_client_conn", 1100).set("default_pool_size", 25).start();
    let mut clients: Vec<Client> = (0..1000).map(|_| proxy.client()).collect();

    for (number, client) in clients.iter_mut().enumerate() {
        client.send(Script::new().query(&format!("SELECT {number}, pg_backend_pid(), pg_sleep(0.002)")));
    }
    let mut pids = BTreeSet::new();
    for (number, client) in clients.iter_mut().enumerate() {
        let rows = client.reply().rows();
        assert_eq!(rows[0][0], Some(number.to_string()));
        pids.insert(rows[0][1].clone());
    }

    assert!(pids.len() <= 25, "{} servers", pids.len());
    assert!(Postgres::shared().backends(&proxy.role) <= 25);
    let pools = proxy.show("POOLS");
    assert_eq!(pools.cell(&[("user", &proxy.role)], "cl_active"), "1000");
    assert_eq!(pools.cell(&[("user", &proxy.role)], "cl_waiting"), "0");
}

#[test]
fn waiting_clients_are_served_in_the_order_they_came() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let sequence = format!("turns_of_{}", proxy.role);
    Postgres::shared().admin().ok(&format!("CREATE SEQUENCE {sequence}; GRANT ALL ON {sequence} TO PUBLIC"));
    let mut holder = proxy.client();
    holder.ok("BEGIN");

    let mut waiters: Vec<Client> = (0..12).map(|_| proxy.client()).collect();
    for (index, waiter) in waiters.iter_mut().enumerate() {
        waiter.send(Script::new().query(&format!("SELECT nextval('{sequence}')")));
        proxy.until_pool("cl_waiting", index + 1);
    }
    holder.ok("COMMIT");

    let turns: Vec<String> = waiters.iter_mut().map(|waiter| waiter.reply().value()).collect();
    assert_eq!(turns, (1..=12).map(|turn: i32| turn.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_client_that_leaves_the_queue_costs_nobody_a_turn() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let mut holder = proxy.client();
    holder.ok("BEGIN");
    let mut gone = proxy.client();
    gone.send(Script::new().query("SELECT 1"));
    proxy.until_pool("cl_waiting", 1);
    let mut patient = proxy.client();
    patient.send(Script::new().query("SELECT 2"));
    proxy.until_pool("cl_waiting", 2);

    gone.wire.reset();
    // PgBouncer does not listen to a client in the queue, and finds out when it is served.
    if !support::proxy::is_pgbouncer() {
        proxy.until_pool("cl_waiting", 1);
    }
    holder.ok("COMMIT");

    assert_eq!(patient.reply().value(), "2");
    proxy.until_pool("sv_idle", 1);
}

#[test]
fn a_client_that_vanishes_in_a_transaction_costs_one_server() {
    for politely in [true, false] {
        let proxy = Setup::new().closing_abandoned_servers().set("default_pool_size", 1).start();
        let mut vanishing = proxy.client();
        vanishing.ok("BEGIN; SET LOCAL work_mem = '7MB'");
        let dirty = vanishing.pid();

        if politely {
            vanishing.leave();
        } else {
            vanishing.wire.reset();
        }

        let mut next = proxy.client();
        assert_ne!(next.pid(), dirty);
        assert_ne!(next.value("SHOW work_mem"), "7MB");
        eventually("PostgreSQL has lost the dirty session", || {
            (!Postgres::shared().pids(&proxy.role).contains(&dirty)).then_some(())
        });
    }
}

#[test]
fn a_client_that_vanishes_in_a_query_costs_one_server() {
    let proxy = Setup::new().closing_abandoned_servers().set("default_pool_size", 1).start();
    let mut vanishing = proxy.client();
    vanishing.send(Script::new().query("SELECT pg_sleep(60)"));
    proxy.until_pool("sv_active", 1);
    let busy = Postgres::shared().pids(&proxy.role).remove(0);

    vanishing.wire.reset();

    assert_ne!(proxy.client().pid(), busy);
    Postgres::shared().admin().ok(&format!("SELECT pg_terminate_backend({busy})"));
}

#[test]
fn the_pool_size_of_the_user_goes_before_that_of_the_database_and_the_default() {
    for (database, user, expected) in [("", "", 3), ("pool_size=2", "", 2), ("pool_size=2", "pool_size=1", 1)] {
        let proxy = Setup::new().set("default_pool_size", 3).database("app", database).own_user(user).start();
        let mut clients: Vec<Client> = (0..5).map(|_| proxy.client()).collect();
        for client in &mut clients {
            client.send(Script::new().query("BEGIN"));
        }
        let (served, waiting) = (expected.to_string(), (5 - expected).to_string());
        let settled = [("user", proxy.role.as_str()), ("sv_active", &served), ("cl_waiting", &waiting)];
        proxy.until("POOLS", |pools| pools.find(&settled).is_some());
        assert_eq!(Postgres::shared().backends(&proxy.role), expected);
    }
}

#[test]
fn the_pool_mode_of_the_user_goes_before_that_of_the_database_and_the_default() {
    for (database, user, expected) in [
        ("pool_mode=statement", "", "statement"),
        ("pool_mode=statement", "pool_mode=session", "session"),
        ("", "", "transaction"),
    ] {
        let proxy = Setup::new().database("app", database).own_user(user).start();
        let _client = proxy.client();
        assert_eq!(proxy.show("POOLS").cell(&[("user", &proxy.role)], "pool_mode"), expected);
    }
}

#[test]
fn the_reserve_helps_only_who_waits_too_long() {
    let setup = Setup::new().set("default_pool_size", 1).set("reserve_pool_size", 1).set("reserve_pool_timeout", 600);
    let proxy = setup.start();
    let mut clients: Vec<Client> = (0..3).map(|_| proxy.client()).collect();
    clients[0].ok("BEGIN");
    let started = std::time::Instant::now();

    clients[1].send(Script::new().query("BEGIN"));
    proxy.until_pool("cl_waiting", 1);
    clients[2].send(Script::new().query("BEGIN"));
    proxy.until_pool("cl_waiting", 2);
    proxy.console().ok("SET reserve_pool_timeout = '0.4'");

    assert_eq!(clients[1].reply().status(), 'T');
    assert!(started.elapsed().as_secs_f64() >= 0.39, "the reserve was used after {:?}", started.elapsed());
    proxy.until_pool("sv_active", 2);
    proxy.until_pool("cl_waiting", 1);
    assert!(!clients[2].wire.stirs_within(std::time::Duration::from_millis(800)), "the reserve has one server only");
}

#[test]
fn min_pool_size_keeps_servers_ready_once_a_client_has_come() {
    let proxy = Setup::new().set("min_pool_size", 3).start();
    assert_eq!(Postgres::shared().backends(&proxy.role), 0);

    let _client = proxy.client();

    proxy.until_pool("sv_idle", 3);
    assert_eq!(Postgres::shared().backends(&proxy.role), 3);
}

#[test]
fn min_pool_size_needs_no_client_where_the_user_is_forced() {
    let setup = Setup::new();
    let role = setup.role().to_owned();
    let proxy = setup.database("app", &format!("user={role} min_pool_size=2")).start();

    proxy.until_pool("sv_idle", 2);
}

#[test]
fn max_db_connections_caps_all_users_of_a_database() {
    let other = Postgres::shared().role();
    let proxy = Setup::new().secret(&other, "").database("app", "max_db_connections=2").start();
    let mut first = proxy.client();
    first.ok("BEGIN");
    let mut second = proxy.login().user(&other).client();
    second.ok("BEGIN");

    let mut third = proxy.client();
    third.send(Script::new().query("SELECT 3"));
    proxy.until_pool("cl_waiting", 1);
    assert_eq!(Postgres::shared().backends(&proxy.role) + Postgres::shared().backends(&other), 2);
    first.ok("COMMIT");

    assert_eq!(third.reply().value(), "3");
}

#[test]
fn an_idle_server_of_another_pool_makes_room_under_a_full_cap() {
    let other = Postgres::shared().role();
    let proxy = Setup::new().secret(&other, "").database("app", "max_db_connections=1").start();
    proxy.client().pid();

    let mut second = proxy.login().user(&other).client();

    assert_eq!(second.value("SELECT current_user"), other);
    Postgres::shared().until_backends(&proxy.role, 0);
}

#[test]
fn max_user_connections_caps_a_user_over_all_databases() {
    for setup in [Setup::new().set("max_user_connections", 2), Setup::new().own_user("max_user_connections=2")] {
        let proxy = setup.database("app", "").database("app2", "").start();
        let mut here = proxy.client();
        here.ok("BEGIN");
        let mut there = proxy.login().database("app2").client();
        there.ok("BEGIN");

        let mut third = proxy.client();
        third.send(Script::new().query("SELECT 3"));
        proxy.until_pool("cl_waiting", 1);
        there.ok("COMMIT");

        assert_eq!(third.reply().value(), "3");
        Postgres::shared().until_backends(&proxy.role, 2);
    }
}

#[test]
fn a_server_is_retired_when_its_lifetime_is_over() {
    for setup in [Setup::new().set("server_lifetime", "0.5"), Setup::new().database("app", "server_lifetime=1")] {
        let proxy = setup.start();
        let mut client = proxy.client();
        let old = client.pid();

        proxy.until_serverless();

        assert_ne!(client.pid(), old);
    }
}

#[test]
fn a_lifetime_of_zero_means_used_once() {
    let proxy = Setup::new().set("server_lifetime", 0).start();
    let mut client = proxy.client();

    let first = client.pid();

    assert_ne!(client.pid(), first);
}

#[test]
fn an_idle_server_is_closed_after_server_idle_timeout() {
    let proxy = Setup::new().set("server_idle_timeout", "0.5").start();
    let mut client = proxy.client();
    client.pid();

    Postgres::shared().until_backends(&proxy.role, 0);

    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn the_check_query_runs_before_a_rested_server_is_handed_out() {
    let setup = Setup::new();
    let sequence = format!("checks_of_{}", setup.role());
    Postgres::shared().admin().ok(&format!("CREATE SEQUENCE {sequence}; GRANT ALL ON {sequence} TO PUBLIC"));
    let proxy = setup
        .set("server_check_query", format!("SELECT nextval('{sequence}')"))
        .set("server_check_delay", 0)
        .set("default_pool_size", 1)
        .start();
    let mut client = proxy.client();

    let pids: BTreeSet<String> = (0..4).map(|_| client.pid()).collect();

    assert_eq!(pids.len(), 1, "checks do not cost servers");
    let checks: i32 = Postgres::shared().admin().value(&format!("SELECT last_value FROM {sequence}")).parse().unwrap();
    assert!(checks >= 3, "{checks} checks for 4 transactions");
}

#[test]
fn a_server_that_fails_its_check_is_replaced_unseen() {
    let gate = Gate::open();
    let proxy = Setup::new().through(gate.port).set("server_check_delay", 0).set("default_pool_size", 1).start();
    let mut client = proxy.client();
    let first = client.pid();

    gate.cut();

    assert_ne!(client.pid(), first);
}

#[test]
fn a_server_that_died_while_idle_is_replaced_unseen() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let mut client = proxy.client();
    let first = client.pid();

    Postgres::shared().end(&first);
    if support::proxy::is_pgbouncer() {
        proxy.until_serverless();
    }

    assert_ne!(client.pid(), first);
}

#[test]
fn a_server_that_dies_in_a_query_ends_its_client_with_the_reason() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    let mut bystander = proxy.client();
    bystander.ok("BEGIN");

    client.send(Script::new().query("SELECT pg_terminate_backend(pg_backend_pid())"));

    let seen = client.wire.until_end();
    let first = seen.iter().find(|message| message.tag == b'E').expect("a reason").fields();
    assert_eq!(first[&'C'], "57P01", "{first:?}");
    assert_eq!(bystander.ok("COMMIT").status(), 'I');
}

#[test]
fn while_the_server_cannot_be_reached_who_came_first_waits_and_who_comes_later_is_told() {
    let gate = Gate::open();
    let proxy = Setup::new().through(gate.port).set("server_login_retry", 600).start();
    let (mut early, mut late) = (proxy.client(), proxy.client());
    early.pid();
    gate.shut();
    proxy.until_serverless();
    early.send(Script::new().query("SELECT 1"));
    eventually("an attempt has failed", || (gate.accepted() > 1).then_some(()));
    proxy.until_pool("sv_login", 0);

    late.send(Script::new().query("SELECT 2"));

    let message = late.farewell();
    assert!(message.starts_with("server login has been failing, cached error: "), "{message}");
    assert!(message.ends_with("(server_login_retry)"), "{message}");
    gate.reopen();
    proxy.console().ok("SET server_login_retry = 1");
    assert_eq!(early.reply().value(), "1");
}

#[test]
fn clients_are_told_the_servers_own_reason_and_it_is_left_alone_for_server_login_retry() {
    let gate = Gate::open();
    let proxy = Setup::new().through(gate.port).set("server_login_retry", 60).start();
    let (mut early, mut late) = (proxy.client(), proxy.client());
    let pid = early.pid();
    let admin = &mut Postgres::shared().admin();
    admin.ok(&format!("ALTER ROLE {} NOLOGIN", proxy.role));
    Postgres::shared().end(&pid);
    proxy.until_serverless();

    early.send(Script::new().query("SELECT 1"));
    let first = early.wire.expect(b'E').fields();
    let attempts = gate.accepted();
    late.send(Script::new().query("SELECT 1"));
    let second = late.farewell();

    let reason = format!("role \"{}\" is not permitted to log in", proxy.role);
    assert_eq!(first[&'M'], reason);
    assert_eq!(first[&'C'], "28000");
    assert_eq!(second, format!("server login has been failing, cached error: {reason} (server_login_retry)"));
    assert_eq!(gate.accepted(), attempts);
}

#[test]
fn round_robin_goes_through_all_servers_and_the_default_stays_with_one() {
    let distinct = |setup: Setup| {
        let proxy = setup.set("default_pool_size", 3).start();
        let mut clients: Vec<Client> = (0..3).map(|_| proxy.client()).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.ok("BEGIN").status(), 'T'));
        clients.iter_mut().for_each(|client| assert_eq!(client.ok("COMMIT").status(), 'I'));
        (0..6).map(|_| clients[0].pid()).collect::<BTreeSet<_>>().len()
    };

    assert_eq!(distinct(Setup::new().set("server_round_robin", 1)), 3);
    assert_eq!(distinct(Setup::new()), 1);
}

#[test]
fn the_fallback_entry_serves_any_database_by_its_name() {
    let proxy = Setup::new().database("*", "").start();

    let mut client = proxy.login().database("e2e").client();

    assert_eq!(client.value("SELECT current_database()"), "e2e");
    assert!(proxy.show("DATABASES").find(&[("name", "e2e")]).is_some());
}

#[test]
fn a_database_that_does_not_exist_is_named_to_the_client() {
    let proxy = Proxy::start();
    assert_eq!(proxy.login().database("nowhere").refusal(), "no such database: nowhere");

    let proxy = Setup::new().database("*", "").start();
    let message = proxy.login().database("nowhere").refusal();
    assert!(message.contains("database \"nowhere\" does not exist"), "{message}");
}

#[test]
fn a_forced_user_is_who_the_server_sees() {
    let forced = Postgres::shared().role();
    let proxy = Setup::new().database("app", &format!("user={forced}")).start();

    assert_eq!(proxy.client().value("SELECT current_user"), forced);

    let pools = proxy.show("POOLS");
    assert!(pools.find(&[("database", "app"), ("user", &forced)]).is_some(), "{pools:?}");
}

#[test]
fn the_connect_query_runs_once_on_every_new_server() {
    let proxy = Setup::new().database("app", "connect_query='SET work_mem TO ''7MB'''").start();
    assert_eq!(proxy.client().value("SHOW work_mem"), "7MB");
}

#[test]
fn start_up_parameters_of_the_database_reach_the_server() {
    let proxy = Setup::new().database("app", "timezone=Europe/Paris datestyle=German application_name=billing").start();

    let mut client = proxy.client();

    assert_eq!(client.value("SHOW TimeZone"), "Europe/Paris");
    assert_eq!(client.value("SHOW DateStyle"), "German, DMY");
}

#[test]
fn a_host_list_is_used_round_robin_or_stuck_to() {
    let counts = |options: &str| {
        let (one, other) = (Gate::open(), Gate::open());
        let list = format!("host=127.0.0.1,127.0.0.1 port={},{} {options}", one.port, other.port);
        let proxy = Setup::new().database("app", &list).start();
        let mut clients: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.ok("BEGIN").status(), 'T'));
        (one.accepted(), other.accepted())
    };
    // PgBouncer takes one port for all hosts.
    if support::beyond_pgbouncer() {
        return;
    }

    assert_eq!(counts(""), (2, 2));
    assert_eq!(counts("load_balance_hosts=disable"), (4, 0));
}

#[test]
fn the_server_is_reached_over_its_unix_socket() {
    let server = Postgres::shared();
    let rest = format!("host={} port={}", server.socket_dir.display(), server.port);
    let proxy = Setup::new().database("app", &rest).start();

    let client_address = "SELECT coalesce(host(inet_client_addr()), 'local')";

    assert_eq!(proxy.client().value(client_address), "local");
}

#[test]
fn clients_come_over_a_unix_socket() {
    let proxy = Setup::new().set("unix_socket_dir", "@DIR@").start();
    let mut client: Client = Login::to(proxy.port).unix(&proxy.dir).user(&proxy.role).database("app").client();
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_pool_of_size_zero_is_without_limit() {
    let proxy = Setup::new().set("default_pool_size", 0).start();
    let mut clients: Vec<Client> = (0..30).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.ok("BEGIN").status(), 'T'));
    assert_eq!(Postgres::shared().backends(&proxy.role), 30);
}

#[test]
fn with_server_lifetime_0_the_server_of_a_login_serves_its_first_query() {
    let proxy = Setup::new().set("server_lifetime", 0).start();
    let mut client = proxy.client();

    client.value("SELECT 1");

    proxy.until_log("server lifetime over");
    assert_eq!(proxy.log().matches("new connection to server").count(), 1);
}
