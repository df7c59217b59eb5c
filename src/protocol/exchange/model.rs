//! A model of PostgreSQL's message loop, as its manual and its source state it: what an [`super::Exchange`] has to
//! expect.
//!
//! Pure: a queue in, a queue out. Where PostgreSQL may act in one way or another, the model does what is picked for it:
//! whether a request fails, what becomes of the transaction, and above all when a COPY FROM STDIN fails. By then it has
//! read some of what has arrived, and nobody else knows how much.
//!
//! | it reads | outside of a COPY | inside | while it drops |
//! |---|---|---|---|
//! | Query, FunctionCall | answers, ReadyForQuery | ends all | dropped |
//! | Parse, Bind, Describe, Execute, Close | one reply; an error: drops up to the next Sync | ends all | dropped |
//! | Sync | ReadyForQuery | ignored | ReadyForQuery |
//! | Sync with a body | ErrorResponse, ReadyForQuery | ignored | ErrorResponse, ReadyForQuery |
//! | Flush | nothing | ignored | dropped |
//! | Flush with a body | an error: drops up to the next Sync | ignored | dropped |
//! | CopyData | ignored | read | dropped |
//! | CopyDone, CopyFail | ignored | the end | dropped |

#![cfg_attr(not(test), allow(dead_code, reason = "the fuzzer takes long conversations, the tests all short ones too"))]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::wire::Backend;

mod conversation;
#[cfg(test)]
mod tests;

/// Any bytes are a conversation: each picks one of the things that may happen then. Panics if a promise is broken: the
/// server is at rest only when the model owes nothing, and when it owes nothing; the client gets its answers and no
/// others, in their order; what is taken back is what was dropped.
pub fn conversation(bytes: &[u8]) {
    conversation::Conversation::converse(bytes);
}

/// Decides what happens where several things may: a number below the one given.
pub(super) type Pick<'a> = &'a mut dyn FnMut(usize) -> usize;

/// What is sent to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Sent {
    Query(Sql),
    FunctionCall,
    Sync,
    SyncWithBody,
    Flush,
    FlushWithBody,
    CopyData,
    CopyDone,
    CopyFail,
    /// Parse, Bind, Describe and Close of a statement with a number of ours; `None` is the unnamed one, or a portal.
    Parse(Option<u64>),
    Bind(Option<u64>),
    Describe(Option<u64>),
    Close(Option<u64>),
    Execute(Sql),
}

/// What a Query or Execute may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Sql {
    /// Anything that does not touch prepared statements, COPY among it.
    Plain,
    /// SQL that drops prepared statements by name, or prepares some.
    Changes,
    /// DISCARD ALL.
    Discards,
}

/// Who sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum By {
    Client,
    /// pgweir, on its own account: the client must not see the reply.
    Proxy,
    /// Nobody: the client's message stays with pgweir, which answers it. The model "reads" it where the client put it,
    /// to tell what PostgreSQL would have done.
    Faked,
}

/// One message on its way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Message {
    sent: Sent,
    by: By,
    /// The number of its request, if it has something to take back.
    number: Option<u64>,
    /// What it does to the client's names of statements.
    renames: Option<Renames>,
    /// It went through unchanged because the server drops it: it names statements that the server does not know.
    is_raw: bool,
}

impl Message {
    fn of_client(sent: Sent) -> Message {
        Message { sent, by: By::Client, number: None, renames: None, is_raw: false }
    }
}

/// A client's name for a statement.
type Name = u8;

/// What a message does to a client's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Renames {
    /// The name means the statement with this number.
    Gives(Name, u64),
    Takes(Name),
}

/// One message on its way to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    message: Backend,
    /// Of a ReadyForQuery.
    status: u8,
    /// A CommandComplete of DISCARD ALL.
    drops_all: bool,
    /// Which one, counted from 1; 0 where nobody asked.
    id: u64,
    /// The client must not see it.
    is_hidden: bool,
}

/// What the client is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Expected {
    /// The answer with this number.
    Answer(u64),
    /// An answer of ours to the request with this number.
    Fake(u64),
}

/// What became of a request that has something to take back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fate {
    Done,
    Dropped,
}

/// A COPY FROM STDIN that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Copy {
    by_query: bool,
    is_hidden: bool,
}

