//! Listeners to client tasks: accepts, and hands each connection to the worker with the fewest.

use std::io;
use std::sync::Arc;
use std::time::Duration;

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

enum Accepting {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener, u16),
}

impl Accepting {
    fn new(socket: &ListenSocket, port: u16) -> io::Result<Accepting> {
        Ok(match socket {
            ListenSocket::Tcp(socket) => Accepting::Tcp(tokio::net::TcpListener::from_std(socket.try_clone()?)?),
            ListenSocket::Unix(socket) => {
                Accepting::Unix(tokio::net::UnixListener::from_std(socket.try_clone()?)?, port)
            }
        })
    }

    /// Cancel safe.
    async fn next(&self) -> io::Result<(Raw, Endpoint, Endpoint)> {
        match self {
            Accepting::Tcp(listener) => {
                let (socket, peer) = listener.accept().await?;
                let local = socket.local_addr()?;
                Ok((Raw::Tcp(socket.into_std()?), Endpoint::Tcp(peer), Endpoint::Tcp(local)))
            }
            Accepting::Unix(listener, port) => {
                let (socket, _) = listener.accept().await?;
                let credentials = socket.peer_cred().ok();
                let peer = Endpoint::Unix {
                    port: *port,
                    pid: credentials.as_ref().and_then(|who| who.pid()),
                    uid: credentials.as_ref().map(|who| who.uid()),
                };
                let local = Endpoint::Unix { port: *port, pid: None, uid: None };
                Ok((Raw::Unix(socket.into_std()?), peer, local))
            }
        }
    }
}
