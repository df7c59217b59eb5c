//! The pooler under test, as an operator runs it: a `pgbouncer.ini`, an `auth_file`, a process, signals, a log.
//!
//! The program is the crate's own binary, or the one `PGWEIR_TEST_EXE` names: the same tests run against PgBouncer.
//! When a [`Proxy`] goes away its process is killed; a test that has not failed also checks that the process was still
//! alive and that its log tells of no panic.

use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use rustix::process::{Pid, Signal, kill_process};

use super::postgres::free_port;
use super::script::{Client, Login, Table};
use super::warden::{account, command_as_account, warden};
use super::{Postgres, eventually};

/// What a proxy is started with. The database is `app`, the role a new one that needs no password anywhere.
pub(crate) struct Setup {
    role: String,
    server_port: u16,
    settings: Vec<(String, String)>,
    databases: Vec<(String, String)>,
    users: Vec<(String, String)>,
    peers: Vec<(u16, String)>,
    secrets: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    own_database: String,
    raw: Option<String>,
    file: Option<String>,
    port: Option<u16>,
    exe: Option<PathBuf>,
    named: bool,
    launch: Launch,
}

/// How the program is run.
#[derive(Clone, Default)]
struct Launch {
    /// A program that becomes the pooler, and its arguments before the pooler's own command line.
    wrapper: Vec<String>,
    /// The name to run it under.
    name: Option<String>,
    /// Before the configuration file.
    arguments: Vec<String>,
    /// As whoever runs the tests, root perhaps.
    as_root: bool,
}

/// A running pooler.
pub(crate) struct Proxy {
    /// Its TCP port on 127.0.0.1.
    pub(crate) port: u16,
    /// The role that [`Proxy::client`] logs in as, this test's own.
    pub(crate) role: String,
    /// The folder with its configuration; its Unix socket too, where it is told to have one.
    pub(crate) dir: PathBuf,
    setup: Mutex<Setup>,
    child: Mutex<Child>,
    ended: Mutex<Option<ExitStatus>>,
}

impl Setup {
    /// Transaction pooling with `auth_type = trust`, a console user `admin` and a stats user `stats`.
    pub(crate) fn new() -> Setup {
        let server = Postgres::shared();
        let role = server.role();
        let mut setup = Setup {
            role: role.clone(),
            server_port: server.port,
            settings: Vec::new(),
            databases: Vec::new(),
            users: Vec::new(),
            peers: Vec::new(),
            secrets: Vec::new(),
            environment: Vec::new(),
            own_database: "app".to_owned(),
            raw: None,
            file: Some("pgbouncer.ini".to_owned()),
            port: None,
            exe: None,
            named: true,
            launch: Launch::default(),
        };
        for (name, value) in [
            ("listen_addr", "127.0.0.1"),
            ("unix_socket_dir", ""),
            ("auth_type", "trust"),
            ("admin_users", "admin"),
            ("stats_users", "stats"),
            ("pool_mode", "transaction"),
        ] {
            setup = setup.set(name, value);
        }
        setup.secret("admin", "admin-secret").secret("stats", "stats-secret").secret(&role, "")
    }

    /// A server whose client leaves in the middle is closed at once, as by PgBouncer.
    pub(crate) fn closing_abandoned_servers(self) -> Setup {
        match is_pgbouncer() {
            true => self,
            false => self.set("cancel_abandoned_queries", 0).set("abandoned_query_timeout", 0),
        }
    }

    /// A setting of `[pgbouncer]`; the last word counts.
    pub(crate) fn set(mut self, name: &str, value: impl ToString) -> Setup {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }

    /// Where `app` and the databases made by [`Setup::database`] are: a gate's port instead of the server's.
    pub(crate) fn through(mut self, port: u16) -> Setup {
        self.server_port = port;
        self
    }

    /// An entry of `[databases]`: the server and `dbname` are filled in unless given.
    pub(crate) fn database(mut self, name: &str, rest: &str) -> Setup {
        self.databases.retain(|(known, _)| known != name);
        self.databases.push((name.to_owned(), rest.to_owned()));
        self
    }

    /// Has this entry of `[databases]` in place of `app`.
    pub(crate) fn rename_own_database(mut self, name: &str) -> Setup {
        self.own_database = name.to_owned();
        self
    }

    /// An entry of `[users]`.
    pub(crate) fn user(mut self, name: &str, rest: &str) -> Setup {
        self.users.retain(|(known, _)| known != name);
        self.users.push((name.to_owned(), rest.to_owned()));
        self
    }

