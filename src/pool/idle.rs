//! The shelf: idle servers, ready to be lent.
//!
//! Pure: no clock, lock, socket or task.
//!
//! One row for each worker thread, each in order of last use. A client takes the most recently used server that lives
//! on its own worker, so that both sockets of a transaction are served by one thread; only where its row is empty does
//! it take from another (and re-homes the socket). With `server_round_robin` the least recently used server of all goes
//! next, wherever it lives. Taking from the own row and putting back are one step each; looking across rows costs one
//! comparison for each worker.

use std::collections::VecDeque;

use crate::stats::moment::Moment;
use crate::stats::roster::ServerState;

/// What the pool needs to know of a server it keeps. [`crate::server::Server`] in production, an integer in simulation.
pub trait Held {
    /// The worker thread its socket is registered with.
    fn home(&self) -> usize;
    /// Shows what it is doing to SHOW SERVERS.
    fn mark(&self, state: ServerState);
    /// Is it marked to be closed, for a reason of its own?
    fn close_needed(&self) -> bool;
}

/// A server at rest and what decides how long it may stay.
#[derive(Debug)]
pub struct Resting<S> {
    /// The server.
    pub server: S,
    /// When it was connected: `server_lifetime` counts from here.
    pub connected: Moment,
    /// When it came to rest: `server_idle_timeout` and `server_check_delay` count from here.
    pub since: Moment,
    /// Has it ever been on loan?
    pub served: bool,
    /// Orders the rows against each other; unlike `since`, no two on a shelf are equal.
    stamp: u64,
}

impl<S> Resting<S> {
    /// A server that comes to rest now.
    pub fn new(server: S, connected: Moment, served: bool, now: Moment) -> Resting<S> {
        Resting { server, connected, since: now, served, stamp: 0 }
    }
}

/// Which idle server goes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reuse {
    /// The most recently used: few servers stay warm, the rest may time out.
    #[default]
    MostRecent,
    /// The least recently used (`server_round_robin`): all are used evenly.
    LeastRecent,
}

/// The idle servers of one pool.
#[derive(Debug)]
pub struct Shelf<S> {
    /// By home worker; the least recently used of a row is in front.
    rows: Vec<VecDeque<Resting<S>>>,
    /// Sum of the rows' lengths.
    len: usize,
    stamps: u64,
}

impl<S: Held> Shelf<S> {
    /// An empty shelf.
    pub fn new() -> Shelf<S> {
        Shelf { rows: Vec::new(), len: 0, stamps: 0 }
    }

    /// How many servers rest here.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is nothing here?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every server, row by row, the least recently used of each first.
    pub fn iter(&self) -> impl Iterator<Item = &Resting<S>> {
        self.rows.iter().flatten()
    }

    /// Puts a server down as the most recently used one.
    pub fn put(&mut self, resting: Resting<S>) {
        let home = resting.server.home();
        if home >= self.rows.len() {
            self.rows.resize_with(home + 1, VecDeque::new);
        }
        self.stamps += 1;
        self.rows[home].push_back(Resting { stamp: self.stamps, ..resting });
        self.len += 1;
    }

    /// Takes the server that a client of this worker should have.
    pub fn take(&mut self, worker: usize, reuse: Reuse) -> Option<Resting<S>> {
        if self.len == 0 {
            return None;
        }
        let taken = match reuse {
            Reuse::MostRecent => match self.rows.get_mut(worker).and_then(VecDeque::pop_back) {
                Some(near) => Some(near),
                None => self
                    .rows
                    .iter_mut()
                    .max_by_key(|row| row.back().map_or(0, |resting| resting.stamp))
                    .and_then(VecDeque::pop_back),
            },
            Reuse::LeastRecent => self.oldest_row().and_then(VecDeque::pop_front),
        };
        self.len -= usize::from(taken.is_some());
        taken
    }

