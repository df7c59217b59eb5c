//! Ten thousand clients that log in by SCRAM and then do nothing.
//!
//! Three figures come of it. Memory: what the pooler's process holds with the crowd, less what it held after one client
//! had come and gone, divided by the crowd. Idle cost: processor time per second while nobody does anything. And the
//! cost of a transaction for fifty clients at work beside the crowd, against the same without it.

use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::cluster::{Cluster, DATABASE, PASSWORD};
use crate::kernel::{Memory, Processor};
use crate::options::Options;
use crate::pgbench::{self, Workload};
use crate::pooler::{Auth, Contender, Running};
use crate::report::Sample;
use crate::rows::PLAIN;
use crate::scratch::Scratch;
use crate::{Outcome, check_interrupted};

/// Time for the pooler to finish what the last log-ins left to do.
const SETTLING: Duration = Duration::from_secs(2);

/// The idle row for one contender.
///
/// # Errors
/// When the pooler or one of the log-ins fails.
pub(crate) fn measure(
    contender: &Contender,
    cluster: &Cluster,
    scratch: &Scratch,
    options: &Options,
) -> Outcome<Sample> {
    let mut alone = contender.start(Auth::Scram, None, cluster, scratch)?;
    let without = pgbench::measure(&PLAIN, &mut alone, cluster, scratch, options)?;
    drop(alone);

    let mut running = contender.start(Auth::Scram, None, cluster, scratch)?;
    let pid = running.pid().ok_or("there is no pooler to crowd")?;
    let one = Workload { clients: 1, ..PLAIN };
    pgbench::run_exactly(&one, 10, &running, cluster, scratch)?;
    std::thread::sleep(SETTLING);
    let memory_before = Memory::of(pid)?;
    let before_logins = Processor::of(pid)?;

    let crowd = gather(options.idle_clients, &running)?;
    let login_us = Processor::of(pid)?.us_since(before_logins) / crowd.len() as f64;
    std::thread::sleep(SETTLING);
    let memory_with = Memory::of(pid)?;

    let (idle_from, idle_since) = (Processor::of(pid)?, Instant::now());
    std::thread::sleep(options.measured.max(Duration::from_secs(4)));
    check_interrupted()?;
    let idle_us = Processor::of(pid)?.us_since(idle_from);
    let idle_s = idle_since.elapsed().as_secs_f64();

    let beside = pgbench::measure(&PLAIN, &mut running, cluster, scratch, options)?;
    crowd_is_still_here(&crowd)?;

    let mut sample = Sample::default();
    sample.put("idle_bytes", (memory_with.pss_kib - memory_before.pss_kib) * 1024.0 / crowd.len() as f64);
    sample.put("idle_rss_bytes", (memory_with.rss_kib - memory_before.rss_kib) * 1024.0 / crowd.len() as f64);
    sample.put("before_rss_kib", memory_before.rss_kib);
    sample.put("with_rss_kib", memory_with.rss_kib);
    sample.put("login_cpu_us", login_us);
    sample.put("idle_cpu_ms", idle_us / 1e3 / idle_s);
    if let (Some(with), Some(without)) = (beside.get("cpu_us"), without.get("cpu_us")) {
        sample.put("alone_cpu_us", without);
        sample.put("beside_cpu_us", with);
        sample.put("beside_idle", with / without);
    }
    Ok(sample)
}

/// Logs `count` clients in, several at a time, and keeps them.
fn gather(count: usize, running: &Running) -> Outcome<Vec<TcpStream>> {
    const AT_ONCE: usize = 8;
    let next = AtomicUsize::new(0);
    let keys = Keys::default();
    let gathered = Mutex::new(Vec::with_capacity(count));
    let worker = || -> Outcome<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            check_interrupted()?;
            let client = log_in(number, running.port, running.role, &keys)
                .map_err(|trouble| format!("idle client {number} cannot log in: {trouble}"))?;
            gathered.lock().map_err(|_| "another log-in failed")?.push(client);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|one| one.join().unwrap_or(Err("a log-in thread panicked".into())))
    })?;
    gathered.into_inner().map_err(|_| "a log-in thread panicked".into())
}

/// # Errors
/// When the pooler has closed one of the idle connections, or has spoken on it.
fn crowd_is_still_here(crowd: &[TcpStream]) -> Outcome<()> {
    for client in crowd {
        client.set_nonblocking(true).map_err(|error| error.to_string())?;
        let mut client: &TcpStream = client;
        match client.read(&mut [0]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            other => return Err(format!("an idle client was disturbed: {other:?}")),
        }
    }
    Ok(())
}

/// Connects, proves the password by SCRAM-SHA-256 (RFC 5802, 7677), and waits for ReadyForQuery.
fn log_in(number: usize, port: u16, role: &str, keys: &Keys) -> Outcome<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(|error| error.to_string())?;
    let mut startup = 196_608_i32.to_be_bytes().to_vec();
    startup.extend_from_slice(format!("user\0{role}\0database\0{DATABASE}\0\0").as_bytes());
    send(&mut stream, None, &startup)?;

    let mut incoming = BufReader::with_capacity(1024, stream.try_clone().map_err(|error| error.to_string())?);
    let client_first = format!("n=,r=bench{number:024}");
    loop {
        let (tag, body) = receive(&mut incoming)?;
        match (tag, body.first_chunk().map(|kind| i32::from_be_bytes(*kind))) {
            (b'R', Some(10)) => {
                let mut initial = b"SCRAM-SHA-256\0".to_vec();
                initial.extend_from_slice(&(client_first.len() as i32 + 3).to_be_bytes());
                initial.extend_from_slice(b"n,,");
                initial.extend_from_slice(client_first.as_bytes());
                send(&mut stream, Some(b'p'), &initial)?;
            }
            (b'R', Some(11)) => {
                let server_first = std::str::from_utf8(&body[4..]).map_err(|error| error.to_string())?;
                send(&mut stream, Some(b'p'), client_final(&client_first, server_first, keys)?.as_bytes())?;
            }
            (b'R', Some(0 | 12)) | (b'S' | b'K' | b'N', _) => {}
            (b'Z', _) => return Ok(stream),
            (tag, _) => return Err(format!("message {:?}: {}", tag as char, String::from_utf8_lossy(&body))),
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

fn send(stream: &mut TcpStream, tag: Option<u8>, body: &[u8]) -> Outcome<()> {
    let mut message: Vec<u8> = tag.into_iter().collect();
    message.extend_from_slice(&(body.len() as i32 + 4).to_be_bytes());
    message.extend_from_slice(body);
    stream.write_all(&message).map_err(|error| error.to_string())
}

fn receive(incoming: &mut impl Read) -> Outcome<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    incoming.read_exact(&mut head).map_err(|error| error.to_string())?;
    let [tag, length @ ..] = head;
    let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(0);
    if !(4..=65_536).contains(&length) {
        return Err(format!("message {:?} of {length} bytes", tag as char));
    }
    let mut body = vec![0; length - 4];
    incoming.read_exact(&mut body).map_err(|error| error.to_string())?;
    Ok((tag, body))
}
