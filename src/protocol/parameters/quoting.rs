//! Values as SQL: literals nothing can break out of, and lists of identifiers taken apart.
//!
//! Pure: texts in, texts out. Manual: "String Constants", "String Constants with C-Style Escapes".

use std::borrow::Cow;
use std::fmt::Write;

/// Appends `text` as a literal that means the same whether standard_conforming_strings is on or off, in every encoding.
pub(super) fn put_literal(sql: &mut String, text: &str) {
    // In some encodings (SJIS, BIG5, GBK) a backslash can be the second half of a character and then takes nothing's
    // meaning away; a quote never can. So a text with backslashes is written in ASCII only.
    let escape = text.contains('\\');
    sql.push_str(if escape { "E'" } else { "'" });
    for char in text.chars() {
        match char {
            '\'' => sql.push_str("''"),
            '\\' => sql.push_str("\\\\"),
            _ if escape && !char.is_ascii() => {
                let mut bytes = [0; 4];
                for byte in char.encode_utf8(&mut bytes).bytes() {
                    write!(sql, "\\x{byte:02x}").expect("a String takes everything");
                }
            }
            _ => sql.push(char),
        }
    }
    sql.push('\'');
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

    fn literal(text: &str) -> String {
        let mut sql = String::new();
        put_literal(&mut sql, text);
        sql
    }

    /// Reads a literal as Postgres does with standard_conforming_strings on or off.
    fn read_literal(sql: &str, standard: bool) -> Vec<u8> {
        let escapes = sql.starts_with('E') || !standard;
        let inside = sql.trim_start_matches('E').strip_prefix('\'').unwrap().strip_suffix('\'').unwrap();
        let mut bytes = inside.bytes();
        let mut out = Vec::new();
        while let Some(byte) = bytes.next() {
            out.push(match byte {
                b'\'' => {
                    assert_eq!(bytes.next(), Some(b'\''), "{sql} ends early");
                    b'\''
                }
                b'\\' if escapes => match bytes.next().unwrap() {
                    b'x' => {
                        let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                        u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                    }
                    escaped => escaped,
                },
                _ => byte,
            });
        }
        out
    }

    #[test]
    fn a_literal_is_plain_where_it_can_be() {
        assert_eq!(literal("O'Neill"), "'O''Neill'");
        assert_eq!(literal("café"), "'café'");
        assert_eq!(literal(r"a\'b"), r"E'a\\''b'");
    }

    #[test]
    fn a_backslash_never_follows_a_byte_that_could_swallow_it() {
        assert_eq!(literal("\u{3042}\\'"), r"E'\xe3\x81\x82\\'''");
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
            for standard in [true, false] {
                let read = read_literal(&literal(&text), standard);
                prop_assert_eq!(std::str::from_utf8(&read), Ok(text.as_str()));
            }
        }

        #[test]
        fn any_list_is_taken_apart_without_panic(list in "[a\", ]{0,20}") {
            split_identifiers(&list);
        }
    }
}
