//! The pages made from the tables: the reference of all settings, and the sample files.
//!
//! Pure: text out. A test compares what these functions give with the files in the repository, and rewrites the files
//! where `UPDATE_GOLDEN` is set, so that no page can tell of a setting that is not there or leave one out.

use std::fmt::Write;

use super::keys::{DATABASE_ROWS, PEER_ROWS, USER_ROWS};
use super::settings::{Settings, Shown, table};
use super::table::{Change, Origin, SettingInfo};

mod environment;

pub use environment::environment;

/// The reference page, `docs/settings.md`.
pub fn markdown() -> String {
    let (theirs, ours): (Vec<_>, Vec<_>) = table().into_iter().partition(|row| row.origin == Origin::Pgbouncer);
    let mut page = String::from(MARKDOWN_HEAD);
    section(&mut page, "[pgbouncer]: the whole process", &theirs);
    section(&mut page, "[pgbouncer]: settings that only pgweir has", &ours);
    section(&mut page, "[databases]: one database", &DATABASE_ROWS.iter().collect::<Vec<_>>());
    section(&mut page, "[users]: one user", &USER_ROWS.iter().collect::<Vec<_>>());
    section(&mut page, "[peers]: one peer", &PEER_ROWS.iter().collect::<Vec<_>>());
    page
}

/// The sample `config/pgbouncer.ini`: a small set-up that works, and every other setting as a comment.
pub fn sample_ini() -> String {
    let mut file = String::from(INI_HEAD);
    for (row, default) in defaults() {
        let line = match SAMPLE.iter().find(|(name, _)| *name == row.name) {
            Some((name, value)) => format!("{name} = {value}"),
            None => format!(";{} = {default}", row.name).trim_end().to_string(),
        };
        let _ = write!(file, "\n; {}\n{line}\n", row.doc.trim());
    }
    file
}

/// The sample `config/pgweir.toml`, which says the same.
pub fn sample_toml() -> String {
    let mut file = String::from(TOML_HEAD);
    for (row, default) in defaults() {
        let quoted = |text: &str| match text.parse::<f64>() {
            Ok(_) if !text.starts_with('0') || text == "0" => text.to_string(),
            _ => format!("\"{text}\""),
        };
        let line = match SAMPLE.iter().find(|(name, _)| *name == row.name) {
            Some((name, value)) => format!("{name} = {}", quoted(value)),
            None => format!("#{} = {}", row.name, quoted(&default)),
        };
        let _ = write!(file, "\n# {}\n{line}\n", row.doc.trim());
    }
    file.push_str(TOML_TAIL);
    file
}

/// What the samples set.
const SAMPLE: &[(&str, &str)] = &[
    ("admin_users", "admin"),
    ("auth_file", "/etc/pgweir/userlist.txt"),
    ("auth_type", "scram-sha-256"),
    ("ignore_startup_parameters", "extra_float_digits"),
    ("listen_addr", "127.0.0.1"),
    ("pool_mode", "transaction"),
];

/// Every setting of the whole process, and its default as text: what it comes to where PgBouncer's is NULL.
fn defaults() -> Vec<(&'static SettingInfo, String)> {
    let text = |shown: Shown| shown.default.map(str::to_string).or(shown.value).unwrap_or_default();
    table().into_iter().zip(Settings::default().show().into_iter().map(text)).collect()
}

