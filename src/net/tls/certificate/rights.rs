//! Pure: what a certificate may be used for, as far as webpki does not ask: it takes each listed certificate for an
//! authority, whatever that says of itself, looks at no key usage, and compares no common name with name constraints.
//! The rules are RFC 5280's, as OpenSSL reads them.

use std::net::IpAddr;

use rustls::pki_types::UnixTime;
use x509_parser::extensions::{BasicConstraints, GeneralName, NameConstraints, ParsedExtension};
use x509_parser::oid_registry::OID_X509_EXT_BASIC_CONSTRAINTS;
use x509_parser::x509::X509Version;

use super::Certificate;

/// What the other end shows its certificate for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net::tls) enum Purpose {
    /// It is a TLS server.
    Server,
    /// It is a TLS client.
    Client,
}

impl Certificate<'_> {
    /// May it sign certificates shown for this purpose at this time, with so many of other authorities between itself
    /// and that of the end?
    ///
    /// # Errors
    /// What forbids it, in words that follow "may not sign: ".
    pub(in crate::net::tls) fn may_sign(
        &self,
        purpose: Purpose,
        now: UnixTime,
        between: usize,
    ) -> Result<(), &'static str> {
        if !self.is_valid_at(now) {
            return Err("it has expired or is not valid yet");
        }
        if self.read.extensions().iter().any(|extension| extension.critical && !is_known(extension.parsed_extension()))
        {
            return Err("it has a critical extension that is not known here");
        }
        let signs = match self.read.key_usage() {
            Ok(usage) => usage.map(|usage| usage.value.key_cert_sign()),
            Err(_) => return Err("its key usage cannot be read"),
        };
        if signs == Some(false) {
            return Err("its key usage is without keyCertSign");
        }
        match self.basic_constraints()? {
            Some(constraints) if !constraints.ca => return Err("it is no authority (CA:FALSE)"),
            Some(BasicConstraints { path_len_constraint: Some(most), .. })
                if usize::try_from(*most).is_ok_and(|most| between > most) =>
            {
                return Err("its path length does not allow for so many authorities below it");
            }
            Some(_) => {}
            // What OpenSSL takes for one, too: of version 1 and signed by itself, or with keyCertSign alone.
            None if self.read.version() == X509Version::V1 && self.is_self_issued() => {}
            None if signs == Some(true) => {}
            None => return Err("it is no authority (there is no CA:TRUE)"),
        }
        match self.read.extended_key_usage() {
            Ok(None) => Ok(()),
            Ok(Some(usage)) if usage.value.any => Ok(()),
            Ok(Some(usage)) if purpose == Purpose::Server && usage.value.server_auth => Ok(()),
            Ok(Some(usage)) if purpose == Purpose::Client && usage.value.client_auth => Ok(()),
            Ok(Some(_)) => Err("its extended key usage is for other purposes"),
            Err(_) => Err("its extended key usage cannot be read"),
        }
    }

    /// May its key be used for TLS?
    ///
    /// # Errors
    /// What forbids it.
    pub(in crate::net::tls) fn may_be_shown(&self, purpose: Purpose) -> Result<(), &'static str> {
        match (self.read.key_usage(), purpose) {
            (Ok(None), _) => Ok(()),
            (Ok(Some(usage)), _) if usage.value.digital_signature() || usage.value.key_agreement() => Ok(()),
            (Ok(Some(usage)), Purpose::Server) if usage.value.key_encipherment() => Ok(()),
            (Ok(Some(_)), Purpose::Server) => Err("its key usage does not allow for a TLS server"),
            (Ok(Some(_)), Purpose::Client) => Err("its key usage does not allow for a TLS client"),
            (Err(_), _) => Err("its key usage cannot be read"),
        }
    }

    /// Is it made out by the one it is made out to?
    pub(in crate::net::tls) fn is_self_issued(&self) -> bool {
        self.read.subject().as_raw() == self.read.issuer().as_raw()
    }

    /// The common name, where it looks like a host's and there is no alternative name of a host that counts in its
    /// place: name constraints hold for it, too.
    pub(in crate::net::tls) fn common_name_of_host(&self) -> Option<&str> {
        let is_host = |name: &&str| {
            let is_label = |label: &str| {
                let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*');
                !label.is_empty() && label.bytes().all(known)
            };
            name.parse::<IpAddr>().is_ok() || (name.contains('.') && name.split('.').all(is_label))
        };
        self.common_name().filter(is_host).filter(|_| self.host_names().is_empty())
    }

    /// Do its name constraints, if it has any, let it sign for this name or address of a host?
    pub(in crate::net::tls) fn permits(&self, host: &str) -> bool {
        let Ok(constraints) = self.name_constraints() else { return false };
        let Some(NameConstraints { permitted_subtrees, excluded_subtrees }) = constraints else { return true };
        let mut all = [permitted_subtrees, excluded_subtrees].into_iter().flatten().flatten();
        if all.any(|subtree| matches!(subtree.base, GeneralName::Invalid(..))) {
            return false;
        }
        let [permitted, excluded] = [permitted_subtrees, excluded_subtrees].map(|subtrees| {
            let subtrees = subtrees.iter().flatten();
            subtrees.filter_map(|subtree| covers(&subtree.base, host)).collect::<Vec<bool>>()
        });
        (permitted.is_empty() || permitted.contains(&true)) && !excluded.contains(&true)
    }

    /// Are its name constraints, if it has any, about nothing but hosts?
    pub(in crate::net::tls) fn constrains_hosts_alone(&self) -> bool {
        let Ok(constraints) = self.name_constraints() else { return false };
        let Some(NameConstraints { permitted_subtrees, excluded_subtrees }) = constraints else { return true };
        let mut subtrees = [permitted_subtrees, excluded_subtrees].into_iter().flatten().flatten();
        subtrees.all(|subtree| matches!(subtree.base, GeneralName::DNSName(_) | GeneralName::IPAddress(_)))
    }

    fn name_constraints(&self) -> Result<Option<&NameConstraints<'_>>, ()> {
        self.read.name_constraints().map(|found| found.map(|extension| extension.value)).map_err(drop)
    }

    fn basic_constraints(&self) -> Result<Option<&BasicConstraints>, &'static str> {
        const UNREADABLE: &str = "its basic constraints cannot be read";
        let found = self.read.get_extension_unique(&OID_X509_EXT_BASIC_CONSTRAINTS).map_err(|_| UNREADABLE)?;
        match found.map(|extension| extension.parsed_extension()) {
            None => Ok(None),
            Some(ParsedExtension::BasicConstraints(constraints)) => Ok(Some(constraints)),
            Some(_) => Err(UNREADABLE),
        }
    }
}

