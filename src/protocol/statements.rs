//! Prepared statements of the protocol in transaction and statement mode: a client's name, the statement, a server.
//!
//! Pure: maps of values their owners hold.
//!
//! A client prepares a statement once and uses it for hours, on another server each time. So what it prepares (query
//! and parameter types) becomes a [`Statement`] with a name of ours, one for all clients that prepare the same
//! (`shared::Catalogue`). A client has its names ([`ClientStatements`]), a server the statements that have been
//! prepared on it, least recently used first to go ([`ServerStatements`]):
//!
//! ```text
//!  client A  "S_1" ──┐                              ┌──► server 1: PGBOUNCER_7, PGBOUNCER_9
//!                    ├──► Statement 7 "SELECT …" ───┤
//!  client B  "get" ──┘     (query + types)          └──► server 2: PGBOUNCER_7
//! ```
//!
//! `exchange` looks a name up at every Bind and Describe, sends our own Parse ahead where the server lacks the
//! statement, and has `rename` write the message with our name in it. A statement lives as long as a client or a server
//! holds it. The unnamed statement is a client's affair with the server of the moment and is not looked at. The setting
//! max_prepared_statements is the number per server; 0 switches all of this off. PgBouncer: `prepare.c`.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Weak};

use lru::LruCache;

use super::statement_sql::may_change_statements;
use crate::wire::error::sqlstate;

/// Most statements a client may hold. A client that prepares without end would otherwise fill our memory, where
/// without a pooler it fills its own backend's.
pub const CLIENT_STATEMENTS_MAX: usize = 65_536;

/// Most bytes the names, queries and types of a client's statements may have.
pub const CLIENT_STATEMENT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A server keeps the text of a statement of up to so many bytes in memory, for whoever prepares the same next, after
/// the last client that had it has left.
pub const SERVER_TEXT_MAX: usize = 1024 * 1024;

/// Most bytes of such texts that one server keeps.
pub const SERVER_STATEMENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How the names of our statements on servers begin: PgBouncer's prefix, which operators know from
/// pg_prepared_statements.
pub const SERVER_NAME_PREFIX: &str = "PGBOUNCER_";

/// What the statement with this number is called on servers.
pub fn server_name(id: u64) -> String {
    format!("{SERVER_NAME_PREFIX}{id}")
}

/// What is wrong with a client's use of prepared statements. PgBouncer closes the client for each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementError {
    /// A Parse for a name the client has already.
    NameInUse,
    /// A Bind or Describe for a name the client does not have.
    Unknown,
    /// More than we hold for one client.
    TooMany,
    /// A message of this name that cannot be read.
    Broken(&'static str),
}

impl StatementError {
    /// The SQLSTATE that goes with it.
    pub fn sqlstate(self) -> &'static str {
        match self {
            StatementError::NameInUse => sqlstate::DUPLICATE_STATEMENT,
            StatementError::Unknown => sqlstate::UNDEFINED_STATEMENT,
            StatementError::TooMany => sqlstate::PROGRAM_LIMIT_EXCEEDED,
            StatementError::Broken(_) => sqlstate::PROTOCOL_VIOLATION,
        }
    }
}

impl fmt::Display for StatementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StatementError::NameInUse => write!(f, "prepared statement name is already in use"),
            StatementError::Unknown => write!(f, "prepared statement did not exist"),
            StatementError::TooMany => write!(f, "too many prepared statements"),
            StatementError::Broken(message) => write!(f, "broken {message} packet"),
        }
    }
}

impl std::error::Error for StatementError {}

/// A query with its parameter types, under the name it has on every server.
#[derive(Debug, PartialEq, Eq)]
pub struct Statement {
    id: u64,
    server_name: String,
    body: Box<[u8]>,
    changes_statements: bool,
}

impl Statement {
    /// A statement with a number nobody has had. `body` is that of a Parse, after the name.
    pub(super) fn new(id: u64, body: &[u8]) -> Statement {
        Statement {
            id,
            server_name: server_name(id),
            body: body.into(),
            changes_statements: may_change_statements(body),
        }
    }

