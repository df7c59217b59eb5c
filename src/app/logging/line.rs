//! What a line of the log looks like.
//!
//! Pure: an event's fields are collected in a [`Record`] and printed with a stamp and a process number.
//!
//! ```text
//! 2026-07-01 12:00:00.123 UTC [4711] LOG C-0x1f: app/joe@10.0.0.7:5555 closing because: client close request (age=3s)
//! {"ts":"2026-07-01T12:00:00.123+00:00","level":"LOG","pid":4711,"conn":"C-0x1f","db":"app","user":"joe",
//!  "addr":"10.0.0.7:5555","msg":"closing because: client close request (age=3s)"}
//! ```
//!
//! In the first form a newline in the text is followed by a tab, as in PgBouncer's, so that nobody who chooses a name
//! can forge a line; other control characters are written as `\x1b`. In both, a line ends at [`TEXT_MAX`] bytes of
//! text.

use std::fmt::{self, Debug, Display, Write};

use serde_json::Value;
use tracing::field::{Field, Visit};

use crate::config::LogFormat;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// PgBouncer's lines.
    Pgbouncer,
    /// One JSON object on each line.
    Json,
}

impl From<LogFormat> for Format {
    fn from(setting: LogFormat) -> Format {
        match setting {
            LogFormat::Pgbouncer => Format::Pgbouncer,
            LogFormat::Json => Format::Json,
        }
    }
}

/// The weight of a line, in PgBouncer's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The process ends.
    Fatal,
    /// Something an operator must look at.
    Error,
    /// Something that may become one.
    Warning,
    /// What an operator wants to have seen.
    Log,
    /// One connection's life; `verbose` 1.
    Debug,
    /// Single steps; `verbose` 2.
    Noise,
}

impl Level {
    /// The level of an event.
    pub fn of(level: tracing::Level, fatal: bool) -> Level {
        match level {
            tracing::Level::ERROR if fatal => Level::Fatal,
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warning,
            tracing::Level::INFO => Level::Log,
            tracing::Level::DEBUG => Level::Debug,
            tracing::Level::TRACE => Level::Noise,
        }
    }

    /// The severity of RFC 5424 that PgBouncer gives this level in syslog and in the journal.
    pub fn severity(self) -> u8 {
        match self {
            Level::Fatal => 2,
            Level::Error => 3,
            Level::Warning => 4,
            Level::Log => 6,
            Level::Debug | Level::Noise => 7,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Level::Fatal => "FATAL",
            Level::Error => "ERROR",
            Level::Warning => "WARNING",
            Level::Log => "LOG",
            Level::Debug => "DEBUG",
            Level::Noise => "NOISE",
        }
    }
}

/// Who writes the lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    /// The process.
    pub pid: u32,
    /// `job_name`, a member of each line of JSON; none where it is the default.
    pub job: Option<String>,
}

impl Writer {
    /// This process, until the configuration was read.
    pub fn this_process() -> Writer {
        Writer { pid: std::process::id(), job: None }
    }
}

/// The most bytes of one text that the log takes: an error message of PostgreSQL may be a gigabyte.
pub const TEXT_MAX: usize = 8192;

/// One event, taken apart.
#[derive(Debug)]
pub struct Record {
    format: Format,
    message: String,
    /// The prefix, or its JSON form where that is the format.
    conn: Option<String>,
    fields: Vec<(&'static str, Value)>,
    fatal: bool,
}

impl Record {
    /// An empty record, to be printed in this format.
    pub fn new(format: Format) -> Record {
        Record { format, message: String::new(), conn: None, fields: Vec::new(), fatal: false }
    }

    /// A record with this text and nothing else.
    pub fn of(format: Format, text: String) -> Record {
        Record { message: text, ..Record::new(format) }
    }

    /// Has it `fatal = true`?
    pub fn is_fatal(&self) -> bool {
        self.fatal
    }

