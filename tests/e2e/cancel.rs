//! Cancel requests: they stop the query they are meant for, and never another's.

use std::time::{Duration, Instant};

use crate::support::{self, Client, Gate, Proxy, Script, Setup, Wire};

/// The packet that cancels what this client is doing.
fn cancel_packet(client: &Client) -> Vec<u8> {
    Script::untagged(&[&80_877_102u32.to_be_bytes(), client.key.as_slice()].concat())
}

/// Sends a cancel request and waits until the pooler has hung up, which it does when the request is dealt with.
fn cancel(proxy: &Proxy, packet: &[u8]) {
    let mut wire = Wire::tcp(proxy.port);
    wire.send(packet);
    assert!(wire.until_end().is_empty(), "a cancel request is never answered");
}

#[test]
fn a_cancel_request_stops_the_query_of_its_client() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let mut client = proxy.client();
    client.send(Script::new().query("SELECT pg_sleep(60)"));
    proxy.until_pool("sv_active", 1);

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
    for client in &mut clients {
        client.send(Script::new().query("SELECT pg_sleep(0.7)"));
    }
    proxy.until_pool("sv_active", 5);

    cancel(&proxy, &cancel_packet(&clients[3]));

    let outcomes: Vec<bool> = clients.iter_mut().map(|client| client.reply().error().is_some()).collect();
    assert_eq!(outcomes, [false, false, false, true, false]);
}

#[test]
fn a_cancel_request_may_follow_a_declined_encryption_request() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    client.send(Script::new().query("SELECT pg_sleep(60)"));
    proxy.until_pool("sv_active", 1);
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
    client.send(Script::new().query("SELECT pg_sleep(0.3)"));
    proxy.until_pool("sv_active", 1);

    let mut packet = cancel_packet(&client);
    *packet.last_mut().unwrap() ^= 0x10;
    cancel(&proxy, &packet);
    cancel(&proxy, &Script::untagged(&[&80_877_102u32.to_be_bytes(), [0; 8].as_slice()].concat()));

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
    proxy.until_pool("sv_active", 2);

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
    proxy.until_pool("sv_active", 1);
    gate.silence();
    let started = Instant::now();

    let mut wire = Wire::tcp(proxy.port);
    wire.send(cancel_packet(&client));
    wire.until_end();

    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
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
