//! The conversation with one borrowed server: what it owes, in which transaction status it is, whether it may change
//! hands.
//!
//! Pure: told of each message in both directions, it answers what to do with it. `client::relay` moves the bytes.
//!
//! ```text
//!              Query, FunctionCall, Parse … Sync             ReadyForQuery(I), nothing owed
//!   at rest ───────────────────────────────────► exchanging ───────────────────────────────► at rest
//!                                                  │    ▲
//!                             CopyInResponse       ▼    │  CopyDone, CopyFail, ErrorResponse
//!                                                 copying in
//! ```
//!
//! After an ErrorResponse in the extended protocol PostgreSQL reads and drops everything up to the next Sync; the
//! replies owed up to there will never come, and what their requests changed in our books is taken back. While it
//! copies in, it ignores Flush and Sync (libpq sends them before it knows that the statement was a COPY). Manual:
//! "Extended Query", "COPY Operations", "Pipelining".

mod handover;

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::outstanding::{Action, Due, Kind, Outstanding, Undo};
use crate::wire::Backend;

/// Transaction status, as ReadyForQuery gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TransactionStatus {
    /// Not in a transaction block.
    Idle = b'I',
    /// In a transaction block.
    InTransaction = b'T',
    /// In a failed transaction block.
    Failed = b'E',
}

impl TransactionStatus {
    /// The status with this byte.
    pub fn from_byte(byte: u8) -> Option<TransactionStatus> {
        match byte {
            b'I' => Some(TransactionStatus::Idle),
            b'T' => Some(TransactionStatus::InTransaction),
            b'E' => Some(TransactionStatus::Failed),
            _ => None,
        }
    }
}

/// What becomes of a server message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The client gets it.
    Forward,
    /// The client does not get it.
    Skip,
}

/// Why a conversation cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The server sent ReadyForQuery though none was owed, or with an unknown status.
    UnexpectedReady,
    /// The server answered something nobody asked.
    UnexpectedReply,
}

/// The state of one server's conversation.
#[derive(Debug)]
pub struct Exchange {
    status: TransactionStatus,
    owed: Outstanding,
    /// Extended-protocol messages were sent that no Sync has followed yet.
    unsynced: bool,
    /// An error was reported: the server drops everything until it reads the next Sync.
    discarding: bool,
    /// The server reads copy data, in `CopyIn` or `CopyBoth`.
    copying_in: bool,
    /// Syncs sent so far: the number of the present batch.
    batch: u64,
    /// Statements that the server was asked to parse or to close, and has not answered for.
    booked: HashMap<u64, Booked>,
    /// Another program began it: nobody knows what was owed then.
    foreign: bool,
}

/// What is under way for one statement.
#[derive(Debug, Default)]
struct Booked {
    /// Replies owed.
    count: u32,
    /// The batch that asked last.
    batch: u64,
}

fn unbook(booked: &mut HashMap<u64, Booked>, undo: &Undo) {
    let Some(id) = undo.on_server() else { return };
    if let Entry::Occupied(mut entry) = booked.entry(id) {
        entry.get_mut().count -= 1;
        if entry.get().count == 0 {
            entry.remove();
        }
    }
}

impl Default for Exchange {
    fn default() -> Exchange {
        Exchange {
            status: TransactionStatus::Idle,
            owed: Outstanding::default(),
            unsynced: false,
            discarding: false,
            copying_in: false,
            batch: 0,
            booked: HashMap::new(),
            foreign: false,
        }
    }
}

impl Exchange {
    /// The transaction status as last reported.
    #[inline]
    pub fn status(&self) -> TransactionStatus {
        self.status
    }

    /// Does the server owe nothing, outside of any transaction, so that it may change hands?
    #[inline]
    pub fn at_rest(&self) -> bool {
        self.status == TransactionStatus::Idle && self.owed.is_empty() && !self.unsynced && !self.copying_in
    }

    /// Is the server waiting for the client, all replies given?
    #[inline]
    pub fn quiet(&self) -> bool {
        self.owed.is_empty() && !self.copying_in
    }

    /// Does the server read copy data?
    #[inline]
    pub fn copying_in(&self) -> bool {
        self.copying_in
    }

