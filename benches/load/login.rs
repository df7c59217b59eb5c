//! A client of our own that logs in by SCRAM, with TLS or without.
//!
//! It costs next to nothing beside what it asks of the pooler: it derives its keys once, takes the server's certificate
//! unseen, and keeps nothing of libpq's that takes time. So a storm of logins measures the pooler and not the client.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use sha2::{Digest as _, Sha256};

use crate::Outcome;
use crate::cluster::{DATABASE, PASSWORD};
use crate::pooler::Running;

/// How long a client waits for an answer before it gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A logged-in client.
pub(crate) struct Client {
    incoming: BufReader<Wire>,
}

/// Its connection.
enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// What all clients of one contender have in common.
pub(crate) struct Visitors {
    port: u16,
    role: &'static str,
    tls: Option<Arc<ClientConfig>>,
    keys: Keys,
}

impl Visitors {
    /// Clients of this contender, encrypted where it wants them to be.
    ///
    /// # Errors
    /// Never, unless TLS itself is broken.
    pub(crate) fn of(running: &Running) -> Outcome<Visitors> {
        let tls = running.encrypts.then(trusting).transpose()?;
        Ok(Visitors { port: running.port, role: running.role, tls, keys: Keys::default() })
    }

    /// Connects, proves the password by SCRAM-SHA-256 (RFC 5802, 7677), and waits for ReadyForQuery. `number` makes
    /// the nonce.
    ///
    /// # Errors
    /// What the pooler said, or what broke.
    pub(crate) fn log_in(&self, number: usize) -> Outcome<Client> {
        let wire = self.connect().map_err(|error| error.to_string())?;
        let mut client = Client { incoming: BufReader::with_capacity(1024, wire) };
        let mut startup = 196_608_i32.to_be_bytes().to_vec();
        startup.extend_from_slice(format!("user\0{}\0database\0{DATABASE}\0\0", self.role).as_bytes());
        client.send(None, &startup)?;
        let client_first = format!("n=,r=bench{number:024}");
        loop {
            let (tag, body) = client.receive()?;
            match (tag, body.first_chunk().map(|kind| i32::from_be_bytes(*kind))) {
                (b'R', Some(10)) => {
                    let mut initial = b"SCRAM-SHA-256\0".to_vec();
                    initial.extend_from_slice(&(client_first.len() as i32 + 3).to_be_bytes());
                    initial.extend_from_slice(b"n,,");
                    initial.extend_from_slice(client_first.as_bytes());
                    client.send(Some(b'p'), &initial)?;
                }
                (b'R', Some(11)) => {
                    let server_first = std::str::from_utf8(&body[4..]).map_err(|error| error.to_string())?;
                    client.send(Some(b'p'), client_final(&client_first, server_first, &self.keys)?.as_bytes())?;
                }
                (b'R', Some(0 | 12)) | (b'S' | b'K' | b'N', _) => {}
                (b'Z', _) => return Ok(client),
                (tag, _) => return Err(format!("message {:?}: {}", tag as char, String::from_utf8_lossy(&body))),
            }
        }
    }

    fn connect(&self) -> io::Result<Wire> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let Some(config) = &self.tls else { return Ok(Wire::Plain(socket)) };
        socket.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f])?;
        let mut answer = [0];
        socket.read_exact(&mut answer)?;
        if answer != *b"S" {
            return Err(io::Error::other("the pooler has no TLS"));
        }
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let session = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        Ok(Wire::Tls(Box::new(StreamOwned::new(session, socket))))
    }
}

impl Client {
    /// Sends one simple query and waits for the end of its answer.
    ///
    /// # Errors
    /// What the pooler said, or what broke.
    pub(crate) fn ask(&mut self, query: &str) -> Outcome<()> {
        self.send(Some(b'Q'), format!("{query}\0").as_bytes())?;
        loop {
            match self.receive()? {
                (b'Z', _) => return Ok(()),
                (b'E', body) => return Err(format!("{query}: {}", String::from_utf8_lossy(&body))),
                _ => {}
            }
        }
    }

    /// Leaves in order.
    pub(crate) fn leave(mut self) {
        let _ = self.send(Some(b'X'), b"");
    }

