//! A name server that says what the test wants, over UDP on a loopback port.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::proxy::is_pgbouncer;
use super::warden::warden;

const A: u16 = 1;
const SOA: u16 = 6;
const PTR: u16 = 12;
const AAAA: u16 = 28;
const NXDOMAIN: u8 = 3;

#[derive(Default)]
struct Script {
    addresses: HashMap<String, Vec<IpAddr>>,
    serials: HashMap<String, u32>,
    names: HashMap<String, String>,
    mute: bool,
    /// IPv4 questions by name.
    asked: HashMap<String, usize>,
    over: bool,
}

/// The name server. It knows no name until it is told one.
pub(crate) struct NameServer {
    at: SocketAddr,
    script: Arc<Mutex<Script>>,
}

impl NameServer {
    /// One for this test. PgBouncer's resolver knows port 53 only: to test PgBouncer takes the right to bind it.
    pub(crate) fn start() -> NameServer {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let at = match is_pgbouncer() {
            true => SocketAddr::from(([127, 53, high, low], 53)),
            false => SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let socket = UdpSocket::bind(at).unwrap_or_else(|error| panic!("cannot bind {at}: {error}"));
        let at = socket.local_addr().unwrap();
        let script = Arc::new(Mutex::new(Script::default()));
        let shared = Arc::clone(&script);
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let mut script = shared.lock().unwrap();
                if script.over {
                    return;
                }
                if let Some(answer) = script.answer(&buffer[..len]) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        NameServer { at, script }
    }

    /// The addresses of a name from now on; none is "no such name".
    pub(crate) fn say(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.script.lock().unwrap().addresses.insert(name.to_owned(), addresses);
    }

    /// The name of an IPv4 address from now on.
    pub(crate) fn name(&self, address: [u8; 4], name: &str) {
        let [a, b, c, d] = address;
        self.script.lock().unwrap().names.insert(format!("{d}.{c}.{b}.{a}.in-addr.arpa"), name.to_owned());
    }

    /// The serial number of a zone from now on.
    pub(crate) fn serial(&self, zone: &str, serial: u32) {
        self.script.lock().unwrap().serials.insert(zone.to_owned(), serial);
    }

    /// Answers nothing from now on.
    pub(crate) fn mute(&self) {
        self.script.lock().unwrap().mute = true;
    }

    /// How often somebody asked for the IPv4 addresses of a name.
    pub(crate) fn asked(&self, name: &str) -> usize {
        self.script.lock().unwrap().asked.get(name).copied().unwrap_or(0)
    }

    /// A file for the setting `resolv_conf`, with these lines beside those that lead here. An answer is waited for
    /// longer than any test lasts, unless a line says otherwise.
    pub(crate) fn resolv_conf(&self, more: &str) -> PathBuf {
        let server = match self.at.port() {
            53 => self.at.ip().to_string(),
            _ => self.at.to_string(),
        };
        let path = warden().dir().join(format!("resolv-{server}.conf"));
        fs::write(&path, format!("nameserver {server}\noptions timeout:30 attempts:1\n{more}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.script.lock().unwrap().over = true;
        let _ = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(&[], self.at));
    }
}

impl Script {
    /// The answer to a message with one question, if there is to be one.
    fn answer(&mut self, query: &[u8]) -> Option<Vec<u8>> {
        let (name, end) = question(query)?;
        let kind = u16::from_be_bytes(query.get(end..end + 2)?.try_into().ok()?);
        if kind == A {
            *self.asked.entry(name.clone()).or_default() += 1;
        }
        if self.mute {
            return None;
        }
        let known = self.addresses.get(&name);
        let records: Vec<Vec<u8>> = match kind {
            A | AAAA => {
                known.into_iter().flatten().filter(|address| address.is_ipv4() == (kind == A)).map(octets).collect()
            }
            SOA => self.serials.get(&name).map(|serial| start_of_authority(*serial)).into_iter().collect(),
            PTR => self.names.get(&name).map(|name| in_labels(name)).into_iter().collect(),
            _ => Vec::new(),
        };
        let exists = known.is_some_and(|addresses| !addresses.is_empty())
            || self.serials.contains_key(&name)
            || self.names.contains_key(&name);
        let mut answer = query[..2].to_vec();
        // An answer, from the authority, that may recurse.
        answer.extend([0x85, 0x80 | if exists { 0 } else { NXDOMAIN }]);
        answer.extend([0, 1, 0, u8::try_from(records.len()).unwrap(), 0, 0, 0, 0]);
        answer.extend(&query[12..end + 4]);
        for record in records {
            // The question's name, class IN, an hour to live.
            answer.extend([0xc0, 12]);
            answer.extend(kind.to_be_bytes());
            answer.extend([0, 1, 0, 0, 14, 16]);
            answer.extend(u16::try_from(record.len()).unwrap().to_be_bytes());
            answer.extend(record);
        }
        Some(answer)
    }
}

/// The name asked for, and where it ends.
fn question(query: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let len = usize::from(*query.get(at)?);
        at += 1;
        if len == 0 {
            return Some((labels.join(".").to_lowercase(), at));
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + len)?).into_owned());
        at += len;
    }
}

/// A name as messages have it.
fn in_labels(name: &str) -> Vec<u8> {
    let labels = name.split('.').flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat());
    labels.chain([0]).collect()
}

fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// With the root as both of its names.
fn start_of_authority(serial: u32) -> Vec<u8> {
    let numbers = [serial, 3600, 600, 86400, 60];
    [0, 0].into_iter().chain(numbers.into_iter().flat_map(u32::to_be_bytes)).collect()
}
