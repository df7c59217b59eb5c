//! The programs and libraries that people use, doing what they do in transaction pooling.

use std::sync::Once;

use crate::support::tools::{pgbench, psql, python};
use crate::support::{Postgres, Proxy, Setup};

fn conninfo(proxy: &Proxy) -> String {
    format!("host=127.0.0.1 port={} user={} dbname=app", proxy.port, proxy.role)
}

/// A transaction pooler of this many servers, and pgbench's tables.
fn bench(servers: u32) -> Proxy {
    static TABLES: Once = Once::new();
    TABLES.call_once(|| {
        let direct = format!("host=127.0.0.1 port={} user=postgres dbname=e2e", Postgres::shared().port);
        pgbench(&direct, &["-i", "-q", "-s", "1"]).ok();
        let tables = "pgbench_accounts, pgbench_branches, pgbench_tellers, pgbench_history";
        Postgres::shared().admin().ok(&format!("GRANT ALL ON {tables} TO PUBLIC"));
    });
    Setup::new().set("default_pool_size", servers).set("max_client_conn", 1100).start()
}

/// Runs pgbench and makes sure that every transaction it was told to do was done.
#[track_caller]
fn all_done(proxy: &Proxy, clients: u32, transactions: u32, arguments: &[&str]) {
    let (count, each) = (clients.to_string(), transactions.to_string());
    let arguments = [&["-n", "-j", "2", "-c", &count, "-t", &each], arguments].concat();

    let report = pgbench(&conninfo(proxy), &arguments).ok();

    let expected = format!("processed: {0}/{0}", clients * transactions);
    assert!(report.contains(&expected), "{report}");
    assert!(report.contains("failed transactions: 0 "), "{report}");
}

#[test]
fn pgbench_over_every_protocol() {
    for protocol in ["simple", "extended", "prepared"] {
        let proxy = bench(3);
        all_done(&proxy, 20, 50, &["-S", "-M", protocol]);
        // pgbench prepares a statement by a blocking call, in which a thread cannot end the transactions of its other
        // clients: with more clients than servers it would wait for itself.
        let clients = if protocol == "prepared" { 3 } else { 20 };
        all_done(&proxy, clients, 10, &["-N", "-M", protocol]);
        all_done(&proxy, clients, 10, &["-M", protocol]);
        Postgres::shared().until_backends_at_most(&proxy.role, 3);
    }
}

#[test]
fn pgbench_connecting_for_every_transaction() {
    all_done(&bench(5), 10, 30, &["-S", "-C"]);
}

#[test]
fn pgbench_with_a_thousand_clients() {
    let proxy = bench(25);
    all_done(&proxy, 1000, 5, &["-S"]);
    Postgres::shared().until_backends_at_most(&proxy.role, 25);
}

#[test]
fn pgbench_with_pipelines() {
    let script = Postgres::shared().socket_dir.join("pipeline.sql");
    let select = "SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n";
    let text = format!("\\set aid random(1, 100000)\n\\startpipeline\n{}\\endpipeline\n", select.repeat(10));
    std::fs::write(&script, text).unwrap();
    let proxy = bench(3);
    for protocol in ["extended", "prepared"] {
        all_done(&proxy, 10, 20, &["-M", protocol, "-f", script.to_str().unwrap()]);
    }
}

