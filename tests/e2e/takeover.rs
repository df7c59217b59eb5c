//! Restarts that lose nobody: SUSPEND, `-R`, and processes that share a port.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::auth_query;
use crate::support::{self, Client, Login, Postgres, Proxy, Script, Setup, eventually};
use crate::tls::{STARTTLS, encrypting, to_encrypted, tunnelled};

/// How long a client that must not be answered is listened to.
const SILENCE: Duration = Duration::from_millis(300);

/// A pooler that can be taken over.
fn setup() -> Setup {
    let setup = Setup::new().set("unix_socket_dir", "@DIR@").set("pidfile", "@DIR@/pooler.pid");
    // The time in which traffic must come to a stop is not what is tested.
    setup.set("suspend_timeout", 600)
}

fn suspended(proxy: &Proxy) -> String {
    proxy.console().table("SHOW STATE").cell(&[("key", "suspended")], "value")
}

#[test]
fn suspend_answers_nobody_and_resume_answers_all() {
    let proxy = Proxy::start();
    let (mut idle, mut busy) = (proxy.client(), proxy.client());
    busy.ok("BEGIN");
    let mut console = proxy.console();

    assert_eq!(console.ok("SUSPEND").tags(), ["SUSPEND"]);
    idle.send(Script::new().query("SELECT 1"));
    busy.send(Script::new().query("SELECT 2"));
    assert!(!idle.wire.stirs_within(SILENCE) && !busy.wire.stirs_within(SILENCE));
    assert_eq!(console.table("SHOW STATE").cell(&[("key", "suspended")], "value"), "yes");
    assert_eq!(console.table("SHOW STATE").cell(&[("key", "active")], "value"), "no");
    for command in ["SUSPEND", "PAUSE", "KILL"] {
        assert_eq!(console.query(command).error_message(), "already suspended/paused", "{command}");
    }
    assert_eq!(console.ok("RESUME").tags(), ["RESUME"]);

    assert_eq!(idle.reply().value(), "1");
    assert_eq!(busy.reply().value(), "2");
    assert_eq!(busy.ok("COMMIT").status(), 'I');
    assert_eq!(console.query("RESUME").error_message(), "pooler is not paused/suspended");
}

#[test]
fn suspend_is_refused_while_a_database_is_paused() {
    let proxy = Proxy::start();
    let mut console = proxy.console();

    console.ok("PAUSE app");
    assert_eq!(console.query("SUSPEND").error_message(), "cannot suspend with paused databases");
    console.ok("RESUME app");
    console.ok("PAUSE");
    assert_eq!(console.query("SUSPEND").error_message(), "already suspended/paused");
}

#[test]
fn no_query_fails_when_traffic_is_suspended_again_and_again() {
    let proxy = Setup::new().set("default_pool_size", 4).set("suspend_timeout", 600).start();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 0..4 {
            let (proxy, done) = (&proxy, &done);
            scope.spawn(move || {
                let mut client = proxy.client();
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(client.value(&format!("SELECT {number} + 0")), number.to_string());
                    client.ok(&format!("BEGIN; SELECT repeat('x', {}); COMMIT", number * 100_000));
                    let run = client.run(Script::new().run("SELECT $1", &["y"]).sync());
                    assert_eq!(run.value(), "y");
                }
            });
        }
        let mut console = proxy.console();
        for _ in 0..20 {
            console.ok("SUSPEND");
            console.ok("RESUME");
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn who_cannot_be_served_within_suspend_timeout_is_dropped_and_nobody_else() {
    let proxy = Setup::new().set("default_pool_size", 1).set("suspend_timeout", 1).start();
    let (mut busy, mut waiting) = (proxy.client(), proxy.client());
    busy.ok("BEGIN");
    waiting.send(Script::new().query("SELECT 1"));
    proxy.until_pool("cl_waiting", 1);
    let mut console = proxy.console();

    assert_eq!(console.ok("SUSPEND").tags(), ["SUSPEND"]);

    assert_eq!(waiting.farewell(), "suspend_timeout");
    console.ok("RESUME");
    assert_eq!(busy.ok("COMMIT").status(), 'I');
}

#[test]
fn a_message_that_has_begun_comes_to_its_end_before_the_stop() {
    let proxy = Setup::new().set("suspend_timeout", 600).start();
    let mut client = proxy.client();
    let request = Script::new().query("SELECT 'whole'");
    let (begin, rest) = request.as_ref().split_at(9);
    client.send(begin);
    let mut console = proxy.console();
    console.send(Script::new().query("SUSPEND"));
    assert!(!console.wire.stirs_within(SILENCE));

    client.send(rest);

    assert_eq!(console.reply().tags(), ["SUSPEND"]);
    console.ok("RESUME");
    assert_eq!(client.reply().value(), "whole");
}

#[test]
fn a_signal_to_stop_ends_a_suspended_process_at_once_with_exit_code_1() {
    for signal in [Signal::TERM, Signal::INT] {
        let proxy = Proxy::start();
        let _client = proxy.client();
        let mut console = proxy.console();
        console.ok("SUSPEND");

        proxy.signal(signal);

        assert_eq!(proxy.wait().code(), Some(1), "{signal:?}");
        proxy.until_log("FATAL suspend was in progress, going down immediately");
    }
}

#[test]
fn usr2_ends_a_suspension() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    let mut console = proxy.console();
    console.ok("SUSPEND");
    client.send(Script::new().query("SELECT 1"));

    proxy.signal(Signal::USR2);

    assert_eq!(client.reply().value(), "1");
}

