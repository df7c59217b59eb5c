//! Programs that read the console on their own: exporters of metrics, and PostgreSQL itself through dblink.
//!
//! What each asks for was read in its source; the column lists of pgbouncer_fdw are those for PgBouncer 1.24 and later.

use crate::support::script::Table;
use crate::support::{self, Postgres, Proxy, Script, Setup, tools};

/// A pooler with something to show: a client in a transaction, one in line, one idle, and four transactions done.
struct Scene {
    proxy: Proxy,
    _clients: [support::Client; 3],
}

impl Scene {
    fn new() -> Scene {
        let mut setup = Setup::new().set("default_pool_size", 1).set("max_user_connections", 44);
        if !support::proxy::is_pgbouncer() {
            // pgbouncer_fdw knows the columns of 1.25 by their number.
            setup = setup.set("stats_login_counts", 0);
        }
        let proxy = setup.start();
        let (mut holder, mut waiter, mut idle) = (proxy.client(), proxy.client(), proxy.client());
        for _ in 0..4 {
            idle.ok("SELECT 1");
        }
        holder.ok("BEGIN");
        waiter.send(Script::new().query("SELECT 1"));
        proxy.until_pool("cl_waiting", 1);
        Scene { proxy, _clients: [holder, waiter, idle] }
    }
}

fn number(table: &Table, row: &[(&str, &str)], column: &str) -> f64 {
    table.cell(row, column).parse().unwrap_or_else(|_| panic!("{column} of {row:?}: {table:?}"))
}

#[test]
fn the_go_exporter_finds_its_columns_as_numbers() {
    let scene = Scene::new();
    let mut console = scene.proxy.console();

    // It pings with SHOW STATS, asks in small letters, and fails a scrape where a column of these is no number.
    console.ok("SHOW STATS");
    let databases = console.table("SHOW databases;");
    for column in ["pool_size", "reserve_pool_size", "max_connections", "current_connections", "paused", "disabled"] {
        number(&databases, &[("name", "app")], column);
    }
    for label in ["host", "port", "database", "force_user", "pool_mode"] {
        assert!(databases.columns.iter().any(|(name, _)| name == label), "{label}");
    }
    let stats = console.table("SHOW stats_totals;");
    let of = |column: &str| number(&stats, &[("database", "app")], column);
    assert!(of("query_count") >= 5.0 && of("xact_count") >= 4.0, "{stats:?}");
    assert!(of("bytes_received") > 0.0 && of("bytes_sent") > 0.0, "{stats:?}");
    for column in ["query_time", "wait_time", "xact_time", "client_parse_count", "server_parse_count", "bind_count"] {
        of(column);
    }
    let pools = console.table("SHOW pools;");
    let of = |column: &str| number(&pools, &[("database", "app"), ("user", &scene.proxy.role)], column);
    assert_eq!((of("cl_active"), of("cl_waiting"), of("sv_active"), of("sv_idle")), (2.0, 1.0, 1.0, 0.0));
    for column in [
        "cl_active_cancel_req",
        "cl_waiting_cancel_req",
        "sv_active_cancel",
        "sv_being_canceled",
        "sv_used",
        "sv_tested",
        "sv_login",
        "maxwait",
    ] {
        of(column);
    }

    let lists = console.table("SHOW LISTS;");
    assert_eq!(lists.columns.len(), 2);
    for list in [
        "databases",
        "users",
        "pools",
        "free_clients",
        "used_clients",
        "login_clients",
        "free_servers",
        "used_servers",
        "dns_names",
        "dns_zones",
        "dns_queries",
        "dns_pending",
    ] {
        number(&lists, &[("list", list)], "items");
    }
    let config = console.table("SHOW CONFIG;");
    assert_eq!(config.columns.len(), 4, "it knows three or four");
    assert_eq!(number(&config, &[("key", "max_client_conn")], "value"), 100.0);
    assert_eq!(number(&config, &[("key", "max_user_connections")], "value"), 44.0);
    let version = console.value("SHOW VERSION;");
    assert!(version.starts_with("PgBouncer 1."), "{version}");
}

