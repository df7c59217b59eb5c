//! Stopping a query from another connection.

pub mod key;
