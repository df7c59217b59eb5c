//! The process: command line, log, signals, process-wide chores.
//!
//! - [`cli`]: the command line → [`cli::Command`]
//! - [`process`]: root, `user`, pidfile, `-d`, file descriptors
//! - [`logging`]: `tracing` events → PgBouncer's lines or JSON, on stderr and in `logfile`
//! - [`signals`]: HUP, INT, TERM, QUIT, USR1, USR2 as a stream
pub mod cli;
pub mod logging;
pub mod process;
pub mod signals;
