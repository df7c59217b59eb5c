//! auth_type hba: which record of auth_hba_file fits a client, and the methods that are no dialogue.
//!
//! Names of hosts are looked up and system users asked for only when a record that would fit needs it, off the I/O
//! threads where that could block.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use nix::unistd::User;

use super::farewell::Farewell;
use crate::auth::{Checker, Method};
use crate::config::hba::{ClientCert, Hba, HbaMethod, Record, Search, Surroundings, Whence};
use crate::config::ident::IdentMap;
use crate::config::ldap::LdapOptions;
use crate::net::dns::Dns;
use crate::net::interfaces::own_nets;
use crate::net::tls::PeerNames;
use crate::stats::lines::Tag;
use crate::stats::roster::{ClientCard, Endpoint};

const LDAP_FAILED: Farewell = Farewell::Unproven("LDAP authentication failed");
const PAM_FAILED: Farewell = Farewell::Unproven("PAM authentication failed");

/// What a record asks of the client it fits.
#[derive(Debug)]
pub(super) enum Asked {
    /// A dialogue.
    Dialogue(Method),
    /// Nothing: it has shown who it is.
    Nothing,
}

/// Who checks a password in our place.
#[derive(Debug)]
pub(super) enum Outside {
    /// A directory.
    Ldap(LdapOptions),
    /// PAM, by the rules of this service.
    Pam(Arc<str>),
}

impl Outside {
    pub(super) fn method(&self) -> Method {
        match self {
            Outside::Ldap(_) => Method::Outside(Checker::Ldap),
            Outside::Pam(_) => Method::Outside(Checker::Pam),
        }
    }
}

/// A client whose record is looked for.
pub(super) struct Applicant<'a> {
    pub(super) card: &'a ClientCard,
    /// Is the connection encrypted?
    pub(super) tls: bool,
    /// The names of its certificate; `None` without one.
    pub(super) certified: Option<&'a PeerNames>,
    /// Does it ask for physical replication?
    pub(super) physical_replication: bool,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
    /// Do we know the user?
    pub(super) known: bool,
}

