//! Every name of a variable that means something, in tables.
//!
//! Pure: [`environment.md`](super::super::reference::environment) is made from these tables, so the page and the code
//! cannot say different things. The names are those of the images, letter for letter: `pgbouncer/pgbouncer`
//! (`DATABASES_*`, `PGBOUNCER_*`), `edoburu/pgbouncer` (`DATABASE_URL`, `DB_*`, bare names) and `bitnami/pgbouncer`
//! (`POSTGRESQL_*`, `PGBOUNCER_*`).

/// The start of our own variables.
pub(in crate::config) const PREFIX: &str = "PGWEIR_";

/// The start of the variables that set settings in two of the images.
pub(in crate::config) const IMAGE_PREFIX: &str = "PGBOUNCER_";

/// Names the configuration file where the command line names none.
pub(in crate::config) const CONFFILE: &str = "PGWEIR_CONFFILE";

/// Folders, separated by colons, to look for a configuration in where nothing names a file.
pub(in crate::config) const CONFIG_DIRS: &str = "PGWEIR_CONFIG_DIRS";

/// What is added to a variable's name for its value to be read from a file.
pub(in crate::config) const FILE_SUFFIX: &str = "_FILE";

/// The start of numbered entries of `[databases]`.
pub(in crate::config) const DSN_PREFIX: &str = "PGBOUNCER_DSN_";

/// The start of the variables with keys of one entry of `[databases]`.
pub(in crate::config) const DATABASES_PREFIX: &str = "DATABASES_";

/// Variables that name a server; without one of them (or [`DSN_PREFIX`]) no variable of an image is read.
pub(in crate::config) const TARGETS: [&str; 9] = [
    "DATABASES_HOST",
    "DATABASES_RAW",
    "DATABASE_URL",
    "DATABASE_URLS",
    "DB_HOST",
    "POSTGRESQL_HOST",
    "POSTGRESQL_USERNAME",
    "POSTGRESQL_PASSWORD",
    "POSTGRESQL_DATABASE",
];

/// Is this a variable that names a server, or the file with its value?
pub(in crate::config) fn is_target(name: &str) -> bool {
    let name = name.strip_suffix(FILE_SUFFIX).unwrap_or(name);
    TARGETS.contains(&name) || dsn_number(name).is_some()
}

/// The number of a numbered entry of `[databases]`.
pub(in crate::config) fn dsn_number(name: &str) -> Option<u32> {
    let digits = name.strip_prefix(DSN_PREFIX)?;
    digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Other names of settings behind [`IMAGE_PREFIX`]; the setting's own name outranks them.
pub(in crate::config) const ALIASES: [(&str, &str); 7] = [
    ("PORT", "listen_port"),
    ("LISTEN_ADDRESS", "listen_addr"),
    ("BIND_ADDRESS", "listen_addr"),
    ("SOCKET_DIR", "unix_socket_dir"),
    ("SOCKET_MODE", "unix_socket_mode"),
    ("SOCKET_GROUP", "unix_socket_group"),
    ("LOG_FILE", "logfile"),
];

/// Settings that only `PGWEIR_` sets, because the image decides them or the name alone means something else.
pub(in crate::config) const NOT_FOR_IMAGES: [(&str, &str); 2] = [
    ("user", "a container's user is set where it is started"),
    ("conffile", "the command or PGWEIR_CONFFILE names the file"),
];

/// Settings that are not read by their bare names, because other programs have variables of that name.
pub(in crate::config) const NOT_BARE: [&str; 7] =
    ["job_name", "peer_id", "pidfile", "resolv_conf", "syslog", "syslog_facility", "syslog_ident"];

/// Bare variables that are keys of the databases that `DB_HOST`, `DATABASE_URL` and `DATABASE_URLS` make.
pub(in crate::config) const BARE_KEYS: [(&str, &str); 3] =
    [("POOL_SIZE", "pool_size"), ("CLIENT_ENCODING", "client_encoding"), ("TIMEZONE", "timezone")];

/// Variables of the images that need no counterpart, and why.
pub(in crate::config) const IDLE: [(&str, &str); 9] = [
    ("PGBOUNCER_INIT_SLEEP_TIME", "the start does not wait for a server"),
    ("PGBOUNCER_INIT_MAX_RETRIES", "the start does not wait for a server"),
    ("PGBOUNCER_EXTRA_FLAGS", "give options as the container's command"),
    ("PGBOUNCER_EXTRA_ARGS", "give options as the container's command"),
    ("PGBOUNCER_FAIL_ON_INVALID_DSN_FILE", "a file that cannot be read always stops the start"),
    ("PGBOUNCER_FORCE_INITSCRIPTS", "there are no scripts to run"),
    ("PGBOUNCER_DAEMON_USER", "a container's user is set where it is started"),
    ("PGBOUNCER_DAEMON_GROUP", "a container's user is set where it is started"),
    ("BITNAMI_DEBUG", "PGWEIR_VERBOSE=1 logs more"),
];

/// Variables of other images and common slips, with what is meant; mentioned wherever they are met.
pub(in crate::config) const STRANGERS: [(&str, &str); 9] = [
    ("CONNECTION_POOLER_PORT", "PGWEIR_LISTEN_PORT"),
    ("CONNECTION_POOLER_MODE", "PGWEIR_POOL_MODE"),
    ("CONNECTION_POOLER_DEFAULT_SIZE", "PGWEIR_DEFAULT_POOL_SIZE"),
    ("CONNECTION_POOLER_MIN_SIZE", "PGWEIR_MIN_POOL_SIZE"),
    ("CONNECTION_POOLER_RESERVE_SIZE", "PGWEIR_RESERVE_POOL_SIZE"),
    ("CONNECTION_POOLER_MAX_CLIENT_CONN", "PGWEIR_MAX_CLIENT_CONN"),
    ("CONNECTION_POOLER_MAX_DB_CONN", "PGWEIR_MAX_DB_CONNECTIONS"),
    ("PG_SERVICE", "DATABASES_HOST"),
    ("PGBOUNCER_PASSWORD", "DATABASES_PASSWORD, DB_PASSWORD or POSTGRESQL_PASSWORD"),
];

/// Slips that are mentioned where variables of the images are read.
pub(in crate::config) const SLIPS: [(&str, &str); 10] = [
    ("POOL_SIZE", "DEFAULT_POOL_SIZE"),
    ("DATABASES_NAME", "DATABASES_DBNAME"),
    ("DATABASES_USERNAME", "DATABASES_USER"),
    ("DB_USERNAME", "DB_USER"),
    ("DB_PASS", "DB_PASSWORD"),
    ("DB_PASSWD", "DB_PASSWORD"),
    ("DB_DATABASE", "DB_NAME"),
    ("DB_DBNAME", "DB_NAME"),
    ("POSTGRESQL_USER", "POSTGRESQL_USERNAME"),
    ("POSTGRESQL_DB", "POSTGRESQL_DATABASE"),
];
