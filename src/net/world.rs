//! The seams to the world: the only reader of clock and entropy.

#![allow(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]

use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

use crate::stats::moment::Moment;

/// The time on the rules' clock: microseconds since this function was first called, plus one, so that 0 is never "now".
pub fn now() -> Moment {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(Instant::now);
    Moment(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX - 1) + 1)
}

/// The time of day.
pub fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// Fills `bytes` from the operating system's generator.
///
/// # Errors
/// The system has no entropy source.
pub fn fill_random(bytes: &mut [u8]) -> std::io::Result<()> {
    getrandom::fill(bytes).map_err(std::io::Error::other)
}
