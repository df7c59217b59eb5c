//! The conversation with one server on loan: what it owes, in which transaction status it is, whether it may change
//! hands.
//!
//! Pure: it is shown each message in both directions and answers what to do with it. `client::relay` moves the bytes.
//!
//! ```text
//!              Query, FunctionCall, Parse … Sync             ReadyForQuery(I), nothing owed
//!   at rest ───────────────────────────────────► exchanging ───────────────────────────────► at rest
//!                                                  │    ▲
//!                             CopyInResponse       ▼    │  CommandComplete, or ErrorResponse: then perhaps undecided
//!                                                 copying in
//! ```
//!
//! After an ErrorResponse to a message of the extended protocol PostgreSQL reads and drops everything up to the next
//! Sync, a Query too; the replies owed up to there will never come, and what their requests changed in our books is
//! taken back. While it copies in, it ignores Flush and Sync (libpq sends them before it knows that the statement is a
//! COPY). When that COPY fails, nobody but PostgreSQL knows which of the Syncs it had read by then: `undecided`.
//! Manual: "Extended Query", "COPY Operations", "Pipelining".

mod handover;
#[cfg(any(test, fuzzing))]
pub mod model;
mod undecided;
#[cfg(test)]
mod work;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

pub use self::undecided::Probe;
use self::undecided::Reading;
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
    /// A COPY failed, and what the server says since then fits two accounts of what it has read.
    Undecidable,
}

/// The state of one server's conversation.
#[derive(Clone, Debug)]
pub struct Exchange {
    status: TransactionStatus,
    owed: Outstanding,
    /// Extended-protocol messages were sent that no Sync, Query or FunctionCall has followed yet.
    unsynced: bool,
    /// An error was reported: the server drops everything until it reads the next Sync.
    discarding: bool,
    /// The server reads copy data: CopyInResponse or CopyBothResponse came, and no end of that COPY.
    copying_in: bool,
    /// A COPY that a Query began has failed; so many of those behind the Query it may have read or not.
    copy_failed: Option<usize>,
    /// What the server may have read, where that is open; two at least, or none.
    readings: Vec<Reading>,
    /// Syncs sent so far: the number of the present batch.
    batch: u64,
    /// Statements that the server was asked to parse or to close, and has not answered for.
    booked: HashMap<u64, Booked>,
    /// The latest request that may make or drop prepared statements by name, and the batch it belongs to: that of its
    /// own for a Query, whose answer comes without a Sync.
    changes: Option<(u64, Option<u64>)>,
    /// The request that dropped all prepared statements last: nothing named before it is brought back.
    cleared: u64,
    /// Another program began it: nobody knows what was owed then.
    foreign: bool,
}

