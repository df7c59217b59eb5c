//! The relay's part that renames prepared statements, so that a client finds its own on whatever server it gets.
//!
//! | the client sends | the server has the statement | it has not |
//! |---|---|---|
//! | Parse, named | nothing; we answer in its place | the Parse under our name |
//! | Bind, Describe of a named statement | the same under our name | a Parse of ours first, its answer kept to
//! ourselves |
//! | Close, named | nothing; we answer in its place, the server keeps it for others | the same |
//!
//! (Behind a request that may be a COPY the server answers itself, to a Close of nothing, or to the Parse of a
//! statement that was closed before.)
//!
//! All of it leaves in one send with what follows. The unnamed statement, portals and everything else go through
//! unchanged, as does all of it in session mode. What was booked for a message that the server then drops, because one
//! before it failed, is taken back ([`take_back`]). What depends on an answer that is under way waits for it
//! ([`must_wait`]). After a client's own PREPARE, DEALLOCATE and their like nothing that the server had before is
//! relied on ([`distrust`]).

use std::collections::HashSet;
use std::sync::Arc;

use super::relay::{Fault, Relay};
use crate::protocol::outstanding::{Action, Due, Kind, Undo};
use crate::protocol::rename::{self, BindNames};
use crate::protocol::statement_sql::may_change_statements;
use crate::protocol::statements::{Statement, StatementError, drops_all_statements};
use crate::stats::counters::bump;
use crate::stats::lines;
use crate::wire::framing::{HEADER_LEN, Header, Partial};
use crate::wire::{Frontend, backend};

/// The longest Describe or Close of a statement: a name and little more.
pub(super) const NAMED_LEN_MAX: usize = HEADER_LEN + 1 + rename::NAME_LEN_MAX + 1;

/// Must this incomplete client message be held until it is whole, or more of it is there?
#[inline]
pub(super) fn hold(header: Header, fresh: &[u8], renames: bool) -> Partial {
    if !renames {
        return Partial::Stream;
    }
    let body = fresh.get(HEADER_LEN..).unwrap_or_default();
    let hold = match Frontend::from_byte(header.tag) {
        Some(Frontend::Parse) => body.first() != Some(&0),
        Some(Frontend::Bind) => matches!(rename::bind(body), Ok(BindNames::Incomplete)),
        Some(Frontend::Describe | Frontend::Close) => true,
        _ => false,
    };
    if hold { Partial::Hold } else { Partial::Stream }
}

impl From<StatementError> for Fault {
    fn from(error: StatementError) -> Fault {
        match error {
            StatementError::NameInUse => Fault::StatementInUse,
            StatementError::Unknown => Fault::NoSuchStatement,
            StatementError::TooMany => Fault::TooMany("prepared statements"),
            StatementError::Broken(message) => Fault::Broken(message),
        }
    }
}

/// What to do with one message.
enum Change {
    /// It goes through as it is.
    None,
    /// It is answered or rewritten: its bytes go nowhere.
    Replaced,
}

/// Must the client's next message wait for an answer that is on its way? A Bind or Describe of a statement must where a
/// batch before it may yet fail to prepare it; a Parse must where its name is in use and DISCARD ALL or the like may
/// just be dropping it. (In a COPY no answer may come: the server may wait for the client.)
#[inline]
pub(super) fn must_wait(relay: &Relay<'_>) -> bool {
    let exchange = &relay.server.exchange;
    let may = exchange.has_booked() || exchange.is_changing_statements();
    may && !exchange.copying_in() && !exchange.is_undecided() && depends_on_answer(relay)
}

#[cold]
fn depends_on_answer(relay: &Relay<'_>) -> bool {
    let (client, exchange) = (&relay.client, &relay.server.exchange);
    if !client.framer.between_messages() || !client.renames_statements() {
        return false;
    }
    let Some((head, body)) = client.inbox.fresh().split_at_checked(HEADER_LEN) else { return false };
    let (name, parses) = match Frontend::from_byte(head[0]) {
        Some(Frontend::Parse) => (rename::parsed_so_far(body), true),
        Some(Frontend::Bind) => match rename::bind(body) {
            Ok(BindNames::Named(bind)) => (Some(bind.statement), false),
            _ => (None, false),
        },
        Some(Frontend::Describe) => (rename::described_so_far(body), false),
        _ => (None, false),
    };
    let Some(Ok(statement)) = name.map(|name| client.statements.find(name)) else { return false };
    if parses { exchange.is_changing_statements() } else { exchange.in_doubt(statement.id()) }
}

