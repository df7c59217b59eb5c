//! The `tcp_*` settings, as options of a socket.
//!
//! [`TcpOptions::apply`] is called on each outgoing socket and on each listening one. An accepted socket needs no call:
//! on Linux it inherits every option set here from the socket that listened, which saves several system calls for each
//! client that connects. (PgBouncer sets them again on each accepted socket.) After a reload, tune the listening
//! sockets again; clients that are already there keep the options they came with.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::{getsockopt_impl, libc, setsockopt_impl, sockopt_impl};
use socket2::SockFilter;
use socket2::{SockRef, TcpKeepalive};

use crate::config::Settings;

/// What every TCP socket is set to, besides no delay for small sends. Zero leaves the system's default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// `tcp_keepalive`: probe silent peers; the next three matter only where this is set.
    pub keepalive: bool,
    /// `tcp_keepidle`: silence before the first probe, whole seconds.
    pub keepidle: Duration,
    /// `tcp_keepintvl`: time between probes, whole seconds.
    pub keepintvl: Duration,
    /// `tcp_keepcnt`: probes without answer that end a connection.
    pub keepcnt: u32,
    /// `tcp_user_timeout`: how long sent bytes may stay unacknowledged, whole milliseconds.
    pub user_timeout: Duration,
    /// `tcp_socket_buffer`: bytes of the kernel's buffer, for each direction.
    pub socket_buffer: usize,
}

impl Default for TcpOptions {
    fn default() -> TcpOptions {
        TcpOptions {
            keepalive: true,
            keepidle: Duration::ZERO,
            keepintvl: Duration::ZERO,
            keepcnt: 0,
            user_timeout: Duration::ZERO,
            socket_buffer: 0,
        }
    }
}

impl TcpOptions {
    /// What the settings say.
    pub fn from_settings(settings: &Settings) -> TcpOptions {
        TcpOptions {
            keepalive: settings.tcp_keepalive,
            keepidle: settings.tcp_keepidle,
            keepintvl: settings.tcp_keepintvl,
            keepcnt: settings.tcp_keepcnt,
            user_timeout: settings.tcp_user_timeout,
            socket_buffer: usize::try_from(settings.tcp_socket_buffer).unwrap_or(usize::MAX),
        }
    }

    /// Sets the options on a TCP socket.
    ///
    /// # Errors
    /// The kernel refuses one of them; those before it are set.
    pub fn apply(&self, socket: &impl AsFd) -> Result<(), SockoptError> {
        let socket = SockRef::from(socket);
        socket.set_keepalive(self.keepalive).map_err(failed("tcp_keepalive"))?;
        if self.keepalive {
            // One by one, so that a refusal names the setting.
            for (setting, probe) in self.probes() {
                socket.set_tcp_keepalive(&probe).map_err(failed(setting))?;
            }
        }
        // Always, so that a reload which takes the timeout away reaches the listening sockets.
        let user_timeout = (!self.user_timeout.is_zero()).then_some(self.user_timeout);
        socket.set_tcp_user_timeout(user_timeout).map_err(failed("tcp_user_timeout"))?;
        if self.socket_buffer > 0 {
            socket.set_send_buffer_size(self.socket_buffer).map_err(failed("tcp_socket_buffer"))?;
            socket.set_recv_buffer_size(self.socket_buffer).map_err(failed("tcp_socket_buffer"))?;
        }
        socket.set_tcp_nodelay(true).map_err(failed("TCP_NODELAY"))
    }

    /// What is not the system's default.
    fn probes(&self) -> impl Iterator<Item = (&'static str, TcpKeepalive)> {
        let probe = TcpKeepalive::new;
        let idle = (!self.keepidle.is_zero()).then(|| ("tcp_keepidle", probe().with_time(self.keepidle)));
        let interval = (!self.keepintvl.is_zero()).then(|| ("tcp_keepintvl", probe().with_interval(self.keepintvl)));
        let count = (self.keepcnt > 0).then(|| ("tcp_keepcnt", probe().with_retries(self.keepcnt)));
        [idle, interval, count].into_iter().flatten()
    }
}

