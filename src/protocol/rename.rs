//! Parse, Bind, Describe and Close with another statement name: which they name, and the message written anew.
//!
//! Pure: slices in, bytes out, each byte copied once.
//!
//! Bodies are what follows a message's length field. A Bind may carry parameters of any size, so its names are read
//! from as much of it as has arrived, and what follows them can stream behind the new head. The unnamed statement is
//! left alone: its messages go through as they are. Manual: "Message Formats".

use super::exchange::Probe;
use super::statements::{Statement, StatementError, server_name};

/// The name of no statement.
const NOBODYS_NAME: &str = "PGBOUNCER_PROBE";

/// Most bytes a statement's or portal's name may have. Postgres has no limit of its own; this is far more than any
/// driver's names.
pub const NAME_LEN_MAX: usize = 32 * 1024;

/// A Parse that names its statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The client's name for the statement.
    pub name: &'a [u8],
    /// Query, NUL, number of types, types: what makes two statements the same, see `shared::Catalogue`.
    pub body: &'a [u8],
}

/// Reads the whole body of a Parse; `None` where it is for the unnamed statement (its first byte tells, so that one
/// need not be held whole).
///
/// # Errors
/// It is broken.
pub fn parse(body: &[u8]) -> Result<Option<Parse<'_>>, StatementError> {
    const BROKEN: StatementError = StatementError::Broken("Parse");
    if body.first() == Some(&0) {
        return Ok(None);
    }
    let (name, body) = split_name(body).ok_or(BROKEN)?;
    let query_len = body.iter().position(|byte| *byte == 0).ok_or(BROKEN)?;
    let (count, types) = body[query_len + 1..].split_first_chunk::<2>().ok_or(BROKEN)?;
    if name.len() > NAME_LEN_MAX || types.len() != 4 * usize::from(u16::from_be_bytes(*count)) {
        return Err(BROKEN);
    }
    Ok(Some(Parse { name, body }))
}

/// The names at the start of a Bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    portal: &'a [u8],
    /// The client's name for the statement; never empty.
    pub statement: &'a [u8],
}

/// What is known of a Bind of which the first bytes have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindNames<'a> {
    /// It is for the unnamed statement.
    Unnamed,
    /// It names its statement.
    Named(Bind<'a>),
    /// More bytes are needed. Of a whole message: it is broken.
    Incomplete,
}

/// Reads the names at the start of a Bind's body, of which `prefix` has arrived.
///
/// # Errors
/// A name is too long.
pub fn bind(prefix: &[u8]) -> Result<BindNames<'_>, StatementError> {
    let names = split_name(prefix).and_then(|(portal, rest)| Some((portal, split_name(rest)?.0)));
    match names {
        Some((_, b"")) => Ok(BindNames::Unnamed),
        Some((portal, statement)) if portal.len().max(statement.len()) <= NAME_LEN_MAX => {
            Ok(BindNames::Named(Bind { portal, statement }))
        }
        None if prefix.len() < 2 * (NAME_LEN_MAX + 1) => Ok(BindNames::Incomplete),
        _ => Err(StatementError::Broken("Bind")),
    }
}

/// The statement that the whole body of a Describe names; `None` where it is for a portal or the unnamed statement.
///
/// # Errors
/// It is broken.
pub fn describe(body: &[u8]) -> Result<Option<&[u8]>, StatementError> {
    statement_in(body).map_err(|()| StatementError::Broken("Describe"))
}

/// The statement that a Parse names, of whose body `prefix` has arrived; `None` where it is the unnamed statement, or
/// cannot be told.
pub fn parsed_so_far(prefix: &[u8]) -> Option<&[u8]> {
    split_name(prefix).map(|(name, _)| name).filter(|name| !name.is_empty())
}

/// The statement that a Describe names, of whose body `prefix` has arrived; `None` where it is for a portal or the
/// unnamed statement, or cannot be told.
pub fn described_so_far(prefix: &[u8]) -> Option<&[u8]> {
    let (kind, name) = prefix.split_first()?;
    let (name, _) = split_name(name)?;
    (*kind == b'S' && !name.is_empty()).then_some(name)
}

