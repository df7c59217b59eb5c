//! A client made of bytes: it can say anything, in any pieces, at any time, and hear every message that comes back.
//!
//! [`Wire`] is a connection before any login. [`Login`] walks through the start-up dialogue with whatever proof is
//! asked for and makes a [`Client`]. [`Script`] strings frontend messages together. A [`Reply`] is everything up to the
//! next ReadyForQuery. Waiting is bounded by [`PATIENCE`] everywhere.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use socket2::{Domain, SockAddr, Socket, Type};

use super::PATIENCE;

/// A connection that speaks the frontend's side, byte for byte.
pub(crate) struct Wire {
    socket: Socket,
    inbox: Vec<u8>,
}

/// One message from the other side.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// Its type byte.
    pub(crate) tag: u8,
    /// What follows its length.
    pub(crate) body: Vec<u8>,
}

impl Wire {
    /// Connects to a port on 127.0.0.1.
    pub(crate) fn tcp(port: u16) -> Wire {
        Wire::attempt_tcp(port).expect("the port accepts")
    }

    /// Like [`Wire::tcp`], where nobody may be listening.
    pub(crate) fn attempt_tcp(port: u16) -> std::io::Result<Wire> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into())?;
        socket.set_tcp_nodelay(true)?;
        Wire::over(socket)
    }

    /// Connects to a PostgreSQL-style Unix socket in `dir`.
    pub(crate) fn attempt_unix(dir: &Path, port: u16) -> std::io::Result<Wire> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.connect(&SockAddr::unix(dir.join(format!(".s.PGSQL.{port}")))?)?;
        Wire::over(socket)
    }

    /// Takes over a connected socket.
    pub(crate) fn over(socket: Socket) -> std::io::Result<Wire> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Wire { socket, inbox: Vec::new() })
    }

    /// Sends bytes; it is no failure if the other side has hung up, since the answer tells.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        match self.socket.write_all(bytes.as_ref()) {
            Err(error) if !is_hangup(&error) => panic!("cannot send: {error}"),
            _ => {}
        }
    }

    /// Sends bytes one by one, each in a segment of its own.
    pub(crate) fn send_bytewise(&mut self, bytes: impl AsRef<[u8]>) {
        for byte in bytes.as_ref() {
            self.send([*byte]);
        }
    }

    /// The next message; fails the test if the connection ends first.
    #[track_caller]
    pub(crate) fn message(&mut self) -> Message {
        self.next().expect("a message comes before the connection ends")
    }

    /// The next message, or `None` when the other side has hung up.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Option<Message> {
        if !self.fill(5) {
            assert!(self.inbox.is_empty(), "the connection ended inside a message: {:?}", self.inbox);
            return None;
        }
        let length = u32::from_be_bytes(self.inbox[1..5].try_into().unwrap()) as usize;
        assert!(self.fill(1 + length), "the connection ended inside a message of type {:?}", self.inbox[0] as char);
        let message = Message { tag: self.inbox[0], body: self.inbox[5..=length].to_vec() };
        self.inbox.drain(..=length);
        Some(message)
    }

    /// The next message, which must be of this type.
    #[track_caller]
    pub(crate) fn expect(&mut self, tag: u8) -> Message {
        let message = self.message();
        assert_eq!(message.tag as char, tag as char, "unexpected {message:?}");
        message
    }

    /// One byte that is not part of a message: the answer to SSLRequest.
    #[track_caller]
    pub(crate) fn byte(&mut self) -> u8 {
        assert!(self.fill(1), "the connection ended instead of answering");
        self.inbox.remove(0)
    }

    /// Everything until the other side hangs up.
    #[track_caller]
    pub(crate) fn until_end(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// All bytes until the other side hangs up, whether they are messages or not.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.fill(self.inbox.len() + 1) {}
        std::mem::take(&mut self.inbox)
    }

    /// Whether something (a message, or the end) arrives within this time.
    pub(crate) fn stirs_within(&mut self, time: Duration) -> bool {
        if !self.inbox.is_empty() {
            return true;
        }
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let stirs = match self.socket.peek(&mut byte) {
            Ok(_) => true,
            Err(error) => is_hangup(&error),
        };
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        stirs
    }

    /// Reads up to the next ReadyForQuery without keeping anything; returns the bytes seen and the number of DataRows.
    pub(crate) fn skim(&mut self) -> (u64, u64) {
        let mut chunk = vec![0; 256 * 1024];
        let (mut bytes, mut rows) = (0, 0);
        loop {
            assert!(self.fill(5), "the connection ended in the middle of a result");
            let tag = self.inbox[0];
            let length = u32::from_be_bytes(self.inbox[1..5].try_into().unwrap()) as usize;
            bytes += 1 + length as u64;
            rows += u64::from(tag == b'D');
            assert_ne!(tag, b'E', "an error in the middle of a result");
            let here = self.inbox.len().min(1 + length);
            self.inbox.drain(..here);
            let mut missing = 1 + length - here;
            while missing > 0 {
                let wanted = missing.min(chunk.len());
                let got = self.socket.read(&mut chunk[..wanted]).expect("the result goes on");
                assert_ne!(got, 0, "the connection ended in the middle of a result");
                missing -= got;
            }
            if tag == b'Z' {
                return (bytes, rows);
            }
        }
    }

    /// Hangs up without a word, so that the other side sees a reset rather than an orderly end.
    pub(crate) fn reset(self) {
        self.socket.set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// The bare socket.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Gives the socket away. Nothing that has come may be left here.
    pub(crate) fn into_socket(self) -> Socket {
        assert!(self.inbox.is_empty(), "{:?}", self.inbox);
        self.socket
    }

    /// A packet without a type, from a client: what comes behind its length.
    #[track_caller]
    pub(crate) fn packet(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        length.fill_with(|| self.byte());
        (4..u32::from_be_bytes(length)).map(|_| self.byte()).collect()
    }

    fn fill(&mut self, wanted: usize) -> bool {
        let mut chunk = [0; 16 * 1024];
        while self.inbox.len() < wanted {
            match self.socket.read(&mut chunk) {
                Ok(0) => return false,
                Ok(got) => self.inbox.extend_from_slice(&chunk[..got]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_hangup(&error) => return false,
                Err(error) => panic!("nothing came within {PATIENCE:?}: {error}"),
            }
        }
        true
    }
}

fn is_hangup(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
}

impl Message {
    /// The fields of an ErrorResponse or NoticeResponse, by their type byte.
    pub(crate) fn fields(&self) -> BTreeMap<char, String> {
        let parts = self.body.split(|byte| *byte == 0).filter(|part| !part.is_empty());
        parts.map(|part| (part[0] as char, String::from_utf8_lossy(&part[1..]).into_owned())).collect()
    }

    /// The values of a DataRow.
    pub(crate) fn values(&self) -> Vec<Option<Vec<u8>>> {
        let mut rest = &self.body[2..];
        let mut values = Vec::new();
        while !rest.is_empty() {
            let length = i32::from_be_bytes(rest[..4].try_into().unwrap());
            rest = &rest[4..];
            if let Ok(length) = usize::try_from(length) {
                values.push(Some(rest[..length].to_vec()));
                rest = &rest[length..];
            } else {
                values.push(None);
            }
        }
        values
    }

    /// Name and type OID of each column of a RowDescription.
    pub(crate) fn columns(&self) -> Vec<(String, u32)> {
        let mut rest = &self.body[2..];
        let mut columns = Vec::new();
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == 0).unwrap();
            let name = String::from_utf8_lossy(&rest[..end]).into_owned();
            let oid = u32::from_be_bytes(rest[end + 7..end + 11].try_into().unwrap());
            columns.push((name, oid));
            rest = &rest[end + 19..];
        }
        columns
    }

    /// The zero-terminated strings of the body: tag of a CommandComplete, name and value of a ParameterStatus.
    pub(crate) fn strings(&self) -> Vec<String> {
        let body = self.body.strip_suffix(&[0]).unwrap_or(&self.body);
        body.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.body[..self.body.len().min(200)];
        write!(out, "{} {:?}", self.tag as char, String::from_utf8_lossy(shown))
    }
}

