//! The console's language: text → [`Command`].
//!
//! Pure: a string in, an enum out; nothing is carried out here and nobody's rights are looked at.
//!
//! The grammar is PgBouncer's (`admin.c`): one command, at most one word as argument, an optional `;` at the end. Words
//! are letters, digits and `_`, or anything in double quotes. `SELECT x` is `SHOW x`. Two commands in one query are an
//! error, as there. On top of it we accept what drivers send without being asked (transaction blocks, DEALLOCATE, SET
//! of session parameters), because refusing those keeps whole drivers out; PgBouncer refuses them.

use std::borrow::Cow;

use super::show::Show;
use super::table::Column;

/// One console command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Nothing but white space and `;`.
    Empty,
    /// SHOW of a table.
    Show(Show),
    /// SHOW FDS with all that a successor wants to know; for a pgweir that takes over.
    ShowHandover,
    /// SHOW of a session parameter that the console pretends to have.
    ShowParameter(&'static Parameter),
    /// SET of a session parameter, which has no effect.
    SetIgnored,
    /// SET of a setting.
    Set {
        /// Its name.
        key: String,
        /// Its value.
        value: String,
    },
    /// Read the configuration again.
    Reload,
    /// Stop lending servers; done when all are released. One database, or all.
    Pause(Option<String>),
    /// Undo PAUSE or KILL.
    Resume(Option<String>),
    /// Flush and freeze.
    Suspend,
    /// Refuse new clients of a database.
    Disable(Option<String>),
    /// Accept them again.
    Enable(Option<String>),
    /// Replace servers as they come home.
    Reconnect(Option<String>),
    /// Done when no server waits to be replaced.
    WaitClose(Option<String>),
    /// Drop clients and servers; the database stays paused.
    Kill(Option<String>),
    /// Drop the client with this id.
    KillClient(String),
    /// Stop the process.
    Shutdown(ShutdownMode),
    /// A driver's BEGIN, COMMIT and the like.
    Transaction(Transaction),
    /// Forget one prepared statement, or all.
    Deallocate(Option<String>),
    /// Forget everything a session has: here, its prepared statements.
    DiscardAll,
}

/// How SHUTDOWN ends the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownMode {
    /// At once.
    Immediate,
    /// When no server is on loan.
    WaitForServers,
    /// When every client has left.
    WaitForClients,
}

/// The edge of a transaction block, or of a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// BEGIN, START TRANSACTION.
    Begin,
    /// COMMIT, END.
    Commit,
    /// ROLLBACK, ABORT.
    Rollback,
    /// SAVEPOINT.
    Savepoint,
    /// RELEASE of a savepoint.
    Release,
    /// ROLLBACK TO a savepoint.
    RollbackTo,
}

/// A session parameter that SHOW answers with a fixed value, for drivers that ask without need.
#[derive(Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The answer's column; its name is the parameter's.
    pub columns: [Column; 1],
    /// Value.
    pub value: &'static str,
}

/// Why a text is no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// Not a command of ours.
    Syntax,
    /// A word longer than any we take.
    BadArguments,
}

/// Longest command word, in bytes, quotes included, as for the others.
const WORD_MAX: usize = 15;
/// Longest argument and name of a setting, in bytes: Postgres' longest database name.
const ARGUMENT_MAX: usize = 63;
/// Longest value in SET, in bytes.
const VALUE_MAX: usize = 255;

const fn parameter(name: &'static str, value: &'static str) -> Parameter {
    Parameter { columns: [Column::text(name)], value }
}

/// The first five are PgBouncer's; the last is what JDBC asks for.
static PARAMETERS: [Parameter; 6] = [
    parameter("client_encoding", "UTF-8"),
    parameter("default_transaction_isolation", "read committed"),
    parameter("standard_conforming_strings", "on"),
    parameter("datestyle", "ISO"),
    parameter("timezone", "GMT"),
    parameter("transaction_isolation", "read committed"),
];

/// Session parameters that drivers SET on every connection; none is a setting of ours.
const SET_IGNORED: [&str; 8] = [
    "application_name",
    "bytea_output",
    "extra_float_digits",
    "intervalstyle",
    "names",
    "search_path",
    "statement_timeout",
    "transaction_read_only",
];

