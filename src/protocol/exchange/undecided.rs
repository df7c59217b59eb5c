//! A COPY FROM STDIN has failed, and Syncs were sent into it: which of them has PostgreSQL read inside the COPY, where
//! it ignores them, and which will it still answer?
//!
//! Pure: part of [`Exchange`].
//!
//! Two clients can have sent the same bytes and be answered differently: it depends on when the COPY failed. So every
//! possible account is kept, a [`Reading`] each: the place in the queue of replies owed where the server is if it has
//! read so many of the Syncs. Each message that comes moves those forward that expect it and strikes out the others.
//! One that is left is the truth, and the exchange goes on as usual. Where silence leaves two, a question of our own
//! behind what the client has sent ([`Exchange::probe`]) tells. Until then the server is not at rest, so that it
//! changes hands for nobody.
//!
//! ```text
//!   owed after the error       [Sync] [Sync] [CopyDone] [Sync] [Parse] …
//!   readings: it has read       none    1        2
//! ```
//!
//! Two accounts may fit all that the server says although the client would get different things, or though a COPY
//! begins that only one of them knows of. That is an error ([`Violation::Undecidable`]), and takes a client that has
//! sent, before it knew of the COPY or of its failure, a Flush or Sync with a body, or requests behind several Syncs of
//! which the answers are alike. No driver does.

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
    /// A part of that reply has come.
    pub(super) begun: bool,
    /// It drops what it reads, up to a Sync that is not sent yet.
    pub(super) discarding: bool,
    /// How many Syncs of the client's it has read inside the COPY, the last that it has read. Where some of ours
    /// follow, the client gets their ReadyForQuery: as if its own had been read later.
    pub(super) unanswered: usize,
    /// Places whose requests it has dropped because of an error before them, in order.
    pub(super) dropped: Vec<Range<usize>>,
}

/// A question of our own, to tell what the server has read. No COPY may read it but for the Sync, which a COPY ignores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A Sync. Its ReadyForQuery is none that another account expects. (A COPY that ignores the client's own Sync and
    /// is ended before ours is a batch that ours ends.)
    Sync,
    /// A Close of a statement that does not exist, which is no error in any transaction, and a Sync.
    CloseAndSync,
}

/// What a message is to a reply that is due.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// It belongs to that reply, and does not end it.
    Part,
    /// It ends that reply.
    End,
    /// It is an error, because of which the server drops what it reads.
    Fails,
}

fn fit(message: Backend, due: &Due, begun: bool) -> Option<Fit> {
    use Backend as B;
    let is_ours = due.action == Action::Skip;
    Some(match (message, due.kind) {
        // Neither fails of those that are ours.
        (B::ErrorResponse, Kind::Close | Kind::Sync) if is_ours => return None,
        (B::ErrorResponse, kind) if kind.ends_with_ready() => Fit::Part,
        (B::ErrorResponse, _) => Fit::Fails,
        (B::ReadyForQuery, Kind::Sync) => Fit::End,
        // There is no answer without a CommandComplete or the like.
        (B::ReadyForQuery, Kind::Query | Kind::FunctionCall) if begun => Fit::End,
        (B::ParseComplete, Kind::Parse) => Fit::End,
        (B::BindComplete, Kind::Bind) => Fit::End,
        (B::CloseComplete, Kind::Close) => Fit::End,
        (B::ParameterDescription, Kind::Describe) => Fit::Part,
        (B::RowDescription | B::NoData, Kind::Describe) => Fit::End,
        (B::CommandComplete | B::EmptyQueryResponse | B::PortalSuspended, Kind::Execute) => Fit::End,
        (B::FunctionCallResponse, Kind::FunctionCall) => Fit::Part,
        (B::RowDescription | B::CommandComplete | B::EmptyQueryResponse, Kind::Query) => Fit::Part,
        (
            B::DataRow | B::CopyInResponse | B::CopyOutResponse | B::CopyBothResponse | B::CopyData | B::CopyDone,
            Kind::Query | Kind::Execute,
        ) => Fit::Part,
        _ => return None,
    })
}

/// How an account goes on with a message that fits.
#[derive(Clone, Copy)]
struct Step {
    /// The place of the reply.
    place: usize,
    fit: Fit,
    verdict: Verdict,
    /// It passes a reply that we invent. With two accounts nobody can say when that is due.
    passes_fake: bool,
}

