//! Both directions between one client and one borrowed server, until the server is at rest.
//!
//! One task, two sockets, no channel. Each turn looks at one direction: send what may be sent, look at the next pieces,
//! read more. A direction whose receiver does not take bytes is not read from, so a slow reader of a huge result costs
//! two buffers. Bytes that go on unchanged are sent straight from the buffer they were read into; only what is
//! rewritten or invented is copied to an outbox.
//!
//! ```text
//!   client.stream ──► client.inbox ──► to_server ──► server.stream
//!   client.stream ◄── client.outbox ◄── server.inbox ◄── server.stream
//! ```
//!
//! What each message means is not decided here: [`crate::protocol::exchange`] keeps the books of what the server owes,
//! [`super::prepared`] renames statements.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use super::handover::Progress;
use super::prepared;
use super::session::{Client, Mode};
use crate::net::buffers::{Inbox, Outbox};
use crate::net::stream::Stream;
use crate::net::world;
use crate::pool::LeftAt;
use crate::pool::suspension::Phase;
use crate::protocol::exchange::{TransactionStatus, Verdict};
use crate::protocol::outstanding::Kind;
use crate::protocol::parameters;
use crate::server::Server;
use crate::stats::counters::bump;
use crate::stats::moment::Moment;
use crate::stats::roster::Order;
use crate::wire::framing::{HEADER_LEN, Header, MESSAGE_LEN_MAX, Partial, Piece};
use crate::wire::{Backend, Frontend, backend};

/// A run of at most this many bytes is copied behind an outbox that has bytes, so that both leave in one send.
const JOIN_LEN: usize = 16 * 1024;

/// Why a relay ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The server owes nothing and may change hands.
    AtRest,
    /// The client said Terminate.
    Terminated,
    /// The client's socket ended or broke.
    ClientGone,
    /// The server's socket ended or broke.
    ServerGone(io::Error),
    /// The client broke the protocol or a rule; the text says how.
    ClientAtFault(Fault),
    /// The server broke the protocol.
    ServerAtFault(&'static str),
    /// An order was left on the client's card.
    Ordered(Order),
    /// The server is marked to be closed, and server_fast_close says not to wait for the end of the session.
    ServerUnwanted,
}

