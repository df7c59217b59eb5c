//! TLS towards clients and towards servers.
//!
//! - `blame` why a handshake failed, in words to act on
//! - `offer` the words of OpenSSL in the settings, and what rustls has for them
//! - `certificate` what must be known of a certificate
//! - `trust` whose certificates are believed
//! - [`request`](mod@request) asking a server for it
//! - `session` one conversation without its socket
//! - [`stream`] a socket with TLS on it
//! - [`fuzz`] what the fuzzer calls
//!
//! Here are the two configurations in force, made of settings and files. They are made whole before they are put in
//! force, and what cannot be made leaves the old ones there; connections keep what they began with. Manual: "SSL
//! Support" of libpq and of the server.
//!
//! Why rustls: memory-safe, and used by half the Rust world. With aws-lc-rs, its own default, which makes the RSA
//! signature of a handshake in half of the time that *ring* takes, and needs no more than a C compiler either.

mod blame;
mod certificate;
pub mod fuzz;
mod offer;
pub mod request;
mod session;
pub mod stream;
mod trust;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS12;
use rustls::{ClientConfig, ServerConfig, SignatureAlgorithm, SupportedCipherSuite};

use crate::config::{Settings, SslMode, SslNegotiation};
use crate::net::world;
use certificate::Certificate;
use offer::Words;
use trust::{Authorities, ClientTrust, ServerTrust};

pub use blame::Blamed;
pub use request::{RequestError, request};
pub use stream::{PeerNames, Signing, TlsError, TlsStream};

/// What ALPN calls PostgreSQL's protocol.
pub const ALPN: &[u8] = b"postgresql";

/// Where the system keeps the authorities that everybody trusts, for server_tls_ca_file that is not set.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// TLS towards clients.
#[derive(Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    end_point: Option<Arc<[u8]>>,
    /// What it was made of, for what is said of a handshake that fails.
    words: Arc<Words>,
}

/// TLS towards servers.
#[derive(Debug)]
pub struct Connector {
    /// `None` where server_tls_protocols has only versions that are too old to be spoken.
    config: Option<Arc<ClientConfig>>,
    /// What it was made of, for what is said of a handshake that fails.
    words: Arc<Words>,
}

/// The TLS in force, shared by all that connect.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    shared: Arc<RwLock<Arc<InForce>>>,
}

/// Both configurations, as of one moment.
#[derive(Debug, Default)]
pub struct InForce {
    clients: Materials,
    servers: Materials,
    /// `None` with client_tls_sslmode=disable.
    pub acceptor: Option<Arc<Acceptor>>,
    /// `None` with server_tls_sslmode=disable.
    pub connector: Option<Arc<Connector>>,
    /// What of the settings cannot be had, for the log.
    pub notices: Vec<String>,
}

impl InForce {
    /// client_tls_sslmode.
    pub fn client_mode(&self) -> SslMode {
        self.clients.mode
    }

    /// server_tls_sslmode.
    pub fn server_mode(&self) -> SslMode {
        self.servers.mode
    }

    /// server_tls_sslnegotiation.
    pub(super) fn server_negotiation(&self) -> SslNegotiation {
        self.servers.negotiation
    }
}

impl Tls {
    /// What is in force now.
    pub fn current(&self) -> Arc<InForce> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes both configurations from the settings and the files they name, read again. A side for which nothing has
    /// changed keeps what it has, with the tickets for resumed sessions.
    ///
    /// # Errors
    /// The setting or file, and what is wrong with it. Nothing has changed then.
    pub fn prepare(&self, settings: &Settings) -> Result<InForce, String> {
        if let Some(why) = settings.lacks_for_cert() {
            return Err(why.to_owned());
        }
        let old = self.current();
        let (clients, servers) = (Materials::of_clients(settings)?, Materials::of_servers(settings)?);
        let mut notices = Vec::new();
        let acceptor = match clients.mode {
            SslMode::Disable => None,
            _ if clients == old.clients => old.acceptor.clone(),
            _ => Some(Arc::new(clients.acceptor(&mut notices)?)),
        };
        let connector = match servers.mode {
            SslMode::Disable => None,
            _ if servers == old.servers => old.connector.clone(),
            _ => Some(Arc::new(servers.connector(&mut notices)?)),
        };
        let now = world::wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(now);
        // Time passes over files that stay as they are, so these are told each time.
        notices.extend([&clients, &servers].into_iter().flat_map(|side| side.untimely(now)));
        Ok(InForce { clients, servers, acceptor, connector, notices })
    }

