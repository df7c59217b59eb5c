//! Whole configurations: files in, a `Config` or every problem out.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::{Host, LoadBalanceHosts, PoolMode, Secret, SslMode};

/// Loads the first of these files, which may include the others.
fn load_files(files: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    load_all(files, &[], &[])
}

fn load_all(
    files: &[(&str, &str)],
    environment: &[(&str, &str)],
    overrides: &[(&str, &str)],
) -> Result<Config, Vec<String>> {
    let owned = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
    let sources = Sources {
        conffile: files.first().map(|(path, _)| PathBuf::from(path)),
        environment: owned(environment),
        overrides: owned(overrides),
        ..Sources::default()
    };
    let files: HashMap<PathBuf, Vec<u8>> =
        files.iter().map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec())).collect();
    let read = |path: &Path| files.get(path).cloned().ok_or(io::ErrorKind::NotFound.into());
    load_with(&sources, &read).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn load_text(text: &str) -> Result<Config, Vec<String>> {
    load_files(&[("p.ini", text)])
}

#[test]
fn a_pgbouncer_ini_becomes_a_configuration() {
    let text = "\
[databases]
app = host=10.0.0.7,/run/pg port=5433 dbname=real user=ann password='it''s' pool_size=3 pool_mode=statement \
server_lifetime=90 load_balance_hosts=disable timezone=UTC application_name=weir connect_query='set a = 1'
* = reserve_pool=2

[users]
batch = pool_mode=session max_user_connections=5 query_timeout=1.5

[pgbouncer]
listen_addr = 127.0.0.1, ::1
auth_type = trust
auth_file = users.txt
server_idle_timeout = 0.5
";

    let config = load_files(&[("p.ini", text), ("users.txt", "\"ann\" \"secret\"\n")]).expect("it is in order");

    let app = &config.databases["app"];
    assert_eq!(
        app.hosts,
        [Host::Tcp { host: "10.0.0.7".into(), port: 5433 }, Host::Unix { dir: "/run/pg".into(), port: 5433 }]
    );
    assert_eq!((app.dbname.as_deref(), app.user.as_deref()), (Some("real"), Some("ann")));
    assert_eq!(app.password, Some(Secret::new("it's")));
    assert_eq!((app.pool_size, app.pool_mode), (Some(3), Some(PoolMode::Statement)));
    assert_eq!(app.server_lifetime, Some(Duration::from_secs(90)));
    assert_eq!(app.load_balance_hosts, LoadBalanceHosts::Disable);
    let startup = [("timezone", "UTC"), ("application_name", "weir")];
    assert_eq!(app.startup, startup.map(|(name, value)| (name.to_string(), value.to_string())));
    let fallback = config.database("anything").expect("there is a *");
    assert_eq!((fallback.name.as_str(), fallback.reserve_pool_size), ("*", Some(2)));
    assert_eq!(fallback.hosts, [Host::Unix { dir: "/tmp".into(), port: 5432 }]);
    assert_eq!(config.users["batch"].query_timeout, Some(Duration::from_millis(1500)));
    assert_eq!(&*config.settings.listen_addr, ["127.0.0.1", "::1"]);
    assert_eq!(config.settings.server_idle_timeout, Duration::from_millis(500));
    assert_eq!(config.settings.conffile.as_deref(), Some(Path::new("p.ini")));
    assert_eq!(config.secrets.find("ann"), Some("secret"));
    assert_eq!(config.notices, [] as [&str; 0]);
}

