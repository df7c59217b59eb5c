//! What a client hears of PostgreSQL at its login, before its first query: it is what PostgreSQL is now.

use crate::support::dns::NameServer;
use crate::support::tools::{Outcome, psql};
use crate::support::{self, Client, Gate, Postgres, Proxy, Setup, Wire, eventually};

/// What libpq does for an application that must write: it looks at the greeting, and leaves where that is of a standby.
fn read_write(proxy: &Proxy, database: &str) -> Outcome {
    let conninfo = format!(
        "host=127.0.0.1 port={} user={} dbname={database} target_session_attrs=read-write",
        proxy.port, proxy.role
    );
    psql(&conninfo, &["-c", "SELECT 'written'"])
}

#[track_caller]
fn refused_read_write(proxy: &Proxy, database: &str) {
    let outcome = read_write(proxy, database);
    assert!(!outcome.success && outcome.stderr.contains("session is read-only"), "{database}: {}", outcome.stderr);
}

/// A session in a database of this name, past the login only.
fn login(proxy: &Proxy, database: &str) -> Client {
    proxy.login().database(database).client()
}

/// A pooler with these databases, all of which are one new database at the server, where each has a server; and the
/// name of that.
fn warm(setup: Setup, databases: &[&str]) -> (Proxy, String) {
    let name = Postgres::shared().database("");
    let setup = databases.iter().fold(setup, |setup, database| setup.database(database, &format!("dbname={name}")));
    let proxy = setup.start();
    for database in databases {
        assert_eq!(login(&proxy, database).value("SHOW TimeZone"), "UTC");
    }
    (proxy, name)
}

/// New sessions have another time zone from now on.
fn move_to_tokyo(name: &str) {
    Postgres::shared().admin().ok(&format!("ALTER DATABASE {name} SET timezone TO 'Asia/Tokyo'"));
}

/// Logs in, hears of Tokyo before any query, and has it for good.
#[track_caller]
fn is_in_tokyo(proxy: &Proxy, database: &str) {
    let mut client = login(proxy, database);
    assert_eq!(client.parameters["TimeZone"], "Asia/Tokyo", "{database}");
    for _ in 0..2 {
        assert_eq!(client.value("SHOW TimeZone"), "Asia/Tokyo", "{database}");
    }
}

#[test]
fn a_standby_that_was_promoted_is_no_standby_to_the_next_login() {
    if support::beyond_pgbouncer() {
        return;
    }
    let databases = ["reconnect", "kill", "pause", "lost", "queried"];
    let setup = databases.iter().fold(Setup::new(), |setup, database| setup.database(database, ""));
    let standby = Postgres::standby();
    let proxy = setup.through(standby.port).start();
    let mut sessions = databases.map(|database| login(&proxy, database));
    let pids = sessions.each_mut().map(Client::pid);
    databases.iter().for_each(|database| refused_read_write(&proxy, database));
    let mut console = proxy.console();

    standby.promote();
    for command in ["RECONNECT reconnect", "KILL kill", "RESUME kill", "PAUSE pause", "RESUME pause"] {
        console.ok(command);
    }
    standby.end(&pids[3]);
    proxy.until("SERVERS", |servers| servers.find(&[("database", "lost")]).is_none());
    sessions[4].ok("SELECT 1");
    assert_eq!(sessions[4].parameters["in_hot_standby"], "off", "PostgreSQL said so with its answer");

    for database in databases {
        assert_eq!(read_write(&proxy, database).ok().trim(), "written", "{database}");
    }
}

#[test]
fn a_server_that_has_rested_is_checked_before_it_speaks_for_postgresql() {
    if support::beyond_pgbouncer() {
        return;
    }
    let setup = Setup::new().set("server_check_delay", 0);
    let standby = Postgres::standby();
    let proxy = setup.through(standby.port).start();
    let pid = proxy.client().pid();
    refused_read_write(&proxy, "app");

    standby.promote();
    assert_eq!(read_write(&proxy, "app").ok().trim(), "written");

    let mut admin = standby.admin();
    admin.ok("ALTER SYSTEM SET default_transaction_read_only TO on");
    admin.ok("ALTER SYSTEM SET timezone TO 'Asia/Tokyo'");
    admin.ok("SELECT pg_reload_conf()");
    eventually("new sessions are read-only", || {
        (standby.admin().value("SHOW default_transaction_read_only") == "on").then_some(())
    });
    refused_read_write(&proxy, "app");
    let mut client = proxy.client();
    assert_eq!(client.parameters["TimeZone"], "Asia/Tokyo");
    assert_eq!(client.value("SHOW TimeZone"), "Asia/Tokyo");
    assert_eq!(client.pid(), pid, "one server stayed all the time");
}

