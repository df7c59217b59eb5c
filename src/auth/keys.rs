//! SCRAM keys derived from plain passwords: the one expensive thing in this room, done off the I/O threads and once.
//!
//! PBKDF2 with 4096 rounds costs about a millisecond, a hundred times the rest of a login. So no dialogue ever runs it:
//! it asks the [`KeyCache`], and if the keys are not there it hands its caller a [`Derivation`] to run on another
//! thread. Derivations of the same keys under way at the same time are one: whoever has a turn brings all of them
//! forward, and a thousand clients of one user who log in at once cost one derivation.
//!
//! A derivation is cut into turns of [`ROUNDS_PER_TURN`] rounds ([`Derivation::advance`]), so that it can stop when its
//! login is gone, and so that others get their turns between (`net::compute`). The crate `pbkdf2` does all rounds in
//! one call, which nothing can stop; for one block, which is all that SCRAM-SHA-256 wants, PBKDF2 is the XOR of so many
//! HMACs, each of the one before, and that loop is [`Rounds`]. The rounds that strangers may ask for are bounded by
//! [`ITERATIONS_MAX`].
//!
//! The cache knows keys by a fingerprint (keyed with a random key of this process) of password, salt and iterations, so
//! no password lies in it. Passwords a *client* claims get into it only once they are verified: strangers cannot fill
//! it.
//!
//! The cache's lock guards map look-ups; it is never held while keys are derived. That of a derivation is held for a
//! turn, by a thread that is there for nothing else.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A cheap handle on the process's derived keys; clones share them.
#[derive(Clone)]
pub struct KeyCache {
    shared: Arc<Shared>,
}

struct Shared {
    /// Random, for the life of the process: keys the fingerprints and makes the salts nobody stored.
    process_key: [u8; 32],
    scram_iterations: AtomicU32,
    derived_count: AtomicU64,
    round_count: AtomicU64,
    slots: Mutex<Slots>,
}

/// Keys by fingerprint; `order` holds the same fingerprints, oldest first, at most [`KEYS_MAX`].
#[derive(Default)]
struct Slots {
    by_fingerprint: HashMap<Fingerprint, DerivedKeys>,
    order: VecDeque<Fingerprint>,
    /// Derivations under way, and how many [`Derivation`]s there are of each; at least one.
    under_way: HashMap<Fingerprint, (Arc<UnderWay>, usize)>,
}

type Fingerprint = [u8; 32];

/// How many keys are remembered: 96 bytes each and their place in the map. Beyond that the oldest are forgotten and
/// derived anew when asked for.
pub const KEYS_MAX: usize = 10_000;

/// The most rounds of PBKDF2 there are here, for stored secrets and for what a server asks of us, as in PgBouncer from
/// 1.26 on: a fraction of a second of CPU.
pub const ITERATIONS_MAX: u32 = 1_000_000;

/// How many rounds a turn has at most: a fraction of a millisecond.
pub const ROUNDS_PER_TURN: u32 = 1024;

impl KeyCache {
    /// An empty cache. `process_key` is 32 bytes from the system's generator, the same for the life of the process;
    /// `scram_iterations` (the setting; at least 1) is for secrets that are stored in plain text or not at all.
    pub fn new(process_key: [u8; 32], scram_iterations: u32) -> KeyCache {
        KeyCache {
            shared: Arc::new(Shared {
                process_key,
                scram_iterations: AtomicU32::new(scram_iterations.max(1)),
                derived_count: AtomicU64::new(0),
                round_count: AtomicU64::new(0),
                slots: Mutex::default(),
            }),
        }
    }

    /// Follows a reload of the setting `scram_iterations`; logins that began keep the old count.
    pub fn set_scram_iterations(&self, scram_iterations: u32) {
        self.shared.scram_iterations.store(scram_iterations.max(1), Ordering::Relaxed);
    }

    /// Rounds for secrets that are stored in plain text or not at all.
    pub fn scram_iterations(&self) -> u32 {
        self.shared.scram_iterations.load(Ordering::Relaxed)
    }

    /// How many derivations have begun since the start.
    pub fn derived_count(&self) -> u64 {
        self.shared.derived_count.load(Ordering::Relaxed)
    }

