//! COPY in both directions, over both protocols, to its good end and to its bad ones.

use crate::support::{self, Client, Postgres, Proxy, Script, Setup};

fn with_table() -> (Proxy, Client, String) {
    with_table_in(Setup::new())
}

fn with_table_in(setup: Setup) -> (Proxy, Client, String) {
    let proxy = setup.set("default_pool_size", 1).start();
    let table = format!("copied_by_{}", proxy.role);
    Postgres::shared().admin().ok(&format!("CREATE TABLE {table} (n int, t text); GRANT ALL ON {table} TO PUBLIC"));
    let client = proxy.client();
    (proxy, client, table)
}

fn count(client: &mut Client, table: &str) -> String {
    client.value(&format!("SELECT count(*) FROM {table}"))
}

#[test]
fn copy_in_over_the_simple_protocol() {
    let (proxy, mut client, table) = with_table();

    client.send(Script::new().query(&format!("COPY {table} FROM STDIN; SELECT 5")));
    assert_eq!(client.reply_until(b"G").shape(), "G");
    proxy.until_pool("sv_active", 1);
    client.send(Script::new().copy_data(b"1\tone\n").copy_data(b"2\ttwo\n3\tth"));
    client.send(Script::new().copy_data(b"ree\n").copy_done());

    let reply = client.reply();
    assert_eq!((reply.shape().as_str(), reply.tags()), ("CTDCZ", vec!["COPY 3".into(), "SELECT 1".into()]));
    assert_eq!(count(&mut client, &table), "3");
    proxy.until_pool("sv_idle", 1);
}

#[test]
fn a_small_socket_buffer_does_not_choke_a_large_answer() {
    // With a window that shrank after the connection was made, these megabytes would take minutes.
    let proxy = Setup::new().set("tcp_socket_buffer", 4096).start();
    let mut client = proxy.client();

    client.send(Script::new().query("SELECT repeat('x', 1000) FROM generate_series(1, 5000)"));

    assert_eq!(client.wire.skim().1, 5000);
}

#[test]
fn copy_in_over_the_extended_protocol() {
    let (_proxy, mut client, table) = with_table();
    let copy = format!("COPY {table} FROM STDIN");

    client.send(Script::new().run(&copy, &[]).flush());
    assert_eq!(client.reply_until(b"G").shape(), "12G");
    client.send(Script::new().copy_data(b"1\tone\n").copy_done().sync());
    assert_eq!(client.reply().shape(), "CZ");

    // Everything at once, the Sync that comes before the data being ignored as the protocol says.
    client.send(Script::new().run(&copy, &[]).sync().copy_data(b"2\ttwo\n").copy_done().sync());
    assert_eq!(client.reply().shape(), "12GCZ");
    assert_eq!(count(&mut client, &table), "2");
}

#[test]
fn copy_in_by_a_prepared_statement() {
    let (_proxy, mut client, table) = with_table();
    client.run(Script::new().parse("c", &format!("COPY {table} FROM STDIN")).sync());

    for _ in 0..2 {
        client.send(Script::new().run_prepared("c", &[]).flush());
        assert_eq!(client.reply_until(b"G").shape(), "2G");
        client.send(Script::new().copy_data(b"1\tone\n").copy_done().sync());
        assert_eq!(client.reply().shape(), "CZ");
    }

    assert_eq!(count(&mut client, &table), "2");
}

#[test]
fn a_client_that_fails_its_copy_keeps_its_session() {
    let (proxy, mut client, table) = with_table();

    client.send(Script::new().query(&format!("COPY {table} FROM STDIN")));
    client.reply_until(b"G");
    client.send(Script::new().copy_data(b"1\tone\n").copy_fail("changed my mind"));

    let reply = client.reply();
    assert!(reply.error_message().contains("changed my mind"), "{reply:?}");
    assert_eq!((reply.shape().as_str(), reply.status()), ("EZ", 'I'));
    assert_eq!(count(&mut client, &table), "0");
    proxy.until_pool("sv_idle", 1);
}

