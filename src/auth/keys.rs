//! SCRAM keys derived from plain passwords: the one expensive thing in this room, done off the I/O threads and once.
//!
//! PBKDF2 with 4096 rounds costs about a millisecond, a hundred times the rest of a login. So no dialogue ever runs it:
//! it asks the [`KeyCache`], and if the keys are not there it hands its caller a [`Derivation`] to run on another
//! thread. Derivations of the same keys share a slot: the first to run fills it, all others find it filled. A thousand
//! clients of one user who log in at once cost one derivation.
//!
//! The cache knows keys by a fingerprint (keyed with a random key of this process) of password, salt and iterations, so
//! no password lies in it. Passwords a *client* claims get into it only once they are verified: strangers cannot fill
//! it.
//!
//! The lock guards one map lookup; it is never held while keys are derived.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

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
    slots: Mutex<Slots>,
}

/// The slots by fingerprint; `order` holds the same fingerprints, oldest first, at most [`KEYS_MAX`].
#[derive(Default)]
struct Slots {
    by_fingerprint: HashMap<[u8; 32], Arc<Slot>>,
    order: VecDeque<[u8; 32]>,
}

/// Filled by whoever derives first.
type Slot = OnceLock<DerivedKeys>;

/// How many keys are remembered: 96 bytes each and their place in the map. Beyond that the oldest are forgotten and
/// derived anew when asked for.
pub const KEYS_MAX: usize = 10_000;

impl KeyCache {
    /// An empty cache. `process_key` is 32 bytes from the system's generator, the same for the life of the process;
    /// `scram_iterations` (the setting; at least 1) is for secrets that are stored in plain text or not at all.
    pub fn new(process_key: [u8; 32], scram_iterations: u32) -> KeyCache {
        KeyCache {
            shared: Arc::new(Shared {
                process_key,
                scram_iterations: AtomicU32::new(scram_iterations.max(1)),
                derived_count: AtomicU64::new(0),
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

    /// How often keys have been derived since the start: the expensive part of logging in, counted.
    pub fn derived_count(&self) -> u64 {
        self.shared.derived_count.load(Ordering::Relaxed)
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
        let slot = self.lock().slot(self.fingerprint(password, salt, iterations));
        match slot.get() {
            Some(keys) => Lookup::Ready(keys.clone()),
            None => Lookup::Derive(self.derivation(password, salt, iterations, Some(slot))),
        }
    }

    /// Keys of a password somebody *claims*. Not remembered until [`KeyCache::remember`] is told that it was right.
    pub(super) fn keys_of_claimed(&self, password: &[u8], salt: &[u8], iterations: u32) -> Lookup {
        let fingerprint = self.fingerprint(password, salt, iterations);
        let ready = self.lock().by_fingerprint.get(&fingerprint).and_then(|slot| slot.get().cloned());
        match ready {
            Some(keys) => Lookup::Ready(keys),
            None => Lookup::Derive(self.derivation(password, salt, iterations, None)),
        }
    }

    /// Remembers the keys of a claimed password that proved right.
    pub(super) fn remember(&self, password: &[u8], salt: &[u8], iterations: u32, keys: &DerivedKeys) {
        let slot = self.lock().slot(self.fingerprint(password, salt, iterations));
        // Filled already: by another login with the same password, hence with the same keys.
        let _ = slot.set(keys.clone());
    }

    fn derivation(&self, password: &[u8], salt: &[u8], iterations: u32, slot: Option<Arc<Slot>>) -> Derivation {
        let password = Zeroizing::new(password.to_vec());
        Derivation { password, salt: salt.to_vec(), iterations, slot, cache: self.clone() }
    }

    fn fingerprint(&self, password: &[u8], salt: &[u8], iterations: u32) -> [u8; 32] {
        let salt_length = u64::try_from(salt.len()).unwrap_or(u64::MAX).to_be_bytes();
        self.keyed(b"keys", &[&iterations.to_be_bytes(), &salt_length, salt, password])
    }

    fn keyed(&self, purpose: &[u8; 4], parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.shared.process_key).expect("HMAC takes keys of any length");
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
    fn slot(&mut self, fingerprint: [u8; 32]) -> Arc<Slot> {
        if let Some(slot) = self.by_fingerprint.get(&fingerprint) {
            return Arc::clone(slot);
        }
        if self.order.len() >= KEYS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_fingerprint.remove(&oldest);
        }
        self.order.push_back(fingerprint);
        Arc::clone(self.by_fingerprint.entry(fingerprint).or_default())
    }
}

/// Keys that are at hand, or the work that makes them.
pub(super) enum Lookup {
    Ready(DerivedKeys),
    Derive(Derivation),
}

/// The work of deriving keys: milliseconds of CPU that must not run on an I/O thread.
///
/// Run it on few threads (one or two): those behind the first of the same keys then find them ready. On many threads
/// at once they would all wait for that one.
pub struct Derivation {
    password: Zeroizing<Vec<u8>>,
    salt: Vec<u8>,
    iterations: u32,
    slot: Option<Arc<Slot>>,
    cache: KeyCache,
}

impl Derivation {
    /// Derives the keys, unless somebody else has meanwhile. Blocks for as long as that takes.
    pub fn run(self) -> DerivedKeys {
        match &self.slot {
            Some(slot) => slot.get_or_init(|| self.derive()).clone(),
            None => self.derive(),
        }
    }

    /// Rounds of PBKDF2: what [`Derivation::run`] costs.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    fn derive(&self) -> DerivedKeys {
        self.cache.shared.derived_count.fetch_add(1, Ordering::Relaxed);
        DerivedKeys::derive(&self.password, &self.salt, self.iterations)
    }
}

impl fmt::Debug for Derivation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Derivation({} iterations)", self.iterations)
    }
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

    fn derive(password: &[u8], salt: &[u8], iterations: u32) -> DerivedKeys {
        let prepared = prepare(password);
        let mut salted = Zeroizing::new([0; 32]);
        pbkdf2::pbkdf2_hmac::<Sha256>(&prepared, salt, iterations, salted.as_mut());

        let key = |name: &[u8]| -> [u8; 32] {
            let mut mac = Hmac::<Sha256>::new_from_slice(salted.as_ref()).expect("HMAC takes keys of any length");
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
        let waiting: Vec<_> = (0..1000).map(|_| derivation(cache.keys_of_known(b"pencil", b"some salt", 16))).collect();

        let keys: Vec<_> = waiting.into_iter().map(Derivation::run).collect();

        assert_eq!(cache.derived_count(), 1);
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert!(matches!(cache.keys_of_known(b"pencil", b"some salt", 16), Lookup::Ready(key) if key == keys[0]));
    }

    #[test]
    fn derivations_on_several_threads_still_derive_once() {
        let cache = cache();
        let waiting: Vec<_> = (0..4).map(|_| derivation(cache.keys_of_known(b"pencil", b"salt", 64))).collect();

        std::thread::scope(|scope| {
            for derivation in waiting {
                scope.spawn(move || derivation.run());
            }
        });

        assert_eq!(cache.derived_count(), 1);
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
