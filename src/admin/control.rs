//! Who may do it, and what each command does.
//!
//! A command that the console alone can answer (transactions, prepared statements) never comes here. Texts and their
//! order of precedence are PgBouncer's: a syntax error comes before a missing right, a missing right before anything
//! about databases.

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;

use tracing::info;

use super::command::{Command, ShutdownMode};
use super::pooling::Done;
use super::show::{Show, fds, process};
use super::table::{Column, Table, Value};
use super::{Context, DATABASE};
use crate::config::{AuthType, SetEffect};
use crate::pool::{ControlError, State};
use crate::stats::moment::Moment;
use crate::stats::roster::{ClientState, Order};

/// What a console client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Everything: named in `admin_users`.
    Admin,
    /// Every SHOW but FDS: named in `stats_users`.
    Stats,
}

impl Rights {
    /// The rights of a user, by their name. `None` is no right to be here (`not allowed`).
    ///
    /// With `auth_type = any` nobody's name is proven, yet PgBouncer lets everybody look and the names in
    /// `admin_users` do everything; so do we. A client with our own user id on a Unix socket that says it is
    /// `pgbouncer` is an admin too, which only the caller can see.
    pub fn of(user: &str, auth_type: AuthType, admin_users: &[String], stats_users: &[String]) -> Option<Rights> {
        let listed = |users: &[String]| users.iter().any(|listed| listed == user);
        if listed(admin_users) {
            Some(Rights::Admin)
        } else if auth_type == AuthType::Any || listed(stats_users) {
            Some(Rights::Stats)
        } else {
            None
        }
    }
}

/// Why a command was refused: the fields of an ErrorResponse of severity ERROR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// SQLSTATE.
    pub sqlstate: &'static str,
    /// MESSAGE.
    pub message: String,
    /// DETAIL.
    pub detail: Option<String>,
}

impl Complaint {
    /// A complaint with PgBouncer's one SQLSTATE for everything, 08P01.
    pub fn new(message: impl Into<String>) -> Complaint {
        Complaint::with_sqlstate("08P01", message)
    }

    /// A complaint with a fitting SQLSTATE.
    pub fn with_sqlstate(sqlstate: &'static str, message: impl Into<String>) -> Complaint {
        Complaint { sqlstate, message: message.into(), detail: None }
    }

    fn because(self, reason: String) -> Complaint {
        Complaint { detail: Some(shortened(reason)), ..self }
    }
}

/// A reason, as far as a DETAIL may go.
fn shortened(mut reason: String) -> String {
    let end = (0..=DETAIL_MAX.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    reason.truncate(end);
    reason
}

/// Longest DETAIL, in bytes.
const DETAIL_MAX: usize = 4000;

/// A reply to be had later: the tag of a CommandComplete, or a complaint.
pub type Later = Pin<Box<dyn Future<Output = Result<String, Complaint>> + Send>>;

/// What a command comes to.
pub enum Reply {
    /// Rows, and the tag SHOW.
    Table(Table),
    /// A CommandComplete with this tag.
    Done(String),
    /// A NoticeResponse, then a CommandComplete.
    Notice {
        /// MESSAGE.
        message: Cow<'static, str>,
        /// DETAIL.
        detail: Option<Cow<'static, str>>,
        /// Tag.
        tag: Cow<'static, str>,
    },
    /// Wait for it.
    Later(Later),
    /// The tag SHOW after a table with these columns, whose rows the connections make ([`super::show::fds`]).
    Rows(&'static [Column]),
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Table(table) => f.debug_tuple("Table").field(table).finish(),
            Reply::Done(tag) => f.debug_tuple("Done").field(tag).finish(),
            Reply::Notice { message, tag, .. } => write!(f, "Notice({message}, {tag})"),
            Reply::Later(_) => f.write_str("Later"),
            Reply::Rows(columns) => write!(f, "Rows({} columns)", columns.len()),
        }
    }
}

/// Carries out a command.
///
/// # Errors
/// The client may not, or it cannot be done.
pub fn carry_out(command: &Command, context: &Context, rights: Rights, now: Moment) -> Result<Reply, Complaint> {
    match command {
        Command::ShowParameter(parameter) => {
            let mut table = Table::new(&parameter.columns);
            table.push(vec![Value::text(parameter.value)]);
            return Ok(Reply::Table(table));
        }
        Command::SetIgnored => return Ok(notice("SET ignored", None, "SET")),
        Command::Show(Show::Help) => {
            return Ok(notice("Console usage", Some(process::HELP.into()), "SHOW"));
        }
        Command::Show(show) if *show != Show::Fds => {
            return show.table(context, now).map(Reply::Table).ok_or_else(|| not_yet("SHOW of that"));
        }
        _ => {}
    }
    if rights != Rights::Admin {
        return Err(Complaint::new("admin access needed"));
    }
    administer(command, context)
}

