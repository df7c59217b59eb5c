//! One console client's conversation, message by message.
//!
//! The `client` room owns the socket: it hands over whole messages and sends what is appended to `out`. Most replies
//! are there at once; PAUSE, WAIT_CLOSE, RELOAD and SHUTDOWN give a [`Wait`] instead, and the next message must not be
//! handed over before that has ended.
//!
//! The console has no transactions. It says it is in one between BEGIN and COMMIT, because drivers check, and nothing
//! else changes. After an error in the extended protocol everything up to Sync is skipped. Manual: "Message Flow".

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::command::{self, Command, ParseError, Transaction};
use super::control::{self, Complaint, Later, Reply, Rights};
use super::extended::{self, Bind, Execute, Named, Parse, Prepared, Progress};
use super::show::fds;
use super::table::{self, Column, Formats, RowMessages, Value};
use super::{Context, PGBOUNCER_VERSION};
use crate::net::world;
use crate::protocol::handover::Row;
use crate::stats::counters::bump;
use crate::wire::{Backend, Frontend, backend, error};

/// A reply that takes its time: bytes to send once it ends. Dropping it (the client has left) undoes nothing.
pub type Wait = Pin<Box<dyn Future<Output = Vec<u8>> + Send>>;

/// Longest message a console client may send, in bytes. The client room refuses longer ones.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Why the conversation is over. Its text is the reason for the log; the client room says farewell with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fatal {
    /// The client sent Terminate; nothing is to be said.
    CloseRequest,
    /// A Query without its end.
    IncompleteQuery,
    /// A message that does not belong here; an ErrorResponse that names it is in `out`.
    BadPacket,
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fatal::CloseRequest => "client close request",
            Fatal::IncompleteQuery => "incomplete query",
            Fatal::BadPacket => "bad packet",
        })
    }
}

/// How a command came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// In a Query: its reply ends in ReadyForQuery.
    Simple,
    /// In an Execute: ReadyForQuery comes with Sync, and an error skips to that.
    Extended,
}

/// One console client.
pub struct Console {
    context: Arc<Context>,
    rights: Rights,
    prepared: Prepared,
    in_transaction: bool,
    /// How the present command came.
    protocol: Protocol,
    /// An error came in the extended protocol: skip to Sync. Shared with a [`Wait`], which may end in one.
    skipping: Arc<AtomicBool>,
    /// A table whose rows are to be gathered: its columns, and the Execute that asked for it.
    wanted: Option<(&'static [Column], Option<Execute>)>,
    /// It was this client that said SUSPEND last.
    has_suspended: bool,
}

impl Console {
    /// A conversation with a client that has logged in and has these rights. It counts among the logins.
    pub fn new(context: Arc<Context>, rights: Rights) -> Console {
        bump(&context.counters.shard(0).client_login_count, 1);
        Console {
            context,
            rights,
            prepared: Prepared::default(),
            in_transaction: false,
            protocol: Protocol::Simple,
            skipping: Arc::default(),
            wanted: None,
            has_suspended: false,
        }
    }

    /// Did this client suspend the process? The suspension must not outlive whoever could end it.
    pub fn has_suspended(&self) -> bool {
        self.has_suspended
    }

    /// The table, by its columns, whose rows the caller has to gather before the next message: SHOW FDS. Then it calls
    /// [`Console::show_rows`], or sends [`Console::head`], each [`Console::row`] and [`Console::tail`] by itself.
    pub fn wants_rows(&self) -> Option<&'static [Column]> {
        self.wanted.as_ref().map(|(columns, _)| *columns)
    }

    /// Appends the table that was asked for. `None` are the rows of a table that this client may not have.
    pub fn show_rows(&mut self, rows: Option<&[Row]>, out: &mut Vec<u8>) {
        let Some((columns, execute)) = self.wanted.take() else { return };
        let Some(rows) = rows else {
            return self.ending().write(out, Err(Complaint::new("admin access needed")));
        };
        let rows: Vec<_> = rows.iter().map(|row| fds::values(columns, row)).collect();
        let Some(execute) = execute else {
            table::row_description(out, columns, &Formats::default());
            table::data_rows(out, &rows, &Formats::default());
            return self.ending().write(out, Ok("SHOW".to_owned()));
        };
        if let Err(complaint) = self.begin_rows(&execute, &rows, out) {
            self.ending().write(out, Err(complaint));
        }
    }

    /// What comes before the rows in the simple protocol. Nothing where they were asked for in the extended one, whose
    /// formats and numbers of rows only [`Console::show_rows`] obeys.
    pub fn head(&self) -> Option<Vec<u8>> {
        let (columns, None) = self.wanted.as_ref()? else { return None };
        let mut out = Vec::new();
        table::row_description(&mut out, columns, &Formats::default());
        Some(out)
    }

