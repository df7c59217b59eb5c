//! Certificates that a listed authority has signed and that are wrong all the same, shown by clients and by servers.

use crate::support::tls::{Authority, Kind, Pair, for_us};
use crate::support::tools::psql;
use crate::support::{self, Proxy, Setup};

/// What such a certificate says, and what the log says of it.
const WRONG: [(&str, &str); 6] = [
    ("basicConstraints=CA:TRUE", "it is an authority's (CA:TRUE)"),
    ("basicConstraints=CA:TRUE\nextendedKeyUsage=codeSigning", ""),
    ("basicConstraints=CA:TRUE\n1.2.3.4=critical,ASN1:NULL", "a critical extension that is not known"),
    ("basicConstraints=CA:FALSE\nextendedKeyUsage=codeSigning", "extended key usage"),
    ("basicConstraints=CA:FALSE\nkeyUsage=cRLSign", "its key usage does not allow for a TLS"),
    ("basicConstraints=CA:FALSE\n1.2.3.4=critical,ASN1:NULL", "a critical extension that is not known"),
];

/// Authorities that may not sign for localhost, and what the log says of what they have signed.
const UNFIT: [(&str, &str, &str); 4] = [
    ("names", "basicConstraints=CA:TRUE\nnameConstraints=permitted;DNS:example.org", "its name is not one that"),
    ("false", "basicConstraints=CA:FALSE", "may not sign: it is no authority (CA:FALSE)"),
    ("usage", "basicConstraints=CA:TRUE\nkeyUsage=cRLSign", "may not sign: its key usage is without keyCertSign"),
    ("purpose", "basicConstraints=CA:TRUE\nextendedKeyUsage=codeSigning", "may not sign: its extended key usage"),
];

fn shows(setup: Setup, pair: &Pair) -> Setup {
    setup
        .set("client_tls_key_file", pair.key.display())
        .set("client_tls_cert_file", pair.certificate.display())
        .set("client_tls_sslmode", "require")
}

/// A pooler that believes clients of this authority.
fn believing(authority: &Authority) -> Proxy {
    let setup = shows(Setup::new(), &Authority::shared().server);
    setup.set("client_tls_sslmode", "verify-full").set("client_tls_ca_file", authority.certificate.display()).start()
}

/// Does psql get in with this certificate?
fn gets_in(proxy: &Proxy, pair: &Pair) -> bool {
    let conninfo = format!(
        "host=localhost port={} user={} dbname=app sslmode=require sslcert={} sslkey={}",
        proxy.port,
        proxy.role,
        pair.certificate.display(),
        pair.key.display()
    );
    psql(&conninfo, &["-c", "SELECT 42"]).success
}

/// Does a pooler that believes servers of this authority take this one for PostgreSQL? What its log must say if not.
#[track_caller]
fn server_is_believed(behind: &Proxy, authority: &Authority, sslmode: &str, why: Option<&str>) {
    let rest = format!("host=localhost port={} dbname=app user={}", behind.port, behind.role);
    let front = Setup::new()
        .database("app", &rest)
        .set("server_tls_sslmode", sslmode)
        .set("server_tls_ca_file", authority.certificate.display())
        .set("query_wait_timeout", if why.is_some() { 1 } else { 60 })
        .start();
    let works = front.login().attempt().is_ok_and(|mut client| client.value("SELECT 1") == "1");
    assert_eq!(works, why.is_none(), "{sslmode}: {}", front.log());
    if let Some(why) = why {
        front.until_log("certificate verify failed");
        front.until_log(why);
    }
}

#[test]
fn clients_that_show_what_is_for_something_else_stay_out() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = believing(Authority::shared());
    for (number, (lines, why)) in WRONG.into_iter().enumerate() {
        let pair = Authority::shared().sign(&format!("wrong-client-{number}"), "ann", Kind::With(lines));
        for_us(&pair.key);
        assert!(!gets_in(&proxy, &pair), "{lines}");
        proxy.until_log(why);
    }
    for (name, extensions, why) in UNFIT {
        let authority = Authority::with(&format!("{name}-of-clients"), extensions);
        // CA:TRUE does not help, nor does version 1.
        let proxy = believing(&authority);
        for (file, kind) in [
            ("good", Kind::Named("DNS:localhost")),
            ("true", Kind::With("basicConstraints=CA:TRUE\nsubjectAltName=DNS:localhost")),
            ("plain", Kind::Plain),
        ] {
            let pair = authority.sign(file, "db.localhost", kind);
            for_us(&pair.key);
            assert!(!gets_in(&proxy, &pair), "{name} {file}");
        }
        proxy.until_log(why);
    }
}

#[test]
fn servers_that_show_what_is_for_something_else_are_left() {
    if support::beyond_pgbouncer() {
        return;
    }
    for sslmode in ["verify-ca", "verify-full"] {
        for (number, (lines, why)) in WRONG.into_iter().enumerate() {
            let lines = format!("{lines}\nsubjectAltName=DNS:localhost");
            let file = format!("wrong-server-{sslmode}-{number}");
            let pair = Authority::shared().sign(&file, "localhost", Kind::With(&lines));
            let behind = shows(Setup::new(), &pair).start();
            server_is_believed(&behind, Authority::shared(), sslmode, Some(why));
        }
        for (name, extensions, why) in UNFIT {
            let authority = Authority::with(&format!("{name}-{sslmode}"), extensions);
            let behind = shows(Setup::new(), &authority.server).start();
            server_is_believed(&behind, &authority, sslmode, Some(why));
        }
        let behind = shows(Setup::new(), &Authority::shared().server).start();
        server_is_believed(&behind, Authority::shared(), sslmode, None);
    }
}