    /// Have messages of the extended protocol gone to the server that no Sync has followed yet?
    #[inline]
    pub fn unsynced(&self) -> bool {
        self.unsynced
    }

    /// Will the server drop what it is sent now, because an error came before it?
    #[inline]
    pub fn discarding(&self) -> bool {
        self.discarding
    }

    /// Do more replies stand out than we keep count of?
    pub fn overloaded(&self) -> bool {
        self.owed.len() > Outstanding::DUES_MAX
    }

    /// A Query or FunctionCall goes to the server.
    #[inline]
    pub fn ask(&mut self, kind: Kind) {
        if self.copying_in {
            // Not allowed while copying in; PostgreSQL fails the COPY with it, and answers that.
            self.copying_in = false;
        }
        if !self.discarding {
            self.owed.push(Due::forward(kind));
        }
    }

    /// A message of the extended protocol goes to the server (or is answered in its place: [`Action::Fake`]).
    #[inline]
    pub fn ask_extended(&mut self, due: Due) {
        self.unsynced = true;
        if !self.discarding {
            self.book(&due);
            self.owed.push(due);
        }
    }

    /// Is it open whether the server has this statement, because a batch before the present one may yet fail? Then what
    /// was booked for it there, a Parse or a Close, is not to be built on.
    #[inline]
    pub fn in_doubt(&self, statement: u64) -> bool {
        !self.booked.is_empty() && self.booked.get(&statement).is_some_and(|booked| booked.batch < self.batch)
    }

    /// Is a Parse or a Close of this statement under way to the server?
    pub fn is_booked(&self, statement: u64) -> bool {
        self.booked.contains_key(&statement)
    }

    fn book(&mut self, due: &Due) {
        if let Some(id) = due.undo.as_deref().and_then(Undo::on_server) {
            let booked = self.booked.entry(id).or_default();
            booked.count += 1;
            booked.batch = self.batch;
        }
    }

    /// A Sync goes to the server.
    #[inline]
    pub fn sync(&mut self) {
        if self.copying_in {
            return;
        }
        self.unsynced = false;
        self.discarding = false;
        self.batch += 1;
        self.owed.push(Due::forward(Kind::Sync));
    }

    /// A CopyDone or CopyFail goes to the server.
    #[inline]
    pub fn end_copy(&mut self) {
        if self.copying_in {
            self.copying_in = false;
            // In the extended protocol a Sync must still follow.
            self.unsynced = self.owed.next_kind() == Some(Kind::Execute);
        } else if !self.owed.is_empty() {
            self.owed.push(Due::forward(Kind::CopyEnd));
        }
    }

    /// The fakes that are due now, because all replies before them are through.
    #[inline]
    pub fn take_fake(&mut self) -> Option<Due> {
        self.owed.take_fake()
    }

    /// What a server message means for the conversation. ReadyForQuery and ErrorResponse have methods of their own.
    ///
    /// # Errors
    /// The server sent a reply that nobody asked for.
    #[inline]
    pub fn server_sent(&mut self, message: Backend) -> Result<Verdict, Violation> {
        let kind = match message {
            Backend::ParseComplete => Kind::Parse,
            Backend::BindComplete => Kind::Bind,
            Backend::CloseComplete => Kind::Close,
            // Only a Describe's last message ends it; in the simple protocol these belong to a Query.
            Backend::RowDescription | Backend::NoData => return Ok(self.optional(Kind::Describe)),
            Backend::CommandComplete | Backend::EmptyQueryResponse | Backend::PortalSuspended => {
                return Ok(self.optional(Kind::Execute));
            }
            Backend::CopyInResponse | Backend::CopyBothResponse => {
                self.begin_copy_in();
                return Ok(Verdict::Forward);
            }
            _ => return Ok(Verdict::Forward),
        };
        let Some(due) = self.owed.take(kind) else {
            return if self.foreign { Ok(Verdict::Forward) } else { Err(Violation::UnexpectedReply) };
        };
        if let Some(undo) = due.undo.as_deref() {
            unbook(&mut self.booked, undo);
        }
        Ok(if due.action == Action::Skip { Verdict::Skip } else { Verdict::Forward })
    }

