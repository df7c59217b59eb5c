//! A conversation in the middle, as it is handed to a successor.
//!
//! Pure: an [`Exchange`] in, JSON out, and back.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::undecided::Reading;
use super::{Booked, Exchange, TransactionStatus};
use crate::protocol::outstanding::{Action, Due, Kind, Outstanding, Undo};
use crate::protocol::statements::Statement;

const KINDS: [(Kind, &str); 10] = [
    (Kind::Query, "query"),
    (Kind::FunctionCall, "function call"),
    (Kind::Sync, "sync"),
    (Kind::Parse, "parse"),
    (Kind::Bind, "bind"),
    (Kind::Describe, "describe"),
    (Kind::Execute, "execute"),
    (Kind::Close, "close"),
    (Kind::BadFlush, "bad flush"),
    (Kind::CopyEnd, "copy end"),
];
const ACTIONS: [(Action, &str); 3] = [(Action::Forward, "forward"), (Action::Skip, "skip"), (Action::Fake, "fake")];

impl Exchange {
    /// All of it. Statements are named by their numbers.
    pub fn to_json(&self) -> Value {
        let booked = self.booked.iter().map(|(id, booked)| json!([id, booked.count, booked.batch]));
        json!({
            "status": self.status as u8,
            "unsynced": self.unsynced,
            "discarding": self.discarding,
            "copying_in": self.copying_in,
            "batch": self.batch,
            "owed": self.owed.iter().map(due_to_json).collect::<Value>(),
            "booked": booked.collect::<Value>(),
            "copy_failed": self.copy_failed,
            "readings": self.readings_to_json(),
        })
    }

    /// The conversation that [`Exchange::to_json`] wrote down. `None` where it is not understood as a whole: then
    /// nobody can tell what the server owes.
    pub fn from_json(value: &Value, statement: impl Fn(u64) -> Option<Arc<Statement>>) -> Option<Exchange> {
        let flag = |key: &str| value.get(key)?.as_bool();
        let mut owed = Outstanding::default();
        for due in value.get("owed")?.as_array()? {
            owed.put(due_from_json(due, &statement)?);
        }
        let booked = value.get("booked")?.as_array()?.iter().map(|entry| {
            let [id, count, batch] = entry.as_array()?.as_slice() else { return None };
            let booked = Booked { count: u32::try_from(count.as_u64()?).ok()?, batch: batch.as_u64()? };
            (booked.count > 0).then_some((id.as_u64()?, booked))
        });
        let copy_failed = value.get("copy_failed")?;
        let exchange = Exchange {
            status: TransactionStatus::from_byte(u8::try_from(value.get("status")?.as_u64()?).ok()?)?,
            owed,
            unsynced: flag("unsynced")?,
            discarding: flag("discarding")?,
            copying_in: flag("copying_in")?,
            batch: value.get("batch")?.as_u64()?,
            booked: booked.collect::<Option<_>>()?,
            copy_failed: copy_failed.as_u64().and_then(|open| usize::try_from(open).ok()),
            readings: Exchange::readings_from_json(value.get("readings")?)?,
            changes: None,
            cleared: 0,
            foreign: false,
        };
        exchange.books_agree().then_some(exchange)
    }

    /// A conversation of which nothing is known but that it is under way.
    pub fn foreign() -> Exchange {
        Exchange { status: TransactionStatus::InTransaction, foreign: true, ..Exchange::default() }
    }

    fn readings_to_json(&self) -> Value {
        self.readings
            .iter()
            .map(|reading| {
                let dropped = reading.dropped.iter().map(|range| json!([range.start, range.end]));
                let (at, unanswered) = (reading.at, reading.unanswered);
                json!([at, reading.begun, reading.discarding, unanswered, dropped.collect::<Value>()])
            })
            .collect()
    }

    fn readings_from_json(value: &Value) -> Option<Vec<Reading>> {
        let place = |value: &Value| usize::try_from(value.as_u64()?).ok();
        let range = |value: &Value| {
            let [start, end] = value.as_array()?.as_slice() else { return None };
            Some(place(start)?..place(end)?)
        };
        let reading = |value: &Value| {
            let [at, begun, discarding, unanswered, dropped] = value.as_array()?.as_slice() else { return None };
            let dropped = dropped.as_array()?.iter().map(range).collect::<Option<_>>()?;
            let (begun, discarding) = (begun.as_bool()?, discarding.as_bool()?);
            Some(Reading { at: place(at)?, begun, discarding, unanswered: place(unanswered)?, dropped })
        };
        value.as_array()?.iter().map(reading).collect()
    }

    /// Is every request that changes what a server holds booked, and nothing else?
    fn books_agree(&self) -> bool {
        let due = |id: u64| {
            let meant = |due: &&Due| due.undo.as_deref().and_then(Undo::on_server) == Some(id);
            self.owed.iter().filter(meant).count()
        };
        let changes = self.owed.iter().filter(|due| due.undo.as_deref().and_then(Undo::on_server).is_some()).count();
        let booked: usize = self.booked.values().map(|booked| booked.count as usize).sum();
        booked == changes && self.booked.iter().all(|(id, booked)| due(*id) == booked.count as usize)
    }
}

