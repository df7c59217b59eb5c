//! The greeting: what a client hears of PostgreSQL at its login, when it has no server yet.
//!
//! Pure: no clock, lock, socket or task.
//!
//! A pool keeps what the server it opened last reported at that server's login. A client that leaves before its first
//! query (libpq's `target_session_attrs`) knows PostgreSQL by that alone, and so does a client that never sets its time
//! zone. So the greeting must not outlive what it tells of:
//!
//! - Every server that is opened renews all of it.
//! - RECONNECT, another target and addresses that are gone make it *outdated*: what servers opened before that have
//!   said is not told any more, and the next login waits for a server as the first login of a pool does.
//! - It is *doubtful* while no server stands for it (see [`super::scheduler::Scheduler::has_trusted_server`]): servers
//!   were lost, PAUSE and RESUME closed them, or those left have rested so long that they are due for a check. A login
//!   then waits for the server that is opened or checked for it, but only as long as there is one under way: with
//!   nothing better to tell, what is known is told.
//! - What a server reports later about *itself* renews it at any time; what a client could have set does so only while
//!   no client has the server.

use crate::protocol::parameters::{ParameterSet, UNREADABLE};

/// Parameters that no client can set: whatever a server says of them, it says of itself. A session can change
/// `is_superuser` (SET ROLE) and `default_transaction_read_only`, so those are not among them.
const FIXED: [&str; 4] = ["in_hot_standby", "integer_datetimes", "server_encoding", "server_version"];

/// Whose doing may it be that a server reports another value?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The server's alone: no client has it, and no query of ours changes a parameter.
    Server,
    /// A client's too: it has the server, or what it has set is being replaced.
    Client,
}

/// What a pool can tell a client that logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// What servers report.
    Current(ParameterSet),
    /// What servers reported; none stands for it now. To be told where no server can be had to ask.
    Doubtful(ParameterSet),
    /// Nothing: a server has to be had first.
    Unknown,
}

/// What one pool knows for its greeting.
#[derive(Debug, Default)]
pub struct Known {
    parameters: Option<ParameterSet>,
    outdated: bool,
    /// How often it became outdated.
    round: u64,
}

impl Known {
    /// What new clients may be told, unless it is outdated.
    pub fn current(&self) -> Option<&ParameterSet> {
        self.parameters.as_ref().filter(|_| !self.outdated)
    }

    /// Has a server ever let anybody in?
    pub fn is_any(&self) -> bool {
        self.parameters.is_some()
    }

    /// To be noted before a server is opened or asked for, and to be handed to [`Known::opened`] or
    /// [`Known::confirmed`].
    pub fn round(&self) -> u64 {
        self.round
    }

    /// Servers may be others from now on. What those opened before still say counts no more.
    pub fn outdate(&mut self) {
        self.outdated = true;
        self.round += 1;
    }

    /// A server whose opening began in this round has logged in and reported these.
    pub fn opened(&mut self, reported: &ParameterSet, round: u64) {
        if round == self.round {
            self.parameters = Some(reported.clone());
            self.outdated = false;
        }
    }

    /// A server that was asked for in this round was had, alive and fit for use, and has reported these. Clients may
    /// have changed some of them, so only what describes the server is taken. Gives what to tell; nothing where the
    /// round is over.
    pub fn confirmed(&mut self, reported: &ParameterSet, round: u64) -> Option<ParameterSet> {
        if round != self.round {
            return None;
        }
        match &mut self.parameters {
            None => self.parameters = Some(reported.clone()),
            Some(parameters) => {
                let described = FIXED.iter().filter_map(|name| Some((name, reported.get(name)?)));
                *parameters = described.fold(parameters.clone(), |set, (name, value)| set.with(name, value));
            }
        }
        self.outdated = false;
        self.parameters.clone()
    }

    /// What a predecessor told new clients, unless a server of our own has told.
    pub fn adopt(&mut self, parameters: ParameterSet) {
        self.parameters.get_or_insert(parameters);
    }

