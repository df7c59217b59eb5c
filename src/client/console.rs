//! A client whose server is us: moves bytes between its socket and [`crate::admin::Console`].
//!
//! What it makes us hold is bounded: a command is carried out only while fewer than [`PENDING_MAX`] bytes of answers
//! wait for the socket, so that the most there can be is that and one table. Commands sent in a burst give way to others
//! every [`COMMANDS_PER_TURN`].

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use super::Shared;
use super::farewell::{Codes, Farewell};
use super::login::is_own_user;
use super::showing::{Depth, Sink, Sockets, gather};
use crate::admin;
use crate::admin::console::MESSAGE_BYTES_MAX;
use crate::admin::table::Column;
use crate::admin::{Console, Fatal, Rights, Wait};
use crate::cancel::table::Entry;
use crate::net::buffers::{Inbox, Outbox};
use crate::net::stream::Stream;
use crate::net::world;
use crate::pool::Admission;
use crate::protocol::handover::{self, Row};
use crate::stats::lines::{self, Tag};
use crate::stats::roster::{ClientCard, EnteredClient, Order};
use crate::wire::error::ErrorFields;
use crate::wire::framing::{HEADER_LEN, Header, MESSAGE_LEN_MAX};
use crate::wire::{Backend, backend};

/// No command is carried out while as many bytes of answers, or more, are still to be sent.
const PENDING_MAX: usize = 64 * 1024;

/// Messages taken in a row before other clients of the worker get their turn.
const COMMANDS_PER_TURN: u32 = 32;

/// One console client.
pub(super) struct ConsoleClient {
    shared: Arc<Shared>,
    entered: EnteredClient,
    inbox: Inbox,
    console: Console,
    /// Its key, taken back on drop.
    cancel: Entry,
    /// Answers on their way to the socket; at first the end of the login's dialogue.
    outbox: Outbox,
    /// Its place in the counts of clients.
    _admission: Admission,
    /// The last to be dropped: whoever sees this connection closed finds it in no count any more.
    stream: Stream,
}

/// What a console client was let in with.
pub(super) struct Admitted {
    pub(super) rights: Rights,
    /// Its place in the counts of clients.
    pub(super) admission: Admission,
    /// Its key for requests to cancel.
    pub(super) cancel: Entry,
}

impl ConsoleClient {
    pub(super) fn new(
        shared: Arc<Shared>,
        entered: EnteredClient,
        stream: Stream,
        inbox: Inbox,
        unsent: Vec<u8>,
        admitted: Admitted,
    ) -> ConsoleClient {
        let Admitted { rights, admission, cancel } = admitted;
        let console = Console::new(shared.console.clone(), rights);
        let mut outbox = Outbox::default();
        *outbox.bytes() = unsent;
        ConsoleClient { shared, entered, stream, inbox, console, cancel, outbox, _admission: admission }
    }

    /// Greets the client and serves it until it leaves or must leave.
    pub(super) async fn run(mut self) {
        self.serve().await;
        self.end_suspension();
    }

    async fn serve(&mut self) {
        self.entered.logged_in();
        self.entered.card().set_rest_at(Some(world::now()));
        let may_take_over = self.may_take_over();
        let out = self.outbox.bytes();
        backend::authentication_ok(out);
        for (name, value) in self.console.greeting() {
            backend::parameter_status(out, name, &value);
        }
        if may_take_over {
            backend::parameter_status(out, handover::ANNOUNCEMENT, handover::VERSION);
        }
        backend::backend_key_data(out, self.cancel.key().pid(), self.cancel.key().secret());
        backend::ready_for_query(out, b'I');
        let farewell = loop {
            let answered = match self.send().await {
                Ok(()) => self.answer().await,
                Err(farewell) => Err(farewell),
            };
            match answered {
                Ok(()) => {}
                Err(farewell) => break super::unless_tls_broke(farewell, &self.stream),
            }
        };
        super::log_farewell(&self.shared, self.entered.card(), &farewell).await;
        self.outbox.bytes().extend_from_slice(&farewell.message(Codes::Pgbouncer).unwrap_or_default());
        self.stream.send_parting(self.outbox.pending());
    }

