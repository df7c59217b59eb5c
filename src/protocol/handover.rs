//! A connection as it is handed to a successor: the rows of SHOW FDS, and what goes beyond them between two pgweirs.
//!
//! Pure: texts and bytes in, values out, and back.
//!
//! SHOW FDS has PgBouncer's fifteen columns (`admin_show_fds`), so that either program can take over from the other.
//! They say which socket is whose and four of its parameters, no more. SHOW HANDOVER, which a pgweir asks another one
//! for, has a sixteenth column with all the rest as a JSON object ([`state`]), and rows without a socket for what
//! belongs to no connection: statements and pools. Keys that are not known are ignored, and missing ones have a value
//! that does no harm, so that neighbouring versions understand each other.

pub mod state;

use std::fmt;

/// What the console says in its greeting to a successor, as a parameter of this name: it knows SHOW HANDOVER.
pub const ANNOUNCEMENT: &str = "pgweir_handover";

/// The announcement's value.
pub const VERSION: &str = "1";

/// How many columns SHOW FDS has.
pub const FDS_COLUMNS: usize = 15;

/// What a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// A socket that listens.
    Pooler,
    /// A connection from an application.
    Client,
    /// A connection to PostgreSQL.
    Server,
    /// A pool; no socket.
    Pool,
    /// A prepared statement; no socket.
    Statement,
}

const TASKS: [(Task, &str); 5] = [
    (Task::Pooler, "pooler"),
    (Task::Client, "client"),
    (Task::Server, "server"),
    (Task::Pool, "pool"),
    (Task::Statement, "statement"),
];

impl Task {
    /// As the column has it.
    pub fn name(self) -> &'static str {
        TASKS.iter().find(|(task, _)| *task == self).map_or("", |(_, name)| name)
    }

    /// Does a socket come with such a row?
    pub fn has_socket(self) -> bool {
        matches!(self, Task::Pooler | Task::Client | Task::Server)
    }
}

/// One row. The fields are the columns.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    /// The descriptor's number in the process that has it; 0 where there is none.
    pub fd: i32,
    /// What it is.
    pub task: Task,
    /// The user logged in as.
    pub user: Option<String>,
    /// The database as clients name it.
    pub database: Option<String>,
    /// The other end's address, or `unix`.
    pub addr: String,
    /// The other end's port.
    pub port: i32,
    /// Cancel key: process id and secret, four bytes each.
    pub cancel: u64,
    /// The descriptor of the client's server or the server's client; 0 is none.
    pub link: i32,
    /// client_encoding
    pub client_encoding: Option<String>,
    /// standard_conforming_strings
    pub std_strings: Option<String>,
    /// DateStyle
    pub datestyle: Option<String>,
    /// TimeZone
    pub timezone: Option<String>,
    /// The password, of users that are in no auth_file.
    pub password: Option<String>,
    /// SCRAM client key of the pool's user.
    pub scram_client_key: Option<Vec<u8>>,
    /// SCRAM server key of the pool's user.
    pub scram_server_key: Option<Vec<u8>>,
    /// What goes beyond PgBouncer, as JSON; not in SHOW FDS.
    pub state: Option<String>,
}

impl Row {
    /// A row that says only what it is.
    pub fn new(task: Task) -> Row {
        Row {
            fd: 0,
            task,
            user: None,
            database: None,
            addr: "unix".to_owned(),
            port: 0,
            cancel: 0,
            link: 0,
            client_encoding: None,
            std_strings: None,
            datestyle: None,
            timezone: None,
            password: None,
            scram_client_key: None,
            scram_server_key: None,
            state: None,
        }
    }

    /// The row without what lets anybody log in or cancel.
    #[must_use]
    pub fn without_secrets(self) -> Row {
        Row { cancel: 0, password: None, scram_client_key: None, scram_server_key: None, state: None, ..self }
    }

