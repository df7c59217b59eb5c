//! TLS towards clients and towards servers, with OpenSSL at the other end: psql, `openssl s_client`, PostgreSQL.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;

use crate::support::script::sasl_initial;
use crate::support::tls::{Authority, Greeter, Kind, Pair, Tunnel, for_pooler, for_us, self_signed};
use crate::support::tools::{Outcome, psql, python};
use crate::support::{self, Client, Login, Postgres, Proxy, Script, Setup, Wire, eventually};

pub(crate) const STARTTLS: [&str; 2] = ["-starttls", "postgres"];
pub(crate) const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

fn shows(setup: Setup, pair: &Pair) -> Setup {
    setup.set("client_tls_key_file", pair.key.display()).set("client_tls_cert_file", pair.certificate.display())
}

/// A pooler with TLS towards its clients.
pub(crate) fn encrypting(sslmode: &str) -> Setup {
    let authority = Authority::shared();
    shows(Setup::new(), &authority.server)
        .set("client_tls_ca_file", authority.certificate.display())
        .set("client_tls_sslmode", sslmode)
}

/// A pooler with TLS towards its server, whose role is known there.
pub(crate) fn to_encrypted(sslmode: &str) -> Setup {
    let server = Postgres::encrypted();
    let setup = Setup::new();
    server.admin().ok(&format!("CREATE ROLE {} LOGIN", setup.role()));
    setup
        .through(server.port)
        .set("server_tls_ca_file", Authority::shared().certificate.display())
        .set("server_tls_sslmode", sslmode)
        .set("server_login_retry", 1)
        .set("query_wait_timeout", 60)
}

fn asks(proxy: &Proxy, more: &str) -> Outcome {
    let conninfo = format!("host=localhost port={} user={} dbname=app {more}", proxy.port, proxy.role);
    psql(&conninfo, &["-c", "SELECT 42"])
}

/// A client whose bytes go through OpenSSL.
#[track_caller]
pub(crate) fn tunnelled(proxy: &Proxy, arguments: &[&str]) -> (Tunnel, Client) {
    let (tunnel, wire) = Tunnel::open(proxy.port, arguments);
    match proxy.login().over(wire) {
        Ok(client) => (tunnel, client),
        Err(refusal) => panic!("{refusal:?}\n{}", tunnel.log()),
    }
}

fn tls_of(proxy: &Proxy, table: &str) -> String {
    let shown = proxy.until(table, |rows| rows.find(&[("user", &proxy.role)]).is_some());
    shown.find(&[("user", &proxy.role)]).unwrap()["tls"].clone()
}

#[test]
fn psql_gets_what_each_sslmode_promises() {
    let root = Authority::shared().certificate.display();
    for (ours, works) in [
        ("disable", &["disable", "allow", "prefer"][..]),
        ("allow", &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]),
        ("prefer", &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]),
        ("require", &["allow", "prefer", "require", "verify-ca", "verify-full"]),
    ] {
        let proxy = encrypting(ours).start();
        for theirs in ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] {
            let outcome = asks(&proxy, &format!("sslmode={theirs} sslrootcert={root}"));
            let ok = outcome.success && outcome.stdout.trim() == "42";
            assert_eq!(ok, works.contains(&theirs), "{ours} {theirs}: {}", outcome.stderr);
            if ours == "require" && theirs == "disable" {
                assert!(outcome.stderr.contains("SSL required"), "{}", outcome.stderr);
            }
        }
    }
}

#[test]
fn a_client_that_knows_only_old_versions_is_logged_with_the_setting() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = encrypting("require").start();

    let (_tunnel, wire) =
        Tunnel::open(proxy.port, &[&STARTTLS[..], &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]].concat());

    assert!(proxy.login().over(wire).is_err());
    proxy.until_log("handshake failed: no version of TLS in common: client_tls_protocols is secure,");
}

#[test]
fn a_client_that_trusts_another_authority_goes_away() {
    let proxy = encrypting("require").start();
    let outcome = asks(&proxy, &format!("sslmode=verify-ca sslrootcert={}", Authority::other().certificate.display()));

    assert!(!outcome.success && outcome.stderr.contains("certificate verify failed"), "{}", outcome.stderr);
    proxy.until_log("TLS handshake error");
    assert!(asks(&proxy, "sslmode=require").success);
}

