//! One socket, whatever its kind.
//!
//! [`Stream`] is an enum over TCP and Unix sockets, and TCP with TLS on it. Reading and writing are polls without
//! a task, a channel or a split half: the relay polls two streams from one task. Reads and writes go through tokio's
//! `poll_read`/`poll_write`, which clear readiness after a short read, so that a transaction costs no call that ends in
//! EAGAIN.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::buffers::{Inbox, Outbox};
use super::descriptors;
use super::tls::TlsStream;

/// A connected socket, registered with the reactor of the worker it was made on.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix domain.
    Unix(UnixStream),
    /// TCP with TLS on it. Boxed, so that the others stay small.
    Tls(Box<TlsStream>),
    /// Nothing: the socket was lost on its way to another reactor. Every call fails.
    Closed,
}

/// A connected socket that belongs to no reactor yet.
#[derive(Debug)]
pub enum Raw {
    /// TCP, in non-blocking mode.
    Tcp(std::net::TcpStream),
    /// Unix domain, in non-blocking mode.
    Unix(std::os::unix::net::UnixStream),
}

impl Raw {
    /// A connected socket that came from another process, put in non-blocking mode.
    ///
    /// # Errors
    /// It is neither a TCP nor a Unix socket.
    pub fn from_descriptor(descriptor: OwnedFd) -> io::Result<Raw> {
        let socket = socket2::Socket::from(descriptor);
        socket.set_nonblocking(true)?;
        match socket.domain()? {
            socket2::Domain::UNIX => Ok(Raw::Unix(socket.into())),
            socket2::Domain::IPV4 | socket2::Domain::IPV6 => Ok(Raw::Tcp(socket.into())),
            other => Err(io::Error::other(format!("a socket of family {other:?}"))),
        }
    }
}

impl Stream {
    /// Registers a socket with the reactor of the calling worker.
    ///
    /// # Errors
    /// The kernel refuses to watch one more descriptor.
    pub fn adopt(raw: Raw) -> io::Result<Stream> {
        Ok(match raw {
            Raw::Tcp(socket) => Stream::Tcp(TcpStream::from_std(socket)?),
            Raw::Unix(socket) => Stream::Unix(UnixStream::from_std(socket)?),
        })
    }

