//! A server that its client has left in the middle: what ends the conversation, and reading to its end.
//!
//! | PostgreSQL | is sent | and then |
//! |---|---|---|
//! | works for the client | nothing; `pool::abandoned` has it cancelled | its answers are dropped |
//! | reads copy data | CopyFail | the COPY fails |
//! | waits for the Sync of a batch | ROLLBACK, in the batch, and Sync | nothing of the batch is committed |
//!
//! PostgreSQL itself rolls a batch back where its client leaves before the Sync, so a Sync alone would commit too much.

use std::io;
use std::task::{Context, Poll, ready};

use super::Server;
use crate::net::buffers::Outbox;
use crate::protocol::exchange::Violation;
use crate::protocol::outstanding::{Due, Kind};
use crate::protocol::rename;
use crate::protocol::statements::drops_all_statements;
use crate::wire::framing::{HEADER_LEN, Header, MESSAGE_LEN_MAX, Partial, Piece};
use crate::wire::{Backend, frontend};

/// Messages that are looked into are held up to this many bytes; PostgreSQL's are far shorter.
const HELD_MAX: usize = 16 * 1024;

impl Server {
    /// Does PostgreSQL wait for the client, all that it can answer answered?
    pub(crate) fn waits(&self) -> bool {
        self.exchange.quiet() || self.exchange.copying_in()
    }