#[test]
fn all_problems_of_all_files_are_reported_at_once_in_order() {
    let main = "\
top = 1
[databases]
pgbouncer = host=x
app = host=x port=0 pool_sise=3
bad = host
%include more.ini
%include gone.ini
[userz]
a = pool_size=1
[pgbouncer]
pool_mode = transactional
max_client_conns = 5
auth_type = kerberos
client_tls_sslmode = required
auth_file = users.txt
query_timeout = 5 min
";
    let more = "dup = host=x port=1,2,3\n[users]\nann = pool_size=3x\n[peers]\n0 = port=1\n";

    let problems = load_files(&[("p.ini", main), ("more.ini", more), ("users.txt", "bob secret\n")]);

    let expected = [
        "p.ini:1: top: expected a [section] above it",
        "p.ini:3: pgbouncer: expected a name other than pgbouncer, which is the console's",
        "p.ini:4: app: port: expected a port from 1 to 65535, or several separated by commas, got \"0\"",
        "p.ini:4: app: pool_sise: no such key; did you mean pool_size?",
        "p.ini:5: bad: expected key=value pairs separated by spaces",
        "p.ini:7: gone.ini: cannot be read: there is no such file",
        "p.ini:8: userz: no such section; did you mean users?",
        "p.ini:11: pool_mode: expected session, transaction or statement, got \"transactional\"",
        "p.ini:12: max_client_conns: no such setting; did you mean max_client_conn?",
        "p.ini:13: auth_type: expected any, trust, plain, md5, scram-sha-256, cert, hba, pam or ldap, got \"kerberos\"",
        "p.ini:14: client_tls_sslmode: expected disable, allow, prefer, require, verify-ca or verify-full, \
         got \"required\"",
        "p.ini:16: query_timeout: expected seconds from 0 to 4294967295, such as 5 or 0.5, without a suffix, \
         got \"5 min\"",
        "more.ini:1: dup: port: expected one port, or 1 as there are hosts",
        "more.ini:3: ann: pool_size: expected a whole number from 0 to 2147483647, got \"3x\"",
        "more.ini:5: 0: expected a peer's number from 1 to 65535, got \"0\"",
        "more.ini:5: 0: expected a host",
        "users.txt:1: auth_file: expected \"user\" \"secret\", both in double quotes",
    ];
    assert_eq!(problems.expect_err("it is broken"), expected);
}

#[test]
fn no_problem_repeats_a_password() {
    let text = "\
[databases]
a = host=x password='s3cret
b = host=x s3cret
c = host=x password='s3cret'user=u
password s3cret
d = host=x user=u password=s3cret port=none
[pgbouncer]
auth_type = any
";

    let problems = load_text(text).expect_err("it is broken");

    assert_eq!(problems.len(), 5);
    assert!(problems.iter().all(|problem| !problem.contains("s3cret")), "{problems:?}");
}

#[test]
fn printing_a_configuration_prints_no_secret() {
    let text =
        "[databases]\na = host=x user=u password=s3cret\n[pgbouncer]\nauth_file = u\nauth_ldap_options = s3cret\n";

    let config = load_files(&[("p.ini", text), ("u", "\"ann\" \"s3cret\"")]).expect("it is in order");

    assert!(!format!("{config:?}").contains("s3cret"));
    assert!(!format!("{:?}", config.settings.show()).contains("s3cret"));
}

#[test]
fn what_has_no_effect_is_said_with_its_place() {
    let text = "\
[databases]
a = host=x auth_dbname=pgbouncer password=p
[pgbouncer]
auth_type = ldap
auth_ldap_options = ldapurl=ldap://h ldapport=x
";

    let config = load_text(text).expect("it is in order");

    let expected = [
        "p.ini:5: auth_ldap_options: invalid LDAP port number: \"x\": nobody can log in",
        "p.ini:2: a has a password without a user; it has no effect",
        "p.ini:2: a has the console for its auth_dbname; users not in auth_file cannot log in",
    ];
    assert_eq!(config.notices, expected);
}

#[test]
fn ldap_without_options_is_told_where_ldap_is_asked_for() {
    let config = load_text("[databases]\n* = host=x\n[pgbouncer]\nauth_type = ldap\n").expect("it is in order");

    let expected = "p.ini:4: auth_ldap_options is not set, but auth_type is ldap: nobody can log in";
    assert_eq!(config.notices, [expected]);
}

#[test]
fn our_variables_outrank_the_file_and_the_command_line_both() {
    let text = "[databases]\n* = host=x\n[pgbouncer]\nauth_type = any\nverbose = 1\npool_mode = session\n\
                max_client_conn = 5\n";
    let environment = [("PGWEIR_POOL_MODE", "transaction"), ("PGWEIR_VERBOSE", "2"), ("PGWEIR_AUTH_TYPE", "md5")];

    let config = load_all(&[("p.ini", text)], &environment, &[("verbose", "3")]).expect("it is in order");

    assert_eq!(config.settings.pool_mode, PoolMode::Transaction);
    assert_eq!((config.settings.verbose, config.settings.max_client_conn), (3, 5));
}

