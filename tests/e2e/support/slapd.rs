//! One private LDAP directory for the whole run: OpenLDAP's slapd on loopback ports, with and without TLS.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::eventually;
use super::postgres::free_port;
use super::warden::{account, command_as_account, warden};

/// The parts of the directory's names; `people` has the users.
pub(crate) const BASE: &str = "dc=example,dc=net";

/// The directory that tests of the run share.
pub(crate) struct Slapd {
    /// Where it speaks plain text, and TLS after StartTLS.
    pub(crate) port: u16,
    /// Where it speaks TLS.
    pub(crate) tls_port: u16,
    /// The certificate of the authority that its own, for `localhost` and 127.0.0.1, comes from.
    pub(crate) authority: PathBuf,
}

/// A user in it.
struct Person<'a> {
    uid: &'a str,
    mail: &'a str,
    password: &'a str,
}

/// A password as long as one may be: 65,530 bytes.
pub(crate) fn long_password() -> String {
    format!("{}word", "p\u{e4}ss ".repeat(10_921))
}

/// The user who may search.
pub(crate) const SEARCHER: (&str, &str) = ("uid=searcher,ou=people,dc=example,dc=net", "search, \"me\"");

impl Slapd {
    /// The run's directory, started by whoever asks first. It knows `ldapann` (password `secret1`), `ldaplong`
    /// ([`long_password`]), and two with the mail address `twins@example.net`.
    pub(crate) fn shared() -> &'static Slapd {
        static SERVER: OnceLock<Slapd> = OnceLock::new();
        SERVER.get_or_init(Slapd::start)
    }

    #[expect(clippy::zombie_processes, reason = "the warden ends it, after this process has ended")]
    fn start() -> Slapd {
        let dir = warden().dir().join("slapd");
        fs::create_dir_all(dir.join("data")).unwrap();
        let authority = certificates(&dir);
        let (conf, ldif) = (dir.join("slapd.conf"), dir.join("people.ldif"));
        fs::write(&conf, configuration(&dir)).unwrap();
        fs::write(&ldif, entries()).unwrap();
        own(&dir);
        let slapd = Path::new("/usr/sbin/slapd");
        let load = command_as_account(slapd).args(["-T", "add", "-f"]).arg(&conf).arg("-l").arg(&ldif).output();
        let load = load.expect("slapd runs (apt-get install slapd)");
        assert!(load.status.success(), "slapadd: {}", String::from_utf8_lossy(&load.stderr));

        let (port, tls_port) = (free_port(), free_port());
        let urls = format!("ldap://127.0.0.1:{port} ldaps://127.0.0.1:{tls_port}");
        let log = fs::File::create(dir.join("slapd.log")).unwrap();
        let mut command = command_as_account(slapd);
        // With a level of debugging it stays in the foreground.
        command.args(["-d", "0", "-h", &urls, "-f"]).arg(&conf).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        warden().add(child.id());
        eventually("slapd listens", || TcpStream::connect(("127.0.0.1", tls_port)).ok());
        Slapd { port, tls_port, authority }
    }
}

fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    let schemas: String =
        ["core", "cosine", "inetorgperson"].map(|name| format!("include /etc/ldap/schema/{name}.schema\n")).concat();
    format!(
        "{schemas}pidfile {dir}/slapd.pid\nTLSCertificateFile {dir}/server.crt\nTLSCertificateKeyFile {dir}/server.key\n\
         database ldif\ndirectory {dir}/data\nsuffix \"{BASE}\"\n\
         access to attrs=userPassword by anonymous auth by * none\n\
         access to dn.subtree=\"ou=hidden,{BASE}\" by dn.exact=\"{}\" read by anonymous auth by * none\n\
         access to * by * read\n",
        SEARCHER.0
    )
}

fn entries() -> String {
    let mut ldif = format!("dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: x\n\n");
    for unit in ["people", "hidden"] {
        ldif += &format!("dn: ou={unit},{BASE}\nobjectClass: organizationalUnit\nou: {unit}\n\n");
    }
    let long = long_password();
    let people = [
        ("people", Person { uid: "ldapann", mail: "ann@example.net", password: "secret1" }),
        ("people", Person { uid: "ldaplong", mail: "long@example.net", password: &long }),
        ("people", Person { uid: "twin1", mail: "twins@example.net", password: "secret1" }),
        ("people", Person { uid: "twin2", mail: "twins@example.net", password: "secret1" }),
        ("people", Person { uid: "searcher", mail: "s@example.net", password: SEARCHER.1 }),
        ("hidden", Person { uid: "ldaphidden", mail: "h@example.net", password: "secret2" }),
    ];
    for (unit, Person { uid, mail, password }) in people {
        let password = base64(password.as_bytes());
        ldif += &format!(
            "dn: uid={uid},ou={unit},{BASE}\nobjectClass: inetOrgPerson\nuid: {uid}\ncn: {uid}\nsn: {uid}\nmail: {mail}\n\
             userPassword:: {password}\n\n"
        );
    }
    ldif
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// An authority and a certificate from it.
fn certificates(dir: &Path) -> PathBuf {
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").current_dir(dir).args(arguments).stdin(Stdio::null()).output();
        let output = output.expect("openssl runs (apt-get install openssl)");
        assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    openssl(&[&["req", "-x509", "-subj", "/CN=CA", "-keyout", "ca.key", "-out", "ca.crt"], &key[..]].concat());
    openssl(
        &[&["req", "-new", "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr"], &key[..]].concat(),
    );
    fs::write(dir.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    let from = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names"];
    openssl(&[&["x509", "-req", "-in", "server.csr", "-out", "server.crt"], &from[..]].concat());
    dir.join("ca.crt")
}

/// Gives the folder and what is in it to the account that slapd runs as.
fn own(dir: &Path) {
    let Some(account) = account() else { return };
    chown(dir, Some(account.uid), Some(account.gid)).unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        chown(entry.unwrap().path(), Some(account.uid), Some(account.gid)).unwrap();
    }
}
