//! Asks PostgreSQL to cancel what a server runs: over a connection of its own, which says that and nothing else.
//!
//! Manual: "Canceling Requests in Progress".

use std::io;

use crate::net::buffers::Inbox;
use crate::net::dial::{Dialled, dial_again};
use crate::net::sockopt::TcpOptions;
use crate::net::stream::Stream;
use crate::net::tls::{self, InForce};
use crate::stats::roster::CancelTarget;
use crate::wire::startup;

/// Connects to where a server listens, encrypted where the server's own connection is: the key is as secret as what it
/// stands for.
///
/// # Errors
/// The connection cannot be made, or there is no TLS on it.
///
/// Cancel safe: a connection under way is dropped.
pub async fn dial(target: &CancelTarget, tcp: &TcpOptions, tls: &InForce) -> io::Result<Dialled> {
    let mut dialled = dial_again(&target.reach, tcp).await?;
    if let Some(host) = &target.encrypted_as {
        tls::request(&mut dialled.stream, tls, host).await?;
    }
    Ok(dialled)
}

/// Sends a request over a new connection and waits until the other side closes it: by then a postmaster has signalled
/// the backend, and a peer has passed the request on.
///
/// # Errors
/// The connection broke before the request was sent, or while its end was awaited.
pub async fn tell(mut stream: Stream, pid: i32, secret: &[u8]) -> io::Result<()> {
    let mut out = Vec::with_capacity(16);
    startup::cancel_request(&mut out, pid, secret);
    stream.send_all(&out).await?;
    let mut inbox = Inbox::default();
    while stream.fill(&mut inbox).await? > 0 {
        inbox.clear();
    }
    Ok(())
}
