//! What must be known of a certificate beyond what rustls looks at.
//!
//! Pure: bytes in, facts out; `x509_parser` reads them. rustls (webpki) checks chains and signatures of certificates of
//! version 3 that are no authorities. PostgreSQL's manual has its readers make others (a certificate that is its own
//! authority, or one of version 1 without any extension), with nothing but a common name in them, and OpenSSL takes
//! those.
//!
//! - `rights` what a certificate may be used for

mod rights;

use std::net::IpAddr;

use rustls::crypto::WebPkiSupportedAlgorithms as Algorithms;
use rustls::pki_types::{AlgorithmIdentifier, CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::X509Version;

pub(super) use rights::Purpose;

/// A certificate, read.
pub(super) struct Certificate<'a> {
    read: X509Certificate<'a>,
}

impl<'a> Certificate<'a> {
    /// Reads one; `None` where it is none.
    pub(super) fn read(der: &'a [u8]) -> Option<Certificate<'a>> {
        match X509Certificate::from_der(der) {
            Ok(([], read)) => Some(Certificate { read }),
            _ => None,
        }
    }

    /// Is it of version 1, which has no extensions?
    pub(super) fn is_plain(&self) -> bool {
        self.read.version() == X509Version::V1
    }

    /// Is it valid at this time?
    pub(super) fn is_valid_at(&self, now: UnixTime) -> bool {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        self.read.validity().not_before.timestamp() <= now && now <= self.read.validity().not_after.timestamp()
    }

    /// What its dates say against it at this time: `expired on` or `is not valid before`, the date, the way
    /// out.
    pub(super) fn untimely(&self, now: UnixTime) -> Option<String> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let (first, last) = (self.read.validity().not_before.timestamp(), self.read.validity().not_after.timestamp());
        let (what, second, way_out) = match (now < first, now > last) {
            (_, true) => ("expired on", last, "renew it"),
            (true, false) => ("is not valid before", first, "is the clock right?"),
            (false, false) => return None,
        };
        let date = jiff::Timestamp::from_second(second).map_or_else(|_| second.to_string(), |date| date.to_string());
        Some(format!("{what} {date}: {way_out}"))
    }

    /// The length of its RSA key in bits; `None` where it has another.
    pub(super) fn rsa_bits(&self) -> Option<usize> {
        match self.read.public_key().parsed() {
            Ok(PublicKey::RSA(key)) => Some(key.key_size()),
            _ => None,
        }
    }

    /// The name of its subject, for the log.
    pub(super) fn subject(&self) -> String {
        self.read.subject().to_string()
    }

    /// Was it signed by this one itself, whether that may sign or not?
    pub(super) fn is_signed_by(&self, authority: &Certificate<'_>, algorithms: &Algorithms) -> bool {
        self.read.issuer().as_raw() == authority.read.subject().as_raw()
            && self.read.signature_algorithm == self.read.tbs_certificate.signature
            && algorithms.all.iter().any(|algorithm| {
                same_algorithm(&self.read.signature_algorithm, algorithm.signature_alg_id())
                    && same_algorithm(&authority.read.public_key().algorithm, algorithm.public_key_alg_id())
                    && authority.verify(*algorithm, self.read.tbs_certificate.as_ref(), &self.read.signature_value.data)
            })
    }

    /// Does this signature, made with the certificate's key, belong to this message?
    pub(super) fn signed(
        &self,
        message: &[u8],
        signature: &[u8],
        candidates: &[&'static dyn SignatureVerificationAlgorithm],
    ) -> bool {
        candidates.iter().any(|algorithm| {
            same_algorithm(&self.read.public_key().algorithm, algorithm.public_key_alg_id())
                && self.verify(*algorithm, message, signature)
        })
    }

    fn verify(&self, algorithm: &dyn SignatureVerificationAlgorithm, message: &[u8], signature: &[u8]) -> bool {
        algorithm.verify_signature(&self.read.public_key().subject_public_key.data, message, signature).is_ok()
    }

    /// The public key, with its algorithm, as DER.
    pub(super) fn public_key(&self) -> &[u8] {
        self.read.public_key().raw
    }

    /// The last common name of its subject, which is the one PostgreSQL and OpenSSL's helpers take; `None` where there
    /// is none or it is no text.
    pub(super) fn common_name(&self) -> Option<&str> {
        let name = self.read.subject().iter_common_name().last()?.as_str().ok()?;
        (!name.contains('\0')).then_some(name)
    }

    /// Its alternative names that are names of hosts.
    pub(super) fn host_names(&self) -> Vec<String> {
        let Ok(Some(names)) = self.read.subject_alternative_name() else { return Vec::new() };
        let host = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        };
        names.value.general_names.iter().filter_map(host).collect()
    }

