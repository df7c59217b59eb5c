//! The settings whose value is one of a few words.
//!
//! Pure: each is an enum and a table of its words in PgBouncer's spelling; one [`Kind`] serves them all. Words are read
//! in either case and printed as in the table, by `SHOW CONFIG` and by `Display` alike.

use std::fmt;

use super::values::Kind;

/// A type whose values are words.
pub trait Word: Copy + Default + PartialEq + fmt::Debug + 'static {
    /// Every value with its word.
    const WORDS: &'static [(&'static str, Self)];
}

/// When a server goes back to its pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PoolMode {
    /// When the client leaves.
    #[default]
    Session,
    /// After each transaction.
    Transaction,
    /// After each statement; transactions of several statements are refused.
    Statement,
}

impl Word for PoolMode {
    const WORDS: &'static [(&'static str, PoolMode)] =
        &[("session", PoolMode::Session), ("transaction", PoolMode::Transaction), ("statement", PoolMode::Statement)];
}

impl fmt::Display for PoolMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(word(self))
    }
}

/// How clients show who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AuthType {
    /// They don't, and the name they give is not looked at: the database must name a user.
    Any,
    /// They don't, but the name must be known.
    Trust,
    /// With a password in clear text.
    Plain,
    /// With a salted md5 hash, or by SCRAM where the stored secret is a SCRAM secret.
    #[default]
    Md5,
    /// By SCRAM-SHA-256.
    ScramSha256,
    /// With a TLS certificate.
    Cert,
    /// As the records of `auth_hba_file` say.
    Hba,
    /// With a password that PAM checks.
    Pam,
    /// With a password that an LDAP directory checks.
    Ldap,
}

impl Word for AuthType {
    const WORDS: &'static [(&'static str, AuthType)] = &[
        ("any", AuthType::Any),
        ("trust", AuthType::Trust),
        ("plain", AuthType::Plain),
        ("md5", AuthType::Md5),
        ("scram-sha-256", AuthType::ScramSha256),
        ("cert", AuthType::Cert),
        ("hba", AuthType::Hba),
        ("pam", AuthType::Pam),
        ("ldap", AuthType::Ldap),
    ];
}

impl fmt::Display for AuthType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(word(self))
    }
}

/// How much TLS a connection needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SslMode {
    /// None at all.
    #[default]
    Disable,
    /// Where the other side insists.
    Allow,
    /// Where the other side can.
    Prefer,
    /// Always; certificates are not looked at.
    Require,
    /// Always, with a certificate from the right authority.
    VerifyCa,
    /// Always, with a certificate from the right authority for the right name.
    VerifyFull,
}

impl Word for SslMode {
    const WORDS: &'static [(&'static str, SslMode)] = &[
        ("disable", SslMode::Disable),
        ("allow", SslMode::Allow),
        ("prefer", SslMode::Prefer),
        ("require", SslMode::Require),
        ("verify-ca", SslMode::VerifyCa),
        ("verify-full", SslMode::VerifyFull),
    ];
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(word(self))
    }
}

impl SslMode {
    /// Whether a connection without TLS would break the promise.
    pub fn is_strict(self) -> bool {
        matches!(self, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull)
    }
}

/// How TLS with a server begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SslNegotiation {
    /// It is asked first, in clear.
    #[default]
    Postgres,
    /// At once.
    Direct,
}

impl Word for SslNegotiation {
    const WORDS: &'static [(&'static str, SslNegotiation)] =
        &[("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)];
}

/// Which of a database's hosts a new server connects to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LoadBalanceHosts {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// The same one until connecting to it fails.
    Disable,
}

impl Word for LoadBalanceHosts {
    const WORDS: &'static [(&'static str, LoadBalanceHosts)] =
        &[("round-robin", LoadBalanceHosts::RoundRobin), ("disable", LoadBalanceHosts::Disable)];
}

impl fmt::Display for LoadBalanceHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(word(self))
    }
}

