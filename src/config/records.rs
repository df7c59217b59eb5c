//! Lines of records: the dialect that `auth_hba_file` and `auth_ident_file` share.
//!
//! Pure: tokens separated by blanks and commas, quotes that take keywords their meaning, comments, lines continued by a
//! backslash, files included, `@file` for lists of names. Files are read by who calls. Manual: "The pg_hba.conf File".

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::problem::Place;

/// How deep files may include each other.
const INCLUDE_DEPTH_MAX: usize = 10;

/// Where files come from.
pub struct Files<'a> {
    /// A file's bytes.
    pub read: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// The paths of a folder's entries.
    pub list: &'a dyn Fn(&Path) -> io::Result<Vec<PathBuf>>,
}

/// Why a line is not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(String);

impl From<String> for Fault {
    fn from(text: String) -> Fault {
        Fault(text)
    }
}

impl From<&str> for Fault {
    fn from(text: &str) -> Fault {
        Fault(text.to_owned())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A line that is passed over.
#[derive(Clone, Debug, PartialEq)]
pub struct Skipped {
    /// Where it stands.
    pub place: Place,
    /// Why it is.
    pub why: Fault,
    /// Would passing over it let somebody in whom it keeps out?
    pub fatal: bool,
}

/// A word of a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Token {
    /// Without quotes.
    pub text: String,
    /// A comma between names; its text is empty.
    pub comma: bool,
    /// Did it begin with a quote? Then it is a name, never a keyword.
    quoted: bool,
}

impl Token {
    /// What may be a keyword.
    pub(super) fn word(&self) -> Option<&str> {
        (!self.quoted && !self.comma).then_some(self.text.as_str())
    }

    /// Is it this keyword?
    pub(super) fn is(&self, keyword: &str) -> bool {
        self.word() == Some(keyword)
    }

    /// As it might have been written.
    pub(super) fn written(&self) -> String {
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        match (self.comma, self.quoted, self.text.split_once('=')) {
            (true, ..) => ",".to_owned(),
            (_, false, Some((key, value))) if value.contains(|c: char| c.is_whitespace() || "\",#".contains(c)) => {
                format!("{key}={}", quoted(value))
            }
            (_, false, _) => self.text.clone(),
            (_, true, _) => quoted(&self.text),
        }
    }
}

/// One line with its tokens, at least one.
pub(super) struct Line<'a> {
    pub(super) tokens: &'a [Token],
    pub(super) place: Place,
    pub(super) path: &'a Path,
}

/// Takes each line of a file and of those it includes; what cannot even be split is passed over.
///
/// # Errors
/// The first file cannot be read.
pub(super) fn lines_of(
    path: &Path,
    files: &Files<'_>,
    skipped: &mut Vec<Skipped>,
    take: &mut dyn FnMut(&Line<'_>, &mut Vec<Skipped>),
) -> io::Result<()> {
    let bytes = (files.read)(path)?;
    Lines { files, skipped, take }.file(path, &bytes, 0);
    Ok(())
}

struct Lines<'a> {
    files: &'a Files<'a>,
    skipped: &'a mut Vec<Skipped>,
    take: &'a mut dyn FnMut(&Line<'_>, &mut Vec<Skipped>),
}

impl Lines<'_> {
    fn file(&mut self, path: &Path, bytes: &[u8], depth: usize) {
        let name: Arc<str> = path.display().to_string().into();
        for (number, line) in whole_lines(bytes) {
            let place = Place::Line(name.clone(), number);
            let tokens = std::str::from_utf8(&line).map_err(|_| Fault::from("not text in UTF-8")).and_then(tokens);
            let done = match tokens {
                Ok(tokens) if tokens.is_empty() => Ok(()),
                Ok(tokens) => self.line(&Line { tokens: &tokens, place: place.clone(), path }, depth),
                // What it was to say, nobody knows.
                Err(why) => Err((why, line.windows(6).any(|word| word == b"reject"))),
            };
            if let Err((why, fatal)) = done {
                self.skipped.push(Skipped { place, why, fatal });
            }
        }
    }

    fn line(&mut self, line: &Line<'_>, depth: usize) -> Result<(), (Fault, bool)> {
        let [first, rest @ ..] = line.tokens else { return Ok(()) };
        let (Some(keyword @ ("include" | "include_if_exists" | "include_dir")), [target]) = (first.word(), rest) else {
            (self.take)(line, self.skipped);
            return Ok(());
        };
        // What is not read may keep somebody out.
        self.include(keyword, &beside(line.path, Path::new(&target.text)), depth + 1).map_err(|why| (why, true))
    }

    fn include(&mut self, keyword: &str, path: &Path, depth: usize) -> Result<(), Fault> {
        if depth > INCLUDE_DEPTH_MAX {
            return Err(format!("more than {INCLUDE_DEPTH_MAX} files include each other").into());
        }
        let unreadable = |error: io::Error| Fault(format!("{} cannot be read: {}", path.display(), error.kind()));
        if keyword == "include_dir" {
            let mut inside = (self.files.list)(path).map_err(unreadable)?;
            inside.retain(|path| {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                name.ends_with(".conf") && !name.starts_with('.')
            });
            inside.sort();
            return inside.iter().try_for_each(|path| self.include("include", path, depth));
        }
        match (self.files.read)(path) {
            Ok(bytes) => {
                self.file(path, &bytes, depth);
                Ok(())
            }
            Err(error) if keyword == "include_if_exists" && error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(unreadable(error)),
        }
    }
}

