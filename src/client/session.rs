//! ★ The life of a logged-in client: rest, ask for a server, relay until it is at rest, give it back.
//!
//! ```text
//!          ┌────────────────────── lease given back ◄──────────────────────┐
//!          ▼                                                                │ at rest
//!   safe point: no server,   bytes of a      in line        lease, with    relay ─► any other end: the lease is
//!   no half message, no  ──► request whole ──► for one  ──► the client's           dropped, and with it the server
//!   buffers held                                            parameters
//! ```
//!
//! Only at a safe point do a reload, a drain and KILL take effect without harm. Whoever wants this client to stop
//! leaves an order on its card. Nothing here sets a timer: `app::janitor` looks at the cards.

use std::io;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use super::Shared;
use super::departure::Departure;
use super::farewell::{Codes, Farewell};
use super::relay::{Ended, Relay};
use super::withdrawn::Dropping;
use crate::cancel::key::CancelKey;
use crate::config::PoolMode;
use crate::net::buffers::{Inbox, Outbox};
use crate::net::stream::Stream;
use crate::net::{workers, world};
use crate::pool::suspension::Phase;
use crate::pool::{Admission, Ask, Cause, Lease, LeftAt, Member, Pool, Rules, Ticket, Waiter};
use crate::protocol::parameters::{self, ParameterSet};
use crate::protocol::statements::ClientStatements;
use crate::server::check::run_query;
use crate::server::{Server, TidyError};
use crate::stats::counters::{Shard, bump};
use crate::stats::lines;
use crate::stats::roster::{ClientCard, EnteredClient, Order};
use crate::wire::error::{self, sqlstate};
use crate::wire::framing::{Framer, HEADER_LEN};
use crate::wire::frontend::{Sent, sent_at_rest};

/// How long a client keeps a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Until it leaves.
    Session,
    /// Until its transaction ends.
    Transaction,
    /// As transaction, and no transaction blocks.
    Statement,
}

impl From<PoolMode> for Mode {
    fn from(mode: PoolMode) -> Mode {
        match mode {
            PoolMode::Session => Mode::Session,
            PoolMode::Transaction => Mode::Transaction,
            PoolMode::Statement => Mode::Statement,
        }
    }
}

/// Why a client's task ends.
#[derive(Debug)]
pub(crate) enum Leaving {
    /// The client leaves.
    For(Farewell),
    /// It goes on at another worker.
    ToWorker(usize),
}

impl From<Farewell> for Leaving {
    fn from(farewell: Farewell) -> Leaving {
        Leaving::For(farewell)
    }
}

/// Settings the relay looks at for each message.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// sbuf_loopcnt.
    pub(crate) reads_per_turn: u32,
    /// max_packet_size.
    pub(crate) message_len_max: usize,
    /// disable_pqexec.
    pub(crate) disable_pqexec: bool,
    /// max_prepared_statements; 0 in session mode, where names need no care.
    pub(crate) prepared_statements_max: usize,
    /// abandoned_query_timeout.
    pub(crate) abandoned_query_timeout: Duration,
}

/// Bytes not yet added to the pool's counters.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    received: u64,
    sent: u64,
}

/// A logged-in client, at a safe point between any two calls of [`Client::run`]'s steps.
pub(crate) struct Client {
    /// Bytes from the application.
    pub(crate) inbox: Inbox,
    /// Where in a message the inbox's fresh bytes begin.
    pub(crate) framer: Framer,
    /// Replies of our own, and the end of an answer that the socket would not take.
    pub(crate) outbox: Outbox,
    pub(crate) pool: Arc<Pool>,
    pub(crate) mode: Mode,
    pub(crate) limits: Limits,
    /// The client's names for prepared statements.
    pub(crate) statements: ClientStatements,
    pub(crate) shared: Arc<Shared>,
    /// Nothing while it stays.
    pub(super) departure: Option<Box<Departure>>,
    /// What is still to come of a request that was cancelled in the queue.
    pub(super) dropping: Dropping,
    tally: Tally,
    rules: Arc<Rules>,
    rules_version: u64,
    /// The parameters it wants of any server it gets.
    pub(crate) wish: ParameterSet,
    waiter: Arc<Waiter>,
    /// Struck off the roster, out of the pool, out of the limits and out of the cancel table on drop.
    entered: EnteredClient,
    belongings: Belongings,
    /// The last to be dropped: whoever sees this connection closed finds it in no count any more.
    pub(crate) stream: Stream,
}

