//! Listening sockets that a service manager passes: socket activation, `sd_listen_fds(3)`.
//!
//! Where there are any, they take the place of `listen_addr` and `unix_socket_dir`, as in PgBouncer. The manager keeps
//! its own copies: clients that come while the process is away wait for the next one, and the file of a Unix socket is
//! the manager's to remove.

use std::fmt::Display;
use std::io;

use listenfd::ListenFd;
use socket2::SockRef;

use crate::config::Settings;

use super::listen::{ListenError, ListenSocket, Listener, Listening};
use super::sockopt::TcpOptions;

/// The descriptors that a manager may pass; `from_env` makes a list of as many as the variable says.
const PASSED_MAX: usize = 1024;

/// The first descriptor that is passed.
const FIRST: usize = 3;

/// Sockets that were passed, as they came.
#[derive(Debug)]
pub struct Passed {
    sockets: Vec<ListenSocket>,
}

/// Takes the sockets that the environment says were passed to this process; none is the usual case. Called once, and
/// before there is a second thread: the variables that told of them are removed, so that no child believes them.
///
/// # Errors
/// One of them is not a listening stream socket, TCP or Unix.
pub fn take() -> Result<Option<Passed>, ListenError> {
    if !is_for_us(&variable("LISTEN_PID"), &variable("LISTEN_FDS"), std::process::id()) {
        return Ok(None);
    }
    let mut found = ListenFd::from_env();
    let sockets = (0..found.len()).map(|index| {
        take_one(&mut found, index).map_err(|source| ListenError::Passed { number: FIRST + index, source })
    });
    let sockets = sockets.collect::<Result<Vec<_>, _>>()?;
    Ok((!sockets.is_empty()).then_some(Passed { sockets }))
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// Without LISTEN_PID, or with another process' number, the variables are somebody else's.
fn is_for_us(listen_pid: &str, listen_fds: &str, pid: u32) -> bool {
    listen_pid.parse() == Ok(pid) && listen_fds.parse().is_ok_and(|count| (1..=PASSED_MAX).contains(&count))
}

fn take_one(found: &mut ListenFd, index: usize) -> io::Result<ListenSocket> {
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    if let Ok(socket) = found.take_tcp_listener(index) {
        let socket = socket.ok_or_else(gone)?;
        must_listen(&SockRef::from(&socket))?;
        socket.set_nonblocking(true)?;
        return Ok(ListenSocket::Tcp(socket));
    }
    let socket = found.take_unix_listener(index)?.ok_or_else(gone)?;
    must_listen(&SockRef::from(&socket))?;
    socket.set_nonblocking(true)?;
    Ok(ListenSocket::Unix(socket))
}

fn must_listen(socket: &SockRef<'_>) -> io::Result<()> {
    match socket.is_listener()? {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen (Accept=yes is not supported)")),
    }
}

impl Passed {
    /// Sets the `tcp_*` settings on the sockets, and says which settings they stand in for.
    ///
    /// # Errors
    /// The kernel refuses a setting.
    pub fn listening(self, settings: &Settings) -> Result<Listening, ListenError> {
        if !settings.listen_addr.is_empty() {
            tracing::warn!("sockets passed from service manager, listen_addr ignored");
        }
        if settings
            .unix_socket_dir
            .as_ref()
            .is_some_and(|dir| Some(dir) != Settings::default().unix_socket_dir.as_ref())
        {
            tracing::warn!("sockets passed from service manager, unix_socket_dir ignored");
        }
        let mut listeners = Vec::new();
        for (number, socket) in (FIRST..).zip(self.sockets) {
            let listener = Listener { name: name(&socket), socket, file: None };
            listener
                .retune(&TcpOptions::from_settings(settings), settings.tcp_defer_accept)
                .map_err(|error| ListenError::Passed { number, source: io::Error::other(error) })?;
            tracing::info!("socket passed from service manager (fd {number})");
            listeners.push(listener);
        }
        Ok(Listening { listeners, warnings: Vec::new() })
    }
}

/// What the log calls the socket.
fn name(socket: &ListenSocket) -> String {
    match socket {
        ListenSocket::Tcp(socket) => known(socket.local_addr()),
        ListenSocket::Unix(socket) => match socket.local_addr().ok().and_then(|a| a.as_pathname().map(Into::into)) {
            Some::<std::path::PathBuf>(path) => format!("unix:{}", path.display()),
            None => "unix:(abstract)".to_owned(),
        },
    }
}

fn known(address: io::Result<impl Display>) -> String {
    address.map_or_else(|error| format!("(unknown: {error})"), |address| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_descriptors_for_this_very_process_are_taken() {
        assert!(is_for_us("7", "1", 7));
        assert!(is_for_us("7", "1024", 7));
        for (pid, fds) in [("8", "1"), ("", "1"), ("7", ""), ("7", "0"), ("7", "-1"), ("7", "99999999999"), ("x", "1")]
        {
            assert!(!is_for_us(pid, fds, 7), "{pid} {fds}");
        }
    }
}
