//! Each image's variables, alone and mixed, and what is said about the rest.

use std::io;
use std::path::Path;

use proptest::prelude::*;

use super::super::load::load_with;
use super::super::{AuthType, Config, Host, PoolMode, Sources, load_environment};
use super::names::*;
use super::*;

fn owned(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn loaded(variables: &[(&str, &str)]) -> Config {
    load_environment(&owned(variables)).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn problems(variables: &[(&str, &str)]) -> Vec<String> {
    let problems = load_environment(&owned(variables)).expect_err("something is wrong with it");
    problems.iter().map(ToString::to_string).collect()
}

/// Loads variables that name these files.
fn loaded_with(files: &[(&str, &[u8])], variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let sources = Sources { environment: owned(variables), ..Sources::default() };
    let read = |path: &Path| {
        let found = files.iter().find(|(name, _)| Path::new(name) == path);
        found.map(|(_, bytes)| bytes.to_vec()).ok_or(io::ErrorKind::NotFound.into())
    };
    load_with(&sources, &read).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn tcp(host: &str, port: u16) -> [Host; 1] {
    [Host::Tcp { host: host.into(), port }]
}

fn setting(config: &Config, name: &str) -> String {
    let row = config.settings.show().into_iter().find(|row| row.name == name).expect("there is such a setting");
    row.value.unwrap_or_default()
}

/// The notices, without those on settings that are for a later version.
fn notices(config: &Config) -> Vec<&str> {
    let notices = config.notices.iter().map(String::as_str);
    notices.filter(|notice| !notice.ends_with("in this version") && !notice.starts_with("listen_port is")).collect()
}

#[test]
fn the_compose_file_that_mixes_two_images_means_what_its_authors_believed() {
    let config = loaded(&[
        ("DATABASES_HOST", "192.168.1.87"),
        ("DATABASES_PORT", "5432"),
        ("DATABASES_USER", "postgres"),
        ("DATABASES_PASSWORD", "s3cret"),
        ("DATABASES_DBNAME", "ahsp_sni_db"),
        ("POOL_MODE", "transaction"),
        ("MAX_CLIENT_CONN", "1000"),
        ("DEFAULT_POOL_SIZE", "25"),
        ("AUTH_TYPE", "scram-sha-256"),
    ]);

    let settings = &config.settings;
    assert_eq!((settings.pool_mode, settings.auth_type), (PoolMode::Transaction, AuthType::ScramSha256));
    assert_eq!((settings.max_client_conn, settings.default_pool_size), (1000, 25));
    assert_eq!((&*settings.listen_addr, settings.listen_port), (["*".to_string()].as_slice(), 6432));
    let database = &config.databases["*"];
    assert_eq!(database.hosts, tcp("192.168.1.87", 5432));
    assert_eq!((database.dbname.as_deref(), database.user.as_deref()), (Some("ahsp_sni_db"), Some("postgres")));
    assert_eq!(config.secrets.find("postgres"), Some("s3cret"));
    assert_eq!(config.notices, [] as [&str; 0]);
    let given: Vec<String> = config.given.iter().map(ToString::to_string).collect();
    let expected = [
        "admin_users = postgres (default without a file)",
        "auth_type = scram-sha-256 (environment: AUTH_TYPE)",
        "default_pool_size = 25 (environment: DEFAULT_POOL_SIZE)",
        "ignore_startup_parameters = extra_float_digits (default without a file)",
        "listen_addr = * (default without a file)",
        "max_client_conn = 1000 (environment: MAX_CLIENT_CONN)",
        "pool_mode = transaction (environment: POOL_MODE)",
        "unix_socket_dir = (default without a file)",
        "database * = dbname=ahsp_sni_db host=192.168.1.87 port=5432 user=postgres password=*** (environment: \
         DATABASES_HOST)",
        "database *: dbname = ahsp_sni_db (environment: DATABASES_DBNAME)",
        "database *: port = 5432 (environment: DATABASES_PORT)",
        "database *: user = postgres (environment: DATABASES_USER)",
        "database *: password = *** (environment: DATABASES_PASSWORD)",
        "login postgres = *** (environment: DATABASES_PASSWORD)",
    ];
    assert_eq!(given, expected);
}

#[test]
fn the_first_image_fills_one_entry_of_databases() {
    let config = loaded(&[
        ("DATABASES_HOST", "a,b"),
        ("DATABASES_PORT", "5433"),
        ("DATABASES_CLIENT_SIDE_DBNAME", "app"),
        ("DATABASES_DBNAME", "real"),
        ("DATABASES_POOL_SIZE", "7"),
        ("DATABASES_RESERVE_POOL", "2"),
        ("DATABASES_CONNECT_QUERY", "select 'it''s'"),
        ("DATABASES_POOL_MODE", "statement"),
        ("DATABASES_MAX_DB_CONNECTIONS", "9"),
        ("DATABASES_CLIENT_ENCODING", "UTF8"),
        ("DATABASES_DATESTYLE", "ISO"),
        ("DATABASES_TIMEZONE", "UTC"),
        ("PGBOUNCER_AUTH_TYPE", "trust"),
        ("PGBOUNCER_ADMIN_USERS", "root"),
        ("PGBOUNCER_POOL_MODE", "transaction"),
        ("PGBOUNCER_IGNORE_STARTUP_PARAMETERS", "options"),
    ]);

    let app = &config.databases["app"];
    assert_eq!(app.hosts.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:5433", "b:5433"]);
    assert_eq!((app.pool_size, app.reserve_pool_size, app.max_db_connections), (Some(7), Some(2), Some(9)));
    assert_eq!((app.dbname.as_deref(), app.pool_mode), (Some("real"), Some(PoolMode::Statement)));
    assert_eq!(app.connect_query.as_deref(), Some("select 'it''s'"));
    assert_eq!(app.startup.len(), 3);
    assert_eq!(setting(&config, "auth_type"), "trust");
    assert_eq!(setting(&config, "admin_users"), "root");
    assert_eq!(setting(&config, "pool_mode"), "transaction");
    assert_eq!(setting(&config, "ignore_startup_parameters"), "options");
}

#[test]
fn an_open_door_is_not_copied_and_whoever_opens_it_hears_of_it() {
    let config = loaded(&[("DATABASES_HOST", "h"), ("DATABASES_USER", "u"), ("DATABASES_PASSWORD", "p")]);
    assert_eq!(config.settings.auth_type, AuthType::ScramSha256);
    assert!(config.notices[0].starts_with("auth_type is scram-sha-256: the image pgbouncer/pgbouncer would take any"));

    let config = loaded(&[("DATABASES_HOST", "h"), ("DATABASES_USER", "u"), ("PGBOUNCER_AUTH_TYPE", "any")]);
    assert_eq!(config.settings.auth_type, AuthType::Any);
    assert_eq!(
        config.notices,
        ["environment: PGBOUNCER_AUTH_TYPE: whoever reaches the port is let in, without a password"]
    );
}

#[test]
fn raw_lines_are_lines_of_the_section_databases() {
    let config = loaded(&[("DATABASES_RAW", "a = host=x port=1\n* = host=y user=u\n")]);

    assert_eq!(config.databases["a"].hosts, tcp("x", 1));
    assert_eq!(config.databases["*"].user.as_deref(), Some("u"));
    assert_eq!(
        problems(&[("DATABASES_RAW", "a = host=x\n[users]\nb = host")]),
        [
            "environment: DATABASES_RAW: expected database = connection string in line 2",
            "environment: DATABASES_RAW: b: expected key=value pairs separated by spaces"
        ]
    );
}

#[test]
fn a_url_is_a_database_and_a_login() {
    let config = loaded(&[("DATABASE_URL", "postgres://ann:word@h:5433/app?sslmode=prefer&schema=x")]);

    assert_eq!(config.databases.keys().collect::<Vec<_>>(), ["app"]);
    let app = &config.databases["app"];
    assert_eq!((&app.hosts[..], app.user.as_deref()), (tcp("h", 5433).as_slice(), None));
    assert_eq!(app.auth_user.as_deref(), Some("ann"), "a login, whose own pool it is; auth_query runs as this user");
    assert_eq!(config.secrets.find("ann"), Some("word"));
    assert_eq!(notices(&config), ["environment: DATABASE_URL: parameter schema has no effect"]);
    assert_eq!(config.settings.listen_port, 6432);
    assert!(config.notices.iter().any(|notice| notice.starts_with("listen_port is 6432, where the image")));

    let config = loaded(&[("DATABASE_URL", "postgres://h")]);
    assert_eq!(config.databases.keys().collect::<Vec<_>>(), ["*"]);
}

#[test]
fn a_broken_url_is_reported_without_its_password() {
    let problem = problems(&[("DATABASE_URL", "postgres://u:s3cret%zz@h/db")]);

    assert!(problem[0].starts_with("environment: DATABASE_URL: expected two hexadecimal digits"), "{problem:?}");
    assert!(!problem[0].contains("s3cret"));
}

#[test]
fn several_urls_are_several_databases_and_logins() {
    let urls =
        "postgres://a:x@h1/base,postgres://b:y@h2:5433,h3:5434/paid?sslmode=disable, postgres://c@h4?sslmode=allow,";
    let config = loaded(&[("DATABASE_URLS", urls), ("DATABASE_URL", "postgres://unused"), ("DB_HOST", "unused")]);

    assert_eq!(config.databases.keys().collect::<Vec<_>>(), ["*", "base", "paid"]);
    assert_eq!(config.databases["paid"].hosts.len(), 2);
    assert_eq!(config.databases["base"].hosts, tcp("h1", 5432));
    assert_eq!((config.secrets.find("a"), config.secrets.find("c")), (Some("x"), Some("")));
    assert_eq!(setting(&config, "server_tls_sslmode"), "allow");
    assert_eq!(
        notices(&config),
        [
            "environment: DATABASE_URL: has no effect, because environment: DATABASE_URLS is set",
            "environment: DB_HOST: has no effect, because environment: DATABASE_URLS is set",
            "environment: DATABASE_URLS: the strictest sslmode counts for all servers",
        ]
    );
    assert_eq!(config.settings.listen_port, 5432);
}

#[test]
fn the_second_image_has_a_login_and_bare_settings() {
    let config = loaded(&[
        ("DB_HOST", "h"),
        ("DB_PORT", "5433"),
        ("DB_USER", "ann"),
        ("DB_PASSWORD", "word"),
        ("POOL_SIZE", "6"),
        ("TIMEZONE", "UTC"),
        ("POOL_MODE", "transaction"),
        ("LISTEN_ADDR", "127.0.0.1"),
        ("ADMIN_USERS", "postgres,ann"),
        ("LOGFILE", "/tmp/x.log"),
        ("MAX_PREPARED_STATEMENTS", "0"),
        ("IGNORE_STARTUP_PARAMETERS", ""),
        ("USER", "somebody"),
        ("PIDFILE", "/elsewhere"),
    ]);

    let all = &config.databases["*"];
    assert_eq!((&all.hosts[..], all.user.as_deref(), all.dbname.as_deref()), (tcp("h", 5433).as_slice(), None, None));
    assert_eq!((all.pool_size, all.startup.len()), (Some(6), 1));
    assert_eq!(config.secrets.find("ann"), Some("word"));
    assert_eq!(config.settings.pool_mode, PoolMode::Transaction);
    assert_eq!(&*config.settings.listen_addr, ["127.0.0.1"]);
    assert_eq!(setting(&config, "admin_users"), "postgres,ann");
    assert_eq!(setting(&config, "ignore_startup_parameters"), "extra_float_digits", "empty is as good as unset");
    assert_eq!((config.settings.listen_port, config.settings.max_prepared_statements), (5432, 0));
    assert_eq!((&config.settings.user, &config.settings.pidfile), (&None, &None));
    assert_eq!(notices(&config), ["environment: PIDFILE: has no effect; did you mean PGWEIR_PIDFILE?"]);
    assert!(config.notices[0].starts_with("listen_port is 5432"), "{:?}", config.notices);
}

#[test]
fn the_third_image_has_a_login_and_names_of_its_own() {
    let config = loaded(&[
        ("POSTGRESQL_PASSWORD", "word"),
        ("POSTGRESQL_USERNAME", "ann"),
        ("POSTGRESQL_DATABASE", "real"),
        ("PGBOUNCER_DATABASE", "app"),
        ("PGBOUNCER_CONNECT_QUERY", "set a = 1"),
        ("PGBOUNCER_DSN_1", "two=host=b"),
        ("PGBOUNCER_DSN_0", "one = host=a port=5433 dbname='o ne'"),
        ("PGBOUNCER_USERLIST", "\"bob\" \"builder\"\n\"cy\" \"x\""),
        ("PGBOUNCER_PORT", "7432"),
        ("PGBOUNCER_LISTEN_ADDRESS", "127.0.0.1"),
        ("PGBOUNCER_SOCKET_DIR", "/run/weir"),
        ("PGBOUNCER_SOCKET_MODE", "0700"),
        ("PGBOUNCER_INIT_MAX_RETRIES", "3"),
    ]);

    assert_eq!(config.databases.keys().collect::<Vec<_>>(), ["app", "one", "two"]);
    let app = &config.databases["app"];
    assert_eq!((&app.hosts[..], app.dbname.as_deref()), (tcp("postgresql", 5432).as_slice(), Some("real")));
    assert_eq!((&app.user, &app.password), (&None, &None));
    assert_eq!(app.connect_query.as_deref(), Some("set a = 1"));
    assert_eq!(config.databases["one"].dbname.as_deref(), Some("o ne"));
    assert_eq!(["ann", "bob", "cy"].map(|user| config.secrets.find(user)), [Some("word"), Some("builder"), Some("x")]);
    let expected = [
        ("listen_port", "7432"),
        ("listen_addr", "127.0.0.1"),
        ("unix_socket_dir", "/run/weir"),
        ("unix_socket_mode", "0700"),
        ("admin_users", "ann"),
        ("auth_type", "scram-sha-256"),
    ];
    for (name, value) in expected {
        let row = table().into_iter().find(|row| row.name == name).expect("there is such a setting");
        let mut wanted = config.settings.clone();
        wanted.assign(row.name, value).expect("the value fits");
        assert_eq!(wanted.differences(&config.settings).len(), 0, "{name}");
    }
    let idle = "environment: PGBOUNCER_INIT_MAX_RETRIES: has no effect: the start does not wait for a server";
    assert_eq!(config.notices, [idle]);
}

#[test]
fn the_third_image_can_force_its_user() {
    let base = [("POSTGRESQL_HOST", "h"), ("POSTGRESQL_PASSWORD", "word"), ("PGBOUNCER_DATABASE", "*")];
    let with = |set: &[(&str, &str)]| loaded(&[&base, set].concat()).databases["*"].clone();

    let database = with(&[("PGBOUNCER_SET_DATABASE_USER", "Yes"), ("PGBOUNCER_SET_DATABASE_PASSWORD", "true")]);
    assert_eq!((database.user.as_deref(), database.dbname), (Some("postgres"), None));
    assert_eq!(database.password.map(|secret| secret.reveal().to_string()).as_deref(), Some("word"));
    assert_eq!(with(&[("PGBOUNCER_SET_DATABASE_USER", "no")]).user, None);
    assert_eq!(
        problems(&[&base[..], &[("PGBOUNCER_SET_DATABASE_USER", "perhaps")]].concat()),
        ["environment: PGBOUNCER_SET_DATABASE_USER: expected yes or no, got \"perhaps\""]
    );
}

#[test]
fn one_order_of_precedence_settles_what_is_said_twice() {
    let all = [
        ("LISTEN_PORT", "1"),
        ("PGBOUNCER_PORT", "2"),
        ("PGBOUNCER_LISTEN_PORT", "3"),
        ("PGWEIR_LISTEN_PORT", "4"),
        ("DB_HOST", "h"),
    ];
    for (count, port) in [(1, 1), (2, 2), (3, 3), (4, 4)] {
        let config = loaded(&[&all[..count], &all[4..]].concat());
        assert_eq!(config.settings.listen_port, port);
        let overruled = notices(&config).iter().filter(|notice| notice.contains("says otherwise")).count();
        assert_eq!(overruled, count.min(3) - 1, "{:?}", config.notices);
    }

    let config = loaded(&[
        ("DATABASES_HOST", "first"),
        ("DATABASE_URL", "postgres://second"),
        ("POSTGRESQL_HOST", "third"),
        ("PGBOUNCER_DATABASE", "*"),
    ]);
    assert_eq!(config.databases["*"].hosts, tcp("first", 5432));
    assert_eq!(
        config.notices.iter().filter(|notice| notice.ends_with("stands here again; this one counts")).count(),
        2
    );
}

#[test]
fn whose_password_loses_is_told_without_it() {
    let twice = [
        ("DATABASES_HOST", "h"),
        ("DATABASES_USER", "ann"),
        ("DATABASES_PASSWORD", "first"),
        ("DATABASE_URL", "postgres://ann:second@h/app"),
    ];
    let lost = |config: &Config| {
        let about = config.notices.iter().filter(|notice| notice.contains("login ann"));
        about.cloned().collect::<Vec<_>>()
    };

    let config = loaded(&twice);
    assert_eq!(config.secrets.find("ann"), Some("first"));
    let told = "environment: DATABASE_URL: has no effect for login ann, because environment: DATABASES_PASSWORD says \
                otherwise";
    assert_eq!(lost(&config), [told]);

    let same = [&twice[..3], &[("DATABASE_URL", "postgres://ann:first@h/app")]].concat();
    assert_eq!(lost(&loaded(&same)), [""; 0]);

    let file: &[(&str, &[u8])] = &[("users.txt", b"\"ann\" \"third\"")];
    let config = loaded_with(file, &[&twice[..3], &[("AUTH_FILE", "users.txt")]].concat()).unwrap();
    assert_eq!(config.secrets.find("ann"), Some("third"));
    let told = "environment: DATABASES_PASSWORD: has no effect for login ann, because users.txt says otherwise";
    assert_eq!(lost(&config), [told]);
}

#[test]
fn no_variable_of_an_image_is_read_unless_one_names_a_server() {
    let config = loaded(&[
        ("PGWEIR_AUTH_TYPE", "any"),
        ("POOL_MODE", "transaction"),
        ("PGBOUNCER_MAX_CLIENT_CONN", "5"),
        ("VERBOSE", "1"),
        ("USER", "root"),
        ("SYSLOG", "1"),
        ("DB_USER", "x"),
        ("PGBOUNCER_VERSION", "1.25"),
    ]);

    assert_eq!((config.settings.pool_mode, config.settings.max_client_conn), (PoolMode::Session, 100));
    assert_eq!(config.databases.len(), 0);
    assert_eq!(
        config.notices,
        [
            "environment: DB_USER: has no effect, because no variable names a server (DATABASES_HOST, DATABASE_URL, \
             DB_HOST, POSTGRESQL_HOST)",
            "environment: PGBOUNCER_VERSION: no such setting; it has no effect",
            "environment: SYSLOG: has no effect; did you mean PGWEIR_SYSLOG?",
            "there is no database, because no variable names a server (DATABASES_HOST, DATABASE_URL, DB_HOST, \
             POSTGRESQL_HOST)",
            "environment: PGBOUNCER_MAX_CLIENT_CONN, POOL_MODE: not read, because no variable names a server \
             (DATABASES_HOST, DATABASE_URL, DB_HOST, POSTGRESQL_HOST); PGWEIR_MAX_CLIENT_CONN would be"
        ]
    );
}

#[test]
fn every_setting_has_its_variables() {
    for row in table().into_iter().filter(|row| row.name != "conffile") {
        let capitals = row.name.to_ascii_uppercase();
        let read = |name: &str| {
            let mut draft = Draft::default();
            let list = owned(&[("DB_HOST", "h"), ("LISTEN_PORT", "1"), (name, "7")]);
            apply_environment(&mut draft, &list, &|_| Err(io::ErrorKind::NotFound.into()), &Around::default());
            draft.settings.iter().any(|entry| entry.key == row.name && entry.value.reveal() == "7")
        };

        assert!(read(&format!("PGWEIR_{capitals}")), "{capitals}");
        assert_eq!(read(&format!("PGBOUNCER_{capitals}")), row.name != "user", "{capitals}");
        let bare = row.name != "user" && !NOT_BARE.contains(&row.name);
        assert_eq!(read(&capitals), bare, "{capitals}");
    }
}

#[test]
fn names_that_end_in_file_are_settings_where_there_is_such_a_setting() {
    for row in table() {
        if let Some(base) = row.name.strip_suffix("_file") {
            assert!(!table().iter().any(|other| other.name == base), "{base} and {} cannot be told apart", row.name);
        }
    }
    let files: &[(&str, &[u8])] = &[("/u", b"\"ann\" \"x\"\n")];
    let config = loaded_with(files, &[("DB_HOST", "h"), ("AUTH_FILE", "/u"), ("CLIENT_TLS_CA_FILE", "/ca")]);
    let config = config.expect("it is in order");
    assert_eq!(config.settings.auth_file.as_deref(), Some(Path::new("/u")));
    assert_eq!(config.settings.client_tls_ca_file.as_deref(), Some(Path::new("/ca")));
}

#[test]
fn every_variable_may_be_given_by_a_file() {
    let files: &[(&str, &[u8])] = &[
        ("/word", b"pass word\r\n"),
        ("/two", b"x\n\n"),
        ("/mode", b"transaction"),
        ("/url", b"postgres://a:b@h/d\n"),
    ];
    let read = |variables: &[(&str, &str)]| loaded_with(files, variables).expect("it is in order");

    let config = read(&[("DATABASES_HOST", "h"), ("DATABASES_USER", "u"), ("DATABASES_PASSWORD_FILE", "/word")]);
    assert_eq!(config.secrets.find("u"), Some("pass word"));
    let config = read(&[("POSTGRESQL_PASSWORD_FILE", "/two"), ("PGBOUNCER_POOL_MODE_FILE", "/mode")]);
    assert_eq!(config.secrets.find("postgres"), Some("x\n"), "one line break is the file's, more are the password's");
    assert_eq!(config.settings.pool_mode, PoolMode::Transaction);
    let config = read(&[("DATABASE_URL_FILE", "/url"), ("POOL_MODE_FILE", "/mode"), ("DATABASE_URL", "")]);
    assert_eq!((config.databases.len(), config.settings.pool_mode), (1, PoolMode::Transaction));
    let config = read(&[("PGWEIR_POOL_MODE_FILE", "/mode")]);
    assert_eq!(config.settings.pool_mode, PoolMode::Transaction);
    let given = "pool_mode = transaction (environment: PGWEIR_POOL_MODE_FILE)";
    assert_eq!(config.given[0].to_string(), given);
}

#[test]
fn what_is_wrong_with_a_file_or_a_value_is_named_without_the_value() {
    let files: &[(&str, &[u8])] = &[("/raw", b"s3cret\xff"), ("/zero", b"s3cret\0")];
    let variables = [
        ("DB_HOST", "h"),
        ("DB_USER", "\u{fffd}s3cret"),
        ("DB_PASSWORD", "s3cret"),
        ("DB_PASSWORD_FILE", "/raw"),
        ("DB_NAME_FILE", "/gone"),
        ("AUTH_QUERY_FILE", "/raw"),
        ("PGWEIR_AUTH_USER_FILE", "/zero"),
    ];

    let problems = loaded_with(files, &variables).expect_err("it is broken");

    let expected = [
        "environment: DB_NAME_FILE: /gone: cannot be read: there is no such file",
        "environment: DB_USER: expected text in UTF-8",
        "environment: DB_PASSWORD_FILE: expected DB_PASSWORD or DB_PASSWORD_FILE, not both",
        "environment: AUTH_QUERY_FILE: /raw: expected text in UTF-8, without zero bytes",
        "environment: PGWEIR_AUTH_USER_FILE: /zero: expected text in UTF-8, without zero bytes",
    ];
    assert_eq!(problems, expected);
}

#[test]
fn a_misspelt_variable_of_ours_is_a_problem_and_a_stranger_is_mentioned() {
    assert_eq!(
        problems(&[("PGWEIR_POOLMODE", "session"), ("PGWEIR_POOL_MODES_FILE", "/x")]),
        [
            "environment: PGWEIR_POOLMODE: no such setting; did you mean pool_mode?",
            "environment: PGWEIR_POOL_MODES_FILE: no such setting; did you mean pool_mode?"
        ]
    );
    let config = loaded(&[("PGWEIR_TEST_EXE", "/bin/true"), ("PGWEIR_AUTH_TYPE", "any"), ("HOME", "/")]);
    assert_eq!(config.notices[0], "environment: PGWEIR_TEST_EXE: no such setting; it has no effect");
    assert_eq!(config.notices.len(), 2, "{:?}", config.notices);
}

#[test]
fn look_alikes_of_the_images_are_mentioned_with_what_was_meant() {
    let table = [
        ("PGBOUNCER_POOLMODE", "has no effect; did you mean PGBOUNCER_POOL_MODE?"),
        ("PGBOUNCER_MAX_CLIENTS", "no such setting; it has no effect"),
        ("PGBOUNCER_USER", "has no effect; did you mean PGWEIR_USER?"),
        ("PGBOUNCER_EXTRA_FLAGS", "has no effect: give options as the container's command"),
        ("PGBOUNCER_PASSWORD", "has no effect; use DATABASES_PASSWORD, DB_PASSWORD or POSTGRESQL_PASSWORD"),
        ("DATABASES_NAME", "has no effect; did you mean DATABASES_DBNAME?"),
        ("DATABASES_POOLSIZE", "has no effect; did you mean DATABASES_POOL_SIZE?"),
        ("DB_USERNAME", "has no effect; did you mean DB_USER?"),
        ("DATABASES_HOSTNAME", "no such setting; it has no effect"),
        ("DB_PASSWRD", "has no effect; did you mean DB_PASSWORD?"),
        ("POSTGRESQL_USER", "has no effect; did you mean POSTGRESQL_USERNAME?"),
        ("POOLMODE", "has no effect; did you mean POOL_MODE?"),
        ("POOL_SIZE", "has no effect; did you mean DEFAULT_POOL_SIZE?"),
        ("POOL_SIZ", "has no effect; did you mean POOL_SIZE?"),
        ("MAX_CLIENT_CONNS", "has no effect; did you mean MAX_CLIENT_CONN?"),
        ("SYSLOG", "has no effect; did you mean PGWEIR_SYSLOG?"),
        ("CONNECTION_POOLER_MODE", "has no effect; use PGWEIR_POOL_MODE"),
    ];
    for (name, said) in table {
        let config = loaded(&[("DATABASES_HOST", "h"), ("AUTH_TYPE", "trust"), (name, "1")]);
        let expected = format!("environment: {name}: {said}");
        assert!(config.notices.contains(&expected), "{expected}: {:?}", config.notices);
    }

    let others = ["HOSTNAME", "LANGUAGE", "USER", "LOGNAME", "TERM", "DB_BACKUP_DIR", "PGHOST", "pool_mode", "PORT"];
    for name in others {
        let config = loaded(&[("DATABASES_HOST", "h"), ("AUTH_TYPE", "trust"), (name, "1")]);
        assert!(!config.notices.iter().any(|notice| notice.contains(name)), "{name}: {:?}", config.notices);
    }
}

#[test]
fn parts_without_their_host_are_mentioned() {
    let config = loaded(&[
        ("DATABASES_RAW", "a = host=x user=u"),
        ("DATABASES_USER", "u"),
        ("DB_USER", "u"),
        ("PGBOUNCER_DATABASE", "d"),
        ("AUTH_TYPE", "trust"),
    ]);

    let expected = [
        "environment: PGBOUNCER_DATABASE: has no effect without POSTGRESQL_HOST",
        "environment: DB_USER: has no effect without DB_HOST",
        "environment: DATABASES_USER: has no effect without DATABASES_HOST",
        "auth_type is trust, but auth_file is not set",
    ];
    assert_eq!(config.notices, expected);
}

#[test]
fn what_kubernetes_makes_for_services_is_never_a_setting() {
    let mut links = Vec::new();
    for service in
        ["PGWEIR", "PGBOUNCER", "DB", "POSTGRESQL", "DATABASES", "LISTEN", "PGBOUNCER_LISTEN", "PGWEIR_LISTEN"]
    {
        links.extend([
            (format!("{service}_SERVICE_HOST"), "10.0.0.1"),
            (format!("{service}_SERVICE_PORT"), "6432"),
            (format!("{service}_SERVICE_PORT_PG"), "6432"),
            (format!("{service}_PORT"), "tcp://10.0.0.1:6432"),
            (format!("{service}_PORT_6432_TCP"), "tcp://10.0.0.1:6432"),
            (format!("{service}_PORT_6432_TCP_PROTO"), "tcp"),
            (format!("{service}_PORT_6432_TCP_PORT"), "6432"),
            (format!("{service}_PORT_6432_TCP_ADDR"), "10.0.0.1"),
        ]);
    }
    let links: Vec<(&str, &str)> = links.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    assert!(!environment_configures(&owned(&links)));

    let target = [("DATABASES_HOST", "h"), ("AUTH_TYPE", "scram-sha-256"), ("DATABASES_USER", "u")];
    let with = loaded(&[&target[..], &links].concat());

    assert_eq!(with.given, loaded(&target).given);
    assert_eq!(with.notices, loaded(&target).notices);
}

#[test]
fn an_environment_stands_in_for_a_file_where_it_names_a_server_or_a_setting_of_ours() {
    let configures = |name: &str| environment_configures(&owned(&[("PATH", "/bin"), (name, "x")]));

    for name in TARGETS {
        assert!(configures(name) && configures(&format!("{name}_FILE")), "{name}");
    }
    for name in ["PGWEIR_LISTEN_PORT", "PGWEIR_CONFFILE", "PGWEIR_CONFIG_DIRS", "PGBOUNCER_DSN_0"] {
        assert!(configures(name), "{name}");
    }
    for name in ["MY_PGWEIR_X", "PGWEIR_TEST_EXE", "PGBOUNCER_POOL_MODE", "POOL_MODE", "PGBOUNCER_DSN_X", "DB_USER"] {
        assert!(!configures(name), "{name}");
    }
    assert!(!environment_configures(&owned(&[("DATABASE_URL", "")])));
}

/// Names of variables that mean something, so that properties meet more than strangers.
fn any_name() -> impl Strategy<Value = String> {
    let settings: Vec<String> = table().iter().map(|row| row.name.to_ascii_uppercase()).collect();
    let prefix = prop::sample::select(vec!["", "PGWEIR_", "PGBOUNCER_", "DATABASES_", "DB_", "POSTGRESQL_"]);
    let key = "HOST|PORT|USER|USERNAME|PASSWORD|DBNAME|NAME|DATABASE|RAW|PASSWORD_FILE|USERLIST|DSN_[0-9]{1,11}";
    let targets = prop::sample::select(TARGETS.to_vec()).prop_map(str::to_string);
    let set = (prefix.clone(), prop::sample::select(settings)).prop_map(|(prefix, name)| format!("{prefix}{name}"));
    let keyed = (prefix, key).prop_map(|(prefix, key)| format!("{prefix}{key}"));
    prop_oneof![targets, set, keyed, "[A-Z_]{1,20}", "\\PC{0,12}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_environment_makes_a_configuration_or_problems_and_tells_no_secret(
        list in prop::collection::vec((any_name(), "[ -~\\PC]{0,16}|postgres://[ -~]{0,20}|a=host=b c='d'"), 0..12)
    ) {
        let mut list = list;
        list.push(("DATABASES_HOST".to_string(), "h".to_string()));
        list.push(("DATABASES_PASSWORD".to_string(), "s3cret-value".to_string()));
        match load_environment(&list) {
            Ok(config) => {
                prop_assert!(!config.databases.is_empty());
                let told = config.given.iter().map(ToString::to_string).chain(config.notices);
                prop_assert!(!told.into_iter().any(|line| line.contains("s3cret-value")));
            }
            Err(problems) => {
                prop_assert!(!problems.is_empty());
                prop_assert!(!problems.iter().any(|problem| problem.to_string().contains("s3cret-value")));
            }
        }
    }
}
