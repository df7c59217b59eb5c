//! What a row of SHOW HANDOVER carries beyond PgBouncer's columns, as a JSON object.
//!
//! Pure. Times are ages in microseconds, because no two processes' clocks of [`crate::stats::moment::Moment`] begin
//! alike. Bytes that need not be text are in base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// Names and values.
pub type Parameters = Vec<(String, String)>;

/// A client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientState {
    /// The `id` column of SHOW CLIENTS.
    pub id: u64,
    /// When it was accepted, in microseconds since 1970.
    pub connected_at: u64,
    /// How long it is connected.
    pub age: u64,
    /// How long ago its last request began.
    pub request_age: u64,
    /// How long its transaction lasts, if it is in one.
    pub xact_age: Option<u64>,
    /// How long it is idle in a transaction, if it is.
    pub idle_in_xact_age: Option<u64>,
    /// How long it rests without a server, if it does.
    pub rest_age: Option<u64>,
    /// Has a message of the present loan gone to its server?
    pub begun: bool,
    /// Is everything up to its next Sync to be dropped, because its request was cancelled before a server had it?
    pub drops_batch: bool,
    /// How long ago the request under way began, if one is under way.
    pub query_age: Option<u64>,
    /// application_name, as last known.
    pub application_name: String,
    /// The parameters it wants of any server.
    pub parameters: Parameters,
    /// Its names for prepared statements, and the statements' numbers.
    pub statements: Vec<(Vec<u8>, u64)>,
}

/// A server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerState {
    /// The `id` column of SHOW SERVERS.
    pub id: u64,
    /// When the connection was made, in microseconds since 1970.
    pub connected_at: u64,
    /// How long it is connected.
    pub age: u64,
    /// How long it rests, if it does.
    pub rest_age: u64,
    /// Has it ever been on loan?
    pub served: bool,
    /// Is it to be closed once it is free?
    pub close_needed: bool,
    /// application_name, as last known.
    pub application_name: String,
    /// What it has reported.
    pub parameters: Parameters,
    /// The numbers of the statements it holds, the least recently used first.
    pub statements: Vec<u64>,
    /// The numbers of those it may hold or not.
    pub suspects: Vec<u64>,
    /// Where a cancel request goes: `address:port`, or the path of a Unix socket.
    pub cancel_reach: Option<String>,
    /// Process id of the backend.
    pub cancel_pid: i32,
    /// What a cancel request must say.
    pub cancel_secret: Vec<u8>,
    /// What it owes (`protocol::exchange`); null where it owes nothing.
    pub exchange: Value,
}

/// A pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolState {
    /// What new clients are told of the server; nothing where there was no server yet.
    pub welcome: Option<Parameters>,
    /// What can be proved to servers (`auth::credential`).
    pub credential: Vec<String>,
}

/// A prepared statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatementState {
    /// Its number.
    pub id: u64,
    /// Its query and types, as in a Parse.
    pub body: Vec<u8>,
}

impl ClientState {
    /// As JSON.
    pub fn to_text(&self) -> String {
        let statements = self.statements.iter().map(|(name, id)| json!([STANDARD.encode(name), id]));
        json!({
            "id": self.id,
            "connected_at": self.connected_at,
            "age": self.age,
            "request_age": self.request_age,
            "xact_age": self.xact_age,
            "idle_in_xact_age": self.idle_in_xact_age,
            "rest_age": self.rest_age,
            "begun": self.begun,
            "drops_batch": self.drops_batch,
            "query_age": self.query_age,
            "application_name": self.application_name,
            "parameters": self.parameters,
            "statements": statements.collect::<Value>(),
        })
        .to_string()
    }

    /// From JSON; `None` where it is no object.
    pub fn parse(text: &str) -> Option<ClientState> {
        let fields = Fields::parse(text)?;
        let statement = |value: &Value| {
            let [name, id] = value.as_array()?.as_slice() else { return None };
            Some((STANDARD.decode(name.as_str()?).ok()?, id.as_u64()?))
        };
        Some(ClientState {
            id: fields.number("id"),
            connected_at: fields.number("connected_at"),
            age: fields.number("age"),
            request_age: fields.number("request_age"),
            xact_age: fields.maybe("xact_age"),
            idle_in_xact_age: fields.maybe("idle_in_xact_age"),
            rest_age: fields.maybe("rest_age"),
            begun: fields.flag("begun"),
            drops_batch: fields.flag("drops_batch"),
            query_age: fields.maybe("query_age"),
            application_name: fields.text("application_name"),
            parameters: fields.parameters("parameters").unwrap_or_default(),
            statements: fields.list("statements").filter_map(statement).collect(),
        })
    }
}

