//! One client, pgweir's side of the conversation, and the model of the server, one event after the other.
//!
//! It does what `client::relay` and `client::prepared` do with an [`Exchange`], without their bytes.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::{Answer, Block, By, Expected, Fate, Message, Name, Renames, Sent, Server, Sql};
use crate::protocol::exchange::{Exchange, Probe, Verdict, Violation};
use crate::protocol::outstanding::{Action, Due, Kind, Undo};
use crate::protocol::statements::Statement;
use crate::wire::Backend;

/// What a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Query,
    /// A Query with DEALLOCATE, PREPARE or the like.
    QueryChanges,
    Discard,
    FunctionCall,
    Sync,
    SyncWithBody,
    Flush,
    FlushWithBody,
    CopyData,
    CopyDone,
    CopyFail,
    ParseUnnamed,
    BindUnnamed,
    /// A text with DEALLOCATE, PREPARE or the like, as the unnamed statement.
    ParseChanges,
    Execute,
    ClosePortal,
    /// A name, and the text.
    Parse(Name, u64),
    Bind(Name),
    Describe(Name),
    Close(Name),
}

/// How a conversation ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The server has ended it, because of a message that must not come in a COPY.
    ServerGone,
    /// The same, by a message of ours.
    Killed,
    /// The exchange gave up at this message of the server's.
    Undecidable(Backend),
}

/// A client that sends nothing behind a Query or a Sync before the ReadyForQuery, as libpq does outside of its pipeline
/// mode, but for what a COPY wants: CopyData, CopyDone or CopyFail, and a Sync if it began the COPY with an Execute
/// (one has gone before it knew). It does so, too, where it has an error already; or it does not.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub(super) struct Waiting {
    waits: bool,
    copies: bool,
    by_execute: bool,
    owes_sync: bool,
}

impl Waiting {
    fn may_send(self, ask: Ask) -> bool {
        match ask {
            Ask::CopyData | Ask::CopyDone | Ask::CopyFail => self.copies,
            Ask::Sync if self.owes_sync => true,
            _ => !self.waits && !self.owes_sync,
        }
    }

    fn sent(&mut self, ask: Ask) {
        match ask {
            Ask::CopyData => {}
            Ask::CopyDone | Ask::CopyFail => (self.copies, self.owes_sync) = (false, self.by_execute),
            Ask::Sync => (self.waits, self.owes_sync) = (true, false),
            Ask::Query | Ask::QueryChanges | Ask::Discard | Ask::FunctionCall => {
                *self = Waiting { waits: true, ..Waiting::default() };
            }
            _ => (self.copies, self.by_execute) = (false, true),
        }
    }

    fn got(&mut self, message: Backend) {
        match message {
            Backend::CopyInResponse => self.copies = true,
            Backend::ReadyForQuery => self.waits = false,
            _ => {}
        }
    }
}

/// A client's name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named {
    statement: u64,
    number: u64,
}

/// What pgweir knows of the statements on the server.
#[derive(Clone, Debug, Default)]
pub(super) struct Books {
    known: BTreeMap<u64, u64>,
    suspects: BTreeSet<u64>,
    names_taken: bool,
}

/// All there is.
#[derive(Clone, Debug)]
pub(super) struct Conversation {
    pub(super) exchange: Exchange,
    pub(super) server: Server,
    pub(super) names: BTreeMap<Name, Named>,
    pub(super) books: Books,
    /// The client has parsed a text, on this loan, that may change statements.
    pub(super) runs_changes: bool,
    /// Requests in the exchange's books that have something to take back, and what the server made of them.
    pub(super) fates: BTreeMap<u64, Option<Fate>>,
    /// What was taken back before the server came to it: it must drop it.
    pub(super) taken_back: BTreeSet<u64>,
    /// A name was given anew while the Close of it might still fail.
    pub(super) is_name_contested: bool,
    pub(super) end: Option<End>,
    /// A client that waits for answers; or it sends what it likes.
    pub(super) waiting: Option<Waiting>,
    /// It may go on with the other server.
    pub(super) has_two_servers: bool,
    /// It is gone: nobody takes the answers.
    pub(super) has_left: bool,
    /// Another server, at rest, with what is known of it.
    pub(super) other: Option<Box<(Exchange, Server, Books)>>,
    pub(super) statements: Arc<[Arc<Statement>]>,
}

