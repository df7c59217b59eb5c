//! Servers opened for one client each: replication connections.
//!
//! Pure: no clock, lock, socket or task.
//!
//! Such a server is told at its start that it is one, and with which parameters, so it can neither come from the shelf
//! nor go there. Its client stands in a line of its own until it is logged in, and it is closed when the client leaves.
//! It counts against `pool_size` and the caps as any other, and where the pool is full of idle servers one of them
//! makes room. PgBouncer keeps one line for both kinds; that an opening for the one is never waited for by the other is
//! easier to see with two. First come, first served holds across them.

use super::{Gate, Scheduler};
use crate::pool::idle::Held;
use crate::pool::orders::{Errand, Loan, Order, Outlook, Reason, Refused, Slip};
use crate::pool::waiting::Place;
use crate::stats::moment::Moment;

impl<S: Held, W: Clone> Scheduler<S, W> {
    /// A client waits for a server of its own. Other than [`Scheduler::client_waits`] it is not turned away where the
    /// last attempt failed: there may be nothing wrong with its own.
    ///
    /// # Errors
    /// The pool serves nobody any more.
    pub fn dedicated_waits(&mut self, waiter: W, worker: usize, now: Moment) -> Result<Place, Refused> {
        if let Gate::Ended(ended) = self.gate {
            return Err(Refused::Ended(ended));
        }
        let place = self.dedicated_line.join(waiter, worker, now);
        self.plan(now);
        Ok(place)
    }

    /// As [`Scheduler::client_left`], for one who waited for a server of its own. An opening under way for it is still
    /// to be handed back.
    pub fn dedicated_left(&mut self, place: Place) -> Option<W> {
        self.dedicated_line.leave(place).map(|in_line| in_line.waiter)
    }

    /// Is there a dedicated server, whose client must be told when it is marked to be closed?
    pub fn has_dedicated(&self) -> bool {
        self.dedicated > 0
    }

    pub(super) fn dedicated_opened(&mut self, server: S, slip: &Slip, place: Place, now: Moment) {
        self.strike_opening(slip);
        if slip.generation == self.generation {
            self.failed = None;
        }
        let old = slip.generation < self.generation || server.close_needed();
        let order = match self.closed().or(old.then_some(Reason::ConnectStringChanged)) {
            // Who waits for it keeps waiting, for the next attempt.
            Some(reason) => Order::Close { server, reason },
            None => match self.dedicated_line.leave(place) {
                None => Order::Close { server, reason: Reason::ReplicationOver },
                Some(in_line) => {
                    self.dedicated += 1;
                    let errand = Errand::Dedicated;
                    let loan = Loan { generation: slip.generation, connected: now, served: true, errand };
                    let waited_us = now.micros_since(in_line.since);
                    Order::Grant { server, loan, waiter: in_line.waiter, waited_us }
                }
            },
        };
        self.orders.push_back(order);
        self.plan(now);
    }

    /// A refusal by the server concerns the one client: it may lack a right that others do not need. That a server
    /// cannot be reached concerns all, and this one keeps waiting like the others.
    pub(super) fn dedicated_failed(&mut self, slip: &Slip, place: Place, outlook: Outlook, now: Moment) -> Option<W> {
        self.strike_opening(slip);
        let told = match outlook {
            Outlook::Hopeless => self.dedicated_left(place),
            Outlook::Passing => {
                if slip.generation == self.generation {
                    self.failed = Some(slip.launched);
                }
                None
            }
        };
        self.plan(now);
        told
    }

    /// Opens for those who wait, as far as there is room or room can be made.
    pub(super) fn plan_dedicated(&mut self, now: Moment) {
        while self.may_begin(self.dedicated_opening, self.shared() + self.dedicated, now)
            && let Some((place, in_line)) = self.dedicated_line.first_unserved()
        {
            let (waiter, worker) = (in_line.waiter.clone(), in_line.worker);
            if let Some(purpose) = self.room(Some(in_line.since), now) {
                self.dedicated_opening += 1;
                self.dedicated_line.set_served(place, true);
                let (slip, host) = self.slip(purpose, Some(place), now);
                self.orders.push_back(Order::OpenDedicated { slip, host, worker, purpose, waiter });
            } else if let Some(server) = self.evict() {
                self.orders.push_back(Order::Close { server, reason: Reason::Evicted });
            } else {
                break;
            }
        }
    }

    /// Must a server that comes home be closed, because the next in turn waits for one of its own and the pool is full?
    #[inline]
    pub(super) fn gives_way(&self, now: Moment) -> bool {
        !self.dedicated_line.is_empty() && self.gives_way_now(now)
    }

    #[cold]
    fn gives_way_now(&self, now: Moment) -> bool {
        let Some((_, next)) = self.dedicated_line.first_unserved() else { return false };
        let first = self.line.head().is_none_or(|head| next.since < head.since);
        // The one that comes home has been struck off; the question is whether there is room beside it.
        let full = self.policy.pool_size != 0 && self.servers() + 1 >= self.policy.pool_size;
        first && full && self.may_begin(self.dedicated_opening, self.shared() + self.dedicated + 1, now)
    }
}
