//! auth_type pam, and records with the method pam: the system's PAM checks passwords.

use std::fs;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::hazards::remembers;
use crate::support::pam::{LISTED, Services, checkers};
use crate::support::proxy::{is_alive, shared_file};
use crate::support::tls::{Authority, Tunnel};
use crate::support::{self, Postgres, Proxy, Script, Setup, Wire, eventually};

const FAILED: &str = "PAM authentication failed";

/// A role that the server asks for the same password, so that a login shows that servers get it, too.
fn role(password: &str) -> String {
    Postgres::shared().role_with_password("by_scram", password, "scram-sha-256").0
}

fn by_type() -> Setup {
    Setup::new().set("auth_type", "pam")
}

fn by_hba(name: &str, records: &str) -> Setup {
    let text = format!("host pgbouncer all all password\n{records}");
    Setup::new().set("auth_type", "hba").set("auth_hba_file", shared_file(&format!("pam.{name}.conf"), &text))
}

fn login(proxy: &Proxy, user: &str, password: &str) -> Result<String, String> {
    let attempt = proxy.login().user(user).password(password).attempt();
    attempt.map(|mut client| client.value("SELECT current_user")).map_err(|refusal| refusal.message())
}

/// Sends startup and password, and leaves the rest to come.
fn try_in(proxy: &Proxy, user: &str, password: &str) -> Wire {
    let mut wire = Wire::tcp(proxy.port);
    wire.send(proxy.login().user(user).startup());
    wire.expect(b'R');
    wire.send(Script::new().message(b'p', &[password.as_bytes(), b"\0"].concat()));
    wire
}

fn last_words(wire: &mut Wire) -> String {
    let last = wire.until_end();
    last.iter().find(|message| message.tag == b'E').unwrap_or_else(|| panic!("{last:?}")).fields()[&'M'].clone()
}

/// How many sockets the process has.
fn sockets(process: Pid) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero())).unwrap();
    let targets = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

/// A service that never answers: its list of users is a pipe that nobody writes to.
fn with_a_service_that_hangs(users: &str) -> Services {
    let hangs = LISTED.replace("users", "pipe");
    let services = Services::new(&[("pgbouncer", LISTED), ("hangs", &hangs)], users);
    let pipe = services.dir.join("pipe");
    let made = Command::new("mkfifo").args(["-m", "666"]).arg(&pipe).status().expect("mkfifo runs");
    assert!(made.success());
    services
}

#[test]
fn who_has_the_password_that_pam_knows_is_let_in_and_the_server_gets_it() {
    let user = role("secret1");
    let services = Services::new(&[("pgbouncer", LISTED)], &format!("{user}:secret1:pgbouncer\n"));
    // What auth_file says does not count.
    let proxy = services.of(by_type()).secret(&user, "of-the-file").start();

    assert_eq!(login(&proxy, &user, "secret1"), Ok(user.clone()));
    assert_eq!(login(&proxy, &user, "of-the-file"), Err(FAILED.into()));
    proxy.until_log("pam_authenticate() failed: Authentication failure");
    assert_eq!(login(&proxy, "nobody_knows_me", "secret1"), Err(FAILED.into()));
    assert_eq!(login(&proxy, &user, ""), Err("empty password returned by client".into()));
    assert_eq!(login(&proxy, &user, "secret1"), Ok(user));
}

#[test]
fn an_account_that_must_not_log_in_does_not_whatever_its_password() {
    let (user, locked) = (role("secret1"), role("secret2"));
    let users = format!("{user}:secret1:pgbouncer\n{locked}:secret2:another\n");
    let proxy = Services::new(&[("pgbouncer", LISTED)], &users).of(by_type()).start();

    assert_eq!(login(&proxy, &locked, "secret2"), Err(FAILED.into()));
    proxy.until_log("pam_acct_mgmt() failed: ");
    assert_eq!(login(&proxy, &user, "secret1"), Ok(user));
}

#[test]
fn a_service_that_is_not_there_lets_nobody_in() {
    let proxy = Services::new(&[("another", LISTED)], "").of(by_type()).start();

    assert_eq!(login(&proxy, "ann", "secret1"), Err(FAILED.into()));
    // Its first words depend on what the system has for a service `other`.
    proxy.until_log("failed: ");
}

#[test]
fn a_module_that_asks_for_anything_but_the_password_gets_no_answer() {
    let asks = "auth required MATRIX passdb=DIR/users echo\naccount required MATRIX passdb=DIR/users\n";
    let proxy = Services::new(&[("pgbouncer", asks)], "ann:secret1:pgbouncer\n").of(by_type()).start();

    assert_eq!(login(&proxy, "ann", "secret1"), Err(FAILED.into()));
    proxy.until_log("pam_authenticate() failed: ");
}

