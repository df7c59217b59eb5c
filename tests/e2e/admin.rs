//! The console, as psql, exporters and operators use it.

use std::time::Duration;

use pgweir::config::{self, Change, Settings};

use crate::support::{self, Client, Login, Postgres, Proxy, Script, Setup, eventually, tools};

/// The columns of a `SHOW`, in order: `name:t` for text, `:n` numeric, `:b` bigint, else integer.
fn columns(spec: &str) -> Vec<(String, u32)> {
    let column = |word: &str| match word.split_once(':') {
        Some((name, "t")) => (name.to_owned(), 25),
        Some((name, "n")) => (name.to_owned(), 1700),
        Some((name, "b")) => (name.to_owned(), 20),
        Some((name, kind)) => panic!("{name}:{kind}"),
        None => (word.to_owned(), 23),
    };
    spec.split_whitespace().map(column).collect()
}

const SOCKET: &str = "type:t user:t database:t replication:t state:t addr:t port local_addr:t local_port connect_time:t \
    request_time:t wait wait_us close_needed ptr:t link:t remote_pid tls:t application_name:t";

#[test]
fn every_show_has_its_columns() {
    let socket = format!("{SOCKET} prepared_statements id");
    let sockets = format!("{socket} recv_pos pkt_pos pkt_remain send_pos send_remain pkt_avail send_avail");
    let counts = |prefix: &str, parses: &str| {
        let names = [
            "server_assignment_count",
            "xact_count",
            "query_count",
            "received",
            "sent",
            "xact_time",
            "query_time",
            "wait_time",
        ];
        let late = ["client_parse_count", "server_parse_count", "bind_count", "client_login_count"];
        let names = names.map(|name| match (prefix, name) {
            ("avg_", "received") => "avg_recv:n".to_owned(),
            ("", "received" | "sent") => format!("bytes_{name}:n"),
            _ => format!("{prefix}{name}:n"),
        });
        names.join(" ") + " " + &late.map(|name| format!("{parses}{name}:n")).join(" ")
    };
    let proxy = Proxy::start();
    let mut client = proxy.client();
    client.ok("BEGIN");
    let mut console = proxy.console();

    for (what, spec) in [
        ("STATS", format!("database:t {} {}", counts("total_", "total_"), counts("avg_", "avg_"))),
        ("STATS_TOTALS", format!("database:t {}", counts("", ""))),
        ("STATS_AVERAGES", format!("database:t {}", counts("", "avg_"))),
        ("TOTALS", "name:t value:n".to_owned()),
        (
            "POOLS",
            "database:t user:t cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active \
             sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode:t \
             load_balance_hosts:t"
                .to_owned(),
        ),
        (
            "DATABASES",
            "name:t host:t port database:t force_user:t pool_size min_pool_size reserve_pool_size server_lifetime \
             pool_mode:t load_balance_hosts:t max_connections current_connections max_client_connections \
             current_client_connections paused disabled"
                .to_owned(),
        ),
        (
            "USERS",
            "name:t pool_size:t reserve_pool_size:t pool_mode:t max_user_connections current_connections \
             max_user_client_connections current_client_connections"
                .to_owned(),
        ),
        ("CLIENTS", socket.clone()),
        ("SERVERS", socket),
        ("SOCKETS", sockets),
        ("LISTS", "list:t items".to_owned()),
        ("CONFIG", "key:t value:t default:t changeable:t".to_owned()),
        ("VERSION", "version:t".to_owned()),
        ("STATE", "key:t value:t".to_owned()),
    ] {
        let table = console.table(&format!("SHOW {what}"));
        let mut expected = columns(&spec);
        if support::proxy::is_pgbouncer() {
            // A few are newer than the release that may be under test; order and types must be right all the same.
            expected.retain(|column| table.columns.contains(column));
        }
        assert_eq!(table.columns, expected, "SHOW {what}");
        assert!(!table.rows.is_empty(), "SHOW {what} is empty");
    }
}

