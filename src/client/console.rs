//! A client whose server is us: moves bytes between its socket and [`crate::admin::Console`].

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
use crate::net::buffers::Inbox;
use crate::net::stream::Stream;
use crate::net::world;
use crate::pool::Admission;
use crate::protocol::handover::{self, Row};
use crate::stats::lines::{self, Tag};
use crate::stats::roster::{EnteredClient, Order};
use crate::wire::error::ErrorFields;
use crate::wire::framing::{HEADER_LEN, Header, MESSAGE_LEN_MAX};
use crate::wire::{Backend, backend};

/// One console client.
pub(super) struct ConsoleClient {
    shared: Arc<Shared>,
    entered: EnteredClient,
    inbox: Inbox,
    console: Console,
    /// Its key, taken back on drop.
    cancel: Entry,
    /// The end of the login's dialogue, to be sent with the greeting.
    unsent: Vec<u8>,
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
        ConsoleClient { shared, entered, stream, inbox, console, cancel, unsent, _admission: admission }
    }

    /// Greets the client and serves it until it leaves or must leave.
    pub(super) async fn run(mut self) {
        self.serve().await;
        self.end_suspension();
    }

    async fn serve(&mut self) {
        self.entered.logged_in();
        self.entered.card().set_rest_at(Some(world::now()));
        let mut out = std::mem::take(&mut self.unsent);
        backend::authentication_ok(&mut out);
        for (name, value) in self.console.greeting() {
            backend::parameter_status(&mut out, name, &value);
        }
        if self.may_take_over() {
            backend::parameter_status(&mut out, handover::ANNOUNCEMENT, handover::VERSION);
        }
        backend::backend_key_data(&mut out, self.cancel.key().pid(), self.cancel.key().secret());
        backend::ready_for_query(&mut out, b'I');
        loop {
            if self.send(&mut out).await.is_err() {
                return super::log_farewell(&self.shared, self.entered.card(), &Farewell::ClientGone).await;
            }
            if let Err(farewell) = self.answer(&mut out).await {
                let farewell = super::unless_tls_broke(farewell, &self.stream);
                self.log_errors(&out);
                super::log_farewell(&self.shared, self.entered.card(), &farewell).await;
                let mut last = out;
                last.extend_from_slice(&farewell.message(Codes::Pgbouncer).unwrap_or_default());
                return self.stream.send_parting(&last);
            }
        }
    }

    /// Sends whole messages. What a command had to say in the log is there when its answer comes.
    async fn send(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.log_errors(out);
        self.shared.console.process.log_written().await;
        self.stream.send_all(out).await?;
        out.clear();
        Ok(())
    }

    /// The log says who met with these errors, as for other clients; what they are it says without that.
    fn log_errors(&self, mut messages: &[u8]) {
        if !self.shared.registry.config().settings.log_pooler_errors {
            return;
        }
        while let Ok(Some(header)) = Header::parse(messages, MESSAGE_LEN_MAX) {
            let (message, rest) = messages.split_at(header.len.min(messages.len()));
            if header.tag == Backend::ErrorResponse as u8 {
                let fields = ErrorFields::parse(&message[HEADER_LEN..]);
                tracing::warn!(conn = ?Tag::client(self.entered.card()), "{}", lines::pooler_error(&fields.message));
            }
            messages = rest;
        }
    }

    /// Takes all whole messages in the inbox, waiting for the first.
    async fn answer(&mut self, out: &mut Vec<u8>) -> Result<(), Farewell> {
        let mut taken = 0;
        loop {
            let header = Header::parse(self.inbox.fresh(), MESSAGE_BYTES_MAX)
                .map_err(|broken| Farewell::BadPacket(broken.to_string()))?;
            let header = match header {
                Some(header) if header.len <= self.inbox.fresh().len() => header,
                _ if taken > 0 => return Ok(()),
                _ => {
                    self.fill().await?;
                    continue;
                }
            };
            let body = &self.inbox.fresh()[5..header.len];
            let wait = self.console.message(header.tag, body, out).map_err(|fatal| match fatal {
                Fatal::CloseRequest => Farewell::Terminated,
                fatal => Farewell::BadPacket(fatal.to_string()),
            })?;
            self.inbox.skip(header.len);
            taken += 1;
            if let Some(columns) = self.console.wants_rows() {
                self.send(out).await.map_err(|_| Farewell::ClientGone)?;
                self.send_rows(columns, out).await?;
            }
            if let Some(wait) = wait {
                // What was answered before it must not wait with it.
                self.send(out).await.map_err(|_| Farewell::ClientGone)?;
                self.wait(wait, out).await?;
            }
        }
    }

    /// Answers SHOW FDS. Sockets and secrets go to nobody but a successor: our own user, on a Unix socket.
    async fn send_rows(&mut self, columns: &'static [Column], out: &mut Vec<u8>) -> Result<(), Farewell> {
        let shared = self.shared.clone();
        let depth = if columns.len() == handover::FDS_COLUMNS { Depth::Fds } else { Depth::Handover };
        let head = if self.may_take_over() { self.console.head() } else { None };
        let Some(head) = head else {
            let mut rows = Looked(Vec::new());
            let shown = match depth {
                Depth::Fds => {
                    gather(&shared, depth, Sockets::Stay, &mut rows).await.map_err(|_| Farewell::ClientGone)?;
                    Some(&*rows.0)
                }
                Depth::Handover => None,
            };
            self.console.show_rows(shown, out);
            return Ok(());
        };
        self.stream.send_all(&head).await.map_err(|_| Farewell::ClientGone)?;
        let mut sent = Sent { stream: &mut self.stream, columns };
        gather(&shared, depth, Sockets::Go, &mut sent).await.map_err(|_| Farewell::ClientGone)?;
        self.console.tail(out);
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
        std::future::poll_fn(|cx| {
            card.set_waker(cx.waker());
            match card.order() {
                Order::None | Order::Heed => {}
                order => return Poll::Ready(Err(Farewell::ordered(order))),
            }
            if card.take_cancel() {
                tracing::warn!(conn = ?Tag::client(card), "admin cancel request for non-waiting client?");
                console.cancelled_at_rest();
            }
            match stream.poll_fill(cx, inbox) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Err(Farewell::ClientGone)),
                Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
            }
        })
        .await
    }

    /// Waits for a command to have its effect; a client that leaves meanwhile takes nothing back. A request to cancel
    /// ends the wait, but while the process stops, nothing does.
    async fn wait(&mut self, mut wait: Wait, out: &mut Vec<u8>) -> Result<(), Farewell> {
        let card = self.entered.card();
        let (stream, inbox, console) = (&mut self.stream, &mut self.inbox, &self.console);
        let late = std::future::poll_fn(|cx| {
            card.set_waker(cx.waker());
            match card.order() {
                Order::None | Order::Heed => {}
                order => return Poll::Ready(Err(Farewell::ordered(order))),
            }
            if let Poll::Ready(late) = wait.as_mut().poll(cx) {
                return Poll::Ready(Ok(Some(late)));
            }
            if card.take_cancel() && console.may_cancel() {
                return Poll::Ready(Ok(None));
            }
            stream.poll_gone(cx, inbox).map(|()| Err(Farewell::ClientGone))
        });
        match late.await? {
            Some(late) => out.extend_from_slice(&late),
            None => {
                drop(wait);
                self.console.cancelled(out);
            }
        }
        Ok(())
    }
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
