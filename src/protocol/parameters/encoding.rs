//! Encodings: how a reported value is read, and how a SET is spelled so that the server reads it rightly.
//!
//! Pure: bytes in, texts out. Manual: "Character Set Support", "String Constants with C-Style Escapes".
//!
//! Values are kept in UTF-8. A server reports them in the client_encoding in force, which is any that a client has
//! chosen. UTF-8 and LATIN1 are read, the others are not: their tables would weigh more than the few values that are
//! not ASCII (PostgreSQL itself makes an application_name ASCII; a search_path need not be).

use std::borrow::Cow;

use super::ParameterSet;

/// Stands in a set for a value that cannot be read. It equals no value that a client wants, so that on a server which
/// has it every client's own is set. A client that has it from its greeting wants what a new session has: RESET.
pub const UNREADABLE: &str = "\u{fffd}";

/// An encoding, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Utf8,
    Latin1,
    /// SQL_ASCII: bytes as they are.
    None,
    Other,
}

impl Encoding {
    /// What the server has reported for `client_encoding` or `server_encoding`.
    fn reported(name: &str, server: &ParameterSet) -> Option<Encoding> {
        let name = server.get(name)?.to_ascii_uppercase().replace(['-', '_'], "");
        Some(match name.as_str() {
            "UTF8" | "UNICODE" => Encoding::Utf8,
            "LATIN1" | "ISO88591" => Encoding::Latin1,
            "SQLASCII" => Encoding::None,
            _ => Encoding::Other,
        })
    }
}

/// A value that a server has just reported, as text; [`UNREADABLE`] where it is not UTF-8 nor LATIN1. `server` is what
/// the same server reported before.
pub fn read_value<'a>(value: &'a [u8], server: &ParameterSet) -> Cow<'a, str> {
    let sent = match value.is_ascii() {
        true => Encoding::Utf8,
        false => match Encoding::reported("client_encoding", server) {
            Some(Encoding::None) => Encoding::reported("server_encoding", server).unwrap_or(Encoding::None),
            Some(encoding) => encoding,
            None => Encoding::Utf8,
        },
    };
    match sent {
        Encoding::Latin1 => value.iter().map(|byte| char::from(*byte)).collect::<String>().into(),
        Encoding::Utf8 | Encoding::None => std::str::from_utf8(value).unwrap_or(UNREADABLE).into(),
        Encoding::Other => UNREADABLE.into(),
    }
}

/// How a text that is not ASCII is written in a SET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spelling {
    /// May it be written as it is?
    pub(super) plain: bool,
    /// How it is written otherwise.
    pub(super) escapes: Escapes,
}

/// Escapes of a string constant, which mean the same in every client_encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escapes {
    /// `\xc3\xa9`, which stands for bytes in the database's encoding: that is UTF-8, or none.
    Bytes,
    /// `\u00e9`, which PostgreSQL converts into the database's encoding.
    CodePoints,
}

impl Spelling {
    /// For a server that has reported these parameters.
    pub(super) fn for_server(have: &ParameterSet) -> Spelling {
        let read = Encoding::reported("client_encoding", have);
        let stored = Encoding::reported("server_encoding", have);
        Spelling {
            // Of a server that does not tell, nothing better is known.
            plain: matches!(read, None | Some(Encoding::Utf8)),
            escapes: match stored {
                None | Some(Encoding::Utf8 | Encoding::None) => Escapes::Bytes,
                Some(Encoding::Latin1 | Encoding::Other) => Escapes::CodePoints,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(client_encoding: &str, server_encoding: &str) -> ParameterSet {
        [("client_encoding", client_encoding), ("server_encoding", server_encoding)].into_iter().collect()
    }

    #[test]
    fn a_value_is_read_in_the_encoding_it_was_reported_in() {
        let e_acute = "\u{e9}";
        for (client_encoding, server_encoding, sent, text) in [
            ("UTF8", "UTF8", "\u{e9}".as_bytes(), e_acute),
            ("UTF8", "LATIN1", "\u{e9}".as_bytes(), e_acute),
            ("LATIN1", "UTF8", b"\xe9", e_acute),
            // Two characters of LATIN1 that are one of UTF-8.
            ("LATIN1", "UTF8", b"\xc3\xa9", "\u{c3}\u{a9}"),
            ("SQL_ASCII", "LATIN1", b"\xe9", e_acute),
            ("SQL_ASCII", "UTF8", b"\xc3\xa9", e_acute),
            ("SQL_ASCII", "SQL_ASCII", b"\xc3\xa9", e_acute),
            ("SQL_ASCII", "SQL_ASCII", b"\xe9", UNREADABLE),
            ("UTF8", "SQL_ASCII", b"\xe9", UNREADABLE),
            ("EUC_JP", "UTF8", b"\x8f\xab\xb1", UNREADABLE),
            // UTF-8 by accident.
            ("EUC_JP", "UTF8", b"\xc3\xa9", UNREADABLE),
            ("SJIS", "UTF8", b"plain", "plain"),
        ] {
            let server = server(client_encoding, server_encoding);
            assert_eq!(read_value(sent, &server), text, "{sent:?} in {client_encoding} of {server_encoding}");
        }
        assert_eq!(read_value("\u{e9}".as_bytes(), &ParameterSet::default()), e_acute);
    }
}
