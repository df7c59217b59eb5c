//! SUSPEND and RESUME of the whole process: the steps of [`crate::pool::suspension`], and when each is done.

use std::sync::Arc;
use std::time::Duration;

use super::{Registry, Released};
use crate::net::world;
use crate::pool::ControlError;
use crate::pool::suspension::{Phase, drained, still};
use crate::stats::moment::Moment;
use crate::stats::roster::{ClientCard, Order};

/// How long those whom a successor could not get have to hear that the process ends.
const FAREWELL_PATIENCE: Duration = Duration::from_millis(500);

/// How often a suspension looks whether its next step is due: PgBouncer does so with each turn of its loop.
const LOOK_PERIOD: Duration = Duration::from_millis(5);

/// How long clients and servers have at least to stop, from when nobody waits for a server any more: where
/// suspend_timeout is over then, those in the middle of a message whose other end does not read are dropped.
const GRACE: Duration = Duration::from_millis(300);

impl Registry {
    /// SUSPEND. The future ends when everybody has come to a stop, or the suspension is over.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn suspend(self: &Arc<Self>, now: Moment) -> Result<Released, ControlError> {
        let directory = self.write();
        if directory.paused {
            return Err(ControlError::AlreadyPaused);
        }
        if directory.databases.values().any(|entry| entry.paused) {
            return Err(ControlError::DatabasesPaused);
        }
        if !self.suspension().begin() {
            return Err(ControlError::AlreadyPaused);
        }
        drop(directory);
        self.suspension().call(&self.surroundings.roster);
        let registry = self.clone();
        Ok(Box::pin(async move { registry.come_to_a_stop(now).await }))
    }

    /// Ends a suspension, if there is one: everybody goes on.
    pub fn end_suspension(&self) {
        if self.suspension().end() {
            self.suspension().call(&self.surroundings.roster);
        }
    }

    /// A successor has what can be handed over. All others (under TLS, for replication, in the console) are told that
    /// the process ends, and their servers are closed. Ends when they are gone, or have had time enough.
    pub async fn dismiss_left_behind(&self) {
        let since = world::now();
        let left_behind = |card: &ClientCard| !self.suspension().is_taken(card.id);
        self.pools().iter().for_each(|pool| pool.close_left_behind(since));
        for card in self.surroundings.roster.clients().into_iter().filter(|card| left_behind(card)) {
            card.give_order(Order::Shutdown);
        }
        while self.surroundings.roster.count_clients(left_behind) > 0 && world::now().since(since) < FAREWELL_PATIENCE {
            tokio::time::sleep(LOOK_PERIOD).await;
        }
    }

    async fn come_to_a_stop(&self, since: Moment) {
        let mut over = false;
        let mut frozen_at = None;
        loop {
            match self.suspension().phase() {
                Phase::Running => return,
                Phase::Draining if self.is_drained() => {
                    if self.suspension().freeze() {
                        frozen_at = Some(world::now());
                        self.suspension().call(&self.surroundings.roster);
                    }
                }
                Phase::Frozen if self.is_still() => return,
                Phase::Draining | Phase::Frozen => {}
            }
            let limit = self.config().settings.suspend_timeout;
            let now = world::now();
            let waited = now.since(since);
            if !limit.is_zero() && waited >= limit {
                match (over, self.suspension().phase()) {
                    (false, Phase::Draining) => {
                        over = true;
                        self.dismiss(|card| !drained(card));
                    }
                    (_, Phase::Frozen) if frozen_at.is_some_and(|at| now.since(at) >= GRACE) => {
                        self.dismiss(|card| !still(card));
                    }
                    _ => {}
                }
            }
            tokio::time::sleep(LOOK_PERIOD).await;
        }
    }

    /// Does nobody log in or wait for a server, and nobody who has none have anything in hand?
    fn is_drained(&self) -> bool {
        let surroundings = &self.surroundings;
        surroundings.workers.carried() == surroundings.roster.count_clients(drained)
    }

    /// Does every client keep still, and every server that has a client with it?
    fn is_still(&self) -> bool {
        let surroundings = &self.surroundings;
        let still = surroundings.workers.carried() == surroundings.roster.count_clients(still);
        still
            && self.pools().iter().all(|pool| {
                let counts = pool.counts(Moment(0));
                // One that a client has left is nobody's and is not handed over: whether it can be made clean may take
                // long to tell.
                counts.tested + counts.opening + counts.being_canceled == counts.abandoned
            })
    }

    fn dismiss(&self, whom: impl Fn(&ClientCard) -> bool) {
        for card in self.surroundings.roster.clients() {
            if whom(&card) {
                card.give_order(Order::SuspendTimeout);
            }
        }
    }
}
