//! Whose certificates are believed: towards servers as server_tls_sslmode says, towards clients as client_tls_sslmode.
//!
//! | certificate | is believed |
//! |---|---|
//! | listed itself, byte for byte | while it is valid |
//! | of version 1, which webpki does not look at | signed by a listed authority that may sign |
//! | any other | where webpki finds a path to a listed authority, and nothing on it forbids it |
//!
//! PostgreSQL's manual makes the first two kinds, and OpenSSL takes them. Of the third kind webpki checks signatures,
//! dates, basic constraints, extended key usage, name constraints of alternative names, and that no critical extension
//! is unknown. It takes every listed certificate for an authority without limits, though, and looks at no key usage;
//! what OpenSSL checks beyond it, [`Authorities::check_path`] does. Names are compared as PgBouncer does, which takes a
//! common name for want of a better one.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms as Algorithms, verify_tls12_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerMisbehaved, RootCertStore,
    SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};

use super::certificate::{Certificate, Purpose};

/// The authorities of one side.
#[derive(Debug)]
pub(super) struct Authorities {
    /// All that are listed.
    listed: Vec<CertificateDer<'static>>,
    /// Those of them that webpki can read, in its own terms; they may sign or may not.
    anchors: Vec<TrustAnchor<'static>>,
    /// The same, whole, in the same order.
    signers: Vec<CertificateDer<'static>>,
    /// `anchors`, for rustls.
    roots: Arc<RootCertStore>,
}

/// Who has signed a certificate that is believed, up to a listed authority; nobody, where it is listed itself.
type Issuers = Vec<CertificateDer<'static>>;

/// Why a certificate is not believed, where rustls has no words for it.
#[derive(Debug)]
struct Distrust(String);

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Distrust {}

impl From<Distrust> for Error {
    fn from(distrust: Distrust) -> Error {
        CertificateError::Other(OtherError(Arc::new(distrust))).into()
    }
}

impl Authorities {
    /// These certificates; those that webpki can make nothing of are believed themselves still.
    pub(super) fn new(listed: Vec<CertificateDer<'static>>) -> Authorities {
        let anchor = |der: &CertificateDer<'static>| anchor_from_trusted_cert(der).ok().map(|anchor| anchor.to_owned());
        let (anchors, signers): (Vec<_>, Vec<_>) =
            listed.iter().filter_map(|der| Some((anchor(der)?, der.clone()))).unzip();
        let roots = Arc::new(RootCertStore { roots: anchors.clone() });
        Authorities { listed, anchors, signers, roots }
    }

    /// Is this certificate believed, and who vouches for it?
    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        purpose: Purpose,
        algorithms: &Algorithms,
        now: UnixTime,
    ) -> Result<Issuers, Refused> {
        let Some(certificate) = Certificate::read(end_entity) else {
            return Err(Error::from(CertificateError::BadEncoding).into());
        };
        let listed = self.listed.iter().any(|known| known.as_ref() == end_entity.as_ref());
        if (listed || certificate.is_plain()) && !certificate.is_valid_at(now) {
            return Err(Error::from(CertificateError::Expired).into());
        }
        match (listed, certificate.is_plain()) {
            (true, _) => Ok(Vec::new()),
            (false, true) => self.judge_plain(&certificate, purpose, algorithms, now).map_err(Refused::of),
            (false, false) => self.judge_chain(end_entity, intermediates, purpose, algorithms, now),
        }
    }

    /// One of version 1 is signed by a listed authority itself.
    fn judge_plain(
        &self,
        certificate: &Certificate<'_>,
        purpose: Purpose,
        algorithms: &Algorithms,
        now: UnixTime,
    ) -> Result<Issuers, Error> {
        let mut fault = CertificateError::UnknownIssuer.into();
        for signer in &self.signers {
            let Some(authority) = Certificate::read(signer) else { continue };
            if !certificate.is_signed_by(&authority, algorithms) {
                continue;
            }
            let named = certificate.common_name_of_host().is_none_or(|name| authority.permits(name));
            match authority.may_sign(purpose, now, 0) {
                Err(why) => fault = may_not_sign(&authority, why).into(),
                Ok(()) if named && authority.constrains_hosts_alone() => return Ok(vec![signer.clone()]),
                Ok(()) => fault = name_not_permitted(&authority).into(),
            }
        }
        Err(fault)
    }

    fn judge_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        purpose: Purpose,
        algorithms: &Algorithms,
        now: UnixTime,
    ) -> Result<Issuers, Refused> {
        let parsed = EndEntityCert::try_from(end_entity).map_err(Refused::by_webpki)?;
        let usage = match purpose {
            Purpose::Server => KeyUsage::server_auth(),
            Purpose::Client => KeyUsage::client_auth(),
        };
        let fault = RefCell::new(None);
        let check = |path: &VerifiedPath<'_>| {
            self.check_path(path, purpose, now).map_err(|distrust| {
                *fault.borrow_mut() = Some(distrust);
                // There may be another path.
                webpki::Error::UnknownIssuer
            })
        };
        let path =
            parsed.verify_for_usage(algorithms.all, &self.anchors, intermediates, now, usage, None, Some(&check));
        match (path, fault.take()) {
            (Ok(path), _) => {
                let between = path.intermediate_certificates().map(|issuer| issuer.der().into_owned());
                Ok(between.chain(self.signer_of(&path).cloned()).collect())
            }
            (Err(_), Some(distrust)) => Err(Refused::of(distrust.into())),
            (Err(error), None) => Err(Refused::by_webpki(error)),
        }
    }

    /// Does anything on this path, which webpki takes, forbid it?
    fn check_path(&self, path: &VerifiedPath<'_>, purpose: Purpose, now: UnixTime) -> Result<(), Distrust> {
        let unread = || Distrust("a certificate on its path cannot be read".to_owned());
        let end = path.end_entity().der();
        let end = Certificate::read(&end).ok_or_else(unread)?;
        end.may_be_shown(purpose).map_err(|why| Distrust(why.to_owned()))?;
        let issuers: Vec<CertificateDer<'_>> = path.intermediate_certificates().map(|issuer| issuer.der()).collect();
        let mut between = 0;
        for der in issuers.iter().chain([self.signer_of(path).ok_or_else(unread)?]) {
            let issuer = Certificate::read(der).ok_or_else(unread)?;
            issuer.may_sign(purpose, now, between).map_err(|why| may_not_sign(&issuer, why))?;
            if !end.common_name_of_host().is_none_or(|name| issuer.permits(name)) {
                return Err(name_not_permitted(&issuer));
            }
            between += usize::from(!issuer.is_self_issued());
        }
        Ok(())
    }

    /// The listed certificate at the end of a path.
    fn signer_of(&self, path: &VerifiedPath<'_>) -> Option<&CertificateDer<'static>> {
        let at = self.anchors.iter().position(|anchor| std::ptr::eq(anchor, path.anchor()));
        at.and_then(|at| self.signers.get(at))
    }
}