    /// A server that leads where new ones lead has reported this.
    pub fn report(&mut self, name: &str, value: &str, cause: Cause) {
        let counts = cause == Cause::Server || FIXED.iter().any(|fixed| name.eq_ignore_ascii_case(fixed));
        if let Some(parameters) = &mut self.parameters
            && counts
            && value != UNREADABLE
            && parameters.get(name).is_some()
        {
            *parameters = parameters.with(name, value);
        }
    }

    /// A server that reported `before` says `after` now.
    pub fn heard(&mut self, before: &ParameterSet, after: &ParameterSet, cause: Cause) {
        for (name, value) in after.iter().filter(|(name, value)| before.get(name) != Some(value)) {
            self.report(name, value, cause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)]) -> ParameterSet {
        pairs.iter().copied().collect()
    }

    fn standby() -> ParameterSet {
        set(&[("in_hot_standby", "on"), ("TimeZone", "UTC"), ("default_transaction_read_only", "off")])
    }

    fn told(known: &Known, name: &str) -> Option<String> {
        known.current().and_then(|set| set.get(name)).map(str::to_owned)
    }

    fn known() -> Known {
        let mut known = Known::default();
        known.opened(&standby(), 0);
        known
    }

    #[test]
    fn each_server_opened_renews_it() {
        let mut known = known();

        known.opened(&standby().with("TimeZone", "Asia/Tokyo"), known.round());

        assert_eq!(told(&known, "TimeZone").as_deref(), Some("Asia/Tokyo"));
    }

    #[test]
    fn once_outdated_a_server_from_before_does_not_renew_it_and_a_new_one_does() {
        let mut known = known();
        let before = known.round();

        known.outdate();
        known.opened(&standby(), before);
        assert_eq!(known.confirmed(&standby(), before), None);

        assert_eq!((known.current(), known.is_any()), (None, true));
        known.opened(&standby().with("in_hot_standby", "off"), known.round());
        assert_eq!(told(&known, "in_hot_standby").as_deref(), Some("off"));
    }

    #[test]
    fn a_server_in_use_confirms_what_a_client_cannot_have_set() {
        let mut known = known();
        known.outdate();

        let told = known.confirmed(&standby().with("in_hot_standby", "off").with("TimeZone", "Asia/Tokyo"), 1).unwrap();

        assert_eq!(told, standby().with("in_hot_standby", "off"));
        assert_eq!(known.current(), Some(&told));
    }

    #[test]
    fn where_nothing_is_known_a_server_in_use_tells_all() {
        assert_eq!(Known::default().confirmed(&standby(), 0), Some(standby()));
    }

    #[test]
    fn a_client_cannot_change_what_others_are_told() {
        let mut known = known();

        for (name, value) in [("TimeZone", "Asia/Tokyo"), ("default_transaction_read_only", "on"), ("new", "x")] {
            known.report(name, value, Cause::Client);
        }
        assert_eq!(known.current(), Some(&standby()));

        known.report("IN_HOT_STANDBY", "off", Cause::Client);
        assert_eq!(known.current(), Some(&standby().with("in_hot_standby", "off")));
    }

    #[test]
    fn what_a_server_reports_by_itself_counts_where_it_is_known_and_readable() {
        let mut known = known();
        let after = standby().with("TimeZone", "Asia/Tokyo").with("new", "x").with("in_hot_standby", UNREADABLE);

        known.heard(&standby(), &after, Cause::Server);

        assert_eq!(known.current(), Some(&standby().with("TimeZone", "Asia/Tokyo")));
    }

    #[test]
    fn what_a_predecessor_told_gives_way_to_an_own_server() {
        let mut known = known();
        known.adopt(set(&[]));
        assert_eq!(known.current(), Some(&standby()));

        let mut fresh = Known::default();
        fresh.adopt(standby());
        assert_eq!(fresh.current(), Some(&standby()));
    }
}
