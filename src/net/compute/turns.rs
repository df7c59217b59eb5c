//! Pure: who is next, among jobs that wait for a thread.
//!
//! ```text
//!   take:  1st, 3rd, 5th…  the address that has waited longest ─► its oldest job
//!          2nd, 4th, 6th…  the user that has waited longest    ─► its oldest job
//! ```
//!
//! A job waits in two rings, that of the addresses and that of the users. With `a` addresses and `u` users that wait,
//! each address gets a job of its own done at least every `2a` turns, and each user every `2u`, however many jobs the
//! others have: one address with a thousand names is one of few addresses, and a thousand addresses with one name are
//! one of few users. A job that is put back after its turn waits behind all others of its address and user.
//!
//! Each call costs a few look-ups in sorted maps, whoever waits.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

/// Whose work a job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Where it comes from.
    pub source: Source,
    /// The user that somebody wants to log in as, where that is known yet.
    pub user: Option<Arc<str>>,
}

/// Where work comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// An address; of IPv6, a network of 64 bits ([`network`]).
    Network(IpAddr),
    /// A system user on a Unix socket; `None` where the kernel did not say which.
    Local(Option<u32>),
    /// A server that we log in to.
    Server,
}

/// What an address counts as: IPv6 gives everybody 2^64 of them, so those count by their /64.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        address => address,
    }
}

/// A job's number, the same at each of its turns.
pub(super) type Id = u64;

/// The jobs that wait.
pub(super) struct Turns<J> {
    jobs: HashMap<Id, Waiting<J>>,
    sources: Ring<Source>,
    users: Ring<Arc<str>>,
    /// Whether the next turn is a user's.
    users_turn: bool,
    /// How many jobs have been put here: what orders them.
    puts: u64,
}

struct Waiting<J> {
    origin: Origin,
    /// Its place behind others of the same source or user.
    place: u64,
    job: J,
}

/// A job whose turn it is.
pub(super) struct Taken<J> {
    pub(super) id: Id,
    pub(super) origin: Origin,
    pub(super) job: J,
}

impl<J> Default for Turns<J> {
    fn default() -> Turns<J> {
        let (sources, users) = (Ring::default(), Ring::default());
        Turns { jobs: HashMap::new(), sources, users, users_turn: false, puts: 0 }
    }
}

impl<J> Turns<J> {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// A job waits from now on, behind all others of its source and of its user.
    pub(super) fn put(&mut self, Taken { id, origin, job }: Taken<J>) {
        self.puts += 1;
        let place = self.puts;
        self.sources.insert(&origin.source, place, id);
        if let Some(user) = &origin.user {
            self.users.insert(user, place, id);
        }
        self.jobs.insert(id, Waiting { origin, place, job });
    }

    /// The next job, which waits no longer.
    pub(super) fn take(&mut self) -> Option<Taken<J>> {
        let (sources, users) = (&mut self.sources, &mut self.users);
        let id = match self.users_turn {
            true => users.next().or_else(|| sources.next()),
            false => sources.next(),
        }?;
        self.users_turn = !self.users_turn;
        let Waiting { origin, job, .. } = self.withdraw(id)?;
        Some(Taken { id, origin, job })
    }

    /// A job waits no longer, if it did.
    pub(super) fn remove(&mut self, id: Id) -> Option<J> {
        self.withdraw(id).map(|waiting| waiting.job)
    }

    fn withdraw(&mut self, id: Id) -> Option<Waiting<J>> {
        let waiting = self.jobs.remove(&id)?;
        self.sources.remove(&waiting.origin.source, waiting.place);
        if let Some(user) = &waiting.origin.user {
            self.users.remove(user, waiting.place);
        }
        Some(waiting)
    }
}

/// Keys that take turns, each with jobs that wait.
struct Ring<K> {
    /// Keys by their turn, the next one first; each has a job.
    order: BTreeMap<u64, K>,
    keys: HashMap<K, Queue>,
    turns: u64,
}

struct Queue {
    /// When its key's turn is.
    turn: u64,
    /// Jobs by their place, the oldest first.
    jobs: BTreeMap<u64, Id>,
}

impl<K> Default for Ring<K> {
    fn default() -> Ring<K> {
        Ring { order: BTreeMap::new(), keys: HashMap::new(), turns: 0 }
    }
}

impl<K: Clone + Eq + Hash> Ring<K> {
    fn insert(&mut self, key: &K, place: u64, id: Id) {
        if let Some(queue) = self.keys.get_mut(key) {
            queue.jobs.insert(place, id);
            return;
        }
        self.turns += 1;
        self.order.insert(self.turns, key.clone());
        self.keys.insert(key.clone(), Queue { turn: self.turns, jobs: BTreeMap::from([(place, id)]) });
    }

    fn remove(&mut self, key: &K, place: u64) {
        let Some(queue) = self.keys.get_mut(key) else { return };
        queue.jobs.remove(&place);
        if queue.jobs.is_empty() {
            self.order.remove(&queue.turn);
            self.keys.remove(key);
        }
    }