    /// Puts it in force. Says whether connections to servers are made otherwise from now on, so that those there are
    /// should be made anew.
    pub fn put_in_force(&self, new: InForce) -> bool {
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        let changed = shared.servers != new.servers && (shared.connector.is_some() || new.connector.is_some());
        *shared = Arc::new(new);
        changed
    }
}

/// All that one side's configuration is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Materials {
    mode: SslMode,
    /// Servers' only.
    negotiation: SslNegotiation,
    words: Words,
    key: Option<File>,
    certificate: Option<File>,
    authorities: Option<File>,
}

/// A file as it was read.
#[derive(Clone, PartialEq, Eq)]
struct File {
    /// The setting that names it.
    setting: &'static str,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "File({})", self.path.display())
    }
}

impl File {
    fn read(setting: &'static str, path: Option<&PathBuf>) -> Result<Option<File>, String> {
        let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else { return Ok(None) };
        let bytes = std::fs::read(path).map_err(|error| format!("invalid {setting}: {}: {error}", path.display()))?;
        Ok(Some(File { setting, path: path.clone(), bytes }))
    }

    fn fault(&self, what: impl std::fmt::Display) -> String {
        format!("invalid {}: {}: {what}", self.setting, self.path.display())
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        let certificates = read.map_err(|error| self.fault(error))?;
        match certificates.iter().all(|der| Certificate::read(der).is_some()) {
            true if !certificates.is_empty() => Ok(certificates),
            true => Err(self.fault("there is no certificate in it")),
            false => Err(self.fault("a certificate in it cannot be read")),
        }
    }
}

impl Materials {
    fn of_clients(settings: &Settings) -> Result<Materials, String> {
        if settings.client_tls_sslmode == SslMode::Disable {
            return Ok(Materials::default());
        }
        Ok(Materials {
            mode: settings.client_tls_sslmode,
            negotiation: SslNegotiation::default(),
            words: Words {
                prefix: "client_tls",
                protocols: settings.client_tls_protocols.clone(),
                ciphers: settings.client_tls_ciphers.clone(),
                ciphers13: settings.client_tls13_ciphers.clone(),
                ecdhcurve: settings.client_tls_ecdhcurve.clone(),
                dheparams: settings.client_tls_dheparams.clone(),
            },
            key: File::read("client_tls_key_file", settings.client_tls_key_file.as_ref())?,
            certificate: File::read("client_tls_cert_file", settings.client_tls_cert_file.as_ref())?,
            authorities: File::read("client_tls_ca_file", settings.client_tls_ca_file.as_ref())?,
        })
    }

    fn of_servers(settings: &Settings) -> Result<Materials, String> {
        if settings.server_tls_sslmode == SslMode::Disable {
            return Ok(Materials::default());
        }
        Ok(Materials {
            mode: settings.server_tls_sslmode,
            negotiation: settings.server_tls_sslnegotiation,
            words: Words {
                prefix: "server_tls",
                protocols: settings.server_tls_protocols.clone(),
                ciphers: settings.server_tls_ciphers.clone(),
                ciphers13: settings.server_tls13_ciphers.clone(),
                ..Words::default()
            },
            key: File::read("server_tls_key_file", settings.server_tls_key_file.as_ref())?,
            certificate: File::read("server_tls_cert_file", settings.server_tls_cert_file.as_ref())?,
            authorities: File::read("server_tls_ca_file", settings.server_tls_ca_file.as_ref())?,
        })
    }

