//! Caps across pools: `max_db_connections` and `max_user_connections`.
//!
//! Pure: no clock, lock, socket or task.
//!
//! Every server, from the first step of connecting to the last of closing, is booked under its database and its user.
//! Touched only when a server opens or closes, never per query. A pool that finds no room is remembered and named to
//! whoever next gives room back, in order of asking, so that a freed place is used at once and not at the next tick.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// How many servers may be open under a name; zero is no cap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// `max_db_connections` of the database.
    pub database: u32,
    /// `max_user_connections` of the user.
    pub user: u32,
}

/// Which cap is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// `max_db_connections`.
    Database,
    /// `max_user_connections`.
    User,
}

/// Under which names a server is booked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Database, as clients name it.
    pub database: Arc<str>,
    /// User the server is logged in as.
    pub user: Arc<str>,
}

/// The books of the process. `P` names a pool.
#[derive(Debug)]
pub struct Quota<P> {
    databases: HashMap<Arc<str>, Account<P>>,
    users: HashMap<Arc<str>, Account<P>>,
}

#[derive(Debug)]
struct Account<P> {
    open: u32,
    /// Pools that found no room, in order of asking, each once.
    waiting: VecDeque<P>,
}

impl<P: PartialEq> Quota<P> {
    /// Empty books.
    pub fn new() -> Quota<P> {
        Quota { databases: HashMap::new(), users: HashMap::new() }
    }

    /// Books a server.
    ///
    /// # Errors
    /// A cap is reached; nothing is booked.
    pub fn take(&mut self, names: &Names, caps: Caps) -> Result<(), Full> {
        if caps.database != 0 && self.open_in_database(&names.database) >= caps.database {
            return Err(Full::Database);
        }
        if caps.user != 0 && self.open_for_user(&names.user) >= caps.user {
            return Err(Full::User);
        }
        self.book(names);
        Ok(())
    }

    /// As [`Quota::take`], and where there is no room, `pool` is named to whoever next gives some back.
    ///
    /// # Errors
    /// A cap is reached; nothing is booked.
    pub fn take_or_wait(&mut self, names: &Names, caps: Caps, pool: P) -> Result<(), Full> {
        let taken = self.take(names, caps);
        if let Err(full) = taken {
            let account = match full {
                Full::Database => account(&mut self.databases, &names.database),
                Full::User => account(&mut self.users, &names.user),
            };
            if !account.waiting.contains(&pool) {
                account.waiting.push_back(pool);
            }
        }
        taken
    }

    /// Books `new` in the place of `old`, an eviction: nobody else can get the place between the two.
    ///
    /// # Errors
    /// A cap is reached in spite of the place given up; `old` stays booked.
    pub fn exchange(&mut self, old: &Names, new: &Names, caps: Caps) -> Result<(), Full> {
        self.unbook(old);
        let taken = self.take(new, caps);
        if taken.is_err() {
            self.book(old);
        }
        taken
    }

    /// Strikes a server off. Gives the pools that have waited longest for such a place, at most two.
    pub fn give_back(&mut self, names: &Names) -> [Option<P>; 2] {
        self.unbook(names);
        let woken = [
            self.databases.get_mut(&names.database).and_then(|account| account.waiting.pop_front()),
            self.users.get_mut(&names.user).and_then(|account| account.waiting.pop_front()),
        ];
        forget_if_empty(&mut self.databases, &names.database);
        forget_if_empty(&mut self.users, &names.user);
        woken
    }

    /// Servers open in a database, those being opened included.
    pub fn open_in_database(&self, name: &str) -> u32 {
        self.databases.get(name).map_or(0, |account| account.open)
    }

    /// Servers open for a user, those being opened included.
    pub fn open_for_user(&self, name: &str) -> u32 {
        self.users.get(name).map_or(0, |account| account.open)
    }

    /// Books a connection whatever the caps say: a request to cancel may go beyond them.
    pub fn book(&mut self, names: &Names) {
        account(&mut self.databases, &names.database).open += 1;
        account(&mut self.users, &names.user).open += 1;
    }

    fn unbook(&mut self, names: &Names) {
        for (accounts, name) in [(&mut self.databases, &names.database), (&mut self.users, &names.user)] {
            let account = account(accounts, name);
            debug_assert!(account.open > 0, "{name} gives back more than it took");
            account.open = account.open.saturating_sub(1);
        }
    }
}

impl<P: PartialEq> Default for Quota<P> {
    fn default() -> Quota<P> {
        Quota::new()
    }
}

fn account<'a, P>(accounts: &'a mut HashMap<Arc<str>, Account<P>>, name: &Arc<str>) -> &'a mut Account<P> {
    accounts.entry(name.clone()).or_insert_with(|| Account { open: 0, waiting: VecDeque::new() })
}

fn forget_if_empty<P>(accounts: &mut HashMap<Arc<str>, Account<P>>, name: &Arc<str>) {
    if accounts.get(name).is_some_and(|account| account.open == 0 && account.waiting.is_empty()) {
        accounts.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(database: &str, user: &str) -> Names {
        Names { database: database.into(), user: user.into() }
    }

    #[test]
    fn both_caps_hold() {
        let mut quota = Quota::<u32>::new();
        let caps = Caps { database: 2, user: 1 };

        assert_eq!(quota.take(&names("a", "x"), caps), Ok(()));
        assert_eq!(quota.take(&names("b", "x"), caps), Err(Full::User));
        assert_eq!(quota.take(&names("a", "y"), caps), Ok(()));
        assert_eq!(quota.take(&names("a", "z"), caps), Err(Full::Database));
        assert_eq!((quota.open_in_database("a"), quota.open_for_user("x")), (2, 1));
    }

    #[test]
    fn a_place_given_back_is_offered_to_who_asked_first() {
        let mut quota = Quota::new();
        let caps = Caps { database: 1, user: 0 };
        quota.take(&names("a", "x"), caps).unwrap();
        for pool in [7, 8, 7] {
            assert_eq!(quota.take_or_wait(&names("a", "y"), caps, pool), Err(Full::Database));
        }

        assert_eq!(quota.give_back(&names("a", "x")), [Some(7), None]);
        quota.take(&names("a", "y"), caps).unwrap();
        assert_eq!(quota.give_back(&names("a", "y")), [Some(8), None]);
        assert!(quota.databases.is_empty() && quota.users.is_empty(), "empty accounts are forgotten");
    }

    #[test]
    fn an_exchange_that_fails_leaves_the_old_booking() {
        let mut quota = Quota::<u32>::new();
        quota.take(&names("a", "x"), Caps::default()).unwrap();
        quota.take(&names("b", "y"), Caps::default()).unwrap();

        let caps = Caps { database: 1, user: 1 };
        assert_eq!(quota.exchange(&names("a", "x"), &names("a", "y"), caps), Err(Full::User));
        assert_eq!((quota.open_in_database("a"), quota.open_for_user("x")), (1, 1));
        assert_eq!(quota.exchange(&names("a", "x"), &names("a", "z"), caps), Ok(()));
        assert_eq!((quota.open_for_user("x"), quota.open_for_user("z")), (0, 1));
    }
}
