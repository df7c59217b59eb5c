//! auth_type hba: records say who logs in from where and how, maps say which system user may be whom.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use postgres_protocol::password::scram_sha_256;
use socket2::{Domain, Socket, Type};

use crate::support::dns::NameServer;
use crate::support::proxy::{is_pgbouncer, shared_file};
use crate::support::{self, Login, Postgres, Proxy, Setup, Wire};

const PASSWORD: &str = "open sesame";

/// The console's users log in with their passwords, whatever else the records say.
const CONSOLE: &str = "host pgbouncer admin,stats 127.0.0.1/32 password\nlocal pgbouncer admin password\n";

/// Files of one test: records and maps.
struct Files {
    hba: String,
    ident: String,
}

impl Files {
    fn new(name: &str, records: &str, maps: &str) -> Files {
        let hba = shared_file(&format!("{name}.hba.conf"), &format!("{CONSOLE}{records}"));
        Files { hba, ident: shared_file(&format!("{name}.ident.conf"), maps) }
    }

    /// A pooler that follows them, with a Unix socket in its folder.
    fn setup(&self) -> Setup {
        Setup::new()
            .set("auth_type", "hba")
            .set("auth_hba_file", &self.hba)
            .set("auth_ident_file", &self.ident)
            .set("unix_socket_dir", "@DIR@")
    }

    fn rewrite(&self, records: &str) {
        fs::write(&self.hba, format!("{CONSOLE}{records}")).unwrap();
    }
}

/// The name of the system user who runs this test.
fn system_user() -> String {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.split(':').nth(2) == Some(&uid)).expect("this user has a name");
    line.split(':').next().unwrap().to_owned()
}

fn by_socket(proxy: &Proxy, user: &str) -> Login {
    proxy.login().unix(&proxy.dir).user(user)
}

#[test]
fn the_first_record_that_fits_says_how_to_log_in() {
    let server = Postgres::shared();
    let [trusted, plain, md5, scram, banned, other] = [(); 6].map(|()| server.role());
    let files = Files::new(
        "first",
        &format!(
            "host app {trusted} 127.0.0.1/32 trust\n\
             host app {trusted} 127.0.0.1/32 reject\n\
             host nothere,app {plain} , {md5}x 127.0.0.0 255.0.0.0 password # for tests\n\
             host \"app\" {md5} all md5\n\
             hostssl app {scram} all reject\n\
             hostnossl app {scram} 0.0.0.0/0 scram-sha-256\n\
             local app {other} trust\n\
             host app {other} 10.0.0.0/8 trust\n\
             host all {banned} all reject\n"
        ),
        "",
    );
    let mut setup = files.setup();
    for user in [&trusted, &plain, &md5, &scram, &banned, &other] {
        setup = setup.secret(user, PASSWORD);
    }
    let proxy = setup.start();
    let (clear, hashed, sasl, nothing) = (3, 5, 12, 0);

    for (user, asked) in [(&trusted, nothing), (&plain, clear), (&md5, hashed), (&scram, sasl)] {
        let mut client = proxy.login().user(user).password(PASSWORD).client();
        assert_eq!((client.asked, client.value("SELECT current_user")), (asked, user.clone()));
    }
    assert_eq!(proxy.login().user(&banned).password(PASSWORD).refusal(), "login rejected");
    assert_eq!(proxy.login().user(&other).password(PASSWORD).refusal(), "no authentication method is found");
    assert_eq!(by_socket(&proxy, &other).client().asked, nothing);
    assert_eq!(proxy.login().user("nobody_knows_me").refusal(), "no authentication method is found");
    proxy.until_log("closing because: login rejected (age");
}