    /// The format it is printed in.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Appends the line, with its end. Returns where in `out` its text begins: behind time, process and level, which
    /// syslog and the journal note by themselves; at the line's own beginning where the format is JSON.
    pub fn print(&self, out: &mut String, stamp: &str, writer: &Writer, level: Level) -> usize {
        let start = match self.format {
            Format::Pgbouncer => self.print_text(out, stamp, writer.pid, level),
            Format::Json => self.print_json(out, stamp, writer, level),
        };
        out.push('\n');
        start
    }

    fn print_text(&self, out: &mut String, stamp: &str, pid: u32, level: Level) -> usize {
        push(out, format_args!("{stamp} [{pid}] {} ", level.word()));
        let start = out.len();
        if let Some(conn) = &self.conn {
            push_guarded(out, conn);
            out.push(' ');
        }
        push_guarded(out, &self.message);
        for (name, value) in &self.fields {
            push(out, format_args!(" {name}="));
            match value {
                Value::String(text) => push_guarded(out, text),
                other => push(out, format_args!("{other}")),
            }
        }
        if out[start..].contains('\n') {
            out.truncate(start + out[start..].trim_end().len());
        }
        start
    }

    fn print_json(&self, out: &mut String, stamp: &str, writer: &Writer, level: Level) -> usize {
        let start = out.len();
        push(out, format_args!("{{\"ts\":\"{stamp}\",\"level\":\"{}\",\"pid\":{}", level.word(), writer.pid));
        if let Some(job) = &writer.job {
            push(out, format_args!(",\"job\":{}", Value::from(job.as_str())));
        }
        match self.conn.as_deref() {
            None => {}
            Some(conn) => match json_members(conn) {
                Some(members) => push(out, format_args!(",{members}")),
                None => push(out, format_args!(",\"conn\":{}", Value::from(conn))),
            },
        }
        push(out, format_args!(",\"msg\":{}", Value::from(self.message.as_str())));
        for (name, value) in &self.fields {
            push(out, format_args!(",{}:{value}", Value::from(*name)));
        }
        out.push('}');
        start
    }