    /// One row.
    pub fn row(columns: &[Column], row: &Row) -> Vec<u8> {
        let mut out = Vec::new();
        table::data_rows(&mut out, &[fds::values(columns, row)], &Formats::default());
        out
    }

    /// What comes behind the rows.
    pub fn tail(&mut self, out: &mut Vec<u8>) {
        self.wanted = None;
        self.ending().write(out, Ok("SHOW".to_owned()));
    }

    /// The ParameterStatus messages of its greeting. The version is PgBouncer's: tools tell by it what they talk to.
    pub fn greeting(&self) -> Vec<(&'static str, String)> {
        let fixed = [
            ("client_encoding", "UTF8"),
            ("server_encoding", "UTF8"),
            ("DateStyle", "ISO"),
            ("TimeZone", "GMT"),
            ("standard_conforming_strings", "on"),
            ("is_superuser", "on"),
        ];
        let version = [("server_version", format!("{PGBOUNCER_VERSION}/bouncer"))];
        version.into_iter().chain(fixed.map(|(name, value)| (name, value.to_owned()))).collect()
    }

    /// One whole message: its tag, and its body without tag and length. Replies are appended to `out`.
    ///
    /// `Some(wait)`: the rest of the reply comes when `wait` ends; send `out` before waiting.
    ///
    /// # Errors
    /// The conversation is over. What `out` has is still to be sent.
    pub fn message(&mut self, tag: u8, body: &[u8], out: &mut Vec<u8>) -> Result<Option<Wait>, Fatal> {
        let Some(tag) = Frontend::from_byte(tag) else {
            return Err(unsupported(tag, out));
        };
        if self.skipping.load(Relaxed) && !matches!(tag, Frontend::Sync | Frontend::Terminate) {
            return Ok(None);
        }
        match tag {
            Frontend::Query => {
                let text = extended::query(body).ok_or(Fatal::IncompleteQuery)?;
                Ok(self.simple(&text, out))
            }
            Frontend::Sync => {
                self.skipping.store(false, Relaxed);
                if !self.in_transaction {
                    self.prepared.close_portals();
                }
                backend::ready_for_query(out, self.status());
                Ok(None)
            }
            Frontend::Parse | Frontend::Bind | Frontend::Describe | Frontend::Execute | Frontend::Close => {
                let reply = self.extended(tag, body, out);
                Ok(reply.unwrap_or_else(|complaint| {
                    write_complaint(out, &complaint);
                    self.skipping.store(true, Relaxed);
                    None
                }))
            }
            Frontend::Flush => Ok(None),
            Frontend::Terminate => Err(Fatal::CloseRequest),
            Frontend::CopyData
            | Frontend::CopyDone
            | Frontend::CopyFail
            | Frontend::FunctionCall
            | Frontend::Password => Err(unsupported(tag as u8, out)),
        }
    }

    /// A cancel request came while a [`Wait`] was under way, and the caller has dropped that: appends what the client
    /// gets instead. As in PgBouncer, it ends a PAUSE of everything.
    pub fn cancelled(&mut self, out: &mut Vec<u8>) {
        control::resume_after_cancel(&self.context);
        let complaint = Complaint::with_sqlstate("57014", "canceling statement due to user request");
        self.ending().write(out, Err(complaint));
    }

    /// May a request to cancel end a [`Wait`]? Not once the process stops.
    pub fn may_cancel(&self) -> bool {
        !self.context.process.shutting_down()
    }

    /// A request to cancel came while nothing was awaited. PgBouncer lets it end a PAUSE of everything all the same.
    pub fn cancelled_at_rest(&self) {
        control::resume_after_cancel(&self.context);
    }

    fn simple(&mut self, text: &str, out: &mut Vec<u8>) -> Option<Wait> {
        self.protocol = Protocol::Simple;
        self.prepared.close_unnamed();
        let reply = match self.parse(text) {
            Ok(Command::Empty) => {
                backend::message(out, Backend::EmptyQueryResponse, b"");
                backend::ready_for_query(out, self.status());
                return None;
            }
            Ok(command) => self.run(&command),
            Err(error) => Err(no_command(error, text)),
        };
        match reply {
            Ok(Reply::Table(table)) => {
                table::row_description(out, table.columns, &Formats::default());
                table::data_rows(out, &table.rows, &Formats::default());
                self.ending().write(out, Ok("SHOW".to_owned()));
            }
            Ok(Reply::Done(tag)) => self.ending().write(out, Ok(tag)),
            Ok(Reply::Notice { message, detail, tag }) => {
                write_notice(out, &message, detail.as_deref());
                self.ending().write(out, Ok(tag.into_owned()));
            }
            Ok(Reply::Later(later)) => return Some(self.wait(later)),
            Ok(Reply::Rows(columns)) => self.wanted = Some((columns, None)),
            Err(complaint) => self.ending().write(out, Err(complaint)),
        }
        None
    }

