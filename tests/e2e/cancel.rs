//! Cancel requests: they stop the query they are meant for, and never another's.

use std::time::Duration;

use crate::support::postgres::Lock;
use crate::support::{self, Client, Gate, Postgres, Proxy, Script, Setup, Wire};

/// The packet that cancels what this client is doing.
pub(crate) fn cancel_packet(client: &Client) -> Vec<u8> {
    Script::untagged(&[&80_877_102u32.to_be_bytes(), client.key.as_slice()].concat())
}

/// Sends a cancel request and waits until the pooler has hung up, which it does when the request is dealt with.
pub(crate) fn cancel(proxy: &Proxy, packet: &[u8]) {
    let mut wire = Wire::tcp(proxy.port);
    wire.send(packet);
    assert!(wire.until_end().is_empty(), "a cancel request is never answered");
}

#[test]
fn a_cancel_request_stops_the_query_of_its_client() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let mut client = proxy.client();
    client.send(Script::new().query("SELECT pg_sleep(60)"));
    Postgres::shared().until_sleeping(&proxy.role, 1);

    cancel(&proxy, &cancel_packet(&client));

    let reply = client.reply();
    assert_eq!(reply.error().unwrap()[&'C'], "57014");
    assert_eq!(reply.status(), 'I');
    assert_eq!(client.value("SELECT 1"), "1");
    proxy.until_pool("sv_idle", 1);
}

#[test]
fn of_many_busy_clients_only_the_right_one_is_cancelled() {
    let proxy = Setup::new().set("default_pool_size", 5).start();
    let mut clients: Vec<Client> = (0..5).map(|_| proxy.client()).collect();
    let mut lock = Postgres::shared().lock();
    for client in &mut clients {
        client.send(Script::new().query(&lock.wait()));
    }
    lock.until_awaited(5);

    cancel(&proxy, &cancel_packet(&clients[3]));

    lock.until_awaited(4);
    lock.release();
    let outcomes: Vec<bool> = clients.iter_mut().map(|client| client.reply().error().is_some()).collect();
    assert_eq!(outcomes, [false, false, false, true, false]);
}

#[test]
fn a_cancel_request_may_follow_a_declined_encryption_request() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    client.send(Script::new().query("SELECT pg_sleep(60)"));
    Postgres::shared().until_sleeping(&proxy.role, 1);
    let mut wire = Wire::tcp(proxy.port);
    wire.send(Script::untagged(&80_877_103u32.to_be_bytes()));
    assert_eq!(wire.byte(), b'N');

    wire.send(cancel_packet(&client));

    assert!(wire.until_end().is_empty());
    assert_eq!(client.reply().error().unwrap()[&'C'], "57014");
}

#[test]
fn a_key_nobody_has_cancels_nothing() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let mut client = proxy.client();
    let mut lock = Postgres::shared().lock();
    client.send(Script::new().query(&lock.wait()));
    lock.until_awaited(1);

    let mut packet = cancel_packet(&client);
    *packet.last_mut().unwrap() ^= 0x10;
    cancel(&proxy, &packet);
    cancel(&proxy, &Script::untagged(&[&80_877_102u32.to_be_bytes(), [0; 8].as_slice()].concat()));

    lock.release();
    assert!(client.reply().error().is_none());
}

#[test]
fn the_cancel_of_an_idle_client_hits_nobody() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let (mut idle, mut busy) = (proxy.client(), proxy.client());
    for _ in 0..20 {
        assert_eq!(idle.value("SELECT 1"), "1");
        busy.send(Script::new().query("SELECT pg_sleep(0.02)"));

        cancel(&proxy, &cancel_packet(&idle));

        let reply = busy.reply();
        assert!(reply.error().is_none(), "{reply:?}");
    }
    assert_eq!(idle.value("SELECT 1"), "1");
}

