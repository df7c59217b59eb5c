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
use crate::protocol::exchange::{TransactionStatus, Verdict, Violation};
use crate::protocol::outstanding::Kind;
use crate::protocol::rename;
use crate::protocol::statement_sql::{Search, may_change_statements};
use crate::protocol::statements::CLIENT_STATEMENT_BYTES_MAX;
use crate::server::Server;
use crate::stats::counters::bump;
use crate::stats::moment::Moment;
use crate::stats::roster::Order;
use crate::wire::framing::{HEADER_LEN, Header, MESSAGE_LEN_MAX, Partial, Piece};
use crate::wire::{Backend, Frontend, frontend};

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
    /// Has the client parsed a text, on this server, that may change prepared statements by name?
    pub(crate) changes_statements: bool,
    /// Looks for the like in a text that is too long to be held.
    search: Option<Search>,
    /// The client waits because too much is owed, and the server was asked for what it has of that.
    flushed: bool,
}

/// What one turn may do, so that a burst of one client's gives way to others.
struct Turn {
    /// Reads from sockets (`sbuf_loopcnt`).
    reads_left: u32,
    /// Messages of the client's looked into.
    client_messages_left: u32,
    /// Messages of the server's looked into, rows and copy data apart.
    server_messages_left: u32,
}

/// Messages of each side that one turn looks into. A read of 64 KiB may hold 13,000 of the shortest.
const MESSAGES_PER_TURN: u32 = 4096;

/// While so many bytes of our own wait to be sent to one side, the other is not read.
const OUTBOX_MAX: usize = 64 * 1024;

/// How far a look at what the client has sent came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Looked {
    /// The next message has not come, or not all that must be seen of it.
    NeedsMore,
    /// The next one waits: what it would make us hold cannot be sent yet, or the server's answer to one before it tells
    /// what becomes of it.
    HeldBack,
    /// What was looked at cannot be sent yet: the server's socket is waited for.
    NotSent,
    /// Enough for this turn.
    TurnOver,
}

impl Turn {
    #[inline]
    fn is_over(&self) -> bool {
        self.reads_left == 0 || self.client_messages_left == 0 || self.server_messages_left == 0
    }
}

/// How far the two sides are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// As far as there is something.
    Far,
    /// The client to the end of its message.
    ClientsEdge,
    /// Both to the end of their messages.
    Edges,
}

