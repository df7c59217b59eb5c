//! Session parameters that follow the client: what it wants, what its server has, and the SET between the two.
//!
//! Pure: texts in, texts and bytes out.
//!
//! A server reports some of its parameters (ParameterStatus), at login and whenever one changes. What it reported last
//! is its [`ParameterSet`]. A client starts with its pool's first server's set, in which its own wishes from the
//! startup message have replaced the values; from then on every report that reaches it while it has a server goes into
//! both sets ([`report`]). When it borrows a server next, [`difference`] makes the one message that brings the server
//! in line; mostly there is none, and then both sets are the same allocation and the answer is one comparison of
//! pointers.
//!
//! Postgres may spell a value otherwise than it was set: `SET datestyle='ISO'` is reported as `ISO, MDY`, or not at all
//! if that is what it was before. So once a server has answered the SET, the client takes over the server's spelling
//! ([`adopt`]); otherwise the two would differ, and cost a round trip, at every loan. An answer with an error means
//! that the client asked for a value that does not exist: all of the SET is undone, and the client must go.
//!
//! Only [`Tracked`] parameters are followed. PgBouncer's rule for those a server does not report holds: they cannot be
//! known, so they are left alone. Manual: "Asynchronous Operations", "SET".
//!
//! PostgreSQL decodes the whole text of a Query in the client_encoding in force before it runs any of it, and the
//! client before may have left SJIS behind. So the SETs are written in ASCII, unless the server reads UTF-8 already.
//! What a server reports is in the client_encoding in force, too; see [`read_value`].

mod encoding;
mod quoting;

use std::cmp::Ordering;
use std::sync::Arc;

use self::encoding::{Escapes, Spelling};
pub use self::encoding::{UNREADABLE, read_value};
use self::quoting::{put_literal, split_identifiers};
use crate::wire::startup::{Replication, StartupError, StartupMessage, parse_options};

/// Most bytes of a reported value we follow. A client can make its server report any text (an application_name is cut
/// by Postgres, a search_path is not) and we keep it for as long as the client stays.
pub const VALUE_LEN_MAX: usize = 16 * 1024;

/// Names and values, each name once. Cheap to clone; equal sets should be one allocation, see `shared::Interner`.
///
/// One text holds it all, `name NUL value NUL`, in the order of the names without regard to case: neither can contain
/// a NUL, and ten thousand clients with names of their own cost one small allocation each.
#[derive(Clone, Debug, Default)]
pub struct ParameterSet(Arc<str>);

impl ParameterSet {
    /// All parameters, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut texts = self.0.split_terminator('\0');
        std::iter::from_fn(move || Some((texts.next()?, texts.next()?)))
    }

    /// The value of a parameter; the case of `name` does not matter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// This set with another value for `name`, which keeps its spelling where it is known already. A NUL ends a text.
    pub fn with(&self, name: &str, value: &str) -> ParameterSet {
        let [name, value] = [name, value].map(|text| text.split('\0').next().unwrap_or_default());
        let mut text = String::with_capacity(self.0.len() + name.len() + value.len() + 2);
        let mut put = |name: &str, value: &str| text.extend([name, "\0", value, "\0"]);
        let mut placed = false;
        for (known, old) in self.iter() {
            match (placed, by_name(known, name)) {
                (false, Ordering::Equal) if old == value => return self.clone(),
                (false, Ordering::Equal) => {
                    put(known, value);
                    placed = true;
                    continue;
                }
                (false, Ordering::Greater) => {
                    put(name, value);
                    placed = true;
                }
                _ => {}
            }
            put(known, old);
        }
        if !placed {
            put(name, value);
        }
        ParameterSet(text.into())
    }

    /// What a client wants: this set, the pool's, with the client's wishes in it. A wish for a parameter that the
    /// server does not report is dropped: nobody could tell what it is on which server.
    pub fn with_wishes(&self, wishes: &[(String, String)]) -> ParameterSet {
        let known = wishes.iter().filter(|(name, _)| self.get(name).is_some());
        known.fold(self.clone(), |set, (name, value)| set.with(name, value))
    }

    /// Are the two one allocation? Then they are equal.
    #[inline]
    pub fn is(&self, other: &ParameterSet) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The text that holds it all, for `shared::Interner`.
    pub(super) fn text(&self) -> &Arc<str> {
        &self.0
    }

    /// The set that `text`, from [`ParameterSet::text`], holds.
    pub(super) fn from_text(text: Arc<str>) -> ParameterSet {
        ParameterSet(text)
    }
}

