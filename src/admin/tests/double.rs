//! Pools and a process that only write down what they were asked, and a reader for what the console answers.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::admin::pooling::Done;
use crate::admin::{Console, Context, Pooling, ProcessControl, Rights, ShutdownMode, Wait};
use crate::config::{Config, Host, LoadBalanceHosts, Peer, PoolMode, SetEffect};
use crate::net::dns::cache::{HostView, Sums, ZoneView};
use crate::pool::{ControlError, DatabaseView, PeerPoolView, PoolView, State, UserView};
use crate::protocol::handover::{Row, Task};
use crate::stats::averages::{Averages, TotalsByDatabase};
use crate::stats::counters::{Counters, Totals};
use crate::stats::moment::Moment;
use crate::stats::roster::{
    ClientCard, ClientState, Endpoint, EnteredClient, EnteredServer, Names, Roster, ServerCard,
};

/// Pools and process in one.
#[derive(Default)]
pub(super) struct Double {
    pub(super) asked: Mutex<Vec<String>>,
    pub(super) paused: AtomicBool,
    pub(super) stopping: AtomicBool,
    /// PAUSE and WAIT_CLOSE end when this gets a permit.
    pub(super) released: Arc<tokio::sync::Notify>,
}

impl Double {
    fn note(&self, command: &str, database: Option<&str>) -> Result<(), ControlError> {
        if database == Some("nope") {
            return Err(ControlError::NoSuchDatabase("nope".to_owned()));
        }
        let what = database.map_or(command.to_owned(), |database| format!("{command} {database}"));
        self.asked.lock().unwrap().push(what);
        Ok(())
    }

    fn when_released(&self) -> Done {
        let released = self.released.clone();
        Box::pin(async move { released.notified().await })
    }
}

impl Pooling for Double {
    fn state(&self) -> State {
        if self.paused.load(Relaxed) { State::Paused } else { State::Active }
    }

    fn pool_views(&self, _now: Moment) -> Vec<PoolView> {
        vec![PoolView {
            database: "app".into(),
            user: "joe".into(),
            cl_active: 1,
            cl_waiting: 2,
            cl_active_cancel_req: 3,
            cl_waiting_cancel_req: 4,
            sv_active: 5,
            sv_active_cancel: 6,
            sv_being_canceled: 7,
            sv_idle: 8,
            sv_used: 9,
            sv_tested: 10,
            sv_login: 11,
            maxwait_us: 12_000_013,
            pool_mode: PoolMode::Transaction,
            load_balance_hosts: Some(LoadBalanceHosts::RoundRobin),
        }]
    }

    fn peer_pool_views(&self) -> Vec<PeerPoolView> {
        let counts = PeerPoolView {
            peer_id: 2,
            cl_active_cancel_req: 3,
            cl_waiting_cancel_req: 4,
            sv_active_cancel: 5,
            sv_login: 6,
        };
        vec![counts]
    }

    fn database_views(&self) -> Vec<DatabaseView> {
        vec![DatabaseView {
            name: "zoo".into(),
            host: "a,b".into(),
            port: 5432,
            database: "zoo_1".into(),
            force_user: None,
            pool_size: 20,
            min_pool_size: 1,
            reserve_pool_size: 2,
            server_lifetime: 3600,
            pool_mode: None,
            load_balance_hosts: Some(LoadBalanceHosts::Disable),
            max_connections: 3,
            current_connections: 4,
            max_client_connections: 5,
            current_client_connections: 6,
            paused: true,
            disabled: false,
        }]
    }

    fn user_views(&self) -> Vec<UserView> {
        vec![UserView {
            name: "joe".into(),
            pool_size: Some(5),
            reserve_pool_size: None,
            pool_mode: Some(PoolMode::Session),
            max_user_connections: 7,
            current_connections: 1,
            max_user_client_connections: 8,
            current_client_connections: 2,
        }]
    }

    fn totals(&self) -> TotalsByDatabase {
        let totals = Totals {
            server_assignment_count: 1,
            xact_count: 2,
            query_count: 3,
            bytes_received: 4,
            bytes_sent: 5,
            xact_time: 6,
            query_time: 7,
            wait_time: 8,
            client_parse_count: 9,
            server_parse_count: 10,
            bind_count: 11,
            client_login_count: 12,
        };
        TotalsByDatabase::from([("app".into(), totals)])
    }

    fn config(&self) -> Arc<Config> {
        let mut config = Config::default();
        config.settings.set("pool_mode", "transaction").unwrap();
        config.peers.insert(2, Peer { host: Host::new("/tmp", 6433), pool_size: Some(9) });
        Arc::new(config)
    }

