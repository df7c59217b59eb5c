//! Counters of one pool: the fields are the SHOW STATS columns.
//!
//! One shard for each worker thread, so that no cache line is written by two cores; readers add the shards up. All
//! orderings are relaxed: a reader may see one counter a query ahead of another, as PgBouncer's readers may.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One worker's share of a pool's counters.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Shard {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        /// The sum of a pool's shards at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Totals {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Totals {
            fn add_shard(&mut self, shard: &Shard) {
                $(self.$name = self.$name.wrapping_add(shard.$name.load(Relaxed));)*
            }
        }

        impl std::ops::AddAssign for Totals {
            fn add_assign(&mut self, other: Totals) {
                $(self.$name = self.$name.wrapping_add(other.$name);)*
            }
        }
    };
}

counters! {
    /// Times a server was given to a client.
    server_assignment_count,
    /// Transactions finished.
    xact_count,
    /// Queries finished.
    query_count,
    /// Bytes received from clients.
    bytes_received,
    /// Bytes sent to clients.
    bytes_sent,
    /// Microseconds spent in transactions, idle in transaction included.
    xact_time,
    /// Microseconds spent waiting for the server's answers.
    query_time,
    /// Microseconds clients spent waiting for a server.
    wait_time,
    /// Named Parse messages received from clients.
    client_parse_count,
    /// Named Parse messages sent to servers.
    server_parse_count,
    /// Named Bind messages received from clients.
    bind_count,
    /// Clients that finished logging in.
    client_login_count,
}

/// The counters of one pool.
#[derive(Debug)]
pub struct Counters {
    shards: Box<[Shard]>,
}

impl Counters {
    /// Counters with a shard for each of `workers` threads, at least one.
    pub fn new(workers: usize) -> Counters {
        Counters { shards: (0..workers.max(1)).map(|_| Shard::default()).collect() }
    }

    /// The shard that the thread with this number writes.
    pub fn shard(&self, worker: usize) -> &Shard {
        &self.shards[worker % self.shards.len()]
    }

    /// The sum over all shards.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for shard in &self.shards {
            totals.add_shard(shard);
        }
        totals
    }
}

/// Adds to a counter.
pub fn bump(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}
