//! Columns and rows: a SHOW table as messages.
//!
//! Pure: values in, bytes out. A [`Table`] is columns and rows; it becomes RowDescription, DataRow and CommandComplete
//! in the formats the client asked for. Types and their sizes are those PgBouncer sends (`pktbuf.c`): clients and
//! exporters decode by them. Binary formats are ours: drivers ask for them in the extended protocol.

use crate::protocol::handover::hex;
use crate::wire::framing::Header;
use crate::wire::{Backend, backend};

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `text`
    Text,
    /// `int4`
    Int4,
    /// `int8`
    Int8,
    /// `numeric`, whole numbers only
    Numeric,
    /// `bytea`
    Bytea,
}

impl Kind {
    /// Type OID and size in bytes (-1 is variable), as RowDescription gives them.
    fn oid_and_size(self) -> (u32, i16) {
        match self {
            Kind::Text => (25, -1),
            Kind::Int4 => (23, 4),
            Kind::Int8 => (20, 8),
            Kind::Numeric => (1700, -1),
            Kind::Bytea => (17, -1),
        }
    }
}

/// A column's name and type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name, PgBouncer's letter for letter.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
}

impl Column {
    /// A `text` column.
    pub const fn text(name: &'static str) -> Column {
        Column { name, kind: Kind::Text }
    }

    /// An `int4` column.
    pub const fn int4(name: &'static str) -> Column {
        Column { name, kind: Kind::Int4 }
    }

    /// An `int8` column.
    pub const fn int8(name: &'static str) -> Column {
        Column { name, kind: Kind::Int8 }
    }

    /// A `bytea` column.
    pub const fn bytea(name: &'static str) -> Column {
        Column { name, kind: Kind::Bytea }
    }

    /// A `numeric` column.
    pub const fn numeric(name: &'static str) -> Column {
        Column { name, kind: Kind::Numeric }
    }
}

/// One value of a row. Its variant must be the column's [`Kind`], or `Null`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// No value.
    Null,
    /// For [`Kind::Text`].
    Text(String),
    /// For [`Kind::Int4`].
    Int4(i32),
    /// For [`Kind::Int8`].
    Int8(i64),
    /// For [`Kind::Numeric`].
    Numeric(u64),
    /// For [`Kind::Bytea`].
    Bytea(Vec<u8>),
}

impl Value {
    /// Text.
    pub fn text(text: impl ToString) -> Value {
        Value::Text(text.to_string())
    }

    /// Text, or null.
    pub fn maybe(text: Option<impl ToString>) -> Value {
        text.map_or(Value::Null, Value::text)
    }

    /// An `int4`; what is too large for one is shown as the largest.
    pub fn int(number: impl TryInto<i32>) -> Value {
        Value::Int4(number.try_into().unwrap_or(i32::MAX))
    }

    fn write_text(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null => {}
            Value::Text(text) => out.extend_from_slice(text.as_bytes()),
            Value::Int4(number) => out.extend_from_slice(number.to_string().as_bytes()),
            Value::Int8(number) => out.extend_from_slice(number.to_string().as_bytes()),
            Value::Numeric(number) => out.extend_from_slice(number.to_string().as_bytes()),
            Value::Bytea(bytes) => out.extend_from_slice(hex(bytes).as_bytes()),
        }
    }

    fn write_binary(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null => {}
            Value::Text(text) => out.extend_from_slice(text.as_bytes()),
            Value::Int4(number) => out.extend_from_slice(&number.to_be_bytes()),
            Value::Int8(number) => out.extend_from_slice(&number.to_be_bytes()),
            Value::Numeric(number) => write_numeric(out, *number),
            Value::Bytea(bytes) => out.extend_from_slice(bytes),
        }
    }
}

/// `numeric_send`'s format: counts of digits, weight of the first, sign, scale, then digits to the base of 10,000 with
/// the zeros at the end left out.
fn write_numeric(out: &mut Vec<u8>, mut number: u64) {
    let mut digits: Vec<u16> = Vec::with_capacity(5);
    while number > 0 {
        digits.push(u16::try_from(number % 10_000).expect("a remainder of 10,000"));
        number /= 10_000;
    }
    let weight = digits.len().saturating_sub(1);
    let trailing_zeros = digits.iter().take_while(|digit| **digit == 0).count();
    digits.drain(..trailing_zeros);

    let count = |n: usize| u16::try_from(n).expect("at most five digits to the base of 10,000").to_be_bytes();
    out.extend_from_slice(&count(digits.len()));
    out.extend_from_slice(&count(weight));
    out.extend_from_slice(&[0, 0, 0, 0]);
    for digit in digits.iter().rev() {
        out.extend_from_slice(&digit.to_be_bytes());
    }
}

