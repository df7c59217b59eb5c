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

/// The name and value in a ParameterStatus body. The value is in the session's client_encoding, whatever that is.
/// `None` where the body is broken, not whole, or has no readable name.
pub fn parse_parameter_status(body: &[u8]) -> Option<(&str, &[u8])> {
    let mut parts = body.split(|byte| *byte == 0);
    let name = std::str::from_utf8(parts.next()?).ok()?;
    let value = parts.next()?;
    // A well-formed body ends in a NUL, so there is one more, empty, part.
    parts.next()?;
    Some((name, value))
}

/// The process id and secret in a BackendKeyData body.
pub fn parse_backend_key_data(body: &[u8]) -> Option<(i32, &[u8])> {
    let (pid, secret) = body.split_first_chunk::<4>()?;
    (4..=256).contains(&secret.len()).then(|| (i32::from_be_bytes(*pid), secret))
}

/// How many columns a RowDescription or DataRow body speaks of. `None` where it is broken.
pub fn column_count(body: &[u8]) -> Option<usize> {
    body.first_chunk().map(|count| usize::from(u16::from_be_bytes(*count)))
}

/// The values in a DataRow body, `None` for NULL. `None` at all where it is broken.
pub fn parse_data_row(body: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let count = column_count(body)?;
    let mut rest = body.get(2..)?;
    // A broken message must not make us reserve what it only claims to hold: each value takes 4 bytes at least.
    let mut values = Vec::with_capacity(count.min(rest.len() / 4));
    for _ in 0..count {
        let (len, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        values.push(match i32::from_be_bytes(*len) {
            -1 => None,
            len => {
                let (value, after) = rest.split_at_checked(usize::try_from(len).ok()?)?;
                rest = after;
                Some(value)
            }
        });
    }
    rest.is_empty().then_some(values)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn a_row_gives_back_what_was_put_in(
            values in proptest::collection::vec(
                proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)), 0..6),
            cut in any::<proptest::sample::Index>(),
        ) {
            let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
            for value in &values {
                let len = value.as_ref().map_or(-1, |value| i32::try_from(value.len()).unwrap());
                body.extend_from_slice(&len.to_be_bytes());
                body.extend_from_slice(value.as_deref().unwrap_or_default());
            }

            let expected: Vec<_> = values.iter().map(Option::as_deref).collect();
            prop_assert_eq!(parse_data_row(&body), Some(expected));
            prop_assert_eq!(parse_data_row(&body[..cut.index(body.len())]), None, "half a row is none");
        }

        #[test]
        fn any_bytes_are_a_row_or_none(body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse_data_row(&body);
        }
    }
}
