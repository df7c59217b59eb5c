//! Names, order and types of all columns, frozen: PgBouncer 1.25.2's, and the login counts of its next version.

use super::double::{Answer, Bench, READY, tag};
use crate::admin::show::NAMES;

const TEXT: u32 = 25;
const INT4: u32 = 23;
const INT8: u32 = 20;
const NUMERIC: u32 = 1700;
const BYTEA: u32 = 17;

/// `name` is text; `name:i` int4, `name:q` int8, `name:n` numeric, `name:b` bytea.
const FROZEN: &[(&str, &str)] = &[
    ("active_sockets", SOCKETS),
    (
        "clients",
        "type user database replication state addr port:i local_addr local_port:i connect_time request_time wait:i \
         wait_us:i close_needed:i ptr link remote_pid:i tls application_name prepared_statements:i id:i",
    ),
    ("config", "key value default changeable"),
    (
        "databases",
        "name host port:i database force_user pool_size:i min_pool_size:i reserve_pool_size:i server_lifetime:i \
         pool_mode load_balance_hosts max_connections:i current_connections:i max_client_connections:i \
         current_client_connections:i paused:i disabled:i",
    ),
    ("dns_hosts", "hostname ttl:q addrs"),
    ("dns_zones", "zonename serial:q count:i"),
    (
        "fds",
        "fd:i task user database addr port:i cancel:q link:i client_encoding std_strings datestyle timezone password \
         scram_client_key:b scram_server_key:b",
    ),
    ("lists", "list items:i"),
    ("mem", "name size:i used:i free:i memtotal:i"),
    ("peer_pools", "peer_id:i cl_active_cancel_req:i cl_waiting_cancel_req:i sv_active_cancel:i sv_login:i"),
    ("peers", "peer_id:i host port:i pool_size:i"),
    (
        "pools",
        "database user cl_active:i cl_waiting:i cl_active_cancel_req:i cl_waiting_cancel_req:i sv_active:i \
         sv_active_cancel:i sv_being_canceled:i sv_idle:i sv_used:i sv_tested:i sv_login:i maxwait:i maxwait_us:i \
         pool_mode load_balance_hosts",
    ),
    (
        "servers",
        "type user database replication state addr port:i local_addr local_port:i connect_time request_time wait:i \
         wait_us:i close_needed:i ptr link remote_pid:i tls application_name prepared_statements:i id:i",
    ),
    ("sockets", SOCKETS),
    ("state", "key value"),
    (
        "stats",
        "database total_server_assignment_count:n total_xact_count:n total_query_count:n total_received:n total_sent:n \
         total_xact_time:n total_query_time:n total_wait_time:n total_client_parse_count:n \
         total_server_parse_count:n total_bind_count:n total_client_login_count:n avg_server_assignment_count:n \
         avg_xact_count:n avg_query_count:n avg_recv:n avg_sent:n avg_xact_time:n avg_query_time:n avg_wait_time:n \
         avg_client_parse_count:n avg_server_parse_count:n avg_bind_count:n avg_client_login_count:n",
    ),
    (
        "stats_averages",
        "database server_assignment_count:n xact_count:n query_count:n bytes_received:n bytes_sent:n xact_time:n \
         query_time:n wait_time:n avg_client_parse_count:n avg_server_parse_count:n avg_bind_count:n \
         avg_client_login_count:n",
    ),
    (
        "stats_totals",
        "database server_assignment_count:n xact_count:n query_count:n bytes_received:n bytes_sent:n xact_time:n \
         query_time:n wait_time:n client_parse_count:n server_parse_count:n bind_count:n client_login_count:n",
    ),
    ("totals", "name value:n"),
    (
        "users",
        "name pool_size reserve_pool_size pool_mode max_user_connections:i current_connections:i \
         max_user_client_connections:i current_client_connections:i",
    ),
    ("version", "version"),
    ("client_encoding", "client_encoding"),
    ("default_transaction_isolation", "default_transaction_isolation"),
    ("standard_conforming_strings", "standard_conforming_strings"),
    ("datestyle", "datestyle"),
    ("timezone", "timezone"),
    ("transaction_isolation", "transaction_isolation"),
];

const SOCKETS: &str = "type user database replication state addr port:i local_addr local_port:i connect_time \
     request_time wait:i wait_us:i close_needed:i ptr link remote_pid:i tls application_name prepared_statements:i \
     id:i recv_pos:i pkt_pos:i pkt_remain:i send_pos:i send_remain:i pkt_avail:i send_avail:i";

fn column(frozen: &str) -> (String, u32, u16) {
    let (name, oid) = match frozen.split_once(':') {
        None => (frozen, TEXT),
        Some((name, "i")) => (name, INT4),
        Some((name, "q")) => (name, INT8),
        Some((name, "b")) => (name, BYTEA),
        Some((name, _)) => (name, NUMERIC),
    };
    (name.to_owned(), oid, 0)
}

#[test]
fn columns_of_every_table_are_frozen() {
    let mut bench = Bench::admin();
    for (show, frozen) in FROZEN {
        let answers = bench.query(&format!("SHOW {show};"));

        let expected: Vec<_> = frozen.split_whitespace().map(column).collect();
        assert_eq!(answers[0], Answer::Columns(expected.clone()), "SHOW {show}");
        for row in &answers[1..answers.len() - 2] {
            assert!(matches!(row, Answer::Row(row) if row.len() == expected.len()), "SHOW {show}: {row:?}");
        }
        assert_eq!(answers[answers.len() - 2..], [tag("SHOW"), READY], "SHOW {show}");
    }
}

#[test]
fn no_table_is_left_out_of_the_frozen_ones() {
    for (name, show) in NAMES {
        let frozen = FROZEN.iter().any(|(frozen, _)| *frozen == name);
        assert_eq!(frozen, show.columns().is_some(), "{name}");
    }
}