#[test]
fn show_stats_counts_what_was_done() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    for _ in 0..3 {
        client.ok("BEGIN");
        client.ok("SELECT 1");
        client.ok("COMMIT");
    }
    client.run(Script::new().run("SELECT 1", &[]).sync());

    let stats = proxy.show("STATS");
    let of = |column: &str| stats.cell(&[("database", "app")], column).parse::<f64>().unwrap();

    assert_eq!(of("total_xact_count"), 4.0);
    assert_eq!(of("total_query_count"), 10.0);
    assert_eq!(of("total_server_assignment_count"), 4.0);
    if !support::proxy::is_pgbouncer() {
        assert_eq!(of("total_client_login_count"), 1.0);
    }
    assert!(of("total_received") > 100.0 && of("total_sent") > 100.0, "{stats:?}");
    assert!(of("total_query_time") > 0.0 && of("total_xact_time") >= of("total_query_time"), "{stats:?}");
    let totals = proxy.show("STATS_TOTALS");
    assert_eq!(totals.cell(&[("database", "app")], "xact_count"), "4");
    let sums = proxy.show("TOTALS");
    let sum: u64 = sums.cell(&[("name", "total_xact_count")], "value").parse().unwrap();
    assert!(sum >= 4, "the console's own may be counted in: {sum}");
}

#[test]
fn show_stats_counts_the_time_spent_waiting() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let (mut holder, mut waiter) = (proxy.client(), proxy.client());
    holder.ok("BEGIN; SELECT pg_sleep(0.2)");
    waiter.send(Script::new().query("SELECT 1"));
    proxy.until_pool("cl_waiting", 1);
    proxy.until("POOLS", |pools| {
        let number = |column| pools.cell(&[("user", &proxy.role)], column).parse::<u64>().unwrap();
        assert!(number("maxwait_us") < 1_000_000, "the seconds are in the other column");
        number("maxwait") * 1_000_000 + number("maxwait_us") > 100_000
    });
    holder.ok("COMMIT");
    waiter.reply();

    let waited = proxy.show("STATS").cell(&[("database", "app")], "total_wait_time");

    assert!(waited.parse::<u64>().unwrap() >= 100_000, "{waited} us");
}

#[test]
fn clients_and_servers_show_their_state_and_each_other() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let mut holder = proxy.login().parameter("application_name", "shop").client();
    holder.ok("BEGIN");
    let pid = holder.pid();
    let mut waiter = proxy.client();
    waiter.send(Script::new().query("SELECT 1"));
    let mut idle = proxy.login().parameter("application_name", "idler").client();
    proxy.until_pool("cl_waiting", 1);

    let clients = proxy.show("CLIENTS");
    let servers = proxy.show("SERVERS");

    let active = clients.find(&[("application_name", "shop")]).unwrap();
    let server = servers.find(&[("user", &proxy.role)]).unwrap();
    assert_eq!((active["state"].as_str(), server["state"].as_str()), ("active", "active"));
    assert_eq!((active["type"].as_str(), server["type"].as_str()), ("C", "S"));
    assert_eq!(active["link"], server["ptr"]);
    assert_eq!(server["link"], active["ptr"]);
    assert_eq!(server["remote_pid"], pid);
    assert_eq!(server["application_name"], "shop");
    assert_eq!(server["port"], Postgres::shared().port.to_string());
    assert_eq!(active["local_port"], proxy.port.to_string());
    let port = holder.wire.socket().local_addr().unwrap().as_socket().unwrap().port();
    assert_eq!(active["port"], port.to_string());
    assert_eq!((active["addr"].as_str(), active["tls"].as_str()), ("127.0.0.1", ""));
    assert!(clients.find(&[("state", "waiting"), ("user", &proxy.role)]).is_some(), "{clients:?}");
    assert_eq!(clients.cell(&[("application_name", "idler")], "state"), "idle");
    holder.ok("COMMIT");
    waiter.reply();
    idle.pid();
    assert_eq!(proxy.show("SERVERS").cell(&[("user", &proxy.role)], "state"), "idle");
}

