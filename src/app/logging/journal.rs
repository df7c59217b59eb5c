//! How a line travels to systemd's journal, where stderr is the journal already.
//!
//! A service's stderr goes to the journal line by line, all of one weight. PgBouncer notices (`JOURNAL_STREAM` names
//! the stream, see `systemd.exec(5)`) and sends entries instead, with a priority each, and with time and process noted
//! by the journal only; so do we. The format is the journal's native one:
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>. [`super::records`] sends it.

use std::os::fd::AsFd;
use std::path::PathBuf;

use super::line::Level;

/// Where the journal listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// Which journal, and under what name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// The socket: [`SOCKET`], but for tests.
    pub socket: PathBuf,
    /// SYSLOG_IDENTIFIER: the name the program was started under.
    pub ident: String,
}

impl Journal {
    /// One line, as a datagram in `out`.
    pub fn print(&self, out: &mut Vec<u8>, level: Level, text: &str) {
        out.clear();
        field(out, "PRIORITY", &level.severity().to_string());
        field(out, "SYSLOG_IDENTIFIER", &self.ident);
        field(out, "MESSAGE", text);
    }
}

/// A value of several lines is led by its length; any other ends with its line.
fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

/// Is this descriptor the stream that `JOURNAL_STREAM` names, `DEVICE:INODE`? Somebody may have redirected it since.
pub fn is_journal(stream: &impl AsFd, variable: &str) -> bool {
    let numbers =
        variable.split_once(':').and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    let Some(named): Option<(u64, u64)> = numbers else { return false };
    rustix::fs::fstat(stream).is_ok_and(|found| (found.st_dev, found.st_ino) == named)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn an_entry_has_a_priority_a_name_and_any_text() {
        let journal = Journal { socket: PathBuf::new(), ident: "pgbouncer".to_owned() };
        let (mut one, mut two) = (Vec::new(), Vec::new());

        journal.print(&mut one, Level::Warning, "pooler error: a=b");
        journal.print(&mut two, Level::Log, "a\n\tb");

        assert_eq!(one, b"PRIORITY=4\nSYSLOG_IDENTIFIER=pgbouncer\nMESSAGE=pooler error: a=b\n");
        assert_eq!(two, b"PRIORITY=6\nSYSLOG_IDENTIFIER=pgbouncer\nMESSAGE\n\x04\0\0\0\0\0\0\0a\n\tb\n");
    }

    #[test]
    fn the_stream_is_known_by_device_and_inode() {
        let file = tempfile::tempfile().unwrap();
        let found = file.metadata().unwrap();
        let (device, inode) = (found.dev(), found.ino());

        assert!(is_journal(&file, &format!("{device}:{inode}")));
        for other in [format!("{device}:{}", inode + 1), format!("{device}"), String::new(), "a:b".to_owned()] {
            assert!(!is_journal(&file, &other), "{other}");
        }
    }
}
