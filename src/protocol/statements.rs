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

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use lru::LruCache;

use crate::wire::error::sqlstate;

/// Most statements a client may hold. A client that prepares without end would otherwise fill our memory, where
/// without a pooler it fills its own backend's.
pub const CLIENT_STATEMENTS_MAX: usize = 65_536;

/// Most bytes the names, queries and types of a client's statements may have.
pub const CLIENT_STATEMENT_BYTES_MAX: usize = 256 * 1024 * 1024;

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
}

impl Statement {
    /// A statement with a number nobody has had. `body` is that of a Parse, after the name.
    pub(super) fn new(id: u64, body: &[u8]) -> Statement {
        Statement { id, server_name: server_name(id), body: body.into() }
    }

    /// Its number, unique in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What it is called on servers.
    pub fn server_name(&self) -> &str {
        &self.server_name
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
    by_name: HashMap<Box<[u8]>, Arc<Statement>>,
    /// Sum of the lengths of all names and bodies, at most [`CLIENT_STATEMENT_BYTES_MAX`].
    bytes: usize,
}

impl ClientStatements {
    /// The statement of this name.
    ///
    /// # Errors
    /// [`StatementError::Unknown`].
    #[inline]
    pub fn find(&self, name: &[u8]) -> Result<&Arc<Statement>, StatementError> {
        self.0.as_ref().and_then(|held| held.by_name.get(name)).ok_or(StatementError::Unknown)
    }

    /// Gives a statement a name.
    ///
    /// # Errors
    /// [`StatementError::NameInUse`] or [`StatementError::TooMany`]; nothing is changed then.
    pub fn insert(&mut self, name: &[u8], statement: Arc<Statement>) -> Result<(), StatementError> {
        let held = self.0.get_or_insert_default();
        let bytes = held.bytes + name.len() + statement.body.len();
        let count = held.by_name.len();
        match held.by_name.entry(name.into()) {
            Entry::Occupied(_) => Err(StatementError::NameInUse),
            Entry::Vacant(_) if count >= CLIENT_STATEMENTS_MAX || bytes > CLIENT_STATEMENT_BYTES_MAX => {
                Err(StatementError::TooMany)
            }
            Entry::Vacant(place) => {
                place.insert(statement);
                held.bytes = bytes;
                Ok(())
            }
        }
    }

    /// Takes a name away. `None` if it was not there, which is no error: Close of an unknown name succeeds.
    pub fn remove(&mut self, name: &[u8]) -> Option<Arc<Statement>> {
        let held = self.0.as_mut()?;
        let statement = held.by_name.remove(name)?;
        held.bytes -= name.len() + statement.body.len();
        Some(statement)
    }

    /// Takes all names away: the client sent DEALLOCATE ALL or DISCARD ALL.
    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// All names and what they mean.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Arc<Statement>)> {
        self.0.iter().flat_map(|held| held.by_name.iter().map(|(name, statement)| (&**name, statement)))
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
/// because an error made the server skip messages of which it cannot be told any more what came before them.
#[derive(Debug)]
pub struct ServerStatements {
    known: LruCache<u64, Arc<Statement>, BuildHasherDefault<IdHasher>>,
    /// Numbers, each once, none of them in `known`. Few, and for a short time: the next Parse closes them all.
    suspect: Vec<u64>,
}

impl Default for ServerStatements {
    fn default() -> ServerStatements {
        let known = LruCache::unbounded_with_hasher(BuildHasherDefault::default());
        ServerStatements { known, suspect: Vec::new() }
    }
}

impl ServerStatements {
    /// Is the statement there? Then it is the most recently used now.
    #[inline]
    pub fn touch(&mut self, id: u64) -> bool {
        self.known.get(&id).is_some()
    }

    /// Notes that the statement is being prepared, most recently used. Then [`ServerStatements::evict`] is due.
    pub fn insert(&mut self, statement: Arc<Statement>) {
        self.known.put(statement.id, statement);
    }

    /// The least recently used statement, taken out, while there are more than `max` (at least one is left): it is to
    /// be closed on the server. Called until `None`, as `max` may have become less by a RELOAD.
    pub fn evict(&mut self, max: usize) -> Option<Arc<Statement>> {
        if self.known.len() <= max.max(1) {
            return None;
        }
        self.known.pop_lru().map(|(_, statement)| statement)
    }