#[test]
fn a_client_must_show_a_certificate_where_one_is_demanded() {
    let authority = Authority::shared();
    let good = authority.sign("client", "ann", Kind::Named("DNS:ann"));
    let plain = authority.sign("client-plain", "ann", Kind::Plain);
    let bad = Authority::other().sign("client", "ann", Kind::Named("DNS:ann"));
    [&good, &plain, &bad].iter().for_each(|pair| for_us(&pair.key));
    let with =
        |pair: &Pair| format!("sslmode=require sslcert={} sslkey={}", pair.certificate.display(), pair.key.display());
    for sslmode in ["verify-ca", "verify-full"] {
        let proxy = encrypting(sslmode).start();
        assert!(asks(&proxy, &with(&good)).success, "{sslmode}");
        assert!(asks(&proxy, &with(&plain)).success, "{sslmode}");
        assert!(!asks(&proxy, &with(&bad)).success, "{sslmode}");
        assert!(!asks(&proxy, "sslmode=require sslcert=/none sslkey=/none").success, "{sslmode}");
        assert!(!asks(&proxy, "sslmode=disable").success, "{sslmode}");
    }

    // One that is shown is looked at even where none is demanded.
    let proxy = encrypting("require").start();
    assert!(asks(&proxy, &with(&good)).success);
    assert!(!asks(&proxy, &with(&bad)).success);
}

#[test]
fn version_and_cipher_stand_in_the_log_and_in_show_clients() {
    for (version, expected) in
        [("-tls1_3", "TLSv1.3/TLS_AES_256_GCM_SHA384"), ("-tls1_2", "TLSv1.2/ECDHE-ECDSA-AES256-GCM-SHA384")]
    {
        let proxy = encrypting("require").start();
        let (_tunnel, mut client) = tunnelled(&proxy, &[&STARTTLS[..], &[version]].concat());
        assert_eq!(client.value("SELECT 1"), "1");

        let mut console = tunnelled_console(&proxy);
        let clients = console.1.table("SHOW CLIENTS");
        let shown = clients.find(&[("user", &proxy.role)]).unwrap()["tls"].clone();
        assert!(shown.starts_with(expected), "{shown}");
        proxy.until_log(&format!("login attempt: db=app user={} tls={expected}", proxy.role));
    }
}

/// The console of a pooler that takes nothing but TLS.
fn tunnelled_console(proxy: &Proxy) -> (Tunnel, Client) {
    let (tunnel, wire) = Tunnel::open(proxy.port, &STARTTLS);
    let login = Login::to(proxy.port).user("admin").password("admin-secret").database("pgbouncer");
    let client = login.over(wire).expect("the console lets its administrator in");
    (tunnel, client)
}

#[test]
fn a_direct_handshake_is_answered_where_alpn_says_what_for() {
    let proxy = encrypting("require").start();
    let (_tunnel, mut client) = tunnelled(&proxy, &["-alpn", "postgresql"]);
    assert_eq!(client.value("SELECT 42"), "42");

    if support::beyond_pgbouncer() {
        return;
    }
    let (_tunnel, wire) = Tunnel::open(proxy.port, &[]);
    assert!(proxy.login().over(wire).is_err());
    proxy.until_log("received direct SSL connection request without ALPN protocol negotiation extension");
}

#[test]
fn ssl_inside_ssl_closes() {
    let proxy = encrypting("allow").start();
    let (_tunnel, mut wire) = Tunnel::open(proxy.port, &STARTTLS);

    wire.send(SSL_REQUEST);

    assert!(wire.until_end().is_empty());
    proxy.until_log("SSL req inside SSL");
}

#[test]
fn what_comes_before_the_handshake_is_not_taken_for_part_of_it() {
    let proxy = encrypting("allow").start();
    let mut wire = Wire::tcp(proxy.port);

    wire.send([&SSL_REQUEST[..], &proxy.login().startup()].concat());

    proxy.until_log("received unencrypted data after SSL request");
}

