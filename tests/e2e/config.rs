//! What is configured, in whatever way, and what is refused.

use crate::support::{self, Login, Postgres, Setup};

#[test]
fn an_ini_file_with_comments_quotes_and_includes_is_read() {
    let server = Postgres::shared();
    let role = server.role();
    let setup = Setup::new().secret(&role, "");
    let proxy = setup
        .raw(&format!(
            "; a comment\n# another\n[databases]\n  app = host=127.0.0.1 port={} dbname='e2e' application_name='it''s'\n\
             [pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port = @PORT@\nunix_socket_dir =\nauth_type = trust\n\
             auth_file = @DIR@/userlist.txt\nadmin_users = admin, {role}\ndefault_pool_size = 0x10\n\
             min_pool_size = 010\nserver_idle_timeout = 0.25\n%include {}\n",
            server.port,
            include_file("pool_mode = transaction\n"),
        ))
        .start();

    let config = proxy.show("CONFIG");

    for (key, value) in [("default_pool_size", "16"), ("min_pool_size", "8"), ("pool_mode", "transaction")] {
        assert_eq!(config.cell(&[("key", key)], "value"), value, "{key}");
    }
    assert_eq!(proxy.login().user(&role).client().value("SELECT current_database()"), "e2e");
}

fn include_file(text: &str) -> String {
    let path = support::warden::warden().dir().join("included.ini");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn names_that_need_quotes_are_possible() {
    let proxy = Setup::new().database("'odd \"name\"'", "").start();
    assert_eq!(proxy.login().database("odd \"name\"").client().value("SELECT 1"), "1");
}

#[test]
fn a_broken_file_starts_nothing() {
    for (name, value) in [
        ("no_such_setting", "1"),
        ("pool_mode", "transactional"),
        ("default_pool_size", "many"),
        ("query_timeout", "5s"),
        ("auth_type", "password"),
    ] {
        let (status, log) = Setup::new().set(name, value).refused();
        assert_eq!(status.code(), Some(1), "{name} = {value}: {log}");
        assert!(log.contains(name), "{name} = {value}: {log}");
    }
    let (status, log) = Setup::new().database("app", "no_such_key=1").refused();
    assert_eq!(status.code(), Some(1), "{log}");
    let (status, log) = Setup::new().own_user("pool_mode=sometimes").refused();
    assert_eq!(status.code(), Some(1), "{log}");
}

#[test]
fn all_problems_of_a_file_are_told_at_once_with_their_lines() {
    if support::beyond_pgbouncer() {
        return;
    }
    let text = "[databases]\napp = host=127.0.0.1 colour=blue\n[pgbouncer]\nlisten_port = @PORT@\nunix_socket_dir =\n\
                pool_mode = transactional\nmax_client_conn = lots\npool_size = 3\n";

    let (status, log) = Setup::new().raw(text).refused();

    assert_eq!(status.code(), Some(1));
    for (line, word) in [(2, "colour"), (6, "transactional"), (7, "lots"), (8, "pool_size")] {
        let told = log.lines().any(|told| told.contains(&format!("pgbouncer.ini:{line}:")) && told.contains(word));
        assert!(told, "line {line}, {word}:\n{log}");
    }
}

#[cfg(not(feature = "pam"))]
#[test]
fn what_would_be_unsafe_to_ignore_is_refused() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (status, log) = Setup::new().set("auth_type", "pam").refused();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("auth_type"), "{log}");
}

#[test]
fn what_comes_later_is_said_in_the_log() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Setup::new().set("server_tls_ciphers", "HIGH").start();
    proxy.until_log("server_tls_ciphers");
}

#[test]
fn a_native_file_says_the_same_in_toml() {
    if support::beyond_pgbouncer() {
        return;
    }
    let server = Postgres::shared();
    let role = server.role();
    let text = format!(
        "[databases.app]\nhost = \"127.0.0.1\"\nport = {}\ndbname = \"e2e\"\npool_size = 2\n\
         [pgweir]\nlisten_addr = \"127.0.0.1\"\nlisten_port = @PORT@\nunix_socket_dir = \"\"\n\
         auth_type = \"trust\"\nauth_file = \"@DIR@/userlist.txt\"\nadmin_users = [\"admin\"]\n\
         pool_mode = \"transaction\"\n",
        server.port
    );

    let proxy = Setup::new().secret(&role, "").file(Some("pgweir.toml")).raw(&text).start();

    assert_eq!(proxy.login().user(&role).client().value("SELECT current_database()"), "e2e");
    assert_eq!(proxy.show("DATABASES").cell(&[("name", "app")], "pool_size"), "2");
    assert_eq!(proxy.show("CONFIG").cell(&[("key", "pool_mode")], "value"), "transaction");
}

#[test]
fn the_environment_alone_is_enough() {
    if support::beyond_pgbouncer() {
        return;
    }
    let server = Postgres::shared();
    let (role, _) = server.role_with_password("by_scram", "open sesame", "scram-sha-256");
    let proxy = Setup::new()
        .file(None)
        .environment("DATABASE_URL", &format!("postgres://{role}:open%20sesame@127.0.0.1:{}/e2e", server.port))
        .environment("PGWEIR_LISTEN_ADDR", "127.0.0.1")
        .environment("PGWEIR_LISTEN_PORT", "@PORT@")
        .environment("PGWEIR_UNIX_SOCKET_DIR", "")
        .environment("PGWEIR_POOL_MODE", "transaction")
        .environment("PGWEIR_DEFAULT_POOL_SIZE", "3")
        .start();

    let mut client = Login::to(proxy.port).user(&role).password("open sesame").database("e2e").client();

    assert_eq!(client.value("SELECT current_user"), role);
    let refusal = Login::to(proxy.port).user(&role).password("wrong").database("e2e").refusal();
    assert!(refusal.contains("authentication failed"), "{refusal}");
}

#[test]
fn the_environment_goes_before_the_file() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Setup::new().set("default_pool_size", 9).environment("PGWEIR_DEFAULT_POOL_SIZE", "3").start();
    assert_eq!(proxy.show("CONFIG").cell(&[("key", "default_pool_size")], "value"), "3");
}
