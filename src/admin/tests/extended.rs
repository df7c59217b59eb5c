//! The extended protocol, in the sequences drivers send.

use std::task::{Context as TaskContext, Poll, Waker};

use super::double::{Answer, Bench, READY, answers, error, tag};

const PARSED: Answer = Answer::Other('1');
const BOUND: Answer = Answer::Other('2');
const CLOSED: Answer = Answer::Other('3');
const NO_DATA: Answer = Answer::Other('n');
const NO_PARAMETERS: Answer = Answer::Other('t');
const SUSPENDED: Answer = Answer::Other('s');

fn parse(statement: &str, text: &str) -> (u8, Vec<u8>) {
    (b'P', [statement.as_bytes(), b"\0", text.as_bytes(), b"\0\0\0"].concat())
}

fn bind(portal: &str, statement: &str, formats: &[u16]) -> (u8, Vec<u8>) {
    let mut body = [portal.as_bytes(), b"\0", statement.as_bytes(), b"\0\0\0\0\0"].concat();
    body.extend(u16::try_from(formats.len()).unwrap().to_be_bytes());
    body.extend(formats.iter().flat_map(|format| format.to_be_bytes()));
    (b'B', body)
}

fn describe(kind: char, name: &str) -> (u8, Vec<u8>) {
    (b'D', format!("{kind}{name}\0").into_bytes())
}

fn execute(portal: &str, rows_max: i32) -> (u8, Vec<u8>) {
    (b'E', [portal.as_bytes(), b"\0", &rows_max.to_be_bytes()].concat())
}

fn close(kind: char, name: &str) -> (u8, Vec<u8>) {
    (b'C', format!("{kind}{name}\0").into_bytes())
}

fn sync() -> (u8, Vec<u8>) {
    (b'S', vec![])
}

fn send(bench: &mut Bench, messages: &[(u8, Vec<u8>)]) -> Vec<Answer> {
    messages.iter().flat_map(|(tag, body)| bench.send(*tag, body)).collect()
}

fn columns(names: &[(&str, u32, u16)]) -> Answer {
    Answer::Columns(names.iter().map(|(name, oid, format)| ((*name).to_owned(), *oid, *format)).collect())
}

fn row(values: &[&str]) -> Answer {
    Answer::Row(values.iter().map(|value| Some((*value).to_owned())).collect())
}

#[test]
fn psycopg_gets_text() {
    let mut bench = Bench::admin();

    let answers =
        send(&mut bench, &[parse("", "SHOW STATE"), bind("", "", &[0]), describe('P', ""), execute("", 0), sync()]);

    let rows = [row(&["active", "yes"]), row(&["paused", "no"]), row(&["suspended", "no"])];
    let head = [PARSED, BOUND, columns(&[("key", 25, 0), ("value", 25, 0)])];
    assert_eq!(answers, [&head[..], &rows, &[tag("SHOW"), READY]].concat());
}

#[test]
fn psycopg_gets_binary_where_it_asks_for_it() {
    let mut bench = Bench::admin();

    let answers =
        send(&mut bench, &[parse("", "SHOW PEERS"), bind("", "", &[1]), describe('P', ""), execute("", 0), sync()]);

    assert_eq!(answers[2], columns(&[("peer_id", 23, 1), ("host", 25, 1), ("port", 23, 1), ("pool_size", 23, 1)]));
    let expected = b"\0\x04\0\0\0\x04\0\0\0\x02\0\0\0\x04/tmp\0\0\0\x04\0\0\x19\x21\0\0\0\x04\0\0\0\x09";
    assert_eq!(answers[3], Answer::Bytes(expected.to_vec()));
    assert_eq!(answers[4..], [tag("SHOW"), READY]);
}

#[test]
fn formats_may_be_given_for_each_column() {
    let mut bench = Bench::admin();
    send(&mut bench, &[parse("s", "SHOW TOTALS"), sync()]);

    let answers = send(&mut bench, &[bind("", "s", &[0, 1]), execute("", 1), sync()]);
    let expected = [&b"\0\x02\0\0\0\x1d"[..], b"total_server_assignment_count", b"\0\0\0\x0a\0\x01\0\0\0\0\0\0\0\x01"];
    assert_eq!(answers, [BOUND, Answer::Bytes(expected.concat()), SUSPENDED, READY]);

    let answers = send(&mut bench, &[bind("", "s", &[0, 1, 1]), execute("", 1), sync()]);
    assert_eq!(answers, [error("bind message has 3 result formats but query has 2 columns"), READY]);
}

