//! A connection that came with a request to cancel: on to the server that runs the client's query, or to the peer that
//! gave the key.
//!
//! ```text
//!   key ─► whose? ─┬─► a peer's ────────────────► ticket of the peer ─► connect ─► tell
//!                  ├─► a client's of the console ► its task is told
//!                  ├─► a client's in the queue ──► its task drops the request (`withdrawn`)
//!                  └─► a client's ─► take aim ──► ticket of its pool ─► connect ─► still the same loan? ─► tell
//! ```
//!
//! It is never answered. Its connection stays open until the request has been dealt with, because that is what who sent
//! it waits for; that it hangs up before changes nothing, for some drivers send and leave.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::Shared;
use crate::cancel::forward::{Aim, Miss};
use crate::cancel::key::CancelKey;
use crate::cancel::route::{Route, route};
use crate::config::Config;
use crate::net::dial::{Dialled, dial};
use crate::net::sockopt::TcpOptions;
use crate::net::world;
use crate::pool::{CancelTicket, Carrier, Logged, PeerPool, Pool};
use crate::server::cancel::{self, tell};
use crate::stats::lines::{self, Tag};
use crate::stats::roster::{ClientCard, ClientState, EnteredClient, Names};

/// The least pause before a connection is tried again: server_login_retry may be 0.
const RETRY_MIN: Duration = Duration::from_millis(100);

/// What PgBouncer says of a request whose loan has ended while it waited.
const TOO_LATE: &str = "not sending cancel request for client that is now idle";

/// One request.
pub(super) struct Canceler<'a> {
    pub(super) shared: &'a Shared,
    pub(super) config: &'a Config,
    pub(super) entered: &'a EnteredClient,
}

/// What a request is for.
enum Goal<'a> {
    Query(&'a Aim),
    Peer(&'a PeerPool, &'a CancelKey),
}

impl Goal<'_> {
    fn stands(&self) -> bool {
        match self {
            Goal::Query(aim) => aim.stands(),
            Goal::Peer(..) => true,
        }
    }

    fn named<'t>(&self, tag: Tag<'t>) -> Tag<'t> {
        match self {
            Goal::Query(..) => tag,
            Goal::Peer(peer, _) => tag.of_peer(peer.id()),
        }
    }
}

