//! The seams to the world: the only reader of clock and entropy.

#![allow(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]

use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

use crate::stats::moment::Moment;

/// The time on the rules' clock: microseconds since ten years before this function was first called. So 0 is never
/// "now", and connections taken over from a predecessor, older than the process, have their moments too.
pub fn now() -> Moment {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(Instant::now);
    Moment(START_MICROS.saturating_add(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)))
}

/// Ten years.
const START_MICROS: u64 = 10 * 365 * 24 * 3600 * 1_000_000;

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