/// The commands that need [`Rights::Admin`].
fn administer(command: &Command, context: &Context) -> Result<Reply, Complaint> {
    let registry = &context.registry;
    match command {
        Command::Pause(database) => {
            refuse_unless_active(context)?;
            let database = not_the_console(database.as_deref(), "cannot pause admin db")?;
            log_command("PAUSE", database);
            tag_after(registry.pause(database), "PAUSE")
        }
        Command::Resume(database) => resume(context, database.as_deref()),
        Command::Disable(database) | Command::Enable(database) => {
            let database = database.as_deref().ok_or_else(|| Complaint::new("a database is required"))?;
            // PgBouncer says "disable" for both.
            not_the_console(Some(database), "cannot disable admin db")?;
            let (tag, done) = match command {
                Command::Disable(_) => ("DISABLE", registry.disable(database)),
                _ => ("ENABLE", registry.enable(database)),
            };
            log_command(tag, Some(database));
            tag_now(done, tag)
        }
        Command::Reconnect(database) => {
            let database = not_the_console(database.as_deref(), "cannot reconnect admin db")?;
            log_command("RECONNECT", database);
            tag_now(registry.reconnect(database), "RECONNECT")
        }
        Command::WaitClose(database) => {
            let database = not_the_console(database.as_deref(), "cannot wait in admin db")?;
            log_command("WAIT_CLOSE", database);
            tag_after(registry.wait_close(database), "WAIT_CLOSE")
        }
        Command::Kill(database) => {
            refuse_unless_active(context)?;
            let database = not_the_console(database.as_deref(), "cannot kill admin db")?;
            log_command("KILL", database);
            tag_now(registry.kill(database), "KILL")
        }
        Command::KillClient(id) => kill_client(context, id),
        Command::Reload => Ok(reload(context)),
        Command::Shutdown(mode) => Ok(shutdown(context, *mode)),
        Command::Set { key, value } => set(context, key, value),
        Command::Suspend => {
            refuse_unless_active(context)?;
            let stopped = registry.suspend().map_err(|error| refusal(&error))?;
            log_command("SUSPEND", None);
            tag_after(Ok(stopped), "SUSPEND")
        }
        Command::Show(Show::Fds) => Ok(Reply::Rows(&fds::FDS)),
        Command::ShowHandover => Ok(Reply::Rows(&fds::HANDOVER)),
        // The console answers these itself, and `carry_out` the rest.
        Command::Show(_)
        | Command::ShowParameter(_)
        | Command::SetIgnored
        | Command::Empty
        | Command::Transaction(_)
        | Command::Deallocate(_)
        | Command::DiscardAll => Err(Complaint::new("bad arguments")),
    }
}

/// Undoes PAUSE as a cancel request on a waiting console does: quietly, and never while the process stops.
pub fn resume_after_cancel(context: &Context) {
    if !context.process.shutting_down() && context.registry.state() != State::Active {
        log_command("RESUME", None);
        // Refused only where another console was faster.
        let _ = context.registry.resume(None);
    }
}

fn resume(context: &Context, database: Option<&str>) -> Result<Reply, Complaint> {
    match database {
        None if context.process.shutting_down() => return Err(Complaint::new("pooler is shutting down")),
        None if context.registry.state() == State::Active => {
            return Err(Complaint::new("pooler is not paused/suspended"));
        }
        Some(DATABASE) => return Err(Complaint::new(format!("database {DATABASE} is not paused"))),
        _ => {}
    }
    log_command("RESUME", database);
    tag_now(context.registry.resume(database), "RESUME")
}

fn kill_client(context: &Context, id: &str) -> Result<Reply, Complaint> {
    let id = leading_number(id).ok_or_else(|| Complaint::new("invalid client pointer supplied"))?;
    // Before its login is over a client is in no pool, and PgBouncer does not find it.
    let card = context.roster.client(id).filter(|card| card.state() != ClientState::Login);
    let card = card.ok_or_else(|| Complaint::new("client not found"))?;
    info!("KILL_CLIENT '{id}' command issued");
    card.give_order(Order::Kill);
    Ok(Reply::Done("KILL_CLIENT".to_owned()))
}