#[test]
fn a_cancel_that_comes_too_late_never_hits_the_next_client() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let (mut one, mut next) = (proxy.client(), proxy.client());
    for round in 0..60 {
        // The first query ends about when the cancel request reaches the server; the second waits for that server.
        let sleep = Duration::from_micros(500 + 150 * (round % 20));
        one.send(Script::new().query(&format!("SELECT pg_sleep({})", sleep.as_secs_f64())));
        next.send(Script::new().query("SELECT pg_sleep(0.01)"));
        let mut wire = Wire::tcp(proxy.port);
        wire.send(cancel_packet(&one));

        one.reply();
        let reply = next.reply();
        assert!(reply.error().is_none(), "round {round}: {reply:?}");
        assert!(wire.until_end().is_empty());
    }
}

#[test]
fn a_full_pool_still_cancels() {
    let proxy = Setup::new().set("default_pool_size", 2).set("max_db_connections", 2).start();
    let mut clients: Vec<Client> = (0..2).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send(Script::new().query("SELECT pg_sleep(60)"));
    }
    Postgres::shared().until_sleeping(&proxy.role, 2);

    let packets: Vec<Vec<u8>> = clients.iter().map(cancel_packet).collect();
    packets.iter().for_each(|packet| cancel(&proxy, packet));

    for client in &mut clients {
        assert_eq!(client.reply().error().unwrap()[&'C'], "57014");
    }
}

#[test]
fn a_cancel_that_cannot_be_delivered_is_given_up_after_cancel_wait_timeout() {
    // PgBouncer gives up on a connection that is not made, not on a server that takes the request and stays silent.
    if support::beyond_pgbouncer() {
        return;
    }
    let gate = Gate::open();
    let proxy = Setup::new().through(gate.port).set("cancel_wait_timeout", 1).start();
    let mut client = proxy.client();
    client.send(Script::new().query("SELECT pg_sleep(60)"));
    Postgres::shared().until_sleeping(&proxy.role, 1);
    gate.silence();

    let mut wire = Wire::tcp(proxy.port);
    wire.send(cancel_packet(&client));
    wire.until_end();

    proxy.until_log("closing because: cancel_wait_timeout");
    gate.cut();
}

#[test]
fn malformed_cancel_requests_harm_nothing() {
    let proxy = Proxy::start();
    for body in
        [&[4u8, 210, 22, 46][..], &[4, 210, 22, 46, 1, 2, 3], &[[4, 210, 22, 46].as_slice(), &[0; 300]].concat()]
    {
        let mut wire = Wire::tcp(proxy.port);
        wire.send(Script::untagged(body));
        wire.until_end();
    }
    assert_eq!(proxy.client().value("SELECT 1"), "1");
}

/// A pooler before a gate, a client whose query runs until a lock is let go, and the gate leaving unserved what comes
/// from now on: the connections that carry requests to cancel.
fn behind_a_gate() -> (Gate, Proxy, Client, Lock) {
    let gate = Gate::open();
    let setup = Setup::new().through(gate.port).set("default_pool_size", 1).set("cancel_wait_timeout", 600);
    let proxy = setup.start();
    let mut client = proxy.client();
    let mut lock = Postgres::shared().lock();
    client.send(Script::new().query(&lock.wait()));
    lock.until_awaited(1);
    gate.keep_new();
    (gate, proxy, client, lock)
}

/// Sends a request to cancel and leaves the connection open.
fn send_cancel(proxy: &Proxy, client: &Client) -> Wire {
    let mut wire = Wire::tcp(proxy.port);
    wire.send(cancel_packet(client));
    wire
}