#[test]
fn a_file_outranks_the_variables_of_the_images() {
    let text = "[databases]\napp = host=x\n[pgbouncer]\nauth_file = u\nlisten_port = 7000\n";
    let files = [("p.ini", text), ("u", "\"bob\" \"from the file\"\n")];
    let environment = [
        ("DATABASE_URL", "postgres://ann:word@h/other?sslmode=disable"),
        ("PGBOUNCER_LISTEN_PORT", "7001"),
        ("POOL_MODE", "transaction"),
        ("PGBOUNCER_USERLIST", "\"bob\" \"from the environment\""),
    ];

    let config = load_all(&files, &environment, &[]).expect("it is in order");

    assert_eq!(config.databases.keys().collect::<Vec<_>>(), ["app"]);
    assert_eq!((config.settings.listen_port, config.settings.pool_mode), (7000, PoolMode::Session));
    assert!(config.settings.listen_addr.is_empty(), "a file decides where to listen");
    assert_eq!((config.secrets.find("ann"), config.secrets.find("bob")), (Some("word"), Some("from the file")));
    let expected = [
        "environment: DATABASE_URL: makes no database, because p.ini:2 does",
        "environment: PGBOUNCER_LISTEN_PORT, POOL_MODE: not read, because a configuration file outranks the variables \
         of the images; PGWEIR_LISTEN_PORT would be",
        "environment: PGBOUNCER_USERLIST: has no effect for login bob, because u says otherwise",
    ];
    assert_eq!(config.notices, expected);
}

#[test]
fn a_file_without_databases_has_those_of_the_environment() {
    let text = "[pgbouncer]\nauth_type = scram-sha-256\n";

    let config = load_all(&[("p.ini", text)], &[("DATABASE_URL", "postgres://ann:word@h/app")], &[]);

    let config = config.expect("it is in order");
    assert_eq!(config.databases["app"].hosts, [Host::Tcp { host: "h".into(), port: 5432 }]);
    assert_eq!(config.databases["app"].auth_user.as_deref(), Some("ann"));
}

#[test]
fn a_configuration_is_found_where_the_environment_says() {
    let ini = |port: u16| format!("[pgbouncer]\nauth_type = any\nlisten_port = {port}\n");
    let files = [("/a/pgbouncer.ini", ini(1)), ("/b/pgbouncer.ini", ini(2)), ("/c.ini", ini(3))];
    let find = |conffile: Option<&str>, environment: &[(&str, &str)]| {
        let sources = Sources {
            conffile: conffile.map(PathBuf::from),
            environment: environment.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect(),
            ..Sources::default()
        };
        let read = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| text.clone().into_bytes()).ok_or(io::ErrorKind::NotFound.into())
        };
        load_with(&sources, &read).map_err(|problems| problems[0].to_string())
    };
    let port = |conffile: Option<&str>, environment: &[(&str, &str)]| {
        find(conffile, environment).map(|config| config.settings.listen_port)
    };
    let dirs = ("PGWEIR_CONFIG_DIRS", "/none:/a:/b");

    assert_eq!(port(None, &[dirs]), Ok(1));
    assert_eq!(port(None, &[dirs, ("PGWEIR_CONFFILE", "/c.ini")]), Ok(3));
    assert_eq!(port(Some("/b/pgbouncer.ini"), &[dirs, ("PGWEIR_CONFFILE", "/c.ini")]), Ok(2));
    assert_eq!(
        port(None, &[("PGWEIR_CONFFILE", "/gone.ini")]),
        Err("/gone.ini: cannot be read: there is no such file".to_string())
    );
    let nowhere = "environment: PGWEIR_CONFIG_DIRS: expected a pgweir.toml or pgbouncer.ini in /x, or a variable that \
                   names a server: DATABASES_HOST, DATABASE_URL, DB_HOST or POSTGRESQL_HOST";
    assert_eq!(port(None, &[("PGWEIR_CONFIG_DIRS", "/x")]), Err(nowhere.to_string()));
    assert_eq!(port(None, &[("PGWEIR_CONFIG_DIRS", "/x"), ("DATABASES_HOST", "h")]), Ok(6432));
    let found = find(None, &[dirs]).expect("it is in order");
    assert_eq!(found.given[0].to_string(), "conffile = /a/pgbouncer.ini (environment: PGWEIR_CONFIG_DIRS)");
    assert_eq!(found.settings.conffile.as_deref(), Some(Path::new("/a/pgbouncer.ini")));
}