/// The names in the file that `@file` names, in a file at `path`.
pub(super) fn names_in(path: &Path, file: &Path, files: &Files<'_>) -> Result<Vec<Token>, Fault> {
    let mut names = Vec::new();
    gather_names(&beside(path, file), files, 1, &mut names)?;
    Ok(names)
}

fn gather_names(path: &Path, files: &Files<'_>, depth: usize, names: &mut Vec<Token>) -> Result<(), Fault> {
    if depth > INCLUDE_DEPTH_MAX {
        return Err(format!("more than {INCLUDE_DEPTH_MAX} files include each other").into());
    }
    let within = |why: &dyn fmt::Display| Fault(format!("{}: {why}", path.display()));
    let bytes = (files.read)(path).map_err(|error| within(&format!("cannot be read: {}", error.kind())))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| within(&"not text in UTF-8"))?;
    for line in text.lines() {
        for token in tokens(line).map_err(|why| within(&why))?.into_iter().filter(|token| !token.comma) {
            match token.word().and_then(|word| word.strip_prefix('@')).filter(|file| !file.is_empty()) {
                Some(file) => gather_names(&beside(path, Path::new(file)), files, depth + 1, names)?,
                None => names.push(token),
            }
        }
    }
    Ok(())
}

/// A path as it stands in the file `path`.
fn beside(path: &Path, named: &Path) -> PathBuf {
    path.parent().map_or_else(|| named.to_path_buf(), |folder| folder.join(named))
}

/// The lines with their numbers, those that a backslash continues put together.
fn whole_lines(bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut lines: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut continued = false;
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (line, goes_on) = match line.strip_suffix(b"\\") {
            Some(line) => (line, true),
            None => (line, false),
        };
        match lines.last_mut().filter(|_| continued) {
            Some((_, last)) => last.extend_from_slice(line),
            None => lines.push((number, line.to_vec())),
        }
        continued = goes_on;
    }
    lines
}

/// The tokens of a line, up to a comment.
fn tokens(line: &str) -> Result<Vec<Token>, Fault> {
    let mut tokens = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\u{b}');
        match rest.chars().next() {
            None | Some('#') => return Ok(tokens),
            Some(',') => {
                tokens.push(Token { comma: true, ..Token::default() });
                rest = &rest[1..];
            }
            Some('"') => {
                let (text, after) = quoted(rest)?;
                tokens.push(Token { text, comma: false, quoted: true });
                rest = after;
            }
            Some(_) => {
                let end = rest.find(|c: char| c.is_ascii_whitespace() || "\u{b},#\"".contains(c)).unwrap_or(rest.len());
                let mut text = rest[..end].to_owned();
                rest = &rest[end..];
                // An option whose value is quoted.
                if text.ends_with('=') && rest.starts_with('"') {
                    let (value, after) = quoted(rest)?;
                    text.push_str(&value);
                    rest = after;
                }
                tokens.push(Token { text, comma: false, quoted: false });
            }
        }
    }
}

/// The quoted text at the start, in which two quotes are one, and what follows it.
fn quoted(text: &str) -> Result<(String, &str), Fault> {
    let mut unquoted = String::new();
    let mut rest = text.strip_prefix('"').unwrap_or(text);
    loop {
        let end = rest.find('"').ok_or("a quote does not end")?;
        unquoted.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                unquoted.push('"');
                rest = after;
            }
            None => return Ok((unquoted, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(line: &str) -> Vec<String> {
        tokens(line).expect("it can be split").iter().map(Token::written).collect()
    }

    #[test]
    fn a_line_is_split_as_pgbouncer_splits_it() {
        assert_eq!(texts(" \x0b\thost\tall,b , c#d"), ["host", "all", ",", "b", ",", "c"]);
        assert_eq!(texts("\"a , b\"\"c\"d"), ["\"a , b\"\"c\"", "d"]);
        assert_eq!(texts("x=\"a b\" y=1"), ["x=\"a b\"", "y=1"]);
        assert!(texts("# nothing").is_empty());
        assert_eq!(tokens("a \"b").unwrap_err().to_string(), "a quote does not end");
    }

    #[test]
    fn a_quoted_word_is_no_keyword() {
        let tokens = tokens("all \"all\"").unwrap();

        assert!(tokens[0].is("all") && !tokens[1].is("all"));
        assert_eq!(tokens[0].text, tokens[1].text);
    }

    #[test]
    fn a_backslash_continues_a_line_and_numbers_go_on() {
        let lines = whole_lines(b"a \\\r\nb\\\nc\nd\\");

        assert_eq!(lines, [(1, b"a bc".to_vec()), (4, b"d".to_vec())]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn what_is_written_reads_back(names in proptest::collection::vec("[ -~é]{0,8}", 1..6)) {
            let tokens: Vec<Token> =
                names.iter().map(|name| Token { text: name.clone(), comma: false, quoted: true }).collect();
            let line = tokens.iter().map(Token::written).collect::<Vec<_>>().join(" ");
            prop_assert_eq!(super::tokens(&line), Ok(tokens));
        }

        #[test]
        fn any_line_is_split_or_refused(line in "[ -~é\t\"\\\\]{0,60}") {
            if let Ok(tokens) = tokens(&line) {
                let again = tokens.iter().map(Token::written).collect::<Vec<_>>().join(" ");
                prop_assert_eq!(super::tokens(&again), Ok(tokens));
            }
        }
    }
}