/// The server.
#[derive(Clone, Debug, Default)]
struct Server {
    arrived: VecDeque<Message>,
    answers: VecDeque<Answer>,
    /// All that the client is to get and has not got.
    expected: VecDeque<Expected>,
    /// News of requests with something to take back.
    fates: Vec<(u64, Fate)>,
    copy: Option<Copy>,
    /// It drops what it reads, up to the next Sync.
    drops: bool,
    /// Messages of the extended protocol have been read that no Sync, Query or FunctionCall has followed.
    batch_is_open: bool,
    is_dead: bool,
    /// A message of ours was read in a COPY, and ended it all.
    is_killed_by_us: bool,
    in_block: Block,
    /// Statements with numbers of ours.
    statements: BTreeSet<u64>,
    /// What the client's names mean, as PostgreSQL would have it.
    names: BTreeMap<Name, u64>,
    answered: u64,
    /// Syncs of the client's that were read inside a COPY that failed, the last that were read. As nobody can tell, it
    /// is right to give the client the answer to a Sync of ours that follows.
    unanswered: usize,
    /// A COPY that ended well has ignored the Sync of the client's that would have ended the batch.
    has_eaten_sync: bool,
    /// What is picked from: little, for exhaustive runs, or all.
    is_rich: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Block {
    #[default]
    None,
    Open,
    Failed,
}

impl Block {
    fn status(self) -> u8 {
        match self {
            Block::None => b'I',
            Block::Open => b'T',
            Block::Failed => b'E',
        }
    }

    fn failed(self) -> Block {
        if self == Block::None { Block::None } else { Block::Failed }
    }
}

impl Server {
    fn say(&mut self, message: Backend, is_hidden: bool) {
        self.answered += 1;
        let status = if message == Backend::ReadyForQuery { self.in_block.status() } else { 0 };
        self.answers.push_back(Answer { message, status, drops_all: false, id: self.answered, is_hidden });
        if !is_hidden {
            self.expected.push_back(Expected::Answer(self.answered));
        }
    }

    /// An error is the client's, whoever sent the request.
    fn say_error(&mut self) {
        self.say(Backend::ErrorResponse, false);
        self.in_block = self.in_block.failed();
    }

    fn done(&mut self, message: Message) {
        self.fates.extend(message.number.map(|number| (number, Fate::Done)));
        match message.renames {
            Some(Renames::Gives(name, id)) => drop(self.names.insert(name, id)),
            Some(Renames::Takes(name)) => drop(self.names.remove(&name)),
            None => {}
        }
    }

    fn dropped(&mut self, message: Message) {
        self.fates.extend(message.number.map(|number| (number, Fate::Dropped)));
    }

    /// Does it wait for the client, all answers given? What nobody asked for may come at any time.
    fn waits(&self) -> bool {
        self.arrived.is_empty() && self.answers.iter().all(|answer| answer.message == Backend::NoticeResponse)
    }

    /// Is it done with everything, outside of any transaction?
    fn is_idle(&self) -> bool {
        let in_middle = self.copy.is_some() || self.drops || self.batch_is_open || self.in_block != Block::None;
        self.waits() && !in_middle && !self.is_dead
    }

    /// Reads what it answers in no case, whenever it does.
    fn settle(&mut self) {
        while let Some(message) = self.arrived.front().copied() {
            if self.copy.is_some() || self.is_dead {
                return;
            }
            let is_sync = matches!(message.sent, Sent::Sync | Sent::SyncWithBody);
            let says_nothing = matches!(message.sent, Sent::CopyData | Sent::CopyDone | Sent::CopyFail | Sent::Flush);
            if !is_sync && !says_nothing {
                self.unanswered = 0;
            }
            if self.drops && !is_sync {
                self.dropped(message);
            } else if message.by == By::Faked {
                let is_parse = matches!(message.sent, Sent::Parse(_));
                assert!(!is_parse || self.in_block != Block::Failed, "a Parse was answered in a block that has failed");
                self.batch_is_open = true;
                self.expected.extend(message.number.map(Expected::Fake));
                self.done(message);
            } else if !says_nothing {
                return;
            }
            self.arrived.pop_front();
        }
    }

    /// Can it do something now?
    fn can_act(&self) -> bool {
        !self.is_dead && (self.copy.is_some() || !self.arrived.is_empty())
    }

    /// Does the next thing, one of those that are possible.
    fn act(&mut self, pick: Pick<'_>) {
        if let Some(copy) = self.copy {
            self.act_in_copy(copy, pick);
        } else if let Some(message) = self.arrived.pop_front() {
            self.read(message, pick);
        }
        self.settle();
    }

