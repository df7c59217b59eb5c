//! The console: no command and no message of the extended protocol makes it panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::admin::command;
use pgweir::admin::extended::{Bind, Execute, Named, Parse, columns, query};

fuzz_target!(|body: &[u8]| {
    let _ = (Parse::read(body), Bind::read(body), Named::read(body), Execute::read(body));
    let text = query(body).unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    if let Ok(command) = command::parse(&text) {
        let _ = columns(&command);
    }
});
