//! The records of `auth_hba_file`: who may log in from where, and how.
//!
//! Pure: text in, records out, and for a connection the first record that fits it. Files are read by who calls.
//!
//! ```text
//! local      DATABASE  USER           METHOD  [OPTIONS]
//! host       DATABASE  USER  ADDRESS  METHOD  [OPTIONS]      also hostssl, hostnossl
//! include    FILE                                            also include_if_exists, include_dir
//! ```
//!
//! A host's name fits as in PostgreSQL: an address is looked up for its name, and that name must lead back to the
//! address.
//!
//! The format is that of PostgreSQL's `pg_hba.conf`, as far as a pooler can follow it. As in PgBouncer, a line that
//! cannot be followed is passed over with a warning, so that a file made for PostgreSQL serves here; unlike there, not
//! if it says `reject`, for then whoever it is to keep out would get in. Manual: "The pg_hba.conf File".

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ident::{IdentMap, IdentMaps};
use super::pam;
use super::problem::Place;
use super::records::{Fault, Files, Skipped, Token, lines_of, names_in};
use super::secret::Secret;

/// Every record, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hba {
    records: Vec<Record>,
}

/// One record.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What it says of those it fits.
    pub method: HbaMethod,
    /// The map of `map=`, for peer and cert.
    pub map: Option<Arc<IdentMap>>,
    /// What certificate `clientcert=` wants beside the method.
    pub clientcert: ClientCert,
    /// Where it stands.
    pub place: Place,
    kind: RecordKind,
    databases: Names,
    users: Names,
}

/// How a client that a record fits shows who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HbaMethod {
    /// Not at all.
    Trust,
    /// It is turned away.
    Reject,
    /// With a salted md5 hash, or by SCRAM where the stored secret is one of SCRAM.
    Md5,
    /// With a password in clear text.
    Password,
    /// By SCRAM-SHA-256.
    ScramSha256,
    /// As the system user at the other end of a Unix socket.
    Peer,
    /// With a TLS certificate.
    Cert,
    /// With a password that an LDAP directory checks; the options as they are written, which may hold a password.
    Ldap(Secret),
    /// With a password that PAM checks: by the rules of this service, or why it cannot be asked.
    Pam(Result<Arc<str>, String>),
}

/// The certificate that a client must show whatever the method, as `clientcert=` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCert {
    /// None.
    #[default]
    Off,
    /// One that a trusted authority signed.
    VerifyCa,
    /// Such a one whose common name is the user's.
    VerifyFull,
}

/// Which connections a record is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum RecordKind {
    Local,
    Host(Tls, Address),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tls {
    Either,
    With,
    Without,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    All,
    SameHost,
    SameNet,
    Net(Net),
    /// A host's name, or with a dot in front the end of names.
    Name(String),
}

/// Addresses that are the same as far as a mask goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    address: IpAddr,
    mask: IpAddr,
}

impl Net {
    /// The net of an address; `None` where the mask is of the other family.
    pub fn new(address: IpAddr, mask: IpAddr) -> Option<Net> {
        (address.is_ipv4() == mask.is_ipv4()).then_some(Net { address, mask })
    }

    /// The address that it was made of.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Is this address in it?
    pub fn holds(&self, address: IpAddr) -> bool {
        let of_family = address.is_ipv4() == self.address.is_ipv4();
        of_family && (bits(address) & bits(self.mask)) == (bits(self.address) & bits(self.mask))
    }

    fn has_bits_beyond_its_mask(&self) -> bool {
        bits(self.address) & !bits(self.mask) != 0
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The names of a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    same_user: bool,
    replication: bool,
    names: HashSet<String>,
}

impl Names {
    fn hold(&self, name: &str, user: &str) -> bool {
        self.all || self.same_user && name == user || self.names.contains(name)
    }
}

/// A connection that looks for its record.
#[derive(Clone, Copy, Debug)]
pub struct Whence<'a> {
    /// Where it comes from; `None` for a Unix socket.
    pub address: Option<IpAddr>,
    /// Is it encrypted?
    pub tls: bool,
    /// Does it ask for physical replication?
    pub physical_replication: bool,
    /// The database it asks for.
    pub database: &'a str,
    /// The user it wants to be.
    pub user: &'a str,
}

/// What is known of the surroundings.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Our own addresses with their masks, for `samehost` and `samenet`.
    pub own: Vec<Net>,
    /// The names of the client's address that lead back to it; `None` while that is not known.
    pub client_names: Option<Vec<String>>,
}

/// What comes of the search for a record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Search<'a> {
    /// The first that fits.
    Found(&'a Record),
    /// None fits.
    Nothing,
    /// It depends on the names of the client's address: add them to the [`Surroundings`] and search again.
    NeedsClientNames,
}

