//! Users who are in no auth_file: the server is asked for their secrets, on connections that are nobody else's.

use postgres_protocol::password::{md5, scram_sha_256};

use crate::support::{self, Login, Postgres, Proxy, Setup, eventually};

const PASSWORD: &str = "open sesame";

/// A role that may read secrets.
pub(crate) fn guard() -> String {
    let name = Postgres::shared().role();
    Postgres::shared().admin().ok(&format!("ALTER ROLE {name} SUPERUSER"));
    name
}

/// A role that the server trusts and the pooler's auth_file does not know, with this secret.
fn stranger(secret: &str) -> String {
    let name = Postgres::shared().role();
    Postgres::shared().admin().ok(&format!("ALTER ROLE {name} PASSWORD '{secret}'"));
    name
}

/// A pooler that asks the server.
fn asking(auth_type: &str) -> Setup {
    Setup::new().set("auth_type", auth_type).set("auth_user", guard())
}

fn login(proxy: &Proxy, user: &str, password: &str) -> Login {
    proxy.login().user(user).password(password)
}

#[test]
fn whom_the_server_knows_logs_in_by_each_method() {
    let hashed = [stranger(&scram_sha_256(PASSWORD.as_bytes())), {
        let name = Postgres::shared().role();
        let secret = md5(PASSWORD.as_bytes(), &name);
        Postgres::shared().admin().ok(&format!("ALTER ROLE {name} PASSWORD '{secret}'"));
        name
    }];
    for (auth_type, users) in [("plain", &hashed[..]), ("md5", &hashed[..]), ("scram-sha-256", &hashed[..1])] {
        let proxy = asking(auth_type).start();
        for user in users {
            let mut client = login(&proxy, user, PASSWORD).client();
            assert_eq!(client.value("SELECT current_user"), *user, "{auth_type}");
            let refusal = login(&proxy, user, "wrong").refusal();
            assert!(refusal.ends_with("authentication failed"), "{auth_type}: {refusal}");
        }
        assert_eq!(login(&proxy, "nobody_knows_me", "x").refusal(), "no such user", "{auth_type}");
        proxy.until_log("closing because: no such user (age");
    }
}

#[test]
fn trust_wants_a_user_whom_the_server_knows() {
    let proxy = asking("trust").start();

    assert_eq!(login(&proxy, &stranger("x"), "").client().value("SELECT 1"), "1");
    assert_eq!(login(&proxy, "nobody_knows_me", "").refusal(), "no such user");
}

#[test]
fn a_scram_secret_from_the_server_logs_in_there_again() {
    let (user, _) = Postgres::shared().role_with_password("by_scram", PASSWORD, "scram-sha-256");
    let proxy = asking("scram-sha-256").start();

    assert_eq!(login(&proxy, &user, PASSWORD).client().value("SELECT current_user"), user);
}

#[test]
fn what_changes_at_the_server_counts_at_the_next_login() {
    let user = stranger(&scram_sha_256(PASSWORD.as_bytes()));
    let proxy = asking("md5").start();
    login(&proxy, &user, PASSWORD).client();
    let mut admin = Postgres::shared().admin();

    admin.ok(&format!("ALTER ROLE {user} VALID UNTIL '1999-01-01'"));
    let refusal = login(&proxy, &user, PASSWORD).refusal();
    assert!(refusal.ends_with("authentication failed"), "expired: {refusal}");
    admin.ok(&format!("ALTER ROLE {user} VALID UNTIL 'infinity' PASSWORD '{}'", scram_sha_256(b"new")));
    login(&proxy, &user, "new").client();
    admin.ok(&format!("ALTER ROLE {user} NOLOGIN"));
    // PgBouncer asks whom it has seen before for a password still.
    let refusal = login(&proxy, &user, "new").refusal();
    assert!(refusal == "no such user" || support::proxy::is_pgbouncer(), "{refusal}");
}

