//! Text that must never be printed: passwords and stored secrets.
//!
//! Pure: a wrapper whose `Debug` hides what is inside and whose memory is wiped when it goes. There is no `Display`:
//! whoever needs the text says [`Secret::reveal`], so that every use can be found by name.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A password or stored secret; printing it prints `***`.
#[derive(Clone, Default)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes charge of `text`.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(Zeroizing::new(text.into()))
    }

    /// The text itself: for comparing and deriving, never for logs.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Takes the same time wherever two secrets of one length differ.
impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_stars() {
        let secret = Secret::new("hunter2");

        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "*** Some(***)");
        assert_eq!(secret.reveal(), "hunter2");
    }

    #[test]
    fn secrets_are_equal_where_their_texts_are() {
        assert_eq!(Secret::new("hunter2"), Secret::new("hunter2"));
        for other in ["hunter3", "Hunter2", "hunter", "hunter22", ""] {
            assert_ne!(Secret::new("hunter2"), Secret::new(other));
        }
    }
}
