use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::config::SyslogFacility;

/// A place for a daemon's socket.
fn place() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("log");
    (dir, path)
}

fn to_syslog(path: &Path) -> (Records, Option<io::Error>) {
    let ident = "weir".to_owned();
    let syslog = Syslog { socket: path.to_owned(), facility: SyslogFacility::Daemon, ident };
    Records::open(Receiver::Syslog(syslog), TimeZone::UTC, Duration::ZERO)
}

/// Lines of one text each, of the level LOG, and one of DEBUG at the end.
fn batch(texts: &[&str]) -> Batch {
    let mut batch = Batch::default();
    texts.iter().for_each(|text| batch.append("STAMP ", text, Level::Log));
    batch.append("STAMP ", "debug", Level::Debug);
    batch
}

/// What is behind the head of a line.
fn text(datagram: &[u8]) -> String {
    let line = String::from_utf8(datagram.to_vec()).unwrap();
    let (head, text) = line.split_once("]: ").unwrap();
    assert!(head.starts_with('<') && head.ends_with(&format!("weir[{}", std::process::id())), "{head}");
    text.to_owned()
}

fn next(daemon: &UnixDatagram) -> String {
    let mut datagram = [0; 10_000];
    let len = daemon.recv(&mut datagram).unwrap();
    text(&datagram[..len])
}

/// Nothing is there to be received.
fn is_quiet(daemon: &UnixDatagram) -> bool {
    daemon.set_nonblocking(true).unwrap();
    let quiet = daemon.recv(&mut [0; 10]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    daemon.set_nonblocking(false).unwrap();
    quiet
}

#[test]
fn each_line_is_a_record_and_debugging_is_none() {
    let (_dir, path) = place();
    let daemon = UnixDatagram::bind(&path).unwrap();
    let (mut records, error) = to_syslog(&path);

    records.write(&batch(&["one", "two\n\tlines"]), SystemTime::UNIX_EPOCH);

    assert!(error.is_none());
    assert_eq!([next(&daemon), next(&daemon)], ["one", "two\n\tlines"]);
    assert!(is_quiet(&daemon));
}

#[test]
fn a_daemon_that_was_started_again_misses_nothing() {
    let (_dir, path) = place();
    let daemon = UnixDatagram::bind(&path).unwrap();
    let (mut records, _) = to_syslog(&path);
    records.write(&batch(&["before"]), SystemTime::UNIX_EPOCH);
    assert_eq!(next(&daemon), "before");

    drop(daemon);
    fs::remove_file(&path).unwrap();
    let daemon = UnixDatagram::bind(&path).unwrap();
    records.write(&batch(&["after"]), SystemTime::UNIX_EPOCH);

    assert_eq!(next(&daemon), "after");
    assert!(is_quiet(&daemon));
}

#[test]
fn what_nobody_heard_is_counted_and_told_when_somebody_listens() {
    let (_dir, path) = place();
    let (mut records, error) = to_syslog(&path);
    assert_eq!(error.unwrap().kind(), io::ErrorKind::NotFound);
    records.write(&batch(&["one", "two"]), SystemTime::UNIX_EPOCH);
    records.write(&batch(&["three"]), SystemTime::UNIX_EPOCH);

    let daemon = UnixDatagram::bind(&path).unwrap();
    records.write(&batch(&["four"]), SystemTime::UNIX_EPOCH);

    assert_eq!(next(&daemon), "3 log lines lost: No such file or directory (os error 2)");
    assert_eq!(next(&daemon), "four");
    assert!(is_quiet(&daemon));
}

#[test]
fn a_daemon_that_sleeps_blocks_nobody() {
    let (_dir, path) = place();
    let daemon = UnixDatagram::bind(&path).unwrap();
    let (mut records, _) = to_syslog(&path);
    let text = "x".repeat(1000);
    let texts = vec![text.as_str(); 5000];

    // Nobody reads: the kernel's queue fills, and this returns all the same.
    records.write(&batch(&texts), SystemTime::UNIX_EPOCH);
    let taken = 5000 - records.lost.lines;
    assert!(taken < 5000);
    for _ in 0..taken {
        assert_eq!(next(&daemon), text);
    }
    records.write(&batch(&["next"]), SystemTime::UNIX_EPOCH);

    assert_eq!(next(&daemon), format!("{} log lines lost: nobody reads them", 5000 - taken));
    assert_eq!(next(&daemon), "next");
}

#[test]
fn an_old_syslog_gets_a_stream_of_records() {
    let (_dir, path) = place();
    let daemon = UnixListener::bind(&path).unwrap();
    let (mut records, error) = to_syslog(&path);
    assert!(error.is_none());
    let (stream, _) = daemon.accept().unwrap();
    let mut stream = BufReader::new(stream);

    records.write(&batch(&["one", "two"]), SystemTime::UNIX_EPOCH);

    for expected in ["one", "two"] {
        let mut record = Vec::new();
        stream.read_until(0, &mut record).unwrap();
        assert_eq!(record.pop(), Some(0));
        assert_eq!(text(&record), expected);
    }
}

#[test]
fn the_journal_gets_entries_of_every_level() {
    let (_dir, path) = place();
    let daemon = UnixDatagram::bind(&path).unwrap();
    let journal = Journal { socket: path, ident: "weir".to_owned() };
    let (mut records, _) = Records::open(Receiver::Journal(journal), TimeZone::UTC, Duration::ZERO);

    records.write(&batch(&["one"]), SystemTime::UNIX_EPOCH);

    for expected in
        ["PRIORITY=6\nSYSLOG_IDENTIFIER=weir\nMESSAGE=one\n", "PRIORITY=7\nSYSLOG_IDENTIFIER=weir\nMESSAGE=debug\n"]
    {
        let mut datagram = [0; 1000];
        let len = daemon.recv(&mut datagram).unwrap();
        assert_eq!(std::str::from_utf8(&datagram[..len]).unwrap(), expected);
    }
}