#[test]
fn lists_state_config_and_version_tell_the_truth() {
    let proxy = Setup::new().set("default_pool_size", 7).set("server_lifetime", 1200).start();
    let _client = proxy.client();

    let lists = proxy.show("LISTS");
    for item in ["databases", "users", "pools", "free_clients", "used_clients", "login_clients", "free_servers"] {
        assert!(lists.find(&[("list", item)]).is_some(), "{item}");
    }
    assert_eq!(lists.cell(&[("list", "used_clients")], "items"), "2", "the client and the console");
    let state = proxy.show("STATE");
    assert_eq!(state.cell(&[("key", "active")], "value"), "yes");
    assert_eq!(state.cell(&[("key", "paused")], "value"), "no");
    let config = proxy.show("CONFIG");
    assert_eq!(config.cell(&[("key", "default_pool_size")], "value"), "7");
    assert_eq!(config.cell(&[("key", "default_pool_size")], "default"), "20");
    assert_eq!(config.cell(&[("key", "default_pool_size")], "changeable"), "yes");
    assert_eq!(config.cell(&[("key", "listen_port")], "changeable"), "no");
    assert_eq!(config.cell(&[("key", "server_lifetime")], "value"), "1200");
    let keys: Vec<&String> = config.rows.iter().map(|row| &row["key"]).collect();
    assert!(keys.is_sorted(), "{keys:?}");
    assert!(proxy.console().parameters["server_version"].ends_with("/bouncer"));
}

#[test]
fn show_help_is_a_notice() {
    let proxy = Proxy::start();
    let reply = proxy.console().ok("SHOW HELP");
    assert_eq!(reply.shape(), "NCZ");
    let detail = &reply.messages[0].fields()[&'D'];
    for command in ["SHOW", "RELOAD", "PAUSE", "KILL_CLIENT", "SHUTDOWN", "SET"] {
        assert!(detail.contains(command), "{detail}");
    }
}

#[test]
fn commands_are_read_leniently_and_refused_by_name() {
    let proxy = Proxy::start();
    let mut console = proxy.console();

    assert_eq!(console.table("show pools;").columns, console.table("SELECT Pools").columns);
    if !support::proxy::is_pgbouncer() {
        assert_eq!(console.query("").shape(), "IZ");
    }
    for (command, error) in [
        ("FROBNICATE", "invalid command 'FROBNICATE', use SHOW HELP;"),
        ("PAUSE nowhere", "no such database: nowhere"),
        ("RESUME", "pooler is not paused/suspended"),
        ("RESUME app", "database app is not paused"),
        ("DISABLE", "a database is required"),
        ("DISABLE nowhere", "no such database: nowhere"),
        ("KILL pgbouncer", "cannot kill admin db: pgbouncer"),
    ] {
        let reply = console.query(command);
        assert_eq!(reply.shape(), "EZ", "{command}");
        let fields = reply.error().unwrap();
        assert_eq!((fields[&'S'].as_str(), fields[&'M'].as_str()), ("ERROR", error), "{command}");
    }
    assert!(console.value("SHOW client_encoding").starts_with("UTF"));
    assert_eq!(console.value("SHOW standard_conforming_strings"), "on");
}

#[test]
fn who_may_do_what() {
    let proxy = Proxy::start();
    let mut stats = Login::to(proxy.port).user("stats").password("stats-secret").database("pgbouncer").client();

    assert!(!stats.table("SHOW POOLS").rows.is_empty());
    assert!(!stats.table("SHOW CONFIG").rows.is_empty());
    for command in [
        "RELOAD",
        "PAUSE",
        "RESUME",
        "DISABLE app",
        "ENABLE app",
        "RECONNECT",
        "WAIT_CLOSE",
        "KILL app",
        "KILL_CLIENT 1",
        "SHUTDOWN",
        "SET verbose = 1",
        "SUSPEND",
        "SHOW FDS",
    ] {
        let reply = stats.query(command);
        assert_eq!(reply.shape(), "EZ", "{command}: {reply:?}");
        assert_eq!(reply.error_message(), "admin access needed", "{command}");
    }
    let refusal = proxy.login().database("pgbouncer").refusal();
    assert!(refusal.contains("not allowed") || refusal.contains("no such database"), "{refusal}");
}

#[test]
fn pause_waits_for_transactions_and_resume_goes_on() {
    for target in ["", " app"] {
        let proxy = Proxy::start();
        let (mut holder, mut client) = (proxy.client(), proxy.client());
        client.pid();
        holder.ok("BEGIN");
        let mut console = proxy.console();

        console.send(Script::new().query(&format!("PAUSE{target}")));
        assert!(!console.wire.stirs_within(Duration::from_millis(300)), "a transaction is still open");
        client.send(Script::new().query("SELECT 2"));
        proxy.until_pool("cl_waiting", 1);
        assert_eq!(holder.value("SELECT 1"), "1");
        holder.ok("COMMIT");
        assert_eq!(console.reply().tags(), ["PAUSE"]);
        assert!(proxy.show("SERVERS").find(&[("user", &proxy.role)]).is_none());
        Postgres::shared().until_backends(&proxy.role, 0);
        assert!(!client.wire.stirs_within(Duration::from_millis(300)), "paused means paused");

        assert_eq!(console.ok(&format!("RESUME{target}")).tags(), ["RESUME"]);
        assert_eq!(client.reply().value(), "2");
    }
}