    /// Sends whole messages, all there are. What a command had to say in the log is there when its answer comes.
    async fn send(&mut self) -> Result<(), Farewell> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        self.shared.console.process.log_written().await;
        let (stream, outbox) = (&mut self.stream, &mut self.outbox);
        let sent = unless_ordered(self.entered.card(), poll_fn(|cx| stream.poll_drain(cx, outbox))).await?;
        sent.map_err(|_| Farewell::ClientGone)
    }

    /// The log says who met with the errors that were put behind the first `before` bytes of the outbox, as for other
    /// clients; what they are it says without that.
    fn log_errors(&self, before: usize) {
        if !self.shared.registry.config().settings.log_pooler_errors {
            return;
        }
        let mut messages = &self.outbox.pending()[before..];
        while let Ok(Some(header)) = Header::parse(messages, MESSAGE_LEN_MAX) {
            let (message, rest) = messages.split_at(header.len.min(messages.len()));
            if header.tag == Backend::ErrorResponse as u8 {
                let fields = ErrorFields::parse(&message[HEADER_LEN..]);
                tracing::warn!(conn = ?Tag::client(self.entered.card()), "{}", lines::pooler_error(&fields.message));
            }
            messages = rest;
        }
    }

    /// Takes whole messages from the inbox, waiting for the first, until there are no more, a turn is over, or what they
    /// were answered has to be sent first.
    async fn answer(&mut self) -> Result<(), Farewell> {
        for taken in 0.. {
            if self.outbox.pending().len() >= PENDING_MAX {
                return Ok(());
            }
            if taken == COMMANDS_PER_TURN {
                tokio::task::yield_now().await;
                return Ok(());
            }
            let header = loop {
                let header = Header::parse(self.inbox.fresh(), MESSAGE_BYTES_MAX)
                    .map_err(|broken| Farewell::BadPacket(broken.to_string()))?;
                match header {
                    Some(header) if header.len <= self.inbox.fresh().len() => break header,
                    _ if taken > 0 => return Ok(()),
                    _ => self.fill().await?,
                }
            };
            let (before, body) = (self.outbox.pending().len(), &self.inbox.fresh()[HEADER_LEN..header.len]);
            let wait = self.console.message(header.tag, body, self.outbox.bytes());
            self.log_errors(before);
            let wait = wait.map_err(|fatal| match fatal {
                Fatal::CloseRequest => Farewell::Terminated,
                fatal => Farewell::BadPacket(fatal.to_string()),
            })?;
            self.inbox.skip(header.len);
            if let Some(columns) = self.console.wants_rows() {
                self.send().await?;
                self.send_rows(columns).await?;
            }
            if let Some(wait) = wait {
                // What was answered before it must not wait with it.
                self.send().await?;
                self.wait(wait).await?;
            }
        }
        Ok(())
    }

    /// Answers SHOW FDS. Sockets and secrets go to nobody but a successor: our own user, on a Unix socket.
    async fn send_rows(&mut self, columns: &'static [Column]) -> Result<(), Farewell> {
        let shared = self.shared.clone();
        let depth = if columns.len() == handover::FDS_COLUMNS { Depth::Fds } else { Depth::Handover };
        let head = if self.may_take_over() { self.console.head() } else { None };
        let Some(head) = head else {
            let mut rows = Looked(Vec::new());
            let shown = match depth {
                Depth::Fds => {
                    let gathered = gather(&shared, depth, Sockets::Stay, &mut rows);
                    unless_ordered(self.entered.card(), gathered).await?.map_err(|_| Farewell::ClientGone)?;
                    Some(&*rows.0)
                }
                Depth::Handover => None,
            };
            let before = self.outbox.pending().len();
            self.console.show_rows(shown, self.outbox.bytes());
            self.log_errors(before);
            return Ok(());
        };
        let stream = &mut self.stream;
        let gathered = async {
            stream.send_all(&head).await?;
            gather(&shared, depth, Sockets::Go, &mut Sent { stream, columns }).await
        };
        unless_ordered(self.entered.card(), gathered).await?.map_err(|_| Farewell::ClientGone)?;
        self.console.tail(self.outbox.bytes());
        shared.registry.suspension().note_handed_over(self.entered.card().id);
        Ok(())
    }

    /// Is this who may take our place: the user `pgbouncer` of a process that runs as the user we run as, on a Unix
    /// socket?
    fn may_take_over(&self) -> bool {
        let card = self.entered.card();
        &*card.names().1 == admin::DATABASE && is_own_user(card)
    }

    /// A suspension ends with the console that could end it: PgBouncer's goes on as long as any console is there. A
    /// successor that failed must not leave everybody frozen because somebody watches.
    fn end_suspension(&self) {
        let suspended = self.shared.registry.suspension().is_on() && !self.shared.console.process.shutting_down();
        if !suspended || !self.console.has_suspended() {
            return;
        }
        let id = self.entered.card().id;
        let others = self.shared.roster.count_clients(|card| card.console.load(Relaxed) && card.id != id);
        if others == 0 || self.may_take_over() {
            tracing::info!("admin disappeared when suspended, doing RESUME");
            self.shared.registry.end_suspension();
        }
    }

    async fn fill(&mut self) -> Result<(), Farewell> {
        let card = self.entered.card();
        let (stream, inbox, console) = (&mut self.stream, &mut self.inbox, &self.console);
        let filled = poll_fn(|cx| {
            if card.take_cancel() {
                tracing::warn!(conn = ?Tag::client(card), "admin cancel request for non-waiting client?");
                console.cancelled_at_rest();
            }
            stream.poll_fill(cx, inbox)
        });
        match unless_ordered(card, filled).await? {
            Ok(0) | Err(_) => Err(Farewell::ClientGone),
            Ok(_) => Ok(()),
        }
    }

    /// Waits for a command to have its effect; a client that leaves meanwhile takes nothing back. A request to cancel
    /// ends the wait, but while the process stops, nothing does.
    async fn wait(&mut self, mut wait: Wait) -> Result<(), Farewell> {
        let card = self.entered.card();
        let (stream, inbox, console) = (&mut self.stream, &mut self.inbox, &self.console);
        let late = poll_fn(|cx| {
            if let Poll::Ready(late) = wait.as_mut().poll(cx) {
                return Poll::Ready(Ok(Some(late)));
            }
            if card.take_cancel() && console.may_cancel() {
                return Poll::Ready(Ok(None));
            }
            stream.poll_gone(cx, inbox).map(|()| Err(Farewell::ClientGone))
        });
        let late = unless_ordered(card, late).await??;
        let before = self.outbox.pending().len();
        match late {
            Some(late) => self.outbox.bytes().extend_from_slice(&late),
            None => {
                drop(wait);
                self.console.cancelled(self.outbox.bytes());
            }
        }
        self.log_errors(before);
        Ok(())
    }
}

/// Does something that may take long. An order that sends the client away ends it.
async fn unless_ordered<T>(card: &ClientCard, work: impl Future<Output = T>) -> Result<T, Farewell> {
    let mut work = std::pin::pin!(work);
    poll_fn(|cx| {
        card.set_waker(cx.waker());
        match card.order() {
            Order::None | Order::Heed => work.as_mut().poll(cx).map(Ok),
            order => Poll::Ready(Err(Farewell::ordered(order))),
        }
    })
    .await
}

/// Rows that are only looked at.
struct Looked(Vec<Row>);

impl Sink for Looked {
    async fn put(&mut self, row: Row, _: Option<OwnedFd>) -> io::Result<()> {
        self.0.push(row.without_secrets());
        Ok(())
    }
}

/// Rows that go out one by one, each with its socket.
struct Sent<'a> {
    stream: &'a mut Stream,
    columns: &'static [Column],
}

impl Sink for Sent<'_> {
    async fn put(&mut self, row: Row, socket: Option<OwnedFd>) -> io::Result<()> {
        let bytes = Console::row(self.columns, &row);
        match socket {
            Some(socket) => self.stream.send_descriptor(&bytes, socket.as_fd()).await,
            None => self.stream.send_all(&bytes).await,
        }
    }
}
