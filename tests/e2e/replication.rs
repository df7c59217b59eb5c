//! Replication connections: base backups, WAL and logical streams through the pooler, to their good ends and bad ones.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::support::tools::{Running, postgres_tool};
use crate::support::warden::warden;
use crate::support::{self, Client, Gate, Login, Postgres, Proxy, Script, Setup, Wire, eventually};

/// A transaction pool whose role may replicate. Some programs ask for the database `replication` by themselves.
fn setup() -> Setup {
    let setup = Setup::new().database("replication", "").database("app", "");
    Postgres::shared().admin().ok(&format!("ALTER ROLE {} REPLICATION", setup.role()));
    setup
}

fn conninfo(proxy: &Proxy) -> String {
    format!("host=127.0.0.1 port={} user={} dbname=app", proxy.port, proxy.role)
}

fn logical(proxy: &Proxy) -> Login {
    proxy.login().parameter("replication", "database")
}

fn physical(proxy: &Proxy) -> Login {
    proxy.login().parameter("replication", "true")
}

/// A place of its own for what a program writes.
fn scratch(proxy: &Proxy, name: &str) -> PathBuf {
    warden().dir().join(format!("{name}-{}", proxy.role))
}

/// A replication slot of the test's own, gone when the test is over.
struct Slot(String);

impl Slot {
    fn physical(proxy: &Proxy) -> Slot {
        let name = format!("physical_{}", proxy.role);
        Postgres::shared().admin().ok(&format!("SELECT pg_create_physical_replication_slot('{name}', true)"));
        Slot(name)
    }

    fn logical(proxy: &Proxy) -> Slot {
        let name = format!("logical_{}", proxy.role);
        let sql = format!("SELECT pg_create_logical_replication_slot('{name}', 'test_decoding')");
        Postgres::shared().admin().ok(&sql);
        Slot(name)
    }

    /// Waits until somebody streams from it, or nobody does.
    #[track_caller]
    fn until_active(&self, active: bool) {
        let mut admin = Postgres::shared().admin();
        let sql = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{}'", self.0);
        let wanted = if active { "t" } else { "f" };
        eventually("the slot is in use, or free", || (admin.value(&sql) == wanted).then_some(()));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let drop = format!("SELECT pg_drop_replication_slot('{}')", self.0);
        let mut admin = Postgres::shared().admin();
        // After a failed test its walsender may not have noticed yet.
        let _ = admin.query(&drop);
    }
}

/// pg_recvlogical from this slot, writing to this file.
fn receive_logical(proxy: &Proxy, slot: &Slot, file: &std::path::Path) -> Running {
    let running = Running::start(
        "pg_recvlogical",
        &[
            "-d",
            &conninfo(proxy),
            "-S",
            &slot.0,
            "-f",
            file.to_str().unwrap(),
            "--start",
            "--no-loop",
            "--fsync-interval=0",
            "--status-interval=1",
        ],
    );
    slot.until_active(true);
    running
}

/// Waits until the stream in this file has the text.
#[track_caller]
fn until_received(file: &std::path::Path, text: &str) {
    eventually(&format!("{text:?} is received"), || fs::read_to_string(file).ok()?.contains(text).then_some(()));
}

#[test]
fn a_base_backup_with_its_wal_streamed_or_fetched() {
    let proxy = setup().start();

    for method in ["stream", "fetch"] {
        let dir = scratch(&proxy, method);
        let arguments = ["-d", &conninfo(&proxy), "-D", dir.to_str().unwrap(), "-X", method, "-c", "fast", "--no-sync"];
        postgres_tool("pg_basebackup", &arguments).ok();

        assert!(dir.join("backup_label").exists() && dir.join("PG_VERSION").exists(), "{method}");
        let wal = fs::read_dir(dir.join("pg_wal")).unwrap().count();
        assert!(wal > 1, "{method}: the WAL came along");
        fs::remove_dir_all(&dir).unwrap();
        proxy.until_serverless();
    }
}