impl Canceler<'_> {
    /// Sees to a request; ends when it has been dealt with, or given up.
    pub(super) async fn run(&self, pid: i32, secret: &[u8]) {
        let Some(key) = CancelKey::from_request(pid, secret) else {
            return self.close("bad cancel request");
        };
        // As it stands first: a key that was given before peer_id was changed is still ours.
        if let Some(client) = self.shared.cancels.find(&key) {
            return self.for_client(&client).await;
        }
        match route(key, u16::try_from(self.config.settings.peer_id).unwrap_or(0)) {
            Route::Here(key) => match self.shared.cancels.find(&key) {
                Some(client) => self.for_client(&client).await,
                None => self.close("failed cancel request"),
            },
            Route::Exhausted(_) => self.close("failed to forward cancel request because its TTL was exhausted"),
            Route::Peer(id, key) => match self.shared.registry.peer(id) {
                Some(peer) => self.for_peer(&peer, &key).await,
                None => self.close("could not find peer to forward request to"),
            },
        }
    }

    async fn for_client(&self, client: &Arc<ClientCard>) {
        if client.console.load(Relaxed) {
            client.ask_to_cancel();
            return self.close("cancel request for console client");
        }
        let aim = match Aim::at(client, &self.shared.roster) {
            Ok(aim) => aim,
            Err(Miss::Idle) if client.cancel_wait() => return self.close("cancel request for client in the queue"),
            // Its wait may have ended between the two.
            Err(Miss::Idle) => match Aim::at(client, &self.shared.roster) {
                Ok(aim) => aim,
                Err(miss) => return self.close(miss.text()),
            },
            Err(miss) => return self.close(miss.text()),
        };
        // A client whose pool is gone is on its way out itself.
        let Some(pool) = self.pool_of(client) else { return self.close(TOO_LATE) };
        let _ = self.card().pool.set(Names { database: pool.database().clone(), user: pool.user().clone() });
        self.wait(ClientState::WaitingCancel);
        let goal = Goal::Query(&aim);
        let deliver = self.deliver(CancelTicket::for_pool(&pool), &goal);
        self.close_as(&goal, self.in_time(deliver).await);
    }

    async fn for_peer(&self, peer: &Arc<PeerPool>, key: &CancelKey) {
        self.wait(ClientState::WaitingCancel);
        let goal = Goal::Peer(peer, key);
        let deliver = self.deliver(CancelTicket::for_peer(peer), &goal);
        let reason = tokio::select! {
            biased;
            () = peer.removed() => "peer removed",
            reason = self.in_time(deliver) => reason,
        };
        self.close_as(&goal, reason);
    }

    /// Gets a connection and sends the request. What it says is why the request's own connection is closed.
    async fn deliver(&self, mut ticket: CancelTicket, goal: &Goal<'_>) -> &'static str {
        let Some(dialled) = self.connect(&mut ticket, goal).await else { return TOO_LATE };
        let settings = &self.config.settings;
        let logged = Logged { connections: settings.log_connections, disconnections: settings.log_disconnections };
        let mut carrier = ticket.carrier(&dialled, self.card().id, logged);
        let (told, _hold) = match goal {
            Goal::Peer(_, key) => {
                self.begin(&mut ticket, &carrier);
                (tell(dialled.stream, key.pid(), key.secret()).await, None)
            }
            Goal::Query(aim) => {
                // Held from here on, and let go before the ticket is: that makes the pool look at the server.
                let (Some(hold), Some(target)) = (aim.hold(), aim.target()) else { return TOO_LATE };
                self.begin(&mut ticket, &carrier);
                (tell(dialled.stream, target.pid, &target.secret).await, Some(hold))
            }
        };
        carrier.told(told)
    }

    /// A connection to the server or peer, when it is this request's turn. `None` where the loan ended before.
    async fn connect(&self, ticket: &mut CancelTicket, goal: &Goal<'_>) -> Option<Dialled> {
        let settings = &self.config.settings;
        let tcp = TcpOptions::from_settings(settings);
        loop {
            ticket.admitted().await;
            if !goal.stands() {
                return None;
            }
            let dialled = async {
                match goal {
                    Goal::Query(aim) => {
                        let target = aim.target().ok_or(io::ErrorKind::NotConnected)?;
                        cancel::dial(target, &tcp, &self.shared.registry.tls().current()).await
                    }
                    Goal::Peer(peer, _) => {
                        dial(&peer.host(), &tcp, self.shared.registry.dns()).await.map_err(io::Error::from)
                    }
                }
            };
            let limit = settings.server_connect_timeout;
            let error = match within(limit, dialled).await.unwrap_or(Err(io::ErrorKind::TimedOut.into())) {
                Ok(dialled) => return Some(dialled),
                Err(error) => error,
            };
            tracing::warn!(conn = ?goal.named(Tag::client(self.card())), "cancel request: connect failed: {error}");
            ticket.rest();
            tokio::time::sleep(settings.server_login_retry.max(RETRY_MIN)).await;
            ticket.rejoin();
        }
    }

    fn begin(&self, ticket: &mut CancelTicket, carrier: &Carrier) {
        ticket.connected();
        carrier.connected();
        self.card().set_link(carrier.card().id);
        self.wait(ClientState::ActiveCancel);
    }

    fn wait(&self, state: ClientState) {
        self.entered.logged_in();
        self.card().set_state(state);
    }

    /// The pool a client is a member of.
    fn pool_of(&self, client: &ClientCard) -> Option<Arc<Pool>> {
        let names = client.pool.get()?;
        let pools = self.shared.registry.pools();
        pools.into_iter().find(|pool| *pool.database() == names.database && *pool.user() == names.user)
    }

    /// Gives a request up after cancel_wait_timeout.
    async fn in_time(&self, delivered: impl Future<Output = &'static str>) -> &'static str {
        within(self.config.settings.cancel_wait_timeout, delivered).await.unwrap_or("cancel_wait_timeout")
    }

    fn card(&self) -> &Arc<ClientCard> {
        self.entered.card()
    }

    fn close(&self, reason: &str) {
        self.log_closing(Tag::client(self.card()), reason);
    }

    fn close_as(&self, goal: &Goal<'_>, reason: &str) {
        self.log_closing(goal.named(Tag::client(self.card())), reason);
    }

    fn log_closing(&self, tag: Tag<'_>, reason: &str) {
        if self.config.settings.log_disconnections {
            let age = world::now().since(self.card().connected);
            tracing::info!(conn = ?tag, "{}", lines::closing(reason, age));
        }
    }
}

/// What comes of it in this time; zero is no limit.
async fn within<T>(limit: Duration, coming: impl Future<Output = T>) -> Option<T> {
    match limit.is_zero() {
        true => Some(coming.await),
        false => tokio::time::timeout(limit, coming).await.ok(),
    }
}
