//! What the console shows and sets, compared with PgBouncer.

use super::*;
use crate::config::table::Origin;

/// What PgBouncer 1.25.2 answers to `SHOW CONFIG` when nothing is set: key, value, default, changeable.
const PGBOUNCER: &[(&str, Option<&str>, Option<&str>, &str)] = &[
    ("admin_users", Some(""), Some(""), "yes"),
    ("application_name_add_host", Some("0"), Some("0"), "yes"),
    ("auth_dbname", None, None, "yes"),
    ("auth_file", None, None, "yes"),
    ("auth_hba_file", Some(""), Some(""), "yes"),
    ("auth_ident_file", None, None, "yes"),
    ("auth_ldap_options", None, None, "yes"),
    ("auth_query", Some(AUTH_QUERY), Some(AUTH_QUERY), "yes"),
    ("auth_type", Some("md5"), Some("md5"), "yes"),
    ("auth_user", None, None, "yes"),
    ("autodb_idle_timeout", Some("3600"), Some("3600"), "yes"),
    ("cancel_wait_timeout", Some("10"), Some("10"), "yes"),
    ("client_idle_timeout", Some("0"), Some("0"), "yes"),
    ("client_login_timeout", Some("60"), Some("60"), "yes"),
    ("client_tls13_ciphers", None, None, "yes"),
    ("client_tls_ca_file", Some(""), Some(""), "yes"),
    ("client_tls_cert_file", Some(""), Some(""), "yes"),
    ("client_tls_ciphers", Some("default"), Some("default"), "yes"),
    ("client_tls_dheparams", Some("auto"), Some("auto"), "yes"),
    ("client_tls_ecdhcurve", Some("auto"), Some("auto"), "yes"),
    ("client_tls_key_file", Some(""), Some(""), "yes"),
    ("client_tls_protocols", Some("secure"), Some("secure"), "yes"),
    ("client_tls_sslmode", Some("disable"), Some("disable"), "yes"),
    ("conffile", None, None, "yes"),
    ("default_pool_size", Some("20"), Some("20"), "yes"),
    ("disable_pqexec", Some("0"), Some("0"), "no"),
    ("dns_max_ttl", Some("15"), Some("15"), "yes"),
    ("dns_nxdomain_ttl", Some("15"), Some("15"), "yes"),
    ("dns_zone_check_period", Some("0"), Some("0"), "yes"),
    ("idle_transaction_timeout", Some("0"), Some("0"), "yes"),
    ("ignore_startup_parameters", Some(""), Some(""), "yes"),
    ("job_name", Some("pgbouncer"), Some("pgbouncer"), "no"),
    ("listen_addr", Some(""), Some(""), "no"),
    ("listen_backlog", Some("128"), Some("128"), "no"),
    ("listen_port", Some("6432"), Some("6432"), "no"),
    ("log_connections", Some("1"), Some("1"), "yes"),
    ("log_disconnections", Some("1"), Some("1"), "yes"),
    ("log_pooler_errors", Some("1"), Some("1"), "yes"),
    ("log_stats", Some("1"), Some("1"), "yes"),
    ("logfile", Some(""), Some(""), "yes"),
    ("max_client_conn", Some("100"), Some("100"), "yes"),
    ("max_db_client_connections", Some("0"), Some("0"), "yes"),
    ("max_db_connections", Some("0"), Some("0"), "yes"),
    ("max_packet_size", Some("2147483647"), Some("2147483647"), "yes"),
    ("max_prepared_statements", Some("200"), Some("200"), "yes"),
    ("max_user_client_connections", Some("0"), Some("0"), "yes"),
    ("max_user_connections", Some("0"), Some("0"), "yes"),
    ("min_pool_size", Some("0"), Some("0"), "yes"),
    ("peer_id", Some("0"), Some("0"), "yes"),
    ("pidfile", Some(""), Some(""), "no"),
    ("pkt_buf", Some("4096"), Some("4096"), "no"),
    ("pool_mode", Some("session"), Some("session"), "yes"),
    ("query_timeout", Some("0"), Some("0"), "yes"),
    ("query_wait_notify", Some("5"), Some("5"), "yes"),
    ("query_wait_timeout", Some("120"), Some("120"), "yes"),
    ("reserve_pool_size", Some("0"), Some("0"), "yes"),
    ("reserve_pool_timeout", Some("5"), Some("5"), "yes"),
    ("resolv_conf", Some(""), Some(""), "no"),
    ("sbuf_loopcnt", Some("5"), Some("5"), "yes"),
    ("scram_iterations", Some("4096"), Some("4096"), "yes"),
    ("server_check_delay", Some("30"), Some("30"), "yes"),
    ("server_check_query", Some("<empty>"), Some("<empty>"), "yes"),
    ("server_connect_timeout", Some("15"), Some("15"), "yes"),
    ("server_fast_close", Some("0"), Some("0"), "yes"),
    ("server_idle_timeout", Some("600"), Some("600"), "yes"),
    ("server_lifetime", Some("3600"), Some("3600"), "yes"),
    ("server_login_retry", Some("15"), Some("15"), "yes"),
    ("server_reset_query", Some("DISCARD ALL"), Some("DISCARD ALL"), "yes"),
    ("server_reset_query_always", Some("0"), Some("0"), "yes"),
    ("server_round_robin", Some("0"), Some("0"), "yes"),
    ("server_tls13_ciphers", None, None, "yes"),
    ("server_tls_ca_file", Some(""), Some(""), "yes"),
    ("server_tls_cert_file", Some(""), Some(""), "yes"),
    ("server_tls_ciphers", Some("default"), Some("default"), "yes"),
    ("server_tls_key_file", Some(""), Some(""), "yes"),
    ("server_tls_protocols", Some("secure"), Some("secure"), "yes"),
    ("server_tls_sslmode", Some("prefer"), Some("prefer"), "yes"),
    ("so_reuseport", Some("0"), Some("0"), "no"),
    ("stats_period", Some("60"), Some("60"), "yes"),
    ("stats_users", Some(""), Some(""), "yes"),
    ("suspend_timeout", Some("10"), Some("10"), "yes"),
    ("syslog", Some("0"), Some("0"), "yes"),
    ("syslog_facility", Some("daemon"), Some("daemon"), "yes"),
    ("syslog_ident", Some("pgbouncer"), Some("pgbouncer"), "yes"),
    ("tcp_defer_accept", Some("1"), Some("1"), "yes"),
    ("tcp_keepalive", Some("1"), Some("1"), "yes"),
    ("tcp_keepcnt", Some("0"), Some("0"), "yes"),
    ("tcp_keepidle", Some("0"), Some("0"), "yes"),
    ("tcp_keepintvl", Some("0"), Some("0"), "yes"),
    ("tcp_socket_buffer", Some("0"), Some("0"), "yes"),
    ("tcp_user_timeout", Some("0"), Some("0"), "yes"),
    ("track_extra_parameters", Some("IntervalStyle"), Some("IntervalStyle"), "no"),
    ("transaction_timeout", Some("0"), Some("0"), "yes"),
    ("unix_socket_dir", Some("/tmp"), Some("/tmp"), "no"),
    ("unix_socket_group", Some(""), Some(""), "no"),
    ("unix_socket_mode", Some("511"), Some("0777"), "no"),
    ("user", None, None, "no"),
    ("verbose", Some("0"), None, "yes"),
];