    /// Reads a command, and which of two tables it means, so that a description and its rows go together.
    fn parse(&self, text: &str) -> Result<Command, ParseError> {
        Ok(match command::parse(text)? {
            Command::Show(show) => {
                let logins = self.context.registry.config().settings.stats_login_counts;
                Command::Show(show.with_login_counts(logins))
            }
            command => command,
        })
    }

    /// One message of the extended protocol. A complaint is still to be written.
    fn extended(&mut self, tag: Frontend, body: &[u8], out: &mut Vec<u8>) -> Result<Option<Wait>, Complaint> {
        self.protocol = Protocol::Extended;
        match tag {
            Frontend::Parse => {
                let parse = Parse::read(body).ok_or_else(|| broken("Parse"))?;
                let command = self.parse(&parse.text).map_err(|error| no_command(error, &parse.text))?;
                self.prepared.parse(&parse, command)?;
                backend::parse_complete(out);
            }
            Frontend::Bind => {
                self.prepared.bind(Bind::read(body).ok_or_else(|| broken("Bind"))?)?;
                backend::message(out, Backend::BindComplete, b"");
            }
            Frontend::Describe => match Named::read(body).ok_or_else(|| broken("Describe"))? {
                Named::Statement(name) => {
                    let command = self.prepared.statement(&name)?;
                    // No parameters.
                    backend::message(out, Backend::ParameterDescription, &[0, 0]);
                    describe(out, command, &Formats::default());
                }
                Named::Portal(name) => {
                    let portal = self.prepared.portal(&name)?;
                    describe(out, &portal.command, &portal.formats);
                }
            },
            Frontend::Close => {
                self.prepared.close(&Named::read(body).ok_or_else(|| broken("Close"))?);
                backend::close_complete(out);
            }
            _ => return self.execute(&Execute::read(body).ok_or_else(|| broken("Execute"))?, out),
        }
        Ok(None)
    }

    fn execute(&mut self, execute: &Execute, out: &mut Vec<u8>) -> Result<Option<Wait>, Complaint> {
        let portal = self.prepared.portal(&execute.portal)?;
        match portal.progress {
            Progress::Bound => {}
            Progress::Rows(_) => {
                self.send_rows(execute, out)?;
                return Ok(None);
            }
            Progress::Complete => {
                let message = format!("portal \"{}\" cannot be run", execute.portal);
                return Err(Complaint::with_sqlstate("55000", message));
            }
            Progress::Displaced => {
                let message = format!("the rows of portal \"{}\" are not there any more", execute.portal);
                let why = "The console keeps the rows of one portal at a time: fetch all of them before the next.";
                return Err(Complaint { detail: Some(why.to_owned()), ..Complaint::with_sqlstate("55000", message) });
            }
        }
        portal.progress = Progress::Complete;
        let command = portal.command.clone();
        if command == Command::Empty {
            backend::message(out, Backend::EmptyQueryResponse, b"");
            return Ok(None);
        }
        match self.run(&command)? {
            Reply::Table(table) => self.begin_rows(execute, &table.rows, out)?,
            Reply::Done(tag) => table::command_complete(out, &tag),
            Reply::Notice { message, detail, tag } => {
                write_notice(out, &message, detail.as_deref());
                table::command_complete(out, &tag);
            }
            Reply::Later(later) => return Ok(Some(self.wait(later))),
            Reply::Rows(columns) => self.wanted = Some((columns, Some(execute.clone()))),
        }
        Ok(None)
    }

    /// Sends as many of a table's rows as are wanted first, and keeps the others.
    fn begin_rows(&mut self, execute: &Execute, rows: &[Vec<Value>], out: &mut Vec<u8>) -> Result<(), Complaint> {
        let (now, later) = rows.split_at(execute.rows_max.unwrap_or(usize::MAX).min(rows.len()));
        let portal = self.prepared.portal(&execute.portal)?;
        table::data_rows(out, now, &portal.formats);
        if later.is_empty() {
            portal.progress = Progress::Complete;
            table::command_complete(out, "SHOW");
            return Ok(());
        }
        let later = RowMessages::new(later, &portal.formats);
        self.prepared.keep_rows(&execute.portal, later)?;
        backend::message(out, Backend::PortalSuspended, b"");
        Ok(())
    }