/// What a logged-in client holds and gives up by being dropped.
#[expect(dead_code, reason = "held for what their Drop does")]
pub(crate) struct Belongings {
    pub(crate) member: Member,
    pub(crate) admission: Admission,
    pub(crate) cancel: crate::cancel::table::Entry,
    pub(super) seat: super::Seat,
}

impl Client {
    pub(crate) fn new(
        shared: Arc<Shared>,
        entered: EnteredClient,
        stream: Stream,
        inbox: Inbox,
        pool: Arc<Pool>,
        wish: ParameterSet,
        belongings: Belongings,
    ) -> Client {
        let rules = pool.rules();
        let mut client = Client {
            stream,
            inbox,
            framer: Framer::default(),
            outbox: Outbox::default(),
            rules_version: pool.rules_version(),
            mode: rules.pool_mode.into(),
            limits: Limits::default(),
            statements: ClientStatements::default(),
            departure: None,
            dropping: Dropping::default(),
            tally: Tally::default(),
            waiter: Waiter::new(entered.card().clone(), pool.clone()),
            pool,
            rules,
            wish,
            entered,
            shared,
            belongings,
        };
        client.obey_rules();
        client
    }

    pub(crate) fn card(&self) -> &Arc<ClientCard> {
        self.entered.card()
    }

    pub(super) fn waiter(&self) -> &Arc<Waiter> {
        &self.waiter
    }

    pub(super) fn cancel_key(&self) -> CancelKey {
        *self.belongings.cancel.key()
    }

    pub(crate) fn renames_statements(&self) -> bool {
        self.limits.prepared_statements_max > 0
    }

    /// The counters that the calling worker writes.
    pub(crate) fn counters(&self) -> &Shard {
        self.pool.counters().shard(workers::current())
    }

    pub(crate) fn count_received(&mut self, len: usize) {
        self.tally.received += len as u64;
    }

    pub(crate) fn count_sent(&mut self, len: usize) {
        self.tally.sent += len as u64;
    }

    /// Adds what was counted to the pool's counters: when the server is given back, and in a session after each
    /// transaction.
    pub(crate) fn settle_tally(&mut self) {
        let counters = self.counters();
        bump(&counters.bytes_received, self.tally.received);
        bump(&counters.bytes_sent, self.tally.sent);
        self.tally = Tally::default();
    }

    /// Writes the application_name on the card, if this parameter is it.
    pub(crate) fn note_application_name(&self, name: &str, value: &str) {
        if name.eq_ignore_ascii_case("application_name") {
            *self.card().application_name.lock().unwrap_or_else(PoisonError::into_inner) = Arc::from(value);
        }
    }

    /// Writes the number of prepared statements on the card.
    pub(crate) fn note_statement_count(&self) {
        let count = u32::try_from(self.statements.len()).unwrap_or(u32::MAX);
        self.card().prepared_statements.store(count, Relaxed);
    }

    /// Takes the rules in force; at safe points only.
    fn obey_rules(&mut self) {
        self.rules_version = self.pool.rules_version();
        self.rules = self.pool.rules();
        let rules = &self.rules;
        self.mode = self.rules.pool_mode.into();
        self.limits = Limits {
            // 0 is no limit. Two more, for the reads that find nothing.
            reads_per_turn: rules.sbuf_loopcnt.checked_sub(1).map_or(u32::MAX, |count| count.saturating_add(3)),
            message_len_max: usize::try_from(rules.max_packet_size).unwrap_or(usize::MAX),
            disable_pqexec: rules.disable_pqexec,
            prepared_statements_max: match self.mode {
                Mode::Session => 0,
                _ => usize::try_from(rules.max_prepared_statements).unwrap_or(usize::MAX),
            },
            abandoned_query_timeout: rules.abandoned_query_timeout,
        };
    }

    /// Keeps one server for as long as it stays, whatever the pool's mode says, and no longer: a stream of replication
    /// never ends by itself.
    pub(crate) fn keep_server(&mut self) {
        self.mode = Mode::Session;
        self.limits.prepared_statements_max = 0;
        self.limits.abandoned_query_timeout = Duration::ZERO;
    }

    /// Adds what was counted to the pool's counters; says whether the client sent anything.
    pub(crate) fn settle_turn(&mut self) -> bool {
        let heard = self.tally.received > 0;
        if heard || self.tally.sent > 0 {
            self.settle_tally();
        }
        heard
    }

