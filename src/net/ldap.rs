//! Passwords that an LDAP directory checks.
//!
//! ```text
//!   login ─► a place in line ─► the thread "ldap": connect, TLS ─► (bind, search) ─► bind as the user ─► yes | why not
//! ```
//!
//! The line and the thread are [`outside`](super::outside)'s.
//!
//! - `trust` which certificates of directories are good

mod trust;

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry, SearchOptions, StdStream};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::dns::Dns;
use super::outside::{Line, Refusal};
use crate::config::ldap::{LdapOptions, LdapScope, LdapSearch, LdapTls, LdapWay};
use trust::Trust;

/// For each address of a directory, as PgBouncer has it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// For each step after that: TLS, a bind, a search.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// More entries than one are as good as many.
const ENTRIES_MAX: i32 = 2;

/// RFC 4511, section 4.1.9.
const SUCCESS: u32 = 0;
const SIZE_LIMIT_EXCEEDED: u32 = 4;

/// Checks passwords with directories. A clone is the same.
#[derive(Clone)]
pub struct Directories {
    shared: Arc<Shared>,
}

struct Shared {
    dns: Dns,
    trust: Trust,
    line: Line,
}

impl Directories {
    /// Nothing runs yet. Names of directories are looked up by `dns`.
    pub fn new(dns: Dns) -> Directories {
        Directories { shared: Arc::new(Shared { dns, trust: Trust::default(), line: Line::new("LDAP") }) }
    }

    /// Is this the password of `user`?
    ///
    /// # Errors
    /// It is not, or nobody knows; in words for the log.
    ///
    /// Cancel safe: a check that nobody waits for ends.
    pub async fn check(&self, options: LdapOptions, user: String, password: Zeroizing<String>) -> Result<(), Refusal> {
        let shared = self.shared.clone();
        self.shared.line.run(async move { shared.check(&options, &user, &password).await }).await
    }
}

impl fmt::Debug for Directories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Directories")
    }
}

impl Shared {
    async fn check(&self, options: &LdapOptions, user: &str, password: &str) -> Result<(), Refusal> {
        if password.is_empty() {
            // To a directory a bind without a password is one as nobody, and succeeds.
            return Err(Refusal("an empty password proves nothing".into()));
        }
        let (mut ldap, server) = self.connect(options).await?;
        let entry = match &options.way {
            LdapWay::Search(search) => find(&mut ldap, &server, search, user).await?,
            LdapWay::Simple(name) => name.for_user(user).map_err(Refusal)?,
        };
        if entry.trim().is_empty() {
            return Err(Refusal(format!("LDAP user \"{user}\" has an entry without a name, which proves nothing")));
        }
        let outcome = bind(&mut ldap, &entry, password).await;
        let _ = timeout(STEP_TIMEOUT, ldap.unbind()).await;
        outcome.map_err(|why| Refusal(format!("LDAP login failed for user {entry} on server {server}: {why}")))
    }

    /// The first server that can be reached.
    async fn connect(&self, options: &LdapOptions) -> Result<(Ldap, String), Refusal> {
        let mut said = Vec::new();
        for server in &options.servers {
            let name = server.trim_start_matches('[').trim_end_matches(']');
            match self.connect_to(options, name).await {
                Ok(ldap) => return Ok((ldap, server.clone())),
                Err(why) => said.push(format!("{server}, port: {}: {why}", options.port)),
            }
        }
        let step = if options.tls == LdapTls::None { "connect to LDAP" } else { "start LDAP TLS session with" };
        Err(Refusal(format!("could not {step} server: {}", said.join("; "))))
    }