    #[inline]
    fn optional(&mut self, kind: Kind) -> Verdict {
        match self.owed.take(kind) {
            Some(due) if due.action == Action::Skip => Verdict::Skip,
            _ => Verdict::Forward,
        }
    }

    fn begin_copy_in(&mut self) {
        self.copying_in = !self.owed.ignore_syncs_of_copy();
        if self.owed.next_kind() == Some(Kind::Execute) && !self.owed.has_sync() {
            self.unsynced = true;
        }
    }

    /// An ErrorResponse came. `undo` gets what must be taken back, latest first.
    pub fn failed(&mut self, mut undo: impl FnMut(Undo)) {
        self.copying_in = false;
        let Some(kind) = self.owed.next_kind() else {
            // Nobody asked: a FATAL on its way, such as "terminating connection due to administrator command"; or the
            // pipeline failed at a message that has no reply of its own.
            self.discarding = self.unsynced;
            return;
        };
        if kind.ends_with_ready() {
            return;
        }
        let booked = &mut self.booked;
        let synced = self.owed.fail_until_ready(|due| {
            if let Some(taken_back) = due.undo {
                unbook(booked, &taken_back);
                undo(*taken_back);
            }
        });
        self.discarding = !synced;
        self.unsynced = self.unsynced || !synced;
    }