    /// Ends what the client began: says what takes it back, reads until nothing is owed, and drops what it reads. A
    /// transaction block stays open. All that has gone to the server must have been whole messages.
    ///
    /// # Errors
    /// The socket's, `UnexpectedEof` at its end, `InvalidData` where the server breaks the protocol.
    ///
    /// Not cancel safe: the server is in the middle of something.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        // What the client's socket did not take.
        let unsent = self.inbox.run().len();
        self.inbox.sent(unsent);
        let (mut out, mut copy_ended, mut asked) = (Outbox::default(), false, false);
        std::future::poll_fn(|cx| self.poll_finish(cx, &mut out, &mut copy_ended, &mut asked)).await
    }

    /// Sends nothing more, and reads until PostgreSQL has closed the connection. It does so when it has done all that
    /// it was sent; `between_messages` says that it can be told in words.
    pub(crate) async fn run_out(&mut self, between_messages: bool) {
        if between_messages {
            let mut goodbye = Vec::with_capacity(5);
            frontend::terminate(&mut goodbye);
            self.stream.send_parting(&goodbye);
        }
        self.stream.shut_down_sending();
        self.inbox.clear();
        while self.stream.fill(&mut self.inbox).await.is_ok_and(|len| len > 0) {
            self.inbox.clear();
        }
    }

    fn poll_finish(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Outbox,
        copy_ended: &mut bool,
        asked: &mut bool,
    ) -> Poll<io::Result<()>> {
        loop {
            self.look_at_rest()?;
            self.say_the_end(out.bytes(), copy_ended);
            self.ask_what_was_read(out.bytes(), asked);
            while !out.is_empty() {
                match self.stream.poll_send(cx, out.pending()) {
                    Poll::Pending => break,
                    Poll::Ready(sent) => out.sent(sent?),
                }
            }
            if out.is_empty() && self.exchange.quiet() && !self.exchange.unsynced() {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.stream.poll_fill(cx, &mut self.inbox))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// `copy_ended` says that the COPY under way has been told of its end.
    fn say_the_end(&mut self, out: &mut Vec<u8>, copy_ended: &mut bool) {
        if !self.exchange.copying_in() {
            *copy_ended = false;
        } else if !std::mem::replace(copy_ended, true) {
            frontend::copy_fail(out, "the client has disconnected");
            self.exchange.end_copy();
        }
        if self.exchange.unsynced() {
            frontend::statement(out, "ROLLBACK");
            frontend::sync(out);
            for kind in [Kind::Parse, Kind::Bind, Kind::Execute] {
                self.exchange.ask_extended(Due::forward(kind));
            }
            self.exchange.sync();
        }
    }

    /// Where it is open which Syncs PostgreSQL has read inside a COPY that failed, one more ends a batch that it may be
    /// dropping, and then a question tells.
    fn ask_what_was_read(&mut self, out: &mut Vec<u8>, asked: &mut bool) {
        if self.exchange.is_undecided() && !std::mem::replace(asked, true) {
            frontend::sync(out);
            self.exchange.sync();
            if self.exchange.probe() {
                rename::put_probe(out);
            }
        }
    }

    /// Looks at what PostgreSQL has sent, and drops it.
    fn look_at_rest(&mut self) -> io::Result<()> {
        let broken = || io::Error::from(io::ErrorKind::InvalidData);
        loop {
            let piece = self.framer.next(self.inbox.fresh(), MESSAGE_LEN_MAX, hold).map_err(|_| broken())?;
            let (len, tag) = match piece {
                None => return Ok(()),
                Some(Piece::More { bytes, .. }) => (bytes.len(), None),
                Some(Piece::Whole(tag, bytes)) => (bytes.len(), Some(tag)),
                Some(Piece::Start(header, bytes)) => (bytes.len(), Some(header.tag)),
            };
            if let Some(tag) = tag {
                self.note_answer(Backend::from_byte(tag).ok_or_else(broken)?, len)?;
            }
            self.inbox.skip(len);
        }
    }

    /// Notes a message of which `len` bytes are in the inbox.
    fn note_answer(&mut self, message: Backend, len: usize) -> io::Result<()> {
        let broken = || io::Error::from(io::ErrorKind::InvalidData);
        if self.exchange.is_undecided() && message != Backend::ParameterStatus && self.decides(message, len)? {
            return Ok(());
        }
        let body = self.inbox.fresh().get(HEADER_LEN..len).unwrap_or_default();
        match message {
            Backend::ReadyForQuery => {
                let status = body.first().copied().unwrap_or_default();
                self.exchange.ready(status).map_err(|_| broken())?;
            }
            Backend::ErrorResponse => self.note_failure().map_err(|_| broken())?,
            Backend::ParameterStatus => {
                let body = body.to_vec();
                self.note_parameter(&body);
            }
            message => {
                if message == Backend::CommandComplete && drops_all_statements(body) {
                    let number = self.exchange.next_number();
                    self.statements.clear_before(number);
                    self.note_statement_count();
                }
                self.exchange.server_sent(message).map_err(|_| broken())?;
            }
        }
        // What we would have answered in the server's place.
        while self.exchange.take_fake().is_some() {}
        Ok(())
    }

    /// A message while it is open what the server has read. False: that is decided now, and the message is like any.
    fn decides(&mut self, message: Backend, len: usize) -> io::Result<bool> {
        let status = self.inbox.fresh().get(HEADER_LEN..len).and_then(|body| body.first()).copied();
        let status = status.filter(|_| message == Backend::ReadyForQuery);
        let mut skipped = Vec::new();
        let decided = self.exchange.decide(message, status, |_, undo| skipped.extend(undo.on_server()));
        self.suspect(skipped);
        match decided {
            Ok(verdict) => Ok(verdict.is_some()),
            Err(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The server skips what was asked for: whether it has the statements in question depends on what came before.
    fn note_failure(&mut self) -> Result<(), Violation> {
        let mut skipped = Vec::new();
        self.exchange.failed(|_, undo| skipped.extend(undo.on_server()))?;
        self.suspect(skipped);
        Ok(())
    }

    fn suspect(&mut self, skipped: Vec<u64>) {
        for id in skipped {
            if !self.exchange.is_booked(id) {
                self.statements.suspect(id);
            }
        }
        self.note_statement_count();
    }
}

fn hold(header: Header) -> Partial {
    match header.tag {
        b'Z' | b'S' | b'C' if header.len <= HELD_MAX => Partial::Hold,
        _ => Partial::Stream,
    }
}
