//! Pure: the methods that send one password: clear text and md5.
//!
//! md5 hashes twice: the *stored* hash is of password and user name, the *answer* is of the stored hash and four random
//! bytes. So the stored hash is all one needs to answer, and a plain secret is hashed once more on the way. The crate
//! `postgres-protocol` has the two steps only as one, from the plain password; here both sides also start in the
//! middle.
//!
//! Comparisons take the same time whatever differs: both sides are hashed first, so that not even a length shows.

use md5::Md5;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::secret::Secret;

/// What PostgreSQL stores: `md5` and the hash of password and user name.
pub(super) fn md5_stored(user: &str, password: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(md5_text(&[password, user.as_bytes()]))
}

/// What a client answers to `AuthenticationMD5Password`: `md5` and the hash of the stored hash and the salt.
pub(super) fn md5_answer(stored: &str, salt: [u8; 4]) -> String {
    let stored = stored.strip_prefix("md5").unwrap_or(stored);
    md5_text(&[stored.as_bytes(), &salt])
}

/// Whether `answer` is the right one to `salt` for a user with this secret. Never for an empty password, and never for
/// a SCRAM secret, which knows nothing of md5.
pub(super) fn md5_answer_fits(answer: &[u8], user: &str, secret: &Secret, salt: [u8; 4]) -> bool {
    match secret {
        Secret::Plain(password) if password.is_empty() => false,
        Secret::Plain(password) => same(answer, md5_answer(&md5_stored(user, password.as_bytes()), salt).as_bytes()),
        Secret::Md5(stored) => same(answer, md5_answer(stored, salt).as_bytes()),
        Secret::Scram(_) => false,
    }
}

/// Whether two byte strings are the same, in a time that tells nothing about where they differ.
pub(super) fn same(left: &[u8], right: &[u8]) -> bool {
    Sha256::digest(left).ct_eq(&Sha256::digest(right)).into()
}

fn md5_text(parts: &[&[u8]]) -> String {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part);
    }
    let mut text = String::with_capacity(35);
    text.push_str("md5");
    for byte in md5.finalize() {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_hash_is_the_one_postgres_stores() {
        // `create role c password 'pencil'` on PostgreSQL 15 with password_encryption = md5.
        assert_eq!(*md5_stored("c", b"pencil"), "md5a2286e2058e8275f4419293789626063");
    }

    #[test]
    fn the_answer_is_the_one_another_implementation_gives() {
        let salt = [0x2a, 0x3d, 0x8f, 0xe0];

        let answer = md5_answer(&md5_stored("md5_user", b"password"), salt);

        assert_eq!(answer, postgres_protocol::authentication::md5_hash(b"md5_user", b"password", salt));
    }

    #[test]
    fn an_answer_fits_both_the_password_and_its_hash_and_nothing_else() {
        let salt = [1, 2, 3, 4];
        let stored = md5_stored("c", b"pencil");
        let answer = md5_answer(&stored, salt);

        for secret in ["pencil", stored.as_str()].map(Secret::parse) {
            assert!(md5_answer_fits(answer.as_bytes(), "c", &secret, salt));
            assert!(!md5_answer_fits(answer.as_bytes(), "c", &secret, [1, 2, 3, 5]));
            assert!(!md5_answer_fits(&answer.as_bytes()[..34], "c", &secret, salt));
            assert!(!md5_answer_fits(stored.as_bytes(), "c", &secret, salt));
        }
        assert!(!md5_answer_fits(answer.as_bytes(), "d", &Secret::parse("pencil"), salt));
        let of_nothing = md5_answer(&md5_stored("c", b""), salt);
        assert!(!md5_answer_fits(of_nothing.as_bytes(), "c", &Secret::parse(""), salt));
    }
}