/// The statement that the whole body of a Close names; `None` where it is for a portal or the unnamed statement.
///
/// # Errors
/// It is broken.
pub fn close(body: &[u8]) -> Result<Option<&[u8]>, StatementError> {
    statement_in(body).map_err(|()| StatementError::Broken("Close"))
}

fn statement_in(body: &[u8]) -> Result<Option<&[u8]>, ()> {
    match body.split_first() {
        Some((b'S', name)) => match split_name(name) {
            Some((b"", _)) => Ok(None),
            Some((name, b"")) if name.len() <= NAME_LEN_MAX => Ok(Some(name)),
            _ => Err(()),
        },
        // What is neither statement nor portal, or a portal without end, is for Postgres to refuse.
        Some(_) => Ok(None),
        None => Err(()),
    }
}

/// Appends the Parse that prepares `statement` on a server.
pub fn put_parse(out: &mut Vec<u8>, statement: &Statement) {
    let name = statement.server_name().as_bytes();
    put_header(out, b'P', name.len() + 1 + statement.body().len());
    put_text(out, name);
    out.extend_from_slice(statement.body());
}

/// Appends a Bind with another statement's name. `prefix` is the part of the body that `bind` was read from, `body_len`
/// the length of the whole body; what of it is still to come follows unchanged.
pub fn put_bind(out: &mut Vec<u8>, bind: Bind<'_>, prefix: &[u8], body_len: usize, statement: &Statement) {
    let name = statement.server_name().as_bytes();
    let names_len = bind.portal.len() + bind.statement.len() + 2;
    debug_assert!(names_len <= prefix.len() && prefix.len() <= body_len);
    put_header(out, b'B', body_len - bind.statement.len() + name.len());
    put_text(out, bind.portal);
    put_text(out, name);
    out.extend_from_slice(&prefix[names_len..]);
}

/// Appends a Describe of `statement`.
pub fn put_describe(out: &mut Vec<u8>, statement: &Statement) {
    put_named(out, b'D', statement.server_name());
}

/// Appends a Close of our statement with this number.
pub fn put_close(out: &mut Vec<u8>, id: u64) {
    put_named(out, b'C', &server_name(id));
}

/// Appends a Close of a statement that nobody has, which is no error and changes nothing.
pub fn put_close_of_none(out: &mut Vec<u8>) {
    put_named(out, b'C', NOBODYS_NAME);
}

/// Appends the question that tells what a server has read.
pub fn put_probe(out: &mut Vec<u8>, probe: Probe) {
    if probe == Probe::CloseAndSync {
        put_close_of_none(out);
    }
    put_header(out, b'S', 0);
}

fn put_named(out: &mut Vec<u8>, tag: u8, name: &str) {
    let name = name.as_bytes();
    put_header(out, tag, name.len() + 2);
    out.push(b'S');
    put_text(out, name);
}