/// Frontend messages, one after the other.
#[derive(Clone, Default)]
pub(crate) struct Script(Vec<u8>);

impl Script {
    /// Nothing yet.
    pub(crate) fn new() -> Script {
        Script::default()
    }

    /// A start-up packet of protocol 3.0.
    pub(crate) fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
        Script::startup_version(3 << 16, parameters)
    }

    /// A start-up packet that claims this protocol version.
    pub(crate) fn startup_version(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
        let mut body = version.to_be_bytes().to_vec();
        for (name, value) in parameters {
            body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
        }
        body.push(0);
        Script::untagged(&body)
    }

    /// A packet without a type: its length, then `body`.
    pub(crate) fn untagged(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32 + 4).to_be_bytes(), body].concat()
    }

    /// Any message.
    pub(crate) fn message(mut self, tag: u8, body: &[u8]) -> Script {
        self.0.push(tag);
        self.0.extend((body.len() as u32 + 4).to_be_bytes());
        self.0.extend_from_slice(body);
        self
    }

    pub(crate) fn query(self, sql: &str) -> Script {
        self.message(b'Q', &[sql.as_bytes(), b"\0"].concat())
    }

    pub(crate) fn parse(self, name: &str, sql: &str) -> Script {
        self.message(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat())
    }

    /// Binds text parameters, asks for text results.
    pub(crate) fn bind(self, portal: &str, statement: &str, values: &[&str]) -> Script {
        let mut body = [portal.as_bytes(), b"\0", statement.as_bytes(), b"\0\0\0"].concat();
        body.extend((values.len() as u16).to_be_bytes());
        for value in values {
            body.extend((value.len() as u32).to_be_bytes());
            body.extend_from_slice(value.as_bytes());
        }
        body.extend([0, 0]);
        self.message(b'B', &body)
    }

    pub(crate) fn describe_statement(self, name: &str) -> Script {
        self.message(b'D', &[b"S", name.as_bytes(), b"\0"].concat())
    }

    pub(crate) fn describe_portal(self, name: &str) -> Script {
        self.message(b'D', &[b"P", name.as_bytes(), b"\0"].concat())
    }

    /// Executes a portal, at most `rows` rows (0: all).
    pub(crate) fn execute(self, portal: &str, rows: u32) -> Script {
        self.message(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()].concat())
    }

    pub(crate) fn close_statement(self, name: &str) -> Script {
        self.message(b'C', &[b"S", name.as_bytes(), b"\0"].concat())
    }

    pub(crate) fn sync(self) -> Script {
        self.message(b'S', b"")
    }

    pub(crate) fn flush(self) -> Script {
        self.message(b'H', b"")
    }

    pub(crate) fn terminate(self) -> Script {
        self.message(b'X', b"")
    }

    pub(crate) fn copy_data(self, data: &[u8]) -> Script {
        self.message(b'd', data)
    }

    pub(crate) fn copy_done(self) -> Script {
        self.message(b'c', b"")
    }

    pub(crate) fn copy_fail(self, why: &str) -> Script {
        self.message(b'f', &[why.as_bytes(), b"\0"].concat())
    }

    /// Parse, Bind and Execute of the unnamed statement.
    pub(crate) fn run(self, sql: &str, values: &[&str]) -> Script {
        self.parse("", sql).bind("", "", values).execute("", 0)
    }

    /// Bind and Execute of a named statement.
    pub(crate) fn run_prepared(self, name: &str, values: &[&str]) -> Script {
        self.bind("", name, values).execute("", 0)
    }
}

