//! The process among others: its command line, the background, its user, syslog, the service manager.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::postgres::free_port;
use crate::support::proxy::{bare, bare_named, exe, is_alive, is_pgbouncer};
use crate::support::tls::Authority;
use crate::support::warden::{account, warden};
use crate::support::{self, Login, Postgres, Proxy, Setup, eventually};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A new folder that the pooler may write in.
fn folder() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let dir = warden().dir().join(format!("process-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    dir
}

/// A socket that takes messages from the pooler, whoever that is.
fn receiver(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    socket.set_read_timeout(Some(support::PATIENCE)).unwrap();
    socket
}

fn receive(socket: &UnixDatagram) -> String {
    let mut message = [0; 10_000];
    let len = socket.recv(&mut message).expect("a message");
    text(&message[..len])
}

/// The first message that `wanted` is true for.
fn receive_until(socket: &UnixDatagram, wanted: impl Fn(&str) -> bool) -> String {
    std::iter::repeat_with(|| receive(socket)).find(|message| wanted(message)).unwrap()
}

// --- the command line

#[test]
fn the_version_line_is_the_consoles() {
    let proxy = Proxy::start();
    let console = proxy.show("VERSION");

    for arguments in [["-V"], ["--version"], ["--vers"], ["-vV"]] {
        let output = bare(&arguments);
        assert_eq!(output.status.code(), Some(0));
        let first = text(&output.stdout).lines().next().unwrap().to_owned();
        assert_eq!(first, console.rows[0]["version"], "{arguments:?}");
        assert!(first.starts_with("PgBouncer 1."), "{first}");
    }
}

#[test]
fn under_the_name_pgbouncer_it_calls_itself_so() {
    let dir = folder();
    let link = dir.join("pgbouncer");
    std::os::unix::fs::symlink(exe(), &link).unwrap();
    let path = link.display().to_string();

    let help = text(&bare_named(Some(&link), &["-h"]).stdout);
    let wrong = bare_named(Some(&link), &["--no-such-option"]);
    let nothing = bare_named(Some(&link), &[]);
    let version = text(&bare_named(Some(&link), &["-V"]).stdout);

    assert!(help.contains(&format!("\n  {path} [OPTION]... ")), "{help}");
    for option in ["-d, --daemon", "-q, --quiet", "-u, --user=USERNAME", "-v, --verbose", "-V, --version", "-h, --help"]
    {
        assert!(help.contains(option), "{option}: {help}");
    }
    for output in [wrong, nothing] {
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        assert!(
            said.starts_with(&path) && said.ends_with(&format!("Try \"{path} --help\" for more information.\n")),
            "{said}"
        );
    }
    assert_eq!(version, text(&bare(&["-V"]).stdout));
}

#[test]
fn under_the_name_pgbouncer_it_pools() {
    let proxy = Setup::new().called("pgbouncer").argument("-v").argument("--").start();

    assert_eq!(proxy.client().value("SELECT 1"), "1");
}

#[test]
fn quiet_says_nothing_on_stderr_and_all_in_the_logfile() {
    let proxy = Setup::new().set("logfile", "@DIR@/pooler.log").argument("-q").start();
    proxy.client().leave();

    eventually("the file has it", || {
        fs::read_to_string(proxy.dir.join("pooler.log")).ok()?.contains("login attempt").then_some(())
    });
    assert_eq!(proxy.log(), "");
}

#[test]
fn check_takes_the_same_command_line_as_the_start() {
    if support::beyond_pgbouncer() {
        return;
    }
    let dir = folder();
    let (good, daemon) = (dir.join("good.ini"), dir.join("daemon.ini"));
    fs::write(&good, "[databases]\n[pgbouncer]\nauth_type = any\n").unwrap();
    fs::write(&daemon, "[databases]\n[pgbouncer]\nauth_type = any\npidfile = x.pid\n").unwrap();
    let check = |words: &[&str], file: &Path| {
        let mut words = words.to_vec();
        let file = file.display().to_string();
        words.push(&file);
        let output = bare(&words);
        (output.status.code(), text(&output.stdout))
    };

    assert_eq!(check(&["--check", "-q", "-v", "-u", "postgres"], &good).0, Some(0));
    let (code, said) = check(&["-d", "--check"], &good);
    assert!(code == Some(1) && said.ends_with("daemon needs pidfile configured\n"), "{code:?}: {said}");
    assert_eq!(check(&["-d", "--check"], &daemon).0, Some(0));
    assert!(!dir.join("x.pid").exists(), "a check starts nothing");
}

#[test]
fn check_names_the_line_of_a_tls_file_that_will_not_do() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (authority, other) = (Authority::shared(), Authority::other());
    let dir = folder();
    let file = dir.join("tls.ini");
    let said = |key: &Path, certificate: &Path, authorities: &Path| {
        let [key, certificate, authorities] = [key, certificate, authorities].map(Path::display);
        let text = format!(
            "[databases]\n[pgbouncer]\nauth_type = any\nclient_tls_sslmode = verify-ca\n\
             client_tls_key_file = {key}\nclient_tls_cert_file = {certificate}\nclient_tls_ca_file = {authorities}\n"
        );
        fs::write(&file, text).unwrap();
        let output = bare(&["--check", &file.display().to_string()]);
        (output.status.code(), text_of_last_line(&output.stdout))
    };
    let (key, certificate) = (&authority.server.key, &authority.server.certificate);
    let at = |line: u32| format!("TLS setup failed: {}:{line}: invalid client_tls_", file.display());

    assert_eq!(said(key, certificate, &authority.certificate).0, Some(0));
    for (key, certificate, authorities, line, why) in [
        (Path::new("/none"), &**certificate, &*authority.certificate, 5, "No such file"),
        (&**certificate, &**certificate, &*authority.certificate, 5, "there is no private key in it"),
        (&*other.server.key, &**certificate, &*authority.certificate, 5, "this key does not belong to"),
        (&**key, &**key, &*authority.certificate, 6, "there is no certificate in it"),
        (&**key, &**certificate, &**key, 7, "there is no certificate in it"),
    ] {
        let (code, last) = said(key, certificate, authorities);
        assert!(code == Some(1) && last.starts_with(&at(line)) && last.contains(why), "{why}: {last}");
    }
}