fn may_not_sign(authority: &Certificate<'_>, why: &str) -> Distrust {
    Distrust(format!("its authority, {}, may not sign: {why}", authority.subject()))
}

fn name_not_permitted(authority: &Certificate<'_>) -> Distrust {
    Distrust(format!("its name is not one that its authority, {}, may sign for", authority.subject()))
}

/// A certificate is not believed.
struct Refused {
    error: Error,
    /// webpki says so, and rustls may have the words.
    by_webpki: bool,
}

impl Refused {
    fn of(error: Error) -> Refused {
        Refused { error, by_webpki: false }
    }

    fn by_webpki(error: webpki::Error) -> Refused {
        let why = match error {
            webpki::Error::CaUsedAsEndEntity => {
                "it is an authority's (CA:TRUE), which counts only where it is listed itself: make one with CA:FALSE"
            }
            webpki::Error::EndEntityUsedAsCa => "it is signed with a certificate that may not sign (no CA:TRUE)",
            webpki::Error::NameConstraintViolation => "its name is not one that its authority may sign for",
            webpki::Error::PathLenConstraintViolated => {
                "an authority's path length does not allow for so many authorities below it"
            }
            webpki::Error::UnsupportedCriticalExtension => "it has a critical extension that is not known here",
            webpki::Error::UnsupportedCertVersion => "a certificate on its path is not of version 3",
            _ => return Refused { error: CertificateError::UnknownIssuer.into(), by_webpki: true },
        };
        Refused::of(Distrust(why.to_owned()).into())
    }

    /// rustls' words, where it judges as webpki does.
    fn worded(self, by_rustls: impl FnOnce() -> Result<(), Error>) -> Error {
        match self.by_webpki {
            true => by_rustls().err().unwrap_or(self.error),
            false => self.error,
        }
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused::of(error)
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
        let by_rustls = || {
            rustls::client::verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                &authorities.roots,
                intermediates,
                now,
                self.algorithms.all,
            )
        };
        let judged = authorities.judge(end_entity, intermediates, Purpose::Server, &self.algorithms, now);
        let issuers = judged.map_err(|refused| refused.worded(by_rustls))?;
        let read = Certificate::read(end_entity);
        let permitted = |host: &str| {
            issuers.iter().all(|issuer| Certificate::read(issuer).is_some_and(|issuer| issuer.permits(host)))
        };
        if self.names && !read.as_ref().is_some_and(|read| read.names_host(&server_name.to_str(), permitted)) {
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
    /// Names the authorities in the request for a certificate, and has words for what webpki refuses.
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
        let by_rustls = || self.inner.verify_client_cert(end_entity, intermediates, now).map(drop);
        let judged = self.authorities.judge(end_entity, intermediates, Purpose::Client, &self.algorithms, now);
        judged.map_err(|refused| refused.worded(by_rustls))?;
        Ok(ClientCertVerified::assertion())
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

/// Does the other end have the key of its certificate? rustls' own answer, but for what webpki cannot read.
fn signature(
    message: &[u8],
    der: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &Algorithms,
    version: Version,
) -> Result<HandshakeSignatureValid, Error> {
    let unread = Certificate::read(der).filter(|_| EndEntityCert::try_from(der).is_err());
    let Some(certificate) = unread else {
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

#[cfg(test)]
mod tests;
