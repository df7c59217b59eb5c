//! The simple protocol: what each command asks of the pools and the process, and what it answers.

use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context as TaskContext, Poll, Waker};

use super::double::{Answer, Bench, READY, answers, error, tag};
use crate::admin::{Fatal, Rights, Wait};
use crate::config::AuthType;
use crate::stats::moment::Moment;
use crate::stats::roster::{ClientState, Order};

fn poll(wait: &mut Wait) -> Option<Vec<Answer>> {
    match wait.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Ready(out) => Some(answers(&out)),
        Poll::Pending => None,
    }
}

fn refused(message: &str) -> [Answer; 2] {
    [error(message), READY]
}

#[test]
fn commands_reach_the_pools_and_answer_with_their_tag() {
    let table = [
        ("RESUME app", "resume app", "RESUME"),
        ("DISABLE app", "disable app", "DISABLE"),
        ("ENABLE app;", "enable app", "ENABLE"),
        ("RECONNECT", "reconnect", "RECONNECT"),
        ("RECONNECT app", "reconnect app", "RECONNECT"),
        ("KILL", "kill", "KILL"),
        ("KILL app", "kill app", "KILL"),
        ("SET verbose = 1", "set verbose=1", "SET verbose=1"),
        ("SHUTDOWN WAIT_FOR_CLIENTS", "shutdown WaitForClients", "SHUTDOWN"),
        ("SHUTDOWN WAIT_FOR_SERVERS", "shutdown WaitForServers", "SHUTDOWN"),
    ];
    let mut bench = Bench::admin();
    for (text, asked, done) in table {
        assert_eq!(bench.query(text), [tag(done), READY], "{text}");
        assert_eq!(bench.asked(), [asked], "{text}");
    }
}

#[test]
fn what_cannot_be_done_is_refused_in_pgbouncers_words() {
    let table = [
        ("SHOW foo", "invalid command 'SHOW foo', use SHOW HELP;"),
        ("show version; show state", "invalid command 'show version; show state', use SHOW HELP;"),
        ("RELOAD x", "invalid command 'RELOAD x', use SHOW HELP;"),
        ("waaaaaaaaaaaaaaaaaaay_too_long", "bad arguments"),
        ("PAUSE nope", "no such database: nope"),
        ("RESUME nope", "no such database: nope"),
        ("RESUME running", "database running is not paused"),
        ("RESUME pgbouncer", "database pgbouncer is not paused"),
        ("RESUME", "pooler is not paused/suspended"),
        ("DISABLE", "a database is required"),
        ("ENABLE", "a database is required"),
        ("DISABLE nope", "no such database: nope"),
        ("PAUSE pgbouncer", "cannot pause admin db: pgbouncer"),
        ("DISABLE pgbouncer", "cannot disable admin db: pgbouncer"),
        ("ENABLE pgbouncer", "cannot disable admin db: pgbouncer"),
        ("RECONNECT pgbouncer", "cannot reconnect admin db: pgbouncer"),
        ("KILL pgbouncer", "cannot kill admin db: pgbouncer"),
        ("WAIT_CLOSE pgbouncer", "cannot wait in admin db: pgbouncer"),
        ("KILL_CLIENT", "invalid client pointer supplied"),
        ("KILL_CLIENT x", "invalid client pointer supplied"),
        ("KILL_CLIENT 9999", "client not found"),
        ("SET nokey=1", "SET failed"),
        ("KILL_CLIENT 0x7", "client not found"),
        ("KILL_CLIENT 77x", "client not found"),
        ("KILL_CLIENT \" +77\"", "client not found"),
        ("KILL_CLIENT \"-1\"", "client not found"),
        ("KILL_CLIENT 99999999999999999999999", "client not found"),
        ("KILL_CLIENT \"- 1\"", "invalid client pointer supplied"),
    ];
    let mut bench = Bench::admin();
    for (text, message) in table {
        assert_eq!(bench.query(text), refused(message), "{text}");
    }
}

#[test]
fn suspend_is_answered_when_everybody_has_stopped() {
    let mut bench = Bench::admin();

    let (answers, wait) = bench.send_waiting(b'Q', b"SUSPEND\0");

    assert!(answers.is_empty() && wait.is_some());
    assert_eq!(bench.asked(), ["suspend"]);
}

#[test]
fn show_fds_has_its_rows_in_both_protocols() {
    let mut bench = Bench::admin();

    let simple = bench.rows("SHOW FDS");

    assert_eq!(simple.len(), 1);
    let text = |column: usize| simple[0][column].as_deref();
    assert_eq!((text(0), text(1), text(6), text(13)), (Some("0"), Some("pooler"), Some("7"), Some("\\x0102")));
}