/// What is under way for one statement.
#[derive(Clone, Debug, Default)]
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
            copy_failed: None,
            readings: Vec::new(),
            batch: 0,
            booked: HashMap::new(),
            changes: None,
            cleared: 0,
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

    /// Will the server drop what it is sent now, because an error came before it?
    #[inline]
    pub fn discarding(&self) -> bool {
        self.discarding
    }

    /// Does the server read copy data, as far as it has said?
    #[inline]
    pub fn copying_in(&self) -> bool {
        self.copying_in
    }

    /// Were messages of the extended protocol sent that no Sync, Query or FunctionCall has followed?
    #[inline]
    pub fn unsynced(&self) -> bool {
        self.unsynced
    }

    /// Is so much owed that the client must not be read any further?
    #[inline]
    pub fn is_full(&self) -> bool {
        self.owed.is_full()
    }

    /// Is so much owed, and the server waits for what the client has sent behind it?
    #[cold]
    pub fn is_stuck(&self) -> bool {
        self.is_full() && (self.copying_in || self.may_owe_nothing())
    }

    /// Must the answer to a Parse come from the server itself, because what is still owed before it may end a
    /// transaction block, or fail one, or copy? In a failed block PostgreSQL refuses a Parse.
    #[inline]
    pub fn may_refuse_parse(&self) -> bool {
        self.status == TransactionStatus::Failed || self.owed.has_ready() || self.may_copy()
    }

    /// May the server read copy data when it comes to what is sent now? There PostgreSQL takes nothing but what belongs
    /// to a COPY, so that the server itself has to see it: an answer in its place would be one that nobody gets.
    #[inline]
    pub fn may_copy(&self) -> bool {
        self.owed.may_copy() || self.is_undecided()
    }

    /// The request whose reply is due next, or one behind it, has dropped all prepared statements (DISCARD ALL): its
    /// number.
    pub fn dropped_statements(&mut self) -> u64 {
        self.cleared = self.owed.next_number();
        self.cleared
    }

    /// A client goes on with this server. Its names were given by requests with numbers up to this one, on other
    /// servers too: those to come are numbered from above it.
    pub fn number_from(&mut self, number: u64) {
        self.owed.number_beyond(number);
        self.cleared = 0;
    }

    /// The number of the latest request.
    pub fn last_number(&self) -> u64 {
        self.owed.last_number()
    }

    /// The requests of which the replies are owed.
    pub fn owed(&self) -> impl Iterator<Item = &Due> {
        self.owed.iter()
    }

    /// The Parses with these numbers never took place: a Close of what they prepared has nothing to bring back.
    pub fn forget_closes_of(&mut self, parses: &HashSet<u64>) {
        self.owed.forget_closes_of(parses);
    }

    /// A Query or FunctionCall goes to the server.
    #[inline]
    pub fn ask(&mut self, kind: Kind) {
        if !self.discarding {
            // It ends the implicit transaction of what came before it.
            self.unsynced = false;
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

    /// The latest request may make or drop prepared statements by name.
    pub fn changes_statements(&mut self) {
        let by_query = self.owed.last_kind() == Some(Kind::Query);
        self.changes = Some((self.owed.last_number(), (!by_query).then_some(self.batch)));
    }

    /// Is such a request under way, of which the answer comes whatever the client does?
    #[inline]
    pub fn is_changing_statements(&self) -> bool {
        let Some((number, batch)) = self.changes else { return false };
        !self.owed.is_empty() && number >= self.owed.next_number() && batch.is_none_or(|batch| batch < self.batch)
    }

    /// Is a Parse or a Close of any statement under way to the server?
    #[inline]
    pub fn has_booked(&self) -> bool {
        !self.booked.is_empty()
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
        self.sync_for(Action::Forward);
    }

    fn sync_for(&mut self, action: Action) {
        self.unsynced = false;
        self.discarding = false;
        self.batch += 1;
        self.owed.push(Due::new(Kind::Sync, action, None));
        if !self.readings.is_empty() {
            self.sync_ends_skipping();
        }
    }

    /// A Flush goes to the server that has a body, which PostgreSQL answers with an error. One without has no answer.
    #[cold]
    pub fn flush_with_body(&mut self) {
        if !self.discarding {
            self.owed.push(Due::forward(Kind::BadFlush));
        }
    }

    /// A CopyDone or CopyFail goes to the server. Outside of a COPY it is ignored.
    #[inline]
    pub fn end_copy(&mut self) {
        if !self.owed.is_empty() && !self.discarding {
            self.owed.push(Due::forward(Kind::CopyEnd));
        }
    }

    /// The fakes that are due now, because all replies before them are through.
    #[inline]
    pub fn take_fake(&mut self) -> Option<Due> {
        if self.readings.is_empty() { self.owed.take_fake() } else { None }
    }

    /// What a server message means for the conversation. ReadyForQuery and ErrorResponse have methods of their own.
    /// Where [`Exchange::is_undecided`], [`Exchange::decide`] comes first.
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
                if self.copying_in {
                    self.copied_in();
                }
                return Ok(self.optional(Kind::Execute));
            }
            Backend::CopyInResponse | Backend::CopyBothResponse => {
                self.copying_in = true;
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
        Ok(verdict(&due))
    }

    #[inline]
    fn optional(&mut self, kind: Kind) -> Verdict {
        self.owed.take(kind).as_ref().map_or(Verdict::Forward, verdict)
    }

    /// A COPY has ended well: the server has read all up to its end, and ignored the Syncs in there.
    #[cold]
    fn copied_in(&mut self) {
        self.copying_in = false;
        self.owed.copy_has_ended();
        // The Sync behind it was one of those. (A Query owed ends the batch as well.)
        if self.owed.next_kind() == Some(Kind::Execute) && !self.owed.has_ready() {
            self.unsynced = true;
        }
    }

    /// An ErrorResponse came. `undo` gets what must be taken back, latest first, with the number of its request. Where
    /// [`Exchange::is_undecided`], [`Exchange::decide`] comes first.
    ///
    /// # Errors
    /// A COPY failed, and more Syncs were sent into it than we keep account of.
    pub fn failed(&mut self, undo: impl FnMut(u64, Undo)) -> Result<(), Violation> {
        let copied = std::mem::take(&mut self.copying_in);
        match self.owed.next_kind() {
            // Nobody asked: a FATAL on its way, such as "terminating connection due to administrator command".
            None => self.discarding = self.unsynced,
            Some(Kind::Execute) if copied => self.copy_by_execute_failed(undo)?,
            Some(kind) if kind.ends_with_ready() => {
                if copied {
                    self.copy_by_query_failed()?;
                }
            }
            Some(_) => self.skip_to_sync(undo),
        }
        Ok(())
    }

    /// The server drops everything up to the next Sync.
    fn skip_to_sync(&mut self, mut undo: impl FnMut(u64, Undo)) {
        let mut skipped = Vec::new();
        let booked = &mut self.booked;
        let synced = self.owed.skip_to_sync(|due| {
            if let Some(taken_back) = due.undo {
                unbook(booked, &taken_back);
                skipped.push((due.number, *taken_back));
            }
        });
        self.discarding = !synced;
        self.unsynced = self.unsynced || !synced;
        let cleared = self.cleared;
        let taken_back = skipped.into_iter().rev().filter(|(_, taken_back)| !taken_back.is_of_before(cleared));
        taken_back.for_each(|(number, taken_back)| undo(number, taken_back));
    }

    /// A ReadyForQuery came with this status byte. Where [`Exchange::is_undecided`], [`Exchange::decide`] comes first.
    ///
    /// # Errors
    /// None was owed, or the status is unknown.
    #[inline]
    pub fn ready(&mut self, status: u8) -> Result<Verdict, Violation> {
        self.status = TransactionStatus::from_byte(status).ok_or(Violation::UnexpectedReady)?;
        self.copying_in = false;
        match self.owed.next_kind() {
            Some(kind) if kind.ends_with_ready() => {}
            _ if self.foreign => {
                self.owed.skip_to_sync(|_| ());
            }
            _ => return Err(Violation::UnexpectedReady),
        }
        let verdict = match self.copy_failed.take() {
            None => self.owed.pop().as_ref().map_or(Verdict::Forward, verdict),
            Some(open) => self.begin_readings_after_query(open),
        };
        Ok(verdict)
    }
}

