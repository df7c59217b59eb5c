//! The time of day in front of a line.
//!
//! Pure: the time and the zone are arguments. `jiff` reads the zone as the C library does (`TZ`, then
//! `/etc/localtime`), in any number of threads and without unsafe code, and knows its abbreviations, which PgBouncer
//! prints; `time` refuses in a process with threads, and has no abbreviations.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::line::Format;

/// The zone this machine or the variable `TZ` says; UTC where there is none to be found.
pub fn local_zone() -> TimeZone {
    TimeZone::try_system().unwrap_or(TimeZone::UTC)
}

/// Prints stamps, and remembers the parts that change once a second.
#[derive(Debug)]
pub struct Stamps {
    zone: TimeZone,
    /// The second and format that `head` and `tail` are for.
    current: Option<(u64, Format)>,
    /// Up to the seconds.
    head: String,
    /// From behind the milliseconds.
    tail: String,
    stamp: String,
}

impl Stamps {
    /// Stamps in this zone.
    pub fn new(zone: TimeZone) -> Stamps {
        Stamps { zone, current: None, head: String::new(), tail: String::new(), stamp: String::new() }
    }

    /// The stamp of this moment: `2026-07-01 12:00:00.123 UTC`, for JSON `2026-07-01T12:00:00.123+00:00`.
    pub fn stamp(&mut self, now: SystemTime, format: Format) -> &str {
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let current = Some((since_epoch.as_secs(), format));
        if self.current != current {
            self.current = current;
            self.begin_second(since_epoch.as_secs(), format);
        }
        self.stamp.clear();
        let _ = write!(self.stamp, "{}.{:03}{}", self.head, since_epoch.subsec_millis(), self.tail);
        &self.stamp
    }

    fn begin_second(&mut self, second: u64, format: Format) {
        let second = i64::try_from(second).ok().and_then(|second| Timestamp::from_second(second).ok());
        let time = second.unwrap_or(Timestamp::MAX).to_zoned(self.zone.clone());
        let (head, tail) = match format {
            Format::Pgbouncer => ("%Y-%m-%d %H:%M:%S", " %Z"),
            Format::Json => ("%Y-%m-%dT%H:%M:%S", "%:z"),
        };
        self.head.clear();
        self.tail.clear();
        let _ = write!(self.head, "{}", time.strftime(head));
        let _ = write!(self.tail, "{}", time.strftime(tail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
    }

    #[test]
    fn a_stamp_has_milliseconds_and_the_zones_abbreviation() {
        let mut stamps = Stamps::new(TimeZone::UTC);

        assert_eq!(stamps.stamp(at(1_782_907_200_007), Format::Pgbouncer), "2026-07-01 12:00:00.007 UTC");
        assert_eq!(stamps.stamp(at(1_782_907_200_999), Format::Pgbouncer), "2026-07-01 12:00:00.999 UTC");
        assert_eq!(stamps.stamp(at(1_782_907_201_000), Format::Pgbouncer), "2026-07-01 12:00:01.000 UTC");
    }

    #[test]
    fn summer_and_winter_have_their_own_abbreviation() {
        let mut stamps = Stamps::new(TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap());

        assert_eq!(stamps.stamp(at(1_782_907_200_123), Format::Pgbouncer), "2026-07-01 14:00:00.123 CEST");
        assert_eq!(stamps.stamp(at(1_767_268_800_123), Format::Pgbouncer), "2026-01-01 13:00:00.123 CET");
        assert_eq!(stamps.stamp(at(1_767_268_800_123), Format::Json), "2026-01-01T13:00:00.123+01:00");
        assert_eq!(stamps.stamp(at(1_767_268_800_123), Format::Pgbouncer), "2026-01-01 13:00:00.123 CET");
    }

    #[test]
    fn a_clock_that_is_far_off_still_gives_a_stamp() {
        let mut stamps = Stamps::new(TimeZone::UTC);

        assert!(stamps.stamp(SystemTime::UNIX_EPOCH - Duration::from_secs(9), Format::Json).starts_with("1970-01-01T"));
        assert!(stamps.stamp(at(u64::MAX / 2), Format::Json).starts_with("9999-12-30T"));
    }
}
