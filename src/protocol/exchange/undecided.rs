//! A COPY FROM STDIN has failed, and Syncs were sent into it: which of them has PostgreSQL read inside the COPY, where
//! it ignores them, and which will it still answer?
//!
//! Pure: part of [`Exchange`].
//!
//! Two clients can have sent the same bytes and be answered differently: it depends on when the COPY failed. So every
//! possible account is kept, a [`Reading`] each: the place in the queue of replies owed where the server is if it has
//! read so many of the Syncs. Each message that comes moves those forward that expect it and strikes out the others.
//! One that is left is the truth, and the exchange goes on as usual. Where silence leaves two, a question of our own
//! behind what the client has sent, with an answer that comes in any case ([`Exchange::probe`]), tells how many
//! ReadyForQuery were owed. Until then the server is not at rest, so that it changes hands for nobody.
//!
//! ```text
//!   owed after the error       [Sync] [Sync] [CopyDone] [Sync] [Parse] …
//!   readings: it has read       none    1        2
//! ```

use std::ops::Range;

use super::{Exchange, TransactionStatus, Verdict, Violation, unbook, verdict};
use crate::protocol::outstanding::{Action, Due, Kind, Outstanding, Undo};
use crate::wire::Backend;

/// The most Syncs sent into one COPY that we keep account of when it fails. libpq and all drivers send one.
const SYNCS_MAX: usize = 64;

/// One account of what the server has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// The place in the queue of what it answers next.
    pub(super) at: usize,
    /// Places whose requests it has dropped because of an error before them.
    pub(super) dropped: Vec<Range<usize>>,
    /// It drops what it reads, up to a Sync that is not sent yet.
    pub(super) discarding: bool,
    /// It has begun to answer the Query or FunctionCall that is next: only then can a ReadyForQuery come for it.
    pub(super) begun: bool,
}

/// What a message from the server says of the reply that is due.
enum Fit {
    /// It belongs to that reply, and does not end it.
    Part,
    /// It ends that reply.
    End,
    /// It says nothing of any reply.
    Anyway,
    /// It cannot come now.
    Not,
}

fn fit(message: Backend, kind: Option<Kind>) -> Fit {
    use Backend as B;
    match (message, kind) {
        (B::NoticeResponse | B::ParameterStatus | B::NotificationResponse, _) => Fit::Anyway,
        // A FATAL may come at any time.
        (B::ErrorResponse, _) => Fit::Part,
        (B::ReadyForQuery, Some(kind)) if kind.ends_with_ready() => Fit::End,
        (B::ParseComplete, Some(Kind::Parse)) => Fit::End,
        (B::BindComplete, Some(Kind::Bind)) => Fit::End,
        (B::CloseComplete, Some(Kind::Close)) => Fit::End,
        (B::ParameterDescription, Some(Kind::Describe)) => Fit::Part,
        (B::RowDescription | B::NoData, Some(Kind::Describe)) => Fit::End,
        (B::CommandComplete | B::EmptyQueryResponse | B::PortalSuspended, Some(Kind::Execute)) => Fit::End,
        (B::FunctionCallResponse, Some(Kind::FunctionCall)) => Fit::Part,
        (B::RowDescription | B::CommandComplete | B::EmptyQueryResponse, Some(Kind::Query)) => Fit::Part,
        (
            B::DataRow | B::CopyInResponse | B::CopyOutResponse | B::CopyBothResponse | B::CopyData | B::CopyDone,
            Some(Kind::Query | Kind::Execute),
        ) => Fit::Part,
        _ => Fit::Not,
    }
}

impl Reading {
    fn at(at: usize) -> Reading {
        Reading { at, dropped: Vec::new(), discarding: false, begun: false }
    }

    /// From this place on the server drops what it reads.
    fn drop_from(mut self, at: usize, owed: &Outstanding) -> Reading {
        let sync = (at..owed.len()).find(|at| owed.get(*at).is_some_and(|due| due.kind == Kind::Sync));
        self.at = sync.unwrap_or(at);
        self.discarding = sync.is_none();
        if self.at > at {
            self.dropped.push(at..self.at);
        }
        self
    }

