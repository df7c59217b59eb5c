//! Parameters: whatever is wished for and reported, nothing differs once the server has answered.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::protocol::parameters::{ParameterSet, Tracked, adopt, difference, report};

fuzz_target!(|text: &str| {
    let extra = ["search_path".to_owned(), "a".to_owned()];
    let tracked = Tracked::new(&extra).expect("these are names");
    let (mut want, mut have) = (ParameterSet::default(), ParameterSet::default());
    let mut words = text.split('|');
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        let client = if value.len() % 2 == 0 { Some(&mut want) } else { None };
        let _ = report(name, value, &mut have, client, &tracked);
    }
    if let Some(message) = difference(&mut want, &have, &tracked) {
        assert_eq!(
            message.iter().filter(|byte| **byte == 0).count(),
            1 + message[1..5].iter().filter(|b| **b == 0).count()
        );
    }
    adopt(&mut want, &mut have, &tracked);
    assert_eq!(difference(&mut want, &have, &tracked), None);
});