impl PartialEq for ParameterSet {
    fn eq(&self, other: &ParameterSet) -> bool {
        self.is(other) || self.0 == other.0
    }
}

impl Eq for ParameterSet {}

impl<'a> FromIterator<(&'a str, &'a str)> for ParameterSet {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> ParameterSet {
        pairs.into_iter().fold(ParameterSet::default(), |set, (name, value)| set.with(name, value))
    }
}

fn by_name(a: &str, b: &str) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    let [a, b] = [a, b].map(|name| name.bytes().map(|byte| byte.to_ascii_lowercase()));
    a.cmp(b)
}

/// The parameters that follow the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracked(Vec<Follow>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Follow {
    name: String,
    values: Values,
}

/// When two values of a parameter are the same, and how one is written in a SET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Values {
    /// Words whose case does not matter.
    Words,
    /// Any text. PgBouncer disregards case here too, and so shows one client's application_name as another's.
    Text,
    /// A list of identifiers, reported with quotes where they need some.
    Identifiers,
}

/// A name in track_extra_parameters that cannot be a parameter's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadName(pub String);

impl std::fmt::Display for BadName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "track_extra_parameters: expected the name of a parameter, got \"{}\"", self.0)
    }
}

impl std::error::Error for BadName {}

impl Tracked {
    /// The five that are always followed, and those of track_extra_parameters.
    ///
    /// # Errors
    /// A name has characters besides letters, digits, `_`, `.` and `$`: it would end up in a SET as it is.
    pub fn new(extra: &[String]) -> Result<Tracked, BadName> {
        let always = ["DateStyle", "client_encoding", "TimeZone", "standard_conforming_strings", "application_name"];
        let mut names: Vec<&str> = always.to_vec();
        for name in extra {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.$".contains(&byte);
            if name.is_empty() || !name.bytes().all(fits) {
                return Err(BadName(name.clone()));
            }
            if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                names.push(name);
            }
        }
        let follow = |name: &str| {
            let values = match name.to_ascii_lowercase().as_str() {
                "datestyle" | "client_encoding" | "timezone" | "standard_conforming_strings" | "intervalstyle" => {
                    Values::Words
                }
                "search_path" | "temp_tablespaces" => Values::Identifiers,
                _ => Values::Text,
            };
            Follow { name: name.to_owned(), values }
        };
        Ok(Tracked(names.into_iter().map(follow).collect()))
    }

    /// Is this parameter followed? The case of `name` does not matter.
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<&Follow> {
        self.0.iter().find(|follow| follow.name.eq_ignore_ascii_case(name))
    }
}

/// The Query that makes a server with `have` fit a client that wants `want`; `None` where it does already.
///
/// Asked at every loan. Where the two differ in nothing that is followed, `want` becomes `have`, so that it is found
/// quickly next time.
#[inline]
pub fn difference(want: &mut ParameterSet, have: &ParameterSet, tracked: &Tracked) -> Option<Vec<u8>> {
    if want.is(have) { None } else { compare(want, have, tracked) }
}

#[cold]
fn compare(want: &mut ParameterSet, have: &ParameterSet, tracked: &Tracked) -> Option<Vec<u8>> {
    let mut sql = String::new();
    let spelling = Spelling::for_server(have);
    let mut reported = true;
    let mut theirs = have.iter().peekable();
    // Both are in the order of their names, so one walk along the two finds all pairs.
    for (name, wanted) in want.iter() {
        while theirs.next_if(|(other, _)| by_name(other, name) == Ordering::Less).is_some() {}
        match theirs.next_if(|(other, _)| other.eq_ignore_ascii_case(name)) {
            Some((_, value)) if value == wanted => {}
            Some((_, value)) => match tracked.find(name) {
                Some(Follow { values: Values::Words, .. }) if value.eq_ignore_ascii_case(wanted) => {}
                Some(follow) => put_set(&mut sql, follow, wanted, spelling),
                None => {}
            },
            None => reported &= !tracked.contains(name),
        }
    }
    if !sql.is_empty() {
        return Some(query(&sql));
    }
    if reported {
        *want = have.clone();
    }
    None
}

/// Takes over how the server spells the values, once it has answered the SETs of [`difference`]. What the client wants
/// and this server does not report stays. What it reports in an encoding that is not read here is what was just set.
pub fn adopt(want: &mut ParameterSet, have: &mut ParameterSet, tracked: &Tracked) {
    let unreadable = want.iter().filter(|(name, _)| tracked.contains(name) && have.get(name) == Some(UNREADABLE));
    let known = unreadable.fold(have.clone(), |set, (name, value)| set.with(name, value));
    *have = known;
    let unreported = want.iter().filter(|(name, _)| tracked.contains(name) && have.get(name).is_none());
    *want = unreported.fold(have.clone(), |set, (name, value)| set.with(name, value));
}

