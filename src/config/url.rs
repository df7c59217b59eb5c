//! `DATABASE_URL`: `postgres://user:password@host:port/database?sslmode=prefer`.
//!
//! Pure: takes the URL apart as libpq does (PostgreSQL manual, "Connection URIs"), hosts in lists and `%`-escapes
//! included. The generic URL parsers refuse lists of hosts, and PostgreSQL drivers hand out no parts, so this one is
//! ours. What each part means for a pool is decided in `env`. No error repeats any of the URL: it holds a password.

use std::fmt;

use super::secret::Secret;

/// A URL's parts; `None` and empty where the URL does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatabaseUrl {
    /// The user's name.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// Hosts as in `[databases]`: names, addresses, or directories of Unix sockets.
    pub hosts: Vec<String>,
    /// Ports as text; as many as hosts, one, or none.
    pub ports: Vec<String>,
    /// The database's name.
    pub dbname: Option<String>,
    /// What stands behind `?`, in order.
    pub parameters: Vec<(String, String)>,
}

/// What is wrong with a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// It starts with neither `postgres://` nor `postgresql://`.
    Scheme,
    /// A `%` is not followed by two hexadecimal digits, or the bytes are not UTF-8.
    Escape,
    /// A `[` without its `]`.
    OpenBracket,
    /// Some hosts have a port and some do not.
    SomePorts,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UrlError::Scheme => "a URL that starts with postgres:// or postgresql://",
            UrlError::Escape => "two hexadecimal digits after each % (a % itself is written %25), giving UTF-8",
            UrlError::OpenBracket => "a ] after the address in [",
            UrlError::SomePorts => "a port for every host or for none",
        })
    }
}

impl std::error::Error for UrlError {}

/// Takes a URL apart.
///
/// # Errors
/// The first thing that is not as it should be.
pub fn parse(url: &str) -> Result<DatabaseUrl, UrlError> {
    let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    let rest = rest.ok_or(UrlError::Scheme)?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    // The last @ ends the login, so that a password may hold one unescaped.
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').map_or((login, None), |(user, word)| (user, Some(word)));

    let mut parts = DatabaseUrl {
        user: some(unescape(user)?),
        password: password.map(unescape).transpose()?.and_then(some).map(Secret::new),
        dbname: some(unescape(path)?),
        ..DatabaseUrl::default()
    };
    for host in hosts.split(',').filter(|_| !hosts.is_empty()) {
        let (host, port) = host_and_port(host)?;
        parts.hosts.push(unescape(host)?);
        parts.ports.extend(port.map(str::to_string));
    }
    if !parts.ports.is_empty() && parts.ports.len() != parts.hosts.len() {
        return Err(UrlError::SomePorts);
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        parts.parameters.push((unescape(key)?, unescape(value)?));
    }
    Ok(parts)
}

fn host_and_port(text: &str) -> Result<(&str, Option<&str>), UrlError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (host, after) = bracketed.split_once(']').ok_or(UrlError::OpenBracket)?;
            (host, after.strip_prefix(':'))
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    Ok((host, port.filter(|port| !port.is_empty())))
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

pub(super) fn unescape(text: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let digits = rest.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit)).ok_or(UrlError::Escape)?;
        let digits = std::str::from_utf8(digits).map_err(|_| UrlError::Escape)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| UrlError::Escape)?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).ok_or(UrlError::Escape)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_url_gives_every_part() {
        let parts = parse("postgres://ann:p%40ss@db.example:5433/my%20db?sslmode=prefer&application_name=a");

        let parts = parts.expect("it is in order");
        assert_eq!(parts.user.as_deref(), Some("ann"));
        assert_eq!(parts.password, Some(Secret::new("p@ss")));
        assert_eq!((parts.hosts, parts.ports), (vec!["db.example".to_string()], vec!["5433".to_string()]));
        assert_eq!(parts.dbname.as_deref(), Some("my db"));
        let parameters = [("sslmode", "prefer"), ("application_name", "a")];
        assert_eq!(parts.parameters, parameters.map(|(key, value)| (key.to_string(), value.to_string())));
    }

    #[test]
    fn everything_but_the_scheme_may_be_left_out() {
        assert_eq!(parse("postgresql://"), Ok(DatabaseUrl::default()));
        assert_eq!(parse("postgres://h").map(|parts| parts.hosts), Ok(vec!["h".to_string()]));
        assert_eq!(parse("postgres:///db").map(|parts| parts.dbname), Ok(Some("db".to_string())));
    }

    #[test]
    fn hosts_come_in_lists_in_brackets_and_escaped() {
        let parts = parse("postgres://u@[::1]:5432,%2Frun%2Fpg:5433/db").expect("it is in order");

        assert_eq!(parts.hosts, ["::1", "/run/pg"]);
        assert_eq!(parts.ports, ["5432", "5433"]);
    }

    #[test]
    fn what_is_broken_is_named_without_the_url() {
        assert_eq!(parse("mysql://x"), Err(UrlError::Scheme));
        assert_eq!(parse("postgres://u:100%@h"), Err(UrlError::Escape));
        assert_eq!(parse("postgres://u:%ff@h"), Err(UrlError::Escape));
        assert_eq!(parse("postgres://[::1"), Err(UrlError::OpenBracket));
        assert_eq!(parse("postgres://a:1,b"), Err(UrlError::SomePorts));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn any_text_is_read_or_refused(text in "(postgres://)?[a-c%0-9:@/?&=,\\[\\]\\PC]{0,40}") {
            let _ = parse(&text);
        }
    }
}
