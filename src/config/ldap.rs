//! How an LDAP directory checks passwords: `auth_ldap_options`, and what follows `ldap` in `auth_hba_file`.
//!
//! Pure: text in, options out, and for a user the name or the search to send. The options are PostgreSQL's; values are
//! separated by blanks or commas, and one that has either stands in quotes. Manual: "LDAP Authentication"; URLs: RFC
//! 4516.

use ldap3::{dn_escape, ldap_escape};

use super::secret::Secret;
use super::url::unescape;

/// Stands for the user's name in `ldapsearchfilter`.
const USERNAME: &str = "$username";

/// Where the directory is, and how it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LdapOptions {
    /// Names or addresses, to be tried in order; at least one.
    pub servers: Vec<String>,
    /// The port of each.
    pub port: u16,
    /// How the connection is encrypted.
    pub tls: LdapTls,
    /// How a user's entry is found.
    pub way: LdapWay,
}

/// How a connection to a directory is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LdapTls {
    /// Not at all.
    None,
    /// From its first byte: `ldaps`.
    FromTheStart,
    /// After StartTLS.
    StartTls,
}

/// From a user's name to the name of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LdapWay {
    /// It is made of the user's name.
    Simple(LdapName),
    /// It is searched for.
    Search(LdapSearch),
}

/// What the user's name stands between, in the name that the directory is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LdapName {
    prefix: String,
    suffix: String,
}

/// A search for a user's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LdapSearch {
    /// Below which entry.
    pub base: String,
    /// How deep.
    pub scope: LdapScope,
    /// Who searches; empty is anybody.
    pub bind_dn: String,
    /// That one's password.
    pub bind_password: Secret,
    /// The filter with [`USERNAME`] in it.
    filter: String,
}

/// How deep a search goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LdapScope {
    /// The entry itself.
    Base,
    /// Its children.
    One,
    /// All below it, and itself.
    Sub,
}

/// The options as they are written.
#[derive(Default)]
struct Written {
    scheme: Option<String>,
    server: Option<String>,
    port: Option<u16>,
    start_tls: bool,
    prefix: Option<String>,
    suffix: Option<String>,
    base: Option<String>,
    scope: Option<LdapScope>,
    bind_dn: Option<String>,
    bind_password: Option<Secret>,
    attribute: Option<String>,
    filter: Option<String>,
}

impl LdapOptions {
    /// Reads options.
    ///
    /// # Errors
    /// What is wrong with them, without repeating a password.
    pub fn parse(text: &str) -> Result<LdapOptions, String> {
        let mut written = Written::default();
        let mut rest = text;
        while let Some((key, value)) = next_pair(&mut rest)? {
            written.set(&key, value)?;
        }
        written.make()
    }
}

impl LdapName {
    /// The name for a user. In a DN (`uid=`, `cn=app-`) the user's name is a value, or the end of one, and is escaped
    /// (RFC 4514): a comma would begin another part. Active Directory takes other names, too (`DOMAIN\ann`,
    /// `ann@example.com`), in which nothing can be escaped, and reads a DN or a service's name where it sees one.
    ///
    /// # Errors
    /// The user's name has a character that could make it a name of another kind, and none can be escaped.
    pub fn for_user(&self, user: &str) -> Result<String, String> {
        let LdapName { prefix, suffix } = self;
        if ends_in_value(prefix) {
            return Ok(format!("{prefix}{}{suffix}", dn_escape(user)));
        }
        // What a user says in whole breaks out of nothing.
        let whole = prefix.is_empty() && suffix.is_empty();
        let special =
            |c: char| c.is_control() || matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' | '/' | '#');
        match user.contains(special) && !whole {
            true => Err(format!(
                "{INVALID}: ldapprefix {prefix:?} and ldapsuffix {suffix:?} make no DN, in which it could be escaped"
            )),
            false => Ok(format!("{prefix}{user}{suffix}")),
        }
    }
}

/// Is what follows this text a value of a DN, or the rest of one: `uid=`, `ou=a,cn=app-`?
fn ends_in_value(text: &str) -> bool {
    let (mut value, mut quoted, mut escaped) = (false, false, false);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' if value => quoted = !quoted,
            ',' | ';' | '+' if !quoted => value = false,
            '=' => value = true,
            _ => {}
        }
    }
    // Behind a lone backslash our own escapes would be none.
    value && !escaped
}

