//! Buffers lent to connections while they have bytes in hand.
//!
//! A connection at rest owns no buffer: ten thousand idle clients cost none. Each thread keeps a few returned buffers
//! of each of two sizes, so that lending one is a pop and a push. A transfer that runs full is lent the large size:
//! measured on 10 MB results, 64 KB reads cost a third of the CPU of 4 KB ones.
//!
//! Buffers are zeroed once, when they are made: reading into uninitialised memory would need unsafe code and saves
//! nothing when they are used over and over.

use std::cell::RefCell;

/// Bytes of a buffer lent at first.
pub const SMALL_LEN: usize = 16 * 1024;

/// Bytes of a buffer lent to a transfer that runs full.
pub const LARGE_LEN: usize = 64 * 1024;

/// Returned buffers kept per thread and size.
const KEPT_MAX: usize = 16;

/// An outbox emptied keeps its memory up to this many bytes.
const OUTBOX_KEPT_LEN: usize = SMALL_LEN;

#[derive(Default)]
struct Shelf {
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
}

thread_local! {
    static SHELF: RefCell<Shelf> = RefCell::default();
}

fn lend(len: usize) -> Box<[u8]> {
    let kept = SHELF.with(|shelf| {
        let mut shelf = shelf.borrow_mut();
        if len == SMALL_LEN { shelf.small.pop() } else { shelf.large.pop() }
    });
    kept.unwrap_or_else(|| vec![0; len].into_boxed_slice())
}

fn give_back(buf: Box<[u8]>) {
    SHELF.with(|shelf| {
        let mut shelf = shelf.borrow_mut();
        let kept = match buf.len() {
            SMALL_LEN => &mut shelf.small,
            LARGE_LEN => &mut shelf.large,
            _ => return,
        };
        if kept.len() < KEPT_MAX {
            kept.push(buf);
        }
    });
}

/// Bytes received and not yet passed on: `0 <= start <= passed <= end <= buf.len()`.
///
/// ```text
///   start            passed                 end
///     │  the run:       │  to be looked at    │  room to read into
///     │  may be sent    │                     │
/// ```
#[derive(Debug, Default)]
pub struct Inbox {
    /// Lent while there is anything in it.
    buf: Option<Box<[u8]>>,
    start: usize,
    passed: usize,
    end: usize,
    /// The last read filled all the room there was: lend the large size next time.
    ran_full: bool,
}

impl Inbox {
    /// Bytes received and not yet looked at.
    #[inline]
    pub fn fresh(&self) -> &[u8] {
        self.buf.as_ref().map_or(&[], |buf| &buf[self.passed..self.end])
    }

    /// Bytes looked at that may be sent on as they are.
    #[inline]
    pub fn run(&self) -> &[u8] {
        self.buf.as_ref().map_or(&[], |buf| &buf[self.start..self.passed])
    }

    /// Is there nothing in it?
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Is there no room left to read into, though bytes are still to be looked at?
    #[inline]
    pub fn is_full(&self) -> bool {
        self.end - self.start == self.buf.as_ref().map_or(usize::MAX, |buf| buf.len())
    }

    /// The first `len` fresh bytes join the run.
    #[inline]
    pub fn pass(&mut self, len: usize) {
        self.passed += len;
        debug_assert!(self.passed <= self.end);
    }

    /// The first `len` fresh bytes go nowhere. The run must be empty: what was passed before them would follow them.
    #[inline]
    pub fn skip(&mut self, len: usize) {
        debug_assert!(self.start == self.passed);
        self.passed += len;
        debug_assert!(self.passed <= self.end);
        self.sent(len);
    }

    /// The first `len` bytes of the run have been sent.
    #[inline]
    pub fn sent(&mut self, len: usize) {
        self.start += len;
        debug_assert!(self.start <= self.passed);
        if self.start == self.end {
            self.clear();
        }
    }

    /// Drops all bytes and gives the buffer back.
    pub fn clear(&mut self) {
        (self.start, self.passed, self.end) = (0, 0, 0);
        if let Some(buf) = self.buf.take() {
            give_back(buf);
        }
    }

