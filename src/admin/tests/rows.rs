//! What stands in the rows.

use super::double::Bench;
use crate::admin::show::Show;
use crate::admin::table::Value;
use crate::stats::moment::Moment;
use crate::stats::roster::{CancelTarget, ClientState, Order, Reach, ServerState};

fn text(row: &[Option<String>]) -> Vec<&str> {
    row.iter().map(|value| value.as_deref().unwrap_or("NULL")).collect()
}

/// The rows of a table at a moment, as text.
fn table(bench: &Bench, show: Show, now: Moment) -> Vec<Vec<String>> {
    let value = |value: Value| match value {
        Value::Null => "NULL".to_owned(),
        Value::Text(text) => text,
        Value::Int4(number) => number.to_string(),
        Value::Int8(number) => number.to_string(),
        Value::Numeric(number) => number.to_string(),
        Value::Bytea(bytes) => format!("{bytes:?}"),
    };
    let table = show.table(&bench.context, now).unwrap();
    table.rows.into_iter().map(|row| row.into_iter().map(value).collect()).collect()
}

#[test]
fn pools_come_with_the_consoles_own() {
    let mut bench = Bench::admin();
    let client = bench.client(Moment(1), "pgbouncer", "admin", ClientState::Active);
    client.card().console.store(true, std::sync::atomic::Ordering::Relaxed);

    let rows = bench.rows("SHOW POOLS");

    let app = ["app", "joe", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "transaction"];
    assert_eq!(text(&rows[0]), [&app[..], &["round-robin"]].concat());
    let console = ["pgbouncer", "pgbouncer", "1", "0", "0", "0", "0", "0", "0", "0", "0", "0", "0", "0", "0"];
    assert_eq!(text(&rows[1]), [&console[..], &["statement", "NULL"]].concat());
}

#[test]
fn databases_come_in_order_with_the_console_among_them() {
    let rows = Bench::admin().rows("SHOW DATABASES");

    let console = "pgbouncer NULL 6432 pgbouncer pgbouncer 2 0 0 3600 statement NULL 0 0 0 0 0 0";
    assert_eq!(text(&rows[0]).join(" "), console);
    assert_eq!(text(&rows[1]).join(" "), "zoo a,b 5432 zoo_1 NULL 20 1 2 3600 NULL disable 3 4 5 6 1 0");
}

#[test]
fn users_show_only_their_own_sizes() {
    let rows = Bench::admin().rows("SHOW USERS");

    assert_eq!(text(&rows[0]), ["joe", "        5", "", "session", "7", "1", "8", "2"]);
    assert_eq!(text(&rows[1]), ["pgbouncer", "", "", "NULL", "0", "0", "0", "0"]);
}

#[test]
fn stats_add_the_console_to_the_databases() {
    let mut bench = Bench::admin();
    bench.query("SHOW VERSION");

    let rows = bench.rows("SHOW STATS_TOTALS");

    assert_eq!(text(&rows[0]).join(" "), "app 1 2 3 4 5 6 7 8 9 10 11 12");
    assert_eq!(text(&rows[1]).join(" "), "pgbouncer 0 2 2 0 0 0 0 0 0 0 0 1");
}

#[test]
fn login_counts_can_be_left_out_for_readers_of_the_columns_of_1_25() {
    let bench = Bench::admin();
    let now = Moment(999_999);
    for (full, short, columns) in [
        (Show::Stats, Show::Stats125, 23),
        (Show::StatsTotals, Show::StatsTotals125, 12),
        (Show::StatsAverages, Show::StatsAverages125, 12),
    ] {
        assert_eq!((full.with_login_counts(true), full.with_login_counts(false)), (full, short));
        let (all, left) = (full.columns().unwrap(), short.columns().unwrap());
        let kept: Vec<_> = (0..all.len()).filter(|column| !all[*column].name.ends_with("client_login_count")).collect();
        assert_eq!((left.len(), kept.len()), (columns, columns));
        let expected: Vec<_> = kept.iter().map(|column| all[*column]).collect();
        assert_eq!(left, expected);
        let (rows, short_rows) = (table(&bench, full, now), table(&bench, short, now));
        let expected: Vec<String> = kept.iter().map(|column| rows[0][*column].clone()).collect();
        assert_eq!(short_rows[0], expected);
    }
    assert_eq!(Show::Pools.with_login_counts(false), Show::Pools);
}

