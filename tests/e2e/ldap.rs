//! auth_type ldap, and records with the method ldap: a directory checks passwords.

use std::fs;
use std::io::Read;
use std::net::TcpListener;

use crate::support::proxy::shared_file;
use crate::support::slapd::{BASE, SEARCHER, Slapd, long_password};
use crate::support::{self, Postgres, Proxy, Setup};

const FAILED: &str = "LDAP authentication failed";

/// A role that asks for the password the directory knows, so that a login shows that servers get it, too. Its name is
/// the directory's; tests share it.
fn role(name: &str, password: &str) -> String {
    let mut admin = Postgres::shared().admin();
    // Tests at the same time make it but once.
    admin.ok("SELECT pg_advisory_lock(76)");
    admin.ok(&format!(
        "DO $do$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}') THEN \
         SET LOCAL password_encryption = 'scram-sha-256'; CREATE ROLE {name} LOGIN PASSWORD '{password}'; \
         GRANT by_scram TO {name}; END IF; END $do$"
    ));
    admin.ok("SELECT pg_advisory_unlock(76)");
    name.to_owned()
}

fn ann() -> String {
    role("ldapann", "secret1")
}

/// What `ldap.conf` says; PgBouncer reads the file that LDAPCONF names, too.
fn conf(name: &str, text: &str) -> String {
    shared_file(&format!("{name}.ldap.conf"), text)
}

fn hba(name: &str, options: &str) -> String {
    let text = format!("host pgbouncer all all password\nhost all all all ldap {options}\n");
    shared_file(&format!("ldap.{name}.conf"), &text)
}

fn setup(hba: &str, ldap_conf: &str) -> Setup {
    Setup::new().set("auth_type", "hba").set("auth_hba_file", hba).environment("LDAPCONF", ldap_conf)
}

fn login(proxy: &Proxy, user: &str, password: &str) -> Result<String, String> {
    let attempt = proxy.login().user(user).password(password).attempt();
    attempt.map(|mut client| client.value("SELECT current_user")).map_err(|refusal| refusal.message())
}

fn simple(port: u16) -> String {
    format!("ldapserver=127.0.0.1 ldapport={port} ldapprefix=\"uid=\" ldapsuffix=\",ou=people,{BASE}\"")
}

fn search(port: u16) -> String {
    format!("ldapserver=127.0.0.1 ldapport={port} ldapbasedn=\"{BASE}\"")
}

#[test]
fn each_way_to_a_users_entry_lets_in_whose_password_is_right() {
    let (slapd, user) = (Slapd::shared(), ann());
    let (port, tls_port) = (slapd.port, slapd.tls_port);
    let url = |scheme: &str, port: u16, rest: &str| format!("ldapurl=\"{scheme}://127.0.0.1:{port}/{BASE}?{rest}\"");
    let either = "?sub?(|(uid=$username)(mail=$username))";
    // In this order, since PgBouncer may take filters and ldaps of earlier logins over into later ones.
    let ways = [
        simple(port),
        format!("{} ldaptls=1", simple(port)),
        search(port),
        format!("{} ldaptls=1", search(port)),
        format!("{} ldapsearchattribute=uid", search(port)),
        format!(
            "{} ldapbinddn=\"{}\" ldapbindpasswd=\"{}\"",
            search(port),
            SEARCHER.0,
            SEARCHER.1.replace('"', "\"\"")
        ),
        url("ldap", port, "uid?sub"),
        format!("{} ldapsearchfilter=\"uid=$username\"", search(port)),
        format!("ldapserver=127.0.0.1 \"ldapport\"={port} ldapbasedn=\"{BASE}\" ,ldapsearchfilter=\"uid=$username\""),
        url("ldap", port, either),
        url("ldaps", tls_port, either),
        format!("{} ldapscheme=ldaps", search(tls_port)),
    ];
    let never = conf("ways", "TLS_REQCERT never\n");
    let file = hba("ways", &ways[0]);
    let proxy = setup(&file, &never).start();
    let mut console = proxy.console();

    for way in &ways {
        fs::write(&file, format!("host pgbouncer all all password\nhost all all all ldap {way}\n")).unwrap();
        console.ok("RELOAD");
        assert_eq!(login(&proxy, &user, "secret1"), Ok(user.clone()), "{way}");
        assert_eq!(login(&proxy, &user, "secret2"), Err(FAILED.into()), "{way}");
        assert_eq!(login(&proxy, "nobody_knows_me", "secret1"), Err(FAILED.into()), "{way}");
        assert_eq!(login(&proxy, &user, ""), Err("empty password returned by client".into()), "{way}");
    }
}