#[test]
fn peer_is_the_user_at_the_other_end_of_the_socket() {
    let system_user = system_user();
    let [app, all] = [(); 2].map(|()| Postgres::shared().role());
    let files = Files::new(
        "peer",
        "local mapped all peer map=web\nlocal open all peer map=boss\nlocal app all peer\nhost all all all peer\n",
        &format!("web nobody_here {app}\nweb {system_user} {app}\nboss {system_user} all\n"),
    );
    let setup = files.setup().secret(&app, "").secret(&all, "").secret(&system_user, "");
    let proxy = setup.database("mapped", "").database("open", "").database("app", "user=postgres").start();
    let to = |database: &str, user: &str| by_socket(&proxy, user).database(database);

    assert_eq!(to("mapped", &app).client().value("SELECT current_user"), app);
    assert_eq!(to("open", &all).client().value("SELECT current_user"), all);
    to("app", &system_user).client();

    let rejected = "unix socket login rejected";
    assert_eq!(to("mapped", &all).refusal(), rejected);
    proxy.until_log("ident map web cannot be matched");
    assert_eq!(to("app", &app).refusal(), rejected);
    assert_eq!(to("open", "nobody_knows_me").refusal(), rejected);
    assert_eq!(proxy.login().user(&app).refusal(), rejected, "by TCP nobody is a peer");
}

#[test]
fn a_certificate_needs_tls() {
    let role = Postgres::shared().role();
    let proxy = Files::new("cert", "host all all all cert\n", "").setup().secret(&role, "").start();

    assert_eq!(proxy.login().user(&role).refusal(), "certificate authentication failed");
    proxy.until_log("TLS connection required");
}

#[test]
fn users_of_auth_query_meet_the_records_too() {
    let guard = Postgres::shared().role();
    let [known, banned] = [(); 2].map(|()| Postgres::shared().role());
    let mut admin = Postgres::shared().admin();
    admin.ok(&format!("ALTER ROLE {guard} SUPERUSER"));
    for user in [&known, &banned] {
        admin.ok(&format!("ALTER ROLE {user} PASSWORD '{}'", scram_sha_256(PASSWORD.as_bytes())));
    }
    let records = format!("host app {banned} all reject\nhost app all all md5\n");
    let proxy = Files::new("query", &records, "").setup().set("auth_user", guard).start();
    let login = |user: &str| proxy.login().user(user).password(PASSWORD);

    assert_eq!(login(&known).client().value("SELECT current_user"), known);
    assert_eq!(login(&banned).refusal(), "login rejected");
    assert_eq!(login("nobody_knows_me").refusal(), "no such user");
}

#[test]
fn a_reload_brings_new_records_and_names_the_lines_it_passes_over() {
    let role = Postgres::shared().role();
    let files = Files::new("reload", "host all all all reject\n", "");
    let proxy = files.setup().secret(&role, "").start();
    assert_eq!(proxy.login().user(&role).refusal(), "login rejected");

    files.rewrite(&format!("host all +team all md5\nhost all {role} all trust\n"));
    proxy.console().ok("RELOAD");

    proxy.login().user(&role).client();
    if !is_pgbouncer() {
        let line = format!("{}:3: this line is passed over: +team is not supported", files.hba);
        proxy.until_log(&line);
    }
}

#[test]
fn a_reject_that_cannot_be_followed_refuses_the_reload() {
    if support::beyond_pgbouncer() {
        return;
    }
    let role = Postgres::shared().role();
    let files = Files::new("unfollowed", &format!("host all {role} all trust\n"), "");
    let proxy = files.setup().secret(&role, "").start();

    files.rewrite("host all +banned all reject\nhost all all all md5\n");
    let mut console = proxy.console();
    assert!(console.query("RELOAD").error().is_some());
    proxy.until_log(&format!("{}:3: auth_hba_file: expected a line that can be followed", files.hba));
    proxy.login().user(&role).client();

    fs::remove_file(&files.hba).unwrap();
    assert!(console.query("RELOAD").error().is_some());
    proxy.login().user(&role).client();
}

