//! A TCP socket with TLS on it, polled like the plain one.
//!
//! ```text
//!   socket ─► incoming ─► session ─► the caller's inbox        bytes ─► session ─► socket
//!                            │                                                └► unsent (what it would not take)
//!                            └► unsent (handshake, keys, alerts)
//! ```
//!
//! Bytes count as sent when they are sealed: what the socket will not take waits in `unsent`, at most one batch and a
//! little, and nothing more is taken before it is gone. Waiting for something to read sends it on too, so that whoever
//! waits for an answer has asked the question. What a client is told at the end of a handshake, a session ticket
//! mostly, waits there for what is said next, and both leave with one write. A connection at rest holds no buffer.
//!
//! The signature of a handshake is made away from the I/O threads ([`Signing`]): with an RSA key of 2,048 bits it takes
//! a millisecond, the time of some forty transactions, and a thousand clients that connect at once must not keep others
//! waiting.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use rustls::ProtocolVersion;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::blame::Blamed;
use super::certificate::{self, Certificate};
use super::offer;
use super::session::{Buffers, Progress, Session, Side, Words};
use super::{Acceptor, Connector};
use crate::net::buffers::{Inbox, Outbox};
use crate::net::compute::{Compute, NotComputed, Origin, Source};

/// The most that may have come of a message of TLS itself without its end. rustls takes such messages of 64 KB; who
/// cuts one into records of a byte each would have us hold a multiple of that.
const UNFINISHED_MAX: usize = 128 * 1024;

/// The most that is sealed at once.
const BATCH_BYTES: usize = 64 * 1024;

/// The most of what is unsent that leaves together with what is said next.
const JOINED_BYTES: usize = 4 * 1024;

thread_local! {
    /// Where records are made. Kept, because zeroing a new one would cost as much as sealing.
    static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Why there is no TLS on a socket. `Display` says it in few words, for the log.
#[derive(Debug)]
pub enum TlsError {
    /// The socket broke, or ended in the middle of the handshake.
    Io(io::Error),
    /// The other side broke the rules, offers nothing that fits, or is not trusted.
    Tls(Blamed),
}

impl TlsError {
    fn of(words: &Arc<offer::Words>) -> impl Fn(rustls::Error) -> TlsError + use<> {
        let words = words.clone();
        move |error| TlsError::Tls(Blamed { error, words: words.clone() })
    }
}

impl From<io::Error> for TlsError {
    fn from(error: io::Error) -> TlsError {
        TlsError::Io(error)
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("handshake failed: unexpected EOF")
            }
            TlsError::Io(error) => write!(f, "handshake failed: {error}"),
            TlsError::Tls(blamed) => write!(f, "handshake failed: {blamed}"),
        }
    }
}

impl std::error::Error for TlsError {}

/// Whom a certificate is made out to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerNames {
    /// The common name of its subject.
    pub common: Option<String>,
    /// Its alternative names that are names of hosts.
    pub hosts: Vec<String>,
}

impl PeerNames {
    /// All of them, the common name first.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.common.iter().chain(&self.hosts).map(String::as_str)
    }
}

/// Where the signature of a handshake is made, and whose turn that is.
#[derive(Debug)]
pub struct Signing<'a> {
    /// The threads.
    pub compute: &'a Compute,
    /// Where the client comes from.
    pub source: Source,
}

/// An encrypted connection.
#[derive(Debug)]
pub struct TlsStream {
    wire: Wire,
}

/// The same, while hands are shaken, too.
#[derive(Debug)]
struct Wire {
    /// `None` only where it was lost on its way to another reactor.
    socket: Option<TcpStream>,
    state: Box<State>,
}

/// What goes to another thread for the signature.
#[derive(Debug)]
struct State {
    session: Session,
    /// Bytes from the socket that are no whole record yet.
    incoming: Inbox,
    /// What was decrypted and did not go to an inbox: it came with the handshake, or was more than was wanted.
    surplus: Inbox,
    /// Records that the socket would not take.
    unsent: Outbox,
    /// The other side will say no more.
    ended: bool,
    /// What it broke the rules with after the handshake.
    fault: Option<rustls::Error>,
    /// The hash of the server's certificate, whichever side that is.
    end_point: Option<Arc<[u8]>>,
}

impl State {
    fn new(session: Session, incoming: Inbox) -> State {
        let (surplus, unsent) = (Inbox::default(), Outbox::default());
        State { session, incoming, surplus, unsent, ended: false, fault: None, end_point: None }
    }

    /// Takes in what has come, and says what there is to say.
    fn step(&mut self, words: Words<'_>) -> Result<Progress, rustls::Error> {
        let State { session, incoming, surplus, unsent, .. } = self;
        session.step(Buffers { incoming, plain: surplus, out: unsent.bytes() }, words)
    }
}

