//! Certificates made by OpenSSL for the run, and OpenSSL's own client as the other end of a connection; for a server
//! that is the test's own, rustls.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::event::{PollFd, PollFlags, poll};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use super::postgres::free_port;
use super::script::Wire;
use super::warden::{account, warden};
use super::{PATIENCE, eventually};

/// A key and its certificate.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) key: PathBuf,
    pub(crate) certificate: PathBuf,
}

/// An authority and what it has signed.
pub(crate) struct Authority {
    pub(crate) certificate: PathBuf,
    key: PathBuf,
    dir: PathBuf,
    /// For `localhost` and 127.0.0.1, of version 3.
    pub(crate) server: Pair,
}

/// What kind of certificate to make.
#[derive(Clone, Copy)]
pub(crate) enum Kind<'a> {
    /// Of version 3, with these alternative names: `DNS:localhost,IP:127.0.0.1`.
    Named(&'a str),
    /// Of version 3, with these extensions, a line each.
    With(&'a str),
    /// Of version 1, which has a common name and no extensions.
    Plain,
}

impl Authority {
    /// The one whose certificates are believed.
    pub(crate) fn shared() -> &'static Authority {
        static SHARED: OnceLock<Authority> = OnceLock::new();
        SHARED.get_or_init(|| Authority::new("believed"))
    }

    /// Another.
    pub(crate) fn other() -> &'static Authority {
        static OTHER: OnceLock<Authority> = OnceLock::new();
        OTHER.get_or_init(|| Authority::new("other"))
    }

    fn new(name: &str) -> Authority {
        Authority::with(name, "basicConstraints=critical,CA:TRUE")
    }

    /// One with these extensions, a line each, which may forbid it to sign what it signs.
    pub(crate) fn with(name: &str, extensions: &str) -> Authority {
        let dir = warden().dir().join(format!("certificates-{name}"));
        fs::create_dir(&dir).unwrap();
        let (key, certificate) = (dir.join("ca.key"), dir.join("ca.crt"));
        new_key(&key);
        let config = dir.join("ca.cnf");
        let text = format!("[req]\ndistinguished_name=dn\nx509_extensions=own\n[dn]\n[own]\n{extensions}\n");
        fs::write(&config, text).unwrap();
        openssl(
            &["req", "-new", "-x509", "-days", "30", "-subj", &format!("/CN={name}")],
            &[("-config", &config), ("-key", &key), ("-out", &certificate)],
        );
        readable(&certificate);
        let nothing = Pair { key: PathBuf::new(), certificate: PathBuf::new() };
        let mut authority = Authority { certificate, key, dir, server: nothing };
        authority.server = authority.sign("server", "localhost", Kind::Named("DNS:localhost,IP:127.0.0.1"));
        authority
    }

    /// A certificate for this common name, in files that begin with `file`.
    pub(crate) fn sign(&self, file: &str, common_name: &str, kind: Kind<'_>) -> Pair {
        let at = |ending: &str| self.dir.join(format!("{file}.{ending}"));
        let pair = Pair { key: at("key"), certificate: at("crt") };
        new_key(&pair.key);
        let subject = format!("/CN={common_name}");
        openssl(&["req", "-new", "-subj", &subject], &[("-key", &pair.key), ("-out", &at("csr"))]);
        // The file that -CAcreateserial keeps cannot be shared by two at a time.
        static SERIAL: AtomicU32 = AtomicU32::new(1);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed).to_string();
        let mut arguments = vec!["x509", "-req", "-days", "30", "-set_serial", &serial];
        let extensions = at("ext");
        let path = extensions.display().to_string();
        let lines = match kind {
            Kind::Named(names) => Some(format!("subjectAltName={names}\nbasicConstraints=CA:FALSE\n")),
            Kind::With(lines) => Some(lines.to_owned()),
            Kind::Plain => None,
        };
        if let Some(lines) = lines {
            fs::write(&extensions, lines).unwrap();
            arguments.extend(["-extfile", &path]);
        }
        openssl(
            &arguments,
            &[("-in", &at("csr")), ("-CA", &self.certificate), ("-CAkey", &self.key), ("-out", &pair.certificate)],
        );
        readable(&pair.certificate);
        pair
    }
}

/// A certificate that is its own authority, as PostgreSQL's manual makes one.
pub(crate) fn self_signed(file: &str) -> Pair {
    let at = |ending: &str| warden().dir().join(format!("{file}.{ending}"));
    let pair = Pair { key: at("key"), certificate: at("crt") };
    new_key(&pair.key);
    openssl(
        &["req", "-new", "-x509", "-days", "30", "-subj", "/CN=localhost"],
        &[("-key", &pair.key), ("-out", &pair.certificate)],
    );
    readable(&pair.certificate);
    pair
}

fn new_key(path: &Path) {
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1"], &[("-out", path)]);
    for_pooler(path);
}

