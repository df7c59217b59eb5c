//! The guarantee that nothing outlives the run.
//!
//! A small shell reads process ids from a pipe that only this process holds open. When this process ends, be it by
//! returning, panicking or `kill -9`, the pipe ends too; the shell then kills what is still on its list, stops
//! PostgreSQL and removes the run's folder. It sits in a process group of its own, so Ctrl-C reaches it only as the end
//! of that pipe.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use rustix::process::{Resource, getrlimit, setrlimit};

const SCRIPT: &str = r#"
dir=$1
live=" "
servers=
while read -r verb pid; do
    case $verb in
        add) live="$live$pid " ;;
        del) case $live in *" $pid "*) live="${live%% $pid *} ${live#* $pid }" ;; esac ;;
        server) servers="$servers $pid" ;;
    esac
done
for pid in $live; do kill -KILL "$pid"; done
for pid in $servers; do kill -QUIT "$pid"; done
left=200
while ls "$dir"/*/postmaster.pid && [ $left -gt 0 ]; do sleep 0.05; left=$((left - 1)); done
[ $left -gt 0 ] || for pid in $servers; do kill -KILL "$pid"; done
rm -rf "$dir"
"#;

/// The run's folder and the pipe to its keeper.
pub(crate) struct Warden {
    dir: PathBuf,
    pipe: Mutex<ChildStdin>,
}

/// The one warden of the run.
pub(crate) fn warden() -> &'static Warden {
    static WARDEN: OnceLock<Warden> = OnceLock::new();
    WARDEN.get_or_init(Warden::start)
}

impl Warden {
    fn start() -> Warden {
        let dir =
            tempfile::Builder::new().prefix("pgweir-e2e-").tempdir().expect("the run's folder can be made").keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        if let Some(account) = account() {
            std::os::unix::fs::chown(&dir, Some(account.uid), Some(account.gid)).unwrap();
        }
        raise_file_limit();
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", SCRIPT, "warden"]).arg(&dir).current_dir("/").process_group(0);
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let pipe = shell.spawn().expect("/bin/sh runs").stdin.take().unwrap();
        Warden { dir, pipe: Mutex::new(pipe) }
    }

    /// The folder that vanishes with the run; poolers and PostgreSQL may write in it.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// This process must not outlive the run.
    pub(crate) fn add(&self, pid: u32) {
        self.tell("add", pid);
    }

    /// This process has ended and was waited for: its id may be another's soon.
    pub(crate) fn forget(&self, pid: u32) {
        self.tell("del", pid);
    }

    /// This process is PostgreSQL, to be stopped last and gently enough that it frees its shared memory.
    pub(crate) fn add_server(&self, pid: u32) {
        self.tell("server", pid);
    }

    fn tell(&self, verb: &str, pid: u32) {
        let mut pipe = self.pipe.lock().unwrap();
        writeln!(pipe, "{verb} {pid}").expect("the warden listens");
    }
}

/// A thousand clients need two thousand descriptors, more than many systems hand out unasked. Children inherit the
/// limit.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the soft limit may be raised to the hard one");
}

/// The account that PostgreSQL and the poolers run as.
#[derive(Clone, Copy)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Whom to become before starting anything: `postgres`, else `nobody`, where the tests run as root (which PostgreSQL
/// and PgBouncer refuse); nobody else otherwise.
pub(crate) fn account() -> Option<Account> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2).map(|field| field.parse::<u32>().unwrap());
        Some(Account { uid: fields.next()?, gid: fields.next()? })
    };
    Some(find("postgres").or_else(|| find("nobody")).expect("a user postgres or nobody exists"))
}

/// A command that will run as [`account`].
pub(crate) fn command_as_account(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some(account) = account() {
        command.uid(account.uid).gid(account.gid);
    }
    command.stdin(Stdio::null());
    command
}
