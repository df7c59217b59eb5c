//! Clients that leave in the middle: what they had sent is carried out, and their servers are neither lost nor run
//! beside their successors.

use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::postgres::Lock;
use crate::support::{self, Client, Gate, Message, Postgres, Proxy, Script, Setup, eventually, tools};
use crate::tls::to_encrypted;

const MODES: [&str; 2] = ["transaction", "session"];

/// How a client goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// It says Terminate and hangs up.
    Terminate,
    /// It hangs up.
    HangUp,
    /// Its connection breaks.
    Reset,
}

const WAYS: [Way; 3] = [Way::Terminate, Way::HangUp, Way::Reset];

fn goes(mut client: Client, way: Way) {
    match way {
        Way::Terminate => client.send(Script::new().terminate()),
        Way::HangUp => {}
        Way::Reset => client.wire.reset(),
    }
}

/// A new table with one column, whose name nobody else has, and its name.
fn table(proxy: &Proxy) -> String {
    let name = format!("rows_of_{}", proxy.role);
    Postgres::shared().admin().ok(&format!("CREATE TABLE {name} (i int); GRANT ALL ON {name} TO PUBLIC"));
    name
}

fn count(table: &str) -> usize {
    Postgres::shared().admin().value(&format!("SELECT count(*) FROM {table}")).parse().unwrap()
}

#[track_caller]
fn until_count(table: &str, rows: usize) {
    eventually(&format!("{table} has {rows} rows"), || (count(table) == rows).then_some(()));
}

/// Waits until the role has this one backend, which does nothing and is in no transaction.
#[track_caller]
fn until_only_idle(postgres: &Postgres, role: &str, pid: &str) {
    let mut admin = postgres.admin();
    let sql = format!("SELECT string_agg(pid || ' ' || state, ',') FROM pg_stat_activity WHERE usename = '{role}'");
    let wanted = format!("{pid} idle");
    eventually("the one server is idle", || {
        let rows = admin.ok(&sql).rows();
        (rows[0][0].as_deref() == Some(&*wanted)).then_some(())
    });
}

/// The types of these messages, without those that may come at any time.
fn shape(messages: &[Message]) -> String {
    messages.iter().map(|message| message.tag as char).filter(|tag| *tag != 'S').collect()
}

/// No more is sent; it still reads.
fn sends_no_more(client: &Client) {
    client.wire.socket().shutdown(Shutdown::Write).unwrap();
}

#[test]
fn what_was_sent_before_a_terminate_is_carried_out_and_answered() {
    if support::beyond_pgbouncer() {
        return;
    }
    for mode in MODES {
        let proxy = Setup::new().set("pool_mode", mode).set("default_pool_size", 1).start();
        let table = table(&proxy);
        let insert = format!("INSERT INTO {table} VALUES (1)");

        let mut simple = proxy.client();
        simple.send(Script::new().query(&insert).query(&insert).terminate().query(&insert));
        assert_eq!(shape(&simple.wire.until_end()), "CZCZ", "{mode}");
        let mut extended = proxy.client();
        extended.send(Script::new().run(&insert, &[]).sync().run(&insert, &[]).sync().terminate());
        assert_eq!(shape(&extended.wire.until_end()), "12CZ12CZ", "{mode}");

        assert_eq!(count(&table), 4, "{mode}");
        assert_eq!(
            support::eventually("both are logged", || {
                let log = proxy.log();
                let ends = log.matches("closing because: client close request").count();
                (ends == 2).then_some(ends)
            }),
            2
        );
    }
}

#[test]
fn a_hundred_clients_of_libpq_that_send_and_leave_lose_nothing() {
    if support::beyond_pgbouncer() {
        return;
    }
    for mode in MODES {
        let setup = Setup::new().set("pool_mode", mode).set("default_pool_size", 3).set("max_client_conn", 200);
        let proxy = setup.start();
        let table = table(&proxy);
        let conninfo = format!("host=127.0.0.1 port={} user={} dbname=app", proxy.port, proxy.role);

        let insert = format!("INSERT INTO {table} VALUES (1)");
        tools::python("leave.py", &[&conninfo, &insert, "100"]).ok();

        until_count(&table, 100);
        proxy.until("CLIENTS", |clients| clients.find(&[("user", &proxy.role)]).is_none());
        proxy.until_pool("sv_being_canceled", 0);
        assert!(Postgres::shared().backends(&proxy.role) <= 3);
    }
}