fn section(page: &mut String, title: &str, rows: &[&'static SettingInfo]) {
    let _ = write!(
        page,
        "\n## {title}\n\n| name | type | default | takes effect | what it does |\n|---|---|---|---|---|\n"
    );
    for row in rows {
        let kind = match (row.kind, row.unit) {
            ("word", _) => (row.expected)(),
            (kind, "") => kind.to_string(),
            (kind, unit) => format!("{kind}, {unit}"),
        };
        let default = match row.default {
            None => "unset".to_string(),
            Some("") => "empty".to_string(),
            Some(text) => format!("`{text}`"),
        };
        let change = match row.change {
            Change::Reload => "reload",
            Change::Restart => "restart",
        };
        let name = row.name;
        let doc = row.doc.trim().replace('|', "\\|");
        let _ = writeln!(page, "| `{name}` | {kind} | {default} | {change} | {doc} |");
    }
}

/// The start of the page, up to the first table.
const MARKDOWN_HEAD: &str = "\
# Settings

This page is generated from the tables in `src/config/settings.rs` and `src/config/keys.rs`. Edit the tables, then run
`UPDATE_GOLDEN=1 cargo test --lib config::reference`.

Settings come from three sources. A later source in this list overrides an earlier one:

1. The configuration file. It is one of two kinds:
   - a `pgbouncer.ini`, as for PgBouncer;
   - a file whose name ends in `.toml`, with the same names: `[pgweir]` for the settings of the whole process,
     `[databases.NAME]`, `[users.NAME]` and `[peers.N]` for the rest. An entry may also be a connection string.
2. The environment: `PGWEIR_` and the name in capitals, such as `PGWEIR_MAX_CLIENT_CONN`, for every setting of the first
   two tables below.
3. The command line. One exception: `verbose` in the configuration overrides `-v`.

The variables of PgBouncer's images, among them `DATABASE_URL`, can replace the file.
[environment.md](environment.md) lists them all.

If a file has a problem, the whole file is rejected. All problems are listed, each with its line.

- Numbers are whole numbers. They may be octal (`0777`) or hexadecimal (`0x1f`), but in `[databases]`, `[users]` and
  `[peers]` they are always decimal.
- Times are in seconds, in decimal notation and without a suffix.
- Switches are 0 or 1.
- Keywords may be in capitals.
- Relative paths start at the working directory.

PgBouncer reads some values in another way:

- Numbers out of range wrap around, and in `[databases]` `3x` means 3.
- A RELOAD goes on without an `auth_file` that cannot be read.
- A broken line in `auth_file` does not affect the users above it.
- Names in double quotes are not read, although PgBouncer's manual describes them.
- If a list of hosts has several ports, the first port is used for all hosts.

pgweir either reports such a value as a problem, or does what the value means.
";

const INI_HEAD: &str = "\
; A sample pgbouncer.ini for pgweir; docs/settings.md explains every setting.
; Lines that start with ; are comments. They show the defaults.

[databases]
; name = connection string. Clients connect to the name. * matches every name that has no line here.
;app = host=127.0.0.1 port=5432 dbname=app pool_size=25
* = host=127.0.0.1 port=5432

[users]
; name = limits and timeouts of one user
;batch = pool_mode=session max_user_connections=5

[peers]
; number = host and port of another pgweir or PgBouncer process behind the same address

[pgbouncer]
";

const TOML_HEAD: &str = "\
# A sample pgweir.toml; docs/settings.md explains every setting.
# Lines that start with # are comments. They show the defaults.

[pgweir]
";

const TOML_TAIL: &str = "
# Clients connect to the name. \"*\" matches every name that has no entry here.
[databases.\"*\"]
host = \"127.0.0.1\"
port = 5432

#[databases.app]
#host = [\"10.0.0.7\", \"10.0.0.8\"]
#dbname = \"app\"
#pool_size = 25

#[users.batch]
#pool_mode = \"session\"
#max_user_connections = 5
";

/// The sample `config/userlist.txt`: how to write each kind of secret.
pub const SAMPLE_USERLIST: &str = "\
; One user per line: \"name\" \"secret\". Write a double quote inside a name or secret twice.
; Only pgweir should be able to read this file.
;
; A secret is a password, \"md5\" and 32 hexadecimal digits, or a SCRAM secret. Copy the last two from the server:
;   SELECT rolname, rolpassword FROM pg_authid WHERE rolcanlogin;
; With the server's own SCRAM secret, pgweir can log in to that server as the user without the password.
;
;\"app\" \"a password in clear text\"
;\"old\" \"md5d57ab5a7b5b7f2c6a3b1e0e4a0d2c1f0\"
;\"new\" \"SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVka2V5:c2VydmVya2V5\"
";

#[cfg(test)]
mod tests;