    fn read(&mut self, message: Message, pick: Pick<'_>) {
        assert!(!message.is_raw, "the server carries out what was held to be dropped: {message:?}");
        let is_hidden = message.by == By::Proxy;
        match message.sent {
            Sent::Query(sql) => self.query(sql, pick),
            Sent::FunctionCall => {
                self.batch_is_open = false;
                if pick(2) == 0 {
                    self.say(Backend::FunctionCallResponse, false);
                } else {
                    self.say_error();
                }
                self.say(Backend::ReadyForQuery, false);
            }
            Sent::Sync | Sent::SyncWithBody => {
                let is_between = !self.batch_is_open || self.drops || self.has_eaten_sync;
                assert!(is_between || !is_hidden, "a Sync of ours ends the client's batch");
                self.has_eaten_sync = false;
                // Where there is something to commit, that may fail.
                let may_fail = self.batch_is_open && !self.drops && !is_hidden;
                let fails = message.sent == Sent::SyncWithBody || (may_fail && pick(2) == 1);
                if fails {
                    self.say_error();
                } else if self.in_block == Block::Open && !is_hidden && pick(2) == 1 {
                    // It was the implicit block of a pipeline.
                    self.in_block = Block::None;
                }
                (self.drops, self.batch_is_open) = (false, false);
                let is_given = is_hidden && self.unanswered > 0;
                self.unanswered -= usize::from(is_given);
                self.say(Backend::ReadyForQuery, is_hidden && !is_given);
            }
            Sent::FlushWithBody => self.extended_error(message),
            Sent::Parse(_) | Sent::Bind(_) | Sent::Describe(_) | Sent::Close(_) | Sent::Execute(_) => {
                let is_question = is_hidden && message.number.is_none();
                self.batch_is_open |= !is_question;
                self.extended(message, pick);
            }
            Sent::Flush | Sent::CopyData | Sent::CopyDone | Sent::CopyFail => {}
        }
    }

    fn extended_error(&mut self, message: Message) {
        self.say_error();
        self.dropped(message);
        self.batch_is_open = true;
        self.drops = true;
    }

    fn query(&mut self, sql: Sql, pick: Pick<'_>) {
        self.batch_is_open = false;
        let outcomes = if self.is_rich { 7 } else { 4 };
        match pick(outcomes) {
            1 => return self.query_error(),
            2 if self.in_block != Block::Failed && sql == Sql::Plain => return self.begin_copy(true),
            3 => self.in_block = if self.in_block == Block::None { Block::Open } else { Block::None },
            4 => {
                for message in [Backend::CopyOutResponse, Backend::CopyDone] {
                    self.say(message, false);
                }
            }
            5 => self.say(Backend::RowDescription, false),
            _ if self.in_block == Block::Failed => return self.query_error(),
            6 => {
                self.say(Backend::EmptyQueryResponse, false);
                return self.say(Backend::ReadyForQuery, false);
            }
            _ => {}
        }
        self.run(sql, pick);
        if self.is_rich && pick(4) == 0 {
            // A second statement in the same text.
            return self.query_error();
        }
        self.say(Backend::ReadyForQuery, false);
    }

    /// A statement that ends well.
    fn run(&mut self, sql: Sql, pick: Pick<'_>) {
        match sql {
            Sql::Plain => {}
            Sql::Changes => self.change_statements(pick),
            Sql::Discards => {
                self.statements.clear();
                self.names.clear();
            }
        }
        self.say(Backend::CommandComplete, false);
        if let Some(last) = self.answers.back_mut() {
            last.drops_all = sql == Sql::Discards;
        }
    }

    fn query_error(&mut self) {
        self.say_error();
        self.say(Backend::ReadyForQuery, false);
    }

    fn change_statements(&mut self, pick: Pick<'_>) {
        match pick(3) {
            0 => {}
            1 => self.statements.clear(),
            // PREPARE under names of ours.
            _ => self.statements.extend(1..=3),
        }
    }

    fn begin_copy(&mut self, by_query: bool) {
        self.copy = Some(Copy { by_query, is_hidden: false });
        self.say(Backend::CopyInResponse, false);
    }