    fn dns_hosts(&self) -> Vec<HostView> {
        let addresses = vec!["10.0.0.5".parse().unwrap(), "::1".parse().unwrap()];
        let row = |name: &str, ttl, addresses| HostView { name: name.into(), ttl, addresses };
        vec![row("db.example.com", 14, addresses), row("nobody", 0, Vec::new())]
    }

    fn dns_zones(&self) -> Vec<ZoneView> {
        vec![ZoneView { name: "example.com".into(), serial: u32::MAX, count: 1 }]
    }

    fn dns_sums(&self) -> Sums {
        Sums { names: 2, zones: 1, queries: 3 }
    }

    fn pause(&self, database: Option<&str>) -> Result<Done, ControlError> {
        self.note("pause", database)?;
        if database.is_none() {
            self.paused.store(true, Relaxed);
        }
        Ok(self.when_released())
    }

    fn suspend(&self) -> Result<Done, ControlError> {
        self.note("suspend", None)?;
        Ok(self.when_released())
    }

    fn resume(&self, database: Option<&str>) -> Result<(), ControlError> {
        if database == Some("running") {
            return Err(ControlError::DatabaseNotPaused("running".to_owned()));
        }
        self.paused.store(false, Relaxed);
        self.note("resume", database)
    }

    fn disable(&self, database: &str) -> Result<(), ControlError> {
        self.note("disable", Some(database))
    }

    fn enable(&self, database: &str) -> Result<(), ControlError> {
        self.note("enable", Some(database))
    }

    fn reconnect(&self, database: Option<&str>) -> Result<(), ControlError> {
        self.note("reconnect", database)
    }

    fn wait_close(&self, database: Option<&str>) -> Result<Done, ControlError> {
        self.note("wait_close", database)?;
        Ok(self.when_released())
    }

    fn kill(&self, database: Option<&str>) -> Result<(), ControlError> {
        self.note("kill", database)
    }
}

impl ProcessControl for Double {
    fn reload(&self) -> std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send>> {
        let broken = self.stopping.load(Relaxed);
        Box::pin(async move { if broken { Err("pgweir.ini:3: no".to_owned()) } else { Ok(()) } })
    }

    fn shutdown(&self, how: ShutdownMode) {
        self.asked.lock().unwrap().push(format!("shutdown {how:?}"));
    }

    fn shutting_down(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    fn set(&self, name: &str, value: &str) -> Result<SetEffect, String> {
        self.asked.lock().unwrap().push(format!("set {name}={value}"));
        match name {
            "verbose" => Ok(SetEffect::Now),
            "listen_port" => Ok(SetEffect::NeedsRestart),
            "auth_hba_file" => Ok(SetEffect::NeedsReload),
            "auth_type" => Ok(SetEffect::NobodyIn("why".to_owned())),
            "client_tls_ciphers" => Ok(SetEffect::TlsAsBefore("why".to_owned())),
            _ => Err("no such setting".to_owned()),
        }
    }
}

/// A console with its surroundings.
pub(super) struct Bench {
    pub(super) double: Arc<Double>,
    pub(super) context: Arc<Context>,
    pub(super) console: Console,
}

impl Bench {
    pub(super) fn new(rights: Rights) -> Bench {
        let double = Arc::new(Double::default());
        let context = Arc::new(Context {
            registry: double.clone(),
            roster: Arc::new(Roster::default()),
            averages: Arc::new(Averages::new(Moment(0))),
            process: double.clone(),
            counters: Counters::new(1),
            client_bytes: 1000,
        });
        let console = Console::new(context.clone(), rights);
        Bench { double, context, console }
    }

    pub(super) fn admin() -> Bench {
        Bench::new(Rights::Admin)
    }

    /// Hands over one message that is answered at once.
    pub(super) fn send(&mut self, tag: u8, body: &[u8]) -> Vec<Answer> {
        let (answers, wait) = self.send_waiting(tag, body);
        assert!(wait.is_none(), "answered at once");
        answers
    }

    pub(super) fn send_waiting(&mut self, tag: u8, body: &[u8]) -> (Vec<Answer>, Option<Wait>) {
        let mut out = Vec::new();
        let wait = self.console.message(tag, body, &mut out).expect("the conversation goes on");
        if self.console.wants_rows().is_some() {
            let row = Row { cancel: 7, scram_client_key: Some(vec![1, 2]), ..Row::new(Task::Pooler) };
            self.console.show_rows(Some(&[row]), &mut out);
        }
        (answers(&out), wait)
    }

    pub(super) fn query(&mut self, text: &str) -> Vec<Answer> {
        self.send(b'Q', &[text.as_bytes(), b"\0"].concat())
    }

