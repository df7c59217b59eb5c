//! What happened: counts, cards of live connections, and the unit of time they use.
//!
//! - [`moment`]: microseconds since the process started, the only time the rules know
//! - [`averages`]: two snapshots and a period → averages, and the log line
//! - [`counters`]: relaxed atomics per pool; the fields are the SHOW STATS columns
//! - [`roster`]: cards of live clients and servers, for SHOW, KILL and the janitor
//! - [`lines`]: the log lines other programs read, and the prefix that says whom a line is about
pub mod averages;
pub mod counters;
pub mod lines;
pub mod moment;
pub mod roster;