#[test]
fn a_start_that_fails_for_tls_is_in_the_logfile_however_it_was_asked_for() {
    if support::beyond_pgbouncer() {
        return;
    }
    for words in [&[][..], &["-q"], &["-d"], &["-d", "-q"]] {
        let setup = Setup::new()
            .set("client_tls_sslmode", "require")
            .set("client_tls_key_file", "/nosuch/server.key")
            .set("client_tls_cert_file", Authority::shared().server.certificate.display())
            .set("logfile", "@DIR@/pooler.log")
            .set("pidfile", "@DIR@/pooler.pid");
        let proxy = words.iter().fold(setup, |setup, word| setup.argument(word)).spawn();

        assert_eq!(proxy.wait().code(), Some(1), "{words:?}");

        let log = fs::read_to_string(proxy.dir.join("pooler.log")).unwrap_or_default();
        assert!(log.contains(" FATAL TLS setup failed: ") && log.contains("/nosuch/server.key"), "{words:?}: {log}");
        assert_eq!(proxy.log().is_empty(), words.contains(&"-q"), "{words:?}: {}", proxy.log());
    }
}

#[test]
fn check_and_the_start_warn_of_a_certificate_that_has_expired() {
    if support::beyond_pgbouncer() {
        return;
    }
    let dir = folder();
    for name in ["expired.crt", "named.key"] {
        let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates").join(name);
        fs::write(dir.join(name), fs::read(at).unwrap()).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    let proxy = Setup::new()
        .set("client_tls_sslmode", "allow")
        .set("client_tls_key_file", dir.join("named.key").display())
        .set("client_tls_cert_file", dir.join("expired.crt").display())
        .start();
    let said = format!(
        "client_tls_cert_file: {}: a certificate in it expired on 2021-01-01T00:00:00Z: renew it",
        dir.join("expired.crt").display()
    );
    let warning = format!(" WARNING {said}");

    proxy.until_log(&warning);
    proxy.console().ok("RELOAD");
    eventually("RELOAD warns too", || (proxy.log().matches(&warning).count() == 2).then_some(()));
    let output = bare(&["--check", &proxy.dir.join("pgbouncer.ini").display().to_string()]);
    assert!(output.status.success() && text(&output.stdout).lines().any(|line| line == said), "{output:?}");
}

/// The last line of what a program said.
fn text_of_last_line(bytes: &[u8]) -> String {
    text(bytes).lines().last().unwrap_or_default().to_owned()
}

#[test]
fn check_names_a_socket_or_a_file_that_cannot_be_had_with_its_line() {
    if support::beyond_pgbouncer() {
        return;
    }
    let dir = folder();
    let file = dir.join("check.ini");
    let path = file.display().to_string();
    let plain = dir.join("plain");
    fs::write(&plain, "").unwrap();
    let check = |line: &str| {
        fs::write(&file, format!("[databases]\n[pgbouncer]\nauth_type = any\n{line}\n")).unwrap();
        let output = bare(&["--check", &path]);
        (output.status.code(), text(&output.stdout))
    };

    for (line, said) in [
        // TEST-NET-1: no machine has it.
        ("listen_addr = 192.0.2.77", "cannot listen on 192.0.2.77: bind()"),
        ("listen_addr = 127.0.0.1, no.such.host.invalid", "listen_addr: \"no.such.host.invalid\" is neither"),
        ("unix_socket_dir = /no/such/folder", "unix_socket_dir: cannot write \"/no/such/folder\": No such file"),
        (&format!("unix_socket_dir = {}", plain.display()), "plain\": not a directory"),
        (&format!("unix_socket_dir = /{}", "long/".repeat(30)), "may have at most 107 bytes"),
        ("unix_socket_group = no_such_group", "unix_socket_group: there is no group \"no_such_group\""),
        ("logfile = /no/such/folder/x.log", "logfile: cannot write \"/no/such/folder/x.log\": No such file"),
        (&format!("logfile = {}", dir.display()), "is a directory"),
        ("pidfile = /no/such/folder/x.pid", "pidfile: cannot write \"/no/such/folder/x.pid\": No such file"),
        ("pidfile = /proc/x.pid", "pidfile: cannot write \"/proc/x.pid\": Permission denied"),
        ("unix_socket_dir =", "nowhere to listen on"),
    ] {
        let (code, told) = check(line);
        assert_eq!(code, Some(1), "{line}: {told}");
        // A setting left as it is has no line.
        let place =
            if said.starts_with("nowhere") { "default listen_addr: ".to_owned() } else { format!("{path}:4: ") };
        let says = |told: &str| told.starts_with(&place) && told.contains(said);
        assert!(told.lines().any(says), "{line}: {told}");
    }

    let (code, told) = check("listen_addr = 192.0.2.77, 127.0.0.1");
    assert!(code == Some(0) && told.contains("cannot listen on 192.0.2.77"), "one of two is enough: {told}");
    let (code, told) = check(&format!("logfile = {}/new.log\npidfile = {0}/new.pid", dir.display()));
    assert_eq!(code, Some(0), "{told}");
    assert!(!dir.join("new.log").exists() && !dir.join("new.pid").exists(), "a check makes no file");
}

#[test]
fn check_finds_nothing_wrong_beside_a_process_with_the_same_settings() {
    if support::beyond_pgbouncer() {
        return;
    }
    let setup = Setup::new().set("unix_socket_dir", "@DIR@").set("pidfile", "@DIR@/pooler.pid");
    let proxy = setup.set("logfile", "@DIR@/pooler.log").start();

    let output = bare(&["--check", &proxy.dir.join("pgbouncer.ini").display().to_string()]);

    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert_eq!(proxy.client().value("SELECT 1"), "1");
}

// --- the background

/// A process that was started with -d. It ends with the test.
struct Daemon(Pid);

impl Daemon {
    /// The process that the pidfile names.
    fn of(pidfile: &Path) -> Daemon {
        let pid = eventually("there is a pidfile", || fs::read_to_string(pidfile).ok()?.trim().parse::<i32>().ok());
        warden().add(pid.unsigned_abs());
        Daemon(Pid::from_raw(pid).unwrap())
    }

    fn until_gone(&self) {
        eventually("the daemon is gone", || (!is_alive(self.0)).then_some(()));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if is_alive(self.0) {
            let _ = kill_process(self.0, Signal::QUIT);
            self.until_gone();
        }
        warden().forget(self.0.as_raw_nonzero().get().unsigned_abs());
    }
}

/// The state of a process, from /proc: the session it is in, and where its standard descriptors lead.
fn session_and_streams(pid: Pid) -> (i32, Vec<PathBuf>) {
    let pid = pid.as_raw_nonzero();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = stat.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap().parse().unwrap();
    let streams = (0..3).map(|number| fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap()).collect();
    (session, streams)
}

#[test]
fn a_daemon_is_in_a_session_of_its_own_and_says_nothing() {
    let dir = folder();
    let pidfile = dir.join("pooler.pid");
    let starter = Setup::new()
        .set("pidfile", pidfile.display())
        .set("logfile", dir.join("pooler.log").display())
        .argument("-d")
        .called("pgbouncer")
        .spawn();

    assert_eq!(starter.wait().code(), Some(0));
    let daemon = Daemon::of(&pidfile);
    eventually("it listens", || starter.login().attempt().ok());

    let (session, streams) = session_and_streams(daemon.0);
    assert_ne!(session, session_and_streams(rustix::process::getpid()).0);
    assert_eq!(streams, vec![PathBuf::from("/dev/null"); 3]);
    let comm = fs::read(format!("/proc/{}/cmdline", daemon.0.as_raw_nonzero())).unwrap();
    let command_line = text(&comm);
    let name = command_line.split('\0').next().unwrap();
    assert!(name.ends_with("/pgbouncer"), "ps shows the name it was started under: {command_line:?}");
    let up = format!(" [{}] LOG process up: ", daemon.0.as_raw_nonzero());
    eventually("the log is in the file", || {
        fs::read_to_string(dir.join("pooler.log")).ok()?.contains(&up).then_some(())
    });
    assert_eq!(starter.log(), "");

    kill_process(daemon.0, Signal::TERM).unwrap();
    daemon.until_gone();
    assert!(!pidfile.exists());
}

#[test]
fn a_daemon_without_a_pidfile_is_refused() {
    let (status, log) = Setup::new().argument("-d").refused();

    assert_eq!(status.code(), Some(1));
    assert!(log.contains("daemon needs pidfile configured"), "{log}");
}

#[test]
fn a_daemon_that_cannot_start_says_why() {
    if support::beyond_pgbouncer() {
        return;
    }
    let first = Proxy::start();
    let dir = folder();

    let (status, log) = Setup::new()
        .set("pidfile", dir.join("pooler.pid").display())
        .set("listen_port", first.port)
        .argument("-d")
        .refused();

    assert_eq!(status.code(), Some(1));
    assert!(log.contains(" FATAL could not start: failed to listen on any address"), "{log}");
    assert!(!dir.join("pooler.pid").exists());
}

#[test]
fn a_stale_pidfile_is_removed_and_one_that_cannot_be_written_is_named() {
    let dir = folder();
    let stale = dir.join("stale.pid");
    fs::write(&stale, format!("{}\n", i32::MAX)).unwrap();
    fs::set_permissions(&stale, fs::Permissions::from_mode(0o666)).unwrap();
    let proxy = Setup::new().set("pidfile", stale.display()).start();
    proxy.until_log(" LOG stale pidfile, removing");
    eventually("the file is written anew", || {
        (fs::read_to_string(&stale).ok()?.trim() == proxy.pid().as_raw_nonzero().to_string()).then_some(())
    });

    let (status, log) = Setup::new().set("pidfile", "/proc/nowhere.pid").refused();

    assert_eq!(status.code(), Some(1));
    assert!(log.contains("could not open pidfile '/proc/nowhere.pid': "), "{log}");
}

// --- the user

#[test]
fn the_user_setting_gives_up_root_and_its_groups() {
    let Some(account) = account() else {
        eprintln!("needs to be run as root: not tested");
        return;
    };
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let of = |line: &&str| line.split(':').nth(2) == Some(&account.uid.to_string());
    let name = users.lines().find(of).unwrap().split(':').next().unwrap().to_owned();
    let setup = || {
        Setup::new()
            .set("unix_socket_dir", "@DIR@")
            .set("logfile", "@DIR@/pooler.log")
            .set("pidfile", "@DIR@/pooler.pid")
            .privileged()
    };

    for setup in [setup().set("user", &name), setup().set("user", "daemon").argument(&format!("--user={name}"))] {
        let proxy = setup.start();
        let status = fs::read_to_string(format!("/proc/{}/status", proxy.pid().as_raw_nonzero())).unwrap();
        let line = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().skip(1).map(|word| word.parse().unwrap()).collect::<Vec<u32>>()
        };
        assert_eq!(line("Uid:"), [account.uid; 4]);
        assert_eq!(line("Gid:"), [account.gid; 4]);
        assert_eq!(line("Groups:"), [account.gid]);
        eventually("there is a pidfile", || proxy.dir.join("pooler.pid").exists().then_some(()));
        for file in [format!(".s.PGSQL.{}", proxy.port), "pooler.pid".to_owned()] {
            let found = fs::metadata(proxy.dir.join(&file)).unwrap();
            assert_eq!((found.uid(), found.gid()), (account.uid, account.gid), "{file}");
        }
        let log = fs::metadata(proxy.dir.join("pooler.log")).unwrap();
        assert!(log.uid() == account.uid || is_pgbouncer(), "PgBouncer opens its log before it gives up root");
    }
}

