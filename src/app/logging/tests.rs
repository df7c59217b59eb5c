use std::fs;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tempfile::TempDir;
use tracing::subscriber::with_default;

use super::*;
use crate::config::SyslogFacility;
use crate::stats::lines::{self, Tag};
use crate::stats::moment::Moment;
use crate::stats::roster::{ClientCard, Endpoint, Names};

fn options(dir: &TempDir, format: Format) -> LogOptions {
    LogOptions { stderr: false, file: Some(dir.path().join("log")), format, ..LogOptions::default() }
}

fn card() -> ClientCard {
    let local = Endpoint::Unix { port: 6432, pid: None, uid: None };
    let peer = Endpoint::Tcp("10.0.0.7:5555".parse().unwrap());
    let card = ClientCard::new(31, peer, local, SystemTime::UNIX_EPOCH, Moment(1));
    card.names.set(Names { database: Arc::from("app"), user: Arc::from("joe") }).unwrap();
    card
}

/// The log that these events make.
fn logged(options: &LogOptions, events: impl FnOnce(&Log)) -> String {
    let (log, recorder) = Log::open(options, TimeZone::UTC).unwrap();
    with_default(recorder, || events(&log));
    drop(log);
    fs::read_to_string(options.file.as_ref().unwrap()).unwrap()
}

/// The lines without their stamps, of which the length is checked, and process numbers.
fn texts(log: &str) -> Vec<String> {
    let pid = format!(" [{}] ", std::process::id());
    let text = |line: &str| {
        let (stamp, text) = line.split_once(&pid).unwrap();
        assert_eq!(stamp.len(), "2026-07-01 12:00:00.123 UTC".len(), "{line}");
        text.to_owned()
    };
    log.lines().map(text).collect()
}

#[test]
fn events_become_pgbouncers_lines() {
    let dir = TempDir::new().unwrap();
    let card = card();

    let log = logged(&options(&dir, Format::Pgbouncer), |_| {
        tracing::info!("{}", lines::listening("127.0.0.1:6432"));
        tracing::info!(conn = %Tag::client(&card), "{}", lines::closing("bye", Duration::from_secs(3)));
        tracing::warn!(error = "no space", tries = 3, "cannot save");
        fatal(&"nowhere to listen on");
    });

    assert_eq!(
        texts(&log),
        [
            "LOG listening on 127.0.0.1:6432",
            "LOG C-0x1f: app/joe@10.0.0.7:5555 closing because: bye (age=3s)",
            "WARNING cannot save error=no space tries=3",
            "FATAL nowhere to listen on",
        ]
    );
}

#[test]
fn events_become_json_with_the_connection_taken_apart() {
    let dir = TempDir::new().unwrap();
    let card = card();

    let log = logged(&options(&dir, Format::Json), |_| {
        tracing::warn!(conn = ?Tag::client(&card), tries = 3, late = true, "two\nlines \"quoted\"");
    });

    let mut value: Value = serde_json::from_str(log.trim_end()).unwrap();
    let stamp = value.as_object_mut().unwrap().remove("ts").unwrap();
    assert!(stamp.as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{stamp}");
    let expected = serde_json::json!({
        "level": "WARNING", "pid": std::process::id(), "conn": "C-0x1f", "db": "app", "user": "joe",
        "addr": "10.0.0.7:5555", "msg": "two\nlines \"quoted\"", "tries": 3, "late": true,
    });
    assert_eq!(value, expected);
}

#[test]
fn verbose_decides_what_is_logged_and_can_be_changed() {
    let dir = TempDir::new().unwrap();
    let base = options(&dir, Format::Pgbouncer);
    let all = || {
        tracing::info!("info");
        tracing::debug!("debug");
        tracing::trace!("trace");
    };

    let log = logged(&base, |log| {
        all();
        log.reopen(&LogOptions { verbose: 1, ..base.clone() }).unwrap();
        all();
        log.reopen(&LogOptions { verbose: 3, ..base.clone() }).unwrap();
        all();
        log.reopen(&base).unwrap();
        all();
    });

    assert_eq!(
        texts(&log),
        ["LOG info", "LOG info", "DEBUG debug", "LOG info", "DEBUG debug", "NOISE trace", "LOG info"]
    );
}

#[test]
fn libraries_are_heard_only_when_something_may_be_wrong() {
    let dir = TempDir::new().unwrap();

    let log = logged(&LogOptions { verbose: 2, ..options(&dir, Format::Pgbouncer) }, |_| {
        tracing::info!(target: "some_library", "chatter");
        tracing::warn!(target: "some_library", "trouble");
    });

    assert_eq!(texts(&log), ["WARNING trouble"]);
}

#[test]
fn a_rotated_file_keeps_its_lines_and_a_new_one_gets_the_next() {
    let dir = TempDir::new().unwrap();
    let options = options(&dir, Format::Pgbouncer);
    let rotated = dir.path().join("log.1");

    let log = logged(&options, |log| {
        tracing::info!("before");
        log.flush();
        fs::rename(options.file.as_ref().unwrap(), &rotated).unwrap();
        tracing::info!("between");
        log.reopen(&options).unwrap();
        tracing::info!("after");
    });

    assert_eq!(texts(&fs::read_to_string(rotated).unwrap()), ["LOG before", "LOG between"]);
    assert_eq!(texts(&log), ["LOG after"]);
}

#[test]
fn a_file_that_cannot_be_opened_leaves_the_log_as_it_was() {
    let dir = TempDir::new().unwrap();
    let options = options(&dir, Format::Pgbouncer);
    let bad = LogOptions { file: Some(dir.path().join("missing/log")), verbose: 2, ..options.clone() };

    let log = logged(&options, |log| {
        let error = log.reopen(&bad).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot open logfile \"") && error.ends_with("No such file or directory (os error 2)")
        );
        tracing::info!("still here");
        tracing::debug!("and no louder");
    });

    assert_eq!(texts(&log), ["LOG still here"]);
}

