//! A client that leaves while it is owed something: what it has sent is carried out, as by PostgreSQL itself.
//!
//! | the client | its requests | its answers | it keeps its server |
//! |---|---|---|---|
//! | said Terminate | are carried out | go out while its socket takes them | for abandoned_query_timeout |
//! | sends no more: its stream has ended | are carried out | go out | while it may still read |
//! | is gone: its connection broke | are carried out | are dropped | for abandoned_query_timeout |
//!
//! A client that has hung up and one that only sends no more look the same: the stream ends. To send something tells
//! them apart, since a connection without anybody at its other end answers with a reset. So once a server has worked
//! for abandoned_query_timeout for such a client, and there is no answer to send yet, the client is sent a parameter
//! that it knows.
//!
//! The time runs from when the client has left or got its server, whichever comes later; nothing here runs for a
//! client that stays. In the queue there is no such time: a request that was sent is served when its turn comes, but
//! for a client whose connection broke without a Terminate. With abandoned_query_timeout 0 there is none of this: a
//! client that leaves ends what it has at once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use super::farewell::Farewell;
use super::relay::{Ended, Relay};
use super::session::Client;
use crate::wire::framing::Framer;
use crate::wire::{backend, frontend};

/// The least time between two probes of a client.
const PROBE_PERIOD_MIN: Duration = Duration::from_secs(1);

/// The parameter that a client is sent again: every one knows it.
const PROBE: &str = "client_encoding";

/// How far a client has left.
#[derive(Default)]
pub(crate) struct Departure {
    /// It said Terminate.
    terminated: bool,
    /// Nothing more is read from it: what it had sent is in the inbox.
    silent: bool,
    /// Nothing reaches it any more.
    broken: bool,
    /// Has its server had abandoned_query_timeout?
    overdue: bool,
    /// Runs to that, and then to the next probe.
    timer: Option<Pin<Box<Sleep>>>,
    /// Ends when the connection is found to be broken.
    break_watch: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl Departure {
    fn is_gone(&self) -> bool {
        self.terminated || self.broken
    }
}

impl Client {
    /// Has it left, in whatever way?
    #[inline]
    pub(crate) fn has_left(&self) -> bool {
        self.departure.is_some()
    }

    /// Is nothing more to be read from it?
    #[inline]
    pub(super) fn is_silent(&self) -> bool {
        self.departure.as_ref().is_some_and(|departure| departure.silent)
    }

    /// Does a client that leaves end what it has at once?
    fn leaves_at_once(&self) -> bool {
        self.limits.abandoned_query_timeout.is_zero()
    }

    fn departs(&mut self) -> &mut Departure {
        self.departure.get_or_insert_default()
    }

    /// Its connection takes nothing more: what it was to get is dropped.
    ///
    /// # Errors
    /// It leaves at once.
    pub(super) fn output_broke(&mut self) -> Result<(), Farewell> {
        if self.leaves_at_once() {
            return Err(Farewell::ClientGone);
        }
        self.departs().broken = true;
        self.drop_answers();
        Ok(())
    }

    fn drop_answers(&mut self) {
        let len = self.outbox.pending().len();
        if len > 0 {
            self.outbox.sent(len);
        }
    }

    /// Its stream has ended at a safe point.
    pub(super) fn input_ended(&mut self) {
        self.departs().silent = true;
    }

    /// Its stream has ended, or broken, while it waits for a server.
    ///
    /// # Errors
    /// It leaves the queue.
    pub(super) fn input_ended_in_queue(&mut self, how: &io::Result<()>) -> Result<(), Farewell> {
        let terminated = frontend::has_terminate(self.inbox.fresh(), self.limits.message_len_max);
        if self.leaves_at_once() || (how.is_err() && !terminated) {
            return Err(Farewell::ClientGone);
        }
        let departure = self.departs();
        (departure.silent, departure.terminated, departure.broken) = (true, terminated, how.is_err());
        Ok(())
    }

    /// The same, once it has its server.
    ///
    /// # Errors
    /// It leaves at once.
    pub(super) fn input_ended_with_server(&mut self, how: &io::Result<()>) -> Result<(), Farewell> {
        if self.leaves_at_once() {
            return Err(Farewell::ClientGone);
        }
        let departure = self.departs();
        (departure.silent, departure.broken) = (true, departure.broken | how.is_err());
        Ok(())
    }

    /// Why it leaves, now that all is done that it has sent.
    pub(super) fn farewell(&self) -> Farewell {
        match self.departure.as_ref().is_some_and(|departure| departure.terminated) {
            true => Farewell::Terminated,
            false => Farewell::ClientGone,
        }
    }

    fn ended(&self) -> Ended {
        match self.farewell() {
            Farewell::Terminated => Ended::Terminated,
            _ => Ended::ClientGone,
        }
    }

    /// It has a server from now on.
    #[inline]
    pub(super) fn departure_gets_server(&mut self) {
        if let Some(departure) = &mut self.departure {
            (departure.overdue, departure.timer, departure.break_watch) = (false, None, None);
        }
    }