#[test]
fn nobody_needs_tls_on_a_unix_socket() {
    let proxy = encrypting("require").set("unix_socket_dir", "@DIR@").start();
    let mut client = proxy.login().unix(&proxy.dir).client();
    assert_eq!(client.value("SELECT 1"), "1");

    let mut wire = Wire::attempt_unix(&proxy.dir, proxy.port).unwrap();
    wire.send(SSL_REQUEST);
    assert_eq!(wire.byte(), b'N');
}

#[test]
fn large_answers_and_large_requests_go_through() {
    let proxy = encrypting("require").start();
    let (_tunnel, mut client) = tunnelled(&proxy, &STARTTLS);

    let sum = "SELECT md5(repeat('x', 5000000))";
    let text = client.value("SELECT repeat('x', 5000000)");
    assert_eq!(text.len(), 5_000_000);
    let told = client.value(&format!("SELECT md5('{text}')"));

    assert_eq!(told, client.value(sum));
    for _ in 0..50 {
        assert_eq!(client.value("SELECT 1"), "1");
    }
}

#[test]
fn a_slow_reader_gets_all_of_it() {
    let proxy = encrypting("allow").start();
    let (_tunnel, mut client) = tunnelled(&proxy, &STARTTLS);
    client.send(Script::new().query("SELECT repeat('y', 100000) FROM generate_series(1, 200)"));
    // Both ways are full before the first byte is read.
    proxy.until_pool("cl_active", 1);
    let (_other_tunnel, mut other) = tunnelled(&proxy, &STARTTLS);
    assert_eq!(other.value("SELECT 1"), "1");

    let rows = client.reply().rows();

    assert_eq!(rows.len(), 200);
    assert!(rows.iter().all(|row| row[0].as_ref().is_some_and(|text| text.len() == 100_000)));
}

#[test]
fn sessions_are_resumed() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = encrypting("require").start();
    for version in ["-tls1_3", "-tls1_2"] {
        let session = proxy.dir.join(format!("session{version}"));
        let path = session.display().to_string();
        let (tunnel, mut client) = tunnelled(&proxy, &[&STARTTLS[..], &[version, "-sess_out", &path]].concat());
        assert_eq!(client.value("SELECT 1"), "1");
        eventually("a ticket comes", || fs::read_to_string(&session).ok().filter(|text| text.contains("-----END")));
        drop((tunnel, client));

        let more = [version, "-sess_in", &path, "-msg"];
        let mut arguments: Vec<&str> = [&STARTTLS[..], &more].concat();
        let log = proxy.dir.join("messages");
        let messages = log.display().to_string();
        arguments.extend(["-msgfile", &messages]);
        let (_tunnel, mut client) = tunnelled(&proxy, &arguments);
        assert_eq!(client.value("SELECT 1"), "1");
        let messages = fs::read_to_string(&log).unwrap();
        assert!(
            !messages.contains(", Certificate\n"),
            "{version}: the server showed its certificate again:\n{messages}"
        );
        fs::remove_file(&log).unwrap();
    }
}

#[test]
fn a_reload_takes_new_certificates_and_keeps_the_clients() {
    let (first, second) = (Authority::shared(), Authority::other());
    let dir = support::warden::warden().dir();
    let pair = Pair { key: dir.join("reloaded.key"), certificate: dir.join("reloaded.crt") };
    let put = |from: &Pair| {
        fs::copy(&from.key, &pair.key).unwrap();
        fs::copy(&from.certificate, &pair.certificate).unwrap();
        for_pooler(&pair.key);
    };
    put(&first.server);
    let proxy = shows(Setup::new(), &pair).set("client_tls_sslmode", "allow").start();
    let trusting = |authority: &Authority| {
        asks(&proxy, &format!("sslmode=verify-full sslrootcert={}", authority.certificate.display())).success
    };
    let (_tunnel, mut client) = tunnelled(&proxy, &STARTTLS);
    assert!(trusting(first) && !trusting(second));

    put(&second.server);
    proxy.console().ok("RELOAD");
    assert!(trusting(second) && !trusting(first));

    // A key that does not belong to the certificate: the old pair stays.
    fs::copy(&first.server.certificate, &pair.certificate).unwrap();
    let refused = proxy.console().query("RELOAD");
    assert!(refused.error().is_some());
    if !support::proxy::is_pgbouncer() {
        proxy.until_log("does not belong to");
        let log = proxy.log();
        let line = log.lines().find(|line| line.contains("does not belong to")).expect("the log says why");
        assert!(line.contains(&pair.key.display().to_string()), "{line}");
        assert!(line.contains(&pair.certificate.display().to_string()), "{line}");
    }
    assert!(trusting(second));
    assert_eq!(client.value("SELECT 'still there'"), "still there");
}

