//! The scratch folder of a run, and the user its servers run as.
//!
//! PostgreSQL and PgBouncer refuse to run as root. When the benchmark is started by root, everything it starts runs as
//! `postgres` (or `nobody`), in a folder that belongs to that user, from copies of the binaries that it can reach.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Outcome;

/// A folder that is removed, with all that is in it, when the run ends.
pub(crate) struct Scratch {
    folder: PathBuf,
    /// Whom to become; `None` when we are not root and stay who we are.
    user: Option<OsUser>,
}

struct OsUser {
    uid: u32,
    gid: u32,
}

impl Scratch {
    /// A new folder under the system's temporary one.
    ///
    /// # Errors
    /// When it cannot be made, or when root finds neither a user `postgres` nor `nobody`.
    pub(crate) fn create() -> Outcome<Scratch> {
        let user = if rustix::process::geteuid().is_root() { Some(unprivileged_user()?) } else { None };
        let folder = std::env::temp_dir().join(format!("pgweir-bench-{}", std::process::id()));
        fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let scratch = Scratch { folder, user };
        scratch.give_away(&scratch.folder)?;
        fs::set_permissions(&scratch.folder, fs::Permissions::from_mode(0o755)).map_err(|error| error.to_string())?;
        Ok(scratch)
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file that the servers' user owns.
    pub(crate) fn write(&self, name: &str, text: &str) -> Outcome<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        self.give_away(&path)?;
        Ok(path)
    }

    /// Copies a program to where the servers' user can reach and run it.
    pub(crate) fn adopt_program(&self, program: &Path, name: &str) -> Outcome<PathBuf> {
        let copy = self.path(name);
        fs::copy(program, &copy).map_err(|error| format!("{}: {error}", program.display()))?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).map_err(|error| error.to_string())?;
        Ok(copy)
    }

    /// A command run in the folder as the servers' user, its output going to `log` there.
    pub(crate) fn command(&self, program: &Path, log: &str) -> Outcome<Command> {
        let trouble = |error: std::io::Error| format!("{log}: {error}");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path(log)).map_err(trouble)?;
        let mut command = Command::new(program);
        command.current_dir(&self.folder).stdin(Stdio::null());
        command.stdout(log.try_clone().map_err(trouble)?).stderr(log);
        if let Some(ref user) = self.user {
            command.uid(user.uid).gid(user.gid).env("HOME", &self.folder);
        }
        Ok(command)
    }

    /// The last lines of a log in the folder, for an error message.
    pub(crate) fn tail(&self, log: &str) -> String {
        let text = fs::read(self.path(log)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    pub(crate) fn give_away(&self, path: &Path) -> Outcome<()> {
        let Some(ref user) = self.user else { return Ok(()) };
        chown(path, Some(user.uid), Some(user.gid)).map_err(|error| format!("{}: {error}", path.display()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing to do about a failure at this point but to leave the folder where it is.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A loopback port that was free a moment ago.
pub(crate) fn free_port() -> Outcome<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| format!("no free port: {error}"))?;
    Ok(listener.local_addr().map_err(|error| error.to_string())?.port())
}

fn unprivileged_user() -> Outcome<OsUser> {
    let accounts = fs::read_to_string("/etc/passwd").map_err(|error| format!("/etc/passwd: {error}"))?;
    let find = |name: &str| {
        accounts
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|account| account[0] == name)
            .and_then(|account| Some(OsUser { uid: account.get(2)?.parse().ok()?, gid: account.get(3)?.parse().ok()? }))
    };
    find("postgres")
        .or_else(|| find("nobody"))
        .ok_or("run by root, and there is neither a user postgres nor nobody to run servers as".to_owned())
}
