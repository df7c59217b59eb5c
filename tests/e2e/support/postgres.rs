//! One private PostgreSQL for the whole run: own data folder, loopback and Unix socket only, no fsync.
//!
//! Tests share it and stay apart by role: each asks for a role of its own ([`Postgres::role`]) and counts only that
//! role's backends. How a role must prove itself is decided by the group it is in: `by_password`, `by_md5`, `by_scram`;
//! all others are trusted.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::script::{Client, Login};
use super::tls::Authority;
use super::warden::{command_as_account, warden};
use super::{PATIENCE, eventually};

const CONF: &str = "\
fsync = off
full_page_writes = off
synchronous_commit = off
autovacuum = off
max_connections = 400
shared_buffers = 32MB
wal_level = logical
max_wal_senders = 40
max_replication_slots = 40
wal_keep_size = 512MB
listen_addresses = '127.0.0.1, 127.0.0.2, 127.0.0.3'
log_timezone = 'UTC'
timezone = 'UTC'
";

const HBA: &str = "\
local all all              trust
host  all +by_password all password
host  all +by_md5      all md5
host  all +by_scram    all scram-sha-256
host  all all          all trust
host  replication all  all trust
";

const HBA_ENCRYPTED: &str = "\
local   all all             trust
hostssl all +by_certificate all cert
hostssl all +by_both        all scram-sha-256 clientcert=verify-ca
hostssl all +by_scram       all scram-sha-256
host    all +in_clear       all trust
hostssl all all             all trust
";

/// The server that all tests of the run share.
pub(crate) struct Postgres {
    /// Its TCP port on 127.0.0.1 to 127.0.0.3, also the number in its Unix socket's name.
    pub(crate) port: u16,
    /// The folder its Unix socket is in.
    pub(crate) socket_dir: PathBuf,
}