#[test]
fn a_stats_user_may_look_and_nothing_else() {
    let mut bench = Bench::new(Rights::Stats);
    for text in [
        "RELOAD",
        "PAUSE",
        "RESUME",
        "SUSPEND",
        "DISABLE",
        "ENABLE app",
        "RECONNECT",
        "WAIT_CLOSE",
        "KILL",
        "KILL_CLIENT x",
        "SHUTDOWN",
        "SHOW FDS",
        "SET verbose=1",
    ] {
        assert_eq!(bench.query(text), refused("admin access needed"), "{text}");
    }
    assert!(bench.asked().is_empty());

    assert_eq!(bench.rows("SHOW STATS").len(), 2);
    assert!(!bench.rows("SHOW CONFIG").is_empty());
    let restart = "listen_port is read at the start only: set it in the configuration file and restart";
    let told = [Answer::Notice(restart.to_owned()), tag("SET listen_port=7"), READY];
    assert_eq!(Bench::admin().query("SET listen_port TO '7'"), told);
    for (text, says, tagged) in [
        (
            "SET auth_hba_file='/h'",
            "auth_hba_file is read by RELOAD only: set it in the configuration file and RELOAD",
            "SET auth_hba_file=/h",
        ),
        ("SET auth_type='cert'", "why: nobody can log in", "SET auth_type=cert"),
        (
            "SET client_tls_ciphers='x'",
            "TLS settings could not be applied, still using old configuration",
            "SET client_tls_ciphers=x",
        ),
    ] {
        assert_eq!(Bench::admin().query(text), [Answer::Notice(says.to_owned()), tag(tagged), READY], "{text}");
    }
    let ignored = [Answer::Notice("SET ignored".to_owned()), tag("SET"), READY];
    assert_eq!(bench.query("SET client_encoding TO 'UTF8'"), ignored);
    let help = [Answer::Notice("Console usage".to_owned()), tag("SHOW"), READY];
    assert_eq!(bench.query("SHOW HELP"), help);
}

#[test]
fn who_is_listed_has_rights() {
    let (admins, watchers) = (["root".to_owned()], ["mon".to_owned()]);
    let rights = |user, auth_type| Rights::of(user, auth_type, &admins, &watchers);

    assert_eq!(rights("root", AuthType::Md5), Some(Rights::Admin));
    assert_eq!(rights("mon", AuthType::Md5), Some(Rights::Stats));
    assert_eq!(rights("joe", AuthType::Md5), None);
    assert_eq!(rights("joe", AuthType::Any), Some(Rights::Stats));
    assert_eq!(rights("root", AuthType::Any), Some(Rights::Admin));
}

#[test]
fn pause_answers_when_the_servers_are_released() {
    let mut bench = Bench::admin();
    let (now, wait) = bench.send_waiting(b'Q', b"PAUSE\0");
    let mut wait = wait.unwrap();

    assert!(now.is_empty());
    assert_eq!(poll(&mut wait), None);

    bench.double.released.notify_one();
    assert_eq!(poll(&mut wait), Some(vec![tag("PAUSE"), READY]));
    assert_eq!(bench.query("PAUSE"), refused("already suspended/paused"));
    assert_eq!(bench.query("KILL"), refused("already suspended/paused"));
    assert_eq!(bench.query("RESUME"), [tag("RESUME"), READY]);
    assert_eq!(bench.asked(), ["pause", "resume"]);
}

#[test]
fn wait_close_answers_when_the_servers_are_gone() {
    let mut bench = Bench::admin();
    let mut wait = bench.send_waiting(b'Q', b"WAIT_CLOSE app\0").1.unwrap();

    assert_eq!(poll(&mut wait), None);

    bench.double.released.notify_one();
    assert_eq!(poll(&mut wait), Some(vec![tag("WAIT_CLOSE"), READY]));
}

#[test]
fn a_cancel_request_ends_a_waiting_pause() {
    let mut bench = Bench::admin();
    drop(bench.send_waiting(b'Q', b"PAUSE\0").1.unwrap());

    let mut out = Vec::new();
    bench.console.cancelled(&mut out);

    let error = Answer::Error("57014".to_owned(), "canceling statement due to user request".to_owned());
    assert_eq!(answers(&out), [error, READY]);
    assert_eq!(bench.asked(), ["pause", "resume"]);
}