#[test]
fn averages_stand_beside_totals() {
    let bench = Bench::admin();
    let now = Moment(999_999);

    let stats = table(&bench, Show::Stats, now);
    assert_eq!(stats[0][1..13], ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"]);
    assert_eq!(stats[0][13..], ["0", "1", "1", "2", "2", "3", "2", "8", "4", "5", "5", "6"], "over two seconds");

    assert_eq!(table(&bench, Show::StatsAverages, now)[0][1..], stats[0][13..]);

    let totals = table(&bench, Show::Totals, now);
    assert_eq!(totals.len(), 24);
    assert_eq!(totals[3], ["total_client_bytes", "4"]);
    assert_eq!(totals[12 + 11], ["avg_client_login_count", "6"]);
}

#[test]
fn a_client_is_idle_active_or_waiting() {
    let bench = Bench::admin();
    let idle = bench.client(Moment(1), "app", "joe", ClientState::Active);
    let active = bench.client(Moment(1), "app", "joe", ClientState::Active);
    active.card().set_link(77);
    active.card().set_request_at(Moment(5_000_001));
    active.card().set_xact_at(Some(Moment(5_000_001)));
    let waiting = bench.client(Moment(1), "app", "ann", ClientState::Waiting);
    waiting.card().set_request_at(Moment(5_000_001));
    let _login = bench.client(Moment(1), "app", "joe", ClientState::Login);
    let in_session = bench.client(Moment(1), "app", "zoe", ClientState::Active);
    in_session.card().set_link(78);
    in_session.card().set_request_at(Moment(5_000_001));

    let rows = table(&bench, Show::Clients, Moment(7_500_002));

    let of = |row: usize, columns: &[usize]| columns.iter().map(|c| rows[row][*c].as_str()).collect::<Vec<_>>();
    assert_eq!(rows.len(), 4);
    assert_eq!(of(3, &[1, 4, 11, 12]), ["zoe", "active", "0", "0"], "nothing under way in its session");
    assert_eq!(of(0, &[1, 4, 11, 12]), ["ann", "waiting", "2", "500001"]);
    assert_eq!(of(1, &[1, 4, 11, 12, 14, 15]), ["joe", "idle", "0", "0", "0x1", ""]);
    assert_eq!(of(2, &[1, 4, 11, 12, 14, 15]), ["joe", "active", "2", "500001", "0x2", "0x4d"]);
    assert_eq!(of(2, &[5, 6, 7, 8]), ["127.0.0.1", "40000", "127.0.0.1", "6432"]);
    assert_eq!(of(2, &[9, 10]), ["2023-11-14 22:13:20 UTC", "2023-11-14 22:13:25 UTC"]);
    assert_eq!(of(2, &[0, 2, 3, 20]), ["C", "app", "none", "2"]);
    assert_eq!(idle.card().id, 1);
}

#[test]
fn who_was_killed_is_listed_no_more() {
    let bench = Bench::admin();
    let stays = bench.client(Moment(1), "app", "joe", ClientState::Active);
    for order in [Order::Kill, Order::DatabaseRemoved] {
        let killed = bench.client(Moment(1), "app", "joe", ClientState::Waiting);
        assert_eq!(table(&bench, Show::Clients, Moment(1)).len(), 2);

        killed.card().give_order(order);

        for show in [Show::Clients, Show::Sockets] {
            let rows = table(&bench, show, Moment(1));
            assert_eq!(rows.len(), 1, "{order:?}");
            assert_eq!(rows[0][20], stays.card().id.to_string());
        }
    }
}

#[test]
fn servers_come_by_pool_and_state() {
    let bench = Bench::admin();
    let idle = bench.server(Moment(1), "app", "joe");
    idle.card().set_state(ServerState::Idle);
    let active = bench.server(Moment(1), "app", "joe");
    active.card().set_state(ServerState::Active);
    active.card().set_link(9);
    let reach = Reach::Unix("/tmp/.s.PGSQL.5432".to_owned());
    active
        .card()
        .cancel_target
        .set(CancelTarget { reach, pid: 4711, secret: Box::new([0; 4]), encrypted_as: None })
        .unwrap();
    active.card().close_needed.store(true, std::sync::atomic::Ordering::Relaxed);

    let rows = table(&bench, Show::Servers, Moment(1));

    assert_eq!(rows[0][4..9], ["active", "unix", "5432", "unix", "6432"]);
    assert_eq!(rows[0][11..13], ["0", "0"], "servers do not wait");
    assert_eq!(rows[0][13..17], ["1", "0x2", "0x9", "4711"]);
    assert_eq!(rows[1][4], "idle");
}

#[test]
fn sockets_list_both_kinds_and_those_logging_in() {
    let bench = Bench::admin();
    let resting = bench.client(Moment(1), "app", "joe", ClientState::Active);
    resting.card().set_rest_at(Some(Moment(2)));
    let waiting = bench.client(Moment(1), "zoo", "joe", ClientState::Waiting);
    waiting.card().set_held(17);
    let busy = bench.client(Moment(1), "app", "busy", ClientState::Active);
    let idle_in_xact = bench.client(Moment(1), "app", "idle", ClientState::Active);
    let _servers = [&busy, &idle_in_xact].map(|client| {
        let server = bench.server(Moment(1), "app", &client.card().names().1);
        server.card().set_state(ServerState::Active);
        server.card().set_link(client.card().id);
        client.card().set_link(server.card().id);
        client.card().set_xact_at(Some(Moment(1)));
        server
    });
    idle_in_xact.card().set_idle_in_xact_at(Some(Moment(2)));
    let _login = bench.client(Moment(1), "app", "joe", ClientState::Login);
    let server = bench.server(Moment(1), "app", "joe");
    server.card().set_state(ServerState::Used);

    let states = |show| table(&bench, show, Moment(3)).into_iter().map(|row| row[4].clone()).collect::<Vec<_>>();
    assert_eq!(
        states(Show::Sockets),
        ["cl_active", "sv_active", "cl_active", "sv_active", "cl_active", "sv_used", "cl_waiting", "cl_login"]
    );
    assert_eq!(states(Show::ActiveSockets), ["cl_active", "sv_active", "cl_waiting", "cl_login"]);
    let rows = table(&bench, Show::ActiveSockets, Moment(3));
    assert_eq!(rows[0][1], "busy");
    assert_eq!(rows[2][21..], ["17", "0", "0", "0", "0", "17", "0"], "what it sent waits to be looked at");
    assert_eq!(waiting.card().id, 2);
}

#[test]
fn a_unix_client_shows_its_process() {
    use crate::stats::roster::{ClientCard, Endpoint};
    let bench = Bench::admin();
    let unix = |pid| Endpoint::Unix { port: 6432, pid, uid: Some(0) };
    let card = ClientCard::new(3, unix(Some(42)), unix(None), std::time::SystemTime::UNIX_EPOCH, Moment(1));
    card.set_state(ClientState::Active);
    let _entered = bench.context.roster.enter_client(card);

    let rows = table(&bench, Show::Clients, Moment(1));

    assert_eq!(rows[0][1..3], ["(nouser)", "(nodb)"]);
    assert_eq!(rows[0][5..9], ["unix", "6432", "unix", "6432"]);
    assert_eq!(rows[0][16], "42");
}

#[test]
fn names_and_zones_have_their_rows() {
    let mut bench = Bench::admin();

    let hosts = bench.rows("SHOW DNS_HOSTS");
    assert_eq!(text(&hosts[0]), ["db.example.com", "14", "10.0.0.5:0,[::1]:0"]);
    assert_eq!(text(&hosts[1]), ["nobody", "0", ""]);
    assert_eq!(text(&bench.rows("SHOW DNS_ZONES")[0]), ["example.com", "4294967295", "1"]);
}

#[test]
fn lists_state_config_version_peers_and_memory_have_their_rows() {
    let mut bench = Bench::admin();
    let _client = bench.client(Moment(1), "app", "joe", ClientState::Login);

    let lists = bench.rows("SHOW LISTS");
    let lists: Vec<_> = lists.iter().map(|row| text(row).join("=")).collect();
    assert_eq!(
        lists.join(" "),
        "databases=2 users=2 peers=1 pools=2 peer_pools=1 free_clients=0 used_clients=1 login_clients=1 \
         free_servers=0 used_servers=0 dns_names=2 dns_zones=1 dns_queries=3 dns_pending=0"
    );

    let state: Vec<_> = bench.rows("SHOW STATE").iter().map(|row| text(row).join("=")).collect();
    assert_eq!(state, ["active=yes", "paused=no", "suspended=no"]);
    bench.double.paused.store(true, std::sync::atomic::Ordering::Relaxed);
    let state: Vec<_> = bench.rows("SHOW STATE").iter().map(|row| text(row).join("=")).collect();
    assert_eq!(state, ["active=no", "paused=yes", "suspended=no"]);

    let config = bench.rows("SHOW CONFIG");
    let pool_mode = config.iter().find(|row| row[0].as_deref() == Some("pool_mode")).unwrap();
    assert_eq!(text(pool_mode), ["pool_mode", "transaction", "session", "yes"]);
    assert!(config.is_sorted_by_key(|row| row[0].clone()));
    assert_eq!(text(&bench.rows("SHOW VERSION")[0]), ["PgBouncer 1.25.2"]);
    assert_eq!(text(&bench.rows("SHOW PEERS")[0]), ["2", "/tmp", "6433", "9"]);
    assert_eq!(text(&bench.rows("SHOW PEER_POOLS")[0]), ["2", "3", "4", "5", "6"]);
    let mem = bench.rows("SHOW MEM");
    let names: Vec<&str> = mem.iter().map(|row| text(row)[0]).collect();
    assert_eq!(
        names.join(" "),
        "user_cache credentials_cache db_cache peer_cache peer_pool_cache pool_cache outstanding_request_cache \
         server_cache client_cache iobuf_cache var_list_cache server_prepared_statement_cache"
    );
    for row in &mem {
        let numbers: Vec<u64> = text(row)[1..].iter().map(|cell| cell.parse().unwrap()).collect();
        assert!(numbers[0] > 0 && numbers[2] == 0 && numbers[0] * numbers[1] == numbers[3], "{row:?}");
    }
    let used = |name: &str| text(mem.iter().find(|row| row[0].as_deref() == Some(name)).unwrap())[2].to_owned();
    assert_eq!([used("client_cache"), used("server_cache"), used("db_cache")], ["1", "0", "2"]);
    assert_eq!(text(&bench.rows("SHOW TimeZone")[0]), ["GMT"]);
}
