//! First packets: none panics, and a startup message says the same when it is written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::wire::startup::{First, parse_options, startup_message};

fuzz_target!(|bytes: &[u8]| {
    let Ok(Some((First::Startup(message), len))) = First::read(bytes) else { return };
    assert!(len <= bytes.len());
    let _ = parse_options(message.options.as_deref().unwrap_or_default());

    let mut list = vec![("user", message.user.as_str()), ("database", message.database.as_str())];
    list.extend(message.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let mut out = Vec::new();
    startup_message(&mut out, &list);
    // A byte that is not UTF-8 takes no more room as a question mark, a database's default may.
    if let Ok(Some((First::Startup(again), _))) = First::read(&out) {
        assert_eq!((again.user, again.database), (message.user, message.database));
        assert_eq!(again.parameters, message.parameters);
    }
});