#[test]
fn no_password_is_right_for_a_user_without_one() {
    let user = Postgres::shared().role();
    for auth_type in ["plain", "md5"] {
        let proxy = asking(auth_type).start();
        // PgBouncer keeps the word md5 for such a user, and takes it for a password.
        let tried = if support::proxy::is_pgbouncer() { &["wrong"][..] } else { &["wrong", "md5", ""] };
        for password in tried {
            let refusal = login(&proxy, &user, password).refusal();
            let known = refusal.ends_with("authentication failed") || refusal.starts_with("empty password");
            assert!(known, "{auth_type}, {password:?}: {refusal}");
        }
    }
}

/// An auth_query that counts how often each user was asked for, in a table of this name.
fn counting(table: &str) -> String {
    let mut admin = Postgres::shared().admin();
    admin.ok(&format!("CREATE TABLE {table} (name text); GRANT ALL ON {table} TO PUBLIC"));
    admin.ok(&format!(
        "CREATE FUNCTION {table}(text) RETURNS TABLE(name text, secret text) SECURITY DEFINER LANGUAGE plpgsql AS \
         'BEGIN INSERT INTO public.{table} VALUES ($1); \
          RETURN QUERY SELECT rolname::text, rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1; END'"
    ));
    format!("SELECT * FROM public.{table}($1)")
}

fn asked(table: &str) -> String {
    Postgres::shared().admin().value(&format!("SELECT count(*) FROM {table}"))
}

#[test]
fn answers_are_good_for_auth_query_lifetime_but_not_after_a_failed_login() {
    if support::beyond_pgbouncer() {
        return;
    }
    let user = stranger(&scram_sha_256(PASSWORD.as_bytes()));
    let query = counting("asked_with_lifetime");
    let proxy = asking("scram-sha-256").set("auth_query", query).set("auth_query_lifetime", 3600).start();

    for _ in 0..3 {
        login(&proxy, &user, PASSWORD).client();
    }
    assert_eq!(asked("asked_with_lifetime"), "1");

    let secret = scram_sha_256(b"new");
    Postgres::shared().admin().ok(&format!("ALTER ROLE {user} PASSWORD '{secret}'"));
    login(&proxy, &user, "new").refusal();
    login(&proxy, &user, "new").client();
    assert_eq!(asked("asked_with_lifetime"), "2", "the failure made it ask anew");

    proxy.console().ok("RELOAD");
    login(&proxy, &user, "new").client();
    assert_eq!(asked("asked_with_lifetime"), "3", "a reload makes it ask anew");
    assert_eq!(login(&proxy, "nobody_knows_me", "x").refusal(), "no such user");
    assert_eq!(login(&proxy, "nobody_knows_me", "x").refusal(), "no such user");
    assert_eq!(asked("asked_with_lifetime"), "5", "who is not known may be known later");
}

#[test]
fn what_the_client_asks_for_is_not_applied_where_the_query_runs() {
    let user = stranger(&scram_sha_256(PASSWORD.as_bytes()));
    Postgres::shared().admin().ok(
        "CREATE FUNCTION watchful(text) RETURNS TABLE(name text, secret text) SECURITY DEFINER LANGUAGE plpgsql AS \
         'BEGIN IF current_setting(''search_path'') LIKE ''%evil%'' THEN RAISE ''evil search_path''; END IF; \
          RETURN QUERY SELECT rolname::text, rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1; END'",
    );
    let proxy = asking("md5")
        .set("auth_query", "SELECT * FROM public.watchful($1)")
        .set("track_extra_parameters", "search_path")
        .start();

    for _ in 0..2 {
        let mut client = login(&proxy, &user, PASSWORD).parameter("search_path", "evil, public").client();
        assert_eq!(client.value("SELECT 1"), "1");
    }
}