    /// An entry of `[users]` for this test's role.
    pub(crate) fn own_user(self, rest: &str) -> Setup {
        let role = self.role.clone();
        self.user(&role, rest)
    }

    /// An entry of `[peers]`.
    pub(crate) fn peer(mut self, id: u16, rest: &str) -> Setup {
        self.peers.retain(|(known, _)| *known != id);
        self.peers.push((id, rest.to_owned()));
        self
    }

    /// Takes an entry of `[peers]` out.
    pub(crate) fn without_peer(mut self, id: u16) -> Setup {
        self.peers.retain(|(known, _)| *known != id);
        self
    }

    /// Listens on this port, which others may share, and on a Unix socket in its folder.
    pub(crate) fn shares_port(mut self, port: u16) -> Setup {
        self.port = Some(port);
        self.set("so_reuseport", 1).set("unix_socket_dir", "@DIR@")
    }

    /// Runs another program than the one under test.
    pub(crate) fn program(mut self, exe: &Path) -> Setup {
        self.exe = Some(exe.to_path_buf());
        self
    }

    /// A line of `auth_file`.
    pub(crate) fn secret(mut self, user: &str, secret: &str) -> Setup {
        self.secrets.retain(|(known, _)| known != user);
        self.secrets.push((user.to_owned(), secret.to_owned()));
        self
    }

    /// An environment variable of the pooler.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Setup {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Replaces the whole configuration file; `@PORT@` in it (and in the environment) stands for the port to listen on,
    /// `@DIR@` for the folder the file is in.
    pub(crate) fn raw(mut self, text: &str) -> Setup {
        self.raw = Some(text.to_owned());
        self
    }

    /// Names the configuration file something else than `pgbouncer.ini`; `None`: there is none.
    pub(crate) fn file(mut self, name: Option<&str>) -> Setup {
        self.file = name.map(str::to_owned);
        self
    }

    /// Writes the configuration file, but does not name it on the command line.
    pub(crate) fn by_environment(mut self) -> Setup {
        self.named = false;
        self
    }

    /// An argument of the command line, before the configuration file.
    pub(crate) fn argument(mut self, argument: &str) -> Setup {
        self.launch.arguments.push(argument.to_owned());
        self
    }

    /// Runs the program under this name.
    pub(crate) fn called(mut self, name: &str) -> Setup {
        self.launch.name = Some(name.to_owned());
        self
    }