impl Hba {
    /// The first record that fits a connection.
    pub fn search(&self, whence: &Whence<'_>, around: &Surroundings) -> Search<'_> {
        for record in self.records.iter().filter(|record| record.names(whence)) {
            match record.is_for(whence, around) {
                Some(true) => return Search::Found(record),
                Some(false) => {}
                None => return Search::NeedsClientNames,
            }
        }
        Search::Nothing
    }

    /// Does a record speak of our own addresses?
    pub fn needs_own_addresses(&self) -> bool {
        let own = |record: &Record| matches!(record.kind, RecordKind::Host(_, Address::SameHost | Address::SameNet));
        self.records.iter().any(own)
    }

    /// Does a record have somebody else check passwords?
    pub fn asks_others(&self) -> bool {
        self.records.iter().any(|record| matches!(record.method, HbaMethod::Ldap(_) | HbaMethod::Pam(_)))
    }

    /// Every record, in order.
    pub fn records(&self) -> &[Record] {
        &self.records
    }
}

impl Record {
    fn names(&self, whence: &Whence<'_>) -> bool {
        let database = match whence.physical_replication {
            true => self.databases.replication,
            false => self.databases.hold(whence.database, whence.user),
        };
        database && self.users.hold(whence.user, whence.user)
    }

    /// Does it fit where the connection comes from? `None`: the client's names must be known first.
    fn is_for(&self, whence: &Whence<'_>, around: &Surroundings) -> Option<bool> {
        let (wanted, address) = match (&self.kind, whence.address) {
            (RecordKind::Local, address) => return Some(address.is_none()),
            (RecordKind::Host(..), None) => return Some(false),
            (RecordKind::Host(tls, wanted), Some(address)) => match (tls, whence.tls) {
                (Tls::With, false) | (Tls::Without, true) => return Some(false),
                // An IPv4 client of an IPv6 socket is an IPv4 client.
                _ => (wanted, address.to_canonical()),
            },
        };
        Some(match wanted {
            Address::All => true,
            Address::SameHost => around.own.iter().any(|own| own.address.to_canonical() == address),
            Address::SameNet => around.own.iter().any(|own| own.holds(address)),
            Address::Net(net) => net.holds(address),
            Address::Name(wanted) => around.client_names.as_ref()?.iter().any(|name| is_named(name, wanted)),
        })
    }
}

/// Is this host's name the one of a record, or does it end as the record says?
fn is_named(name: &str, wanted: &str) -> bool {
    match wanted.starts_with('.') {
        true => {
            let end = name.len().checked_sub(wanted.len()).and_then(|at| name.get(at..));
            end.is_some_and(|end| end.eq_ignore_ascii_case(wanted))
        }
        false => name.eq_ignore_ascii_case(wanted),
    }
}

/// What was read of a file.
#[derive(Debug, Default)]
pub struct HbaRead {
    /// The records.
    pub hba: Hba,
    /// The lines that were passed over.
    pub skipped: Vec<Skipped>,
}

/// Reads the records of `path` and of the files it includes.
///
/// # Errors
/// `path` itself cannot be read. What else cannot be followed is in [`HbaRead::skipped`].
pub fn read(path: &Path, files: &Files<'_>, maps: &IdentMaps) -> io::Result<HbaRead> {
    let mut read = HbaRead::default();
    lines_of(path, files, &mut read.skipped, &mut |line, skipped| match record(line.tokens, line.path, files, maps) {
        Ok((kind, databases, users, way)) => {
            let (Way { method, map, clientcert }, place) = (way, line.place.clone());
            read.hba.records.push(Record { method, map, clientcert, place, kind, databases, users });
        }
        Err(why) => {
            let rejects = line.tokens.iter().any(|token| token.is("reject"));
            skipped.push(Skipped { place: line.place.clone(), why, fatal: rejects });
        }
    })?;
    Ok(read)
}

type Parts = (RecordKind, Names, Names, Way);

/// How a record has clients show who they are.
struct Way {
    method: HbaMethod,
    map: Option<Arc<IdentMap>>,
    clientcert: ClientCert,
}

fn record(tokens: &[Token], path: &Path, files: &Files<'_>, maps: &IdentMaps) -> Result<Parts, Fault> {
    let mut rest = tokens.iter().peekable();
    let kind = rest.next().ok_or("an empty record")?;
    let tls = match kind.word() {
        Some("local") => None,
        Some("host") => Some(Tls::Either),
        Some("hostssl") => Some(Tls::With),
        Some("hostnossl") => Some(Tls::Without),
        Some("hostgssenc" | "hostnogssenc") => {
            return Err(format!("{} is for GSSAPI encryption, which a pooler does not speak", kind.text).into());
        }
        _ => return Err(format!("unknown type {:?}", kind.text).into()),
    };
    let databases = names(&mut rest, Field::Database, path, files)?;
    let users = names(&mut rest, Field::User, path, files)?;
    let kind = match tls {
        None => RecordKind::Local,
        Some(tls) => RecordKind::Host(tls, address(&mut rest)?),
    };
    let method = rest.next().ok_or("there is no method")?;
    let options: Vec<&Token> = rest.collect();
    let way = way(method, options, &kind, maps)?;
    Ok((kind, databases, users, way))
}

/// Tokens yet to be read.
type Rest<'a> = std::iter::Peekable<std::slice::Iter<'a, Token>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Database,
    User,
}