impl Conversation {
    pub(super) fn new(is_rich: bool) -> Conversation {
        let statements = (0..=3).map(|id| Arc::new(Statement::new(id, b"SELECT 1\0\0\0"))).collect();
        Conversation {
            exchange: Exchange::default(),
            server: Server { is_rich, ..Server::default() },
            names: BTreeMap::new(),
            books: Books::default(),
            runs_changes: false,
            fates: BTreeMap::new(),
            taken_back: BTreeSet::new(),
            is_name_contested: false,
            end: None,
            waiting: None,
            has_two_servers: false,
            has_left: false,
            other: None,
            statements,
        }
    }

    /// May the client go on with another server?
    pub(super) fn may_part(&self) -> bool {
        self.exchange.at_rest() && self.end.is_none()
    }

    /// It does.
    pub(super) fn part(&mut self) {
        self.runs_changes = false;
        let other = self.other.take().unwrap_or_default();
        let (exchange, server, books) = *other;
        let before = std::mem::replace(&mut self.server, server);
        self.server.names = before.names.clone();
        self.server.is_rich = before.is_rich;
        let books = std::mem::replace(&mut self.books, books);
        self.other = Some(Box::new((std::mem::replace(&mut self.exchange, exchange), before, books)));
        let latest = self.names.values().map(|named| named.number).max();
        self.exchange.number_from(latest.unwrap_or_default());
    }

    /// May the client send this now? What it must not send in any state is not asked of it.
    pub(super) fn may_send(&self, ask: Ask) -> bool {
        if self.waiting.is_some_and(|waiting| !waiting.may_send(ask)) {
            return false;
        }
        if self.exchange.discarding() {
            return true;
        }
        match ask {
            // In use, the name ends the client, or the Parse waits.
            Ask::Parse(name, _) => !self.names.contains_key(&name),
            Ask::Bind(name) | Ask::Describe(name) => {
                let in_doubt = |named: &Named| self.exchange.in_doubt(named.statement) && self.may_wait();
                self.names.get(&name).is_some_and(|named| !in_doubt(named))
            }
            _ => true,
        }
    }

    fn may_wait(&self) -> bool {
        !self.exchange.copying_in() && !self.exchange.is_undecided()
    }