    /// The first step of the calling task: the client is logged in, and orders on its card wake this task.
    pub(crate) async fn begin(&mut self) {
        self.entered.logged_in();
        std::future::poll_fn(|cx| {
            self.card().set_waker(cx.waker());
            Poll::Ready(())
        })
        .await;
        if self.shared.registry.suspension().is_on() {
            // It was called before anybody listened.
            self.card().give_order(Order::Heed);
        }
    }

    /// Serves the client until it leaves, must leave, or is to go on elsewhere.
    pub(crate) async fn run(&mut self) -> Leaving {
        if self.card().rest_at().is_none() {
            self.card().set_rest_at(Some(world::now()));
        }
        self.begin().await;
        loop {
            if let Err(leaving) = self.serve_one().await {
                self.settle_tally();
                return leaving;
            }
        }
    }

    /// One round: rest, acquire, relay, release. `Err` says why the client is to leave.
    async fn serve_one(&mut self) -> Result<(), Leaving> {
        std::future::poll_fn(|cx| self.poll_rest(cx)).await?;
        if self.card().worker() != workers::current() {
            return Err(Leaving::ToWorker(self.card().worker()));
        }
        if self.rules_version != self.pool.rules_version() {
            self.obey_rules();
        }
        let now = world::now();
        self.card().set_request_at(now);
        self.card().set_rest_at(None);
        let mut lease = match self.pool.ask(&self.waiter, workers::current(), now) {
            Ask::Granted(lease) => lease,
            Ask::Waiting(ticket) => match self.wait(ticket).await? {
                Some(lease) => lease,
                None => return Ok(()),
            },
            Ask::Refused(refusal) => return Err(Farewell::Refused(refusal).into()),
        };
        if lease.move_here().is_err() {
            lease.close("server socket lost");
            return Err(Farewell::ServerCrashed(None).into());
        }
        self.card().set_xact_at(Some(now));
        lease.card().set_request_at(now);
        self.departure_gets_server();
        if !self.wish.is(&lease.parameters) {
            // Boxed: it is rare, and would make every idle client's task half as big again.
            lease = Box::pin(self.adopt(lease)).await?;
        }
        let mut relay = Relay::new(self, &mut lease, now);
        let ended = relay.run().await;
        let left = relay.left_at();
        self.part(lease, ended, left).map_err(Leaving::For)
    }