    /// At a safe point, with an answer that its socket does not take: waits as for anybody, but not for ever where it
    /// has said Terminate.
    #[cold]
    pub(super) fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Farewell>> {
        match self.has_left() && self.poll_overdue(cx, false).is_ready() {
            true => Poll::Ready(Err(self.farewell())),
            false => Poll::Pending,
        }
    }

    /// At a safe point, silent, with nothing left to do: it leaves once its socket has taken all answers.
    #[cold]
    pub(super) fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Farewell>> {
        match self.stream.poll_flush(cx) {
            Poll::Ready(_) => Poll::Ready(Err(self.farewell())),
            Poll::Pending => self.poll_unread(cx),
        }
    }

    /// Ready when it is gone, and its server has had its time. `at_message_end` says that the client has been sent
    /// whole messages and nothing waits to be sent, so that it can be sent something now.
    pub(super) fn poll_overdue(&mut self, cx: &mut Context<'_>, at_message_end: bool) -> Poll<()> {
        if matches!(self.stream.poll_flush(cx), Poll::Ready(Err(_))) {
            self.departs().broken = true;
        }
        let limit = self.limits.abandoned_query_timeout;
        loop {
            let departure = self.departs();
            if departure.break_watch.as_mut().is_some_and(|watch| watch.as_mut().poll(cx).is_ready()) {
                departure.break_watch = None;
                departure.broken = true;
            }
            if departure.broken {
                self.drop_answers();
            }
            let departure = self.departs();
            if departure.overdue && departure.is_gone() {
                return Poll::Ready(());
            }
            let period = if departure.overdue { limit.max(PROBE_PERIOD_MIN) } else { limit };
            let timer = departure.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(period)));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            departure.timer = None;
            departure.overdue = true;
            if !departure.is_gone() && at_message_end && self.outbox.is_empty() {
                self.probe(cx);
            }
        }
    }

    /// Sends it something that it knows, to find out whether anybody is there.
    fn probe(&mut self, cx: &mut Context<'_>) {
        let Some(value) = self.wish.get(PROBE) else { return };
        backend::parameter_status(self.outbox.bytes(), PROBE, value);
        while !self.outbox.is_empty() {
            match self.stream.poll_send(cx, self.outbox.pending()) {
                Poll::Pending => break,
                Poll::Ready(Ok(sent)) => self.outbox.sent(sent),
                Poll::Ready(Err(_)) => {
                    self.departs().broken = true;
                    return;
                }
            }
        }
        if self.departs().break_watch.is_none()
            && let Ok(broken) = self.stream.broken()
        {
            self.departs().break_watch = Some(Box::pin(broken));
        }
    }
}

impl Relay<'_> {
    /// The client said Terminate. What is behind it counts for nothing.
    #[cold]
    pub(super) fn client_terminates(&mut self) -> Result<(), Ended> {
        if self.client.leaves_at_once() {
            return Err(Ended::Terminated);
        }
        self.client.framer = Framer::default();
        let departure = self.client.departs();
        (departure.silent, departure.terminated) = (true, true);
        self.no_more_requests();
        Ok(())
    }

    /// The client's stream has ended, or broken. Part of a message that was not sent on counts for nothing.
    #[cold]
    pub(super) fn client_ends(&mut self, how: io::Result<usize>) -> Result<(), Ended> {
        self.client.input_ended_with_server(&how.map(drop)).map_err(|_| Ended::ClientGone)?;
        self.no_more_requests();
        Ok(())
    }

    /// The client's connection takes nothing more.
    #[cold]
    pub(super) fn client_output_broke(&mut self) -> Result<(), Ended> {
        self.client.output_broke().map_err(|_| Ended::ClientGone)?;
        self.drop_answers();
        Ok(())
    }

    fn drop_answers(&mut self) {
        self.client.drop_answers();
        let len = self.server.inbox.run().len();
        if len > 0 {
            self.server.inbox.sent(len);
        }
    }

    fn no_more_requests(&mut self) {
        self.client.inbox.drop_fresh();
        if self.server.exchange.unsynced() && self.client.framer.between_messages() {
            // A batch without its Sync: PostgreSQL keeps the answers to it back until somebody asks for them.
            self.to_server.take_run(&mut self.client.inbox);
            frontend::flush(self.to_server.bytes());
        }
    }

    /// The client has left. Ends the relay when all is done that it asked for, or has taken too long.
    #[cold]
    pub(super) fn poll_departed(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let all_sent = self.to_server.is_empty() && self.client.inbox.run().is_empty();
        let whole = self.client.framer.between_messages();
        if self.client.is_silent() && all_sent && whole && self.server.waits() {
            self.keep_rest_of_answer();
            return Err(self.client.ended());
        }
        let at_message_end = self.server.framer.between_messages() && self.server.inbox.run().is_empty();
        if self.client.is_silent() && !whole {
            // The server waits for the rest of a message, which does not come: there is nothing to wait for.
            self.client.departs().broken = true;
        }
        match self.client.poll_overdue(cx, at_message_end) {
            Poll::Ready(()) => Err(self.client.ended()),
            Poll::Pending => Ok(()),
        }
    }
}