#[test]
fn nothing_a_client_leaves_behind_answers_for_the_server() {
    if support::beyond_pgbouncer() {
        return;
    }
    let user = stranger(&scram_sha_256(PASSWORD.as_bytes()));
    let guard = guard();
    let rest = format!("user={guard} pool_size=1");
    let setup = Setup::new().set("auth_type", "md5").set("auth_user", &guard);
    let role = setup.role().to_owned();
    let query = "SELECT name, secret FROM secrets WHERE name = $1";
    let proxy = setup.secret(&role, "own").database("app", &rest).set("auth_query", query).start();
    let mut admin = Postgres::shared().admin();
    admin.ok("CREATE VIEW secrets AS SELECT rolname::text AS name, rolpassword AS secret FROM pg_authid");

    // Every client of this database becomes the user who runs auth_query.
    let mut client = proxy.login().password("own").client();
    assert_eq!(client.value("SELECT current_user"), guard);
    client.ok("CREATE TEMP TABLE secrets AS SELECT 'victim'::text AS name, 'mine'::text AS secret");

    assert_eq!(login(&proxy, "victim", "mine").refusal(), "no such user");
    login(&proxy, &user, PASSWORD).client();
    assert_eq!(proxy.show("POOLS").all(&[("database", "app"), ("user", &guard)]).len(), 2);
}

#[test]
fn the_query_runs_in_the_database_that_auth_dbname_names() {
    let user = stranger(&scram_sha_256(PASSWORD.as_bytes()));
    let proxy = asking("md5")
        .set("auth_dbname", "common")
        .database("app", "")
        .database("common", "")
        .database("other", "")
        .database("own", "dbname=e2e auth_dbname=other")
        .database("lost", "dbname=e2e auth_dbname=nowhere")
        .database("reserved", "dbname=e2e auth_dbname=pgbouncer")
        .start();
    let to = |database: &str| login(&proxy, &user, PASSWORD).database(database);
    let ran_in = |database: &str| {
        let servers = proxy.show("SERVERS");
        servers.all(&[("database", database)]).iter().any(|row| row["user"] != user)
    };

    to("app").client();
    assert!(ran_in("common") && !ran_in("app"));
    to("own").client();
    assert!(ran_in("other") && !ran_in("own"));

    assert_eq!(to("lost").refusal(), "bouncer config error");
    proxy.until_log("authentication database \"nowhere\" is not configured");
    assert_eq!(to("reserved").refusal(), "bouncer config error");
    proxy.until_log("cannot use the reserved \"pgbouncer\" database as an auth_dbname");
    proxy.console().ok("DISABLE other");
    assert_eq!(to("own").refusal(), "authentication database \"other\" is disabled");
    let error = proxy.console().query("SET auth_dbname = 'pgbouncer'").error_message();
    assert!(!error.is_empty());
}

#[test]
fn a_database_asks_its_own_question_of_its_own_user() {
    let user = stranger(&scram_sha_256(PASSWORD.as_bytes()));
    let own = guard();
    let rest = format!("auth_user={own} auth_query='SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1'");
    let proxy = Setup::new().set("auth_type", "md5").set("auth_query", "SELECT 1").database("app", &rest).start();

    login(&proxy, &user, PASSWORD).client();

    assert!(proxy.show("SERVERS").find(&[("user", &own)]).is_some());
}

#[test]
fn a_query_that_cannot_be_used_is_the_operators_to_mend() {
    let proxy = asking("md5").start();
    for (query, logged) in [
        ("SELECT rolname FROM pg_authid WHERE rolname=$1", "expected 2 columns from auth_query, not 1"),
        ("SELECT rolname, 1, 2 FROM pg_authid WHERE rolname=$1", "expected 2 columns from auth_query, not 3"),
        ("SELECT NULL::text, $1::text", "auth_query response contained null user name"),
        ("SELECT name, secret FROM no_such_table WHERE name=$1", "relation \"no_such_table\" does not exist"),
        ("SELECT name FROM", "closing because: error response from auth_query"),
    ] {
        proxy.rewrite(|setup| setup.set("auth_query", query));
        proxy.console().ok("RELOAD");
        assert_eq!(login(&proxy, "whoever", "x").refusal(), "bouncer config error", "{query}");
        proxy.until_log(logged);
    }
}

#[test]
fn the_server_that_cannot_be_asked_says_why() {
    let proxy = asking("md5").database("app", "dbname=not_there").start();

    assert_eq!(login(&proxy, "whoever", "x").refusal(), "database \"not_there\" does not exist");
}