#[test]
fn auth_type_ldap_asks_the_directory_of_auth_ldap_options() {
    let (slapd, user) = (Slapd::shared(), ann());
    let long = role("ldaplong", &long_password());
    let setup = Setup::new().set("auth_type", "ldap").set("auth_ldap_options", simple(slapd.port));
    let proxy = setup.start();

    assert_eq!(login(&proxy, &user, "secret1"), Ok(user.clone()));
    assert_eq!(login(&proxy, &user, "wrong"), Err(FAILED.into()));
    proxy.until_log("LDAP login failed for user uid=ldapann,ou=people,dc=example,dc=net on server 127.0.0.1");
    if support::beyond_pgbouncer() {
        return;
    }
    assert_eq!(login(&proxy, &long, &long_password()), Ok(long.clone()), "65,530 bytes");
}

#[test]
fn without_auth_ldap_options_nobody_logs_in() {
    let proxy = Setup::new().set("auth_type", "ldap").start();

    assert_eq!(login(&proxy, "ldapann", "secret1"), Err("auth_ldap_options is null".into()));
}

#[test]
fn no_name_makes_a_filter_of_its_own_nor_another_entry() {
    let slapd = Slapd::shared();
    let file = hba("sly", &search(slapd.port));
    let proxy = setup(&file, "/nonexistent").start();

    for name in ["*", "ldap*", "ldapann)(uid=*", "x)(|(uid=ldapann)", "ldapan\\6e"] {
        assert_eq!(login(&proxy, name, "secret1"), Err(FAILED.into()), "{name}");
    }
    proxy.until_log("invalid character in user name for LDAP authentication");
    if support::beyond_pgbouncer() {
        return;
    }
    // PgBouncer puts the name together as it is, so that it may say where its entry is.
    let file =
        hba("sly2", &format!("ldapserver=127.0.0.1 ldapport={} ldapprefix=uid= ldapsuffix=\",{BASE}\"", slapd.port));
    let proxy = setup(&file, "/nonexistent").start();
    assert_eq!(login(&proxy, "ldapann,ou=people", "secret1"), Err(FAILED.into()));
    proxy.until_log("uid=ldapann\\2cou\\3dpeople,dc=example,dc=net");
}

#[test]
fn whatever_a_prefix_ends_with_a_name_stays_a_name() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (slapd, user) = (Slapd::shared(), ann());
    // The prefix has the beginning of the value, too.
    let rest = user.strip_prefix("l").unwrap();
    role(rest, "secret1");
    let file = hba(
        "part",
        &format!("ldapserver=127.0.0.1 ldapport={} ldapprefix=\"uid=l\" ldapsuffix=\",{BASE}\"", slapd.port),
    );
    let proxy = setup(&file, "/nonexistent").start();
    assert_eq!(login(&proxy, &format!("{rest},ou=people"), "secret1"), Err(FAILED.into()));
    proxy.until_log("LDAP login failed for user uid=ldapann\\2cou\\3dpeople,dc=example,dc=net");
    let whole =
        format!("ldapserver=127.0.0.1 ldapport={} ldapprefix=\"uid=l\" ldapsuffix=\",ou=people,{BASE}\"", slapd.port);
    fs::write(&file, format!("host pgbouncer all all password\nhost all all all ldap {whole}\n")).unwrap();
    proxy.console().ok("RELOAD");
    assert_eq!(login(&proxy, rest, "secret1"), Ok(rest.to_owned()));

    // Where it is no part of a DN, it must not become one.
    let plain = format!("ldapserver=127.0.0.1 ldapport={} ldapsuffix=\",{BASE}\"", slapd.port);
    fs::write(&file, format!("host pgbouncer all all password\nhost all all all ldap {plain}\n")).unwrap();
    proxy.console().ok("RELOAD");
    assert_eq!(login(&proxy, "uid=ldapann,ou=people", "secret1"), Err(FAILED.into()));
    proxy.until_log("invalid character in user name for LDAP authentication: ldapprefix \"\"");
}