/// Sets `tcp_defer_accept` on a listening TCP socket: wake us when a client has sent something, not when it connects.
///
/// # Errors
/// The kernel refuses.
pub fn defer_accept(socket: &impl AsFd, defer: bool) -> Result<(), SockoptError> {
    // One second, as PgBouncer: the kernel hands a silent client over after the first repeated SYN-ACK.
    nix::sys::socket::setsockopt(socket, DeferAccept, &u32::from(defer))
        .map_err(|errno| failed("tcp_defer_accept")(errno.into()))
}

/// Has the kernel drop each SYN that comes to a listening TCP socket (socket(7), SO_ATTACH_FILTER): a filter on a TCP
/// socket sees segments from the TCP header on, with the flags in the byte at 13.
///
/// # Errors
/// The kernel refuses.
pub fn drop_syn(socket: &impl AsFd) -> io::Result<()> {
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    let step = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    let program = [
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 13),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, SYN | ACK),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, SYN),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    SockRef::from(socket).attach_filter(&program)
}

sockopt_impl!(
    /// TCP_DEFER_ACCEPT, in seconds; nix has the means to set an option but not this one.
    DeferAccept,
    Both,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    u32
);

/// A setting that the kernel refused for a socket.
#[derive(Debug)]
pub struct SockoptError {
    /// The setting's name.
    pub setting: &'static str,
    /// The kernel's reason.
    pub source: io::Error,
}

impl fmt::Display for SockoptError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: the kernel refuses: {}", self.setting, self.source)
    }
}

impl std::error::Error for SockoptError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl From<SockoptError> for io::Error {
    fn from(error: SockoptError) -> io::Error {
        io::Error::new(error.source.kind(), error)
    }
}

fn failed(setting: &'static str) -> impl Fn(io::Error) -> SockoptError {
    move |source| SockoptError { setting, source }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn accepted_sockets_inherit_every_option() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let options = TcpOptions {
            keepalive: true,
            keepidle: Duration::from_secs(31),
            keepintvl: Duration::from_secs(7),
            keepcnt: 5,
            user_timeout: Duration::from_millis(12_345),
            socket_buffer: 32_768,
        };

        options.apply(&listener).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();

        let accepted = SockRef::from(&accepted);
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), options.keepidle);
        assert_eq!(accepted.tcp_keepalive_interval().unwrap(), options.keepintvl);
        assert_eq!(accepted.tcp_keepalive_retries().unwrap(), options.keepcnt);
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(options.user_timeout));
        assert_eq!(accepted.send_buffer_size().unwrap(), 2 * options.socket_buffer, "Linux counts its overhead");
        assert_eq!(accepted.recv_buffer_size().unwrap(), 2 * options.socket_buffer);
        assert!(accepted.tcp_nodelay().unwrap());
    }

    #[test]
    fn a_second_tuning_takes_keepalive_and_the_user_timeout_away() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();

        TcpOptions { user_timeout: Duration::from_secs(1), ..TcpOptions::default() }.apply(&listener).unwrap();
        TcpOptions { keepalive: false, ..TcpOptions::default() }.apply(&listener).unwrap();

        let socket = SockRef::from(&listener);
        assert!(!socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
    }

    #[test]
    fn accepting_can_be_deferred_and_undeferred() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let deferred = || nix::sys::socket::getsockopt(&listener, DeferAccept).unwrap() > 0;

        defer_accept(&listener, true).unwrap();
        assert!(deferred());
        defer_accept(&listener, false).unwrap();
        assert!(!deferred());
    }

    #[test]
    fn a_refusal_names_the_setting() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (most, default) = (Duration::from_secs(1_000_000), TcpOptions::default);
        let refused = [
            ("tcp_keepidle", TcpOptions { keepidle: most, ..default() }),
            ("tcp_keepintvl", TcpOptions { keepintvl: most, ..default() }),
            ("tcp_keepcnt", TcpOptions { keepcnt: 1000, ..default() }),
        ];
        for (setting, options) in refused {
            let error = options.apply(&listener).unwrap_err();

            assert!(error.to_string().starts_with(&format!("{setting}: the kernel refuses: ")), "{error}");
        }
    }
}
