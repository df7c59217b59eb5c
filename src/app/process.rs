//! The process among others: its user, its pidfile, its place in the background, its file descriptors.
//!
//! The order at start, PgBouncer's own: read the configuration as whoever started us, [`become_user`], [`refuse_root`],
//! [`Pidfile::check`], step into the background ([`start_in_background`] here, [`Detached::begin`] there),
//! [`raise_descriptor_limit`], listen, [`Pidfile::write`], [`Detached::ready`].
//!
//! PgBouncer forks into the background. A program that may have threads cannot fork safely, so the one that the
//! operator started runs itself once more, detached, and stays until that one says over a pipe that it is ready, or why
//! not: `pgweir -d` fails visibly where PgBouncer's `-d` is already gone.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Uid, User};
use rustix::process::{Pid, Resource, Rlimit};

use super::cli::DETACHED;

/// Becomes another user, for good: the `user` setting or `-u`. Does nothing for one who is that user already.
///
/// All groups but the user's own are given up, as PgBouncer does.
///
/// # Errors
/// There is no such user, or only root may do this and we are not.
pub fn become_user(name: &str) -> Result<(), ProcessError> {
    let failed = |source: nix::Error| ProcessError::User { name: name.to_owned(), source: Some(source.into()) };
    let Some(user) = User::from_name(name).map_err(failed)? else {
        return Err(ProcessError::User { name: name.to_owned(), source: None });
    };
    if user.uid == Uid::current() && user.uid == Uid::effective() {
        return Ok(());
    }
    if Uid::effective().is_root() {
        nix::unistd::setgroups(&[user.gid]).map_err(failed)?;
    }
    nix::unistd::setgid(user.gid).map_err(failed)?;
    nix::unistd::setuid(user.uid).map_err(failed)?;
    let became = Uid::current() == user.uid && Uid::effective() == user.uid && Gid::effective() == user.gid;
    if became { Ok(()) } else { Err(failed(nix::Error::EPERM)) }
}

/// Nobody needs root to pool connections, and a proxy that strangers talk to must not have it.
///
/// # Errors
/// We are root.
pub fn refuse_root() -> Result<(), ProcessError> {
    if Uid::current().is_root() || Uid::effective().is_root() { Err(ProcessError::Root) } else { Ok(()) }
}

/// The file that says which process is running. Removed on drop.
#[derive(Debug)]
pub struct Pidfile {
    path: PathBuf,
}

impl Pidfile {
    /// Finds out, before anything is touched, whether another process holds the file. One that a dead process left is
    /// removed, and true returned; so is one with our own number, which a container that is started again finds.
    ///
    /// # Errors
    /// Another process holds it, or it holds no number, or it cannot be read or removed.
    pub fn check(path: &Path) -> Result<bool, ProcessError> {
        let failed = |call| move |source| ProcessError::Pidfile { call, path: path.to_owned(), source };
        let Some(text) = read_beginning(path).map_err(failed("open"))? else { return Ok(false) };
        match holder(&text) {
            Some(pid) if pid == rustix::process::getpid() || is_gone(pid) => {
                fs::remove_file(path).map_err(failed("remove stale"))?;
                Ok(true)
            }
            holder => Err(ProcessError::Held { path: path.to_owned(), pid: holder.map(Pid::as_raw_pid) }),
        }
    }

    /// Writes our number into a new file.
    ///
    /// # Errors
    /// The file exists, or cannot be written.
    pub fn write(path: &Path) -> Result<Pidfile, ProcessError> {
        let failed = |call| {
            move |source: io::Error| match source.kind() {
                io::ErrorKind::AlreadyExists => ProcessError::Held { path: path.to_owned(), pid: None },
                _ => ProcessError::Pidfile { call, path: path.to_owned(), source },
            }
        };
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o644).open(path).map_err(failed("open"))?;
        // From here on the file is ours to remove, whatever fails.
        let pidfile = Pidfile { path: path.to_owned() };
        file.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(failed("write"))?;
        Ok(pidfile)
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        let ours = matches!(read_beginning(&self.path), Ok(Some(text))
            if text.is_empty() || holder(&text) == Some(rustix::process::getpid()));
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove pidfile \"{}\": {error}", self.path.display());
        }
    }
}