    /// Runs another program that becomes the pooler, whose command line follows these words; `@PORT@` and `@DIR@` as in
    /// [`Setup::raw`].
    pub(crate) fn wrapped(mut self, words: &[&str]) -> Setup {
        self.launch.wrapper = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Runs the program as whoever runs the tests, even as root.
    pub(crate) fn privileged(mut self) -> Setup {
        self.launch.as_root = true;
        self
    }

    /// The role that clients of this proxy log in as.
    pub(crate) fn role(&self) -> &str {
        &self.role
    }

    /// Starts the pooler and waits until it answers.
    pub(crate) fn start(self) -> Proxy {
        let shared = self.port.is_some();
        let proxy = self.spawn();
        eventually("the pooler listens", || {
            let ended = proxy.try_wait();
            assert!(ended.is_none(), "the pooler ended ({ended:?}) instead of starting:\n{}", proxy.log());
            // Hang up and wait until the pooler has, too: this visit must not count against max_client_conn.
            if shared {
                // Whoever answers on the port may be another.
                let socket = proxy.dir.join(format!(".s.PGSQL.{}", proxy.port));
                return std::os::unix::net::UnixStream::connect(socket).ok().map(drop);
            }
            let mut visit = std::net::TcpStream::connect(("127.0.0.1", proxy.port)).ok()?;
            visit.shutdown(std::net::Shutdown::Write).ok()?;
            visit.read_to_end(&mut Vec::new()).ok().map(drop)
        });
        proxy
    }

    /// Starts the pooler, which is expected to refuse its configuration; returns its exit status and its log.
    pub(crate) fn refused(self) -> (ExitStatus, String) {
        let proxy = self.spawn();
        let status = proxy.wait();
        (status, proxy.log())
    }

    /// Starts the program and waits for nothing.
    pub(crate) fn spawn(self) -> Proxy {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let dir = warden().dir().join(format!("pooler-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&dir).unwrap();
        if let Some(account) = account() {
            std::os::unix::fs::chown(&dir, Some(account.uid), Some(account.gid)).unwrap();
        }
        let port = self.port.unwrap_or_else(free_port);
        self.write(&dir, port);
        let child = self.run(&dir, port, &self.program_in(&dir), &[]);
        let role = self.role.clone();
        Proxy { port, role, dir, setup: Mutex::new(self), child: Mutex::new(child), ended: Mutex::new(None) }
    }

    /// The program to run, under the name it is to have.
    fn program_in(&self, dir: &Path) -> PathBuf {
        let exe = self.exe.as_deref().unwrap_or_else(|| exe());
        let Some(name) = &self.launch.name else { return exe.to_owned() };
        let program = dir.join(name);
        std::os::unix::fs::symlink(exe, &program).unwrap();
        program
    }

    /// Runs a pooler with these files; what it says is appended to its log.
    fn run(&self, dir: &Path, port: u16, program: &Path, options: &[&str]) -> Child {
        let log = fs::File::options().create(true).append(true).open(dir.join("stderr.log")).unwrap();
        let fill = |text: &str| text.replace("@PORT@", &port.to_string()).replace("@DIR@", &dir.display().to_string());
        let mut words: Vec<String> = self.launch.wrapper.iter().map(|word| fill(word)).collect();
        words.push(program.display().to_string());
        words.extend(self.launch.arguments.iter().cloned());
        words.extend(options.iter().map(|option| (*option).to_owned()));
        let mut command = match self.launch.as_root {
            true => Command::new(&words[0]),
            false => command_as_account(Path::new(&words[0])),
        };
        command.args(&words[1..]);
        command.env_clear().envs(self.environment.iter().map(|(name, value)| (name, fill(value))));
        command.current_dir(dir).args(self.file.iter().filter(|_| self.named)).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("the pooler can be run");
        warden().add(child.id());
        child
    }

    fn write(&self, dir: &Path, port: u16) {
        let ini = match &self.raw {
            Some(raw) => raw.replace("@PORT@", &port.to_string()).replace("@DIR@", &dir.display().to_string()),
            None => self.ini(dir, port),
        };
        let mut secrets = String::new();
        for (user, secret) in &self.secrets {
            writeln!(secrets, "\"{}\" \"{}\"", user.replace('"', "\"\""), secret.replace('"', "\"\"")).unwrap();
        }
        let file = self.file.as_deref().unwrap_or("pgbouncer.ini");
        for (name, text) in [(file, ini), ("userlist.txt", secrets)] {
            let path = dir.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        }
    }

    fn ini(&self, dir: &Path, port: u16) -> String {
        let mut ini = String::from("[databases]\n");
        let own = (self.own_database.clone(), String::new());
        let known = self.databases.iter().any(|(name, _)| *name == own.0);
        for (name, rest) in self.databases.iter().chain((!known).then_some(&own)) {
            let mut line = format!("{name} =");
            if !rest.contains("host=") {
                write!(line, " host=127.0.0.1 port={}", self.server_port).unwrap();
            }
            if !rest.contains("dbname=") && name != "*" {
                line.push_str(" dbname=e2e");
            }
            writeln!(ini, "{line} {rest}").unwrap();
        }
        ini.push_str("[users]\n");
        for (name, rest) in &self.users {
            writeln!(ini, "{name} = {rest}").unwrap();
        }
        if !self.peers.is_empty() {
            // PgBouncer before 1.21 does not know the section.
            ini.push_str("[peers]\n");
        }
        for (id, rest) in &self.peers {
            writeln!(ini, "{id} = {rest}").unwrap();
        }
        writeln!(ini, "[pgbouncer]\nlisten_port = {port}\nauth_file = {}/userlist.txt", dir.display()).unwrap();
        for (name, value) in &self.settings {
            writeln!(ini, "{name} = {}", value.replace("@DIR@", &dir.display().to_string())).unwrap();
        }
        ini
    }
}

impl Proxy {
    /// The ordinary pooler of [`Setup::new`].
    pub(crate) fn start() -> Proxy {
        Setup::new().start()
    }

    /// A login as this test's role to the database `app`.
    pub(crate) fn login(&self) -> Login {
        Login::to(self.port).user(&self.role).database("app")
    }

    /// A session as this test's role in the database `app`.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        self.login().client()
    }

    /// An administrator's session in the console.
    #[track_caller]
    pub(crate) fn console(&self) -> Client {
        Login::to(self.port).user("admin").password("admin-secret").database("pgbouncer").client()
    }

    /// An administrator's session by way of the Unix socket, which no other process shares.
    #[track_caller]
    pub(crate) fn own_console(&self) -> Client {
        let login = Login::to(self.port).unix(&self.dir);
        login.user("admin").password("admin-secret").database("pgbouncer").client()
    }

    /// What a `SHOW` command answers.
    #[track_caller]
    pub(crate) fn show(&self, what: &str) -> Table {
        let mut console = self.console();
        let table = console.table(&format!("SHOW {what}"));
        // Gone before anybody counts.
        console.leave();
        table
    }

    /// Asks a `SHOW` command again and again until its table satisfies `check`.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, check: impl Fn(&Table) -> bool) -> Table {
        let mut console = self.console();
        let sql = format!("SHOW {what}");
        let mut last = None;
        let deadline = std::time::Instant::now() + super::PATIENCE;
        loop {
            let table = console.table(&sql);
            if check(&table) {
                console.leave();
                return table;
            }
            assert!(std::time::Instant::now() < deadline, "{sql} never satisfied the test: {last:?}");
            last = Some(table);
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Waits until a column of this role's row of `SHOW POOLS` (database `app`) has the value.
    #[track_caller]
    pub(crate) fn until_pool(&self, column: &str, value: usize) {
        let value = value.to_string();
        self.until("POOLS", |pools| {
            let row = pools.find(&[("database", "app"), ("user", &self.role)]);
            row.map_or(value == "0", |row| row[column] == value)
        });
    }

    /// Waits until this role has no server connection left.
    #[track_caller]
    pub(crate) fn until_serverless(&self) {
        self.until("SERVERS", |servers| servers.find(&[("user", &self.role)]).is_none());
    }

    /// Changes what the pooler was set up with and writes its files anew; it learns of them by RELOAD or HUP.
    pub(crate) fn rewrite(&self, change: impl FnOnce(Setup) -> Setup) {
        let mut setup = self.setup.lock().unwrap();
        let blank = Setup {
            role: String::new(),
            server_port: 0,
            settings: Vec::new(),
            databases: Vec::new(),
            users: Vec::new(),
            peers: Vec::new(),
            secrets: Vec::new(),
            environment: Vec::new(),
            own_database: String::new(),
            raw: None,
            file: None,
            port: None,
            exe: None,
            named: true,
            launch: Launch::default(),
        };
        *setup = change(std::mem::replace(&mut *setup, blank));
        setup.write(&self.dir, self.port);
    }

    /// Replaces the process by a new one that takes over its sockets (`-R`), of the program under test.
    #[track_caller]
    pub(crate) fn reboot(&self) {
        self.reboot_into(exe());
    }

    /// As [`Proxy::reboot`], where the new process is of this program.
    #[track_caller]
    pub(crate) fn reboot_into(&self, program: &Path) {
        let mut new = self.successor(program);
        let status = eventually("the old process ends", || {
            let failed = new.try_wait().unwrap();
            assert!(failed.is_none(), "the new process ended ({failed:?}):\n{}", self.log());
            self.try_wait()
        });
        assert_eq!(status.code(), Some(0), "{}", self.log());
        *self.child.lock().unwrap() = new;
        *self.ended.lock().unwrap() = None;
    }

    /// As [`Proxy::reboot`], where the new process must give up and leave the old one alone.
    #[track_caller]
    pub(crate) fn failed_reboot(&self) -> ExitStatus {
        let mut new = self.successor(exe());
        let status = eventually("the new process gives up", || new.try_wait().unwrap());
        warden().forget(new.id());
        status
    }

    /// Starts the process again, which must have ended, with these options, and waits until it answers.
    #[track_caller]
    pub(crate) fn start_again(&self, options: &[&str]) {
        assert!(self.try_wait().is_some(), "it has ended");
        *self.child.lock().unwrap() = self.setup.lock().unwrap().run(&self.dir, self.port, exe(), options);
        *self.ended.lock().unwrap() = None;
        eventually("the pooler listens", || std::net::TcpStream::connect(("127.0.0.1", self.port)).ok());
    }

    fn successor(&self, program: &Path) -> Child {
        self.setup.lock().unwrap().run(&self.dir, self.port, program, &["-R"])
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the pooler is there to get a signal");
    }

    /// Waits until the process has ended by itself.
    #[track_caller]
    pub(crate) fn wait(&self) -> ExitStatus {
        eventually("the pooler ends", || self.try_wait())
    }

    /// The exit status, if the process has ended.
    pub(crate) fn try_wait(&self) -> Option<ExitStatus> {
        let mut ended = self.ended.lock().unwrap();
        if ended.is_none() {
            let mut child = self.child.lock().unwrap();
            *ended = child.try_wait().unwrap();
            if ended.is_some() {
                warden().forget(child.id());
            }
        }
        *ended
    }

    /// Everything it has written to stderr.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("stderr.log")).unwrap_or_default()).into_owned()
    }

    /// Waits until the log has `text` in it.
    #[track_caller]
    pub(crate) fn until_log(&self, text: &str) {
        eventually(&format!("the log says {text:?}"), || self.log().contains(text).then_some(()));
    }

    /// Memory that the process keeps data in, now, in KiB. Pages of the program itself do not count: when they are
    /// loaded, and when the kernel takes them back, is no doing of ours.
    pub(crate) fn data_kib(&self) -> i64 {
        let sums = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid().as_raw_nonzero())).unwrap();
        let line = sums.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Processor time used by the process so far, all threads together.
    pub(crate) fn cpu(&self) -> std::time::Duration {
        self.cpu_of("stat")
    }

    /// Processor time used so far by the thread that began the process: in pgweir the first worker, which runs whatever
    /// must not be delayed.
    pub(crate) fn cpu_of_first_thread(&self) -> std::time::Duration {
        self.cpu_of(&format!("task/{}/stat", self.pid().as_raw_nonzero()))
    }

    fn cpu_of(&self, file: &str) -> std::time::Duration {
        let stat = fs::read_to_string(format!("/proc/{}/{file}", self.pid().as_raw_nonzero())).unwrap();
        let after_name = stat.rsplit(')').next().unwrap();
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // Linux counts in hundredths of a second for all programs, whatever its own clock does.
        std::time::Duration::from_millis(ticks * 10)
    }

    /// The process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child.lock().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let ended = self.try_wait();
        if ended.is_none() {
            let mut child = self.child.lock().unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
            warden().forget(child.id());
        }
        let log = self.log();
        if std::thread::panicking() {
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the end of the pooler's log ---\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
            return;
        }
        let orderly = ended.is_none_or(|status| status.code().is_some());
        assert!(orderly, "the pooler crashed: {ended:?}\n{log}");
        assert!(!log.contains("panicked at"), "the pooler panicked:\n{log}");
    }
}