#[test]
fn root_is_refused_and_an_unknown_user_is_named() {
    let (status, log) = Setup::new().argument("-u").argument("no-such-user").privileged().refused();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("could not find user 'no-such-user' to switch to"), "{log}");
    if account().is_none() {
        eprintln!("the rest needs to be run as root: not tested");
        return;
    }

    let (status, log) = Setup::new().privileged().refused();

    assert_eq!(status.code(), Some(1));
    assert!(log.contains("PgBouncer should not run as root"), "{log}");
}

// --- the log

#[test]
fn the_log_tells_of_guessed_passwords_and_not_of_probes() {
    let setup = Setup::new().set("auth_type", "scram-sha-256");
    let role = setup.role().to_owned();
    let proxy = setup.secret(&role, "right").start();
    for _ in 0..3 {
        drop(std::net::TcpStream::connect(("127.0.0.1", proxy.port)).unwrap());
    }
    proxy.login().password("wrong").refusal();
    proxy.login().user("stranger").password("any").refusal();
    proxy.console().query("NONSENSE").error().expect("an error");
    proxy.console().leave();

    for line in [
        "password authentication failed".to_owned(),
        "no such user: stranger".to_owned(),
        "ERROR invalid command 'NONSENSE', use SHOW HELP;".to_owned(),
        format!("login attempt: db=app user={role} tls=no replication=no"),
    ] {
        proxy.until_log(&line);
    }
    let log = proxy.log();
    let failed = log.lines().find(|line| line.ends_with(" password authentication failed")).unwrap();
    assert!(failed.contains(" ERROR C-0x") && failed.contains(&format!(": app/{role}@127.0.0.1:")), "{failed}");
    assert!(!log.lines().any(|line| line.contains(" (nodb)/") && line.contains("unexpected eof")), "{log}");
}