#[test]
fn a_client_that_sends_no_more_gets_all_its_answers_however_long_they_take() {
    if support::beyond_pgbouncer() {
        return;
    }
    for mode in MODES {
        let setup = Setup::new().set("pool_mode", mode).set("abandoned_query_timeout", "0.05");
        let proxy = setup.set("default_pool_size", 1).start();
        let mut lock = Postgres::shared().lock();
        let mut client = proxy.client();
        client.send(Script::new().query(&lock.wait()).run("SELECT 7", &[]).sync().query("SELECT 8"));
        lock.until_awaited(1);
        sends_no_more(&client);

        // Its time is over, and it is asked whether it is there. It is.
        let probe = client.wire.expect(b'S').strings();
        assert_eq!(probe, ["client_encoding".to_owned(), client.parameters["client_encoding"].clone()]);
        let again = client.wire.expect(b'S').strings();
        assert_eq!(again, probe);
        lock.release();

        assert_eq!(shape(&client.wire.until_end()), "TDCZ12DCZTDCZ", "{mode}");
        proxy.until_log("closing because: client unexpected eof");
        proxy.until_pool("sv_idle", 1);
    }
}

#[test]
fn a_big_answer_reaches_a_client_that_sends_no_more() {
    if support::beyond_pgbouncer() {
        return;
    }
    for mode in MODES {
        let proxy = Setup::new().set("pool_mode", mode).set("abandoned_query_timeout", "0.05").start();
        let mut client = proxy.client();
        client.send(Script::new().query("BEGIN; SELECT repeat('x', 1000) FROM generate_series(1, 30000)"));
        sends_no_more(&client);

        let (bytes, rows) = client.wire.skim();

        assert!(bytes > 30_000_000 && rows == 30_000, "{mode}: {bytes} {rows}");
        assert!(client.wire.until_end().is_empty());
        proxy.until_pool("sv_idle", 1);
    }
}

#[test]
fn half_a_message_at_the_end_counts_for_nothing() {
    if support::beyond_pgbouncer() {
        return;
    }
    for mode in MODES {
        let proxy = Setup::new().set("pool_mode", mode).set("default_pool_size", 1).start();
        let table = table(&proxy);
        let insert = Script::new().query(&format!("INSERT INTO {table} VALUES (1)"));
        let (insert, short) = (insert.as_ref(), &insert.as_ref()[..20]);
        let long = Script::new().query(&format!("INSERT INTO {table} VALUES (1) {}", " ".repeat(1 << 20)));
        for (rest, rounds) in [(short, 1), (&long.as_ref()[..1 << 19], 2)] {
            let mut client = proxy.client();
            client.send([insert, rest].concat());
            sends_no_more(&client);

            assert_eq!(shape(&client.wire.until_end()), "CZ", "{mode}");
            assert_eq!(count(&table), rounds, "{mode}");
        }
        // The server that got half a message is of no use.
        proxy.until("SERVERS", |servers| servers.all(&[("user", &proxy.role)]).len() <= 1);
        assert_eq!(proxy.client().value("SELECT 1"), "1");
    }
}

#[test]
fn a_request_in_the_queue_outlives_its_client_but_for_a_connection_that_broke() {
    if support::beyond_pgbouncer() {
        return;
    }
    for (way, rows) in [(Way::Terminate, 1), (Way::HangUp, 1), (Way::Reset, 0)] {
        let proxy = Setup::new().set("default_pool_size", 1).set("max_client_conn", 2).start();
        let table = table(&proxy);
        let (mut holder, mut waiter) = (proxy.client(), proxy.client());
        holder.ok("BEGIN");
        waiter.send(Script::new().query(&format!("INSERT INTO {table} VALUES (1)")));
        proxy.until_pool("cl_waiting", 1);

        goes(waiter, way);

        if rows == 0 {
            proxy.until_pool("cl_waiting", 0);
            proxy.until_log("closing because: client unexpected eof");
        } else {
            // It counts as long as it lives on.
            assert_eq!(proxy.login().refusal(), "no more connections allowed (max_client_conn)");
            proxy.until_pool("cl_waiting", 1);
        }
        holder.ok("COMMIT");
        until_count(&table, rows);
        proxy.until_pool("cl_active", 1);
        assert_eq!(proxy.client().value("SELECT 1"), "1");
    }
}

