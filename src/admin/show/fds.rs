//! SHOW FDS, and SHOW HANDOVER for a successor: which socket is whose.
//!
//! The rows come from every connection's own task, so the `client` room gathers them, and sends the sockets along where
//! it may (`client::console`).

use crate::admin::table::{Column, Kind, Value};
use crate::protocol::handover::Row;

/// Columns of SHOW FDS.
pub const FDS: [Column; 15] = {
    let [fds @ .., _] = HANDOVER;
    fds
};

/// Columns of SHOW HANDOVER.
pub const HANDOVER: [Column; 16] = [
    Column::int4("fd"),
    Column::text("task"),
    Column::text("user"),
    Column::text("database"),
    Column::text("addr"),
    Column::int4("port"),
    Column::int8("cancel"),
    Column::int4("link"),
    Column::text("client_encoding"),
    Column::text("std_strings"),
    Column::text("datestyle"),
    Column::text("timezone"),
    Column::text("password"),
    Column::bytea("scram_client_key"),
    Column::bytea("scram_server_key"),
    Column::text("state"),
];

/// The values of one row, in these columns.
pub fn values(columns: &[Column], row: &Row) -> Vec<Value> {
    let value = |(column, text): (&Column, Option<String>)| match (column.kind, text) {
        (_, None) => Value::Null,
        (Kind::Int4, Some(text)) => text.parse().map_or(Value::Null, Value::Int4),
        (Kind::Int8, Some(text)) => text.parse().map_or(Value::Null, Value::Int8),
        (Kind::Bytea, Some(_)) if column.name == "scram_client_key" => bytea(row.scram_client_key.as_ref()),
        (Kind::Bytea, Some(_)) => bytea(row.scram_server_key.as_ref()),
        (_, Some(text)) => Value::Text(text),
    };
    columns.iter().zip(row.texts()).map(value).collect()
}

fn bytea(bytes: Option<&Vec<u8>>) -> Value {
    bytes.cloned().map_or(Value::Null, Value::Bytea)
}