// --- syslog

/// A script that puts the folder `dev` in the place of /dev, for its own process only, and becomes the pooler. The
/// folder has the devices that a program needs.
const OWN_DEV: &str = r#"
dir=$1 uid=$2 gid=$3
shift 3
for device in null urandom random zero; do touch "$dir/$device"; mount --bind "/dev/$device" "$dir/$device"; done
mount --bind "$dir" /dev
exec setpriv --reuid="$uid" --regid="$gid" --clear-groups "$@"
"#;

#[test]
fn syslog_gets_the_log_under_name_and_facility_and_follows_a_reload() {
    let may_unshare = || std::process::Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|s| s.success());
    let Some(account) = account().filter(|_| may_unshare()) else {
        eprintln!("needs root and a mount namespace: not tested");
        return;
    };
    let dev = folder();
    let log = dev.join("log");
    let daemon = receiver(&log);
    let (path, uid, gid) = (dev.display().to_string(), account.uid.to_string(), account.gid.to_string());
    let proxy = Setup::new()
        .set("syslog", 1)
        .set("syslog_facility", "local3")
        .set("syslog_ident", "weir")
        .set("logfile", "@DIR@/pooler.log")
        .environment("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .wrapped(&["/usr/bin/unshare", "-m", "/bin/sh", "-c", OWN_DEV, "sh", &path, &uid, &gid])
        .argument("-q")
        .privileged()
        .start();
    let pid = proxy.pid().as_raw_nonzero();

    // 19 * 8 + 6: local3, informational.
    let up = receive_until(&daemon, |message| message.contains("process up: "));
    assert!(up.starts_with("<158>") && up.contains(&format!(" weir[{pid}]: process up: ")), "{up}");
    proxy.login().user("stranger").refusal();
    // 19 * 8 + 4: a warning.
    let error = receive_until(&daemon, |message| message.contains("pooler error: "));
    assert!(error.starts_with("<156>") && error.contains("]: C-0x"), "{error}");

    drop(daemon);
    fs::remove_file(&log).unwrap();
    let daemon = receiver(&log);
    proxy.rewrite(|setup| setup.set("syslog_ident", "other").set("syslog_facility", "daemon"));
    proxy.signal(Signal::HUP);
    eventually("the reload is over", || {
        proxy.client().leave();
        daemon.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut message = [0; 10_000];
        let len = daemon.recv(&mut message).ok()?;
        text(&message[..len]).contains(&format!(" other[{pid}]: ")).then_some(())
    });

    proxy.rewrite(|setup| setup.set("syslog", 0));
    assert_eq!(proxy.console().ok("RELOAD").tags(), ["RELOAD"]);
    daemon.set_nonblocking(true).unwrap();
    while daemon.recv(&mut [0; 10_000]).is_ok() {}
    proxy.client().leave();
    let file = || fs::read_to_string(proxy.dir.join("pooler.log")).unwrap();
    let logins = file().matches("login attempt: db=app").count();
    eventually("one more client is in the file", || {
        proxy.client().leave();
        (file().matches("login attempt: db=app").count() > logins).then_some(())
    });
    assert!(daemon.recv(&mut [0; 10_000]).is_err(), "syslog is off");
}