#[test]
fn a_named_statement_is_described_and_used_again() {
    let mut bench = Bench::admin();
    let stats = [("key", 25, 0), ("value", 25, 0)];

    let answers = send(&mut bench, &[parse("s", "SHOW STATE"), describe('S', "s"), sync()]);
    assert_eq!(answers, [PARSED, NO_PARAMETERS, columns(&stats), READY]);

    for _ in 0..2 {
        let answers = send(&mut bench, &[bind("", "s", &[]), execute("", 0), sync()]);
        assert_eq!(answers.len(), 1 + 3 + 2);
    }

    let answers = send(&mut bench, &[close('S', "s"), close('S', "never was"), sync()]);
    assert_eq!(answers, [CLOSED, CLOSED, READY]);
    let answers = send(&mut bench, &[bind("", "s", &[]), sync()]);
    assert_eq!(answers, [Answer::Error("26000".into(), "prepared statement \"s\" does not exist".into()), READY]);
}

#[test]
fn jdbc_fetches_rows_in_batches() {
    let mut bench = Bench::admin();
    let begin = send(&mut bench, &[parse("", "BEGIN"), bind("", "", &[]), execute("", 0)]);
    assert_eq!(begin, [PARSED, BOUND, tag("BEGIN")]);

    let first = send(&mut bench, &[parse("s", "SHOW STATE"), bind("c", "s", &[]), execute("c", 2), sync()]);
    let rows = [row(&["active", "yes"]), row(&["paused", "no"])];
    assert_eq!(first, [&[PARSED, BOUND], &rows[..], &[SUSPENDED, Answer::Ready('T')]].concat());

    let rest = send(&mut bench, &[execute("c", 2), sync()]);
    assert_eq!(rest, [row(&["suspended", "no"]), tag("SHOW"), Answer::Ready('T')]);

    let again = send(&mut bench, &[execute("c", 2), sync()]);
    assert_eq!(again[0], Answer::Error("55000".into(), "portal \"c\" cannot be run".into()));

    bench.query("COMMIT");
    let gone = send(&mut bench, &[execute("c", 0), sync()]);
    assert_eq!(gone[0], Answer::Error("34000".into(), "portal \"c\" does not exist".into()));
}

#[test]
fn rows_are_kept_for_one_portal_at_a_time() {
    let mut bench = Bench::admin();
    send(&mut bench, &[parse("", "BEGIN"), bind("", "", &[]), execute("", 0), parse("s", "SHOW STATE")]);

    let first = send(&mut bench, &[bind("a", "s", &[]), execute("a", 1)]);
    assert_eq!(first, [BOUND, row(&["active", "yes"]), SUSPENDED]);
    let whole = send(&mut bench, &[bind("b", "s", &[]), execute("b", 0), execute("a", 1)]);
    assert_eq!(whole[5..], [row(&["paused", "no"]), SUSPENDED], "one that was read to its end displaces none");
    let second = send(&mut bench, &[bind("c", "s", &[]), execute("c", 2), execute("c", 2)]);
    assert_eq!(second[3..], [SUSPENDED, row(&["suspended", "no"]), tag("SHOW")]);

    let displaced = send(&mut bench, &[execute("a", 1), sync()]);
    let message = "the rows of portal \"a\" are not there any more";
    assert_eq!(displaced, [Answer::Error("55000".into(), message.into()), Answer::Ready('T')]);
    let again = send(&mut bench, &[close('P', "a"), bind("a", "s", &[]), execute("a", 1), sync()]);
    assert_eq!(again, [CLOSED, BOUND, row(&["active", "yes"]), SUSPENDED, Answer::Ready('T')]);
}

#[test]
fn an_error_skips_to_sync() {
    let mut bench = Bench::admin();

    let answers = send(
        &mut bench,
        &[
            parse("", "SHOW nonsense"),
            bind("", "", &[]),
            describe('P', ""),
            execute("", 0),
            (b'H', vec![]),
            (b'Q', b"RECONNECT\0".to_vec()),
            sync(),
            parse("", "RECONNECT"),
            bind("", "", &[]),
            describe('P', ""),
            execute("", 0),
            sync(),
        ],
    );

    let refused = error("invalid command 'SHOW nonsense', use SHOW HELP;");
    assert_eq!(answers, [refused, READY, PARSED, BOUND, NO_DATA, tag("RECONNECT"), READY]);
    assert_eq!(bench.asked(), ["reconnect"]);
}

#[test]
fn a_command_runs_at_execute_and_only_once() {
    let mut bench = Bench::admin();

    send(&mut bench, &[parse("", "KILL app"), bind("", "", &[]), describe('S', ""), describe('P', "")]);
    assert!(bench.asked().is_empty());

    send(&mut bench, &[execute("", 0), execute("", 0), sync()]);
    assert_eq!(bench.asked(), ["kill app"]);
}