impl Reading {
    fn at(at: usize) -> Reading {
        Reading { at, begun: false, discarding: false, unanswered: 0, dropped: Vec::new() }
    }

    /// From this place on the server drops what it reads, up to the Sync at that place, or one that is not sent yet.
    fn drop_from(&mut self, at: usize, sync: Option<usize>, owed: &Outstanding) {
        (self.at, self.begun, self.discarding) = (at, false, sync.is_none());
        let Some(sync) = sync else { return };
        self.at = sync;
        if sync > at {
            self.unanswered = 0;
        }
        // A Flush has nothing to take back: whether it was dropped or read in the COPY is the same.
        let counts = |at: &usize| owed.get(*at).is_some_and(|due| !matches!(due.kind, Kind::BadFlush | Kind::CopyEnd));
        let first = (at..sync).find(counts).unwrap_or(sync);
        if first < sync {
            self.dropped.push(first..sync);
        }
    }

    /// The place of the reply that is due next: marks have none, and ours come by themselves.
    fn next(&self, owed: &Outstanding) -> usize {
        let passes = |due: &Due| due.kind == Kind::CopyEnd || due.action == Action::Fake;
        (self.at..).find(|at| owed.get(*at).is_none_or(|due| !passes(due))).unwrap_or(self.at)
    }

    fn pass_marks(&mut self, owed: &Outstanding) {
        while owed.get(self.at).is_some_and(|due| due.kind == Kind::CopyEnd) {
            self.at += 1;
        }
    }

    /// Does the server owe nothing, if this is what it has read?
    fn owes_nothing(&self, owed: &Outstanding) -> bool {
        self.discarding || self.next(owed) == owed.len()
    }

    /// How it goes on with this message; `None` where that cannot come.
    fn step(&self, message: Backend, owed: &Outstanding) -> Option<Step> {
        if self.discarding {
            return None;
        }
        let place = self.next(owed);
        let due = owed.get(place)?;
        let fit = fit(message, due, self.begun && place == self.at)?;
        // An error is the client's, whoever asked.
        let is_clients = message == Backend::ErrorResponse || (due.kind == Kind::Sync && self.unanswered > 0);
        let verdict = if is_clients { Verdict::Forward } else { verdict(due) };
        let is_fake = |at: usize| owed.get(at).is_some_and(|due| due.action == Action::Fake);
        Some(Step { place, fit, verdict, passes_fake: (self.at..place).any(is_fake) })
    }

    fn take(&mut self, step: Step, owed: &Outstanding) {
        let is_sync = owed.get(step.place).is_some_and(|due| due.kind == Kind::Sync);
        match step.fit {
            Fit::Part => (self.at, self.begun) = (step.place, !is_sync),
            Fit::End => {
                (self.at, self.begun) = (step.place + 1, false);
                let is_ours = owed.get(step.place).is_some_and(|due| due.action == Action::Skip);
                self.unanswered = if is_sync { self.unanswered.saturating_sub(usize::from(is_ours)) } else { 0 };
            }
            Fit::Fails => self.drop_from(step.place, owed.sync_from(step.place), owed),
        }
        self.pass_marks(owed);
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
        let sync_behind = self.owed.sync_from(open);
        self.readings = self.starts(open);
        for reading in &mut self.readings {
            let is_sync = |at: &usize| self.owed.get(*at).is_some_and(|due| due.kind == Kind::Sync);
            let sync = (reading.at..open).find(is_sync).or(sync_behind);
            // All that drop up to a Sync to come are one, wherever they begin.
            reading.drop_from(if sync.is_some() { reading.at } else { open }, sync, &self.owed);
        }
        self.readings.dedup();
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
        self.readings = self.starts(open);
        self.commit_if_one(|_, _| ());
        ready
    }