#[test]
fn a_suspension_ends_with_the_last_console() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    let mut console = proxy.console();
    console.ok("SUSPEND");
    client.send(Script::new().query("SELECT 1"));
    assert!(!client.wire.stirs_within(SILENCE));

    console.leave();

    assert_eq!(client.reply().value(), "1");
    assert_eq!(suspended(&proxy), "no");
}

#[test]
fn show_fds_tells_whose_socket_is_which_but_no_secret() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Proxy::start();
    let (mut busy, _idle) = (proxy.client(), proxy.client());
    busy.ok("BEGIN; SET TimeZone TO 'Asia/Tokyo'");

    let table = proxy.show("FDS");

    let clients = table.all(&[("task", "client"), ("user", &proxy.role), ("database", "app")]);
    assert_eq!(clients.len(), 2);
    let server = table.find(&[("task", "server")]).expect("the server on loan");
    let client = table.find(&[("task", "client"), ("link", &server["fd"])]).expect("its client");
    assert_eq!((client["fd"].as_str(), client["timezone"].as_str()), (server["link"].as_str(), "Asia/Tokyo"));
    assert_eq!((server["addr"].as_str(), server["port"].clone()), ("127.0.0.1", Postgres::shared().port.to_string()));
    assert!(table.rows.iter().all(|row| row["cancel"] == "0"), "a cancel key is a secret");
    assert!(table.find(&[("task", "pooler"), ("addr", "127.0.0.1"), ("port", &proxy.port.to_string())]).is_some());
    let refusal = |user: &str, password: &str, what: &str| {
        let mut console = Login::to(proxy.port).user(user).password(password).database("pgbouncer").client();
        console.query(what).error_message()
    };
    assert_eq!(refusal("stats", "stats-secret", "SHOW FDS"), "admin access needed");
    assert_eq!(refusal("admin", "admin-secret", "SHOW HANDOVER"), "admin access needed");
}

#[test]
fn a_successor_takes_the_place_of_the_process_with_its_sockets() {
    let proxy = setup().start();
    let mut client = proxy.client();
    let backend = client.pid();
    let pid = || std::fs::read_to_string(proxy.dir.join("pooler.pid")).ok();
    let old = pid();

    proxy.reboot();

    assert_eq!(client.value("SELECT 1"), "1");
    eventually("the pidfile is the new process'", || pid().filter(|pid| Some(pid) != old.as_ref()));
    assert!(proxy.login().unix(&proxy.dir).attempt().is_ok(), "the Unix socket is served");
    if !support::proxy::is_pgbouncer() {
        assert_eq!(client.pid(), backend, "idle servers are taken over too");
    }
    proxy.signal(Signal::TERM);
    client.leave();
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(!proxy.dir.join(format!(".s.PGSQL.{}", proxy.port)).exists(), "its socket is gone");
    assert!(pid().is_none(), "its pidfile is gone");
}