#[test]
fn after_a_reload_to_another_host_the_next_login_hears_of_that() {
    let setup = Setup::new();
    let standby = Postgres::standby();
    let proxy = setup.through(standby.port).start();
    proxy.client().ok("SELECT 1");
    refused_read_write(&proxy, "app");

    proxy.rewrite(|setup| setup.through(Postgres::shared().port));
    proxy.console().ok("RELOAD");

    assert_eq!(read_write(&proxy, "app").ok().trim(), "written");
}

#[test]
fn what_new_sessions_have_is_told_after_whatever_closes_the_old_ones() {
    if support::beyond_pgbouncer() {
        return;
    }
    let databases = ["reconnect", "kill", "pause", "lost", "reload"];
    let (proxy, name) = warm(Setup::new(), &databases);
    let mut console = proxy.console();
    let pid = login(&proxy, "lost").pid();

    move_to_tokyo(&name);
    for command in ["RECONNECT reconnect", "KILL kill", "RESUME kill", "PAUSE pause", "RESUME pause"] {
        console.ok(command);
    }
    Postgres::shared().end(&pid);
    proxy.until("SERVERS", |servers| servers.find(&[("database", "lost")]).is_none());
    proxy.rewrite(|setup| setup.database("reload", &format!("dbname={name} connect_query='SELECT 1'")));
    console.ok("RELOAD");

    for database in databases {
        is_in_tokyo(&proxy, database);
    }
}

#[test]
fn a_pool_that_has_closed_its_servers_asks_a_new_one() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (proxy, name) = warm(Setup::new().set("server_idle_timeout", 1), &["app"]);

    move_to_tokyo(&name);
    proxy.until_serverless();

    is_in_tokyo(&proxy, "app");
}

#[test]
fn a_server_opened_later_tells_what_new_sessions_have() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (proxy, name) = warm(Setup::new(), &["app"]);
    let mut holder = login(&proxy, "app");
    holder.ok("BEGIN");

    move_to_tokyo(&name);
    login(&proxy, "app").ok("SELECT 1");

    is_in_tokyo(&proxy, "app");
}

#[test]
fn servers_that_move_with_their_name_bring_another_greeting() {
    if support::beyond_pgbouncer() {
        return;
    }
    let names = NameServer::start();
    names.say("db.pool.test", &["127.0.0.1"]);
    names.serial("pool.test", 1);
    let name = Postgres::shared().database("");
    let entry = format!("host=db.pool.test port={} dbname={name}", Postgres::shared().port);
    let setup = Setup::new().set("resolv_conf", names.resolv_conf("").display()).database("app", &entry);
    let proxy = setup.set("dns_max_ttl", 600).set("dns_zone_check_period", "0.1").start();
    proxy.client().ok("SELECT 1");
    proxy.until("DNS_ZONES", |zones| zones.find(&[("zonename", "pool.test"), ("serial", "1")]).is_some());

    move_to_tokyo(&name);
    names.say("db.pool.test", &["127.0.0.2"]);
    names.serial("pool.test", 2);

    proxy.until("SERVERS", |servers| servers.find(&[("addr", "127.0.0.1")]).is_none());
    is_in_tokyo(&proxy, "app");
}

#[test]
fn in_a_full_pool_the_login_waits_like_a_query() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (proxy, name) = warm(Setup::new().set("default_pool_size", 1), &["app"]);
    let mut holder = login(&proxy, "app");
    holder.ok("BEGIN");

    move_to_tokyo(&name);
    proxy.console().ok("RECONNECT app");
    let mut waiting = Wire::tcp(proxy.port);
    waiting.send(proxy.login().startup());
    proxy.until_pool("cl_waiting", 1);
    Postgres::shared().until_backends(&proxy.role, 1);
    holder.ok("COMMIT");

    let told: Vec<_> =
        std::iter::from_fn(|| Some(waiting.message())).take_while(|message| message.tag != b'Z').collect();
    assert!(told.iter().any(|message| message.strings() == ["TimeZone", "Asia/Tokyo"]), "{told:?}");
    is_in_tokyo(&proxy, "app");
}

#[test]
fn a_session_that_server_fast_close_ends_makes_room_for_a_new_server() {
    let setup = Setup::new().set("pool_mode", "session").set("default_pool_size", 1).set("server_fast_close", 1);
    let (proxy, name) = warm(setup, &["app"]);
    let mut holder = login(&proxy, "app");
    holder.ok("SELECT 1");

    move_to_tokyo(&name);
    proxy.console().ok("RECONNECT app");

    is_in_tokyo(&proxy, "app");
    holder.wire.until_end();
}