    /// Where the server may go on, when it may have read any number of the first `open` inside the COPY.
    fn starts(&self, open: usize) -> Vec<Reading> {
        let mut starts = vec![Reading::at(0)];
        for at in 1..=open {
            let Some(before) = self.owed.get(at - 1) else { break };
            let read = starts.last().map_or(0, |start| start.unanswered);
            let unanswered = match before.kind {
                Kind::BadFlush => 0,
                _ => read + usize::from(before.kind == Kind::Sync && before.action == Action::Forward),
            };
            if before.kind == Kind::CopyEnd {
                starts.pop();
            }
            starts.push(Reading { unanswered, ..Reading::at(at) });
        }
        starts
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
        if matches!(message, Backend::NoticeResponse | Backend::ParameterStatus | Backend::NotificationResponse) {
            return Ok(Some(Verdict::Forward));
        }
        let owed = &self.owed;
        let steps: Vec<_> = self.readings.iter().map(|reading| reading.step(message, owed)).collect();
        let mut fitting = steps.iter().flatten();
        let verdict = match (fitting.next(), fitting.next()) {
            // A FATAL, the last that is said.
            (None, _) if message == Backend::ErrorResponse => return Ok(Some(Verdict::Forward)),
            (None, _) => return Err(Violation::UnexpectedReply),
            (Some(_), None) => {
                let mut fits = steps.iter().map(Option::is_some);
                self.readings.retain(|_| fits.next() == Some(true));
                self.commit_if_one(undo);
                return Ok(None);
            }
            (Some(first), Some(_)) => first.verdict,
        };
        let copies = matches!(message, Backend::CopyInResponse | Backend::CopyBothResponse);
        if copies || steps.iter().flatten().any(|step| step.passes_fake || step.verdict != verdict) {
            return Err(Violation::Undecidable);
        }
        let mut steps = steps.into_iter();
        self.readings.retain_mut(|reading| {
            let step = steps.next().flatten();
            step.inspect(|step| reading.take(*step, owed)).is_some()
        });
        self.merge()?;
        if let Some(status) = status {
            self.status = TransactionStatus::from_byte(status).ok_or(Violation::UnexpectedReady)?;
        }
        self.commit_if_one(undo);
        Ok(Some(verdict))
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
        let (booked, mut taken_back) = (&mut self.booked, Vec::new());
        let count = if discarding { self.owed.len() } else { at };
        let mut ranges = dropped.into_iter().peekable();
        self.owed.take_first(count, |place, due| {
            while ranges.next_if(|range| range.end <= place).is_some() {}
            let Some(changed) = due.undo else { return };
            unbook(booked, &changed);
            if place >= at || ranges.peek().is_some_and(|range| range.contains(&place)) {
                taken_back.push((due.number, *changed));
            }
        });
        self.owed.drop_marks();
        self.discarding = discarding;
        self.unsynced |= discarding;
        let cleared = self.cleared;
        let taken_back = taken_back.into_iter().rev().filter(|(_, changed)| !changed.is_of_before(cleared));
        taken_back.for_each(|(number, changed)| undo(number, changed));
    }

    /// A Sync was sent: who drops what it reads goes on there.
    #[cold]
    pub(super) fn sync_ends_skipping(&mut self) {
        let sync = self.owed.len() - 1;
        for reading in self.readings.iter_mut().filter(|reading| reading.discarding) {
            reading.drop_from(reading.at, Some(sync), &self.owed);
        }
    }

    /// May the server owe nothing, so that only a question of our own tells?
    pub(super) fn may_owe_nothing(&self) -> bool {
        self.readings.iter().any(|reading| reading.owes_nothing(&self.owed))
    }

    /// Is a question of our own needed to tell what the server has read, and possible? It must change nothing for the
    /// client: no batch of its is open. Then it is booked as sent. Called between two messages of the client's.
    #[inline]
    pub fn probe(&mut self) -> Option<Probe> {
        if self.readings.is_empty() { None } else { self.probe_now() }
    }