    /// How many rounds of PBKDF2 have been done since the start: the expensive part of logging in, counted.
    pub fn round_count(&self) -> u64 {
        self.shared.round_count.load(Ordering::Relaxed)
    }

    /// The salt told to a user whose secret has none: known users with a plain password, and unknown users, alike and
    /// the same every time, so that neither salt nor repetition tells them apart.
    pub(super) fn salt_for(&self, user: &str) -> [u8; 16] {
        let tag = self.keyed(b"salt", &[user.as_bytes()]);
        let mut salt = [0; 16];
        salt.copy_from_slice(&tag[..16]);
        salt
    }

    /// Keys of a password we *know* to be right (it is in our files). To be remembered.
    pub(super) fn keys_of_known(&self, password: &[u8], salt: &[u8], iterations: u32) -> Lookup {
        self.look_up(password, salt, iterations, true)
    }

    /// Keys of a password somebody *claims*. Not remembered until [`KeyCache::remember`] is told that it was right.
    pub(super) fn keys_of_claimed(&self, password: &[u8], salt: &[u8], iterations: u32) -> Lookup {
        self.look_up(password, salt, iterations, false)
    }

    /// Remembers the keys of a claimed password that proved right.
    pub(super) fn remember(&self, password: &[u8], salt: &[u8], iterations: u32, keys: &DerivedKeys) {
        self.lock().remember(self.fingerprint(password, salt, iterations), keys);
    }

    fn look_up(&self, password: &[u8], salt: &[u8], iterations: u32, known: bool) -> Lookup {
        let fingerprint = self.fingerprint(password, salt, iterations);
        let mut slots = self.lock();
        if let Some(keys) = slots.by_fingerprint.get(&fingerprint) {
            return Lookup::Ready(keys.clone());
        }
        let (under_way, wanted) = slots.under_way.entry(fingerprint).or_insert_with(|| {
            let progress = Mutex::new(Progress::NotBegun { password: Zeroizing::new(password.to_vec()) });
            (Arc::new(UnderWay { salt: salt.to_vec(), iterations, progress }), 0)
        });
        *wanted += 1;
        let under_way = under_way.clone();
        Lookup::Derive(Derivation { under_way, fingerprint, known, cache: self.clone() })
    }

    fn fingerprint(&self, password: &[u8], salt: &[u8], iterations: u32) -> Fingerprint {
        let salt_length = u64::try_from(salt.len()).unwrap_or(u64::MAX).to_be_bytes();
        self.keyed(b"keys", &[&iterations.to_be_bytes(), &salt_length, salt, password])
    }

    fn keyed(&self, purpose: &[u8; 4], parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = hmac(&self.shared.process_key);
        mac.update(purpose);
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        // A panic elsewhere leaves at worst a fingerprint more in `order`; the map stays sound.
        self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for KeyCache {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "KeyCache({} keys)", self.lock().order.len())
    }
}

impl Slots {
    fn remember(&mut self, fingerprint: Fingerprint, keys: &DerivedKeys) {
        // Known already: by another login with the same password, hence with the same keys.
        if self.by_fingerprint.contains_key(&fingerprint) {
            return;
        }
        if self.order.len() >= KEYS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_fingerprint.remove(&oldest);
        }
        self.order.push_back(fingerprint);
        self.by_fingerprint.insert(fingerprint, keys.clone());
    }
}

/// Keys that are at hand, or the work that makes them.
pub(super) enum Lookup {
    Ready(DerivedKeys),
    Derive(Derivation),
}

/// The work of deriving keys: milliseconds of CPU that must not run on an I/O thread, a turn at a time. Dropped, it
/// ends, unless another login wants the same keys.
pub struct Derivation {
    under_way: Arc<UnderWay>,
    fingerprint: Fingerprint,
    /// Is the password known to be right, so that the keys are to be remembered?
    known: bool,
    cache: KeyCache,
}

/// A derivation, shared by all who want its keys.
struct UnderWay {
    salt: Vec<u8>,
    iterations: u32,
    progress: Mutex<Progress>,
}

enum Progress {
    NotBegun { password: Zeroizing<Vec<u8>> },
    Begun(Rounds),
    Over(DerivedKeys),
}

