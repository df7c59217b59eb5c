//! The log lines that other programs read: who a line is about, and the sentences whose wording must stay.
//!
//! Pure: builds text from cards and arguments. A [`Tag`] is a connection's prefix; pass it to `tracing` as the field
//! `conn` and `app::logging` puts it where the format wants it:
//!
//! ```
//! # use std::time::{Duration, SystemTime};
//! # use pgweir::stats::{lines::{self, Tag}, moment::Moment, roster::{ClientCard, Endpoint}};
//! # let end = Endpoint::Unix { port: 6432, pid: Some(7), uid: None };
//! # let card = ClientCard::new(31, end.clone(), end, SystemTime::UNIX_EPOCH, Moment(1));
//! tracing::info!(conn = %Tag::client(&card), "{}", lines::closing("client close request", Duration::from_secs(3)));
//! // C-0x1f: (nodb)/(nouser)@unix(7):6432 closing because: client close request (age=3s)
//! ```
//!
//! People's alerting greps these lines as PgBouncer writes them, so the words are PgBouncer's, letter for letter. Who
//! logs them asks the `log_connections`, `log_disconnections` and `log_pooler_errors` settings first.

use std::fmt::{self, Display, Formatter, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::roster::{ClientCard, Endpoint, ServerCard};
use crate::wire::startup::Replication;

/// The connection that a log line is about, as text `C-0x1f: db/user@host:port`.
///
/// The alternate form (`{:#}`) is the same as one JSON object with the members `conn`, `db`, `user` and `addr`, of
/// which `db` and `user` are null before the startup message was read. `Debug` prints the same, so that `conn = ?tag`
/// and `conn = %tag` do.
#[derive(Clone, Copy)]
pub struct Tag<'a> {
    kind: char,
    id: u64,
    whom: Whom<'a>,
    peer: &'a Endpoint,
}

/// Whom a connection belongs to.
#[derive(Clone, Copy)]
enum Whom<'a> {
    /// A database and a user, as far as they are known.
    Names(Option<&'a str>, Option<&'a str>),
    /// A peer, for a request to cancel that is passed on to it.
    Peer(u16),
}

impl<'a> Tag<'a> {
    /// The tag of a client.
    pub fn client(card: &'a ClientCard) -> Tag<'a> {
        let user = card.names.get().map(|names| &*names.user);
        let whom = Whom::Names(card.database().map(|name| &**name), user);
        Tag { kind: 'C', id: card.id, whom, peer: &card.peer }
    }

    /// The tag of a server.
    pub fn server(card: &'a ServerCard) -> Tag<'a> {
        Tag { kind: 'S', id: card.id, whom: Whom::Names(Some(&card.database), Some(&card.user)), peer: &card.peer }
    }

    /// The same connection, named after the peer it is for.
    #[must_use]
    pub fn of_peer(self, peer_id: u16) -> Tag<'a> {
        Tag { whom: Whom::Peer(peer_id), ..self }
    }
}

impl Display for Tag<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        if out.alternate() {
            write!(out, "{{\"conn\":\"{}-{:#x}\",", self.kind, self.id)?;
            match self.whom {
                Whom::Names(database, user) => {
                    out.write_str("\"db\":")?;
                    json_name(out, database)?;
                    out.write_str(",\"user\":")?;
                    json_name(out, user)?;
                }
                Whom::Peer(id) => write!(out, "\"peer_id\":{id}")?,
            }
            return write!(out, ",\"addr\":\"{}\"}}", Address(self.peer));
        }
        write!(out, "{}-{:#x}: ", self.kind, self.id)?;
        match self.whom {
            Whom::Names(database, user) => {
                write!(out, "{}/{}", database.unwrap_or("(nodb)"), user.unwrap_or("(nouser)"))?;
            }
            Whom::Peer(id) => write!(out, "peer-{id}")?,
        }
        write!(out, "@{}", Address(self.peer))
    }
}

impl fmt::Debug for Tag<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, out)
    }
}

/// An end of a socket as the log writes it: `127.0.0.1:5432`, `[::1]:5432`, `unix(4711):6432`, `unix:6432`.
#[derive(Clone, Copy, Debug)]
pub struct Address<'a>(pub &'a Endpoint);

impl Display for Address<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Endpoint::Tcp(address) => socket_address(out, address),
            Endpoint::Unix { port, pid: Some(pid), .. } => write!(out, "unix({pid}):{port}"),
            Endpoint::Unix { port, pid: None, .. } => write!(out, "unix:{port}"),
        }
    }
}

/// `login attempt: …`. `tls` is the connection's TLS description, none for plain text.
pub fn login_attempt(database: &str, user: &str, tls: Option<&str>, replication: Replication) -> impl Display {
    let tls = tls.unwrap_or("no");
    sentence(move |out| {
        let replication = replication.word();
        write!(out, "login attempt: db={database} user={user} tls={tls} replication={replication}")
    })
}

/// `login failed: …`.
pub fn login_failed(database: &str, user: &str) -> impl Display {
    sentence(move |out| write!(out, "login failed: db={database} user={user}"))
}