/// How a column's values are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As text.
    Text,
    /// In the type's binary form.
    Binary,
}

/// The formats a Bind asks for: none (all text), one for all columns, or one for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Formats(Vec<Format>);

impl Formats {
    /// These formats, if that is a number of them that fits `columns` columns.
    pub fn new(formats: Vec<Format>, columns: usize) -> Option<Formats> {
        (formats.len() <= 1 || formats.len() == columns).then_some(Formats(formats))
    }

    fn of(&self, column: usize) -> Format {
        match self.0.as_slice() {
            [] => Format::Text,
            [all] => *all,
            each => each[column],
        }
    }
}

/// A SHOW table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The columns.
    pub columns: &'static [Column],
    /// The rows; each as long as `columns`.
    pub rows: Vec<Vec<Value>>,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: &'static [Column]) -> Table {
        Table { columns, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn push(&mut self, row: Vec<Value>) {
        debug_assert_eq!(row.len(), self.columns.len(), "a row has a value for each column");
        self.rows.push(row);
    }
}

/// Appends a RowDescription.
pub fn row_description(out: &mut Vec<u8>, columns: &[Column], formats: &Formats) {
    let mut body = Vec::with_capacity(2 + columns.len() * 40);
    body.extend_from_slice(&count(columns.len()));
    for (index, column) in columns.iter().enumerate() {
        let (oid, size) = column.kind.oid_and_size();
        body.extend_from_slice(column.name.as_bytes());
        body.push(0);
        // No table and no column number: the rows are computed.
        body.extend_from_slice(&[0; 6]);
        body.extend_from_slice(&oid.to_be_bytes());
        body.extend_from_slice(&size.to_be_bytes());
        body.extend_from_slice(&(-1i32).to_be_bytes());
        body.extend_from_slice(&[0, formats.of(index) as u8]);
    }
    backend::message(out, Backend::RowDescription, &body);
}

/// Appends a DataRow for each row.
pub fn data_rows(out: &mut Vec<u8>, rows: &[Vec<Value>], formats: &Formats) {
    let mut body = Vec::new();
    for row in rows {
        body.clear();
        body.extend_from_slice(&count(row.len()));
        for (index, value) in row.iter().enumerate() {
            data_value(&mut body, value, formats.of(index));
        }
        backend::message(out, Backend::DataRow, &body);
    }
}

/// Rows as the messages they will be sent in.
#[derive(Debug)]
pub struct RowMessages {
    messages: Vec<u8>,
    /// How much of that has been sent.
    sent: usize,
}

impl RowMessages {
    /// These rows in these formats.
    pub fn new(rows: &[Vec<Value>], formats: &Formats) -> RowMessages {
        let mut messages = Vec::new();
        data_rows(&mut messages, rows, formats);
        RowMessages { messages, sent: 0 }
    }

    /// Appends the next rows, at most so many; says whether there are more.
    pub fn send(&mut self, rows_max: usize, out: &mut Vec<u8>) -> bool {
        let from = self.sent;
        for _ in 0..rows_max {
            let Ok(Some(header)) = Header::parse(&self.messages[self.sent..], usize::MAX) else { break };
            self.sent += header.len;
        }
        out.extend_from_slice(&self.messages[from..self.sent]);
        self.sent < self.messages.len()
    }
}

