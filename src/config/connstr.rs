//! Connection strings, the values of `[databases]`, `[users]`, `[peers]`: `host=10.0.0.7 password='it''s'`.
//!
//! Pure: splits a string into keys and values by PgBouncer's rules (`cstr_get_pair`), which are not libpq's: only the
//! space separates, spaces may surround the `=`, a value in single quotes writes a quote as two, there is no backslash,
//! and a value must not be empty. The byte after a closing quote is skipped whatever it is; we insist on a space, since
//! PgBouncer would swallow the first letter of the next key.

use std::fmt;

/// What is wrong with a connection string, without repeating any value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnstrError {
    /// A word stands without `=` behind it; how many pairs came before it.
    NoEquals(usize),
    /// The value of this key is missing.
    EmptyValue(String),
    /// The quote that opens the value of this key is never closed.
    OpenQuote(String),
    /// Something clings to the quote that closes the value of this key.
    NoSpace(String),
}

impl fmt::Display for ConnstrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnstrError::NoEquals(0) => f.write_str("key=value pairs separated by spaces"),
            ConnstrError::NoEquals(n) => {
                write!(f, "key=value pairs separated by spaces; after pair {n} comes something else")
            }
            ConnstrError::EmptyValue(key) => write!(f, "a value after {key}= (leave the key out for the default)"),
            ConnstrError::OpenQuote(key) => write!(f, "a closing quote after the value of {key}"),
            ConnstrError::NoSpace(key) => write!(f, "a space after the quoted value of {key}"),
        }
    }
}

impl std::error::Error for ConnstrError {}

/// The pairs of a connection string, in order. An empty string has none.
///
/// # Errors
/// The first fault; what follows it cannot be told apart.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, ConnstrError> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start_matches(' ');
    while !rest.is_empty() {
        let key_end = rest.find(['=', ' ']).unwrap_or(rest.len());
        let (key, after) = rest.split_at(key_end);
        let after = after.trim_start_matches(' ');
        let Some(after) = after.strip_prefix('=').filter(|_| !key.is_empty()) else {
            return Err(ConnstrError::NoEquals(pairs.len()));
        };
        let (value, after) = value(after.trim_start_matches(' '), key)?;
        if value.is_empty() {
            return Err(ConnstrError::EmptyValue(key.to_string()));
        }
        pairs.push((key.to_string(), value));
        rest = after.trim_start_matches(' ');
    }
    Ok(pairs)
}

/// A connection string that [`parse`] reads as these pairs; keys must be such as it can read.
pub fn print(pairs: &[(String, String)]) -> String {
    let quoted = |value: &str| match value.contains([' ', '\'']) {
        true => format!("'{}'", value.replace('\'', "''")),
        false => value.to_string(),
    };
    pairs.iter().map(|(key, value)| format!("{key}={}", quoted(value))).collect::<Vec<_>>().join(" ")
}

/// The value at the start of `text`, and what follows it.
fn value<'a>(text: &'a str, key: &str) -> Result<(String, &'a str), ConnstrError> {
    let Some(mut rest) = text.strip_prefix('\'') else {
        let end = text.find(' ').unwrap_or(text.len());
        return Ok((text[..end].to_string(), &text[end..]));
    };
    let mut value = String::new();
    loop {
        let (piece, after) = rest.split_once('\'').ok_or_else(|| ConnstrError::OpenQuote(key.to_string()))?;
        value.push_str(piece);
        match after.strip_prefix('\'') {
            Some(after) => {
                value.push('\'');
                rest = after;
            }
            None if after.is_empty() || after.starts_with(' ') => return Ok((value, after)),
            None => return Err(ConnstrError::NoSpace(key.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(expected: &[(&str, &str)]) -> Result<Vec<(String, String)>, ConnstrError> {
        Ok(expected.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect())
    }

    #[test]
    fn pairs_are_separated_by_spaces_and_quotes_are_doubled() {
        assert_eq!(parse("host=x port=5"), pairs(&[("host", "x"), ("port", "5")]));
        assert_eq!(parse("  host = x dbname= y "), pairs(&[("host", "x"), ("dbname", "y")]));
        assert_eq!(parse("password='it''s a = b'"), pairs(&[("password", "it's a = b")]));
        assert_eq!(parse("password=a'b"), pairs(&[("password", "a'b")]));
        assert_eq!(parse("password=a=b"), pairs(&[("password", "a=b")]));
        assert_eq!(parse(""), pairs(&[]));
    }

    #[test]
    fn a_tab_is_part_of_the_value_as_in_pgbouncer() {
        assert_eq!(parse("host=x\tport=5"), pairs(&[("host", "x\tport=5")]));
    }

    #[test]
    fn faults_are_told_without_values() {
        assert_eq!(parse("host=x s3cret"), Err(ConnstrError::NoEquals(1)));
        assert_eq!(parse("=x"), Err(ConnstrError::NoEquals(0)));
        assert_eq!(parse("host="), Err(ConnstrError::EmptyValue("host".into())));
        assert_eq!(parse("host='' port=5"), Err(ConnstrError::EmptyValue("host".into())));
        assert_eq!(parse("password='abc"), Err(ConnstrError::OpenQuote("password".into())));
        assert_eq!(parse("password='abc'user=u"), Err(ConnstrError::NoSpace("password".into())));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn what_is_printed_reads_back(written in proptest::collection::vec(("[a-z_]{1,8}", "[ -~é]{1,12}"), 0..5)) {
            prop_assert_eq!(parse(&print(&written)), Ok(written));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[ ='a-c\\PC]{0,40}") {
            let _ = parse(&text);
        }
    }
}
