//! The replies a server owes, in order, and what to do with each: forward it, skip it, or fake it.
//!
//! Pure: a queue. Every message that gets a reply of its own puts one [`Due`] in; the reply takes it out. A reply that
//! pgweir must invent (a ParseComplete for a statement the server has already) is in the queue as [`Action::Fake`] and
//! is written as soon as all replies before it are through; one that the client must not see (to a Parse that pgweir
//! sent on its own account) is [`Action::Skip`].

use std::collections::VecDeque;
use std::sync::Arc;

use super::statements::Statement;

/// The message a reply is owed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Query: ends with ReadyForQuery.
    Query,
    /// FunctionCall: ends with ReadyForQuery.
    FunctionCall,
    /// Sync: ReadyForQuery.
    Sync,
    /// Parse: ParseComplete.
    Parse,
    /// Bind: BindComplete.
    Bind,
    /// Describe: RowDescription or NoData, after a ParameterDescription for a statement.
    Describe,
    /// Execute: CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// Close: CloseComplete.
    Close,
    /// CopyDone or CopyFail that was sent before it was known that there is a COPY: no reply, a mark in the queue.
    CopyEnd,
}

impl Kind {
    /// Does the reply to this message end with ReadyForQuery?
    pub fn ends_with_ready(self) -> bool {
        matches!(self, Kind::Query | Kind::FunctionCall | Kind::Sync)
    }
}

/// What happens to a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The client gets it.
    Forward,
    /// The client must not see it: pgweir sent the request.
    Skip,
    /// The server was not asked: pgweir answers in its place.
    Fake,
}

/// What must be taken back when a request was never carried out, because one before it failed.
#[derive(Debug)]
pub enum Undo {
    /// The client's name was entered; the server was asked to parse this statement, if any.
    Parsed {
        /// The client's name for it; `None` where pgweir parsed on its own account.
        name: Option<Box<[u8]>>,
        /// The statement sent to the server; `None` where it had it.
        sent: Option<u64>,
    },
    /// The client's name was struck out; it meant this statement.
    ClientClosed {
        /// The client's name for it.
        name: Box<[u8]>,
        /// What it meant.
        statement: Arc<Statement>,
    },
    /// The server was asked to close the statement of this number, to make room or because nobody could tell of it.
    ServerClosed(u64),
}

impl Undo {
    /// The number of the statement that the server was asked to parse or to close.
    pub fn on_server(&self) -> Option<u64> {
        match self {
            Undo::Parsed { sent, .. } => *sent,
            Undo::ServerClosed(id) => Some(*id),
            Undo::ClientClosed { .. } => None,
        }
    }
}

/// One reply owed.
#[derive(Debug)]
pub struct Due {
    /// To what.
    pub kind: Kind,
    /// What happens to it.
    pub action: Action,
    /// What to take back if it never comes.
    pub undo: Option<Box<Undo>>,
}

impl Due {
    /// A reply the client gets, with nothing to take back.
    pub fn forward(kind: Kind) -> Due {
        Due { kind, action: Action::Forward, undo: None }
    }
}

/// The replies owed, first due first.
#[derive(Debug, Default)]
pub struct Outstanding {
    dues: VecDeque<Due>,
}

impl Outstanding {
    /// The most replies one server may owe at a time. A client that pipelines more without reading is refused.
    pub const DUES_MAX: usize = 1 << 20;

    /// Is nothing owed?
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.dues.is_empty()
    }

    /// How many replies are owed.
    pub fn len(&self) -> usize {
        self.dues.len()
    }

    /// All of them, first due first.
    pub fn iter(&self) -> impl Iterator<Item = &Due> {
        self.dues.iter()
    }

    /// The kind that is due next.
    #[inline]
    pub fn next_kind(&self) -> Option<Kind> {
        self.dues.front().map(|due| due.kind)
    }

    /// Adds a reply owed after all others.
    #[inline]
    pub fn push(&mut self, due: Due) {
        self.dues.push_back(due);
    }

    /// Takes the next reply out if it is owed to a message of this kind.
    #[inline]
    pub fn take(&mut self, kind: Kind) -> Option<Due> {
        if self.next_kind() == Some(kind) { self.pop() } else { None }
    }

    /// Takes the first out, and the marks behind it, which mean something only while there is a COPY before them.
    #[inline]
    fn pop(&mut self) -> Option<Due> {
        let due = self.dues.pop_front();
        self.drop_marks();
        due
    }

    #[inline]
    fn drop_marks(&mut self) {
        while self.next_kind() == Some(Kind::CopyEnd) {
            self.dues.pop_front();
        }
    }

    /// Takes the next reply out if pgweir must invent it.
    #[inline]
    pub fn take_fake(&mut self) -> Option<Due> {
        match self.dues.front() {
            Some(due) if due.action == Action::Fake => self.pop(),
            _ => None,
        }
    }

    /// Takes out everything before the next reply that ends with ReadyForQuery, last first: an error made the server
    /// skip it. Says whether such a reply is owed at all.
    pub fn fail_until_ready(&mut self, mut skipped: impl FnMut(Due)) -> bool {
        let end = self.dues.iter().position(|due| due.kind.ends_with_ready());
        let count = end.unwrap_or(self.dues.len());
        for due in self.dues.drain(..count).rev() {
            skipped(due);
        }
        self.drop_marks();
        end.is_some()
    }

    /// Takes out the ReadyForQuery that was due next, with everything still queued before it.
    pub fn take_ready(&mut self) -> Option<Due> {
        while let Some(due) = self.pop() {
            if due.kind.ends_with_ready() {
                return Some(due);
            }
        }
        None
    }

    /// The first in the queue turns out to copy in: PostgreSQL ignores the Syncs it reads until the copy data ends.
    /// Says whether their end was sent already.
    pub fn ignore_syncs_of_copy(&mut self) -> bool {
        let end = self.dues.iter().position(|due| due.kind == Kind::CopyEnd);
        let mut at = 0;
        self.dues.retain(|due| {
            let in_copy = end.is_none_or(|end| at <= end);
            at += 1;
            !(in_copy && matches!(due.kind, Kind::Sync | Kind::CopyEnd))
        });
        end.is_some()
    }

    /// Is a Sync owed?
    pub fn has_sync(&self) -> bool {
        self.dues.iter().any(|due| due.kind == Kind::Sync)
    }
}