    /// Its number, unique in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What it is called on servers.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    /// May its query make or drop prepared statements by name ([`may_change_statements`])?
    pub fn changes_statements(&self) -> bool {
        self.changes_statements
    }

    /// The body of its Parse, after the name: query, NUL, number of types, types.
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

/// The statements of one client by the client's names. Takes no memory until there is one.
#[derive(Debug, Default)]
pub struct ClientStatements(Option<Box<Held>>);

#[derive(Debug, Default)]
struct Held {
    by_name: HashMap<Box<[u8]>, Named>,
    /// Sum of the lengths of all names and bodies, at most [`CLIENT_STATEMENT_BYTES_MAX`].
    bytes: usize,
    /// The highest number of a Parse that gave a name.
    last_number: u64,
}

/// What a name of a client's means.
#[derive(Debug)]
struct Named {
    statement: Arc<Statement>,
    /// The number of the Parse that gave it the name; 0 for one of a predecessor's.
    number: u64,
}

impl ClientStatements {
    /// The statement of this name.
    ///
    /// # Errors
    /// [`StatementError::Unknown`].
    #[inline]
    pub fn find(&self, name: &[u8]) -> Result<&Arc<Statement>, StatementError> {
        let named = self.0.as_ref().and_then(|held| held.by_name.get(name));
        named.map(|named| &named.statement).ok_or(StatementError::Unknown)
    }

    /// Would [`ClientStatements::insert`] take it?
    ///
    /// # Errors
    /// [`StatementError::NameInUse`] or [`StatementError::TooMany`].
    pub fn check(&self, name: &[u8], statement: &Statement) -> Result<(), StatementError> {
        let Some(held) = self.0.as_ref() else { return Ok(()) };
        if held.by_name.contains_key(name) {
            return Err(StatementError::NameInUse);
        }
        let bytes = held.bytes + name.len() + statement.body.len();
        match held.by_name.len() >= CLIENT_STATEMENTS_MAX || bytes > CLIENT_STATEMENT_BYTES_MAX {
            true => Err(StatementError::TooMany),
            false => Ok(()),
        }
    }

    /// Gives a statement a name, by the Parse with this number.
    ///
    /// # Errors
    /// As [`ClientStatements::check`]; nothing is changed then.
    pub fn insert(&mut self, name: &[u8], statement: Arc<Statement>, number: u64) -> Result<(), StatementError> {
        self.check(name, &statement)?;
        let held = self.0.get_or_insert_default();
        held.bytes += name.len() + statement.body.len();
        held.last_number = held.last_number.max(number);
        held.by_name.insert(name.into(), Named { statement, number });
        Ok(())
    }

    /// The highest number of a Parse that gave a name. Requests on the next server have higher ones, so that the
    /// numbers tell what came first.
    #[inline]
    pub fn last_number(&self) -> u64 {
        self.0.as_ref().map_or(0, |held| held.last_number)
    }

    /// Takes a name away; what it meant, and the number of the Parse that gave it. `None` if it was not there, which is
    /// no error: Close of an unknown name succeeds.
    pub fn remove(&mut self, name: &[u8]) -> Option<(Arc<Statement>, u64)> {
        let held = self.0.as_mut()?;
        let Named { statement, number } = held.by_name.remove(name)?;
        held.bytes -= name.len() + statement.body.len();
        Some((statement, number))
    }

    /// The Parse with this number never took place: takes away the name that it gave. False if the name is gone
    /// already, or has been given anew since then.
    pub fn undo_parse(&mut self, name: &[u8], number: u64) -> bool {
        let current = self.0.as_ref().and_then(|held| held.by_name.get(name)).map(|named| named.number);
        current == Some(number) && self.remove(name).is_some()
    }

    /// The Parse under way with this number has given the name.
    pub fn renumber(&mut self, name: &[u8], number: u64) {
        let Some(held) = self.0.as_mut() else { return };
        if let Some(named) = held.by_name.get_mut(name) {
            named.number = number;
        }
    }