#[test]
fn a_reset_behind_a_terminate_leaves_the_request_in_the_queue() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let table = table(&proxy);
    let (mut holder, mut waiter) = (proxy.client(), proxy.client());
    holder.ok("BEGIN");
    waiter.send(Script::new().query(&format!("INSERT INTO {table} VALUES (1)")).terminate());
    proxy.until_pool("cl_waiting", 1);

    waiter.wire.reset();
    holder.ok("COMMIT");

    until_count(&table, 1);
    proxy.until_log("closing because: client close request");
}

#[test]
fn an_open_transaction_costs_a_rollback_and_not_a_server() {
    if support::beyond_pgbouncer() {
        return;
    }
    for mode in MODES {
        for way in WAYS {
            let proxy = Setup::new().set("pool_mode", mode).set("default_pool_size", 1).start();
            let table = table(&proxy);
            let mut client = proxy.client();
            let pid = client.pid();
            client.ok(&format!("BEGIN; INSERT INTO {table} VALUES (1)"));

            goes(client, way);

            until_only_idle(Postgres::shared(), &proxy.role, &pid);
            assert_eq!(proxy.client().pid(), pid, "{mode} {way:?}");
            assert_eq!(count(&table), 0, "{mode} {way:?}");
            let mut failed = proxy.client();
            failed.ok("BEGIN");
            assert_eq!(failed.query("nonsense").status(), 'E');
            goes(failed, way);
            assert_eq!(proxy.client().pid(), pid, "{mode} {way:?}");
        }
    }
}

#[test]
fn what_a_session_left_behind_is_reset() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Setup::new().set("pool_mode", "session").set("default_pool_size", 1).start();
    let mut client = proxy.client();
    let pid = client.pid();
    client.ok("CREATE TEMP TABLE mine (i int); SET work_mem = '1234kB'; BEGIN; SET statement_timeout = 7");

    goes(client, Way::HangUp);

    let mut next = proxy.client();
    assert_eq!(next.pid(), pid);
    assert_ne!(next.value("SHOW work_mem"), "1234kB");
    assert_eq!(next.value("SHOW statement_timeout"), "0");
    assert_eq!(next.value("SELECT count(*) FROM pg_class WHERE relname = 'mine'"), "0");
}

#[test]
fn a_copy_that_was_left_is_undone_and_costs_no_server() {
    if support::beyond_pgbouncer() {
        return;
    }
    for mode in MODES {
        for way in WAYS {
            let proxy = Setup::new().set("pool_mode", mode).set("default_pool_size", 1).start();
            let table = table(&proxy);
            let copy = format!("COPY {table} FROM STDIN");
            let pid = proxy.client().pid();
            let simple = Script::new().query(&copy);
            let extended = Script::new().run(&copy, &[]).sync();
            let block = Script::new().query(&format!("BEGIN; {copy}"));
            for script in [simple, extended, block] {
                let mut client = proxy.client();
                client.send(script);
                client.reply_until(b"G");
                client.send(Script::new().copy_data(b"1\n2\n"));

                goes(client, way);

                until_only_idle(Postgres::shared(), &proxy.role, &pid);
            }
            assert_eq!(proxy.client().pid(), pid, "{mode} {way:?}");
            assert_eq!(count(&table), 0, "{mode} {way:?}");
        }
    }
}

#[test]
fn a_batch_without_its_sync_is_undone_and_costs_no_server() {
    if support::beyond_pgbouncer() {
        return;
    }
    for mode in MODES {
        for way in WAYS {
            let proxy = Setup::new().set("pool_mode", mode).set("default_pool_size", 1).start();
            let table = table(&proxy);
            let insert = format!("INSERT INTO {table} VALUES (1)");
            let pid = proxy.client().pid();
            let plain = Script::new().run(&insert, &[]);
            let flushed = Script::new().run(&insert, &[]).flush();
            let failed = Script::new().run(&insert, &[]).run("nonsense", &[]).flush();
            let named = Script::new().parse("mine", &insert).run_prepared("mine", &[]);
            for script in [plain, flushed, failed, named] {
                // A whole batch before it is carried out.
                let mut client = proxy.client();
                client.send([Script::new().run(&insert, &[]).sync().as_ref(), script.as_ref()].concat());
                client.reply();

                goes(client, way);

                until_only_idle(Postgres::shared(), &proxy.role, &pid);
            }
            assert_eq!(proxy.client().pid(), pid, "{mode} {way:?}");
            assert_eq!(count(&table), 4, "{mode} {way:?}");
            // What is booked of the statements is right.
            let reply = proxy.client().run(Script::new().parse("other", &insert).run_prepared("other", &[]).sync());
            assert_eq!(reply.shape(), "12CZ", "{mode} {way:?}");
        }
    }
}

