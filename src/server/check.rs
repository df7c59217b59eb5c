//! Queries of our own: server_reset_query, server_check_query, and the SETs that give a server a client's parameters.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Server;
use crate::protocol::exchange::TransactionStatus;
use crate::protocol::outstanding::Kind;
use crate::protocol::parameters::read_value;
use crate::wire::error::ErrorFields;
use crate::wire::{Backend, backend, frontend};

/// Why a server is no use after a query of our own.
#[derive(Debug)]
pub enum TidyError {
    /// The connection is gone.
    Lost(io::Error),
    /// The query failed; this is Postgres' message.
    Failed(String),
    /// It left a transaction open.
    InTransaction,
    /// It took too long.
    Timeout,
}

impl std::fmt::Display for TidyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TidyError::Lost(error) => write!(f, "server conn crashed? ({error})"),
            TidyError::Failed(message) => write!(f, "query failed: {message}"),
            TidyError::InTransaction => write!(f, "query left a transaction open"),
            TidyError::Timeout => write!(f, "query took too long"),
        }
    }
}

impl From<io::Error> for TidyError {
    fn from(error: io::Error) -> TidyError {
        TidyError::Lost(error)
    }
}

/// Runs a query of our own to its end and gives the server back at rest; an empty `sql` is the empty query. `within` is
/// the longest it may take; zero is no limit.
///
/// # Errors
/// See [`TidyError`]; the server is closed.
pub async fn tidy(mut server: Box<Server>, sql: &str, within: Duration) -> Result<Box<Server>, TidyError> {
    let mut out = Vec::with_capacity(sql.len() + 8);
    frontend::query(&mut out, sql);
    let run = run_query(&mut server, &out);
    if within.is_zero() {
        run.await?;
    } else {
        tokio::time::timeout(within, run).await.map_err(|_| TidyError::Timeout)??;
    }
    if names_all_statements(sql) {
        server.statements.clear();
        server.note_statement_count();
    }
    Ok(server)
}

/// Sends one complete Query message and reads to its ReadyForQuery. Parameters that the server reports are noted.
///
/// # Errors
/// See [`TidyError`].
///
/// Not cancel safe: the server is in the middle of something.
pub(crate) async fn run_query(server: &mut Server, query: &[u8]) -> Result<(), TidyError> {
    server.exchange.ask(Kind::Query);
    server.stream.send_all(query).await?;
    let mut failure = None;
    loop {
        let (tag, body) = server.next_message().await?;
        match Backend::from_byte(tag) {
            Some(Backend::ReadyForQuery) => {
                let status = body.first().copied().unwrap_or_default();
                if server.exchange.ready(status).is_err() {
                    return Err(TidyError::Lost(io::ErrorKind::InvalidData.into()));
                }
                break;
            }
            Some(Backend::ErrorResponse) => failure = Some(ErrorFields::parse(&body).message.into_owned()),
            Some(Backend::ParameterStatus) => server.note_parameter(&body),
            // A COPY among our own queries can only fail; nobody sends the data.
            Some(Backend::CopyInResponse | Backend::CopyBothResponse) => {
                return Err(TidyError::Failed("it wants copy data".into()));
            }
            _ => {}
        }
    }
    match failure {
        Some(message) => Err(TidyError::Failed(message)),
        None if server.exchange.status() != TransactionStatus::Idle => Err(TidyError::InTransaction),
        None => Ok(()),
    }
}

impl Server {
    /// Notes a ParameterStatus body.
    pub(crate) fn note_parameter(&mut self, body: &[u8]) {
        if let Some((name, value)) = backend::parse_parameter_status(body) {
            let value = read_value(value, &self.parameters);
            self.parameters = self.parameters.with(name, &value);
            self.note_application_name(name, &value);
        }
    }

    /// Writes the application_name on the card, if this parameter is it.
    pub(crate) fn note_application_name(&self, name: &str, value: &str) {
        if name.eq_ignore_ascii_case("application_name") {
            *self.card().application_name.lock().unwrap_or_else(PoisonError::into_inner) = Arc::from(value);
        }
    }

    /// Writes the number of prepared statements on the card.
    pub(crate) fn note_statement_count(&self) {
        let count = u32::try_from(self.statements.len()).unwrap_or(u32::MAX);
        self.card().prepared_statements.store(count, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Does a reset query end all prepared statements?
fn names_all_statements(sql: &str) -> bool {
    let sql = sql.to_ascii_uppercase();
    sql.contains("DISCARD ALL") || sql.contains("DEALLOCATE ALL")
}
