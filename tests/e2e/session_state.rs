//! What a client has set stays with the client, whichever server it gets.

use crate::support::{self, Client, Login, Postgres, Proxy, Setup, eventually};

/// Two clients of one server.
fn pair(setup: Setup) -> (Proxy, Client, Client) {
    let proxy = setup.set("default_pool_size", 1).start();
    let (one, other) = (proxy.client(), proxy.client());
    (proxy, one, other)
}

#[test]
fn parameters_follow_the_client() {
    let (_proxy, mut one, mut other) = pair(Setup::new());
    for (name, first, second) in [
        ("application_name", "billing", "shop"),
        ("TimeZone", "Asia/Tokyo", "America/New_York"),
        ("DateStyle", "German, DMY", "SQL, MDY"),
        ("IntervalStyle", "iso_8601", "sql_standard"),
        ("client_encoding", "LATIN1", "UTF8"),
        ("standard_conforming_strings", "off", "on"),
    ] {
        one.ok(&format!("SET {name} TO '{first}'"));
        other.ok(&format!("SET {name} TO '{second}'"));

        for _ in 0..2 {
            assert_eq!(one.value(&format!("SHOW {name}")), first);
            assert_eq!(other.value(&format!("SHOW {name}")), second);
        }
    }
}

#[test]
fn start_up_parameters_follow_the_client() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let mut plain = proxy.client();
    let login = proxy.login().parameter("application_name", "billing").parameter("TimeZone", "Asia/Tokyo");
    let mut special = login.parameter("datestyle", "German").parameter("IntervalStyle", "iso_8601").client();

    for _ in 0..2 {
        assert_eq!(special.value("SHOW application_name"), "billing");
        assert_eq!(special.value("SHOW TimeZone"), "Asia/Tokyo");
        assert_eq!(special.value("SHOW DateStyle"), "German, DMY");
        assert_eq!(special.value("SHOW IntervalStyle"), "iso_8601");
        assert_eq!(plain.value("SHOW TimeZone"), "UTC");
        assert_eq!(plain.value("SHOW application_name"), "");
    }
}

#[test]
fn values_with_quotes_and_backslashes_arrive_as_they_are() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let mut plain = proxy.client();
    let name = "it's \\ \"odd\"";
    let mut odd = proxy.login().parameter("application_name", name).client();

    for strings in ["on", "off"] {
        odd.ok(&format!("SET standard_conforming_strings TO {strings}"));
        plain.pid();
        assert_eq!(odd.value("SHOW application_name"), name, "standard_conforming_strings {strings}");
    }
}

#[test]
fn a_set_that_is_rolled_back_is_forgotten() {
    let (_proxy, mut one, mut other) = pair(Setup::new());
    one.ok("SET application_name TO 'kept'");

    one.ok("BEGIN; SET application_name TO 'dropped'");
    one.ok("ROLLBACK");

    other.pid();
    assert_eq!(one.value("SHOW application_name"), "kept");
}

#[test]
fn a_set_local_ends_with_its_transaction() {
    let (_proxy, mut one, mut other) = pair(Setup::new());

    one.ok("BEGIN; SET LOCAL TimeZone TO 'Asia/Tokyo'; COMMIT");

    assert_eq!(other.value("SHOW TimeZone"), "UTC");
    assert_eq!(one.value("SHOW TimeZone"), "UTC");
}

#[test]
fn a_reset_brings_back_what_was_there_at_start() {
    let (_proxy, mut one, mut other) = pair(Setup::new());
    one.ok("SET TimeZone TO 'Asia/Tokyo'");

    one.ok("RESET TimeZone");

    other.pid();
    assert_eq!(one.value("SHOW TimeZone"), "UTC");
}

#[test]
fn the_encoding_is_the_clients() {
    let (_proxy, mut latin, mut unicode) = pair(Setup::new());
    latin.ok("SET client_encoding TO 'LATIN1'");

    for _ in 0..2 {
        let row = |client: &mut Client| client.ok("SELECT chr(233)").messages[1].values()[0].clone().unwrap();
        assert_eq!(row(&mut latin), [0xe9]);
        assert_eq!(row(&mut unicode), "é".as_bytes());
    }
}

