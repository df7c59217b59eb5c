//! Does a text of SQL perhaps make or drop prepared statements by name: PREPARE, DEALLOCATE, DISCARD, or something that
//! can do so out of sight (DO, CALL)?
//!
//! Pure: bytes in, an answer out. Keywords of SQL cannot be written with escapes, so a search for the words is enough;
//! it looks into comments and literals too, and answers yes rather than no. A function that was created earlier is not
//! looked into.
//!
//! Our own statements on a server have names that any client can read in pg_prepared_statements. What a client does to
//! them must not meet the next one: after a text that may have done so, each is closed and prepared again before use.

/// Statements that begin with these words may change prepared statements.
const WORDS: [&[u8]; 4] = [b"prepare", b"deallocate", b"discard", b"call"];

/// How many bytes of a part of the text are looked at again together with the next part.
const OVERLAP: usize = 16;

/// May this text, a whole one, make or drop prepared statements by name?
#[inline]
pub fn may_change_statements(text: &[u8]) -> bool {
    // One look at each byte; few are one of these three letters.
    text.iter().enumerate().any(|(at, byte)| matches!(byte | 0x20, b'p' | b'd' | b'c') && word_at(text, at))
}

fn word_at(text: &[u8], at: usize) -> bool {
    let rest = &text[at..];
    let begins = at == 0 || !is_word(text[at - 1]);
    let is = |word: &[u8]| starts_with(rest, word) && rest.get(word.len()).is_none_or(|byte| !is_word(*byte));
    begins && (WORDS.iter().any(|word| is(word)) || (is(b"do") && does_code(&rest[2..])))
}

/// Is what follows DO a block of code? `ON CONFLICT DO` and the DO of a rule are none.
fn does_code(rest: &[u8]) -> bool {
    let next = rest.trim_ascii_start();
    let harmless: [&[u8]; 4] = [b"nothing", b"update", b"also", b"instead"];
    !harmless.iter().any(|word| starts_with(next, word) && next.get(word.len()).is_none_or(|byte| !is_word(*byte)))
}

fn starts_with(text: &[u8], word: &[u8]) -> bool {
    text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// The same for a text that comes in parts.
#[derive(Debug, Default)]
pub struct Search {
    /// The end of the part before.
    before: Vec<u8>,
}

impl Search {
    /// The next part. What stands at the edge of two parts is found in one of them, or in their edges put together.
    pub fn next(&mut self, part: &[u8]) -> bool {
        let mut edge = std::mem::take(&mut self.before);
        edge.extend_from_slice(&part[..part.len().min(OVERLAP)]);
        let found = may_change_statements(part) || may_change_statements(&edge);
        let tail = if part.len() >= OVERLAP { part } else { &edge };
        self.before = tail[tail.len().saturating_sub(OVERLAP)..].to_vec();
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_changes_statements_is_found_however_it_is_written() {
        for text in [
            "PREPARE a AS SELECT 1",
            "deallocate \"PGBOUNCER_1\"",
            "DeAllocate all",
            "/* x */DISCARD ALL",
            "select 1; prepare\"a\" as select 1",
            "do $$ begin execute 'DEAL' || 'LOCATE a'; end $$",
            "DO LANGUAGE plpgsql 'begin end'",
            "do/**/'begin end'",
            "select 1;DO $x$ $x$",
            "call p()",
            "CALL",
            "explain execute x; do",
        ] {
            assert!(may_change_statements(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn the_common_statements_are_not_suspected() {
        for text in [
            "SELECT abalance FROM pgbench_accounts WHERE aid = $1",
            "insert into t values (1) on conflict do nothing",
            "insert into t values (1) on conflict (a) DO\n UPDATE set a = 2",
            "select name from pg_prepared_statements",
            "select callback, recall, call_id, docs, dot, redo from t",
            "create rule r as on insert to t do also notify t",
            "",
            "do_it",
        ] {
            assert!(!may_change_statements(text.as_bytes()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_text_in_parts_is_found_where_the_whole_is(
            words in prop::collection::vec(
                prop::sample::select(vec![
                    "prepare", "select", " ", "do", "call", "'", "deallocate", "DISCARD", "xx", "nothing",
                ]),
                0..12,
            ),
            cuts in prop::collection::vec(0usize..100, 0..12),
        ) {
            let text = words.concat();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < text.len()).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut search = Search::default();
            let mut found = false;
            for ends in cuts.windows(2) {
                found |= search.next(&text.as_bytes()[ends[0]..ends[1]]);
            }
            prop_assert!(found || !may_change_statements(text.as_bytes()), "{text}");
        }
    }
}
