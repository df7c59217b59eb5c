//! What every test stands on: a real PostgreSQL, the pooler under test, a client that can say anything.
//!
//! - [`postgres`]: one private PostgreSQL for the whole run.
//! - [`proxy`]: the pooler, started with a written `pgbouncer.ini`, stopped (and checked) when the test ends.
//! - [`script`]: a protocol client made of bytes, so that a test can say what no driver would.
//! - [`random`]: chance with a seed.
//! - [`gate`]: the network between pooler and server, with a switch; and servers that misbehave.
//! - [`dns`]: a name server that says what the test wants.
//! - [`pam`]: the PAM of a test.
//! - [`slapd`]: one private LDAP directory for the whole run.
//! - [`tools`]: psql, pgbench and Python as the tests run them.
//! - [`tls`]: certificates, and OpenSSL as the other end.
//! - [`warden`]: the guarantee that nothing outlives the run, whatever ends it.

use std::time::{Duration, Instant};

pub(crate) mod dns;
pub(crate) mod gate;
pub(crate) mod pam;
pub(crate) mod postgres;
pub(crate) mod proxy;
pub(crate) mod random;
pub(crate) mod script;
pub(crate) mod slapd;
pub(crate) mod tls;
pub(crate) mod tools;
pub(crate) mod warden;

pub(crate) use gate::Gate;
pub(crate) use postgres::Postgres;
pub(crate) use proxy::{Proxy, Setup};
pub(crate) use script::{Client, Login, Message, Script, Wire};

/// How long a test waits for something that must happen: a mere guard, because a loaded machine is no failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Says whether the program under test is PgBouncer itself, and if so, that the calling test asks for more than it
/// does.
///
/// A test of something PgBouncer does not do opens with `if support::beyond_pgbouncer() { return; }`.
pub(crate) fn beyond_pgbouncer() -> bool {
    let beyond = proxy::is_pgbouncer();
    if beyond {
        eprintln!("goes beyond PgBouncer: not run against it");
    }
    beyond
}

/// Asks `check` until it answers with a value, and fails the test, naming `what`, when patience ends.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "did not happen within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
