//! Pure: the messages of a login, whole: `AuthenticationRequest` (`R`) from a server, `PasswordMessage`,
//! `SASLInitialResponse` and `SASLResponse` (all `p`) from a client. Both roles write one kind and read the other.
//!
//! Follows "Message Formats" of the PostgreSQL manual.

/// `AuthenticationRequest` codes.
pub(super) const OK: u32 = 0;
pub(super) const CLEARTEXT_PASSWORD: u32 = 3;
pub(super) const MD5_PASSWORD: u32 = 5;
pub(super) const SASL: u32 = 10;
pub(super) const SASL_CONTINUE: u32 = 11;
pub(super) const SASL_FINAL: u32 = 12;

/// The mechanism we offer everybody.
pub(super) const SCRAM_SHA_256: &[u8] = b"SCRAM-SHA-256";
/// The mechanism with channel binding, where there is a channel to bind to.
pub(super) const SCRAM_SHA_256_PLUS: &[u8] = b"SCRAM-SHA-256-PLUS";

/// A password longer than this is refused (PgBouncer's limit for stored ones).
pub(super) const PASSWORD_BYTES_MAX: usize = 65_530;

/// A whole `AuthenticationRequest`.
pub(super) fn authentication(code: u32, payload: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes(), payload])
}

/// A whole `AuthenticationSASL`, offering these mechanisms, the best first.
pub(super) fn authentication_sasl(mechanisms: &[&[u8]]) -> Vec<u8> {
    let names: Vec<u8> = mechanisms.iter().flat_map(|name| [name, &b"\0"[..]].concat()).collect();
    authentication(SASL, &[&names, &b"\0"[..]].concat())
}

/// A whole `PasswordMessage`.
pub(super) fn password(text: &[u8]) -> Vec<u8> {
    message(b'p', &[text, b"\0"])
}

/// A whole `SASLInitialResponse`, choosing this mechanism.
pub(super) fn sasl_initial_response(mechanism: &[u8], response: &[u8]) -> Vec<u8> {
    let length = u32::try_from(response.len()).expect("a first SCRAM message is short");
    message(b'p', &[mechanism, b"\0", &length.to_be_bytes(), response])
}

/// A whole `SASLResponse`.
pub(super) fn sasl_response(response: &[u8]) -> Vec<u8> {
    message(b'p', &[response])
}

/// Reads the body of an `AuthenticationRequest`: its code and the rest.
pub(super) fn parse_authentication(body: &[u8]) -> Option<(u32, &[u8])> {
    let (code, payload) = body.split_first_chunk()?;
    Some((u32::from_be_bytes(*code), payload))
}

/// Whether the payload of an `AuthenticationSASL` offers this mechanism; `None` where it is no list of names.
pub(super) fn offers(payload: &[u8], mechanism: &[u8]) -> Option<bool> {
    let names = payload.strip_suffix(b"\0\0")?;
    Some(names.split(|byte| *byte == 0).any(|name| name == mechanism))
}

/// Reads the body of a `PasswordMessage`: one string and its terminator, nothing after.
pub(super) fn parse_password(body: &[u8]) -> Option<&[u8]> {
    let text = body.strip_suffix(b"\0")?;
    (text.len() <= PASSWORD_BYTES_MAX && !text.contains(&0)).then_some(text)
}

/// Reads the body of a `SASLInitialResponse`: the mechanism's name and, if what follows is whole, the mechanism's own
/// first message. Some mechanisms have none.
pub(super) fn parse_sasl_initial_response(body: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let end = body.iter().position(|byte| *byte == 0)?;
    let (mechanism, rest) = (&body[..end], &body[end + 1..]);
    let response = rest.split_first_chunk().and_then(|(length, response)| {
        (usize::try_from(u32::from_be_bytes(*length)).ok()? == response.len()).then_some(response)
    });
    Some((mechanism, response))
}

fn message(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = 4 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut out = Vec::with_capacity(1 + length);
    out.push(tag);
    out.extend_from_slice(&u32::try_from(length).expect("login messages are short").to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_manuals_bytes() {
        assert_eq!(authentication(CLEARTEXT_PASSWORD, b""), b"R\0\0\0\x08\0\0\0\x03");
        assert_eq!(authentication(MD5_PASSWORD, &[1, 2, 3, 4]), b"R\0\0\0\x0c\0\0\0\x05\x01\x02\x03\x04");
        assert_eq!(authentication_sasl(&[SCRAM_SHA_256]), b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0");
        assert_eq!(password(b"pw"), b"p\0\0\0\x07pw\0");
        assert_eq!(
            authentication_sasl(&[SCRAM_SHA_256_PLUS, SCRAM_SHA_256]),
            b"R\0\0\0\x2a\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"
        );
        assert_eq!(sasl_initial_response(SCRAM_SHA_256, b"n,,"), b"p\0\0\0\x19SCRAM-SHA-256\0\0\0\0\x03n,,");
        assert_eq!(sasl_response(b"c="), b"p\0\0\0\x06c=");
    }

    #[test]
    fn a_password_message_is_exactly_one_string() {
        assert_eq!(parse_password(b"pw\0"), Some(&b"pw"[..]));
        assert_eq!(parse_password(b"\0"), Some(&b""[..]));
        for body in [&b""[..], b"pw", b"pw\0\0", b"p\0w\0", b"pw\0x"] {
            assert_eq!(parse_password(body), None, "{body:?}");
        }

        let mut long = vec![b'x'; PASSWORD_BYTES_MAX + 1];
        assert!(parse_password(&long).is_none());
        long[PASSWORD_BYTES_MAX] = 0;
        assert!(parse_password(&long).is_some());
    }

    #[test]
    fn an_initial_response_must_fill_its_message_exactly() {
        assert_eq!(parse_sasl_initial_response(b"M\0\0\0\0\x02ab"), Some((&b"M"[..], Some(&b"ab"[..]))));
        for body in [
            &b""[..],
            b"M",
            b"M\0",
            b"M\0\0\0\0",
            b"M\0\0\0\0\x02a",
            b"M\0\0\0\0\x02abc",
            b"M\0\xff\xff\xff\xff",
            b"M\0\xff\xff\xff\xffab",
        ] {
            assert_eq!(parse_sasl_initial_response(body).and_then(|(_, response)| response), None, "{body:?}");
        }
    }

    #[test]
    fn a_mechanism_is_found_among_others() {
        let both = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
        assert_eq!((offers(both, SCRAM_SHA_256), offers(both, SCRAM_SHA_256_PLUS)), (Some(true), Some(true)));
        assert_eq!(offers(b"SCRAM-SHA-256-PLUS\0\0", SCRAM_SHA_256), Some(false));
        assert_eq!(offers(b"\0\0", SCRAM_SHA_256), Some(false));
        assert_eq!(offers(b"SCRAM-SHA-256\0", SCRAM_SHA_256), None);
    }
}