/// What the log says of a name that cannot be used.
const INVALID: &str = "invalid character in user name for LDAP authentication";

impl LdapSearch {
    /// The filter for a user.
    ///
    /// # Errors
    /// The name has a character that PostgreSQL and PgBouncer do not let into a filter either.
    pub fn filter_for(&self, user: &str) -> Result<String, String> {
        match user.contains(['*', '(', ')', '\\', '/']) {
            true => Err(INVALID.to_owned()),
            false => Ok(self.filter.replace(USERNAME, &ldap_escape(user))),
        }
    }
}

impl Written {
    fn set(&mut self, key: &str, value: String) -> Result<(), String> {
        match key {
            "ldaptls" => self.start_tls = value == "1",
            "ldapscheme" => self.scheme = Some(scheme(&value)?),
            "ldapserver" => self.server = Some(value),
            "ldapport" => {
                let port = value.parse().ok().filter(|port| *port > 0);
                self.port = Some(port.ok_or_else(|| format!("invalid LDAP port number: {value:?}"))?);
            }
            "ldapprefix" => self.prefix = Some(value),
            "ldapsuffix" => self.suffix = Some(value),
            "ldapbasedn" => self.base = Some(value),
            "ldapbinddn" => self.bind_dn = Some(value),
            "ldapbindpasswd" => self.bind_password = Some(Secret::new(value)),
            "ldapsearchattribute" => self.attribute = Some(value),
            "ldapsearchfilter" => self.filter = Some(value),
            "ldapurl" => self.url(&value)?,
            _ => return Err(format!("invalid LDAP option: {key:?}")),
        }
        Ok(())
    }

    /// `ldap://host:port/base?attribute?scope?filter`
    fn url(&mut self, url: &str) -> Result<(), String> {
        let bad = |why: &str| format!("could not parse LDAP URL {url:?}: {why}");
        let (scheme_text, rest) = url.split_once("://").ok_or_else(|| bad("there is no ldap://"))?;
        self.scheme = Some(scheme(&scheme_text.to_ascii_lowercase())?);
        let (authority, rest) = match rest.find(['/', '?']) {
            Some(end) => rest.split_at(end),
            None => (rest, ""),
        };
        let (host, port) = match authority.rsplit_once(':') {
            // A colon in brackets is the address's own.
            Some((host, port)) if !port.contains(']') => (host, Some(port).filter(|port| !port.is_empty())),
            _ => (authority, None),
        };
        let unescaped = |text: &str| unescape(text).map_err(|error| bad(&format!("expected {error}")));
        self.server = Some(unescaped(host)?).filter(|host| !host.is_empty()).or(self.server.take());
        if let Some(port) = port {
            self.port = Some(port.parse().ok().filter(|port| *port > 0).ok_or_else(|| bad("its port is none"))?);
        }
        let mut parts = rest.strip_prefix('/').unwrap_or(rest).splitn(5, '?').map(unescaped);
        let mut part = || parts.next().transpose().map(|part| part.filter(|part| !part.is_empty()));
        self.base = Some(part()?.unwrap_or_default());
        if let Some(attributes) = part()? {
            self.attribute = attributes.split(',').next().map(str::to_owned);
        }
        self.scope = Some(match part()?.map(|scope| scope.to_ascii_lowercase()).as_deref() {
            None | Some("base") => LdapScope::Base,
            Some("one" | "onelevel") => LdapScope::One,
            Some("sub" | "subtree") => LdapScope::Sub,
            Some(_) => return Err(bad("its scope is not base, one or sub")),
        });
        if let Some(filter) = part()? {
            self.filter = Some(filter);
        }
        match part()? {
            Some(_) => Err(bad("extensions are not supported")),
            None => Ok(()),
        }
    }