/// Lets the account of the pooler and of PostgreSQL read a key, and nobody else.
pub(crate) fn for_pooler(key: &Path) {
    if let Some(account) = account() {
        std::os::unix::fs::chown(key, Some(account.uid), Some(account.gid)).unwrap();
    }
}

/// Makes a key our own, for psql wants that of its key.
pub(crate) fn for_us(key: &Path) {
    std::os::unix::fs::chown(key, Some(rustix::process::getuid().as_raw()), None).unwrap();
}

fn readable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}

fn openssl(arguments: &[&str], paths: &[(&str, &Path)]) {
    let mut command = Command::new("openssl");
    command.args(arguments);
    for (name, path) in paths {
        command.arg(name).arg(path);
    }
    let output = command.stdin(Stdio::null()).output().expect("openssl runs (apt-get install openssl)");
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What somebody begins TLS with.
pub(crate) fn client_hello() -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// Shakes hands as a client that trusts the shared authority, after the answer to SSLRequest; the connection and its
/// socket, on which other things can be said than the connection says.
pub(crate) fn connect(outer: Wire) -> (ClientConnection, TcpStream) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&Authority::shared().certificate).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut tls = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut socket = TcpStream::from(outer.into_socket());
    tls.complete_io(&mut socket).unwrap();
    (tls, socket)
}

/// Answers a TLS handshake, which is to come next, with this certificate; the inside of the connection.
pub(crate) fn serve(outer: Wire, shown: &Pair) -> Wire {
    let certificate = CertificateDer::from_pem_file(&shown.certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(&shown.key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let tls = ServerConnection::new(Arc::new(config)).unwrap();
    let outer = TcpStream::from(outer.into_socket());
    let (ours, theirs) = UnixStream::pair().unwrap();
    // Its end, whatever the reason, is the end of both connections.
    std::thread::spawn(move || carry(tls, outer, theirs));
    Wire::over(ours.into()).unwrap()
}

/// Carries what is said inside the connection and outside of it.
fn carry(mut tls: ServerConnection, mut outer: TcpStream, mut inner: UnixStream) -> io::Result<()> {
    outer.set_read_timeout(Some(PATIENCE))?;
    tls.complete_io(&mut outer)?;
    let mut chunk = [0; 16 * 1024];
    loop {
        loop {
            match tls.reader().read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(got) => inner.write_all(&chunk[..got])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        while tls.wants_write() {
            tls.write_tls(&mut outer)?;
        }
        let mut ends = [PollFd::new(&outer, PollFlags::IN), PollFd::new(&inner, PollFlags::IN)];
        poll(&mut ends, None)?;
        let [from_outer, from_inner] = ends.map(|end| !end.revents().is_empty());
        if from_outer {
            if tls.read_tls(&mut outer)? == 0 {
                return Ok(());
            }
            tls.process_new_packets().map_err(io::Error::other)?;
        }
        if from_inner {
            let got = inner.read(&mut chunk)?;
            if got == 0 {
                tls.send_close_notify();
                while tls.wants_write() {
                    tls.write_tls(&mut outer)?;
                }
                return Ok(());
            }
            tls.writer().write_all(&chunk[..got])?;
        }
    }
}

/// `openssl s_client` between the test and the pooler.
pub(crate) struct Tunnel {
    child: Child,
    log: PathBuf,
}

impl Tunnel {
    /// Connects to this port, after an SSLRequest if the arguments have `-starttls postgres`; what is sent and received
    /// through the wire is the inside of the TLS connection.
    pub(crate) fn open(port: u16, arguments: &[&str]) -> (Tunnel, Wire) {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let log = warden().dir().join(format!("s_client-{number}.log"));
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{port}")]).args(arguments);
        command.stdin(OwnedFd::from(theirs.try_clone().unwrap())).stdout(OwnedFd::from(theirs));
        let child = command.stderr(fs::File::create(&log).unwrap()).spawn().expect("openssl runs");
        warden().add(child.id());
        (Tunnel { child, log }, Wire::over(ours.into()).unwrap())
    }

    /// What OpenSSL has to say of it.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        warden().forget(self.child.id());
    }
}

/// `openssl s_server`: it shakes hands, knows nothing of ALPN and says nothing.
pub(crate) struct Greeter {
    child: Child,
    /// Where the pooler finds it, on 127.0.0.1.
    pub(crate) port: u16,
}

impl Greeter {
    /// With this key and certificate.
    pub(crate) fn start(pair: &Pair) -> Greeter {
        let port = free_port();
        let mut command = Command::new("openssl");
        command.args(["s_server", "-quiet", "-accept", &format!("127.0.0.1:{port}")]);
        command.arg("-key").arg(&pair.key).arg("-cert").arg(&pair.certificate);
        // It ends with its input, so this stays open.
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        warden().add(child.id());
        eventually("openssl listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        Greeter { child, port }
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        warden().forget(self.child.id());
    }
}
