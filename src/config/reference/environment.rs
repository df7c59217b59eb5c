//! The page on variables, `docs/environment.md`.
//!
//! Pure: text, and rows made from the tables that the reader of the environment uses.

use std::fmt::Write;

use super::super::env::names::{
    ALIASES, BARE_KEYS, IDLE, IMAGE_PREFIX, NOT_BARE, NOT_FOR_IMAGES, SLIPS, STRANGERS, TARGETS,
};
use super::super::keys::DATABASE_ROWS;

/// The page.
pub fn environment() -> String {
    let mut page = String::from(HEAD);
    for (variable, meaning, image) in VARIABLES {
        let _ = writeln!(page, "| {variable} | {meaning} | {image} |");
    }
    for (variable, key) in BARE_KEYS {
        let _ = writeln!(page, "| `{variable}` | `{key}` of the databases of `DB_HOST` and the URLs | edoburu |");
    }
    for (alias, setting) in ALIASES {
        let _ = writeln!(page, "| `{IMAGE_PREFIX}{alias}` | `{setting}` | bitnami |");
    }
    let keys: Vec<String> = DATABASE_ROWS.iter().map(|row| format!("`{}`", row.name)).collect();
    let quoted = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let only_ours: Vec<&str> = NOT_FOR_IMAGES.iter().map(|(setting, _)| *setting).collect();
    let _ = write!(
        page,
        "\nThe keys of `[databases]`: {}; and `reserve_pool`, an old name of `reserve_pool_size`.\n\n\
         These settings have no bare variable, because other programs use variables of that name: {}. These are set by \
         `PGWEIR_` only: {}.\n",
        keys.join(", "),
        quoted(&NOT_BARE),
        quoted(&only_ours),
    );
    page.push_str(MIDDLE);
    let _ = writeln!(page, "{}, and `PGBOUNCER_DSN_<n>`.", quoted(&TARGETS));
    page.push_str(REST);
    page.push_str("\n| variable | message |\n|---|---|\n");
    for (variable, why) in IDLE {
        let _ = writeln!(page, "| `{variable}` | has no effect: {why} |");
    }
    for (variable, meant) in STRANGERS {
        let _ = writeln!(page, "| `{variable}` | has no effect; use {meant} |");
    }
    for (variable, meant) in SLIPS {
        let _ = writeln!(page, "| `{variable}` | has no effect; did you mean {meant}? |");
    }
    page
}

const HEAD: &str = "\
# The environment

This page is generated from the tables in `src/config/env/names.rs` and from the text in
`src/config/reference/environment.rs`. Edit those, then run `UPDATE_GOLDEN=1 cargo test --lib config::reference`.

pgweir reads environment variables itself. It needs no script that turns them into a file. It reads its own variables,
`PGWEIR_<SETTING>`, and those of three PgBouncer images: `pgbouncer/pgbouncer`, `edoburu/pgbouncer` and
`bitnami/pgbouncer`. It reads the variables of all three images at the same time, so they may be mixed.
`pgweir --check` with the same environment prints the result.

## Precedence

Highest first:

1. the command line;
2. `PGWEIR_<SETTING>`; an empty variable makes the setting empty;
3. the configuration file. If there is none:
   1. `PGBOUNCER_<SETTING>`, then the other `PGBOUNCER_` names of the same setting,
   2. the bare `<SETTING>`,
   3. the defaults without a file, listed below;
4. the defaults in [settings.md](settings.md).

If there is a configuration file, the images' variables set no settings. The images also leave a mounted file as it is:
a file may leave out a setting such as `listen_addr` on purpose. Two things are still read from the variables:

- logins; a user of the same name in `auth_file` has precedence;
- databases, if the file has no entry in `[databases]` at all.

If several variables define a database of the same name, this is their precedence, highest first:

1. `DATABASES_*`;
2. `DATABASE_URLS`, then `DATABASE_URL`, then `DB_*`;
3. `POSTGRESQL_*` and `PGBOUNCER_DSN_<n>`.

If several variables give one user different passwords, the order is the same, but `PGBOUNCER_USERLIST` comes first.
Ignored values are logged.

pgweir takes its configuration file from the first of these that applies:

1. the command line;
2. `PGWEIR_CONFFILE`;
3. the first `pgweir.toml` or `pgbouncer.ini` in the directories of `PGWEIR_CONFIG_DIRS`, which are separated by colons.
   An image sets this variable to the usual mount points. If it is not set, no directory is searched. If the directories
   contain only a `userlist.txt`, that is the `auth_file`.

## The variables

Every variable may end in `_FILE`. It then names a file that contains the value, such as a Docker secret:
`DB_PASSWORD_FILE=/run/secrets/db`. One line break at the end of the file is removed. RELOAD reads these files again.
pgweir does not start if both the variable and its `_FILE` are set, or if the file cannot be read. `AUTH_FILE`,
`CLIENT_TLS_KEY_FILE` and similar names are the settings of that name.

An empty variable of an image counts as unset.

| variable | meaning | image |
|---|---|---|
";