    /// The client's message comes to pgweir, which sends it on.
    pub(super) fn send(&mut self, ask: Ask) {
        if let Some(waiting) = &mut self.waiting {
            waiting.sent(ask);
        }
        let plain = Message::of_client;
        match ask {
            Ask::Query | Ask::QueryChanges | Ask::Discard => {
                self.exchange.ask(Kind::Query);
                let sql = match ask {
                    Ask::Query => Sql::Plain,
                    Ask::QueryChanges => Sql::Changes,
                    _ => Sql::Discards,
                };
                if sql != Sql::Plain {
                    self.changes_statements();
                }
                self.send_to_server(plain(Sent::Query(sql)));
            }
            Ask::FunctionCall => {
                self.exchange.ask(Kind::FunctionCall);
                self.send_to_server(plain(Sent::FunctionCall));
            }
            Ask::Sync | Ask::SyncWithBody => {
                self.exchange.sync();
                self.send_to_server(plain(if ask == Ask::Sync { Sent::Sync } else { Sent::SyncWithBody }));
            }
            Ask::CopyDone | Ask::CopyFail => {
                self.exchange.end_copy();
                self.send_to_server(plain(if ask == Ask::CopyDone { Sent::CopyDone } else { Sent::CopyFail }));
            }
            Ask::FlushWithBody => {
                self.exchange.flush_with_body();
                self.send_to_server(plain(Sent::FlushWithBody));
            }
            Ask::CopyData => self.send_to_server(plain(Sent::CopyData)),
            Ask::Flush => self.send_to_server(plain(Sent::Flush)),
            Ask::ParseUnnamed => return self.through(Kind::Parse, plain(Sent::Parse(None))),
            Ask::BindUnnamed => return self.through(Kind::Bind, plain(Sent::Bind(None))),
            Ask::ParseChanges => {
                self.runs_changes |= !self.exchange.discarding();
                return self.through(Kind::Parse, plain(Sent::Parse(None)));
            }
            Ask::Execute => {
                let (looks, sql) =
                    (!self.exchange.discarding(), if self.runs_changes { Sql::Changes } else { Sql::Plain });
                self.through(Kind::Execute, plain(Sent::Execute(sql)));
                if looks && self.runs_changes {
                    self.changes_statements();
                }
                return;
            }
            Ask::ClosePortal => return self.through(Kind::Close, plain(Sent::Close(None))),
            Ask::Parse(..) | Ask::Bind(_) | Ask::Describe(_) | Ask::Close(_) if self.exchange.discarding() => {
                let raw = |sent| Message { is_raw: true, ..plain(sent) };
                return match ask {
                    Ask::Parse(..) => self.through(Kind::Parse, raw(Sent::Parse(None))),
                    Ask::Bind(_) => self.through(Kind::Bind, raw(Sent::Bind(None))),
                    Ask::Describe(_) => self.through(Kind::Describe, raw(Sent::Describe(None))),
                    _ => self.through(Kind::Close, raw(Sent::Close(None))),
                };
            }
            Ask::Parse(name, text) => return self.parse(name, text),
            Ask::Bind(name) => {
                let id = self.ensure(name);
                return self.through(Kind::Bind, plain(Sent::Bind(Some(id))));
            }
            Ask::Describe(name) => {
                let id = self.ensure(name);
                return self.through(Kind::Describe, plain(Sent::Describe(Some(id))));
            }
            Ask::Close(name) => return self.close(name),
        }
        self.probe();
    }

    fn send_to_server(&mut self, message: Message) {
        self.server.arrived.push_back(message);
        self.server.settle();
    }

    fn through(&mut self, kind: Kind, message: Message) {
        self.exchange.ask_extended(Due::forward(kind));
        self.send_to_server(message);
    }

    /// Books a request with something to take back, and sends it.
    fn book(&mut self, kind: Kind, by: By, undo: Undo, sent: Sent, renames: Option<Renames>) -> u64 {
        let action = match by {
            By::Client => Action::Forward,
            By::Proxy => Action::Skip,
            By::Faked => Action::Fake,
        };
        self.exchange.ask_extended(Due::new(kind, action, Some(undo)));
        let number = self.exchange.last_number();
        self.fates.insert(number, None);
        self.send_to_server(Message { sent, by, number: Some(number), renames, is_raw: false });
        number
    }

    fn parse(&mut self, name: Name, id: u64) {
        let renames = Some(Renames::Gives(name, id));
        let bytes: Box<[u8]> = Box::new([name]);
        // PostgreSQL may still have the name, and refuse it.
        self.is_name_contested |= self.may_fail_to_close(name);
        let number = if !self.is_there(id) {
            self.prepare(id, By::Client, Some(bytes), renames)
        } else if self.exchange.may_refuse_parse() {
            self.close_on_server(id);
            self.prepare(id, By::Client, Some(bytes), renames)
        } else {
            let undo = Undo::Parsed { name: Some(bytes), sent: None };
            self.book(Kind::Parse, By::Faked, undo, Sent::Parse(Some(id)), renames)
        };
        self.names.insert(name, Named { statement: id, number });
        self.write_fakes();
    }

    fn close(&mut self, name: Name) {
        let renames = Some(Renames::Takes(name));
        let removed = self.names.remove(&name);
        // The Close before it may be taken back, which brings back the name.
        self.is_name_contested |= removed.is_none() && self.may_fail_to_close(name);
        let undo = removed.map(|named| Undo::ClientClosed {
            name: Box::new([name]),
            statement: self.statements[named.statement as usize].clone(),
            number: named.number,
        });
        let (by, action) = match self.exchange.may_copy() {
            true => (By::Client, Action::Forward),
            false => (By::Faked, Action::Fake),
        };
        self.exchange.ask_extended(Due::new(Kind::Close, action, undo));
        let number = self.exchange.last_number();
        if removed.is_some() {
            self.fates.insert(number, None);
        }
        self.send_to_server(Message { sent: Sent::Close(None), by, number: Some(number), renames, is_raw: false });
        self.write_fakes();
    }

