//! Asking a server for TLS: SSLRequest, its answer, the handshake; or the handshake at once, which PostgreSQL takes
//! from version 17 on. Manual: "SSL Session Encryption", and sslnegotiation in "Database Connection Control Functions".

use std::fmt;
use std::io;

use super::{ALPN, Connector, InForce, TlsError, TlsStream};
use crate::config::SslNegotiation;
use crate::net::buffers::Inbox;
use crate::net::stream::Stream;
use crate::wire::startup;

/// Why a server's connection is not encrypted as it should be. `Display` is PgBouncer's text.
#[derive(Debug)]
pub enum RequestError {
    /// It has no TLS, and server_tls_sslmode insists.
    Refused,
    /// It answered neither yes nor no.
    BadAnswer,
    /// It said more than its answer, which somebody in between could have added.
    Eager,
    /// The connection broke.
    Io(io::Error),
    /// The handshake failed.
    Handshake(TlsError),
    /// It took a handshake without a request and did not say that it means PostgreSQL's protocol.
    NoAlpn,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::Refused => f.write_str("server refused SSL"),
            RequestError::BadAnswer => f.write_str("bad sslreq answer"),
            RequestError::Eager => f.write_str("received unencrypted data after SSL response"),
            RequestError::Io(_) => f.write_str("server conn crashed?"),
            RequestError::Handshake(error) => write!(f, "TLS handshake error: {error}"),
            RequestError::NoAlpn => f.write_str(
                "direct SSL connection was established without ALPN protocol negotiation extension \
                 (server_tls_sslnegotiation)",
            ),
        }
    }
}

impl std::error::Error for RequestError {}

impl From<io::Error> for RequestError {
    fn from(error: io::Error) -> RequestError {
        RequestError::Io(error)
    }
}

impl From<RequestError> for io::Error {
    fn from(error: RequestError) -> io::Error {
        match error {
            RequestError::Io(error) => error,
            other => io::Error::other(other),
        }
    }
}

/// Asks for TLS on a new TCP connection to the server called `host`, as far as server_tls_sslmode wants any. Nothing
/// happens on a Unix socket.
///
/// # Errors
/// See [`RequestError`]; the stream is of no more use.
///
/// Not cancel safe.
pub async fn request(stream: &mut Stream, tls: &InForce, host: &str) -> Result<(), RequestError> {
    let (Some(connector), Stream::Tcp(_)) = (&tls.connector, &*stream) else { return Ok(()) };
    if tls.server_negotiation() == SslNegotiation::Direct {
        shake_hands(stream, connector, host).await?;
        return match stream.tls().and_then(TlsStream::alpn) {
            Some(ALPN) => Ok(()),
            _ => Err(RequestError::NoAlpn),
        };
    }
    let mut out = Vec::with_capacity(8);
    startup::ssl_request(&mut out);
    stream.send_all(&out).await?;
    let mut answer = Inbox::default();
    if stream.fill(&mut answer).await? == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    match answer.fresh() {
        [b'S'] => shake_hands(stream, connector, host).await,
        [b'N'] if tls.server_mode().is_strict() => Err(RequestError::Refused),
        [b'N'] => Ok(()),
        [b'S' | b'N', _, ..] => Err(RequestError::Eager),
        _ => Err(RequestError::BadAnswer),
    }
}

async fn shake_hands(stream: &mut Stream, connector: &Connector, host: &str) -> Result<(), RequestError> {
    let socket = stream.take_tcp().ok_or(io::ErrorKind::NotConnected).map_err(io::Error::from)?;
    let connected = TlsStream::connect(socket, connector, host).await.map_err(RequestError::Handshake)?;
    *stream = Stream::Tls(Box::new(connected));
    Ok(())
}