#[test]
fn set_takes_effect_at_once_or_says_that_it_does_not() {
    let proxy = Proxy::start();
    let server = &Authority::shared().server;
    let mut console = proxy.console();
    let early = console.query("SET client_tls_sslmode = 'require'");
    assert!(early.error().is_none());
    assert_eq!(console.notices, ["TLS settings could not be applied, still using old configuration"]);
    if !support::proxy::is_pgbouncer() {
        let notice = early.messages.iter().find(|message| message.tag == b'N').expect("there is one");
        assert!(notice.fields()[&'D'].contains("client_tls_key_file"), "{notice:?}");
    }
    assert!(asks(&proxy, "sslmode=disable").success);

    console.ok(&format!("SET client_tls_key_file = '{}'", server.key.display()));
    console.ok(&format!("SET client_tls_cert_file = '{}'", server.certificate.display()));
    assert!(asks(&proxy, "sslmode=require").success);
    assert!(!asks(&proxy, "sslmode=disable").success);

    console.ok("SET client_tls_sslmode = 'disable'");
    assert!(asks(&proxy, "sslmode=disable").success);
}

#[test]
fn set_of_auth_type_cert_without_tls_says_that_nobody_can_log_in() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Proxy::start();
    let mut console = proxy.console();

    console.ok("SET auth_type = 'cert'");

    let why = "auth_type=cert requires client_tls_sslmode=verify-full: nobody can log in";
    assert_eq!(console.notices, [why]);
    proxy.until_log(why);
    assert_eq!(proxy.login().refusal(), "certificate authentication failed");
    console.ok("SET auth_type = 'any'");
    assert_eq!(console.notices.len(), 1);
}

#[test]
fn what_cannot_be_had_is_refused_or_told() {
    if support::beyond_pgbouncer() {
        return;
    }
    for (name, value, says) in [
        ("client_tls_protocols", "tlsv1.0", "client_tls_protocols: tlsv1.0"),
        ("client_tls_ciphers", "DHE-RSA-AES256-GCM-SHA384", "client_tls_ciphers: DHE-RSA-AES256-GCM-SHA384"),
        ("client_tls_ciphers", "HIGH:!UNKNOWN", "client_tls_ciphers: HIGH:!UNKNOWN: !UNKNOWN is not known here"),
        ("client_tls_ecdhcurve", "secp521r1", "client_tls_ecdhcurve: secp521r1"),
        ("client_tls13_ciphers", "TLS_NULL", "client_tls13_ciphers: TLS_NULL"),
        ("client_tls_key_file", "/none", "client_tls_key_file: /none"),
    ] {
        let (status, log) = encrypting("require").set(name, value).refused();
        assert!(!status.success() && log.contains(says), "{name}: {log}");
    }

    let proxy = encrypting("require").set("client_tls_protocols", "tlsv1.1,tlsv1.2").start();
    proxy.until_log("client_tls_protocols: tlsv1.1,tlsv1.2");
    let (_tunnel, wire) = Tunnel::open(proxy.port, &[&STARTTLS[..], &["-tls1_3"]].concat());
    assert!(proxy.login().over(wire).is_err());
    assert!(asks(&proxy, "sslmode=require").success);
}