    fn extended(&mut self, message: Message, pick: Pick<'_>) {
        let is_hidden = message.by == By::Proxy;
        let fails = match message.sent {
            // No Close fails.
            Sent::Close(_) => false,
            Sent::Parse(Some(_)) if self.in_block == Block::Failed => true,
            Sent::Execute(_) => false,
            _ => pick(2) == 1,
        };
        if fails {
            return self.extended_error(message);
        }
        match message.sent {
            Sent::Parse(id) => {
                let is_new = id.is_none_or(|id| self.statements.insert(id));
                assert!(is_new, "prepared statement already exists: {message:?}");
                self.say(Backend::ParseComplete, is_hidden);
            }
            Sent::Bind(id) | Sent::Describe(id) => {
                let is_there = id.is_none_or(|id| self.statements.contains(&id));
                assert!(is_there, "prepared statement does not exist: {message:?}");
                if matches!(message.sent, Sent::Bind(_)) {
                    self.say(Backend::BindComplete, is_hidden);
                } else {
                    self.say(Backend::ParameterDescription, is_hidden);
                    self.say(Backend::NoData, is_hidden);
                }
            }
            Sent::Close(id) => {
                self.statements.retain(|known| Some(*known) != id);
                self.say(Backend::CloseComplete, is_hidden);
            }
            _ => return self.execute(message, pick),
        }
        self.done(message);
    }

    fn execute(&mut self, message: Message, pick: Pick<'_>) {
        let Sent::Execute(sql) = message.sent else { return };
        match pick(if self.is_rich { 5 } else { 4 }) {
            1 => return self.extended_error(message),
            2 if self.in_block != Block::Failed && sql == Sql::Plain => return self.begin_copy(false),
            3 => self.in_block = if self.in_block == Block::None { Block::Open } else { Block::None },
            _ if self.in_block == Block::Failed => return self.extended_error(message),
            4 => return self.say(Backend::PortalSuspended, false),
            _ => {}
        }
        self.run(sql, pick);
    }

    /// Something nobody asked for: it has no place among the answers.
    fn say_unasked(&mut self, message: Backend) {
        self.answers.push_back(Answer { message, status: 0, drops_all: false, id: 0, is_hidden: false });
    }

    /// An administrator ends it, or a timeout.
    fn die(&mut self) {
        self.say_unasked(Backend::ErrorResponse);
        self.is_dead = true;
    }

    /// In a COPY it reads what has arrived up to some message, and goes on, or fails. All there is to do is done in
    /// one: nobody sees what it does in there but by its answers.
    fn act_in_copy(&mut self, copy: Copy, pick: Pick<'_>) {
        let ends = |message: &Message| !is_ignored_in_copy(message.sent);
        let ignored = self.arrived.iter().position(ends).unwrap_or(self.arrived.len());
        let end = self.arrived.get(ignored).copied();
        let readable = match end.map(|message| message.sent) {
            Some(Sent::CopyDone | Sent::CopyFail) => ignored + 1,
            _ => ignored,
        };
        let goes_on = match end.map(|message| message.sent) {
            None | Some(Sent::CopyFail) => 0,
            Some(Sent::CopyDone) if copy.by_query => 3,
            _ => 1,
        };
        let choice = pick(readable + 1 + goes_on);
        if choice <= readable {
            let read: Vec<_> = self.arrived.drain(..choice).collect();
            let tail = read.iter().rev().take_while(|message| message.sent != Sent::FlushWithBody);
            let is_clients = |message: &&Message| {
                message.by == By::Client && matches!(message.sent, Sent::Sync | Sent::SyncWithBody)
            };
            self.unanswered = tail.filter(is_clients).count();
            return self.copy_failed(copy);
        }
        self.has_eaten_sync |= self.arrived.drain(..readable).any(|message| message.sent == Sent::Sync);
        if end.is_none_or(|message| message.sent != Sent::CopyDone) {
            let is_fake = end.is_some_and(|message| message.by == By::Faked);
            assert!(!is_fake, "the server has read beyond a message that was answered for it");
            self.copy = None;
            self.is_dead = true;
            self.is_killed_by_us = end.is_some_and(|message| message.by == By::Proxy && message.number.is_none());
            self.say_error();
            return self.say_error();
        }
        self.copy = None;
        self.say(Backend::CommandComplete, copy.is_hidden);
        match choice - readable {
            _ if !copy.by_query => {}
            1 => self.say(Backend::ReadyForQuery, false),
            // A statement behind the COPY.
            2 => self.query_error(),
            _ => self.begin_copy(true),
        }
    }

    fn copy_failed(&mut self, copy: Copy) {
        self.copy = None;
        self.say_error();
        if copy.by_query {
            self.say(Backend::ReadyForQuery, false);
        } else {
            (self.drops, self.batch_is_open) = (true, true);
        }
    }
}

fn is_ignored_in_copy(sent: Sent) -> bool {
    matches!(sent, Sent::CopyData | Sent::Sync | Sent::SyncWithBody | Sent::Flush | Sent::FlushWithBody)
}