#[test]
fn a_list_of_users_is_found_where_a_configuration_could_be() {
    let sources = Sources {
        environment: [("DB_HOST", "h"), ("DB_USER", "ann"), ("DB_PASSWORD", "x"), ("PGWEIR_CONFIG_DIRS", "/etc/pgb")]
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .to_vec(),
        ..Sources::default()
    };
    let read = |path: &Path| match path == Path::new("/etc/pgb/userlist.txt") {
        true => Ok(b"\"bob\" \"md5abc\"\n".to_vec()),
        false => Err(io::ErrorKind::NotFound.into()),
    };

    let config = load_with(&sources, &read).expect("it is in order");

    assert_eq!((config.secrets.find("ann"), config.secrets.find("bob")), (Some("x"), Some("md5abc")));
    assert_eq!(config.settings.auth_type, AuthType::Md5, "the list may have md5 hashes, which SCRAM cannot check");
}

#[test]
fn what_is_not_as_by_default_is_given_with_its_place_and_without_secrets() {
    let text = "[databases]\napp = host=x user=u password=s3cret connect_query='set s3cret'\n\
                [users]\nann = pool_size=3\n\
                [pgbouncer]\nauth_type = any\nauth_ldap_options = s3cret\nmax_client_conn = 100\n";

    let config = load_all(&[("p.ini", text)], &[("PGWEIR_POOL_MODE", "transaction")], &[("verbose", "1")]);

    let given: Vec<String> = config.expect("it is in order").given.iter().map(ToString::to_string).collect();
    let expected = [
        "conffile = p.ini (command line)",
        "auth_ldap_options = *** (p.ini:7)",
        "auth_type = any (p.ini:6)",
        "pool_mode = transaction (environment: PGWEIR_POOL_MODE)",
        "verbose = 1 (command line)",
        "database app = host=x user=u password=*** connect_query=*** (p.ini:2)",
        "user ann = pool_size=3 (p.ini:4)",
    ];
    assert_eq!(given, expected);
}

#[test]
fn the_environment_alone_is_enough() {
    let config = load_all(&[], &[("DATABASE_URL", "postgres://ann:word@h/app")], &[]).expect("it is in order");

    assert_eq!(config.path, None);
    assert_eq!(config.database("app").map(|database| database.hosts.len()), Some(1));
}

#[test]
fn a_url_that_demands_tls_gets_it() {
    let config = load_all(&[], &[("DATABASE_URL", "postgres://ann:word@h/app?sslmode=require")], &[]);

    assert_eq!(config.expect("it is in order").settings.server_tls_sslmode, SslMode::Require);
}

#[test]
fn wrong_values_in_the_environment_name_their_setting() {
    let problems = load_all(&[], &[("PGWEIR_LOG_STATS", "yes")], &[]).expect_err("it is broken");

    assert_eq!(problems, ["environment: PGWEIR_LOG_STATS: log_stats: expected 0 or 1, got \"yes\""]);
}

#[test]
fn an_included_file_shares_the_section_of_the_one_including_it() {
    let main = "[pgbouncer]\nauth_type = any\n%include a.ini\npool_mode = statement\n%include b.ini\nx = host=x\n";

    let config = load_files(&[("p.ini", main), ("a.ini", "verbose = 2\n"), ("b.ini", "[databases]\n")]);

    let config = config.expect("it is in order");
    assert_eq!((config.settings.verbose, config.settings.pool_mode), (2, PoolMode::Statement));
    assert!(config.databases.contains_key("x"));
}

#[test]
fn files_that_include_each_other_end() {
    let problems = load_files(&[("p.ini", "[pgbouncer]\nauth_type=any\n%include p.ini\n")]);

    assert_eq!(
        problems.expect_err("it never ends"),
        ["p.ini:3: p.ini: expected at most 10 files including each other"]
    );
}

#[test]
fn a_second_main_section_starts_over_and_says_so() {
    let text =
        "[pgbouncer]\nauth_type = any\nlisten_port = 7000\nverbose = 1\n[users]\n[pgbouncer]\nauth_type = trust\n";

    let config = load_text(text).expect("it is in order");

    assert_eq!((config.settings.listen_port, config.settings.verbose), (6432, 1));
    let notice = "p.ini:6: [pgbouncer] again, so these go back to their defaults first: auth_type, listen_port";
    assert_eq!(config.notices[0], notice);
}

#[test]
fn a_file_without_a_main_section_or_no_file_at_all_is_refused() {
    assert_eq!(load_text("[databases]\n").expect_err("it lacks a section"), ["p.ini: expected a section [pgbouncer]"]);
    let sources = Sources { conffile: Some("gone.ini".into()), ..Sources::default() };
    let problems = load_with(&sources, &|_| Err(io::ErrorKind::PermissionDenied.into())).expect_err("it is not there");
    assert_eq!(
        problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["gone.ini: cannot be read: permission denied"]
    );
}