#[test]
fn a_paused_database_shows() {
    let proxy = Setup::new().database("other", "").database("app", "").start();
    let mut console = proxy.console();

    console.ok("PAUSE app");
    let databases = console.table("SHOW DATABASES");
    assert_eq!(databases.cell(&[("name", "app")], "paused"), "1");
    assert_eq!(databases.cell(&[("name", "other")], "paused"), "0");
    assert_eq!(proxy.login().database("other").client().value("SELECT 1"), "1");
    console.ok("RESUME app");

    console.ok("PAUSE");
    assert_eq!(console.table("SHOW STATE").cell(&[("key", "paused")], "value"), "yes");
    assert_eq!(console.query("PAUSE").error_message(), "already suspended/paused");
    console.ok("RESUME");
    assert_eq!(proxy.client().value("SELECT 1"), "1");
}

#[test]
fn a_disabled_database_takes_no_new_clients() {
    let proxy = Proxy::start();
    let mut old = proxy.client();
    let mut console = proxy.console();

    assert_eq!(console.ok("DISABLE app").tags(), ["DISABLE"]);
    assert_eq!(proxy.login().refusal(), "database \"app\" is disabled");
    assert_eq!(old.value("SELECT 1"), "1");
    assert_eq!(console.table("SHOW DATABASES").cell(&[("name", "app")], "disabled"), "1");

    assert_eq!(console.ok("ENABLE app").tags(), ["ENABLE"]);
    assert_eq!(proxy.client().value("SELECT 1"), "1");
}

#[test]
fn reconnect_replaces_servers_when_they_come_home_and_wait_close_awaits_it() {
    let proxy = Proxy::start();
    let (mut holder, mut client) = (proxy.client(), proxy.client());
    holder.ok("BEGIN");
    let held = holder.pid();
    let free = client.pid();
    let mut console = proxy.console();

    assert_eq!(console.ok("RECONNECT app").tags(), ["RECONNECT"]);
    assert_eq!(proxy.show("SERVERS").cell(&[("remote_pid", &held)], "close_needed"), "1");
    let mut waiting = proxy.console();
    waiting.send(Script::new().query("WAIT_CLOSE app"));
    assert_ne!(client.pid(), free);
    assert!(!waiting.wire.stirs_within(Duration::from_millis(500)), "a transaction is still open");
    assert_eq!(holder.pid(), held);
    holder.ok("COMMIT");

    assert_eq!(waiting.reply().tags(), ["WAIT_CLOSE"]);
    assert_ne!(holder.pid(), held);
    assert_eq!(console.ok("RECONNECT").tags(), ["RECONNECT"]);
}

#[test]
fn kill_drops_everybody_until_resume() {
    let proxy = Setup::new().database("other", "").database("app", "").start();
    let mut victim = proxy.client();
    victim.ok("BEGIN");
    let mut bystander = proxy.login().database("other").client();
    let mut console = proxy.console();

    assert_eq!(console.ok("KILL app").tags(), ["KILL"]);

    victim.wire.until_end();
    eventually("the servers are gone", || {
        let left = proxy.show("SERVERS");
        left.find(&[("database", "app")]).is_none().then_some(())
    });
    assert_eq!(bystander.value("SELECT 1"), "1");
    assert_eq!(console.table("SHOW DATABASES").cell(&[("name", "app")], "paused"), "1");
    console.ok("RESUME app");
    assert_eq!(proxy.client().value("SELECT 1"), "1");
}

