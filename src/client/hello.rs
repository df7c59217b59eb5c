//! The first packets of a connection: TLS and GSS are answered, then comes a startup message or a cancel request.
//!
//! What may come is small ([`crate::wire::startup::FIRST_PACKET_LEN_MAX`]) and is read only as far as its length says.
//! Nothing that was sent before our answer to SSLRequest or GSSENCRequest is ever taken for part of the conversation
//! after it: whoever could slip it in would speak with the client's voice (the class of CVE-2021-23214). Manual:
//! "Start-up", "SSL Session Encryption", "GSSAPI Session Encryption".

use super::farewell::Farewell;
use crate::net::buffers::Inbox;
use crate::net::stream::Stream;
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

/// Reads the first packets; what follows them stays in the inbox.
pub(super) async fn hello(stream: &mut Stream, inbox: &mut Inbox) -> Result<Hello, Farewell> {
    let mut refusals = 0;
    loop {
        let (first, len) = next_first(stream, inbox).await?;
        inbox.skip(len);
        let request = match first {
            First::Startup(message) => return Ok(Hello::Startup(message)),
            First::Cancel { pid, secret } => return Ok(Hello::Cancel { pid, secret }),
            First::DirectTls => return Err(Farewell::DirectTls),
            First::Ssl => "SSL",
            First::Gss => "GSSAPI encryption",
        };
        if !inbox.is_empty() {
            return Err(Farewell::EagerAfter(request));
        }
        refusals += 1;
        if refusals > REFUSALS_MAX {
            return Err(Farewell::BadPacket("too many encryption requests".into()));
        }
        stream.send_all(b"N").await.map_err(|_| Farewell::ClientGone)?;
    }
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