#[test]
fn an_encoding_that_one_client_left_does_not_misread_the_parameters_of_the_next() {
    if support::beyond_pgbouncer() {
        return;
    }
    let server = Postgres::shared();
    // The encoding of the database, and those that a client can have there.
    for (database, encodings) in [
        ("UTF8", &["SJIS", "EUC_JP", "LATIN1", "GB18030", "UHC", "SQL_ASCII", "UTF8"][..]),
        ("SQL_ASCII", &["SJIS", "EUC_JP", "LATIN1", "UTF8", "SQL_ASCII"]),
        ("LATIN1", &["UTF8", "LATIN1", "MULE_INTERNAL", "SQL_ASCII"]),
        ("EUC_JP", &["SJIS", "UTF8", "EUC_JP", "SQL_ASCII"]),
    ] {
        let name = server.database(&format!("ENCODING '{database}' LC_COLLATE 'C' LC_CTYPE 'C'"));
        let setup = Setup::new().set("default_pool_size", 1).database("app", &format!("dbname={name}"));
        let proxy = setup.start();
        let mut leaves = proxy.client();
        for encoding in encodings {
            for name in ["café", "à", "日本語", "naïve \\ 'x'", "Ａ…ß", "한국 😀", "plain"] {
                let direct = Login::to(server.port).user(&proxy.role).database("e2e");
                let shown = direct.parameter("application_name", name).client().value("SHOW application_name");
                leaves.ok(&format!("SET client_encoding TO '{encoding}'"));

                let mut next = proxy.login().parameter("application_name", name).client();

                let what = format!("{name} after {encoding} in {database}");
                assert_eq!(next.query("SHOW application_name").rows(), [[Some(shown)]], "{what}");
                assert_eq!(next.value("SHOW client_encoding"), database, "{what}");
                assert_eq!(leaves.value("SHOW client_encoding"), *encoding, "{what}");
            }
        }
    }
}

#[test]
fn what_a_client_has_set_in_another_encoding_is_not_left_to_the_next() {
    if support::beyond_pgbouncer() {
        return;
    }
    let setup = Setup::new().set("track_extra_parameters", "session_authorization");
    let user = setup.role().to_owned();
    let mut admin = Postgres::shared().admin();
    // Only a session that a superuser has begun can become another user's.
    admin.ok(&format!("ALTER ROLE {user} SUPERUSER; CREATE ROLE \"é{user}\"; CREATE ROLE \"日{user}\""));
    let (_proxy, mut one, mut other) = pair(setup);
    let is_another = format!("SELECT session_user <> '{user}'");

    // In which encoding it is set, which character its name begins with, and whether that is read.
    for (encoding, code, follows) in
        [("EUC_JP", 26085, "f"), ("GB18030", 26085, "f"), ("UTF8", 26085, "t"), ("LATIN1", 233, "t")]
    {
        one.ok(&format!("SET client_encoding TO '{encoding}'"));
        let became = format!("SELECT set_config('session_authorization', chr({code}) || '{user}', false)");
        one.ok(&became);

        assert_eq!(other.value(&is_another), "f", "{encoding}");
        assert_eq!(one.value(&is_another), follows, "{encoding}");
        one.ok("RESET session_authorization");
    }
}

#[test]
fn more_parameters_are_tracked_on_demand() {
    let tracked = "IntervalStyle, default_transaction_read_only";
    let (_proxy, mut one, mut other) = pair(Setup::new().set("track_extra_parameters", tracked));

    one.ok("SET default_transaction_read_only TO on");

    assert_eq!(other.value("SHOW default_transaction_read_only"), "off");
    assert_eq!(one.value("SHOW default_transaction_read_only"), "on");
}

#[test]
fn equal_parameters_cost_no_set() {
    let (proxy, mut one, mut other) = pair(Setup::new());
    // The spelling differs from what the server reports; that is no difference.
    for client in [&mut one, &mut other] {
        client.ok("SET DateStyle TO 'iso'; SET TimeZone TO 'utc'; SET application_name TO 'same'");
    }
    let pid = one.pid();
    Postgres::shared().admin().ok(&format!("ALTER ROLE {} SET log_statement = 'all'", proxy.role));
    Postgres::shared().end(&pid);
    proxy.until_serverless();
    let pid = one.pid();
    other.pid();

    for number in 0..10 {
        assert_eq!(one.value(&format!("SELECT {number}")), number.to_string());
        assert_eq!(other.value(&format!("SELECT {number} + 100")), (number + 100).to_string());
    }

    let log = Postgres::shared().socket_dir.join("postgres.log");
    let lines = eventually("the last statement is in the log", || {
        let log = std::fs::read_to_string(&log).unwrap();
        let of_this = log.lines().filter(|line| line.contains(&format!("[{pid}]"))).collect::<Vec<_>>().join("\n");
        of_this.contains("SELECT 9 + 100").then_some(of_this)
    });
    let sets = lines.lines().filter(|line| line.to_uppercase().contains("SET ")).count();
    assert!(sets <= 2, "{lines}");
}

#[test]
fn application_name_may_carry_the_address_of_the_client() {
    let proxy = Setup::new().set("application_name_add_host", 1).start();

    let mut named = proxy.login().parameter("application_name", "shop").client();
    let shown = named.value("SHOW application_name");
    let local = named.wire.socket().local_addr().unwrap().as_socket().unwrap();

    assert_eq!(shown, format!("shop - 127.0.0.1:{}", local.port()));
    assert!(proxy.client().value("SHOW application_name").starts_with("app - 127.0.0.1:"));
}

#[test]
fn a_client_hears_of_its_parameters_at_login() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let _warm = proxy.client();

    let client = proxy.login().parameter("TimeZone", "Asia/Tokyo").parameter("application_name", "shop").client();

    assert_eq!(client.parameters["application_name"], "shop");
    assert_eq!(client.parameters["TimeZone"], "Asia/Tokyo");
}
