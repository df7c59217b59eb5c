//! The syntax of `pgbouncer.ini`.
//!
//! Pure: bytes in, [`Item`]s out, each with its line. The dialect is PgBouncer's own (`cfparser.c`), so no library for
//! ini files reads it rightly: `;` and `#` start a comment only where a line starts, and are ordinary characters after
//! `=`; nothing is unescaped in values; keys are letters, digits and `_.-*`, or anything in single quotes; `%include`
//! may stand anywhere; an item may follow a section's `]` on the same line. PgBouncer's manual tells of keys in double
//! quotes with `""` for a quote, which its parser refuses; we read both. Where PgBouncer stops at the first fault, we
//! note it and go on at the next line.

use std::fmt;

/// One thing a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// `[name]`
    Section(String),
    /// `key = value`
    Pair(String, String),
    /// `%include path`
    Include(String),
}

/// What is wrong with a line. Never says what stands there, since that may be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFault {
    /// `[` without `]`.
    OpenSection,
    /// A key in quotes that are not closed.
    OpenQuote,
    /// No key, or one with characters that need quotes.
    NoKey,
    /// No `=` after the key.
    NoEquals,
    /// Not UTF-8, or a zero byte in it.
    NotText,
    /// `%include` without a file.
    NoFile,
}

impl fmt::Display for LineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LineFault::OpenSection => "a ] on the line of the [",
            LineFault::OpenQuote => "a closing quote after the key",
            LineFault::NoKey => "key = value, [section], %include file, or a comment after ; or #",
            LineFault::NoEquals => "a = after the key",
            LineFault::NotText => "text in UTF-8, without zero bytes",
            LineFault::NoFile => "a file after %include",
        })
    }
}

/// What a file says, and its faults, each with its line counted from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// What could be read.
    pub items: Vec<(u32, Item)>,
    /// What could not.
    pub faults: Vec<(u32, LineFault)>,
}

/// Reads a file's bytes.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let mut rest = line.trim_ascii();
        // A section may be followed by one more item; all else ends with its line.
        while let Some((item, after)) = next(rest).unwrap_or_else(|fault| {
            parsed.faults.push((number, fault));
            None
        }) {
            parsed.items.push((number, item));
            rest = after.trim_ascii_start();
        }
    }
    parsed
}

/// The item at the start of a trimmed line, and what follows it; `None` where nothing or a comment does.
fn next(line: &[u8]) -> Result<Option<(Item, &[u8])>, LineFault> {
    match line.first() {
        None | Some(b';' | b'#') => Ok(None),
        Some(b'[') => {
            let end = line.iter().position(|byte| *byte == b']').ok_or(LineFault::OpenSection)?;
            Ok(Some((Item::Section(text(&line[1..end])?), &line[end + 1..])))
        }
        Some(b'%') if line.starts_with(b"%include") && line.get(8).is_none_or(|byte| matches!(byte, b' ' | b'\t')) => {
            let path = line[8..].trim_ascii();
            if path.is_empty() {
                return Err(LineFault::NoFile);
            }
            Ok(Some((Item::Include(text(path)?), b"")))
        }
        Some(_) => {
            let (key, after) = key(line)?;
            let value = after.trim_ascii_start().strip_prefix(b"=").ok_or(LineFault::NoEquals)?;
            Ok(Some((Item::Pair(text(&key)?, text(value.trim_ascii())?), b"")))
        }
    }
}

/// The key at the start of a line, without its quotes, and what follows it.
fn key(line: &[u8]) -> Result<(Vec<u8>, &[u8]), LineFault> {
    let (key, after) = match line.strip_prefix(b"'") {
        Some(quoted) => {
            let end = quoted.iter().position(|byte| *byte == b'\'').ok_or(LineFault::OpenQuote)?;
            (quoted[..end].to_vec(), &quoted[end + 1..])
        }
        None if line.starts_with(b"\"") => double_quoted(&line[1..]).ok_or(LineFault::OpenQuote)?,
        None => {
            let bare = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.-*".contains(byte);
            let end = line.iter().position(|byte| !bare(byte)).unwrap_or(line.len());
            (line[..end].to_vec(), &line[end..])
        }
    };
    if key.is_empty() { Err(LineFault::NoKey) } else { Ok((key, after)) }
}