impl AsRef<[u8]> for Script {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// What a client brings to the door.
#[derive(Clone)]
pub(crate) struct Login {
    port: u16,
    unix: Option<std::path::PathBuf>,
    password: String,
    parameters: Vec<(String, String)>,
}

impl Login {
    /// A login at a port on 127.0.0.1.
    pub(crate) fn to(port: u16) -> Login {
        Login { port, unix: None, password: String::new(), parameters: Vec::new() }
    }

    /// Goes through the Unix socket in `dir` instead.
    pub(crate) fn unix(mut self, dir: &Path) -> Login {
        self.unix = Some(dir.to_path_buf());
        self
    }

    pub(crate) fn user(self, user: &str) -> Login {
        self.parameter("user", user)
    }

    pub(crate) fn database(self, database: &str) -> Login {
        self.parameter("database", database)
    }

    pub(crate) fn password(mut self, password: &str) -> Login {
        self.password = password.to_owned();
        self
    }

    /// Any start-up parameter; the last word counts.
    pub(crate) fn parameter(mut self, name: &str, value: &str) -> Login {
        self.parameters.retain(|(known, _)| known != name);
        self.parameters.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Logs in; the test fails if that fails.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        match self.attempt() {
            Ok(client) => client,
            Err(refusal) => panic!("the login failed: {refusal:?}"),
        }
    }

