//! The timeouts of clients: a card and a time in, an order out.
//!
//! Pure: `app::janitor` looks at every card three times a second, as PgBouncer's does, so no request arms a timer.
//!
//! | setting | runs while | from |
//! |---|---|---|
//! | client_login_timeout | the client logs in, and does not wait for a server | the accept |
//! | client_idle_timeout | it has no server and waits for none | its last rest |
//! | query_timeout | its server owes it something, or it is in line for one | the request |
//! | transaction_timeout | it is in a transaction | the transaction's first request |
//! | idle_transaction_timeout | it is in a transaction and its server owes nothing | the last answer |

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::pool::Rules;
use crate::stats::moment::Moment;
use crate::stats::roster::{ClientCard, ClientState, Order};

/// The limits that hold for one client; zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadlines {
    /// client_login_timeout.
    pub login: Duration,
    /// client_idle_timeout.
    pub idle: Duration,
    /// query_timeout.
    pub query: Duration,
    /// transaction_timeout.
    pub transaction: Duration,
    /// idle_transaction_timeout.
    pub idle_transaction: Duration,
}

impl Deadlines {
    /// What the rules of its pool say for a logged-in client.
    pub fn of(rules: &Rules) -> Deadlines {
        Deadlines {
            login: Duration::ZERO,
            idle: rules.client_idle_timeout,
            query: rules.query_timeout,
            transaction: rules.transaction_timeout,
            idle_transaction: rules.idle_transaction_timeout,
        }
    }

    /// Is there no limit at all, so that nobody needs to look?
    pub fn is_none(&self) -> bool {
        *self == Deadlines::default()
    }

    /// What is overdue on this card.
    pub fn overdue(&self, card: &ClientCard, now: Moment) -> Option<Order> {
        let over = |limit: Duration, since: Option<Moment>| {
            !limit.is_zero() && since.is_some_and(|since| now.since(since) > limit)
        };
        if card.state() == ClientState::Waiting && over(self.query, Some(card.request_at())) {
            return Some(Order::QueryTimeoutInLine);
        }
        if !card.logged_in.load(Relaxed) {
            // Who waits for a server has done its part of the login; query_wait_timeout holds for it.
            let waits = card.state() == ClientState::Waiting;
            return (!waits && over(self.login, Some(card.connected))).then_some(Order::ClientLoginTimeout);
        }
        if card.link() == 0 {
            if card.state() == ClientState::Waiting {
                return None;
            }
            return over(self.idle, card.rest_at()).then_some(Order::ClientIdleTimeout);
        }
        let idle_in_transaction = card.idle_in_xact_at();
        if over(self.idle_transaction, idle_in_transaction) {
            return Some(Order::IdleTransactionTimeout);
        }
        if over(self.transaction, card.xact_at()) {
            return Some(Order::TransactionTimeout);
        }
        let busy = idle_in_transaction.is_none() && card.xact_at().is_some();
        (busy && over(self.query, Some(card.request_at()))).then_some(Order::QueryTimeout)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::stats::roster::Endpoint;

    const SECOND: u64 = 1_000_000;

    fn logged_in() -> ClientCard {
        let card = card();
        card.logged_in.store(true, Relaxed);
        card.set_state(ClientState::Active);
        card
    }

    fn card() -> ClientCard {
        let end = Endpoint::Unix { port: 6432, pid: None, uid: None };
        ClientCard::new(1, end.clone(), end, SystemTime::UNIX_EPOCH, Moment(SECOND))
    }

    fn all(seconds: u64) -> Deadlines {
        let limit = Duration::from_secs(seconds);
        Deadlines { login: limit, idle: limit, query: limit, transaction: limit, idle_transaction: limit }
    }

    #[test]
    fn a_slow_login_is_overdue() {
        assert_eq!(all(2).overdue(&card(), Moment(3 * SECOND)), None);
        assert_eq!(all(2).overdue(&card(), Moment(4 * SECOND)), Some(Order::ClientLoginTimeout));
    }

    #[test]
    fn who_waits_for_a_server_is_not_idle() {
        let card = logged_in();
        card.set_rest_at(Some(Moment(SECOND)));
        assert_eq!(all(2).overdue(&card, Moment(4 * SECOND)), Some(Order::ClientIdleTimeout));

        card.set_state(ClientState::Waiting);
        card.set_request_at(Moment(3 * SECOND));
        assert_eq!(all(2).overdue(&card, Moment(4 * SECOND)), None);
        assert_eq!(all(2).overdue(&card, Moment(6 * SECOND)), Some(Order::QueryTimeoutInLine));
    }

    #[test]
    fn a_transaction_that_idles_is_told_from_one_that_runs() {
        let card = logged_in();
        card.set_link(7);
        card.set_request_at(Moment(SECOND));
        card.set_xact_at(Some(Moment(SECOND)));
        let query = Deadlines { query: Duration::from_secs(2), ..Deadlines::default() };
        let idle = Deadlines { idle_transaction: Duration::from_secs(2), ..Deadlines::default() };

        assert_eq!(query.overdue(&card, Moment(4 * SECOND)), Some(Order::QueryTimeout));
        assert_eq!(idle.overdue(&card, Moment(4 * SECOND)), None);

        card.set_idle_in_xact_at(Some(Moment(SECOND)));
        assert_eq!(query.overdue(&card, Moment(4 * SECOND)), None);
        assert_eq!(idle.overdue(&card, Moment(4 * SECOND)), Some(Order::IdleTransactionTimeout));
    }

    #[test]
    fn a_session_between_transactions_is_not_overdue() {
        let card = logged_in();
        card.set_link(7);

        assert_eq!(all(1).overdue(&card, Moment(9 * SECOND)), None);
    }
}