/// A list of names, separated by commas.
fn names(rest: &mut Rest<'_>, field: Field, path: &Path, files: &Files<'_>) -> Result<Names, Fault> {
    let mut names = Names::default();
    loop {
        let token = rest.next().filter(|token| !token.comma);
        let token = token.ok_or(match field {
            Field::Database => "there is no database",
            Field::User => "there is no user",
        })?;
        match token.word().and_then(|word| word.strip_prefix('@')).filter(|file| !file.is_empty()) {
            Some(file) => {
                for token in names_in(path, Path::new(file), files)? {
                    name(&token, field, &mut names)?;
                }
            }
            None => name(token, field, &mut names)?,
        }
        if rest.next_if(|token| token.comma).is_none() {
            return Ok(names);
        }
    }
}

fn name(token: &Token, field: Field, names: &mut Names) -> Result<(), Fault> {
    match (token.word(), field) {
        (Some("all"), _) => names.all = true,
        (Some("sameuser"), Field::Database) => names.same_user = true,
        (Some("replication"), Field::Database) => names.replication = true,
        (Some(word @ ("samerole" | "samegroup")), Field::Database) => {
            return Err(format!("{word} is not supported: a pooler does not know who is in which role").into());
        }
        (Some(word), Field::User) if word.starts_with('+') => {
            return Err(format!("{word} is not supported: a pooler does not know who is in which role").into());
        }
        // Quoted or not, PostgreSQL takes it for one: a comma in it needs the quotes.
        _ if token.text.starts_with('/') => {
            return Err(format!("{} is not supported: names cannot be regular expressions", token.text).into());
        }
        _ => {
            names.names.insert(token.text.clone());
        }
    }
    Ok(())
}

fn address(rest: &mut Rest<'_>) -> Result<Address, Fault> {
    let token = rest.next().filter(|token| !token.comma).ok_or("there is no address")?;
    match token.word() {
        Some("all") => return Ok(Address::All),
        Some("samehost") => return Ok(Address::SameHost),
        Some("samenet") => return Ok(Address::SameNet),
        _ => {}
    }
    let (text, length) = match token.text.split_once('/') {
        Some((text, length)) => (text, Some(length)),
        None => (token.text.as_str(), None),
    };
    let Ok(address) = text.parse::<IpAddr>() else {
        return host_name(&token.text).map(Address::Name);
    };
    let mask = match length {
        Some(length) => mask_of_length(address, length).ok_or_else(|| format!("invalid mask /{length}"))?,
        None => {
            let mask = rest.next().ok_or("there is no mask, as /32 or as an address")?;
            mask.text.parse().map_err(|_| format!("invalid mask {:?}", mask.text))?
        }
    };
    let net = Net::new(address, mask).ok_or("address and mask are not of one family")?;
    match net.has_bits_beyond_its_mask() {
        // PgBouncer keeps such a record, and it fits nobody; PostgreSQL's reading would let in more.
        true => Err(format!("address does not match mask: {address} / {mask}").into()),
        false => Ok(Address::Net(net)),
    }
}

fn host_name(text: &str) -> Result<String, Fault> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    match !text.is_empty() && text.len() <= 253 && text.bytes().all(plain) {
        // What is all digits and dots was meant for an address.
        true if text.bytes().any(|byte| byte.is_ascii_alphabetic()) => Ok(text.to_owned()),
        _ => Err(format!("failed to parse address {text:?}").into()),
    }
}

fn mask_of_length(address: IpAddr, length: &str) -> Option<IpAddr> {
    let length: u32 = length.parse().ok().filter(|_| length.bytes().all(|byte| byte.is_ascii_digit()))?;
    match address {
        IpAddr::V4(_) => {
            (length <= 32).then(|| IpAddr::V4(u32::MAX.checked_shl(32 - length).unwrap_or_default().into()))
        }
        IpAddr::V6(_) => {
            (length <= 128).then(|| IpAddr::V6(u128::MAX.checked_shl(128 - length).unwrap_or_default().into()))
        }
    }
}