const VARIABLES: [(&str, &str, &str); 22] = [
    ("`PGWEIR_<SETTING>`", "the setting, such as `PGWEIR_POOL_MODE`", "pgweir"),
    ("`PGWEIR_CONFFILE`", "the configuration file", "pgweir"),
    ("`PGWEIR_CONFIG_DIRS`", "directories that are searched for a configuration file", "pgweir"),
    ("`PGBOUNCER_<SETTING>`", "the setting", "pgbouncer, bitnami"),
    ("`<SETTING>`", "the setting, such as `POOL_MODE`", "edoburu"),
    ("`DATABASES_HOST`", "`host` of an entry of `[databases]`", "pgbouncer"),
    ("`DATABASES_<KEY>`", "another key of that entry", "pgbouncer"),
    ("`DATABASES_USER`, `DATABASES_PASSWORD`", "`user` and `password` of that entry, and a login", "pgbouncer"),
    ("`DATABASES_CLIENT_SIDE_DBNAME`", "the entry's name (`*`)", "pgbouncer"),
    ("`DATABASES_RAW`", "lines of `[databases]`", "a fork of pgbouncer"),
    ("`DATABASE_URL`", "an entry named as the URL's database (`*`), `auth_user`, and a login", "edoburu"),
    ("`DATABASE_URLS`", "the same for several URLs, separated by commas", "edoburu"),
    ("`DB_HOST`, `DB_PORT`", "`host` and `port` of an entry", "edoburu"),
    ("`DB_NAME`", "the entry's name and `dbname` (`*`)", "edoburu"),
    ("`DB_USER`, `DB_PASSWORD`", "a login, and the entry's `auth_user`", "edoburu"),
    ("`POSTGRESQL_HOST` (`postgresql`), `POSTGRESQL_PORT`", "`host` and `port` of an entry", "bitnami"),
    ("`PGBOUNCER_DATABASE`", "the entry's name (`postgres`)", "bitnami"),
    ("`POSTGRESQL_DATABASE`", "its `dbname` (the entry's name)", "bitnami"),
    ("`POSTGRESQL_USERNAME` (`postgres`), `POSTGRESQL_PASSWORD`", "a login", "bitnami"),
    (
        "`PGBOUNCER_SET_DATABASE_USER`, `PGBOUNCER_SET_DATABASE_PASSWORD`",
        "`yes`: also `user` and `password` of the entry",
        "bitnami",
    ),
    ("`PGBOUNCER_USERLIST`", "lines of a userlist.txt: logins", "bitnami"),
    (
        "`PGBOUNCER_DSN_<n>`, `PGBOUNCER_CONNECT_QUERY`",
        "another entry, `name=connection string`; `connect_query` of the entry of `POSTGRESQL_HOST`",
        "bitnami",
    ),
];

const MIDDLE: &str = "
A URL's `sslmode` sets `server_tls_sslmode` if nothing else sets it. With several URLs, the strictest `sslmode` counts.
A URL's parameters may also include `host`, `port`, `dbname`, `user`, `password`, `client_encoding` and
`application_name`. `%` starts an escape in a URL, as in libpq. In the image edoburu/pgbouncer it does not.

## When they are read

Other programs may use the same environment, with a `VERBOSE` or `LISTEN_PORT` of their own. So pgweir reads the images'
variables only if at least one of these variables names a server: ";

const REST: &str = "
`USER` alone is never read. The variables that Kubernetes makes for services (`PGBOUNCER_SERVICE_HOST`,
`PGBOUNCER_PORT=tcp://…`, `DB_PORT_5432_TCP_ADDR`) are never read as settings.

## Who may log in

The users that the variables name, with their passwords, and the users in `auth_file`. The images differ, and pgweir
keeps the difference:

- `DATABASES_USER` is the user of every server connection, for every client. Clients log in as that user with
  `DATABASES_PASSWORD`.
- `DB_USER`, `POSTGRESQL_USERNAME` or a URL's user is a login. Server connections use the name of the user who logged
  in, with one pool per user.

## Defaults without a file

These apply if the images' variables are read and there is no configuration file:

| setting | default | why |
|---|---|---|
| `listen_addr` | `*` | clients reach a container through its network |
| `listen_port` | 5432 if `DB_HOST` or `DATABASE_URLS` names the servers, else 6432 | the image edoburu/pgbouncer \
listens on 5432, and its users publish that port. `DATABASE_URL` is not specific to that image: the port is 6432, and \
the log says so |
| `unix_socket_dir` | empty | no client runs inside the container |
| `auth_type` | `scram-sha-256`; with an `auth_file` `md5`, except for bitnami's variables | the secrets in variables \
are plain passwords, which SCRAM can check. The secrets in a file may be md5 hashes, which only `md5` can check (for a \
SCRAM secret, `md5` uses SCRAM) |
| `admin_users` | `postgres`, or `POSTGRESQL_USERNAME` | as in the images |
| `ignore_startup_parameters` | `extra_float_digits` | as in the images: JDBC drivers send it |

Two defaults differ from the images:

- pgbouncer/pgbouncer has `auth_type = any`, which lets every client in without a password. pgweir does not. If
  `DATABASES_HOST` is set without an `auth_type`, the log says so. `PGBOUNCER_AUTH_TYPE=any` restores the image's
  behaviour.
- bitnami/pgbouncer disables TLS to servers. pgweir keeps `server_tls_sslmode` at `prefer`.

## What the log says

At startup and with `--check`, pgweir logs each setting that does not have its default value, each database and each
login, with the source of the value. Secrets are shown as `***`. At most a hundred entries of a section are logged.

    LOG pool_mode = transaction (environment: POOL_MODE)
    LOG listen_addr = * (default without a file)
    LOG database app = host=10.0.0.7 port=5432 auth_user=ann (environment: DATABASE_URL)
    LOG login ann = *** (environment: DATABASE_URL)

A variable that looks like a setting but has no effect causes a warning, which suggests the right name. A misspelt
`PGWEIR_` variable stops the start, as a misspelt setting in a file does. These variables are known by name:
";