    /// Is a Close of this name under way?
    fn may_fail_to_close(&self, name: Name) -> bool {
        self.exchange.owed().any(|due| match due.undo.as_deref() {
            Some(Undo::ClientClosed { name: closed, .. }) => **closed == [name],
            _ => false,
        })
    }

    fn ensure(&mut self, name: Name) -> u64 {
        let id = self.names[&name].statement;
        if !self.is_there(id) {
            self.prepare(id, By::Proxy, None, None);
        }
        id
    }

    fn is_there(&self, id: u64) -> bool {
        self.books.known.contains_key(&id) && !self.exchange.in_doubt(id)
    }

    fn prepare(&mut self, id: u64, by: By, name: Option<Box<[u8]>>, renames: Option<Renames>) -> u64 {
        for suspect in std::mem::take(&mut self.books.suspects) {
            self.close_on_server(suspect);
        }
        if self.exchange.in_doubt(id) || self.books.names_taken {
            self.close_on_server(id);
        }
        let undo = Undo::Parsed { name, sent: Some(id) };
        let number = self.book(Kind::Parse, by, undo, Sent::Parse(Some(id)), renames);
        self.books.known.insert(id, number);
        // At most two are kept.
        let evicted =
            if self.books.known.len() > 2 { self.books.known.keys().copied().find(|known| *known != id) } else { None };
        if let Some(evicted) = evicted {
            self.books.known.remove(&evicted);
            self.close_on_server(evicted);
        }
        number
    }

    fn close_on_server(&mut self, id: u64) {
        self.book(Kind::Close, By::Proxy, Undo::ServerClosed(id), Sent::Close(Some(id)), None);
    }

    fn changes_statements(&mut self) {
        self.exchange.changes_statements();
        self.books.names_taken = true;
        self.books.suspects.extend(std::mem::take(&mut self.books.known).into_keys());
    }

    fn probe(&mut self) {
        let Some(probe) = self.exchange.probe() else { return };
        let ours = |sent| Message { sent, by: By::Proxy, number: None, renames: None, is_raw: false };
        if probe == Probe::CloseAndSync {
            self.send_to_server(ours(Sent::Close(None)));
        }
        self.send_to_server(ours(Sent::Sync));
    }

    fn write_fakes(&mut self) {
        while let Some(due) = self.exchange.take_fake() {
            let expected = self.server.expected.pop_front();
            let nobody_cares = self.server.is_dead || self.has_left;
            let is_right = expected == Some(Expected::Fake(due.number)) || nobody_cares;
            assert!(is_right, "the answer of ours to {due:?} before {expected:?}");
        }
    }

    /// pgweir takes one message of the server's.
    pub(super) fn take(&mut self) {
        let Some(answer) = self.server.answers.pop_front() else { return };
        match self.server_message(answer) {
            Ok(()) => {}
            Err(Violation::Undecidable) => self.end = Some(End::Undecidable(answer.message)),
            // Whatever it is that a dying server still says.
            Err(_) if self.server.is_dead => self.end = Some(End::ServerGone),
            Err(violation) => panic!("{violation:?} at {answer:?}"),
        }
        if self.server.is_dead && self.server.answers.is_empty() {
            self.end = Some(if self.server.is_killed_by_us { End::Killed } else { End::ServerGone });
        }
    }

    fn server_message(&mut self, answer: Answer) -> Result<(), Violation> {
        if self.exchange.is_undecided() && self.undecided_message(answer)? {
            return Ok(());
        }
        match answer.message {
            Backend::ReadyForQuery => {
                let verdict = self.exchange.ready(answer.status)?;
                self.pass_back(answer, verdict);
                self.write_fakes();
                self.probe();
            }
            Backend::ErrorResponse => {
                self.pass_back(answer, Verdict::Forward);
                let mut undone = Vec::new();
                self.exchange.failed(|number, undo| undone.push((number, undo)))?;
                self.take_back(undone);
                self.probe();
            }
            message => {
                self.command_complete(answer);
                let verdict = self.exchange.server_sent(message)?;
                self.pass_back(answer, verdict);
                self.write_fakes();
            }
        }
        Ok(())
    }