    /// The values as texts, in the order of the columns.
    pub fn texts(&self) -> [Option<String>; FDS_COLUMNS + 1] {
        let bytea = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| hex(bytes));
        [
            Some(self.fd.to_string()),
            Some(self.task.name().to_owned()),
            self.user.clone(),
            self.database.clone(),
            Some(self.addr.clone()),
            Some(self.port.to_string()),
            Some(self.cancel.cast_signed().to_string()),
            Some(self.link.to_string()),
            self.client_encoding.clone(),
            self.std_strings.clone(),
            self.datestyle.clone(),
            self.timezone.clone(),
            self.password.clone(),
            bytea(&self.scram_client_key),
            bytea(&self.scram_server_key),
            self.state.clone(),
        ]
    }

    /// Reads the body of a DataRow: fifteen columns, or sixteen.
    ///
    /// # Errors
    /// It is not such a row.
    pub fn parse(body: &[u8]) -> Result<Row, BadRow> {
        let values = split(body)?;
        let text = |column: usize| {
            let bytes = values.get(column).copied().flatten();
            bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| BadRow::Column(column))).transpose()
        };
        let owned = |column| Ok(text(column)?.map(str::to_owned));
        let word = |column| text(column)?.ok_or(BadRow::Column(column));
        let int = |column| word(column)?.parse::<i32>().map_err(|_| BadRow::Column(column));
        let bytea = |column| text(column)?.map(|hex| unhex(hex).ok_or(BadRow::Column(column))).transpose();
        let task = word(1)?;
        Ok(Row {
            fd: int(0)?,
            task: TASKS.iter().find(|(_, name)| *name == task).map(|(task, _)| *task).ok_or(BadRow::Column(1))?,
            user: owned(2)?,
            database: owned(3)?,
            addr: word(4)?.to_owned(),
            port: int(5)?,
            cancel: cancel_key(word(6)?).ok_or(BadRow::Column(6))?,
            link: int(7)?,
            client_encoding: owned(8)?,
            std_strings: owned(9)?,
            datestyle: owned(10)?,
            timezone: owned(11)?,
            password: owned(12)?,
            scram_client_key: bytea(13)?,
            scram_server_key: bytea(14)?,
            state: owned(FDS_COLUMNS)?,
        })
    }

    /// Notes the four parameters that have columns.
    pub fn note_parameters<'a>(&mut self, mut value: impl FnMut(&str) -> Option<&'a str>) {
        let mut owned = |name: &str| value(name).map(str::to_owned);
        self.client_encoding = owned("client_encoding");
        self.std_strings = owned("standard_conforming_strings");
        self.datestyle = owned("DateStyle");
        self.timezone = owned("TimeZone");
    }

    /// The parameters that have columns, as far as they are known.
    pub fn parameters(&self) -> Vec<(&'static str, &str)> {
        let columns = [
            ("client_encoding", &self.client_encoding),
            ("standard_conforming_strings", &self.std_strings),
            ("DateStyle", &self.datestyle),
            ("TimeZone", &self.timezone),
        ];
        columns.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect()
    }
}

/// It holds passwords and keys, which stay out of logs.
impl fmt::Debug for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Row({} {}, link {})", self.task.name(), self.fd, self.link)
    }
}

/// What is wrong with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRow {
    /// It is no DataRow, or has another number of columns.
    Shape,
    /// The value of this column, counted from 0.
    Column(usize),
}

impl fmt::Display for BadRow {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadRow::Shape => write!(out, "a row of SHOW FDS has {FDS_COLUMNS} columns"),
            BadRow::Column(column) => write!(out, "column {} of SHOW FDS has an impossible value", column + 1),
        }
    }
}

impl std::error::Error for BadRow {}

/// The columns of a DataRow's body.
fn split(body: &[u8]) -> Result<Vec<Option<&[u8]>>, BadRow> {
    let (count, mut rest) = body.split_first_chunk::<2>().ok_or(BadRow::Shape)?;
    let count = usize::from(u16::from_be_bytes(*count));
    if count != FDS_COLUMNS && count != FDS_COLUMNS + 1 {
        return Err(BadRow::Shape);
    }
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        let (len, after) = rest.split_first_chunk::<4>().ok_or(BadRow::Shape)?;
        let len = i32::from_be_bytes(*len);
        let value = match usize::try_from(len) {
            Ok(len) => Some(after.get(..len).ok_or(BadRow::Shape)?),
            Err(_) if len == -1 => None,
            Err(_) => return Err(BadRow::Shape),
        };
        rest = &after[value.map_or(0, <[u8]>::len)..];
        values.push(value);
    }
    if rest.is_empty() { Ok(values) } else { Err(BadRow::Shape) }
}

/// An `int8` that stands for eight bytes; PgBouncer prints it without its sign.
fn cancel_key(text: &str) -> Option<u64> {
    text.parse().or_else(|_| text.parse::<i64>().map(i64::cast_unsigned)).ok()
}

/// `bytea` in its hex format.
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let digits = digits.map(|digit| char::from_digit(u32::from(digit), 16).unwrap_or('0'));
    ['\\', 'x'].into_iter().chain(digits).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests;
