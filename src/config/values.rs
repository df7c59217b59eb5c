//! How each type of setting is written: text in, value out, and back.
//!
//! Pure: every type is a [`Kind`], a name for one way of writing values. The settings table names a kind per row; the
//! field's Rust type follows from it. What each accepts is what PgBouncer accepts (its `cf_set_*` functions): whole
//! numbers in C's notation (`0777` is octal, `0x1f` hexadecimal), times as decimal seconds without a suffix, switches
//! as numbers, words in either case. Two deliberate differences: numbers out of range are refused where PgBouncer lets
//! them wrap, and times are printed exactly where PgBouncer rounds to six digits.

use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use super::secret::Secret;

/// One way of writing a value.
pub trait Kind {
    /// What the text means.
    type Value: Clone + PartialEq + fmt::Debug + Default;

    /// The kind's name in the reference, one or two words.
    const NAME: &'static str;

    /// Whether the text must not be repeated in messages.
    const SECRET: bool = false;

    /// What is accepted, to stand after "expected".
    fn expected() -> String;

    /// The value of `text`; `None` where it is not what [`Kind::expected`] says.
    fn parse(text: &str) -> Option<Self::Value>;

    /// The text of a value, such that parsing it gives the value again; `None` where nothing is set.
    fn print(value: &Self::Value) -> Option<String>;
}

/// A switch: a whole number, 0 for off. Prints as 0 or 1.
#[derive(Debug)]
pub struct Flag;

impl Kind for Flag {
    type Value = bool;
    const NAME: &'static str = "switch";

    fn expected() -> String {
        "0 or 1".into()
    }

    fn parse(text: &str) -> Option<bool> {
        whole(text).map(|number| number != 0)
    }

    fn print(value: &bool) -> Option<String> {
        Some(u8::from(*value).to_string())
    }
}

/// A whole number within limits, in C's notation.
#[derive(Debug)]
pub struct Whole<const MIN: u32, const MAX: u32>;

/// Any number of things; PgBouncer keeps these in a C `int`.
pub type Count = Whole<0, 2_147_483_647>;
/// A number of bytes that fits 32 bits.
pub type Bytes = Whole<0, { u32::MAX }>;
/// The permission bits of a file.
pub type FileMode = Whole<0, 0o7777>;
/// The number of a peer; 0 for none. 14 bits, since it travels inside cancel keys.
pub type PeerId = Whole<0, 16_383>;

impl<const MIN: u32, const MAX: u32> Kind for Whole<MIN, MAX> {
    type Value = u32;
    const NAME: &'static str = "number";

    fn expected() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }

    fn parse(text: &str) -> Option<u32> {
        u32::try_from(whole(text)?).ok().filter(|number| (MIN..=MAX).contains(number))
    }

    fn print(value: &u32) -> Option<String> {
        Some(value.to_string())
    }
}

/// A TCP port, also the number in the name of a Unix socket.
#[derive(Debug)]
pub struct Port;

impl Kind for Port {
    type Value = u16;
    const NAME: &'static str = "port";

    fn expected() -> String {
        "a port from 0 to 65535".into()
    }

    fn parse(text: &str) -> Option<u16> {
        u16::try_from(whole(text)?).ok()
    }

    fn print(value: &u16) -> Option<String> {
        Some(value.to_string())
    }
}

/// A span of time in decimal seconds, kept to the microsecond.
#[derive(Debug)]
pub struct Seconds;

impl Kind for Seconds {
    type Value = Duration;
    const NAME: &'static str = "time";

    fn expected() -> String {
        format!("seconds from 0 to {SECONDS_MAX}, such as 5 or 0.5, without a suffix")
    }

