//! One socket, whatever its kind.
//!
//! [`Stream`] is an enum over TCP and Unix sockets with room for TLS beside them. Reading and writing are polls without
//! a task, a channel or a split half: the relay polls two streams from one task. Reads and writes go through tokio's
//! `poll_read`/`poll_write`, which clear readiness after a short read, so that a transaction costs no call that ends in
//! EAGAIN.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::buffers::Inbox;

/// A connected socket, registered with the reactor of the worker it was made on.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix domain.
    Unix(UnixStream),
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
        let mut room = ReadBuf::new(inbox.room());
        let polled = match self {
            Stream::Tcp(socket) => Pin::new(socket).poll_read(cx, &mut room),
            Stream::Unix(socket) => Pin::new(socket).poll_read(cx, &mut room),
            Stream::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        };
        let len = room.filled().len();
        inbox.filled(len);
        polled.map_ok(|()| len)
    }

    /// Takes in what comes while the other end waits for us, as far as the inbox has room. Ready when the other end is
    /// gone.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>, inbox: &mut Inbox) -> Poll<()> {
        while !inbox.is_full() {
            match self.poll_fill(cx, inbox) {
                Poll::Pending => break,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(_)) => {}
            }
        }
        Poll::Pending
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
            Stream::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
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
        Ok(())
    }

    /// Sends what the socket takes at once, and drops the rest: for parting words nobody waits for.
    pub fn send_parting(&self, bytes: &[u8]) {
        let _ = match self {
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
            Stream::Closed => return Err(io::ErrorKind::NotConnected.into()),
        };
        *self = Stream::adopt(raw)?;
        Ok(())
    }
}
