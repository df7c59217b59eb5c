//! PAM as tests have it: the system's own library and modules, whose services are read from a folder of the test's by
//! way of pam_wrapper.
//!
//! That keeps something for each process in one of the 62 folders `/tmp/pam.?`, and where it finds one that a dead
//! process has left, takes it away; two that do so at the same time take away each other's. So tests take turns with
//! it, and begin by removing such leftovers.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::Pid;

use super::proxy::is_alive;
use super::warden::{account, warden};
use super::{Proxy, Setup};

thread_local! {
    /// Held until the test is over, which has a thread of its own.
    static TURN: RefCell<Option<MutexGuard<'static, ()>>> = const { RefCell::new(None) };
}

/// The services of a test.
pub(crate) struct Services {
    /// The folder they are in, which the pooler may write to.
    pub(crate) dir: PathBuf,
}

/// The service `pgbouncer`, or any other: who is in the list of [`Services::new`].
pub(crate) const LISTED: &str = "auth required MATRIX passdb=DIR/users\naccount required MATRIX passdb=DIR/users\n";

impl Services {
    /// Services by name; in their text, `MATRIX` and `CHATTY` stand for the modules pam_matrix and pam_chatty, `DIR`
    /// for a folder of the test's.
    /// `users` are lines of `name:password:service`: the right password, and the only service to let the user in.
    /// The console's user is added for `pgbouncer`.
    pub(crate) fn new(services: &[(&str, &str)], users: &str) -> Services {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        take_turn();
        let dir = warden().dir().join(format!("pam-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(dir.join("services")).unwrap();
        if let Some(account) = account() {
            chown(&dir, Some(account.uid), Some(account.gid)).unwrap();
        }
        let (matrix, chatty) = (library("pam_wrapper/pam_matrix.so"), library("pam_wrapper/pam_chatty.so"));
        for (name, text) in services {
            let text = text.replace("MATRIX", &matrix).replace("CHATTY", &chatty);
            let text = text.replace("DIR", &dir.display().to_string());
            write(&dir.join("services").join(name), &text);
        }
        write(&dir.join("users"), &format!("admin:admin-secret:pgbouncer\n{users}"));
        Services { dir }
    }

    /// Has the pooler find them.
    pub(crate) fn of(&self, setup: Setup) -> Setup {
        setup
            .environment("LD_PRELOAD", &library("libpam_wrapper.so"))
            .environment("PAM_WRAPPER", "1")
            .environment("PAM_WRAPPER_SERVICE_DIR", &self.dir.join("services").display().to_string())
    }
}

fn take_turn() {
    static ONE: Mutex<()> = Mutex::new(());
    TURN.with_borrow_mut(|turn| {
        if turn.is_none() {
            *turn = Some(ONE.lock().unwrap_or_else(PoisonError::into_inner));
            remove_leftovers();
        }
    });
}

/// Removes what pam_wrapper keeps for processes that are dead. What cannot be removed is somebody else's.
fn remove_leftovers() {
    for folder in fs::read_dir("/tmp").unwrap().flatten().map(|entry| entry.path()) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.len() != "pam.?".len() || !name.starts_with("pam.") {
            continue;
        }
        let owner =
            fs::read_to_string(folder.join("pid")).ok().and_then(|text| Pid::from_raw(text.trim().parse().ok()?));
        if owner.is_some_and(|owner| !is_alive(owner)) {
            let _ = fs::remove_dir_all(&folder);
        }
    }
}

/// The processes that check a password for this pooler, which has no others; one that nobody has waited for counts.
pub(crate) fn checkers(proxy: &Proxy) -> Vec<Pid> {
    let parent = format!("PPid:\t{}", proxy.pid().as_raw_nonzero());
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let process = entry.ok()?.path();
        let id: i32 = process.file_name()?.to_str()?.parse().ok()?;
        let status = fs::read_to_string(process.join("status")).ok()?;
        status.lines().any(|line| line == parent).then(|| Pid::from_raw(id))?
    });
    processes.collect()
}

/// A library, in the folder of whatever machine this is.
fn library(name: &str) -> String {
    let folders = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let found = folders.map(|folder| folder.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is there (apt-get install libpam-wrapper)")).display().to_string()
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}
