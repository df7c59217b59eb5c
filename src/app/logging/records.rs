//! Outputs that take one record at a time over a local socket: syslog and the journal.
//!
//! The daemon behind the socket may be slow, absent, or restarted at any time. A record waits at most
//! [`PATIENCE`](super::writer::PATIENCE) for room; one that could not be sent costs a new connection and one more try;
//! what is lost is counted and told as soon as records get through again. The log's thread does all this, so that no
//! client waits.

use std::io;
use std::net::Shutdown;
use std::path::Path;
use std::time::{Duration, SystemTime};

use jiff::tz::TimeZone;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use super::journal::Journal;
use super::line::Level;
use super::syslog::Syslog;
use super::writer::{Batch, Line, Losses};

/// Who listens, and what a record looks like to them.
#[derive(Clone, Debug)]
pub enum Receiver {
    /// syslog.
    Syslog(Syslog),
    /// systemd's journal.
    Journal(Journal),
}

impl Receiver {
    fn socket(&self) -> &Path {
        match self {
            Receiver::Syslog(syslog) => &syslog.socket,
            Receiver::Journal(journal) => &journal.socket,
        }
    }

    fn takes(&self, level: Level) -> bool {
        match self {
            Receiver::Syslog(_) => Syslog::takes(level),
            Receiver::Journal(_) => true,
        }
    }
}

/// A connection to a [`Receiver`], and the count of what it did not take.
#[derive(Debug)]
pub struct Records {
    receiver: Receiver,
    zone: TimeZone,
    /// None until the next record, where the last one found nobody.
    connection: Option<Connection>,
    patience: Duration,
    lost: Losses,
    /// The record under way; kept for its memory.
    record: Vec<u8>,
}

impl Records {
    /// Connects. Where nobody listens, the reason is returned beside, and every further record tries again.
    pub fn open(receiver: Receiver, zone: TimeZone, patience: Duration) -> (Records, Option<io::Error>) {
        let (connection, error) = match Connection::open(receiver.socket()) {
            Ok(connection) => (Some(connection), None),
            Err(error) => (None, Some(error)),
        };
        let lost = Losses::default();
        (Records { receiver, zone, connection, patience, lost, record: Vec::new() }, error)
    }

    /// Sends a batch. `now` is for what we add of our own.
    pub fn write(&mut self, batch: &Batch, now: SystemTime) {
        if self.lost.lines > 0 {
            let text = self.lost.text();
            // No patience for one who has just made us wait.
            match self.send(Level::Warning, now, &text, Duration::ZERO) {
                Ok(()) => self.lost = Losses::default(),
                Err(_) => return self.lose(&batch.lines),
            }
        }
        for (at, line) in batch.lines.iter().enumerate() {
            if !self.receiver.takes(line.level) {
                continue;
            }
            if let Err(error) = self.send(line.level, line.at, batch.text_of(line), self.patience) {
                self.lost.reason = error.to_string();
                return self.lose(&batch.lines[at..]);
            }
        }
    }

    fn lose(&mut self, lines: &[Line]) {
        self.lost.lines += lines.iter().filter(|line| self.receiver.takes(line.level)).count() as u64;
    }

    fn send(&mut self, level: Level, at: SystemTime, text: &str, patience: Duration) -> io::Result<()> {
        match &self.receiver {
            Receiver::Syslog(syslog) => syslog.print(&mut self.record, level, at, &self.zone, text),
            Receiver::Journal(journal) => journal.print(&mut self.record, level, text),
        }
        if let Some(connection) = &self.connection {
            match connection.send(&self.record, patience) {
                Err(error) if !matches!(error.kind(), io::ErrorKind::TimedOut) => {}
                outcome => return outcome,
            }
        }
        // The daemon was started again, or for the first time: its socket is a new one.
        self.connection = None;
        let connection = Connection::open(self.receiver.socket())?;
        let outcome = connection.send(&self.record, patience);
        self.connection = Some(connection);
        outcome
    }
}

#[derive(Debug)]
struct Connection {
    socket: Socket,
    /// An old syslog listens on a stream, where a zero byte ends a record.
    stream: bool,
}

impl Connection {
    fn open(path: &Path) -> io::Result<Connection> {
        let address = SockAddr::unix(path)?;
        match Connection::open_as(Type::DGRAM, &address) {
            Err(error) if error.raw_os_error() == Some(Errno::PROTOTYPE.raw_os_error()) => {
                Connection::open_as(Type::STREAM, &address)
            }
            outcome => outcome,
        }
    }

    fn open_as(kind: Type, address: &SockAddr) -> io::Result<Connection> {
        let socket = Socket::new(Domain::UNIX, kind, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(address)?;
        Ok(Connection { socket, stream: kind == Type::STREAM })
    }

    fn send(&self, record: &[u8], patience: Duration) -> io::Result<()> {
        if !self.stream {
            return self.send_part(record, patience).map(|_| ());
        }
        let mut rest = record;
        while !rest.is_empty() {
            match self.send_part(rest, patience) {
                Ok(len) => rest = &rest[len..],
                Err(error) => {
                    // Part of a record may be out: nothing can follow it on this connection.
                    let _ = self.socket.shutdown(Shutdown::Both);
                    return Err(error);
                }
            }
        }
        self.send_part(&[0], patience).map(|_| ())
    }

    fn send_part(&self, part: &[u8], patience: Duration) -> io::Result<usize> {
        let timeout = Timespec::try_from(patience).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        let nobody = || io::Error::new(io::ErrorKind::TimedOut, "nobody reads them");
        match self.socket.send(part) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut watched = [PollFd::new(&self.socket, PollFlags::OUT)];
                if rustix::event::poll(&mut watched, Some(&timeout))? == 0 {
                    return Err(nobody());
                }
                self.socket.send(part).map_err(|error| match error.kind() {
                    io::ErrorKind::WouldBlock => nobody(),
                    _ => error,
                })
            }
            outcome => outcome,
        }
    }
}

#[cfg(test)]
mod tests;
