//! Configured by the environment alone, as in a container: the variables of each of PgBouncer's images, and ours.

use crate::support::{self, Login, Postgres, Proxy, Setup, proxy::bare_with};

/// What a container's start adds so that the tests can share a machine; all else is the image's.
fn container(variables: &[(&str, &str)]) -> Setup {
    let local = [("PGWEIR_LISTEN_ADDR", "127.0.0.1"), ("PGWEIR_LISTEN_PORT", "@PORT@")];
    let all = local.iter().chain(variables);
    all.fold(Setup::new().file(None), |setup, (name, value)| setup.environment(name, value))
}

/// A role of its own that the server asks for a SCRAM password.
fn role() -> String {
    Postgres::shared().role_with_password("by_scram", PASSWORD, "scram-sha-256").0
}

const PASSWORD: &str = "open sesame";

/// A login that has to prove itself by SCRAM.
fn login(proxy: &Proxy, user: &str, database: &str) -> Login {
    Login::to(proxy.port).user(user).password(PASSWORD).database(database)
}

fn refused(proxy: &Proxy, user: &str) {
    let refusal = Login::to(proxy.port).user(user).password("wrong").database("e2e").refusal();
    assert!(refusal.contains("authentication failed"), "{refusal}");
}

fn config(proxy: &Proxy, console: &Login, expected: &[(&str, &str)]) {
    let table = console.client().table("SHOW CONFIG");
    for (key, value) in expected {
        assert_eq!(table.cell(&[("key", key)], "value"), *value, "{key}:\n{}", proxy.log());
    }
}

#[test]
fn the_mixed_compose_file_gives_what_its_authors_believed_they_had() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (role, port) = (role(), Postgres::shared().port.to_string());
    // As in the compose file, letter for letter, but for the server's address, its user and the database.
    let proxy = container(&[
        ("DATABASES_HOST", "127.0.0.1"),
        ("DATABASES_PORT", &port),
        ("DATABASES_USER", &role),
        ("DATABASES_PASSWORD", PASSWORD),
        ("DATABASES_DBNAME", "e2e"),
        ("POOL_MODE", "transaction"),
        ("MAX_CLIENT_CONN", "1000"),
        ("DEFAULT_POOL_SIZE", "25"),
        ("AUTH_TYPE", "scram-sha-256"),
        ("PGWEIR_ADMIN_USERS", &role),
    ])
    .start();

    let mut client = login(&proxy, &role, "e2e").client();
    assert_eq!(client.value("SELECT current_user || ' in ' || current_database()"), format!("{role} in e2e"));
    assert_eq!(login(&proxy, &role, "whatever").client().value("SELECT current_database()"), "e2e");
    refused(&proxy, &role);
    let settings = [
        ("pool_mode", "transaction"),
        ("max_client_conn", "1000"),
        ("default_pool_size", "25"),
        ("auth_type", "scram-sha-256"),
    ];
    config(&proxy, &login(&proxy, &role, "pgbouncer"), &settings);
    let pools = login(&proxy, &role, "pgbouncer").client().table("SHOW POOLS");
    assert_eq!(pools.cell(&[("database", "e2e"), ("user", &role)], "pool_mode"), "transaction");
    for said in ["pool_mode = transaction (environment: POOL_MODE)", "password=*** (environment: DATABASES_HOST)"] {
        proxy.until_log(said);
    }
    let log = proxy.log();
    assert!(!log.contains(PASSWORD), "{log}");
}

#[test]
fn the_first_image_without_an_auth_type_opens_no_door() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (role, port) = (role(), Postgres::shared().port.to_string());
    let proxy = container(&[
        ("DATABASES_HOST", "127.0.0.1"),
        ("DATABASES_PORT", &port),
        ("DATABASES_USER", &role),
        ("DATABASES_PASSWORD", PASSWORD),
        ("PGBOUNCER_POOL_MODE", "transaction"),
        ("PGBOUNCER_ADMIN_USERS", &role),
    ])
    .start();

    // Drivers for Java send a parameter that the images let through.
    let mut client = login(&proxy, &role, "e2e").parameter("extra_float_digits", "2").client();
    assert_eq!(client.value("SELECT current_user"), role);
    refused(&proxy, &role);
    proxy.until_log("would take any and let everybody in without a password");
    let settings = [("auth_type", "scram-sha-256"), ("pool_mode", "transaction")];
    config(&proxy, &login(&proxy, &role, "pgbouncer"), &settings);
}

#[test]
fn the_second_image_logs_in_as_whoever_asks_with_a_pool_each() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (ann, bob, port) = (role(), role(), Postgres::shared().port.to_string());
    let urls = [&ann, &bob].map(|role| format!("postgres://{role}:open%20sesame@127.0.0.1:{port}/e2e"));
    let single = container(&[
        ("DB_HOST", "127.0.0.1"),
        ("DB_PORT", &port),
        ("DB_USER", &ann),
        ("DB_PASSWORD", PASSWORD),
        ("AUTH_TYPE", "scram-sha-256"),
        ("POOL_MODE", "transaction"),
        ("ADMIN_USERS", &format!("postgres,{ann}")),
    ])
    .start();
    let several = container(&[("DATABASE_URLS", &urls.join(",")), ("ADMIN_USERS", &ann)]).start();

    assert_eq!(login(&single, &ann, "e2e").client().value("SELECT current_user"), ann);
    refused(&single, &ann);
    config(&single, &login(&single, &ann, "pgbouncer"), &[("pool_mode", "transaction")]);
    for role in [&ann, &bob] {
        assert_eq!(login(&several, role, "e2e").client().value("SELECT current_user"), *role);
    }
    let pools = login(&several, &ann, "pgbouncer").client().table("SHOW POOLS");
    assert!(pools.find(&[("database", "e2e"), ("user", &bob)]).is_some());
}

