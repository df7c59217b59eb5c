//! The page on variables, `docs/environment.md`.
//!
//! Pure: prose, and rows made from the tables that the reader of the environment goes by.

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
        "\nThe keys of `[databases]`: {}; and `reserve_pool`, an old name.\n\n\
         Not read by their bare names, because other programs have variables of that name: {}. Read by `PGWEIR_` \
         only: {}.\n",
        keys.join(", "),
        quoted(&NOT_BARE),
        quoted(&only_ours),
    );
    page.push_str(MIDDLE);
    let _ = writeln!(page, "{}, and `PGBOUNCER_DSN_<n>`.", quoted(&TARGETS));
    page.push_str(REST);
    page.push_str("\n| variable | said |\n|---|---|\n");
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

This page is made from the tables in `src/config/env/names.rs` by `UPDATE_GOLDEN=1 cargo test --lib config::reference`;
edit those, or the prose in `src/config/reference/environment.rs`.

pgweir reads variables itself; there is no script in front of it. It knows its own, `PGWEIR_<SETTING>`, and those of the
three images of PgBouncer: `pgbouncer/pgbouncer`, `edoburu/pgbouncer` and `bitnami/pgbouncer`. All are read together:
whoever mixed two of them up gets what they meant. `pgweir --check` with the same environment prints what it comes to.

## The order

The first that says something about a setting decides:

1. the command line;
2. `PGWEIR_<SETTING>`; set to nothing, it says \"nothing\";
3. the configuration file, if there is one; else
   1. `PGBOUNCER_<SETTING>`, then the other names of the same setting behind `PGBOUNCER_`,
   2. the bare `<SETTING>`,
   3. defaults for a process without a file, listed below;
4. the defaults of [settings.md](settings.md).

Beside a configuration file the images' variables set nothing, as with the images that leave a mounted file alone: the
file may not say where to listen on purpose. Two things are taken from them all the same: logins, which a user of the
same name in `auth_file` outranks; and databases, where the file has no entry in `[databases]` at all.

Where several variables make a database of one name, `DATABASES_*` outranks the URLs and `DB_*`, and these outrank
`POSTGRESQL_*` and `PGBOUNCER_DSN_<n>`. Of one image, `DATABASE_URLS` outranks `DATABASE_URL`, and that `DB_*`. Where
several give a user different passwords it is the same, and `PGBOUNCER_USERLIST` comes first. Whatever loses is named in
the log.

The configuration file is the one the command names; else the one `PGWEIR_CONFFILE` names; else the first `pgweir.toml`
or `pgbouncer.ini` in the folders of `PGWEIR_CONFIG_DIRS`, separated by colons, which an image sets so that a file
mounted where it always was is found. Without any of these no folder is searched. If the folders hold no configuration
but a `userlist.txt`, that is the `auth_file`.

## The variables

Every variable may have `_FILE` at its end and then names a file with its value, less one line break at the end, such as
a Docker secret: `DB_PASSWORD_FILE=/run/secrets/db`. These files are read again at RELOAD. Both the variable and its
`_FILE`, or a file that cannot be read, stop the start. `AUTH_FILE`, `CLIENT_TLS_KEY_FILE` and their kin are settings of
that name.

Variables of the images that are empty are as good as unset.

| variable | meaning | image |
|---|---|---|
";

const VARIABLES: [(&str, &str, &str); 22] = [
    ("`PGWEIR_<SETTING>`", "the setting, such as `PGWEIR_POOL_MODE`", "ours"),
    ("`PGWEIR_CONFFILE`", "the configuration file", "ours"),
    ("`PGWEIR_CONFIG_DIRS`", "folders to look for one in", "ours"),
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
A URL's `sslmode` sets `server_tls_sslmode` where nothing else does, the strictest of several URLs. `host`, `port`,
`dbname`, `user`, `password`, `client_encoding` and `application_name` may stand among its parameters. `%` starts an
escape in a URL, as for libpq; the image passes it on as it stands.

## When they are read

An environment is shared, and `VERBOSE` or `LISTEN_PORT` may be somebody else's. So no variable of an image is read
unless one of them names a server: ";

const REST: &str = "
`USER` alone is never read. What Kubernetes makes for services (`PGBOUNCER_SERVICE_HOST`, `PGBOUNCER_PORT=tcp://…`,
`DB_PORT_5432_TCP_ADDR`) is never taken for a setting.

## Who may log in

The user and password that the variables name, and whoever `auth_file` has. The difference between the images is kept:

- `DATABASES_USER` is the user of every server connection, whoever the client is. Clients log in as that user with
  `DATABASES_PASSWORD`.
- `DB_USER`, `POSTGRESQL_USERNAME` or a URL's user is a login. Server connections are opened as the user who logged in,
  with a pool for each.

## Defaults without a file

Where the images' variables are read and there is no configuration file:

| setting | default | why |
|---|---|---|
| `listen_addr` | `*` | a container is reached through its network |
| `listen_port` | 5432 where `DB_HOST` or `DATABASE_URLS` names the servers, else 6432 | the image edoburu/pgbouncer \
listens on 5432, and its users publish that port. `DATABASE_URL` is not that image's alone: 6432, and the log says so |
| `unix_socket_dir` | empty | nobody is inside |
| `auth_type` | `scram-sha-256`; `md5` with an `auth_file`, except for bitnami's variables | the secrets of variables \
are plain, which SCRAM can check; those of a file may be md5 hashes, which only `md5` can (it asks for SCRAM where the \
secret is a SCRAM secret) |
| `admin_users` | `postgres`, or `POSTGRESQL_USERNAME` | as in the images |
| `ignore_startup_parameters` | `extra_float_digits` | as in the images: drivers for Java send it |

One default is not copied: pgbouncer/pgbouncer has `auth_type = any`, with which whoever reaches the port is let in
without a password. The log says so where `DATABASES_HOST` is set and no `auth_type`; `PGBOUNCER_AUTH_TYPE=any` brings
it back. bitnami/pgbouncer turns TLS towards servers off; here it stays at `prefer`.

## What the log says

At the start, and with `--check`: each setting that is not as by default and who said so, databases and logins too,
secrets as stars; up to a hundred entries of a section.

    LOG pool_mode = transaction (environment: POOL_MODE)
    LOG listen_addr = * (default without a file)
    LOG database app = host=10.0.0.7 port=5432 auth_user=ann (environment: DATABASE_URL)
    LOG login ann = *** (environment: DATABASE_URL)

A variable that looks like a setting and has no effect is a warning, with the name that was probably meant; a misspelt
`PGWEIR_` variable stops the start, as a misspelt setting in a file does. These are known by name:
";
