//! pgweir: a transaction-pooling PostgreSQL proxy.
pub mod admin;
pub mod app;
pub mod auth;
pub mod cancel;
pub mod client;
pub mod config;
pub mod net;
pub mod pool;
pub mod protocol;
pub mod server;
pub mod stats;
pub mod wire;