#[test]
fn the_third_image_reads_its_password_and_more_from_files() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (ann, bob, port) = (role(), role(), Postgres::shared().port.to_string());
    let proxy = container(&[
        ("POSTGRESQL_HOST", "127.0.0.1"),
        ("POSTGRESQL_PORT", &port),
        ("POSTGRESQL_USERNAME", &ann),
        // The harness writes every container's folder a userlist.txt; this one's password is in a file of its own.
        ("POSTGRESQL_PASSWORD_FILE", &support::proxy::shared_file("password", &format!("{PASSWORD}\n"))),
        ("PGBOUNCER_DATABASE", "e2e"),
        ("PGBOUNCER_POOL_MODE", "transaction"),
        ("PGBOUNCER_USERLIST", &format!("\"{bob}\" \"{PASSWORD}\"")),
        ("PGBOUNCER_DSN_0", &format!("other=host=127.0.0.1 port={port} dbname=e2e user={ann} password='{PASSWORD}'")),
    ])
    .start();

    for role in [&ann, &bob] {
        assert_eq!(login(&proxy, role, "e2e").client().value("SELECT current_user"), *role);
    }
    assert_eq!(login(&proxy, &bob, "other").client().value("SELECT current_user"), ann, "the entry names its user");
    refused(&proxy, &ann);
    config(&proxy, &login(&proxy, &ann, "pgbouncer"), &[("pool_mode", "transaction"), ("auth_type", "scram-sha-256")]);
}

#[test]
fn a_password_file_is_read_again_when_the_configuration_is() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (role, port) = (role(), Postgres::shared().port.to_string());
    let path = support::proxy::shared_file("rotated", "yesterday's");
    let proxy = container(&[
        ("DB_HOST", "127.0.0.1"),
        ("DB_PORT", &port),
        ("DB_USER", &role),
        ("DB_PASSWORD_FILE", &path),
        ("PGWEIR_STATS_USERS", "nobody"),
    ])
    .start();
    assert!(login(&proxy, &role, "e2e").attempt().is_err());

    std::fs::write(&path, PASSWORD).unwrap();
    proxy.signal(rustix::process::Signal::HUP);
    proxy.until_log("configuration reloaded");

    assert_eq!(login(&proxy, &role, "e2e").client().value("SELECT current_user"), role);
}

#[test]
fn a_mounted_file_is_found_and_outranks_the_images_variables() {
    if support::beyond_pgbouncer() {
        return;
    }
    let text = format!(
        "[databases]\napp = host=127.0.0.1 port={} dbname=e2e\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = @PORT@\nunix_socket_dir =\nauth_type = trust\nauth_file = @DIR@/userlist.txt\n\
         admin_users = admin\npool_mode = statement\n",
        Postgres::shared().port
    );
    let proxy = Setup::new()
        .raw(&text)
        .by_environment()
        .environment("PGWEIR_CONFIG_DIRS", "/no/such/folder:@DIR@")
        .environment("DB_HOST", "127.0.0.1")
        .environment("POOL_MODE", "transaction")
        .environment("PGWEIR_DEFAULT_POOL_SIZE", "3")
        .start();

    let config = proxy.show("CONFIG");
    assert_eq!(config.cell(&[("key", "pool_mode")], "value"), "statement");
    assert_eq!(config.cell(&[("key", "default_pool_size")], "value"), "3");
    assert_eq!(proxy.client().value("SELECT current_database()"), "e2e");
    assert!(proxy.show("DATABASES").find(&[("name", "*")]).is_none());
    proxy.until_log("environment: POOL_MODE: not read, because a configuration file outranks");
}

#[test]
fn check_tells_what_the_environment_comes_to() {
    if support::beyond_pgbouncer() {
        return;
    }
    let output = bare_with(
        &["--check"],
        &[
            ("DATABASE_URL", "postgres://ann:s3cret@h/app"),
            ("POOL_MODE", "transaction"),
            ("POOLMODE", "session"),
            ("PGBOUNCER_PORT", "tcp://10.0.0.1:6432"),
        ],
    );

    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}");
    for line in [
        "pool_mode = transaction (environment: POOL_MODE)",
        "database app = host=h dbname=app auth_user=ann (environment: DATABASE_URL)",
        "login ann = *** (environment: DATABASE_URL)",
        "environment: POOLMODE: has no effect; did you mean POOL_MODE?",
    ] {
        assert!(told.lines().any(|said| said == line), "{line}:\n{told}");
    }
    assert!(!told.contains("s3cret") && !told.contains("10.0.0.1"), "{told}");

    let broken = bare_with(&["--check"], &[("DB_HOST", "h"), ("POOL_MODE", "transactional")]);
    assert!(!broken.status.success());
    let told = String::from_utf8_lossy(&broken.stdout).into_owned();
    let line = "environment: POOL_MODE: pool_mode: expected session, transaction or statement, got \"transactional\"\n";
    assert_eq!(told, line);
}

#[test]
fn without_a_file_or_a_server_nothing_starts_and_the_way_out_is_named() {
    if support::beyond_pgbouncer() {
        return;
    }
    for variables in [&[][..], &[("POOL_MODE", "transaction"), ("PGBOUNCER_SERVICE_HOST", "10.0.0.1")]] {
        let output = bare_with(&[], variables);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains("DATABASES_HOST, DATABASE_URL, DB_HOST"), "{told}");
    }
    let output = bare_with(&[], &[("PGWEIR_CONFIG_DIRS", "/no/such/folder")]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("expected a pgweir.toml or pgbouncer.ini in /no/such/folder, or a variable"), "{told}");
}
