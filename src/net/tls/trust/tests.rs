//! Each way for a certificate to be wrong, made with OpenSSL, which is asked for its opinion, too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;

use super::*;

/// Keys that everybody knows, of `tests/certificates`.
const ROOT_KEY: &str = "own.key";
const BETWEEN_KEY: &str = "plain.key";
const END_KEY: &str = "named.key";

/// Where certificates are made.
struct Maker {
    dir: TempDir,
    made: AtomicU32,
}

/// A certificate and its key.
#[derive(Clone)]
struct Made {
    certificate: PathBuf,
    key: &'static str,
}

impl Made {
    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.certificate).unwrap()
    }
}

fn key(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates").join(name)
}

fn openssl(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("openssl").args(arguments).output().expect("openssl runs (apt-get install openssl)");
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    if output.status.success() { Ok(()) } else { Err(said) }
}

impl Maker {
    fn new() -> Maker {
        Maker { dir: tempfile::tempdir().unwrap(), made: AtomicU32::new(1) }
    }

    fn path(&self, ending: &str) -> (String, PathBuf) {
        let number = self.made.fetch_add(1, Relaxed).to_string();
        let path = self.dir.path().join(format!("{number}.{ending}"));
        (number, path)
    }

    /// One with these extensions, a line each, signed by another or by itself, valid for so many days.
    fn made(&self, subject: &str, key_name: &'static str, signer: Option<&Made>, days: &str, extensions: &str) -> Made {
        let (serial, certificate) = self.path("crt");
        let config = certificate.with_extension("cnf");
        let text =
            format!("[req]\ndistinguished_name=dn\nx509_extensions=extensions\n[dn]\n[extensions]\n{extensions}\n");
        fs::write(&config, text).unwrap();
        let (key_file, subject) = (key(key_name), format!("/CN={subject}"));
        let text = |path: &PathBuf| path.display().to_string();
        let (config, key_file, out) = (text(&config), text(&key_file), text(&certificate));
        let mut arguments = vec!["req", "-new", "-x509", "-utf8", "-config", &config, "-subj", &subject];
        arguments.extend(["-key", &key_file, "-days", days, "-set_serial", &serial, "-out", &out]);
        let signed = signer.map(|signer| (text(&signer.certificate), text(&key(signer.key))));
        if let Some((certificate, key)) = &signed {
            arguments.extend(["-CA", certificate, "-CAkey", key]);
        }
        openssl(&arguments).unwrap();
        Made { certificate, key: key_name }
    }

    fn root(&self, extensions: &str) -> Made {
        self.made("Root", ROOT_KEY, None, "100", extensions)
    }

    fn between(&self, subject: &str, signer: &Made, extensions: &str) -> Made {
        self.made(subject, BETWEEN_KEY, Some(signer), "100", extensions)
    }

    /// For db.example.org.
    fn end(&self, signer: &Made, extensions: &str) -> Made {
        self.made("db.example.org", END_KEY, Some(signer), "100", extensions)
    }

    /// Of version 1, for this common name.
    fn plain(&self, subject: &str, key_name: &'static str, signer: Option<&Made>) -> Made {
        let (serial, certificate) = self.path("crt");
        let request = certificate.with_extension("csr").display().to_string();
        let (key_file, out) = (key(key_name).display().to_string(), certificate.display().to_string());
        let subject = format!("/CN={subject}");
        openssl(&["req", "-new", "-key", &key_file, "-subj", &subject, "-out", &request]).unwrap();
        let mut arguments = vec!["x509", "-req", "-in", &request, "-days", "100", "-set_serial", &serial, "-out", &out];
        let signed =
            signer.map(|signer| [signer.certificate.clone(), key(signer.key)].map(|it| it.display().to_string()));
        match &signed {
            Some([certificate, key]) => arguments.extend(["-CA", certificate, "-CAkey", key]),
            None => arguments.extend(["-signkey", &key_file]),
        }
        openssl(&arguments).unwrap();
        let made = Made { certificate, key: key_name };
        assert!(Certificate::read(&made.der()).unwrap().is_plain(), "openssl makes another version of it");
        made
    }

    fn bundle(&self, certificates: &[&Made]) -> String {
        let (_, path) = self.path("pem");
        let texts: Vec<String> = certificates.iter().map(|it| fs::read_to_string(&it.certificate).unwrap()).collect();
        fs::write(&path, texts.concat()).unwrap();
        path.display().to_string()
    }