#[test]
fn requests_and_their_connections_are_shown() {
    let (gate, proxy, client, _lock) = behind_a_gate();
    let mut first = send_cancel(&proxy, &client);
    proxy.until_pool("sv_active_cancel", 1);

    let mut second = send_cancel(&proxy, &client);
    proxy.until_pool("cl_waiting_cancel_req", 1);

    let role = proxy.role.as_str();
    let pool = [("database", "app"), ("user", role)];
    let pools = proxy.show("POOLS");
    for (column, value) in [
        ("cl_active", "1"),
        ("cl_active_cancel_req", "1"),
        ("cl_waiting_cancel_req", "1"),
        ("sv_active", "1"),
        ("sv_active_cancel", "1"),
        ("sv_being_canceled", "0"),
        ("sv_login", "0"),
    ] {
        assert_eq!(pools.cell(&pool, column), value, "{column}");
    }
    let clients = proxy.show("CLIENTS");
    let nobody = |state| [("type", "C"), ("user", "(nouser)"), ("database", "app"), ("state", state)];
    let active = clients.find(&nobody("active_cancel_req")).expect("the first is on its way");
    let waiting = clients.find(&nobody("waiting_cancel_req")).expect("the second waits");
    assert_eq!(waiting["link"], "");
    let servers = proxy.show("SERVERS");
    let carrier = servers.find(&[("state", "active_cancel"), ("database", "app"), ("user", role)]).unwrap();
    assert_eq!((&carrier["link"], &carrier["ptr"]), (&active["ptr"], &active["link"]));
    assert_eq!(proxy.show("DATABASES").cell(&[("name", "app")], "current_connections"), "2");

    gate.reopen();
    gate.drop_kept();
    assert!(first.until_end().is_empty() && second.until_end().is_empty());
    proxy.until("POOLS", |pools| {
        let row = pools.find(&pool).unwrap();
        ["cl_active_cancel_req", "cl_waiting_cancel_req", "sv_active_cancel"].iter().all(|column| row[*column] == "0")
    });
    proxy.until_log("closing because: successfully sent cancel request");
}

#[test]
fn a_server_is_kept_back_while_a_request_for_it_is_on_its_way() {
    let (gate, proxy, mut client, mut lock) = behind_a_gate();
    let mut request = send_cancel(&proxy, &client);
    proxy.until_pool("sv_active_cancel", 1);

    lock.release();
    assert!(client.reply().error().is_none());
    proxy.until_pool("sv_being_canceled", 1);
    let mut next = proxy.client();
    next.send(Script::new().query("SELECT 1"));
    proxy.until_pool("cl_waiting", 1);

    gate.drop_kept();
    assert_eq!(next.reply().value(), "1");
    assert!(request.until_end().is_empty());
    proxy.until_pool("sv_idle", 1);
}

#[test]
fn a_request_in_line_is_dropped_when_what_it_is_for_has_ended() {
    let (gate, proxy, mut client, mut lock) = behind_a_gate();
    let mut first = send_cancel(&proxy, &client);
    proxy.until_pool("sv_active_cancel", 1);
    let mut second = send_cancel(&proxy, &client);
    proxy.until_pool("cl_waiting_cancel_req", 1);
    lock.release();
    assert!(client.reply().error().is_none());
    proxy.until_pool("sv_being_canceled", 1);

    gate.reopen();
    gate.drop_kept();
    let mut next = proxy.client();
    assert!(next.query("SELECT pg_sleep(0.2)").error().is_none());

    assert!(first.until_end().is_empty() && second.until_end().is_empty());
    proxy.until_log("not sending cancel request for client that is now idle");
}

#[test]
fn a_request_that_finds_no_room_is_given_up_after_cancel_wait_timeout() {
    let (_gate, proxy, client, _lock) = behind_a_gate();
    let _first = send_cancel(&proxy, &client);
    proxy.until_pool("sv_active_cancel", 1);
    proxy.console().ok("SET cancel_wait_timeout = 1");

    let mut second = send_cancel(&proxy, &client);

    assert!(second.until_end().is_empty());
    proxy.until_log("closing because: cancel_wait_timeout");
    proxy.until_pool("cl_waiting_cancel_req", 0);
}

#[test]
fn a_request_that_waits_can_be_killed() {
    let (_gate, proxy, client, _lock) = behind_a_gate();
    let _first = send_cancel(&proxy, &client);
    proxy.until_pool("sv_active_cancel", 1);
    let mut second = send_cancel(&proxy, &client);
    let clients = proxy.until("CLIENTS", |clients| clients.find(&[("state", "waiting_cancel_req")]).is_some());
    let id = clients.cell(&[("state", "waiting_cancel_req")], "id");

    proxy.console().ok(&format!("KILL_CLIENT {id}"));

    second.until_end();
    proxy.until_pool("cl_waiting_cancel_req", 0);
}