#[test]
fn servers_are_asked_for_tls_as_the_sslmode_says() {
    let clear = Postgres::shared();
    for (sslmode, encrypted) in
        [("disable", None), ("allow", Some(())), ("prefer", Some(())), ("require", Some(())), ("verify-ca", Some(()))]
    {
        let proxy = to_encrypted(sslmode).start();
        if encrypted.is_none() {
            Postgres::encrypted().admin().ok(&format!("GRANT in_clear TO {}", proxy.role));
        }
        let mut client = proxy.client();
        let told = client.value("SELECT coalesce(ssl, false) FROM pg_stat_ssl WHERE pid = pg_backend_pid()");
        assert_eq!(told == "t", encrypted.is_some(), "{sslmode}");
        let shown = tls_of(&proxy, "SERVERS");
        assert_eq!(shown.starts_with("TLSv1.3/TLS_AES_256_GCM_SHA384"), encrypted.is_some(), "{sslmode}: {shown:?}");
        if encrypted.is_some() {
            proxy.until_log("SSL established: TLSv1.3/");
        }
    }

    // A server that has no TLS.
    let proxy = Setup::new().through(clear.port).set("server_tls_sslmode", "prefer").start();
    assert_eq!(proxy.client().value("SELECT 1"), "1");
    let proxy = Setup::new().set("server_tls_sslmode", "require").set("query_wait_timeout", 1).start();
    assert!(proxy.login().attempt().is_err());
    proxy.until_log("server refused SSL");
}

#[test]
fn a_server_must_be_who_it_says_where_that_is_asked() {
    // Where no server can be had, a login ends when it has waited long enough.
    let verified = |setup: Setup, host: &str, seconds: u32| {
        let rest = format!("host={host} port={}", Postgres::encrypted().port);
        let proxy = setup.database("app", &rest).set("query_wait_timeout", seconds).start();
        let works = proxy.login().attempt().is_ok();
        (proxy, works)
    };
    // By name, by address, and as one of several.
    for host in ["localhost", "127.0.0.1", "127.0.0.1,localhost"] {
        let (proxy, works) = verified(to_encrypted("verify-full"), host, 60);
        assert!(works, "{host}: {}", proxy.log());
    }

    let other = Authority::other().certificate.display();
    for sslmode in ["verify-ca", "verify-full"] {
        let (proxy, works) = verified(to_encrypted(sslmode).set("server_tls_ca_file", &other), "localhost", 1);
        assert!(!works, "{sslmode}");
        proxy.until_log("certificate verify failed");
    }
    let (_, works) = verified(to_encrypted("require").set("server_tls_ca_file", &other), "localhost", 60);
    assert!(works, "require looks at no certificate");
}

#[test]
fn certificates_made_by_the_book_of_postgres_are_good() {
    let plain = Authority::shared().sign("plain", "localhost", Kind::Plain);
    let own = self_signed("own");
    for (pair, root) in [(&plain, &Authority::shared().certificate), (&own, &own.certificate)] {
        let behind = shows(Setup::new(), pair).set("client_tls_sslmode", "require").start();
        let trusts = |root: &Path, host: &str, seconds: u32| {
            let setup = Setup::new();
            let role = behind.role.clone();
            let front = setup
                .database("app", &format!("host={host} port={} dbname=app user={role}", behind.port))
                .set("server_tls_sslmode", "verify-full")
                .set("server_tls_ca_file", root.display())
                .set("query_wait_timeout", seconds)
                .start();
            front.login().attempt().is_ok_and(|mut client| client.value("SELECT 1") == "1")
        };
        assert!(trusts(root, "localhost", 60));
        assert!(!trusts(&Authority::other().certificate, "localhost", 1));
        assert!(!trusts(root, "127.0.0.1", 1), "the certificate is for localhost alone");
    }
}

#[test]
fn a_server_that_wants_a_certificate_gets_it() {
    let server = Postgres::encrypted();
    let setup = to_encrypted("verify-full");
    let role = setup.role().to_owned();
    server.admin().ok(&format!("GRANT by_certificate TO {role}"));
    let pair = Authority::shared().sign(&role, &role, Kind::Named("DNS:pooler"));

    let proxy = setup
        .database("app", &format!("host=localhost port={}", server.port))
        .set("server_tls_key_file", pair.key.display())
        .set("server_tls_cert_file", pair.certificate.display())
        .start();

    assert_eq!(proxy.client().value("SELECT current_user"), role);
}

#[test]
fn a_cancel_request_goes_as_its_query_went() {
    let proxy = to_encrypted("verify-ca").set("default_pool_size", 1).start();
    let mut client = proxy.client();
    client.send(Script::new().query("SELECT pg_sleep(60)"));
    Postgres::encrypted().until_sleeping(&proxy.role, 1);

    crate::cancel::cancel(&proxy, &crate::cancel::cancel_packet(&client));

    assert_eq!(client.reply().error().unwrap()[&'C'], "57014");
}