/// `no such user: NAME`; the client is not told so.
pub fn no_such_user(user: &str) -> impl Display {
    sentence(move |out| write!(out, "no such user: {user}"))
}

/// A SCRAM exchange that failed; what guards against guessed passwords looks for it.
pub const PASSWORD_FAILED: &str = "password authentication failed";

/// `closing because: REASON (age=Ns)`, in whole seconds.
pub fn closing(reason: &str, age: Duration) -> impl Display {
    sentence(move |out| write!(out, "closing because: {reason} (age={}s)", age.as_secs()))
}

/// `pooler error: TEXT`, a warning: what a client was told as it was sent away.
pub fn pooler_error(text: &str) -> impl Display {
    sentence(move |out| write!(out, "pooler error: {text}"))
}

/// `new connection to server (from ADDRESS)`; `local` is our end.
pub fn new_server(local: &Endpoint) -> impl Display {
    sentence(move |out| match local {
        Endpoint::Unix { .. } => out.write_str("new connection to server"),
        Endpoint::Tcp(_) => write!(out, "new connection to server (from {})", Address(local)),
    })
}

/// `listening on NAME`.
pub fn listening(name: &str) -> impl Display {
    sentence(move |out| write!(out, "listening on {name}"))
}

/// `kernel file descriptor limit: …`; no limit is written as -1.
pub fn descriptor_limit(soft: Option<u64>, hard: Option<u64>, max_client_conn: u64, expected: u64) -> impl Display {
    sentence(move |out| {
        out.write_str("kernel file descriptor limit: ")?;
        limit(out, soft)?;
        out.write_str(" (hard: ")?;
        limit(out, hard)?;
        write!(out, "); max_client_conn: {max_client_conn}, max expected fd use: {expected}")
    })
}

/// `PgBouncer X.Y.Z`: SHOW VERSION, and the first line of `-V`. `pgbouncer` is the version whose interface this is.
/// Nothing follows it: pgbouncer_fdw takes all that follows the first digit for the number.
pub fn version(pgbouncer: &str) -> impl Display {
    sentence(move |out| write!(out, "PgBouncer {pgbouncer}"))
}

/// `process up: …`.
pub fn process_up(pgbouncer: &str, workers: usize) -> impl Display {
    sentence(move |out| write!(out, "process up: {}, worker threads: {workers}, tls: {TLS}", version(pgbouncer)))
}

/// What TLS is made with.
pub const TLS: &str = "rustls 0.23 (aws-lc-rs)";

/// A sentence written straight into the line, without a string between.
struct Sentence<F>(F);

impl<F: Fn(&mut Formatter<'_>) -> fmt::Result> Display for Sentence<F> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        (self.0)(out)
    }
}

fn sentence<F: Fn(&mut Formatter<'_>) -> fmt::Result>(write: F) -> Sentence<F> {
    Sentence(write)
}

/// A pool that is dropped because nobody has used it for `pool_idle_timeout`.
pub fn idle_pool(database: &str, user: &str, age: Duration) -> impl Display {
    sentence(move |out| {
        let age = age.as_secs();
        write!(out, "cleaning up idle pool for user {user} on db {database} because: pool idle timeout (age= {age}s)")
    })
}

/// A client parsed a second statement under a name that it uses already.
pub fn already_prepared(name: &[u8]) -> impl Display {
    sentence(move |out| write!(out, "prepared statement '{}' was already prepared", name.escape_ascii()))
}

/// The SETs that give a server its client's parameters.
pub fn parameters_set(sql: &[u8]) -> impl Display {
    sentence(move |out| write!(out, "varcache_apply: {}", String::from_utf8_lossy(sql)))
}

/// A server spells a parameter its own way, and the client takes that over.
pub fn canonical(name: &str, wished: &str, spelt: &str) -> impl Display {
    sentence(move |out| {
        write!(out, "varcache_set_canonical: setting {name} to its canonical version {wished} -> {spelt}")
    })
}

fn socket_address(out: &mut Formatter<'_>, address: &SocketAddr) -> fmt::Result {
    match address.ip() {
        IpAddr::V4(ip) => write!(out, "{ip}:{}", address.port()),
        // Without the zone, which Display of the whole address would add: PgBouncer leaves it out.
        IpAddr::V6(ip) => write!(out, "[{ip}]:{}", address.port()),
    }
}

fn limit(out: &mut Formatter<'_>, limit: Option<u64>) -> fmt::Result {
    match limit {
        Some(limit) => write!(out, "{limit}"),
        None => out.write_str("-1"),
    }
}