impl ServerState {
    /// As JSON.
    pub fn to_text(&self) -> String {
        json!({
            "id": self.id,
            "connected_at": self.connected_at,
            "age": self.age,
            "rest_age": self.rest_age,
            "served": self.served,
            "close_needed": self.close_needed,
            "application_name": self.application_name,
            "parameters": self.parameters,
            "statements": self.statements,
            "suspects": self.suspects,
            "cancel_reach": self.cancel_reach,
            "cancel_pid": self.cancel_pid,
            "cancel_secret": STANDARD.encode(&self.cancel_secret),
            "exchange": self.exchange,
        })
        .to_string()
    }

    /// From JSON; `None` where it is no object.
    pub fn parse(text: &str) -> Option<ServerState> {
        let fields = Fields::parse(text)?;
        Some(ServerState {
            id: fields.number("id"),
            connected_at: fields.number("connected_at"),
            age: fields.number("age"),
            rest_age: fields.number("rest_age"),
            served: fields.flag("served"),
            close_needed: fields.flag("close_needed"),
            application_name: fields.text("application_name"),
            parameters: fields.parameters("parameters").unwrap_or_default(),
            statements: fields.list("statements").filter_map(Value::as_u64).collect(),
            suspects: fields.list("suspects").filter_map(Value::as_u64).collect(),
            cancel_reach: fields.value("cancel_reach").as_str().map(str::to_owned),
            cancel_pid: fields.value("cancel_pid").as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0),
            cancel_secret: STANDARD.decode(fields.text("cancel_secret")).unwrap_or_default(),
            exchange: fields.value("exchange").clone(),
        })
    }
}

impl PoolState {
    /// As JSON.
    pub fn to_text(&self) -> String {
        json!({ "welcome": self.welcome, "credential": self.credential }).to_string()
    }

    /// From JSON; `None` where it is no object.
    pub fn parse(text: &str) -> Option<PoolState> {
        let fields = Fields::parse(text)?;
        Some(PoolState {
            welcome: fields.parameters("welcome"),
            credential: fields.list("credential").filter_map(|part| Some(part.as_str()?.to_owned())).collect(),
        })
    }
}

impl StatementState {
    /// As JSON.
    pub fn to_text(&self) -> String {
        json!({ "id": self.id, "body": STANDARD.encode(&self.body) }).to_string()
    }

    /// From JSON; `None` where it is no object or lacks what makes a statement.
    pub fn parse(text: &str) -> Option<StatementState> {
        let fields = Fields::parse(text)?;
        let body = STANDARD.decode(fields.value("body").as_str()?).ok()?;
        Some(StatementState { id: fields.value("id").as_u64()?, body })
    }
}

/// An object whose keys may be missing.
struct Fields(Map<String, Value>);

impl Fields {
    fn parse(text: &str) -> Option<Fields> {
        match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => Some(Fields(fields)),
            _ => None,
        }
    }

    fn value(&self, key: &str) -> &Value {
        self.0.get(key).unwrap_or(&Value::Null)
    }

    fn maybe(&self, key: &str) -> Option<u64> {
        self.value(key).as_u64()
    }

    fn number(&self, key: &str) -> u64 {
        self.maybe(key).unwrap_or(0)
    }

    fn flag(&self, key: &str) -> bool {
        self.value(key).as_bool().unwrap_or(false)
    }

    fn text(&self, key: &str) -> String {
        self.value(key).as_str().unwrap_or_default().to_owned()
    }

    fn list(&self, key: &str) -> impl Iterator<Item = &Value> {
        self.value(key).as_array().into_iter().flatten()
    }

    fn parameters(&self, key: &str) -> Option<Parameters> {
        let pair = |value: &Value| {
            let [name, value] = value.as_array()?.as_slice() else { return None };
            Some((name.as_str()?.to_owned(), value.as_str()?.to_owned()))
        };
        Some(self.value(key).as_array()?.iter().filter_map(pair).collect())
    }
}
