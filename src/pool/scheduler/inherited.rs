//! Servers that come from a predecessor, and a look at those that could go to a successor.
//!
//! Pure: no clock, lock, socket or task.

use super::{FIRST_GENERATION, Returned, Scheduler};
use crate::pool::idle::{Held, Resting};
use crate::pool::orders::{Errand, Loan};
use crate::stats::moment::Moment;

impl<S: Held, W: Clone> Scheduler<S, W> {
    /// A server comes that has been open since `connected` and at rest since `since`; to the first in line, or to rest.
    pub fn adopt_resting(
        &mut self,
        server: S,
        connected: Moment,
        since: Moment,
        served: bool,
        now: Moment,
    ) -> Returned<S, W> {
        if self.line.is_empty() {
            self.shelf.put(Resting::new(server, connected, served, since));
            return Returned::Rests;
        }
        self.tested += 1;
        let loan = Loan { generation: self.generation, connected, served, errand: Errand::Tested };
        self.server_released(server, loan, now)
    }

    /// A server comes with the client that it is on loan to. One that is `outdated` closes when it is given back.
    pub fn adopt_active(&mut self, connected: Moment, outdated: bool) -> Loan {
        self.active += 1;
        let generation = if outdated { FIRST_GENERATION - 1 } else { self.generation };
        if generation < self.generation {
            self.close_needed += 1;
        }
        Loan { generation, connected, served: true, errand: Errand::Active }
    }

    /// The servers on the shelf.
    pub fn idle(&self) -> impl Iterator<Item = &Resting<S>> {
        self.shelf.iter()
    }

    /// The servers due for a check before use.
    pub fn used(&self) -> impl Iterator<Item = &Resting<S>> {
        self.used.iter()
    }
}