#[test]
fn kill_client_drops_one() {
    let proxy = Setup::new().closing_abandoned_servers().start();
    let mut victim = proxy.login().parameter("application_name", "victim").client();
    victim.ok("BEGIN");
    let pid = victim.pid();
    let mut other = proxy.client();
    let mut console = proxy.console();
    let id = proxy.show("CLIENTS").cell(&[("application_name", "victim")], "id");

    assert_eq!(console.ok(&format!("KILL_CLIENT {id}")).tags(), ["KILL_CLIENT"]);

    assert_eq!(victim.farewell(), "admin forced disconnect");
    assert_ne!(other.pid(), pid);
    assert_eq!(console.query("KILL_CLIENT 999999").error_message(), "client not found");
    assert!(console.query("KILL_CLIENT nonsense").error().is_some());
}

#[test]
fn set_changes_what_may_change() {
    let proxy = Setup::new().set("default_pool_size", 5).start();
    let mut console = proxy.console();

    assert!(console.ok("SET default_pool_size = 1").tags()[0].starts_with("SET"));
    assert!(console.ok("SET query_wait_timeout TO '77'").tags()[0].starts_with("SET"));

    let config = console.table("SHOW CONFIG");
    assert_eq!(config.cell(&[("key", "default_pool_size")], "value"), "1");
    assert_eq!(config.cell(&[("key", "query_wait_timeout")], "value"), "77");
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok("BEGIN");
    two.send(Script::new().query("SELECT 1"));
    proxy.until_pool("cl_waiting", 1);
    for command in ["SET no_such_thing = 1", "SET default_pool_size = many"] {
        assert_eq!(console.query(command).error_message(), "SET failed", "{command}");
    }
    assert_eq!(console.table("SHOW CONFIG").cell(&[("key", "default_pool_size")], "value"), "1");
}

/// A value for this setting that is not the one it has, so plain that every program prints it as it was written.
fn another_value(name: &str, value: &str) -> &'static str {
    if name == "max_packet_size" {
        // PgBouncer's holds for the console that sets it, too.
        return "65536";
    }
    let mut settings = Settings::default();
    let fits = |text: &&str| *text != value && settings.set(name, text).is_ok();
    ["1", "0", "7", "session", "plain", "local1", "require", "direct"].into_iter().find(fits).expect(name)
}

#[test]
fn every_reloadable_setting_can_be_set_and_shows() {
    let proxy = Proxy::start();
    let mut console = proxy.console();
    let before = console.table("SHOW CONFIG");
    let mut changed = 0;
    for row in config::table().into_iter().filter(|row| row.change == Change::Reload) {
        let Some(shown) = before.find(&[("key", row.name)]) else {
            assert!(support::proxy::is_pgbouncer(), "{} is not in SHOW CONFIG", row.name);
            continue;
        };
        assert_eq!(shown["changeable"], "yes", "{}", row.name);
        let value = another_value(row.name, shown.get("value").map_or("", String::as_str));

        let tags = console.ok(&format!("SET {} = '{value}'", row.name)).tags();

        assert_eq!(tags, [format!("SET {}={value}", row.name)]);
        let now = console.table("SHOW CONFIG");
        // The options hold a password; PgBouncer shows it.
        let hidden = row.name == "auth_ldap_options" && !support::proxy::is_pgbouncer();
        let expected = if hidden { "***" } else { value };
        assert_eq!(now.cell(&[("key", row.name)], "value"), expected, "{}", row.name);
        changed += 1;
    }
    assert!(changed > 50, "{changed}");
}

#[test]
fn set_of_what_needs_a_restart_changes_nothing_and_says_so() {
    let proxy = Proxy::start();
    let mut console = proxy.console();

    for row in config::table().into_iter().filter(|row| row.change == Change::Restart) {
        let shown = |console: &mut Client| console.table("SHOW CONFIG").find(&[("key", row.name)]).cloned();
        let Some(before) = shown(&mut console) else {
            assert!(support::proxy::is_pgbouncer(), "{} is not in SHOW CONFIG", row.name);
            continue;
        };
        let value = ["7", "1", "json"].into_iter().find(|text| Settings::default().set(row.name, text).is_ok());
        let value = value.expect(row.name);

        let reply = console.ok(&format!("SET {} TO {value}", row.name));

        assert_eq!(reply.tags(), [format!("SET {}={value}", row.name)]);
        assert_eq!(shown(&mut console), Some(before), "{}", row.name);
        if !support::proxy::is_pgbouncer() {
            assert_eq!(reply.shape(), "NCZ", "{}", row.name);
            assert!(reply.messages[0].fields()[&'M'].contains(row.name), "{reply:?}");
        }
    }
    let conninfo = format!("host=127.0.0.1 port={} user=admin dbname=pgbouncer", proxy.port);
    let told = tools::psql(&conninfo, &["-c", "SET listen_port = 1"]);
    assert!(told.success && (support::proxy::is_pgbouncer() || told.stderr.contains("restart")), "{}", told.stderr);
}