    /// The place of the reply that is due next: marks have none, and ours come by themselves.
    fn next(&self, owed: &Outstanding) -> usize {
        let passes = |due: &Due| due.kind == Kind::CopyEnd || due.action == Action::Fake;
        (self.at..).find(|at| owed.get(*at).is_none_or(|due| !passes(due))).unwrap_or(self.at)
    }

    /// Moves on by one message; says what becomes of it, `None` where it cannot come.
    fn advance(&mut self, message: Backend, owed: &Outstanding) -> Option<Verdict> {
        let next = self.next(owed);
        let due = if self.discarding { None } else { owed.get(next) };
        let is_query = due.is_some_and(|due| matches!(due.kind, Kind::Query | Kind::FunctionCall));
        if message == Backend::ReadyForQuery && is_query && !self.begun {
            return None;
        }
        match (fit(message, due.map(|due| due.kind)), due) {
            (Fit::Not, _) => return None,
            (Fit::Anyway, _) | (_, None) => return Some(Verdict::Forward),
            (Fit::Part, Some(due)) if message == Backend::ErrorResponse && !due.kind.ends_with_ready() => {
                *self = std::mem::replace(self, Reading::at(0)).drop_from(next, owed);
            }
            (Fit::Part, Some(_)) => (self.at, self.begun) = (next, is_query),
            (Fit::End, Some(_)) => (self.at, self.begun) = (next + 1, false),
        }
        due.map(verdict)
    }

    /// Does it pass a reply that we invent? With two readings nobody can say when that is due.
    fn passes_fake(&self, owed: &Outstanding) -> bool {
        (self.at..self.next(owed)).any(|at| owed.get(at).is_some_and(|due| due.action == Action::Fake))
    }
}

impl Exchange {
    /// Is it open what the server has read and will answer?
    #[inline]
    pub fn is_undecided(&self) -> bool {
        !self.readings.is_empty()
    }

    /// A COPY that an Execute began has failed: the server drops what it reads from now on, up to the next Sync, but
    /// for the Syncs that it has read already.
    #[cold]
    pub(super) fn copy_by_execute_failed(&mut self, undo: impl FnMut(u64, Undo)) -> Result<(), Violation> {
        self.owed.take_first(1, |_, _| ());
        let open = self.owed.read_inside_copy(0, SYNCS_MAX).ok_or(Violation::Undecidable)?;
        let starts = self.starts(open).into_iter();
        self.readings = starts.map(|at| Reading::at(at).drop_from(at, &self.owed)).collect();
        // A Flush is dropped like everything else, so that two starts may be one.
        self.readings.dedup_by_key(|reading| (reading.at, reading.discarding));
        self.commit_if_one(undo);
        Ok(())
    }

    /// A COPY that a Query began has failed; its ReadyForQuery comes next.
    #[cold]
    pub(super) fn copy_by_query_failed(&mut self) -> Result<(), Violation> {
        self.copy_failed = Some(self.owed.read_inside_copy(1, SYNCS_MAX).ok_or(Violation::Undecidable)?);
        Ok(())
    }

    /// The ReadyForQuery of that Query has come.
    #[cold]
    pub(super) fn begin_readings_after_query(&mut self, open: usize) -> Verdict {
        let mut ready = Verdict::Forward;
        self.owed.take_first(1, |_, due| ready = verdict(&due));
        self.readings = self.starts(open).into_iter().map(Reading::at).collect();
        self.commit_if_one(|_, _| ());
        ready
    }

    /// Where the server may go on, when it may have read any number of the first `open` inside the COPY.
    fn starts(&self, open: usize) -> Vec<usize> {
        let is_mark = |at: &usize| self.owed.get(*at).is_some_and(|due| due.kind == Kind::CopyEnd);
        (0..open).filter(|at| !is_mark(at)).chain([open]).collect()
    }

