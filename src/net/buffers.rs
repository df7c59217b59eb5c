//! Buffers lent to connections while they have bytes in hand.
//!
//! A connection at rest owns no buffer: ten thousand idle clients cost none. Each thread keeps a few returned buffers
//! of each of two sizes, so that lending one is a pop and a push. A transfer that runs full is lent the large size:
//! measured on 10 MB results, 64 KB reads cost a third of the CPU of 4 KB ones.
//!
//! Buffers are zeroed once, when they are made: reading into uninitialised memory would need unsafe code and saves
//! nothing when they are used over and over.

use std::cell::RefCell;

use zeroize::Zeroize;

/// Bytes of a buffer lent at first, where `pkt_buf` asks for no more.
pub const SMALL_LEN: usize = 16 * 1024;

/// Bytes of a buffer lent to a transfer that runs full, where `pkt_buf` asks for no more.
pub const LARGE_LEN: usize = 64 * 1024;

/// The most that `pkt_buf` can ask for: larger buffers leave the processor's caches and gain nothing.
pub const LENT_MAX: usize = 1024 * 1024;

/// Returned buffers kept per thread and size.
const KEPT_MAX: usize = 16;

/// An outbox keeps this many bytes of memory, whatever is pending.
const OUTBOX_KEPT_LEN: usize = SMALL_LEN;

/// Returned buffers of one size.
struct Pile {
    len: usize,
    kept: Vec<Box<[u8]>>,
}

struct Shelf {
    small: Pile,
    /// Never smaller than `small`.
    large: Pile,
}

thread_local! {
    static SHELF: RefCell<Shelf> = const { RefCell::new(Shelf::new()) };
}

impl Shelf {
    const fn new() -> Shelf {
        let small = Pile { len: SMALL_LEN, kept: Vec::new() };
        Shelf { small, large: Pile { len: LARGE_LEN, kept: Vec::new() } }
    }
}

/// Makes this thread lend buffers of at least so many bytes, at most [`LENT_MAX`]: `pkt_buf`. A number below
/// [`SMALL_LEN`] changes nothing, since a buffer that is lent only while there are bytes saves no memory by being
/// smaller. Called once, before the thread carries anybody.
pub fn lend_at_least(bytes: usize) {
    SHELF.with(|shelf| {
        let mut shelf = shelf.borrow_mut();
        *shelf = Shelf::new();
        shelf.small.len = bytes.clamp(SMALL_LEN, LENT_MAX);
        shelf.large.len = shelf.small.len.max(LARGE_LEN);
    });
}

#[derive(Clone, Copy)]
enum Size {
    Small,
    Large,
}

fn lend(size: Size) -> Box<[u8]> {
    let (kept, len) = SHELF.with(|shelf| {
        let mut shelf = shelf.borrow_mut();
        let pile = match size {
            Size::Small => &mut shelf.small,
            Size::Large => &mut shelf.large,
        };
        (pile.kept.pop(), pile.len)
    });
    kept.unwrap_or_else(|| vec![0; len].into_boxed_slice())
}