fn due_to_json(due: &Due) -> Value {
    let kind = KINDS.iter().find(|(kind, _)| *kind == due.kind).map(|(_, name)| name);
    let action = ACTIONS.iter().find(|(action, _)| *action == due.action).map(|(_, name)| name);
    let undo = due.undo.as_deref().map(|undo| match undo {
        Undo::Parsed { name, sent } => {
            json!({ "parsed": name.as_ref().map(|name| STANDARD.encode(name)), "sent": sent })
        }
        Undo::ClientClosed { name, statement, number } => {
            json!({ "client_closed": STANDARD.encode(name), "statement": statement.id(), "number": number })
        }
        Undo::ServerClosed(id) => json!({ "server_closed": id }),
    });
    json!([kind, action, undo, due.number])
}

fn due_from_json(value: &Value, statement: impl Fn(u64) -> Option<Arc<Statement>>) -> Option<Due> {
    let [kind, action, undo, number] = value.as_array()?.as_slice() else { return None };
    let bytes = |value: &Value| Some(STANDARD.decode(value.as_str()?).ok()?.into_boxed_slice());
    let undo = if undo.is_null() {
        None
    } else if let Some(name) = undo.get("parsed") {
        let name = if name.is_null() { None } else { Some(bytes(name)?) };
        Some(Undo::Parsed { name, sent: undo.get("sent").and_then(Value::as_u64) })
    } else if let Some(name) = undo.get("client_closed") {
        let statement = statement(undo.get("statement")?.as_u64()?)?;
        Some(Undo::ClientClosed { name: bytes(name)?, statement, number: undo.get("number")?.as_u64()? })
    } else {
        Some(Undo::ServerClosed(undo.get("server_closed")?.as_u64()?))
    };
    Some(Due {
        number: number.as_u64()?,
        kind: KINDS.iter().find(|(_, name)| kind == name).map(|(kind, _)| *kind)?,
        action: ACTIONS.iter().find(|(_, name)| action == name).map(|(action, _)| *action)?,
        undo: undo.map(Box::new),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::shared::Catalogue;
    use crate::wire::Backend;

    fn handed_over(exchange: &Exchange, statement: Option<&Arc<Statement>>) -> Exchange {
        let value = serde_json::from_str(&exchange.to_json().to_string()).unwrap();
        Exchange::from_json(&value, |id| statement.filter(|known| known.id() == id).cloned()).unwrap()
    }

    #[test]
    fn a_pipeline_in_the_middle_goes_on_where_it_was() {
        let statement = Catalogue::default().statement(b"SELECT 1\0\0\0");
        let mut exchange = Exchange::default();
        let parsed = Undo::Parsed { name: Some(b"a".as_slice().into()), sent: Some(statement.id()) };
        let closed = Undo::ClientClosed { name: b"b".as_slice().into(), statement: statement.clone(), number: 0 };
        exchange.ask_extended(Due::new(Kind::Parse, Action::Skip, Some(parsed)));
        exchange.ask_extended(Due::forward(Kind::Bind));
        exchange.ask_extended(Due::new(Kind::Close, Action::Fake, Some(closed)));
        let made_room = Undo::ServerClosed(statement.id());
        exchange.ask_extended(Due::new(Kind::Close, Action::Skip, Some(made_room)));
        exchange.sync();

        let mut after = handed_over(&exchange, Some(&statement));

        assert_eq!(after.to_json(), exchange.to_json());
        assert!(after.in_doubt(statement.id()));
        assert_eq!(after.server_sent(Backend::ParseComplete), Ok(super::super::Verdict::Skip));
        let mut undone = 0;
        after.failed(|_, _| undone += 1).unwrap();
        assert_eq!(undone, 2, "the Parse has been answered");
        after.ready(b'I').unwrap();
        assert!(after.at_rest());
    }

    #[test]
    fn a_copy_in_the_middle_goes_on() {
        let mut exchange = Exchange::default();
        exchange.ask(Kind::Query);
        exchange.server_sent(Backend::CopyInResponse).unwrap();

        let mut after = handed_over(&exchange, None);

        assert!(!after.quiet());
        after.end_copy();
        after.server_sent(Backend::CommandComplete).unwrap();
        after.ready(b'I').unwrap();
        assert!(after.at_rest());
    }

    #[test]
    fn books_that_do_not_agree_are_not_believed() {
        let bad = [
            r#"{}"#,
            r#"{"status":73,"unsynced":false,"discarding":false,"copying_in":false,"batch":0,"owed":[],
                "booked":[[1,1,0]]}"#,
            r#"{"status":1,"unsynced":false,"discarding":false,"copying_in":false,"batch":0,"owed":[],"booked":[]}"#,
            r#"{"status":73,"unsynced":false,"discarding":false,"copying_in":false,"batch":0,
                "owed":[["close","fake",{"client_closed":"YQ==","statement":99}]],"booked":[]}"#,
        ];
        for text in bad {
            let value = serde_json::from_str(text).unwrap();
            assert!(Exchange::from_json(&value, |_| None).is_none(), "{text}");
        }
    }

    #[test]
    fn a_foreign_conversation_takes_what_comes() {
        let mut exchange = Exchange::foreign();

        assert!(!exchange.at_rest());
        assert_eq!(exchange.server_sent(Backend::ParseComplete), Ok(super::super::Verdict::Forward));
        assert_eq!(exchange.server_sent(Backend::CommandComplete), Ok(super::super::Verdict::Forward));
        exchange.ready(b'T').unwrap();
        exchange.ask(Kind::Query);
        exchange.ready(b'I').unwrap();

        assert!(exchange.at_rest());
    }
}
