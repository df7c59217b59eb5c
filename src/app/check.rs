//! What `--check` tries beyond reading: can the sockets and files that the settings name be had?
//!
//! It is asked beside a process that runs with the same settings, so no port is taken that may be held and no file is
//! made: addresses are tried with a port of the kernel's choice, and folders are asked whether they may be written to.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{Access, access};

use crate::config::Config;
use crate::net::listen::{ListenOptions, rehearse};

/// Whether this process has the rights that the pooler will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// It has, so what it may not do is a problem.
    Same,
    /// The pooler is to become another user.
    Others,
}

/// What was found; each with the file and line of its setting in front.
#[derive(Debug, Default)]
pub struct Findings {
    /// With these the process would not start.
    pub problems: Vec<String>,
    /// It would start without these.
    pub notices: Vec<String>,
}

/// Tries what can be tried.
pub fn try_out(config: &Config, rights: Rights) -> Findings {
    let settings = &config.settings;
    let at = |setting: &str| {
        let given = config.given.iter().find(|given| given.name == setting);
        given.map_or_else(|| format!("default {setting}"), |given| given.place.to_string())
    };
    let rehearsal = rehearse(&ListenOptions::from_settings(settings));
    let mut findings = Findings {
        problems: rehearsal.errors.iter().map(|(setting, error)| format!("{}: {error}", at(setting))).collect(),
        notices: rehearsal.warnings.iter().map(|error| format!("{}: {error}", at("listen_addr"))).collect(),
    };
    let named = |dir: &&String| !dir.is_empty() && !dir.starts_with('@');
    let socket_dir = settings.unix_socket_dir.as_ref().filter(named).map(|dir| may_add_to(Path::new(dir), rights));
    let logfile = settings.logfile.as_deref().map(|file| match fs::metadata(file) {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => may(file, Access::WRITE_OK, rights),
        Err(_) => may_add_to(folder_of(file), rights),
    });
    let pidfile = settings.pidfile.as_deref().map(|file| may_add_to(folder_of(file), rights));
    for (setting, value, tried) in [
        ("unix_socket_dir", settings.unix_socket_dir.as_deref().map(Path::new), socket_dir),
        ("logfile", settings.logfile.as_deref(), logfile),
        ("pidfile", settings.pidfile.as_deref(), pidfile),
    ] {
        if let (Some(value), Some(Err(error))) = (value, tried) {
            findings.problems.push(format!("{}: {setting}: cannot write {value:?}: {error}", at(setting)));
        }
    }
    findings
}

/// May a file be made in this folder?
fn may_add_to(folder: &Path, rights: Rights) -> io::Result<()> {
    match fs::metadata(folder)?.is_dir() {
        true => may(folder, Access::WRITE_OK | Access::EXEC_OK, rights),
        false => Err(io::ErrorKind::NotADirectory.into()),
    }
}

fn may(path: &Path, what: Access, rights: Rights) -> io::Result<()> {
    match rights {
        Rights::Same => Ok(access(path, what)?),
        Rights::Others => Ok(()),
    }
}

/// Where a file is made.
fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