    /// DEALLOCATE ALL or DISCARD ALL was done by the request with this number: takes all names away that were given
    /// before it.
    pub fn clear_before(&mut self, number: u64) {
        let Some(held) = self.0.as_mut() else { return };
        let bytes = &mut held.bytes;
        held.by_name.retain(|name, named| {
            let stays = named.number > number;
            if !stays {
                *bytes -= name.len() + named.statement.body.len();
            }
            stays
        });
        if held.by_name.is_empty() {
            self.0 = None;
        }
    }

    /// All names and what they mean.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Arc<Statement>)> {
        self.0.iter().flat_map(|held| held.by_name.iter().map(|(name, named)| (&**name, &named.statement)))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |held| held.by_name.len())
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The statements prepared on one server, the least recently used first to go; and those that may be there or not,
/// because an error made the server skip messages of which it cannot be told any more what came before them, or because
/// a client's SQL may have dropped or replaced them.
#[derive(Debug)]
pub struct ServerStatements {
    known: LruCache<u64, Known, BuildHasherDefault<IdHasher>>,
    /// Numbers, none of them in `known`. Few, and for a short time: the next Parse closes them all.
    suspect: BTreeSet<u64>,
    /// The bytes of the texts in `known` that this keeps in memory.
    kept_bytes: usize,
    /// A client's SQL may have prepared statements under names of ours: each is closed before it is prepared.
    names_taken: bool,
}

#[derive(Debug)]
struct Known {
    text: Text,
    /// The number of the Parse that prepared it.
    number: u64,
}

/// The statement itself, which whoever prepares the same text next is to find.
#[derive(Debug)]
enum Text {
    Kept(Arc<Statement>),
    /// A long one lives only as long as clients have it.
    Shared(Weak<Statement>),
}

impl Known {
    fn new(statement: Arc<Statement>, number: u64) -> Known {
        let text = match statement.body.len() <= SERVER_TEXT_MAX {
            true => Text::Kept(statement),
            false => Text::Shared(Arc::downgrade(&statement)),
        };
        Known { text, number }
    }

    fn kept_bytes(&self) -> usize {
        match &self.text {
            Text::Kept(statement) => statement.body.len(),
            Text::Shared(_) => 0,
        }
    }
}

impl Default for ServerStatements {
    fn default() -> ServerStatements {
        let known = LruCache::unbounded_with_hasher(BuildHasherDefault::default());
        ServerStatements { known, suspect: BTreeSet::new(), kept_bytes: 0, names_taken: false }
    }
}

impl ServerStatements {
    /// Those of a server that a predecessor had, the least recently used first. What its clients did to our names is
    /// not known.
    pub fn inherited(known: Vec<Arc<Statement>>, suspects: Vec<u64>) -> ServerStatements {
        let mut statements = ServerStatements { names_taken: true, ..ServerStatements::default() };
        known.into_iter().for_each(|statement| statements.insert(statement, 0));
        suspects.into_iter().for_each(|id| statements.suspect(id));
        statements
    }

    /// Is the statement there? Then it is the most recently used now.
    #[inline]
    pub fn touch(&mut self, id: u64) -> bool {
        self.known.get(&id).is_some()
    }

    /// Notes that the statement is being prepared by the Parse with this number, most recently used. Then
    /// [`ServerStatements::evict`] is due.
    pub fn insert(&mut self, statement: Arc<Statement>, number: u64) {
        let id = statement.id;
        let known = Known::new(statement, number);
        self.kept_bytes += known.kept_bytes();
        if let Some(before) = self.known.put(id, known) {
            self.kept_bytes -= before.kept_bytes();
        }
    }

