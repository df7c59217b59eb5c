//! What the front ends have understood so far: settings as text, each with its place.
//!
//! Pure: every front end (ini, TOML, environment, command line) writes into one [`Draft`], in the order of precedence,
//! and `resolve` makes a `Config` of it. A draft knows sections, entries and keys, but not what any of them means.

use std::sync::Arc;

use super::problem::{Fault, Place, Problem};
use super::secret::Secret;

/// One setting as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its name.
    pub key: String,
    /// Its value; kept as a secret, for it may be one.
    pub value: Secret,
    /// Where it stands.
    pub place: Place,
}

impl Entry {
    /// The pairs of a connection string, all at its place.
    pub fn all_at(place: &Place, pairs: Vec<(String, String)>) -> Vec<Entry> {
        pairs.into_iter().map(|(key, value)| Entry { key, value: Secret::new(value), place: place.clone() }).collect()
    }
}

/// One entry of `[databases]`, `[users]` or `[peers]`, with its keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The database, the user or the number of the peer.
    pub name: String,
    /// Where it stands.
    pub place: Place,
    /// Its keys.
    pub keys: Vec<Entry>,
}

/// A user whom the environment names with a password or stored secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password or stored secret; an empty one admits nobody who needs a password.
    pub secret: Secret,
    /// Where it stands.
    pub place: Place,
}

/// Everything that was written, later parts overriding earlier ones.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// `[pgbouncer]`.
    pub settings: Vec<Entry>,
    /// `[databases]`.
    pub databases: Vec<Group>,
    /// `[users]`.
    pub users: Vec<Group>,
    /// `[peers]`.
    pub peers: Vec<Group>,
    /// Users of the environment, who may log in where `auth_file` does not know them; the last word on each counts.
    pub logins: Vec<Login>,
    /// The files read so far, in order, by their names in messages.
    pub files: Vec<Arc<str>>,
    /// What is wrong so far.
    pub problems: Vec<Problem>,
    /// What the operator should know so far.
    pub notices: Vec<String>,
}

/// A section of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// `[pgbouncer]`; in TOML also `[pgweir]`.
    Settings,
    /// `[databases]`.
    Databases,
    /// `[users]`.
    Users,
    /// `[peers]`.
    Peers,
}

impl Section {
    /// The section of that name in an ini file.
    pub fn named(name: &str) -> Option<Section> {
        Some(match name {
            "pgbouncer" => Section::Settings,
            "databases" => Section::Databases,
            "users" => Section::Users,
            "peers" => Section::Peers,
            _ => return None,
        })
    }

    /// The names [`Section::named`] knows.
    pub const NAMES: [&'static str; 4] = ["pgbouncer", "databases", "users", "peers"];
}

impl Draft {
    /// Adds a setting of the whole process.
    pub fn setting(&mut self, key: &str, value: &str, place: Place) {
        self.settings.push(Entry { key: key.to_string(), value: Secret::new(value), place });
    }

    /// Adds an entry to one of the other sections.
    pub fn group(&mut self, section: Section, group: Group) {
        match section {
            Section::Settings => self.settings.extend(group.keys),
            Section::Databases => self.databases.push(group),
            Section::Users => self.users.push(group),
            Section::Peers => self.peers.push(group),
        }
    }

    /// Adds a problem.
    pub fn problem(&mut self, place: Place, key: &str, fault: Fault) {
        self.problems.push(Problem { place, key: key.to_string(), fault });
    }
}