#[test]
fn a_session_a_transaction_and_a_running_query_survive_the_process() {
    let proxy = setup().database("app", "").database("session", "pool_mode=session").start();
    let mut session = proxy.login().database("session").client();
    session.ok("CREATE TEMP TABLE kept AS SELECT 7 AS number");
    let mut transaction = proxy.client();
    transaction.ok("BEGIN");
    let backends = [session.pid(), transaction.pid()];
    let mut running = proxy.client();
    let mut lock = Postgres::shared().lock();
    running.send(Script::new().query(&format!("{}, 'waited'", lock.wait())));
    lock.until_awaited(1);

    proxy.reboot();
    lock.release();

    assert_eq!([session.pid(), transaction.pid()], backends);
    assert_eq!(session.value("SELECT number FROM kept"), "7");
    assert_eq!(transaction.ok("COMMIT").status(), 'I');
    assert_eq!(running.reply().rows()[0][1].as_deref(), Some("waited"));
    assert_eq!(running.value("SELECT 1"), "1");
}

#[test]
fn what_pgbouncer_cannot_hand_over_survives_too() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = setup().set("default_pool_size", 5).start();
    let mut prepared = proxy.login().parameter("application_name", "survivor").client();
    prepared.run(Script::new().parse("mine", "SELECT $1 || current_setting('TimeZone')").sync());
    prepared.ok("SET TimeZone TO 'Asia/Tokyo'");
    let mut copying = proxy.client();
    copying.ok("CREATE TEMP TABLE t (a int); BEGIN; CREATE TEMP TABLE u (a int)");
    copying.send(Script::new().query("COPY u FROM STDIN"));
    copying.reply_until(b"G");
    copying.send(Script::new().copy_data(b"1\n2\n"));
    let mut pipelining = proxy.client();
    pipelining.send(Script::new().parse("later", "SELECT $1::int + 1").bind("", "later", &["41"]).flush());
    pipelining.reply_until(b"2");
    let before = proxy.show("CLIENTS");
    let before = before.find(&[("application_name", "survivor")]).unwrap();

    proxy.reboot();

    let bound = prepared.run(Script::new().bind("", "mine", &["in "]).execute("", 0).sync());
    assert_eq!(bound.value(), "in Asia/Tokyo");
    copying.send(Script::new().copy_data(b"3\n").copy_done());
    assert_eq!(copying.reply().tags(), ["COPY 3"]);
    assert_eq!(copying.value("SELECT sum(a) FROM u"), "6");
    copying.ok("COMMIT");
    assert_eq!(pipelining.run(Script::new().execute("", 0).sync()).value(), "42");
    assert_eq!(pipelining.run(Script::new().run_prepared("later", &["1"]).sync()).value(), "2");
    let after = proxy.show("CLIENTS");
    let after = after.find(&[("application_name", "survivor")]).expect("its name is known");
    for column in ["id", "connect_time", "addr", "port", "prepared_statements"] {
        assert_eq!(after[column], before[column], "{column}");
    }
    let newcomer = proxy.client();
    assert!(newcomer.parameters.contains_key("server_version"), "{:?}", newcomer.parameters);
    let ids: Vec<_> = proxy.show("CLIENTS").rows.iter().map(|row| row["id"].clone()).collect();
    assert!(ids.iter().all(|id| ids.iter().filter(|other| *other == id).count() == 1), "{ids:?}");
}

#[test]
fn a_key_of_the_old_process_cancels_in_the_new_one() {
    let proxy = setup().start();
    let mut client = proxy.client();
    client.pid();

    proxy.reboot();

    client.send(Script::new().query("SELECT pg_sleep(60)"));
    Postgres::shared().until_sleeping(&proxy.role, 1);
    let mut request = 80_877_102u32.to_be_bytes().to_vec();
    request.extend(&client.key);
    let mut wire = support::Wire::tcp(proxy.port);
    wire.send(Script::untagged(&request));
    assert_eq!(client.reply().error().expect("an error")[&'C'], "57014");
}