/// A Parse, Bind, Describe, Execute or Close of which `len` bytes are in the client's inbox.
#[inline]
pub(super) fn extended(relay: &mut Relay<'_>, message: Frontend, len: usize) -> Result<(), Fault> {
    let kind = match message {
        Frontend::Parse => Kind::Parse,
        Frontend::Bind => Kind::Bind,
        Frontend::Describe => Kind::Describe,
        Frontend::Close => Kind::Close,
        _ => Kind::Execute,
    };
    // What the server will skip changes no books and needs no name.
    let looks = relay.client.renames_statements() && !relay.server.exchange.discarding();
    let change = match (looks, kind) {
        (false, _) | (true, Kind::Execute) => Change::None,
        (true, Kind::Parse) => parse(relay, len)?,
        (true, Kind::Bind) => bind(relay, len)?,
        (true, Kind::Describe) => describe(relay, len)?,
        (true, _) => close(relay, len)?,
    };
    match change {
        Change::None => {
            relay.server.exchange.ask_extended(Due::forward(kind));
            relay.client.inbox.pass(len);
            if kind == Kind::Execute && looks && relay.changes_statements {
                // It may run what was parsed before on this loan.
                distrust(relay);
            }
        }
        Change::Replaced => relay.client.inbox.skip(len),
    }
    Ok(())
}

fn parse(relay: &mut Relay<'_>, len: usize) -> Result<Change, Fault> {
    let body = &relay.client.inbox.fresh()[HEADER_LEN..len];
    let Some(parse) = rename::parse(body)? else {
        relay.changes_statements |= may_change_statements(body);
        return Ok(Change::None);
    };
    let statement = relay.client.shared.catalogue.statement(parse.body);
    let name: Box<[u8]> = parse.name.into();
    if let Err(error) = relay.client.statements.check(&name, &statement) {
        if matches!(error, StatementError::NameInUse) {
            let tag = lines::Tag::client(relay.client.card());
            tracing::error!(conn = ?tag, "{}", lines::already_prepared(&name));
        }
        return Err(error.into());
    }
    relay.changes_statements |= statement.changes_statements();
    bump(&relay.client.counters().client_parse_count, 1);
    relay.to_server.take_run(&mut relay.client.inbox);
    let number = if !is_there(relay, &statement) {
        prepare(relay, &statement, Action::Forward, Some(name.clone()))
    } else if relay.server.exchange.may_refuse_parse() {
        // The server's own answer counts, and it gives one to a Parse only.
        close_on_server(relay, statement.id());
        prepare(relay, &statement, Action::Forward, Some(name.clone()))
    } else {
        let undo = Undo::Parsed { name: Some(name.clone()), sent: None };
        relay.server.exchange.ask_extended(Due::new(Kind::Parse, Action::Fake, Some(undo)));
        relay.server.exchange.last_number()
    };
    relay.client.statements.insert(&name, statement, number)?;
    relay.client.note_statement_count();
    write_fakes(relay);
    Ok(Change::Replaced)
}

fn bind(relay: &mut Relay<'_>, len: usize) -> Result<Change, Fault> {
    let fresh = relay.client.inbox.fresh();
    let statement = match rename::bind(&fresh[HEADER_LEN..len])? {
        BindNames::Unnamed => return Ok(Change::None),
        BindNames::Incomplete => return Err(Fault::Broken("Bind")),
        BindNames::Named(bind) => relay.client.statements.find(bind.statement)?.clone(),
    };
    bump(&relay.client.counters().bind_count, 1);
    relay.changes_statements |= statement.changes_statements();
    ensure(relay, &statement);
    let fresh = relay.client.inbox.fresh();
    let body_len = message_len(fresh) - HEADER_LEN;
    if let BindNames::Named(bind) = rename::bind(&fresh[HEADER_LEN..len])? {
        rename::put_bind(relay.to_server.bytes(), bind, &fresh[HEADER_LEN..len], body_len, &statement);
    }
    relay.server.exchange.ask_extended(Due::forward(Kind::Bind));
    Ok(Change::Replaced)
}

fn describe(relay: &mut Relay<'_>, len: usize) -> Result<Change, Fault> {
    let Some(name) = rename::describe(&relay.client.inbox.fresh()[HEADER_LEN..len])? else {
        return Ok(Change::None);
    };
    let statement = relay.client.statements.find(name)?.clone();
    ensure(relay, &statement);
    rename::put_describe(relay.to_server.bytes(), &statement);
    relay.server.exchange.ask_extended(Due::forward(Kind::Describe));
    Ok(Change::Replaced)
}

fn close(relay: &mut Relay<'_>, len: usize) -> Result<Change, Fault> {
    let Some(name) = rename::close(&relay.client.inbox.fresh()[HEADER_LEN..len])? else {
        return Ok(Change::None);
    };
    let name: Box<[u8]> = name.into();
    let removed = relay.client.statements.remove(&name);
    let undo = removed.map(|(statement, number)| Undo::ClientClosed { name, statement, number });
    relay.client.note_statement_count();
    relay.to_server.take_run(&mut relay.client.inbox);
    let action = if relay.server.exchange.may_copy() {
        // In a COPY it is an error, and the server has to say so.
        rename::put_close_of_none(relay.to_server.bytes());
        Action::Forward
    } else {
        Action::Fake
    };
    relay.server.exchange.ask_extended(Due::new(Kind::Close, action, undo));
    write_fakes(relay);
    Ok(Change::Replaced)
}