    /// The oldest job of the key whose turn it is; the key's next turn is behind all others'.
    fn next(&mut self) -> Option<Id> {
        let (_, key) = self.order.pop_first()?;
        let queue = self.keys.get_mut(&key)?;
        self.turns += 1;
        queue.turn = self.turns;
        self.order.insert(self.turns, key);
        queue.jobs.values().next().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn origin(address: u32, user: u32) -> Origin {
        Origin { source: Source::Network(IpAddr::from(address.to_be_bytes())), user: Some(user.to_string().into()) }
    }

    fn put(turns: &mut Turns<()>, id: Id, origin: Origin) {
        turns.put(Taken { id, origin, job: () });
    }

    /// The turn in which this job is next. All others want turns without end, and `newcomer` is let in at each turn.
    fn turn_of(turns: &mut Turns<()>, wanted: Id, mut newcomer: impl FnMut(&mut Turns<()>)) -> usize {
        for turn in 1.. {
            let taken = turns.take().expect("the wanted job waits");
            if taken.id == wanted {
                return turn;
            }
            turns.put(taken);
            newcomer(turns);
        }
        unreachable!("there is a last turn")
    }

    #[test]
    fn an_address_with_many_names_keeps_nobody_waiting() {
        let mut turns = Turns::default();
        (0..1000).for_each(|number| put(&mut turns, number, origin(1, number as u32)));
        turns.take();
        put(&mut turns, 5000, origin(2, 5000));

        assert!(turn_of(&mut turns, 5000, |_| ()) <= 4);
    }

    #[test]
    fn many_addresses_with_one_name_keep_no_other_name_waiting() {
        let mut turns = Turns::default();
        (0..1000).for_each(|number| put(&mut turns, number, origin(number as u32, 1)));
        turns.take();
        put(&mut turns, 5000, origin(5000, 2));

        assert!(turn_of(&mut turns, 5000, |_| ()) <= 4);
    }

    #[test]
    fn who_leaves_and_comes_again_passes_nobody() {
        let mut turns = Turns::default();
        (0..20).for_each(|number| put(&mut turns, number, origin(number as u32, number as u32)));
        put(&mut turns, 5000, origin(5000, 5000));
        let mut next = 100;

        // Each turn another one comes from somewhere new, under a new name.
        let turn = turn_of(&mut turns, 5000, |turns| {
            next += 1;
            put(turns, u64::from(next), origin(next, next));
        });

        assert!(turn <= 21, "{turn}");
    }

    #[test]
    fn work_without_a_user_has_its_turns_too() {
        let mut turns = Turns::default();
        (0..1000).for_each(|number| put(&mut turns, number, origin(1, number as u32)));
        let handshake = Origin { source: Source::Network(IpAddr::from([9, 9, 9, 9])), user: None };
        put(&mut turns, 5000, handshake.clone());
        assert!(turn_of(&mut turns, 5000, |_| ()) <= 4);

        let mut turns = Turns::default();
        put(&mut turns, 1, handshake);
        assert_eq!([turns.take().map(|taken| taken.id), turns.take().map(|taken| taken.id)], [Some(1), None]);
    }

    #[test]
    fn networks_of_ipv6_count_as_one() {
        let parse = |text: &str| network(text.parse().unwrap());

        assert_eq!(parse("2001:db8::1"), parse("2001:db8::ffff:1"));
        assert_ne!(parse("2001:db8::1"), parse("2001:db8:0:1::1"));
        assert_eq!(parse("::ffff:10.0.0.1"), parse("10.0.0.1"));
        assert_ne!(parse("10.0.0.1"), parse("10.0.0.2"));
    }

    proptest! {
        /// Whatever comes and leaves: each job is taken once and is its own, nothing is left in the rings, and who
        /// waits with `a` addresses and `u` users is served within its bound.
        #[test]
        fn nobody_is_lost_nor_served_twice(
            steps in proptest::collection::vec((0u32..4, 0u32..4, 0u8..4), 1..200),
        ) {
            let mut turns = Turns::default();
            let mut waiting: HashSet<Id> = HashSet::new();
            for (id, (address, user, what)) in (0..).zip(steps) {
                match what {
                    0 => {
                        let taken = turns.take();
                        prop_assert_eq!(taken.is_none(), waiting.is_empty());
                        if let Some(taken) = taken {
                            prop_assert!(waiting.remove(&taken.id));
                        }
                    }
                    1 => {
                        let gone = waiting.iter().min().copied();
                        if let Some(gone) = gone {
                            prop_assert!(turns.remove(gone).is_some());
                            waiting.remove(&gone);
                        }
                        prop_assert!(turns.remove(id).is_none());
                    }
                    _ => {
                        let user = (user > 0).then(|| Arc::from(user.to_string()));
                        let source = Source::Local(Some(address));
                        turns.put(Taken { id, origin: Origin { source, user }, job: () });
                        waiting.insert(id);
                    }
                }
                prop_assert_eq!(turns.len(), waiting.len());
            }
            while let Some(taken) = turns.take() {
                prop_assert!(waiting.remove(&taken.id));
            }
            prop_assert!(waiting.is_empty());
            prop_assert!(turns.sources.order.is_empty() && turns.sources.keys.is_empty());
            prop_assert!(turns.users.order.is_empty() && turns.users.keys.is_empty());
        }
    }
}