    /// The rows of a simple query that answers with some.
    pub(super) fn rows(&mut self, text: &str) -> Vec<Vec<Option<String>>> {
        let answers = self.query(text);
        assert!(matches!(answers.first(), Some(Answer::Columns(_))), "{text}: {answers:?}");
        answers
            .into_iter()
            .filter_map(|answer| match answer {
                Answer::Row(row) => Some(row),
                _ => None,
            })
            .collect()
    }

    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.double.asked.lock().unwrap())
    }

    /// A client's card, accepted at `connected`.
    pub(super) fn client(&self, connected: Moment, database: &str, user: &str, state: ClientState) -> EnteredClient {
        let peer = Endpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], 40_000)));
        let local = Endpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], 6432)));
        let roster = &self.context.roster;
        let card = ClientCard::new(roster.next_id(), peer, local, birth(), connected);
        card.names.set(Names { database: database.into(), user: user.into() }).unwrap();
        card.set_state(state);
        roster.enter_client(card)
    }

    /// A server's card.
    pub(super) fn server(&self, connected: Moment, database: &str, user: &str) -> EnteredServer {
        let peer = Endpoint::Unix { port: 5432, pid: Some(4), uid: None };
        let local = Endpoint::Unix { port: 5432, pid: None, uid: None };
        let names = Names { database: database.into(), user: user.into() };
        let roster = &self.context.roster;
        roster.enter_server(ServerCard::new(roster.next_id(), names, peer, local, birth(), connected))
    }
}

fn birth() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

/// One message of the console's, as far as the tests look into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// RowDescription: name, type and format of each column.
    Columns(Vec<(String, u32, u16)>),
    /// DataRow, all of it text.
    Row(Vec<Option<String>>),
    /// DataRow with something binary in it: its body.
    Bytes(Vec<u8>),
    /// CommandComplete.
    Tag(String),
    /// ErrorResponse: SQLSTATE and message.
    Error(String, String),
    /// NoticeResponse: message.
    Notice(String),
    /// ReadyForQuery with its status.
    Ready(char),
    /// Any other, by its tag byte.
    Other(char),
}

pub(super) fn tag(tag: &str) -> Answer {
    Answer::Tag(tag.to_owned())
}

pub(super) fn error(message: &str) -> Answer {
    Answer::Error("08P01".to_owned(), message.to_owned())
}

pub(super) const READY: Answer = Answer::Ready('I');

/// Takes bytes apart into messages; panics where they are none.
pub(super) fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some((tag, rest)) = bytes.split_first() {
        let len = u32::from_be_bytes(*rest.first_chunk().unwrap()) as usize;
        answers.push(answer(*tag, &rest[4..len]));
        bytes = &rest[len..];
    }
    answers
}

fn answer(tag: u8, body: &[u8]) -> Answer {
    match tag {
        b'T' => Answer::Columns(columns(body)),
        b'D' => row(body).map_or_else(|| Answer::Bytes(body.to_vec()), Answer::Row),
        b'C' => Answer::Tag(String::from_utf8(body[..body.len() - 1].to_vec()).unwrap()),
        b'E' => Answer::Error(field(body, b'C'), field(body, b'M')),
        b'N' => Answer::Notice(field(body, b'M')),
        b'Z' => Answer::Ready(char::from(body[0])),
        other => Answer::Other(char::from(other)),
    }
}

fn columns(body: &[u8]) -> Vec<(String, u32, u16)> {
    let mut columns = Vec::new();
    let mut rest = &body[2..];
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == 0).unwrap();
        let name = String::from_utf8(rest[..end].to_vec()).unwrap();
        let tail = &rest[end + 1..];
        let oid = u32::from_be_bytes(tail[6..10].try_into().unwrap());
        columns.push((name, oid, u16::from_be_bytes([tail[16], tail[17]])));
        rest = &tail[18..];
    }
    assert_eq!(columns.len(), usize::from(u16::from_be_bytes([body[0], body[1]])));
    columns
}

fn row(body: &[u8]) -> Option<Vec<Option<String>>> {
    let mut row = Vec::new();
    let mut rest = &body[2..];
    while let Some((len, tail)) = rest.split_first_chunk() {
        let Ok(len) = usize::try_from(i32::from_be_bytes(*len)) else {
            row.push(None);
            rest = tail;
            continue;
        };
        let text = std::str::from_utf8(&tail[..len]).ok().filter(|text| !text.contains('\0'))?;
        row.push(Some(text.to_owned()));
        rest = &tail[len..];
    }
    Some(row)
}

fn field(body: &[u8], tag: u8) -> String {
    let fields = body.split(|byte| *byte == 0);
    let found = fields.filter_map(|field| field.split_first()).find(|(kind, _)| **kind == tag);
    String::from_utf8(found.expect("a field").1.to_vec()).unwrap()
}
