//! The list of users, `auth_file`: one user per line, `"name" "secret"`.
//!
//! Pure: bytes in, users and secrets out. A quote inside quotes is written as two; what follows the secret on its line
//! is ignored, as are empty lines and lines that start with `;`. A secret is a password, `md5` and 32 hexadecimal
//! digits, or a SCRAM secret as PostgreSQL stores it; `auth` tells them apart. Unlike PgBouncer, which stops at the
//! first broken line and goes on with the users above it, every broken line is reported and the file refused. Neither
//! names nor secrets may run over the end of a line.

use std::collections::HashMap;
use std::fmt;

use super::draft::Login;
use super::problem::Place;
use super::secret::Secret;

/// The longest name of a user, in bytes.
pub const USER_LENGTH_MAX: usize = 127;

/// The longest password or secret, in bytes.
pub const SECRET_LENGTH_MAX: usize = 65_530;

/// Every user's secret. An empty one admits nobody who needs a password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(HashMap<String, Secret>);

impl Secrets {
    /// The secret of `user`; `None` where there is no such user.
    pub fn find(&self, user: &str) -> Option<&str> {
        self.0.get(user).map(Secret::reveal)
    }

    /// Every user, in no order.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The users and their secrets.
    pub(super) fn into_pairs(self) -> impl Iterator<Item = (String, Secret)> {
        self.0.into_iter()
    }

    /// The users as logins, all from `place`.
    pub(super) fn into_logins(self, place: &Place) -> impl Iterator<Item = Login> {
        self.0.into_iter().map(|(user, secret)| Login { user, secret, place: place.clone() })
    }

    /// Adds users, in place of those of the same names.
    pub(super) fn add_all(&mut self, others: impl IntoIterator<Item = (String, Secret)>) {
        self.0.extend(others);
    }

    /// The users whom `others` has with another secret, in alphabetical order.
    pub(super) fn contradicted_by(&self, others: &Secrets) -> Vec<String> {
        let differs = |user: &&String| others.0.get(*user).is_some_and(|secret| Some(secret) != self.0.get(*user));
        let mut users: Vec<String> = self.0.keys().filter(differs).cloned().collect();
        users.sort_unstable();
        users
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets of {} users", self.0.len())
    }
}

/// What is wrong with a line of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFault {
    /// It is not a name and a secret in double quotes.
    NotQuoted,
    /// It is not UTF-8.
    NotText,
    /// The name is longer than [`USER_LENGTH_MAX`].
    NameTooLong,
    /// The secret is longer than [`SECRET_LENGTH_MAX`].
    SecretTooLong,
}

impl fmt::Display for LineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LineFault::NotQuoted => f.write_str("\"user\" \"secret\", both in double quotes"),
            LineFault::NotText => f.write_str("text in UTF-8"),
            LineFault::NameTooLong => write!(f, "a user's name of at most {USER_LENGTH_MAX} bytes"),
            LineFault::SecretTooLong => write!(f, "a secret of at most {SECRET_LENGTH_MAX} bytes"),
        }
    }
}

/// The users of a list. Where a name stands twice, the later line counts.
///
/// # Errors
/// Every broken line by its number, counted from 1.
pub fn parse(bytes: &[u8]) -> Result<Secrets, Vec<(u32, LineFault)>> {
    let mut secrets = HashMap::new();
    let mut faults = Vec::new();
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        match user(line.trim_ascii()) {
            Ok(None) => {}
            Ok(Some((name, secret))) => {
                secrets.insert(name, secret);
            }
            Err(fault) => faults.push((number, fault)),
        }
    }
    if faults.is_empty() { Ok(Secrets(secrets)) } else { Err(faults) }
}

/// A line that [`parse`] reads as this user; neither may hold a line break.
pub fn print(user: &str, secret: &str) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    format!("{} {}\n", quoted(user), quoted(secret))
}

fn user(line: &[u8]) -> Result<Option<(String, Secret)>, LineFault> {
    if line.is_empty() || line.starts_with(b";") {
        return Ok(None);
    }
    let (name, rest) = quoted(line).ok_or(LineFault::NotQuoted)?;
    // PgBouncer looks for the next quote, whatever stands before it.
    let start = rest.iter().position(|byte| *byte == b'"').ok_or(LineFault::NotQuoted)?;
    let (secret, _) = quoted(&rest[start..]).ok_or(LineFault::NotQuoted)?;
    if name.len() > USER_LENGTH_MAX {
        return Err(LineFault::NameTooLong);
    }
    if secret.len() > SECRET_LENGTH_MAX {
        return Err(LineFault::SecretTooLong);
    }
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| LineFault::NotText);
    Ok(Some((text(name)?, Secret::new(text(secret)?))))
}

/// The quoted bytes at the start of `bytes`, unquoted, and what follows them.
fn quoted(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut rest = bytes.strip_prefix(b"\"")?;
    let mut unquoted = Vec::new();
    loop {
        let end = rest.iter().position(|byte| *byte == b'"')?;
        unquoted.extend_from_slice(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix(b"\"") {
            Some(after) => {
                unquoted.push(b'"');
                rest = after;
            }
            None => return Some((unquoted, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_line_is_a_user_and_a_secret() {
        let list = b"; people\r\n\"ann\" \"md5abc\" \"ignored\"\r\n\n  \"a \"\"b\"\"\"   \"\"\n\"ann\"\t\"later\" x\n";

        let secrets = parse(list).expect("it is in order");

        assert_eq!(secrets.find("ann"), Some("later"));
        assert_eq!(secrets.find("a \"b\""), Some(""));
        assert_eq!(secrets.find("bob"), None);
        assert_eq!(secrets.len(), 2);
    }

    #[test]
    fn every_broken_line_is_reported_by_number() {
        let long = format!("\"{}\" \"x\"", "n".repeat(128));
        let list = [b"\"ann\"\nbob secret\n\"c\" \"\xff\"\n".as_slice(), long.as_bytes()].concat();

        let faults = parse(&list).expect_err("it is broken");

        assert_eq!(
            faults,
            [
                (1, LineFault::NotQuoted),
                (2, LineFault::NotQuoted),
                (3, LineFault::NotText),
                (4, LineFault::NameTooLong)
            ]
        );
    }

    #[test]
    fn secrets_are_not_printed() {
        let secrets = parse(b"\"ann\" \"hunter2\"").expect("it is in order");

        assert_eq!(format!("{secrets:?}"), "Secrets of 1 users");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn what_is_printed_reads_back(user in "[ -~é\"]{1,20}", secret in "[ -~é\"]{0,40}") {
            let secrets = parse(print(&user, &secret).as_bytes()).expect("what we print is in order");
            prop_assert_eq!(secrets.find(&user), Some(secret.as_str()));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