#[test]
fn changed_server_tls_makes_all_servers_new() {
    let proxy = to_encrypted("require").set("pool_mode", "transaction").start();
    let mut client = proxy.client();
    let before = client.value("SELECT pg_backend_pid()");
    proxy.console().ok("RELOAD");
    assert_eq!(client.value("SELECT pg_backend_pid()"), before, "nothing has changed");

    proxy.console().ok("SET server_tls_sslmode = 'verify-ca'");

    assert_ne!(client.value("SELECT pg_backend_pid()"), before);
}

#[test]
fn psycopg_over_tls_on_both_sides() {
    let server = &Authority::shared().server;
    let proxy = shows(to_encrypted("verify-ca"), server).set("client_tls_sslmode", "require").start();
    let conninfo = format!(
        "host=localhost port={} user={} dbname=app sslmode=verify-full sslrootcert={}",
        proxy.port,
        proxy.role,
        Authority::shared().certificate.display()
    );
    python("tour.py", &[&conninfo]).ok();
}

/// A pooler that takes and gives SCRAM over TLS, with the same secret as its server.
fn scram_on_both_sides() -> (Proxy, String) {
    let (server, password) = (Postgres::encrypted(), "correct horse");
    let setup = shows(to_encrypted("verify-full"), &Authority::shared().server);
    let role = setup.role().to_owned();
    let mut admin = server.admin();
    admin.ok(&format!("ALTER ROLE {role} PASSWORD '{password}'; GRANT by_scram TO {role}"));
    let secret = admin.value(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'"));
    let proxy =
        setup.secret(&role, &secret).set("auth_type", "scram-sha-256").set("client_tls_sslmode", "require").start();
    (proxy, password.to_owned())
}

#[test]
fn scram_is_bound_to_the_channel_on_both_sides() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (proxy, password) = scram_on_both_sides();
    let root = Authority::shared().certificate.display();
    let conninfo = format!(
        "host=localhost port={} user={} dbname=app password='{password}' sslmode=verify-full sslrootcert={root}",
        proxy.port, proxy.role
    );

    for channel_binding in ["require", "prefer", "disable"] {
        let outcome = psql(&format!("{conninfo} channel_binding={channel_binding}"), &["-c", "SELECT 42"]);
        assert_eq!(outcome.ok().trim(), "42", "{channel_binding}");
    }
    python("tour.py", &[&format!("{conninfo} channel_binding=require")]).ok();
    let wrong = psql(&conninfo.replace(&password, "wrong"), &["-c", "SELECT 42"]);
    assert!(!wrong.success && wrong.stderr.contains("SASL authentication failed"), "{}", wrong.stderr);
}

#[test]
fn a_password_of_65530_bytes_goes_through_tls_on_both_sides() {
    let server = Postgres::encrypted();
    let long: String = "correct horse ".chars().cycle().take(65_530).collect();
    for auth_type in ["plain", "md5", "scram-sha-256"] {
        let setup = shows(to_encrypted("require"), &Authority::shared().server);
        let role = setup.role().to_owned();
        server.admin().ok(&format!("ALTER ROLE {role} PASSWORD '{long}'; GRANT by_scram TO {role}"));
        // The tests' own client hashes all of it in each round.
        let setup = setup.secret(&role, &long).set("auth_type", auth_type).set("scram_iterations", 16);
        let proxy = setup.set("client_tls_sslmode", "require").start();
        let login = |password: &str| {
            let (tunnel, wire) = Tunnel::open(proxy.port, &STARTTLS);
            proxy.login().password(password).over(wire).map(|client| (tunnel, client))
        };

        let (_tunnel, mut client) = login(&long).unwrap_or_else(|refusal| panic!("{auth_type}: {refusal:?}"));
        assert_eq!(client.value("SELECT current_user"), role, "{auth_type}");
        assert!(login(&format!("{}?", &long[..65_529])).is_err(), "{auth_type}");
    }
}