    /// The number of the least recently used statement, taken out, while there are more than `max`, or more text than
    /// [`SERVER_STATEMENT_BYTES_MAX`] (at least one is left): it is to be closed on the server. Called until `None`, as
    /// `max` may have become less by a RELOAD.
    pub fn evict(&mut self, max: usize) -> Option<u64> {
        let fits = self.known.len() <= max.max(1) && self.kept_bytes <= SERVER_STATEMENT_BYTES_MAX;
        if fits || self.known.len() <= 1 {
            return None;
        }
        let (id, known) = self.known.pop_lru()?;
        self.kept_bytes -= known.kept_bytes();
        Some(id)
    }

    /// Notes that nobody can tell whether the statement is there: an error made the server skip a Parse or a Close of
    /// it. It is not there for whoever asks, and has to be closed before it is prepared again.
    pub fn suspect(&mut self, id: u64) {
        if let Some(known) = self.known.pop(&id) {
            self.kept_bytes -= known.kept_bytes();
        }
        self.suspect.insert(id);
    }

    /// A client's SQL may drop or replace statements of ours, and prepare others under our names, from here on: none is
    /// there for whoever asks.
    pub fn distrust(&mut self) {
        self.names_taken = true;
        while let Some((id, _)) = self.known.pop_lru() {
            self.suspect.insert(id);
        }
        self.kept_bytes = 0;
    }

    /// Must each statement be closed before it is prepared?
    #[inline]
    pub fn names_taken(&self) -> bool {
        self.names_taken
    }

    /// All that are there and whose text is known, the least recently used first.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Statement>> {
        self.known.iter().rev().filter_map(|(_, known)| match &known.text {
            Text::Kept(statement) => Some(statement.clone()),
            Text::Shared(statement) => statement.upgrade(),
        })
    }

    /// The numbers of those of which nobody can tell.
    pub fn suspects(&self) -> impl Iterator<Item = u64> {
        self.suspect.iter().copied()
    }

    /// Those of which nobody can tell, taken out: they are to be closed now.
    pub fn take_suspects(&mut self) -> impl Iterator<Item = u64> + use<> {
        std::mem::take(&mut self.suspect).into_iter()
    }

    /// DEALLOCATE ALL or DISCARD ALL was done by the request with this number: those are gone that were prepared before
    /// it.
    pub fn clear_before(&mut self, number: u64) {
        let later: Vec<_> =
            std::iter::from_fn(|| self.known.pop_lru()).filter(|(_, known)| known.number > number).collect();
        self.kept_bytes = later.iter().map(|(_, known)| known.kept_bytes()).sum();
        for (id, known) in later {
            self.known.put(id, known);
        }
    }

