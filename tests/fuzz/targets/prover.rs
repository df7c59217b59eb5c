//! What a server says while we log in; the promises are in `auth::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pgweir::auth::fuzz::prover(bytes));