#[test]
fn the_password_of_auth_user_is_in_the_auth_file() {
    let (guard, _) = Postgres::shared().role_with_password("by_scram", "guarded", "scram-sha-256");
    Postgres::shared().admin().ok(&format!("ALTER ROLE {guard} SUPERUSER"));
    let user = stranger(&scram_sha_256(PASSWORD.as_bytes()));
    let setup = Setup::new().set("auth_type", "md5").set("auth_user", &guard).set("server_login_retry", 0);
    let proxy = setup.secret(&guard, "outdated").start();

    let refusal = login(&proxy, &user, PASSWORD).refusal();
    assert!(refusal.contains("password authentication failed for user"), "{refusal}");

    proxy.rewrite(|setup| setup.secret(&guard, "guarded"));
    proxy.console().ok("RELOAD");
    eventually("the new password is used", || login(&proxy, &user, PASSWORD).attempt().ok());
}

#[test]
fn a_forced_user_is_not_looked_up() {
    let (forced, _) = Postgres::shared().role_with_password("by_scram", PASSWORD, "scram-sha-256");
    let user = stranger(&scram_sha_256(PASSWORD.as_bytes()));
    let proxy = asking("md5").database("app", &format!("user={forced}")).start();

    // The client is found and let in; what the server would say of the forced user's secret is not asked for.
    let refusal = login(&proxy, &user, PASSWORD).refusal();

    let known = ["password", "server login failed"];
    assert!(known.iter().any(|text| refusal.contains(text)), "{refusal}");
    assert!(!refusal.ends_with("authentication failed"), "the login itself was right: {refusal}");
}

#[test]
fn users_found_obey_the_users_section_and_are_listed() {
    let user = stranger(&scram_sha_256(PASSWORD.as_bytes()));
    let proxy = asking("md5").user(&user, "max_user_client_connections=1").start();

    let _client = login(&proxy, &user, PASSWORD).client();

    let refusal = login(&proxy, &user, PASSWORD).refusal();
    assert_eq!(refusal, "client connections exceeded (max_user_client_connections)");
    let users = proxy.show("USERS");
    assert_eq!(users.cell(&[("name", &user)], "current_client_connections"), "1");
}

#[test]
fn the_console_asks_in_auth_dbname() {
    let user = stranger(&scram_sha_256(PASSWORD.as_bytes()));
    let proxy = asking("md5").set("stats_users", &user).start();
    let console = login(&proxy, &user, PASSWORD).database("pgbouncer");

    assert_eq!(console.refusal(), "bouncer config error", "there is no database to ask in");

    proxy.console().ok("SET auth_dbname = 'app'");
    assert!(!console.client().table("SHOW STATS").all(&[]).is_empty());
    assert!(login(&proxy, &user, "wrong").database("pgbouncer").refusal().ends_with("authentication failed"));
}

#[test]
fn a_database_that_does_not_exist_is_not_told_from_a_wrong_password() {
    let proxy = asking("md5").start();

    let refusal = login(&proxy, "whoever", "x").database("nosuchdb").refusal();

    assert_eq!(refusal, "password authentication failed");
}

#[test]
fn the_spelling_of_the_server_is_the_users_name() {
    let user = stranger(&scram_sha_256(PASSWORD.as_bytes()));
    let query = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname=lower($1)";
    let proxy = asking("md5").set("auth_query", query).start();

    let mut client = login(&proxy, &user.to_uppercase(), PASSWORD).client();

    assert_eq!(client.value("SELECT current_user"), user);
}

#[test]
fn who_was_found_gets_new_servers_from_a_successor_too() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (user, _) = Postgres::shared().role_with_password("by_scram", PASSWORD, "scram-sha-256");
    let proxy = asking("scram-sha-256").set("unix_socket_dir", "@DIR@").start();
    let mut client = login(&proxy, &user, PASSWORD).client();
    let guards = proxy.show("SERVERS").all(&[("database", "app")]).len();
    assert_eq!(guards, 2, "one for the client, one for auth_query");

    proxy.reboot();

    let servers = proxy.show("SERVERS");
    assert!(servers.all(&[("database", "app")]).iter().all(|row| row["user"] == user), "{servers:?}");
    proxy.console().ok("RECONNECT");
    assert_eq!(client.value("SELECT current_user"), user, "the successor can log in for it");
    login(&proxy, &user, PASSWORD).client();
}