#[test]
fn wal_is_received_by_a_slot_and_the_columns_tell_of_it() {
    let proxy = setup().set("application_name_add_host", 0).start();
    let (slot, dir) = (Slot::physical(&proxy), scratch(&proxy, "wal"));
    fs::create_dir(&dir).unwrap();

    let arguments = ["-d", &conninfo(&proxy), "-S", &slot.0, "-D", dir.to_str().unwrap(), "--synchronous"];
    let mut receiver = Running::start("pg_receivewal", &arguments);
    slot.until_active(true);
    let mut admin = Postgres::shared().admin();
    let lsn = admin.value("SELECT pg_logical_emit_message(false, 'e2e', 'for the receiver')");
    let flushed = format!("SELECT restart_lsn >= '{lsn}' FROM pg_replication_slots WHERE slot_name = '{}'", slot.0);
    eventually("the receiver has written it and said so", || (admin.value(&flushed) == "t").then_some(()));

    for what in ["CLIENTS", "SERVERS"] {
        let table = proxy.show(what);
        let wanted = [("user", proxy.role.as_str()), ("database", "replication")];
        assert_eq!(table.cell(&wanted, "replication"), "physical", "{what}");
        assert_eq!(table.cell(&wanted, "state"), "active", "{what}");
        assert_eq!(table.cell(&wanted, "application_name"), "pg_receivewal", "{what}");
    }
    proxy.until_log(&format!("login attempt: db=replication user={} tls=no replication=yes", proxy.role));

    assert!(receiver.end(Signal::INT), "it ends in good order, both sides having said CopyDone");
    slot.until_active(false);
    proxy.until_serverless();
}

#[test]
fn several_streams_at_once_beside_ordinary_clients() {
    let proxy = setup().set("default_pool_size", 4).start();
    let slot = Slot::logical(&proxy);
    let second = Slot(format!("{}_second", slot.0));
    let mut admin = Postgres::shared().admin();
    admin.ok(&format!("SELECT pg_create_logical_replication_slot('{}', 'test_decoding')", second.0));
    let table = format!("streamed_{}", proxy.role);
    admin.ok(&format!("CREATE TABLE {table} (n int); GRANT ALL ON {table} TO PUBLIC"));
    let files = [scratch(&proxy, "one"), scratch(&proxy, "two")];
    let mut receivers = [receive_logical(&proxy, &slot, &files[0]), receive_logical(&proxy, &second, &files[1])];

    for number in 0..20 {
        proxy.client().ok(&format!("INSERT INTO {table} VALUES ({number})"));
    }

    for file in &files {
        until_received(file, &format!("table public.{table}: INSERT: n[integer]:19"));
    }
    let servers = proxy.show("SERVERS");
    let all = |kind| servers.all(&[("user", proxy.role.as_str()), ("replication", kind)]).len();
    assert_eq!((all("logical"), all("none")), (2, 1), "{servers:?}");
    for receiver in &mut receivers {
        assert!(receiver.end(Signal::INT));
    }
    drop(second);
    proxy.until_pool("sv_active", 0);
}

#[test]
fn a_client_that_is_killed_takes_its_server_along() {
    let proxy = setup().start();
    let slot = Slot::logical(&proxy);
    let mut receiver = receive_logical(&proxy, &slot, &scratch(&proxy, "killed"));

    receiver.end(Signal::KILL);

    slot.until_active(false);
    proxy.until_serverless();
    Postgres::shared().until_backends(&proxy.role, 0);
}

#[test]
fn when_the_server_dies_the_client_is_told() {
    let proxy = setup().start();
    let mut client = logical(&proxy).client();
    let pid = client.pid();

    Postgres::shared().end(&pid);

    let last = client.reply_until(b"E");
    assert_eq!(last.error_message(), "terminating connection due to administrator command");
    proxy.until_serverless();
    let slot = Slot::logical(&proxy);
    let mut receiver = receive_logical(&proxy, &slot, &scratch(&proxy, "orphan"));
    let sql = format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{}'", slot.0);
    let pid = Postgres::shared().admin().value(&sql);
    Postgres::shared().end(&pid);
    assert!(!receiver.wait(), "with --no-loop a lost stream is a failure");
    proxy.until_serverless();
}

#[test]
fn a_slow_reader_costs_two_buffers_not_the_backup() {
    let proxy = setup().start();
    let mut client = physical(&proxy).client();
    let before = proxy.data_kib();

    client.send(Script::new().query("BASE_BACKUP (LABEL 'slow', CHECKPOINT 'fast', WAIT false)"));
    client.reply_until(b"H");
    let mut admin = Postgres::shared().admin();
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = '{}' AND wait_event IN ('ClientWrite', 'WalSenderWriteData')",
        proxy.role
    );
    eventually("PostgreSQL cannot send more", || (admin.value(&sql) == "1").then_some(()));
    let grown = proxy.data_kib() - before;
    assert!(grown < 4_000, "{grown} KiB are held for a client that does not read");

    let (bytes, _) = client.wire.skim();
    assert!(bytes > 10_000_000, "the whole backup comes once it is read: {bytes} bytes");
    assert_eq!(client.query("IDENTIFY_SYSTEM").shape(), "TDCZ");
}