    fn make(self) -> Result<LdapOptions, String> {
        let tls = match (self.scheme.as_deref(), self.start_tls) {
            (Some("ldaps"), true) => return Err("cannot use ldaptls together with ldaps".to_owned()),
            (Some("ldaps"), false) => LdapTls::FromTheStart,
            (_, true) => LdapTls::StartTls,
            (_, false) => LdapTls::None,
        };
        let servers: Vec<String> =
            self.server.iter().flat_map(|servers| servers.split_whitespace()).map(str::to_owned).collect();
        let searches = self.base.is_some()
            || self.bind_dn.is_some()
            || self.bind_password.is_some()
            || self.attribute.is_some()
            || self.filter.is_some();
        let way = match (self.prefix, self.suffix, self.base) {
            (None, None, None) => {
                return Err("authentication method \"ldap\" requires argument \"ldapbasedn\", \"ldapprefix\", or \
                            \"ldapsuffix\" to be set"
                    .to_owned());
            }
            (None, None, Some(base)) => LdapWay::Search(LdapSearch {
                base,
                scope: self.scope.unwrap_or(LdapScope::Sub),
                bind_dn: self.bind_dn.unwrap_or_default(),
                bind_password: self.bind_password.unwrap_or_default(),
                filter: match (self.attribute, self.filter) {
                    (Some(_), Some(_)) => {
                        return Err("cannot use ldapsearchattribute together with ldapsearchfilter".to_owned());
                    }
                    (None, Some(filter)) => filter,
                    (attribute, None) => format!("({}={USERNAME})", attribute.as_deref().unwrap_or("uid")),
                },
            }),
            _ if searches => return Err("cannot mix options for simple bind and search+bind modes".to_owned()),
            (prefix, suffix, _) => {
                LdapWay::Simple(LdapName { prefix: prefix.unwrap_or_default(), suffix: suffix.unwrap_or_default() })
            }
        };
        if servers.is_empty() {
            return Err("there is no ldapserver (servers are not looked for in DNS SRV records)".to_owned());
        }
        let usual_port = if tls == LdapTls::FromTheStart { 636 } else { 389 };
        Ok(LdapOptions { servers, port: self.port.unwrap_or(usual_port), tls, way })
    }
}

fn scheme(text: &str) -> Result<String, String> {
    match text {
        "ldap" | "ldaps" => Ok(text.to_owned()),
        _ => Err(format!("invalid ldapscheme value: {text:?}")),
    }
}

/// Takes a `key=value` off the text; either may be in quotes, in which two quotes are one.
fn next_pair(rest: &mut &str) -> Result<Option<(String, String)>, String> {
    let separator = |c: char| c.is_whitespace() || c == ',';
    let text = rest.trim_start_matches(separator);
    if text.is_empty() {
        return Ok(None);
    }
    let (key, text) = match text.strip_prefix('"') {
        Some(quoted) => quoted_text(quoted)?,
        None => {
            let end = text.find(|c: char| c == '=' || separator(c)).unwrap_or(text.len());
            (text[..end].to_owned(), &text[end..])
        }
    };
    let text = text.strip_prefix('=').ok_or_else(|| format!("LDAP option {key:?} has no value"))?;
    let (value, text) = match text.strip_prefix('"') {
        Some(quoted) => quoted_text(quoted)?,
        None => {
            let end = text.find(separator).unwrap_or(text.len());
            (text[..end].to_owned(), &text[end..])
        }
    };
    *rest = text;
    Ok(Some((key, value)))
}

