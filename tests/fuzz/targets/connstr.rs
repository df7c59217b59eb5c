//! Connection strings and DATABASE_URL: none panics, and pairs say the same when they are written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::config::{connstr, url};

fuzz_target!(|text: &str| {
    let _ = url::parse(text);
    if let Ok(pairs) = connstr::parse(text) {
        assert_eq!(connstr::parse(&connstr::print(&pairs)), Ok(pairs));
    }
});