#[test]
fn set_takes_quotes_as_pgbouncer_does() {
    let proxy = Proxy::start();
    let mut console = proxy.console();
    let value = |console: &mut Client, key: &str| console.table("SHOW CONFIG").cell(&[("key", key)], "value");

    for (command, tag, key, expected) in [
        ("SET server_reset_query = 'it''s'", "SET server_reset_query=it's", "server_reset_query", "it's"),
        ("set server_reset_query to ''", "SET server_reset_query=", "server_reset_query", ""),
        ("SET verbose=\"0\" ;", "SET verbose=0", "verbose", "0"),
        ("SET\tverbose\nTO'0'", "SET verbose=0", "verbose", "0"),
        ("SET \"query_timeout\" = '0.5'", "SET query_timeout=0.5", "query_timeout", "0.5"),
        ("SET max_client_conn = 0x10", "SET max_client_conn=0x10", "max_client_conn", "16"),
        ("SET pool_mode = Session", "SET pool_mode=Session", "pool_mode", "session"),
    ] {
        assert_eq!(console.ok(command).tags(), [tag], "{command}");
        assert_eq!(value(&mut console, key), expected, "{command}");
    }
    for (command, error) in [
        ("SET verbose = 1 2", "invalid command 'SET verbose = 1 2', use SHOW HELP;"),
        ("SET Verbose = 1", "SET failed"),
        ("SET \"\" = 1", "bad arguments"),
        ("SHOW POOLS; SHOW POOLS", "invalid command 'SHOW POOLS; SHOW POOLS', use SHOW HELP;"),
        ("SHOW VERSION -- x", "invalid command 'SHOW VERSION -- x', use SHOW HELP;"),
        ("KILL_CLIENT 0x1", "client not found"),
        ("KILL_CLIENT x", "invalid client pointer supplied"),
    ] {
        assert_eq!(console.query(command).error_message(), error, "{command}");
    }
}

#[test]
fn verbose_in_the_file_outranks_the_command_line() {
    let shown = |proxy: &Proxy| proxy.show("CONFIG").cell(&[("key", "verbose")], "value");
    let proxy = Setup::new().argument("-v").argument("-v").start();
    assert_eq!(shown(&proxy), "2");
    proxy.console().ok("SET verbose = 0");
    assert_eq!(shown(&proxy), "0", "the command line does not hold it");

    proxy.rewrite(|setup| setup.set("verbose", 1));
    proxy.console().ok("RELOAD");

    assert_eq!(shown(&proxy), "1");
}

#[test]
fn session_clients_count_their_bytes_before_they_leave() {
    let proxy = Setup::new().set("pool_mode", "session").start();
    let mut client = proxy.client();

    client.ok("SELECT 1");

    let stats = proxy.show("STATS");
    for column in ["total_received", "total_sent"] {
        let bytes: u64 = stats.cell(&[("database", "app")], column).parse().unwrap();
        assert!(bytes > 0, "{column}");
    }
    let clients = proxy.show("CLIENTS");
    let row = clients.find(&[("user", &proxy.role)]).unwrap();
    assert_eq!([&row["state"], &row["wait"], &row["wait_us"]], ["active", "0", "0"], "nothing is under way");
}

#[test]
fn a_database_that_goes_tells_its_clients() {
    for command in ["KILL app", "RELOAD"] {
        let proxy = Setup::new().set("default_pool_size", 1).start();
        let (mut holder, mut waiter, mut idle) = (proxy.client(), proxy.client(), proxy.client());
        idle.pid();
        holder.ok("BEGIN");
        waiter.send(Script::new().query("SELECT 1"));
        proxy.until_pool("cl_waiting", 1);
        let mut console = proxy.console();
        if command == "RELOAD" {
            proxy.rewrite(|setup| setup.rename_own_database("other"));
        }

        console.ok(command);

        for client in [&mut holder, &mut waiter, &mut idle] {
            assert_eq!(client.farewell(), "database removed", "{command}");
        }
    }
}