    /// Logs in, which must fail, and returns the message of the FATAL error it got.
    #[track_caller]
    pub(crate) fn refusal(&self) -> String {
        match self.attempt() {
            Ok(_) => panic!("the login succeeded"),
            Err(refusal) => refusal.message(),
        }
    }

    /// Logs in or tells why not.
    pub(crate) fn attempt(&self) -> Result<Client, Refusal> {
        let no_answer = |_| Refusal { seen: Vec::new() };
        let wire = match &self.unix {
            Some(dir) => Wire::attempt_unix(dir, self.port).map_err(no_answer)?,
            None => Wire::attempt_tcp(self.port).map_err(no_answer)?,
        };
        self.over(wire)
    }

    /// Logs in over a connection that exists.
    pub(crate) fn over(&self, mut wire: Wire) -> Result<Client, Refusal> {
        wire.send(self.startup());
        let mut seen = Vec::new();
        let mut scram = None;
        let mut client = Client { wire, parameters: BTreeMap::new(), key: Vec::new(), notices: Vec::new(), asked: 0 };
        loop {
            let Some(message) = client.wire.next() else { return Err(Refusal { seen }) };
            seen.push(message.clone());
            match message.tag {
                b'R' => {
                    client.asked = client.asked.max(message.body[3]);
                    self.prove(&message, &mut client.wire, &mut scram);
                }
                b'S' => client.note_parameter(&message),
                b'K' => client.key = message.body,
                b'N' => client.notices.push(message.fields()[&'M'].clone()),
                b'v' => {}
                b'Z' => return Ok(client),
                b'E' => return Err(Refusal { seen }),
                _ => panic!("unexpected during login: {message:?}"),
            }
        }
    }

    /// The start-up packet.
    pub(crate) fn startup(&self) -> Vec<u8> {
        let parameters: Vec<(&str, &str)> =
            self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Script::startup(&parameters)
    }

    fn prove(&self, request: &Message, wire: &mut Wire, scram: &mut Option<ScramSha256>) {
        let user = self.parameters.iter().find(|(name, _)| name == "user").map_or("", |(_, user)| user);
        match request.body[3] {
            0 => {}
            3 => wire.send(Script::new().message(b'p', &[self.password.as_bytes(), b"\0"].concat())),
            5 => {
                let salt = request.body[4..8].try_into().unwrap();
                let hash = md5_hash(user.as_bytes(), self.password.as_bytes(), salt);
                wire.send(Script::new().message(b'p', &[hash.as_bytes(), b"\0"].concat()));
            }
            10 => {
                let dialogue = ScramSha256::new(self.password.as_bytes(), ChannelBinding::unsupported());
                wire.send(sasl_initial("SCRAM-SHA-256", dialogue.message()));
                *scram = Some(dialogue);
            }
            11 => {
                let dialogue = scram.as_mut().unwrap();
                dialogue.update(&request.body[4..]).expect("a good SCRAM challenge");
                wire.send(Script::new().message(b'p', dialogue.message()));
            }
            12 => scram.as_mut().unwrap().finish(&request.body[4..]).expect("the server proves itself"),
            other => panic!("authentication request {other}"),
        }
    }
}

/// SASLInitialResponse.
pub(crate) fn sasl_initial(mechanism: &str, first: &[u8]) -> Script {
    let length = (first.len() as u32).to_be_bytes();
    Script::new().message(b'p', &[mechanism.as_bytes(), b"\0", &length, first].concat())
}

/// How a login ended that did not succeed.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Everything that was received.
    pub(crate) seen: Vec<Message>,
}