#[test]
fn what_a_module_complains_of_is_in_the_log_and_no_secret_is() {
    let user = role("right-x4Tz");
    let complains = format!("auth optional CHATTY error num_lines=1\n{LISTED}");
    let services = Services::new(&[("pgbouncer", &complains)], &format!("{user}:right-x4Tz:pgbouncer\n"));
    let proxy = services.of(by_type()).set("verbose", 3).start();

    assert_eq!(login(&proxy, &user, "wrong-m3Qd"), Err(FAILED.into()));
    assert_eq!(login(&proxy, &user, "right-x4Tz"), Ok(user));

    proxy.until_log("Authentication generated an error");
    let log = proxy.log();
    assert!(!log.contains("x4Tz") && !log.contains("m3Qd"), "{log}");
}

#[test]
fn a_password_that_pam_refused_leaves_the_memory() {
    if support::beyond_pgbouncer() {
        return;
    }
    let services = with_a_service_that_hangs("");
    let proxy = services.of(by_hba("memory", "host all all all pam pamservice=hangs\n")).start();
    let mut stuck = try_in(&proxy, "stuck", "mistyped-m3Qd");
    let checker = eventually("it is checked", || checkers(&proxy).first().copied());
    eventually("what was sent is in memory", || remembers(&proxy, b"mistyped-m3Qd").then_some(()));

    kill_process(checker, Signal::KILL).unwrap();
    assert_eq!(last_words(&mut stuck), FAILED);

    eventually("it is forgotten", || (!remembers(&proxy, b"mistyped-m3Qd")).then_some(()));
}

#[test]
fn modules_learn_who_comes_from_where() {
    let user = role("secret1");
    let tells = format!("auth optional pam_exec.so log=DIR/told /usr/bin/env\n{LISTED}");
    let services = Services::new(&[("pgbouncer", &tells)], &format!("{user}:secret1:pgbouncer\n"));
    let proxy = services.of(by_type()).set("unix_socket_dir", "@DIR@").start();
    let told = || {
        let text = fs::read_to_string(services.dir.join("told")).unwrap();
        fs::remove_file(services.dir.join("told")).unwrap();
        let known = |line: &&str| ["PAM_RHOST", "PAM_SERVICE", "PAM_USER"].contains(&line.split('=').next().unwrap());
        let mut lines: Vec<String> = text.lines().filter(known).map(str::to_owned).collect();
        lines.sort();
        lines
    };

    assert_eq!(login(&proxy, &user, "secret1"), Ok(user.clone()));
    assert_eq!(told(), ["PAM_RHOST=127.0.0.1", "PAM_SERVICE=pgbouncer", &format!("PAM_USER={user}")]);
    let mut client = proxy.login().unix(&proxy.dir).user(&user).password("secret1").client();
    assert_eq!(client.value("SELECT current_user"), user);
    assert_eq!(told()[0], "PAM_RHOST=unix");
}

fn encrypting(setup: Setup) -> Setup {
    let authority = Authority::shared();
    let setup = setup.set("client_tls_sslmode", "require").set("client_tls_key_file", authority.server.key.display());
    let setup = setup.set("client_tls_cert_file", authority.server.certificate.display());
    setup.set("client_tls_ca_file", authority.certificate.display())
}

fn login_over_tls(proxy: &Proxy, user: &str, password: &str) -> Result<String, String> {
    let (_tunnel, wire) = Tunnel::open(proxy.port, &["-starttls", "postgres"]);
    let attempt = proxy.login().user(user).password(password).over(wire);
    attempt.map(|mut client| client.value("SELECT current_user")).map_err(|refusal| refusal.message())
}

#[test]
fn over_tls_it_is_the_same() {
    let user = role("secret1");
    let services = Services::new(&[("pgbouncer", LISTED)], &format!("{user}:secret1:pgbouncer\n"));
    let proxy = services.of(encrypting(by_type())).start();

    assert_eq!(login_over_tls(&proxy, &user, "secret1"), Ok(user.clone()));
    assert_eq!(login_over_tls(&proxy, &user, "wrong"), Err(FAILED.into()));
}

#[test]
fn a_record_can_want_a_certificate_beside_it() {
    if support::beyond_pgbouncer() {
        return;
    }
    let user = role("secret1");
    let services = Services::new(&[("pgbouncer", LISTED)], &format!("{user}:secret1:pgbouncer\n"));
    let records = "hostssl all all all pam clientcert=verify-ca\n";
    let proxy = services.of(encrypting(by_hba("certificate", records))).start();

    let why = "connection requires a valid client certificate";
    assert_eq!(login_over_tls(&proxy, &user, "secret1"), Err(why.into()));
}

#[test]
fn administrators_prove_themselves_to_pam_too() {
    let proxy = Services::new(&[("pgbouncer", LISTED)], "stats:secret1:pgbouncer\n").of(by_type()).start();

    assert!(!proxy.show("CONFIG").all(&[("key", "auth_type"), ("value", "pam")]).is_empty());
    let login = |password: &str| proxy.login().user("stats").database("pgbouncer").password(password).attempt();
    assert!(login("secret1").is_ok());
    assert!(login("stats-secret").is_err(), "what auth_file says does not count");
}

