//! How a line travels to syslog: RFC 3164 over the local socket, as the C library's `syslog(3)` writes it.
//!
//! Pure: a line in, a datagram out. [`super::records`] sends it.
//!
//! ```text
//! <30>Jul  1 12:00:00 pgbouncer[4711]: C-0x1f: app/joe@10.0.0.7:5555 closing because: client close request (age=3s)
//! ```
//!
//! DEBUG and NOISE stay out, as in PgBouncer: they are for a terminal or a file.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::line::Level;
use crate::config::SyslogFacility;

/// Where the system's syslog listens.
pub const SOCKET: &str = "/dev/log";

/// Which syslog, and under what name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Syslog {
    /// The socket: [`SOCKET`], but for tests.
    pub socket: PathBuf,
    /// `syslog_facility`.
    pub facility: SyslogFacility,
    /// `syslog_ident`.
    pub ident: String,
}

impl Syslog {
    /// Does syslog get lines of this level?
    pub fn takes(level: Level) -> bool {
        !matches!(level, Level::Debug | Level::Noise)
    }

    /// One line, as a datagram in `out`.
    pub fn print(&self, out: &mut Vec<u8>, level: Level, at: SystemTime, zone: &TimeZone, text: &str) {
        let priority = self.facility.code() * 8 + level.severity();
        let time = Timestamp::try_from(at).unwrap_or_default().to_zoned(zone.clone());
        let mut head = String::new();
        // Writing to a String cannot fail.
        let _ =
            write!(head, "<{priority}>{} {}[{}]: ", time.strftime("%b %e %H:%M:%S"), self.ident, std::process::id());
        out.clear();
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn print(facility: SyslogFacility, level: Level, seconds: u64) -> String {
        let syslog = Syslog { socket: PathBuf::new(), facility, ident: "weir".to_owned() };
        let mut out = b"old".to_vec();
        syslog.print(
            &mut out,
            level,
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            &TimeZone::UTC,
            "one\n\ttwo",
        );
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_has_priority_time_name_and_process() {
        let pid = std::process::id();

        // 3 * 8 + 6, 16 * 8 + 4, 10 * 8 + 2.
        let table = [
            (SyslogFacility::Daemon, Level::Log, 1_782_907_200, "<30>Jul  1 12:00:00"),
            (SyslogFacility::Local0, Level::Warning, 1_782_907_200 + 9 * 86_400, "<132>Jul 10 12:00:00"),
            (SyslogFacility::Authpriv, Level::Fatal, 0, "<82>Jan  1 00:00:00"),
        ];

        for (facility, level, seconds, head) in table {
            assert_eq!(print(facility, level, seconds), format!("{head} weir[{pid}]: one\n\ttwo"));
        }
    }

    #[test]
    fn debugging_is_not_for_syslog() {
        let taken: Vec<bool> = [Level::Fatal, Level::Error, Level::Warning, Level::Log, Level::Debug, Level::Noise]
            .map(Syslog::takes)
            .to_vec();

        assert_eq!(taken, [true, true, true, true, false, false]);
    }
}
