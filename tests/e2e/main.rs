//! The pooler from outside: the real binary before a real PostgreSQL, spoken to as applications and operators do.
//!
//! Each module is one concern of an operator or of an application. The same tests run against PgBouncer itself with
//! `PGWEIR_TEST_EXE=/path/to/pgbouncer cargo test --test e2e`; the few that ask for more than PgBouncer does say so and
//! are left out there. `RUST_TEST_THREADS=8` is a good choice: most tests wait, few compute.
#![allow(clippy::disallowed_methods, reason = "tests live outside the rooms whose clock is an argument")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod admin;
mod auth;
mod cancel;
mod copy;
mod limits;
mod pooling;
mod prepared;
mod protocol;
mod session_state;
mod support;
mod timeouts;
