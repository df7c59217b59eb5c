//! What an operator does to the process: signals, reload, shutdown, logs.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::{self, Client, Login, Postgres, Proxy, Script, Setup, Wire, eventually};

/// Waits until nobody accepts connections any more.
#[track_caller]
fn until_deaf(proxy: &Proxy) {
    eventually("the port is closed", || Wire::attempt_tcp(proxy.port).is_err().then_some(()));
}

/// The console over the Unix socket, which stays open while the process waits to end.
fn local_console(proxy: &Proxy) -> Login {
    Login::to(proxy.port).unix(&proxy.dir).user("admin").database("pgbouncer")
}

#[test]
fn hup_reloads_settings_and_users() {
    let newcomer = Postgres::shared().role();
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok("BEGIN");
    two.send(Script::new().query("SELECT 2"));
    proxy.until_pool("cl_waiting", 1);
    assert_eq!(proxy.login().user(&newcomer).refusal(), "\"trust\" authentication failed");

    proxy.rewrite(|setup| setup.set("default_pool_size", 2).secret(&newcomer, ""));
    proxy.signal(Signal::HUP);

    assert_eq!(two.reply().value(), "2", "the pool has grown");
    let login = proxy.login().user(&newcomer);
    eventually("the new user may log in", || login.attempt().ok());
    assert_eq!(one.ok("COMMIT").status(), 'I');
}

#[test]
fn reload_closes_servers_that_a_smaller_pool_has_no_room_for() {
    let proxy = Setup::new().set("default_pool_size", 3).start();
    let mut clients: Vec<Client> = (0..3).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.ok("BEGIN").status(), 'T'));
    clients.iter_mut().for_each(|client| assert_eq!(client.ok("COMMIT").status(), 'I'));
    proxy.until_pool("sv_idle", 3);

    proxy.rewrite(|setup| setup.set("default_pool_size", 1));
    assert_eq!(proxy.console().ok("RELOAD").tags(), ["RELOAD"]);

    proxy.until_pool("sv_idle", 1);
}

#[test]
fn a_changed_secret_counts_from_the_next_login() {
    let setup = Setup::new().set("auth_type", "scram-sha-256");
    let role = setup.role().to_owned();
    let proxy = setup.secret(&role, "old").start();
    let mut early = proxy.login().password("old").client();

    proxy.rewrite(|setup| setup.secret(&role, "new"));
    proxy.console().ok("RELOAD");

    assert_eq!(early.value("SELECT 1"), "1");
    assert_eq!(proxy.login().password("new").client().value("SELECT 2"), "2");
    assert_eq!(proxy.login().password("old").refusal(), "SASL authentication failed");
}

#[test]
fn a_database_that_moved_gets_new_servers_and_a_new_one_appears() {
    let proxy = Setup::new().database("app", "").start();
    let mut client = proxy.client();
    assert_eq!(client.value("SELECT current_database()"), "e2e");

    proxy.rewrite(|setup| setup.database("app", "dbname=postgres").database("fresh", ""));
    proxy.console().ok("RELOAD");

    assert_eq!(client.value("SELECT current_database()"), "postgres");
    assert_eq!(proxy.login().database("fresh").client().value("SELECT current_database()"), "e2e");
}

#[test]
fn a_broken_reload_changes_nothing() {
    let proxy = Setup::new().set("default_pool_size", 3).start();
    let mut client = proxy.client();
    let mut console = proxy.console();

    proxy.rewrite(|setup| setup.set("default_pool_size", 9).set("pool_mode", "transactional"));
    let error = console.query("RELOAD").error().expect("an error");

    assert_eq!(error[&'M'], "RELOAD failed, see logs for additional details");
    assert_eq!((error[&'S'].as_str(), error[&'C'].as_str()), ("ERROR", "F0000"));
    proxy.until_log("transactional");
    assert_eq!(client.value("SELECT 1"), "1");
    if !support::proxy::is_pgbouncer() {
        // PgBouncer keeps what it read before the broken line.
        assert_eq!(console.table("SHOW CONFIG").cell(&[("key", "default_pool_size")], "value"), "3");
    }

    let told = proxy.log().matches("transactional").count();
    proxy.signal(Signal::HUP);
    eventually("that was read again", || (proxy.log().matches("transactional").count() > told).then_some(()));
    proxy.rewrite(|setup| setup.set("pool_mode", "transaction"));
    assert_eq!(console.ok("RELOAD").tags(), ["RELOAD"]);
    assert_eq!(console.table("SHOW CONFIG").cell(&[("key", "default_pool_size")], "value"), "9");
}

#[test]
fn usr1_pauses_and_usr2_resumes() {
    let proxy = Proxy::start();
    let mut client = proxy.client();

    proxy.signal(Signal::USR1);
    proxy.until("STATE", |state| state.cell(&[("key", "paused")], "value") == "yes");
    client.send(Script::new().query("SELECT 1"));
    assert!(!client.wire.stirs_within(Duration::from_millis(300)));
    proxy.signal(Signal::USR2);

    assert_eq!(client.reply().value(), "1");
    proxy.until("STATE", |state| state.cell(&[("key", "paused")], "value") == "no");
}