fn verdict(due: &Due) -> Verdict {
    if due.action == Action::Skip { Verdict::Skip } else { Verdict::Forward }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::protocol::statements::Statement;

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
        exchange.failed(|_, _| ()).unwrap();
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
        exchange.failed(|_, _| ()).unwrap();
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
        exchange.failed(|_, _| ()).unwrap();
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
    fn a_query_in_a_batch_ends_it() {
        let mut exchange = Exchange::default();

        extended(&mut exchange, &[Kind::Parse, Kind::Bind, Kind::Execute]);
        exchange.ask(Kind::Query);
        for reply in [Backend::ParseComplete, Backend::BindComplete, Backend::CommandComplete, Backend::CommandComplete]
        {
            assert_eq!(exchange.server_sent(reply), Ok(Verdict::Forward));
        }
        exchange.ready(b'I').unwrap();

        assert!(exchange.at_rest(), "there is nothing left that a Sync would end");
    }

    #[test]
    fn a_query_behind_an_error_in_its_batch_is_dropped() {
        let mut exchange = Exchange::default();

        extended(&mut exchange, &[Kind::Parse]);
        exchange.ask(Kind::Query);
        exchange.sync();
        exchange.failed(|_, _| ()).unwrap();
        assert!(!exchange.at_rest());
        exchange.ready(b'I').unwrap();

        assert!(exchange.at_rest());
    }

    #[test]
    fn a_batch_around_a_query_fails_as_a_whole() {
        let mut exchange = Exchange::default();

        extended(&mut exchange, &[Kind::Parse]);
        exchange.ask(Kind::Query);
        assert!(exchange.may_refuse_parse() && exchange.may_copy(), "no answer is invented behind the Query");
        let parsed = Undo::Parsed { name: Some(b"a".as_slice().into()), sent: Some(1) };
        exchange.ask_extended(Due::new(Kind::Parse, Action::Forward, Some(parsed)));
        extended(&mut exchange, &[Kind::Close]);
        exchange.sync();
        let mut undone = Vec::new();
        exchange.failed(|number, _| undone.push(number)).unwrap();

        assert_eq!((undone, exchange.take_fake().is_some()), (vec![3], false));
        exchange.ready(b'I').unwrap();
        assert!(exchange.at_rest() && exchange.take_fake().is_none());
    }

    #[test]
    fn a_query_behind_a_copy_of_its_batch_ends_the_batch() {
        let mut exchange = Exchange::default();

        extended(&mut exchange, &[Kind::Execute]);
        exchange.end_copy();
        exchange.ask(Kind::Query);
        for message in [Backend::CopyInResponse, Backend::CommandComplete, Backend::CommandComplete] {
            assert_eq!(exchange.server_sent(message), Ok(Verdict::Forward));
        }
        exchange.ready(b'I').unwrap();

        assert!(exchange.at_rest());
    }

    #[test]
    fn a_close_behind_discard_all_brings_nothing_back() {
        let statement = Arc::new(Statement::new(1, b"SELECT 1\0\0\0"));
        let mut exchange = Exchange::default();
        exchange.number_from(10);

        exchange.ask(Kind::Query);
        for number in [7, 12] {
            let closed = Undo::ClientClosed { name: b"a".as_slice().into(), statement: statement.clone(), number };
            exchange.ask_extended(Due::new(Kind::Close, Action::Forward, Some(closed)));
        }
        assert_eq!(exchange.dropped_statements(), 11);
        exchange.server_sent(Backend::CommandComplete).unwrap();
        exchange.ready(b'I').unwrap();
        let mut undone = Vec::new();
        exchange.failed(|number, _| undone.push(number)).unwrap();

        assert_eq!(undone, [13], "the name that was given behind it");

        exchange.sync();
        exchange.ready(b'I').unwrap();
        exchange.number_from(5);
        let closed = Undo::ClientClosed { name: b"a".as_slice().into(), statement, number: 5 };
        exchange.ask_extended(Due::new(Kind::Close, Action::Forward, Some(closed)));
        exchange.failed(|number, _| undone.push(number)).unwrap();
        assert_eq!(undone, [13, 15], "what another client did is of no matter");
    }

    #[test]
    fn skipped_and_faked_replies_keep_their_place() {
        let mut exchange = Exchange::default();
        let due = |kind, action| Due::new(kind, action, None);

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
                    self.exchange.failed(|_, _| ()).unwrap();
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
