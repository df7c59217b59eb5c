//! Pure: what we can prove to a server in a user's name, and where it comes from.
//!
//! A finished [`Handshake`](super::Handshake) says what it learned of the client ([`Proof`]); together with the stored
//! secret that makes the [`Credential`] a pool logs in to its servers with. The stored secret alone is enough where it
//! is plain or md5. A SCRAM secret is not: it checks logins but cannot make one. That is what *pass-through* is for: a
//! client's proof reveals its client key, and with it we log in to any server that keeps the very same secret.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::keys::DerivedKeys;
use super::secret::{ScramSecret, Secret};

/// What a login taught us that the stored secret did not say.
#[derive(Clone, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: the stored secret, if any, is all there is.
    Nothing,
    /// The password itself, typed in clear text and verified.
    Password(Zeroizing<String>),
    /// The client's SCRAM keys, good for servers that keep the same secret.
    ScramKeys {
        /// The keys the proof revealed.
        keys: DerivedKeys,
        /// The stored secret they fit.
        secret: ScramSecret,
    },
}

impl fmt::Debug for Proof {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Proof::Nothing => "Nothing",
            Proof::Password(_) => "Password(…)",
            Proof::ScramKeys { .. } => "ScramKeys(…)",
        })
    }
}

/// What a pool can prove to its servers. Compare two to see whether a pool's servers logged in with something old. Keys
/// and stored secrets take the same time wherever they differ; passwords and md5 hashes do not, and need not: what is
/// compared here has been verified, or was never a stranger's.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// Nothing: only a server that asks for nothing lets us in.
    None,
    /// The password: good for every method.
    Plain(Zeroizing<String>),
    /// `md5` and 32 hexadecimal digits: good for md5 only, and only for the user name it was made with.
    Md5(Zeroizing<String>),
    /// SCRAM keys: good for a server that keeps this very secret.
    ScramKeys {
        /// The keys a client's proof revealed.
        keys: DerivedKeys,
        /// The secret they fit; its salt and iterations tell whether a server keeps the same.
        secret: ScramSecret,
    },
    /// A SCRAM secret nobody has logged in with: proves nothing, but a change of it is visible.
    ScramSecretOnly(ScramSecret),
}

impl Credential {
    /// The better of this and what a pool already `held`: a login by `trust` brings a bare SCRAM secret, and must not
    /// make a pool forget the keys an earlier client revealed for the same secret.
    pub fn or_held(self, held: &Credential) -> Credential {
        match (&self, held) {
            (Credential::ScramSecretOnly(new), Credential::ScramKeys { secret, .. }) if new == secret => held.clone(),
            _ => self,
        }
    }

    /// As texts, for a successor: what kind it is, then its parts. They are not wiped: the process that hands itself
    /// over ends next, and its memory with it.
    pub fn to_parts(&self) -> Vec<String> {
        match self {
            Credential::None => vec!["none".to_owned()],
            Credential::Plain(password) => vec!["plain".to_owned(), password.to_string()],
            Credential::Md5(hash) => vec!["md5".to_owned(), hash.to_string()],
            Credential::ScramKeys { keys, secret } => vec![
                "scram keys".to_owned(),
                secret.to_text(),
                STANDARD.encode(keys.client_key()),
                STANDARD.encode(keys.server_key()),
            ],
            Credential::ScramSecretOnly(secret) => vec!["scram secret".to_owned(), secret.to_text()],
        }
    }

    /// From [`Credential::to_parts`]; `None` where they are not understood.
    pub fn from_parts(parts: &[String]) -> Option<Credential> {
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let key = |text: &str| <[u8; 32]>::try_from(STANDARD.decode(text).ok()?).ok();
        Some(match parts.as_slice() {
            ["none"] => Credential::None,
            ["plain", password] => Credential::Plain(Zeroizing::new((*password).to_owned())),
            ["md5", hash] => Credential::Md5(Zeroizing::new((*hash).to_owned())),
            ["scram keys", secret, client_key, server_key] => Credential::ScramKeys {
                keys: DerivedKeys::new(key(client_key)?, key(server_key)?),
                secret: ScramSecret::parse(secret)?,
            },
            ["scram secret", secret] => Credential::ScramSecretOnly(ScramSecret::parse(secret)?),
            _ => return None,
        })
    }