#[test]
fn psql_does_what_psql_does() {
    let proxy = Proxy::start();
    let conninfo = conninfo(&proxy);
    let table = format!("made_by_{}", proxy.role);

    assert_eq!(psql(&conninfo, &["-c", "SELECT 1"]).ok().trim(), "1");
    let made = psql(&conninfo, &["-c", &format!("CREATE TABLE {table} (n int, t text)")]).ok();
    assert_eq!(made.trim(), "CREATE TABLE");
    let file = Postgres::shared().socket_dir.join(format!("{table}.tsv"));
    std::fs::write(&file, "1\tone\n2\ttwo\n").unwrap();
    let copied = psql(&conninfo, &["-c", &format!("\\copy {table} FROM '{}'", file.display())]).ok();
    assert_eq!(copied.trim(), "COPY 2");
    assert!(psql(&conninfo, &["-c", &format!("\\d {table}")]).ok().contains("n|integer"));
    assert!(psql(&conninfo, &["-c", "\\dt"]).ok().contains(&table));
    let transaction = ["-1", "-c", "SELECT 1", "-c", "SELECT 2"];
    assert_eq!(psql(&conninfo, &transaction).ok().split_whitespace().collect::<Vec<_>>(), ["1", "2"]);
    let error = psql(&conninfo, &["-c", "SELECT 1/0"]);
    assert!(!error.success && error.stderr.contains("division by zero"), "{}", error.stderr);
    let encrypted = psql(&format!("{conninfo} sslmode=require"), &["-c", "SELECT 1"]);
    assert!(encrypted.stderr.contains("server does not support SSL"), "{}", encrypted.stderr);
    assert_eq!(psql(&format!("{conninfo} sslmode=prefer gssencmode=prefer"), &["-c", "SELECT 1"]).ok().trim(), "1");
}

#[test]
fn psql_logs_in_by_scram() {
    let setup = Setup::new().set("auth_type", "scram-sha-256");
    let role = setup.role().to_owned();
    let proxy = setup.secret(&role, "open sesame").start();

    let conninfo = conninfo(&proxy);

    assert_eq!(psql(&format!("{conninfo} password='open sesame'"), &["-c", "SELECT 1"]).ok().trim(), "1");
    let wrong = psql(&format!("{conninfo} password=wrong"), &["-c", "SELECT 1"]);
    assert!(wrong.stderr.contains("authentication failed"), "{}", wrong.stderr);
}

#[test]
fn psycopg_does_what_psycopg_does() {
    let proxy = Setup::new().set("default_pool_size", 2).start();
    assert_eq!(python("tour.py", &[&conninfo(&proxy)]).ok().trim(), "ok");
    Postgres::shared().until_backends_at_most(&proxy.role, 2);
}

#[test]
fn tokio_postgres_does_what_tokio_postgres_does() {
    use tokio_postgres::NoTls;

    let proxy = Setup::new().set("default_pool_size", 2).start();
    let conninfo = conninfo(&proxy);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();

    runtime.block_on(async {
        let mut clients = Vec::new();
        for _ in 0..5 {
            let (client, connection) = tokio_postgres::connect(&conninfo, NoTls).await.unwrap();
            tokio::spawn(connection);
            clients.push(client);
        }
        for client in &mut clients {
            let statement = client.prepare("SELECT $1::int + 1, $2::text").await.unwrap();
            let row = client.query_one(&statement, &[&41, &"x"]).await.unwrap();
            assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1)), (42, "x"));

            // Several queries of one connection are pipelined.
            let (one, two, three) = tokio::join!(
                client.query_one(&statement, &[&1, &"a"]),
                client.query_one("SELECT now(), $1::jsonb->>'k'", &[&None::<String>]),
                client.simple_query("SELECT 1; SELECT 2"),
            );
            assert_eq!(one.unwrap().get::<_, i32>(0), 2);
            assert!(two.is_err(), "a text is no jsonb parameter: the driver refuses by itself");
            assert!(three.unwrap().len() >= 2);

            let transaction = client.transaction().await.unwrap();
            transaction.execute("SELECT 1/0", &[]).await.unwrap_err();
            transaction.rollback().await.unwrap();
            let transaction = client.transaction().await.unwrap();
            let portal = transaction.bind("SELECT generate_series(1, 10)", &[]).await.unwrap();
            assert_eq!(transaction.query_portal(&portal, 4).await.unwrap().len(), 4);
            assert_eq!(transaction.query_portal(&portal, 0).await.unwrap().len(), 6);
            transaction.commit().await.unwrap();
        }
        let cancel = clients[0].cancel_token();
        let (outcome, asked) = tokio::join!(clients[0].simple_query("SELECT pg_sleep(60)"), async {
            tokio::task::block_in_place(|| Postgres::shared().until_sleeping(&proxy.role, 1));
            cancel.cancel_query(NoTls).await
        });
        asked.unwrap();
        assert_eq!(outcome.unwrap_err().code().unwrap().code(), "57014");
    });
}
