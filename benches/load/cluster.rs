//! The private PostgreSQL that every contender stands before.
//!
//! Its data is in the scratch folder, it listens on a free loopback port, and it forgoes durability (`fsync = off`):
//! what is measured is what stands between the client and it, so the less the disk has to say, the better.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::scratch::{Scratch, free_port};
use crate::{Outcome, check_interrupted};

/// Every role's password.
pub(crate) const PASSWORD: &str = "bench-secret";
/// The role whose stored secret is SCRAM.
pub(crate) const SCRAM_ROLE: &str = "bench";
/// The role whose stored secret is md5.
pub(crate) const MD5_ROLE: &str = "bench_md5";
/// The one database.
pub(crate) const DATABASE: &str = "bench";

/// A running PostgreSQL; stopped when dropped.
pub(crate) struct Cluster {
    pub(crate) port: u16,
    /// The private key with which it and all poolers speak TLS: of the commonest kind, RSA of 2,048 bits.
    pub(crate) key: PathBuf,
    pub(crate) certificate: PathBuf,
    programs: PathBuf,
    socket_folder: PathBuf,
    server: Child,
}

impl Cluster {
    /// Initialises a data folder, starts the server on it and fills pgbench's tables.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or will not start; the end of its log is in the text.
    pub(crate) fn start(scratch: &Scratch, scale: u32) -> Outcome<Cluster> {
        let programs = programs()?;
        let data = scratch.path("data");
        let mut initdb = scratch.command(&programs.join("initdb"), "initdb.log")?;
        initdb.args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--pgdata"]);
        finish(initdb.arg(&data), "initdb", || scratch.tail("initdb.log"))?;
        scratch.write("data/pg_hba.conf", HBA)?;

        let (key, certificate) = certify(scratch)?;
        let port = free_port()?;
        let mut server = scratch.command(&programs.join("postgres"), "postgres.log")?;
        server.arg("-D").arg(&data).arg("-k").arg(scratch.path(""));
        server.args(["-p", &port.to_string(), "-h", "127.0.0.1"]);
        for setting in SETTINGS {
            server.args(["-c", setting]);
        }
        for (setting, file) in [("ssl_key_file", &key), ("ssl_cert_file", &certificate)] {
            server.arg("-c").arg(format!("{setting}={}", file.display()));
        }
        let server = server.spawn().map_err(|error| format!("postgres: {error}"))?;
        let mut cluster = Cluster { port, key, certificate, programs, socket_folder: scratch.path(""), server };
        cluster.wait_until_up(scratch)?;
        cluster.fill(scale)?;
        Ok(cluster)
    }

    /// One of PostgreSQL's own client programs, pointed at nothing yet.
    pub(crate) fn client(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.env("PGPASSWORD", PASSWORD).env("PGCONNECT_TIMEOUT", "30");
        command
    }

    /// How many backends serve our roles at this moment, the asking one left out.
    pub(crate) fn backends(&self) -> Outcome<f64> {
        let count = self.sql("select count(*) from pg_stat_activity where usename like 'bench%'")?;
        count.trim().parse().map_err(|_| format!("psql said \"{count}\""))
    }

    /// Runs one statement as the superuser and returns what it prints.
    fn sql(&self, statement: &str) -> Outcome<String> {
        let mut psql = self.client("psql");
        psql.arg("-h").arg(&self.socket_folder).args([
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
            "-d",
            "postgres",
        ]);
        let output = psql.args(["-XqAtc", statement]).output().map_err(|error| format!("psql: {error}"))?;
        if !output.status.success() {
            return Err(format!("{statement}: {}", String::from_utf8_lossy(&output.stderr)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn wait_until_up(&mut self, scratch: &Scratch) -> Outcome<()> {
        let patience = Instant::now() + Duration::from_secs(60);
        while self.sql("select 1").is_err() {
            check_interrupted()?;
            let ended = self.server.try_wait().map_err(|error| error.to_string())?.is_some();
            if ended || Instant::now() > patience {
                return Err(format!("PostgreSQL does not start:\n{}", scratch.tail("postgres.log")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn fill(&self, scale: u32) -> Outcome<()> {
        self.sql(&format!(
            "set password_encryption = 'scram-sha-256'; create role {SCRAM_ROLE} login password '{PASSWORD}'"
        ))?;
        self.sql(&format!(
            "set password_encryption = 'md5'; create role {MD5_ROLE} login password '{PASSWORD}' in role {SCRAM_ROLE}"
        ))?;
        self.sql(&format!("create database {DATABASE} owner {SCRAM_ROLE}"))?;
        let mut pgbench = self.client("pgbench");
        pgbench.arg("-h").arg(&self.socket_folder).args(["-p", &self.port.to_string(), "-U", SCRAM_ROLE]);
        let output = pgbench.args(["-i", "-q", "-s", &scale.to_string(), DATABASE]).output();
        let output = output.map_err(|error| format!("pgbench: {error}"))?;
        if !output.status.success() {
            return Err(format!("pgbench -i: {}", String::from_utf8_lossy(&output.stderr)));
        }
        self.sql("checkpoint").map(drop)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // SIGQUIT is PostgreSQL's immediate shutdown: nothing here is worth a checkpoint.
        if let Some(pid) = Pid::from_raw(self.server.id() as i32) {
            let _ = kill_process(pid, Signal::QUIT);
        }
        let _ = self.server.wait();
    }
}

/// Loopback by password, the socket in the scratch folder by trust (the benchmark's own questions).
const HBA: &str = "\
local all all trust
host all bench_md5 127.0.0.1/32 md5
host all all 127.0.0.1/32 scram-sha-256
";

/// Enough memory for the tables, no disk in the way, nothing running by itself.
const SETTINGS: [&str; 9] = [
    "max_connections=200",
    "shared_buffers=256MB",
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "max_wal_size=4GB",
    "autovacuum=off",
    "jit=off",
    "ssl=on",
];

/// A new key, and a certificate that it has signed itself.
fn certify(scratch: &Scratch) -> Outcome<(PathBuf, PathBuf)> {
    let (key, certificate) = (scratch.path("tls.key"), scratch.path("tls.crt"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=localhost"]);
    let output = openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate).output();
    let output = output.map_err(|error| format!("openssl: {error}"))?;
    if !output.status.success() {
        return Err(format!("openssl: {}", String::from_utf8_lossy(&output.stderr)));
    }
    scratch.give_away(&key)?;
    scratch.give_away(&certificate)?;
    Ok((key, certificate))
}

/// Where PostgreSQL's programs are: asked of `pg_config`, else the newest of Debian's.
fn programs() -> Outcome<PathBuf> {
    let mut places = Vec::new();
    if let Ok(entries) = fs::read_dir("/usr/lib/postgresql") {
        places = entries.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
        places.sort_by_key(|path| version_of(path));
    }
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        places.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    let complete =
        |place: &PathBuf| ["initdb", "postgres", "pgbench", "psql"].iter().all(|name| place.join(name).exists());
    places
        .into_iter()
        .rev()
        .find(complete)
        .ok_or("PostgreSQL with pgbench is not installed: run `make deps`".to_owned())
}

/// The `15` of `/usr/lib/postgresql/15/bin`.
fn version_of(programs: &Path) -> u32 {
    let version = programs.parent().and_then(|folder| folder.file_name()).and_then(|name| name.to_str());
    version.and_then(|name| name.parse().ok()).unwrap_or(0)
}

fn finish(command: &mut Command, name: &str, log: impl Fn() -> String) -> Outcome<()> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name}: {status}\n{}", log())),
        Err(error) => Err(format!("{name}: {error}")),
    }
}