#[test]
fn a_process_starts_without_its_auth_file_and_does_not_reload_without_it() {
    let text = "[pgbouncer]\nauth_file = u\n";
    let config = load_text(text).expect("it starts");
    assert_eq!(config.notices, ["u: auth_file: cannot be read: there is no such file; its users are not known"]);

    let sources = Sources { conffile: Some("a.ini".into()), reload: true, ..Sources::default() };
    let problems = load_with(&sources, &|path| match path == Path::new("a.ini") {
        true => Ok(text.into()),
        false => Err(io::ErrorKind::NotFound.into()),
    });
    let problems: Vec<String> = problems.expect_err("there is no u").iter().map(ToString::to_string).collect();
    assert_eq!(problems, ["u: auth_file: cannot be read: there is no such file"]);
}

#[test]
fn toml_says_the_same_as_ini() {
    let toml = "\
[pgweir]
listen_addr = ['127.0.0.1']
auth_type = 'any'
log_stats = false
[databases.app]
host = ['a', 'b']
port = [5432, 5433]
user = 'ann'
";
    let ini = "\
[databases]
app = host=a,b port=5432,5433 user=ann
[pgbouncer]
listen_addr = 127.0.0.1
auth_type = any
log_stats = 0
";

    let toml = load_files(&[("p.toml", toml)]).expect("it is in order");
    let ini = load_text(ini).expect("it is in order");

    assert_eq!(toml.databases, ini.databases);
    let differences: Vec<&str> = toml.settings.differences(&ini.settings).iter().map(|row| row.name).collect();
    assert_eq!(differences, ["conffile"]);
}

#[test]
fn debians_file_loads_unchanged_in_meaning() {
    let text = "\
;;; comment
[databases]
;bardb = host=localhost dbname=bazdb
[users]
[pgbouncer]
logfile = /var/log/postgresql/pgbouncer.log
pidfile = /var/run/postgresql/pgbouncer.pid
listen_addr = localhost
listen_port = 6432
unix_socket_dir = /var/run/postgresql
auth_type = md5
auth_file = /etc/pgbouncer/userlist.txt
";

    let config = load_files(&[("pgbouncer.ini", text), ("/etc/pgbouncer/userlist.txt", "")]).expect("it is in order");

    assert_eq!(config.settings.unix_socket_dir.as_deref(), Some("/var/run/postgresql"));
    assert_eq!(config.settings.logfile.as_deref(), Some(Path::new("/var/log/postgresql/pgbouncer.log")));
    assert_eq!(config.notices, [] as [&str; 0]);
}

#[test]
fn limits_of_names_and_sizes_are_checked() {
    let long = "d".repeat(64);
    let text = format!(
        "[databases]\n{long} = host=x\na = host=x user={} pool_size=2 min_pool_size=3\n[users]\n{} =\n\
         [pgbouncer]\nauth_type=any\n",
        "u".repeat(128),
        "v".repeat(128)
    );

    let problems = load_text(&text).expect_err("names are too long");

    assert_eq!(problems.len(), 3, "{problems:?}");
    assert_eq!(problems[1], "p.ini:3: a: user: expected text of at most 127 bytes");
}