#[test]
fn active_sockets_are_those_with_something_under_way() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let (mut holder, mut waiter) = (proxy.client(), proxy.client());
    holder.ok("BEGIN");
    waiter.send(Script::new().query("SELECT 12345"));
    proxy.until_pool("cl_waiting", 1);

    let sockets = proxy.show("ACTIVE_SOCKETS");
    let own: Vec<_> = sockets.all(&[("user", &proxy.role)]);

    assert_eq!(own.len(), 1, "who idles in a transaction is not active: {own:?}");
    assert_eq!((own[0]["state"].as_str(), own[0]["pkt_avail"].as_str()), ("cl_waiting", "18"));
    assert_eq!(proxy.show("SOCKETS").all(&[("user", &proxy.role)]).len(), 3);
}

#[test]
fn show_mem_lists_pgbouncers_caches() {
    let proxy = Proxy::start();
    let _client = proxy.client();

    let mem = proxy.show("MEM");

    let used = |name: &str| mem.cell(&[("name", name)], "used").parse::<u64>().unwrap();
    for name in ["user_cache", "credentials_cache", "db_cache", "pool_cache", "var_list_cache", "iobuf_cache"] {
        used(name);
    }
    assert_eq!((used("client_cache"), used("server_cache")), (2, 1));
    assert_eq!(mem.rows.len(), 12);
}

#[test]
fn psql_shows_and_commands() {
    let proxy = Proxy::start();
    let conninfo = format!("host=127.0.0.1 port={} user=admin dbname=pgbouncer", proxy.port);

    for what in ["STATS", "POOLS", "DATABASES", "CLIENTS", "SERVERS", "USERS", "LISTS", "CONFIG", "STATE", "VERSION"] {
        let shown = tools::psql(&conninfo, &["-c", &format!("SHOW {what}")]).ok();
        assert!(what == "SERVERS" || !shown.trim().is_empty(), "SHOW {what}");
    }
    assert_eq!(tools::psql(&conninfo, &["-c", "PAUSE app"]).ok().trim(), "PAUSE");
    assert_eq!(tools::psql(&conninfo, &["-c", "RESUME app"]).ok().trim(), "RESUME");
    let help = tools::psql(&conninfo, &["-c", "SHOW HELP"]);
    assert!(help.success && help.stderr.contains("SHOW"), "{}", help.stderr);
    assert!(!tools::psql(&conninfo, &["-c", "NONSENSE"]).success);
}

#[test]
fn psycopg_talks_to_the_console_over_the_extended_protocol() {
    // PgBouncer's console knows simple queries only.
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Proxy::start();
    let mut client: Client = proxy.client();
    client.pid();
    let conninfo = format!("host=127.0.0.1 port={} user=admin dbname=pgbouncer", proxy.port);

    assert_eq!(tools::python("console.py", &[&conninfo]).ok().trim(), "ok");
}

#[test]
fn the_console_answers_the_extended_protocol() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Proxy::start();
    let mut console = proxy.console();

    let script = Script::new().parse("", "SHOW STATE").describe_statement("").bind("", "", &[]);
    let reply = console.run(script.describe_portal("").execute("", 0).sync());
    assert_eq!(reply.shape(), "1tT2TDDDCZ");

    let reply = console.run(Script::new().run("FROBNICATE", &[]).run("SHOW STATE", &[]).sync());
    assert!(reply.shape().ends_with("EZ"), "{reply:?}");
    assert_eq!(console.run(Script::new().run("PAUSE app", &[]).sync()).tags(), ["PAUSE"]);
    assert_eq!(console.run(Script::new().run("RESUME app", &[]).sync()).tags(), ["RESUME"]);
}

#[test]
fn the_console_survives_what_it_does_not_know() {
    let proxy = Proxy::start();
    for script in [
        Script::new().message(b'F', &[0; 20]),
        Script::new().copy_data(b"x"),
        Script::new().message(b'P', b"no end"),
        Script::new().message(b'!', b""),
        Script::new().query(&"SHOW ".repeat(10_000)),
        Script::new().message(b'Q', b"SHOW\xff\xfe POOLS\0"),
    ] {
        let mut console = proxy.console();
        console.send(script);
        console.send(Script::new().sync().terminate());
        console.wire.until_end();
    }
    assert_eq!(proxy.show("STATE").rows.len(), 3);
}