    fn parse(text: &str) -> Option<Duration> {
        let text = text.trim_start();
        // Rust also reads "inf" and "nan" as numbers; a time is digits.
        if !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'+' | b'-' | b'e' | b'E')) {
            // C reads hexadecimal here too, and so must we: 0x10 is sixteen seconds.
            return Some(Duration::from_secs(hexadecimal(text).filter(|seconds| *seconds <= SECONDS_MAX)?));
        }
        let seconds: f64 = text.parse().ok()?;
        if !(0.0..=SECONDS_MAX as f64).contains(&seconds) {
            return None;
        }
        Some(Duration::from_micros((seconds * 1e6).round() as u64))
    }

    fn print(value: &Duration) -> Option<String> {
        let (seconds, micros) = (value.as_secs(), value.subsec_micros());
        if micros == 0 {
            return Some(seconds.to_string());
        }
        Some(format!("{seconds}.{micros:06}").trim_end_matches('0').to_string())
    }
}

/// A span of time in whole seconds, at least `MIN`, read as a number: `010` is eight.
#[derive(Debug)]
pub struct WholeSeconds<const MIN: u32>;

impl<const MIN: u32> Kind for WholeSeconds<MIN> {
    type Value = Duration;
    const NAME: &'static str = "number";

    fn expected() -> String {
        Whole::<MIN, 2_147_483_647>::expected()
    }

    fn parse(text: &str) -> Option<Duration> {
        Whole::<MIN, 2_147_483_647>::parse(text).map(|seconds| Duration::from_secs(seconds.into()))
    }

    fn print(value: &Duration) -> Option<String> {
        Some(value.as_secs().to_string())
    }
}

/// A span of time in whole milliseconds.
#[derive(Debug)]
pub struct Milliseconds;

impl Kind for Milliseconds {
    type Value = Duration;
    const NAME: &'static str = "number";

    fn expected() -> String {
        Count::expected()
    }

    fn parse(text: &str) -> Option<Duration> {
        Count::parse(text).map(|millis| Duration::from_millis(millis.into()))
    }

    fn print(value: &Duration) -> Option<String> {
        Some(value.as_millis().to_string())
    }
}

/// Any text, with a meaning even where it is empty.
#[derive(Debug)]
pub struct Text;

impl Kind for Text {
    type Value = String;
    const NAME: &'static str = "text";

    fn expected() -> String {
        "text".into()
    }

    fn parse(text: &str) -> Option<String> {
        Some(text.to_string())
    }

    fn print(value: &String) -> Option<String> {
        Some(value.clone())
    }
}

/// Text, or nothing where it is empty.
#[derive(Debug)]
pub struct Optional;

impl Kind for Optional {
    type Value = Option<String>;
    const NAME: &'static str = "text";

    fn expected() -> String {
        "text".into()
    }

    fn parse(text: &str) -> Option<Option<String>> {
        Some(Some(text.to_string()).filter(|text| !text.is_empty()))
    }

    fn print(value: &Option<String>) -> Option<String> {
        value.clone()
    }
}

/// Text that may hold passwords.
#[derive(Debug)]
pub struct Hidden;

impl Kind for Hidden {
    type Value = Option<Secret>;
    const NAME: &'static str = "secret text";
    const SECRET: bool = true;

    fn expected() -> String {
        "text".into()
    }

    fn parse(text: &str) -> Option<Option<Secret>> {
        Some(Some(text).filter(|text| !text.is_empty()).map(Secret::new))
    }

    fn print(value: &Option<Secret>) -> Option<String> {
        value.as_ref().map(|_| "***".into())
    }
}

/// The path of a file; relative ones start at the working directory, as in PgBouncer.
#[derive(Debug)]
pub struct FilePath;

impl Kind for FilePath {
    type Value = Option<PathBuf>;
    const NAME: &'static str = "file";

    fn expected() -> String {
        "a file's path".into()
    }

    fn parse(text: &str) -> Option<Option<PathBuf>> {
        Some(Some(text).filter(|text| !text.is_empty()).map(PathBuf::from))
    }

    fn print(value: &Option<PathBuf>) -> Option<String> {
        value.as_ref().map(|path| path.display().to_string())
    }
}