    /// A ReadyForQuery came with this status byte.
    ///
    /// # Errors
    /// None was owed, or the status is unknown.
    #[inline]
    pub fn ready(&mut self, status: u8) -> Result<(), Violation> {
        self.status = TransactionStatus::from_byte(status).ok_or(Violation::UnexpectedReady)?;
        self.copying_in = false;
        match self.owed.take_ready() {
            None if !self.foreign => Err(Violation::UnexpectedReady),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extended(exchange: &mut Exchange, kinds: &[Kind]) {
        for kind in kinds {
            exchange.ask_extended(Due::forward(*kind));
        }
    }

    #[test]
    fn a_query_is_at_rest_after_ready_for_query_idle_only() {
        let mut exchange = Exchange::default();

        exchange.ask(Kind::Query);
        assert_eq!(exchange.server_sent(Backend::CommandComplete), Ok(Verdict::Forward));
        assert!(!exchange.at_rest());
        exchange.ready(b'T').unwrap();
        assert!(!exchange.at_rest() && exchange.quiet());

        exchange.ask(Kind::Query);
        exchange.ready(b'I').unwrap();
        assert!(exchange.at_rest());
    }

    #[test]
    fn a_flushed_pipeline_without_sync_keeps_its_server() {
        let mut exchange = Exchange::default();

        extended(&mut exchange, &[Kind::Parse, Kind::Bind, Kind::Execute]);
        for reply in [Backend::ParseComplete, Backend::BindComplete, Backend::CommandComplete] {
            assert_eq!(exchange.server_sent(reply), Ok(Verdict::Forward));
        }

        assert!(exchange.quiet() && !exchange.at_rest());
        exchange.sync();
        exchange.ready(b'I').unwrap();
        assert!(exchange.at_rest());
    }

    #[test]
    fn an_error_drops_the_replies_up_to_the_next_sync_and_no_further() {
        let mut exchange = Exchange::default();

        extended(&mut exchange, &[Kind::Parse, Kind::Bind, Kind::Execute]);
        exchange.sync();
        extended(&mut exchange, &[Kind::Bind, Kind::Execute]);
        exchange.sync();
        exchange.failed(|_| ());
        exchange.ready(b'I').unwrap();

        assert!(!exchange.at_rest());
        assert_eq!(exchange.server_sent(Backend::BindComplete), Ok(Verdict::Forward));
        assert_eq!(exchange.server_sent(Backend::CommandComplete), Ok(Verdict::Forward));
        exchange.ready(b'I').unwrap();
        assert!(exchange.at_rest());
    }

    #[test]
    fn what_follows_an_error_is_not_waited_for_until_the_sync_comes() {
        let mut exchange = Exchange::default();

        extended(&mut exchange, &[Kind::Parse]);
        exchange.failed(|_| ());
        assert!(exchange.discarding());
        extended(&mut exchange, &[Kind::Bind, Kind::Execute]);
        exchange.ask(Kind::Query);
        assert!(exchange.quiet() && !exchange.at_rest());

        exchange.sync();
        exchange.ready(b'I').unwrap();
        assert!(exchange.at_rest());
    }

    #[test]
    fn a_sync_sent_before_the_copy_was_known_is_ignored_as_postgres_does() {
        let mut exchange = Exchange::default();

        extended(&mut exchange, &[Kind::Parse, Kind::Bind, Kind::Describe, Kind::Execute]);
        exchange.sync();
        for reply in [Backend::ParseComplete, Backend::BindComplete, Backend::NoData, Backend::CopyInResponse] {
            assert_eq!(exchange.server_sent(reply), Ok(Verdict::Forward));
        }
        exchange.end_copy();
        exchange.sync();
        assert_eq!(exchange.server_sent(Backend::CommandComplete), Ok(Verdict::Forward));
        assert!(!exchange.at_rest());

        exchange.ready(b'I').unwrap();
        assert!(exchange.at_rest());
    }

    #[test]
    fn a_copy_sent_in_one_go_with_its_data_ignores_only_the_sync_before_the_data() {
        let mut exchange = Exchange::default();

        extended(&mut exchange, &[Kind::Parse, Kind::Bind, Kind::Execute]);
        exchange.sync();
        exchange.end_copy();
        exchange.sync();
        for reply in [Backend::ParseComplete, Backend::BindComplete, Backend::CopyInResponse, Backend::CommandComplete]
        {
            assert_eq!(exchange.server_sent(reply), Ok(Verdict::Forward));
        }
        assert!(!exchange.at_rest());

        exchange.ready(b'I').unwrap();
        assert!(exchange.at_rest());
    }

    #[test]
    fn copy_data_after_a_copy_that_failed_leaves_no_mark_behind() {
        let mut exchange = Exchange::default();

        exchange.ask(Kind::Query);
        exchange.end_copy();
        exchange.failed(|_| ());
        exchange.ready(b'I').unwrap();

        assert!(exchange.at_rest());
    }

    #[test]
    fn a_simple_copy_in_is_at_rest_after_its_one_ready_for_query() {
        let mut exchange = Exchange::default();

        exchange.ask(Kind::Query);
        exchange.server_sent(Backend::CopyInResponse).unwrap();
        assert!(!exchange.quiet());
        exchange.end_copy();
        exchange.server_sent(Backend::CommandComplete).unwrap();
        exchange.ready(b'I').unwrap();

        assert!(exchange.at_rest());
    }

    #[test]
    fn a_reply_nobody_asked_for_is_a_violation() {
        assert_eq!(Exchange::default().ready(b'I'), Err(Violation::UnexpectedReady));
        assert_eq!(Exchange::default().server_sent(Backend::ParseComplete), Err(Violation::UnexpectedReply));
    }

    #[test]
    fn skipped_and_faked_replies_keep_their_place() {
        let mut exchange = Exchange::default();
        let due = |kind, action| Due { kind, action, undo: None };

        exchange.ask_extended(due(Kind::Parse, Action::Skip));
        exchange.ask_extended(due(Kind::Bind, Action::Forward));
        exchange.ask_extended(due(Kind::Parse, Action::Fake));
        exchange.sync();

        assert!(exchange.take_fake().is_none());
        assert_eq!(exchange.server_sent(Backend::ParseComplete), Ok(Verdict::Skip));
        assert!(exchange.take_fake().is_none());
        assert_eq!(exchange.server_sent(Backend::BindComplete), Ok(Verdict::Forward));
        assert!(exchange.take_fake().is_some());
        exchange.ready(b'I').unwrap();
        assert!(exchange.at_rest());
    }

    #[test]
    fn a_stream_is_at_rest_after_both_sides_have_said_copy_done() {
        for server_first in [false, true] {
            let mut exchange = Exchange::default();
            exchange.ask(Kind::Query);
            assert_eq!(exchange.server_sent(Backend::CopyBothResponse), Ok(Verdict::Forward));
            assert!(!exchange.quiet());

            if server_first {
                exchange.server_sent(Backend::CopyDone).unwrap();
                assert!(!exchange.at_rest(), "the client may still send");
            }
            exchange.end_copy();
            if !server_first {
                exchange.server_sent(Backend::CopyDone).unwrap();
            }
            for message in [Backend::CommandComplete, Backend::CommandComplete] {
                assert_eq!(exchange.server_sent(message), Ok(Verdict::Forward));
            }
            assert!(!exchange.at_rest());
            exchange.ready(b'I').unwrap();
            assert!(exchange.at_rest());
        }
    }

    /// A walsender and its client, which does not ask before it was answered. Messages cross on their way.
    #[derive(Debug, Default)]
    struct Stream {
        exchange: Exchange,
        to_server: std::collections::VecDeque<char>,
        to_client: std::collections::VecDeque<char>,
        /// Does the server stream, and has it said CopyDone?
        streams: bool,
        server_done: bool,
        /// Was the client told of a stream it has not ended, and does it wait for ReadyForQuery?
        may_copy: bool,
        waits: bool,
    }

    impl Stream {
        fn client_says(&mut self, message: char) {
            match message {
                'q' | 'Q' => self.exchange.ask(Kind::Query),
                'c' => self.exchange.end_copy(),
                _ => {}
            }
            self.waits |= matches!(message, 'q' | 'Q');
            self.may_copy &= message != 'c';
            self.to_server.push_back(message);
        }

        fn server_acts(&mut self, choice: u8) {
            match (self.to_server.pop_front(), choice % 8) {
                // A plain command, one that streams, and one that fails.
                (Some('q'), 0) => self.to_client.extend("EZ".chars()),
                (Some('q'), _) => self.to_client.extend("TDCZ".chars()),
                (Some('Q'), _) => {
                    self.streams = true;
                    self.server_done = false;
                    self.to_client.push_back('W');
                }
                (Some('c'), _) if self.streams => {
                    self.streams = false;
                    self.to_client.extend(if self.server_done { "CCZ" } else { "cCCZ" }.chars());
                }
                (Some(_), _) => {}
                (None, 0) if self.streams => {
                    self.streams = false;
                    self.to_client.extend("EZ".chars());
                }
                (None, 1) if self.streams && !self.server_done => {
                    self.server_done = true;
                    self.to_client.push_back('c');
                }
                (None, _) if self.streams && !self.server_done => self.to_client.push_back('d'),
                (None, _) => {}
            }
        }

        fn client_hears(&mut self) {
            let Some(message) = self.to_client.pop_front() else { return };
            match message {
                'Z' => {
                    self.exchange.ready(b'I').unwrap();
                    (self.waits, self.may_copy) = (false, false);
                }
                'E' => {
                    self.exchange.failed(|_| ());
                    self.may_copy = false;
                }
                other => {
                    let message = Backend::from_byte(other as u8).unwrap();
                    assert_eq!(self.exchange.server_sent(message), Ok(Verdict::Forward));
                    self.may_copy |= other == 'W';
                }
            }
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]

        #[test]
        fn a_stream_is_at_rest_exactly_while_its_client_waits_for_nothing(
            steps in proptest::collection::vec((0u8..4, 0u8..8), 0..300)
        ) {
            let mut stream = Stream::default();
            for (who, choice) in steps {
                match (who, choice) {
                    (0, 0..4) if !stream.waits => stream.client_says(if choice == 0 { 'q' } else { 'Q' }),
                    (0, 0) if stream.may_copy => stream.client_says('c'),
                    (0, _) if stream.may_copy => stream.client_says('d'),
                    (1 | 2, _) => stream.server_acts(choice),
                    _ => stream.client_hears(),
                }
                proptest::prop_assert_eq!(stream.exchange.at_rest(), !stream.waits);
            }
            for choice in [2, 2, 2, 0].repeat(100) {
                if stream.may_copy {
                    stream.client_says('c');
                }
                stream.server_acts(choice);
                stream.client_hears();
            }
            proptest::prop_assert!(stream.exchange.at_rest());
        }
    }
}
