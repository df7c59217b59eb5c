use std::io::Write;
use std::path::PathBuf;

use proptest::prelude::*;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::UnbufferedServerConnection;
use sha2::{Digest, Sha256, Sha512};
use tokio::net::{TcpListener, TcpStream};

use super::session::{Buffers, Progress, Session, Side, Words};
use super::*;
use crate::net::buffers::Inbox;
use crate::net::compute::{Compute, Source};
use crate::net::stream::Stream;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates").join(name)
}

/// Settings for both sides: clients are shown the certificate called `shown`.
fn settings(shown: &str) -> Settings {
    Settings {
        client_tls_sslmode: SslMode::Require,
        client_tls_key_file: Some(path(&format!("{shown}.key"))),
        client_tls_cert_file: Some(path(&format!("{shown}.crt"))),
        server_tls_sslmode: SslMode::VerifyFull,
        server_tls_ca_file: Some(path("authority.crt")),
        ..Settings::default()
    }
}

fn in_force(settings: &Settings) -> InForce {
    Tls::default().prepare(settings).expect("the settings are in order")
}

fn der(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path(name)).unwrap()
}

fn sessions() -> (Session, Session) {
    let InForce { acceptor, connector, .. } = in_force(&settings("named"));
    let server = UnbufferedServerConnection::new(acceptor.unwrap().config.clone()).unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let client = UnbufferedClientConnection::new(connector.unwrap().config.clone().unwrap(), name).unwrap();
    (Session::new(Side::Connecting(client)), Session::new(Side::Accepting(server)))
}

/// One end, and the bytes on their way to it.
struct End {
    session: Session,
    coming: Vec<u8>,
    incoming: Inbox,
    plain: Inbox,
}

impl End {
    fn new(session: Session) -> End {
        End { session, coming: Vec::new(), incoming: Inbox::default(), plain: Inbox::default() }
    }

    /// Takes in at most `len` of what is on its way, and answers.
    fn take(&mut self, len: usize) -> (Progress, Vec<u8>) {
        let len = len.min(self.coming.len());
        self.incoming.put(&self.coming[..len]);
        self.coming.drain(..len);
        let mut out = Vec::new();
        let progress = self.step(Words::None, &mut out).unwrap();
        (progress, out)
    }

    fn step(&mut self, words: Words<'_>, out: &mut Vec<u8>) -> Result<Progress, rustls::Error> {
        let End { session, incoming, plain, .. } = self;
        session.step(Buffers { incoming, plain, out }, words)
    }
}