/// The name of a database other than the console.
#[derive(Debug)]
pub struct DatabaseName;

impl Kind for DatabaseName {
    type Value = Option<String>;
    const NAME: &'static str = "database";

    fn expected() -> String {
        format!("another database (cannot use the reserved \"{CONSOLE}\" database as an auth_dbname)")
    }

    fn parse(text: &str) -> Option<Option<String>> {
        Optional::parse(text).filter(|name| name.as_deref() != Some(CONSOLE))
    }

    fn print(value: &Option<String>) -> Option<String> {
        value.clone()
    }
}

/// A query to run at a server: nothing where the text is empty, the empty query for the word `<empty>`.
#[derive(Debug)]
pub struct CheckQuery;

impl Kind for CheckQuery {
    type Value = Option<String>;
    const NAME: &'static str = "query";

    fn expected() -> String {
        format!("a query, {EMPTY_QUERY} or nothing")
    }

    fn parse(text: &str) -> Option<Option<String>> {
        Some(match text {
            "" => None,
            EMPTY_QUERY => Some(String::new()),
            query => Some(query.to_string()),
        })
    }

    fn print(value: &Option<String>) -> Option<String> {
        value.as_ref().map(|query| if query.is_empty() { EMPTY_QUERY.into() } else { query.clone() })
    }
}

/// Several words, and the text they were written as, which is what `SHOW CONFIG` repeats. Use it as a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    text: String,
    items: Vec<String>,
}

impl Deref for List {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.items
    }
}

/// Words separated by commas, white space or both.
#[derive(Debug)]
pub struct Words;

impl Kind for Words {
    type Value = List;
    const NAME: &'static str = "list";

    fn expected() -> String {
        "words separated by commas".into()
    }

    fn parse(text: &str) -> Option<List> {
        let items = text.split(|c: char| c == ',' || c.is_ascii_whitespace());
        Some(List { text: text.into(), items: items.filter(|item| !item.is_empty()).map(str::to_string).collect() })
    }

    fn print(value: &List) -> Option<String> {
        Some(value.text.clone())
    }
}

/// Items separated by commas alone; white space around them does not count.
#[derive(Debug)]
pub struct Commas;

impl Kind for Commas {
    type Value = List;
    const NAME: &'static str = "list";

    fn expected() -> String {
        "items separated by commas".into()
    }

    fn parse(text: &str) -> Option<List> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        Some(List { text: text.into(), items: items.map(str::to_string).collect() })
    }

    fn print(value: &List) -> Option<String> {
        Some(value.text.clone())
    }
}

/// The longest time that can be set, in seconds; some 136 years.
const SECONDS_MAX: u64 = u32::MAX as u64;

/// How the empty query is written where an empty text means none.
const EMPTY_QUERY: &str = "<empty>";

/// The name of the console's database, which no other database may bear.
pub const CONSOLE: &str = "pgbouncer";

/// A whole number as C's `strtol` with base 0 reads it: white space, a sign, then decimal, octal or hexadecimal digits.
pub(super) fn whole(text: &str) -> Option<i64> {
    let text = text.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = if let Some(hex) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        digits_of(hex, 16)?
    } else if digits.len() > 1 && digits.starts_with('0') {
        digits_of(&digits[1..], 8)?
    } else {
        digits_of(digits, 10)?
    };
    let magnitude = i64::try_from(magnitude).ok()?;
    Some(if negative { -magnitude } else { magnitude })
}

fn hexadecimal(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    digits_of(text.strip_prefix("0x").or(text.strip_prefix("0X"))?, 16)
}

/// Digits and nothing else: Rust's own parser would let a second sign through.
fn digits_of(text: &str, radix: u32) -> Option<u64> {
    if text.starts_with('+') {
        return None;
    }
    u64::from_str_radix(text, radix).ok()
}

#[cfg(test)]
mod tests;
