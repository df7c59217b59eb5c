//! The relay's part that renames prepared statements, so that a client finds its own on whatever server it gets.
//!
//! | the client sends | the server has the statement | it has not |
//! |---|---|---|
//! | Parse, named | nothing; we answer in its place | the Parse under our name |
//! | Bind, Describe of a named statement | the same under our name | a Parse of ours first, its answer kept to
//! ourselves |
//! | Close, named | nothing; we answer in its place, the server keeps it for others | the same |
//!
//! All of it leaves in one send with what follows. The unnamed statement, portals and everything else go through
//! unchanged, as does all of it in session mode. What was booked for a message that the server then skipped, because
//! one before it failed, is taken back ([`failed`]).

use std::sync::Arc;

use super::relay::{Fault, Relay};
use crate::protocol::outstanding::{Action, Due, Kind, Undo};
use crate::protocol::rename::{self, BindNames};
use crate::protocol::statements::{Statement, StatementError, drops_all_statements};
use crate::stats::counters::bump;
use crate::stats::lines;
use crate::wire::framing::{HEADER_LEN, Header, MESSAGE_LEN_MAX, Partial};
use crate::wire::{Frontend, backend};

/// The longest named Parse we hold: it must be whole before we know which statement it is.
const PARSE_LEN_MAX: usize = 64 * 1024 * 1024;

/// The longest Describe or Close: a name and little more.
const NAMED_LEN_MAX: usize = HEADER_LEN + 1 + rename::NAME_LEN_MAX + 1;

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

/// Is what we hold still within limits?
///
/// # Errors
/// The message is longer than any of its kind that we hold.
pub(super) fn check_held(fresh: &[u8]) -> Result<(), Fault> {
    let Ok(Some(header)) = Header::parse(fresh, MESSAGE_LEN_MAX) else { return Ok(()) };
    match Frontend::from_byte(header.tag) {
        Some(Frontend::Parse) if header.len > PARSE_LEN_MAX => Err(Fault::TooLong("Parse")),
        Some(Frontend::Describe) if header.len > NAMED_LEN_MAX => Err(Fault::Broken("Describe")),
        Some(Frontend::Close) if header.len > NAMED_LEN_MAX => Err(Fault::Broken("Close")),
        _ => Ok(()),
    }
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
    if relay.server.exchange.overloaded() {
        return Err(Fault::TooMany("requests without reading answers"));
    }
    // What the server will skip changes no books and needs no name.
    let looks = relay.client.renames_statements() && kind != Kind::Execute && !relay.server.exchange.discarding();
    let change = match (looks, kind) {
        (false, _) => Change::None,
        (true, Kind::Parse) => parse(relay, len)?,
        (true, Kind::Bind) => bind(relay, len)?,
        (true, Kind::Describe) => describe(relay, len)?,
        (true, _) => close(relay, len)?,
    };
    match change {
        Change::None => {
            relay.server.exchange.ask_extended(Due::forward(kind));
            relay.client.inbox.pass(len);
        }
        Change::Replaced => relay.client.inbox.skip(len),
    }
    Ok(())
}

fn parse(relay: &mut Relay<'_>, len: usize) -> Result<Change, Fault> {
    let Some(parse) = rename::parse(&relay.client.inbox.fresh()[HEADER_LEN..len])? else {
        return Ok(Change::None);
    };
    let statement = relay.client.shared.catalogue.statement(parse.body);
    let name: Box<[u8]> = parse.name.into();
    if let Err(error) = relay.client.statements.insert(&name, statement.clone()) {
        if matches!(error, StatementError::NameInUse) {
            let tag = lines::Tag::client(relay.client.card());
            tracing::error!(conn = ?tag, "{}", lines::already_prepared(&name));
        }
        return Err(error.into());
    }
    relay.client.note_statement_count();
    bump(&relay.client.counters().client_parse_count, 1);
    relay.to_server.take_run(&mut relay.client.inbox);
    if is_there(relay, &statement) {
        let undo = Undo::Parsed { name: Some(name), sent: None };
        relay.server.exchange.ask_extended(Due { kind: Kind::Parse, action: Action::Fake, undo: Some(Box::new(undo)) });
        write_fakes(relay);
    } else {
        prepare(relay, &statement, Action::Forward, Some(name));
    }
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
    let undo = relay.client.statements.remove(&name).map(|statement| Undo::ClientClosed { name, statement });
    relay.client.note_statement_count();
    relay.to_server.take_run(&mut relay.client.inbox);
    let due = Due { kind: Kind::Close, action: Action::Fake, undo: undo.map(Box::new) };
    relay.server.exchange.ask_extended(due);
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

/// Sends a Parse under our name, and a Close for each statement that has to make room.
fn prepare(relay: &mut Relay<'_>, statement: &Arc<Statement>, action: Action, name: Option<Box<[u8]>>) {
    // It may be there or not; a Close is no error either way.
    if relay.server.exchange.in_doubt(statement.id()) {
        close_on_server(relay, statement.id());
    }
    for suspect in relay.server.statements.take_suspects() {
        close_on_server(relay, suspect);
    }
    relay.server.statements.insert(statement.clone());
    let most = relay.client.limits.prepared_statements_max;
    while let Some(evicted) = relay.server.statements.evict(most) {
        close_on_server(relay, evicted.id());
    }
    rename::put_parse(relay.to_server.bytes(), statement);
    let undo = Some(Box::new(Undo::Parsed { name, sent: Some(statement.id()) }));
    relay.server.exchange.ask_extended(Due { kind: Kind::Parse, action, undo });
    relay.server.note_statement_count();
    bump(&relay.client.counters().server_parse_count, 1);
}

/// Sends a Close of our own.
fn close_on_server(relay: &mut Relay<'_>, id: u64) {
    rename::put_close(relay.to_server.bytes(), id);
    let undo = Some(Box::new(Undo::ServerClosed(id)));
    relay.server.exchange.ask_extended(Due { kind: Kind::Close, action: Action::Skip, undo });
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

/// An ErrorResponse came: takes back what was booked for requests that the server will skip.
#[cold]
pub(super) fn failed(relay: &mut Relay<'_>) {
    let mut undone = Vec::new();
    relay.server.exchange.failed(|undo| undone.push(undo));
    for undo in undone {
        match undo {
            Undo::Parsed { name, sent } => {
                if let Some(name) = name {
                    relay.client.statements.remove(&name);
                }
                sent.into_iter().for_each(|id| doubt(relay, id));
            }
            Undo::ClientClosed { name, statement } => {
                // It fits where it was before.
                let _ = relay.client.statements.insert(&name, statement);
            }
            Undo::ServerClosed(id) => doubt(relay, id),
        }
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
        relay.client.statements.clear();
        relay.server.statements.clear();
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
