//! Walks a buffer of protocol messages in place, without copying and without holding large messages whole.
//!
//! Pure: the framer keeps one number, the bytes still missing of a message that is longer than the buffer.
//!
//! A message is one tag byte, a big-endian length that counts itself but not the tag, and the body. What is complete in
//! the buffer comes as [`Piece::Whole`]. Of a larger message the caller may either wait for the rest (when it must look
//! into it) or take what is there: then it comes as [`Piece::Start`], followed by [`Piece::More`] until it is through.
//! Manual: "Message Flow", "Message Formats".

/// Bytes of a message before its body.
pub const HEADER_LEN: usize = 5;

/// The largest length field the protocol can express, tag byte included: PostgreSQL itself refuses more than 1 GB.
pub const MESSAGE_LEN_MAX: usize = i32::MAX as usize;

/// What is wrong with a stream of messages: nothing after it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramingError {
    /// The length field is less than 4 or more than the limit.
    BadLength {
        /// The header as received.
        header: [u8; HEADER_LEN],
    },
}

impl std::fmt::Display for FramingError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let FramingError::BadLength { header } = self;
        write!(f, "bad packet header: '")?;
        for byte in header {
            write!(f, "{byte:02x}")?;
        }
        write!(f, "'")
    }
}

impl std::error::Error for FramingError {}

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The tag byte.
    pub tag: u8,
    /// The whole message's length in bytes, tag and length field included; at least 5.
    pub len: usize,
}

impl Header {
    /// Reads the header at the start of `buf`; `None` while fewer than five bytes are there.
    ///
    /// # Errors
    /// The length is impossible, or more than `len_max`.
    #[inline]
    pub fn parse(buf: &[u8], len_max: usize) -> Result<Option<Header>, FramingError> {
        let Some(&[tag, a, b, c, d]) = buf.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if len < 4 || len >= len_max {
            return Err(FramingError::BadLength { header: [tag, a, b, c, d] });
        }
        Ok(Some(Header { tag, len: len + 1 }))
    }
}

/// Part of a message stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A complete message, header included.
    Whole(u8, &'a [u8]),
    /// The first bytes of a message that goes on; the slice holds at least the header.
    Start(Header, &'a [u8]),
    /// Further bytes of the message started last; `last` when it ends with them.
    More {
        /// The bytes.
        bytes: &'a [u8],
        /// Whether the message is through.
        last: bool,
    },
}

impl Piece<'_> {
    /// How many bytes of the buffer the piece covers; never 0.
    pub fn len(&self) -> usize {
        match self {
            Piece::Whole(_, bytes) | Piece::Start(_, bytes) | Piece::More { bytes, .. } => bytes.len(),
        }
    }

    /// A piece is never empty; here for clippy's sake and for symmetry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Whether an incomplete message may be taken in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partial {
    /// Take what is there.
    Stream,
    /// Wait until the message is complete.
    Hold,
}

/// Remembers how much of a streamed message is still to come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Framer {
    missing: usize,
}

impl Framer {
    /// Is the stream between two messages?
    #[inline]
    pub fn between_messages(&self) -> bool {
        self.missing == 0
    }

    /// How many bytes are to come until the stream is between two messages, as far as that can be told: of a message
    /// whose header is not whole, the bytes to the header's end. `fresh` is what has not been taken as a piece yet.
    ///
    /// # Errors
    /// As [`Framer::next`].
    pub fn missing(&self, fresh: &[u8]) -> Result<usize, FramingError> {
        if self.missing > 0 || fresh.is_empty() {
            return Ok(self.missing.saturating_sub(fresh.len()));
        }
        let header = Header::parse(fresh, MESSAGE_LEN_MAX)?;
        Ok(header.map_or(HEADER_LEN, |header| header.len).saturating_sub(fresh.len()))
    }

