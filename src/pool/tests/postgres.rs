//! As much of Postgres as a pool can tell: it lets everybody but `stranger` in and answers every query with nothing.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

pub(super) struct Postgres {
    port: u16,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    logins: AtomicUsize,
    goodbyes: AtomicUsize,
    queries: Mutex<Vec<String>>,
    hang_up: Notify,
    /// What it calls itself to who logs in; empty is 15.0.
    version: Mutex<String>,
    /// Are logins kept waiting for their answer?
    holds: AtomicBool,
    let_go: Notify,
    /// Follows the first ReadyForQuery.
    unasked: Vec<u8>,
}

impl Postgres {
    pub(super) async fn start() -> Postgres {
        Postgres::start_saying(&[]).await
    }

    /// One whose backends say something that nobody asked for, as soon as they are ready.
    pub(super) async fn start_saying(unasked: &[(u8, &[u8])]) -> Postgres {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let unasked = unasked.iter().flat_map(|(tag, body)| message(*tag, body)).collect();
        let seen = Arc::new(Seen { unasked, ..Seen::default() });
        let shared = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(backend(stream, shared.clone()));
            }
        });
        Postgres { port, seen }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn logins(&self) -> usize {
        self.seen.logins.load(Relaxed)
    }

    /// How many servers were closed politely.
    pub(super) fn goodbyes(&self) -> usize {
        self.seen.goodbyes.load(Relaxed)
    }

    pub(super) fn queries(&self) -> Vec<String> {
        self.seen.queries.lock().unwrap().clone()
    }

    /// Is of this version from now on.
    pub(super) fn upgrade(&self, version: &str) {
        version.clone_into(&mut self.seen.version.lock().unwrap());
    }

    /// Keeps logins waiting for their answer, which is made when they come.
    pub(super) fn hold(&self) {
        self.seen.holds.store(true, Relaxed);
    }

    /// Gives those that wait their answer, and holds nobody any more.
    pub(super) fn let_go(&self) {
        self.seen.holds.store(false, Relaxed);
        self.seen.let_go.notify_waiters();
    }

    /// Ends every backend, as a crash does.
    pub(super) fn hang_up(&self) {
        self.seen.hang_up.notify_waiters();
    }
}

async fn backend(stream: TcpStream, seen: Arc<Seen>) {
    let hang_up = seen.hang_up.notified();
    tokio::select! {
        () = hang_up => {}
        _ = converse(stream, &seen) => {}
    }
}

async fn converse(mut stream: TcpStream, seen: &Seen) -> std::io::Result<()> {
    let len = stream.read_u32().await?;
    let mut startup = vec![0; len as usize - 4];
    stream.read_exact(&mut startup).await?;
    if String::from_utf8_lossy(&startup).contains("stranger") {
        return stream.write_all(&message(b'E', b"SFATAL\0C28000\0Mno stranger here\0\0")).await;
    }
    let version = Some(seen.version.lock().unwrap().clone()).filter(|version| !version.is_empty());
    let mut greeting = message(b'R', &[0, 0, 0, 0]);
    greeting.extend(message(b'S', format!("server_version\0{}\0", version.as_deref().unwrap_or("15.0")).as_bytes()));
    greeting.extend(message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]));
    greeting.extend(message(b'Z', b"I"));
    greeting.extend(&seen.unasked);
    let let_go = seen.let_go.notified();
    seen.logins.fetch_add(1, Relaxed);
    if seen.holds.load(Relaxed) {
        let_go.await;
    }
    stream.write_all(&greeting).await?;
    loop {
        let tag = stream.read_u8().await?;
        let len = stream.read_u32().await?;
        let mut body = vec![0; len as usize - 4];
        stream.read_exact(&mut body).await?;
        match tag {
            b'Q' => {
                body.pop();
                seen.queries.lock().unwrap().push(String::from_utf8(body).unwrap());
                let mut reply = message(b'I', b"");
                reply.extend(message(b'Z', b"I"));
                stream.write_all(&reply).await?;
            }
            b'X' => {
                seen.goodbyes.fetch_add(1, Relaxed);
                return Ok(());
            }
            other => panic!("a pool says nothing like {}", other.escape_ascii()),
        }
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend((body.len() as u32 + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}