    #[cold]
    fn probe_now(&mut self) -> Option<Probe> {
        let owed = &self.owed;
        self.readings.iter_mut().for_each(|reading| reading.pass_marks(owed));
        let drops = self.readings.iter().any(|reading| reading.discarding);
        // While each expects an answer, one will come.
        if self.unsynced || drops || !self.may_owe_nothing() {
            return None;
        }
        let expects_ready = |reading: &Reading| owed.get(reading.next(owed)).is_some_and(|due| due.kind == Kind::Sync);
        let probe = match self.readings.iter().any(expects_ready) {
            true => Probe::CloseAndSync,
            // What they expect is not what answers a Sync. One that begins a COPY would end at a Close.
            false => Probe::Sync,
        };
        if probe == Probe::CloseAndSync {
            self.owed.push(Due::new(Kind::Close, Action::Skip, None));
        }
        self.sync_for(Action::Skip);
        Some(probe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Backend::{
        BindComplete, CloseComplete, CommandComplete, CopyInResponse, ErrorResponse, NoticeResponse, ReadyForQuery,
    };

    /// The server says these; each with what becomes of it. Then a question is sent, if one is due.
    fn hear(exchange: &mut Exchange, messages: &[(Backend, Verdict)]) -> Option<Probe> {
        for (message, expected) in messages {
            let status = (*message == ReadyForQuery).then_some(b'I');
            let decided = match exchange.is_undecided() {
                true => exchange.decide(*message, status, |_, _| ()).unwrap(),
                false => None,
            };
            let verdict = decided.unwrap_or_else(|| match message {
                ReadyForQuery => exchange.ready(b'I').unwrap(),
                ErrorResponse => exchange.failed(|_, _| ()).map(|()| Verdict::Forward).unwrap(),
                _ => exchange.server_sent(*message).unwrap(),
            });
            assert_eq!(verdict, *expected, "{message:?}");
        }
        exchange.probe()
    }

    const fn shown(message: Backend) -> (Backend, Verdict) {
        (message, Verdict::Forward)
    }

    const fn hidden(message: Backend) -> (Backend, Verdict) {
        (message, Verdict::Skip)
    }

    /// Query(copy), CopyData, Sync, CopyDone, Query(slow) in one go: who gets the answer to the last?
    fn copy_that_fails_before_a_query() -> Exchange {
        let mut exchange = Exchange::default();
        exchange.ask(Kind::Query);
        exchange.sync();
        exchange.end_copy();
        exchange.ask(Kind::Query);
        let due = hear(&mut exchange, &[CopyInResponse, ErrorResponse, ReadyForQuery].map(shown));
        assert!(due.is_none() && exchange.is_undecided() && !exchange.at_rest());
        exchange
    }

    #[test]
    fn a_sync_that_was_read_behind_a_copy_is_answered() {
        let mut exchange = copy_that_fails_before_a_query();

        assert_eq!(hear(&mut exchange, &[shown(ReadyForQuery)]), None);
        assert!(!exchange.is_undecided() && !exchange.at_rest(), "the Query is still to be answered");
        hear(&mut exchange, &[CommandComplete, ReadyForQuery].map(shown));

        assert!(exchange.at_rest());
    }

    #[test]
    fn a_sync_that_was_read_inside_a_copy_is_not_waited_for() {
        let mut exchange = copy_that_fails_before_a_query();

        hear(&mut exchange, &[CommandComplete, ReadyForQuery].map(shown));

        assert!(!exchange.is_undecided() && exchange.at_rest());
    }

    #[test]
    fn silence_is_asked_about() {
        for is_answered in [true, false] {
            let mut exchange = Exchange::default();
            exchange.ask(Kind::Query);
            exchange.sync();
            let due = hear(&mut exchange, &[CopyInResponse, ErrorResponse, ReadyForQuery].map(shown));
            assert_eq!(due, Some(Probe::CloseAndSync));
            assert_eq!(hear(&mut exchange, &[shown(NoticeResponse)]), None, "asked once");

            if is_answered {
                hear(&mut exchange, &[shown(ReadyForQuery)]);
            }
            assert!(!exchange.at_rest());
            hear(&mut exchange, &[hidden(CloseComplete), hidden(ReadyForQuery)]);

            assert!(exchange.at_rest());
        }
    }

    #[test]
    fn nothing_is_asked_while_every_account_expects_an_answer() {
        let mut exchange = Exchange::default();
        for kinds in [&[Kind::Execute][..], &[Kind::Bind, Kind::Execute]] {
            kinds.iter().for_each(|kind| exchange.ask_extended(Due::forward(*kind)));
            exchange.sync();
        }

        assert_eq!(hear(&mut exchange, &[CopyInResponse, ErrorResponse].map(shown)), None);
        assert!(exchange.is_undecided());
        // The second batch may begin a COPY, in which a Close would end the connection.
        assert_eq!(hear(&mut exchange, &[shown(ReadyForQuery)]), Some(Probe::Sync));
        hear(&mut exchange, &[BindComplete, CopyInResponse].map(shown));
        assert!(!exchange.is_undecided() && exchange.copying_in());

        exchange.end_copy();
        exchange.sync();
        hear(&mut exchange, &[CommandComplete, ReadyForQuery].map(shown));
        assert!(exchange.at_rest());
    }

    #[test]
    fn two_copies_that_fail_behind_each_other_are_told_apart() {
        let mut exchange = Exchange::default();
        for _ in 0..2 {
            exchange.ask_extended(Due::forward(Kind::Execute));
            exchange.sync();
        }

        hear(&mut exchange, &[CopyInResponse, ErrorResponse].map(shown));
        assert_eq!(hear(&mut exchange, &[shown(ReadyForQuery)]), Some(Probe::Sync));
        assert_eq!(hear(&mut exchange, &[CopyInResponse, ErrorResponse].map(shown)), None);
        // The client gets this one, whether it answers its own Sync or ours.
        assert_eq!(hear(&mut exchange, &[shown(ReadyForQuery)]), Some(Probe::CloseAndSync));
        hear(&mut exchange, &[ReadyForQuery, CloseComplete, ReadyForQuery].map(hidden));

        assert!(exchange.at_rest());
    }

    #[test]
    fn an_error_is_the_clients_and_no_answer_to_a_question_of_ours() {
        let mut exchange = Exchange::default();
        exchange.ask(Kind::Query);
        exchange.flush_with_body();

        let due = hear(&mut exchange, &[CopyInResponse, ErrorResponse, ReadyForQuery].map(shown));
        assert_eq!(due, Some(Probe::Sync));
        hear(&mut exchange, &[shown(ErrorResponse), hidden(ReadyForQuery)]);

        assert!(exchange.at_rest());
    }

    #[test]
    fn an_error_is_of_the_account_that_has_something_that_may_fail() {
        for is_read_inside in [false, true] {
            let mut exchange = Exchange::default();
            for kind in [Kind::Execute, Kind::Bind] {
                exchange.ask_extended(Due::forward(kind));
                exchange.sync();
            }
            hear(&mut exchange, &[CopyInResponse, ErrorResponse, ReadyForQuery].map(shown));

            match is_read_inside {
                true => assert_eq!(hear(&mut exchange, &[hidden(ReadyForQuery)]), None),
                false => {
                    hear(&mut exchange, &[shown(ErrorResponse)]);
                    assert!(!exchange.is_undecided() && !exchange.at_rest());
                    hear(&mut exchange, &[shown(ReadyForQuery), hidden(ReadyForQuery)]);
                }
            }

            assert!(exchange.at_rest());
        }
    }

    #[test]
    fn an_error_of_a_parse_of_ours_is_the_clients() {
        let mut exchange = Exchange::default();
        for kind in [Kind::Execute, Kind::Parse, Kind::Parse] {
            let action = if kind == Kind::Parse { Action::Skip } else { Action::Forward };
            exchange.ask_extended(Due::new(kind, action, None));
            exchange.sync();
        }
        hear(&mut exchange, &[CopyInResponse, ErrorResponse, ReadyForQuery].map(shown));
        assert!(exchange.is_undecided());

        let due = hear(&mut exchange, &[ErrorResponse, ReadyForQuery].map(shown));

        assert!(exchange.is_undecided() && due == Some(Probe::Sync));
    }

    #[test]
    fn nothing_is_asked_in_a_batch_of_the_clients() {
        let mut exchange = Exchange::default();
        exchange.ask(Kind::Query);
        exchange.sync();
        exchange.ask_extended(Due::forward(Kind::Execute));

        assert_eq!(hear(&mut exchange, &[CopyInResponse, ErrorResponse, ReadyForQuery].map(shown)), None);
        assert_eq!(hear(&mut exchange, &[shown(ReadyForQuery)]), None);
        hear(&mut exchange, &[shown(CommandComplete)]);

        assert!(!exchange.is_undecided() && exchange.quiet() && !exchange.at_rest());
    }

    #[test]
    fn more_syncs_than_are_kept_account_of_end_it() {
        let mut exchange = Exchange::default();
        exchange.ask(Kind::Query);
        (0..=SYNCS_MAX).for_each(|_| exchange.sync());
        exchange.server_sent(CopyInResponse).unwrap();

        assert_eq!(exchange.failed(|_, _| ()), Err(Violation::Undecidable));
    }
}