#[test]
fn a_login_waits_no_longer_than_query_wait_timeout() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (proxy, _) = warm(Setup::new().set("default_pool_size", 1).set("query_wait_timeout", "0.2"), &["app"]);
    let mut holder = login(&proxy, "app");
    holder.ok("BEGIN");
    proxy.console().ok("RECONNECT app");

    assert_eq!(proxy.login().refusal(), "query_wait_timeout");

    holder.ok("COMMIT");
    login(&proxy, "app").ok("SELECT 1");
}

#[test]
fn while_postgresql_is_down_queries_are_refused_not_logins() {
    let gate = Gate::open();
    let proxy = Setup::new().through(gate.port).set("query_wait_timeout", 1).start();
    proxy.client().ok("SELECT 1");

    gate.shut();
    proxy.until_serverless();
    let mut clients = [proxy.client(), proxy.client()];
    for client in &mut clients {
        assert_eq!(client.parameters["TimeZone"], "UTC");
        assert!(!client.query("SELECT 1").is_ready());
    }

    gate.reopen();
    eventually("PostgreSQL is asked again", || {
        proxy.login().attempt().ok()?.query("SELECT 1").is_ready().then_some(())
    });
}

#[test]
fn why_postgresql_refuses_the_pool_is_told_at_the_login() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (proxy, _) = warm(Setup::new().set("server_idle_timeout", 1), &["app"]);
    proxy.until_serverless();

    Postgres::shared().admin().ok(&format!("ALTER ROLE {} NOLOGIN", proxy.role));

    assert_eq!(proxy.login().refusal(), format!("role \"{}\" is not permitted to log in", proxy.role));
}

#[test]
fn while_postgresql_is_silent_a_login_waits_for_one_attempt_to_connect() {
    let gate = Gate::open();
    let setup = Setup::new().through(gate.port).set("server_idle_timeout", 1).set("server_connect_timeout", 1);
    let proxy = setup.start();
    proxy.client().ok("SELECT 1");
    proxy.until_serverless();

    gate.silence();
    let clients = [proxy.client(), proxy.client()];

    assert!(clients.iter().all(|client| client.parameters["TimeZone"] == "UTC"));
}

#[test]
fn under_a_cap_that_is_reached_a_login_does_not_wait_for_room() {
    let proxy = Setup::new().set("max_db_connections", 1).database("app", "").start();
    let other = Postgres::shared().role();
    proxy.rewrite(|setup| setup.secret(&other, ""));
    proxy.console().ok("RELOAD");
    proxy.client().ok("SELECT 1");
    let mut holder = proxy.login().user(&other).client();
    holder.ok("BEGIN");
    proxy.until_serverless();

    let mut client = proxy.client();

    assert_eq!(client.parameters["TimeZone"], "UTC");
    holder.ok("COMMIT");
    client.ok("SELECT 1");
}

#[test]
fn while_paused_a_login_waits_for_nothing() {
    let (proxy, _) = warm(Setup::new(), &["app"]);
    let mut console = proxy.console();

    console.ok("PAUSE app");
    let mut client = login(&proxy, "app");
    console.ok("RESUME app");

    assert_eq!(client.parameters["TimeZone"], "UTC");
    client.ok("SELECT 1");
}

#[test]
fn no_client_changes_what_others_are_told() {
    let proxy = Proxy::start();
    Postgres::shared().admin().ok(&format!("ALTER ROLE {} SUPERUSER", proxy.role));
    let mut client = proxy.client();
    let told = |name: &str| proxy.client().parameters[name].clone();
    assert_eq!(told("is_superuser"), "on");

    client.ok("SET default_transaction_read_only TO on");
    client.ok("SET TimeZone TO 'Asia/Tokyo'");
    client.ok("SET ROLE pg_read_all_data");
    assert_eq!(client.parameters["is_superuser"], "off", "PostgreSQL tells this one");

    assert_eq!(told("default_transaction_read_only"), "off");
    assert_eq!(told("is_superuser"), "on");
    assert_eq!(told("TimeZone"), "UTC");
    assert_eq!(read_write(&proxy, "app").ok().trim(), "written");
}

#[test]
fn a_greeting_that_is_outdated_is_not_handed_over() {
    if support::beyond_pgbouncer() {
        return;
    }
    let setup = Setup::new().set("unix_socket_dir", "@DIR@").set("pidfile", "@DIR@/pooler.pid");
    let (proxy, name) = warm(setup.set("suspend_timeout", 600), &["app", "other"]);
    let mut other = login(&proxy, "other");
    other.ok("BEGIN");

    move_to_tokyo(&name);
    proxy.console().ok("RECONNECT");
    proxy.reboot();

    is_in_tokyo(&proxy, "app");
    is_in_tokyo(&proxy, "other");
    other.ok("COMMIT");
}
