//! The contenders, and one of them running.
//!
//! All poolers are given the same `pgbouncer.ini` and `userlist.txt`, character for character but for the port. A
//! contender is started afresh for each measurement, so that no row inherits another's memory or connections.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, DATABASE, MD5_ROLE, PASSWORD, SCRAM_ROLE};
use crate::options::Options;
use crate::scratch::{Scratch, free_port};
use crate::{Outcome, check_interrupted};

/// Server connections that each pooler may open.
pub(crate) const POOL_SIZE: u32 = 25;

/// How clients prove themselves to the pooler.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Auth {
    Scram,
    Md5,
    /// SCRAM over TLS, with a key of the commonest kind: RSA, 2,048 bits.
    ScramTls,
}

impl Auth {
    /// The role to log in as: its secret in PostgreSQL is of the same kind, so that the row without pooler compares.
    pub(crate) fn role(self) -> &'static str {
        match self {
            Auth::Scram | Auth::ScramTls => SCRAM_ROLE,
            Auth::Md5 => MD5_ROLE,
        }
    }

    fn setting(self) -> &'static str {
        match self {
            Auth::Scram | Auth::ScramTls => "scram-sha-256",
            Auth::Md5 => "md5",
        }
    }
}

/// What a contender is there for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// pgweir.
    Ours,
    /// The PgBouncer all ratios are to.
    Measure,
    /// Another pooler, for comparison.
    Beside,
    /// PostgreSQL without pooler.
    Direct,
}

/// One column of the table.
pub(crate) struct Contender {
    pub(crate) part: Part,
    /// The column's heading.
    pub(crate) name: String,
    /// What the program says of itself.
    pub(crate) version: String,
    /// The program; `None` for clients that go straight to PostgreSQL.
    program: Option<PathBuf>,
    /// The file name of the program's copy, which also names its files.
    label: String,
}

/// Who takes part: pgweir first, then the PgBouncers (the first is the measure), no pooler last.
///
/// # Errors
/// When a program named on the command line is not there.
pub(crate) fn line_up(options: &Options, scratch: &Scratch) -> Outcome<Vec<Contender>> {
    let mut contenders = vec![Contender::adopt(Part::Ours, "pgweir", &options.pgweir, "pgweir", scratch)?];
    let installed = Path::new("/usr/sbin/pgbouncer");
    let mut pgbouncers = options.pgbouncers.clone();
    if installed.exists() && !pgbouncers.iter().any(|path| path == installed) {
        pgbouncers.push(installed.to_owned());
    }
    if pgbouncers.is_empty() {
        return Err("no PgBouncer to compare with: run `make deps`, or name one with --pgbouncer".into());
    }
    for (number, path) in pgbouncers.iter().enumerate() {
        let version = first_line_of_version(path);
        let mut name = if version.is_empty() { path.display().to_string() } else { version };
        if contenders.iter().any(|other| other.name == name) {
            name = format!("{name} #{}", number + 1);
        }
        let part = if number == 0 { Part::Measure } else { Part::Beside };
        contenders.push(Contender::adopt(part, &name, path, &format!("pgbouncer-{number}"), scratch)?);
    }
    contenders.push(Contender {
        part: Part::Direct,
        name: "no pooler".into(),
        version: String::new(),
        program: None,
        label: "direct".into(),
    });
    Ok(contenders)
}

impl Contender {
    fn adopt(part: Part, name: &str, program: &Path, label: &str, scratch: &Scratch) -> Outcome<Contender> {
        let version = first_line_of_version(program);
        let program = Some(scratch.adopt_program(program, label)?);
        Ok(Contender { part, name: name.into(), version, program, label: label.into() })
    }

    /// Starts the pooler and waits until it listens.
    ///
    /// # Errors
    /// When it ends or does not listen within ten seconds; the end of its log is in the text.
    pub(crate) fn start(
        &self,
        auth: Auth,
        threads: Option<u32>,
        cluster: &Cluster,
        scratch: &Scratch,
    ) -> Outcome<Running> {
        let encrypts = auth == Auth::ScramTls;
        let Some(ref program) = self.program else {
            return Ok(Running { port: cluster.port, role: auth.role(), encrypts, process: None });
        };
        let port = free_port()?;
        let userlist = scratch.write("userlist.txt", &userlist())?;
        let mut ini = ini(cluster.port, port, auth, &userlist);
        if encrypts {
            ini.push_str(&tls(cluster));
        }
        let ini = scratch.write(&format!("{}.ini", self.label), &ini)?;
        let log = format!("{}.log", self.label);
        let mut command = scratch.command(program, &log)?;
        command.arg(&ini);
        if let Some(threads) = threads {
            command.env("PGWEIR_WORKER_THREADS", threads.to_string());
        }
        let process = command.spawn().map_err(|error| format!("{}: {error}", self.name))?;
        let mut running = Running { port, role: auth.role(), encrypts, process: Some(process) };
        let patience = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            check_interrupted()?;
            if running.has_ended() || Instant::now() > patience {
                return Err(format!("{} does not start:\n{}", self.name, scratch.tail(&log)));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(running)
    }
}

/// A contender that clients can connect to; ended when dropped.
pub(crate) struct Running {
    pub(crate) port: u16,
    pub(crate) role: &'static str,
    /// Whether clients must come by TLS.
    pub(crate) encrypts: bool,
    process: Option<Child>,
}

impl Running {
    /// The pooler's process; `None` without pooler.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| !matches!(process.try_wait(), Ok(None)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(ref mut process) = self.process {
            // What it has measured is measured: no need to let it say farewell to anyone.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn userlist() -> String {
    format!("\"{SCRAM_ROLE}\" \"{PASSWORD}\"\n\"{MD5_ROLE}\" \"{PASSWORD}\"\n")
}

/// The settings for TLS.
fn tls(cluster: &Cluster) -> String {
    let (key, certificate) = (cluster.key.display(), cluster.certificate.display());
    format!("client_tls_sslmode = require\nclient_tls_key_file = {key}\nclient_tls_cert_file = {certificate}\n")
}

/// Only names that PgBouncer has known since long before 1.18, so that every one of them reads the same file.
fn ini(server_port: u16, port: u16, auth: Auth, userlist: &Path) -> String {
    let auth_type = auth.setting();
    let userlist = userlist.display();
    format!(
        "[databases]\n\
         {DATABASE} = host=127.0.0.1 port={server_port} dbname={DATABASE}\n\
         \n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = {auth_type}\n\
         auth_file = {userlist}\n\
         pool_mode = transaction\n\
         default_pool_size = {POOL_SIZE}\n\
         max_client_conn = 12000\n\
         server_tls_sslmode = disable\n\
         log_connections = 0\n\
         log_disconnections = 0\n"
    )
}

/// The first line that `program -V` prints, or nothing.
fn first_line_of_version(program: &Path) -> String {
    let Ok(output) = Command::new(program).arg("-V").output() else { return String::new() };
    String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("").trim().to_owned()
}
