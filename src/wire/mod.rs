//! Postgres protocol v3 as bytes.

pub mod error;
pub mod startup;
