//! Files of keys and certificates, and certificates that are shown; the promises are in `net::tls::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pgweir::net::tls::fuzz::files(bytes));