#[test]
fn sizes_that_contradict_each_other_are_pointed_out() {
    let text = "[databases]\na = host=x pool_size=2 min_pool_size=3\n[pgbouncer]\nauth_type=any\nmin_pool_size=30\n";

    let config = load_text(text).expect("it is in order");

    assert_eq!(
        config.notices,
        [
            "p.ini:5: min_pool_size is more than default_pool_size, which counts",
            "p.ini:2: a has a min_pool_size above its pool_size, which counts"
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn any_bytes_make_a_configuration_or_problems(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        name in "p\\.(ini|toml)"
    ) {
        if let Err(problems) = load_bytes(&name, &bytes) {
            prop_assert!(!problems.is_empty());
        }
    }

    #[test]
    fn any_values_of_known_names_make_a_configuration_or_problems(
        settings in proptest::collection::vec((0..table().len(), "[ -~]{0,12}"), 0..6),
        keys in proptest::collection::vec(("host|port|user|pool_size|pool_mode|server_lifetime", "[!-~]{0,8}"), 0..4)
    ) {
        let settings: String =
            settings.iter().map(|(row, value)| format!("{} = {value}\n", table()[*row].name)).collect();
        let keys: String = keys.iter().map(|(key, value)| format!("{key}={value} ")).collect();
        let entries = format!("[databases]\na = {keys}\n[users]\na = {keys}\n[peers]\n1 = {keys}\n");
        let text = format!("[pgbouncer]\n{settings}{entries}");

        match load_bytes("p.ini", text.as_bytes()) {
            Ok(config) => prop_assert!(config.databases.values().all(|database| !database.hosts.is_empty())),
            Err(problems) => prop_assert!(!problems.is_empty()),
        }
    }
}

const HBA_INI: &str =
    "[databases]\n* = host=x\n[pgbouncer]\nauth_type = hba\nauth_hba_file = hba\nauth_ident_file = maps\n";

#[test]
fn lines_of_records_that_are_passed_over_are_said_with_their_place() {
    let files = [
        ("p.ini", HBA_INI),
        (
            "hba",
            "local all all peer map=m\nhost all +team all md5\nhost all all all pam pam_use_hostname=1\n\
          host all all all ldap ldapserver=h\n",
        ),
        ("maps", "m root app\nm root\n"),
    ];

    let config = load_all(&files, &[], &[]).expect("it is in order");

    assert_eq!(config.hba.records().len(), 3);
    let said: Vec<&str> =
        config.notices.iter().map(String::as_str).filter(|line| !line.contains("auth_file")).collect();
    assert_eq!(
        said,
        [
            "maps:2: this line is passed over: expected a map, a name from outside and a user",
            "hba:2: this line is passed over: +team is not supported: a pooler does not know who is in which role",
            "hba:3: pam_use_hostname=1 is not supported: addresses are not looked up for their names: whom this line \
             fits is refused",
            "hba:4: authentication method \"ldap\" requires argument \"ldapbasedn\", \"ldapprefix\", or \
             \"ldapsuffix\" to be set: whom this line fits is refused",
        ]
    );
}

#[cfg(not(feature = "pam"))]
#[test]
fn a_build_without_pam_says_so_wherever_pam_is_asked_for() {
    let files = [("p.ini", HBA_INI), ("hba", "host all all all pam\n"), ("maps", "")];
    let config = load_all(&files, &[], &[]).expect("it is in order");
    let notice = "hba:1: this build has no PAM: it was made without the feature \"pam\", which is on by default: whom \
                  this line fits is refused";
    assert!(config.notices.iter().any(|line| line == notice), "{:?}", config.notices);

    let problems = load_all(&[("p.ini", "[databases]\n* = host=x\n[pgbouncer]\nauth_type = pam\n")], &[], &[]);
    let problem = "p.ini:4: auth_type: expected another value (this build has no PAM: it was made without the feature \
                   \"pam\", which is on by default), got \"pam\"";
    assert_eq!(problems.expect_err("it must not start"), [problem]);
}

#[cfg(feature = "pam")]
#[test]
fn pam_needs_no_auth_file() {
    let text = "[databases]\n* = host=x\n[pgbouncer]\nauth_type = pam\n";
    let config = load_all(&[("p.ini", text)], &[], &[]).expect("it is in order");
    assert_eq!(config.notices, Vec::<String>::new());
}

#[test]
fn a_reject_that_cannot_be_followed_is_a_problem_where_records_count() {
    let bad = ("hba", "host all +banned all reject\n");
    let problems =
        load_all(&[("p.ini", HBA_INI), bad, ("maps", "")], &[], &[]).expect_err("it must not be passed over");
    assert!(problems[0].starts_with("hba:1: auth_hba_file: expected a line that can be followed"), "{problems:?}");

    let other = HBA_INI.replace("auth_type = hba", "auth_type = any");
    let config = load_all(&[("p.ini", &other), bad], &[], &[]).expect("the records do not count");
    assert!(!config.notices.iter().any(|line| line.contains("hba")), "{:?}", config.notices);
}

#[test]
fn records_that_are_not_there_are_a_warning_at_the_start_and_a_problem_at_reload() {
    let read = |path: &Path| match path == Path::new("p.ini") {
        true => Ok(HBA_INI.as_bytes().to_vec()),
        false => Err(io::ErrorKind::NotFound.into()),
    };
    let sources = |reload| Sources { conffile: Some("p.ini".into()), reload, ..Sources::default() };

    let config = load_with(&sources(false), &read).expect("a start goes on");
    let warning = "hba: auth_hba_file: cannot be read: there is no such file; it is taken for empty";
    assert!(config.notices.iter().any(|line| line == warning), "{:?}", config.notices);
    let problems = load_with(&sources(true), &read).expect_err("a reload does not");
    assert_eq!(problems.len(), 2, "{problems:?}");
}