/// Whether a process is there, and not just waits for its parent to hear of its end.
pub(crate) fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next()).is_some_and(|state| !"ZX".contains(state))
}

/// Runs the program under test with these arguments alone.
pub(crate) fn bare(arguments: &[&str]) -> std::process::Output {
    bare_with(arguments, &[])
}

/// Runs the program under test with these arguments and environment variables alone.
pub(crate) fn bare_with(arguments: &[&str], environment: &[(&str, &str)]) -> std::process::Output {
    let mut command = command_as_account(exe());
    command.env_clear().envs(environment.iter().copied()).current_dir(warden().dir()).args(arguments);
    command.output().expect("the pooler can be run")
}

/// Runs the program under test with these arguments alone, under this path.
pub(crate) fn bare_named(path: Option<&Path>, arguments: &[&str]) -> std::process::Output {
    let mut command = command_as_account(path.unwrap_or(exe()));
    command.env_clear().current_dir(warden().dir()).args(arguments);
    command.output().expect("the pooler can be run")
}

/// Writes a file that the program under test may read, in the folder that goes with the run; its path.
pub(crate) fn shared_file(name: &str, text: &str) -> String {
    let path = warden().dir().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    path.display().to_string()
}

/// The program under test. Where the tests run as root it is a copy that another user may run.
pub(crate) fn exe() -> &'static Path {
    static EXE: OnceLock<PathBuf> = OnceLock::new();
    EXE.get_or_init(|| {
        let given = std::env::var_os("PGWEIR_TEST_EXE").map(PathBuf::from);
        let exe = given.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_pgweir")));
        if account().is_none() {
            return exe;
        }
        let copy = warden().dir().join("pooler-under-test");
        // A copy written by this process could be "busy" for as long as a child forked meanwhile keeps it open.
        let copied = Command::new("cp").arg(&exe).arg(&copy).status().expect("cp runs");
        assert!(copied.success(), "cannot copy {}", exe.display());
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        copy
    })
}

/// Whether the program under test is PgBouncer: it names the event library it was built with.
pub(crate) fn is_pgbouncer() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let version = Command::new(exe()).arg("-V").output().expect("the pooler tells its version");
        String::from_utf8_lossy(&version.stdout).contains("libevent")
    })
}