#[test]
fn a_request_does_not_stop_the_preparations_of_a_server() {
    let gate = Gate::open();
    let proxy = Setup::new().through(gate.port).set("default_pool_size", 1).start();
    assert_eq!(proxy.login().parameter("application_name", "one").client().value("SELECT 1"), "1");
    let mut client = proxy.login().parameter("application_name", "other").client();
    gate.silence();
    client.send(Script::new().query("SHOW application_name"));
    proxy.until_pool("sv_active", 1);

    cancel(&proxy, &cancel_packet(&client));

    proxy.until_log("ignoring cancel request for server that is setting vars");
    gate.reopen();
    assert_eq!(client.reply().value(), "other");
}

#[test]
fn a_cancel_request_ends_a_pause_that_the_console_waits_for() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let mut busy = proxy.client();
    busy.ok("BEGIN");
    let mut console = proxy.console();
    assert_ne!(console.key, proxy.console().key, "each client of the console has a key of its own");
    console.send(Script::new().query("PAUSE"));
    proxy.until("STATE", |state| state.cell(&[("key", "paused")], "value") == "yes");

    cancel(&proxy, &cancel_packet(&console));

    proxy.until("STATE", |state| state.cell(&[("key", "active")], "value") == "yes");
    busy.ok("COMMIT");
    assert_eq!(proxy.client().value("SELECT 1"), "1");
    // PgBouncer resumes, but leaves its client waiting.
    if support::beyond_pgbouncer() {
        return;
    }
    assert_eq!(console.reply().error().unwrap()[&'C'], "57014");
    assert!(console.ok("SHOW VERSION").is_ready());
}

#[test]
fn a_cancel_request_ends_the_wait_for_servers_to_close() {
    // PgBouncer does nothing then.
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let mut busy = proxy.client();
    busy.ok("BEGIN");
    let mut console = proxy.console();
    console.ok("RECONNECT app");
    console.send(Script::new().query("WAIT_CLOSE app"));
    proxy.until_log("WAIT_CLOSE 'app' command issued");

    cancel(&proxy, &cancel_packet(&console));

    assert_eq!(console.reply().error().unwrap()[&'C'], "57014");
    busy.ok("COMMIT");
}

#[test]
fn a_cancel_request_for_an_idle_console_is_only_noted() {
    let proxy = Proxy::start();
    let mut console = proxy.console();

    cancel(&proxy, &cancel_packet(&console));

    proxy.until_log("admin cancel request for non-waiting client?");
    assert!(console.ok("SHOW VERSION").is_ready());
}

/// A pool of one server, which is in use, a client that waits for it with this request, and a table with one column.
fn queued(script: Script) -> (Proxy, Client, Client) {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let (mut holder, mut client) = (proxy.client(), proxy.client());
    holder.ok("BEGIN");
    if !script.as_ref().is_empty() {
        client.send(script);
        proxy.until_pool("cl_waiting", 1);
    }
    (proxy, holder, client)
}

/// Something that leaves a trace where it is run: the session has a name then.
const MARK: &str = "SELECT set_config('application_name', 'it was run', false)";

/// The server has not run [`MARK`], and works.
#[track_caller]
fn unmarked(proxy: &Proxy, holder: &mut Client) {
    proxy.until_pool("cl_waiting", 0);
    assert_ne!(holder.value("SHOW application_name"), "it was run");
    holder.ok("COMMIT");
    assert_ne!(proxy.client().value("SHOW application_name"), "it was run");
}

#[test]
fn a_query_in_the_queue_is_cancelled_at_once_and_never_run() {
    // PgBouncer passes over the request, and runs the query when its turn comes.
    if support::beyond_pgbouncer() {
        return;
    }
    let (proxy, mut holder, mut client) = queued(Script::new().query(MARK));

    cancel(&proxy, &cancel_packet(&client));

    let reply = client.reply();
    let error = reply.error().unwrap();
    assert_eq!((error[&'S'].as_str(), error[&'C'].as_str()), ("ERROR", "57014"));
    assert_eq!(error[&'M'], "canceling statement due to user request");
    assert_eq!((reply.shape().as_str(), reply.status()), ("EZ", 'I'));
    proxy.until_log("closing because: cancel request for client in the queue");
    unmarked(&proxy, &mut holder);
    assert_eq!(client.value("SELECT 1"), "1");
    // Nothing of it is left for the next wait.
    let mut holder = proxy.client();
    holder.ok("BEGIN");
    client.send(Script::new().query("SELECT 2"));
    proxy.until_pool("cl_waiting", 1);
    holder.ok("COMMIT");
    assert_eq!(client.reply().value(), "2");
}