#[test]
fn answers_to_a_batch_without_sync_reach_a_client_that_sends_no_more() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let mut client = proxy.client();
    client.send(Script::new().run("SELECT 7", &[]).flush());
    sends_no_more(&client);

    assert_eq!(shape(&client.wire.until_end()), "12DC");
    proxy.until_pool("sv_idle", 1);
}

/// A pooler with one server, and a client that has it sleep.
fn asleep(setup: Setup, postgres: &Postgres) -> (Proxy, Client, String) {
    let proxy = setup.set("default_pool_size", 1).start();
    let mut client = proxy.client();
    let pid = client.pid();
    client.send(Script::new().query("SELECT pg_sleep(600)"));
    postgres.until_sleeping(&proxy.role, 1);
    (proxy, client, pid)
}

#[test]
fn a_query_whose_client_is_gone_is_cancelled_and_its_server_kept() {
    if support::beyond_pgbouncer() {
        return;
    }
    for mode in MODES {
        for way in WAYS {
            let setup = Setup::new().set("pool_mode", mode).set("abandoned_query_timeout", "0.05");
            let (proxy, client, pid) = asleep(setup, Postgres::shared());

            goes(client, way);

            until_only_idle(Postgres::shared(), &proxy.role, &pid);
            assert_eq!(proxy.client().pid(), pid, "{mode} {way:?}");
            proxy.until_log("closing because: successfully sent cancel request");
        }
    }
}

#[test]
fn an_administrator_and_the_timeouts_cost_a_query_and_not_a_server() {
    if support::beyond_pgbouncer() {
        return;
    }
    for mode in MODES {
        let (proxy, mut client, pid) = asleep(Setup::new().set("pool_mode", mode), Postgres::shared());
        let id = proxy.show("CLIENTS").cell(&[("user", &proxy.role)], "id");
        proxy.console().ok(&format!("KILL_CLIENT {id}"));
        assert_eq!(client.farewell(), "admin forced disconnect");
        until_only_idle(Postgres::shared(), &proxy.role, &pid);
        assert_eq!(proxy.client().pid(), pid);

        for setting in ["query_timeout", "transaction_timeout"] {
            let (proxy, mut client, pid) = asleep(Setup::new().set("pool_mode", mode), Postgres::shared());
            proxy.console().ok(&format!("SET {setting} = '0.1'"));
            client.farewell();
            until_only_idle(Postgres::shared(), &proxy.role, &pid);
            assert_eq!(proxy.client().pid(), pid, "{setting}");
        }

        let (proxy, mut client, _) = asleep(Setup::new().set("pool_mode", mode), Postgres::shared());
        proxy.console().ok("KILL app");
        assert_eq!(client.farewell(), "database removed");
        Postgres::shared().until_backends(&proxy.role, 0);
        proxy.until_serverless();
    }
}

#[test]
fn each_query_of_a_pipeline_that_was_left_is_cancelled() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let mut client = proxy.client();
    let pid = client.pid();
    let sleep = "SELECT pg_sleep(600)";
    client.send(Script::new().query(sleep).run(sleep, &[]).sync().query("COPY nothing FROM STDIN").query(sleep));
    Postgres::shared().until_sleeping(&proxy.role, 1);
    let id = proxy.show("CLIENTS").cell(&[("user", &proxy.role)], "id");

    proxy.console().ok(&format!("KILL_CLIENT {id}"));

    until_only_idle(Postgres::shared(), &proxy.role, &pid);
    assert_eq!(proxy.client().pid(), pid);
}

#[test]
fn a_query_on_an_encrypted_server_is_cancelled_too() {
    if support::beyond_pgbouncer() {
        return;
    }
    let setup = to_encrypted("verify-ca").set("abandoned_query_timeout", "0.05");
    let (proxy, client, pid) = asleep(setup, Postgres::encrypted());

    goes(client, Way::HangUp);

    until_only_idle(Postgres::encrypted(), &proxy.role, &pid);
    assert_eq!(proxy.client().pid(), pid);
}

