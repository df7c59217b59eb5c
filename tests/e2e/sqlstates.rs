//! What an application can tell from an error's SQLSTATE: whether to ask for another password, to try again, or to give
//! up. PgBouncer says 08P01 for everything, and so does pgweir with `legacy_sqlstate`.

use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use crate::support::tools::{postgres_tool, psql, python};
use crate::support::{self, Client, Gate, Login, Postgres, Proxy, Script, Setup, Wire, eventually};

/// The SQLSTATE a login is refused with, and the text.
#[track_caller]
fn refused(login: &Login) -> (String, String) {
    let refusal = login.attempt().err().expect("a refusal");
    (refusal.code(), refusal.message())
}

#[track_caller]
fn last_words(client: &mut Client) -> (String, String) {
    let fields = client.last_words();
    (fields[&'C'].clone(), fields[&'M'].clone())
}

fn pair(code: &str, text: &str) -> (String, String) {
    (code.to_owned(), text.to_owned())
}

/// Logins that are refused, each with its SQLSTATE and text.
fn refusals(proxy: &Proxy) -> Vec<(Login, &'static str, &'static str)> {
    let login = || proxy.login().password("secret");
    vec![
        (login().password("wrong"), "28P01", "SASL authentication failed"),
        (login().user("nobody"), "28P01", "SASL authentication failed"),
        (login().database("nowhere"), "3D000", "no such database: nowhere"),
        (login().database("shut"), "57P03", "database \"shut\" is disabled"),
        (login().parameter("work_mem", "1MB"), "42704", "unsupported startup parameter: work_mem"),
        (
            login().parameter("options", "-f"),
            "0A000",
            "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed",
        ),
        (login().database("limited"), "53300", "client connections exceeded (max_db_client_connections)"),
    ]
}

/// A pooler that has a reason to refuse every one of [`refusals`], and the client that keeps `limited` full.
fn choosy() -> (Proxy, Client) {
    let setup = Setup::new().set("auth_type", "scram-sha-256").database("app", "").database("shut", "");
    let role = setup.role().to_owned();
    let proxy = setup.secret(&role, "secret").database("limited", "max_db_client_connections=1").start();
    let only = proxy.login().database("limited").password("secret").client();
    proxy.console().ok("DISABLE shut");
    (proxy, only)
}

#[test]
fn a_refused_login_says_by_its_sqlstate_what_would_help() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (proxy, _only) = choosy();

    for (login, code, text) in refusals(&proxy) {
        assert_eq!(refused(&login), pair(code, text));
    }
}

#[test]
fn legacy_sqlstate_says_08p01_to_everybody() {
    let (proxy, _only) = choosy();
    if !support::proxy::is_pgbouncer() {
        proxy.console().ok("SET legacy_sqlstate = 1");
    }

    for (login, _, text) in refusals(&proxy) {
        assert_eq!(refused(&login), pair("08P01", text));
    }
}

#[test]
fn the_console_keeps_its_codes() {
    let proxy = Proxy::start();
    let unknown = proxy.login().user("nobody").database("pgbouncer");

    assert_eq!(refused(&unknown), pair("08P01", "\"trust\" authentication failed"));
    assert_eq!(proxy.console().query("PAUSE nowhere").error().unwrap()[&'C'], "08P01");
}

#[test]
fn who_is_thrown_out_learns_why_from_the_sqlstate() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Setup::new().set("idle_transaction_timeout", "0.3").start();
    let mut client = proxy.client();
    client.ok("BEGIN");
    assert_eq!(last_words(&mut client), pair("57P05", "idle transaction timeout"));

    let proxy = Setup::new().set("transaction_timeout", "0.3").start();
    let mut client = proxy.client();
    client.send(Script::new().query("BEGIN").query("SELECT pg_sleep(60)"));
    assert_eq!(last_words(&mut client), pair("57014", "transaction timeout"));

    let proxy = Setup::new().set("client_idle_timeout", "0.3").start();
    assert_eq!(last_words(&mut proxy.client()), pair("57P05", "client_idle_timeout"));

    let proxy = Setup::new().set("default_pool_size", 1).start();
    let mut client = proxy.client();
    proxy.console().ok("SET query_timeout = '0.3'");
    client.send(Script::new().query("SELECT pg_sleep(60)"));
    assert_eq!(last_words(&mut client), pair("57014", "query timeout"));

    proxy.console().ok("SET query_timeout = 0");
    let (mut holder, mut waiter) = (proxy.client(), proxy.client());
    holder.ok("BEGIN");
    proxy.console().ok("SET query_wait_timeout = 1");
    waiter.send(Script::new().query("SELECT 1"));
    assert_eq!(last_words(&mut waiter), pair("53300", "query_wait_timeout"));
    proxy.console().ok("KILL app");
    assert_eq!(last_words(&mut holder), pair("57P01", "database removed"));
}