fn data_value(body: &mut Vec<u8>, value: &Value, format: Format) {
    let length_at = body.len();
    body.extend_from_slice(&(-1i32).to_be_bytes());
    if *value == Value::Null {
        return;
    }
    match format {
        Format::Text => value.write_text(body),
        Format::Binary => value.write_binary(body),
    }
    let length = u32::try_from(body.len() - length_at - 4).expect("our own values are far below 4 GB");
    body[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends a CommandComplete.
pub fn command_complete(out: &mut Vec<u8>, tag: &str) {
    let mut body = tag.as_bytes().to_vec();
    body.push(0);
    backend::message(out, Backend::CommandComplete, &body);
}

fn count(n: usize) -> [u8; 2] {
    u16::try_from(n).expect("our own tables are narrow").to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numeric(number: u64) -> Vec<u8> {
        let mut out = Vec::new();
        write_numeric(&mut out, number);
        out
    }

    /// What `numeric_recv` would make of it.
    fn read_numeric(bytes: &[u8]) -> u128 {
        let words: Vec<u16> = bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
        let (head, digits) = words.split_at(4);
        assert_eq!(usize::from(head[0]), digits.len());
        assert_eq!(&head[2..], [0, 0], "positive and without a fraction");
        let places = u32::from(head[1]);
        (0u32..).zip(digits).map(|(place, digit)| u128::from(*digit) * 10_000u128.pow(places - place)).sum()
    }

    #[test]
    fn binary_numerics_are_those_of_postgres() {
        // Taken from numeric_send() of a PostgreSQL 15.
        assert_eq!(numeric(0), [0; 8]);
        assert_eq!(numeric(1), [0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(numeric(10_000), [0, 1, 0, 1, 0, 0, 0, 0, 0, 1]);
        assert_eq!(numeric(12_345_678), [0, 2, 0, 1, 0, 0, 0, 0, 0x04, 0xd2, 0x16, 0x2e]);
    }

    #[test]
    fn a_row_description_names_types_as_pgbouncer_does() {
        let columns = [Column::text("a"), Column::int4("b"), Column::int8("c"), Column::numeric("d")];
        let formats = Formats::new(vec![Format::Text, Format::Binary, Format::Text, Format::Binary], 4).unwrap();
        let mut out = Vec::new();

        row_description(&mut out, &columns, &formats);

        let mut expected = b"T\0\0\0\x56\0\x04".to_vec();
        for (name, oid, size, format) in
            [("a", 25u32, -1i16, 0u16), ("b", 23, 4, 1), ("c", 20, 8, 0), ("d", 1700, -1, 1)]
        {
            expected.extend(name.as_bytes());
            expected.extend([0; 7]);
            expected.extend(oid.to_be_bytes());
            expected.extend(size.to_be_bytes());
            expected.extend([0xff; 4]);
            expected.extend(format.to_be_bytes());
        }
        assert_eq!(out, expected);
    }

    #[test]
    fn a_row_is_sent_in_the_formats_asked_for() {
        let row = vec![Value::text("hi"), Value::Int4(-2), Value::Int8(3), Value::Null];
        let mut out = Vec::new();

        data_rows(&mut out, std::slice::from_ref(&row), &Formats::default());
        assert_eq!(out, b"D\0\0\0\x1b\0\x04\0\0\0\x02hi\0\0\0\x02-2\0\0\0\x013\xff\xff\xff\xff");

        out.clear();
        data_rows(&mut out, &[row], &Formats::new(vec![Format::Binary], 4).unwrap());
        let expected =
            b"D\0\0\0\x24\0\x04\0\0\0\x02hi\0\0\0\x04\xff\xff\xff\xfe\0\0\0\x08\0\0\0\0\0\0\0\x03\xff\xff\xff\xff";
        assert_eq!(out, expected);
    }

    #[test]
    fn rows_are_sent_a_few_at_a_time() {
        let rows: Vec<_> = (0..5).map(|number| vec![Value::Int4(number), Value::text("x".repeat(300))]).collect();
        let mut whole = Vec::new();
        data_rows(&mut whole, &rows, &Formats::default());

        let (mut messages, mut out) = (RowMessages::new(&rows, &Formats::default()), Vec::new());
        assert!(messages.send(2, &mut out));
        assert_eq!(out, whole[..whole.len() / 5 * 2]);
        assert!(!messages.send(3, &mut out));

        assert_eq!(out, whole);
        assert!(!messages.send(3, &mut out));
        assert!(!RowMessages::new(&[], &Formats::default()).send(usize::MAX, &mut out));
    }

    #[test]
    fn formats_must_fit_the_columns() {
        assert!(Formats::new(vec![], 3).is_some());
        assert!(Formats::new(vec![Format::Binary], 3).is_some());
        assert!(Formats::new(vec![Format::Text; 3], 3).is_some());
        assert_eq!(Formats::new(vec![Format::Text; 2], 3), None);
    }

    #[test]
    fn a_number_too_large_for_int4_is_shown_as_the_largest() {
        assert_eq!(Value::int(u64::MAX), Value::Int4(i32::MAX));
        assert_eq!(Value::int(7u32), Value::Int4(7));
    }

    proptest! {
        #[test]
        fn binary_numerics_come_back_as_they_went(number: u64) {
            prop_assert_eq!(read_numeric(&numeric(number)), u128::from(number));
        }
    }
}