    /// Reads what is there into the inbox. `Ready(0)` is the end of the stream.
    ///
    /// # Errors
    /// As `recv(2)`.
    #[inline]
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, inbox: &mut Inbox) -> Poll<io::Result<usize>> {
        if let Stream::Tls(stream) = self {
            return stream.poll_fill(cx, inbox);
        }
        let mut room = ReadBuf::new(inbox.room());
        let polled = match self {
            Stream::Tcp(socket) => Pin::new(socket).poll_read(cx, &mut room),
            Stream::Unix(socket) => Pin::new(socket).poll_read(cx, &mut room),
            Stream::Tls(_) | Stream::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        };
        let len = room.filled().len();
        inbox.filled(len);
        polled.map_ok(|()| len)
    }

    /// As [`Stream::poll_fill`], at most `max` bytes, which must not be 0.
    ///
    /// # Errors
    /// As `recv(2)`.
    pub fn poll_fill_at_most(
        &mut self,
        cx: &mut Context<'_>,
        inbox: &mut Inbox,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        if let Stream::Tls(stream) = self {
            return stream.poll_fill_at_most(cx, inbox, max);
        }
        let room = inbox.room();
        let max = max.min(room.len());
        let mut room = ReadBuf::new(&mut room[..max]);
        let polled = match self {
            Stream::Tcp(socket) => Pin::new(socket).poll_read(cx, &mut room),
            Stream::Unix(socket) => Pin::new(socket).poll_read(cx, &mut room),
            Stream::Tls(_) | Stream::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        };
        let len = room.filled().len();
        inbox.filled(len);
        polled.map_ok(|()| len)
    }

    /// The socket, where all there is to the connection is its socket: what a descriptor can hand over.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Stream::Tcp(socket) => Some(socket.as_fd()),
            Stream::Unix(socket) => Some(socket.as_fd()),
            Stream::Tls(_) | Stream::Closed => None,
        }
    }

    /// Sends all bytes to another process, and a descriptor with the first of them.
    ///
    /// # Errors
    /// As `sendmsg(2)`; `Unsupported` where this is no Unix socket.
    ///
    /// Not cancel safe.
    pub async fn send_descriptor(&mut self, bytes: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let Stream::Unix(socket) = self else { return Err(io::ErrorKind::Unsupported.into()) };
        let sent = loop {
            socket.writable().await?;
            match socket.try_io(Interest::WRITABLE, || descriptors::send_with(&*socket, bytes, descriptor)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => break sent?,
            }
        };
        self.send_all(&bytes[sent..]).await
    }

    /// Takes in what comes while the other end waits for us, as far as the inbox has room. Ready when the other end is
    /// gone.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>, inbox: &mut Inbox) -> Poll<()> {
        self.poll_end(cx, inbox).map(|_| ())
    }

    /// Takes in what comes, as far as the inbox has room. Ready at the end of the stream.
    ///
    /// # Errors
    /// As `recv(2)`: there is no telling what else was sent.
    pub fn poll_end(&mut self, cx: &mut Context<'_>, inbox: &mut Inbox) -> Poll<io::Result<()>> {
        while !inbox.is_full() {
            match self.poll_fill(cx, inbox) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(_)) => {}
            }
        }
        Poll::Pending
    }

    /// Says that nothing more is sent: the other end finds the end of the stream behind what was.
    pub fn shut_down_sending(&self) {
        // Where it cannot be said, the connection has ended already.
        let _ = match self.socket() {
            Some(socket) => rustix::net::shutdown(socket, rustix::net::Shutdown::Write),
            None => Ok(()),
        };
    }

    /// Ends when the other end is found to have gone altogether, which only shows when something was sent to it: it
    /// answers that there is nobody any more. That it sends no more is not that end.
    ///
    /// # Errors
    /// There is no descriptor left for that, or no socket.
    pub fn broken(&self) -> io::Result<impl Future<Output = ()> + Send + Sync + use<>> {
        let socket = self.socket().ok_or(io::ErrorKind::NotConnected)?.try_clone_to_owned()?;
        // A second registration, which outlives the call: the first is polled for reading and writing.
        let watched = Stream::adopt(Raw::from_descriptor(socket)?)?;
        Ok(async move {
            // An error of the watching is an end of it, too.
            let _ = match &watched {
                Stream::Tcp(socket) => socket.ready(Interest::ERROR).await,
                Stream::Unix(socket) => socket.ready(Interest::ERROR).await,
                Stream::Tls(_) | Stream::Closed => return,
            };
        })
    }

    /// Ready when nothing is left here that the socket would not take.
    ///
    /// # Errors
    /// As `send(2)`.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tls(stream) => stream.poll_flush(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Stream::Tcp(socket) => Some(socket.as_fd()),
            Stream::Unix(socket) => Some(socket.as_fd()),
            Stream::Tls(stream) => stream.socket(),
            Stream::Closed => None,
        }
    }

    /// Sends bytes, as many as the socket takes.
    ///
    /// # Errors
    /// As `send(2)`.
    #[inline]
    pub fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            Stream::Unix(socket) => Pin::new(socket).poll_write(cx, bytes),
            Stream::Tls(stream) => stream.poll_send(cx, bytes),
            Stream::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Sends all that is pending. Ready when it has gone.
    ///
    /// # Errors
    /// As [`Stream::poll_send`].
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, outbox: &mut Outbox) -> Poll<io::Result<()>> {
        while !outbox.is_empty() {
            match ready!(self.poll_send(cx, outbox.pending()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => outbox.sent(sent),
            }
        }
        match self {
            Stream::Tls(stream) => stream.poll_flush(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Fills the inbox, waiting for bytes.
    ///
    /// # Errors
    /// As [`Stream::poll_fill`].
    ///
    /// Cancel safe: what was read is in the inbox.
    pub async fn fill(&mut self, inbox: &mut Inbox) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx, inbox)).await
    }

    /// Sends all bytes.
    ///
    /// # Errors
    /// As [`Stream::poll_send`].
    ///
    /// Not cancel safe: part of the bytes may have gone.
    pub async fn send_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match std::future::poll_fn(|cx| self.poll_send(cx, bytes)).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                sent => bytes = &bytes[sent..],
            }
        }
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Sends what the socket takes at once, and drops the rest: for parting words nobody waits for.
    pub fn send_parting(&mut self, bytes: &[u8]) {
        let _ = match self {
            Stream::Tls(stream) => {
                stream.send_parting(bytes);
                Ok(0)
            }
            Stream::Tcp(socket) => socket.try_write(bytes),
            Stream::Unix(socket) => socket.try_write(bytes),
            Stream::Closed => Ok(0),
        };
    }

    /// Has the reactor seen bytes or the end of the stream that nobody has read yet? Asks the reactor, not the kernel.
    #[inline]
    pub fn looks_readable(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        match self {
            Stream::Tcp(socket) => socket.poll_read_ready(&mut cx).is_ready(),
            Stream::Unix(socket) => socket.poll_read_ready(&mut cx).is_ready(),
            Stream::Tls(stream) => stream.looks_readable(),
            Stream::Closed => true,
        }
    }

    /// Is there really something to read, or the end of the stream? One system call, and only where
    /// [`Stream::looks_readable`].
    pub fn has_input(&self) -> bool {
        if !self.looks_readable() {
            return false;
        }
        let mut byte = [MaybeUninit::uninit(); 1];
        let peeked = match self {
            Stream::Tcp(socket) => socket.try_io(Interest::READABLE, || SockRef::from(socket).peek(&mut byte)),
            Stream::Unix(socket) => socket.try_io(Interest::READABLE, || SockRef::from(socket).peek(&mut byte)),
            Stream::Tls(stream) => return stream.has_input(),
            Stream::Closed => return true,
        };
        !matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Moves the socket to the reactor of the calling worker: two `epoll_ctl`.
    ///
    /// # Errors
    /// As [`Stream::adopt`]; the stream is then closed.
    pub fn move_here(&mut self) -> io::Result<()> {
        let raw = match std::mem::replace(self, Stream::Closed) {
            Stream::Tcp(socket) => Raw::Tcp(socket.into_std()?),
            Stream::Unix(socket) => Raw::Unix(socket.into_std()?),
            Stream::Tls(mut stream) => {
                stream.move_here()?;
                *self = Stream::Tls(stream);
                return Ok(());
            }
            Stream::Closed => return Err(io::ErrorKind::NotConnected.into()),
        };
        *self = Stream::adopt(raw)?;
        Ok(())
    }

    /// The encryption, where there is any.
    pub fn tls(&self) -> Option<&TlsStream> {
        match self {
            Stream::Tls(stream) => Some(stream),
            _ => None,
        }
    }

    /// The TCP socket, taken out to put TLS on it; nothing, and no change, where this is another kind of stream.
    pub fn take_tcp(&mut self) -> Option<TcpStream> {
        match std::mem::replace(self, Stream::Closed) {
            Stream::Tcp(socket) => Some(socket),
            other => {
                *self = other;
                None
            }
        }
    }
}