impl Refusal {
    /// The message of the error; empty when there was none.
    pub(crate) fn message(&self) -> String {
        self.field('M')
    }

    /// Its SQLSTATE; empty when there was none.
    pub(crate) fn code(&self) -> String {
        self.field('C')
    }

    fn field(&self, field: char) -> String {
        let error = self.seen.iter().find(|message| message.tag == b'E');
        error.map_or(String::new(), |error| error.fields().remove(&field).unwrap_or_default())
    }
}

/// A logged-in session.
pub(crate) struct Client {
    /// Its connection.
    pub(crate) wire: Wire,
    /// What ParameterStatus messages have said, the latest for each name.
    pub(crate) parameters: BTreeMap<String, String>,
    /// The body of BackendKeyData.
    pub(crate) key: Vec<u8>,
    /// The texts of all notices so far.
    pub(crate) notices: Vec<String>,
    /// The proof that was asked for at login: 0 none, 3 clear text, 5 md5, 10 to 12 SCRAM.
    pub(crate) asked: u8,
}

impl Client {
    /// Runs a simple query.
    #[track_caller]
    pub(crate) fn query(&mut self, sql: &str) -> Reply {
        self.send(Script::new().query(sql));
        self.reply()
    }

    /// Runs a simple query that must succeed.
    #[track_caller]
    pub(crate) fn ok(&mut self, sql: &str) -> Reply {
        let reply = self.query(sql);
        assert!(reply.is_ready() && reply.error().is_none(), "{sql}: {reply:?}");
        reply
    }

    /// Runs a simple query that must answer with one value.
    #[track_caller]
    pub(crate) fn value(&mut self, sql: &str) -> String {
        self.ok(sql).value()
    }

    /// Runs a console command that answers with a table.
    #[track_caller]
    pub(crate) fn table(&mut self, sql: &str) -> Table {
        Table::from(&self.ok(sql))
    }

    /// The process id of the server connection this session has just now.
    #[track_caller]
    pub(crate) fn pid(&mut self) -> String {
        self.value("SELECT pg_backend_pid()")
    }

    /// Sends messages.
    pub(crate) fn send(&mut self, script: impl AsRef<[u8]>) {
        self.wire.send(script);
    }

    /// Sends messages and hears the answer up to the next ReadyForQuery.
    #[track_caller]
    pub(crate) fn run(&mut self, script: impl AsRef<[u8]>) -> Reply {
        self.send(script);
        self.reply()
    }

    /// Hears everything up to and including the next ReadyForQuery, or the end of the connection.
    #[track_caller]
    pub(crate) fn reply(&mut self) -> Reply {
        self.reply_until(b"Z")
    }

    /// Hears everything up to and including the first message of one of these types, or the end of the connection.
    #[track_caller]
    pub(crate) fn reply_until(&mut self, tags: &[u8]) -> Reply {
        let mut messages = Vec::new();
        while let Some(message) = self.wire.next() {
            match message.tag {
                b'S' => self.note_parameter(&message),
                b'N' => self.notices.push(message.fields()[&'M'].clone()),
                _ => {}
            }
            let last = tags.contains(&message.tag);
            messages.push(message);
            if last {
                break;
            }
        }
        Reply { messages }
    }

    /// Says goodbye as a driver does and waits for the other side to hang up.
    #[track_caller]
    pub(crate) fn leave(mut self) {
        self.send(Script::new().terminate());
        self.wire.until_end();
    }

    /// The session must be over: returns the message of the FATAL error that ended it.
    #[track_caller]
    pub(crate) fn farewell(&mut self) -> String {
        self.last_words()[&'M'].clone()
    }

    /// The same, with all the fields of that error.
    #[track_caller]
    pub(crate) fn last_words(&mut self) -> BTreeMap<char, String> {
        let last = self.wire.until_end();
        let error = last.iter().rfind(|message| message.tag == b'E');
        error.unwrap_or_else(|| panic!("no error before the end: {last:?}")).fields()
    }