impl Derivation {
    /// Has a turn of [`ROUNDS_PER_TURN`] rounds at most; the keys, where it was the last one or others have derived
    /// them meanwhile. Blocks for as long as that takes, and for as long as the turn of another who wants the same keys
    /// takes.
    pub fn advance(&mut self) -> Option<DerivedKeys> {
        let UnderWay { salt, iterations, progress } = &*self.under_way;
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        if let Progress::NotBegun { password } = &*progress {
            self.cache.shared.derived_count.fetch_add(1, Ordering::Relaxed);
            *progress = Progress::Begun(Rounds::new(password));
        }
        if let Progress::Begun(rounds) = &mut *progress {
            let before = rounds.done;
            let keys = rounds.advance(salt, *iterations, ROUNDS_PER_TURN).map(DerivedKeys::of_salted);
            self.cache.shared.round_count.fetch_add(u64::from(rounds.done - before), Ordering::Relaxed);
            *progress = Progress::Over(keys?);
        }
        let Progress::Over(keys) = &*progress else { return None };
        if self.known {
            self.cache.lock().remember(self.fingerprint, keys);
        }
        Some(keys.clone())
    }

    /// All turns, one after another.
    pub fn run(mut self) -> DerivedKeys {
        loop {
            if let Some(keys) = self.advance() {
                return keys;
            }
        }
    }

    /// Rounds of PBKDF2: what it costs.
    pub fn iterations(&self) -> u32 {
        self.under_way.iterations
    }
}

impl Drop for Derivation {
    fn drop(&mut self) {
        if let Entry::Occupied(mut held) = self.cache.lock().under_way.entry(self.fingerprint) {
            held.get_mut().1 -= 1;
            if held.get().1 == 0 {
                held.remove();
            }
        }
    }
}

impl fmt::Debug for Derivation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Derivation({} iterations)", self.iterations())
    }
}

/// PBKDF2-HMAC-SHA-256 for one block of 32 bytes (RFC 8018, section 5.2), of which any number of rounds can be done at
/// a time. Overwritten when dropped.
struct Rounds {
    /// The password, prepared, as HMAC takes it.
    key: Zeroizing<Vec<u8>>,
    /// What the last round made.
    last: Zeroizing<[u8; 32]>,
    /// The XOR of all that rounds have made.
    sum: Zeroizing<[u8; 32]>,
    done: u32,
}

impl Rounds {
    fn new(password: &[u8]) -> Rounds {
        let mut key = prepare(password);
        // What HMAC would do with a long key, each time one begins.
        if key.len() > HMAC_BLOCK {
            key = Zeroizing::new(Sha256::digest(&*key).to_vec());
        }
        Rounds { key, last: Zeroizing::default(), sum: Zeroizing::default(), done: 0 }
    }

    /// Does at most so many rounds more of `iterations` in all; the salted password, if those were the last.
    fn advance(&mut self, salt: &[u8], iterations: u32, most: u32) -> Option<&[u8; 32]> {
        let keyed = hmac(&self.key);
        for _ in 0..most.min(iterations - self.done) {
            let mut mac = keyed.clone();
            match self.done {
                0 => {
                    mac.update(salt);
                    mac.update(&1_u32.to_be_bytes());
                }
                _ => mac.update(&*self.last),
            }
            *self.last = mac.finalize().into_bytes().into();
            self.sum.iter_mut().zip(&*self.last).for_each(|(sum, last)| *sum ^= last);
            self.done += 1;
        }
        (self.done == iterations).then_some(&*self.sum)
    }
}

/// The length of the blocks that SHA-256 hashes.
const HMAC_BLOCK: usize = 64;

fn hmac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// The two keys a password, a salt and a number of rounds make (RFC 5802, section 3), and the hash that is stored.
/// Overwritten when dropped.
#[derive(Clone)]
pub struct DerivedKeys {
    client_key: Zeroizing<[u8; 32]>,
    stored_key: [u8; 32],
    server_key: Zeroizing<[u8; 32]>,
}

impl DerivedKeys {
    /// Keys as they are.
    pub fn new(client_key: [u8; 32], server_key: [u8; 32]) -> DerivedKeys {
        let stored_key = Sha256::digest(client_key).into();
        DerivedKeys { client_key: Zeroizing::new(client_key), stored_key, server_key: Zeroizing::new(server_key) }
    }