    /// What a message from the server says of what it has read. `None` where that is decided now: then the message is
    /// still to be shown to the method that it is for.
    ///
    /// # Errors
    /// It fits no account, or two which disagree on what the client gets.
    #[cold]
    pub fn decide(
        &mut self,
        message: Backend,
        status: Option<u8>,
        undo: impl FnMut(u64, Undo),
    ) -> Result<Option<Verdict>, Violation> {
        let before = self.readings.clone();
        let owed = &self.owed;
        let mut verdicts = Vec::with_capacity(before.len());
        let mut fits = Vec::with_capacity(before.len());
        let mut invents = false;
        self.readings.retain_mut(|reading| {
            let passes_fake = reading.passes_fake(owed);
            let verdict = reading.advance(message, owed);
            fits.push(verdict.is_some());
            if let Some(verdict) = verdict {
                verdicts.push(verdict);
                invents |= passes_fake;
            }
            verdict.is_some()
        });
        match verdicts.as_slice() {
            [] => return Err(Violation::UnexpectedReply),
            [_] => {
                self.readings = before.into_iter().zip(fits).filter_map(|(one, fits)| fits.then_some(one)).collect();
                self.commit_if_one(undo);
                return Ok(None);
            }
            [first, rest @ ..] => {
                let copies = matches!(message, Backend::CopyInResponse | Backend::CopyBothResponse);
                if invents || copies || rest.iter().any(|verdict| verdict != first) {
                    return Err(Violation::Undecidable);
                }
            }
        }
        self.merge()?;
        if let Some(status) = status {
            self.status = TransactionStatus::from_byte(status).ok_or(Violation::UnexpectedReady)?;
        }
        self.commit_if_one(undo);
        Ok(verdicts.first().copied())
    }

    /// Accounts that have come to the same place are one, if they agree on what was dropped.
    fn merge(&mut self) -> Result<(), Violation> {
        let mut merged: Vec<Reading> = Vec::with_capacity(self.readings.len());
        for reading in std::mem::take(&mut self.readings) {
            let twin = merged.iter().find(|known| (known.at, known.discarding) == (reading.at, reading.discarding));
            match twin {
                None => merged.push(reading),
                Some(twin) if *twin == reading => {}
                Some(_) => return Err(Violation::Undecidable),
            }
        }
        self.readings = merged;
        Ok(())
    }

    /// One account is left: it is what happened.
    fn commit_if_one(&mut self, mut undo: impl FnMut(u64, Undo)) {
        if self.readings.len() != 1 {
            return;
        }
        let Some(Reading { at, dropped, discarding, .. }) = self.readings.pop() else { return };
        self.probed = false;
        let (booked, mut taken_back) = (&mut self.booked, Vec::new());
        let count = if discarding { self.owed.len() } else { at };
        self.owed.take_first(count, |place, due| {
            let Some(changed) = due.undo else { return };
            unbook(booked, &changed);
            if place >= at || dropped.iter().any(|range| range.contains(&place)) {
                taken_back.push((due.number, *changed));
            }
        });
        self.owed.drop_marks();
        self.discarding = discarding;
        self.unsynced |= discarding;
        taken_back.into_iter().rev().for_each(|(number, changed)| undo(number, changed));
    }

    /// A Sync was sent: who drops what it reads goes on there.
    #[cold]
    pub(super) fn sync_ends_skipping(&mut self) {
        let sync = self.owed.len() - 1;
        for reading in self.readings.iter_mut().filter(|reading| reading.discarding) {
            if reading.at < sync {
                reading.dropped.push(reading.at..sync);
            }
            (reading.at, reading.discarding) = (sync, false);
        }
    }

    /// Would a question of our own decide what the server has read? It must change nothing for the client: the server
    /// reads no copy data, and no batch of the client's is open. Then it is booked as sent: a Close of a statement that
    /// does not exist, which is no error in any transaction, and a Sync. Called between two messages of the client's.
    #[inline]
    pub fn probe(&mut self) -> bool {
        !self.readings.is_empty() && self.probe_now()
    }

    #[cold]
    fn probe_now(&mut self) -> bool {
        let skips = self.readings.iter().any(|reading| reading.discarding);
        if self.probed || self.unsynced || skips {
            return false;
        }
        self.probed = true;
        self.owed.push(Due::new(Kind::Close, Action::Skip, None));
        self.sync_for(Action::Skip);
        true
    }
}