impl Postgres {
    /// The run's server, started by whoever asks first.
    pub(crate) fn shared() -> &'static Postgres {
        static SERVER: OnceLock<Postgres> = OnceLock::new();
        SERVER.get_or_init(|| Postgres::start("postgres", "", HBA))
    }

    /// Another, which speaks TLS and takes nothing else from afar, but for roles in the group `in_clear`.
    pub(crate) fn encrypted() -> &'static Postgres {
        static SERVER: OnceLock<Postgres> = OnceLock::new();
        SERVER.get_or_init(|| {
            let authority = Authority::shared();
            let settings = format!(
                "ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\nssl_ca_file = '{}'\n",
                authority.server.certificate.display(),
                authority.server.key.display(),
                authority.certificate.display(),
            );
            Postgres::start("encrypted", &settings, HBA_ENCRYPTED)
        })
    }

    /// A new hot standby of the run's server, for one test: it may be promoted.
    pub(crate) fn standby() -> Postgres {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let primary = Postgres::shared();
        let name = format!("standby-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let data = warden().dir().join(&name);
        let copied = command_as_account(&bindir().join("pg_basebackup"))
            .current_dir(warden().dir())
            .args(["-h", "127.0.0.1", "-U", "postgres", "-R", "-X", "stream", "-c", "fast", "--no-sync", "-p"])
            .arg(primary.port.to_string())
            .arg("-D")
            .arg(&data)
            .output()
            .expect("pg_basebackup runs");
        assert!(copied.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&copied.stderr));
        Postgres::run(&name, free_port())
    }

    /// Makes a standby a primary.
    pub(crate) fn promote(&self) {
        assert_eq!(self.admin().value(&format!("SELECT pg_promote(true, {})", PATIENCE.as_secs())), "t");
    }

    fn start(name: &str, more: &str, hba: &str) -> Postgres {
        let dir = warden().dir();
        let data = dir.join(name);
        let initdb = command_as_account(&bindir().join("initdb"))
            .current_dir(dir)
            .args(["-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "-A", "trust", "-D"])
            .arg(&data)
            .output()
            .expect("initdb runs");
        assert!(initdb.status.success(), "initdb: {}", String::from_utf8_lossy(&initdb.stderr));

        let port = free_port();
        let settings = format!("{CONF}port = {port}\nunix_socket_directories = '{}'\n{more}", dir.display());
        fs::write(data.join("postgresql.auto.conf"), settings).unwrap();
        fs::write(data.join("pg_hba.conf"), hba).unwrap();
        let postgres = Postgres::run(name, port);
        postgres.furnish();
        postgres
    }

    /// Runs the server whose data folder has this name, and waits until it lets somebody in.
    #[expect(clippy::zombie_processes, reason = "the warden ends it, after this process has ended")]
    fn run(name: &str, port: u16) -> Postgres {
        let dir = warden().dir();
        let log_file = dir.join(format!("{name}.log"));
        let log = fs::File::create(&log_file).unwrap();
        let server = command_as_account(&bindir().join("postgres"))
            .current_dir(dir)
            .arg("-D")
            .arg(dir.join(name))
            .args(["-c", &format!("port={port}")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("postgres runs");
        warden().add_server(server.id());

        let postgres = Postgres { port, socket_dir: dir.to_path_buf() };
        postgres.await_start(&log_file);
        postgres
    }

    fn await_start(&self, log: &Path) {
        let deadline = Instant::now() + PATIENCE;
        while self.local().user("postgres").database("postgres").attempt().is_err() {
            let log = || fs::read_to_string(log).unwrap_or_default();
            assert!(Instant::now() < deadline, "PostgreSQL did not start:\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn furnish(&self) {
        let mut admin = self.local().user("postgres").database("postgres").client();
        admin.ok("CREATE ROLE by_password; CREATE ROLE by_md5; CREATE ROLE by_scram");
        admin.ok("CREATE ROLE by_certificate; CREATE ROLE by_both; CREATE ROLE in_clear");
        admin.ok("CREATE DATABASE e2e");
        self.admin().ok("GRANT ALL ON SCHEMA public TO PUBLIC");
    }

    /// A superuser's session in the database `e2e`, past any pooler.
    pub(crate) fn admin(&self) -> Client {
        self.local().user("postgres").database("e2e").client()
    }

    /// A login by way of its Unix socket.
    fn local(&self) -> Login {
        Login::to(self.port).unix(&self.socket_dir)
    }

    /// A new role that may log in, which the server trusts.
    pub(crate) fn role(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("app{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.admin().ok(&format!("CREATE ROLE {name} LOGIN"));
        name
    }

    /// A new database, with these options of CREATE DATABASE.
    pub(crate) fn database(&self, options: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("own{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.admin().ok(&format!("CREATE DATABASE {name} TEMPLATE template0 {options}"));
        name
    }

    /// A new role with a password, in the group that says how the server has it proven; returns the name and the
    /// secret as the server stores it.
    pub(crate) fn role_with_password(&self, group: &str, password: &str, encryption: &str) -> (String, String) {
        let name = self.role();
        let mut admin = self.admin();
        admin.ok(&format!("SET password_encryption = '{encryption}'; ALTER ROLE {name} PASSWORD '{password}'"));
        admin.ok(&format!("GRANT {group} TO {name}"));
        let stored = admin.value(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{name}'"));
        (name, stored)
    }

    /// How many backends the role has right now.
    pub(crate) fn backends(&self, role: &str) -> usize {
        self.pids(role).len()
    }

    /// Ends a backend and waits until its process is gone, so that its connection is closed.
    pub(crate) fn end(&self, pid: &str) {
        assert_eq!(self.admin().value(&format!("SELECT pg_terminate_backend({pid}, 30000)")), "t");
    }

    /// Waits until so many of the role's backends are inside `pg_sleep`.
    #[track_caller]
    pub(crate) fn until_sleeping(&self, role: &str, count: usize) {
        let mut admin = self.admin();
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}' AND wait_event = 'PgSleep'");
        eventually("pg_sleep runs", || (admin.value(&sql) == count.to_string()).then_some(()));
    }

    /// Waits until the role has so many backends. A connection that was closed may still have one for a moment.
    #[track_caller]
    pub(crate) fn until_backends(&self, role: &str, count: usize) {
        eventually(&format!("{role} has {count} backends"), || (self.backends(role) == count).then_some(()));
    }

    /// As [`Postgres::until_backends`], with so many at most.
    #[track_caller]
    pub(crate) fn until_backends_at_most(&self, role: &str, most: usize) {
        eventually(&format!("{role} has {most} backends"), || (self.backends(role) <= most).then_some(()));
    }

    /// A lock that is held until it is let go, so that a query lasts exactly as long as a test wants.
    pub(crate) fn lock(&self) -> Lock {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut holder = self.admin();
        holder.ok(&format!("SELECT pg_advisory_lock({number})"));
        Lock { holder, number }
    }

    /// The process ids of the role's backends.
    pub(crate) fn pids(&self, role: &str) -> Vec<String> {
        let sql = format!("SELECT pid FROM pg_stat_activity WHERE usename = '{role}' ORDER BY backend_start");
        self.admin().ok(&sql).rows().into_iter().map(|row| row[0].clone().unwrap()).collect()
    }
}

/// A lock in PostgreSQL, held by the test.
pub(crate) struct Lock {
    holder: Client,
    number: u32,
}

impl Lock {
    /// The query that lasts until the lock is let go, for any number of sessions; it answers with an empty text.
    pub(crate) fn wait(&self) -> String {
        format!("SELECT pg_advisory_xact_lock_shared({})", self.number)
    }

    /// Waits until so many sessions wait for it.
    #[track_caller]
    pub(crate) fn until_awaited(&mut self, count: usize) {
        let Lock { holder, number } = self;
        let sql =
            format!("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {number} AND NOT granted");
        eventually("the lock is waited for", || (holder.value(&sql) == count.to_string()).then_some(()));
    }

    /// Lets everybody have it.
    pub(crate) fn release(&mut self) {
        assert_eq!(self.holder.value(&format!("SELECT pg_advisory_unlock({})", self.number)), "t");
    }
}

/// The folder of the newest PostgreSQL's programs.
pub(crate) fn bindir() -> &'static Path {
    static BINDIR: OnceLock<PathBuf> = OnceLock::new();
    BINDIR.get_or_init(|| {
        let from_pg_config = Command::new("pg_config").arg("--bindir").output().ok();
        let told = from_pg_config.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
        let version = |path: &PathBuf| {
            path.parent().and_then(|dir| dir.file_name()?.to_str()?.parse::<u32>().ok()).unwrap_or_default()
        };
        let mut debian: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
            .map(|entries| entries.flatten().map(|entry| entry.path().join("bin")).collect())
            .unwrap_or_default();
        debian.sort_by_key(version);
        let known = told.into_iter().chain(debian.into_iter().rev()).find(|dir| dir.join("initdb").exists());
        known.expect("PostgreSQL's server programs are installed (apt-get install postgresql)")
    })
}

/// A loopback port for this test alone, below the range the kernel gives to outgoing connections.
///
/// It is bound until the run ends, by a socket that does not listen. Such a one is in the way of nobody who sets
/// SO_REUSEADDR and asks for this very port, as everybody here does, but no other run of these tests is given it, and
/// nor is who asks for any port.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static HELD: Mutex<Vec<Socket>> = Mutex::new(Vec::new());
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + ((std::process::id() * 613 + step) % 20_000) as u16;
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // First without the option: this asks whether anybody at all has it.
        if socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into()).is_ok() {
            socket.set_reuse_address(true).unwrap();
            HELD.lock().unwrap().push(socket);
            return port;
        }
    }
}
