//! The image for real: built by a Docker Engine, started as compose files start it, spoken to through port 6432.
//!
//! No registry is needed. The images that `docker/Dockerfile` and `docker/compose.yml` begin with are taken if they are
//! there, and otherwise made on the spot, under their own names, from a Debian of debootstrap's (see [`stand_ins`]).
//! Where no engine answers, or nobody may make stand-ins, each test says that it was skipped and why.
//!
//! All that these tests make in the engine has the label `pgweir.test`, and is removed when this process ends, however
//! it does.
#![allow(clippy::disallowed_methods, reason = "tests live outside the rooms whose clock is an argument")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod engine;
mod stand_ins;

use std::path::Path;

use engine::{Engine, Project, eventually, run};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// What a compose file of somebody else's says, word for word: variables of two images that never understood each
/// other, and the name of one of them.
const OTHER_IMAGE: &str = include_str!("other-image.yml");

/// An image's size that nobody minds, in bytes.
const SIZE_MAX: u64 = 40_000_000;

#[test]
fn the_image_is_small_has_no_shell_and_no_root() {
    let Some(engine) = Engine::get() else { return };
    let image = engine.image();

    let field = |template: &str| run(&["docker", "inspect", "--format", template, image]).trim().to_owned();
    assert_eq!(field("{{.Config.User}}"), "70:70");
    assert_eq!(field("{{.Config.StopSignal}}"), "SIGTERM");
    assert_eq!(field("{{json .Config.ExposedPorts}}"), r#"{"6432/tcp":{}}"#);
    assert_eq!(field("{{json .Config.Healthcheck.Test}}"), r#"["CMD","/usr/bin/pgweir","--ping"]"#);
    let size: u64 = field("{{.Size}}").parse().unwrap();
    assert!(size < SIZE_MAX, "the image has {size} bytes");
    let files = engine.files_of(image);
    let programs: Vec<&str> = files
        .iter()
        .filter(|file| file.contains("bin/") && !file.ends_with('/'))
        .map(|file| file.split('/').next_back().unwrap())
        .collect();
    assert_eq!(programs, ["pgbouncer", "pgweir"], "no shell, nothing else to run: {files:#?}");
}

#[test]
fn every_name_that_compose_files_start_works() {
    let Some(engine) = Engine::get() else { return };

    for command in ["pgbouncer", "/usr/bin/pgbouncer", "pgweir", "/usr/bin/pgweir"] {
        let version = engine.run(&[], &[command, "--version"]);

        assert!(version.contains("PgBouncer 1.25") && version.contains("pam: no"), "{command}: {version}");
    }
}

#[test]
fn a_mounted_ini_is_served_by_any_user_without_rights_and_without_a_disk() {
    let Some(engine) = Engine::get() else { return };
    let folder = tempfile::tempdir().unwrap();
    share(folder.path());
    let ini = "[databases]\n* = host=127.0.0.1\n[pgbouncer]\nlisten_addr = *\nauth_type = trust\nadmin_users = me\n\
               auth_file = /etc/pgbouncer/userlist.txt\npidfile = /var/run/pgbouncer/pgbouncer.pid\n\
               logfile = /var/log/pgbouncer/pgbouncer.log\n";
    std::fs::write(folder.path().join("pgbouncer.ini"), ini.to_owned() + "user = pgbouncer\n").unwrap();
    std::fs::write(folder.path().join("other.ini"), ini.to_owned() + "listen_port = 7000\n").unwrap();
    std::fs::write(folder.path().join("userlist.txt"), "\"me\" \"\"\n").unwrap();
    let mount = ["--volume", &format!("{}:/etc/pgbouncer:ro", folder.path().display())];
    let strict = ["--read-only", "--cap-drop", "ALL", "--user", "12345:12345", "--security-opt", "no-new-privileges"];
    let tmpfs = ["--tmpfs", "/tmp", "--tmpfs", "/run/pgbouncer", "--tmpfs", "/var/log/pgbouncer"];

    for (options, command, port) in [
        (mount.to_vec(), &[][..], 6432),
        (mount.to_vec(), &["pgbouncer", "-v", "/etc/pgbouncer/pgbouncer.ini"], 6432),
        ([&mount[..], &strict, &tmpfs, &["--init"]].concat(), &["pgweir", "/etc/pgbouncer/other.ini"], 7000),
    ] {
        let container = engine.start(&options, command);

        // As the health check has it, which knows nothing of the container's command.
        assert_eq!(container.run(&["/usr/bin/pgweir", "--ping"]), format!("127.0.0.1:{port} answers\n"));
        // SIGTERM waits for clients, and there is none.
        assert_eq!(container.stop(), 0, "{}", container.logs());
    }
}

#[test]
fn the_compose_file_brings_up_postgresql_and_a_pooler_that_a_thousand_clients_share() {
    let Some(engine) = Engine::get() else { return };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/compose.yml");
    let project = Project::up(&engine, &[&file], &[("POSTGRES_PASSWORD", "it's \"100%\" secret")]);

    project.until_healthy("pgweir");

    let database = login("app", "it's \"100%\" secret", "app");
    block_on(pools_a_thousand_clients(&database, 25));
}

#[test]
fn a_compose_file_of_another_image_gives_what_its_authors_meant() {
    let Some(engine) = Engine::get() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (lan, server) = engine.free_lan("192.168.1", 87);
    let own = OTHER_IMAGE.replace("pgbouncer/pgbouncer:latest", engine.image()).replace("192.168.1.87", &server);
    let around = format!(
        "services:\n  pgbouncer:\n    networks: [lan]\n  postgres:\n    image: postgres:17\n    environment:\n      \
         POSTGRES_PASSWORD: your_password\n      POSTGRES_DB: ahsp_sni_db\n    networks:\n      lan:\n        \
         ipv4_address: {server}\nnetworks:\n  lan:\n    ipam:\n      config:\n        - subnet: {lan}\n"
    );
    let files = [("compose.yml", own), ("around.yml", around)].map(|(name, text)| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    });
    let project = Project::up(&engine, &[&files[0], &files[1]], &[("POSTGRES_PASSWORD", "your_password")]);

    project.until_healthy("pgbouncer");

    let application = login("postgres", "your_password", "ahsp_sni_db");
    block_on(pools_a_thousand_clients(&application, 25));
}

/// Transaction pooling, a thousand clients and no more, `servers` servers, SCRAM.
async fn pools_a_thousand_clients(application: &Config, servers: usize) {
    assert_eq!(authentication_asked_for(application.get_user().unwrap()), 10, "AuthenticationSASL");
    // The server may still be starting; a login before that fails.
    let first = eventually("a query through the pool is answered", async || connect(application).await.ok()).await;
    assert_eq!(value(&first, "SELECT current_database()").await, application.get_dbname().unwrap());
    let console = connect(application.clone().dbname("pgbouncer")).await.expect("the console lets its user in");
    let settings = table(&console, "SHOW CONFIG", &["key", "value"]).await;
    for (key, expected) in [
        ("pool_mode", "transaction"),
        ("max_client_conn", "1000"),
        ("default_pool_size", servers.to_string().as_str()),
        ("auth_type", "scram-sha-256"),
        ("listen_port", "6432"),
    ] {
        let found = settings.iter().find(|row| row[0] == key).unwrap_or_else(|| panic!("no {key} in SHOW CONFIG"));
        assert_eq!(found[1], expected, "{key}");
    }

    // With `first`, and not counting the console, a thousand.
    let _crowd = Crowd::of(999, application);
    eventually("a thousand clients are served by all servers there may be", async || {
        let pools = table(&console, "SHOW POOLS", &["database", "cl_active", "cl_waiting", "pool_mode"]).await;
        let pool = pools.into_iter().find(|row| row[0] == application.get_dbname().unwrap())?;
        let clients: usize = pool[1..3].iter().map(|count| count.parse::<usize>().unwrap()).sum();
        assert_eq!(pool[3], "transaction");
        let servers_now = table(&console, "SHOW SERVERS", &["database"]).await.len();
        assert!(clients <= 1000 && servers_now <= servers, "{clients} clients, {servers_now} servers");
        (clients == 1000 && servers_now == servers).then_some(())
    })
    .await;
    let refusal = connect(application).await.expect_err("one more than a thousand is refused");
    assert!(format!("{refusal:?}").contains("max_client_conn"), "{refusal:?}");
    assert_eq!(value(&first, "SELECT 'among a thousand'").await, "among a thousand");
}

/// Clients that stay and ask again and again: pgbench, for the speed of its logins.
struct Crowd(std::process::Child);

impl Crowd {
    fn of(clients: u32, application: &Config) -> Crowd {
        let ask = "pgbench=$(ls -d /usr/lib/postgresql/*/bin/pgbench 2>/dev/null | tail -n 1)
                   ulimit -n 4096
                   echo 'SELECT pg_sleep(0.05)' |
                   exec \"${pgbench:-pgbench}\" -n -h 127.0.0.1 -p 6432 -c \"$1\" -T 600 -f /dev/stdin";
        let mut shell = std::process::Command::new("timeout");
        // Killed or not, it ends.
        shell.args(["900", "bash", "-c", ask, "pgbench", &clients.to_string()]);
        shell.env("PGUSER", application.get_user().unwrap()).env("PGDATABASE", application.get_dbname().unwrap());
        shell.env("PGPASSWORD", std::str::from_utf8(application.get_password().unwrap()).unwrap());
        let quiet = std::process::Stdio::null;
        Crowd(shell.stdin(quiet()).stdout(quiet()).spawn().expect("a shell can be run"))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // `timeout` hands the signal on to all that it started.
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

fn block_on(deed: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(deed);
}

fn login(user: &str, password: &str, database: &str) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(6432).user(user).password(password).dbname(database);
    config
}

async fn connect(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn table(client: &Client, sql: &str, columns: &[&str]) -> Vec<Vec<String>> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            Some(columns.iter().map(|column| row.get(*column).unwrap_or_default().to_owned()).collect())
        }
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

async fn value(client: &Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

/// The code of the authentication request that a client of this name gets.
fn authentication_asked_for(user: &str) -> u32 {
    use std::io::{Read, Write};
    let mut hello = vec![0, 0, 0, 0, 0, 3, 0, 0];
    hello.extend_from_slice(format!("user\0{user}\0database\0app\0\0").as_bytes());
    let len = u32::try_from(hello.len()).unwrap();
    hello[..4].copy_from_slice(&len.to_be_bytes());
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", 6432)).unwrap();
    socket.write_all(&hello).unwrap();
    let mut answer = [0; 9];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(answer[0], b'R', "an authentication request");
    u32::from_be_bytes(answer[5..9].try_into().unwrap())
}

/// Lets everybody read this folder.
fn share(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}
