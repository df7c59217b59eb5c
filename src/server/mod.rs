//! One connection to Postgres.
//!
//! A [`Server`] is a logged-in connection with what must be known of it: the exchange under way, the parameters it has
//! reported, the prepared statements it holds. It belongs to one task at a time: to `connect` while it logs in, to the
//! pool while it is on the shelf, to a client's task while it is on loan. Dropping it closes the socket;
//! [`Server::terminate`] says goodbye first.
//!
//! - [`connect`](mod@connect) dial → startup → prove ourselves → first ReadyForQuery
//! - `handover` a server as it is shown to a successor, and taken from a predecessor
//! - [`look_up`] auth_query
//! - [`cancel`] requests to cancel what a server runs
//! - `finish` a server that its client has left in the middle
//! - [`check`] server_reset_query, server_check_query and the SETs of a client's parameters: queries of our own

pub mod cancel;
pub mod check;
pub mod connect;
mod finish;
mod handover;
mod lookup;

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::net::buffers::Inbox;
use crate::net::stream::Stream;
use crate::net::workers;
use crate::protocol::exchange::Exchange;
use crate::protocol::parameters::ParameterSet;
use crate::protocol::statements::ServerStatements;
use crate::stats::roster::{EnteredServer, ServerCard};
use crate::wire::framing::{Framer, HEADER_LEN, Header, MESSAGE_LEN_MAX, Partial, Piece};
use crate::wire::{Backend, frontend};

pub use check::{TidyError, tidy};
pub use connect::{ConnectError, Means, Target, connect};
pub use handover::{Inherited, address};
pub use lookup::{KnownUser, LookupError, look_up};

/// A message of our own business with a server (login, check, reset) is held up to this many bytes; of a longer one
/// only the tag is looked at.
const OWN_MESSAGE_MAX: usize = 256 * 1024;

/// Reads of what an idle server has said before it is closed instead.
const READS_AT_REST_MAX: usize = 64;

/// Parameters that an idle server may report at once. PostgreSQL has fewer to report.
const REPORTS_AT_REST_MAX: usize = 64;

/// One logged-in connection to Postgres.
#[derive(Debug)]
pub struct Server {
    /// Struck off the roster when the server is dropped.
    entered: EnteredServer,
    /// Worker whose reactor has the socket.
    home: usize,
    /// The socket.
    pub(crate) stream: Stream,
    /// Bytes from Postgres, looked at from front to back by whoever has the server.
    pub(crate) inbox: Inbox,
    /// Where in a message the inbox's fresh bytes begin.
    pub(crate) framer: Framer,
    /// What Postgres owes.
    pub(crate) exchange: Exchange,
    /// What Postgres has reported of its parameters.
    pub(crate) parameters: ParameterSet,
    /// Prepared statements it holds.
    pub(crate) statements: ServerStatements,
}

impl Server {
    /// The public face.
    pub fn card(&self) -> &Arc<ServerCard> {
        self.entered.card()
    }

    /// The worker whose reactor has the socket.
    pub fn home(&self) -> usize {
        self.home
    }

    /// Parameters as the server reported them.
    pub fn parameters(&self) -> &ParameterSet {
        &self.parameters
    }

    /// Has an idle server said something, or gone? No system call unless the reactor has seen the socket become
    /// readable.
    #[inline]
    pub fn has_input(&self) -> bool {
        !self.inbox.is_empty() || self.stream.has_input()
    }

    /// Reads what an idle server has said while nobody asked it anything. What other sessions NOTIFY is dropped,
    /// because nobody has the server that it could be for; ParameterStatus is noted. False where it said anything else,
    /// or has gone: it is dead or dirty then, as in PgBouncer.
    #[cold]
    pub fn hear_at_rest(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let mut reports_left = REPORTS_AT_REST_MAX;
        for _ in 0..READS_AT_REST_MAX {
            while let Some((tag, len)) = self.message_at_rest() {
                if tag == Backend::ParameterStatus {
                    let Some(left) = reports_left.checked_sub(1) else { return false };
                    reports_left = left;
                    let body = self.inbox.fresh()[HEADER_LEN..len].to_vec();
                    self.note_parameter(&body);
                }
                self.inbox.skip(len);
            }
            if !self.inbox.is_empty() && !self.may_rest_on() {
                return false;
            }
            match self.stream.poll_fill(&mut cx, &mut self.inbox) {
                Poll::Pending => return self.inbox.is_empty(),
                Poll::Ready(Ok(0) | Err(_)) => return false,
                Poll::Ready(Ok(_)) => {}
            }
        }
        false
    }

    /// The message that comes next and its length, where it is one that an idle server may send, and whole.
    fn message_at_rest(&self) -> Option<(Backend, usize)> {
        let fresh = self.inbox.fresh();
        let header = Header::parse(fresh, OWN_MESSAGE_MAX).ok().flatten()?;
        let tag = Backend::from_byte(header.tag)?;
        (self.may_rest_on() && header.len <= fresh.len()).then_some((tag, header.len))
    }

    /// Is what comes next, or begins to, something that an idle server may send?
    fn may_rest_on(&self) -> bool {
        let tag = self.inbox.fresh().first().and_then(|tag| Backend::from_byte(*tag));
        matches!(tag, Some(Backend::NotificationResponse | Backend::ParameterStatus))
    }

    /// Moves the socket to the calling worker's reactor, if it is not there.
    ///
    /// # Errors
    /// The kernel refuses; the server is lost.
    #[inline]
    pub fn move_here(&mut self) -> io::Result<()> {
        let here = workers::current();
        if self.home != here {
            self.stream.move_here()?;
            self.home = here;
        }
        Ok(())
    }

    /// Says goodbye, as far as the socket takes it at once, and closes.
    pub fn terminate(mut self: Box<Self>) {
        let mut goodbye = Vec::with_capacity(5);
        frontend::terminate(&mut goodbye);
        self.stream.send_parting(&goodbye);
    }

    /// The next message: its tag, and its body where that is not longer than [`OWN_MESSAGE_MAX`].
    ///
    /// # Errors
    /// The socket's, `UnexpectedEof` at its end, `InvalidData` for a broken stream.
    ///
    /// Cancel safe.
    async fn next_message(&mut self) -> io::Result<(u8, Vec<u8>)> {
        loop {
            let hold = |header: Header| if header.len <= OWN_MESSAGE_MAX { Partial::Hold } else { Partial::Stream };
            let piece = self
                .framer
                .next(self.inbox.fresh(), MESSAGE_LEN_MAX, hold)
                .map_err(|broken| io::Error::new(io::ErrorKind::InvalidData, broken))?;
            let (len, message) = match piece {
                None => {
                    if self.stream.fill(&mut self.inbox).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    continue;
                }
                Some(Piece::Whole(tag, bytes)) => (bytes.len(), Some((tag, bytes[5..].to_vec()))),
                Some(Piece::Start(header, bytes)) => (bytes.len(), Some((header.tag, Vec::new()))),
                Some(Piece::More { bytes, .. }) => (bytes.len(), None),
            };
            self.inbox.skip(len);
            if let Some(message) = message {
                return Ok(message);
            }
        }
    }
}