    /// Room to read into, at least one byte: lends a buffer, moves the bytes to its front, or grows it. A message that
    /// must be held whole makes it grow by doubling, only as its bytes really arrive; the caller bounds such messages.
    pub fn room(&mut self) -> &mut [u8] {
        if self.buf.is_none() {
            self.buf = Some(lend(if self.ran_full { LARGE_LEN } else { SMALL_LEN }));
        }
        let len = self.buf.as_ref().map_or(0, |buf| buf.len());
        if self.end == len {
            if self.start > 0 {
                self.move_to_front();
            } else {
                self.grow();
            }
        }
        let end = self.end;
        self.buf.as_mut().map_or(&mut [], |buf| &mut buf[end..])
    }

    fn move_to_front(&mut self) {
        if let Some(buf) = self.buf.as_mut() {
            buf.copy_within(self.start..self.end, 0);
        }
        self.passed -= self.start;
        self.end -= self.start;
        self.start = 0;
    }

    fn grow(&mut self) {
        let Some(old) = self.buf.take() else { return };
        let mut grown = if old.len() < LARGE_LEN { lend(LARGE_LEN) } else { vec![0; old.len() * 2].into_boxed_slice() };
        grown[..self.end].copy_from_slice(&old[..self.end]);
        give_back(old);
        self.buf = Some(grown);
    }

    /// `len` bytes were read into the room.
    #[inline]
    pub fn filled(&mut self, len: usize) {
        self.end += len;
        let room = self.buf.as_ref().map_or(0, |buf| buf.len());
        debug_assert!(self.end <= room);
        self.ran_full = self.end == room;
        if self.end == 0 {
            self.clear();
        }
    }
}

/// Bytes of our own making on their way to a socket: rewritten messages, invented replies.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// `0 <= sent <= bytes.len()`.
    sent: usize,
}

impl Outbox {
    /// Is nothing left to send?
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What is left to send.
    #[inline]
    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Where to append.
    #[inline]
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Takes over the inbox's run, so that something can follow it here.
    pub fn take_run(&mut self, inbox: &mut Inbox) {
        let len = inbox.run().len();
        if len > 0 {
            self.bytes.extend_from_slice(inbox.run());
            inbox.sent(len);
        }
    }

    /// `len` bytes of what was pending have been sent. At the end the memory goes, or is kept if it is little.
    pub fn sent(&mut self, len: usize) {
        self.sent += len;
        if self.sent == self.bytes.len() {
            self.sent = 0;
            if self.bytes.capacity() <= OUTBOX_KEPT_LEN {
                self.bytes.clear();
            } else {
                self.bytes = Vec::new();
            }
        }
    }

    /// Gives the memory back. Nothing may be pending.
    pub fn rest(&mut self) {
        debug_assert!(self.is_empty());
        self.bytes = Vec::new();
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put(inbox: &mut Inbox, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = inbox.room();
            let take = room.len().min(rest.len());
            room[..take].copy_from_slice(&rest[..take]);
            inbox.filled(take);
            rest = &rest[take..];
        }
    }

    #[test]
    fn an_empty_inbox_owns_no_buffer() {
        let mut inbox = Inbox::default();

        put(&mut inbox, b"abc");
        assert!(inbox.buf.is_some());
        inbox.pass(3);
        inbox.sent(3);

        assert!(inbox.buf.is_none() && inbox.is_empty());
    }

    #[test]
    fn a_read_of_nothing_leaves_no_buffer_behind() {
        let mut inbox = Inbox::default();

        let _ = inbox.room();
        inbox.filled(0);

        assert!(inbox.buf.is_none());
    }

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in(chunks in prop::collection::vec((1usize..40_000, 0usize..40_000), 1..12)) {
            let (mut inbox, mut put_in, mut got) = (Inbox::default(), Vec::new(), Vec::new());
            for (number, (add, take)) in chunks.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..add).map(|at| (at * 31 + number) as u8).collect();
                put(&mut inbox, &bytes);
                put_in.extend_from_slice(&bytes);
                inbox.pass(take.min(inbox.fresh().len()));
                let half = inbox.run().len().div_ceil(2);
                got.extend_from_slice(&inbox.run()[..half]);
                inbox.sent(half);
            }
            got.extend_from_slice(inbox.run());
            got.extend_from_slice(inbox.fresh());
            prop_assert_eq!(got, put_in);
        }
    }
}