#[test]
fn an_entry_must_be_the_only_one_and_one_the_searcher_sees() {
    let slapd = Slapd::shared();
    let hidden = role("ldaphidden", "secret2");
    let by_mail = format!("{} ldapsearchattribute=mail", search(slapd.port));
    let proxy = setup(&hba("mail", &by_mail), "/nonexistent").start();
    assert_eq!(login(&proxy, "twins@example.net", "secret1"), Err(FAILED.into()));
    proxy.until_log("LDAP user \"twins@example.net\" is not unique");

    let proxy = setup(&hba("anybody", &search(slapd.port)), "/nonexistent").start();
    assert_eq!(login(&proxy, &hidden, "secret2"), Err(FAILED.into()));
    proxy.until_log("LDAP user \"ldaphidden\" does not exist");

    let (name, password) = (SEARCHER.0, SEARCHER.1.replace('"', "\"\""));
    let options = format!("{} ldapbinddn=\"{name}\" ldapbindpasswd=\"{password}\"", search(slapd.port));
    let proxy = setup(&hba("searcher", &options), "/nonexistent").start();
    assert_eq!(login(&proxy, &hidden, "secret2"), Ok(hidden.clone()));
    assert!(!proxy.log().contains("search, "), "the searcher's password is not told");

    let options = format!("{} ldapbinddn=\"{name}\" ldapbindpasswd=wrong", search(slapd.port));
    let proxy = setup(&hba("stranger", &options), "/nonexistent").start();
    assert_eq!(login(&proxy, &hidden, "secret2"), Err(FAILED.into()));
    proxy.until_log("could not perform initial LDAP bind for ldapbinddn");
}

#[test]
fn certificates_count_unless_ldap_conf_says_otherwise() {
    let (slapd, user) = (Slapd::shared(), ann());
    let trusted = conf("trusted", &format!("TLS_CACERT {}\n", slapd.authority.display()));
    let untrusted = conf("untrusted", "TLS_REQCERT demand\n");
    let ways = [format!("{} ldapscheme=ldaps", simple(slapd.tls_port)), format!("{} ldaptls=1", simple(slapd.port))];
    for (index, way) in ways.iter().enumerate() {
        let file = hba(&format!("tls{index}"), way);
        assert_eq!(login(&setup(&file, &trusted).start(), &user, "secret1"), Ok(user.clone()), "{way}");
        let proxy = setup(&file, &untrusted).start();
        assert_eq!(login(&proxy, &user, "secret1"), Err(FAILED.into()), "{way}");
    }
    // Each port with the other's way to begin.
    let never = conf("crossed", "TLS_REQCERT never\n");
    let crossed = [format!("{} ldapscheme=ldaps", simple(slapd.port)), format!("{} ldaptls=1", simple(slapd.tls_port))];
    for (index, way) in crossed.iter().enumerate() {
        let proxy = setup(&hba(&format!("crossed{index}"), way), &never).start();
        assert_eq!(login(&proxy, &user, "secret1"), Err(FAILED.into()), "{way}");
        assert!(!proxy.log().contains("no answer within"), "a directory that hangs up is not waited for: {way}");
    }
}

#[test]
fn a_server_that_cannot_be_reached_has_the_next_one_asked() {
    if support::beyond_pgbouncer() {
        return;
    }
    let (slapd, user) = (Slapd::shared(), ann());
    let options = simple(slapd.port).replace("=127.0.0.1", "=\"127.0.0.9 localhost\"");
    let proxy = setup(&hba("second", &options), "/nonexistent").start();

    assert_eq!(login(&proxy, &user, "secret1"), Ok(user));
}

#[test]
fn a_silent_directory_holds_up_nobody_else_and_is_left_when_the_client_is_gone() {
    let user = ann();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let trusted = Postgres::shared().role();
    let records = format!(
        "host pgbouncer all all password\nhost all {trusted} all trust\nhost all all all ldap {}\n",
        simple(port)
    );
    let file = shared_file("ldap.silent.conf", &records);
    let proxy = setup(&file, "/nonexistent").secret(&trusted, "").start();

    let mut wire = support::Wire::tcp(proxy.port);
    wire.send(proxy.login().user(&user).startup());
    wire.expect(b'R');
    wire.send(support::Script::new().message(b'p', b"secret1\0"));
    silent.set_nonblocking(true).unwrap();
    let (mut asked, _) = support::eventually("the directory is called", || silent.accept().ok());
    asked.set_nonblocking(false).unwrap();
    asked.set_read_timeout(Some(support::PATIENCE)).unwrap();
    assert_eq!(proxy.login().user(&trusted).client().value("SELECT current_user"), trusted);
    if support::beyond_pgbouncer() {
        return;
    }
    drop(wire);

    // All that it was told is one bind, and then the connection ends.
    asked.read_to_end(&mut Vec::new()).unwrap();
    proxy.until("CLIENTS", |clients| clients.all(&[("user", &user)]).is_empty());
}
