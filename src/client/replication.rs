//! A replication client: pg_basebackup, pg_receivewal, a standby, a subscription.
//!
//! It has a server of its own, opened at its login with its own startup parameters, and keeps it until it leaves; the
//! server is closed then. Whatever the pool's mode, this is a session. A walsender answers simple queries, and some of
//! them with CopyBothResponse: then both sides send CopyData until both have said CopyDone. To the relay that is a
//! conversation like any other. Manual: "Streaming Replication Protocol".

use std::task::Poll;

use super::farewell::Farewell;
use super::relay::{Ended, Relay};
use super::session::Client;
use crate::net::world;
use crate::pool::Lease;

/// A logged-in replication client with its server.
pub(crate) struct Replica {
    client: Box<Client>,
    /// Nothing once the client has left.
    lease: Option<Lease>,
}

impl Replica {
    pub(crate) fn new(mut client: Box<Client>, lease: Lease) -> Replica {
        client.keep_server();
        Replica { client, lease: Some(lease) }
    }

    /// The client.
    pub(crate) fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Serves the client until it leaves or must leave, and closes its server. Once.
    pub(crate) async fn run(&mut self) -> Farewell {
        let client = &mut *self.client;
        client.begin().await;
        let Some(mut lease) = self.lease.take() else { return Farewell::Internal("a session without server") };
        if lease.move_here().is_err() {
            lease.close("server socket lost");
            return Farewell::ServerCrashed(None);
        }
        let mut relay = Relay::resting(client, &mut lease);
        let ended = std::future::poll_fn(|cx| {
            let turn = relay.poll(cx);
            // A stream may run for ever, so it is counted as it goes; and query_timeout runs from what the client last
            // sent, which is a status message every few seconds.
            if relay.client.settle_turn() {
                relay.client.card().set_request_at(world::now());
            }
            match turn {
                Ok(()) => Poll::Pending,
                Err(ended) => Poll::Ready(ended),
            }
        })
        .await;
        let clean = matches!(ended, Ended::Terminated | Ended::ClientGone) && client.leaves_clean(&lease);
        let farewell = Farewell::ended(ended);
        lease.close(if clean { "replication client was closed" } else { farewell.server_reason() });
        farewell
    }
}