impl Applicant<'_> {
    /// Does what the first record that fits says, up to a dialogue.
    pub(super) async fn apply(&self, hba: &Hba, dns: &Dns) -> Result<Asked, Farewell> {
        let Some(record) = self.record(hba, dns).await else {
            return Err(Farewell::Unproven("no authentication method is found"));
        };
        tracing::debug!(conn = ?Tag::client(self.card), "{}: this record of auth_hba_file fits", record.place);
        self.has_certificate(record)?;
        Ok(match record.method {
            HbaMethod::Trust => Asked::Dialogue(Method::Trust),
            HbaMethod::Password => Asked::Dialogue(Method::Plain),
            HbaMethod::Md5 => Asked::Dialogue(Method::Md5),
            HbaMethod::ScramSha256 => Asked::Dialogue(Method::Scram),
            HbaMethod::Peer => {
                self.is_peer(record).await?;
                Asked::Nothing
            }
            HbaMethod::Cert => {
                self.is_certified(record.map.as_deref())?;
                Asked::Nothing
            }
            HbaMethod::Reject => return Err(Farewell::Unproven("login rejected")),
            // As auth_query spells the name, it fits another record than before.
            HbaMethod::Ldap(_) => return Err(LDAP_FAILED),
            HbaMethod::Pam(_) => return Err(PAM_FAILED),
        })
    }

    /// Who checks the password, if the first record that fits has somebody else do it.
    pub(super) async fn outside(&self, hba: &Hba, dns: &Dns) -> Result<Option<Outside>, Farewell> {
        if !hba.asks_others() {
            return Ok(None);
        }
        let Some(record) = self.record(hba, dns).await else { return Ok(None) };
        match &record.method {
            HbaMethod::Ldap(options) => {
                self.has_certificate(record)?;
                self.ldap(&record.place, options.reveal()).map(Some)
            }
            HbaMethod::Pam(service) => {
                self.has_certificate(record)?;
                let service = service.clone().map_err(|why| self.unable(&record.place, &why, PAM_FAILED))?;
                Ok(Some(Outside::Pam(service)))
            }
            _ => Ok(None),
        }
    }

    /// The directory with these options, which stand at `place`.
    pub(super) fn ldap(&self, place: &dyn fmt::Display, options: &str) -> Result<Outside, Farewell> {
        LdapOptions::parse(options).map(Outside::Ldap).map_err(|why| self.unable(place, &why, LDAP_FAILED))
    }

    /// What stands at `place` cannot be done, says the log; `farewell` does not.
    fn unable(&self, place: &dyn fmt::Display, why: &str, farewell: Farewell) -> Farewell {
        tracing::warn!(conn = ?Tag::client(self.card), "{place}: {why}");
        farewell
    }

    async fn record<'h>(&self, hba: &'h Hba, dns: &Dns) -> Option<&'h Record> {
        let whence = Whence {
            address: self.address(),
            tls: self.tls,
            physical_replication: self.physical_replication,
            database: self.database,
            user: self.user,
        };
        let own = if hba.needs_own_addresses() { own_nets() } else { Vec::new() };
        let mut around = Surroundings { own, client_names: None };
        loop {
            match (hba.search(&whence, &around), whence.address) {
                (Search::Found(record), _) => return Some(record),
                (Search::NeedsClientNames, Some(address)) if around.client_names.is_none() => {
                    around.client_names = Some(self.names_of(address, dns).await);
                }
                _ => return None,
            }
        }
    }

    async fn names_of(&self, address: IpAddr, dns: &Dns) -> Vec<String> {
        dns.names_of(address).await.unwrap_or_else(|why| {
            let tag = Tag::client(self.card);
            tracing::warn!(conn = ?tag, "auth_hba_file: no name for {address}: {why}");
            Vec::new()
        })
    }

    fn address(&self) -> Option<IpAddr> {
        match &self.card.peer {
            Endpoint::Tcp(address) => Some(address.ip()),
            Endpoint::Unix { .. } => None,
        }
    }

    /// peer: the system user at the other end of the Unix socket is this user, or one that the map lets be.
    async fn is_peer(&self, record: &Record) -> Result<(), Farewell> {
        const FAILED: Farewell = Farewell::Unproven("unix socket login rejected");
        let Endpoint::Unix { uid: Some(uid), .. } = self.card.peer else { return Err(FAILED) };
        if !self.known {
            return Err(FAILED);
        }
        let names: Vec<String> = match &record.map {
            None => vec![self.user.to_owned()],
            Some(map) => map.names_for(self.user).map(str::to_owned).collect(),
        };
        // The system's list of users may be on another machine.
        let found = tokio::task::spawn_blocking(move || {
            let is = |name: &String| User::from_name(name).ok().flatten().is_some_and(|user| user.uid.as_raw() == uid);
            names.iter().any(is)
        });
        if found.await.unwrap_or(false) {
            return Ok(());
        }
        if let Some(map) = &record.map {
            tracing::error!(conn = ?Tag::client(self.card), "ident map {} cannot be matched", map.name);
        }
        Err(FAILED)
    }

    /// clientcert: the client has shown a certificate, made out to this user where that is wanted. PostgreSQL compares
    /// the common name alone, and so do the lines that are written for it.
    fn has_certificate(&self, record: &Record) -> Result<(), Farewell> {
        match (record.clientcert, self.certified) {
            (ClientCert::Off, _) | (ClientCert::VerifyCa, Some(_)) => Ok(()),
            (ClientCert::VerifyCa | ClientCert::VerifyFull, None) => {
                Err(Farewell::Unproven("connection requires a valid client certificate"))
            }
            (ClientCert::VerifyFull, Some(names)) if names.common.as_deref() == Some(self.user) => Ok(()),
            (ClientCert::VerifyFull, Some(_)) => {
                tracing::error!(conn = ?Tag::client(self.card), "TLS certificate name mismatch");
                Err(Farewell::Unproven("certificate authentication failed"))
            }
        }
    }

    /// cert: the client's certificate is made out to this user, or to a name that the map lets be.
    pub(super) fn is_certified(&self, map: Option<&IdentMap>) -> Result<(), Farewell> {
        const FAILED: Farewell = Farewell::Unproven("certificate authentication failed");
        let tag = Tag::client(self.card);
        if !self.tls {
            tracing::error!(conn = ?tag, "TLS connection required");
            return Err(FAILED);
        }
        let Some(certified) = self.certified else {
            tracing::error!(conn = ?tag, "TLS client certificate required");
            return Err(FAILED);
        };
        if !self.known {
            return Err(FAILED);
        }
        let made_out_to = |name: &str| certified.iter().any(|certified| certified == name);
        match map {
            None if made_out_to(self.user) => Ok(()),
            None => {
                tracing::error!(conn = ?tag, "TLS certificate name mismatch");
                Err(FAILED)
            }
            Some(map) if map.names_for(self.user).any(made_out_to) => Ok(()),
            Some(map) => {
                tracing::error!(conn = ?tag, "ident map: {} does not have a match", map.name);
                Err(FAILED)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::config::hba::read_text;
    use crate::config::ident;
    use crate::stats::moment::Moment;

    fn card() -> ClientCard {
        let end = Endpoint::Tcp(([10, 0, 0, 1], 5).into());
        ClientCard::new(1, end.clone(), end, SystemTime::UNIX_EPOCH, Moment(1))
    }

    fn certified(record: &str, tls: bool, names: Option<&[&str]>, user: &str, known: bool) -> Result<(), String> {
        let maps = ident::read_text(b"m app.example.com app\nm boss all\n").maps;
        let hba = read_text(record.as_bytes(), &maps).hba;
        let names = names.map(|names| {
            let mut names = names.iter().map(|name| (*name).to_owned());
            PeerNames { common: names.next(), hosts: names.collect() }
        });
        let card = card();
        let certified = names.as_ref();
        let physical_replication = false;
        let applicant = Applicant { card: &card, tls, certified, physical_replication, database: "db", user, known };
        let record = &hba.records()[0];
        let shown = match record.method {
            HbaMethod::Cert => applicant.is_certified(record.map.as_deref()),
            _ => applicant.has_certificate(record),
        };
        shown.map_err(|farewell| farewell.text().into_owned())
    }

    #[test]
    fn a_certificate_beside_the_method_is_anybodys_or_the_users_own() {
        let (any, own) =
            ("hostssl all all all md5 clientcert=verify-ca", "hostssl all all all md5 clientcert=verify-full");
        let none = Err("connection requires a valid client certificate".to_owned());
        let failed = Err("certificate authentication failed".to_owned());

        assert_eq!(certified(any, true, Some(&["x"]), "app", true), Ok(()));
        assert_eq!(certified(any, true, None, "app", true), none);
        assert_eq!(certified(own, true, Some(&["app"]), "app", true), Ok(()));
        assert_eq!(certified(own, true, None, "app", true), none);
        assert_eq!(certified(own, true, Some(&["x", "app"]), "app", true), failed, "an alternative name is no user's");
        assert_eq!(certified(own, true, Some(&[]), "app", true), failed);
    }

    #[test]
    fn a_certificate_is_made_out_to_the_user_or_to_who_may_be_the_user() {
        let (plain, mapped) = ("hostssl all all all cert", "hostssl all all all cert map=m");
        let failed = Err("certificate authentication failed".to_owned());

        assert_eq!(certified(plain, true, Some(&["app", "x"]), "app", true), Ok(()));
        assert_eq!(certified(plain, true, Some(&["x", "app"]), "app", true), Ok(()), "an alternative name");
        assert_eq!(certified(plain, true, Some(&["APP"]), "app", true), failed);
        assert_eq!(certified(plain, true, Some(&[]), "app", true), failed);
        assert_eq!(certified(plain, true, None, "app", true), failed);
        assert_eq!(certified(plain, false, None, "app", true), failed);
        assert_eq!(certified(plain, true, Some(&["app"]), "app", false), failed, "a user we do not know");
        assert_eq!(certified(mapped, true, Some(&["app.example.com"]), "app", true), Ok(()));
        assert_eq!(certified(mapped, true, Some(&["app.example.com"]), "other", true), failed);
        assert_eq!(certified(mapped, true, Some(&["app"]), "app", true), failed, "only the map counts");
        assert_eq!(certified(mapped, true, Some(&["boss"]), "other", true), Ok(()));
    }
}
