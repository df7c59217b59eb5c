//! The pooler from outside: the real binary before a real PostgreSQL, spoken to as applications and operators do.
//!
//! Each module is one concern of an operator or of an application. The same tests run against PgBouncer itself with
//! `PGWEIR_TEST_EXE=/path/to/pgbouncer cargo test --test e2e`; the few that ask for more than PgBouncer does say so and
//! are left out there. One test wants a PgBouncer beside pgweir, of 1.21 or later: `PGBOUNCER_EXE` says where.
//! `RUST_TEST_THREADS=8` is a good choice: most tests wait, few compute.
#![allow(clippy::disallowed_methods, reason = "tests live outside the rooms whose clock is an argument")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod admin;
mod answers;
mod auth;
mod auth_query;
mod cancel;
mod config;
mod copy;
mod departures;
mod dns;
mod drivers;
mod environment;
mod exporters;
mod greeting;
mod hazards;
mod hba;
mod health;
mod hostile;
mod ldap;
mod limits;
mod operations;
mod pam;
mod peers;
mod pooling;
mod prepared;
mod process;
mod protocol;
mod replication;
mod session_state;
mod sqlstates;
mod support;
mod takeover;
mod timeouts;
mod tls;