fn give_back(buf: Box<[u8]>) {
    SHELF.with(|shelf| {
        let mut shelf = shelf.borrow_mut();
        let pile = match buf.len() {
            len if len == shelf.small.len => &mut shelf.small,
            len if len == shelf.large.len => &mut shelf.large,
            _ => return,
        };
        if pile.kept.len() < KEPT_MAX {
            pile.kept.push(buf);
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
    /// The buffer is larger than any that is lent: it was made for a long message.
    grown: bool,
}

impl Inbox {
    /// Bytes received and not yet looked at.
    #[inline]
    pub fn fresh(&self) -> &[u8] {
        self.buf.as_ref().map_or(&[], |buf| &buf[self.passed..self.end])
    }

    /// The same, to be deciphered in place.
    pub fn fresh_mut(&mut self) -> &mut [u8] {
        self.buf.as_mut().map_or(&mut [], |buf| &mut buf[self.passed..self.end])
    }

    /// Adds bytes that did not come from a socket.
    pub fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.room();
            let len = room.len().min(bytes.len());
            room[..len].copy_from_slice(&bytes[..len]);
            self.filled(len);
            bytes = &bytes[len..];
        }
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

    /// Drops what was not looked at; the run stays.
    pub fn drop_fresh(&mut self) {
        self.end = self.passed;
        if self.start == self.end {
            self.clear();
        }
    }

    /// As [`Inbox::skip`], for bytes that must not stay in memory: the buffer is lent to others next.
    pub fn skip_secret(&mut self, len: usize) {
        if let Some(buf) = self.buf.as_mut() {
            buf[self.passed..self.passed + len].zeroize();
        }
        self.skip(len);
    }

    /// Drops all bytes as [`Inbox::clear`] does, and overwrites what was in hand.
    pub fn wipe(&mut self) {
        if let Some(buf) = self.buf.as_mut() {
            buf[self.start..self.end].zeroize();
        }
        self.clear();
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
        self.grown = false;
        if let Some(buf) = self.buf.take() {
            give_back(buf);
        }
    }

    /// Room to read into, at least one byte: lends a buffer, moves the bytes to its front, or grows it. A message that
    /// must be held whole makes it grow by doubling, only as its bytes really arrive; the caller bounds such messages.
    /// Once such a message has gone, what came behind it moves to a buffer of the large size.
    pub fn room(&mut self) -> &mut [u8] {
        if self.buf.is_none() {
            self.buf = Some(lend(if self.ran_full { Size::Large } else { Size::Small }));
        }
        if self.grown {
            self.shrink();
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

    /// Moves what is left to a buffer of the large size, where it fills less than half of one, and lets go of the buffer
    /// that was made for a long message. To need another such buffer takes more bytes than are copied here.
    #[cold]
    fn shrink(&mut self) {
        if self.end - self.start >= LARGE_LEN / 2 {
            return;
        }
        let Some(mut old) = self.buf.take() else { return };
        let mut large = lend(Size::Large);
        let (left, start) = (self.start..self.end, self.start);
        large[..left.len()].copy_from_slice(&old[left.clone()]);
        // It may be the beginning of a long password.
        old[left].zeroize();
        (self.start, self.passed, self.end) = (0, self.passed - start, self.end - start);
        self.buf = Some(large);
        self.grown = false;
    }

    fn grow(&mut self) {
        let Some(mut old) = self.buf.take() else { return };
        let mut grown = lend(Size::Large);
        if grown.len() <= old.len() {
            give_back(grown);
            grown = vec![0; old.len() * 2].into_boxed_slice();
            self.grown = true;
        }
        grown[..self.end].copy_from_slice(&old[..self.end]);
        // It may be the beginning of a long password.
        old[..self.end].zeroize();
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
///
/// Whoever appends sees to it that it stays short: nothing more is read for a receiver that does not take what is
/// pending here.
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

    /// How many bytes are left to send.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
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

    /// `len` bytes of what was pending have been sent. Their memory goes with them, half of it at a time: what is kept
    /// is at most twice what is pending, or a little, and each byte is moved at most once for one that has been sent.
    pub fn sent(&mut self, len: usize) {
        self.sent += len;
        let pending = self.bytes.len() - self.sent;
        if pending == 0 {
            self.sent = 0;
            if self.bytes.capacity() <= OUTBOX_KEPT_LEN {
                self.bytes.clear();
            } else {
                self.bytes = Vec::new();
            }
        } else if self.sent >= pending && self.sent >= OUTBOX_KEPT_LEN {
            self.bytes.drain(..self.sent);
            self.bytes.shrink_to(OUTBOX_KEPT_LEN);
            self.sent = 0;
        }
    }

    /// These bytes are pending and nothing else; the memory goes where there are none.
    pub fn replace(&mut self, bytes: &[u8]) {
        self.sent = 0;
        if bytes.is_empty() {
            self.bytes = Vec::new();
        } else {
            self.bytes.clear();
            self.bytes.extend_from_slice(bytes);
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

    #[test]
    fn an_empty_inbox_owns_no_buffer() {
        let mut inbox = Inbox::default();

        inbox.put(b"abc");
        assert!(inbox.buf.is_some());
        inbox.pass(3);
        inbox.sent(3);

        assert!(inbox.buf.is_none() && inbox.is_empty());
    }

    #[test]
    fn a_long_message_leaves_no_long_buffer_though_more_comes_behind_it() {
        let mut inbox = Inbox::default();
        inbox.put(&vec![1; 9 * 1024 * 1024]);
        inbox.put(b"the next message");

        inbox.pass(9 * 1024 * 1024);
        inbox.sent(9 * 1024 * 1024 - 3);
        assert!(inbox.room().len() <= LARGE_LEN);

        assert_eq!((inbox.run(), inbox.fresh()), (&[1; 3][..], &b"the next message"[..]));
        assert_eq!(inbox.buf.as_ref().unwrap().len(), LARGE_LEN);
    }

    #[test]
    fn an_outbox_keeps_at_most_twice_what_is_pending_and_moves_no_byte_twice() {
        let mut outbox = Outbox::default();
        let whole = 8 * 1024 * 1024;
        outbox.bytes().extend((0..whole).map(|at| (at / 1000) as u8));

        let (mut sent, mut moved) = (0, 0);
        while !outbox.is_empty() {
            let start = outbox.pending().as_ptr();
            assert_eq!(outbox.pending()[0], (sent / 1000) as u8);
            let len = outbox.pending().len().min(7000);
            outbox.sent(len);
            sent += len;
            if !outbox.is_empty() && outbox.pending().as_ptr() != start.wrapping_add(len) {
                moved += outbox.pending().len();
            }
            let most = OUTBOX_KEPT_LEN.max(2 * outbox.pending().len() + 7000);
            assert!(
                outbox.bytes.capacity() <= most,
                "{} bytes for {}",
                outbox.bytes.capacity(),
                outbox.pending().len()
            );
        }

        assert_eq!(sent, whole);
        assert!(moved <= whole, "{moved} bytes were moved to send {whole}");
        assert!(outbox.bytes.capacity() <= OUTBOX_KEPT_LEN);
    }

    #[test]
    fn an_outbox_that_is_never_empty_grows_no_further_than_what_is_pending() {
        let mut outbox = Outbox::default();
        for _ in 0..10_000 {
            outbox.bytes().extend_from_slice(&[7; 1000]);
            if outbox.pending().len() > 20_000 {
                outbox.sent(1000);
            }
        }

        assert!(outbox.bytes.capacity() <= 4 * 21_000, "{}", outbox.bytes.capacity());
    }

    #[test]
    fn pkt_buf_makes_buffers_larger_within_limits_and_never_smaller() {
        // Each test has a thread of its own, and so a shelf.
        let lent = |pkt_buf| {
            lend_at_least(pkt_buf);
            let mut inbox = Inbox::default();
            let small = inbox.room().len();
            inbox.put(&vec![1; small + 1]);
            let large = inbox.buf.as_ref().map_or(0, |buf| buf.len());
            inbox.clear();
            (small, large)
        };

        assert_eq!(lent(4096), (SMALL_LEN, LARGE_LEN));
        assert_eq!(lent(20_000), (20_000, LARGE_LEN));
        assert_eq!(lent(100_000), (100_000, 200_000), "grown by doubling");
        assert_eq!(lent(usize::MAX).0, LENT_MAX);
    }

    #[test]
    fn a_secret_is_overwritten_before_its_buffer_is_lent_again() {
        let mut inbox = Inbox::default();
        inbox.put(b"password, then more");
        inbox.skip_secret(8);
        assert_eq!(inbox.fresh(), b", then more");
        inbox.clear();
        assert_eq!(&inbox.room()[..19], b"\0\0\0\0\0\0\0\0, then more");

        inbox.put(b"half a passw");
        inbox.wipe();
        assert!(inbox.is_empty());
        assert_eq!(&inbox.room()[..12], &[0; 12]);

        let small = inbox.room().len();
        inbox.put(&vec![1; small + 1]);
        assert!(lend(Size::Small).iter().all(|byte| *byte == 0), "a password that outgrew its buffer");
    }

    #[test]
    fn a_buffer_of_the_chosen_size_is_kept_and_lent_again() {
        lend_at_least(20_000);
        let mut inbox = Inbox::default();
        inbox.put(b"mark");
        inbox.clear();

        assert_eq!(&inbox.room()[..4], b"mark");
    }

    #[test]
    fn what_was_not_looked_at_is_dropped_and_the_run_stays() {
        let mut inbox = Inbox::default();
        inbox.put(b"runfresh");
        inbox.pass(3);

        inbox.drop_fresh();
        assert_eq!((inbox.run(), inbox.fresh()), (&b"run"[..], &b""[..]));
        inbox.put(b"more");
        assert_eq!(inbox.fresh(), b"more");
        inbox.drop_fresh();
        inbox.sent(3);

        assert!(inbox.buf.is_none() && inbox.is_empty());
        inbox.drop_fresh();
        assert!(inbox.is_empty());
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
                inbox.put(&bytes);
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