#[test]
fn quit_ends_at_once() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    client.ok("BEGIN");

    proxy.signal(Signal::QUIT);

    assert_eq!(proxy.wait().code(), Some(0));
    client.wire.until_end();
    Postgres::shared().until_backends(&proxy.role, 0);
}

#[test]
fn term_waits_for_the_clients() {
    let proxy = Setup::new().set("unix_socket_dir", "@DIR@").start();
    let mut client = proxy.client();

    proxy.signal(Signal::TERM);
    until_deaf(&proxy);
    assert_eq!(client.value("SELECT 1"), "1");
    assert_eq!(client.ok("BEGIN; SELECT 1; COMMIT").status(), 'I');
    assert_eq!(local_console(&proxy).client().table("SHOW STATE").rows.len(), 3, "the console stays open");
    assert!(proxy.login().unix(&proxy.dir).attempt().is_err(), "and nothing else does");
    assert!(proxy.try_wait().is_none());
    client.leave();

    assert_eq!(proxy.wait().code(), Some(0));
    assert!(!proxy.dir.join(format!(".s.PGSQL.{}", proxy.port)).exists(), "its socket is gone");
}

#[test]
fn a_second_term_ends_at_once() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    client.ok("BEGIN");
    proxy.signal(Signal::TERM);
    until_deaf(&proxy);

    proxy.signal(Signal::TERM);

    assert_eq!(proxy.wait().code(), Some(0));
    client.wire.until_end();
}

#[test]
fn int_waits_for_the_servers_only() {
    let proxy = Proxy::start();
    let (mut busy, mut idle) = (proxy.client(), proxy.client());
    busy.ok("BEGIN");

    proxy.signal(Signal::INT);
    until_deaf(&proxy);
    assert_eq!(busy.value("SELECT 1"), "1");
    idle.send(Script::new().query("SELECT 2"));
    assert_eq!(idle.farewell(), "server shutting down");
    assert!(proxy.try_wait().is_none());
    busy.send(Script::new().query("COMMIT"));

    let reply = busy.reply();
    assert_eq!(reply.tags(), ["COMMIT"]);
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn a_second_int_ends_at_once() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    client.ok("BEGIN");
    proxy.signal(Signal::INT);
    until_deaf(&proxy);

    proxy.signal(Signal::INT);

    assert_eq!(proxy.wait().code(), Some(0));
    client.wire.until_end();
}

#[test]
fn a_waiting_client_is_sent_away_when_int_comes() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let (mut busy, mut waiting) = (proxy.client(), proxy.client());
    busy.ok("BEGIN");
    waiting.send(Script::new().query("SELECT 1"));
    proxy.until_pool("cl_waiting", 1);

    proxy.signal(Signal::INT);

    assert_eq!(waiting.farewell(), "server shutting down");
    assert_eq!(busy.ok("SELECT 1").status(), 'T');
}

#[test]
fn shutdown_ends_at_once() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    client.ok("BEGIN");
    let mut console = proxy.console();

    console.send(Script::new().query("SHUTDOWN"));

    assert!(proxy.wait().code().is_some());
    console.wire.until_end();
    client.wire.until_end();
}

#[test]
fn shutdown_wait_for_clients_waits_and_takes_no_resume() {
    let proxy = Setup::new().set("unix_socket_dir", "@DIR@").start();
    let mut client = proxy.client();
    let mut console = local_console(&proxy).client();

    console.ok("SHUTDOWN WAIT_FOR_CLIENTS");
    until_deaf(&proxy);
    assert_eq!(client.value("SELECT 1"), "1");
    assert_eq!(console.query("RESUME").error_message(), "pooler is shutting down");
    proxy.signal(Signal::USR2);
    assert_eq!(client.value("SELECT 2"), "2");
    client.leave();
    console.leave();

    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn shutdown_wait_for_servers_waits_for_transactions() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    client.ok("BEGIN");
    let mut console = proxy.console();

    console.send(Script::new().query("SHUTDOWN WAIT_FOR_SERVERS"));
    until_deaf(&proxy);
    assert_eq!(client.value("SELECT 1"), "1");
    client.send(Script::new().query("COMMIT"));
    assert_eq!(client.reply().tags(), ["COMMIT"]);
    drop((client, console));

    assert_eq!(proxy.wait().code(), Some(0));
}

/// Whether a log line reads `YYYY-MM-DD HH:MM:SS.mmm TZ [pid] LEVEL text`.
fn is_log_line(line: &str) -> bool {
    let words: Vec<&str> = line.splitn(6, ' ').collect();
    let shape =
        |text: &str| text.chars().map(|char| if char.is_ascii_digit() { '0' } else { char }).collect::<String>();
    let [date, time, _zone, pid, level, _text] = words[..] else { return false };
    shape(date) == "0000-00-00"
        && shape(time) == "00:00:00.000"
        && pid.starts_with('[')
        && pid.ends_with(']')
        && ["FATAL", "ERROR", "WARNING", "LOG", "DEBUG", "NOISE"].contains(&level)
}

