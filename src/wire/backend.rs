//! Server messages we write, and views on the few we look into.
//!
//! Pure: slices in, bytes out. Manual: "Message Formats".

use super::Backend;

/// Appends a message: tag, length, body.
///
/// The body must be shorter than 2 GB; all of ours are.
pub fn message(out: &mut Vec<u8>, tag: Backend, body: &[u8]) {
    out.push(tag as u8);
    let len = u32::try_from(body.len() + 4).expect("our own messages are far below 4 GB");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(body);
}

/// Appends an AuthenticationOk.
pub fn authentication_ok(out: &mut Vec<u8>) {
    message(out, Backend::Authentication, &[0, 0, 0, 0]);
}

/// Appends a ParameterStatus.
pub fn parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    let mut body = Vec::with_capacity(name.len() + value.len() + 2);
    for text in [name, value] {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    message(out, Backend::ParameterStatus, &body);
}

/// Appends a BackendKeyData; `secret` is 4 bytes in protocol 3.0 and up to 256 in 3.2.
pub fn backend_key_data(out: &mut Vec<u8>, pid: i32, secret: &[u8]) {
    let mut body = pid.to_be_bytes().to_vec();
    body.extend_from_slice(secret);
    message(out, Backend::BackendKeyData, &body);
}

/// Appends a ReadyForQuery with a transaction status: `I`, `T` or `E`.
pub fn ready_for_query(out: &mut Vec<u8>, status: u8) {
    message(out, Backend::ReadyForQuery, &[status]);
}

/// Appends a ParseComplete.
pub fn parse_complete(out: &mut Vec<u8>) {
    message(out, Backend::ParseComplete, b"");
}

/// Appends a CloseComplete.
pub fn close_complete(out: &mut Vec<u8>) {
    message(out, Backend::CloseComplete, b"");
}

/// The name and value in a ParameterStatus body. `None` where it is broken or not UTF-8.
pub fn parse_parameter_status(body: &[u8]) -> Option<(&str, &str)> {
    let mut parts = body.split(|byte| *byte == 0);
    let name = std::str::from_utf8(parts.next()?).ok()?;
    let value = std::str::from_utf8(parts.next()?).ok()?;
    // A well-formed body ends in a NUL, so there is one more, empty, part.
    parts.next()?;
    Some((name, value))
}

/// The process id and secret in a BackendKeyData body.
pub fn parse_backend_key_data(body: &[u8]) -> Option<(i32, &[u8])> {
    let (pid, secret) = body.split_first_chunk::<4>()?;
    (4..=256).contains(&secret.len()).then(|| (i32::from_be_bytes(*pid), secret))
}
