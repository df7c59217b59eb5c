//! Listeners to client tasks: accepts, and hands each connection to the worker with the fewest.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::Interest;
use tokio::sync::watch;

use crate::client::{self, Shared};
use crate::config::Settings;
use crate::net::listen::{ListenSocket, Listener};
use crate::net::sockopt::TcpOptions;
use crate::net::stream::Raw;
use crate::stats::roster::Endpoint;

/// After accept(2) failed for want of descriptors or memory, the wait before it is tried again: closing connections is
/// what helps, and they close without us.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Accepts on one listener until `open` says false.
pub async fn accept(listener: Listener, shared: Arc<Shared>, mut open: watch::Receiver<bool>) {
    let port = shared.registry.config().settings.listen_port;
    let socket = match Accepting::new(&listener.socket, port) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!("cannot listen on {}: {error}", listener.name);
            return;
        }
    };
    let mut tuned = TcpOptions::from_settings(&shared.registry.config().settings);
    loop {
        let accepted = tokio::select! {
            accepted = socket.next() => accepted,
            _ = open.wait_for(|open| !open) => return,
        };
        match accepted {
            Ok((raw, peer, local)) => {
                let tcp = TcpOptions::from_settings(&shared.registry.config().settings);
                if tcp != tuned {
                    retune(&listener, &shared.registry.config().settings);
                    tuned = tcp;
                }
                let carried = shared.workers.carry();
                let handle = carried.handle().clone();
                let serve = client::serve(shared.clone(), raw, peer, local, carried);
                handle.spawn(serve);
            }
            Err(error) if is_transient(&error) => {}
            Err(error) => {
                tracing::warn!("accept failed on {}: {error}; trying again", listener.name);
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
}

/// The tcp_* settings have changed: accepted sockets inherit the options of the one that listens, from the next one on.
fn retune(listener: &Listener, settings: &Settings) {
    if let Err(error) = listener.retune(&TcpOptions::from_settings(settings), settings.tcp_defer_accept) {
        tracing::warn!("{}: {error}", listener.name);
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
        Ok(Accepting { watched, local, unix_port })
    }

    /// Cancel safe.
    async fn next(&self) -> io::Result<(Raw, Endpoint, Endpoint)> {
        let (socket, peer) = loop {
            self.watched.readable().await?;
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match self.watched.try_io(Interest::READABLE, || Ok(acceptfrom_with(&self.watched, flags)?)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                accepted => break accepted?,
            }
        };
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