/// Reads one query.
///
/// # Errors
/// The text is no command, or a word in it is too long.
pub fn parse(text: &str) -> Result<Command, ParseError> {
    let text = text.trim_matches(SPACE);
    let text = text.strip_suffix(';').unwrap_or(text).trim_end_matches(SPACE);
    if text.is_empty() {
        return Ok(Command::Empty);
    }
    match plain(text) {
        Some((word, argument)) => {
            let word = word.short(WORD_MAX)?;
            let argument = argument.map_or(Ok(None), |argument| argument.short(ARGUMENT_MAX).map(Some))?;
            // An empty argument in quotes is none, as in PgBouncer.
            command(&word.to_ascii_lowercase(), argument.filter(|argument| !argument.is_empty()))
        }
        None => set(text).or_else(|error| from_driver(text).ok_or(error)),
    }
}

/// The table of commands that have at most one argument.
fn command(word: &str, argument: Option<String>) -> Result<Command, ParseError> {
    let without = |command| if argument.is_none() { Ok(command) } else { Err(ParseError::Syntax) };
    match word {
        "show" | "select" => show(&argument.ok_or(ParseError::Syntax)?),
        "reload" => without(Command::Reload),
        "pause" => Ok(Command::Pause(argument)),
        "resume" => Ok(Command::Resume(argument)),
        "suspend" => without(Command::Suspend),
        "disable" => Ok(Command::Disable(argument)),
        "enable" => Ok(Command::Enable(argument)),
        "reconnect" => Ok(Command::Reconnect(argument)),
        "wait_close" => Ok(Command::WaitClose(argument)),
        "kill" => Ok(Command::Kill(argument)),
        "kill_client" => Ok(Command::KillClient(argument.unwrap_or_default())),
        "shutdown" => shutdown(argument.as_deref()).map(Command::Shutdown),
        "deallocate" => match argument {
            Some(all) if all.eq_ignore_ascii_case("all") => Ok(Command::Deallocate(None)),
            Some(name) => Ok(Command::Deallocate(Some(name))),
            None => Err(ParseError::Syntax),
        },
        "discard" if argument.as_deref().is_some_and(|all| all.eq_ignore_ascii_case("all")) => Ok(Command::DiscardAll),
        _ => transaction(word, argument.as_deref()).map(Command::Transaction).ok_or(ParseError::Syntax),
    }
}

fn show(what: &str) -> Result<Command, ParseError> {
    if let Some(parameter) = PARAMETERS.iter().find(|parameter| parameter.columns[0].name.eq_ignore_ascii_case(what)) {
        return Ok(Command::ShowParameter(parameter));
    }
    if what.eq_ignore_ascii_case("handover") {
        return Ok(Command::ShowHandover);
    }
    Show::from_name(what).map(Command::Show).ok_or(ParseError::Syntax)
}

fn shutdown(how: Option<&str>) -> Result<ShutdownMode, ParseError> {
    match how.map(str::to_ascii_lowercase).as_deref() {
        None => Ok(ShutdownMode::Immediate),
        Some("wait_for_servers") => Ok(ShutdownMode::WaitForServers),
        Some("wait_for_clients") => Ok(ShutdownMode::WaitForClients),
        Some(_) => Err(ParseError::Syntax),
    }
}

fn transaction(word: &str, argument: Option<&str>) -> Option<Transaction> {
    let argument = argument.map(str::to_ascii_lowercase);
    match (word, argument.as_deref()) {
        ("begin", None | Some("work" | "transaction")) | ("start", Some("transaction")) => Some(Transaction::Begin),
        ("commit" | "end", None | Some("work" | "transaction")) => Some(Transaction::Commit),
        ("rollback" | "abort", None | Some("work" | "transaction")) => Some(Transaction::Rollback),
        ("savepoint", Some(_)) => Some(Transaction::Savepoint),
        ("release", Some(_)) => Some(Transaction::Release),
        _ => None,
    }
}

/// `SET key = value`, `SET key TO value`; the value a word, or in single quotes.
fn set(text: &str) -> Result<Command, ParseError> {
    let (set, rest) = word(text).ok_or(ParseError::Syntax)?;
    let (key, rest) = rest.strip_prefix(SPACE).and_then(after_space_word).ok_or(ParseError::Syntax)?;
    if !set.text.eq_ignore_ascii_case("set") {
        return Err(ParseError::Syntax);
    }
    let rest = rest.trim_start_matches(SPACE);
    let value = match rest.strip_prefix('=') {
        Some(value) => value,
        // No space need follow: `TO'0'`, and PgBouncer takes `TO0` too.
        None => {
            let to = rest.get(..2).filter(|to| to.eq_ignore_ascii_case("to")).ok_or(ParseError::Syntax)?;
            &rest[to.len()..]
        }
    };
    let value = value.trim_start_matches(SPACE);

    let key = key.short(ARGUMENT_MAX)?;
    if key.is_empty() {
        return Err(ParseError::BadArguments);
    }
    let value = match quoted(value, '\'').or_else(|| word(value)) {
        Some((value, "")) => value.short(VALUE_MAX)?,
        // A list or a phrase, which only Postgres' own parameters have.
        Some(_) if is_session_parameter(&key) && !value.contains(';') => return Ok(Command::SetIgnored),
        _ => return Err(ParseError::Syntax),
    };
    match is_session_parameter(&key) {
        true => Ok(Command::SetIgnored),
        false => Ok(Command::Set { key, value }),
    }
}

