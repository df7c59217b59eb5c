//! Error fields: none panics, and what was read says the same when it is written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::wire::error::{ErrorFields, error_response};

fuzz_target!(|body: &[u8]| {
    let read = ErrorFields::parse(body);
    let mut out = Vec::new();
    error_response(&mut out, &read.severity, &read.code, &read.message, read.detail.as_deref(), read.hint.as_deref());
    assert_eq!(ErrorFields::parse(&out[5..]), read);
});