#[test]
fn after_a_stream_both_sides_have_ended_the_session_goes_on() {
    let proxy = setup().start();
    let mut client = physical(&proxy).client();
    let lsn = client.query("IDENTIFY_SYSTEM").rows()[0][2].clone().unwrap();

    for _ in 0..2 {
        client.send(Script::new().query(&format!("START_REPLICATION PHYSICAL {lsn}")));
        assert_eq!(client.reply_until(b"W").shape(), "W");
        client.send(Script::new().copy_done());
        let end = client.reply();
        let shape = end.shape();
        assert_eq!(shape.trim_start_matches('d'), "cCCZ", "each CopyDone, and what has ended");
        assert_eq!((end.tags()[0].as_str(), end.status()), ("START_STREAMING", 'I'));
    }
    assert_eq!(client.query("IDENTIFY_SYSTEM").shape(), "TDCZ");
    let refused = client.query("START_REPLICATION SLOT nonesuch LOGICAL 0/0");
    assert_eq!(refused.shape(), "EZ");
    assert_eq!(client.query("IDENTIFY_SYSTEM").shape(), "TDCZ");

    client.leave();
    proxy.until_serverless();
}

#[test]
fn options_and_parameters_reach_the_server_as_they_are() {
    let proxy = setup().start();

    for login in [logical(&proxy), physical(&proxy)] {
        let mut client = login
            .parameter("application_name", "standby one")
            .parameter("options", "-c enable_seqscan=off --work-mem=77kB -cextra_float_digits=3")
            .parameter("DateStyle", "German, DMY")
            .client();
        for (name, value) in [
            ("application_name", "standby one"),
            ("enable_seqscan", "off"),
            ("work_mem", "77kB"),
            ("extra_float_digits", "3"),
            ("DateStyle", "German, DMY"),
        ] {
            assert_eq!(client.value(&format!("SHOW {name}")), value);
        }
        client.leave();
    }
}

#[test]
fn the_greeting_tells_what_this_server_reports() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = setup().start();
    proxy.client().ok("SELECT 1");

    let client = logical(&proxy).parameter("options", "-c datestyle=German").client();

    assert_eq!(client.parameters["DateStyle"], "German, DMY");
}

#[test]
fn a_statement_pool_is_a_session_to_replication() {
    let proxy = setup().set("pool_mode", "statement").start();
    let mut client = logical(&proxy).client();

    client.ok("SET work_mem = '99kB'");
    assert_eq!(client.query("BEGIN").status(), 'T');
    client.ok("COMMIT");
    assert_eq!(client.value("SHOW work_mem"), "99kB");

    let reply = client.run(Script::new().run("SELECT $1::int + 1", &["41"]).sync());
    assert!(reply.is_ready());
}

#[test]
fn each_has_its_own_server_within_the_pool_s_size() {
    let proxy = setup().set("default_pool_size", 2).start();
    let mut clients = [logical(&proxy).client(), logical(&proxy).client()];
    let pids = clients.each_mut().map(Client::pid);
    assert_ne!(pids[0], pids[1]);
    let login = logical(&proxy);
    let third = std::thread::spawn(move || {
        let mut client = login.client();
        (client.pid(), client)
    });
    proxy.until_pool("cl_waiting", 1);

    let [first, _second] = clients;
    first.leave();

    let (pid, _third) = third.join().unwrap();
    assert!(!pids.contains(&pid), "a server is never used twice");
    proxy.until_pool("sv_active", 2);
}

#[test]
fn a_pool_full_of_idle_servers_makes_room() {
    let proxy = setup().set("default_pool_size", 2).start();
    let mut clients = [proxy.client(), proxy.client()];
    for client in &mut clients {
        client.ok("BEGIN");
    }
    for client in &mut clients {
        client.ok("COMMIT");
    }
    proxy.until_pool("sv_idle", 2);

    let mut client = logical(&proxy).client();
    client.ok("SELECT 1");

    proxy.until_log("closing because: evicted");
    assert_eq!(clients[0].value("SELECT 1"), "1", "the other one serves on");
}

#[test]
fn a_cancel_request_stops_its_query() {
    let proxy = setup().start();
    let mut client = logical(&proxy).client();
    client.send(Script::new().query("SELECT pg_sleep(60)"));
    Postgres::shared().until_sleeping(&proxy.role, 1);

    let mut wire = Wire::tcp(proxy.port);
    wire.send(Script::untagged(&[&80_877_102u32.to_be_bytes(), client.key.as_slice()].concat()));
    wire.until_end();

    let reply = client.reply();
    assert_eq!((reply.error().unwrap()[&'C'].as_str(), reply.status()), ("57014", 'I'));
    client.ok("SELECT 1");
}

