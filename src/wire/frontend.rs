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

/// What the bytes of a client at rest amount to. Half a first message holds no server. A whole one is a request, of the
/// extended protocol too: Postgres answers some without waiting for a Flush or a Sync, those that fail above all.
///
/// # Errors
/// The stream is broken.
#[inline]
pub fn sent_at_rest(buf: &[u8], len_max: usize) -> Result<Sent, FramingError> {
    let Some(header) = Header::parse(buf, len_max)?.filter(|header| buf.len() >= header.len) else {
        return Ok(Sent::Part);
    };
    Ok(match Frontend::from_byte(header.tag) {
        Some(Frontend::Terminate) => Sent::Terminate,
        Some(Frontend::CopyData | Frontend::CopyDone | Frontend::CopyFail) => Sent::Stray(header.len),
        _ => Sent::Request,
    })
}

/// The longest message, in bytes with its tag, of a kind that PostgreSQL holds to be short: all but Query, Parse, Bind,
/// FunctionCall and CopyData. Of a longer one it hangs up (its `PQ_SMALL_MESSAGE_LIMIT`, and the tag).
pub const SMALL_LEN_MAX: usize = 10_001;

/// The longest of all others (`PQ_LARGE_MESSAGE_LIMIT`, and the tag).
pub const LARGE_LEN_MAX: usize = 0x3fff_ffff;

/// Is the message one that PostgreSQL takes, by its length?
///
/// # Errors
/// It is too long; in words for the client.
pub fn check_len(header: Header) -> Result<(), String> {
    let most = match Frontend::from_byte(header.tag) {
        Some(Frontend::Query | Frontend::Parse | Frontend::Bind | Frontend::FunctionCall | Frontend::CopyData) => {
            LARGE_LEN_MAX
        }
        Some(_) => SMALL_LEN_MAX,
        None => return Ok(()),
    };
    if header.len <= most {
        return Ok(());
    }
    let (tag, len, most) = (header.tag.escape_ascii(), header.len - 1, most - 1);
    Err(format!("invalid message length: '{tag}' has {len} bytes, PostgreSQL takes {most}"))
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

/// Appends Parse, Bind, Describe, Execute and Sync: one statement without a name, with one parameter as text. As in
/// [`query`], `sql` ends at a NUL.
pub fn query_with(out: &mut Vec<u8>, sql: &str, parameter: &str) {
    let sql = sql.split('\0').next().unwrap_or_default();
    let mut body = Vec::with_capacity(sql.len() + 4);
    body.push(0);
    body.extend_from_slice(sql.as_bytes());
    // The end of the text, and no types for parameters.
    body.extend_from_slice(&[0, 0, 0]);
    message(out, Frontend::Parse, &body);
    body.clear();
    // No names, all parameters as text, one parameter.
    body.extend_from_slice(&[0, 0, 0, 0, 0, 1]);
    let len = u32::try_from(parameter.len()).expect("our own parameters are far below 4 GB");
    body.extend_from_slice(&len.to_be_bytes());
    body.extend_from_slice(parameter.as_bytes());
    // All results as text.
    body.extend_from_slice(&[0, 0]);
    message(out, Frontend::Bind, &body);
    message(out, Frontend::Describe, b"P\0");
    message(out, Frontend::Execute, &[0, 0, 0, 0, 0]);
    message(out, Frontend::Sync, b"");
}

/// Appends Parse, Bind and Execute: one statement without a name, without parameters.
pub fn statement(out: &mut Vec<u8>, sql: &str) {
    let sql = sql.split('\0').next().unwrap_or_default();
    let mut body = vec![0];
    body.extend_from_slice(sql.as_bytes());
    // The end of the text, and no types for parameters.
    body.extend_from_slice(&[0, 0, 0]);
    message(out, Frontend::Parse, &body);
    // No names, no parameters, all results as text.
    message(out, Frontend::Bind, &[0; 8]);
    message(out, Frontend::Execute, &[0; 5]);
}

/// Appends a Sync.
pub fn sync(out: &mut Vec<u8>) {
    message(out, Frontend::Sync, b"");
}

/// Appends a Flush.
pub fn flush(out: &mut Vec<u8>) {
    message(out, Frontend::Flush, b"");
}

/// Appends a CopyFail.
pub fn copy_fail(out: &mut Vec<u8>, why: &str) {
    let mut body = why.split('\0').next().unwrap_or_default().as_bytes().to_vec();
    body.push(0);
    message(out, Frontend::CopyFail, &body);
}

/// Is there a Terminate among these whole messages? What is no message ends the search.
pub fn has_terminate(mut buf: &[u8], len_max: usize) -> bool {
    while let Ok(Some(header)) = Header::parse(buf, len_max) {
        if header.tag == Frontend::Terminate as u8 {
            return true;
        }
        let Some(rest) = buf.get(header.len..) else { return false };
        buf = rest;
    }
    false
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
    fn a_first_message_is_a_request_before_its_sync() {
        let parse = (Frontend::Parse, &b"\0select 1\0\0\0"[..]);

        assert_eq!(sent(&[parse]), Sent::Request);
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
    fn a_query_with_a_parameter_is_a_whole_batch() {
        let mut out = Vec::new();

        query_with(&mut out, "a\0b", "joe");

        let batch: &[&[u8]] = &[
            b"P\0\0\0\x09\0a\0\0\0",
            b"B\0\0\0\x13\0\0\0\0\0\x01\0\0\0\x03joe\0\0",
            b"D\0\0\0\x06P\0",
            b"E\0\0\0\x09\0\0\0\0\0",
            b"S\0\0\0\x04",
        ];
        assert_eq!(out, batch.concat());
    }

    #[test]
    fn a_statement_and_the_end_of_a_copy_are_laid_out_as_the_manual_says() {
        let mut out = Vec::new();

        statement(&mut out, "END");
        copy_fail(&mut out, "no");

        let messages: &[&[u8]] =
            &[b"P\0\0\0\x0b\0END\0\0\0", b"B\0\0\0\x0c\0\0\0\0\0\0\0\0", b"E\0\0\0\x09\0\0\0\0\0", b"f\0\0\0\x07no\0"];
        assert_eq!(out, messages.concat());
    }

    #[test]
    fn a_terminate_is_found_behind_whole_messages_only() {
        let mut buf = Vec::new();
        query(&mut buf, "select 'X'");
        terminate(&mut buf);

        assert!(has_terminate(&buf, MESSAGE_LEN_MAX));
        assert!(!has_terminate(&buf[..buf.len() - 5], MESSAGE_LEN_MAX));
        assert!(!has_terminate(&buf[1..], MESSAGE_LEN_MAX), "not where a message begins");
        assert!(!has_terminate(b"", MESSAGE_LEN_MAX));
    }

    #[test]
    fn a_query_with_a_nul_ends_there() {
        let mut out = Vec::new();

        query(&mut out, "a\0b");

        assert_eq!(out, b"Q\0\0\0\x06a\0");
    }
}
