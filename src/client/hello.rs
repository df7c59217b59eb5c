//! The first packets of a connection: TLS and GSS are answered, then comes a startup message or a cancel request.
//!
//! What may come is small ([`crate::wire::startup::FIRST_PACKET_LEN_MAX`]) and is read only as far as its length says.
//! Nothing that was sent before our answer to SSLRequest or GSSENCRequest is ever taken for part of the conversation
//! after it: whoever could slip it in would speak with the client's voice (the class of CVE-2021-23214). Manual:
//! "Start-up", "SSL Session Encryption", "GSSAPI Session Encryption".

use super::farewell::Farewell;
use crate::config::SslMode;
use crate::net::buffers::Inbox;
use crate::net::stream::Stream;
use crate::net::tls::{ALPN, InForce, Signing, TlsStream};
use crate::wire::startup::{First, StartupMessage};

/// Answers to SSLRequest and GSSENCRequest that one client may draw: one each is what libpq asks.
const REFUSALS_MAX: u32 = 2;

/// What a connection turned out to be for.
pub(super) enum Hello {
    /// A client that wants to log in.
    Startup(StartupMessage),
    /// A cancel request.
    Cancel {
        /// Process id of the key.
        pid: i32,
        /// Secret of the key.
        secret: Vec<u8>,
    },
}

/// Reads the first packets; what follows them stays in the inbox. On a TCP socket, TLS is taken up where a client asks
/// for it and `tls` has it, its signature made by `signing`.
pub(super) async fn hello(
    stream: &mut Stream,
    inbox: &mut Inbox,
    tls: &InForce,
    signing: Signing<'_>,
) -> Result<Hello, Farewell> {
    let mut refusals = 0;
    let mut packets = 0;
    loop {
        let (first, len) = next_first(stream, inbox).await?;
        inbox.skip(len);
        packets += 1;
        let request = match first {
            First::Startup(_) if needs_tls(stream, tls) => return Err(Farewell::TlsRequired),
            First::Startup(message) => return Ok(Hello::Startup(message)),
            First::Cancel { pid, secret } => return Ok(Hello::Cancel { pid, secret }),
            // PostgreSQL and PgBouncer take it as the very first bytes only.
            First::DirectTls if packets == 1 && offers_tls(stream, tls) => {
                begin_tls(stream, inbox, tls, &signing).await?;
                if stream.tls().and_then(TlsStream::alpn) != Some(ALPN) {
                    return Err(Farewell::NoAlpn);
                }
                continue;
            }
            First::DirectTls if offers_tls(stream, tls) => return Err(Farewell::LateTls),
            First::DirectTls => return Err(Farewell::DirectTls),
            First::Ssl if stream.tls().is_some() => return Err(Farewell::TlsInsideTls),
            First::Ssl => "SSL",
            First::Gss => "GSSAPI encryption",
        };
        if !inbox.is_empty() {
            return Err(Farewell::EagerAfter(request));
        }
        if request == "SSL" && offers_tls(stream, tls) {
            stream.send_all(b"S").await.map_err(|_| Farewell::ClientGone)?;
            begin_tls(stream, inbox, tls, &signing).await?;
            continue;
        }
        refusals += 1;
        if refusals > REFUSALS_MAX {
            return Err(Farewell::BadPacket("too many encryption requests".into()));
        }
        stream.send_all(b"N").await.map_err(|_| Farewell::ClientGone)?;
    }
}

fn offers_tls(stream: &Stream, tls: &InForce) -> bool {
    matches!(stream, Stream::Tcp(_)) && tls.client_mode() != SslMode::Disable
}

/// Nobody listens in on a Unix socket.
fn needs_tls(stream: &Stream, tls: &InForce) -> bool {
    matches!(stream, Stream::Tcp(_)) && tls.client_mode().is_strict()
}

async fn begin_tls(
    stream: &mut Stream,
    inbox: &mut Inbox,
    tls: &InForce,
    signing: &Signing<'_>,
) -> Result<(), Farewell> {
    let acceptor = tls.acceptor.as_ref().ok_or(Farewell::DirectTls)?;
    let socket = stream.take_tcp().ok_or(Farewell::ClientGone)?;
    let accepted = TlsStream::accept(socket, acceptor, std::mem::take(inbox), signing).await;
    *stream = Stream::Tls(Box::new(accepted.map_err(Farewell::Handshake)?));
    Ok(())
}

async fn next_first(stream: &mut Stream, inbox: &mut Inbox) -> Result<(First, usize), Farewell> {
    loop {
        if let Some(first) = First::read(inbox.fresh()).map_err(Farewell::Startup)? {
            return Ok(first);
        }
        match stream.fill(inbox).await {
            Ok(0) | Err(_) => return Err(Farewell::ClientGone),
            Ok(_) => {}
        }
    }
}
