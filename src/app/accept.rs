//! Listeners to client tasks: accepts, and hands each connection to the worker with the fewest.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::SocketAddrAny;
use rustix::net::sockopt::socket_peercred;
use tokio::io::Interest;
use tokio::sync::watch;

use crate::client::{self, Shared};
use crate::config::Settings;
use crate::net::listen::{ListenSocket, Listener, accept_from};
use crate::net::sockopt::TcpOptions;
use crate::net::stream::Raw;
use crate::net::world;
use crate::pool::suspension::Phase;
use crate::stats::moment::Moment;
use crate::stats::roster::Endpoint;

/// After accept(2) failed for want of descriptors or memory, the wait before it is tried again: closing connections is
/// what helps, and they close without us.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// How often a failure that lasts is told, as often as PgBouncer does.
const FAILURE_TOLD_EVERY: Duration = Duration::from_secs(5);

/// How long a listener that shares its port stays after it has asked the kernel to let no more connections begin: those
/// that have begun come to their end meanwhile. Less than the second after which a client whose SYN was not answered
/// tries again, and then meets another process.
const LAST_CALL: Duration = Duration::from_millis(500);

/// Accepts on one listener until `open` says false, and not while there is a suspension. Whoever has connected by then
/// is served: when a listener is closed, Linux resets the connections that it has not yet accepted, even where another
/// process listens on the same port.
pub async fn accept(listener: Arc<Listener>, shared: Arc<Shared>, mut open: watch::Receiver<bool>) {
    let port = shared.registry.config().settings.listen_port;
    let socket = match Accepting::new(&listener.socket, port) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!("cannot listen on {}: {error}", listener.name);
            return;
        }
    };
    let mut suspension = shared.registry.suspension().watch();
    let mut door = Door { tuned: Tuning::of(&shared.registry.config().settings), told: None };
    loop {
        let suspended = *suspension.borrow_and_update() != Phase::Running;
        let accepted = tokio::select! {
            _ = open.wait_for(|open| !open) => break,
            _ = suspension.changed() => continue,
            accepted = socket.next(), if !suspended => accepted,
        };
        door.take(accepted, &listener, &shared).await;
    }
    last_call(socket, listener, &shared, door).await;
}

/// Takes in whoever has connected, then closes the listener.
async fn last_call(socket: Accepting, listener: Arc<Listener>, shared: &Arc<Shared>, mut door: Door) {
    if shared.registry.config().settings.so_reuseport && !listener.is_unix() {
        if let Err(error) = listener.refuse_new() {
            // Some kernels allow a filter to root only. What is left is the moment between SYN and ACK of a handshake;
            // the setting net.ipv4.tcp_migrate_req = 1 moves such handshakes to the other processes.
            tracing::debug!("{}: clients that connect just now may be reset: {error}", listener.name);
        }
        let all = async {
            loop {
                door.take(socket.next().await, &listener, shared).await;
            }
        };
        let _ = tokio::time::timeout(LAST_CALL, all).await;
    }
    // The listener's own descriptor is the last one: nothing comes between the look that finds nobody and its end.
    let ends = socket.without_socket();
    while let Ok((socket, peer)) = listener.accept_now() {
        door.take(ends.of(socket, peer), &listener, shared).await;
    }
    drop(listener);
}

/// What a listener remembers from one connection to the next.
struct Door {
    tuned: Tuning,
    /// When a failure of accept(2) was last told.
    told: Option<Moment>,
}