    async fn connect_to(&self, options: &LdapOptions, server: &str) -> Result<Ldap, String> {
        let answer = self.dns.lookup(server).await.map_err(|why| why.to_string())?;
        let mut reached = Err("the name has no address".to_owned());
        for address in answer.addresses {
            reached = in_time(CONNECT_TIMEOUT, TcpStream::connect((address, options.port))).await;
            if reached.is_ok() {
                break;
            }
        }
        let stream = reached.inspect_err(|_| self.dns.expire(server))?;
        let stream = stream.into_std().map_err(|error| error.to_string())?;
        // The same socket once more, to hear of its end: that alone wakes who waits for urgent data.
        let ending = stream.try_clone().and_then(TcpStream::from_std).map_err(|error| error.to_string())?;
        let mut settings = LdapConnSettings::new().set_std_stream(StdStream::Tcp(stream));
        if options.tls != LdapTls::None {
            settings = self.trust.apply(settings)?.set_starttls(options.tls == LdapTls::StartTls);
        }
        let scheme = if options.tls == LdapTls::FromTheStart { "ldaps" } else { "ldap" };
        let host = if server.contains(':') { format!("[{server}]") } else { server.to_owned() };
        let url = format!("{scheme}://{host}:{}", options.port);
        // The library would wait for an answer to StartTLS from a server that has hung up.
        let (connection, ldap) = tokio::select! {
            biased;
            begun = in_time(STEP_TIMEOUT, LdapConnAsync::with_settings(settings, &url)) => begun?,
            _ = ending.ready(Interest::PRIORITY) => return Err("the server closed the connection".to_owned()),
        };
        // It ends when the handle is dropped.
        tokio::spawn(async move {
            if let Err(error) = connection.drive().await {
                tracing::debug!("the connection to the LDAP server broke: {error}");
            }
        });
        Ok(ldap)
    }
}

/// The name of the only entry that fits.
async fn find(ldap: &mut Ldap, server: &str, search: &LdapSearch, user: &str) -> Result<String, Refusal> {
    let filter = search.filter_for(user).map_err(Refusal)?;
    bind(ldap, &search.bind_dn, search.bind_password.reveal()).await.map_err(|why| {
        let name = &search.bind_dn;
        Refusal(format!("could not perform initial LDAP bind for ldapbinddn \"{name}\" on server \"{server}\": {why}"))
    })?;
    let failed =
        |why: String| Refusal(format!("could not search LDAP for filter \"{filter}\" on server \"{server}\": {why}"));
    let scope = match search.scope {
        LdapScope::Base => Scope::Base,
        LdapScope::One => Scope::OneLevel,
        LdapScope::Sub => Scope::Subtree,
    };
    let ldap = ldap.with_search_options(SearchOptions::new().sizelimit(ENTRIES_MAX));
    // "1.1" is no attribute at all.
    let found = in_time(STEP_TIMEOUT, ldap.search(&search.base, scope, &filter, ["1.1"])).await.map_err(failed)?;
    let ldap3::SearchResult(entries, result) = found;
    if result.rc != SUCCESS && result.rc != SIZE_LIMIT_EXCEEDED {
        return Err(failed(result.to_string()));
    }
    // References to other directories are not followed.
    let entries = entries.into_iter().filter(|entry| !entry.is_ref() && !entry.is_intermediate());
    let names: HashSet<String> = entries.map(|entry| SearchEntry::construct(entry).dn).collect();
    let count = names.len();
    match names.into_iter().next() {
        Some(name) if count == 1 && result.rc == SUCCESS => Ok(name),
        first => {
            let how = if first.is_none() { "does not exist" } else { "is not unique" };
            let entries = if first.is_none() { "no entries" } else { "more than one entry" };
            Err(Refusal(format!(
                "LDAP user \"{user}\" {how}: LDAP search for filter \"{filter}\" on server \"{server}\" \
                 returned {entries}"
            )))
        }
    }
}

async fn bind(ldap: &mut Ldap, name: &str, password: &str) -> Result<(), String> {
    let result = in_time(STEP_TIMEOUT, ldap.simple_bind(name, password)).await?;
    match result.rc {
        SUCCESS => Ok(()),
        _ => Err(result.to_string()),
    }
}

async fn in_time<T, E: Into<Failure>>(time: Duration, step: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match timeout(time, step).await {
        Ok(outcome) => outcome.map_err(|error| error.into().0),
        Err(_) => Err(format!("no answer within {} seconds", time.as_secs())),
    }
}

struct Failure(String);

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure(error.to_string())
    }
}

impl From<LdapError> for Failure {
    fn from(error: LdapError) -> Failure {
        Failure(error.to_string())
    }
}
