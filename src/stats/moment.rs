//! Microseconds on a clock that began long before the process: time as the rules see it.
//!
//! Pure: no clock is read here. `net::world::now` makes a [`Moment`]; everything that decides takes one as an argument.

use std::time::Duration;

/// A point in time, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// The time from `earlier` to `self`; zero where `earlier` is the later one.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_micros(self.micros_since(earlier))
    }

    /// As [`Moment::since`], in microseconds.
    pub fn micros_since(self, earlier: Moment) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, span: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }
}