/// The first bytes of a file, more than any number has; none where there is no file.
fn read_beginning(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(128).read_to_end(&mut text).map(|_| Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The process that a pidfile names: its leading number.
fn holder(text: &[u8]) -> Option<Pid> {
    let text = text.trim_ascii_start();
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    Pid::from_raw(std::str::from_utf8(&text[..digits]).ok()?.parse().ok()?)
}

/// Is there no such process? One that we may not signal is there.
fn is_gone(pid: Pid) -> bool {
    rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH)
}

/// Runs this program once more, in the background, under the name `program` and with these arguments, and waits until
/// it serves.
///
/// # Errors
/// It could not be started, or it gave up; its own words are in the error.
pub fn start_in_background(program: &OsStr, arguments: &[OsString]) -> Result<(), ProcessError> {
    let mut command = Command::new(std::env::current_exe().map_err(ProcessError::Background)?);
    command.arg0(program).arg(format!("--{DETACHED}")).args(arguments);
    start_and_wait(command)
}

/// What the background half says when it serves.
const READY: &str = "ready\n";

/// The most that it may say otherwise, in bytes.
const REASON_MAX: u64 = 65_536;

fn start_and_wait(mut command: Command) -> Result<(), ProcessError> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(ProcessError::Background)?;
    let mut answer = String::new();
    if let Some(pipe) = child.stdout.take() {
        pipe.take(REASON_MAX).read_to_string(&mut answer).map_err(ProcessError::Background)?;
    }
    if answer == READY {
        return Ok(());
    }
    let status = child.wait().map_err(ProcessError::Background)?;
    let reason = if answer.trim().is_empty() { format!("it ended with {status}") } else { answer.trim().to_owned() };
    Err(ProcessError::GaveUp { reason })
}

/// This process as the background half: the one that started it still waits.
#[derive(Debug)]
pub struct Detached(());

impl Detached {
    /// Leaves the terminal's session. stdin and stderr are nowhere already, stdout goes to the one who waits.
    ///
    /// # Errors
    /// We lead a process group, so we were not started by [`start_in_background`].
    pub fn begin() -> Result<Detached, ProcessError> {
        rustix::process::setsid().map_err(|errno| ProcessError::Background(errno.into()))?;
        Ok(Detached(()))
    }

    /// Tells the one who waits that we serve, and lets it go.
    ///
    /// # Errors
    /// There is no /dev/null.
    pub fn ready(self) -> io::Result<()> {
        self.tell(READY);
        let nowhere = OpenOptions::new().write(true).open("/dev/null")?;
        Ok(rustix::stdio::dup2_stdout(&nowhere)?)
    }

    /// Tells the one who waits why we cannot serve. The process must end now.
    pub fn failed(self, reason: &dyn fmt::Display) {
        self.tell(&reason.to_string());
    }

    fn tell(&self, text: &str) {
        let mut stdout = io::stdout();
        // Nobody may be waiting any more; then nobody needs to know.
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    }
}

/// How many file descriptors the process may have; none is without limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorLimit {
    /// The limit that holds.
    pub soft: Option<u64>,
    /// The most that it could be raised to.
    pub hard: Option<u64>,
}

/// Raises the limit on file descriptors as far as we may, and returns what holds then.
///
/// The usual soft limit of 1024 is for programs that use `select`; each client and each server here takes one.
pub fn raise_descriptor_limit() -> DescriptorLimit {
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    let soft = match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    };
    DescriptorLimit { soft, hard: maximum }
}

/// How many file descriptors the settings may need: PgBouncer's count, which has a user and two servers for the
/// console. `pools` has for each database its pool_size, and whether all its users share one pool (a forced user);
/// `users` is the number of users in the auth_file.
pub fn expected_descriptors(max_client_conn: u64, pools: impl IntoIterator<Item = (u64, bool)>, users: u64) -> u64 {
    let servers = pools.into_iter().map(|(size, shared)| if shared { size } else { size.saturating_mul(users + 1) });
    servers.fold(max_client_conn.saturating_add(10 + 2), u64::saturating_add)
}

/// What to warn of when the limit is less than the settings may need.
pub fn descriptor_shortage(limit: DescriptorLimit, expected: u64) -> Option<String> {
    let soft = limit.soft.filter(|&soft| soft < expected)?;
    Some(format!(
        "file descriptor limit {soft} is less than the {expected} that max_client_conn and pools may need: raise it \
         (ulimit -n, LimitNOFILE=), or clients will be turned away"
    ))
}

/// Why the process cannot be what it should.
#[derive(Debug)]
pub enum ProcessError {
    /// The user cannot be assumed.
    User {
        /// Its name.
        name: String,
        /// The kernel's reason; none where there is no such user.
        source: Option<io::Error>,
    },
    /// We are root.
    Root,
    /// Another process holds the pidfile.
    Held {
        /// The file.
        path: PathBuf,
        /// The process, where the file has a number.
        pid: Option<i32>,
    },
    /// The pidfile cannot be opened, written or removed.
    Pidfile {
        /// Which of these.
        call: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// There is no background to be had.
    Background(io::Error),
    /// The background half ended before it served.
    GaveUp {
        /// Its words.
        reason: String,
    },
}

impl fmt::Display for ProcessError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProcessError::User { name, source: None } => write!(out, "could not find user '{name}' to switch to"),
            ProcessError::User { name, source: Some(source) } => {
                write!(out, "failed to assume identity of user '{name}': {source}")
            }
            ProcessError::Root => out.write_str(
                "PgBouncer should not run as root, and so should not pgweir: name another user with the \
                               user setting or -u",
            ),
            ProcessError::Held { path, pid: Some(pid) } => {
                write!(out, "pidfile '{}' exists, another instance running? (process {pid})", path.display())
            }
            ProcessError::Held { path, pid: None } => write!(
                out,
                "pidfile '{}' exists, another instance running? (if none is, remove the file)",
                path.display()
            ),
            ProcessError::Pidfile { call, path, source } => {
                write!(out, "could not {call} pidfile '{}': {source}", path.display())
            }
            ProcessError::Background(source) => write!(out, "cannot start in the background: {source}"),
            ProcessError::GaveUp { reason } => write!(out, "could not start: {reason}"),
        }
    }
}

