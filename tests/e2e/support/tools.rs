//! psql, pgbench and Python as the tests run them: real programs, a clean environment, bounded time.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::postgres::bindir;
use super::warden::warden;
use super::{PATIENCE, eventually};

/// What a program did.
pub(crate) struct Outcome {
    /// Whether it ended with status 0.
    pub(crate) success: bool,
    /// Its standard output.
    pub(crate) stdout: String,
    /// Its standard error.
    pub(crate) stderr: String,
}

impl Outcome {
    /// The standard output; the test fails unless the program succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert!(self.success, "failed:\n{}\n{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// Runs psql with a connection string and further arguments; answers are unaligned, without headings.
pub(crate) fn psql(conninfo: &str, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(bindir().join("psql"));
    command.args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", conninfo]).args(arguments);
    run(command)
}

/// Runs pgbench with a connection string and further arguments.
pub(crate) fn pgbench(conninfo: &str, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(bindir().join("pgbench"));
    command.args(arguments).arg(conninfo);
    run(command)
}

/// Runs one of the scripts in `tests/e2e/drivers` with Python and psycopg 3.
pub(crate) fn python(script: &str, arguments: &[&str]) -> Outcome {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/drivers").join(script);
    let mut command = Command::new(interpreter());
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(path).args(arguments);
    run(command)
}

fn interpreter() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let has_psycopg = |python: &&str| {
            let mut import = Command::new(python);
            import.args(["-c", "import psycopg"]).stdout(Stdio::null()).stderr(Stdio::null());
            import.status().is_ok_and(|status| status.success())
        };
        let found = ["/usr/bin/python3", "python3"].into_iter().find(has_psycopg);
        PathBuf::from(found.expect("a Python with psycopg 3 (apt-get install python3-psycopg)"))
    })
}

/// Runs one of PostgreSQL's programs to its end.
pub(crate) fn postgres_tool(program: &str, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(bindir().join(program));
    command.args(arguments);
    run(command)
}

/// One of PostgreSQL's programs that runs until it is told to end; killed when the test is over.
pub(crate) struct Running {
    child: Child,
    ended: bool,
}

impl Running {
    /// Starts it; what it says goes to the test's own stderr.
    pub(crate) fn start(program: &str, arguments: &[&str]) -> Running {
        let mut command = Command::new(bindir().join(program));
        clean(command.args(arguments));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        warden().add(child.id());
        Running { child, ended: false }
    }

    /// Sends a signal and waits for its end; whether it ended with status 0.
    pub(crate) fn end(&mut self, signal: Signal) -> bool {
        kill_process(Pid::from_child(&self.child), signal).expect("it is there to get a signal");
        self.wait()
    }

    /// Waits for its end; whether it ended with status 0.
    pub(crate) fn wait(&mut self) -> bool {
        let status = eventually("the program ends", || self.child.try_wait().unwrap());
        self.ended = true;
        warden().forget(self.child.id());
        status.success()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
            warden().forget(self.child.id());
        }
    }
}

/// No setting of whoever runs the tests reaches the program.
fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    command.env("PGCONNECT_TIMEOUT", PATIENCE.as_secs().to_string()).current_dir(warden().dir());
}

fn run(mut command: Command) -> Outcome {
    clean(&mut command);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    warden().add(child.id());
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let errors = std::thread::spawn(move || read(&mut stderr));
    let output = std::thread::spawn(move || read(&mut stdout));
    let deadline = Instant::now() + 5 * PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    warden().forget(child.id());
    let outcome = Outcome {
        success: status.is_some_and(|status| status.success()),
        stdout: output.join().unwrap(),
        stderr: errors.join().unwrap(),
    };
    assert!(status.is_some(), "{command:?} took too long:\n{}\n{}", outcome.stdout, outcome.stderr);
    outcome
}

fn read(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