/// Appends tag and length and makes room for the body.
fn put_header(out: &mut Vec<u8>, tag: u8, body_len: usize) {
    // A message is at most 2 GB long and its new name some 30 bytes longer: that fits, though not into what Postgres
    // takes.
    let len = u32::try_from(body_len + 4).unwrap_or(u32::MAX);
    out.reserve(body_len.min(64 * 1024) + 5);
    out.push(tag);
    out.extend_from_slice(&len.to_be_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(text);
    out.push(0);
}

/// The text up to the first NUL, and what follows that.
fn split_name(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn statement() -> Statement {
        Statement::new(42, b"SELECT $1\0\0\x01\0\0\0\x17")
    }

    /// The body of the one message in `out`.
    fn body(out: &[u8], tag: u8) -> &[u8] {
        assert_eq!(out[0], tag);
        assert_eq!(out[1..5], u32::try_from(out.len() - 1).unwrap().to_be_bytes());
        &out[5..]
    }

    #[test]
    fn a_named_parse_is_taken_apart_and_put_together_again() {
        let read = parse(b"S_1\0SELECT $1\0\0\x01\0\0\0\x17").unwrap().unwrap();
        let mut out = Vec::new();
        put_parse(&mut out, &Statement::new(7, read.body));

        assert_eq!(read.name, b"S_1");
        assert_eq!(body(&out, b'P'), b"PGBOUNCER_7\0SELECT $1\0\0\x01\0\0\0\x17");
    }

    #[test]
    fn the_unnamed_statement_is_not_looked_at() {
        assert_eq!(parse(b"\0whatever"), Ok(None));
        assert_eq!(bind(b"portal\0\0whatever"), Ok(BindNames::Unnamed));
        assert_eq!(describe(b"S\0"), Ok(None));
        assert_eq!(close(b"Pportal\0"), Ok(None));
    }

    #[test]
    fn a_broken_parse_is_refused() {
        for body in [&b""[..], b"a", b"a\0", b"a\0q", b"a\0q\0", b"a\0q\0\0", b"a\0q\0\0\x01\0\0\0", b"a\0q\0\0\0x"] {
            assert_eq!(parse(body), Err(StatementError::Broken("Parse")), "{body:?}");
        }
        assert_eq!(parse(b"a\0q\0\0").unwrap_err().to_string(), "broken Parse packet");
    }

    #[test]
    fn a_broken_describe_or_close_is_refused() {
        for body in [&b""[..], b"S", b"Sname", b"Sname\0x"] {
            assert_eq!(describe(body), Err(StatementError::Broken("Describe")), "{body:?}");
            assert_eq!(close(body), Err(StatementError::Broken("Close")), "{body:?}");
        }
    }

    #[test]
    fn names_without_end_are_refused() {
        let long = vec![b'x'; NAME_LEN_MAX + 1];

        assert!(parse(&[&long[..], b"\0q\0\0\0"].concat()).is_err());
        assert!(bind(&[b"\0", &long[..], b"\0"].concat()).is_err());
        assert!(bind(&long.repeat(2)).is_err());
        assert!(describe(&[b"S", &long[..], b"\0"].concat()).is_err());
    }

    #[test]
    fn describe_and_close_get_our_name() {
        let (mut described, mut closed) = (Vec::new(), Vec::new());
        put_describe(&mut described, &statement());
        put_close(&mut closed, 42);

        assert_eq!(body(&described, b'D'), b"SPGBOUNCER_42\0");
        assert_eq!(body(&closed, b'C'), b"SPGBOUNCER_42\0");
    }

    proptest! {
        #[test]
        fn a_renamed_bind_differs_in_nothing_but_the_name(
            portal in prop::collection::vec(1u8.., 0..20),
            name in prop::collection::vec(1u8.., 1..20),
            rest in prop::collection::vec(any::<u8>(), 0..60),
            arrived in 0usize..100,
        ) {
            let whole = [&portal[..], b"\0", &name, b"\0", &rest].concat();
            let names_len = portal.len() + name.len() + 2;
            let prefix = &whole[..arrived.min(whole.len())];

            let names = bind(prefix).unwrap();

            if prefix.len() < names_len {
                prop_assert_eq!(names, BindNames::Incomplete);
                return Ok(());
            }
            let BindNames::Named(read) = names else { panic!("{names:?}") };
            prop_assert_eq!(read.statement, &name[..]);
            let mut out = b"before".to_vec();
            put_bind(&mut out, read, prefix, whole.len(), &statement());
            out.extend_from_slice(&whole[prefix.len()..]);
            prop_assert_eq!(body(&out[6..], b'B'), [&portal[..], b"\0PGBOUNCER_42\0", &rest].concat());
        }

        #[test]
        fn a_renamed_parse_differs_in_nothing_but_the_name(
            name in prop::collection::vec(1u8.., 1..20),
            query in prop::collection::vec(1u8.., 0..40),
            types in prop::collection::vec(any::<[u8; 4]>(), 0..5),
        ) {
            let count = u16::try_from(types.len()).unwrap().to_be_bytes();
            let after = [&query[..], b"\0", &count, &types.concat()].concat();
            let whole = [&name[..], b"\0", &after].concat();

            let read = parse(&whole).unwrap().unwrap();
            let mut out = Vec::new();
            put_parse(&mut out, &Statement::new(42, read.body));

            prop_assert_eq!(read.name, &name[..]);
            prop_assert_eq!(body(&out, b'P'), [b"PGBOUNCER_42\0", &after[..]].concat());
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = (parse(&bytes), describe(&bytes), close(&bytes));
            if let Ok(BindNames::Named(read)) = bind(&bytes) {
                put_bind(&mut Vec::new(), read, &bytes, bytes.len(), &statement());
            }
        }
    }
}