#[test]
fn a_role_that_may_not_replicate_is_told_so_and_disturbs_nobody() {
    let proxy = Setup::new().start();
    let mut other = proxy.client();
    other.ok("SELECT 1");

    let refusal = match logical(&proxy).attempt() {
        Err(refusal) => refusal.message(),
        // PgBouncer tells at the first query.
        Ok(mut client) => client.query("IDENTIFY_SYSTEM").error_message(),
    };

    assert_eq!(refusal, "login failed");
    proxy.until_log("must be superuser or replication role to start walsender");
    eventually("the log tells of both, server and client", || {
        (proxy.log().matches("closing because: login failed (age=").count() == 2).then_some(())
    });
    other.ok("SELECT 1");
    proxy.client().ok("SELECT 1");
}

#[test]
fn why_a_server_refuses_is_in_the_detail() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Setup::new().start();

    let Err(refusal) = logical(&proxy).attempt() else { panic!("it may not") };

    let fields = refusal.seen.last().unwrap().fields();
    assert_eq!(fields[&'C'], "42501");
    assert!(fields[&'D'].contains("replication role"), "{fields:?}");
}

#[test]
fn reconnect_ends_a_stream_at_once() {
    let proxy = setup().start();
    let mut client = logical(&proxy).client();
    client.ok("SELECT 1");

    proxy.console().ok("RECONNECT app");

    assert_eq!(client.farewell(), "database configuration changed");
    proxy.until_serverless();
    proxy.console().ok("WAIT_CLOSE app");
}

#[test]
fn kill_ends_a_stream() {
    let proxy = setup().start();
    let slot = Slot::logical(&proxy);
    let mut receiver = receive_logical(&proxy, &slot, &scratch(&proxy, "ended"));

    proxy.console().ok("KILL app");

    assert!(!receiver.wait());
    slot.until_active(false);
    proxy.until_serverless();
}

#[test]
fn pause_waits_for_it_and_lets_no_new_one_begin() {
    let proxy = setup().start();
    let mut client = logical(&proxy).client();
    client.ok("SELECT 1");
    let mut console = proxy.console();
    console.send(Script::new().query("PAUSE app"));
    proxy.until("DATABASES", |table| table.cell(&[("name", "app")], "paused") == "1");
    client.ok("SELECT 1");
    let login = logical(&proxy);
    let late = std::thread::spawn(move || login.client().ok("SELECT 1"));
    proxy.until_pool("cl_waiting", 1);
    assert!(!console.wire.stirs_within(std::time::Duration::from_millis(20)), "PAUSE waits for the session");

    client.leave();

    assert_eq!(console.reply().tags(), ["PAUSE"]);
    proxy.console().ok("RESUME app");
    late.join().unwrap();
}

#[test]
fn sigterm_waits_for_the_stream_to_end() {
    let proxy = setup().start();
    let slot = Slot::logical(&proxy);
    let file = scratch(&proxy, "terminated");
    let mut receiver = receive_logical(&proxy, &slot, &file);

    proxy.signal(Signal::TERM);
    proxy.until_log("got SIGTERM");
    let table = format!("late_{}", proxy.role);
    Postgres::shared().admin().ok(&format!("CREATE TABLE {table} (n int); INSERT INTO {table} VALUES (7)"));
    until_received(&file, &format!("table public.{table}: INSERT: n[integer]:7"));
    assert!(proxy.try_wait().is_none());

    assert!(receiver.end(Signal::INT));
    proxy.wait();
    slot.until_active(false);
}

#[test]
fn who_leaves_while_the_server_logs_in_takes_that_along() {
    if support::beyond_pgbouncer() {
        return;
    }
    let gate = Gate::open();
    let proxy = setup().set("server_connect_timeout", 0).through(gate.port).start();
    gate.silence();
    let mut wire = Wire::tcp(proxy.port);
    wire.send(logical(&proxy).startup());
    eventually("the server is called", || (gate.accepted() == 1).then_some(()));
    proxy.until_pool("sv_login", 1);

    drop(wire);

    proxy.until_pool("cl_waiting", 0);
    proxy.until_pool("sv_login", 0);
}

#[test]
fn query_timeout_counts_from_what_the_client_last_sent() {
    let proxy = setup().set("query_timeout", 1).start();
    let mut client = physical(&proxy).client();
    let lsn = client.query("IDENTIFY_SYSTEM").rows()[0][2].clone().unwrap();
    client.send(Script::new().query(&format!("START_REPLICATION PHYSICAL {lsn}")));
    assert_eq!(client.reply_until(b"W").shape(), "W");

    // What others write streams by. In the middle of a message nothing can be said to the client.
    client.wire.rest();

    proxy.until_log("pooler error: query timeout");
    proxy.until_serverless();
}
