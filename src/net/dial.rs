//! From a host of `[databases]` to a connected stream.
//!
//! Names are resolved by the system's resolver, off the I/O threads; every address is tried in the resolver's order
//! until one answers.

use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;

use super::sockopt::TcpOptions;
use super::stream::{Raw, Stream};
use crate::config::Host;
use crate::stats::roster::{Endpoint, Reach};

/// A connected socket and both its ends.
#[derive(Debug)]
pub struct Dialled {
    /// The socket, on the calling worker's reactor.
    pub stream: Stream,
    /// The other end.
    pub peer: Endpoint,
    /// Our end.
    pub local: Endpoint,
    /// How to connect to the same place again.
    pub reach: Reach,
}

/// Why nobody was reached.
#[derive(Debug)]
pub enum DialError {
    /// The name has no address.
    Lookup(io::Error),
    /// No address answered; this is what the last one said.
    Connect(io::Error),
}

/// Connects.
///
/// # Errors
/// See [`DialError`].
///
/// Cancel safe: a connection under way is dropped.
pub async fn dial(host: &Host, options: &TcpOptions) -> Result<Dialled, DialError> {
    match host {
        Host::Unix { dir, port } => dial_unix(format!("{dir}/.s.PGSQL.{port}")).await.map_err(DialError::Connect),
        Host::Tcp { host, port } => {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            let mut found = false;
            for candidate in tokio::net::lookup_host((host.as_str(), *port)).await.map_err(DialError::Lookup)? {
                found = true;
                match dial_tcp(candidate, options).await {
                    Ok(dialled) => return Ok(dialled),
                    Err(error) => last = error,
                }
            }
            Err(if found { DialError::Connect(last) } else { DialError::Lookup(last) })
        }
    }
}

/// Connects to where a connection went before.
///
/// # Errors
/// As `connect(2)`.
///
/// Cancel safe.
pub async fn dial_again(reach: &Reach, options: &TcpOptions) -> io::Result<Dialled> {
    match reach {
        Reach::Tcp(address) => dial_tcp(*address, options).await,
        Reach::Unix(path) => dial_unix(path.clone()).await,
    }
}

async fn dial_tcp(address: SocketAddr, options: &TcpOptions) -> io::Result<Dialled> {
    let socket = tokio::net::TcpStream::connect(address).await?;
    options.apply(&socket).map_err(io::Error::other)?;
    let (peer, local) = (socket.peer_addr()?, socket.local_addr()?);
    Ok(Dialled {
        stream: Stream::Tcp(socket),
        peer: Endpoint::Tcp(peer),
        local: Endpoint::Tcp(local),
        reach: Reach::Tcp(address),
    })
}

async fn dial_unix(path: String) -> io::Result<Dialled> {
    // connect(2) on a Unix socket does not wait unless the backlog is full, and then tokio's waits with it.
    let socket = match path.strip_prefix('@') {
        Some(name) => {
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            let socket = std::os::unix::net::UnixStream::connect_addr(&address)?;
            socket.set_nonblocking(true)?;
            Stream::adopt(Raw::Unix(socket))?
        }
        None => Stream::Unix(tokio::net::UnixStream::connect(&path).await?),
    };
    let port = path.rsplit('.').next().and_then(|port| port.parse().ok()).unwrap_or(0);
    let end = Endpoint::Unix { port, pid: None, uid: None };
    Ok(Dialled { stream: socket, peer: end.clone(), local: end, reach: Reach::Unix(path) })
}