    fn field(&mut self, field: &Field, value: Value) {
        self.fields.push((field.name(), value));
    }
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => write_bounded(&mut self.message, format_args!("{value:?}")),
            "conn" => {
                let mut conn = String::new();
                match self.format {
                    Format::Pgbouncer => write_bounded(&mut conn, format_args!("{value:?}")),
                    Format::Json => write_bounded(&mut conn, format_args!("{value:#?}")),
                }
                self.conn = Some(conn);
            }
            _ => {
                let mut text = String::new();
                write_bounded(&mut text, format_args!("{value:?}"));
                self.field(field, Value::String(text));
            }
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        match field.name() {
            "fatal" => self.fatal = value,
            _ => self.field(field, Value::from(value)),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, Value::from(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// The inside of a JSON object's braces, if this is one.
fn json_members(text: &str) -> Option<&str> {
    serde_json::from_str::<serde_json::Map<String, Value>>(text).ok()?;
    text.trim().strip_prefix('{')?.strip_suffix('}').filter(|members| !members.is_empty())
}

fn push(out: &mut String, text: fmt::Arguments<'_>) {
    // Writing to a string fails only where a Display does, and the line is then as long as it got.
    let _ = out.write_fmt(text);
}

/// Appends text without anything in it that could pass for the end of the line.
fn push_guarded(out: &mut String, text: &str) {
    for part in text.split_inclusive(char::is_control) {
        let Some(last) = part.chars().next_back().filter(|last| last.is_control()) else {
            out.push_str(part);
            continue;
        };
        out.push_str(&part[..part.len() - last.len_utf8()]);
        match last {
            '\n' => out.push_str("\n\t"),
            '\t' => out.push('\t'),
            other => push(out, format_args!("\\x{:02x}", u32::from(other))),
        }
    }
}

fn write_bounded(out: &mut String, text: impl Display) {
    let _ = write!(Bounded { out }, "{text}");
}

/// Takes at most [`TEXT_MAX`] bytes, whole characters; then asks the writer to stop.
struct Bounded<'a> {
    out: &'a mut String,
}

impl Write for Bounded<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = TEXT_MAX.saturating_sub(self.out.len());
        if text.len() <= room {
            self.out.push_str(text);
            return Ok(());
        }
        let end = (0..=room).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        self.out.push_str(&text[..end]);
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn writer(job: Option<&str>) -> Writer {
        Writer { pid: 7, job: job.map(str::to_owned) }
    }

    fn text(message: &str) -> String {
        let mut out = String::new();
        Record::of(Format::Pgbouncer, message.to_owned()).print(&mut out, "STAMP", &writer(None), Level::Warning);
        out
    }

    #[test]
    fn a_line_is_pgbouncers() {
        assert_eq!(text("pooler error: no such user"), "STAMP [7] WARNING pooler error: no such user\n");
    }

    #[test]
    fn a_newline_is_followed_by_a_tab_and_none_is_left_at_the_end() {
        assert_eq!(text("one\ntwo \n\n"), "STAMP [7] WARNING one\n\ttwo\n");
        assert_eq!(text("one \t"), "STAMP [7] WARNING one \t\n");
    }

    #[test]
    fn other_control_characters_are_spelled_out() {
        assert_eq!(text("a\x1b[31m\r\u{9b}b\tc"), "STAMP [7] WARNING a\\x1b[31m\\x0d\\x9bb\tc\n");
    }

    #[test]
    fn a_text_ends_at_the_limit_with_a_whole_character() {
        let mut out = "x".to_owned();

        write_bounded(&mut out, "é".repeat(TEXT_MAX));

        assert_eq!(out.len(), TEXT_MAX - 1);
    }

    #[test]
    fn the_text_begins_behind_what_syslog_notes_by_itself() {
        let mut out = "before\n".to_owned();

        let text = Record::of(Format::Pgbouncer, "one\ntwo".to_owned()).print(&mut out, "S", &writer(None), Level::Log);
        assert_eq!(&out[text..], "one\n\ttwo\n");
        let line = out.len();
        let json = Record::of(Format::Json, "three".to_owned()).print(&mut out, "S", &writer(None), Level::Log);

        assert_eq!(json, line);
        assert_eq!(&out[json..], "{\"ts\":\"S\",\"level\":\"LOG\",\"pid\":7,\"msg\":\"three\"}\n");
    }

    #[test]
    fn every_level_has_pgbouncers_word() {
        let words: Vec<_> = [
            Level::of(tracing::Level::ERROR, true),
            Level::of(tracing::Level::ERROR, false),
            Level::of(tracing::Level::WARN, true),
            Level::of(tracing::Level::INFO, false),
            Level::of(tracing::Level::DEBUG, false),
            Level::of(tracing::Level::TRACE, false),
        ]
        .map(Level::word)
        .to_vec();

        assert_eq!(words, ["FATAL", "ERROR", "WARNING", "LOG", "DEBUG", "NOISE"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn no_text_forges_a_line(message in ".{0,40}\n?.{0,40}") {
            let line = text(&message);

            prop_assert_eq!(line.lines().filter(|line| !line.starts_with('\t')).count(), 1);
        }

        #[test]
        fn any_text_comes_back_out_of_json(message in "(?s).{0,80}", name in "(?s).{0,20}") {
            let mut record = Record::of(Format::Json, message.clone());
            record.conn = Some(name.clone());
            let mut out = String::new();

            record.print(&mut out, "STAMP", &writer(Some(&name)), Level::Log);

            prop_assert_eq!(out.matches('\n').count(), 1);
            let value: Value = serde_json::from_str(&out).unwrap();
            prop_assert_eq!(&value["msg"], &Value::from(message));
            prop_assert_eq!(&value["conn"], &Value::from(name.as_str()));
            prop_assert_eq!(&value["job"], &Value::from(name));
            prop_assert_eq!(&value["pid"], &Value::from(7));
        }
    }
}