fn json_name(out: &mut Formatter<'_>, name: Option<&str>) -> fmt::Result {
    let Some(name) = name else { return out.write_str("null") };
    out.write_char('"')?;
    for character in name.chars() {
        match character {
            '"' | '\\' => write!(out, "\\{character}")?,
            control if control < ' ' => write!(out, "\\u{:04x}", u32::from(control))?,
            other => out.write_char(other)?,
        }
    }
    out.write_char('"')
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::super::moment::Moment;
    use super::super::roster::Names;
    use super::*;

    fn unix(pid: Option<i32>) -> Endpoint {
        Endpoint::Unix { port: 6432, pid, uid: None }
    }

    fn tcp(address: &str) -> Endpoint {
        Endpoint::Tcp(address.parse().unwrap())
    }

    fn client(peer: Endpoint, names: Option<(&str, &str)>) -> ClientCard {
        let card = ClientCard::new(31, peer, unix(None), SystemTime::UNIX_EPOCH, Moment(1));
        if let Some((database, user)) = names {
            card.names.set(Names { database: Arc::from(database), user: Arc::from(user) }).unwrap();
        }
        card
    }

    #[test]
    fn a_tag_reads_as_pgbouncers_prefix() {
        let table = [
            (client(tcp("10.0.0.7:5555"), Some(("app", "joe"))), "C-0x1f: app/joe@10.0.0.7:5555"),
            (client(tcp("[::1]:5555"), Some(("app", "joe"))), "C-0x1f: app/joe@[::1]:5555"),
            (client(tcp("[fe80::1%3]:5555"), None), "C-0x1f: (nodb)/(nouser)@[fe80::1]:5555"),
            (client(unix(Some(4711)), Some(("app", "joe"))), "C-0x1f: app/joe@unix(4711):6432"),
            (client(unix(None), None), "C-0x1f: (nodb)/(nouser)@unix:6432"),
        ];

        for (card, expected) in table {
            assert_eq!(Tag::client(&card).to_string(), expected);
        }
    }

    #[test]
    fn a_request_to_cancel_is_named_after_its_database_or_its_peer() {
        let card = client(tcp("10.0.0.7:5555"), None);
        assert_eq!(Tag::client(&card).of_peer(3).to_string(), "C-0x1f: peer-3@10.0.0.7:5555");
        let json: serde_json::Value = serde_json::from_str(&format!("{:#}", Tag::client(&card).of_peer(3))).unwrap();
        assert_eq!(json, serde_json::json!({"conn": "C-0x1f", "peer_id": 3, "addr": "10.0.0.7:5555"}));

        card.pool.set(Names { database: Arc::from("app"), user: Arc::from("joe") }).unwrap();

        assert_eq!(Tag::client(&card).to_string(), "C-0x1f: app/(nouser)@10.0.0.7:5555");
    }

    #[test]
    fn a_servers_tag_begins_with_s() {
        let names = Names { database: Arc::from("app"), user: Arc::from("joe") };
        let card = ServerCard::new(255, names, tcp("127.0.0.1:5432"), unix(None), SystemTime::UNIX_EPOCH, Moment(1));

        assert_eq!(Tag::server(&card).to_string(), "S-0xff: app/joe@127.0.0.1:5432");
    }

    #[test]
    fn the_alternate_form_of_a_tag_is_json_whatever_the_names_hold() {
        let odd = "a\"b\\c\nd\u{1b}é";

        let json = format!("{:#}", Tag::client(&client(tcp("[::1]:5555"), Some((odd, "joe")))));
        let nameless = format!("{:#}", Tag::client(&client(unix(None), None)));

        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value, serde_json::json!({"conn": "C-0x1f", "db": odd, "user": "joe", "addr": "[::1]:5555"}));
        let value: serde_json::Value = serde_json::from_str(&nameless).unwrap();
        assert_eq!(value, serde_json::json!({"conn": "C-0x1f", "db": null, "user": null, "addr": "unix:6432"}));
    }

    #[test]
    fn the_sentences_are_pgbouncers() {
        let texts = [
            (
                login_attempt("app", "joe", None, Replication::Off).to_string(),
                "login attempt: db=app user=joe tls=no replication=no",
            ),
            (
                login_attempt("app", "joe", Some("TLSv1.3/x"), Replication::Logical).to_string(),
                "login attempt: db=app user=joe tls=TLSv1.3/x replication=database",
            ),
            (no_such_user("joe").to_string(), "no such user: joe"),
            (login_failed("app", "joe").to_string(), "login failed: db=app user=joe"),
            (closing("server idle timeout", Duration::from_millis(61_900)).to_string(), {
                "closing because: server idle timeout (age=61s)"
            }),
            (pooler_error("no such user").to_string(), "pooler error: no such user"),
            (new_server(&tcp("10.0.0.1:40001")).to_string(), "new connection to server (from 10.0.0.1:40001)"),
            (new_server(&unix(None)).to_string(), "new connection to server"),
            (listening("unix:/tmp/.s.PGSQL.6432").to_string(), "listening on unix:/tmp/.s.PGSQL.6432"),
            (
                descriptor_limit(Some(20_000), None, 100, 112).to_string(),
                "kernel file descriptor limit: 20000 (hard: -1); max_client_conn: 100, max expected fd use: 112",
            ),
        ];

        for (text, expected) in texts {
            assert_eq!(text, expected);
        }
    }
}