    /// The keys that another pooler got from a client of a user with this stored secret.
    pub fn from_keys(secret: &Secret, client_key: &[u8], server_key: &[u8]) -> Option<Credential> {
        let Secret::Scram(secret) = secret else { return None };
        let keys = DerivedKeys::new(client_key.try_into().ok()?, server_key.try_into().ok()?);
        Some(Credential::ScramKeys { keys, secret: secret.clone() })
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Credential::None => "None",
            Credential::Plain(_) => "Plain(…)",
            Credential::Md5(_) => "Md5(…)",
            Credential::ScramKeys { .. } => "ScramKeys(…)",
            Credential::ScramSecretOnly(_) => "ScramSecretOnly(…)",
        })
    }
}

/// What the stored secret and a login together can prove to a server. For a forced user, give [`Proof::Nothing`]: what
/// the client proved is about another name.
pub fn credential_from(secret: &Secret, proof: &Proof) -> Credential {
    match (proof, secret) {
        (Proof::Password(password), _) => Credential::Plain(password.clone()),
        (Proof::ScramKeys { keys, secret }, _) => Credential::ScramKeys { keys: keys.clone(), secret: secret.clone() },
        (Proof::Nothing, Secret::Plain(password)) if password.is_empty() => Credential::None,
        (Proof::Nothing, Secret::Plain(password)) => Credential::Plain(password.clone()),
        (Proof::Nothing, Secret::Md5(hash)) => Credential::Md5(hash.clone()),
        (Proof::Nothing, Secret::Scram(secret)) => Credential::ScramSecretOnly(secret.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scram(first_byte: u8) -> ScramSecret {
        ScramSecret { iterations: 1, salt: vec![first_byte], stored_key: [1; 32], server_key: [2; 32] }
    }

    #[test]
    fn a_bare_secret_does_not_displace_keys_for_the_same_secret() {
        let held = Credential::ScramKeys { keys: DerivedKeys::new([3; 32], [2; 32]), secret: scram(0) };

        assert_eq!(Credential::ScramSecretOnly(scram(0)).or_held(&held), held);
        assert_eq!(
            Credential::ScramSecretOnly(scram(1)).or_held(&held),
            Credential::ScramSecretOnly(scram(1)),
            "a changed secret makes the keys worthless"
        );
        assert_eq!(Credential::None.or_held(&held), Credential::None);
    }

    #[test]
    fn an_empty_password_proves_nothing() {
        assert_eq!(credential_from(&Secret::parse(""), &Proof::Nothing), Credential::None);
    }

    #[test]
    fn a_credential_comes_back_from_its_parts() {
        let credentials = [
            Credential::None,
            Credential::Plain(Zeroizing::new("a b".to_owned())),
            Credential::Md5(Zeroizing::new("md5x".to_owned())),
            Credential::ScramKeys { keys: DerivedKeys::new([3; 32], [2; 32]), secret: scram(7) },
            Credential::ScramSecretOnly(scram(8)),
        ];
        for credential in credentials {
            assert!(Credential::from_parts(&credential.to_parts()) == Some(credential));
        }
        assert!(Credential::from_parts(&[]).is_none() && Credential::from_parts(&["md5".to_owned()]).is_none());
    }

    #[test]
    fn nothing_secret_is_printed() {
        let credential = credential_from(&Secret::parse("hunter2"), &Proof::Nothing);
        assert_eq!(format!("{credential:?}"), "Plain(…)");
        assert_eq!(format!("{:?}", Proof::Password(Zeroizing::new("hunter2".to_owned()))), "Password(…)");
    }
}
