//! What is wrong with a configuration, and where.
//!
//! Pure: loading never stops at the first fault; it gathers [`Problem`]s, each of which prints as one line that names
//! the place, the setting, what was expected and what was found:
//! `pgbouncer.ini:12: pool_mode: expected session, transaction or statement, got "transactional"`. Values that may be
//! secrets are left out.

use std::fmt;
use std::io;
use std::sync::Arc;

/// Where a setting was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of a file, counted from 1.
    Line(Arc<str>, u32),
    /// A file as a whole.
    File(Arc<str>),
    /// A variable of the environment, by its name.
    Variable(Arc<str>),
    /// An argument of the command.
    CommandLine,
    /// Nowhere: a default for processes that only the environment configures (see `env`).
    Container,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(file, line) => write!(f, "{file}:{line}"),
            Place::File(file) => f.write_str(file),
            Place::Variable(name) => write!(f, "environment: {name}"),
            Place::CommandLine => f.write_str("command line"),
            Place::Container => f.write_str("default without a file"),
        }
    }
}

/// One fault of a configuration, at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// The setting, entry or variable it is about; empty where the place says it all.
    pub key: String,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Something else should stand there.
    Expected {
        /// What should.
        expected: String,
        /// What does; `None` where it may be secret or there is nothing.
        got: Option<String>,
    },
    /// Nothing is known by that name.
    Unknown {
        /// What kind of thing was named: "setting", "section" and so on.
        what: &'static str,
        /// A known name that looks like it.
        near: Option<&'static str>,
    },
    /// A file could not be read.
    Unreadable(io::ErrorKind),
}

impl Fault {
    /// `text` stands where `expected` should.
    pub(super) fn expected(expected: impl Into<String>, text: &str) -> Fault {
        Fault::Expected { expected: expected.into(), got: Some(shortened(text)) }
    }

    /// Something that must not be repeated stands where `expected` should.
    pub(super) fn expected_unseen(expected: impl Into<String>) -> Fault {
        Fault::Expected { expected: expected.into(), got: None }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Expected { expected, got: Some(got) } => write!(f, "expected {expected}, got {got:?}"),
            Fault::Expected { expected, got: None } => write!(f, "expected {expected}"),
            Fault::Unknown { what, near: Some(near) } => write!(f, "no such {what}; did you mean {near}?"),
            Fault::Unknown { what, near: None } => write!(f, "no such {what}"),
            Fault::Unreadable(io::ErrorKind::NotFound) => write!(f, "cannot be read: there is no such file"),
            Fault::Unreadable(kind) => write!(f, "cannot be read: {kind}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        self.fault.fmt(f)
    }
}

impl std::error::Error for Problem {}

/// The known name most like `name`, in either case, where one is like it at all.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    nearest_within((name.len() / 3).clamp(1, 3), name, known)
}

/// As [`nearest`], where one is no more than `tolerance` letters away.
pub(super) fn nearest_within<'a>(
    tolerance: usize,
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let name = name.to_ascii_lowercase();
    // A long stranger is not a slip of the pen, and comparing is quadratic.
    if name.len() > NAME_LENGTH_MAX {
        return None;
    }
    known
        .into_iter()
        .map(|candidate| (edits(name.as_bytes(), candidate.to_ascii_lowercase().as_bytes()), candidate))
        .filter(|(edits, _)| *edits <= tolerance)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance: insertions, deletions and replacements that make `b` of `a`.
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let replaced = previous[j] + usize::from(from != to);
            row.push(replaced.min(previous[j + 1] + 1).min(row[j] + 1));
        }
        previous = row;
    }
    previous[b.len()]
}

/// Names beyond this many bytes have no near match.
const NAME_LENGTH_MAX: usize = 64;

/// Values are repeated up to this many characters.
const GOT_LENGTH_MAX: usize = 100;

fn shortened(text: &str) -> String {
    match text.char_indices().nth(GOT_LENGTH_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_place_setting_and_what_was_expected() {
        let problem = Problem {
            place: Place::Line("pgbouncer.ini".into(), 12),
            key: "pool_mode".into(),
            fault: Fault::expected("session, transaction or statement", "transactional"),
        };

        let line = r#"pgbouncer.ini:12: pool_mode: expected session, transaction or statement, got "transactional""#;
        assert_eq!(problem.to_string(), line);
    }

    #[test]
    fn long_values_and_control_characters_do_not_break_the_line() {
        let fault = Fault::expected("a word", &format!("{}\n", "é".repeat(200)));

        let text = fault.to_string();

        assert!(text.chars().count() < 150 && !text.contains('\n'), "{text}");
    }

    #[test]
    fn a_slip_of_the_pen_finds_its_setting_and_a_stranger_none() {
        let known = ["pool_mode", "max_client_conn", "server_lifetime"];

        assert_eq!(nearest("Pool_Mode", known), Some("pool_mode"));
        assert_eq!(nearest("max_client_conns", known), Some("max_client_conn"));
        assert_eq!(nearest("test_exe", known), None);
        assert_eq!(nearest("", known), None);
    }
}