#[test]
fn reload_and_set_choose_pam_and_leave_it() {
    // PgBouncer has the pool of the first login keep the password of auth_file.
    let user = Postgres::shared().role();
    let services = Services::new(&[("pgbouncer", LISTED)], &format!("{user}:secret1:pgbouncer\n"));
    let proxy = services.of(Setup::new().set("auth_type", "plain")).secret(&user, "of-the-file").start();
    let mut console = proxy.console();
    assert_eq!(login(&proxy, &user, "secret1"), Err("password authentication failed".into()));

    proxy.rewrite(|setup| setup.set("auth_type", "pam"));
    console.ok("RELOAD");
    assert_eq!(login(&proxy, &user, "secret1"), Ok(user.clone()));

    console.ok("SET auth_type = 'plain'");
    assert_eq!(login(&proxy, &user, "secret1"), Err("password authentication failed".into()));
    console.ok("SET auth_type = 'pam'");
    assert_eq!(login(&proxy, &user, "secret1"), Ok(user));
}

#[test]
fn a_record_may_ask_pam_and_name_the_service() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (ann, bob, carol) = (role("secret1"), role("secret1"), role("secret1"));
    let users = format!("{ann}:secret1:pgbouncer\n{bob}:secret1:special\n{carol}:secret1:pgbouncer\n");
    let services = Services::new(&[("pgbouncer", LISTED), ("special", LISTED)], &users);
    let records = format!(
        "host all {bob} all pam pamservice=special\nhost all {carol} all pam pam_use_hostname=1\n\
         host all all all pam\nhost all all all trust\n"
    );
    let proxy = services.of(by_hba("service", &records)).secret(&ann, "of-the-file").start();

    assert_eq!(login(&proxy, &ann, "secret1"), Ok(ann.clone()));
    assert_eq!(login(&proxy, &ann, "of-the-file"), Err(FAILED.into()));
    assert_eq!(login(&proxy, &bob, "secret1"), Ok(bob.clone()));
    proxy.until_log("pam_use_hostname=1 is not supported");
    assert_eq!(login(&proxy, &carol, "secret1"), Err(FAILED.into()), "no later line lets her in");

    let text = "host pgbouncer all all password\nhost all all all pam pamservice=special\n";
    shared_file("pam.service.conf", text);
    proxy.console().ok("RELOAD");
    assert_eq!(login(&proxy, &ann, "secret1"), Err(FAILED.into()));
    assert_eq!(login(&proxy, &bob, "secret1"), Ok(bob));
}

#[test]
fn a_module_that_hangs_holds_up_nobody_else_and_is_ended_when_its_client_is_gone() {
    if support::beyond_pgbouncer() {
        return;
    }
    let user = role("secret1");
    let services = with_a_service_that_hangs(&format!("{user}:secret1:pgbouncer\n"));
    let records = "host all stuck all pam pamservice=hangs\nhost all all all pam\n";
    let proxy = services.of(by_hba("hangs", records)).start();

    let stuck = [try_in(&proxy, "stuck", "secret1"), try_in(&proxy, "stuck", "secret1")];
    eventually("both are checked", || (checkers(&proxy).len() == 2).then_some(()));
    assert_eq!(login(&proxy, &user, "secret1"), Ok(user.clone()));
    drop(stuck);
    eventually("neither is checked any more", || checkers(&proxy).is_empty().then_some(()));

    let mut stuck = try_in(&proxy, "stuck", "secret1");
    let checker = eventually("it is checked", || checkers(&proxy).first().copied());
    eventually("modules have no socket of the pooler's at hand", || (sockets(checker) == 1).then_some(()));
    kill_process(checker, Signal::ABORT).unwrap();
    assert_eq!(last_words(&mut stuck), FAILED, "a module that crashes fails one login");
    proxy.until_log("the process that asked PAM ended without an answer");
    assert_eq!(login(&proxy, &user, "secret1"), Ok(user));
}

#[test]
fn client_login_timeout_ends_who_waits_for_a_module_that_hangs() {
    if support::beyond_pgbouncer() {
        return;
    }
    let services = with_a_service_that_hangs("");
    let records = "host all all all pam pamservice=hangs\n";
    let proxy = services.of(by_hba("timeout", records)).start();
    let mut stuck = try_in(&proxy, "stuck", "secret1");
    eventually("it is checked", || checkers(&proxy).first().copied());

    proxy.console().ok("SET client_login_timeout = 1");

    assert_eq!(last_words(&mut stuck), "client_login_timeout");
    eventually("it is not checked any more", || checkers(&proxy).is_empty().then_some(()));
}

#[test]
fn a_module_that_hangs_does_not_outlive_the_pooler_nor_keep_it() {
    if support::beyond_pgbouncer() {
        return;
    }
    let services = with_a_service_that_hangs("");
    for signal in [Signal::QUIT, Signal::INT] {
        let records = "host all all all pam pamservice=hangs\n";
        let proxy = services.of(by_hba(&format!("end{}", signal.as_raw()), records)).start();
        let _stuck = try_in(&proxy, "stuck", "secret1");
        let checker = eventually("it is checked", || checkers(&proxy).first().copied());

        proxy.signal(signal);

        eventually("both end", || (proxy.try_wait().is_some() && !is_alive(checker)).then_some(()));
    }
}
