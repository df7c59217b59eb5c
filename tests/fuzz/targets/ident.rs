//! auth_ident_file: none panics, and nobody is let in under a name that no line has.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::config::ident::read_text;

fuzz_target!(|bytes: &[u8]| {
    let read = read_text(bytes);
    let text = String::from_utf8_lossy(bytes).replace(['"', '\\', '\n', '\r'], "");
    if let Some(map) = read.maps.find("map") {
        for name in map.names_for("app") {
            assert!(text.contains(&name.replace(['"', '\\', '\n', '\r'], "")));
        }
    }
});