    /// Whether nothing has come, not even the end.
    ///
    /// # Errors
    /// The pooler has closed the connection, or has spoken.
    pub(crate) fn is_undisturbed(&mut self) -> Outcome<()> {
        let wire = self.incoming.get_mut();
        let mut socket = match wire {
            Wire::Plain(socket) => &*socket,
            Wire::Tls(stream) => &stream.sock,
        };
        socket.set_nonblocking(true).map_err(|error| error.to_string())?;
        match socket.read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            other => Err(format!("an idle client was disturbed: {other:?}")),
        }
    }

    fn send(&mut self, tag: Option<u8>, body: &[u8]) -> Outcome<()> {
        let mut message: Vec<u8> = tag.into_iter().collect();
        message.extend_from_slice(&(body.len() as i32 + 4).to_be_bytes());
        message.extend_from_slice(body);
        let sent = match self.incoming.get_mut() {
            Wire::Plain(socket) => socket.write_all(&message),
            Wire::Tls(stream) => stream.write_all(&message).and_then(|()| stream.flush()),
        };
        sent.map_err(|error| error.to_string())
    }

    fn receive(&mut self) -> Outcome<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.incoming.read_exact(&mut head).map_err(|error| error.to_string())?;
        let [tag, length @ ..] = head;
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(0);
        if !(4..=65_536).contains(&length) {
            return Err(format!("message {:?} of {length} bytes", tag as char));
        }
        let mut body = vec![0; length - 4];
        self.incoming.read_exact(&mut body).map_err(|error| error.to_string())?;
        Ok((tag, body))
    }
}

impl Read for Wire {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(socket) => socket.read(room),
            Wire::Tls(stream) => stream.read(room),
        }
    }
}

/// The client's key for each salt and iteration count, derived once: ten thousand derivations of our own would keep the
/// machine busy without telling anything of the pooler.
#[derive(Default)]
struct Keys(Mutex<BySalt>);

/// Client keys by salt and iteration count.
type BySalt = HashMap<(String, u32), [u8; 32]>;

impl Keys {
    fn client_key(&self, salt: &str, iterations: u32) -> Outcome<[u8; 32]> {
        if let Some(key) = self.lock()?.get(&(salt.to_owned(), iterations)) {
            return Ok(*key);
        }
        // Outside the lock: a pooler that makes up a new salt for each log-in keeps every thread deriving.
        let raw_salt = BASE64.decode(salt).map_err(|error| format!("salt: {error}"))?;
        let mut salted = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(PASSWORD.as_bytes(), &raw_salt, iterations, &mut salted);
        let key = hmac(&salted, b"Client Key")?;
        self.lock()?.insert((salt.to_owned(), iterations), key);
        Ok(key)
    }

    fn lock(&self) -> Outcome<MutexGuard<'_, BySalt>> {
        self.0.lock().map_err(|_| "another log-in panicked".into())
    }
}

fn client_final(client_first: &str, server_first: &str, keys: &Keys) -> Outcome<String> {
    let field = |name: &str| {
        let found = server_first.split(',').find_map(|field| field.strip_prefix(name));
        found.ok_or(format!("no {name} in {server_first}"))
    };
    let iterations = field("i=")?.parse().map_err(|_| format!("iterations in {server_first}"))?;
    let client_key = keys.client_key(field("s=")?, iterations)?;
    let without_proof = format!("c=biws,r={}", field("r=")?);
    let signature =
        hmac(&Sha256::digest(client_key), format!("{client_first},{server_first},{without_proof}").as_bytes())?;
    let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, signed)| key ^ signed).collect();
    Ok(format!("{without_proof},p={}", BASE64.encode(proof)))
}

fn hmac(key: &[u8], text: &[u8]) -> Outcome<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|error| error.to_string())?;
    mac.update(text);
    Ok(mac.finalize().into_bytes().into())
}

/// TLS 1.3 to whoever answers, each time anew: what libpq asks for with sslmode=require. PostgreSQL 15 has P-256 only.
fn trusting() -> Outcome<Arc<ClientConfig>> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];
    let builder = ClientConfig::builder_with_provider(provider.clone().into()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?.dangerous();
    let unseen = Arc::new(Unseen(provider));
    let mut config = builder.with_custom_certificate_verifier(unseen).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Checks nothing.
#[derive(Debug)]
struct Unseen(CryptoProvider);

impl ServerCertVerifier for Unseen {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