/// A value longer than [`VALUE_LEN_MAX`] was reported: it is followed no longer, so the server must serve nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueTooLong;

/// Notes a ParameterStatus: the server has this value now and its client, if it has one, wants it.
///
/// Both sets are new then, and alike where they were; the caller has them interned.
///
/// # Errors
/// The value is too long. Neither set is changed; the server is to be closed once its client is done with it.
pub fn report(
    name: &str,
    value: &str,
    server: &mut ParameterSet,
    client: Option<&mut ParameterSet>,
    tracked: &Tracked,
) -> Result<(), ValueTooLong> {
    if name.len() + value.len() > VALUE_LEN_MAX {
        return Err(ValueTooLong);
    }
    let before = std::mem::take(server);
    *server = before.with(name, value);
    match client {
        Some(client) if client.is(&before) => *client = server.clone(),
        Some(client) if tracked.contains(name) => *client = client.with(name, value),
        _ => {}
    }
    Ok(())
}

/// What a client wishes for in its startup message: the followed parameters among its parameters and `options`, each
/// once; a parameter of its own goes before one in `options`, as in Postgres. Those in `ignore` (the setting
/// ignore_startup_parameters) are dropped, and with `options` in it all that is unknown inside `options`.
///
/// A replication connection has a server of its own, which gets its `options` as they are: they are not looked into.
///
/// # Errors
/// A parameter is neither followed nor dropped, or `options` cannot be read.
pub fn classify_startup(
    message: &StartupMessage,
    tracked: &Tracked,
    ignore: &[String],
) -> Result<Vec<(String, String)>, StartupError> {
    let ignored = |name: &str| ignore.iter().any(|known| known.eq_ignore_ascii_case(name));
    let mut wishes: Vec<(String, String)> = Vec::new();
    let mut wish =
        |name: &str, value: String| match wishes.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            Some((_, old)) => *old = value,
            None => wishes.push((name.to_owned(), value)),
        };
    let options = message.options.as_deref().filter(|_| message.replication == Replication::Off);
    for (name, value) in parse_options(options.unwrap_or_default())? {
        match tracked.find(&name) {
            Some(follow) => wish(&follow.name, value),
            None if ignored(&name) || ignored("options") => {}
            None => return Err(StartupError::UnsupportedInOptions { name, value }),
        }
    }
    for (name, value) in &message.parameters {
        match tracked.find(name) {
            Some(follow) => wish(&follow.name, value.clone()),
            None if ignored(name) => {}
            None => return Err(StartupError::Unsupported { name: name.clone(), value: value.clone() }),
        }
    }
    Ok(wishes)
}

fn put_set(sql: &mut String, follow: &Follow, value: &str, spelling: Spelling) {
    if value == UNREADABLE {
        // The client has it from its greeting: it wants what a new session has.
        sql.extend(["RESET ", &follow.name, ";"]);
        return;
    }
    sql.extend(["SET ", &follow.name, "="]);
    if follow.name == "application_name" && spelling.escapes == Escapes::CodePoints {
        // PostgreSQL takes any bytes for a name at a login and shows those that are not ASCII as `?` (since version 16
        // as `\xc3`). In a SET it would refuse characters that the database's encoding does not have.
        put_literal(sql, &in_ascii(value), spelling);
        sql.push(';');
        return;
    }
    // A list is taken apart and every identifier quoted: pasted in as it is, as PgBouncer does, what a client writes
    // into its startup message would be SQL. What is no list goes as one text, for Postgres to judge.
    let list = if follow.values == Values::Identifiers { split_identifiers(value) } else { None };
    for (at, text) in list.as_deref().unwrap_or(&[value.into()]).iter().enumerate() {
        sql.push_str(if at == 0 { "" } else { "," });
        put_literal(sql, text, spelling);
    }
    sql.push(';');
}

/// The text with a `?` for each byte that is not ASCII.
fn in_ascii(text: &str) -> String {
    text.bytes().map(|byte| if byte.is_ascii() { char::from(byte) } else { '?' }).collect()
}

/// A Query message.
fn query(sql: &str) -> Vec<u8> {
    let len = u32::try_from(sql.len() + 5).expect("our own messages are far below 4 GB");
    let mut out = Vec::with_capacity(sql.len() + 6);
    out.push(b'Q');
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(sql.as_bytes());
    out.push(0);
    out
}

#[cfg(test)]
mod tests;