    /// All that it is made out to, hosts and addresses, the common name first.
    pub(super) fn names(&self) -> Vec<String> {
        let address = |name: &GeneralName<'_>| match name {
            GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
                Ok(bytes) => Some(IpAddr::from(bytes).to_string()),
                Err(_) => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            },
            _ => None,
        };
        let mut names: Vec<String> = self.common_name().map(str::to_owned).into_iter().collect();
        names.extend(self.host_names());
        if let Ok(Some(alternative)) = self.read.subject_alternative_name() {
            names.extend(alternative.value.general_names.iter().filter_map(address));
        }
        names
    }

    /// Is it made out to this host? As PgBouncer judges: one of its alternative names, or else its common name, where
    /// its authorities let it have that (`permitted`): of alternative names webpki has asked them.
    pub(super) fn names_host(&self, host: &str, permitted: impl FnOnce(&str) -> bool) -> bool {
        let address = host.parse::<IpAddr>().ok();
        let alternative = |name: &GeneralName<'_>| match (name, address) {
            (GeneralName::IPAddress(bytes), Some(IpAddr::V4(address))) => *bytes == address.octets().as_slice(),
            (GeneralName::IPAddress(bytes), Some(IpAddr::V6(address))) => *bytes == address.octets().as_slice(),
            (GeneralName::DNSName(name), None) => matches_name(name, host),
            _ => false,
        };
        if let Ok(Some(names)) = self.read.subject_alternative_name()
            && names.value.general_names.iter().any(alternative)
        {
            return true;
        }
        let common = match self.common_name() {
            Some(name) if address.is_some() => name == host,
            Some(name) => matches_name(name, host),
            None => false,
        };
        common && permitted(host)
    }
}

/// The hash of a certificate that binds SCRAM to its connection (tls-server-end-point, RFC 5929, section 4.1): by the
/// hash of the certificate's own signature, SHA-256 where that is older; `None` where the signature has none.
pub(super) fn end_point(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let certificate = Certificate::read(der)?;
    let signature = certificate.read.signature_algorithm.algorithm.to_id_string();
    Some(match SIGNATURE_HASHES.iter().find(|(id, _)| *id == signature)?.1 {
        Hash::Sha256 => Sha256::digest(der).to_vec(),
        Hash::Sha384 => Sha384::digest(der).to_vec(),
        Hash::Sha512 => Sha512::digest(der).to_vec(),
    })
}

#[derive(Clone, Copy)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// Signature algorithms and the hash that RFC 5929 takes for them: MD5 and SHA-1 become SHA-256. RSASSA-PSS, whose hash
/// is in its parameters, and Ed25519, which has none, are not here: PostgreSQL offers no channel binding for them.
const SIGNATURE_HASHES: [(&str, Hash); 10] = [
    ("1.2.840.113549.1.1.4", Hash::Sha256),
    ("1.2.840.113549.1.1.5", Hash::Sha256),
    ("1.2.840.113549.1.1.11", Hash::Sha256),
    ("1.2.840.113549.1.1.12", Hash::Sha384),
    ("1.2.840.113549.1.1.13", Hash::Sha512),
    ("1.2.840.10045.4.1", Hash::Sha256),
    ("1.2.840.10045.4.3.2", Hash::Sha256),
    ("1.2.840.10045.4.3.3", Hash::Sha384),
    ("1.2.840.10045.4.3.4", Hash::Sha512),
    ("2.16.840.1.101.3.4.3.2", Hash::Sha256),
];

/// Compares an algorithm as x509_parser has it with one as rustls has it, which is the inner DER of the sequence.
fn same_algorithm(read: &x509_parser::x509::AlgorithmIdentifier<'_>, known: AlgorithmIdentifier) -> bool {
    let known = known.as_ref();
    let id = read.algorithm.as_bytes();
    let [0x06, len, rest @ ..] = known else { return false };
    let Some((known_id, parameters)) = rest.split_at_checked(usize::from(*len)) else { return false };
    if known_id != id {
        return false;
    }
    match (&read.parameters, parameters) {
        (None, []) => true,
        (Some(any), [tag, len, bytes @ ..]) => {
            any.tag().0 == u32::from(*tag) && any.data == bytes && usize::from(*len) == bytes.len()
        }
        _ => false,
    }
}

/// Does a certificate's name mean this host? `*.` in front of at least two more labels stands for one label.
fn matches_name(name: &str, host: &str) -> bool {
    if name.eq_ignore_ascii_case(host) {
        return !name.is_empty();
    }
    let Some(domain) = name.strip_prefix('*') else { return false };
    let proper = domain.len() > 2 && domain.starts_with('.') && !domain.contains("..") && domain[1..].contains('.');
    match host.find('.') {
        Some(at) if at > 0 => proper && domain.eq_ignore_ascii_case(&host[at..]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_one_label_below_a_domain() {
        assert!(matches_name("DB.example.org", "db.example.ORG"));
        assert!(matches_name("*.example.org", "db.example.org"));
        for (name, host) in [
            ("*.example.org", "a.db.example.org"),
            ("*.example.org", "example.org"),
            ("*.example.org", ".example.org"),
            ("*.org", "example.org"),
            ("*", "db"),
            ("*db.example.org", "mydb.example.org"),
            ("*..org", "a..org"),
            ("", ""),
        ] {
            assert!(!matches_name(name, host), "{name} {host}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_none() {
        assert!(Certificate::read(b"").is_none());
        assert!(Certificate::read(&[0x30, 0x03, 0x02, 0x01, 0x00]).is_none());
        assert!(end_point(&CertificateDer::from(vec![0x30, 0x00])).is_none());
    }
}