    fn command_complete(&mut self, answer: Answer) {
        if !answer.drops_all {
            return;
        }
        let number = self.exchange.dropped_statements();
        self.names.retain(|_, named| named.number > number);
        // What a Close behind it would bring back is gone.
        let is_of_before = |due: &&Due| due.undo.as_deref().is_some_and(|undo| undo.is_of_before(number));
        for due in self.exchange.owed().filter(is_of_before) {
            self.fates.remove(&due.number);
        }
        self.books.known.retain(|_, known| *known > number);
        // Nobody knows which request it was: what came behind the first is kept.
        self.is_name_contested |= self.exchange.is_undecided() && !self.names.is_empty();
    }

    fn undecided_message(&mut self, answer: Answer) -> Result<bool, Violation> {
        self.command_complete(answer);
        let is_ready = answer.message == Backend::ReadyForQuery;
        let mut undone = Vec::new();
        let status = is_ready.then_some(answer.status);
        let verdict = self.exchange.decide(answer.message, status, |number, undo| undone.push((number, undo)))?;
        self.take_back(undone);
        let Some(verdict) = verdict else {
            self.write_fakes();
            return Ok(false);
        };
        self.pass_back(answer, verdict);
        self.write_fakes();
        self.probe();
        Ok(true)
    }

    fn pass_back(&mut self, answer: Answer, verdict: Verdict) {
        let is_hidden = verdict == Verdict::Skip;
        assert_eq!(is_hidden, answer.is_hidden, "what becomes of {answer:?}");
        if !is_hidden && let Some(waiting) = &mut self.waiting {
            waiting.got(answer.message);
        }
        if !is_hidden && answer.id != 0 && !self.has_left {
            assert_eq!(self.server.expected.pop_front(), Some(Expected::Answer(answer.id)), "an answer in its place");
        }
    }

    fn take_back(&mut self, undone: Vec<(u64, Undo)>) {
        assert!(undone.is_sorted_by(|(a, _), (b, _)| a > b), "latest first");
        let mut replaced = HashSet::new();
        for (number, undo) in undone {
            match self.fates.remove(&number) {
                // What it says last is no answer to anything.
                _ if self.server.is_dead => {}
                Some(Some(Fate::Dropped)) => {}
                Some(None) => assert!(self.taken_back.insert(number)),
                Some(Some(Fate::Done)) => panic!("request {number} was carried out, and is taken back: {undo:?}"),
                None => panic!("request {number} is taken back, and not booked: {undo:?}"),
            }
            match undo {
                Undo::Parsed { name, sent } => {
                    if name.is_some_and(|name| !self.undo_parse(name[0], number)) {
                        replaced.insert(number);
                    }
                    sent.into_iter().for_each(|id| self.doubt(id));
                }
                Undo::ClientClosed { name, statement, number } => {
                    let named = Named { statement: statement.id(), number };
                    self.names.entry(name[0]).or_insert(named);
                }
                Undo::ServerClosed(id) => self.doubt(id),
            }
        }
        if !replaced.is_empty() {
            self.exchange.forget_closes_of(&replaced);
            let forgotten = self.exchange.owed().filter(|due| due.undo.is_none()).map(|due| due.number);
            let forgotten: BTreeSet<u64> = forgotten.collect();
            self.fates.retain(|number, _| !forgotten.contains(number));
        }
    }

    fn undo_parse(&mut self, name: Name, number: u64) -> bool {
        let is_same = self.names.get(&name).is_some_and(|named| named.number == number);
        is_same && self.names.remove(&name).is_some()
    }

    fn doubt(&mut self, id: u64) {
        if !self.exchange.is_booked(id) {
            self.books.known.remove(&id);
            self.books.suspects.insert(id);
        }
    }