#[test]
fn no_client_notices_restarts_under_load() {
    let proxy = setup().set("default_pool_size", 8).start();
    let done = AtomicBool::new(false);
    let visits = AtomicUsize::new(0);
    thread::scope(|scope| {
        for number in 0..6 {
            let (proxy, done) = (&proxy, &done);
            scope.spawn(move || {
                let mut client = proxy.client();
                let mut sum = 0u64;
                for round in 0u64.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    client.ok("BEGIN");
                    let backend = client.pid();
                    let run = client.run(Script::new().run("SELECT $1::int * 2", &[&round.to_string()]).sync());
                    assert_eq!(run.value(), (round * 2).to_string(), "client {number}");
                    assert_eq!(client.pid(), backend, "a transaction keeps its server");
                    client.ok("COMMIT");
                    sum += round;
                }
                assert!(sum > 0);
            });
        }
        for _ in 0..2 {
            let (proxy, done, visits) = (&proxy, &done, &visits);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let mut client = proxy.client();
                    assert_eq!(client.value("SELECT 1"), "1");
                    client.leave();
                    visits.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..4 {
            let before = visits.load(Ordering::Relaxed);
            eventually("newcomers come", || (visits.load(Ordering::Relaxed) > before + 5).then_some(()));
            proxy.reboot();
        }
        done.store(true, Ordering::Relaxed);
    });
    // No server is left behind.
    Postgres::shared().until_backends_at_most(&proxy.role, 8);
}

#[test]
fn a_successor_that_fails_leaves_the_process_as_it_was() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = setup().start();
    let mut client = proxy.client();
    client.ok("BEGIN");
    let backend = client.pid();
    // Found out only when the old process has stopped and shown everything.
    proxy.rewrite(|setup| setup.set("listen_addr", "no.such.host.invalid"));

    assert_eq!(proxy.failed_reboot().code(), Some(1));

    assert_eq!(client.pid(), backend);
    client.ok("COMMIT");
    assert!(proxy.try_wait().is_none());
    assert_eq!(suspended(&proxy), "no");
    assert_eq!(proxy.client().value("SELECT 1"), "1");
    proxy.until_log("admin disappeared when suspended, doing RESUME");
}

#[test]
fn a_successor_without_a_predecessor_just_starts() {
    let proxy = setup().start();
    proxy.signal(Signal::QUIT);
    assert_eq!(proxy.wait().code(), Some(0));

    proxy.start_again(&["-R"]);

    assert_eq!(proxy.client().value("SELECT 1"), "1");
    proxy.until_log("old process not found, try to continue normally");
}

/// A real PgBouncer; where there is none, that is said.
fn pgbouncer() -> Option<PathBuf> {
    let known = std::env::var_os("PGBOUNCER_EXE").map(PathBuf::from);
    let program = known.unwrap_or_else(|| PathBuf::from("/usr/sbin/pgbouncer"));
    if !program.exists() {
        eprintln!("skipped: no PgBouncer at {} (PGBOUNCER_EXE names another)", program.display());
        return None;
    }
    Some(program)
}

#[test]
fn whom_pgbouncer_looked_up_is_looked_up_again() {
    if support::beyond_pgbouncer() {
        return;
    }
    let Some(program) = pgbouncer() else { return };
    for (auth_type, group) in [("scram-sha-256", "by_scram"), ("md5", "by_md5")] {
        let (user, _) = Postgres::shared().role_with_password(group, "open sesame", auth_type);
        let taken_over = setup().set("auth_type", auth_type).set("auth_user", auth_query::guard());
        let proxy = taken_over.program(&program).start();
        let login = proxy.login().user(&user).password("open sesame");
        let (mut idle, mut other, mut busy) = (login.client(), login.client(), login.client());
        busy.ok("BEGIN");
        let backend = busy.pid();

        proxy.reboot();

        proxy.until_log("old process killed, resuming work");
        // New servers ask for a password, and no login of this process' own has brought one.
        assert_eq!(idle.value("SELECT current_user"), user, "{auth_type}");
        assert_eq!(other.value("SELECT current_user"), user, "{auth_type}");
        assert_eq!(busy.pid(), backend, "{auth_type}");
        busy.ok("COMMIT");
        assert_eq!(busy.value("SELECT current_user"), user, "{auth_type}");
    }
}