    /// Waits at a safe point for something that wants an answer.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Farewell>> {
        let order = self.card().order();
        let suspended = match order {
            Order::None => false,
            Order::Heed => self.heed() != Phase::Running,
            order => return Poll::Ready(Err(Farewell::ordered(order))),
        };
        loop {
            self.drop_withdrawn()?;
            while !self.outbox.is_empty() {
                match self.stream.poll_send(cx, self.outbox.pending()) {
                    Poll::Pending => return self.poll_unread(cx),
                    Poll::Ready(Ok(sent)) => self.outbox.sent(sent),
                    Poll::Ready(Err(_)) => self.output_broke()?,
                }
            }
            match sent_at_rest(self.inbox.fresh(), self.limits.message_len_max) {
                Ok(Sent::Request) => return Poll::Ready(Ok(())),
                Ok(Sent::Part) if self.is_silent() => return self.poll_leave(cx),
                Ok(Sent::Part) if self.inbox.is_full() => return Poll::Ready(Ok(())),
                Ok(Sent::Part) => {}
                Ok(Sent::Terminate) => return Poll::Ready(Err(Farewell::Terminated)),
                Ok(Sent::Stray(len)) => {
                    self.inbox.skip(len);
                    continue;
                }
                Err(broken) => return Poll::Ready(Err(Farewell::BadPacket(broken.to_string()))),
            }
            let filled = match suspended {
                false => self.stream.poll_fill(cx, &mut self.inbox),
                true => self.poll_fill_to_edge(cx),
            };
            match filled {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => self.input_ended(),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(self.farewell())),
                Poll::Ready(Ok(len)) => self.count_received(len),
            }
        }
    }

    /// What [`Order::Heed`] is for: somebody wants to see this client, or a suspension begins or ends. Says how far
    /// that is; the order stands while there is one.
    #[cold]
    fn heed(&self) -> Phase {
        let phase = self.suspension_phase();
        self.show_if_asked(None);
        phase
    }

    /// As [`Client::heed`], without showing anything.
    pub(super) fn suspension_phase(&self) -> Phase {
        let suspension = self.shared.registry.suspension();
        if !suspension.is_on() {
            self.card().frozen.store(false, Relaxed);
            self.card().heeded();
            if suspension.is_on() {
                self.card().give_order(Order::Heed);
            }
        }
        suspension.phase()
    }

    /// While there is a suspension: reads to the end of the message that has begun, and at its end keeps still.
    #[cold]
    fn poll_fill_to_edge(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self.framer.missing(self.inbox.fresh()) {
            Ok(0) => {
                self.card().frozen.store(true, Relaxed);
                Poll::Pending
            }
            Ok(missing) => self.stream.poll_fill_at_most(cx, &mut self.inbox, missing),
            Err(broken) => Poll::Ready(Err(io::Error::other(broken))),
        }
    }

    /// Waits for a server; nothing where the request was cancelled meanwhile, and answered. The client's socket is
    /// watched: what else comes is taken in, and who is gone leaves the queue.
    async fn wait(&mut self, ticket: Ticket) -> Result<Option<Lease>, Farewell> {
        let mut ticket = ticket;
        self.card().set_held(self.inbox.fresh().len());
        self.card().begin_wait();
        let waited = std::future::poll_fn(|cx| self.poll_wait(&mut ticket, cx)).await;
        self.card().end_wait();
        // Out of the queue, before it is told that it is.
        drop(ticket);
        if let Ok(None) = waited {
            self.withdraw();
            self.card().set_rest_at(Some(world::now()));
        }
        waited
    }

    fn poll_wait(&mut self, ticket: &mut Ticket, cx: &mut Context<'_>) -> Poll<Result<Option<Lease>, Farewell>> {
        if self.card().wait_cancelled() {
            return Poll::Ready(Ok(None));
        }
        if let Some(granted) = ticket.poll() {
            return Poll::Ready(granted.map(Some).map_err(Farewell::Refused));
        }
        if ticket.notice_due() {
            self.say_queued();
        }
        while !self.outbox.is_empty() {
            match self.stream.poll_send(cx, self.outbox.pending()) {
                Poll::Pending => break,
                Poll::Ready(Ok(sent)) => self.outbox.sent(sent),
                Poll::Ready(Err(_)) => self.output_broke()?,
            }
        }
        self.poll_stays(cx, Client::input_ended_in_queue).map(Err)
    }

    fn say_queued(&mut self) {
        error::notice_response(
            self.outbox.bytes(),
            error::NOTICE,
            sqlstate::SUCCESSFUL_COMPLETION,
            "No server connection available in postgres backend, client being queued",
            None,
            None,
        );
    }

    /// Gives the server the client's parameters, where they differ: a round trip of its own, before the request.
    #[cold]
    async fn adopt(&mut self, mut lease: Lease) -> Result<Lease, Farewell> {
        let shared = self.shared.clone();
        shared.interner.share_in_place(&mut lease.parameters);
        let Some(sets) = parameters::difference(&mut self.wish, &lease.parameters, &shared.tracked) else {
            return Ok(lease);
        };
        // Without the header and the NUL at the end.
        let sql = sets.get(HEADER_LEN..sets.len() - 1).unwrap_or_default();
        tracing::debug!(conn = ?lines::Tag::server(lease.card()), "{}", lines::parameters_set(sql));
        // A request to cancel that comes now is too early: it would stop the SETs, and the client would have to leave.
        lease.card().setting_parameters.store(true, SeqCst);
        let before = lease.parameters.clone();
        let set = match self.run_on(&mut lease, &sets).await {
            Ok(set) => set,
            Err(farewell) => {
                // How much of the SETs has gone is not known here.
                lease.abandon(LeftAt::MidMessage, farewell.server_reason());
                return Err(farewell);
            }
        };
        self.pool.heard(&lease, &before, Cause::Client);
        lease.card().setting_parameters.store(false, SeqCst);
        match set {
            Ok(()) => {}
            Err(TidyError::Failed(message)) => {
                lease.close("parameter refused");
                return Err(Farewell::ParameterRefused(message));
            }
            Err(error) => {
                lease.close("server conn crashed?");
                return Err(Farewell::ServerCrashed(Some(error.to_string())));
            }
        }
        // The server may spell a value its own way: what it says from now on is what the client wants.
        let wished = self.wish.clone();
        parameters::adopt(&mut self.wish, &mut lease.parameters, &shared.tracked);
        shared.interner.share_in_place(&mut lease.parameters);
        for (name, value) in self.wish.iter() {
            if let Some(before) = wished.get(name).filter(|before| *before != value) {
                tracing::debug!(conn = ?lines::Tag::client(self.card()), "{}", lines::canonical(name, before, value));
            }
        }
        shared.interner.share_in_place(&mut self.wish);
        Ok(lease)
    }

    /// Runs a query of our own on the client's server. Meanwhile an order on the card and the client's own end are
    /// heard.
    async fn run_on(&mut self, server: &mut Server, query: &[u8]) -> Result<Result<(), TidyError>, Farewell> {
        let mut query = std::pin::pin!(run_query(server, query));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(done) = query.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            if self.has_left() && self.poll_overdue(cx, false).is_ready() {
                return Poll::Ready(Err(self.farewell()));
            }
            self.poll_stays(cx, Client::input_ended_with_server).map(Err)
        })
        .await
    }

    /// Ready when a client that waits for us is ordered away, or leaves in a way that ends its request; `ended` says
    /// whether the end of its stream is one.
    fn poll_stays(
        &mut self,
        cx: &mut Context<'_>,
        ended: impl Fn(&mut Client, &io::Result<()>) -> Result<(), Farewell>,
    ) -> Poll<Farewell> {
        let order = self.card().order();
        if order.dismisses() {
            return Poll::Ready(Farewell::ordered(order));
        }
        if order == Order::Heed {
            self.heed();
        }
        if self.is_silent() {
            return Poll::Pending;
        }
        let before = self.inbox.fresh().len();
        let end = self.stream.poll_end(cx, &mut self.inbox);
        self.count_received(self.inbox.fresh().len() - before);
        match end {
            Poll::Ready(how) => ended(self, &how).map_or_else(Poll::Ready, |()| Poll::Pending),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Gives the server back, or drops it; says whether the client goes on.
    pub(super) fn part(&mut self, lease: Lease, ended: Ended, left: LeftAt) -> Result<(), Farewell> {
        let card = self.card();
        card.set_idle_in_xact_at(None);
        card.set_xact_at(None);
        self.settle_tally();
        match ended {
            Ended::AtRest => {
                let now = world::now();
                lease.release(now);
                self.card().set_rest_at(Some(now));
                self.outbox_at_rest();
                Ok(())
            }
            Ended::Terminated | Ended::ClientGone if self.leaves_clean(&lease) => {
                lease.release(world::now());
                Err(if matches!(ended, Ended::Terminated) { Farewell::Terminated } else { Farewell::ClientGone })
            }
            Ended::ServerGone(_)
            | Ended::ServerAtFault(_)
            | Ended::ServerUnwanted
            | Ended::Ordered(Order::Shutdown) => {
                let farewell = Farewell::ended(ended);
                lease.close(farewell.server_reason());
                Err(farewell)
            }
            Ended::Terminated | Ended::ClientGone | Ended::ClientAtFault(_) | Ended::Ordered(_) => {
                let farewell = Farewell::ended(ended);
                lease.abandon(left, farewell.server_reason());
                // Nothing of what is left goes to another server.
                self.inbox.clear();
                self.framer = Framer::default();
                if self.has_left() && farewell.is_quiet() && !self.outbox.is_empty() {
                    // It may still read the rest of its answer.
                    self.card().set_rest_at(Some(world::now()));
                    return Ok(());
                }
                Err(farewell)
            }
        }
    }

    /// Is the server of a client that has left fit for the next: at rest, and not in the middle of a message of this
    /// one's?
    pub(crate) fn leaves_clean(&self, server: &Server) -> bool {
        server.exchange.at_rest()
            && server.framer.between_messages()
            && self.framer.between_messages()
            && self.inbox.run().is_empty()
    }

    /// A client at rest holds no memory for an outbox.
    fn outbox_at_rest(&mut self) {
        if self.outbox.is_empty() {
            self.outbox.rest();
        }
    }

    /// Last words, as far as the socket takes them at once.
    pub(crate) fn say_farewell(&mut self, farewell: &Farewell) {
        let codes = Codes::of(&self.shared.registry.config().settings);
        if let Some(message) = farewell.message(codes) {
            let mut out = self.outbox.pending().to_vec();
            out.extend_from_slice(&message);
            self.stream.send_parting(&out);
        }
    }
}
