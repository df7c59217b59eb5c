//! DataRow, as auth_query's answers are read: none panics, and every value lies within the message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::wire::backend::{column_count, parse_data_row};

fuzz_target!(|body: &[u8]| {
    let Some(values) = parse_data_row(body) else { return };
    assert_eq!(column_count(body), Some(values.len()));
    let lengths: usize = values.iter().map(|value| 4 + value.map_or(0, <[u8]>::len)).sum();
    assert_eq!(lengths + 2, body.len());
});