impl Door {
    /// Hands an accepted connection to its worker.
    async fn take(
        &mut self,
        accepted: io::Result<(Raw, Endpoint, Endpoint)>,
        listener: &Listener,
        shared: &Arc<Shared>,
    ) {
        match accepted {
            Ok((raw, peer, local)) => {
                let wanted = Tuning::of(&shared.registry.config().settings);
                if wanted != self.tuned {
                    wanted.retune(listener, &raw);
                    self.tuned = wanted;
                }
                let carried = shared.workers.carry();
                let handle = carried.handle().clone();
                handle.spawn(client::serve(shared.clone(), raw, peer, local, carried));
            }
            Err(error) if is_transient(&error) => {}
            Err(error) => {
                let now = world::now();
                if self.told.is_none_or(|told| now.since(told) >= FAILURE_TOLD_EVERY) {
                    tracing::error!("accept() failed: {error} (on {}, trying again)", listener.name);
                    self.told = Some(now);
                }
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
}

/// The tcp_* settings as they were last obeyed.
#[derive(PartialEq, Eq)]
struct Tuning {
    tcp: TcpOptions,
    defer_accept: bool,
}

impl Tuning {
    fn of(settings: &Settings) -> Tuning {
        Tuning { tcp: TcpOptions::from_settings(settings), defer_accept: settings.tcp_defer_accept }
    }

    /// They have changed. Accepted sockets inherit the options of the one that listens from the next one on; this one
    /// was accepted just before.
    fn retune(&self, listener: &Listener, accepted: &Raw) {
        let this_one = match accepted {
            Raw::Tcp(socket) => self.tcp.apply(socket),
            Raw::Unix(_) => Ok(()),
        };
        if let Err(error) = listener.retune(&self.tcp, self.defer_accept).and(this_one) {
            tracing::warn!("{}: {error}", listener.name);
        }
    }
}

/// The client was gone before we looked; nothing is wrong with the listener.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted)
}

/// A listener on the calling worker's reactor. It is not tokio's own, because that would watch each accepted socket
/// here before it goes to its worker: two `epoll_ctl` for each client that connects.
struct Accepting {
    /// The listening descriptor, TCP or Unix. A `TcpStream` is tokio's safe way to have any socket watched (its
    /// `AsyncFd` is not); nothing is read from it or written to it.
    watched: tokio::net::TcpStream,
    ends: Ends,
}

/// What is known of the ends of accepted connections beforehand.
struct Ends {
    /// Our end of each connection, where the listener's own address says it.
    local: Option<Endpoint>,
    /// Port that names the socket, if it is a Unix socket.
    unix_port: Option<u16>,
}

impl Accepting {
    fn new(socket: &ListenSocket, port: u16) -> io::Result<Accepting> {
        let (socket, local, unix_port) = match socket {
            ListenSocket::Tcp(socket) => {
                let address = socket.local_addr()?;
                let local = (!address.ip().is_unspecified()).then_some(Endpoint::Tcp(address));
                (OwnedFd::from(socket.try_clone()?), local, None)
            }
            ListenSocket::Unix(socket) => {
                let local = Endpoint::Unix { port, pid: None, uid: None };
                (OwnedFd::from(socket.try_clone()?), Some(local), Some(port))
            }
        };
        let watched = tokio::net::TcpStream::from_std(std::net::TcpStream::from(socket))?;
        Ok(Accepting { watched, ends: Ends { local, unix_port } })
    }

    /// Cancel safe.
    async fn next(&self) -> io::Result<(Raw, Endpoint, Endpoint)> {
        let (socket, peer) = loop {
            self.watched.readable().await?;
            match self.watched.try_io(Interest::READABLE, || accept_from(&self.watched)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                accepted => break accepted?,
            }
        };
        self.ends.of(socket, peer)
    }

    /// Stops watching.
    fn without_socket(self) -> Ends {
        self.ends
    }
}

impl Ends {
    /// An accepted socket with both its ends.
    fn of(&self, socket: OwnedFd, peer: Option<SocketAddrAny>) -> io::Result<(Raw, Endpoint, Endpoint)> {
        match self.unix_port {
            Some(port) => {
                let who = socket_peercred(&socket).ok();
                let peer = Endpoint::Unix {
                    port,
                    pid: who.as_ref().map(|who| who.pid.as_raw_pid()),
                    uid: who.as_ref().map(|who| who.uid.as_raw()),
                };
                let local = Endpoint::Unix { port, pid: None, uid: None };
                Ok((Raw::Unix(socket.into()), peer, local))
            }
            None => {
                let socket = std::net::TcpStream::from(socket);
                let peer = match peer.map(SocketAddr::try_from) {
                    Some(Ok(peer)) => peer,
                    _ => socket.peer_addr()?,
                };
                let local = match &self.local {
                    Some(local) => local.clone(),
                    None => Endpoint::Tcp(socket.local_addr()?),
                };
                Ok((Raw::Tcp(socket), Endpoint::Tcp(peer), local))
            }
        }
    }
}
