//! The words of OpenSSL in the TLS settings; the promises are in `net::tls::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| pgweir::net::tls::fuzz::settings(text));