    /// Panics if a promise is broken. Called after each event.
    pub(super) fn check(&mut self) {
        if self.end.is_some() || self.server.is_dead {
            return;
        }
        self.settle_fates();
        let exchange = &self.exchange;
        let server = &self.server;
        let is_idle = server.is_idle();
        if exchange.at_rest() {
            assert!(is_idle, "at rest, and the server is not done");
        }
        if !server.answers.is_empty() {
            return;
        }
        // All that was said has come.
        if !exchange.is_undecided() {
            let syncs = server.arrived.iter().any(|message| matches!(message.sent, Sent::Sync | Sent::SyncWithBody));
            assert_eq!(exchange.copying_in(), server.copy.is_some(), "does the server read copy data?");
            assert_eq!(exchange.discarding(), server.drops && !syncs, "does the server drop what it reads?");
        }
        if !server.arrived.is_empty() || server.copy.is_some() {
            return;
        }
        assert_eq!(is_idle, exchange.at_rest(), "the server is done, and not at rest");
        assert!(!exchange.is_changing_statements() || !self.may_wait(), "a Parse waits, and nothing comes");
        if exchange.is_undecided() {
            assert!(server.batch_is_open || server.drops, "nobody will ever tell what the server has read");
            return;
        }
        if self.has_left {
            return;
        }
        assert!(server.expected.is_empty(), "the client waits for {:?}", server.expected);
        assert!(self.fates.is_empty() && !exchange.has_booked(), "not settled: {:?}", self.fates);
        if !self.is_name_contested && !server.drops {
            let names: BTreeMap<Name, u64> = self.names.iter().map(|(name, named)| (*name, named.statement)).collect();
            assert_eq!(names, server.names, "the client's names");
        }
        if !self.books.names_taken {
            for id in &server.statements {
                let is_known = self.books.known.contains_key(id) || self.books.suspects.contains(id);
                assert!(is_known, "statement {id} is on the server, and nobody knows");
            }
        }
    }

    /// What the server has made of requests, against what the exchange says of them.
    fn settle_fates(&mut self) {
        for (number, fate) in std::mem::take(&mut self.server.fates) {
            if self.taken_back.remove(&number) {
                assert_eq!(fate, Fate::Dropped, "request {number} was taken back, and is carried out");
            } else if let Some(known) = self.fates.get_mut(&number) {
                *known = Some(fate);
            }
        }
        let owed: BTreeSet<u64> = self.exchange.owed().map(|due| due.number).collect();
        self.fates.retain(|number, fate| {
            let is_owed = owed.contains(number);
            assert!(is_owed || *fate == Some(Fate::Done), "request {number} is answered, and the server says {fate:?}");
            is_owed
        });
    }

    /// What there is, without what only counts: equal where all that can follow is equal.
    pub(super) fn key(&self) -> Vec<u8> {
        let mut key = Key(Vec::with_capacity(256));
        let (exchange, server) = (&self.exchange, &self.server);
        let last = exchange.last_number();
        let age = |number: u64| last.wrapping_sub(number);
        (exchange.status as u8, exchange.unsynced, exchange.discarding, exchange.copying_in).hash(&mut key);
        (exchange.copy_failed, age(exchange.cleared)).hash(&mut key);
        exchange.changes.map(|(number, batch)| (age(number), batch.map(|batch| exchange.batch - batch))).hash(&mut key);
        key.all(exchange.owed.iter(), |due| {
            let undo = due.undo.as_deref().map(|undo| match undo {
                Undo::Parsed { name, sent } => (0, name.as_ref().map(|name| name[0]), *sent, 0),
                Undo::ClientClosed { name, statement, number } => {
                    (1, Some(name[0]), Some(statement.id()), age(*number))
                }
                Undo::ServerClosed(id) => (2, None, Some(*id), 0),
            });
            (due.kind as u8, due.action as u8, age(due.number), undo)
        });
        let mut booked: Vec<_> =
            exchange.booked.iter().map(|(id, booked)| (*id, booked.count, exchange.batch - booked.batch)).collect();
        booked.sort_unstable();
        booked.hash(&mut key);
        key.all(exchange.readings.iter(), |reading| {
            (reading.at, reading.begun, reading.discarding, reading.unanswered, reading.dropped.clone())
        });
        let id = |id: u64| server.answered.wrapping_sub(id);
        key.all(server.arrived.iter(), |message| Message { number: message.number.map(age), ..*message });
        key.all(server.answers.iter(), |answer| {
            (answer.message as u8, answer.status, answer.drops_all, id(answer.id), answer.is_hidden)
        });
        key.all(server.expected.iter(), |expected| match expected {
            Expected::Answer(number) => (0, id(*number)),
            Expected::Fake(number) => (1, age(*number)),
        });
        (server.copy, server.drops, server.batch_is_open, server.is_dead).hash(&mut key);
        (server.in_block, server.unanswered, server.has_eaten_sync, &server.statements, &server.names).hash(&mut key);
        key.all(self.names.iter(), |(name, named)| (*name, named.statement, age(named.number)));
        key.books(&self.books, age);
        key.all(self.fates.iter(), |(number, fate)| (age(*number), *fate));
        key.all(self.taken_back.iter(), |number| age(*number));
        (self.is_name_contested, self.runs_changes, self.waiting).hash(&mut key);
        if let Some((exchange, server, books)) = self.other.as_deref() {
            (age(exchange.last_number()), &server.statements).hash(&mut key);
            key.books(books, age);
        }
        key.0
    }