    /// What OpenSSL says of it.
    fn openssl(
        &self,
        listed: &Made,
        between: &[&Made],
        end: &Made,
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<(), String> {
        let purpose = if purpose == Purpose::Server { "sslserver" } else { "sslclient" };
        let (listed, end) = (listed.certificate.display().to_string(), end.certificate.display().to_string());
        let now = now.as_secs().to_string();
        let mut arguments = vec!["verify", "-no-CApath", "-no-CAstore", "-purpose", purpose, "-attime", &now];
        arguments.extend(["-CAfile", &listed]);
        let untrusted = (!between.is_empty()).then(|| self.bundle(between));
        if let Some(untrusted) = &untrusted {
            arguments.extend(["-untrusted", untrusted]);
        }
        openssl(&[&arguments[..], &[&end]].concat())
    }
}

/// What we say of it: as from a server called `host`, and as from a client.
fn judged(
    listed: &[&Made],
    between: &[&Made],
    end: &Made,
    host: Option<&str>,
    purpose: Purpose,
    now: UnixTime,
) -> Result<(), String> {
    let ders = |made: &[&Made]| made.iter().map(|made| made.der()).collect::<Vec<_>>();
    let (authorities, between, provider) = (Authorities::new(ders(listed)), ders(between), default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let outcome = match purpose {
        Purpose::Server => {
            let trust = ServerTrust { authorities: Some(authorities), names: host.is_some(), algorithms };
            let name = ServerName::try_from(host.unwrap_or("unasked")).unwrap();
            trust.verify_server_cert(&end.der(), &between, &name, &[], now).map(drop)
        }
        Purpose::Client => {
            let trust = ClientTrust::new(authorities, true, &Arc::new(provider)).unwrap();
            trust.verify_client_cert(&end.der(), &between, now).map(drop)
        }
    };
    outcome.map_err(|error| match error {
        Error::InvalidCertificate(CertificateError::Other(why)) => why.to_string(),
        error => error.to_string(),
    })
}

const PURPOSES: [Purpose; 2] = [Purpose::Server, Purpose::Client];

/// Both judge alike: it is good, or it is wrong for the reason that we give.
#[track_caller]
fn both_say(maker: &Maker, what: &str, listed: &Made, between: &[&Made], end: &Made, why: Option<&str>) {
    for purpose in PURPOSES {
        one_says(maker, what, listed, between, end, purpose, why);
    }
}

#[track_caller]
fn one_says(
    maker: &Maker,
    what: &str,
    listed: &Made,
    between: &[&Made],
    end: &Made,
    purpose: Purpose,
    why: Option<&str>,
) {
    let (ours, theirs) = (
        judged(&[listed], between, end, None, purpose, UnixTime::now()),
        maker.openssl(listed, between, end, purpose, UnixTime::now()),
    );
    assert_eq!(theirs.is_ok(), why.is_none(), "OpenSSL of {what} {purpose:?}: {theirs:?}");
    match (ours, why) {
        (Ok(()), None) => {}
        (Err(said), Some(why)) => assert!(said.contains(why), "{what} {purpose:?}: {said}"),
        (ours, _) => panic!("{what} {purpose:?}: {ours:?}"),
    }
}

const CA: &str = "basicConstraints=critical,CA:TRUE";
const END: &str = "basicConstraints=CA:FALSE\nsubjectAltName=DNS:db.example.org";

fn with(base: &str, more: &str) -> String {
    format!("{base}\n{more}")
}

#[test]
fn good_chains_are_believed() {
    let maker = Maker::new();
    for extensions in [
        CA,
        &with(CA, "keyUsage=critical,keyCertSign,cRLSign"),
        "basicConstraints=critical,CA:TRUE,pathlen:0",
        &with(CA, "extendedKeyUsage=serverAuth,clientAuth"),
        &with(CA, "nameConstraints=critical,permitted;DNS:example.org"),
        &with(CA, "nameConstraints=critical,excluded;DNS:example.net,excluded;IP:10.0.0.0/255.0.0.0"),
        // OpenSSL takes it for an authority, too.
        "keyUsage=keyCertSign",
    ] {
        let root = maker.root(extensions);
        both_say(&maker, extensions, &root, &[], &maker.end(&root, END), None);
    }
    let root = maker.root(CA);
    for more in [
        "keyUsage=digitalSignature",
        "keyUsage=critical,digitalSignature,keyEncipherment",
        "extendedKeyUsage=serverAuth,clientAuth",
    ] {
        both_say(&maker, more, &root, &[], &maker.end(&root, &with(END, more)), None);
    }
    let root = maker.root("basicConstraints=critical,CA:TRUE,pathlen:1");
    let between = maker.between("Between", &root, "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=keyCertSign");
    both_say(&maker, "a longer path", &root, &[&between], &maker.end(&between, END), None);
    let old = maker.plain("Old root", ROOT_KEY, None);
    both_say(&maker, "a root of version 1", &old, &[], &maker.end(&old, END), None);
}

#[test]
fn what_the_book_of_postgres_makes_is_believed() {
    let maker = Maker::new();
    let (own, other) = (maker.made("localhost", END_KEY, None, "100", CA), maker.root(CA));
    both_say(&maker, "its own authority", &own, &[], &own, None);
    both_say(&maker, "another's", &other, &[], &own, Some("it is an authority's (CA:TRUE)"));
    let again = maker.made("localhost", END_KEY, None, "100", CA);
    for purpose in PURPOSES {
        let said = judged(&[&own], &[], &again, None, purpose, UnixTime::now());
        assert!(said.is_err_and(|why| why.contains("(CA:TRUE)")), "another of the same name and key is not listed");
    }
    // Whatever it says of itself: it is the very one.
    for extensions in ["basicConstraints=CA:FALSE", "keyUsage=cRLSign", "1.2.3.4=critical,ASN1:NULL", ""] {
        let own = maker.made("localhost", END_KEY, None, "100", extensions);
        for purpose in PURPOSES {
            assert_eq!(judged(&[&other, &own], &[], &own, None, purpose, UnixTime::now()), Ok(()), "{extensions}");
        }
    }

    for extensions in [CA, &with(CA, "keyUsage=keyCertSign"), &with(CA, "nameConstraints=permitted;DNS:example.org")] {
        let root = maker.root(extensions);
        both_say(&maker, extensions, &root, &[], &maker.plain("db.example.org", END_KEY, Some(&root)), None);
    }
    let old = maker.plain("Old root", ROOT_KEY, None);
    both_say(&maker, "both of version 1", &old, &[], &maker.plain("db.example.org", END_KEY, Some(&old)), None);
}

#[test]
fn a_certificate_for_something_else_is_refused() {
    let maker = Maker::new();
    let root = maker.root(CA);
    let end = |more: &str| maker.end(&root, &with(END, more));

    for (more, why) in [
        ("extendedKeyUsage=codeSigning", "extended key usage"),
        ("extendedKeyUsage=critical,OCSPSigning", "extended key usage"),
        ("keyUsage=cRLSign", "its key usage does not allow for a TLS"),
        ("keyUsage=critical,keyCertSign", "its key usage does not allow for a TLS"),
        ("1.2.3.4=critical,ASN1:NULL", "a critical extension that is not known"),
    ] {
        both_say(&maker, more, &root, &[], &end(more), Some(why));
    }
    for (usage, good, bad) in
        [("serverAuth", Purpose::Server, Purpose::Client), ("clientAuth", Purpose::Client, Purpose::Server)]
    {
        let end = end(&format!("extendedKeyUsage={usage}"));
        one_says(&maker, usage, &root, &[], &end, good, None);
        one_says(&maker, usage, &root, &[], &end, bad, Some("extended key usage"));
    }
    // Enciphering alone is for servers.
    let end = end("keyUsage=keyEncipherment");
    one_says(&maker, "keyEncipherment", &root, &[], &end, Purpose::Server, None);
    one_says(&maker, "keyEncipherment", &root, &[], &end, Purpose::Client, Some("its key usage"));
}

#[test]
fn ca_true_excuses_nothing() {
    let maker = Maker::new();
    let root = maker.root(&with(CA, "nameConstraints=permitted;DNS:example.org,permitted;IP:10.0.0.0/255.0.0.0"));
    let lines = [
        "subjectAltName=DNS:db.example.org\nextendedKeyUsage=codeSigning",
        "subjectAltName=DNS:db.example.org\nkeyUsage=cRLSign",
        "subjectAltName=DNS:db.example.org\n1.2.3.4=critical,ASN1:NULL",
        "subjectAltName=DNS:db.example.net",
        "subjectAltName=DNS:db.example.org,IP:192.168.0.1",
    ];
    for line in lines {
        both_say(&maker, line, &root, &[], &maker.end(&root, &with(CA, line)), Some(""));
    }
    // OpenSSL would take this one.
    let end = maker.end(&root, &with(CA, "subjectAltName=DNS:db.example.org"));
    for purpose in PURPOSES {
        let said = judged(&[&root], &[], &end, None, purpose, UnixTime::now());
        assert!(said.is_err_and(|why| why.contains("it is an authority's (CA:TRUE)")));
    }
}

/// What makes a root one that may sign nothing.
const NO_ROOTS: [(&str, &str); 8] = [
    ("basicConstraints=CA:FALSE", "may not sign: it is no authority (CA:FALSE)"),
    ("subjectKeyIdentifier=hash", "may not sign: it is no authority (there is no CA:TRUE)"),
    ("keyUsage=digitalSignature", "may not sign: its key usage is without keyCertSign"),
    ("basicConstraints=critical,CA:TRUE\nkeyUsage=cRLSign", "may not sign: its key usage is without keyCertSign"),
    (
        "basicConstraints=critical,CA:TRUE\nextendedKeyUsage=codeSigning",
        "may not sign: its extended key usage is for other purposes",
    ),
    (
        "basicConstraints=critical,CA:TRUE\n1.2.3.4=critical,ASN1:NULL",
        "may not sign: it has a critical extension that is not known",
    ),
    (
        "basicConstraints=critical,CA:FALSE\nkeyUsage=keyCertSign,digitalSignature",
        "may not sign: it is no authority (CA:FALSE)",
    ),
    (
        "basicConstraints=critical,CA:TRUE\nextendedKeyUsage=critical,emailProtection,1.2.3.4",
        "may not sign: its extended key usage is for other purposes",
    ),
];

#[test]
fn a_listed_certificate_that_may_not_sign_vouches_for_nobody_but_itself() {
    let maker = Maker::new();
    let good = maker.root(CA);
    for (extensions, why) in NO_ROOTS {
        let root = maker.root(extensions);
        let [end, plain] = [maker.end(&root, END), maker.plain("db.example.org", END_KEY, Some(&root))];
        both_say(&maker, extensions, &root, &[], &end, Some(why));
        both_say(&maker, extensions, &root, &[], &plain, Some(why));
        // A good one of the same name and key stands beside it.
        for (purpose, end) in PURPOSES.into_iter().flat_map(|purpose| [(purpose, &end), (purpose, &plain)]) {
            assert_eq!(judged(&[&root, &good], &[], end, None, purpose, UnixTime::now()), Ok(()), "{extensions}");
        }
    }
    // Which of them may sign shows only on the way up.
    let root = maker.root("basicConstraints=critical,CA:TRUE,pathlen:0");
    let between = maker.between("Between", &root, CA);
    let why = "CN=Root, may not sign: its path length does not allow";
    both_say(&maker, "root's path length", &root, &[&between], &maker.end(&between, END), Some(why));
}

#[test]
fn an_authority_between_may_sign_or_may_not() {
    let maker = Maker::new();
    let root = maker.root(CA);
    for (extensions, why) in NO_ROOTS {
        let between = maker.between("Between", &root, extensions);
        let why = match extensions {
            "subjectKeyIdentifier=hash" | "keyUsage=digitalSignature" => {
                "it is signed with a certificate that may not sign"
            }
            _ if extensions.contains("CA:FALSE") => "it is signed with a certificate that may not sign",
            _ if extensions.contains("keyUsage=c") => why,
            // In rustls' words.
            _ => "",
        };
        both_say(&maker, extensions, &root, &[&between], &maker.end(&between, END), Some(why));
    }
    let plain = maker.plain("Between", BETWEEN_KEY, Some(&root));
    both_say(&maker, "version 1", &root, &[&plain], &maker.end(&plain, END), Some("is not of version 3"));
    let upper = maker.made("Upper", BETWEEN_KEY, Some(&root), "100", "basicConstraints=critical,CA:TRUE,pathlen:0");
    let lower = maker.made("Lower", ROOT_KEY, Some(&upper), "100", CA);
    let end = maker.end(&lower, END);
    both_say(&maker, "path length", &root, &[&lower, &upper], &end, Some("path length does not allow"));
    let constrained = maker.between("Between", &root, &with(CA, "nameConstraints=permitted;DNS:example.net"));
    let why = "its name is not one that its authority may sign for";
    both_say(&maker, "names", &root, &[&constrained], &maker.end(&constrained, END), Some(why));
    both_say(&maker, "nobody between", &root, &[], &maker.end(&constrained, END), Some("UnknownIssuer"));
}

#[test]
fn names_that_an_authority_may_not_sign_for_are_refused() {
    let maker = Maker::new();
    let root = maker.root(&with(
        CA,
        "nameConstraints=critical,permitted;DNS:example.org,excluded;DNS:secret.example.org,\
         permitted;IP:10.0.0.0/255.0.0.0",
    ));
    for (common, names, good) in [
        ("db.example.org", "DNS:db.example.org", true),
        ("db.example.org", "DNS:db.example.org,IP:10.1.2.3", true),
        ("ann", "DNS:db.example.org", true),
        ("ann", "email:ann@example.net", true),
        ("db.example.org", "DNS:db.example.net", false),
        ("db.example.org", "DNS:a.secret.example.org", false),
        ("db.example.org", "DNS:db.example.org,IP:192.168.0.1", false),
        // Where there is no other name of a host, the common name is one.
        ("db.example.net", "email:ann@example.org", false),
        ("a.secret.example.org", "email:ann@example.org", false),
        ("db.example.org", "email:ann@example.org", true),
    ] {
        let extensions = format!("basicConstraints=CA:FALSE\nsubjectAltName={names}");
        let end = maker.made(common, END_KEY, Some(&root), "100", &extensions);
        let why = (!good).then_some("its name is not one that its authority");
        both_say(&maker, &format!("{common} {names}"), &root, &[], &end, why);
    }
    for (common, good) in [("db.example.org", true), ("ann", true), ("db.example.net", false)] {
        let why = (!good).then_some("its name is not one that its authority");
        both_say(&maker, common, &root, &[], &maker.plain(common, END_KEY, Some(&root)), why);
    }
    // OpenSSL compares them with names that one of version 1 has, too; here that is refused.
    let named = maker.root(&with(CA, "nameConstraints=permitted;email:example.org"));
    let plain = maker.plain("db.example.org", END_KEY, Some(&named));
    for purpose in PURPOSES {
        assert!(judged(&[&named], &[], &plain, None, purpose, UnixTime::now()).is_err());
    }
}

#[test]
fn a_common_name_is_a_hosts_where_its_authority_may_sign_for_it() {
    let maker = Maker::new();
    let root = maker.root(&with(CA, "nameConstraints=permitted;DNS:example.org"));
    let as_host = |common: &str, host: &str| {
        let end = maker.made(common, END_KEY, Some(&root), "100", END);
        judged(&[&root], &[], &end, Some(host), Purpose::Server, UnixTime::now())
    };

    // OpenSSL leaves common names beside alternative ones alone, and so does PgBouncer, which takes them for a host's.
    assert_eq!(as_host("other.example.net", "db.example.org"), Ok(()));
    for host in ["other.example.net", "db"] {
        assert!(as_host(host, host).is_err_and(|why| why.contains("not valid for name")), "{host}");
    }
    assert!(as_host("*.example.net", "other.example.net").is_err());
    assert_eq!(as_host("other.example.org", "other.example.org"), Ok(()));
    assert_eq!(as_host("*.example.org", "other.example.org"), Ok(()));
}

#[test]
fn nothing_is_believed_past_its_time_nor_by_whom() {
    let maker = Maker::new();
    let later = UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs() + 20 * 24 * 3600));
    let [short, long] = ["10", "100"].map(|days| maker.made("Root", ROOT_KEY, None, days, CA));
    let plain = maker.plain("db.example.org", END_KEY, Some(&short));
    let [end_of_short, end_of_long] = [&short, &long].map(|root| maker.end(root, END));
    let short_end = maker.made("db.example.org", END_KEY, Some(&long), "10", END);
    let short_own = maker.made("db.example.org", END_KEY, None, "10", "basicConstraints=CA:FALSE");

    for purpose in PURPOSES {
        for (listed, end, good) in [
            (&long, &end_of_long, true),
            (&short, &end_of_short, false),
            (&short, &plain, false),
            (&long, &short_end, false),
            (&short_own, &short_own, false),
        ] {
            let ours = judged(&[listed], &[], end, None, purpose, later);
            let theirs = maker.openssl(listed, &[], end, purpose, later);
            assert_eq!((ours.is_ok(), theirs.is_ok()), (good, good), "{ours:?} {theirs:?}");
            assert_eq!(judged(&[listed], &[], end, None, purpose, UnixTime::now()), Ok(()));
        }
    }
}

#[test]
fn a_list_of_nothing_but_ends_is_a_list() {
    let maker = Maker::new();
    let own = maker.made("ann", END_KEY, None, "100", "basicConstraints=CA:FALSE");
    let trust =
        ClientTrust::new(Authorities::new(vec![own.der()]), true, &Arc::new(default_provider())).expect("it will do");

    assert_eq!(trust.root_hint_subjects().len(), 1);
    assert!(trust.verify_client_cert(&own.der(), &[], UnixTime::now()).is_ok());
}
