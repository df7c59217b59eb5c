//! The network between pooler and server, with a switch; and servers that do not behave.
//!
//! A [`Gate`] listens on a port of its own and forwards to PostgreSQL. It can refuse, fall silent, cut what is open,
//! and count. A [`FakeServer`] answers each connection with a function of the test's.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use socket2::Socket;

use super::Postgres;
use super::script::Wire;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Forwards.
    Open,
    /// Closes each new connection at once.
    Shut,
    /// Forwards nothing, neither on old nor on new connections.
    Silent,
    /// Forwards on old connections, and accepts new ones without ever saying or hearing anything there.
    Reserved,
    /// The test is over.
    Gone,
}

struct State {
    mode: Mode,
    accepted: usize,
    live: Vec<TcpStream>,
    /// Connections that nobody serves.
    kept: Vec<TcpStream>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A switch between the pooler and PostgreSQL.
pub(crate) struct Gate {
    /// Where the pooler finds it, on 127.0.0.1.
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

impl Gate {
    /// An open gate.
    pub(crate) fn open() -> Gate {
        let target = Postgres::shared().port;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State { mode: Mode::Open, accepted: 0, live: Vec::new(), kept: Vec::new() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let doorman = Arc::clone(&shared);
        thread::spawn(move || doorman.accept(&listener, target));
        Gate { port, shared }
    }

    /// Lets everything through again.
    pub(crate) fn reopen(&self) {
        self.shared.set(Mode::Open);
    }

    /// Cuts what is open and closes what comes.
    pub(crate) fn shut(&self) {
        self.shared.set(Mode::Shut);
        self.cut();
    }

    /// Holds back every byte in either direction, without closing anything.
    pub(crate) fn silence(&self) {
        self.shared.set(Mode::Silent);
    }

    /// Goes on with what is open, and leaves what comes unserved.
    pub(crate) fn keep_new(&self) {
        self.shared.set(Mode::Reserved);
    }

    /// Hangs up on those that were left unserved.
    pub(crate) fn drop_kept(&self) {
        self.shared.state.lock().unwrap().kept.clear();
    }

    /// Cuts all connections; new ones are treated as before.
    pub(crate) fn cut(&self) {
        for stream in self.shared.state.lock().unwrap().live.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// How many connections were accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.state.lock().unwrap().accepted
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shared.set(Mode::Gone);
        self.cut();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn set(&self, mode: Mode) {
        self.state.lock().unwrap().mode = mode;
        self.changed.notify_all();
    }

    fn accept(self: Arc<Self>, listener: &TcpListener, target: u16) {
        while let Ok((near, _)) = listener.accept() {
            let mut state = self.state.lock().unwrap();
            if state.mode == Mode::Gone {
                return;
            }
            state.accepted += 1;
            match state.mode {
                Mode::Shut => continue,
                Mode::Reserved => {
                    state.kept.push(near);
                    continue;
                }
                _ => {}
            }
            let far = TcpStream::connect(("127.0.0.1", target)).unwrap();
            for stream in [&near, &far] {
                stream.set_nodelay(true).unwrap();
                state.live.push(stream.try_clone().unwrap());
            }
            drop(state);
            let ways = [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)];
            for (from, to) in ways {
                let shared = Arc::clone(&self);
                thread::spawn(move || shared.forward(from, to));
            }
        }
    }

    fn forward(&self, mut from: TcpStream, mut to: TcpStream) {
        use std::io::{Read, Write};
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let got = from.read(&mut chunk).unwrap_or(0);
            let state = self.state.lock().unwrap();
            drop(self.changed.wait_while(state, |state| state.mode == Mode::Silent).unwrap());
            if got == 0 || to.write_all(&chunk[..got]).is_err() {
                let _ = to.shutdown(Shutdown::Both);
                let _ = from.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

/// A server that answers each connection with a function of the test's.
pub(crate) struct FakeServer {
    /// Where the pooler finds it, on 127.0.0.1.
    pub(crate) port: u16,
}

impl FakeServer {
    /// Starts listening; `serve` runs on a thread of its own for each connection, which ends when it returns.
    pub(crate) fn start(serve: impl Fn(Wire) + Clone + Send + 'static) -> FakeServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let serve = serve.clone();
                thread::spawn(move || serve(Wire::over(Socket::from(stream)).unwrap()));
            }
        });
        FakeServer { port }
    }
}