#[test]
fn a_wait_in_the_extended_protocol_leaves_ready_to_sync() {
    let mut bench = Bench::admin();
    send(&mut bench, &[parse("", "PAUSE"), bind("", "", &[])]);
    let (now, wait) = bench.send_waiting(b'E', &execute("", 0).1);
    let mut wait = wait.unwrap();
    bench.double.released.notify_one();

    let Poll::Ready(out) = wait.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) else {
        panic!("released");
    };
    assert!(now.is_empty());
    assert_eq!(answers(&out), [tag("PAUSE")]);
    assert_eq!(send(&mut bench, &[sync()]), [READY]);
}

#[test]
fn a_wait_that_fails_skips_to_sync() {
    let mut bench = Bench::admin();
    bench.double.stopping.store(true, std::sync::atomic::Ordering::Relaxed);
    send(&mut bench, &[parse("", "RELOAD"), bind("", "", &[])]);
    let mut wait = bench.send_waiting(b'E', &execute("", 0).1).1.unwrap();

    let Poll::Ready(out) = wait.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) else {
        panic!("a reload of the double is done at once");
    };
    assert!(matches!(&answers(&out)[..], [Answer::Error(code, _)] if code == "F0000"));
    assert_eq!(send(&mut bench, &[parse("", "KILL"), execute("", 0), sync()]), [READY]);
    assert!(bench.asked().is_empty());
}

#[test]
fn a_cancelled_execute_skips_to_sync() {
    let mut bench = Bench::admin();
    send(&mut bench, &[parse("", "PAUSE"), bind("", "", &[])]);
    drop(bench.send_waiting(b'E', &execute("", 0).1).1.unwrap());

    let mut out = Vec::new();
    bench.console.cancelled(&mut out);

    assert!(matches!(&answers(&out)[..], [Answer::Error(code, _)] if code == "57014"));
    assert_eq!(send(&mut bench, &[execute("", 0), sync()]), [READY]);
}

#[test]
fn parameters_are_refused() {
    let mut bench = Bench::admin();

    let answers = send(&mut bench, &[(b'P', b"\0SHOW STATE\0\0\x01\0\0\0\x17".to_vec()), sync()]);
    assert_eq!(answers[0], Answer::Error("0A000".into(), "commands of the console take no parameters".into()));

    let with_value = (b'B', b"\0s\0\0\0\0\x01\0\0\0\x011\0\0".to_vec());
    let answers = send(&mut bench, &[parse("s", "SHOW STATE"), with_value, sync()]);
    let message = "bind message supplies 1 parameters, but prepared statement \"s\" requires 0";
    assert_eq!(answers, [PARSED, error(message), READY]);
}

#[test]
fn names_are_taken_until_they_are_closed() {
    let mut bench = Bench::admin();
    send(&mut bench, &[parse("s", "SHOW STATE"), sync()]);

    let answers = send(&mut bench, &[parse("s", "SHOW LISTS"), sync()]);
    assert_eq!(answers[0], Answer::Error("42P05".into(), "prepared statement \"s\" already exists".into()));
    let answers = send(&mut bench, &[bind("c", "s", &[]), bind("c", "s", &[]), sync()]);
    assert_eq!(answers[1], Answer::Error("42P03".into(), "cursor \"c\" already exists".into()));

    assert_eq!(bench.query("DEALLOCATE s"), [tag("DEALLOCATE"), READY]);
    assert_eq!(bench.query("DEALLOCATE ALL"), [tag("DEALLOCATE ALL"), READY]);
    assert_eq!(bench.query("DISCARD ALL"), [tag("DISCARD ALL"), READY]);
    assert!(matches!(&bench.query("DEALLOCATE s")[0], Answer::Error(code, _) if code == "26000"));
    assert_eq!(send(&mut bench, &[parse("s", "SHOW LISTS"), sync()]), [PARSED, READY]);
}

#[test]
fn broken_messages_are_named() {
    let mut bench = Bench::admin();
    for (tag, name) in [(b'P', "Parse"), (b'B', "Bind"), (b'D', "Describe"), (b'E', "Execute"), (b'C', "Close")] {
        let answers = send(&mut bench, &[(tag, b"\xff".to_vec()), sync()]);
        assert_eq!(answers, [error(&format!("broken {name} packet")), READY]);
    }
}

#[test]
fn an_empty_statement_is_empty() {
    let mut bench = Bench::admin();

    let answers = send(&mut bench, &[parse("", ""), bind("", "", &[1]), describe('P', ""), execute("", 0), sync()]);

    assert_eq!(answers, [PARSED, BOUND, NO_DATA, Answer::Other('I'), READY]);
}

#[test]
fn help_is_a_notice_in_the_extended_protocol_too() {
    let mut bench = Bench::admin();

    let answers = send(&mut bench, &[parse("", "SHOW HELP"), bind("", "", &[1]), describe('P', ""), execute("", 0)]);

    assert_eq!(answers, [PARSED, BOUND, NO_DATA, Answer::Notice("Console usage".into()), tag("SHOW")]);
}