/// Sees to it that the server has the statement before what is sent next.
#[inline]
fn ensure(relay: &mut Relay<'_>, statement: &Arc<Statement>) {
    relay.to_server.take_run(&mut relay.client.inbox);
    if !is_there(relay, statement) {
        prepare(relay, statement, Action::Skip, None);
    }
}

/// Has the server the statement, beyond doubt?
#[inline]
fn is_there(relay: &mut Relay<'_>, statement: &Statement) -> bool {
    relay.server.statements.touch(statement.id()) && !relay.server.exchange.in_doubt(statement.id())
}

/// Sends a Parse under our name, and a Close for each statement that has to make room; the number of that Parse.
fn prepare(relay: &mut Relay<'_>, statement: &Arc<Statement>, action: Action, name: Option<Box<[u8]>>) -> u64 {
    for suspect in relay.server.statements.take_suspects() {
        close_on_server(relay, suspect);
    }
    // It may be there or not; a Close is no error either way.
    if relay.server.exchange.in_doubt(statement.id()) || relay.server.statements.names_taken() {
        close_on_server(relay, statement.id());
    }
    rename::put_parse(relay.to_server.bytes(), statement);
    let undo = Undo::Parsed { name, sent: Some(statement.id()) };
    relay.server.exchange.ask_extended(Due::new(Kind::Parse, action, Some(undo)));
    let number = relay.server.exchange.last_number();
    relay.server.statements.insert(statement.clone(), number);
    let most = relay.client.limits.prepared_statements_max;
    while let Some(evicted) = relay.server.statements.evict(most) {
        close_on_server(relay, evicted);
    }
    relay.server.note_statement_count();
    bump(&relay.client.counters().server_parse_count, 1);
    number
}

/// Sends a Close of our own.
fn close_on_server(relay: &mut Relay<'_>, id: u64) {
    rename::put_close(relay.to_server.bytes(), id);
    relay.server.exchange.ask_extended(Due::new(Kind::Close, Action::Skip, Some(Undo::ServerClosed(id))));
}

/// The latest request may drop statements of ours on the server, or prepare others under their names.
#[cold]
pub(super) fn distrust(relay: &mut Relay<'_>) {
    relay.server.exchange.changes_statements();
    relay.server.statements.distrust();
    relay.server.note_statement_count();
}

/// Writes the answers we give in the server's place, as far as it is their turn.
#[inline]
pub(super) fn write_fakes(relay: &mut Relay<'_>) {
    while let Some(due) = relay.server.exchange.take_fake() {
        relay.client.outbox.take_run(&mut relay.server.inbox);
        match due.kind {
            Kind::Close => backend::close_complete(relay.client.outbox.bytes()),
            _ => backend::parse_complete(relay.client.outbox.bytes()),
        }
    }
}

/// Takes back, latest first, what was booked for requests that the server has dropped because one before them failed.
#[cold]
pub(super) fn take_back(relay: &mut Relay<'_>, undone: Vec<(u64, Undo)>) {
    let mut replaced = HashSet::new();
    for (number, undo) in undone {
        match undo {
            Undo::Parsed { name, sent } => {
                if name.is_some_and(|name| !relay.client.statements.undo_parse(&name, number)) {
                    replaced.insert(number);
                }
                sent.into_iter().for_each(|id| doubt(relay, id));
            }
            Undo::ClientClosed { name, statement, number } => {
                // The name may have been given anew in a batch behind this one.
                let _ = relay.client.statements.insert(&name, statement, number);
            }
            Undo::ServerClosed(id) => doubt(relay, id),
        }
    }
    if !replaced.is_empty() {
        relay.server.exchange.forget_closes_of(&replaced);
    }
    relay.client.note_statement_count();
    relay.server.note_statement_count();
}

/// The server skipped a Parse or a Close of this statement: whether it is there depends on batches before it. One that
/// a later batch closes and parses again will be there.
fn doubt(relay: &mut Relay<'_>, id: u64) {
    if !relay.server.exchange.is_booked(id) {
        relay.server.statements.suspect(id);
    }
}

/// A CommandComplete of which `len` bytes are in the server's inbox: did it drop all statements?
#[inline]
pub(super) fn command_complete(relay: &mut Relay<'_>, len: usize) {
    let body = relay.server.inbox.fresh().get(HEADER_LEN..len).unwrap_or_default();
    // All other tags are told by their second letter; this runs for each query.
    if body.first() == Some(&b'D') && drops_all_statements(body) {
        let number = relay.server.exchange.dropped_statements();
        relay.client.statements.clear_before(number);
        relay.server.statements.clear_before(number);
        relay.client.note_statement_count();
        relay.server.note_statement_count();
    }
}

/// The length of the message at the start of `fresh`, of which the header is there.
fn message_len(fresh: &[u8]) -> usize {
    match Header::parse(fresh, usize::MAX) {
        Ok(Some(header)) => header.len,
        _ => HEADER_LEN,
    }
}