#[test]
fn pgbouncer_learns_what_whom_we_looked_up_can_prove() {
    if support::beyond_pgbouncer() {
        return;
    }
    let Some(program) = pgbouncer() else { return };
    for (auth_type, group) in [("scram-sha-256", "by_scram"), ("md5", "by_md5")] {
        let (user, _) = Postgres::shared().role_with_password(group, "open sesame", auth_type);
        let setup = setup().set("auth_type", auth_type);
        // In [pgbouncer], PgBouncer would look for it only at the next login, and not find the user of the keys.
        let proxy = setup.database("app", &format!("auth_user={}", auth_query::guard())).start();
        let mut client = proxy.login().user(&user).password("open sesame").client();
        let backend = client.pid();

        proxy.reboot_into(&program);

        assert_eq!(client.pid(), backend, "{auth_type}");
        proxy.console().ok("RECONNECT");
        assert_ne!(client.pid(), backend, "{auth_type}: PgBouncer logged in to a new server");
    }
}

#[test]
fn pgbouncer_is_replaced_without_losing_a_client() {
    if support::beyond_pgbouncer() {
        return;
    }
    let Some(program) = pgbouncer() else { return };
    let proxy = setup().database("session", "pool_mode=session").program(&program).start();
    let (mut idle, mut busy) = (proxy.client(), proxy.client());
    let mut session = proxy.login().database("session").client();
    session.ok("CREATE TEMP TABLE kept AS SELECT 7 AS number");
    idle.ok("SET TimeZone TO 'Asia/Tokyo'");
    busy.ok("BEGIN");
    let backend = busy.pid();
    let mut running = proxy.client();
    let mut lock = Postgres::shared().lock();
    running.send(Script::new().query(&format!("{}, 'waited'", lock.wait())));
    lock.until_awaited(1);

    proxy.reboot();
    lock.release();

    proxy.until_log("old process killed, resuming work");
    assert_eq!(idle.value("SHOW TimeZone"), "Asia/Tokyo");
    assert_eq!(busy.pid(), backend);
    assert_eq!(busy.ok("COMMIT").status(), 'I');
    assert_eq!(busy.value("SELECT 1"), "1");
    assert_eq!(session.value("SELECT number FROM kept"), "7");
    assert_eq!(running.reply().rows()[0][1].as_deref(), Some("waited"));
    let newcomer = proxy.client();
    assert!(newcomer.parameters.contains_key("server_version"));
    eventually("servers of unknown state are closed", || {
        (!Postgres::shared().pids(&proxy.role).contains(&backend)).then_some(())
    });
}

#[test]
fn who_cannot_be_handed_over_is_told_and_may_come_again() {
    if support::beyond_pgbouncer() {
        // It says nothing to those that it leaves behind.
        return;
    }
    let setup = encrypting("allow").set("unix_socket_dir", "@DIR@").set("pidfile", "@DIR@/pooler.pid");
    let proxy = setup.start();
    let mut plain = proxy.client();
    plain.ok("BEGIN");
    let backend = plain.pid();
    let ((_idle_tunnel, mut idle), (_busy_tunnel, mut busy)) =
        (tunnelled(&proxy, &STARTTLS), tunnelled(&proxy, &STARTTLS));
    let mut console = proxy.console();
    assert_eq!(idle.value("SELECT 1"), "1");
    busy.ok("BEGIN");

    proxy.reboot();

    for client in [&mut idle, &mut busy] {
        let told = client.last_words();
        assert_eq!((told[&'C'].as_str(), told[&'M'].as_str()), ("57P01", "server shutting down"));
    }
    assert_eq!(console.farewell(), "server shutting down");
    assert_eq!(plain.pid(), backend);
    plain.ok("COMMIT");
    let (_tunnel, mut again) = tunnelled(&proxy, &STARTTLS);
    assert_eq!(again.value("SELECT 1"), "1");
}