#[test]
fn what_is_behind_a_query_that_was_cancelled_in_the_queue_keeps_its_place() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (proxy, mut holder, mut client) = queued(Script::new().sync().flush().query(MARK).query("SELECT 2"));

    cancel(&proxy, &cancel_packet(&client));

    assert_eq!(client.reply().shape(), "Z", "a Sync ends nothing");
    assert_eq!(client.reply().shape(), "EZ");
    proxy.until_pool("cl_waiting", 1);
    cancel(&proxy, &cancel_packet(&client));
    assert_eq!(client.reply().shape(), "EZ", "the next is cancelled like the first");
    unmarked(&proxy, &mut holder);
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_batch_that_was_cancelled_in_the_queue_is_dropped_up_to_its_sync() {
    if support::beyond_pgbouncer() {
        return;
    }
    let batch = Script::new().parse("mine", MARK).describe_statement("mine").run_prepared("mine", &[]).query(MARK);
    let (proxy, mut holder, mut client) = queued(batch.clone().sync().query("SELECT 3"));
    cancel(&proxy, &cancel_packet(&client));
    assert_eq!(client.reply().shape(), "EZ");
    proxy.until_pool("cl_waiting", 1);
    holder.ok("COMMIT");
    assert_eq!(client.reply().value(), "3");

    // The Sync comes later, as does half of the batch.
    holder.ok("BEGIN");
    client.send(batch);
    proxy.until_pool("cl_waiting", 1);
    cancel(&proxy, &cancel_packet(&client));
    assert_eq!(client.wire.expect(b'E').fields()[&'C'], "57014");
    client.send(Script::new().run(MARK, &[]).flush().copy_data(b"x").query(MARK));
    proxy.until_pool("cl_waiting", 0);
    assert!(!client.wire.stirs_within(Duration::from_millis(50)));
    client.send(Script::new().sync());
    assert_eq!(client.reply().shape(), "Z");
    unmarked(&proxy, &mut holder);

    // The name was never taken.
    let reply = client.run(Script::new().parse("mine", "SELECT 4").run_prepared("mine", &[]).sync());
    assert_eq!((reply.shape().as_str(), reply.value().as_str()), ("12DCZ", "4"));
}

#[test]
fn a_message_that_is_not_whole_is_cancelled_in_the_queue_like_any() {
    if support::beyond_pgbouncer() {
        return;
    }
    for batch in [false, true] {
        let sql = format!("{MARK} {}", " ".repeat(1 << 20));
        let script = match batch {
            false => Script::new().query(&sql),
            true => Script::new().run(&sql, &[]).sync(),
        };
        let bytes = script.as_ref();
        let (proxy, mut holder, mut client) = queued(Script::new());
        client.send(&bytes[..1 << 19]);
        proxy.until_pool("cl_waiting", 1);

        cancel(&proxy, &cancel_packet(&client));

        assert_eq!(client.wire.expect(b'E').fields()[&'C'], "57014");
        client.send(&bytes[1 << 19..]);
        assert_eq!(client.reply().shape(), "Z");
        unmarked(&proxy, &mut holder);
        assert_eq!(client.value("SELECT 1"), "1");
    }
}

#[test]
fn a_query_that_waits_for_a_paused_database_is_cancelled_at_once() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Proxy::start();
    let mut client = proxy.client();
    let mut console = proxy.console();
    console.ok("PAUSE app");
    client.send(Script::new().query(MARK));
    proxy.until_pool("cl_waiting", 1);

    cancel(&proxy, &cancel_packet(&client));

    assert_eq!(client.reply().shape(), "EZ");
    console.ok("RESUME app");
    assert_ne!(client.value("SHOW application_name"), "it was run");
}

#[test]
fn who_cancelled_in_the_queue_and_left_is_not_served() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (proxy, mut holder, mut client) = queued(Script::new().query(MARK).terminate());

    cancel(&proxy, &cancel_packet(&client));

    assert_eq!(client.wire.until_end().len(), 2, "the error and ReadyForQuery");
    unmarked(&proxy, &mut holder);
}