impl std::error::Error for ProcessError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ProcessError::User { source: Some(source), .. }
            | ProcessError::Pidfile { source, .. }
            | ProcessError::Background(source) => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn pidfile(text: &str) -> (TempDir, PathBuf) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("pgweir.pid");
        fs::write(&path, text).unwrap();
        (dir, path)
    }

    /// The number of a process that has ended and been waited for.
    fn dead_pid() -> u32 {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn no_pidfile_stands_in_nobodys_way() {
        let dir = TempDir::new().unwrap();

        assert!(!Pidfile::check(&dir.path().join("pgweir.pid")).unwrap());
    }

    #[test]
    fn a_pidfile_holds_our_number_and_goes_with_us() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("pgweir.pid");

        let pidfile = Pidfile::write(&path).unwrap();

        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(pidfile);
        assert!(!path.exists());
    }

    #[test]
    fn a_live_process_keeps_its_pidfile() {
        let (_dir, path) = pidfile("1\n");

        let error = Pidfile::check(&path).unwrap_err().to_string();

        assert!(error.ends_with("exists, another instance running? (process 1)"), "{error}");
        assert!(matches!(Pidfile::write(&path), Err(ProcessError::Held { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
    }

    #[test]
    fn a_dead_process_and_our_own_number_are_stale() {
        for pid in [dead_pid(), std::process::id()] {
            let (_dir, path) = pidfile(&format!("{pid}\n"));

            assert!(Pidfile::check(&path).unwrap());

            assert!(!path.exists());
        }
    }

    #[test]
    fn a_pidfile_without_a_number_is_somebodys() {
        for text in ["", "nonsense", "0\n", "-1\n", "99999999999999999999\n"] {
            let (_dir, path) = pidfile(text);

            assert!(matches!(Pidfile::check(&path), Err(ProcessError::Held { pid: None, .. })), "{text}");
        }
    }

    #[test]
    fn a_pidfile_that_another_process_took_over_is_left() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("pgweir.pid");
        let pidfile = Pidfile::write(&path).unwrap();
        fs::write(&path, "1\n").unwrap();

        drop(pidfile);

        assert!(path.exists());
    }

    #[test]
    fn a_pidfile_in_a_missing_directory_says_so() {
        let error = Pidfile::write(Path::new("/nonexistent/pgweir.pid")).unwrap_err().to_string();

        assert_eq!(error, "could not open pidfile '/nonexistent/pgweir.pid': No such file or directory (os error 2)");
    }

    #[test]
    fn the_one_who_waits_hears_how_the_start_went() {
        start_and_wait(shell("echo ready; exec >/dev/null")).unwrap();

        let gave_up = start_and_wait(shell("echo nowhere to listen on; exit 1")).unwrap_err().to_string();
        let silent = start_and_wait(shell("exit 3")).unwrap_err().to_string();

        assert_eq!(gave_up, "could not start: nowhere to listen on");
        assert_eq!(silent, "could not start: it ended with exit status: 3");
    }

    #[test]
    fn an_unknown_user_is_named() {
        let error = become_user("no-such-user").unwrap_err().to_string();

        assert_eq!(error, "could not find user 'no-such-user' to switch to");
    }

    #[test]
    fn becoming_who_one_is_changes_nothing() {
        let user = User::from_uid(Uid::current()).unwrap().unwrap();

        become_user(&user.name).unwrap();
    }

    #[test]
    fn the_limit_is_raised_to_the_hard_one() {
        let limit = raise_descriptor_limit();

        assert_eq!(limit.soft, limit.hard);
    }

    #[test]
    fn the_expected_use_is_pgbouncers_count() {
        assert_eq!(expected_descriptors(100, [(20, false), (5, true)], 2), 100 + 10 + 60 + 5 + 2);
        assert_eq!(expected_descriptors(100, [(u64::MAX, false)], 2), u64::MAX);
    }

    #[test]
    fn a_shortage_is_worth_a_warning() {
        let limit = |soft| DescriptorLimit { soft, hard: None };

        assert!(
            descriptor_shortage(limit(Some(1024)), 1025).unwrap().starts_with("file descriptor limit 1024 is less")
        );
        assert_eq!(descriptor_shortage(limit(Some(1024)), 1024), None);
        assert_eq!(descriptor_shortage(limit(None), u64::MAX), None);
    }
}
