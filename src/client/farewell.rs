//! Every reason a client is refused or dropped, and the words for it.
//!
//! Pure: reason in, message out. This is the only place that says what a client sees when it has to go. The texts are
//! PgBouncer's, because tools match them; what PgBouncer does not say goes into DETAIL and HINT.

use std::borrow::Cow;
use std::io;

use super::relay::{Ended, Fault};
use crate::auth::Denial;
use crate::pool::Refusal;
use crate::stats::roster::Order;
use crate::wire::error::{FATAL, error_response, sqlstate};
use crate::wire::startup::StartupError;

/// Why a client leaves.
#[derive(Debug)]
pub enum Farewell {
    /// It said Terminate.
    Terminated,
    /// Its socket ended or broke.
    ClientGone,
    /// It sent a message that cannot be.
    BadPacket(String),
    /// Its first packet was wrong.
    Startup(StartupError),
    /// It sent bytes after SSLRequest or GSSENCRequest without waiting for the answer.
    EagerAfter(&'static str),
    /// It began TLS without asking; none is spoken here.
    DirectTls,
    /// It asked for a replication connection.
    Replication,
    /// It did not prove who it is.
    Denied(Denial),
    /// The limit named was reached.
    Limit(&'static str),
    /// auth_type=any needs a forced user.
    NoForcedUser,
    /// There is no such database.
    NoSuchDatabase(String),
    /// The database does not take clients.
    DatabaseDisabled(String),
    /// The console is not for this user.
    NotAllowed,
    /// The process stops.
    ShuttingDown,
    /// The pool would not give a server.
    Refused(Refusal),
    /// A parameter of the client's was refused by the server, with this message.
    ParameterRefused(String),
    /// The server's connection was lost; how, if we know.
    ServerCrashed(Option<String>),
    /// Its server had to be closed, and server_fast_close is set.
    ServerUnwanted,
    /// The server broke the protocol.
    ServerAtFault(&'static str),
    /// The client broke a rule.
    Fault(Fault),
    /// Somebody ordered it away.
    Ordered(Order),
    /// Something failed on our side.
    Internal(&'static str),
}

impl Farewell {
    /// What the end of a relay means for its client.
    pub(super) fn ended(ended: Ended) -> Farewell {
        match ended {
            Ended::Terminated => Farewell::Terminated,
            Ended::AtRest | Ended::ClientGone => Farewell::ClientGone,
            Ended::ServerGone(error) => Farewell::ServerCrashed(Some(gone_text(&error))),
            Ended::ClientAtFault(fault) => Farewell::Fault(fault),
            Ended::ServerAtFault(how) => Farewell::ServerAtFault(how),
            Ended::Ordered(order) => Farewell::Ordered(order),
            Ended::ServerUnwanted => Farewell::ServerUnwanted,
        }
    }

    /// What an order on the card means.
    pub(super) fn ordered(order: Order) -> Farewell {
        Farewell::Ordered(order)
    }

    /// PgBouncer's text.
    pub fn text(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Farewell::Terminated => "client close request",
            Farewell::ClientGone => "client unexpected eof",
            Farewell::BadPacket(text) => return Cow::Owned(text.clone()),
            Farewell::Startup(error) => return Cow::Owned(error.to_string()),
            Farewell::EagerAfter(request) => {
                return Cow::Owned(format!("received unencrypted data after {request} request"));
            }
            Farewell::DirectTls => "TLS is not enabled (client_tls_sslmode)",
            Farewell::Replication => "replication connections are not supported by this version",
            Farewell::Denied(denial) => return Cow::Owned(denial.to_string()),
            Farewell::Limit("max_client_conn") => "no more connections allowed (max_client_conn)",
            Farewell::Limit(name) => return Cow::Owned(format!("client connections exceeded ({name})")),
            Farewell::NoForcedUser => "bouncer config error",
            Farewell::NoSuchDatabase(name) => return Cow::Owned(format!("no such database: {name}")),
            Farewell::DatabaseDisabled(name) => return Cow::Owned(format!("database \"{name}\" is disabled")),
            Farewell::NotAllowed => "not allowed",
            Farewell::ShuttingDown => "pooler is shutting down",
            Farewell::Refused(refusal) => return Cow::Owned(refusal.to_string()),
            Farewell::ParameterRefused(message) => return Cow::Owned(message.clone()),
            Farewell::ServerUnwanted => "database configuration changed",
            Farewell::ServerCrashed(_) => "server conn crashed?",
            Farewell::ServerAtFault(how) => how,
            Farewell::Fault(fault) => return fault_text(fault),
            Farewell::Ordered(order) => order_text(*order),
            Farewell::Internal(text) => text,
        })
    }

    /// The SQLSTATE for the client. PgBouncer says 08P01 for all that it says itself; what a server said keeps its own.
    fn sqlstate(&self) -> &str {
        match self {
            Farewell::Refused(Refusal::ServerLoginFailed(error) | Refusal::LoginRetry(error)) if error.from_server => {
                &error.sqlstate
            }
            _ => sqlstate::PROTOCOL_VIOLATION,
        }
    }

    fn detail(&self) -> Option<&str> {
        match self {
            Farewell::Refused(Refusal::ServerLoginFailed(error) | Refusal::LoginRetry(error)) => {
                error.detail.as_deref()
            }
            Farewell::ServerCrashed(how) => how.as_deref(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<&str> {
        match self {
            Farewell::Refused(Refusal::ServerLoginFailed(error) | Refusal::LoginRetry(error)) => error.hint.as_deref(),
            Farewell::DirectTls => Some("Connect with sslmode=disable or sslmode=prefer."),
            _ => None,
        }
    }

    /// Did the client leave of its own will, so that nothing is to be said to it?
    pub fn is_quiet(&self) -> bool {
        matches!(self, Farewell::Terminated | Farewell::ClientGone)
    }

    /// The ErrorResponse, if there is somebody to tell.
    pub fn message(&self) -> Option<Vec<u8>> {
        if self.is_quiet() {
            return None;
        }
        let mut out = Vec::with_capacity(128);
        error_response(&mut out, FATAL, self.sqlstate(), &self.text(), self.detail(), self.hint());
        Some(out)
    }

    /// Why the server on loan is closed with the client.
    pub(super) fn server_reason(&self) -> &'static str {
        match self {
            Farewell::Terminated | Farewell::ClientGone => "client disconnect while server was not ready",
            Farewell::ServerCrashed(_) => "server conn crashed?",
            Farewell::ServerAtFault(how) => how,
            Farewell::Ordered(order) => order_text(*order),
            _ => "client disconnected by pooler",
        }
    }
}

/// How a server's connection ended.
fn gone_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "The server closed the connection.".to_owned(),
        _ => format!("The connection to the server broke: {error}."),
    }
}

fn order_text(order: Order) -> &'static str {
    match order {
        Order::None => "",
        Order::Kill => "admin forced disconnect",
        Order::QueryTimeout => "query timeout",
        Order::QueryTimeoutInLine => "query_timeout",
        Order::TransactionTimeout => "transaction timeout",
        Order::IdleTransactionTimeout => "idle transaction timeout",
        Order::ClientIdleTimeout => "client_idle_timeout",
        Order::ClientLoginTimeout => "client_login_timeout",
        Order::Shutdown => "server shutting down",
    }
}

fn fault_text(fault: &Fault) -> Cow<'static, str> {
    Cow::Borrowed(match fault {
        Fault::BadHeader(text) => return Cow::Owned(text.clone()),
        Fault::UnknownMessage(tag) => return Cow::Owned(format!("unknown pkt: '{}'", tag.escape_ascii())),
        Fault::Broken("Parse") => "broken Parse packet",
        Fault::Broken("Bind") => "broken Bind packet",
        Fault::Broken("Describe") => "broken Describe packet",
        Fault::Broken("Close") => "broken Close packet",
        Fault::Broken(_) => "failed to parse packet",
        Fault::StatementInUse => "prepared statement name is already in use",
        Fault::NoSuchStatement => "prepared statement did not exist",
        Fault::TooMany(what) => return Cow::Owned(format!("too many {what}")),
        Fault::TransactionBlock => "transaction blocks not allowed in statement pooling mode",
        Fault::SimpleQuery => "PQexec disallowed",
        Fault::TooLong(what) => return Cow::Owned(format!("{what} message is too long to be held")),
    })
}