// --- the service manager

#[test]
fn the_service_manager_hears_of_every_step() {
    if support::beyond_pgbouncer() {
        return;
    }
    let socket = folder().join("notify");
    let manager = receiver(&socket);
    let proxy = Setup::new()
        .set("stats_period", 1)
        .set("log_stats", 0)
        .environment("NOTIFY_SOCKET", &socket.display().to_string())
        .start();
    assert_eq!(receive(&manager), "READY=1\n");

    let status = receive_until(&manager, |message| message != "READY=1\n");
    assert!(status.starts_with("STATUS=stats: 0 xacts/s, ") && status.ends_with(" us\n"), "{status}");

    proxy.signal(Signal::HUP);
    let reloading = receive_until(&manager, |message| !message.starts_with("STATUS="));
    let stamp = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("a reload").trim_end();
    let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = since_boot.tv_sec * 1_000_000 + since_boot.tv_nsec / 1000;
    assert!((now - 60_000_000..=now).contains(&stamp.parse().unwrap()), "{stamp}");
    assert_eq!(receive_until(&manager, |message| !message.starts_with("STATUS=")), "READY=1\n");

    proxy.rewrite(|setup| setup.set("pool_mode", "nonsense"));
    proxy.signal(Signal::HUP);
    receive_until(&manager, |message| message.starts_with("RELOADING=1\n"));
    receive_until(&manager, |message| message == "READY=1\n");

    proxy.signal(Signal::TERM);
    receive_until(&manager, |message| message == "STOPPING=1\n");
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn a_service_manager_that_is_gone_is_a_warning() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Setup::new().environment("NOTIFY_SOCKET", "/nonexistent/notify").start();

    proxy.until_log(" WARNING cannot tell the service manager on /nonexistent/notify: ");
    assert_eq!(proxy.client().value("SELECT 1"), "1");
}

