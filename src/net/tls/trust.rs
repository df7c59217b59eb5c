//! Whose certificates are believed: towards servers as server_tls_sslmode says, towards clients as client_tls_sslmode.
//!
//! Chains are judged by rustls (webpki). What it will not look at and OpenSSL takes, a certificate that is its own
//! authority or one of version 1, is taken where it stands in the list of authorities itself, or where one of them
//! signed it directly. Names are compared as PgBouncer does, which takes a common name for want of a better one.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms as Algorithms, verify_tls12_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved, RootCertStore, SignatureScheme,
};

use super::certificate::Certificate;

/// The authorities of one side.
#[derive(Debug)]
pub(super) struct Authorities {
    roots: Arc<RootCertStore>,
    /// The same, whole.
    certificates: Vec<CertificateDer<'static>>,
}

impl Authorities {
    /// These certificates; those that rustls can make nothing of are good for direct signatures still.
    pub(super) fn new(certificates: Vec<CertificateDer<'static>>) -> Authorities {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        Authorities { roots: Arc::new(roots), certificates }
    }

    /// The verdict on a certificate that rustls does not judge; `None` where rustls does.
    fn verdict(&self, der: &CertificateDer<'_>, now: UnixTime, algorithms: &Algorithms) -> Option<Result<(), Error>> {
        let Some(certificate) = Certificate::read(der) else {
            return Some(Err(CertificateError::BadEncoding.into()));
        };
        let listed = self.certificates.iter().any(|known| known.as_ref() == der.as_ref());
        if !listed && !certificate.is_plain_or_authority() {
            return None;
        }
        if !certificate.is_valid_at(now) {
            return Some(Err(CertificateError::Expired.into()));
        }
        let mut authorities = self.certificates.iter().filter_map(|known| Certificate::read(known));
        let mut signed = || {
            authorities.any(|authority| authority.is_valid_at(now) && certificate.is_signed_by(&authority, algorithms))
        };
        Some(if listed || signed() { Ok(()) } else { Err(CertificateError::UnknownIssuer.into()) })
    }
}

/// How a server's certificate is looked at.
#[derive(Debug)]
pub(super) struct ServerTrust {
    /// Nobody's, where certificates are not looked at.
    pub(super) authorities: Option<Authorities>,
    /// Must the certificate be made out to the host?
    pub(super) names: bool,
    pub(super) algorithms: Algorithms,
}

impl ServerCertVerifier for ServerTrust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(authorities) = &self.authorities else { return Ok(ServerCertVerified::assertion()) };
        match authorities.verdict(end_entity, now, &self.algorithms) {
            Some(verdict) => verdict?,
            None => rustls::client::verify_server_cert_signed_by_trust_anchor(
                &end_entity.try_into()?,
                &authorities.roots,
                intermediates,
                now,
                self.algorithms.all,
            )?,
        }
        let read = Certificate::read(end_entity);
        if self.names && !read.as_ref().is_some_and(|read| read.names_host(&server_name.to_str())) {
            let presented = read.map(|read| read.names()).unwrap_or_default();
            return Err(CertificateError::NotValidForNameContext { expected: server_name.to_owned(), presented }.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature(message, certificate, signed, &self.algorithms, Version::Tls12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature(message, certificate, signed, &self.algorithms, Version::Tls13)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// How a client's certificate is looked at, if it shows one.
#[derive(Debug)]
pub(super) struct ClientTrust {
    authorities: Authorities,
    /// Must it show one?
    mandatory: bool,
    algorithms: Algorithms,
    /// Names the authorities in the request for a certificate, and judges chains.
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientTrust {
    /// # Errors
    /// None of the authorities can be used.
    pub(super) fn new(
        authorities: Authorities,
        mandatory: bool,
        provider: &Arc<CryptoProvider>,
    ) -> Result<ClientTrust, String> {
        let inner = WebPkiClientVerifier::builder_with_provider(authorities.roots.clone(), provider.clone())
            .build()
            .map_err(|error| error.to_string())?;
        let algorithms = provider.signature_verification_algorithms;
        Ok(ClientTrust { authorities, mandatory, algorithms, inner })
    }
}

impl ClientCertVerifier for ClientTrust {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.authorities.verdict(end_entity, now, &self.algorithms) {
            Some(verdict) => verdict.map(|()| ClientCertVerified::assertion()),
            None => self.inner.verify_client_cert(end_entity, intermediates, now),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature(message, certificate, signed, &self.algorithms, Version::Tls12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature(message, certificate, signed, &self.algorithms, Version::Tls13)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Tls12,
    Tls13,
}

/// Does the other end have the key of its certificate? rustls' own answer, but for certificates it cannot read.
fn signature(
    message: &[u8],
    der: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &Algorithms,
    version: Version,
) -> Result<HandshakeSignatureValid, Error> {
    let plain = Certificate::read(der).filter(Certificate::is_plain_or_authority);
    let Some(certificate) = plain else {
        return match version {
            Version::Tls12 => verify_tls12_signature(message, der, signed, algorithms),
            Version::Tls13 => rustls::crypto::verify_tls13_signature(message, der, signed, algorithms),
        };
    };
    let candidates = algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
    let candidates = candidates.map_or(&[][..], |(_, candidates)| candidates);
    let pkcs1 =
        [SignatureScheme::RSA_PKCS1_SHA256, SignatureScheme::RSA_PKCS1_SHA384, SignatureScheme::RSA_PKCS1_SHA512];
    let candidates = match version {
        // There the scheme says the curve too, and PKCS #1 is no more.
        Version::Tls13 if pkcs1.contains(&signed.scheme) => &[],
        Version::Tls13 => candidates.get(..1).unwrap_or_default(),
        Version::Tls12 => candidates,
    };
    if candidates.is_empty() {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    }
    match certificate.signed(message, signed.signature(), candidates) {
        true => Ok(HandshakeSignatureValid::assertion()),
        false => Err(CertificateError::BadSignature.into()),
    }
}