#[test]
fn a_lost_server_and_one_that_cannot_be_reached_are_told_apart() {
    if support::beyond_pgbouncer() {
        return;
    }
    let gate = Gate::open();
    let setup = Setup::new().through(gate.port).set("server_login_retry", 60).set("query_wait_timeout", 60);
    let proxy = setup.start();
    let (mut client, mut other) = (proxy.client(), proxy.client());
    client.ok("BEGIN");
    gate.shut();
    gate.cut();

    client.send(Script::new().query("SELECT 1"));
    assert_eq!(last_words(&mut client), pair("08006", "server conn crashed?"));

    // The first who asks waits for a server, those who come while the retry is not due need not.
    other.send(Script::new().query("SELECT 1"));
    proxy.until_log("server login failed");
    let mut late = proxy.client();
    late.send(Script::new().query("SELECT 1"));
    let (code, text) = last_words(&mut late);
    assert_eq!(code, "57P03", "{text}");
    assert!(text.starts_with("server login has been failing, cached error: "), "{text}");
}

#[test]
fn libpq_goes_on_to_the_next_host_where_a_pooler_says_not_now() {
    if support::beyond_pgbouncer() {
        return;
    }
    let closed = Setup::new().database("app", "").start();
    let open = Setup::new().secret(&closed.role, "").start();
    closed.console().ok("DISABLE app");
    let ports = format!("{},{}", closed.port, open.port);
    let conninfo = format!("host=127.0.0.1,127.0.0.1 port={ports} user={} dbname=app", closed.role);

    assert_eq!(psql(&conninfo, &["-c", "SELECT current_user"]).ok().trim(), closed.role);
    let port = closed.port.to_string();
    let asked = postgres_tool("pg_isready", &["-h", "127.0.0.1", "-p", &port, "-d", "app", "-U", &closed.role]);
    assert!(asked.stdout.contains("rejecting connections"), "{}", asked.stdout);
}

#[test]
fn tokio_postgres_can_tell_when_to_try_again() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Setup::new().set("max_client_conn", 1).database("app", "").database("shut", "").start();
    let conninfo = format!("host=127.0.0.1 port={} user={}", proxy.port, proxy.role);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let attempt = |database: &str| {
        let conninfo = format!("{conninfo} dbname={database}");
        runtime.block_on(async move { tokio_postgres::connect(&conninfo, NoTls).await.map(drop) })
    };
    let only = proxy.client();

    assert_eq!(attempt("app").unwrap_err().code(), Some(&SqlState::TOO_MANY_CONNECTIONS));
    only.leave();
    eventually("the retry succeeds", || match attempt("app") {
        Ok(()) => Some(()),
        Err(error) => {
            assert_eq!(error.code(), Some(&SqlState::TOO_MANY_CONNECTIONS));
            None
        }
    });

    proxy.console().ok("DISABLE shut");
    eventually("the pooler says not now", || match attempt("shut").unwrap_err().code() {
        Some(code) if *code == SqlState::CANNOT_CONNECT_NOW => Some(()),
        // The last client's place is not free yet.
        code => {
            assert_eq!(code, Some(&SqlState::TOO_MANY_CONNECTIONS));
            None
        }
    });
}

#[test]
fn psql_shows_the_sqlstate_of_what_throws_it_out() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let mut holder = proxy.client();
    holder.ok("BEGIN");
    proxy.console().ok("SET query_wait_timeout = 1");
    let conninfo = format!("host=127.0.0.1 port={} user={} dbname=app", proxy.port, proxy.role);

    let told = psql(&conninfo, &["-v", "VERBOSITY=verbose", "-c", "SELECT 1"]);

    assert!(told.stderr.contains("FATAL:  53300: query_wait_timeout"), "{}", told.stderr);
}