/// May an authority's certificate have this as a critical extension? What OpenSSL knows.
fn is_known(extension: &ParsedExtension<'_>) -> bool {
    matches!(
        extension,
        ParsedExtension::BasicConstraints(_)
            | ParsedExtension::KeyUsage(_)
            | ParsedExtension::ExtendedKeyUsage(_)
            | ParsedExtension::NameConstraints(_)
            | ParsedExtension::SubjectAlternativeName(_)
            | ParsedExtension::CertificatePolicies(_)
            | ParsedExtension::PolicyConstraints(_)
            | ParsedExtension::PolicyMappings(_)
            | ParsedExtension::InhibitAnyPolicy(_)
            | ParsedExtension::CRLDistributionPoints(_)
            | ParsedExtension::NSCertType(_)
    )
}

/// Is this host in this subtree of names? `None` where it is about another kind of name.
fn covers(subtree: &GeneralName<'_>, host: &str) -> Option<bool> {
    match (subtree, host.parse::<IpAddr>()) {
        (GeneralName::DNSName(base), Err(_)) => Some(covers_name(base, host)),
        (GeneralName::IPAddress(network), Ok(IpAddr::V4(address))) => Some(covers_address(network, &address.octets())),
        (GeneralName::IPAddress(network), Ok(IpAddr::V6(address))) => Some(covers_address(network, &address.octets())),
        _ => None,
    }
}

/// `example.org` covers itself and all below it, `.example.org` what is below it, the empty name all.
fn covers_name(base: &str, host: &str) -> bool {
    let (base, host) = (base.to_ascii_lowercase(), host.to_ascii_lowercase());
    let below = host.strip_suffix(base.as_str());
    base.is_empty() || below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.') || base.starts_with('.'))
}

/// A network is an address and a mask.
fn covers_address(network: &[u8], address: &[u8]) -> bool {
    if network.len() != 2 * address.len() {
        return false;
    }
    let (base, mask) = network.split_at(address.len());
    address.iter().zip(base).zip(mask).all(|((address, base), mask)| address & mask == base & mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constraint_covers_a_domain_or_a_network() {
        for (base, host, covered) in [
            ("example.org", "example.org", true),
            ("example.org", "db.EXAMPLE.org", true),
            ("example.org", "badexample.org", false),
            (".example.org", "a.db.example.org", true),
            (".example.org", "example.org", false),
            ("", "anything", true),
            ("db.example.org", "example.org", false),
        ] {
            assert_eq!(covers(&GeneralName::DNSName(base), host), Some(covered), "{base} {host}");
        }
        let network = [10, 1, 0, 0, 255, 255, 0, 0];
        assert_eq!(covers(&GeneralName::IPAddress(&network), "10.1.2.3"), Some(true));
        assert_eq!(covers(&GeneralName::IPAddress(&network), "10.2.2.3"), Some(false));
        assert_eq!(covers(&GeneralName::IPAddress(&network), "::1"), Some(false));
        assert_eq!(covers(&GeneralName::IPAddress(&network), "db.example.org"), None);
        assert_eq!(covers(&GeneralName::DNSName("example.org"), "10.1.2.3"), None);
        assert_eq!(covers(&GeneralName::RFC822Name("example.org"), "example.org"), None);
    }
}