#[test]
fn queries_that_were_left_count_against_the_size_of_the_pool() {
    // PgBouncer closes what was left, and has as many backends as clients came.
    if support::beyond_pgbouncer() {
        return;
    }
    let setup = Setup::new().set("default_pool_size", 5).set("abandoned_query_timeout", "0.05");
    let proxy = setup.start();
    let (role, postgres) = (proxy.role.clone(), Postgres::shared());
    let over = AtomicBool::new(false);
    let most = std::thread::scope(|scope| {
        let counting = scope.spawn(|| {
            let mut admin = postgres.admin();
            let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'");
            let mut most = 0;
            while !over.load(Relaxed) {
                most = most.max(admin.value(&sql).parse::<usize>().unwrap());
            }
            most
        });
        for round in 0..8 {
            let mut clients: Vec<Client> = (0..5).map(|_| proxy.client()).collect();
            for client in &mut clients {
                client.send(Script::new().query("SELECT pg_sleep(600)"));
            }
            // Each is at work, or in the queue behind those of rounds before.
            proxy.until("POOLS", |pools| {
                let row = pools.find(&[("database", "app"), ("user", &role)]);
                row.is_some_and(|row| row["sv_active"] != "0" || row["cl_waiting"] != "0")
            });
            for client in clients {
                goes(client, WAYS[round % 3]);
            }
        }
        proxy.until("CLIENTS", |clients| clients.find(&[("user", &role)]).is_none());
        proxy.until_pool("sv_being_canceled", 0);
        over.store(true, Relaxed);
        counting.join().unwrap()
    });
    assert!((1..=5).contains(&most), "{most} backends");
    assert_eq!(proxy.client().value("SELECT 1"), "1");
}

#[test]
fn a_server_that_was_left_is_shown_and_holds_its_place_until_cancel_wait_timeout() {
    if support::beyond_pgbouncer() {
        return;
    }
    let gate = Gate::open();
    let setup = Setup::new().through(gate.port).set("default_pool_size", 1).set("cancel_wait_timeout", 600);
    let proxy = setup.set("abandoned_query_timeout", "0.05").start();
    let mut lock = Postgres::shared().lock();
    let mut client = proxy.client();
    client.send(Script::new().query(&lock.wait()));
    lock.until_awaited(1);
    // Requests to cancel lead nowhere.
    gate.keep_new();

    goes(client, Way::HangUp);

    proxy.until_pool("sv_being_canceled", 1);
    proxy.until_pool("sv_active_cancel", 1);
    let pools = proxy.show("POOLS");
    for column in ["cl_active_cancel_req", "cl_waiting_cancel_req", "sv_active", "cl_active"] {
        assert_eq!(pools.cell(&[("database", "app"), ("user", &proxy.role)], column), "0", "{column}");
    }
    let servers = proxy.show("SERVERS");
    for state in ["being_canceled", "active_cancel"] {
        assert!(servers.find(&[("user", &proxy.role), ("state", state)]).is_some(), "{state}: {servers:?}");
    }
    let mut next = proxy.client();
    next.send(Script::new().query("SELECT 1"));
    proxy.until_pool("cl_waiting", 1);

    // What ends by itself is as good, once the request to cancel can do no harm.
    lock.release();
    proxy.until("SERVERS", |servers| servers.find(&[("state", "being_canceled")]).is_some());
    gate.drop_kept();
    assert_eq!(next.reply().value(), "1");
    proxy.until_pool("sv_being_canceled", 0);
}

#[test]
fn a_server_that_never_answers_is_closed_after_cancel_wait_timeout() {
    if support::beyond_pgbouncer() {
        return;
    }
    let gate = Gate::open();
    let setup = Setup::new().through(gate.port).set("abandoned_query_timeout", "0.05");
    let (proxy, client, pid) = asleep(setup, Postgres::shared());
    proxy.console().ok("SET cancel_wait_timeout = '0.5'");
    gate.silence();

    goes(client, Way::Terminate);

    proxy.until_log("closing because: client disconnect while server was not ready");
    proxy.until("SERVERS", |servers| servers.find(&[("remote_pid", &pid)]).is_none());
    gate.reopen();
    Postgres::shared().admin().ok(&format!("SELECT pg_terminate_backend({pid})"));
    Postgres::shared().until_backends(&proxy.role, 0);
}