/// What a client did that it must not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A header that cannot be.
    BadHeader(String),
    /// A message with no meaning here.
    UnknownMessage(u8),
    /// `broken Parse packet` and the like.
    Broken(&'static str),
    /// A statement name in use.
    StatementInUse,
    /// A statement name without a statement.
    NoSuchStatement,
    /// More prepared statements, or replies outstanding, than are kept count of.
    TooMany(&'static str),
    /// A transaction block in statement pooling.
    TransactionBlock,
    /// A simple Query with disable_pqexec.
    SimpleQuery,
    /// A message longer than we hold.
    TooLong(&'static str),
}

/// One relay: what it keeps beside client and server.
pub(crate) struct Relay<'a> {
    pub(crate) client: &'a mut Client,
    pub(crate) server: &'a mut Server,
    /// Rewritten messages on their way to the server.
    pub(crate) to_server: Outbox,
    /// When the request under way began.
    query_start: Option<Moment>,
    /// When the transaction under way began.
    xact_start: Option<Moment>,
    /// Has anything gone to the server? A message that must be held whole may take long to come.
    begun: bool,
}

impl<'a> Relay<'a> {
    /// A relay whose first request came at `now`.
    pub(crate) fn new(client: &'a mut Client, server: &'a mut Server, now: Moment) -> Relay<'a> {
        Relay {
            client,
            server,
            to_server: Outbox::default(),
            query_start: Some(now),
            xact_start: Some(now),
            begun: false,
        }
    }

    /// A relay between two that have nothing to do yet.
    pub(super) fn resting(client: &'a mut Client, server: &'a mut Server) -> Relay<'a> {
        Relay { client, server, to_server: Outbox::default(), query_start: None, xact_start: None, begun: false }
    }

    /// A relay that began in a predecessor.
    pub(super) fn inherited(client: &'a mut Client, server: &'a mut Server, progress: Progress) -> Relay<'a> {
        let Progress { begun, query_start, xact_start } = progress;
        Relay { client, server, to_server: Outbox::default(), query_start, xact_start, begun }
    }

    /// Relays until there is a reason to stop. When it is [`Ended::AtRest`], the client may still have bytes in its
    /// outbox: a slow reader does not keep a server.
    ///
    /// Not cancel safe: a server in the middle of something is no use; its lease must be dropped.
    pub(crate) async fn run(&mut self) -> Ended {
        std::future::poll_fn(|cx| match self.poll(cx) {
            Ok(()) => Poll::Pending,
            Err(ended) => Poll::Ready(ended),
        })
        .await
    }

    /// `Err` ends the relay, `Ok` waits: every socket that could move it on has been asked and will wake us.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let order = self.client.card().order();
        if order != Order::None {
            match self.heed(order)? {
                Phase::Running => {}
                phase => return self.poll_to_edge(cx, phase),
            }
        }
        if self.must_leave_server() {
            return Err(Ended::ServerUnwanted);
        }
        let mut reads_left = self.client.limits.reads_per_turn;
        self.poll_forth(cx, &mut reads_left)?;
        self.poll_back(cx, &mut reads_left)?;
        if self.may_part() {
            self.keep_rest_of_answer();
            return Err(Ended::AtRest);
        }
        if self.client.has_left() {
            self.poll_departed(cx)?;
        }
        if reads_left == 0 {
            // sbuf_loopcnt: let others have their turn.
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    /// There is an order on the client's card: it ends the relay, or has to do with a suspension. Says how far that is.
    #[cold]
    fn heed(&mut self, order: Order) -> Result<Phase, Ended> {
        if order.dismisses() {
            return Err(Ended::Ordered(order));
        }
        let phase = self.client.suspension_phase();
        let progress = Progress { begun: self.begun, query_start: self.query_start, xact_start: self.xact_start };
        self.client.show_if_asked(Some((&*self.server, progress)));
        Ok(phase)
    }

    /// As [`Relay::poll`] while there is a suspension: the client is read to the end of its message and no further;
    /// once frozen, so is the server. With nothing left in hand the task keeps still.
    #[cold]
    fn poll_to_edge(&mut self, cx: &mut Context<'_>, phase: Phase) -> Result<(), Ended> {
        self.poll_forth_to_edge(cx)?;
        if phase == Phase::Frozen {
            self.poll_back_to_edge(cx)?;
        } else {
            let mut reads_left = self.client.limits.reads_per_turn;
            self.poll_back(cx, &mut reads_left)?;
            if reads_left == 0 {
                cx.waker().wake_by_ref();
            }
        }
        if self.may_part() {
            self.keep_rest_of_answer();
            return Err(Ended::AtRest);
        }
        let client = &*self.client;
        let nothing_in_hand = self.to_server.is_empty()
            && client.inbox.is_empty()
            && client.outbox.is_empty()
            && self.server.inbox.is_empty()
            && client.framer.between_messages()
            && self.server.framer.between_messages();
        client.card().frozen.store(phase == Phase::Frozen && nothing_in_hand, Relaxed);
        Ok(())
    }

    fn poll_forth_to_edge(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        loop {
            if !self.poll_pass_forth(cx)? {
                return Ok(());
            }
            let client = &mut *self.client;
            let missing = client.framer.missing(client.inbox.fresh());
            let missing = missing.map_err(|broken| Ended::ClientAtFault(Fault::BadHeader(broken.to_string())))?;
            if missing == 0 || client.is_silent() {
                return Ok(());
            }
            match client.stream.poll_fill_at_most(cx, &mut client.inbox, missing) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(len)) if len > 0 => client.count_received(len),
                Poll::Ready(ended) => self.client_ends(ended)?,
            }
        }
    }

    fn poll_back_to_edge(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        loop {
            self.look_at_server()?;
            match flush(&mut self.client.stream, cx, &mut self.client.outbox, &mut self.server.inbox) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(_) => self.client_output_broke()?,
            }
            let server = &mut *self.server;
            let missing = server.framer.missing(server.inbox.fresh());
            let missing = missing.map_err(|_| Ended::ServerAtFault("bad packet header from server"))?;
            if missing == 0 {
                return Ok(());
            }
            match server.stream.poll_fill_at_most(cx, &mut server.inbox, missing) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(Ended::ServerGone(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(Err(error)) => return Err(Ended::ServerGone(error)),
                Poll::Ready(Ok(len)) => self.client.count_sent(len),
            }
        }
    }

    /// server_fast_close: does a session end because its server is marked to be closed? The setting is asked for anew:
    /// a session comes to no safe point where it would learn of a change.
    #[inline]
    fn must_leave_server(&self) -> bool {
        // Rare enough to ask the rules in force: a session has no safe point at which it takes new ones.
        self.client.mode == Mode::Session
            && self.server.card().close_needed.load(Relaxed)
            && self.server.exchange.at_rest()
            && self.client.pool.rules().server_fast_close
    }

    /// May the server change hands? Everything the client sent is with it, everything it owed is on its way to the
    /// client.
    #[inline]
    fn may_part(&self) -> bool {
        self.begun
            && self.server.exchange.at_rest()
            && (self.client.mode != Mode::Session || self.client.is_silent())
            && self.to_server.is_empty()
            && self.client.inbox.run().is_empty()
            && self.client.framer.between_messages()
            && self.server.framer.between_messages()
            && self.server.inbox.fresh().is_empty()
    }

    /// How far what the client sent has gone to the server.
    pub(super) fn left_at(&self) -> LeftAt {
        let all_sent = self.to_server.is_empty() && self.client.inbox.run().is_empty();
        match all_sent && self.client.framer.between_messages() {
            true => LeftAt::MessageEnd,
            false => LeftAt::MidMessage,
        }
    }

    /// What the client's socket would not take yet moves to the client's own outbox.
    pub(super) fn keep_rest_of_answer(&mut self) {
        if !self.server.inbox.is_empty() {
            self.client.outbox.take_run(&mut self.server.inbox);
        }
    }

    /// Looks at what the client has sent, and sends it on. False: the server's socket has to be waited for.
    #[inline]
    fn poll_pass_forth(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        self.look_at_client()?;
        flush(&mut self.server.stream, cx, &mut self.to_server, &mut self.client.inbox)
            .map_err(|error| self.last_words(cx, error))
    }

    /// Client to server, until either socket has to be waited for.
    #[inline]
    fn poll_forth(&mut self, cx: &mut Context<'_>, reads_left: &mut u32) -> Result<(), Ended> {
        loop {
            if !self.poll_pass_forth(cx)? {
                return Ok(());
            }
            // A server that can part is not read for: the client's next request stands in line like any other.
            if *reads_left == 0 || self.may_part() || self.client.is_silent() {
                return Ok(());
            }
            match self.client.stream.poll_fill(cx, &mut self.client.inbox) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(len)) if len > 0 => self.client.count_received(len),
                Poll::Ready(ended) => self.client_ends(ended)?,
            }
            *reads_left -= 1;
        }
    }

    /// The server takes nothing more. What it said before it went is worth more than how it went.
    #[cold]
    fn last_words(&mut self, cx: &mut Context<'_>, error: io::Error) -> Ended {
        let mut reads_left = self.client.limits.reads_per_turn;
        match self.poll_back(cx, &mut reads_left) {
            Err(ended) => ended,
            Ok(()) => Ended::ServerGone(error),
        }
    }

    /// Server to client, until either socket has to be waited for.
    #[inline]
    fn poll_back(&mut self, cx: &mut Context<'_>, reads_left: &mut u32) -> Result<(), Ended> {
        loop {
            self.look_at_server()?;
            match flush(&mut self.client.stream, cx, &mut self.client.outbox, &mut self.server.inbox) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(_) => self.client_output_broke()?,
            }
            if *reads_left == 0 || self.may_part() {
                return Ok(());
            }
            match self.server.stream.poll_fill(cx, &mut self.server.inbox) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(Ended::ServerGone(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(Err(error)) => return Err(Ended::ServerGone(error)),
                Poll::Ready(Ok(len)) => self.client.count_sent(len),
            }
            *reads_left -= 1;
        }
    }

    /// Looks at what the client has sent.
    #[inline]
    fn look_at_client(&mut self) -> Result<(), Ended> {
        loop {
            let client = &mut *self.client;
            let fresh = client.inbox.fresh();
            let renames = client.renames_statements();
            let partial = |header: Header| prepared::hold(header, fresh, renames);
            let piece = client.framer.next(fresh, client.limits.message_len_max, partial);
            let piece = piece.map_err(|broken| Ended::ClientAtFault(Fault::BadHeader(broken.to_string())))?;
            let Some(piece) = piece else {
                prepared::check_held(fresh).map_err(Ended::ClientAtFault)?;
                return Ok(());
            };
            let (tag, len) = match piece {
                Piece::More { bytes, .. } => {
                    client.inbox.pass(bytes.len());
                    continue;
                }
                Piece::Whole(tag, bytes) => (tag, bytes.len()),
                Piece::Start(header, bytes) => (header.tag, bytes.len()),
            };
            self.client_message(tag, len)?;
        }
    }

    /// One message from the client, of which `len` bytes are in the inbox.
    #[inline]
    fn client_message(&mut self, tag: u8, len: usize) -> Result<(), Ended> {
        let message = Frontend::from_byte(tag).ok_or(Ended::ClientAtFault(Fault::UnknownMessage(tag)))?;
        self.begun = true;
        if self.query_start.is_none() {
            self.request_begins();
        }
        let exchange = &mut self.server.exchange;
        match message {
            Frontend::Query if self.client.limits.disable_pqexec => {
                return Err(Ended::ClientAtFault(Fault::SimpleQuery));
            }
            Frontend::Query => exchange.ask(Kind::Query),
            Frontend::FunctionCall => exchange.ask(Kind::FunctionCall),
            Frontend::Sync => exchange.sync(),
            Frontend::CopyDone | Frontend::CopyFail => exchange.end_copy(),
            Frontend::CopyData | Frontend::Flush => {}
            Frontend::Parse | Frontend::Bind | Frontend::Describe | Frontend::Execute | Frontend::Close => {
                return prepared::extended(self, message, len).map_err(Ended::ClientAtFault);
            }
            Frontend::Terminate => return self.client_terminates(),
            Frontend::Password => return Err(Ended::ClientAtFault(Fault::UnknownMessage(tag))),
        }
        self.client.inbox.pass(len);
        Ok(())
    }

    fn request_begins(&mut self) {
        let now = world::now();
        self.query_start = Some(now);
        let card = self.client.card();
        card.set_request_at(now);
        card.set_idle_in_xact_at(None);
        self.server.card().set_request_at(now);
        if self.xact_start.is_none() {
            self.xact_start = Some(now);
            self.client.card().set_xact_at(Some(now));
        }
    }

    /// Looks at what the server has sent.
    #[inline]
    fn look_at_server(&mut self) -> Result<(), Ended> {
        loop {
            let server = &mut *self.server;
            let piece = match server.framer.next(server.inbox.fresh(), MESSAGE_LEN_MAX, hold_of_server) {
                Ok(Some(piece)) => piece,
                Ok(None) => return Ok(()),
                Err(_) => return Err(Ended::ServerAtFault("bad packet header from server")),
            };
            match piece {
                // The bulk of any big answer: rows and copy data are not looked at.
                Piece::Whole(b'D' | b'd', bytes) | Piece::Start(Header { tag: b'D' | b'd', .. }, bytes) => {
                    server.inbox.pass(bytes.len());
                }
                Piece::More { bytes, .. } => server.inbox.pass(bytes.len()),
                Piece::Whole(tag, bytes) => {
                    let len = bytes.len();
                    self.server_message(tag, len)?;
                }
                Piece::Start(header, bytes) => {
                    let len = bytes.len();
                    self.server_message(header.tag, len)?;
                }
            }
        }
    }

    /// One message from the server, of which `len` bytes are in the inbox.
    #[inline]
    fn server_message(&mut self, tag: u8, len: usize) -> Result<(), Ended> {
        let Some(message) = Backend::from_byte(tag) else {
            return Err(Ended::ServerAtFault("unknown packet from server"));
        };
        match message {
            Backend::ReadyForQuery => {
                let status = self.server.inbox.fresh().get(HEADER_LEN).copied().unwrap_or_default();
                self.server.inbox.pass(len);
                return self.ready(status);
            }
            Backend::ErrorResponse => {
                self.server.inbox.pass(len);
                prepared::failed(self);
            }
            Backend::ParameterStatus => {
                self.parameter_status(len);
                self.server.inbox.pass(len);
            }
            Backend::CommandComplete if self.client.renames_statements() => {
                prepared::command_complete(self, len);
                self.replied(message, len)?;
            }
            _ => self.replied(message, len)?,
        }
        Ok(())
    }

    /// ParameterStatus: what the client did to its server, it wants of any other.
    #[cold]
    fn parameter_status(&mut self, len: usize) {
        let (client, server) = (&mut *self.client, &mut *self.server);
        let body = server.inbox.fresh().get(HEADER_LEN..len).unwrap_or_default();
        let Some((name, value)) = backend::parse_parameter_status(body) else { return };
        let shared = &client.shared;
        let wish = Some(&mut client.wish);
        if parameters::report(name, value, &mut server.parameters, wish, &shared.tracked).is_err() {
            server.card().close_needed.store(true, Relaxed);
        }
        shared.interner.share_in_place(&mut server.parameters);
        shared.interner.share_in_place(&mut client.wish);
        server.note_application_name(name, value);
        client.note_application_name(name, value);
    }

    /// A reply: on to the client, or not; then the invented ones that were waiting for it.
    #[inline]
    fn replied(&mut self, message: Backend, len: usize) -> Result<(), Ended> {
        match self.server.exchange.server_sent(message) {
            Ok(Verdict::Forward) => self.server.inbox.pass(len),
            Ok(Verdict::Skip) => {
                self.client.outbox.take_run(&mut self.server.inbox);
                self.server.inbox.skip(len);
            }
            Err(_) => return Err(Ended::ServerAtFault("unexpected reply from server")),
        }
        prepared::write_fakes(self);
        Ok(())
    }

    /// ReadyForQuery: the books of one request, and of the transaction if it ended.
    #[inline]
    fn ready(&mut self, status: u8) -> Result<(), Ended> {
        if self.server.exchange.ready(status).is_err() {
            return Err(Ended::ServerAtFault("unexpected ReadyForQuery from server"));
        }
        prepared::write_fakes(self);
        let now = world::now();
        let counters = self.client.counters();
        if let Some(start) = self.query_start.take() {
            bump(&counters.query_count, 1);
            bump(&counters.query_time, now.micros_since(start));
        }
        if !self.server.exchange.quiet() {
            self.query_start = Some(now);
        }
        if self.server.exchange.status() == TransactionStatus::Idle {
            bump(&counters.xact_count, 1);
            if let Some(start) = self.xact_start.take() {
                bump(&counters.xact_time, now.micros_since(start));
            }
            if !self.server.exchange.quiet() {
                self.xact_start = Some(now);
            } else {
                self.client.card().set_xact_at(None);
                if self.client.mode == Mode::Session {
                    self.client.settle_tally();
                }
            }
            return Ok(());
        }
        if self.client.mode == Mode::Statement {
            return Err(Ended::ClientAtFault(Fault::TransactionBlock));
        }
        if self.server.exchange.quiet() {
            let card = self.client.card();
            card.set_xact_at(self.xact_start);
            card.set_idle_in_xact_at(Some(now));
        }
        Ok(())
    }
}

/// Messages from the server that we look into are held until they are whole; all are small but for what a server may
/// put into a ParameterStatus, which PostgreSQL limits to far less than a buffer.
#[inline]
fn hold_of_server(header: Header) -> Partial {
    match header.tag {
        b'Z' | b'S' | b'C' if header.len <= JOIN_LEN => Partial::Hold,
        _ => Partial::Stream,
    }
}

/// Sends an outbox and then a run; whether all of it has gone.
#[inline]
fn flush(stream: &mut Stream, cx: &mut Context<'_>, outbox: &mut Outbox, inbox: &mut Inbox) -> io::Result<bool> {
    if !outbox.is_empty() && inbox.run().len() <= JOIN_LEN {
        outbox.take_run(inbox);
    }
    while !outbox.is_empty() {
        match stream.poll_send(cx, outbox.pending()) {
            Poll::Pending => return Ok(false),
            Poll::Ready(sent) => outbox.sent(sent?),
        }
    }
    while !inbox.run().is_empty() {
        match stream.poll_send(cx, inbox.run()) {
            Poll::Pending => return Ok(false),
            Poll::Ready(sent) => inbox.sent(sent?),
        }
    }
    Ok(true)
}
