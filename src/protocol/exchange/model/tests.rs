//! Every conversation up to a length, and many long ones, with the promises of [`Conversation::check`].

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;

use super::conversation::{Ask, Conversation, End, Waiting};
use crate::wire::Backend;

/// One thing that happened.
#[derive(Clone, Copy, Debug)]
#[expect(dead_code, reason = "shown where a promise is broken")]
enum Event {
    Sent(Ask),
    Acted { read: usize, first: Option<Backend>, said: usize },
    Took(Backend),
    Parted,
}

/// What there was.
#[derive(Debug, Default)]
struct Seen {
    states: usize,
    undecidable: usize,
    killed: usize,
}

struct Search<'a> {
    alphabet: &'a [Ask],
    hasher: RandomState,
    known: HashSet<u64>,
    path: Vec<Event>,
    seen: Seen,
}

impl Search<'_> {
    /// Something happens, and all that can come of it.
    fn go_on(&mut self, mut now: Conversation, left: usize, event: Event, act: impl FnOnce(&mut Conversation)) {
        self.path.push(event);
        act(&mut now);
        now.check();
        self.all_that_follows(now, left);
        self.path.pop();
    }

    fn all_that_follows(&mut self, now: Conversation, left: usize) {
        match now.end {
            None => {}
            Some(End::ServerGone) => return,
            Some(End::Killed) => return self.seen.killed += 1,
            Some(End::Undecidable(_)) => return self.seen.undecidable += 1,
        }
        if !self.known.insert(self.hasher.hash_one((now.key(), left))) {
            return;
        }
        self.seen.states += 1;
        match now.next_answer() {
            Some(message) => self.go_on(now.clone(), left, Event::Took(message), Conversation::take),
            None if now.server.can_act() => self.server_acts(&now, left),
            None => {}
        }
        if left == 0 {
            return;
        }
        if now.has_two_servers && now.may_part() {
            self.go_on(now.clone(), left - 1, Event::Parted, Conversation::part);
        }
        for ask in self.alphabet.iter().copied().filter(|ask| now.may_send(*ask)) {
            self.go_on(now.clone(), left - 1, Event::Sent(ask), |now| now.send(ask));
        }
    }

    /// The server acts in each way that it may. What it says first is taken at once: nothing changes for anybody before
    /// that, and it cannot tell how much has arrived in between but by reading it.
    fn server_acts(&mut self, before: &Conversation, left: usize) {
        let mut picked: Vec<(usize, usize)> = Vec::new();
        loop {
            let (mut now, mut at) = (before.clone(), 0);
            now.server.act(&mut |of| {
                if at == picked.len() {
                    picked.push((0, of));
                }
                at += 1;
                picked[at - 1].0
            });
            let read = before.server.arrived.len() - now.server.arrived.len();
            let event = Event::Acted { read, first: now.next_answer(), said: now.server.answers.len() };
            self.go_on(now, left, event, Conversation::take);
            while let Some((choice, of)) = picked.pop() {
                if choice + 1 < of {
                    picked.push((choice + 1, of));
                    break;
                }
            }
            if picked.is_empty() {
                return;
            }
        }
    }
}

/// PGWEIR_MODEL_MORE: how many messages more than by default, and how often eight times as many long conversations.
fn more() -> usize {
    std::env::var("PGWEIR_MODEL_MORE").map_or(0, |more| more.parse().unwrap())
}

/// All conversations in which the client sends at most so many messages.
fn search(begin: &Conversation, alphabet: &[Ask], most: usize) -> Seen {
    let most = most + more();
    let up_to = |most| {
        let (known, path) = (HashSet::new(), Vec::new());
        let mut search = Search { alphabet, hasher: RandomState::new(), known, path, seen: Seen::default() };
        let searched = catch_unwind(AssertUnwindSafe(|| search.all_that_follows(begin.clone(), most)));
        searched.map(|()| search.seen).map_err(|_| search.path)
    };
    up_to(most).unwrap_or_else(|_| {
        let shortest = (1..=most).find_map(|most| up_to(most).err());
        panic!("a promise is broken after {shortest:#?}")
    })
}

macro_rules! searches {
    ($($name:ident: $most:literal, [$($ask:expr),*];)*) => {$(
        #[test]
        fn $name() {
            let begin = Conversation { has_two_servers: true, ..Conversation::new(false) };
            let seen = search(&begin, &[$($ask),*], $most);
            println!("{seen:?}");
            assert!(seen.states > 500 && (seen.undecidable + seen.killed) * 50 < seen.states, "{seen:?}");
        }
    )*};
}

searches! {
    copies_by_query: 5, [Ask::Query, Ask::Sync, Ask::CopyDone];
    copies_by_execute: 5, [Ask::Execute, Ask::Sync, Ask::CopyDone];
    copies_by_both: 4, [Ask::Execute, Ask::Query, Ask::Sync, Ask::CopyDone, Ask::CopyFail];
    bodies_where_none_belong: 4, [Ask::Execute, Ask::Query, Ask::Sync, Ask::FlushWithBody, Ask::SyncWithBody];
    statements: 4, [Ask::Query, Ask::Execute, Ask::Parse(0, 1), Ask::Bind(0), Ask::Close(0), Ask::Sync];
    two_names: 4, [Ask::Parse(0, 1), Ask::Parse(1, 1), Ask::Bind(0), Ask::Close(0), Ask::Close(1), Ask::Sync];
    discards: 4, [Ask::Discard, Ask::QueryChanges, Ask::Parse(0, 1), Ask::Bind(0), Ask::Sync, Ask::Close(0)];
    discards_elsewhere: 5, [Ask::Discard, Ask::Parse(0, 1), Ask::Sync];
    calls: 4, [Ask::FunctionCall, Ask::ParseUnnamed, Ask::Query, Ask::Sync, Ask::Flush];
}

#[test]
fn a_client_that_waits_for_its_answers_never_loses_its_server() {
    let waiting = Some(Waiting::default());
    let begin = Conversation { waiting, ..Conversation::new(false) };
    let copies = [Ask::CopyDone, Ask::CopyFail];
    let requests = [Ask::Query, Ask::Execute, Ask::Parse(0, 1), Ask::Bind(0), Ask::Close(0), Ask::Sync];

    let seen = search(&begin, &[&copies[..], &requests[..]].concat(), 5);

    assert!(seen.states > 10_000 && seen.undecidable + seen.killed == 0, "{seen:?}");
}

fn config() -> ProptestConfig {
    let cases = 512 * 8u32.pow(more() as u32);
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn long_conversations_keep_all_promises(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        super::conversation(&bytes);
    }
}