#[test]
fn without_records_nobody_logs_in() {
    let role = Setup::new().role().to_owned();
    let setup = Setup::new().set("auth_type", "hba").set("auth_hba_file", "/nonexistent/hba.conf");
    let proxy = setup.secret(&role, "").start();

    assert_eq!(proxy.login().user(&role).refusal(), "no authentication method is found");
    proxy.until_log("/nonexistent/hba.conf");
}

#[test]
fn set_chooses_the_records_that_were_read() {
    if support::beyond_pgbouncer() {
        return;
    }
    let role = Postgres::shared().role();
    let files = Files::new("set", "host all all all reject\n", "");
    let proxy = files.setup().set("auth_type", "trust").secret(&role, "").start();
    proxy.login().user(&role).client();

    proxy.console().ok("SET auth_type = 'hba'");

    assert_eq!(proxy.login().user(&role).refusal(), "login rejected");
}

/// A connection from this address, one of this machine's.
fn from(address: [u8; 4], port: u16) -> Wire {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((address, 0)).into()).unwrap();
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    Wire::over(socket).unwrap()
}

#[test]
fn a_client_has_the_name_of_its_address_that_leads_back_to_it() {
    if support::beyond_pgbouncer() {
        return;
    }
    let [one, domain] = [(); 2].map(|()| Postgres::shared().role());
    let names = NameServer::start();
    let (good, liar, nameless, other) = ([127, 9, 0, 1], [127, 9, 0, 2], [127, 9, 0, 3], [127, 9, 0, 4]);
    names.say("good.example.test", &["127.9.0.1", "127.9.0.3"]);
    names.say("other.example.test", &["127.9.0.4"]);
    names.name(good, "Good.Example.test");
    names.name(liar, "good.example.test");
    names.name(other, "other.example.test");
    let records = format!("host app {one} good.example.TEST trust\nhost app {domain} .example.test trust\n");
    let setup = Files::new("named", &records, "").setup().set("resolv_conf", names.resolv_conf("").display());
    let proxy = setup.secret(&one, "").secret(&domain, "").start();

    for (user, address, enters) in [
        (&one, good, true),
        (&one, liar, false),
        (&one, nameless, false),
        (&one, other, false),
        (&domain, good, true),
        (&domain, liar, false),
        (&domain, other, true),
    ] {
        let entered = proxy.login().user(user).over(from(address, proxy.port));
        let entered = entered.map(drop).map_err(|refusal| refusal.message());
        let expected = if enters { Ok(()) } else { Err("no authentication method is found".to_owned()) };
        assert_eq!(entered, expected, "{user} from {address:?}");
    }
}

#[test]
fn names_our_own_addresses_and_included_files_are_followed() {
    if support::beyond_pgbouncer() {
        return;
    }
    let [by_name, same_host, same_net, listed, other] = [(); 5].map(|()| Postgres::shared().role());
    let users = shared_file("followed.users", &format!("{listed}\n\nsomebody, else\n"));
    let users = Path::new(&users).file_name().unwrap().to_str().unwrap().to_owned();
    let more =
        shared_file("followed.more.conf", &format!("host all {same_net} samenet trust\nhost all @{users} all trust\n"));
    let files = Files::new(
        "followed",
        &format!(
            "host all {by_name} nosuchname.invalid reject\n\
             host all {by_name} \\\n  LocalHost trust\n\
             host all {same_host} samehost trust\n\
             include {more}\n\
             include_if_exists nothere.conf\n\
             host all {other} nosuchname.invalid trust\n"
        ),
        "",
    );
    let mut setup = files.setup();
    for user in [&by_name, &same_host, &same_net, &listed, &other] {
        setup = setup.secret(user, "");
    }
    let proxy = setup.start();

    for user in [&by_name, &same_host, &same_net, &listed] {
        assert_eq!(proxy.login().user(user).client().value("SELECT current_user"), *user);
    }
    assert_eq!(proxy.login().user(&other).refusal(), "no authentication method is found");
}