impl Wire {
    async fn handshake(
        mut self,
        words: &Arc<offer::Words>,
        signing: Option<&Signing<'_>>,
    ) -> Result<TlsStream, TlsError> {
        let accepts = self.state.session.accepts();
        let mut signature_due = signing;
        loop {
            let mut said_more = false;
            let advanced = if accepts && self.state.incoming.is_empty() {
                Ok(Progress::Handshaking)
            } else if let Some(signing) = signature_due {
                let advanced;
                (self, advanced, said_more) = self.step_elsewhere(signing).await?;
                // A ClientHello that has not come whole leaves the signature due.
                signature_due = signature_due.filter(|_| self.state.unsent.is_empty());
                advanced
            } else {
                self.state.step(Words::None)
            };
            if accepts && matches!(advanced, Ok(Progress::Open)) {
                return Ok(TlsStream { wire: self });
            }
            let flushed = std::future::poll_fn(|cx| self.poll_flush(cx)).await;
            let progress = advanced.map_err(TlsError::of(words))?;
            flushed?;
            match progress {
                Progress::Open => return Ok(TlsStream { wire: self }),
                Progress::Ended => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Progress::Handshaking => {}
            }
            if !said_more && std::future::poll_fn(|cx| self.poll_read(cx)).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// Takes in what has come, away from the I/O threads; whether more came meanwhile. Not done for a client that hangs
    /// up before its turn.
    async fn step_elsewhere(self, signing: &Signing<'_>) -> io::Result<(Wire, Result<Progress, rustls::Error>, bool)> {
        let Wire { socket: Some(mut socket), state } = self else { return Err(io::ErrorKind::NotConnected.into()) };
        let origin = Origin { source: signing.source.clone(), user: None };
        let mut state = Some(state);
        let mut stepped = pin!(signing.compute.run(origin, move || {
            let mut state = state.take()?;
            let advanced = state.step(Words::None);
            Some((state, advanced))
        }));
        // What is said before its turn comes.
        let mut early = Inbox::default();
        let stepped = std::future::poll_fn(|cx| match stepped.as_mut().poll(cx) {
            Poll::Ready(stepped) => Poll::Ready(stepped.map_err(|why| match why {
                NotComputed::Failed(error) => error,
                NotComputed::Gone => io::ErrorKind::UnexpectedEof.into(),
            })),
            Poll::Pending => poll_gone(&mut socket, cx, &mut early).map(|()| Err(io::ErrorKind::UnexpectedEof.into())),
        })
        .await?;
        let (mut state, advanced) = stepped;
        state.incoming.put(early.fresh());
        Ok((Wire { socket: Some(socket), state }, advanced, !early.is_empty()))
    }

    /// Bytes of the socket into `incoming`.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(socket) = &mut self.socket else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        let incoming = &mut self.state.incoming;
        if incoming.fresh().len() > UNFINISHED_MAX {
            let fault = rustls::Error::General("a TLS message in too many pieces".to_owned());
            self.state.fault = Some(fault.clone());
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault)));
        }
        let mut room = ReadBuf::new(incoming.room());
        let polled = Pin::new(socket).poll_read(cx, &mut room);
        let len = room.filled().len();
        incoming.filled(len);
        polled.map_ok(|()| len)
    }

    /// Ready when nothing is left that the socket would not take.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let unsent = &mut self.state.unsent;
        if unsent.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let Some(socket) = &mut self.socket else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        while !unsent.is_empty() {
            let sent = ready!(Pin::new(&mut *socket).poll_write(cx, unsent.pending()))?;
            unsent.sent(sent);
        }
        unsent.rest();
        Poll::Ready(Ok(()))
    }

    /// Sends what the socket takes at once.
    fn flush_now(&mut self) {
        let Some(socket) = &self.socket else { return };
        while !self.state.unsent.is_empty() {
            match socket.try_write(self.state.unsent.pending()) {
                Ok(sent) if sent > 0 => self.state.unsent.sent(sent),
                _ => return,
            }
        }
    }
}

/// As [`Stream::poll_gone`](crate::net::stream::Stream::poll_gone).
fn poll_gone(socket: &mut TcpStream, cx: &mut Context<'_>, inbox: &mut Inbox) -> Poll<()> {
    while !inbox.is_full() {
        let mut room = ReadBuf::new(inbox.room());
        let polled = Pin::new(&mut *socket).poll_read(cx, &mut room);
        let len = room.filled().len();
        inbox.filled(len);
        match polled {
            Poll::Pending => break,
            Poll::Ready(Ok(())) if len > 0 => {}
            Poll::Ready(_) => return Poll::Ready(()),
        }
    }
    Poll::Pending
}