    /// Notes that there are none: a query of our own did DEALLOCATE ALL or DISCARD ALL.
    pub fn clear(&mut self) {
        *self = ServerStatements::default();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

/// Hashes statement numbers. We count them out ourselves, so nobody can aim for collisions, and one multiplication
/// spreads them.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Did a command, by the body of its CommandComplete, drop all prepared statements?
#[inline]
pub fn drops_all_statements(command_complete: &[u8]) -> bool {
    matches!(command_complete, b"DEALLOCATE ALL\0" | b"DISCARD ALL\0")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn statement(id: u64) -> Arc<Statement> {
        Arc::new(Statement::new(id, b"SELECT 1\0\0\0"))
    }

    fn drain(server: &mut ServerStatements, max: usize) -> Vec<u64> {
        std::iter::from_fn(|| server.evict(max)).collect()
    }

    #[test]
    fn a_client_finds_its_statements_by_its_own_names() {
        let mut client = ClientStatements::default();
        client.insert(b"a", statement(1), 1).unwrap();
        client.insert(b"b", statement(2), 2).unwrap();

        assert_eq!(client.find(b"b").unwrap().server_name(), "PGBOUNCER_2");
        assert_eq!(client.find(b"c"), Err(StatementError::Unknown));
        assert_eq!(client.insert(b"a", statement(3), 3), Err(StatementError::NameInUse));
        assert_eq!(client.find(b"a").unwrap().id(), 1);
    }

    #[test]
    fn a_closed_name_can_be_used_again() {
        let mut client = ClientStatements::default();
        client.insert(b"a", statement(1), 1).unwrap();

        assert!(client.remove(b"a").is_some());
        assert!(client.remove(b"a").is_none());

        assert_eq!(client.insert(b"a", statement(2), 3), Ok(()));
        client.clear_before(4);
        assert!(client.is_empty() && client.remove(b"a").is_none());
    }

    #[test]
    fn a_client_cannot_hold_more_than_its_share() {
        let mut client = ClientStatements::default();
        let one = statement(1);
        for number in 0..CLIENT_STATEMENTS_MAX {
            client.insert(&number.to_be_bytes(), one.clone(), 1).unwrap();
        }

        assert_eq!(client.insert(b"one more", one.clone(), 1), Err(StatementError::TooMany));

        client.remove(&0usize.to_be_bytes());
        assert_eq!(client.insert(b"one more", one, 1), Ok(()));

        let large = Arc::new(Statement::new(1, &vec![b' '; 16 * 1024 * 1024]));
        let mut client = ClientStatements::default();
        let fit = (0..100u64).take_while(|n| client.insert(&n.to_be_bytes(), large.clone(), 1).is_ok()).count();
        assert_eq!(fit, 15);
    }

    #[test]
    fn an_idle_client_pays_a_pointer() {
        assert_eq!(size_of::<ClientStatements>(), 8);
    }

    #[test]
    fn the_least_recently_used_statement_leaves_a_full_server() {
        let mut server = ServerStatements::default();
        for id in 1..=3 {
            server.insert(statement(id), id);
            assert_eq!(drain(&mut server, 3), Vec::<u64>::new());
        }

        assert!(server.touch(1));
        server.insert(statement(4), 4);

        assert_eq!(drain(&mut server, 3), [2]);
        assert!(!server.touch(2));
        assert_eq!(server.len(), 3);
    }

    #[test]
    fn a_lower_limit_evicts_several_at_once_but_never_the_last() {
        let mut server = ServerStatements::default();
        (1..=5).for_each(|id| server.insert(statement(id), id));

        assert_eq!(drain(&mut server, 2), [1, 2, 3]);
        assert_eq!(drain(&mut server, 0), [4]);
        assert!(server.touch(5));
    }

    #[test]
    fn a_statement_nobody_can_tell_of_is_not_there_and_is_to_be_closed_once() {
        let mut server = ServerStatements::default();
        (1..=3).for_each(|id| server.insert(statement(id), id));

        server.suspect(2);
        server.suspect(7);
        server.suspect(7);

        assert!(!server.touch(2) && server.len() == 2);
        assert_eq!(server.take_suspects().collect::<Vec<_>>(), [2, 7]);
        assert_eq!(server.take_suspects().count(), 0);
    }

    #[test]
    fn only_the_two_commands_drop_all() {
        assert!(drops_all_statements(b"DEALLOCATE ALL\0") && drops_all_statements(b"DISCARD ALL\0"));
        for tag in [&b"DEALLOCATE\0"[..], b"DISCARD PLANS\0", b"DISCARD ALL", b"", b"SELECT 1\0"] {
            assert!(!drops_all_statements(tag));
        }
    }

    proptest! {
        #[test]
        fn a_server_behaves_as_a_list_would(deeds in prop::collection::vec((0u8..3, 0u64..8), 0..60)) {
            let (mut server, mut list) = (ServerStatements::default(), Vec::<u64>::new());
            for (deed, id) in deeds {
                let was = list.iter().position(|known| *known == id).map(|at| list.remove(at));
                match deed {
                    0 => {
                        prop_assert_eq!(server.touch(id), was.is_some());
                        list.extend(was);
                    }
                    1 => {
                        server.insert(statement(id), id);
                        list.push(id);
                        let gone: Vec<u64> = list.drain(..list.len().saturating_sub(4)).collect();
                        prop_assert_eq!(drain(&mut server, 4), gone);
                    }
                    _ => server.suspect(id),
                }
                prop_assert_eq!(server.len(), list.len());
            }
        }
    }
}