#[test]
fn psycopg_sees_a_lost_connection_in_whatever_throws_it_out() {
    for (setting, sql) in [
        ("idle_transaction_timeout", "BEGIN"),
        ("transaction_timeout", "BEGIN"),
        ("client_idle_timeout", "SELECT 1"),
        ("query_timeout", "SELECT pg_sleep(60)"),
    ] {
        let proxy = Proxy::start();
        // A login that has to wait for its server may run into the time already.
        proxy.client().leave();
        proxy.console().ok(&format!("SET {setting} = '0.3'"));
        let conninfo = format!("host=127.0.0.1 port={} user={} dbname=app", proxy.port, proxy.role);

        assert_eq!(python("thrown_out.py", &[&conninfo, sql]).ok().trim(), "OperationalError", "{setting}");
    }
}

/// Asks as a program does that knows by the SQLSTATE what may be tried again: on a new connection, until there is an
/// answer. What it met on the way, each once, and the answer. (psycopg 2 and 3 cannot: libpq reads on to the end of a
/// connection that a FATAL error ends, and complains of that instead, with PostgreSQL itself too.)
fn asked_again(conninfo: String, sql: &'static str) -> std::thread::JoinHandle<(Vec<SqlState>, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let again = [SqlState::TOO_MANY_CONNECTIONS, SqlState::ADMIN_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW];
    std::thread::spawn(move || {
        runtime.block_on(async {
            let (mut met, mut sql) = (Vec::new(), sql);
            loop {
                let (client, connection) = tokio_postgres::connect(&conninfo, NoTls).await.unwrap();
                tokio::spawn(connection);
                match client.query_one(sql, &[]).await {
                    Ok(row) => return (met, row.get(0)),
                    Err(error) => {
                        let code = error.code().unwrap_or_else(|| panic!("{error}")).clone();
                        assert!(again.contains(&code), "{error}");
                        if !met.contains(&code) {
                            met.push(code);
                        }
                        sql = "SELECT 'answer'";
                    }
                }
            }
        })
    })
}

#[test]
fn a_program_tells_by_the_sqlstate_what_it_may_try_again() {
    if support::beyond_pgbouncer() {
        return;
    }
    let gate = Gate::open();
    let setup = Setup::new().through(gate.port).set("default_pool_size", 1);
    let proxy = setup.set("server_login_retry", 600).start();
    let conninfo = format!("host=127.0.0.1 port={} user={} dbname=app", proxy.port, proxy.role);
    let answered = |code: SqlState| (vec![code], "answer".to_owned());

    let mut holder = proxy.client();
    holder.ok("BEGIN");
    proxy.console().ok("SET query_wait_timeout = 1");
    let waiting = asked_again(conninfo.clone(), "SELECT 1");
    proxy.until_log("closing because: query_wait_timeout");
    proxy.console().ok("SET query_wait_timeout = 60");
    holder.ok("COMMIT");
    assert_eq!(waiting.join().unwrap(), answered(SqlState::TOO_MANY_CONNECTIONS));

    let asleep = asked_again(conninfo.clone(), "SELECT pg_sleep(60)::text");
    Postgres::shared().until_sleeping(&proxy.role, 1);
    let clients = proxy.show("CLIENTS");
    let busy = clients.all(&[("user", &proxy.role)]).into_iter().find(|client| !client["link"].is_empty());
    proxy.console().ok(&format!("KILL_CLIENT {}", busy.expect("the program's connection")["id"]));
    assert_eq!(asleep.join().unwrap(), answered(SqlState::ADMIN_SHUTDOWN));

    gate.shut();
    holder.send(Script::new().query("SELECT 1"));
    proxy.until_log("server login failed");
    let too_early = asked_again(conninfo, "SELECT 1");
    proxy.until_log("server login has been failing");
    gate.reopen();
    proxy.console().ok("RECONNECT");
    assert_eq!(too_early.join().unwrap(), answered(SqlState::CANNOT_CONNECT_NOW));
}

#[test]
fn a_server_that_leaves_its_sqlstate_out_gets_one() {
    if support::beyond_pgbouncer() {
        return;
    }
    let server = support::gate::FakeServer::start(|mut wire: Wire| {
        wire.send(Script::new().message(b'E', b"SFATAL\0Mgo away\0\0"));
        wire.until_end();
    });
    let proxy = Setup::new().through(server.port).set("server_tls_sslmode", "disable").start();

    assert_eq!(refused(&proxy.login()), pair("08001", "go away"));
}

#[test]
fn a_servers_own_refusal_keeps_its_own_sqlstate_in_both_ways() {
    let setup = Setup::new().database("app", "dbname=not_there").set("server_login_retry", 60);
    let proxy = setup.start();

    let (code, text) = refused(&proxy.login());

    assert_eq!((code.as_str(), text.contains("does not exist")), ("3D000", true), "{text}");
}
