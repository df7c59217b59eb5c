//! The syntax of `pgweir.toml`: the same names as in `pgbouncer.ini`, in TOML.
//!
//! Pure: text in, a [`Draft`] out; the grammar is the crate `toml`'s, whose spans give each setting its line.
//!
//! ```toml
//! [pgweir]
//! listen_addr = ["127.0.0.1", "::1"]   # lists may be arrays
//! log_stats = false                    # switches may be booleans
//! server_lifetime = 1800               # numbers need no quotes
//!
//! [databases.app]
//! host = "10.0.0.7"
//!
//! [databases]
//! "*" = "host=10.0.0.7"                # or a connection string, as in pgbouncer.ini
//! ```

use std::sync::Arc;

use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};

use super::connstr;
use super::draft::{Draft, Entry, Group, Section};
use super::problem::{Fault, Place, nearest};
use super::secret::Secret;

/// The sections of the file.
const SECTIONS: [&str; 4] = ["pgweir", "databases", "users", "peers"];

/// Adds what a file says to `draft`; `file` is its name in messages.
pub fn parse(text: &str, file: &Arc<str>, draft: &mut Draft) {
    let (root, errors) = DeTable::parse_recoverable(text);
    let reader = Reader { text, file };
    for error in errors {
        let place = reader.place(error.span().map_or(0, |span| span.start));
        draft.problem(place, "", Fault::expected_unseen(format!("TOML ({})", error.message().replace('\n', ", "))));
    }
    for (name, value) in root.get_ref().iter() {
        reader.section(name, value, draft);
    }
}

struct Reader<'a> {
    text: &'a str,
    file: &'a Arc<str>,
}

impl Reader<'_> {
    fn section(&self, name: &Spanned<std::borrow::Cow<'_, str>>, value: &Spanned<DeValue<'_>>, draft: &mut Draft) {
        let place = self.place(name.span().start);
        let section = match name.get_ref().as_ref() {
            "pgweir" => Section::Settings,
            "databases" => Section::Databases,
            "users" => Section::Users,
            "peers" => Section::Peers,
            other => {
                let near = nearest(other, SECTIONS);
                return draft.problem(place, other, Fault::Unknown { what: "section", near });
            }
        };
        let DeValue::Table(table) = value.get_ref() else {
            let expected = format!("a table, [{}]", name.get_ref());
            return draft.problem(place, name.get_ref(), Fault::expected_unseen(expected));
        };
        if section == Section::Settings {
            let keys = self.keys(table, "", draft);
            return draft.settings.extend(keys);
        }
        for (name, value) in table.iter() {
            let place = self.place(name.span().start);
            if let Some(keys) = self.group(name.get_ref(), value, &place, draft) {
                draft.group(section, Group { name: name.get_ref().to_string(), place, keys });
            }
        }
    }

    /// The keys of an entry, which is a table or a connection string.
    fn group(&self, name: &str, value: &Spanned<DeValue<'_>>, place: &Place, draft: &mut Draft) -> Option<Vec<Entry>> {
        match value.get_ref() {
            DeValue::Table(table) => Some(self.keys(table, name, draft)),
            DeValue::String(text) => match connstr::parse(text) {
                Ok(pairs) => Some(Entry::all_at(place, pairs)),
                Err(error) => {
                    draft.problem(place.clone(), name, Fault::expected_unseen(error.to_string()));
                    None
                }
            },
            _ => {
                draft.problem(place.clone(), name, Fault::expected_unseen("a table or a connection string"));
                None
            }
        }
    }

    fn keys(&self, table: &DeTable<'_>, group: &str, draft: &mut Draft) -> Vec<Entry> {
        let mut keys = Vec::new();
        for (key, value) in table.iter() {
            let place = self.place(key.span().start);
            let name = key.get_ref().to_string();
            match written(value.get_ref()) {
                // An empty text in an entry is what leaving the key out means; in a connection string it is refused.
                Some(text) if text.is_empty() && !group.is_empty() => {
                    let expected = format!("a value for {name} (leave the key out for the default)");
                    draft.problem(place, group, Fault::expected_unseen(expected));
                }
                Some(text) => keys.push(Entry { key: name, value: Secret::new(text), place }),
                None => {
                    let expected = "text, a number, true, false or an array of texts and numbers";
                    draft.problem(place, &name, Fault::expected_unseen(expected));
                }
            }
        }
        keys
    }

    fn place(&self, offset: usize) -> Place {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Place::Line(Arc::clone(self.file), u32::try_from(line).unwrap_or(u32::MAX))
    }
}

