//! Values as SQL: literals nothing can break out of, and lists of identifiers taken apart.
//!
//! Pure: texts in, texts out. Manual: "String Constants", "String Constants with C-Style Escapes".

use std::borrow::Cow;
use std::fmt::Write;

use super::encoding::{Escapes, Spelling};

/// Appends `text` as a literal that means the same whether standard_conforming_strings is on or off.
pub(super) fn put_literal(sql: &mut String, text: &str, spelling: Spelling) {
    // In some encodings (SJIS, BIG5, GBK) a backslash can be the second half of a character and then takes nothing's
    // meaning away; a quote never can. So a text with backslashes is written in ASCII only.
    let escape = text.contains('\\') || !(spelling.plain || text.is_ascii());
    sql.push_str(if escape { "E'" } else { "'" });
    for char in text.chars() {
        match char {
            '\'' => sql.push_str("''"),
            '\\' => sql.push_str("\\\\"),
            _ if escape && !char.is_ascii() => put_escape(sql, char, spelling.escapes),
            _ => sql.push(char),
        }
    }
    sql.push('\'');
}

fn put_escape(sql: &mut String, char: char, escapes: Escapes) {
    let code = u32::from(char);
    let written = match escapes {
        Escapes::Bytes => {
            let mut bytes = [0; 4];
            char.encode_utf8(&mut bytes).bytes().try_for_each(|byte| write!(sql, "\\x{byte:02x}"))
        }
        Escapes::CodePoints if code <= 0xffff => write!(sql, "\\u{code:04x}"),
        Escapes::CodePoints => write!(sql, "\\U{code:08x}"),
    };
    written.expect("a String takes everything");
}

/// The identifiers in a list as Postgres reads and reports it: bare ones folded to lower case, quoted ones as they are.
/// `None` where it is no such list, or an empty one.
pub(super) fn split_identifiers(list: &str) -> Option<Vec<Cow<'_, str>>> {
    let mut found = Vec::new();
    let mut rest = list;
    loop {
        rest = rest.trim_start_matches(is_space);
        let (identifier, after) = match rest.strip_prefix('"') {
            Some(after) => take_quoted(after)?,
            None => take_bare(rest)?,
        };
        found.push(identifier);
        rest = after.trim_start_matches(is_space);
        if rest.is_empty() {
            return Some(found);
        }
        rest = rest.strip_prefix(',')?;
    }
}

/// A quoted identifier whose first quote has been taken, and what follows it; two quotes inside stand for one.
fn take_quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let mut inside = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"')?;
        inside.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                inside.push('"');
                rest = after;
            }
            None => return Some((Cow::Owned(inside), after)),
        }
    }
}

/// A bare identifier and what follows it.
fn take_bare(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let end = text.find(|char| char == ',' || is_space(char)).unwrap_or(text.len());
    let (bare, after) = text.split_at(end);
    (!bare.is_empty()).then(|| (Cow::Owned(bare.to_ascii_lowercase()), after))
}

/// White space as Postgres sees it.
fn is_space(char: char) -> bool {
    matches!(char, ' ' | '\t'..='\r')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPELLINGS: [Spelling; 4] = [
        Spelling { plain: true, escapes: Escapes::Bytes },
        Spelling { plain: true, escapes: Escapes::CodePoints },
        Spelling { plain: false, escapes: Escapes::Bytes },
        Spelling { plain: false, escapes: Escapes::CodePoints },
    ];

    fn literal(text: &str, spelling: Spelling) -> String {
        let mut sql = String::new();
        put_literal(&mut sql, text, spelling);
        sql
    }

    fn plain(text: &str) -> String {
        literal(text, SPELLINGS[0])
    }

    /// Reads a literal as Postgres does with standard_conforming_strings on or off, in a database in UTF-8.
    fn read_literal(sql: &str, standard: bool) -> Vec<u8> {
        let escapes = sql.starts_with('E') || !standard;
        let inside = sql.trim_start_matches('E').strip_prefix('\'').unwrap().strip_suffix('\'').unwrap();
        let mut bytes = inside.bytes();
        let mut out = Vec::new();
        let hex = |bytes: &mut std::str::Bytes<'_>, digits: usize| {
            let digits: Vec<u8> = bytes.take(digits).collect();
            u32::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
        };
        while let Some(byte) = bytes.next() {
            match byte {
                b'\'' => {
                    assert_eq!(bytes.next(), Some(b'\''), "{sql} ends early");
                    out.push(b'\'');
                }
                b'\\' if escapes => match bytes.next().unwrap() {
                    b'x' => out.push(hex(&mut bytes, 2) as u8),
                    size @ (b'u' | b'U') => {
                        let code = hex(&mut bytes, if size == b'u' { 4 } else { 8 });
                        out.extend(char::from_u32(code).unwrap().to_string().bytes());
                    }
                    escaped => out.push(escaped),
                },
                _ => out.push(byte),
            }
        }
        out
    }

    #[test]
    fn a_literal_is_plain_where_it_can_be() {
        assert_eq!(plain("O'Neill"), "'O''Neill'");
        assert_eq!(plain("café"), "'café'");
        assert_eq!(plain(r"a\'b"), r"E'a\\''b'");
    }

    #[test]
    fn a_backslash_never_follows_a_byte_that_could_swallow_it() {
        assert_eq!(plain("\u{3042}\\'"), r"E'\xe3\x81\x82\\'''");
    }

    #[test]
    fn what_another_encoding_could_misread_is_written_in_ascii() {
        let [_, _, bytes, code_points] = SPELLINGS.map(|spelling| literal("it's café 😀", spelling));

        assert_eq!(bytes, r"E'it''s caf\xc3\xa9 \xf0\x9f\x98\x80'");
        assert_eq!(code_points, r"E'it''s caf\u00e9 \U0001f600'");
    }

    #[test]
    fn a_list_of_identifiers_is_taken_apart() {
        let split = |list| split_identifiers(list).map(|found| found.join("|"));

        assert_eq!(split(r#""$user", public"#).as_deref(), Some("$user|public"));
        assert_eq!(split(r#" Shop ,"My ""own""","one, two" "#).as_deref(), Some(r#"shop|My "own"|one, two"#));
        assert_eq!(split(r#""""#).as_deref(), Some(""));
        for broken in ["", " ", ",", "a,", ",a", "a b", r#""a"#, r#""a"b"#] {
            assert_eq!(split(broken), None, "{broken}");
        }
    }

    proptest! {
        #[test]
        fn a_literal_means_its_text_with_either_setting(text in r"[^\x00]{0,20}|[a'\\é]{0,20}") {
            for (standard, spelling) in [true, false].into_iter().flat_map(|on| SPELLINGS.map(|how| (on, how))) {
                let literal = literal(&text, spelling);
                prop_assert!(spelling.plain || literal.is_ascii());
                let read = read_literal(&literal, standard);
                prop_assert_eq!(std::str::from_utf8(&read), Ok(text.as_str()));
            }
        }

        #[test]
        fn any_list_is_taken_apart_without_panic(list in "[a\", ]{0,20}") {
            split_identifiers(&list);
        }
    }
}