#[test]
fn a_server_under_tls_is_closed_by_the_rules() {
    if support::beyond_pgbouncer() {
        return;
    }
    let setup = to_encrypted("require").set("unix_socket_dir", "@DIR@").set("pidfile", "@DIR@/pooler.pid");
    let proxy = setup.start();
    let (mut busy, mut idle) = (proxy.client(), proxy.client());
    busy.ok("BEGIN");
    let backends = [busy.pid(), idle.pid()];

    proxy.reboot();

    assert_eq!(busy.farewell(), "server shutting down", "its server could not come along");
    assert!(!backends.contains(&idle.pid()), "a client at rest gets another");
    eventually("the servers are gone", || {
        let there = Postgres::encrypted().pids(&proxy.role);
        (!backends.iter().any(|backend| there.contains(backend))).then_some(())
    });
    let log = std::fs::read_to_string(support::warden::warden().dir().join("encrypted.log")).unwrap();
    let torn = log.lines().find(|line| line.contains(&format!("[{}]", backends[0])) && line.contains("unexpected EOF"));
    assert_eq!(torn, None, "PostgreSQL was told that the connection ends");
}

/// Connects, asks, leaves.
fn visit(login: &Login) -> Result<(), String> {
    let mut client: Client = login.attempt().map_err(|refusal| refusal.message())?;
    let reply = client.query("SELECT 1");
    reply.error().map_or(Ok(()), |error| Err(error[&'M'].clone()))?;
    client.leave();
    Ok(())
}

/// Connects, asks for TLS, hears that there is none, leaves: the quickest way to find out whether one is served.
fn knock(port: u16) -> io::Result<()> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.write_all(&Script::untagged(&80_877_103u32.to_be_bytes()))?;
    let mut answer = [0];
    socket.read_exact(&mut answer)
}

/// Does the kernel let this user filter what comes to a socket? Where it does not, a listener that shares its port
/// cannot be closed without a moment in which a handshake is lost.
fn may_filter() -> bool {
    let program = "import socket, struct, ctypes\n\
                   code = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0xffffffff))\n\
                   option = struct.pack('HxxxxxxP', 1, ctypes.addressof(code))\n\
                   socket.socket().setsockopt(socket.SOL_SOCKET, 26, option)";
    let mut python = support::warden::command_as_account(Path::new("/usr/bin/python3"));
    python.args(["-c", program]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[test]
fn a_rolling_restart_on_a_shared_port_fails_nobody() {
    if support::beyond_pgbouncer() {
        // It resets whoever has connected and is not accepted yet.
        return;
    }
    let shared = |port| Setup::new().shares_port(port);
    let port = support::postgres::free_port();
    let mut old = shared(port).start();
    let login = old.login();
    let secret = old.role.clone();
    let done = AtomicBool::new(false);
    let [visits, knocks, lost] = [(); 3].map(|()| AtomicUsize::new(0));
    thread::scope(|scope| {
        for number in 0..8 {
            let (login, done, visits, knocks, lost) = (&login, &done, &visits, &knocks, &lost);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let (served, count) = match number % 2 {
                        0 => (visit(login), visits),
                        _ => (knock(port).map_err(|error| error.to_string()), knocks),
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                    if let Err(error) = served {
                        eprintln!("not served: {error:?}");
                        lost.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for _ in 0..4 {
            let new = shared(port).secret(&secret, "").start();
            new.until_log("process up");
            let before = visits.load(Ordering::Relaxed);
            eventually("a storm", || (visits.load(Ordering::Relaxed) > before + 20).then_some(()));
            old.signal(Signal::TERM);
            assert_eq!(old.wait().code(), Some(0), "{}", old.log());
            old = new;
        }
        done.store(true, Ordering::Relaxed);
    });
    let [knocks, lost] = [knocks, lost].map(AtomicUsize::into_inner);
    let tolerated = if may_filter() { 0 } else { 4 };
    assert!(lost <= tolerated && knocks > 100 * tolerated, "{lost} lost, at most {tolerated} of {knocks} may be");
}