    fn of_salted(salted: &[u8; 32]) -> DerivedKeys {
        let key = |name: &[u8]| -> [u8; 32] {
            let mut mac = hmac(salted);
            mac.update(name);
            mac.finalize().into_bytes().into()
        };
        DerivedKeys::new(key(b"Client Key"), key(b"Server Key"))
    }

    /// What a client proves to have.
    pub fn client_key(&self) -> &[u8; 32] {
        &self.client_key
    }

    /// What a server keeps to check that.
    pub(super) fn stored_key(&self) -> &[u8; 32] {
        &self.stored_key
    }

    /// What a server proves to have.
    pub fn server_key(&self) -> &[u8; 32] {
        &self.server_key
    }
}

/// Takes the same time wherever two differ.
impl PartialEq for DerivedKeys {
    fn eq(&self, other: &DerivedKeys) -> bool {
        (self.client_key.ct_eq(&*other.client_key) & self.server_key.ct_eq(&*other.server_key)).into()
    }
}

impl Eq for DerivedKeys {}

impl fmt::Debug for DerivedKeys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("DerivedKeys(…)")
    }
}

/// The password as SCRAM hashes it: SASLprep (RFC 4013) where that is possible, else the bytes as they are, which is
/// what PostgreSQL does with text that is not UTF-8, has forbidden characters or vanishes when prepared.
fn prepare(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let prepared = std::str::from_utf8(password)
        .ok()
        .and_then(|text| stringprep::saslprep(text).ok())
        .filter(|text| !text.is_empty())
        .map(|text| text.into_owned().into_bytes());
    Zeroizing::new(prepared.unwrap_or_else(|| password.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> KeyCache {
        KeyCache::new([7; 32], 4096)
    }

    fn derivation(lookup: Lookup) -> Derivation {
        match lookup {
            Lookup::Derive(derivation) => derivation,
            Lookup::Ready(_) => panic!("these keys are not known yet"),
        }
    }

    #[test]
    fn a_thousand_logins_of_one_user_derive_once() {
        let cache = cache();
        // Whether the password is known or the same claim of all, and however their turns come.
        for known in [true, false] {
            let look_up = || cache.look_up(b"pencil", if known { b"one" } else { b"two" }, 3000, known);
            let mut waiting: VecDeque<_> = (0..1000).map(|_| derivation(look_up())).collect();
            let (begun, mut turns, mut keys) = (cache.round_count(), 0, Vec::new());
            while let Some(mut next) = waiting.pop_front() {
                turns += 1;
                match next.advance() {
                    Some(derived) => keys.push(derived),
                    None => waiting.push_back(next),
                }
            }

            assert_eq!((cache.round_count() - begun, turns), (3000, 1000 + 2));
            assert!(keys.iter().all(|key| *key == keys[0]));
            match (look_up(), known) {
                (Lookup::Ready(key), true) => assert!(key == keys[0]),
                (Lookup::Derive(_), false) => {}
                _ => panic!("what is known is remembered, what is claimed is not"),
            }
        }
        assert!(cache.lock().under_way.is_empty());
    }

    #[test]
    fn derivations_on_several_threads_still_derive_once() {
        let cache = cache();
        let waiting: Vec<_> = (0..4).map(|_| derivation(cache.keys_of_known(b"pencil", b"salt", 5000))).collect();

        std::thread::scope(|scope| {
            for derivation in waiting {
                scope.spawn(move || derivation.run());
            }
        });

        assert_eq!((cache.derived_count(), cache.round_count()), (1, 5000));
    }

    #[test]
    fn a_derivation_ends_when_nobody_wants_it_and_goes_on_while_somebody_does() {
        let cache = cache();
        let mut first = derivation(cache.keys_of_claimed(b"guess", b"salt", ITERATIONS_MAX));
        let mut second = derivation(cache.keys_of_claimed(b"guess", b"salt", ITERATIONS_MAX));
        assert!(first.advance().is_none());
        drop(first);
        assert!(second.advance().is_none());
        assert_eq!(cache.round_count(), 2 * u64::from(ROUNDS_PER_TURN), "the second goes on where the first was");
        drop(second);

        assert!(cache.lock().under_way.is_empty());
        assert_eq!(cache.round_count(), 2 * u64::from(ROUNDS_PER_TURN));
        let mut anew = derivation(cache.keys_of_claimed(b"guess", b"salt", 1));
        assert!(anew.advance().is_some());
    }

    #[test]
    fn however_it_is_cut_the_keys_are_those_of_another_implementation() {
        let long = "x".repeat(65_530);
        for (password, salt, iterations) in [
            ("pencil", &b"salt"[..], 1),
            ("pencil", b"", 2),
            ("", b"salt", 7),
            ("p\u{e4}ss", b"some salt of more than sixty-four bytes, which is more than one block", 100),
            (&long[..HMAC_BLOCK], b"salt", 50),
            (&long[..=HMAC_BLOCK], b"salt", 50),
            (&long, b"salt", 50),
        ] {
            let mut expected = [0; 32];
            pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), salt, iterations, &mut expected);
            for most in [1, 2, 7, ROUNDS_PER_TURN] {
                let mut rounds = Rounds::new(password.as_bytes());
                let mut turns = 1;
                while rounds.advance(salt, iterations, most).is_none() {
                    turns += 1;
                }
                assert_eq!(*rounds.sum, expected, "{password:.10} {iterations} {most}");
                assert_eq!(turns, iterations.div_ceil(most));
            }
        }
    }

    #[test]
    fn password_salt_and_iterations_each_make_other_keys() {
        let cache = cache();
        let first = derivation(cache.keys_of_known(b"ab", b"c", 2)).run();

        for (password, salt, iterations) in [(&b"a"[..], &b"bc"[..], 2), (b"ab", b"d", 2), (b"ab", b"c", 3)] {
            assert_ne!(derivation(cache.keys_of_known(password, salt, iterations)).run(), first);
        }
    }

    #[test]
    fn a_claimed_password_is_forgotten_unless_it_proved_right() {
        let cache = cache();
        let keys = derivation(cache.keys_of_claimed(b"guess", b"salt", 2)).run();

        assert!(matches!(cache.keys_of_claimed(b"guess", b"salt", 2), Lookup::Derive(_)));
        cache.remember(b"guess", b"salt", 2, &keys);
        assert!(matches!(cache.keys_of_claimed(b"guess", b"salt", 2), Lookup::Ready(known) if known == keys));
    }

    #[test]
    fn the_cache_stays_bounded_and_forgets_the_oldest() {
        let cache = cache();
        let keys = DerivedKeys::new([1; 32], [2; 32]);

        for number in 0..=KEYS_MAX {
            cache.remember(&number.to_be_bytes(), b"salt", 1, &keys);
        }

        assert_eq!(cache.lock().by_fingerprint.len(), KEYS_MAX);
        assert_eq!(cache.lock().order.len(), KEYS_MAX);
        assert!(matches!(cache.keys_of_claimed(&0_usize.to_be_bytes(), b"salt", 1), Lookup::Derive(_)));
        assert!(matches!(cache.keys_of_claimed(&KEYS_MAX.to_be_bytes(), b"salt", 1), Lookup::Ready(_)));
    }

    #[test]
    fn salts_are_stable_per_user_and_differ_between_users_and_processes() {
        let cache = cache();

        assert_eq!(cache.salt_for("alice"), cache.salt_for("alice"));
        assert_ne!(cache.salt_for("alice"), cache.salt_for("bob"));
        assert_ne!(cache.salt_for("alice"), KeyCache::new([8; 32], 4096).salt_for("alice"));
    }

    #[test]
    fn passwords_are_prepared_as_postgres_does() {
        let cases: [(&[u8], &[u8]); 7] = [
            (b"pencil", b"pencil"),
            ("I\u{ad}X".as_bytes(), b"IX"),
            ("\u{2168}".as_bytes(), b"IX"),
            ("a\u{a0}b".as_bytes(), b"a b"),
            (b"bell\x07", b"bell\x07"),
            ("\u{ad}".as_bytes(), "\u{ad}".as_bytes()),
            (b"\xff\xfe", b"\xff\xfe"),
        ];

        for (password, prepared) in cases {
            assert_eq!(prepare(password).as_slice(), prepared, "{password:?}");
        }
    }
}