#[test]
fn syslog_gets_the_lines_without_stamps_and_a_reload_turns_it_on() {
    let dir = TempDir::new().unwrap();
    let base = options(&dir, Format::Pgbouncer);
    let socket = dir.path().join("syslog");
    let daemon = UnixDatagram::bind(&socket).unwrap();
    let syslog = Syslog { socket, facility: SyslogFacility::User, ident: "weir".to_owned() };

    let log = logged(&base, |log| {
        tracing::info!("before");
        log.reopen(&LogOptions { syslog: Some(syslog), ..base.clone() }).unwrap();
        tracing::warn!(conn = %Tag::client(&card()), "trouble");
    });

    assert_eq!(texts(&log), ["LOG before", "WARNING C-0x1f: app/joe@10.0.0.7:5555 trouble"]);
    let mut datagram = [0; 1000];
    let len = daemon.recv(&mut datagram).unwrap();
    let line = std::str::from_utf8(&datagram[..len]).unwrap();
    // 1 * 8 + 4: user, warning.
    assert!(line.starts_with("<12>"), "{line}");
    let head = format!(" weir[{}]: ", std::process::id());
    assert_eq!(line.split_once(&head).unwrap().1, "C-0x1f: app/joe@10.0.0.7:5555 trouble");
}

#[test]
fn a_syslog_that_is_not_there_is_a_warning() {
    let dir = TempDir::new().unwrap();
    let base = options(&dir, Format::Pgbouncer);
    let socket = PathBuf::from("/nonexistent/log");
    let syslog = Syslog { socket, facility: SyslogFacility::Daemon, ident: "weir".to_owned() };

    let log = logged(&base, |log| log.reopen(&LogOptions { syslog: Some(syslog), ..base.clone() }).unwrap());

    let expected = "WARNING syslog: nobody listens on /nonexistent/log: No such file or directory (os error 2); lines \
                    for it are lost";
    assert_eq!(texts(&log), [expected]);
}

#[test]
fn where_the_journal_takes_entries_stderr_gets_no_lines() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("journal");
    let daemon = UnixDatagram::bind(&socket).unwrap();
    let journal = Some(Journal { socket, ident: "weir".to_owned() });
    let to_journal = LogOptions { journal, ..LogOptions::default() };

    let (outputs, _) = outputs(&to_journal, &TimeZone::UTC).unwrap();
    drop(daemon);
    fs::remove_file(dir.path().join("journal")).unwrap();
    let (without, _) = super::outputs(&to_journal, &TimeZone::UTC).unwrap();

    assert!(outputs.stderr.is_none() && outputs.records.len() == 1);
    assert!(without.stderr.is_some() && without.records.is_empty(), "a journal that is gone is no reason to be silent");
}

#[test]
fn a_job_with_a_name_is_named_in_json() {
    let dir = TempDir::new().unwrap();
    let base = options(&dir, Format::Json);

    let log = logged(&base, |log| {
        log.reopen(&LogOptions { job: Some("reports".to_owned()), ..base.clone() }).unwrap();
        tracing::info!("hello");
    });

    let value: Value = serde_json::from_str(log.trim_end()).unwrap();
    assert_eq!((&value["job"], &value["msg"]), (&Value::from("reports"), &Value::from("hello")));
}

#[test]
fn spans_are_let_through_without_a_trace() {
    let dir = TempDir::new().unwrap();

    let log = logged(&options(&dir, Format::Pgbouncer), |_| {
        tracing::error_span!("client", id = 3).in_scope(|| tracing::info!("inside"));
    });

    assert_eq!(texts(&log), ["LOG inside"]);
}