#[test]
fn reload_says_whether_it_worked() {
    let mut bench = Bench::admin();
    let mut wait = bench.send_waiting(b'Q', b"RELOAD\0").1.unwrap();
    assert_eq!(poll(&mut wait), Some(vec![tag("RELOAD"), READY]));

    bench.double.stopping.store(true, Relaxed);
    let mut wait = bench.send_waiting(b'Q', b"RELOAD\0").1.unwrap();
    let message = "RELOAD failed, see logs for additional details".to_owned();
    assert_eq!(poll(&mut wait), Some(vec![Answer::Error("F0000".to_owned(), message), READY]));
}

#[test]
fn shutdown_never_answers() {
    let mut bench = Bench::admin();
    let (now, wait) = bench.send_waiting(b'Q', b"SHUTDOWN\0");

    assert!(now.is_empty());
    assert_eq!(poll(&mut wait.unwrap()), None);
    assert_eq!(bench.asked(), ["shutdown Immediate"]);
}

#[test]
fn a_stopping_process_is_not_resumed() {
    let mut bench = Bench::admin();
    bench.double.stopping.store(true, Relaxed);
    bench.double.paused.store(true, Relaxed);

    assert_eq!(bench.query("RESUME"), refused("pooler is shutting down"));
    bench.console.cancelled(&mut Vec::new());
    assert!(bench.asked().is_empty());
}

#[test]
fn kill_client_orders_the_client_away() {
    let mut bench = Bench::admin();
    let client = bench.client(Moment(1), "app", "joe", ClientState::Active);
    let login = bench.client(Moment(1), "app", "joe", ClientState::Login);

    assert_eq!(bench.query("KILL_CLIENT 1"), [tag("KILL_CLIENT"), READY]);
    assert_eq!(client.card().order(), Order::Kill);

    assert_eq!(bench.query("KILL_CLIENT 2"), refused("client not found"));
    assert_eq!(login.card().order(), Order::None);
}

#[test]
fn an_empty_query_gets_an_empty_answer() {
    assert_eq!(Bench::admin().query(" ;"), [Answer::Other('I'), READY]);
}

#[test]
fn transaction_blocks_are_pretended_for_drivers() {
    let mut bench = Bench::new(Rights::Stats);

    assert_eq!(bench.query("BEGIN"), [tag("BEGIN"), Answer::Ready('T')]);
    assert_eq!(bench.query("SHOW nothing").last(), Some(&Answer::Ready('T')));
    assert_eq!(bench.query("SHOW VERSION").last(), Some(&Answer::Ready('T')));
    assert_eq!(bench.query("SAVEPOINT s"), [tag("SAVEPOINT"), Answer::Ready('T')]);
    assert_eq!(bench.query("ROLLBACK TO s"), [tag("ROLLBACK"), Answer::Ready('T')]);
    assert_eq!(bench.query("RELEASE s"), [tag("RELEASE"), Answer::Ready('T')]);
    assert_eq!(bench.query("COMMIT"), [tag("COMMIT"), READY]);
    assert_eq!(bench.query("ROLLBACK"), [tag("ROLLBACK"), READY]);
}

#[test]
fn a_long_text_that_is_no_command_is_not_echoed_whole() {
    let Answer::Error(_, message) = &Bench::admin().query(&"\u{e4}".repeat(5000))[0] else {
        panic!("an error");
    };
    assert!(message.len() < 1000, "{}", message.len());
}

#[test]
fn what_does_not_belong_here_ends_the_conversation() {
    let mut bench = Bench::admin();
    for (tag, body, fatal) in [
        (b'X', &b""[..], Fatal::CloseRequest),
        (b'Q', b"no end", Fatal::IncompleteQuery),
        (b'd', b"x", Fatal::BadPacket),
        (b'F', b"", Fatal::BadPacket),
        (b'p', b"secret\0", Fatal::BadPacket),
        (0, b"", Fatal::BadPacket),
    ] {
        let mut out = Vec::new();
        assert_eq!(bench.console.message(tag, body, &mut out).map(|_| ()), Err(fatal));
        let said =
            (fatal == Fatal::BadPacket).then(|| error(&format!("unsupported packet type for admin console: {tag}")));
        assert_eq!(answers(&out), Vec::from_iter(said));
    }
}

#[test]
fn the_greeting_is_pgbouncers() {
    let greeting = Bench::admin().console.greeting();
    let greeting: Vec<_> = greeting.iter().map(|(name, value)| format!("{name}={value}")).collect();

    assert_eq!(
        greeting.join(" "),
        "server_version=1.25.2/bouncer client_encoding=UTF8 server_encoding=UTF8 DateStyle=ISO TimeZone=GMT \
         standard_conforming_strings=on is_superuser=on"
    );
}