/// What stands before the closing quote, and the text after it.
fn quoted_text(text: &str) -> Result<(String, &str), String> {
    let mut inside = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"').ok_or("a quote does not end")?;
        inside.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                inside.push('"');
                rest = after;
            }
            None => return Ok((inside, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> LdapOptions {
        LdapOptions::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    fn search(text: &str) -> LdapSearch {
        match parse(text).way {
            LdapWay::Search(search) => search,
            LdapWay::Simple(_) => panic!("{text}: no search"),
        }
    }

    #[test]
    fn a_name_is_made_of_prefix_user_and_suffix() {
        let options =
            parse("ldapserver=\"a.example b.example\" ldapprefix=\"uid=\", ldapsuffix=\",dc=example,dc=net\"");

        assert_eq!(
            (options.servers.as_slice(), options.port),
            (["a.example", "b.example"].map(str::to_owned).as_slice(), 389)
        );
        assert_eq!(options.tls, LdapTls::None);
        assert_eq!(name(&options, "ann").as_deref(), Ok("uid=ann,dc=example,dc=net"));
        let windows = parse("ldapserver=h ldapprefix=CORP\\ ldaptls=1");
        assert_eq!(name(&windows, "ann").as_deref(), Ok("CORP\\ann"));
        assert_eq!(windows.tls, LdapTls::StartTls);
    }

    fn name(options: &LdapOptions, user: &str) -> Result<String, String> {
        match &options.way {
            LdapWay::Simple(name) => name.for_user(user),
            LdapWay::Search(_) => panic!("a search"),
        }
    }

    fn named(prefix: &str, user: &str, suffix: &str) -> Result<String, String> {
        LdapName { prefix: prefix.to_owned(), suffix: suffix.to_owned() }.for_user(user)
    }

    #[test]
    fn in_a_dn_a_users_name_is_a_value_and_nothing_more() {
        for (prefix, suffix) in [
            ("uid=", ",dc=x"),
            ("UID = ", ",dc=x"),
            ("cn=app-", ",dc=x"),
            ("ou=a\\,b,cn=app", " (here),dc=x"),
            ("ou=a+cn=", ",dc=x"),
            ("cn=\"a, ", "\",dc=x"),
            ("uid=", ""),
        ] {
            let sly = named(prefix, "ann,ou=robots", suffix);
            assert_eq!(sly, Ok(format!("{prefix}ann\\2cou\\3drobots{suffix}")), "a comma begins no other part");
            assert_eq!(named(prefix, "#6a", suffix), Ok(format!("{prefix}\\236a{suffix}")));
            assert_eq!(
                named(prefix, " a\"+b\\;<> ", suffix),
                Ok(format!("{prefix}\\20a\\22\\2bb\\5c\\3b\\3c\\3e\\20{suffix}"))
            );
            assert_eq!(named(prefix, "ann@x y\u{e4}", suffix), Ok(format!("{prefix}ann@x y\u{e4}{suffix}")));
        }
    }

    #[test]
    fn elsewhere_a_users_name_has_no_special_character() {
        for (prefix, suffix) in [
            ("CORP\\", ""),
            ("", "@example.com"),
            ("", ",dc=x"),
            ("dc=x,", ""),
            ("dc=x;", ""),
            ("dc=x+", ""),
            // Our escapes would be none behind it.
            ("cn=CORP\\", ",dc=x"),
            ("cn\\=", ",dc=x"),
        ] {
            assert_eq!(named(prefix, "ann.b-c", suffix), Ok(format!("{prefix}ann.b-c{suffix}")));
            for sly in
                ["cn=ann,dc=y", "a,b", "a=b", "a\\b", "a+b", "\"a\"", "#6a", "a;b", "<a>", "HOST/a", "a\0", "a\nb"]
            {
                let why = named(prefix, sly, suffix).expect_err(sly);
                assert!(why.starts_with("invalid character in user name for LDAP authentication: ldapprefix"), "{why}");
            }
        }
        // There is nothing around it to break out of.
        for user in ["ann@example.com", "CORP\\ann", "cn=ann,dc=x"] {
            assert_eq!(named("", user, ""), Ok(user.to_owned()));
        }
    }

    #[test]
    fn a_search_has_a_filter_for_the_user() {
        let plain = search("ldapserver=h ldapport=3389 ldapbasedn=\"dc=example,dc=net\"");
        assert_eq!(plain.filter_for("ann").as_deref(), Ok("(uid=ann)"));
        assert_eq!((plain.base.as_str(), plain.scope), ("dc=example,dc=net", LdapScope::Sub));
        let named =
            search("ldapserver=h ldapbasedn=x ldapsearchattribute=mail ldapbinddn=\"cn=a \"\"b\"\"\" ldapbindpasswd=p");
        assert_eq!(named.filter_for("ann@x").as_deref(), Ok("(mail=ann@x)"));
        assert_eq!((named.bind_dn.as_str(), named.bind_password.reveal()), ("cn=a \"b\"", "p"));
        let free = search("ldapserver=h ldapbasedn=x ldapsearchfilter=\"(|(uid=$username)(mail=$username))\"");
        assert_eq!(free.filter_for("ann").as_deref(), Ok("(|(uid=ann)(mail=ann))"));
        for sly in ["*", "a)(uid=b", "a\\2a", "a/b"] {
            assert!(free.filter_for(sly).is_err(), "{sly}");
        }
        assert_eq!(free.filter_for("\u{1}\u{e4}").as_deref(), Ok("(|(uid=\u{1}\u{e4})(mail=\u{1}\u{e4}))"));
    }

    #[test]
    fn a_url_says_it_all() {
        let options = parse("ldapurl=\"ldaps://[::1]:1636/dc=example,dc=net?uid?sub\"");
        assert_eq!((options.servers[0].as_str(), options.port, options.tls), ("[::1]", 1636, LdapTls::FromTheStart));
        let whole = search("ldapurl=\"ldap://h/dc=a%20b??one?(mail=$username)\" ldapbinddn=cn=x");
        assert_eq!((whole.base.as_str(), whole.scope, whole.bind_dn.as_str()), ("dc=a b", LdapScope::One, "cn=x"));
        assert_eq!(whole.filter_for("ann").as_deref(), Ok("(mail=ann)"));
        assert_eq!(search("ldapurl=ldap://h/dc=x?cn").scope, LdapScope::Base, "as RFC 4516 says");
        assert_eq!(parse("ldapurl=ldaps://h/dc=x").port, 636);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            ("", "requires argument \"ldapbasedn\""),
            ("ldapserver=h", "requires argument \"ldapbasedn\""),
            ("ldapprefix=a", "there is no ldapserver"),
            ("ldapserver=h ldapprefix=a ldapbasedn=b", "cannot mix options"),
            ("ldapserver=h ldapbasedn=b ldapsearchattribute=a ldapsearchfilter=f", "cannot use ldapsearchattribute"),
            ("ldapserver=h ldapprefix=a ldapport=0", "invalid LDAP port number: \"0\""),
            ("ldapserver=h ldapprefix=a ldapport=65536", "invalid LDAP port number"),
            ("ldapserver=h ldapprefix=a ldapscheme=http", "invalid ldapscheme value: \"http\""),
            ("ldapurl=http://h/", "invalid ldapscheme value: \"http\""),
            ("ldapurl=ldap://h/x?a?deep", "its scope"),
            ("ldapurl=ldap://h/x%2", "two hexadecimal digits"),
            ("ldapurl=ldap://h/x????!ext", "extensions"),
            ("ldapserver=h ldapprefix=a ldapscheme=ldaps ldaptls=1", "cannot use ldaptls together with ldaps"),
            ("ldapserver", "LDAP option \"ldapserver\" has no value"),
            ("ldapserver=\"h", "a quote does not end"),
            ("ldapservr=h", "invalid LDAP option: \"ldapservr\""),
        ] {
            let said = LdapOptions::parse(text).expect_err(text);
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let options = parse("ldapserver=h ldapbasedn=b ldapbindpasswd=hunter2");
        assert!(!format!("{options:?}").contains("hunter2"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn any_text_is_read_or_refused(
            text in "((ldap(url|server|prefix|basedn|port|tls)|x)=?[a-c\"=,%:/?\\[\\] \\PC]{0,20}[ ,]?){0,4}",
        ) {
            let _ = LdapOptions::parse(&text);
        }

        #[test]
        fn no_name_changes_the_shape_of_a_dn(
            prefix in "(uid|cn=svc|ou=a,cn)=?[a-z\\\\ ]{0,3}",
            user in "[a,=+;#\"\\\\ ]{1,8}",
        ) {
            // Each part of a DN has one "=" that is not escaped, and parts are joined by separators that are not.
            let shape = |text: &str| {
                let (mut shape, mut escaped) = (String::new(), false);
                for c in text.chars() {
                    match c {
                        _ if escaped => escaped = false,
                        '\\' => escaped = true,
                        ',' | ';' | '+' | '=' | '"' => shape.push(c),
                        _ => {}
                    }
                }
                shape
            };
            if let Ok(entry) = named(&prefix, &user, ",dc=x") {
                prop_assert_eq!(shape(&entry), shape(&format!("{prefix}ann,dc=x")));
            }
        }

        #[test]
        fn no_name_changes_the_shape_of_a_filter(user in "\\PC{1,20}") {
            if let Ok(filter) = search("ldapserver=h ldapbasedn=b").filter_for(&user) {
                prop_assert!(!filter[1..filter.len() - 1].contains(['(', ')', '*', '\\']));
            }
        }
    }
}
