//! auth_file: none panics, and what was read says the same when it is written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::config::userlist::{parse, print};

fuzz_target!(|bytes: &[u8]| {
    let Ok(secrets) = parse(bytes) else { return };
    let lines = secrets.users().map(|user| print(user, secrets.find(user).expect("its own user")) + "\n");
    assert_eq!(parse(lines.collect::<String>().as_bytes()), Ok(secrets.clone()));
});
