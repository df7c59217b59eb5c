//! Every reason a client is refused or dropped, and the words for it.
//!
//! Pure: reason in, message out. This is the only place that says what a client sees when it has to go. The texts are
//! PgBouncer's, because tools match them; what PgBouncer does not say goes into DETAIL and HINT.

use std::borrow::Cow;
use std::io;

use super::relay::{Ended, Fault};
use crate::auth::{Denial, DenialKind};
use crate::config::Settings;
use crate::net::tls::TlsError;
use crate::pool::Refusal;
use crate::stats::roster::Order;
use crate::wire::error::{FATAL, error_response, sqlstate};
use crate::wire::startup::StartupError;

/// Which SQLSTATEs clients are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codes {
    /// The cause's own.
    OfCause,
    /// 08P01 for everything, as PgBouncer says: `legacy_sqlstate`, and always to clients of the console.
    Pgbouncer,
}

impl Codes {
    /// What applications are given under these settings.
    pub fn of(settings: &Settings) -> Codes {
        match settings.legacy_sqlstate {
            true => Codes::Pgbouncer,
            false => Codes::OfCause,
        }
    }
}

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
    /// It began TLS without asking where none is spoken.
    DirectTls,
    /// It began TLS without asking, but not with its first byte.
    LateTls,
    /// It began TLS without asking and did not say that it means PostgreSQL's protocol.
    NoAlpn,
    /// It asked for TLS where it has it.
    TlsInsideTls,
    /// The TLS handshake failed.
    Handshake(TlsError),
    /// Its TLS broke after the handshake: these bytes were not its own, or not what may come.
    TlsBroken(String),
    /// It wants to log in without TLS, which client_tls_sslmode forbids.
    TlsRequired,
    /// It did not prove who it is.
    Denied(Denial),
    /// The records of auth_hba_file do not let it in, or it did not show who it is; in these words.
    Unproven(&'static str),
    /// The limit named was reached.
    Limit(&'static str),
    /// Its address tries to log in too often; logged once in a while.
    Throttled {
        /// Is this to be logged?
        logged: bool,
    },
    /// auth_type=any needs a forced user.
    NoForcedUser,
    /// The user's name is longer than any may be.
    UserTooLong,
    /// auth_query does not know the user.
    NoSuchUser,
    /// auth_query could not be asked; the log says why.
    AuthQueryFailed,
    /// The database that runs auth_query does not take clients.
    AuthDatabaseDisabled(String),
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
        self.entry().0
    }

    /// The SQLSTATE of the cause, for drivers that decide by it whether to try again.
    pub fn sqlstate(&self) -> &str {
        self.entry().1
    }

    /// THE table: what a client is told, and the SQLSTATE: PostgreSQL's in the same case, as far as one rule allows it.
    /// Where a connection that worked is ended, it is of class 08, 53, 54, 55 or 57: drivers that sort errors by class
    /// (the DB API's `OperationalError`) look for a lost connection there, as with PgBouncer's 08P01.
    fn entry(&self) -> (Cow<'static, str>, &str) {
        let (text, sqlstate) = match self {
            // Said to nobody.
            Farewell::Terminated => ("client close request", sqlstate::SUCCESSFUL_COMPLETION),
            Farewell::ClientGone => ("client unexpected eof", sqlstate::CONNECTION_FAILURE),
            Farewell::BadPacket(text) => return (Cow::Owned(text.clone()), sqlstate::PROTOCOL_VIOLATION),
            Farewell::Startup(error) => return (Cow::Owned(error.to_string()), error.sqlstate()),
            Farewell::EagerAfter(request) => {
                let text = format!("received unencrypted data after {request} request");
                return (Cow::Owned(text), sqlstate::PROTOCOL_VIOLATION);
            }
            Farewell::NoAlpn => (
                "received direct SSL connection request without ALPN protocol negotiation extension",
                sqlstate::PROTOCOL_VIOLATION,
            ),
            Farewell::LateTls => {
                ("received direct SSL connection request behind another", sqlstate::PROTOCOL_VIOLATION)
            }
            Farewell::TlsInsideTls => ("SSL req inside SSL", sqlstate::PROTOCOL_VIOLATION),
            Farewell::Handshake(error) => {
                return (Cow::Owned(format!("TLS handshake error: {error}")), sqlstate::PROTOCOL_VIOLATION);
            }
            Farewell::TlsBroken(how) => return (Cow::Owned(format!("TLS error: {how}")), sqlstate::PROTOCOL_VIOLATION),
            Farewell::TlsRequired => ("SSL required", sqlstate::INVALID_AUTHORIZATION),
            Farewell::DirectTls => ("TLS is not enabled (client_tls_sslmode)", sqlstate::FEATURE_NOT_SUPPORTED),
            Farewell::Denied(denial) => return (Cow::Owned(denial.to_string()), denial_sqlstate(denial.kind)),
            Farewell::Unproven(text) => (*text, sqlstate::INVALID_AUTHORIZATION),
            Farewell::Limit("max_client_conn") => {
                ("no more connections allowed (max_client_conn)", sqlstate::TOO_MANY_CONNECTIONS)
            }
            Farewell::Limit(name) => {
                let text = format!("client connections exceeded ({name})");
                return (Cow::Owned(text), sqlstate::TOO_MANY_CONNECTIONS);
            }
            Farewell::Throttled { .. } => {
                ("too many logins from this address (login_rate_limit)", sqlstate::TOO_MANY_CONNECTIONS)
            }
            Farewell::NoForcedUser => ("bouncer config error", sqlstate::CONFIG_FILE_ERROR),
            Farewell::UserTooLong => ("username too long", sqlstate::INVALID_AUTHORIZATION),
            Farewell::NoSuchUser => ("no such user", sqlstate::INVALID_PASSWORD),
            // Most often because its database cannot be reached; PgBouncer blames the configuration.
            Farewell::AuthQueryFailed => ("bouncer config error", sqlstate::CANNOT_CONNECT_NOW),
            Farewell::AuthDatabaseDisabled(name) => {
                let text = format!("authentication database \"{name}\" is disabled");
                return (Cow::Owned(text), sqlstate::CANNOT_CONNECT_NOW);
            }
            Farewell::NoSuchDatabase(name) => {
                return (Cow::Owned(format!("no such database: {name}")), sqlstate::UNKNOWN_DATABASE);
            }
            // libpq then goes on to the next of several hosts, and pg_isready says "rejecting connections".
            Farewell::DatabaseDisabled(name) => {
                return (Cow::Owned(format!("database \"{name}\" is disabled")), sqlstate::CANNOT_CONNECT_NOW);
            }
            Farewell::ShuttingDown => ("pooler is shutting down", sqlstate::CANNOT_CONNECT_NOW),
            Farewell::NotAllowed => ("not allowed", sqlstate::INVALID_AUTHORIZATION),
            Farewell::Refused(refusal) => return (Cow::Owned(refusal.to_string()), refusal_sqlstate(refusal)),
            Farewell::ParameterRefused(message) => {
                return (Cow::Owned(message.clone()), sqlstate::INVALID_PARAMETER_VALUE);
            }
            Farewell::ServerUnwanted => ("database configuration changed", sqlstate::ADMIN_SHUTDOWN),
            Farewell::ServerCrashed(_) => ("server conn crashed?", sqlstate::CONNECTION_FAILURE),
            Farewell::ServerAtFault(how) => (*how, sqlstate::CONNECTION_FAILURE),
            Farewell::Fault(fault) => return fault_entry(fault),
            Farewell::Ordered(order) => order_entry(*order),
            Farewell::Internal(text) => (*text, sqlstate::INTERNAL_ERROR),
        };
        (Cow::Borrowed(text), sqlstate)
    }

    /// What the client is told under these rules. PgBouncer says 08P01 for all that it says itself; what a server said
    /// at a login keeps its own.
    fn code(&self, codes: Codes) -> &str {
        let servers_own = matches!(
            self,
            Farewell::Refused(
                Refusal::ServerLoginFailed(error) | Refusal::LoginRetry(error) | Refusal::DedicatedLoginFailed(error),
            ) if error.from_server
        );
        match codes {
            Codes::Pgbouncer if !servers_own => sqlstate::PROTOCOL_VIOLATION,
            Codes::Pgbouncer | Codes::OfCause => self.sqlstate(),
        }
    }

    fn detail(&self) -> Option<&str> {
        match self {
            // Its text is PgBouncer's own, which does not say why.
            Farewell::Refused(Refusal::DedicatedLoginFailed(error)) if error.from_server => Some(&error.message),
            Farewell::Refused(Refusal::DedicatedLoginFailed(error)) => error.detail.as_deref(),
            Farewell::Refused(Refusal::ServerLoginFailed(error) | Refusal::LoginRetry(error)) => {
                error.detail.as_deref()
            }
            Farewell::ServerCrashed(how) => how.as_deref(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<&str> {
        match self {
            Farewell::Refused(
                Refusal::ServerLoginFailed(error) | Refusal::LoginRetry(error) | Refusal::DedicatedLoginFailed(error),
            ) => error.hint.as_deref(),
            Farewell::DirectTls => Some("Connect with sslmode=disable or sslmode=prefer."),
            Farewell::TlsRequired => Some("Connect with sslmode=require or a stricter one."),
            _ => None,
        }
    }

    /// Did the client leave of its own will, so that nothing is to be said to it?
    pub fn is_quiet(&self) -> bool {
        matches!(self, Farewell::Terminated | Farewell::ClientGone)
    }

    /// Has the log been told of the like just now?
    pub(super) fn goes_unlogged(&self) -> bool {
        matches!(self, Farewell::Throttled { logged: false })
    }

    /// The ErrorResponse, if there is somebody to tell who would understand.
    pub fn message(&self, codes: Codes) -> Option<Vec<u8>> {
        let expects_tls = matches!(
            self,
            Farewell::Handshake(_)
                | Farewell::TlsInsideTls
                | Farewell::NoAlpn
                | Farewell::LateTls
                | Farewell::TlsBroken(_)
        );
        if self.is_quiet() || expects_tls {
            return None;
        }
        let mut out = Vec::with_capacity(128);
        error_response(&mut out, FATAL, self.code(codes), &self.text(), self.detail(), self.hint());
        Some(out)
    }

    /// Why the server on loan is closed with the client.
    pub(super) fn server_reason(&self) -> &'static str {
        match self {
            Farewell::Terminated | Farewell::ClientGone => "client disconnect while server was not ready",
            Farewell::ServerCrashed(_) => "server conn crashed?",
            Farewell::ServerAtFault(how) => how,
            Farewell::Ordered(order) => order_entry(*order).0,
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

/// PostgreSQL's codes for the same. A password is as wrong as a user is unknown: the two must look alike.
fn denial_sqlstate(kind: DenialKind) -> &'static str {
    match kind {
        DenialKind::PasswordFailed | DenialKind::SaslFailed | DenialKind::EmptyPassword => sqlstate::INVALID_PASSWORD,
        DenialKind::TrustFailed | DenialKind::OutsideFailed(_) => sqlstate::INVALID_AUTHORIZATION,
        DenialKind::InvalidMechanism => sqlstate::PROTOCOL_VIOLATION,
    }
}

fn refusal_sqlstate(refusal: &Refusal) -> &str {
    match refusal {
        Refusal::QueryWaitTimeout => sqlstate::TOO_MANY_CONNECTIONS,
        // The next attempt is not due yet; when it is, it may succeed.
        Refusal::LoginRetry(error) if !error.from_server => sqlstate::CANNOT_CONNECT_NOW,
        // Old poolers and what only looks like a server leave the SQLSTATE out.
        Refusal::ServerLoginFailed(error) | Refusal::LoginRetry(error) | Refusal::DedicatedLoginFailed(error) => {
            match error.sqlstate.len() {
                5 => &error.sqlstate,
                _ => sqlstate::CANNOT_ESTABLISH_CONNECTION,
            }
        }
        Refusal::DatabaseGone => sqlstate::DATABASE_DROPPED,
        Refusal::Killed | Refusal::Shutdown => sqlstate::ADMIN_SHUTDOWN,
    }
}

fn order_entry(order: Order) -> (&'static str, &'static str) {
    match order {
        Order::None | Order::Heed => ("", sqlstate::INTERNAL_ERROR),
        Order::Kill => ("admin forced disconnect", sqlstate::ADMIN_SHUTDOWN),
        // KILL, too: the next try finds the database again, or hears that there is none.
        Order::DatabaseRemoved => ("database removed", sqlstate::ADMIN_SHUTDOWN),
        Order::QueryTimeout => ("query timeout", sqlstate::QUERY_CANCELED),
        Order::QueryTimeoutInLine => ("query_timeout", sqlstate::QUERY_CANCELED),
        // PostgreSQL has 25P04 and 25P03 for these two, of a class that drivers take for a mistake of the program's.
        // Programs written for PgBouncer catch a lost connection here (its own tests do).
        Order::TransactionTimeout => ("transaction timeout", sqlstate::QUERY_CANCELED),
        Order::IdleTransactionTimeout => ("idle transaction timeout", sqlstate::IDLE_SESSION_TIMEOUT),
        Order::ClientIdleTimeout => ("client_idle_timeout", sqlstate::IDLE_SESSION_TIMEOUT),
        // As PostgreSQL when authentication_timeout passes.
        Order::ClientLoginTimeout => ("client_login_timeout", sqlstate::QUERY_CANCELED),
        Order::Shutdown => ("server shutting down", sqlstate::ADMIN_SHUTDOWN),
        Order::ServerUnwanted => ("database configuration changed", sqlstate::ADMIN_SHUTDOWN),
        Order::SuspendTimeout => ("suspend_timeout", sqlstate::ADMIN_SHUTDOWN),
    }
}

fn fault_entry(fault: &Fault) -> (Cow<'static, str>, &'static str) {
    let text = match fault {
        Fault::BadHeader(text) => return (Cow::Owned(text.clone()), sqlstate::PROTOCOL_VIOLATION),
        Fault::UnknownMessage(tag) => {
            return (Cow::Owned(format!("unknown pkt: '{}'", tag.escape_ascii())), sqlstate::PROTOCOL_VIOLATION);
        }
        Fault::TooMany(what) => return (Cow::Owned(format!("too many {what}")), sqlstate::PROGRAM_LIMIT_EXCEEDED),
        Fault::TooLong(what) => {
            let text = format!("{what} message is too long to be held");
            return (Cow::Owned(text), sqlstate::PROGRAM_LIMIT_EXCEEDED);
        }
        Fault::TransactionBlock => {
            let text = "transaction blocks not allowed in statement pooling mode";
            return (Cow::Borrowed(text), sqlstate::NOT_IN_PREREQUISITE_STATE);
        }
        Fault::SimpleQuery => return (Cow::Borrowed("PQexec disallowed"), sqlstate::FEATURE_NOT_SUPPORTED),
        Fault::Broken("Parse") => "broken Parse packet",
        Fault::Broken("Bind") => "broken Bind packet",
        Fault::Broken("Describe") => "broken Describe packet",
        Fault::Broken("Close") => "broken Close packet",
        Fault::Broken(_) => "failed to parse packet",
        // 42P05 and 26000 would have drivers prepare again, on a connection that has ended.
        Fault::StatementInUse => "prepared statement name is already in use",
        Fault::NoSuchStatement => "prepared statement did not exist",
    };
    (Cow::Borrowed(text), sqlstate::PROTOCOL_VIOLATION)
}

#[cfg(test)]
mod tests;