#[test]
fn a_client_that_was_told_of_no_channel_binding_is_refused() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (proxy, _) = scram_on_both_sides();
    let (_tunnel, mut wire) = Tunnel::open(proxy.port, &STARTTLS);
    wire.send(proxy.login().startup());
    let offer = wire.expect(b'R');
    assert_eq!(offer.body, b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");

    wire.send(sasl_initial("SCRAM-SHA-256", b"y,,n=,r=abcdefghijklmnop"));

    assert_eq!(wire.expect(b'E').fields()[&'M'], "SASL authentication failed");
}

#[test]
fn a_certificate_is_a_way_to_log_in() {
    let authority = Authority::shared();
    for by_record in [false, true] {
        let setup = encrypting("verify-full");
        let role = setup.role().to_owned();
        let own = authority.sign(&format!("user-{role}"), &role, Kind::Named("DNS:somebody"));
        let other = authority.sign(&format!("other-{role}"), "somebody_else", Kind::Named("DNS:somebody"));
        [&own, &other].iter().for_each(|pair| for_us(&pair.key));
        let proxy = if by_record {
            let records = support::proxy::shared_file("certificates_hba.conf", "hostssl all all all cert\n");
            setup.set("auth_type", "hba").set("auth_hba_file", records).start()
        } else {
            setup.set("auth_type", "cert").start()
        };
        let with = |pair: &Pair| {
            asks(
                &proxy,
                &format!("sslmode=require sslcert={} sslkey={}", pair.certificate.display(), pair.key.display()),
            )
        };

        assert_eq!(with(&own).ok().trim(), "42");
        let refused = with(&other);
        assert!(refused.stderr.contains("certificate authentication failed"), "{}", refused.stderr);
    }

    let (status, log) = encrypting("require").set("auth_type", "cert").refused();
    assert!(!status.success() && log.contains("auth_type=cert requires client_tls_sslmode"), "{log}");
}

#[test]
fn a_record_can_want_a_certificate_beside_the_password() {
    if support::beyond_pgbouncer() {
        return;
    }
    let [own, any] = [(); 2].map(|()| Postgres::shared().role());
    let authority = Authority::shared();
    let own_pair = authority.sign(&format!("own-{own}"), &own, Kind::Named("DNS:somebody"));
    // Its alternative name is the user's: PostgreSQL looks at the common name alone.
    let other_pair = authority.sign(&format!("other-{own}"), "somebody", Kind::Named(&format!("DNS:{own}")));
    [&own_pair, &other_pair].iter().for_each(|pair| for_us(&pair.key));
    let records = support::proxy::shared_file(
        "clientcert_hba.conf",
        &format!(
            "hostssl app {own} all scram-sha-256 clientcert=verify-full\n\
             hostssl app {any} all scram-sha-256 clientcert=verify-ca\n\
             hostssl app all   all trust\n"
        ),
    );
    let setup = encrypting("allow").set("auth_type", "hba").set("auth_hba_file", records);
    let proxy = setup.secret(&own, "sesame").secret(&any, "sesame").start();
    let enter = |user: &str, password: &str, pair: Option<&Pair>| {
        let shown = match pair {
            Some(pair) => format!("sslcert={} sslkey={}", pair.certificate.display(), pair.key.display()),
            None => "sslcert=/none sslkey=/none".to_owned(),
        };
        let port = proxy.port;
        let more = format!("host=localhost port={port} user={user} dbname=app password={password} sslmode=require");
        psql(&format!("{more} {shown}"), &["-c", "SELECT 42"])
    };

    for (user, pair) in [(&own, &own_pair), (&any, &own_pair), (&any, &other_pair)] {
        assert_eq!(enter(user, "sesame", Some(pair)).ok().trim(), "42");
        let wrong = enter(user, "wrong", Some(pair));
        assert!(wrong.stderr.contains("SASL authentication failed"), "{}", wrong.stderr);
    }
    for (user, pair, why) in [
        (&own, Some(&other_pair), "certificate authentication failed"),
        (&own, None, "connection requires a valid client certificate"),
        (&any, None, "connection requires a valid client certificate"),
    ] {
        let refused = enter(user, "sesame", pair);
        assert!(!refused.success && refused.stderr.contains(why), "{user}: {}", refused.stderr);
    }
}

