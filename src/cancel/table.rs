//! Whose key is this? The keys of all clients logged in.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::key::CancelKey;
use crate::stats::roster::ClientCard;

/// Attempts at a key that nobody has, before giving up: with 2^63 keys even the second is hardly ever needed.
const ATTEMPTS_MAX: usize = 8;

/// Every client's key.
#[derive(Debug, Default)]
pub struct CancelTable {
    clients: Mutex<HashMap<CancelKey, Arc<ClientCard>>>,
}

impl CancelTable {
    /// Gives a client a key that nobody else has, from `draw`. It is taken back when the entry is dropped.
    ///
    /// # Errors
    /// No random numbers could be had, or none that were new.
    pub fn enter(
        self: &Arc<Self>,
        card: &Arc<ClientCard>,
        mut draw: impl FnMut() -> std::io::Result<CancelKey>,
    ) -> std::io::Result<Entry> {
        for _ in 0..ATTEMPTS_MAX {
            let key = draw()?;
            let mut clients = self.lock();
            if let std::collections::hash_map::Entry::Vacant(place) = clients.entry(key) {
                place.insert(card.clone());
                return Ok(Entry { table: self.clone(), key });
            }
        }
        Err(std::io::Error::other("no unused cancel key could be drawn"))
    }

    /// The client with this key.
    pub fn find(&self, key: &CancelKey) -> Option<Arc<ClientCard>> {
        self.lock().get(key).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CancelKey, Arc<ClientCard>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's key, taken back on drop.
#[derive(Debug)]
pub struct Entry {
    table: Arc<CancelTable>,
    key: CancelKey,
}

impl Entry {
    /// The key.
    pub fn key(&self) -> &CancelKey {
        &self.key
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.table.lock().remove(&self.key);
    }
}
