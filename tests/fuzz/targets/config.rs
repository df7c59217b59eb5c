//! Configuration files, as pgbouncer.ini and as TOML: any bytes give a configuration or problems that name a place.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::config::load_bytes;

fuzz_target!(|bytes: &[u8]| {
    for name in ["pgbouncer.ini", "pgweir.toml"] {
        if let Err(problems) = load_bytes(name, bytes) {
            assert!(!problems.is_empty());
            assert!(problems.iter().all(|problem| !problem.to_string().is_empty()));
        }
    }
});