    fn note_parameter(&mut self, message: &Message) {
        let mut strings = message.strings().into_iter();
        self.parameters.insert(strings.next().unwrap(), strings.next().unwrap());
    }
}

/// Everything that answered a request.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The messages in order.
    pub(crate) messages: Vec<Message>,
}

impl Reply {
    /// The type bytes of the messages, in order: `TDCZ` for a simple SELECT of one row. ParameterStatus left out.
    pub(crate) fn shape(&self) -> String {
        self.messages.iter().map(|message| message.tag as char).filter(|tag| *tag != 'S').collect()
    }

    /// The rows, as text.
    pub(crate) fn rows(&self) -> Vec<Vec<Option<String>>> {
        let text = |value: Option<Vec<u8>>| value.map(|value| String::from_utf8_lossy(&value).into_owned());
        let rows = self.messages.iter().filter(|message| message.tag == b'D');
        rows.map(|row| row.values().into_iter().map(text).collect()).collect()
    }

    /// The first value of the first row.
    #[track_caller]
    pub(crate) fn value(&self) -> String {
        let rows = self.rows();
        let first = rows.first().and_then(|row| row.first()).and_then(Clone::clone);
        first.unwrap_or_else(|| panic!("no value in {self:?}"))
    }

    /// The fields of the first ErrorResponse.
    pub(crate) fn error(&self) -> Option<BTreeMap<char, String>> {
        self.messages.iter().find(|message| message.tag == b'E').map(Message::fields)
    }

    /// The message of the first ErrorResponse.
    #[track_caller]
    pub(crate) fn error_message(&self) -> String {
        self.error().unwrap_or_else(|| panic!("no error in {self:?}"))[&'M'].clone()
    }

    /// The tags of the commands that completed.
    pub(crate) fn tags(&self) -> Vec<String> {
        let completed = self.messages.iter().filter(|message| message.tag == b'C');
        completed.map(|message| message.strings().remove(0)).collect()
    }

    /// The transaction status that ended it: `I`, `T` or `E`.
    #[track_caller]
    pub(crate) fn status(&self) -> char {
        let last = self.messages.last().filter(|message| message.tag == b'Z');
        last.unwrap_or_else(|| panic!("no ReadyForQuery in {self:?}")).body[0] as char
    }

    /// Whether it ended with ReadyForQuery: the session goes on.
    pub(crate) fn is_ready(&self) -> bool {
        self.messages.last().is_some_and(|message| message.tag == b'Z')
    }
}

/// A console's table.
#[derive(Debug)]
pub(crate) struct Table {
    /// Name and type OID of each column.
    pub(crate) columns: Vec<(String, u32)>,
    /// Each row by column name; NULL is left out.
    pub(crate) rows: Vec<BTreeMap<String, String>>,
}

impl Table {
    fn from(reply: &Reply) -> Table {
        let description = reply.messages.iter().find(|message| message.tag == b'T').expect("a table");
        let columns = description.columns();
        let row = |row: Vec<Option<String>>| {
            let named = columns.iter().zip(row);
            named.filter_map(|((name, _), value)| Some((name.clone(), value?))).collect()
        };
        let rows = reply.rows().into_iter().map(row).collect();
        Table { columns, rows }
    }

    /// The first row that has all these values.
    pub(crate) fn find(&self, wanted: &[(&str, &str)]) -> Option<&BTreeMap<String, String>> {
        self.all(wanted).into_iter().next()
    }

    /// All rows that have these values.
    pub(crate) fn all(&self, wanted: &[(&str, &str)]) -> Vec<&BTreeMap<String, String>> {
        let fits = |row: &&BTreeMap<String, String>| {
            wanted.iter().all(|(name, value)| row.get(*name).map(String::as_str) == Some(value))
        };
        self.rows.iter().filter(fits).collect()
    }

    /// A column of the only row that has these values.
    #[track_caller]
    pub(crate) fn cell(&self, wanted: &[(&str, &str)], column: &str) -> String {
        self.find(wanted).unwrap_or_else(|| panic!("no row with {wanted:?} in {self:?}"))[column].clone()
    }
}