fn is_session_parameter(key: &str) -> bool {
    let names = PARAMETERS.iter().map(|parameter| parameter.columns[0].name).chain(SET_IGNORED);
    names.into_iter().any(|name| name.eq_ignore_ascii_case(key))
}

/// Longer phrases of Postgres' language that drivers send by themselves.
fn from_driver(text: &str) -> Option<Command> {
    if text.len() > VALUE_MAX
        || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" \t\r\n_,'\"".contains(&byte))
    {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    let words: Vec<&str> = lower.split_ascii_whitespace().collect();
    match words.as_slice() {
        ["begin", ..] | ["start", "transaction", ..] => Some(Command::Transaction(Transaction::Begin)),
        ["rollback", "to", ..] => Some(Command::Transaction(Transaction::RollbackTo)),
        ["release", "savepoint", _] => Some(Command::Transaction(Transaction::Release)),
        ["show", "transaction", "isolation", "level"] => show("transaction_isolation").ok(),
        ["set", "session", "characteristics", "as", "transaction", _, ..] | ["set", "names", _] => {
            Some(Command::SetIgnored)
        }
        ["deallocate", "prepare", "all"] => Some(Command::Deallocate(None)),
        ["deallocate", "prepare", _] => {
            let name = text.split_ascii_whitespace().nth(2)?;
            word(name)
                .filter(|(_, rest)| rest.is_empty())
                .map(|(name, _)| Command::Deallocate(Some(name.text.into_owned())))
        }
        _ => None,
    }
}

/// A word or quoted text of a command.
struct Word<'a> {
    /// Without quotes.
    text: Cow<'a, str>,
    /// Its length as it was written, in bytes, quotes included.
    written_len: usize,
}

impl Word<'_> {
    /// # Errors
    /// It is longer than that, as it was written: PgBouncer's limits count the quotes.
    fn short(self, len_max: usize) -> Result<String, ParseError> {
        if self.written_len > len_max {
            return Err(ParseError::BadArguments);
        }
        Ok(self.text.into_owned())
    }
}

/// A word, and maybe another: `(word, argument)`.
fn plain(text: &str) -> Option<(Word<'_>, Option<Word<'_>>)> {
    let (first, rest) = word(text)?;
    if rest.is_empty() {
        return Some((first, None));
    }
    let (argument, rest) = rest.strip_prefix(SPACE).and_then(after_space_word)?;
    rest.is_empty().then_some((first, Some(argument)))
}

fn after_space_word(text: &str) -> Option<(Word<'_>, &str)> {
    word(text.trim_start_matches(SPACE))
}

/// A word at the start of `text`, unquoted, and the rest.
fn word(text: &str) -> Option<(Word<'_>, &str)> {
    if let Some((name, rest)) = quoted(text, '"') {
        return Some((name, rest));
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| (Word { text: Cow::Borrowed(&text[..end]), written_len: end }, &text[end..]))
}

/// Text in quotes at the start of `text`, a doubled quote standing for one, and the rest.
fn quoted(text: &str, quote: char) -> Option<(Word<'_>, &str)> {
    let inner = text.strip_prefix(quote)?;
    let mut from = 0;
    loop {
        let end = from + inner[from..].find(quote)?;
        let rest = &inner[end + 1..];
        if !rest.starts_with(quote) {
            let content = &inner[..end];
            let doubled = format!("{quote}{quote}");
            let content = match content.contains(quote) {
                true => Cow::Owned(content.replace(&doubled, &quote.to_string())),
                false => Cow::Borrowed(content),
            };
            return Some((Word { text: content, written_len: text.len() - rest.len() }, rest));
        }
        from = end + 2;
    }
}

const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

#[cfg(test)]
mod tests;