const AUTH_QUERY: &str = "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END \
                          FROM pg_authid WHERE rolname=$1 AND rolcanlogin";

/// Settings that came to PgBouncer after 1.25.
const NEWER: &[&str] = &["login_notify_message", "pool_idle_timeout"];

#[test]
fn show_config_on_defaults_is_pgbouncers_row_by_row() {
    let shown = Settings::default().show();

    let ours = ROWS.iter().filter(|row| row.origin == Origin::Pgweir).map(|row| row.name);
    let extra: Vec<&str> = ours.chain(NEWER.iter().copied()).collect();
    let theirs: Vec<(&str, Option<&str>, Option<&str>, &str)> = shown
        .iter()
        .filter(|row| !extra.contains(&row.name))
        .map(|row| (row.name, row.value.as_deref(), row.default, if row.changeable { "yes" } else { "no" }))
        .collect();
    for (ours, pgbouncers) in theirs.iter().zip(PGBOUNCER) {
        assert_eq!(ours, pgbouncers);
    }
    assert_eq!(theirs.len(), PGBOUNCER.len());
    assert_eq!(
        extra,
        [
            "abandoned_query_timeout",
            "auth_query_lifetime",
            "cancel_abandoned_queries",
            "legacy_sqlstate",
            "log_format",
            "login_rate_burst",
            "login_rate_limit",
            "server_tls_sslnegotiation",
            "stats_login_counts",
            "worker_threads",
            "login_notify_message",
            "pool_idle_timeout"
        ]
    );
}

#[test]
fn every_row_is_documented_and_listed_in_order() {
    for row in ROWS {
        assert!(row.doc.trim().ends_with('.') || row.doc.trim().ends_with("secure."), "{}", row.name);
        assert!(!(row.expected)().is_empty(), "{}", row.name);
    }
    let theirs = ROWS.iter().filter(|row| row.origin == Origin::Pgbouncer).map(|row| row.name);
    assert!(theirs.is_sorted());
    assert!(table().iter().map(|row| row.name).is_sorted());
}

