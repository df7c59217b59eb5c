//! What a message costs does not grow with what is owed: no burst of a client's, however it is made, takes more than so
//! many looks at the queue per message. Counted, not timed.

use super::*;

/// Most looks at the queue per message, where one COPY has failed into which 64 Syncs were sent: one each, and some.
const LOOKS_MAX: usize = 200;

fn parsed(id: u64) -> Due {
    Due::new(Kind::Parse, Action::Forward, Some(Undo::Parsed { name: None, sent: Some(id) }))
}

/// One conversation, and how many messages it has.
#[derive(Default)]
struct Burst {
    exchange: Exchange,
    messages: usize,
    undone: Vec<(u64, Undo)>,
}

impl Burst {
    fn client(&mut self, tell: impl FnOnce(&mut Exchange)) {
        self.messages += 1;
        tell(&mut self.exchange);
        self.exchange.take_fake();
        self.exchange.probe();
    }

    fn server(&mut self, message: Backend) {
        self.messages += 1;
        let (exchange, undone) = (&mut self.exchange, &mut self.undone);
        let mut undo = |number, taken_back| undone.push((number, taken_back));
        let status = (message == Backend::ReadyForQuery).then_some(b'I');
        let is_decided = !exchange.is_undecided() || exchange.decide(message, status, &mut undo).unwrap().is_none();
        if is_decided {
            match message {
                Backend::ReadyForQuery => drop(exchange.ready(b'I').unwrap()),
                Backend::ErrorResponse => exchange.failed(undo).unwrap(),
                _ => drop(exchange.server_sent(message).unwrap()),
            }
        }
        while exchange.take_fake().is_some() {}
        exchange.probe();
    }

    fn says(&mut self, messages: &[Backend]) {
        messages.iter().for_each(|message| self.server(*message));
    }
}

use Backend::{CommandComplete as C, CopyInResponse as G, ErrorResponse as E, NoticeResponse as N, ReadyForQuery as Z};

/// Sends a burst of `n` messages or some times as many.
type Send = fn(&mut Burst, usize);

/// The bursts, by name.
const BURSTS: [(&str, Send); 9] = [
    ("COPY and CopyDone", |burst, n| {
        for _ in 0..n {
            burst.client(|exchange| exchange.ask(Kind::Query));
            burst.client(Exchange::end_copy);
        }
        (0..n).for_each(|_| burst.says(&[G, C, Z]));
    }),
    ("COPY that fails, and CopyDone", |burst, n| {
        for _ in 0..n {
            burst.client(|exchange| exchange.ask(Kind::Query));
            burst.client(Exchange::end_copy);
        }
        (0..n).for_each(|_| burst.says(&[G, E, Z]));
    }),
    ("COPY that fails by Execute, Sync and CopyDone in it", |burst, n| {
        for _ in 0..n {
            burst.client(|exchange| exchange.ask_extended(Due::forward(Kind::Execute)));
            burst.client(Exchange::end_copy);
            burst.client(Exchange::sync);
        }
        (0..n).for_each(|_| burst.says(&[G, E, Z]));
    }),
    ("CopyDone without end in one COPY", |burst, n| {
        burst.client(|exchange| exchange.ask(Kind::Query));
        burst.says(&[G]);
        (0..n).for_each(|_| burst.client(Exchange::end_copy));
        (0..n).for_each(|_| burst.says(&[N]));
        burst.says(&[E, Z]);
    }),
    ("undecided, with all that may be", |burst, n| {
        burst.client(|exchange| exchange.ask(Kind::Query));
        (0..64).for_each(|_| burst.client(Exchange::sync));
        burst.client(|exchange| exchange.ask(Kind::Query));
        (0..n).for_each(|_| burst.client(Exchange::end_copy));
        burst.says(&[G, E, Z]);
        // Copy data, notices, and errors that each account expects.
        (0..n).for_each(|_| burst.client(|_| ()));
        (0..n).for_each(|_| burst.says(&[N]));
        (0..60).for_each(|_| burst.says(&[E, Z]));
        (0..n).for_each(|_| burst.client(|_| ()));
        (0..n).for_each(|_| burst.says(&[N]));
    }),
    ("undecided behind a long batch", |burst, n| {
        burst.client(|exchange| exchange.ask_extended(Due::forward(Kind::Execute)));
        (0..64).for_each(|_| burst.client(Exchange::flush_with_body));
        (0..n as u64).for_each(|id| burst.client(|exchange| exchange.ask_extended(parsed(id))));
        burst.client(Exchange::sync);
        burst.says(&[G, E, Z]);
    }),
    ("undecided while batch after batch fails", |burst, n| {
        burst.client(|exchange| exchange.ask_extended(Due::forward(Kind::Execute)));
        burst.client(Exchange::sync);
        for id in 0..n as u64 {
            burst.client(|exchange| exchange.ask_extended(parsed(id)));
            burst.client(Exchange::sync);
        }
        burst.says(&[G, E, Z]);
        (0..n - 1).for_each(|_| burst.says(&[E, Z]));
        burst.says(&[Backend::ParseComplete]);
    }),
    ("a long batch that fails, over and over", |burst, n| {
        for id in 0..n as u64 {
            burst.client(|exchange| exchange.ask_extended(parsed(id)));
            if id % 100 == 99 {
                burst.client(Exchange::sync);
            }
        }
        (0..n / 100).for_each(|_| burst.says(&[E, Z]));
    }),
    ("a name that is given, closed and given anew, while batch after batch fails", |burst, n| {
        let statement = std::sync::Arc::new(crate::protocol::statements::Statement::new(1, b"SELECT 1\0\0\0"));
        for _ in 0..n / 4 {
            burst.client(|exchange| exchange.ask_extended(parsed(1)));
            let (name, number) = (Box::from(&b"a"[..]), burst.exchange.last_number());
            let closed = Undo::ClientClosed { name, statement: statement.clone(), number };
            burst.client(|exchange| exchange.ask_extended(Due::new(Kind::Close, Action::Forward, Some(closed))));
            burst.client(Exchange::sync);
        }
        for _ in 0..n / 4 {
            burst.says(&[E]);
            let parses = burst.undone.drain(..).map(|(number, _)| number).collect();
            burst.exchange.forget_closes_of(&parses);
            burst.says(&[Z]);
        }
    }),
];

#[test]
fn a_message_costs_the_same_whatever_is_owed() {
    for (what, run) in BURSTS {
        let looks = [500, 4000].map(|n| {
            let mut burst = Burst::default();
            run(&mut burst, n);
            burst.exchange.owed.looks().div_ceil(burst.messages)
        });
        println!("{what}: {looks:?}");
        assert!(looks.iter().all(|looks| *looks <= LOOKS_MAX), "{what}: {looks:?} looks per message");
        // A cost per message that grew with the queue would be eight times as much.
        assert!(looks[1] <= looks[0] * 2, "{what}: {looks:?} looks per message");
    }
}