/// A value as it would be written in an ini file.
fn written(value: &DeValue<'_>) -> Option<String> {
    Some(match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Boolean(on) => u8::from(*on).to_string(),
        // TOML's underscores and notations are its own; what they mean is a decimal number.
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok()?.to_string(),
        DeValue::Float(number) => number.as_str().to_string(),
        DeValue::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(|item| written(item.get_ref())).collect();
            items?.join(",")
        }
        DeValue::Table(_) | DeValue::Datetime(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drafted(text: &str) -> Draft {
        let mut draft = Draft::default();
        parse(text, &"pgweir.toml".into(), &mut draft);
        draft
    }

    fn problems(text: &str) -> Vec<String> {
        drafted(text).problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn values_of_every_type_become_the_texts_of_the_ini_file() {
        let text = "[pgweir]\nlisten_addr = ['a', \"b\"]\nlog_stats = false\nmax_client_conn = 1_000\n\
                    unix_socket_mode = 0o770\nquery_timeout = 0.5\n";

        let draft = drafted(text);

        let mut settings: Vec<(&str, &str, String)> = draft
            .settings
            .iter()
            .map(|entry| (entry.key.as_str(), entry.value.reveal(), entry.place.to_string()))
            .collect();
        settings.sort();
        let expected = [
            ("listen_addr", "a,b", "pgweir.toml:2"),
            ("log_stats", "0", "pgweir.toml:3"),
            ("max_client_conn", "1000", "pgweir.toml:4"),
            ("query_timeout", "0.5", "pgweir.toml:6"),
            ("unix_socket_mode", "504", "pgweir.toml:5"),
        ];
        assert_eq!(settings, expected.map(|(key, value, place)| (key, value, place.to_string())));
        assert!(draft.problems.is_empty());
    }

    #[test]
    fn entries_are_tables_or_connection_strings() {
        let draft =
            drafted("[databases]\n\"*\" = \"host=x port=5\"\n[databases.app]\nhost = 'y'\n[users.ann]\npool_size=3");

        let names: Vec<&str> = draft.databases.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names, ["*", "app"]);
        assert_eq!(draft.databases[0].keys.len(), 2);
        assert_eq!(draft.users[0].keys[0].value.reveal(), "3");
        assert!(draft.problems.is_empty());
    }

    #[test]
    fn every_problem_has_its_line() {
        let text = "[pgweir]\nverbose = 2020-01-01\n[databse.x]\nhost='y'\n[users]\nann = 5\nbob = \"pool_size\"\n\
                    [peers.1]\nhost = ''\n";

        let expected = [
            "pgweir.toml:2: verbose: expected text, a number, true, false or an array of texts and numbers",
            "pgweir.toml:3: databse: no such section; did you mean databases?",
            "pgweir.toml:6: ann: expected a table or a connection string",
            "pgweir.toml:7: bob: expected key=value pairs separated by spaces",
            "pgweir.toml:9: 1: expected a value for host (leave the key out for the default)",
        ];
        let mut problems = problems(text);
        problems.sort();
        assert_eq!(problems, expected);
    }

    #[test]
    fn all_errors_of_the_grammar_are_reported() {
        let problems = problems("[pgweir]\na = \nb = 1\nc = ]\n");

        for line in ["pgweir.toml:2: expected TOML (", "pgweir.toml:4: expected TOML ("] {
            assert!(problems.iter().any(|problem| problem.starts_with(line)), "{problems:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn any_text_is_read_without_a_panic(text in "[\\[\\]a-c=.'\"{}, 0-9_\n\\PC]{0,80}") {
            drafted(&text);
        }
    }
}
