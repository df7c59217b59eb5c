//! Descriptors that go to another process over a Unix socket (SCM_RIGHTS, unix(7)).
//!
//! Bytes and descriptors travel together: a descriptor arrives with the first byte it was sent with, and a read ends
//! behind a part that had one. So whoever reads keeps both in order, and hands out a descriptor for each row that has
//! one, wherever the reads happened to end.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

/// Sends bytes, and a descriptor with the first of them. As many bytes go as the socket takes.
///
/// # Errors
/// As `sendmsg(2)`.
pub fn send_with(socket: impl AsFd, bytes: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<usize> {
    let descriptors = [descriptor];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    Ok(rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Bytes read at a time.
const READ_LEN: usize = 64 * 1024;

/// The reading end, which waits for what it wants.
#[derive(Debug)]
pub struct Receiver {
    socket: UnixStream,
    bytes: Vec<u8>,
    /// `0 <= taken <= bytes.len()`.
    taken: usize,
    descriptors: VecDeque<OwnedFd>,
}

impl Receiver {
    /// Reads from this socket, which must be in blocking mode.
    pub fn new(socket: UnixStream) -> Receiver {
        Receiver { socket, bytes: Vec::new(), taken: 0, descriptors: VecDeque::new() }
    }

    /// Sends bytes the other way.
    ///
    /// # Errors
    /// As `send(2)`.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// The bytes that have come and were not taken yet.
    pub fn fresh(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// Takes so many of the fresh bytes.
    pub fn take(&mut self, len: usize) {
        self.taken = (self.taken + len).min(self.bytes.len());
        if self.taken == self.bytes.len() {
            self.bytes.clear();
            self.taken = 0;
        }
    }

    /// The descriptor that came first of those not yet handed out.
    pub fn descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }

    /// Reads more; how many bytes came, 0 at the end of the stream.
    ///
    /// # Errors
    /// As `recvmsg(2)`; also where the kernel had to drop descriptors, because this process may not have more.
    pub fn fill(&mut self) -> io::Result<usize> {
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        let before = self.bytes.len();
        self.bytes.resize(before + READ_LEN, 0);
        let read = self.receive(before);
        self.bytes.truncate(before + read.as_ref().map_or(0, |len| *len));
        read
    }

    fn receive(&mut self, before: usize) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let room = &mut self.bytes[before..];
        let message = loop {
            let flags = RecvFlags::CMSG_CLOEXEC;
            match rustix::net::recvmsg(&self.socket, &mut [IoSliceMut::new(room)], &mut control, flags) {
                Err(rustix::io::Errno::INTR) => {}
                message => break message?,
            }
        };
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = part {
                self.descriptors.extend(descriptors);
            }
        }
        if message.flags.contains(rustix::net::ReturnFlags::CTRUNC) {
            return Err(io::Error::other("the kernel dropped descriptors: raise the limit on open files (ulimit -n)"));
        }
        Ok(message.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn descriptors_arrive_in_order_whatever_the_reads() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut receiver = Receiver::new(theirs);
        let mut pairs = Vec::new();
        for number in 0..20u8 {
            let (near, far) = UnixStream::pair().unwrap();
            let row = vec![number; usize::from(number) + 1];
            assert_eq!(send_with(&ours, &row, far.as_fd()).unwrap(), row.len());
            pairs.push(near);
        }
        drop(ours);

        while receiver.fill().unwrap() > 0 {}

        assert_eq!(receiver.fresh().len(), (1..=20).sum::<usize>());
        for (number, mut near) in (0..).zip(pairs) {
            let mut far = UnixStream::from(receiver.descriptor().unwrap());
            far.write_all(&[number]).unwrap();
            let mut byte = [0];
            near.read_exact(&mut byte).unwrap();
            assert_eq!(byte, [number]);
        }
        assert!(receiver.descriptor().is_none());
    }

    #[test]
    fn bytes_stay_until_they_are_taken() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut receiver = Receiver::new(theirs);
        ours.write_all(b"abc").unwrap();
        receiver.fill().unwrap();
        receiver.take(1);
        ours.write_all(b"def").unwrap();
        receiver.fill().unwrap();

        assert_eq!(receiver.fresh(), b"bcdef");
        receiver.take(5);
        assert!(receiver.fresh().is_empty());
    }
}