/// The words that start the pooler with sockets on these ports and paths.
fn activated<'a>(whose: &'a str, places: &[&'a str]) -> Vec<&'a str> {
    // As text: the user that the pooler runs as may not be able to read the checkout.
    let mut words = vec!["/usr/bin/python3", "-c", include_str!("drivers/activate.py"), whose];
    words.extend(places);
    words.push("--");
    words
}

#[test]
fn sockets_of_the_service_manager_take_the_place_of_the_settings() {
    if support::beyond_pgbouncer() {
        return;
    }
    let other = free_port().to_string();
    let proxy = Setup::new()
        .set("listen_port", &other)
        .set("tcp_keepidle", 77)
        .set("unix_socket_dir", "@DIR@/nowhere")
        .wrapped(&activated("ours", &["@PORT@", "@DIR@/.s.PGSQL.@PORT@"]))
        .start();

    assert_eq!(proxy.client().value("SELECT 1"), "1");
    assert_eq!(proxy.login().unix(&proxy.dir).client().value("SELECT 2"), "2");
    assert!(Login::to(other.parse().unwrap()).attempt().is_err(), "nobody listens on listen_port");
    for line in [
        "LOG socket passed from service manager (fd 3)".to_owned(),
        "LOG socket passed from service manager (fd 4)".to_owned(),
        "WARNING sockets passed from service manager, listen_addr ignored".to_owned(),
        "WARNING sockets passed from service manager, unix_socket_dir ignored".to_owned(),
        format!("LOG listening on 127.0.0.1:{}", proxy.port),
        format!("LOG listening on unix:{}/.s.PGSQL.{}", proxy.dir.display(), proxy.port),
    ] {
        proxy.until_log(&line);
    }

    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(proxy.dir.join(format!(".s.PGSQL.{}", proxy.port)).exists(), "the file is the manager's");
}

#[test]
fn sockets_of_another_process_are_none_of_ours() {
    let other = free_port().to_string();
    let proxy = Setup::new().wrapped(&activated("others", &[&other])).start();

    assert_eq!(proxy.client().value("SELECT 1"), "1");
    assert!(!proxy.log().contains("socket passed"), "{}", proxy.log());
}

#[test]
fn a_descriptor_that_is_no_listening_socket_is_named() {
    if support::beyond_pgbouncer() {
        return;
    }
    let script = "exec 3</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";

    let (status, log) = Setup::new().wrapped(&["/bin/sh", "-c", script, "sh"]).refused();

    assert_eq!(status.code(), Some(1));
    assert!(log.contains("FATAL failed to set up socket passed from service manager (fd 3): "), "{log}");
}

// --- sockets

/// Waits until `ss` tells of established TCP connections of a process, on its side of `port` or to it, and all are as
/// they should be: one that has just been used has other timers, one that has just been closed may be there still.
#[track_caller]
fn until_sockets(pid: Pid, port: u16, towards: &str, good: impl Fn(&str) -> bool) {
    let filter = format!("{towards} = :{port}");
    let mine = format!("pid={},", pid.as_raw_nonzero());
    eventually(&format!("the connections with {filter} are as set"), || {
        let mut ss = std::process::Command::new("ss");
        let output = ss.args(["-Htnop", "-i", "-m", "state", "established", &filter]).output().expect("ss runs");
        let all = text(&output.stdout).replace("\n\t", " ");
        let mut lines = all.lines().filter(|line| line.contains(&mine)).peekable();
        (lines.peek().is_some() && lines.all(|line| !line.contains("timer:(on,") && good(line))).then_some(())
    });
}

#[test]
fn tcp_settings_reach_clients_and_servers_and_a_reload_changes_them() {
    let setup = Setup::new().set("tcp_keepidle", 1234).set("tcp_socket_buffer", 65_536).set("server_lifetime", 0);
    let proxy = setup.start();
    let server_port = Postgres::shared().port;
    let mut client = proxy.client();
    client.ok("BEGIN");

    let both = |good: &dyn Fn(&str) -> bool| {
        until_sockets(proxy.pid(), proxy.port, "sport", good);
        until_sockets(proxy.pid(), server_port, "dport", good);
    };
    both(&|line| {
        // The kernel tells of the buffers twice what was asked for; of the time, what is left of 1234 seconds.
        let keepalive = ["timer:(keepalive,20min", "timer:(keepalive,19min"].iter().any(|timer| line.contains(timer));
        line.contains("rb131072") && line.contains("tb131072") && keepalive
    });
    client.ok("COMMIT");

    proxy.rewrite(|setup| setup.set("tcp_keepalive", 0));
    assert_eq!(proxy.console().ok("RELOAD").tags(), ["RELOAD"]);
    drop(client);
    proxy.until("CLIENTS", |clients| clients.find(&[("database", "app")]).is_none());
    let mut client = proxy.client();
    client.ok("BEGIN");
    both(&|line| !line.contains("timer:(keepalive"));
}

/// The kernel's own account of a listening socket: whether a client's first bytes are awaited before it is accepted.
#[test]
fn a_silent_client_is_accepted_late_or_at_once_as_told() {
    let proxy = Setup::new().set("client_login_timeout", 0).start();
    let mut console = proxy.console();
    console.ok("SET tcp_defer_accept = 0");
    // The listening socket is told when a client comes.
    proxy.client().leave();

    let silent = std::net::TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    let port = silent.local_addr().unwrap().port().to_string();

    eventually("the silent client is known", || console.table("SHOW SOCKETS").find(&[("port", &port)]).map(|_| ()));
    drop(silent);
}