    /// Sends as many of a portal's rows as are wanted, and says whether there are more.
    fn send_rows(&mut self, execute: &Execute, out: &mut Vec<u8>) -> Result<(), Complaint> {
        let portal = self.prepared.portal(&execute.portal)?;
        let Progress::Rows(rows) = &mut portal.progress else {
            return Ok(());
        };
        if rows.send(execute.rows_max.unwrap_or(usize::MAX), out) {
            backend::message(out, Backend::PortalSuspended, b"");
        } else {
            portal.progress = Progress::Complete;
            table::command_complete(out, "SHOW");
        }
        Ok(())
    }

    /// Carries out a command: what concerns this client alone here, all else by [`control`].
    fn run(&mut self, command: &Command) -> Result<Reply, Complaint> {
        let shard = self.context.counters.shard(0);
        bump(&shard.query_count, 1);
        if !self.in_transaction {
            bump(&shard.xact_count, 1);
        }
        let tag = match command {
            Command::Transaction(transaction) => self.transact(*transaction),
            Command::Deallocate(name) => {
                self.prepared.deallocate(name.as_deref())?;
                if name.is_none() { "DEALLOCATE ALL" } else { "DEALLOCATE" }
            }
            Command::DiscardAll => {
                self.prepared.deallocate(None)?;
                "DISCARD ALL"
            }
            _ => {
                let reply = control::carry_out(command, &self.context, self.rights, world::now())?;
                self.has_suspended |= *command == Command::Suspend;
                return Ok(reply);
            }
        };
        Ok(Reply::Done(tag.to_owned()))
    }

    /// Goes along with what a driver thinks of as a transaction, and gives the tag it expects.
    fn transact(&mut self, transaction: Transaction) -> &'static str {
        match transaction {
            Transaction::Begin => self.in_transaction = true,
            Transaction::Commit | Transaction::Rollback => {
                self.in_transaction = false;
                self.prepared.close_portals();
            }
            Transaction::Savepoint | Transaction::Release | Transaction::RollbackTo => {}
        }
        match transaction {
            Transaction::Begin => "BEGIN",
            Transaction::Commit => "COMMIT",
            Transaction::Rollback | Transaction::RollbackTo => "ROLLBACK",
            Transaction::Savepoint => "SAVEPOINT",
            Transaction::Release => "RELEASE",
        }
    }

    fn wait(&self, later: Later) -> Wait {
        let ending = self.ending();
        Box::pin(async move {
            let mut out = Vec::new();
            ending.write(&mut out, later.await);
            out
        })
    }

    fn ending(&self) -> Ending {
        Ending { protocol: self.protocol, status: self.status(), skipping: self.skipping.clone() }
    }

    fn status(&self) -> u8 {
        if self.in_transaction { b'T' } else { b'I' }
    }
}

/// How the reply to a command ends.
struct Ending {
    protocol: Protocol,
    status: u8,
    skipping: Arc<AtomicBool>,
}

impl Ending {
    fn write(&self, out: &mut Vec<u8>, result: Result<String, Complaint>) {
        match &result {
            Ok(tag) => table::command_complete(out, tag),
            Err(complaint) => write_complaint(out, complaint),
        }
        match self.protocol {
            Protocol::Simple => backend::ready_for_query(out, self.status),
            Protocol::Extended => self.skipping.store(result.is_err(), Relaxed),
        }
    }
}

fn describe(out: &mut Vec<u8>, command: &Command, formats: &Formats) {
    match extended::columns(command) {
        Some(columns) => table::row_description(out, columns, formats),
        None => backend::message(out, Backend::NoData, b""),
    }
}

fn no_command(error: ParseError, text: &str) -> Complaint {
    match error {
        ParseError::Syntax => {
            let end = (0..=ECHO_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            Complaint::new(format!("invalid command '{}', use SHOW HELP;", &text[..end]))
        }
        ParseError::BadArguments => Complaint::new("bad arguments"),
    }
}

/// How much of a text that is no command is repeated in the error, in bytes.
const ECHO_BYTES_MAX: usize = 900;

fn broken(message: &str) -> Complaint {
    Complaint::new(format!("broken {message} packet"))
}

fn unsupported(tag: u8, out: &mut Vec<u8>) -> Fatal {
    write_complaint(out, &Complaint::new(format!("unsupported packet type for admin console: {tag}")));
    Fatal::BadPacket
}

fn write_complaint(out: &mut Vec<u8>, complaint: &Complaint) {
    tracing::error!("{}", complaint.message);
    error::error_response(out, "ERROR", complaint.sqlstate, &complaint.message, complaint.detail.as_deref(), None);
}

fn write_notice(out: &mut Vec<u8>, message: &str, detail: Option<&str>) {
    error::notice_response(out, "NOTICE", "00000", message, detail, None);
}
