//! Pure: entry points for the fuzzer and the property tests: any text in the settings, any bytes in the files, any
//! bytes from the other side of a connection. Each function panics if a promise of this room is broken.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustls::client::UnbufferedClientConnection;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::UnbufferedServerConnection;
use rustls::version::{TLS12, TLS13};

use super::certificate::{self, Certificate};
use super::offer::{self, Words};
use super::session::{self, Buffers, Progress, Session, Side};
use super::trust::{Authorities, ServerTrust};
use super::{File, Materials, pair};
use crate::config::{SslMode, SslNegotiation};
use crate::net::buffers::Inbox;

/// A key and its certificate, both as PEM: what a conversation is begun with.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The private key.
    pub key: &'a [u8],
    /// The certificate, and perhaps the chain after it.
    pub certificate: &'a [u8],
}

/// The lines of a text as the values of protocols, ciphers, ciphers of TLS 1.3, curve and DHE parameters. Promised:
/// what is offered is spoken here, each thing once, and nothing that the value bans; what is refused or left out is
/// told with the setting's name.
pub fn settings(text: &str) {
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default().to_owned();
    let words = Words {
        prefix: "client_tls",
        protocols: line(),
        ciphers: line(),
        ciphers13: Some(line()).filter(|text| !text.is_empty()),
        ecdhcurve: line(),
        dheparams: line(),
    };
    let offer = match words.read() {
        Ok(offer) => offer,
        Err(refusal) => {
            assert!(refusal.contains("client_tls"), "{refusal}");
            return;
        }
    };
    assert!(offer.versions.iter().all(|version| [&TLS12, &TLS13].contains(version)));
    assert!(offer.notices.iter().all(|notice| notice.starts_with("client_tls")), "{:?}", offer.notices);
    assert!(!offer.groups.is_empty());
    let names: Vec<&str> = offer.suites.iter().map(|suite| offer::suite_name(*suite)).collect();
    for (at, name) in names.iter().enumerate() {
        assert!(!names[..at].contains(name), "{name} is offered twice");
    }
    // Of the suites of TLS 1.3 this setting says nothing, with OpenSSL neither.
    let bans = |rule: &str| rule.strip_prefix("!ECDHE-").is_some_and(|rest| names.contains(&&*format!("ECDHE-{rest}")));
    assert!(!words.ciphers.split([':', ',', ' ', ';']).any(bans), "{names:?} for {}", words.ciphers);
}

/// Bytes as the files of a key and of certificates, and as a certificate that somebody shows. Promised: a key is only
/// taken with the certificate it belongs to, a fault names the setting, and no name holds a zero byte.
pub fn files(bytes: &[u8]) {
    let file = |setting| File { setting, path: PathBuf::from("file"), bytes: bytes.to_vec() };
    let (key, shown) = (file("client_tls_key_file"), file("client_tls_cert_file"));
    match pair(&key, &shown, &rustls::crypto::aws_lc_rs::default_provider()) {
        Ok(taken) => assert!(!taken.cert.is_empty()),
        Err(fault) => assert!(fault.contains("client_tls_"), "{fault}"),
    }
    for der in shown.certificates().unwrap_or_default() {
        certificate(&der);
    }
    certificate(&CertificateDer::from(bytes));
}

fn certificate(der: &CertificateDer<'_>) {
    let end_point = certificate::end_point(der);
    assert!(end_point.is_none_or(|hash| [32, 48, 64].contains(&hash.len())));
    let Some(read) = Certificate::read(der) else { return };
    let names = read.common_name().into_iter().map(str::to_owned).chain(read.host_names());
    for name in names {
        read.names_host(&name, |host| read.permits(host));
    }
    assert!(read.common_name().is_none_or(|name| !name.contains('\0')));
    assert!(!read.names_host("", |_| true));
    let _ = read.is_valid_at(UnixTime::since_unix_epoch(Duration::from_secs(1)));
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let _ = read.is_signed_by(&read, &algorithms);
    let (name, now) = (ServerName::IpAddress(IpAddr::from([0, 0, 0, 0]).into()), Duration::from_secs(1_800_000_000));
    let now = UnixTime::since_unix_epoch(now);
    for listed in [vec![der.clone().into_owned()], Vec::new()] {
        let good = !listed.is_empty() && read.is_valid_at(now);
        let trust = ServerTrust { authorities: Some(Authorities::new(listed)), names: false, algorithms };
        let believed = trust.verify_server_cert(der, &[], &name, &[], now).is_ok();
        assert_eq!(believed, good, "it is believed where it is listed itself, and nowhere else");
    }
}

/// Any bytes from the other side: the first chooses the side we are, then each piece is a length byte, which counts in
/// eights, and that many bytes. Promised: no panic, nobody who does not know our key gets as far as to speak, and a
/// conversation that has failed stays so.
pub fn conversation(shown: Shown<'_>, bytes: &[u8]) {
    let Some((side, mut rest)) = bytes.split_first() else { return };
    let mut session = begin(shown, *side % 2 == 0);
    let (mut incoming, mut plain) = (Inbox::default(), Inbox::default());
    while let Some((len, more)) = rest.split_first() {
        let (piece, more) = more.split_at_checked(usize::from(*len) * 8).unwrap_or((more, &[]));
        rest = more;
        incoming.put(piece);
        let mut out = Vec::new();
        let buffers = Buffers { incoming: &mut incoming, plain: &mut plain, out: &mut out };
        let progress = session.step(buffers, session::Words::None);
        assert!(plain.is_empty(), "nobody has agreed on a key yet");
        assert!(!matches!(progress, Ok(Progress::Open)), "nobody has agreed on a key yet");
        if progress.is_err() {
            let buffers = Buffers { incoming: &mut incoming, plain: &mut plain, out: &mut out };
            assert!(session.step(buffers, session::Words::Close).is_err(), "a failure is final");
            return;
        }
    }
}

fn begin(shown: Shown<'_>, accepting: bool) -> Session {
    let file = |setting, bytes: &[u8]| Some(File { setting, path: PathBuf::from("file"), bytes: bytes.to_vec() });
    let words =
        Words { prefix: "client_tls", protocols: "secure".into(), ciphers: "default".into(), ..Words::default() };
    let materials = Materials {
        mode: SslMode::Require,
        negotiation: SslNegotiation::default(),
        words,
        key: file("client_tls_key_file", shown.key),
        certificate: file("client_tls_cert_file", shown.certificate),
        authorities: None,
    };
    let side = if accepting {
        let acceptor = materials.acceptor(&mut Vec::new()).expect("the key belongs to the certificate");
        Side::Accepting(UnbufferedServerConnection::new(acceptor.config).expect("the configuration is in order"))
    } else {
        let connector = materials.connector(&mut Vec::new()).expect("the key belongs to the certificate");
        let name = ServerName::try_from("localhost").expect("it is a name");
        let config = connector.config.expect("there are versions to speak");
        Side::Connecting(UnbufferedClientConnection::new(config, name).expect("the configuration is in order"))
    };
    Session::new(side)
}