fn way(method: &Token, mut options: Vec<&Token>, kind: &RecordKind, maps: &IdentMaps) -> Result<Way, Fault> {
    let method = match method.word() {
        Some("trust") => HbaMethod::Trust,
        Some("reject") => HbaMethod::Reject,
        Some("md5") => HbaMethod::Md5,
        Some("password") => HbaMethod::Password,
        Some("scram-sha-256") => HbaMethod::ScramSha256,
        Some("peer") => HbaMethod::Peer,
        Some("cert") => HbaMethod::Cert,
        Some("pam") => HbaMethod::Pam(Err(String::new())),
        Some("ldap") => HbaMethod::Ldap(Secret::default()),
        // So PostgreSQL reads it, too: there is no ident server to ask for a Unix socket.
        Some("ident") if *kind == RecordKind::Local => HbaMethod::Peer,
        _ => return Err(format!("unsupported method {:?}", method.text).into()),
    };
    let clientcert = clientcert(&mut options, &method, kind)?;
    if let HbaMethod::Ldap(_) = method {
        let mut text = String::new();
        for option in options {
            // `"key"=value` is two tokens.
            if !text.is_empty() && !option.word().is_some_and(|word| word.starts_with('=')) {
                text.push(' ');
            }
            text.push_str(&option.written());
        }
        return Ok(Way { method: HbaMethod::Ldap(Secret::new(text)), map: None, clientcert });
    }
    if let HbaMethod::Pam(_) = method {
        let service = pam::service(options.iter().map(|option| option.text.as_str()));
        let service = service.and_then(|name| pam::BUILT_IN.then_some(name).ok_or(pam::NOT_BUILT_IN.to_owned()));
        return Ok(Way { method: HbaMethod::Pam(service), map: None, clientcert });
    }
    let mut map = None;
    for option in options {
        let takes_map = matches!(method, HbaMethod::Peer | HbaMethod::Cert);
        match option.text.strip_prefix("map=").filter(|_| takes_map) {
            Some(name) => {
                let found = maps.find(name);
                map = Some(found.ok_or_else(|| format!("ident map {name:?} is not in auth_ident_file"))?);
            }
            None => return Err(format!("unsupported parameters: {:?}", option.text).into()),
        }
    }
    Ok(Way { method, map, clientcert })
}

/// Takes `clientcert=` and `clientname=` out of a record's options.
fn clientcert(options: &mut Vec<&Token>, method: &HbaMethod, kind: &RecordKind) -> Result<ClientCert, Fault> {
    let mut clientcert = ClientCert::Off;
    for option in options.extract_if(.., |option| is_about_certificates(option)) {
        if !matches!(kind, RecordKind::Host(Tls::With, _)) {
            return Err(format!("{} is for hostssl only", option.text).into());
        }
        clientcert = match option.text.as_str() {
            "clientname=CN" => clientcert,
            "clientname=DN" => return Err("clientname=DN is not supported: common names alone are compared".into()),
            "clientcert=verify-full" => ClientCert::VerifyFull,
            "clientcert=verify-ca" if *method != HbaMethod::Cert => ClientCert::VerifyCa,
            "clientcert=verify-ca" => return Err("clientcert=verify-ca: cert itself is verify-full".into()),
            other => return Err(format!("expected clientcert=verify-ca or verify-full, got {other:?}").into()),
        };
    }
    // The method compares the name itself, through its map.
    Ok(if *method == HbaMethod::Cert { ClientCert::Off } else { clientcert })
}

fn is_about_certificates(option: &Token) -> bool {
    option.word().is_some_and(|word| word.starts_with("clientcert=") || word.starts_with("clientname="))
}

impl fmt::Display for HbaMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HbaMethod::Trust => "trust",
            HbaMethod::Reject => "reject",
            HbaMethod::Md5 => "md5",
            HbaMethod::Password => "password",
            HbaMethod::ScramSha256 => "scram-sha-256",
            HbaMethod::Peer => "peer",
            HbaMethod::Cert => "cert",
            HbaMethod::Ldap(_) => "ldap",
            HbaMethod::Pam(_) => "pam",
        })
    }
}

/// Reads records from `text` alone: what it includes counts as not there.
pub fn read_text(text: &[u8], maps: &IdentMaps) -> HbaRead {
    let own = PathBuf::from("hba.conf");
    let read_file = |path: &Path| match path == own {
        true => Ok(text.to_vec()),
        false => Err(io::ErrorKind::NotFound.into()),
    };
    let files = Files { read: &read_file, list: &|_| Err(io::ErrorKind::NotFound.into()) };
    read(&own, &files, maps).unwrap_or_default()
}

#[cfg(test)]
mod tests;
