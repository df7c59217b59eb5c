//! Client messages we look into, and those we write as a client of Postgres.
//!
//! Pure: slices in, bytes out. Named statements are looked into by `protocol::statements`; here is what the login, the
//! relay and the checks on a server need.

use super::Frontend;

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