#[test]
fn a_copy_that_the_server_fails_keeps_the_session() {
    for early in [true, false] {
        let (proxy, mut client, table) = with_table();
        client.send(Script::new().query(&format!("COPY {table} FROM STDIN")));
        client.reply_until(b"G");

        client.send(Script::new().copy_data(b"not a number\tone\n"));
        if early {
            // The error arrives while the client still thinks it is copying.
            assert_eq!(client.reply_until(b"Z").shape(), "EZ");
            client.send(Script::new().copy_data(b"2\ttwo\n").copy_done());
        } else {
            client.send(Script::new().copy_data(b"2\ttwo\n").copy_done());
            assert_eq!(client.reply().shape(), "EZ");
        }

        assert_eq!(count(&mut client, &table), "0");
        // After CopyData that came too late PgBouncer keeps the server linked to its client.
        if !(early && support::proxy::is_pgbouncer()) {
            proxy.until_pool("sv_idle", 1);
        }
    }
}

#[test]
fn an_extended_copy_that_the_server_fails_keeps_the_session() {
    let (proxy, mut client, table) = with_table();
    client.send(Script::new().run(&format!("COPY {table} FROM STDIN"), &[]).flush());
    client.reply_until(b"G");

    client.send(Script::new().copy_data(b"not a number\tone\n").copy_data(b"2\ttwo\n").copy_done().sync());

    assert_eq!(client.reply().shape(), "EZ");
    assert_eq!(count(&mut client, &table), "0");
    proxy.until_pool("sv_idle", 1);
}

#[test]
fn a_copy_that_never_began_keeps_the_session() {
    let (proxy, mut client, table) = with_table();

    assert_eq!(client.query("COPY no_such_table FROM STDIN").shape(), "EZ");
    let reply = client.run(Script::new().run("COPY no_such_table FROM STDIN", &[]).sync());
    assert_eq!(reply.shape(), "12EZ");

    assert_eq!(count(&mut client, &table), "0");
    proxy.until_pool("sv_idle", 1);
}

#[test]
fn copy_out_over_both_protocols() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    let copy = "COPY (SELECT generate_series(1, 3)) TO STDOUT";

    assert_eq!(client.query(copy).shape(), "HdddcCZ");
    assert_eq!(client.run(Script::new().run(copy, &[]).sync()).shape(), "12HdddcCZ");
}

#[test]
fn a_copy_out_that_fails_midway_keeps_the_session() {
    let proxy = Proxy::start();
    let mut client = proxy.client();

    let reply = client.query("COPY (SELECT 1 / (3 - n) FROM generate_series(1, 5) n) TO STDOUT");

    assert!(reply.shape().starts_with("Hd") && reply.shape().ends_with("EZ"), "{}", reply.shape());
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_client_that_vanishes_in_a_copy_costs_one_server() {
    let (proxy, mut client, table) = with_table_in(Setup::new().closing_abandoned_servers());
    let pid = client.pid();
    client.send(Script::new().query(&format!("COPY {table} FROM STDIN")));
    client.reply_until(b"G");
    client.send(Script::new().copy_data(b"1\tone\n"));

    client.wire.reset();

    let mut next = proxy.client();
    assert_ne!(next.pid(), pid);
    assert_eq!(count(&mut next, &table), "0");
}

#[test]
fn much_data_flows_both_ways() {
    let (_proxy, mut client, table) = with_table();
    let line = format!("7\t{}\n", "x".repeat(990));
    let portion = line.repeat(1000);
    client.send(Script::new().query(&format!("COPY {table} FROM STDIN")));
    client.reply_until(b"G");

    for _ in 0..20 {
        client.send(Script::new().copy_data(portion.as_bytes()));
    }
    client.send(Script::new().copy_done());
    assert_eq!(client.reply().tags(), ["COPY 20000"]);

    client.send(Script::new().query(&format!("COPY {table} TO STDOUT")));
    let (bytes, _) = client.wire.skim();
    assert!(bytes > 20 * portion.len() as u64, "{bytes}");
}