#[test]
fn postgresql_reads_the_console_through_dblink_as_pgbouncer_fdw_does() {
    let scene = Scene::new();
    let mut server = Postgres::shared().admin();
    server.ok("CREATE SCHEMA IF NOT EXISTS linked; CREATE EXTENSION IF NOT EXISTS dblink SCHEMA linked");
    let conninfo = format!("host=127.0.0.1 port={} user=stats dbname=pgbouncer", scene.proxy.port);
    let mut ask = |what: &str, columns: &str, of: &str| {
        let source = format!("linked.dblink('{conninfo}', 'show {what}') AS x ({columns})");
        server.value(&format!("SELECT {of} FROM {source}"))
    };

    let number = |part| format!("split_part(substring(version from '\\d.+'), '.', {part})::int");
    for (part, expected) in [(1, "1"), (2, "25")] {
        assert_eq!(ask("version", "version text", &number(part)), expected);
    }
    ask("version", "version text", &number(3));

    let socket = "type text, \"user\" text, database text, replication text, state text, addr text, port int, \
                  local_addr text, local_port int, connect_time timestamptz, request_time timestamptz, wait int, \
                  wait_us int, close_needed int, ptr text, link text, remote_pid int, tls text, \
                  application_name text, prepared_statements int, id int";
    let buffers = "recv_pos int, pkt_pos int, pkt_remain int, send_pos int, send_remain int, pkt_avail int, \
                   send_avail int";
    assert_eq!(ask("clients", socket, "count(*) FILTER (WHERE state = 'waiting')"), "1");
    assert_eq!(ask("clients", socket, "bool_and(connect_time <= request_time)"), "t");
    assert_eq!(ask("servers", socket, "count(*) FILTER (WHERE state = 'active')"), "1");
    assert_eq!(ask("sockets", &format!("{socket}, {buffers}"), "sum(pkt_avail) > 0"), "t");
    let databases = "name text, host text, port int, database text, force_user text, pool_size int, \
                     min_pool_size int, reserve_pool_size int, server_lifetime int, pool_mode text, \
                     load_balance_hosts text, max_connections int, current_connections int, \
                     max_client_connections int, current_client_connections int, paused int, disabled int";
    assert_eq!(ask("databases", databases, "max(current_client_connections) FILTER (WHERE name = 'app')"), "3");
    let pools = "database text, \"user\" text, cl_active int, cl_waiting int, cl_active_cancel_req int, \
                 cl_waiting_cancel_req int, sv_active int, sv_active_cancel int, sv_being_canceled int, sv_idle int, \
                 sv_used int, sv_tested int, sv_login int, maxwait int, maxwait_us int, pool_mode text, \
                 load_balance_hosts text";
    assert_eq!(ask("pools", pools, "sum(cl_waiting)"), "1");
    let config = "key text, value text, \"default\" text, changeable boolean";
    assert_eq!(ask("config", config, "count(*) FILTER (WHERE key = 'listen_port' AND NOT changeable)"), "1");
    assert_eq!(ask("lists", "list text, items int", "sum(items) > 0"), "t");
    let users = "name text, pool_size text, reserve_pool_size text, pool_mode text, max_user_connections int, \
                 current_connections int, max_user_client_connections int, current_client_connections int";
    assert_eq!(ask("users", users, "count(*) > 0"), "t");
    let counts = |prefix: &str, received: &str| {
        let long = ["xact_count", "query_count", received, "sent", "xact_time", "query_time", "wait_time"];
        let parses = ["client_parse_count", "server_parse_count", "bind_count"];
        let first = ("server_assignment_count", "int");
        let rest = long.map(|name| (name, "bigint")).into_iter().chain(parses.map(|name| (name, "int")));
        std::iter::once(first).chain(rest).map(|(name, kind)| format!(", {prefix}{name} {kind}")).collect::<String>()
    };
    let stats = format!("database text{}{}", counts("total_", "received"), counts("avg_", "recv"));
    assert_eq!(ask("stats", &stats, "max(total_xact_count) >= 4"), "t");
}

#[test]
fn debians_exporter_collects_its_metrics() {
    let scene = Scene::new();

    let page = tools::python("exporter.py", &[&scene.proxy.port.to_string()]).ok();

    let role = &scene.proxy.role;
    for line in [
        format!("pgbouncer_active_clients{{database=\"app\",user=\"{role}\"}} 2.0"),
        format!("pgbouncer_waiting_clients{{database=\"app\",user=\"{role}\"}} 1.0"),
        "pgbouncer_databases 2.0".to_owned(),
        "pgbouncer_used_clients 4.0".to_owned(),
        "pgbouncer_dns_pending 0.0".to_owned(),
    ] {
        assert!(page.lines().any(|metric| metric == line), "{line}:\n{page}");
    }
}
