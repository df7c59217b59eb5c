//! Message streams: none panics, and however the bytes arrive, the messages are the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::wire::framing::{Framer, FramingError, Partial, Piece};
use pgweir::wire::frontend::sent_at_rest;

const LEN_MAX: usize = 1 << 20;

/// The messages in `stream`, of which `step` bytes arrive at a time; large ones are taken in parts.
fn messages(stream: &[u8], step: usize) -> (Vec<(u8, Vec<u8>)>, Option<FramingError>) {
    let (mut framer, mut begin, mut found) = (Framer::default(), 0, Vec::<(u8, Vec<u8>)>::new());
    let ends = (step..stream.len()).step_by(step).chain([stream.len()]);
    for end in ends {
        loop {
            let piece = match framer.next(&stream[begin..end], LEN_MAX, |_| Partial::Stream) {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(broken) => return (found, Some(broken)),
            };
            begin += piece.len();
            match piece {
                Piece::Whole(tag, bytes) => found.push((tag, bytes.to_vec())),
                Piece::Start(header, bytes) => found.push((header.tag, bytes.to_vec())),
                Piece::More { bytes, .. } => found.last_mut().expect("a start").1.extend_from_slice(bytes),
            }
        }
    }
    (found, None)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((step, stream)) = bytes.split_first() else { return };
    let _ = sent_at_rest(stream, LEN_MAX);
    assert_eq!(messages(stream, usize::from(*step).max(1)), messages(stream, stream.len().max(1)));
});
