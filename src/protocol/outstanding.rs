//! The replies a server owes, in order, and what to do with each: forward it, skip it, or fake it.
//!
//! Pure: a queue. Every message that gets a reply of its own puts one [`Due`] in; the reply takes it out. A reply that
//! pgweir must invent (a ParseComplete for a statement the server has already) is in the queue as [`Action::Fake`] and
//! is written as soon as all replies before it are through; one that the client must not see (to a Parse that pgweir
//! sent on its own account) is [`Action::Skip`].

use std::collections::{HashMap, HashSet, VecDeque};
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
    /// A Flush with a body: an ErrorResponse, and no other reply.
    BadFlush,
    /// CopyDone or CopyFail: no reply, a mark in the queue. It ends the COPY before it, if there is one.
    CopyEnd,
}

impl Kind {
    /// Does the reply to this message end with ReadyForQuery?
    pub fn ends_with_ready(self) -> bool {
        matches!(self, Kind::Query | Kind::FunctionCall | Kind::Sync)
    }

    /// May this message begin a COPY?
    pub fn may_copy(self) -> bool {
        matches!(self, Kind::Query | Kind::Execute)
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
#[derive(Clone, Debug)]
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
        /// The number of the Parse that gave it the name.
        number: u64,
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

    /// Would it bring back a name that was given before the request with this number, which dropped all names?
    pub fn is_of_before(&self, cleared: u64) -> bool {
        matches!(self, Undo::ClientClosed { number, .. } if *number < cleared)
    }
}

/// One reply owed.
#[derive(Clone, Debug)]
pub struct Due {
    /// Which request of this server it answers, counted from 1; [`Outstanding::push`] sets it.
    pub number: u64,
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
        Due::new(kind, Action::Forward, None)
    }

    /// A reply with what happens to it, and what to take back if it never comes.
    pub fn new(kind: Kind, action: Action, undo: Option<Undo>) -> Due {
        Due { number: 0, kind, action, undo: undo.map(Box::new) }
    }

    /// The number of the Parse that gave the name which this strikes out, if another request of this server's did.
    fn closes(&self) -> Option<u64> {
        match self.undo.as_deref() {
            Some(Undo::ClientClosed { number, .. }) => Some(*number).filter(|number| *number > 0),
            _ => None,
        }
    }

    /// Roughly how many bytes it holds beside itself.
    fn held_bytes(&self) -> usize {
        match self.undo.as_deref() {
            None => 0,
            Some(Undo::Parsed { name, .. }) => size_of::<Undo>() + name.as_ref().map_or(0, |name| name.len()),
            Some(Undo::ClientClosed { name, .. }) => size_of::<Undo>() + name.len(),
            Some(Undo::ServerClosed(_)) => size_of::<Undo>(),
        }
    }
}

/// The replies owed, first due first.
#[derive(Clone, Debug, Default)]
pub struct Outstanding {
    dues: VecDeque<Due>,
    /// How many of them end with ReadyForQuery.
    readies: usize,
    /// How many of them answer what may be a COPY.
    copiers: usize,
    /// What they hold beside themselves, in bytes.
    held_bytes: usize,
    /// The number of the latest request.
    pushed: u64,
    /// Names that were struck out, by the number of the Parse that gave them: the numbers of their Closes.
    closes: HashMap<u64, u64>,
    #[cfg(test)]
    looks: std::cell::Cell<usize>,
}

impl Outstanding {
    /// The most replies that may be owed before the client is not read any further. PostgreSQL sends its answers
    /// whenever 8 KiB of them have come together, so a server that works always makes room again.
    pub const DUES_MAX: usize = 16 * 1024;

    /// The most bytes that they may hold beside themselves (names of statements) before the same.
    pub const HELD_BYTES_MAX: usize = 256 * 1024;