    /// The next piece at the start of `buf`, or `None` when more bytes are needed. `partial` is asked about a message
    /// that is not complete yet.
    ///
    /// # Errors
    /// The stream is broken, see [`FramingError`].
    #[inline]
    pub fn next<'a>(
        &mut self,
        buf: &'a [u8],
        len_max: usize,
        partial: impl FnOnce(Header) -> Partial,
    ) -> Result<Option<Piece<'a>>, FramingError> {
        if self.missing > 0 {
            return Ok(self.more(buf));
        }
        let Some(header) = Header::parse(buf, len_max)? else {
            return Ok(None);
        };
        if let Some(message) = buf.get(..header.len) {
            return Ok(Some(Piece::Whole(header.tag, message)));
        }
        if partial(header) == Partial::Hold {
            return Ok(None);
        }
        self.missing = header.len - buf.len();
        Ok(Some(Piece::Start(header, buf)))
    }

    fn more<'a>(&mut self, buf: &'a [u8]) -> Option<Piece<'a>> {
        if buf.is_empty() {
            return None;
        }
        let take = self.missing.min(buf.len());
        self.missing -= take;
        Some(Piece::More { bytes: &buf[..take], last: self.missing == 0 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        out.extend_from_slice(&(u32::try_from(body.len()).unwrap() + 4).to_be_bytes());
        out.extend_from_slice(body);
        out
    }

    /// Feeds `stream` in chunks ending at `cuts` and joins the pieces to messages again.
    fn reassemble(stream: &[u8], mut cuts: Vec<usize>, hold: bool) -> Vec<(u8, Vec<u8>)> {
        cuts.retain(|cut| *cut < stream.len());
        cuts.push(stream.len());
        cuts.sort_unstable();
        let (mut framer, mut buf, mut fed) = (Framer::default(), Vec::new(), 0);
        let mut messages: Vec<(u8, Vec<u8>)> = Vec::new();
        for cut in cuts {
            buf.extend_from_slice(&stream[fed..cut]);
            fed = cut;
            loop {
                let partial = |_| if hold { Partial::Hold } else { Partial::Stream };
                let len = match framer.next(&buf, MESSAGE_LEN_MAX, partial).unwrap() {
                    None => break,
                    Some(piece) => {
                        match piece {
                            Piece::Whole(tag, bytes) => messages.push((tag, bytes.to_vec())),
                            Piece::Start(header, bytes) => messages.push((header.tag, bytes.to_vec())),
                            Piece::More { bytes, .. } => messages.last_mut().unwrap().1.extend_from_slice(bytes),
                        }
                        piece.len()
                    }
                };
                buf.drain(..len);
            }
        }
        assert!(buf.is_empty() && framer.between_messages());
        messages
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_gives_the_same_messages(
            bodies in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 1..8),
            cuts in prop::collection::vec(0usize..300, 0..20),
            hold: bool,
        ) {
            let whole: Vec<(u8, Vec<u8>)> = bodies.iter().map(|(tag, body)| (*tag, message(*tag, body))).collect();
            let stream: Vec<u8> = whole.iter().flat_map(|(_, bytes)| bytes.clone()).collect();

            prop_assert_eq!(reassemble(&stream, cuts, hold), whole);
        }

        #[test]
        fn any_bytes_are_walked_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (mut framer, mut rest) = (Framer::default(), &bytes[..]);
            while let Ok(Some(piece)) = framer.next(rest, MESSAGE_LEN_MAX, |_| Partial::Stream) {
                prop_assert!(!piece.is_empty());
                rest = &rest[piece.len()..];
            }
        }
    }

    #[test]
    fn a_length_below_four_or_above_the_limit_is_refused() {
        for len in [0u32, 3, 101, u32::MAX] {
            let mut buf = vec![b'Q'];
            buf.extend_from_slice(&len.to_be_bytes());

            let answer = Framer::default().next(&buf, 100, |_| Partial::Stream);

            assert!(matches!(answer, Err(FramingError::BadLength { .. })), "{len}: {answer:?}");
        }
    }
}