    /// The certificates of our own that are out of date, for the log: the other side will refuse them.
    fn untimely(&self, now: UnixTime) -> Vec<String> {
        let Some(file) = &self.certificate else { return Vec::new() };
        let certificates = file.certificates().unwrap_or_default();
        let told = |der: &CertificateDer<'_>| {
            let when = Certificate::read(der)?.untimely(now)?;
            Some(format!("{}: {}: a certificate in it {when}", file.setting, file.path.display()))
        };
        certificates.iter().filter_map(told).collect()
    }

    /// What is offered, and a provider of just that.
    fn offer(&self, notices: &mut Vec<String>) -> Result<(offer::Offer, Arc<CryptoProvider>), String> {
        let mut offer = self.words.read()?;
        notices.append(&mut offer.notices);
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.clone_from(&offer.suites);
        provider.kx_groups.clone_from(&offer.groups);
        Ok((offer, Arc::new(provider)))
    }

    fn acceptor(&self, notices: &mut Vec<String>) -> Result<Acceptor, String> {
        let (Some(key), Some(certificate)) = (&self.key, &self.certificate) else {
            return Err("To allow TLS connections from clients, client_tls_key_file and client_tls_cert_file must be \
                        set."
                .to_owned());
        };
        let (offer, provider) = self.offer(notices)?;
        if offer.versions.is_empty() {
            return Err(format!("client_tls_sslmode={}: {}", self.mode, notices.join("; ")));
        }
        let shown = pair(key, certificate, &provider)?;
        notices.extend(self.misfit(&offer, key, shown.key.algorithm()));
        let end_point = shown.cert.first().and_then(certificate::end_point).map(Arc::from);
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&offer.versions)
            .map_err(|error| format!("client_tls_ciphers: {error}"))?;
        let mandatory = matches!(self.mode, SslMode::VerifyCa | SslMode::VerifyFull);
        let builder = match &self.authorities {
            Some(file) => {
                let authorities = Authorities::new(file.certificates()?);
                let trust = ClientTrust::new(authorities, mandatory, &provider).map_err(|error| file.fault(error))?;
                builder.with_client_cert_verifier(Arc::new(trust))
            }
            None if mandatory => return Err("client_tls_sslmode requires client_tls_ca_file".to_owned()),
            // Nobody's certificate could be checked: none is asked for.
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
        config.ignore_client_order = true;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Resumed sessions are in the tickets that clients keep, sealed with a key that changes every few hours.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| format!("no key for session tickets: {error}"))?;
        config.send_tls13_tickets = 1;
        Ok(Acceptor { config: Arc::new(config), end_point, words: Arc::new(self.words.clone()) })
    }

    /// That no cipher of TLS 1.2 can be had with this kind of key, for the log. A cipher of TLS 1.3 goes with any.
    fn misfit(&self, offer: &offer::Offer, key: &File, kind: SignatureAlgorithm) -> Option<String> {
        let fits =
            |suite: &SupportedCipherSuite| suite.version() == &TLS12 && suite.usable_for_signature_algorithm(kind);
        if !offer.versions.contains(&&TLS12) || offer.suites.iter().any(fits) {
            return None;
        }
        let which = if offer.versions.len() == 1 { "every handshake" } else { "every handshake of TLS 1.2" };
        Some(format!(
            "client_tls_ciphers: {}: none of them fits the {kind:?} key of client_tls_key_file: {}, {which} will fail; \
             add ciphers that do, or use another kind of key",
            self.words.ciphers,
            key.path.display()
        ))
    }

    fn connector(&self, notices: &mut Vec<String>) -> Result<Connector, String> {
        let (offer, provider) = self.offer(notices)?;
        if offer.versions.is_empty() && self.mode.is_strict() {
            return Err(format!("server_tls_sslmode={}: {}", self.mode, notices.join("; ")));
        }
        if self.negotiation == SslNegotiation::Direct && !self.mode.is_strict() {
            return Err(format!(
                "server_tls_sslnegotiation=direct needs server_tls_sslmode=require, verify-ca or verify-full, not {}",
                self.mode
            ));
        }
        let words = Arc::new(self.words.clone());
        let authorities = match self.mode {
            SslMode::VerifyCa | SslMode::VerifyFull => Some(self.server_authorities()?),
            _ => None,
        };
        let trust = ServerTrust {
            authorities,
            names: self.mode == SslMode::VerifyFull,
            algorithms: provider.signature_verification_algorithms,
        };
        if offer.versions.is_empty() {
            return Ok(Connector { config: None, words });
        }
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&offer.versions)
            .map_err(|error| format!("server_tls_ciphers: {error}"))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(trust));
        let mut config = match (&self.key, &self.certificate) {
            (Some(key), Some(certificate)) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair(key, certificate, &provider)?)))
            }
            (None, None) => builder.with_no_client_auth(),
            (Some(lone), None) | (None, Some(lone)) => {
                return Err(lone.fault("server_tls_key_file and server_tls_cert_file are set together or not at all"));
            }
        };
        // As libpq does since version 17, asked or not; servers before that pay it no heed.
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Connector { config: Some(Arc::new(config)), words })
    }

    fn server_authorities(&self) -> Result<Authorities, String> {
        if let Some(file) = &self.authorities {
            return Ok(Authorities::new(file.certificates()?));
        }
        let system = SYSTEM_AUTHORITIES.iter().map(Path::new).find(|path| path.exists()).map(Path::to_owned);
        match File::read("server_tls_ca_file", system.as_ref())? {
            Some(file) => Ok(Authorities::new(file.certificates()?)),
            None => Err(format!(
                "server_tls_sslmode={} needs server_tls_ca_file: the system's own list of authorities was not found",
                self.mode
            )),
        }
    }
}