fn double_quoted(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut key = Vec::new();
    loop {
        let end = rest.iter().position(|byte| *byte == b'"')?;
        key.extend_from_slice(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix(b"\"") {
            Some(after) => {
                key.push(b'"');
                rest = after;
            }
            None => return Some((key, rest)),
        }
    }
}

fn text(bytes: &[u8]) -> Result<String, LineFault> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text.to_string()),
        _ => Err(LineFault::NotText),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn items(file: &str) -> Vec<(u32, Item)> {
        let parsed = parse(file.as_bytes());
        assert_eq!(parsed.faults, []);
        parsed.items
    }

    fn pair(key: &str, value: &str) -> Item {
        Item::Pair(key.into(), value.into())
    }

    #[test]
    fn sections_pairs_and_includes_have_their_lines() {
        let file =
            "; a comment\n[databases]\r\n  app = host=x ; not a comment # nor this\r\n\n%include  other.ini \n#end";

        assert_eq!(
            items(file),
            [
                (2, Item::Section("databases".into())),
                (3, pair("app", "host=x ; not a comment # nor this")),
                (5, Item::Include("other.ini".into())),
            ]
        );
    }

    #[test]
    fn values_are_taken_as_they_stand() {
        assert_eq!(items("a=\nb = 'x' \nc=d=e"), [(1, pair("a", "")), (2, pair("b", "'x'")), (3, pair("c", "d=e"))]);
    }

    #[test]
    fn keys_are_bare_or_quoted_either_way() {
        let file = "a.b-c_1=x\n* = y\n'my db' = z\n\"a \"\"b\"\" c\"=w";

        assert_eq!(
            items(file),
            [(1, pair("a.b-c_1", "x")), (2, pair("*", "y")), (3, pair("my db", "z")), (4, pair("a \"b\" c", "w"))]
        );
    }

    #[test]
    fn an_item_may_follow_a_section_on_its_line() {
        let items = items("[pgbouncer] verbose = 1");

        assert_eq!(items, [(1, Item::Section("pgbouncer".into())), (1, pair("verbose", "1"))]);
    }

    #[test]
    fn every_fault_is_noted_and_reading_goes_on() {
        let file = b"[open\nkey value\n'open = 1\n= 5\n%includefoo\n%include\na = \xff\n\
                     b = \0\nmy db = x\n# \xff is fine here\nok = 1";

        let parsed = parse(file);

        assert_eq!(
            parsed.faults,
            [
                (1, LineFault::OpenSection),
                (2, LineFault::NoEquals),
                (3, LineFault::OpenQuote),
                (4, LineFault::NoKey),
                (5, LineFault::NoKey),
                (6, LineFault::NoFile),
                (7, LineFault::NotText),
                (8, LineFault::NotText),
                (9, LineFault::NoEquals),
            ]
        );
        assert_eq!(parsed.items, [(11, pair("ok", "1"))]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
            let parsed = parse(&bytes);
            prop_assert!(parsed.items.len() + parsed.faults.len() <= bytes.len() + 1);
            prop_assert!(parsed.faults.len() <= lines);
        }

        #[test]
        fn lines_made_of_the_dialects_own_marks_do_not_panic(text in "[\\[\\]='\";#%* a\n]{0,60}") {
            parse(text.as_bytes());
        }

        #[test]
        fn pairs_read_back(key in "[a-z*][a-z0-9_.*-]{0,10}", value in "([!-~]([ -~]{0,20}[!-~])?)?") {
            let parsed = parse(format!("{key} = {value}\n").as_bytes());
            prop_assert_eq!(parsed.items, vec![(1, pair(&key, &value))]);
        }
    }
}
