//! What a conversation remembers.
//!
//! Pure: told of messages, it answers what is owed and what must be said.
//!
//! - [`exchange`] one borrowed server: transaction status, pipeline, COPY; whether it is at rest
//! - [`outstanding`] the replies owed, in order: forward, skip or fake
//! - [`parameters`] session parameters: what the client wants, what the server has, the SET between them
//! - [`statements`] a client's statement name, the shared statement, its name on a server
//! - [`statement_sql`] whether a text of SQL may change prepared statements by name
//! - [`rename`] Parse, Bind, Describe and Close under another statement name
//! - [`handover`] all of it as it is handed to a successor
//! - [`shared`] parameter sets and statements that many clients have alike, each kept once

pub mod exchange;
pub mod handover;
pub mod outstanding;
pub mod parameters;
pub mod rename;
pub mod shared;
pub mod statement_sql;
pub mod statements;
