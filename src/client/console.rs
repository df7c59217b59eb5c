//! A client whose server is us: moves bytes between its socket and [`crate::admin::Console`].

use std::task::Poll;

use super::Shared;
use super::farewell::Farewell;
use crate::admin::console::MESSAGE_BYTES_MAX;
use crate::admin::{Console, Fatal, Rights, Wait};
use crate::net::buffers::Inbox;
use crate::net::stream::Stream;
use crate::net::world;
use crate::stats::roster::{EnteredClient, Order};
use crate::wire::backend;
use crate::wire::framing::Header;

/// One console client.
pub(super) struct ConsoleClient {
    entered: EnteredClient,
    stream: Stream,
    inbox: Inbox,
    console: Console,
    /// The end of the login's dialogue, to be sent with the greeting.
    unsent: Vec<u8>,
}

impl ConsoleClient {
    pub(super) fn new(
        shared: &Shared,
        entered: EnteredClient,
        stream: Stream,
        inbox: Inbox,
        unsent: Vec<u8>,
        rights: Rights,
    ) -> ConsoleClient {
        ConsoleClient { entered, stream, inbox, console: Console::new(shared.console.clone(), rights), unsent }
    }

    /// Greets the client and serves it until it leaves or must leave.
    pub(super) async fn run(mut self) -> Farewell {
        self.entered.logged_in();
        self.entered.card().set_rest_at(Some(world::now()));
        let mut out = std::mem::take(&mut self.unsent);
        backend::authentication_ok(&mut out);
        for (name, value) in self.console.greeting() {
            backend::parameter_status(&mut out, name, &value);
        }
        backend::backend_key_data(&mut out, 0, &[0; 4]);
        backend::ready_for_query(&mut out, b'I');
        loop {
            if self.stream.send_all(&out).await.is_err() {
                return Farewell::ClientGone;
            }
            out.clear();
            if let Err(farewell) = self.answer(&mut out).await {
                let mut last = out;
                last.extend_from_slice(&farewell.message().unwrap_or_default());
                self.stream.send_parting(&last);
                return farewell;
            }
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
            if let Some(wait) = wait {
                // What was answered before it must not wait with it.
                self.stream.send_all(out).await.map_err(|_| Farewell::ClientGone)?;
                out.clear();
                self.wait(wait, out).await?;
            }
        }
    }

    async fn fill(&mut self) -> Result<(), Farewell> {
        let card = self.entered.card();
        let (stream, inbox) = (&mut self.stream, &mut self.inbox);
        std::future::poll_fn(|cx| {
            card.set_waker(cx.waker());
            match card.order() {
                Order::None => {}
                order => return Poll::Ready(Err(Farewell::ordered(order))),
            }
            match stream.poll_fill(cx, inbox) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Err(Farewell::ClientGone)),
                Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
            }
        })
        .await
    }

    /// Waits for a command to have its effect; a client that leaves meanwhile takes nothing back.
    async fn wait(&mut self, mut wait: Wait, out: &mut Vec<u8>) -> Result<(), Farewell> {
        let card = self.entered.card();
        let (stream, inbox) = (&mut self.stream, &mut self.inbox);
        let late = std::future::poll_fn(|cx| {
            match card.order() {
                Order::None => {}
                order => return Poll::Ready(Err(Farewell::ordered(order))),
            }
            if let Poll::Ready(late) = wait.as_mut().poll(cx) {
                return Poll::Ready(Ok(late));
            }
            stream.poll_gone(cx, inbox).map(|()| Err(Farewell::ClientGone))
        });
        out.extend_from_slice(&late.await?);
        Ok(())
    }
}
