//! How many clients each database and each user has: `max_db_client_connections`, `max_user_client_connections`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::pool::lock;

/// Which limit a client met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// `max_db_client_connections`.
    MaxDbClientConnections,
    /// `max_user_client_connections`.
    MaxUserClientConnections,
}

/// A client that was counted in; counted out on drop.
pub struct Admission {
    crowd: Arc<Crowd>,
    database: Arc<str>,
    user: Arc<str>,
}

/// Limits on clients; zero is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) database: u32,
    pub(super) user: u32,
}

/// The counts.
#[derive(Default)]
pub(super) struct Crowd {
    heads: Mutex<Heads>,
}

#[derive(Default)]
struct Heads {
    databases: HashMap<Arc<str>, u32>,
    users: HashMap<Arc<str>, u32>,
}

impl Crowd {
    pub(super) fn admit(self: &Arc<Crowd>, database: &str, user: &str, limits: Limits) -> Result<Admission, Denied> {
        let mut heads = lock(&self.heads);
        let count = |heads: &HashMap<Arc<str>, u32>, name: &str| heads.get(name).copied().unwrap_or(0);
        if limits.database != 0 && count(&heads.databases, database) >= limits.database {
            return Err(Denied::MaxDbClientConnections);
        }
        if limits.user != 0 && count(&heads.users, user) >= limits.user {
            return Err(Denied::MaxUserClientConnections);
        }
        Ok(self.enter(&mut heads, database, user))
    }

    /// As [`Crowd::admit`], whatever the limits.
    pub(super) fn count_in(self: &Arc<Crowd>, database: &str, user: &str) -> Admission {
        self.enter(&mut lock(&self.heads), database, user)
    }

    fn enter(self: &Arc<Crowd>, heads: &mut Heads, database: &str, user: &str) -> Admission {
        Admission {
            database: add(&mut heads.databases, database),
            user: add(&mut heads.users, user),
            crowd: self.clone(),
        }
    }

    pub(super) fn in_database(&self, name: &str) -> u32 {
        lock(&self.heads).databases.get(name).copied().unwrap_or(0)
    }

    pub(super) fn of_user(&self, name: &str) -> u32 {
        lock(&self.heads).users.get(name).copied().unwrap_or(0)
    }

    pub(super) fn users(&self) -> Vec<Arc<str>> {
        lock(&self.heads).users.keys().cloned().collect()
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut heads = lock(&self.crowd.heads);
        subtract(&mut heads.databases, &self.database);
        subtract(&mut heads.users, &self.user);
    }
}

/// Counts one more, and gives the name as it is kept here: all admissions share it.
fn add(heads: &mut HashMap<Arc<str>, u32>, name: &str) -> Arc<str> {
    let name = heads.get_key_value(name).map_or_else(|| Arc::from(name), |(name, _)| name.clone());
    *heads.entry(name.clone()).or_insert(0) += 1;
    name
}

fn subtract(heads: &mut HashMap<Arc<str>, u32>, name: &Arc<str>) {
    if let Some(count) = heads.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            heads.remove(name);
        }
    }
}