impl TlsStream {
    /// Answers a TLS handshake; `incoming` is what has already been read of it.
    ///
    /// # Errors
    /// See [`TlsError`]; the other side has been told.
    ///
    /// Cancel safe: the connection is dropped.
    pub async fn accept(
        socket: TcpStream,
        acceptor: &Acceptor,
        incoming: Inbox,
        signing: &Signing<'_>,
    ) -> Result<TlsStream, TlsError> {
        let words = &acceptor.words;
        let session = UnbufferedServerConnection::new(acceptor.config.clone()).map_err(TlsError::of(words))?;
        let mut state = State::new(Session::new(Side::Accepting(session)), incoming);
        state.end_point = acceptor.end_point.clone();
        Wire { socket: Some(socket), state: Box::new(state) }.handshake(words, Some(signing)).await
    }

    /// Begins a TLS handshake with the server called `host`, a name or an address.
    ///
    /// # Errors
    /// See [`TlsError`]; the other side has been told.
    ///
    /// Cancel safe: the connection is dropped.
    pub async fn connect(socket: TcpStream, connector: &Connector, host: &str) -> Result<TlsStream, TlsError> {
        let name = match ServerName::try_from(host) {
            Ok(name) => name.to_owned(),
            // No name for a certificate, nor one to ask for.
            Err(_) => ServerName::IpAddress(std::net::IpAddr::from([0, 0, 0, 0]).into()),
        };
        let too_old = || rustls::Error::General("server_tls_protocols has no version that is spoken here".to_owned());
        let words = &connector.words;
        let config = connector.config.clone().ok_or_else(too_old).map_err(TlsError::of(words))?;
        let session = UnbufferedClientConnection::new(config, name).map_err(TlsError::of(words))?;
        let state = State::new(Session::new(Side::Connecting(session)), Inbox::default());
        let wire = Wire { socket: Some(socket), state: Box::new(state) };
        let mut stream = wire.handshake(words, None).await?;
        stream.wire.state.end_point = stream.peer_certificate().and_then(certificate::end_point).map(Arc::from);
        Ok(stream)
    }

    /// As [`Stream::poll_fill_at_most`](crate::net::stream::Stream::poll_fill_at_most).
    pub(in crate::net) fn poll_fill_at_most(
        &mut self,
        cx: &mut Context<'_>,
        inbox: &mut Inbox,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        while self.wire.state.surplus.is_empty() {
            let mut plain = Inbox::default();
            if ready!(self.poll_fill(cx, &mut plain))? == 0 {
                return Poll::Ready(Ok(0));
            }
            self.wire.state.surplus = plain;
        }
        let surplus = &mut self.wire.state.surplus;
        let len = surplus.fresh().len().min(max);
        inbox.put(&surplus.fresh()[..len]);
        surplus.skip(len);
        Poll::Ready(Ok(len))
    }

    /// As [`Stream::poll_fill`](crate::net::stream::Stream::poll_fill).
    pub(in crate::net) fn poll_fill(&mut self, cx: &mut Context<'_>, inbox: &mut Inbox) -> Poll<io::Result<usize>> {
        if !self.wire.state.surplus.is_empty() {
            let len = self.wire.state.surplus.fresh().len();
            inbox.put(self.wire.state.surplus.fresh());
            self.wire.state.surplus.clear();
            return Poll::Ready(Ok(len));
        }
        loop {
            let ended = self.wire.state.ended
                || match self.wire.poll_read(cx) {
                    Poll::Ready(read) => read? == 0,
                    Poll::Pending => {
                        // That it cannot be sent is heard by whoever sends next; what the other side said before it
                        // left counts.
                        let _ = self.wire.poll_flush(cx);
                        return Poll::Pending;
                    }
                };
            if ended {
                self.wire.state.ended = true;
                return Poll::Ready(Ok(0));
            }
            let before = inbox.fresh().len();
            let State { session, incoming, unsent, .. } = &mut *self.wire.state;
            let advanced = session.step(Buffers { incoming, plain: inbox, out: unsent.bytes() }, Words::None);
            let _ = self.wire.poll_flush(cx);
            match advanced {
                Ok(progress) => self.wire.state.ended = progress == Progress::Ended,
                Err(error) => {
                    self.wire.state.fault = Some(error.clone());
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
            }
            let len = inbox.fresh().len() - before;
            if len > 0 {
                return Poll::Ready(Ok(len));
            }
        }
    }

    /// Ready when nothing is left that the socket would not take.
    pub(in crate::net) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.poll_flush(cx)
    }

