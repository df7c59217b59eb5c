//! Conversations in any order against a model of PostgreSQL; the promises are in `protocol::exchange::model`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pgweir::protocol::exchange::model::conversation(bytes));