#[test]
fn every_default_reads_as_the_default_it_is() {
    let default = Settings::default();

    let mut read = default.clone();
    for row in ROWS {
        if let Some(text) = row.default {
            assert_eq!(read.assign(row.name, text), Ok(()), "{}", row.name);
        }
    }

    assert!(read.differences(&default).is_empty());
}

#[test]
fn what_show_prints_can_be_set_again() {
    let mut settings = Settings::default();
    let values = [("server_lifetime", "0.25"), ("admin_users", "a, b"), ("unix_socket_mode", "0770")];
    for (name, value) in values {
        assert_eq!(settings.assign(name, value), Ok(()));
    }

    let mut copy = Settings::default();
    for row in settings.show() {
        let text = row.value.unwrap_or_default();
        if !text.is_empty() || row.default == Some("") {
            assert_eq!(copy.assign(row.name, &text), Ok(()), "{}", row.name);
        }
    }

    assert_eq!(copy, settings);
}

#[test]
fn the_console_sets_what_takes_effect_at_once_and_says_why_not_otherwise() {
    let mut settings = Settings::default();

    assert_eq!(settings.set("default_pool_size", "0x10"), Ok(SetEffect::Now));
    assert_eq!(settings.default_pool_size, 16);
    assert_eq!(settings.set("nosuch", "1"), Err(SetError::Unknown));
    assert_eq!(settings.set("listen_port", "7"), Ok(SetEffect::NeedsRestart));
    assert_eq!(settings.listen_port, 6432);
    assert!(matches!(settings.set("listen_port", "x"), Err(SetError::Unfit(_))));
    assert_eq!(settings.set("auth_hba_file", "/nosuch"), Ok(SetEffect::NeedsReload));
    assert_eq!(settings.set("auth_ldap_options", "x"), Ok(SetEffect::Now));
    assert_eq!(settings.auth_ldap_options.as_ref().map(super::super::Secret::reveal), Some("x"));
    #[cfg(not(feature = "pam"))]
    assert_eq!(settings.set("auth_type", "pam"), Err(SetError::NotInThisBuild(super::super::pam::NOT_BUILT_IN)));
    assert_eq!(settings.auth_type, AuthType::Md5);
    let unfit = settings.set("pool_mode", "transactional").expect_err("there is no such mode");
    assert_eq!(unfit.to_string(), "expected session, transaction or statement");
}

#[test]
fn a_reload_leaves_what_needs_a_restart_and_names_it() {
    let running = Settings::default();
    let mut next = running.clone();
    for (name, value) in [("listen_port", "7000"), ("max_client_conn", "7"), ("pkt_buf", "8192")] {
        assert_eq!(next.assign(name, value), Ok(()));
    }

    let kept: Vec<&str> = next.keep_restart_only(&running).iter().map(|row| row.name).collect();

    assert_eq!(kept, ["listen_port", "pkt_buf"]);
    assert_eq!((next.listen_port, next.pkt_buf, next.max_client_conn), (6432, 4096, 7));
}

#[test]
fn the_console_is_told_of_an_auth_type_that_lets_nobody_in() {
    let lets_in = Settings {
        auth_ldap_options: Some(super::super::Secret::new("ldapserver=h ldapbasedn=b")),
        client_tls_sslmode: SslMode::VerifyFull,
        client_tls_ca_file: Some("ca".into()),
        ..Settings::default()
    };
    let useless = Settings { auth_ldap_options: Some(super::super::Secret::new("ldapport=x")), ..Settings::default() };
    let set = |settings: &Settings, auth_type| match settings.clone().set("auth_type", auth_type) {
        Ok(SetEffect::NobodyIn(why)) => why,
        other => format!("{other:?}"),
    };

    let no_options = "auth_ldap_options is not set, but auth_type is ldap";
    assert_eq!(set(&Settings::default(), "ldap"), no_options);
    assert_eq!(set(&useless, "ldap"), "auth_ldap_options: invalid LDAP port number: \"x\"");
    assert_eq!(set(&Settings::default(), "cert"), "auth_type=cert requires client_tls_sslmode=verify-full");
    let no_ca = Settings { client_tls_ca_file: None, ..lets_in.clone() };
    assert_eq!(set(&no_ca, "cert"), "auth_type=cert requires client_tls_ca_file");
    for auth_type in ["ldap", "cert", "md5"] {
        assert_eq!(set(&lets_in, auth_type), "Ok(Now)", "{auth_type}");
    }

    let mut ldap = Settings { auth_type: AuthType::Ldap, ..lets_in };
    assert!(matches!(ldap.set("auth_ldap_options", ""), Ok(SetEffect::NobodyIn(_))));
    assert_eq!(ldap.set("verbose", "1"), Ok(SetEffect::Now), "once is enough");
}