    /// As [`Stream::poll_send`](crate::net::stream::Stream::poll_send).
    pub(in crate::net) fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.wire.state.unsent.pending().len() > JOINED_BYTES {
            ready!(self.wire.poll_flush(cx))?;
        }
        let Some(socket) = &mut self.wire.socket else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        let State { session, incoming, surplus, unsent, .. } = &mut *self.wire.state;
        let bytes = &bytes[..bytes.len().min(BATCH_BYTES)];
        SEALED.with_borrow_mut(|sealed| {
            sealed.clear();
            sealed.extend_from_slice(unsent.pending());
            let buffers = Buffers { incoming, plain: surplus, out: sealed };
            session.step(buffers, Words::Bytes(bytes)).map_err(io::Error::other)?;
            let sent = match Pin::new(socket).poll_write(cx, sealed) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => 0,
            };
            unsent.replace(&sealed[sent..]);
            Poll::Ready(Ok(bytes.len()))
        })
    }

    /// As [`Stream::send_parting`](crate::net::stream::Stream::send_parting).
    pub(in crate::net) fn send_parting(&mut self, bytes: &[u8]) {
        let _ = self.wire.state.step(Words::Bytes(bytes));
        self.wire.flush_now();
    }

    /// As [`Stream::looks_readable`](crate::net::stream::Stream::looks_readable).
    pub(in crate::net) fn looks_readable(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let state = &self.wire.state;
        let held = !state.surplus.is_empty() || !state.incoming.is_empty() || state.ended;
        held || self.wire.socket.as_ref().is_none_or(|socket| socket.poll_read_ready(&mut cx).is_ready())
    }

    /// Is there anything on the socket? To be asked where [`TlsStream::looks_readable`].
    pub(in crate::net) fn has_input(&self) -> bool {
        let state = &self.wire.state;
        let Some(socket) = &self.wire.socket else { return true };
        if !state.surplus.is_empty() || !state.incoming.is_empty() || state.ended {
            return true;
        }
        let mut byte = [MaybeUninit::uninit(); 1];
        let peeked = socket.try_io(Interest::READABLE, || SockRef::from(socket).peek(&mut byte));
        !matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// As [`Stream::move_here`](crate::net::stream::Stream::move_here).
    pub(in crate::net) fn move_here(&mut self) -> io::Result<()> {
        let socket = self.wire.socket.take().ok_or(io::ErrorKind::NotConnected)?;
        self.wire.socket = Some(TcpStream::from_std(socket.into_std()?)?);
        Ok(())
    }

    /// The socket under it.
    pub(in crate::net) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.wire.socket.as_ref().map(AsFd::as_fd)
    }

    /// The version and cipher agreed on, and with TLS 1.2 the group: as PgBouncer writes them, after OpenSSL.
    pub fn description(&self) -> String {
        let common = self.wire.state.session.common();
        let cipher = common.negotiated_cipher_suite().map_or("-", offer::suite_name);
        match (common.protocol_version(), common.negotiated_key_exchange_group()) {
            (Some(ProtocolVersion::TLSv1_3), _) => format!("TLSv1.3/{cipher}"),
            (_, Some(group)) => format!("TLSv1.2/{cipher}/ECDH={}", offer::group_name(group)),
            (_, None) => format!("TLSv1.2/{cipher}"),
        }
    }

    /// The protocol that ALPN chose.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.wire.state.session.common().alpn_protocol()
    }

    /// The certificate that the other side has shown, and that was checked.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.wire.state.session.common().peer_certificates()?.first()
    }

    /// Whom it is made out to; `None` without a certificate.
    pub fn peer_names(&self) -> Option<PeerNames> {
        let certificate = Certificate::read(self.peer_certificate()?)?;
        Some(PeerNames { common: certificate.common_name().map(str::to_owned), hosts: certificate.host_names() })
    }

    /// Why nothing more can be read, where the other side, or somebody between, broke the rules.
    pub fn fault(&self) -> Option<&rustls::Error> {
        self.wire.state.fault.as_ref()
    }

    /// What binds SCRAM to this connection (tls-server-end-point, RFC 5929): the hash of the server's certificate.
    /// `None` where its signature has no hash to take.
    pub fn end_point(&self) -> Option<&[u8]> {
        self.wire.state.end_point.as_deref()
    }
}

impl Drop for TlsStream {
    /// Says that no more comes, as far as the socket takes it.
    fn drop(&mut self) {
        if self.wire.socket.is_some() {
            let _ = self.wire.state.step(Words::Close);
            self.wire.flush_now();
        }
    }
}