/// The lengths of RSA keys that aws-lc-rs signs with.
const RSA_BITS: RangeInclusive<usize> = 2048..=8192;

/// A key and its certificates.
fn pair(key: &File, certificate: &File, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let chain = certificate.certificates()?;
    let der = PrivateKeyDer::from_pem_slice(&key.bytes).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => {
            key.fault("there is no private key in it, or only one with a passphrase")
        }
        error => key.fault(error),
    })?;
    let read: Vec<Certificate<'_>> = chain.iter().filter_map(|der| Certificate::read(der)).collect();
    let signer = provider.key_provider.load_private_key(der).map_err(|error| {
        match read.first().and_then(Certificate::rsa_bits).filter(|bits| !RSA_BITS.contains(bits)) {
            Some(bits) => key.fault(format!(
                "an RSA key of {bits} bits, as its certificate says: {} to {} are taken here; make a new pair",
                RSA_BITS.start(),
                RSA_BITS.end()
            )),
            None => key.fault(format!("{error} (RSA, P-256, P-384, P-521 and Ed25519 are known here)")),
        }
    })?;
    let belongs = |certificate: &Certificate<'_>| match signer.public_key() {
        Some(public) => public.as_ref() == certificate.public_key(),
        None => true,
    };
    if !read.first().is_none_or(belongs) {
        if let Some(at) = read.iter().position(belongs) {
            return Err(certificate.fault(format!(
                "the first certificate must be the one that belongs to {}: {}, which is number {} in it",
                key.setting,
                key.path.display(),
                at + 1
            )));
        }
        let (setting, path) = (certificate.setting, certificate.path.display());
        return Err(key.fault(format!("this key does not belong to {setting}: {path}")));
    }
    Ok(CertifiedKey::new(chain, signer))
}

#[cfg(test)]
mod tests;