    /// Goes through a conversation in which each byte picks one thing of those that may happen, and finishes it.
    pub(super) fn converse(bytes: &[u8]) {
        let mut now = Conversation::new(true);
        let Some((left, bytes)) = bytes.split_first() else { return };
        let mut bytes = bytes.iter().copied();
        let mut trace = Trace::default();
        while let Some(byte) = bytes.next() {
            if now.end.is_some() {
                return;
            }
            let mut pick = |of: usize| usize::from(bytes.next().unwrap_or_default()) % of;
            match byte {
                0..100 if now.next_answer().is_some() => {
                    trace.note(format!("<- {:?}", now.server.answers[0]));
                    now.take();
                }
                0..170 if now.server.can_act() => {
                    let (read, said) = (now.server.arrived.len(), now.server.answers.len());
                    trace.note("server acts".into());
                    now.server.act(&mut pick);
                    let said: Vec<_> = now.server.answers.iter().skip(said).map(|answer| answer.message).collect();
                    trace.note(format!("server reads {}, says {said:?}", read - now.server.arrived.len()));
                }
                170..180 if !now.server.is_dead => now.server.say_unasked(Backend::NoticeResponse),
                255 if !now.server.is_dead => {
                    trace.note("server dies".into());
                    now.server.die();
                }
                240..255 if now.may_part() => {
                    trace.note("part".into());
                    now.part();
                }
                _ => {
                    let ask = ALPHABET[usize::from(byte) % ALPHABET.len()];
                    if now.may_send(ask) {
                        trace.note(format!("{ask:?}"));
                        now.send(ask);
                    }
                }
            }
            now.check();
        }
        trace.note("finish".into());
        if left % 4 == 0 { now.leave(left / 4 % 4) } else { now.finish() }
    }

