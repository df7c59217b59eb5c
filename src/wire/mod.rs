//! Postgres protocol v3 as bytes.
