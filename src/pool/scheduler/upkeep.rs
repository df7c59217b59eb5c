//! What time asks of a pool: timeouts in line, idle timeouts, lifetimes, checks due, pool sizes.
//!
//! Pure: no clock, lock, socket or task. Called three times a second, as PgBouncer's janitor; nothing here is armed or
//! reset for a single query.

use std::time::Duration;

use super::{Gate, Scheduler};
use crate::pool::idle::{Held, Resting};
use crate::pool::orders::{Order, Purpose, Reason, Refused};
use crate::stats::moment::Moment;
use crate::stats::roster::ServerState;

impl<S: Held, W: Clone> Scheduler<S, W> {
    /// Time has passed: timeouts, lifetimes, checks due, pool sizes. `dirty` tells of an idle server whether it spoke
    /// or hung up; `members` is how many clients are logged in to the pool.
    pub fn tick(&mut self, members: usize, now: Moment, mut dirty: impl FnMut(&mut S) -> bool) {
        let orders = &mut self.orders;
        for line in [&mut self.line, &mut self.dedicated_line] {
            line.expire(now, self.policy.query_wait_timeout, |in_line| {
                orders.push_back(Order::Refuse { waiter: in_line.waiter, why: Refused::QueryWaitTimeout });
            });
            line.notify(now, self.policy.query_wait_notify, |waiter| {
                orders.push_back(Order::Notify { waiter: waiter.clone() });
            });
        }
        self.sweep_used(now, &mut dirty);
        self.sweep_shelf(now, &mut dirty);
        self.shrink();
        self.capped = false;
        self.plan(now);
        self.prefill(members, now);
    }

    fn sweep_shelf(&mut self, now: Moment, dirty: &mut impl FnMut(&mut S) -> bool) {
        enum Goes {
            Close(Reason),
            Check,
        }
        let mut shelf = std::mem::take(&mut self.shelf);
        let mut connected = self.shared() + u32::try_from(shelf.len()).unwrap_or(u32::MAX);
        let mut due = Vec::new();
        shelf.sweep(
            |resting| match self.expired(resting, connected, now, dirty) {
                Some(reason) => {
                    connected -= 1;
                    Some(Goes::Close(reason))
                }
                None => self.policy.check_after.filter(|after| now.since(resting.since) > *after).map(|_| Goes::Check),
            },
            |resting, goes| due.push((resting, goes)),
        );
        self.shelf = shelf;
        for (resting, goes) in due {
            match goes {
                Goes::Close(reason) => self.orders.push_back(Order::Close { server: resting.server, reason }),
                Goes::Check => {
                    resting.server.mark(ServerState::Used);
                    self.used.push(resting);
                }
            }
        }
    }

    fn sweep_used(&mut self, now: Moment, dirty: &mut impl FnMut(&mut S) -> bool) {
        let mut connected = self.shared();
        for mut resting in std::mem::take(&mut self.used) {
            match self.expired(&mut resting, connected, now, dirty) {
                Some(reason) => {
                    connected -= 1;
                    self.orders.push_back(Order::Close { server: resting.server, reason });
                }
                None => self.used.push(resting),
            }
        }
    }

    /// Why a resting server must go, if so.
    fn expired(
        &mut self,
        resting: &mut Resting<S>,
        connected: u32,
        now: Moment,
        dirty: &mut impl FnMut(&mut S) -> bool,
    ) -> Option<Reason> {
        let idle_timeout = self.policy.server_idle_timeout;
        if dirty(&mut resting.server) {
            Some(Reason::Dirty)
        } else if !idle_timeout.is_zero()
            && now.since(resting.since) > idle_timeout
            && connected > self.policy.min_pool_size
        {
            Some(Reason::IdleTimeout)
        } else if self.lifetime_over(resting.connected, resting.served, now) {
            Some(Reason::LifetimeOver)
        } else {
            None
        }
    }

    /// Closes resting servers that are beyond a pool size made smaller.
    fn shrink(&mut self) {
        while self.policy.pool_size != 0 && self.servers() > self.limit() {
            let resting = match self.used.is_empty() {
                true => self.shelf.take_oldest(),
                false => Some(self.used.remove(0)),
            };
            let Some(resting) = resting else { break };
            self.orders.push_back(Order::Close { server: resting.server, reason: Reason::TooMany });
        }
    }

    /// Opens what is missing to `min_pool_size`.
    fn prefill(&mut self, members: usize, now: Moment) {
        if self.gate != Gate::Open || (members == 0 && !self.policy.prefill) {
            return;
        }
        while self.shared() + self.opening < self.policy.min_pool_size && self.may_open(now) == Some(Purpose::Demand) {
            self.open(None, Purpose::Minimum, now);
        }
    }

    /// Is this server's time over? Notes the closing if so: closings for age keep a distance of
    /// `server_lifetime / pool_size`, so that servers opened together are not all replaced together.
    pub(super) fn lifetime_over(&mut self, connected: Moment, served: bool, now: Moment) -> bool {
        let lifetime = self.policy.server_lifetime;
        if lifetime.is_zero() {
            return served;
        }
        let gap = lifetime.checked_div(self.policy.pool_size).unwrap_or(Duration::ZERO);
        let over = now.since(connected) >= lifetime && self.lifetime_closed.is_none_or(|last| now.since(last) >= gap);
        if over {
            self.lifetime_closed = Some(now);
        }
        over
    }
}
