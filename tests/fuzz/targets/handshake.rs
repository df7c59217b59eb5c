//! What a client says while it logs in; the promises are in `auth::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pgweir::auth::fuzz::handshake(bytes));
