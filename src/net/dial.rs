//! From a host of `[databases]` to a connected stream.
//!
//! Every address of a name is tried until one answers, each time beginning with another. Where none does and they were
//! known from before, the name is asked for again at once: the server may have moved.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::sync::Arc;

use super::dns::Dns;
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
    Lookup(Arc<str>),
    /// No address answered; this is what the last one said.
    Connect(io::Error),
}

impl From<DialError> for io::Error {
    fn from(error: DialError) -> io::Error {
        match error {
            DialError::Lookup(why) => io::Error::new(io::ErrorKind::NotFound, &*why),
            DialError::Connect(error) => error,
        }
    }
}

/// Connects.
///
/// # Errors
/// See [`DialError`].
///
/// Cancel safe: a connection under way is dropped.
pub async fn dial(host: &Host, options: &TcpOptions, dns: &Dns) -> Result<Dialled, DialError> {
    match host {
        Host::Unix { dir, port } => dial_unix(format!("{dir}/.s.PGSQL.{port}")).await.map_err(DialError::Connect),
        Host::Tcp { host, port } => {
            let answer = dns.lookup(host).await.map_err(DialError::Lookup)?;
            let doubt = Doubt { dns, name: Some(host) };
            let mut tried = Vec::new();
            let outcome = match dial_new(&answer.addresses, *port, options, &mut tried).await {
                Err(failure) if !answer.fresh => {
                    dns.expire(host);
                    let addresses = dns.lookup(host).await.map_or(Vec::new(), |answer| answer.addresses);
                    dial_new(&addresses, *port, options, &mut tried).await.map_err(|later| later.or(failure))
                }
                outcome => outcome,
            };
            match outcome {
                Ok(dialled) => {
                    doubt.resolve();
                    Ok(dialled)
                }
                Err(failure) => {
                    let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                    Err(DialError::Connect(failure.unwrap_or_else(none)))
                }
            }
        }
    }
}

/// Connects to the first of the addresses that answers, leaving out those that were tried; the error is the last one's.
async fn dial_new(
    addresses: &[IpAddr],
    port: u16,
    options: &TcpOptions,
    tried: &mut Vec<IpAddr>,
) -> Result<Dialled, Option<io::Error>> {
    let mut last = None;
    for address in addresses {
        if tried.contains(address) {
            continue;
        }
        tried.push(*address);
        match dial_tcp(SocketAddr::new(*address, port), options).await {
            Ok(dialled) => return Ok(dialled),
            Err(error) => last = Some(error),
        }
    }
    Err(last)
}

/// Until a name's server has answered, what is known of the name is in doubt: a server that moved may be as silent as
/// one that is slow. Dropped in doubt, it has the next attempt ask again.
struct Doubt<'a> {
    dns: &'a Dns,
    name: Option<&'a str>,
}

impl Doubt<'_> {
    fn resolve(mut self) {
        self.name = None;
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if let Some(name) = self.name {
            self.dns.expire(name);
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
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    // Before connecting, as PgBouncer: the size of the receive buffer is told to the other side in the first packet,
    // and the user timeout counts for that packet too.
    options.apply(&socket).map_err(io::Error::other)?;
    let socket = socket.connect(address).await?;
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

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;
    use crate::config::Settings;
    use crate::net::workers::Workers;

    /// Nobody listens there.
    const DEAD: &str = "127.0.0.9";
    /// A name that is this machine's without a name server.
    const NAME: &str = "db.localhost";

    /// Someone who listens on this machine, and a cache that takes [`NAME`] to have the address.
    async fn scene(address: &str) -> (tokio::net::TcpListener, Host, Dns) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = Host::Tcp { host: NAME.to_owned(), port: listener.local_addr().unwrap().port() };
        let dns = Dns::new(&Settings::default(), Workers::new(vec![tokio::runtime::Handle::current()]));
        dns.lookup(NAME).await.unwrap();
        dns.know(NAME, address.parse().unwrap());
        (listener, host, dns)
    }

    fn options() -> TcpOptions {
        TcpOptions::from_settings(&Settings::default())
    }

    #[tokio::test]
    async fn a_name_whose_known_address_is_dead_is_asked_for_again_at_once() {
        let (listener, host, dns) = scene(DEAD).await;

        let dialled = dial(&host, &options(), &dns).await.unwrap();

        assert_eq!(dialled.reach, Reach::Tcp(listener.local_addr().unwrap()));
        assert!(!dns.lookup(NAME).await.unwrap().fresh, "an address that works is believed");
    }

    #[tokio::test]
    async fn after_a_failure_the_next_attempt_asks() {
        let (listener, host, dns) = scene(DEAD).await;
        drop(listener);

        let failure = dial(&host, &options(), &dns).await.unwrap_err();

        assert!(matches!(failure, DialError::Connect(_)), "{failure:?}");
        assert!(dns.lookup(NAME).await.unwrap().fresh);
    }

    #[tokio::test]
    async fn an_attempt_that_is_given_up_leaves_the_name_in_doubt() {
        let (listener, host, dns) = scene("127.0.0.1").await;
        assert!(!dns.lookup(NAME).await.unwrap().fresh);

        let options = options();
        let mut attempt = Box::pin(dial(&host, &options, &dns));
        let poll = std::future::poll_fn(|cx| Poll::Ready(attempt.as_mut().poll(cx))).await;
        assert!(poll.is_pending(), "the reactor has to tell of the connection first");
        drop(attempt);

        assert!(dns.lookup(NAME).await.unwrap().fresh);
        drop(listener);
    }
}