    /// Is nothing owed?
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.dues.is_empty()
    }

    /// How many replies are owed.
    #[inline]
    pub fn len(&self) -> usize {
        self.dues.len()
    }

    /// Is so much owed that the client must wait?
    #[inline]
    pub fn is_full(&self) -> bool {
        self.dues.len() >= Outstanding::DUES_MAX || self.held_bytes >= Outstanding::HELD_BYTES_MAX
    }

    /// All of them, first due first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Due> {
        self.dues.iter().inspect(|_| self.look())
    }

    /// The one at this place.
    pub fn get(&self, at: usize) -> Option<&Due> {
        self.look();
        self.dues.get(at)
    }

    /// The place of the first reply to a Sync, from this place on.
    pub fn sync_from(&self, at: usize) -> Option<usize> {
        (at..self.len()).find(|at| self.get(*at).is_some_and(|due| due.kind == Kind::Sync))
    }

    /// The kind that is due next.
    #[inline]
    pub fn next_kind(&self) -> Option<Kind> {
        self.dues.front().map(|due| due.kind)
    }

    /// The kind that is due last.
    pub fn last_kind(&self) -> Option<Kind> {
        self.dues.back().map(|due| due.kind)
    }

    /// The number of the request whose reply is due next, or that the next request will have.
    #[inline]
    pub fn next_number(&self) -> u64 {
        self.dues.front().map_or(self.pushed + 1, |due| due.number)
    }

    /// The number of the latest request.
    #[inline]
    pub fn last_number(&self) -> u64 {
        self.pushed
    }

    /// The next requests have numbers beyond this one.
    #[inline]
    pub fn number_beyond(&mut self, last: u64) {
        self.pushed = self.pushed.max(last);
    }

    /// Adds a reply owed after all others.
    #[inline]
    pub fn push(&mut self, mut due: Due) {
        self.pushed += 1;
        due.number = self.pushed;
        self.put(due);
    }

    /// Adds a reply owed to a request that has its number already.
    #[inline]
    pub fn put(&mut self, due: Due) {
        self.pushed = self.pushed.max(due.number);
        self.readies += usize::from(due.kind.ends_with_ready());
        self.copiers += usize::from(due.kind.may_copy());
        if due.undo.is_some() {
            self.held_bytes += due.held_bytes();
            self.closes.extend(due.closes().map(|parse| (parse, due.number)));
        }
        self.look();
        self.dues.push_back(due);
    }

    /// The replies looked at so far, each time one is: what all this costs.
    #[cfg(test)]
    pub(crate) fn looks(&self) -> usize {
        self.looks.get()
    }

    #[inline]
    fn look(&self) {
        #[cfg(test)]
        self.looks.set(self.looks.get() + 1);
    }

    /// Takes the next reply out if it is owed to a message of this kind.
    #[inline]
    pub fn take(&mut self, kind: Kind) -> Option<Due> {
        if self.next_kind() == Some(kind) { self.pop() } else { None }
    }

    /// Takes the first out, and the marks behind it, which mean something only while there is a COPY before them.
    #[inline]
    pub fn pop(&mut self) -> Option<Due> {
        let due = self.pop_one();
        self.drop_marks();
        due
    }

    /// Takes out the marks at the front.
    #[inline]
    pub fn drop_marks(&mut self) {
        while self.next_kind() == Some(Kind::CopyEnd) {
            self.dues.pop_front();
        }
    }

    #[inline]
    fn pop_one(&mut self) -> Option<Due> {
        let due = self.dues.pop_front()?;
        self.readies -= usize::from(due.kind.ends_with_ready());
        self.copiers -= usize::from(due.kind.may_copy());
        if due.undo.is_some() {
            self.held_bytes -= due.held_bytes();
            if let Some(parse) = due.closes() {
                self.closes.remove(&parse);
            }
        }
        self.look();
        Some(due)
    }

    /// Takes the next reply out if pgweir must invent it.
    #[inline]
    pub fn take_fake(&mut self) -> Option<Due> {
        match self.dues.front() {
            Some(due) if due.action == Action::Fake => self.pop(),
            _ => None,
        }
    }

    /// Takes the first `count` out, in order, marks included.
    pub fn take_first(&mut self, count: usize, mut taken: impl FnMut(usize, Due)) {
        for at in 0..count {
            let Some(due) = self.pop_one() else { break };
            taken(at, due);
        }
    }

    /// Takes out everything before the next reply to a Sync, first first. Says whether such a reply is owed at all.
    pub fn skip_to_sync(&mut self, mut skipped: impl FnMut(Due)) -> bool {
        while let Some(kind) = self.next_kind() {
            if kind == Kind::Sync {
                return true;
            }
            if let Some(due) = self.pop_one() {
                skipped(due);
            }
        }
        false
    }

    /// How many behind the first `before` a COPY may read: Syncs and Flushes up to and including the CopyDone or
    /// CopyFail that ends it. PostgreSQL ignores them there. Looks at no more than `most`; `None` if there are more.
    pub fn read_inside_copy(&self, before: usize, most: usize) -> Option<usize> {
        let mut count = 0;
        for due in self.iter().skip(before) {
            match due.kind {
                Kind::Sync | Kind::BadFlush if count == most => return None,
                Kind::Sync | Kind::BadFlush => count += 1,
                Kind::CopyEnd => return Some(count + 1),
                _ => break,
            }
        }
        Some(count)
    }

    /// The COPY of the first in the queue has ended well: PostgreSQL has read and ignored all up to its end.
    pub fn copy_has_ended(&mut self) {
        let Some(copy) = self.dues.pop_front() else { return };
        while let Some(kind) = self.next_kind() {
            match kind {
                Kind::Sync | Kind::BadFlush => drop(self.pop_one()),
                Kind::CopyEnd => {
                    self.dues.pop_front();
                    break;
                }
                _ => break,
            }
        }
        self.dues.push_front(copy);
    }

    /// Is a reply owed that ends with ReadyForQuery?
    #[inline]
    pub fn has_ready(&self) -> bool {
        self.readies > 0
    }

    /// Is a reply owed to what may be a COPY?
    #[inline]
    pub fn may_copy(&self) -> bool {
        self.copiers > 0
    }

    /// The Parses with these numbers never took place: a Close of what they prepared has nothing to bring back.
    pub fn forget_closes_of(&mut self, parses: &HashSet<u64>) {
        for parse in parses {
            let Some(number) = self.closes.remove(parse) else { continue };
            let Ok(at) = self.dues.binary_search_by_key(&number, |due| due.number) else { continue };
            self.look();
            self.held_bytes -= self.dues[at].held_bytes();
            self.dues[at].undo = None;
        }
    }
}
