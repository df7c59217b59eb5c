//! What the other side of a TLS connection says before a key is agreed on; the promises are in `net::tls::fuzz`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::net::tls::fuzz::{Shown, conversation};

const SHOWN: Shown<'_> = Shown {
    key: include_bytes!("../../certificates/named.key"),
    certificate: include_bytes!("../../certificates/named.crt"),
};

fuzz_target!(|bytes: &[u8]| conversation(SHOWN, bytes));