#[test]
fn the_log_says_what_people_grep_for() {
    let proxy = Setup::new().set("logfile", "@DIR@/pooler.log").set("stats_period", 1).set("verbose", 0).start();
    let mut client = proxy.client();
    client.pid();
    assert_eq!(proxy.login().user("stranger").refusal(), "\"trust\" authentication failed");
    client.leave();
    proxy.until_log("stats: ");
    let port = Postgres::shared().port;
    let log = eventually("logfile has it all", || {
        let log = std::fs::read_to_string(proxy.dir.join("pooler.log")).unwrap();
        (log.contains("closing because: client") && log.contains("stats: ") && log.ends_with('\n')).then_some(log)
    });

    for line in log.lines() {
        assert!(is_log_line(line) || line.starts_with('\t'), "{line:?}");
    }
    let who = format!(": app/{}@127.0.0.1:", proxy.role);
    for (marks, what) in [
        (vec![" LOG listening on 127.0.0.1:"], "start"),
        (vec![" LOG process up: "], "start"),
        (vec![" C-0x", who.as_str(), "login attempt: db=app user=", "tls=no"], "login"),
        (vec![" S-0x", who.as_str(), "new connection to server (from 127.0.0.1:"], "server"),
        (vec![" C-0x", who.as_str(), "closing because: client ", " (age=", "s)"], "close"),
        (vec![" WARNING C-0x", "pooler error: \"trust\" authentication failed"], "error"),
        (vec![" LOG stats: ", " xacts/s, ", " queries/s, ", " B/s, xact ", " us, query ", " us, wait "], "stats"),
    ] {
        let found = log.lines().any(|line| marks.iter().all(|mark| line.contains(mark)));
        assert!(found, "{what}: no line with {marks:?} (server port {port}) in\n{log}");
    }
}

#[test]
fn the_log_says_less_when_told_to() {
    let proxy = Setup::new()
        .set("log_connections", 0)
        .set("log_disconnections", 0)
        .set("log_pooler_errors", 0)
        .set("log_stats", 0)
        .set("stats_period", 1)
        .start();
    let mut client = proxy.client();
    client.pid();
    proxy.login().user("stranger").refusal();
    client.leave();
    proxy.signal(Signal::TERM);
    proxy.wait();

    let log = proxy.log();
    for text in ["login attempt", "new connection to server", "closing because", "pooler error", "stats:"] {
        assert!(!log.contains(text), "{text}:\n{log}");
    }
}

#[test]
fn the_logfile_is_reopened_on_hup() {
    let proxy = Setup::new().set("logfile", "@DIR@/pooler.log").start();
    let (log, old) = (proxy.dir.join("pooler.log"), proxy.dir.join("pooler.log.1"));
    std::fs::rename(&log, &old).unwrap();

    proxy.signal(Signal::HUP);

    eventually("a client shows in the new file", || {
        proxy.client().leave();
        let new = std::fs::read_to_string(&log).unwrap_or_default();
        new.contains("login attempt").then_some(())
    });
    assert!(std::fs::read_to_string(&old).unwrap().contains("process up"));
}

#[test]
fn the_pidfile_is_written_guarded_and_removed() {
    let proxy = Setup::new().set("pidfile", "@DIR@/pooler.pid").start();
    let path = proxy.dir.join("pooler.pid");
    let written =
        eventually("it is written", || std::fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n')));
    assert_eq!(std::fs::metadata(format!("/proc/{}", written.trim())).map(|meta| meta.is_dir()).ok(), Some(true));

    let (status, log) = Setup::new().set("pidfile", path.display()).refused();
    assert_eq!(status.code(), Some(1), "{log}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), written);

    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(!path.exists());
}

#[test]
fn a_port_in_use_is_an_error_at_start() {
    let first = Proxy::start();
    let (status, log) = Setup::new().set("listen_port", first.port).refused();
    assert!(status.code().is_some_and(|code| code != 0), "{log}");
    assert!(log.contains(&first.port.to_string()), "{log}");
    assert_eq!(first.client().value("SELECT 1"), "1");
}

#[test]
fn the_version_and_the_help_are_told() {
    for (argument, expected) in [("-V", "."), ("--version", "."), ("-h", "--daemon"), ("--help", "--daemon")] {
        let output = support::proxy::bare(&[argument]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains(expected), "{argument}: {text}");
    }
    assert!(!support::proxy::bare(&["--no-such-option"]).status.success());
    assert!(!support::proxy::bare(&[]).status.success());
    assert!(!support::proxy::bare(&["/no/such/file.ini"]).status.success());
}