fn shake_hands(client: &mut End, server: &mut End, mut chunk: impl FnMut() -> usize) {
    let mut open = (false, false);
    let mut turns = 0;
    while open != (true, true) || !client.coming.is_empty() || !server.coming.is_empty() {
        let (progress, out) = client.take(chunk());
        server.coming.extend(out);
        open.0 = progress == Progress::Open;
        let (progress, out) = server.take(chunk());
        client.coming.extend(out);
        open.1 = progress == Progress::Open;
        turns += 1;
        assert!(turns < 10_000, "the handshake does not end");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn however_the_bytes_are_split_the_same_comes_out(
        chunks in prop::collection::vec(1usize..3_000, 1..20),
        messages in prop::collection::vec(0usize..40_000, 1..6),
    ) {
        let (client, server) = sessions();
        let (mut client, mut server) = (End::new(client), End::new(server));
        let mut turn = chunks.iter().cycle().copied();
        let mut chunk = || turn.next().unwrap();
        shake_hands(&mut client, &mut server, &mut chunk);

        let mut sent = Vec::new();
        for (number, len) in messages.into_iter().enumerate() {
            let bytes: Vec<u8> = (0..len).map(|at| (at * 7 + number) as u8).collect();
            client.step(Words::Bytes(&bytes), &mut server.coming).unwrap();
            sent.extend(bytes);
        }
        client.step(Words::Close, &mut server.coming).unwrap();
        let mut progress = Progress::Open;
        while !server.coming.is_empty() {
            progress = server.take(chunk()).0;
        }

        prop_assert_eq!(progress, Progress::Ended);
        prop_assert!(server.plain.fresh() == sent);
        prop_assert!(server.incoming.is_empty(), "a session at rest holds no bytes");
    }

    #[test]
    fn bytes_that_are_no_tls_end_the_session(bytes in prop::collection::vec(any::<u8>(), 5..200)) {
        let mut server = End::new(sessions().1);
        server.incoming.put(&bytes);
        let progress = server.step(Words::None, &mut Vec::new());
        prop_assert!(server.plain.is_empty());
        prop_assert!(!matches!(progress, Ok(Progress::Open)));
        prop_assert!(server.step(Words::Bytes(b"hello"), &mut Vec::new()).is_err());
    }
}

#[test]
fn a_ban_of_a_suite_of_tls_1_3_is_not_the_list_of_tls_1_2s_to_pronounce() {
    fuzz::settings("secure\nHIGH:!TLS_AES_256_GCM_SHA384:!ECDHE-RSA-AES256-GCM-SHA384\n\nX25519\nauto");
}

/// A ClientHello or a server's first flight, as a beginning to be spoilt.
fn first_flight(accepting: bool) -> Vec<u8> {
    let (client, server) = sessions();
    let (mut client, mut server) = (End::new(client), End::new(server));
    let (_, hello) = client.take(0);
    if accepting {
        return hello;
    }
    server.coming = hello;
    server.take(usize::MAX).1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_spoilt_flight_opens_nothing(
        accepting: bool,
        pieces in prop::collection::vec(1u8..60, 1..40),
        spoilt in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut flight = first_flight(accepting);
        for (at, byte) in spoilt {
            let at = at.index(flight.len());
            flight[at] = byte;
        }
        let mut bytes = vec![u8::from(!accepting)];
        let mut rest = &flight[..];
        for piece in pieces.iter().cycle() {
            let len = (usize::from(*piece) * 8).min(rest.len());
            bytes.push(*piece);
            bytes.extend(&rest[..len]);
            rest = &rest[len..];
            if rest.is_empty() {
                break;
            }
        }
        let read = |name: &str| std::fs::read(path(name)).unwrap();
        let (key, certificate) = (read("named.key"), read("named.crt"));
        fuzz::conversation(fuzz::Shown { key: &key, certificate: &certificate }, &bytes);
    }

    #[test]
    fn spoilt_files_are_refused_or_read(
        name in prop::sample::select(vec!["named.crt", "plain.crt", "own.crt", "named.key"]),
        der: bool,
        spoilt in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut bytes = match der && name != "named.key" {
            true => super::tests::der(name).to_vec(),
            false => std::fs::read(path(name)).unwrap(),
        };
        for (at, byte) in spoilt {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        fuzz::files(&bytes);
    }

    #[test]
    fn any_words_offer_what_is_spoken_here_or_are_refused_by_name(
        text in "(all|secure|tlsv1.[0-3]|[!,: a-z]){0,4}\n([A-Z]{3,6}|ECDHE|AESGCM|ALL|[+!:-]|DEFAULT){0,9}\n\
                 (TLS_AES_128_GCM_SHA256|TLS_AES_128_CCM_SHA256|:|x){0,4}\n(X25519|P-256|:|auto|x){0,3}\n.{0,6}",
    ) {
        fuzz::settings(&text);
    }
}

#[test]
fn half_a_message_of_the_handshake_is_no_obstacle() {
    // rustls remembers where it began; a step without the bytes would be the end of the program.
    for len in 1..600 {
        let (client, server) = sessions();
        let (mut client, mut server) = (End::new(client), End::new(server));
        let (_, hello) = client.take(0);
        server.coming = hello;
        let (_, flight) = server.take(usize::MAX);
        client.coming = flight;
        client.take(len);

        let mut out = Vec::new();
        let _ = client.step(Words::Close, &mut out);
        assert!(client.step(Words::Bytes(b"early"), &mut out).is_err());
        assert!(client.plain.is_empty());
    }
}

#[test]
fn a_broken_record_is_an_error_that_the_other_side_hears_of() {
    let (client, server) = sessions();
    let (mut client, mut server) = (End::new(client), End::new(server));
    shake_hands(&mut client, &mut server, || usize::MAX);
    let mut sealed = Vec::new();
    client.step(Words::Bytes(b"select 1"), &mut sealed).unwrap();
    *sealed.last_mut().unwrap() ^= 1;
    server.incoming.put(&sealed);
    let mut out = Vec::new();

    let failed = server.step(Words::None, &mut out);

    assert!(failed.is_err() && server.plain.is_empty());
    assert!(!out.is_empty(), "an alert");
    assert!(server.step(Words::Close, &mut out).is_err(), "nothing more comes of it");
}

fn trusts(authorities: &[&str], shown: &str, host: &str, now: UnixTime) -> bool {
    use rustls::client::danger::ServerCertVerifier;
    let trust = ServerTrust {
        authorities: Some(Authorities::new(authorities.iter().map(|name| der(name)).collect())),
        names: true,
        algorithms: aws_lc_rs::default_provider().signature_verification_algorithms,
    };
    let name = ServerName::try_from(host).unwrap();
    trust.verify_server_cert(&der(shown), &[], &name, &[], now).is_ok()
}

#[test]
fn a_certificate_is_believed_by_signature_name_and_date() {
    let now = UnixTime::now();
    let later = UnixTime::since_unix_epoch(std::time::Duration::from_secs(200 * 365 * 24 * 3600));
    let earlier = UnixTime::since_unix_epoch(std::time::Duration::ZERO);
    for (shown, authority, host) in [
        ("named.crt", "authority.crt", "db.example.org"),
        ("named.crt", "authority.crt", "127.0.0.1"),
        ("named.crt", "authority.crt", "::1"),
        // As PgBouncer: the common name counts beside the alternative ones.
        ("named.crt", "authority.crt", "localhost"),
        ("plain.crt", "authority.crt", "localhost"),
        ("own.crt", "own.crt", "localhost"),
    ] {
        assert!(trusts(&[authority], shown, host, now), "{shown} {host}");
        let other = if authority == "own.crt" { "authority.crt" } else { "own.crt" };
        assert!(!trusts(&[other], shown, host, now), "{shown} {host}: another authority");
        assert!(trusts(&[other, authority], shown, host, now), "{shown} {host}: one of two");
        assert!(!trusts(&[authority], shown, "elsewhere", now), "{shown}: another host");
        assert!(!trusts(&[authority], shown, "127.0.0.2", now), "{shown}: another address");
        assert!(!trusts(&[authority], shown, host, later), "{shown} {host}: expired");
        assert!(!trusts(&[authority], shown, host, earlier), "{shown} {host}: not yet valid");
    }
    assert!(!trusts(&["plain.crt"], "named.crt", "localhost", now), "what is no authority has signed nothing");
}

#[test]
fn the_end_point_is_hashed_as_the_certificate_was_signed() {
    assert_eq!(certificate::end_point(&der("named.crt")).unwrap(), Sha256::digest(der("named.crt")).to_vec());
    assert_eq!(certificate::end_point(&der("own.crt")).unwrap(), Sha512::digest(der("own.crt")).to_vec());
}

#[test]
fn what_does_not_fit_is_named() {
    let misfit = Settings { client_tls_key_file: Some(path("plain.key")), ..settings("named") };
    let error = Tls::default().prepare(&misfit).unwrap_err();
    for part in ["client_tls_key_file", "plain.key", "client_tls_cert_file", "named.crt"] {
        assert!(error.contains(part), "{error}");
    }

    let wrong = [
        (Settings { client_tls_key_file: Some(path("none")), ..settings("named") }, "client_tls_key_file"),
        (Settings { client_tls_key_file: Some(path("named.crt")), ..settings("named") }, "no private key"),
        (Settings { client_tls_cert_file: Some(path("named.key")), ..settings("named") }, "no certificate"),
        (Settings { client_tls_cert_file: None, ..settings("named") }, "must be set"),
        (Settings { client_tls_sslmode: SslMode::VerifyCa, ..settings("named") }, "requires client_tls_ca_file"),
        (Settings { server_tls_key_file: Some(path("named.key")), ..settings("named") }, "together or not at all"),
    ];
    for (settings, says) in wrong {
        let error = Tls::default().prepare(&settings).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn what_is_wrong_with_a_key_or_a_chain_is_said() {
    let error = Tls::default().prepare(&settings("short")).unwrap_err();
    assert!(error.starts_with("invalid client_tls_key_file: ") && error.contains("an RSA key of 1024 bits"), "{error}");

    let mut chain = tempfile::NamedTempFile::new().unwrap();
    for name in ["authority.crt", "named.crt"] {
        chain.write_all(&std::fs::read(path(name)).unwrap()).unwrap();
    }
    let backwards = Settings { client_tls_cert_file: Some(chain.path().to_owned()), ..settings("named") };
    let error = Tls::default().prepare(&backwards).unwrap_err();
    assert!(error.starts_with("invalid client_tls_cert_file: "), "{error}");
    assert!(error.contains("the first certificate must be") && error.ends_with("number 2 in it"), "{error}");
}

#[test]
fn a_certificate_out_of_date_is_told_each_time() {
    let tls = Tls::default();
    let expired = Settings { client_tls_cert_file: Some(path("expired.crt")), ..settings("named") };
    for _ in 0..2 {
        let new = tls.prepare(&expired).unwrap();
        let [notice] = &new.notices[..] else { panic!("one notice: {:?}", new.notices) };
        assert!(notice.starts_with("client_tls_cert_file: ") && notice.contains("expired.crt"), "{notice}");
        assert!(notice.contains("expired on 2021-01-01T00:00:00Z"), "{notice}");
        tls.put_in_force(new);
    }

    let early = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_000_000_000));
    let told = Materials::of_clients(&settings("named")).unwrap().untimely(early);
    assert!(told.len() == 1 && told[0].contains("not valid before 2026-"), "{told:?}");
    assert_eq!(in_force(&settings("named")).notices, Vec::<String>::new());
}

#[test]
fn ciphers_that_do_not_fit_the_key_are_told() {
    let told = |protocols: &str, ciphers: &str| {
        let (client_tls_protocols, client_tls_ciphers) = (protocols.to_owned(), ciphers.to_owned());
        in_force(&Settings { client_tls_protocols, client_tls_ciphers, ..settings("named") }).notices.join("; ")
    };

    let alone = told("tlsv1.2", "ECDHE+aRSA");
    assert!(alone.starts_with("client_tls_ciphers: ECDHE+aRSA: none of them fits the ECDSA key"), "{alone}");
    assert!(alone.contains(", every handshake will fail"), "{alone}");
    assert!(told("secure", "ECDHE+aRSA").contains("every handshake of TLS 1.2 will fail"));
    assert_eq!(told("tlsv1.3", "ECDHE+aRSA"), "");
    assert_eq!(told("tlsv1.2", "ECDHE+ECDSA"), "");
}

#[test]
fn what_has_not_changed_stays() {
    let tls = Tls::default();
    assert!(tls.put_in_force(tls.prepare(&settings("named")).unwrap()), "the first is a change");
    let first = tls.current();

    assert!(!tls.put_in_force(tls.prepare(&settings("named")).unwrap()));
    assert!(Arc::ptr_eq(first.acceptor.as_ref().unwrap(), tls.current().acceptor.as_ref().unwrap()));

    assert!(!tls.put_in_force(tls.prepare(&settings("plain")).unwrap()), "that was the clients' side");
    assert!(!Arc::ptr_eq(first.acceptor.as_ref().unwrap(), tls.current().acceptor.as_ref().unwrap()));

    let servers = Settings { server_tls_sslmode: SslMode::VerifyCa, ..settings("plain") };
    assert!(tls.put_in_force(tls.prepare(&servers).unwrap()));
}

type Outcome = Result<TlsStream, TlsError>;

async fn connected(shown: &str, host: &str) -> (Outcome, Outcome) {
    let (client, server, _) = connected_and_watched(&settings(shown), host).await;
    (client, server)
}

/// Beside both ends, the client's socket, to be looked at from outside.
async fn connected_and_watched(settings: &Settings, host: &str) -> (Outcome, Outcome, std::net::TcpStream) {
    let InForce { acceptor, connector, .. } = in_force(settings);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let watched = socket.try_clone().unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let (connector, acceptor) = (connector.unwrap(), acceptor.unwrap());
    let compute = Compute::new(2);
    let signing = Signing { compute: &compute, source: Source::Local(None) };
    let accepting = TlsStream::accept(accepted, &acceptor, Inbox::default(), &signing);
    let connecting = TlsStream::connect(TcpStream::from_std(socket).unwrap(), &connector, host);
    let (client, server) = tokio::join!(connecting, accepting);
    (client, server, watched)
}

#[tokio::test]
async fn both_ends_agree_on_what_binds_them() {
    let (client, server) = connected("named", "db.example.org").await;
    let (client, server) = (client.unwrap(), server.unwrap());

    assert_eq!(client.end_point(), Some(&*Sha256::digest(der("named.crt"))));
    assert_eq!(client.end_point(), server.end_point());
    assert_eq!(client.description(), "TLSv1.3/TLS_AES_256_GCM_SHA384");
    let names = client.peer_names().unwrap();
    assert_eq!(names.iter().collect::<Vec<_>>(), ["localhost", "db.example.org"]);
    assert_eq!(server.peer_names(), None);
    assert_eq!(server.peer_certificate(), None);

    let (refused, told) = connected("named", "elsewhere.example.org").await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("certificate verify failed"), "{refused}");
    let name = "name `elsewhere.example.org' not present in server certificate: it is made out to localhost, \
                db.example.org, ";
    assert!(refused.contains(name) && refused.contains("127.0.0.1"), "{refused}");
    assert!(told.is_err());
}

/// A client's socket, and our answer to its handshake, whose signature has its turn when the test gives it one.
async fn answering(compute: &Compute) -> (std::net::TcpStream, impl Future<Output = Result<TlsStream, TlsError>>) {
    let acceptor = in_force(&settings("named")).acceptor.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let signing = Signing { compute, source: Source::Local(None) };
    let answering = async move { TlsStream::accept(accepted, &acceptor, Inbox::default(), &signing).await };
    (client, answering)
}

/// Polls until a job waits for its turn.
async fn until_due<T>(compute: &Compute, mut answering: std::pin::Pin<&mut impl Future<Output = T>>) {
    while compute.waiting() == 0 {
        assert!(poll_once(answering.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
}

fn poll_once<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> std::task::Poll<T> {
    future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

#[tokio::test]
async fn nothing_is_signed_for_a_client_that_has_hung_up() {
    let compute = Compute::new(0);
    let (mut client, answering) = answering(&compute).await;
    let mut answering = std::pin::pin!(answering);
    client.write_all(&first_flight(true)).unwrap();
    until_due(&compute, answering.as_mut()).await;

    drop(client);

    let told = answering.await.unwrap_err().to_string();
    assert_eq!(told, "handshake failed: unexpected EOF");
    assert_eq!((compute.waiting(), compute.turn()), (0, false));
}

#[tokio::test]
async fn a_hello_that_goes_on_while_its_turn_is_awaited_is_answered() {
    let compute = Compute::new(0);
    let (mut client, answering) = answering(&compute).await;
    let mut answering = std::pin::pin!(answering);
    let hello = first_flight(true);
    client.write_all(&hello[..40]).unwrap();
    until_due(&compute, answering.as_mut()).await;
    client.write_all(&hello[40..]).unwrap();
    // The rest has been read before half of it is looked at.
    for _ in 0..5 {
        tokio::task::yield_now().await;
        assert!(poll_once(answering.as_mut()).is_pending());
    }
    client.set_nonblocking(true).unwrap();

    while client.peek(&mut [0]).is_err() {
        compute.turn();
        assert!(poll_once(answering.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }

    assert!(!compute.turn(), "the signature is made once");
}

#[tokio::test]
async fn a_handshake_without_a_version_or_a_cipher_in_common_names_the_setting() {
    let with = |client: &str, server: &str| Settings {
        client_tls_protocols: client.to_owned(),
        server_tls_protocols: server.to_owned(),
        ..settings("named")
    };
    for (client, server) in [("tlsv1.3", "tlsv1.2"), ("tlsv1.2", "tlsv1.3")] {
        let (asking, answering, _) = connected_and_watched(&with(client, server), "localhost").await;
        let said = answering.unwrap_err().to_string();
        let ours = format!("handshake failed: no version of TLS in common: client_tls_protocols is {client},");
        assert!(said.starts_with(&ours), "{said}");
        let said = asking.unwrap_err().to_string();
        assert!(said.contains(&format!("server_tls_protocols is {server},")), "{said}");
    }

    let mut apart = with("tlsv1.2", "tlsv1.2");
    apart.client_tls_ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256".to_owned();
    apart.server_tls_ciphers = "ECDHE-ECDSA-AES256-GCM-SHA384".to_owned();
    let (_, answering, _) = connected_and_watched(&apart, "localhost").await;
    let said = answering.unwrap_err().to_string();
    assert!(said.contains("client_tls_ciphers is ECDHE-ECDSA-AES128-GCM-SHA256;"), "{said}");
}

#[tokio::test]
async fn the_ticket_leaves_with_the_first_answer_or_before_a_wait() {
    for answers in [true, false] {
        let (client, server, wire) = connected_and_watched(&settings("named"), "localhost").await;
        let (_client, mut server) = (client.unwrap(), Stream::Tls(Box::new(server.unwrap())));
        assert!(wire.peek(&mut [0]).is_err(), "it is held back");

        if answers {
            server.send_all(b"hello").await.unwrap();
        } else {
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(server.poll_fill(&mut cx, &mut Inbox::default()).is_pending());
        }

        let mut came = [0; 1024];
        let len = wire.peek(&mut came).unwrap();
        assert_eq!(records(&came[..len]), if answers { 2 } else { 1 });
    }
}

/// How many TLS records these bytes are.
fn records(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let [_, _, _, high, low, rest @ ..] = bytes {
        bytes = &rest[usize::from(u16::from_be_bytes([*high, *low]))..];
        count += 1;
    }
    count
}

#[tokio::test]
async fn a_stream_gives_no_more_than_is_asked_for_and_loses_nothing() {
    let (client, server) = connected("plain", "localhost").await;
    let mut client = Stream::Tls(Box::new(client.unwrap()));
    let mut server = Stream::Tls(Box::new(server.unwrap()));
    let sent: Vec<u8> = (0..300_000).map(|at| (at * 13) as u8).collect();
    // The ticket for a later session comes before: a socket closed with bytes unread takes back what it sent.
    let mut first = Inbox::default();
    server.send_all(b"hello").await.unwrap();
    client.fill(&mut first).await.unwrap();
    assert_eq!(first.fresh(), b"hello");
    let send = async {
        client.send_all(&sent).await.unwrap();
        drop(client);
    };
    let receive = async {
        let (mut got, mut max) = (Vec::new(), 1);
        loop {
            let mut inbox = Inbox::default();
            let len = std::future::poll_fn(|cx| server.poll_fill_at_most(cx, &mut inbox, max)).await.unwrap();
            assert!(len <= max && len == inbox.fresh().len());
            if len == 0 {
                return got;
            }
            got.extend_from_slice(inbox.fresh());
            max = max * 3 % 20_011 + 1;
        }
    };

    let ((), got) = tokio::join!(send, receive);

    assert!(got == sent);
    assert!(server.looks_readable() && server.has_input(), "the end is to be seen");
}
