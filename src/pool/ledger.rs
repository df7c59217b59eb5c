//! The process's one [`Quota`], and the permits it is kept with.
//!
//! A [`Permit`] stands for one place under `max_db_connections` and `max_user_connections`, from the first step of
//! connecting to the end of closing; dropping it gives the place back and wakes the pool that has waited longest for
//! one. It has no other constructor than [`Ledger::permit`], so nothing is opened that is not booked.

use std::sync::{Arc, Mutex, Weak};

use super::orders::{Purpose, Reason};
use super::quota::{Full, Names, Quota};
use super::{Kept, Pool, lease, lock};
use crate::net::world;
use crate::stats::moment::Moment;

/// The books, and the pools that may be asked to give up an idle server.
#[derive(Default)]
pub(super) struct Ledger {
    quota: Mutex<Quota<PoolRef>>,
    pools: Mutex<Vec<PoolRef>>,
}

#[derive(Clone)]
struct PoolRef(Weak<Pool>);

impl PartialEq for PoolRef {
    fn eq(&self, other: &PoolRef) -> bool {
        self.0.ptr_eq(&other.0)
    }
}

/// A place under the caps; given back on drop.
pub(super) struct Permit {
    /// Nothing once the place was handed on.
    pool: Option<Arc<Pool>>,
}

impl Permit {
    /// Hands the place on: nothing is given back.
    fn disarm(mut self) {
        self.pool = None;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(pool) = self.pool.take() else { return };
        let woken = lock(&pool.surroundings.ledger.quota).give_back(&pool.names);
        for waiting in woken.into_iter().flatten() {
            if let Some(waiting) = waiting.0.upgrade() {
                waiting.room_made(world::now());
            }
        }
    }
}

impl Ledger {
    /// Makes a pool known to those that look for room.
    pub(super) fn enter(&self, pool: &Arc<Pool>) {
        let mut pools = lock(&self.pools);
        pools.retain(|known| known.0.strong_count() > 0);
        pools.push(PoolRef(Arc::downgrade(pool)));
    }

    /// A place for one more server of `pool`. Where a cap is reached and somebody waits, the server that has been idle
    /// longest in the other pools under that cap is closed for it. Nothing where there is no room: the pool hears of it
    /// when there is.
    pub(super) fn permit(&self, pool: &Arc<Pool>, purpose: Purpose, now: Moment) -> Option<Permit> {
        let caps = pool.rules().caps();
        let booked = || Permit { pool: Some(pool.clone()) };
        if purpose == Purpose::Minimum {
            // Not even remembered: news of room is for pools with clients that wait.
            return lock(&self.quota).take(&pool.names, caps).is_ok().then(booked);
        }
        if let Some(permit) = self.take_or_evict(pool, now) {
            return Some(permit);
        }
        let last = lock(&self.quota).take_or_wait(&pool.names, caps, PoolRef(Arc::downgrade(pool)));
        last.is_ok().then(booked)
    }

    /// A place for the connection of a request to cancel: `beyond` the caps, or where they leave room or can be made
    /// to. It is booked either way, so that the caps hold for whatever is opened next to it.
    pub(super) fn cancel_permit(&self, pool: &Arc<Pool>, beyond: bool, now: Moment) -> Option<Permit> {
        if beyond {
            lock(&self.quota).book(&pool.names);
            return Some(Permit { pool: Some(pool.clone()) });
        }
        self.take_or_evict(pool, now)
    }

    /// A place under the caps, at the price of other pools' idle servers.
    fn take_or_evict(&self, pool: &Arc<Pool>, now: Moment) -> Option<Permit> {
        let caps = pool.rules().caps();
        let booked = || Permit { pool: Some(pool.clone()) };
        let mut full = match lock(&self.quota).take(&pool.names, caps) {
            Ok(()) => return Some(booked()),
            Err(full) => full,
        };
        while let Some((victim, kept)) = self.evict(&pool.names, full) {
            let exchanged = lock(&self.quota).exchange(&victim.names, &pool.names, caps);
            match exchanged {
                Ok(()) => {
                    let Kept { server, permit } = kept;
                    let log = victim.rules().log_disconnections;
                    lease::log_closing(&server, Reason::Evicted.text(), log, now);
                    server.terminate();
                    permit.disarm();
                    return Some(booked());
                }
                Err(other) => {
                    victim.close(kept, Reason::Evicted.text(), now);
                    full = other;
                }
            }
        }
        None
    }

    /// A place for a server that is open already, whatever the caps.
    pub(super) fn permit_open(&self, pool: &Arc<Pool>) -> Permit {
        lock(&self.quota).book(&pool.names);
        Permit { pool: Some(pool.clone()) }
    }

    /// Servers open in a database, those being opened included.
    pub(super) fn open_in_database(&self, name: &str) -> u32 {
        lock(&self.quota).open_in_database(name)
    }

    /// Servers open for a user, those being opened included.
    pub(super) fn open_for_user(&self, name: &str) -> u32 {
        lock(&self.quota).open_for_user(name)
    }

    /// Takes the server that has been idle longest under a cap.
    fn evict(&self, names: &Names, full: Full) -> Option<(Arc<Pool>, Kept)> {
        let known = lock(&self.pools).clone();
        let related = known.iter().filter_map(|known| known.0.upgrade()).filter(|pool| match full {
            Full::Database => pool.names.database == names.database,
            Full::User => pool.names.user == names.user,
        });
        let mut idle: Vec<_> = related
            .filter_map(|pool| {
                let since = pool.lock().idlest_since()?;
                Some((since, pool))
            })
            .collect();
        idle.sort_by_key(|(since, _)| *since);
        // Between the look and the deed a server may have been taken: then the next pool's turn comes.
        idle.into_iter().find_map(|(_, pool)| {
            let kept = pool.lock().evict()?;
            Some((pool, kept))
        })
    }
}
