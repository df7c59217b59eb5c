//! What all conversations share: equal parameter sets and equal statements are one allocation.
//!
//! Both tables hold weak references and own nothing: a value lives as long as a client or server holds it. Each has one
//! lock, taken where a value is new (at login, at a ParameterStatus, at a Parse with a name) and never once per query.
//! What has died leaves an empty entry behind; when a table has doubled since it was last swept, it is swept.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::parameters::ParameterSet;
use super::statements::Statement;

/// Makes equal parameter sets one allocation, so that ten thousand idle clients with the same values cost one set, and
/// comparing a client's with its server's costs one comparison of pointers.
#[derive(Debug, Default)]
pub struct Interner {
    hasher: RandomState,
    table: Mutex<Table<str>>,
}

impl Interner {
    /// The set equal to `set` that everybody has. Called with each set that was made by anything but `clone`.
    #[must_use]
    pub fn share(&self, set: ParameterSet) -> ParameterSet {
        let text = set.text();
        let hash = self.hasher.hash_one(text);
        ParameterSet::from_text(lock(&self.table).find_or_add(hash, |known| *known == **text, || text.clone()))
    }

    /// As [`Interner::share`], in place.
    pub fn share_in_place(&self, set: &mut ParameterSet) {
        *set = self.share(std::mem::take(set));
    }
}

/// Every prepared statement a client or server of this process holds: who prepares what another has prepared, types
/// included, gets the same [`Statement`], and may find it on a server already.
#[derive(Debug, Default)]
pub struct Catalogue {
    hasher: RandomState,
    table: Mutex<Statements>,
}

#[derive(Debug, Default)]
struct Statements {
    table: Table<Statement>,
    last_id: u64,
}

impl Catalogue {
    /// The statement with this body (that of a Parse, after the name), a new one if nobody holds one.
    pub fn statement(&self, body: &[u8]) -> Arc<Statement> {
        let hash = self.hasher.hash_one(body);
        let mut guard = lock(&self.table);
        let Statements { table, last_id } = &mut *guard;
        table.find_or_add(
            hash,
            |known| known.body() == body,
            || {
                *last_id += 1;
                Arc::new(Statement::new(*last_id, body))
            },
        )
    }

    /// The statement that another process knew by this number, kept under it: servers have it by a name made of it.
    /// Whoever wants to find it holds it.
    pub fn take_over(&self, id: u64, body: &[u8]) -> Arc<Statement> {
        let hash = self.hasher.hash_one(body);
        let mut guard = lock(&self.table);
        let Statements { table, last_id } = &mut *guard;
        *last_id = id.max(*last_id);
        table.find_or_add(hash, |_| false, || Arc::new(Statement::new(id, body)))
    }

    /// No new statement gets a number up to this one: servers may know others by them.
    pub fn skip_ids(&self, last: u64) {
        let mut guard = lock(&self.table);
        guard.last_id = guard.last_id.max(last);
    }

    /// How many statements there are, a few that have just died among them.
    pub fn len(&self) -> usize {
        lock(&self.table).table.entries.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Living values by their hash.
#[derive(Debug)]
struct Table<T: ?Sized> {
    entries: HashMap<u64, Weak<T>>,
    /// When there are this many entries, the dead ones are removed.
    sweep_at: usize,
}

impl<T: ?Sized> Default for Table<T> {
    fn default() -> Table<T> {
        Table { entries: HashMap::new(), sweep_at: SWEEP_AT_MIN }
    }
}

const SWEEP_AT_MIN: usize = 64;

impl<T: ?Sized> Table<T> {
    /// The living value with this hash that `is_same` recognises, or what `make` makes, which stays for others to find.
    fn find_or_add(&mut self, hash: u64, is_same: impl FnOnce(&T) -> bool, make: impl FnOnce() -> Arc<T>) -> Arc<T> {
        match self.entries.get(&hash).and_then(Weak::upgrade) {
            Some(known) if is_same(&known) => return known,
            // Two living values with one 64-bit hash, whose seed nobody knows: the second is simply not shared.
            Some(_) => return make(),
            None => {}
        }
        if self.entries.len() >= self.sweep_at {
            self.entries.retain(|_, value| value.strong_count() > 0);
            self.sweep_at = SWEEP_AT_MIN.max(2 * self.entries.len());
        }
        let value = make();
        self.entries.insert(hash, Arc::downgrade(&value));
        value
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(value: &str) -> ParameterSet {
        [("application_name", value), ("TimeZone", "UTC")].into_iter().collect()
    }

    #[test]
    fn equal_sets_become_one_and_others_do_not() {
        let interner = Interner::default();

        let first = interner.share(set("a"));
        let mut same = set("a");
        interner.share_in_place(&mut same);

        assert!(first.is(&same) && first == set("a"));
        assert!(!first.is(&interner.share(set("b"))));
    }

    #[test]
    fn equal_statements_become_one_while_somebody_holds_it() {
        let catalogue = Catalogue::default();
        let first = catalogue.statement(b"SELECT 1\0\0\0");

        assert!(Arc::ptr_eq(&first, &catalogue.statement(b"SELECT 1\0\0\0")));
        assert_ne!(first.id(), catalogue.statement(b"SELECT 2\0\0\0").id());

        let id = first.id();
        drop(first);
        assert_ne!(catalogue.statement(b"SELECT 1\0\0\0").id(), id);
    }

    #[test]
    fn what_has_died_is_swept() {
        let catalogue = Catalogue::default();
        let living: Vec<_> = (0..100u32).map(|n| catalogue.statement(&n.to_be_bytes())).collect();

        for n in 1000..11_000u32 {
            catalogue.statement(&n.to_be_bytes());
        }

        assert!(catalogue.len() <= 2 * living.len(), "{}", catalogue.len());
        for (n, statement) in (0..100u32).zip(&living) {
            assert!(Arc::ptr_eq(statement, &catalogue.statement(&n.to_be_bytes())));
        }
    }

    #[test]
    fn two_values_with_one_hash_are_both_right() {
        let mut table = Table::<str>::default();
        let one = table.find_or_add(7, |known| known == "one", || "one".into());
        let two = table.find_or_add(7, |known| known == "two", || "two".into());

        assert_eq!((&*one, &*two), ("one", "two"));
        assert!(Arc::ptr_eq(&one, &table.find_or_add(7, |known| known == "one", || "one".into())));
    }
}
