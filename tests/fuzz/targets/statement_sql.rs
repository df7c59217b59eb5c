//! Texts that may change prepared statements: none panics, and one in parts is found where the whole is, however long
//! its parts are. The first two bytes say where it is parted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::protocol::statement_sql::{Search, may_change_statements};

fuzz_target!(|bytes: &[u8]| {
    let Some(([first, second], text)) = bytes.split_first_chunk::<2>() else { return };
    // What follows DO is looked for behind a few blanks only.
    let mut text = text.to_vec();
    text.dedup_by(|byte, before| byte.is_ascii_whitespace() && before.is_ascii_whitespace());
    let mut cuts = [first, second].map(|cut| usize::from(*cut).min(text.len()));
    cuts.sort_unstable();
    let parts = [&text[..cuts[0]], &text[cuts[0]..cuts[1]], &text[cuts[1]..]];

    let mut search = Search::default();
    let found = parts.map(|part| search.next(part)).contains(&true);

    assert!(found || !may_change_statements(&text));
});