    /// Takes the least recently used server of all.
    pub fn take_oldest(&mut self) -> Option<Resting<S>> {
        let taken = self.oldest_row().and_then(VecDeque::pop_front);
        self.len -= usize::from(taken.is_some());
        taken
    }

    /// Since when the least recently used server rests.
    pub fn oldest_since(&self) -> Option<Moment> {
        self.rows.iter().filter_map(VecDeque::front).min_by_key(|resting| resting.stamp).map(|resting| resting.since)
    }

    /// Takes every server for which `goes` gives a reason, and hands it to `gone` with the reason. Order is kept.
    pub fn sweep<R>(
        &mut self,
        mut goes: impl FnMut(&mut Resting<S>) -> Option<R>,
        mut gone: impl FnMut(Resting<S>, R),
    ) {
        for row in &mut self.rows {
            for _ in 0..row.len() {
                let Some(mut resting) = row.pop_front() else { break };
                match goes(&mut resting) {
                    Some(reason) => {
                        self.len -= 1;
                        gone(resting, reason);
                    }
                    None => row.push_back(resting),
                }
            }
        }
    }

    fn oldest_row(&mut self) -> Option<&mut VecDeque<Resting<S>>> {
        self.rows
            .iter_mut()
            .filter(|row| !row.is_empty())
            .min_by_key(|row| row.front().map_or(u64::MAX, |resting| resting.stamp))
    }
}

impl<S: Held> Default for Shelf<S> {
    fn default() -> Shelf<S> {
        Shelf::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Fake {
        id: u32,
        home: usize,
    }

    impl Held for Fake {
        fn home(&self) -> usize {
            self.home
        }

        fn mark(&self, _: ServerState) {}

        fn close_needed(&self) -> bool {
            false
        }
    }

    fn shelf(servers: &[(u32, usize)]) -> Shelf<Fake> {
        let mut shelf = Shelf::new();
        for (at, &(id, home)) in servers.iter().enumerate() {
            shelf.put(Resting::new(Fake { id, home }, Moment(0), true, Moment(at as u64)));
        }
        shelf
    }

    fn ids(shelf: &mut Shelf<Fake>, worker: usize, reuse: Reuse) -> Vec<u32> {
        std::iter::from_fn(|| shelf.take(worker, reuse)).map(|resting| resting.server.id).collect()
    }

    #[test]
    fn the_own_row_comes_first_and_then_the_most_recent_of_all() {
        let mut shelf = shelf(&[(1, 0), (2, 1), (3, 2), (4, 0), (5, 1)]);

        assert_eq!(ids(&mut shelf, 0, Reuse::MostRecent), [4, 1, 5, 3, 2]);
        assert!(shelf.is_empty());
    }

    #[test]
    fn round_robin_takes_the_least_recent_wherever_it_lives() {
        let mut shelf = shelf(&[(1, 0), (2, 1), (3, 2), (4, 0), (5, 1)]);

        assert_eq!(ids(&mut shelf, 1, Reuse::LeastRecent), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_worker_nobody_lives_on_is_served_too() {
        let mut shelf = shelf(&[(1, 0)]);

        assert_eq!(ids(&mut shelf, 7, Reuse::MostRecent), [1]);
    }

    #[test]
    fn a_sweep_keeps_the_order_of_those_that_stay() {
        let mut shelf = shelf(&[(1, 0), (2, 0), (3, 0), (4, 0)]);
        let mut gone = Vec::new();

        shelf.sweep(
            |resting| (resting.server.id % 2 == 0).then_some("even"),
            |resting, reason| gone.push((resting.server.id, reason)),
        );

        assert_eq!(gone, [(2, "even"), (4, "even")]);
        assert_eq!(shelf.len(), 2);
        assert_eq!(shelf.oldest_since(), Some(Moment(0)));
        assert_eq!(ids(&mut shelf, 0, Reuse::LeastRecent), [1, 3]);
    }
}
