//! Client messages we look into, and those we write as a client of Postgres.
//!
//! Pure: slices in, bytes out. Named statements are looked into by `protocol::statements`; here is what the login, the
//! relay and the checks on a server need.

use super::Frontend;
use super::framing::{FramingError, Header};

/// What a client at rest has sent so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Nothing that wants an answer yet.
    Part,
    /// Something a server must answer.
    Request,
    /// Goodbye.
    Terminate,
    /// A message of this many bytes that means nothing outside of a COPY: what follows a COPY that failed.
    Stray(usize),
}

/// What the bytes of a client at rest amount to. Messages of the extended protocol want no answer before a Flush or a
/// Sync, so a server is asked for only then: half a request holds none.
///
/// # Errors
/// The stream is broken.
#[inline]
pub fn sent_at_rest(buf: &[u8], len_max: usize) -> Result<Sent, FramingError> {
    let mut rest = buf;
    while let Some(header) = Header::parse(rest, len_max)? {
        if rest.len() < header.len {
            return Ok(Sent::Part);
        }
        match Frontend::from_byte(header.tag) {
            Some(Frontend::Terminate) if rest.len() == buf.len() => return Ok(Sent::Terminate),
            Some(Frontend::CopyData | Frontend::CopyDone | Frontend::CopyFail) if rest.len() == buf.len() => {
                return Ok(Sent::Stray(header.len));
            }
            Some(Frontend::Parse | Frontend::Bind | Frontend::Describe | Frontend::Execute | Frontend::Close) => {
                rest = &rest[header.len..];
            }
            _ => return Ok(Sent::Request),
        }
    }
    Ok(Sent::Part)
}

/// Appends a message: tag, length, body.
///
/// The body must be shorter than 2 GB; all of ours are.
pub fn message(out: &mut Vec<u8>, tag: Frontend, body: &[u8]) {
    out.push(tag as u8);
    let len = u32::try_from(body.len() + 4).expect("our own messages are far below 4 GB");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(body);
}

/// Appends a Query. A NUL in `sql` would end it early, so what follows one is left out.
pub fn query(out: &mut Vec<u8>, sql: &str) {
    let sql = sql.split('\0').next().unwrap_or_default();
    let mut body = Vec::with_capacity(sql.len() + 1);
    body.extend_from_slice(sql.as_bytes());
    body.push(0);
    message(out, Frontend::Query, &body);
}

/// Appends a Terminate.
pub fn terminate(out: &mut Vec<u8>) {
    message(out, Frontend::Terminate, b"");
}

#[cfg(test)]
mod tests {
    use super::super::framing::MESSAGE_LEN_MAX;
    use super::*;

    fn sent(messages: &[(Frontend, &[u8])]) -> Sent {
        let mut buf = Vec::new();
        for (tag, body) in messages {
            message(&mut buf, *tag, body);
        }
        sent_at_rest(&buf, MESSAGE_LEN_MAX).unwrap()
    }

    #[test]
    fn an_extended_request_wants_an_answer_only_at_its_flush_or_sync() {
        let parse = (Frontend::Parse, &b"\0select 1\0\0\0"[..]);

        assert_eq!(sent(&[parse]), Sent::Part);
        assert_eq!(sent(&[parse, (Frontend::Sync, b"")]), Sent::Request);
        assert_eq!(sent(&[parse, (Frontend::Flush, b"")]), Sent::Request);
        assert_eq!(sent(&[(Frontend::Query, b"select 1\0")]), Sent::Request);
    }

    #[test]
    fn half_a_query_is_no_request() {
        let mut buf = Vec::new();
        query(&mut buf, "select 1");

        for cut in 0..buf.len() {
            assert_eq!(sent_at_rest(&buf[..cut], MESSAGE_LEN_MAX), Ok(Sent::Part));
        }
    }

    #[test]
    fn a_query_with_a_nul_ends_there() {
        let mut out = Vec::new();

        query(&mut out, "a\0b");

        assert_eq!(out, b"Q\0\0\0\x06a\0");
    }
}