/// The drawer in which syslog files a line: those that PgBouncer knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SyslogFacility {
    /// Security.
    Auth,
    /// Security, for few eyes.
    Authpriv,
    /// System services.
    #[default]
    Daemon,
    /// Programs of users.
    User,
    /// For local use.
    Local0,
    /// For local use.
    Local1,
    /// For local use.
    Local2,
    /// For local use.
    Local3,
    /// For local use.
    Local4,
    /// For local use.
    Local5,
    /// For local use.
    Local6,
    /// For local use.
    Local7,
}

impl Word for SyslogFacility {
    const WORDS: &'static [(&'static str, SyslogFacility)] = &[
        ("auth", SyslogFacility::Auth),
        ("authpriv", SyslogFacility::Authpriv),
        ("daemon", SyslogFacility::Daemon),
        ("user", SyslogFacility::User),
        ("local0", SyslogFacility::Local0),
        ("local1", SyslogFacility::Local1),
        ("local2", SyslogFacility::Local2),
        ("local3", SyslogFacility::Local3),
        ("local4", SyslogFacility::Local4),
        ("local5", SyslogFacility::Local5),
        ("local6", SyslogFacility::Local6),
        ("local7", SyslogFacility::Local7),
    ];
}

impl SyslogFacility {
    /// The facility of this name, in either case.
    pub fn named(name: &str) -> Option<SyslogFacility> {
        SyslogFacility::parse(name)
    }

    /// Its number in RFC 3164, section 4.1.1.
    pub fn code(self) -> u8 {
        match self {
            SyslogFacility::User => 1,
            SyslogFacility::Daemon => 3,
            SyslogFacility::Auth => 4,
            SyslogFacility::Authpriv => 10,
            SyslogFacility::Local0 => 16,
            SyslogFacility::Local1 => 17,
            SyslogFacility::Local2 => 18,
            SyslogFacility::Local3 => 19,
            SyslogFacility::Local4 => 20,
            SyslogFacility::Local5 => 21,
            SyslogFacility::Local6 => 22,
            SyslogFacility::Local7 => 23,
        }
    }
}

/// What a line of the log looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LogFormat {
    /// PgBouncer's lines, for the tools that read them.
    #[default]
    Pgbouncer,
    /// One JSON object per line.
    Json,
}

impl Word for LogFormat {
    const WORDS: &'static [(&'static str, LogFormat)] =
        &[("pgbouncer", LogFormat::Pgbouncer), ("json", LogFormat::Json)];
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(word(self))
    }
}

impl<T: Word> Kind for T {
    type Value = T;
    const NAME: &'static str = "word";

    fn expected() -> String {
        let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        match words.as_slice() {
            [front @ .., last] if !front.is_empty() => format!("{} or {last}", front.join(", ")),
            all => all.concat(),
        }
    }

    fn parse(text: &str) -> Option<T> {
        T::WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, value)| *value)
    }

    fn print(value: &T) -> Option<String> {
        Some(word(value).into())
    }
}

fn word<T: Word>(value: &T) -> &'static str {
    T::WORDS.iter().find(|(_, other)| other == value).map_or("", |(word, _)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_word_reads_back<T: Word>() {
        for (text, value) in T::WORDS {
            assert_eq!(T::parse(text), Some(*value));
            assert_eq!(T::parse(&text.to_uppercase()), Some(*value));
            assert_eq!(T::print(value).as_deref(), Some(*text));
        }
        assert_eq!(T::parse(""), None);
        assert_eq!(T::parse("sesion"), None);
    }

    #[test]
    fn words_are_read_in_either_case_and_printed_in_one() {
        every_word_reads_back::<PoolMode>();
        every_word_reads_back::<AuthType>();
        every_word_reads_back::<SslMode>();
        every_word_reads_back::<SslNegotiation>();
        every_word_reads_back::<LoadBalanceHosts>();
        every_word_reads_back::<LogFormat>();
        every_word_reads_back::<SyslogFacility>();
    }

    #[test]
    fn what_was_expected_is_a_sentence_part() {
        assert_eq!(PoolMode::expected(), "session, transaction or statement");
        assert_eq!(LogFormat::expected(), "pgbouncer or json");
    }
}