    /// Notes that nobody can tell whether the statement is there: an error made the server skip a Parse or a Close of
    /// it. It is not there for whoever asks, and has to be closed before it is prepared again.
    pub fn suspect(&mut self, id: u64) {
        self.known.pop(&id);
        if !self.suspect.contains(&id) {
            self.suspect.push(id);
        }
    }

    /// All that are there, the least recently used first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Statement>> {
        self.known.iter().rev().map(|(_, statement)| statement)
    }

    /// The numbers of those of which nobody can tell.
    pub fn suspects(&self) -> &[u64] {
        &self.suspect
    }

    /// Those of which nobody can tell, taken out: they are to be closed now.
    pub fn take_suspects(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.suspect)
    }

    /// Notes that there are none: the server did DEALLOCATE ALL or DISCARD ALL.
    pub fn clear(&mut self) {
        self.known.clear();
        self.suspect.clear();
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
        std::iter::from_fn(|| server.evict(max)).map(|statement| statement.id).collect()
    }

    #[test]
    fn a_client_finds_its_statements_by_its_own_names() {
        let mut client = ClientStatements::default();
        client.insert(b"a", statement(1)).unwrap();
        client.insert(b"b", statement(2)).unwrap();

        assert_eq!(client.find(b"b").unwrap().server_name(), "PGBOUNCER_2");
        assert_eq!(client.find(b"c"), Err(StatementError::Unknown));
        assert_eq!(client.insert(b"a", statement(3)), Err(StatementError::NameInUse));
        assert_eq!(client.find(b"a").unwrap().id(), 1);
    }

    #[test]
    fn a_closed_name_can_be_used_again() {
        let mut client = ClientStatements::default();
        client.insert(b"a", statement(1)).unwrap();

        assert!(client.remove(b"a").is_some());
        assert!(client.remove(b"a").is_none());

        assert_eq!(client.insert(b"a", statement(2)), Ok(()));
        client.clear();
        assert!(client.is_empty() && client.remove(b"a").is_none());
    }

    #[test]
    fn a_client_cannot_hold_more_than_its_share() {
        let mut client = ClientStatements::default();
        let one = statement(1);
        for number in 0..CLIENT_STATEMENTS_MAX {
            client.insert(&number.to_be_bytes(), one.clone()).unwrap();
        }

        assert_eq!(client.insert(b"one more", one.clone()), Err(StatementError::TooMany));

        client.remove(&0usize.to_be_bytes());
        assert_eq!(client.insert(b"one more", one), Ok(()));

        let large = Arc::new(Statement::new(1, &vec![b' '; 16 * 1024 * 1024]));
        let mut client = ClientStatements::default();
        let fit = (0..100u64).take_while(|n| client.insert(&n.to_be_bytes(), large.clone()).is_ok()).count();
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
            server.insert(statement(id));
            assert_eq!(drain(&mut server, 3), Vec::<u64>::new());
        }

        assert!(server.touch(1));
        server.insert(statement(4));

        assert_eq!(drain(&mut server, 3), [2]);
        assert!(!server.touch(2));
        assert_eq!(server.len(), 3);
    }

    #[test]
    fn a_lower_limit_evicts_several_at_once_but_never_the_last() {
        let mut server = ServerStatements::default();
        (1..=5).for_each(|id| server.insert(statement(id)));

        assert_eq!(drain(&mut server, 2), [1, 2, 3]);
        assert_eq!(drain(&mut server, 0), [4]);
        assert!(server.touch(5));
    }

    #[test]
    fn a_statement_nobody_can_tell_of_is_not_there_and_is_to_be_closed_once() {
        let mut server = ServerStatements::default();
        (1..=3).for_each(|id| server.insert(statement(id)));

        server.suspect(2);
        server.suspect(7);
        server.suspect(7);

        assert!(!server.touch(2) && server.len() == 2);
        assert_eq!(server.take_suspects(), [2, 7]);
        assert_eq!(server.take_suspects(), Vec::<u64>::new());
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
                        server.insert(statement(id));
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
