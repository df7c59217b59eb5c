//! Pure: what is stored about a user's password: the text of `auth_file` or of `auth_query`, understood.
//!
//! A secret is the plain password, PostgreSQL's md5 hash of it, or PostgreSQL's SCRAM secret. Which of them a text is
//! follows PgBouncer (`get_password_type`): whatever is not exactly of the other two forms is a plain password. Nothing
//! here is ever printed: `Debug` names the kind only.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use super::keys::ITERATIONS_MAX;

/// A stored secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The password itself. An empty one never lets anybody in.
    Plain(Zeroizing<String>),
    /// `md5` and 32 lower-case hexadecimal digits: the hash of password and user name.
    Md5(Zeroizing<String>),
    /// A SCRAM-SHA-256 secret.
    Scram(ScramSecret),
}

impl Secret {
    /// Understands a stored text. Never fails: a text of neither hashed form is a plain password.
    pub fn parse(text: &str) -> Secret {
        if is_md5(text) {
            return Secret::Md5(Zeroizing::new(text.to_owned()));
        }
        match ScramSecret::parse(text) {
            Some(secret) => Secret::Scram(secret),
            None => Secret::Plain(Zeroizing::new(text.to_owned())),
        }
    }

    /// Its rounds of PBKDF2, where they are more than [`ITERATIONS_MAX`]: no password is checked against it then.
    pub fn excess(&self) -> Option<u32> {
        match self {
            Secret::Scram(secret) => Some(secret.iterations).filter(|count| *count > ITERATIONS_MAX),
            Secret::Plain(_) | Secret::Md5(_) => None,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Secret::Plain(_) => "Plain(…)",
            Secret::Md5(_) => "Md5(…)",
            Secret::Scram(_) => "Scram(…)",
        })
    }
}

fn is_md5(text: &str) -> bool {
    text.strip_prefix("md5")
        .is_some_and(|hash| hash.len() == 32 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

/// What PostgreSQL keeps of a password for SCRAM-SHA-256: enough to check a login, not enough to log in. Overwritten
/// when dropped.
#[derive(Clone)]
pub struct ScramSecret {
    /// Rounds of PBKDF2, `1..=i32::MAX` (PostgreSQL's own range); see [`Secret::excess`].
    pub iterations: u32,
    /// The salt, not empty.
    pub salt: Vec<u8>,
    /// The hash of the client key: proves the client.
    pub stored_key: [u8; 32],
    /// Signs our last message: proves that we knew the secret.
    pub server_key: [u8; 32],
}

impl ScramSecret {
    /// Understands `SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>`, or gives `None`.
    pub fn parse(text: &str) -> Option<ScramSecret> {
        let (iterations, rest) = text.strip_prefix("SCRAM-SHA-256$")?.split_once(':')?;
        let (salt, keys) = rest.split_once('$')?;
        let (stored_key, server_key) = keys.split_once(':')?;

        if !iterations.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let iterations = iterations.parse::<u32>().ok().filter(|count| (1..=STORED_MAX).contains(count))?;
        let salt = BASE64.decode(salt).ok().filter(|salt| !salt.is_empty())?;
        let stored_key = BASE64.decode(stored_key).ok()?.try_into().ok()?;
        let server_key = BASE64.decode(server_key).ok()?.try_into().ok()?;
        Some(ScramSecret { iterations, salt, stored_key, server_key })
    }

    /// The text [`ScramSecret::parse`] understands. A method, not `Display`, so that no log line prints it by accident.
    pub fn to_text(&self) -> String {
        format!(
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            BASE64.encode(&self.salt),
            BASE64.encode(self.stored_key),
            BASE64.encode(self.server_key)
        )
    }
}

/// Takes the same time wherever two secrets with a salt of one length differ.
impl PartialEq for ScramSecret {
    fn eq(&self, other: &ScramSecret) -> bool {
        let keys = self.stored_key.ct_eq(&other.stored_key) & self.server_key.ct_eq(&other.server_key);
        // The client is told these two.
        self.iterations == other.iterations && self.salt == other.salt && keys.into()
    }
}

impl Eq for ScramSecret {}

impl fmt::Debug for ScramSecret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("ScramSecret(…)")
    }
}

impl Drop for ScramSecret {
    fn drop(&mut self) {
        self.stored_key.zeroize();
        self.server_key.zeroize();
    }
}

/// PostgreSQL keeps the count in a signed 32-bit number.
const STORED_MAX: u32 = i32::MAX as u32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PENCIL: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                          wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn what_is_not_exactly_a_hash_is_a_plain_password() {
        let plain = [
            "",
            "md5",
            "md5hallo",
            "md5C2E59C1F0C5D9C0B9E4D31A8B1F9B7CF",
            "md5c2e59c1f0c5d9c0b9e4d31a8b1f9b7cf0",
            "SCRAM-SHA-256",
            "SCRAM-SHA-256$",
            "SCRAM-SHA-256$0:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPL",
            &PENCIL.replace("4096", "0"),
            &PENCIL.replace("4096", "+4096"),
            &PENCIL.replace("4096", "2147483648"),
            &PENCIL.replace("W22ZaJ0SNY7soEsUEjb6gQ==", ""),
            &PENCIL.replace("W22Z", "W2*Z"),
            &PENCIL.replace("SHA-256", "SHA-512"),
            &PENCIL.replace("WG5d", ""),
            &format!("{PENCIL}="),
        ];

        for text in plain {
            assert_eq!(Secret::parse(text), Secret::Plain(Zeroizing::new(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn the_two_hashed_forms_are_recognised() {
        let md5 = "md5c2e59c1f0c5d9c0b9e4d31a8b1f9b7cf";

        assert_eq!(Secret::parse(md5), Secret::Md5(Zeroizing::new(md5.to_owned())));
        let Secret::Scram(scram) = Secret::parse(PENCIL) else { panic!("a SCRAM secret") };
        assert_eq!(scram.iterations, 4096);
        assert_eq!(scram.to_text(), PENCIL);
    }

    #[test]
    fn more_rounds_than_anybody_should_do_are_told() {
        for (iterations, excess) in
            [("4096", None), ("1000000", None), ("1000001", Some(1_000_001)), ("2147483647", Some(2_147_483_647))]
        {
            assert_eq!(Secret::parse(&PENCIL.replace("4096", iterations)).excess(), excess);
        }
        assert_eq!(Secret::parse("md5c2e59c1f0c5d9c0b9e4d31a8b1f9b7cf").excess(), None);
    }

    #[test]
    fn nothing_secret_is_printed() {
        assert_eq!(format!("{:?}", Secret::parse("hunter2")), "Plain(…)");
        assert_eq!(format!("{:?}", Secret::parse(PENCIL)), "Scram(…)");
        assert_eq!(format!("{:?}", ScramSecret::parse(PENCIL)), "Some(ScramSecret(…))");
    }

    proptest! {
        #[test]
        fn parse_undoes_to_text(
            iterations in 1..=STORED_MAX,
            salt in proptest::collection::vec(any::<u8>(), 1..40),
            keys: [[u8; 32]; 2],
        ) {
            let secret = ScramSecret { iterations, salt, stored_key: keys[0], server_key: keys[1] };
            prop_assert_eq!(ScramSecret::parse(&secret.to_text()), Some(secret));
        }

        #[test]
        fn any_text_is_some_secret(text in "(SCRAM-SHA-256\\$|md5)?[0-9a-f:$=]{0,60}") {
            let _ = Secret::parse(&text);
        }
    }
}