#[test]
fn with_the_settings_off_a_client_that_leaves_ends_what_it_has_as_with_pgbouncer() {
    let mut setup = Setup::new().set("default_pool_size", 1);
    if !support::proxy::is_pgbouncer() {
        setup = setup.set("abandoned_query_timeout", 0).set("cancel_abandoned_queries", 0);
    }
    let (proxy, client, pid) = asleep(setup, Postgres::shared());
    let (table, mut waiter) = (table(&proxy), proxy.client());
    waiter.send(Script::new().query(&format!("INSERT INTO {table} VALUES (1)")));
    proxy.until_pool("cl_waiting", 1);

    goes(waiter, Way::HangUp);
    proxy.until_pool("cl_waiting", 0);
    goes(client, Way::HangUp);

    proxy.until_log("closing because: client disconnect while server was not ready");
    proxy.until("SERVERS", |servers| servers.find(&[("remote_pid", &pid)]).is_none());
    assert_eq!(proxy.client().value(&format!("SELECT count(*) FROM {table}")), "0");
    Postgres::shared().end(&pid);
}

/// A client that runs a query until the lock is let go and has left; requests to cancel lead nowhere.
fn stuck(setup: Setup) -> (Gate, Proxy, Lock) {
    let gate = Gate::open();
    let setup = setup.set("cancel_wait_timeout", 600).set("abandoned_query_timeout", "0.05");
    let proxy = setup.through(gate.port).set("default_pool_size", 2).start();
    let mut lock = Postgres::shared().lock();
    let mut client = proxy.client();
    client.send(Script::new().query(&lock.wait()));
    lock.until_awaited(1);
    gate.keep_new();
    goes(client, Way::Terminate);
    proxy.until_pool("sv_being_canceled", 1);
    (gate, proxy, lock)
}

#[test]
fn nothing_waits_for_a_server_that_was_left_but_a_pause() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (gate, proxy, mut lock) = stuck(Setup::new());
    let mut console = proxy.console();
    console.ok("SUSPEND");
    console.ok("RESUME");
    console.send(Script::new().query("PAUSE"));
    proxy.until("STATE", |state| state.cell(&[("key", "paused")], "value") == "yes");
    assert!(!console.wire.stirs_within(Duration::from_millis(100)), "it runs on a server of the pool");
    lock.release();
    gate.drop_kept();
    assert!(console.reply().error().is_none());
    Postgres::shared().until_backends(&proxy.role, 0);

    for signal in [Signal::INT, Signal::TERM] {
        let (_gate, proxy, _lock) = stuck(Setup::new());
        proxy.signal(signal);
        assert!(proxy.wait().success(), "{signal:?}");
    }
}

#[test]
fn a_server_that_was_left_is_not_handed_over() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (gate, proxy, _lock) = stuck(Setup::new().set("unix_socket_dir", "@DIR@"));
    gate.reopen();

    proxy.reboot();

    assert!(proxy.show("SERVERS").find(&[("state", "being_canceled")]).is_none());
    assert_eq!(proxy.client().value("SELECT 1"), "1");
}

#[test]
fn a_server_marked_to_be_closed_is_closed_when_its_query_is_cancelled() {
    if support::beyond_pgbouncer() {
        return;
    }
    let setup = Setup::new().set("abandoned_query_timeout", "0.05");
    let (proxy, client, pid) = asleep(setup, Postgres::shared());
    let mut console = proxy.console();
    console.ok("RECONNECT app");
    console.send(Script::new().query("WAIT_CLOSE app"));

    goes(client, Way::Terminate);

    assert!(console.reply().error().is_none());
    assert_ne!(proxy.client().pid(), pid);
    Postgres::shared().until_backends(&proxy.role, 1);
}

#[test]
fn a_client_that_lives_on_is_shown_and_counted_until_it_is_served() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Setup::new().set("abandoned_query_timeout", 600).set("max_client_conn", 1).start();
    let mut lock = Postgres::shared().lock();
    let mut client = proxy.client();
    client.send(Script::new().query(&lock.wait()).terminate());
    lock.until_awaited(1);
    drop(client);

    proxy.until("CLIENTS", |clients| clients.find(&[("user", &proxy.role), ("state", "active")]).is_some());
    assert_eq!(proxy.login().refusal(), "no more connections allowed (max_client_conn)");

    lock.release();
    proxy.until("CLIENTS", |clients| clients.find(&[("user", &proxy.role)]).is_none());
    assert_eq!(proxy.client().value("SELECT 1"), "1");
    let log = proxy.log();
    let of_role = format!("app/{}@", proxy.role);
    let ends = log.lines().filter(|line| line.contains(&of_role) && line.contains("client close request"));
    assert_eq!(ends.count(), 1, "{log}");
}