/// PgBouncer says nothing where a SET has no effect; we say so, under the same tag.
fn set(context: &Context, key: &str, value: &str) -> Result<Reply, Complaint> {
    let effect = context.process.set(key, value).map_err(|reason| Complaint::new("SET failed").because(reason))?;
    let tag = format!("SET {key}={value}");
    Ok(match effect {
        SetEffect::Now => Reply::Done(tag),
        SetEffect::NobodyIn(why) => notice(format!("{why}: nobody can log in"), None, tag),
        SetEffect::NeedsRestart => {
            notice(format!("{key} is read at the start only: set it in the configuration file and restart"), None, tag)
        }
        SetEffect::NeedsReload => {
            notice(format!("{key} is read by RELOAD only: set it in the configuration file and RELOAD"), None, tag)
        }
        SetEffect::TlsAsBefore(why) => {
            let message = "TLS settings could not be applied, still using old configuration";
            notice(message, Some(shortened(why).into()), tag)
        }
    })
}

fn notice(
    message: impl Into<Cow<'static, str>>,
    detail: Option<Cow<'static, str>>,
    tag: impl Into<Cow<'static, str>>,
) -> Reply {
    Reply::Notice { message: message.into(), detail, tag: tag.into() }
}

/// The number at the start of a text, as `sscanf("%llu")` reads it: white space and a sign may come before it, anything
/// after it; what is too big is the biggest.
fn leading_number(text: &str) -> Option<u64> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = unsigned.find(|c: char| !c.is_ascii_digit()).map_or(unsigned, |end| &unsigned[..end]);
    if digits.is_empty() {
        return None;
    }
    let number = digits.parse().unwrap_or(u64::MAX);
    Some(if text.starts_with('-') && number != u64::MAX { number.wrapping_neg() } else { number })
}

fn reload(context: &Context) -> Reply {
    log_command("RELOAD", None);
    let reloaded = context.process.reload();
    Reply::Later(Box::pin(async move {
        match reloaded.await {
            Ok(()) => Ok("RELOAD".to_owned()),
            Err(reason) => {
                Err(Complaint::with_sqlstate("F0000", "RELOAD failed, see logs for additional details").because(reason))
            }
        }
    }))
}

fn shutdown(context: &Context, mode: ShutdownMode) -> Reply {
    match mode {
        ShutdownMode::Immediate => info!("SHUTDOWN command issued"),
        ShutdownMode::WaitForServers => info!("SHUTDOWN WAIT_FOR_SERVERS command issued"),
        ShutdownMode::WaitForClients => info!("SHUTDOWN WAIT_FOR_CLIENTS command issued"),
    }
    context.process.shutdown(mode);
    match mode {
        // The answer is the end of the connection: it stays open until the process is gone.
        ShutdownMode::Immediate => Reply::Later(Box::pin(std::future::pending())),
        ShutdownMode::WaitForServers | ShutdownMode::WaitForClients => Reply::Done("SHUTDOWN".to_owned()),
    }
}

fn refuse_unless_active(context: &Context) -> Result<(), Complaint> {
    match context.registry.state() {
        State::Active => Ok(()),
        State::Paused | State::Suspended => Err(Complaint::new("already suspended/paused")),
    }
}

fn not_the_console<'a>(database: Option<&'a str>, complaint: &str) -> Result<Option<&'a str>, Complaint> {
    match database {
        Some(DATABASE) => Err(Complaint::new(format!("{complaint}: {DATABASE}"))),
        database => Ok(database),
    }
}

fn tag_now(done: Result<(), ControlError>, tag: &str) -> Result<Reply, Complaint> {
    done.map_err(|error| refusal(&error))?;
    Ok(Reply::Done(tag.to_owned()))
}

fn tag_after(done: Result<Done, ControlError>, tag: &'static str) -> Result<Reply, Complaint> {
    let done = done.map_err(|error| refusal(&error))?;
    Ok(Reply::Later(Box::pin(async move {
        done.await;
        Ok(tag.to_owned())
    })))
}

fn refusal(error: &ControlError) -> Complaint {
    Complaint::new(error.to_string())
}

fn not_yet(what: &str) -> Complaint {
    Complaint::with_sqlstate("0A000", format!("{what} is not supported by this version of pgweir"))
}

fn log_command(command: &str, database: Option<&str>) {
    match database {
        Some(database) => info!("{command} '{database}' command issued"),
        None => info!("{command} command issued"),
    }
}