    /// The client leaves: the server is brought to an end of all that was asked of it, as `server::finish` does it.
    /// The server does up to so many things before its answers are read.
    fn leave(&mut self, ahead: u8) {
        (self.has_left, self.waiting) = (true, None);
        let (mut copy_ended, mut synced) = (false, false);
        while self.end.is_none() && (!self.exchange.quiet() || self.exchange.unsynced()) {
            let sent = self.exchange.last_number();
            if !self.exchange.copying_in() {
                copy_ended = false;
            } else if !std::mem::replace(&mut copy_ended, true) {
                self.exchange.end_copy();
                self.send_to_server(Message::of_client(Sent::CopyFail));
            }
            if self.exchange.unsynced() {
                // ROLLBACK: it is none of those that copy.
                self.through(Kind::Parse, Message::of_client(Sent::Parse(None)));
                self.through(Kind::Bind, Message::of_client(Sent::Bind(None)));
                self.through(Kind::Execute, Message::of_client(Sent::Execute(Sql::Changes)));
                self.exchange.sync();
                self.send_to_server(Message::of_client(Sent::Sync));
            }
            if self.exchange.is_undecided() && !std::mem::replace(&mut synced, true) {
                self.exchange.sync();
                self.send_to_server(Message::of_client(Sent::Sync));
            }
            self.probe();
            for _ in 0..ahead {
                if self.server.can_act() && !self.server.arrived.is_empty() {
                    self.server.act(&mut |of| of - 1);
                }
            }
            if self.next_answer().is_some() {
                while self.next_answer().is_some() && self.end.is_none() {
                    self.take();
                }
            } else if self.server.can_act() && !self.server.arrived.is_empty() {
                self.server.act(&mut |of| of - 1);
            } else {
                assert!(self.exchange.last_number() > sent, "the client has left, and nobody goes on");
            }
            self.check();
        }
        let is_over = self.end.is_some() || self.server.is_dead;
        assert!(is_over || self.server.waits(), "the client has left, and the server is not done");
    }

    /// The client ends what it has begun, the server answers all of it: then it is at rest.
    fn finish(&mut self) {
        for last in [Ask::CopyFail, Ask::Sync, Ask::CopyFail, Ask::Sync, Ask::Query, Ask::Query] {
            self.answer_all();
            if self.end.is_some() || self.exchange.at_rest() {
                break;
            }
            if self.may_send(last) {
                self.send(last);
                self.check();
            }
        }
        self.answer_all();
        assert!(self.end.is_some() || self.exchange.at_rest(), "all is said, and not at rest");
    }

    /// Until the server has nothing more to do, but for a COPY that goes on.
    fn answer_all(&mut self) {
        while self.end.is_none() {
            if self.next_answer().is_some() {
                self.take();
            } else if self.server.can_act() && !self.server.arrived.is_empty() {
                // All goes well, and ends a block if there is one.
                let block = usize::from(self.server.in_block != Block::None) * 3;
                self.server.act(&mut |of| if of > block { block } else { of - 1 });
            } else {
                break;
            }
            self.check();
        }
    }

    /// What the server has said next.
    pub(super) fn next_answer(&self) -> Option<Backend> {
        self.server.answers.front().map(|answer| answer.message)
    }
}

/// Bytes that are equal where what was put into it is.
struct Key(Vec<u8>);

impl Hasher for Key {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

impl Key {
    fn all<T, K: Hash>(&mut self, items: impl ExactSizeIterator<Item = T>, key: impl Fn(T) -> K) {
        items.len().hash(self);
        items.for_each(|item| key(item).hash(self));
    }

    fn books(&mut self, books: &Books, age: impl Fn(u64) -> u64) {
        self.all(books.known.iter(), |(id, number)| (*id, age(*number)));
        (&books.suspects, books.names_taken).hash(self);
    }
}

/// What happened, shown where a promise is broken.
#[derive(Default)]
struct Trace(Vec<String>);

impl Trace {
    fn note(&mut self, event: String) {
        self.0.push(event);
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("after {:#?}", self.0);
        }
    }
}

const ALPHABET: [Ask; 32] = [
    Ask::Query,
    Ask::Query,
    Ask::Query,
    Ask::QueryChanges,
    Ask::Discard,
    Ask::FunctionCall,
    Ask::Sync,
    Ask::Sync,
    Ask::Sync,
    Ask::Sync,
    Ask::Sync,
    Ask::Flush,
    Ask::CopyData,
    Ask::CopyDone,
    Ask::CopyDone,
    Ask::CopyFail,
    Ask::ParseUnnamed,
    Ask::ParseChanges,
    Ask::BindUnnamed,
    Ask::Execute,
    Ask::Execute,
    Ask::ClosePortal,
    Ask::Parse(0, 1),
    Ask::Parse(0, 2),
    Ask::Parse(1, 2),
    Ask::Parse(2, 3),
    Ask::Bind(0),
    Ask::Bind(1),
    Ask::Describe(2),
    Ask::Close(0),
    Ask::Close(1),
    Ask::FlushWithBody,
];