impl<'a> Relay<'a> {
    /// A relay whose first request came at `now`.
    pub(crate) fn new(client: &'a mut Client, server: &'a mut Server, now: Moment) -> Relay<'a> {
        Relay { query_start: Some(now), xact_start: Some(now), ..Relay::resting(client, server) }
    }

    /// A relay between two that have nothing to do yet.
    pub(super) fn resting(client: &'a mut Client, server: &'a mut Server) -> Relay<'a> {
        server.exchange.number_from(client.statements.last_number());
        Relay {
            client,
            server,
            to_server: Outbox::default(),
            query_start: None,
            xact_start: None,
            begun: false,
            changes_statements: false,
            search: None,
            flushed: false,
        }
    }

    /// A relay that began in a predecessor.
    pub(super) fn inherited(client: &'a mut Client, server: &'a mut Server, progress: Progress) -> Relay<'a> {
        let Progress { begun, query_start, xact_start } = progress;
        // What the client has parsed there is not known.
        Relay { query_start, xact_start, begun, changes_statements: true, ..Relay::resting(client, server) }
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
        self.poll_both(cx, Reach::Far)
    }

    /// Both directions, for one turn.
    #[inline]
    fn poll_both(&mut self, cx: &mut Context<'_>, reach: Reach) -> Result<(), Ended> {
        let mut turn = self.turn();
        loop {
            let looked = self.poll_forth(cx, &mut turn, reach)?;
            self.poll_back(cx, &mut turn, reach)?;
            if self.may_part() {
                self.keep_rest_of_answer();
                return Err(Ended::AtRest);
            }
            // What the server has said may make a question of ours due, or let the client's next message go; so may
            // what its client has taken.
            let may_go_on = match looked {
                Looked::NotSent | Looked::TurnOver => false,
                Looked::NeedsMore => !self.to_server.is_empty(),
                Looked::HeldBack => !self.to_server.is_empty() || !self.is_held_back(),
            };
            if !may_go_on || turn.is_over() {
                break;
            }
        }
        if self.client.has_left() {
            self.poll_departed(cx)?;
        }
        if turn.is_over() {
            // Let others have their turn.
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    fn turn(&self) -> Turn {
        Turn {
            reads_left: self.client.limits.reads_per_turn,
            client_messages_left: MESSAGES_PER_TURN,
            server_messages_left: MESSAGES_PER_TURN,
        }
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
        let reach = if phase == Phase::Frozen { Reach::Edges } else { Reach::ClientsEdge };
        self.poll_both(cx, reach)?;
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

    /// Client to server, until either socket has to be waited for.
    #[inline]
    fn poll_forth(&mut self, cx: &mut Context<'_>, turn: &mut Turn, reach: Reach) -> Result<Looked, Ended> {
        loop {
            let looked = self.look_at_client(turn)?;
            let sent = flush(&mut self.server.stream, cx, &mut self.to_server, &mut self.client.inbox);
            if !sent.map_err(|error| self.last_words(cx, error))? {
                return Ok(Looked::NotSent);
            }
            match looked {
                Looked::NeedsMore => {}
                // It was held back by what has just been sent.
                Looked::HeldBack if !self.is_held_back() => continue,
                looked => return Ok(looked),
            }
            // A server that can part is not read for: the client's next request waits in the queue like any other.
            if turn.reads_left == 0 || self.may_part() || self.client.is_silent() {
                return Ok(looked);
            }
            let client = &mut *self.client;
            let filled = match reach {
                Reach::Far => client.stream.poll_fill(cx, &mut client.inbox),
                Reach::ClientsEdge | Reach::Edges => {
                    let missing = client.framer.missing(client.inbox.fresh());
                    let missing =
                        missing.map_err(|broken| Ended::ClientAtFault(Fault::BadHeader(broken.to_string())))?;
                    if missing == 0 {
                        return Ok(looked);
                    }
                    client.stream.poll_fill_at_most(cx, &mut client.inbox, missing)
                }
            };
            match filled {
                Poll::Pending => return Ok(looked),
                Poll::Ready(Ok(len)) if len > 0 => self.client.count_received(len),
                Poll::Ready(ended) => self.client_ends(ended)?,
            }
            turn.reads_left -= 1;
        }
    }

    /// The server takes nothing more. What it said before it went is worth more than how it went.
    #[cold]
    fn last_words(&mut self, cx: &mut Context<'_>, error: io::Error) -> Ended {
        let mut turn = self.turn();
        match self.poll_back(cx, &mut turn, Reach::Far) {
            Err(ended) => ended,
            Ok(()) => Ended::ServerGone(error),
        }
    }

    /// Server to client, until either socket has to be waited for.
    #[inline]
    fn poll_back(&mut self, cx: &mut Context<'_>, turn: &mut Turn, reach: Reach) -> Result<(), Ended> {
        loop {
            self.look_at_server(turn)?;
            match flush(&mut self.client.stream, cx, &mut self.client.outbox, &mut self.server.inbox) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(_) => self.client_output_broke()?,
            }
            if turn.is_over() || self.may_part() {
                return Ok(());
            }
            let server = &mut *self.server;
            let filled = match reach {
                Reach::Far | Reach::ClientsEdge => server.stream.poll_fill(cx, &mut server.inbox),
                Reach::Edges => {
                    let missing = server.framer.missing(server.inbox.fresh());
                    let missing = missing.map_err(|_| Ended::ServerAtFault("bad packet header from server"))?;
                    if missing == 0 {
                        return Ok(());
                    }
                    server.stream.poll_fill_at_most(cx, &mut server.inbox, missing)
                }
            };
            match filled {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(Ended::ServerGone(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(Err(error)) => return Err(Ended::ServerGone(error)),
                Poll::Ready(Ok(len)) => self.client.count_sent(len),
            }
            turn.reads_left -= 1;
        }
    }

    /// Would the client's next message make us hold more than we may, or must it wait for an answer of the server's?
    #[inline]
    fn is_held_back(&self) -> bool {
        self.to_server.len() >= OUTBOX_MAX
            || self.client.outbox.len() >= OUTBOX_MAX
            || self.server.exchange.is_full()
            || prepared::must_wait(self)
    }

    /// Looks at what the client has sent.
    #[inline]
    fn look_at_client(&mut self, turn: &mut Turn) -> Result<Looked, Ended> {
        loop {
            if self.client.inbox.fresh().is_empty() {
                return Ok(Looked::NeedsMore);
            }
            if self.is_held_back() {
                if self.server.exchange.is_full() {
                    self.ask_for_answers()?;
                }
                return Ok(Looked::HeldBack);
            }
            self.flushed = false;
            if turn.client_messages_left == 0 {
                return Ok(Looked::TurnOver);
            }
            let client = &mut *self.client;
            let fresh = client.inbox.fresh();
            let renames = client.renames_statements();
            let partial = |header: Header| prepared::hold(header, fresh, renames);
            let piece = client.framer.next(fresh, client.limits.message_len_max, partial);
            let piece = piece.map_err(|broken| Ended::ClientAtFault(Fault::BadHeader(broken.to_string())))?;
            let Some(piece) = piece else {
                check_len(fresh, renames).map_err(Ended::ClientAtFault)?;
                return Ok(Looked::NeedsMore);
            };
            turn.client_messages_left -= 1;
            let (tag, len) = match piece {
                Piece::More { bytes, .. } => {
                    let len = bytes.len();
                    self.go_on_searching(len);
                    self.client.inbox.pass(len);
                    continue;
                }
                Piece::Whole(tag, bytes) => (tag, bytes.len()),
                Piece::Start(header, bytes) => (header.tag, bytes.len()),
            };
            check_len(self.client.inbox.fresh(), renames).map_err(Ended::ClientAtFault)?;
            self.client_message(tag, len)?;
        }
    }

    /// The server owes so much that the client must wait. It may hold back answers until a Sync, which comes only
    /// behind what waits here: a Flush of ours brings them.
    #[cold]
    fn ask_for_answers(&mut self) -> Result<(), Ended> {
        if self.server.exchange.is_stuck() {
            // What the server waits for may come behind it, too, and no Flush helps.
            return Err(Ended::ClientAtFault(Fault::TooMany("Sync messages inside a COPY")));
        }
        if !self.flushed && self.client.framer.between_messages() {
            self.flushed = true;
            self.to_server.take_run(&mut self.client.inbox);
            frontend::message(self.to_server.bytes(), Frontend::Flush, b"");
        }
        Ok(())
    }

    /// The next part of a message that is too long to be held, of which `len` bytes are in the inbox.
    #[cold]
    fn go_on_searching(&mut self, len: usize) {
        let part = self.client.inbox.fresh().get(..len).unwrap_or_default();
        if self.search.as_mut().is_some_and(|search| search.next(part)) {
            self.changes_statements = true;
            // It may have begun to run by now.
            prepared::distrust(self);
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
            Frontend::Query => {
                exchange.ask(Kind::Query);
                self.look_for_statement_changes(len);
            }
            Frontend::FunctionCall => exchange.ask(Kind::FunctionCall),
            Frontend::Sync => exchange.sync(),
            Frontend::CopyDone | Frontend::CopyFail => exchange.end_copy(),
            Frontend::Flush if len > HEADER_LEN || !self.client.framer.between_messages() => {
                exchange.flush_with_body();
            }
            Frontend::CopyData | Frontend::Flush => {}
            Frontend::Parse | Frontend::Bind | Frontend::Describe | Frontend::Execute | Frontend::Close => {
                prepared::extended(self, message, len).map_err(Ended::ClientAtFault)?;
                if !self.client.framer.between_messages() && message == Frontend::Parse {
                    self.begin_search(len);
                }
                return Ok(());
            }
            Frontend::Terminate => return self.client_terminates(),
            Frontend::Password => return Err(Ended::ClientAtFault(Fault::UnknownMessage(tag))),
        }
        self.client.inbox.pass(len);
        self.probe();
        Ok(())
    }

    /// A Query of which `len` bytes are in the inbox: may it change prepared statements by name?
    #[inline]
    fn look_for_statement_changes(&mut self, len: usize) {
        if !self.client.renames_statements() {
            return;
        }
        let text = self.client.inbox.fresh().get(HEADER_LEN..len).unwrap_or_default();
        if may_change_statements(text) {
            prepared::distrust(self);
        }
        if !self.client.framer.between_messages() {
            self.begin_search(len);
        }
    }

    /// The text of this message goes on beyond the inbox.
    #[cold]
    fn begin_search(&mut self, len: usize) {
        let mut search = Search::default();
        search.next(self.client.inbox.fresh().get(HEADER_LEN..len).unwrap_or_default());
        self.search = self.client.renames_statements().then_some(search);
    }

    /// Asks the server what it has read of what was sent into a COPY that failed, where that is open and a question is
    /// possible now.
    #[inline]
    fn probe(&mut self) {
        if self.client.framer.between_messages()
            && let Some(probe) = self.server.exchange.probe()
        {
            self.to_server.take_run(&mut self.client.inbox);
            rename::put_probe(self.to_server.bytes(), probe);
        }
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
    fn look_at_server(&mut self, turn: &mut Turn) -> Result<(), Ended> {
        while turn.server_messages_left > 0 {
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
                    turn.server_messages_left -= 1;
                    self.server_message(tag, len)?;
                }
                Piece::Start(header, bytes) => {
                    let len = bytes.len();
                    turn.server_messages_left -= 1;
                    self.server_message(header.tag, len)?;
                }
            }
        }
        Ok(())
    }

    /// One message from the server, of which `len` bytes are in the inbox.
    #[inline]
    fn server_message(&mut self, tag: u8, len: usize) -> Result<(), Ended> {
        let Some(message) = Backend::from_byte(tag) else {
            return Err(Ended::ServerAtFault("unknown packet from server"));
        };
        if self.server.exchange.is_undecided() && self.undecided_message(message, len)? {
            return Ok(());
        }
        match message {
            Backend::ReadyForQuery => self.ready(len)?,
            Backend::ErrorResponse => {
                self.server.inbox.pass(len);
                self.failed()?;
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

    /// An ErrorResponse: what the server drops because of it was never asked.
    #[cold]
    fn failed(&mut self) -> Result<(), Ended> {
        let mut undone = Vec::new();
        let failed = self.server.exchange.failed(|number, undo| undone.push((number, undo)));
        failed.map_err(violation)?;
        prepared::take_back(self, undone);
        self.probe();
        Ok(())
    }

    /// A message while it is open what the server has read. False: that is decided now, and the message is like any.
    #[cold]
    fn undecided_message(&mut self, message: Backend, len: usize) -> Result<bool, Ended> {
        if message == Backend::ParameterStatus {
            return Ok(false);
        }
        if message == Backend::CommandComplete && self.client.renames_statements() {
            prepared::command_complete(self, len);
        }
        let status = (message == Backend::ReadyForQuery)
            .then(|| self.server.inbox.fresh().get(HEADER_LEN).copied().unwrap_or_default());
        let mut undone = Vec::new();
        let decided = self.server.exchange.decide(message, status, |number, undo| undone.push((number, undo)));
        let verdict = decided.map_err(violation)?;
        if !undone.is_empty() {
            prepared::take_back(self, undone);
        }
        let Some(verdict) = verdict else {
            prepared::write_fakes(self);
            return Ok(false);
        };
        self.pass_back(verdict, len);
        prepared::write_fakes(self);
        if status.is_some() && verdict == Verdict::Forward {
            self.request_ends()?;
        }
        self.probe();
        Ok(true)
    }

    /// The next `len` bytes of the server's go to the client, or not.
    #[inline]
    fn pass_back(&mut self, verdict: Verdict, len: usize) {
        match verdict {
            Verdict::Forward => self.server.inbox.pass(len),
            Verdict::Skip => {
                self.client.outbox.take_run(&mut self.server.inbox);
                self.server.inbox.skip(len);
            }
        }
    }

    /// ParameterStatus: what the client did to its server, it wants of any other.
    #[cold]
    fn parameter_status(&mut self, len: usize) {
        super::reports::note(self.client, self.server, len);
    }

    /// A reply: on to the client, or not; then the invented ones that were waiting for it.
    #[inline]
    fn replied(&mut self, message: Backend, len: usize) -> Result<(), Ended> {
        let verdict = self.server.exchange.server_sent(message).map_err(violation)?;
        self.pass_back(verdict, len);
        prepared::write_fakes(self);
        Ok(())
    }

    /// ReadyForQuery, of which `len` bytes are in the inbox.
    #[inline]
    fn ready(&mut self, len: usize) -> Result<(), Ended> {
        let status = self.server.inbox.fresh().get(HEADER_LEN).copied().unwrap_or_default();
        let verdict = self.server.exchange.ready(status).map_err(violation)?;
        self.pass_back(verdict, len);
        prepared::write_fakes(self);
        self.probe();
        match verdict {
            Verdict::Forward => self.request_ends(),
            Verdict::Skip => Ok(()),
        }
    }

    /// The books of one request, and of the transaction if it ended.
    #[inline]
    fn request_ends(&mut self) -> Result<(), Ended> {
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

/// Why a server cannot be believed any more.
#[cold]
fn violation(violation: Violation) -> Ended {
    Ended::ServerAtFault(match violation {
        Violation::UnexpectedReady => "unexpected ReadyForQuery from server",
        Violation::UnexpectedReply => "unexpected reply from server",
        Violation::Undecidable => "a COPY failed, and it cannot be known which Syncs sent into it the server has read",
    })
}

/// Is a message of this length one that PostgreSQL takes? It hangs up where one is too long, in the middle of which
/// nobody else could go on. A name of the client's for a statement goes no further where we rename it.
#[inline]
fn check_len(fresh: &[u8], renames: bool) -> Result<(), Fault> {
    match Header::parse(fresh, MESSAGE_LEN_MAX) {
        Ok(Some(header)) if renames && header.tag == b'P' && header.len > CLIENT_STATEMENT_BYTES_MAX => {
            match fresh.get(HEADER_LEN) {
                // The unnamed statement is not held.
                Some(0) => frontend::check_len(header).map_err(Fault::BadHeader),
                _ => Err(Fault::TooLong("Parse")),
            }
        }
        Ok(Some(header)) if header.len > frontend::SMALL_LEN_MAX => {
            let names_statement =
                matches!(header.tag, b'D' | b'C') && fresh.get(HEADER_LEN).is_none_or(|kind| *kind == b'S');
            match renames && names_statement && header.len <= prepared::NAMED_LEN_MAX {
                true => Ok(()),
                false => frontend::check_len(header).map_err(Fault::BadHeader),
            }
        }
        _ => Ok(()),
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