#[test]
fn a_server_that_wants_a_password_and_a_certificate_gets_both() {
    let server = Postgres::encrypted();
    for shown in [true, false] {
        let setup = to_encrypted("verify-full");
        let role = setup.role().to_owned();
        server.admin().ok(&format!("ALTER ROLE {role} PASSWORD 'both'; GRANT by_both TO {role}"));
        let pair = Authority::shared().sign(&format!("both-{role}"), "pooler", Kind::Named("DNS:pooler"));
        let entry = format!("host=localhost port={} user={role} password=both", server.port);
        let setup = setup.database("app", &entry);
        let setup = match shown {
            true => setup
                .set("server_tls_key_file", pair.key.display())
                .set("server_tls_cert_file", pair.certificate.display()),
            false => setup,
        };
        let proxy = setup.start();

        match (shown, proxy.login().attempt()) {
            (true, Ok(mut client)) => assert_eq!(client.value("SELECT current_user"), role),
            (false, Err(refusal)) => {
                let told = refusal.message();
                assert!(told.contains("connection requires a valid client certificate"), "{told}");
            }
            (_, other) => panic!("shown {shown}: {:?}", other.map(drop)),
        }
    }
}

/// A pooler that begins TLS with its server at once.
fn direct(port: u16) -> Setup {
    Setup::new()
        .database("app", &format!("host=localhost port={port} dbname=app"))
        .set("server_tls_sslmode", "verify-full")
        .set("server_tls_ca_file", Authority::shared().certificate.display())
        .set("server_tls_sslnegotiation", "direct")
}

#[test]
fn a_server_gets_its_handshake_at_once_where_that_is_asked() {
    if support::beyond_pgbouncer() {
        return;
    }
    // As PostgreSQL from 17 on, our own TLS takes a handshake without a request.
    let server = &Authority::shared().server;
    let behind = shows(Setup::new(), server).set("client_tls_sslmode", "require").start();
    let front = direct(behind.port);
    let front = front.database("app", &format!("host=localhost port={} user={}", behind.port, behind.role));
    let front =
        front.database("other", &format!("host=localhost port={} user={} dbname=app", behind.port, behind.role));
    let proxy = front.start();
    let mut client = proxy.login().database("other").client();
    assert_eq!(client.value("SELECT current_user"), behind.role);
    client.send(Script::new().query("SELECT pg_sleep(60)"));
    Postgres::shared().until_sleeping(&behind.role, 1);
    crate::cancel::cancel(&proxy, &crate::cancel::cancel_packet(&client));
    assert_eq!(client.reply().error().unwrap()[&'C'], "57014");

    // The very first bytes are those of TLS, and say what for.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = direct(listener.local_addr().unwrap().port()).set("query_wait_timeout", 2).start();
    let hello = std::thread::scope(|scope| {
        let login = scope.spawn(|| proxy.login().attempt().is_ok());
        let (mut socket, _) = listener.accept().unwrap();
        let mut hello: Vec<u8> = Vec::new();
        while !hello.windows(10).any(|word| word == b"postgresql") {
            let mut chunk = [0; 2048];
            let len = socket.read(&mut chunk).unwrap();
            assert!(len > 0, "{hello:x?}");
            hello.extend(&chunk[..len]);
        }
        drop((socket, listener));
        assert!(!login.join().unwrap());
        hello
    });
    assert_eq!(hello[0], 0x16);
}

#[test]
fn a_server_that_does_not_say_what_it_speaks_is_left() {
    if support::beyond_pgbouncer() {
        return;
    }
    let greeter = Greeter::start(&Authority::shared().server);
    let proxy = direct(greeter.port).set("query_wait_timeout", 2).start();

    let refusal = proxy.login().attempt().err().expect("a refusal").message();

    let why = "direct SSL connection was established without ALPN protocol negotiation extension";
    assert!(refusal.contains(why) || refusal == "query_wait_timeout", "{refusal}");
    proxy.until_log(why);
    let (status, log) = direct(greeter.port).set("server_tls_sslmode", "prefer").refused();
    assert!(!status.success() && log.contains("server_tls_sslnegotiation=direct needs"), "{log}");
}
