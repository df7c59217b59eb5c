//! auth_query: asks a server for a user's secret.
//!
//! The query's text is the operator's; the only thing of the client's that reaches the server is the name it gave, as
//! the query's parameter. Manual: "Extended Query".

use std::fmt;
use std::io;

use zeroize::Zeroizing;

use super::Server;
use crate::protocol::exchange::TransactionStatus;
use crate::wire::error::ErrorFields;
use crate::wire::{Backend, backend, frontend};

/// What auth_query knows of a user.
#[derive(Clone)]
pub struct KnownUser {
    /// The name, as the query spells it.
    pub name: String,
    /// The secret; nothing for one that admits nobody (NULL).
    pub secret: Option<Zeroizing<String>>,
}

impl fmt::Debug for KnownUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KnownUser({:?}, …)", self.name)
    }
}

/// Why there is no answer. The server is no use any more: close it, with the displayed text for a reason (PgBouncer's
/// words).
#[derive(Debug)]
pub enum LookupError {
    /// The connection is gone.
    Lost(io::Error),
    /// PostgreSQL refused the query: "SEVERITY message".
    Failed(String),
    /// It answers with as many columns, not with a name and a secret.
    Columns(usize),
    /// A row has NULL for a name.
    NullName,
    /// A name or secret is not UTF-8.
    NotText,
    /// It broke the protocol.
    BadPacket,
    /// It answers with something else than rows.
    Unexpected,
    /// It left a transaction open.
    InTransaction,
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LookupError::Lost(_) => f.write_str("server conn crashed?"),
            LookupError::Failed(_) => f.write_str("error response from auth_query"),
            LookupError::Columns(count) => write!(f, "expected 2 columns from auth_query, not {count}"),
            LookupError::NullName => f.write_str("auth_query response contained null user name"),
            LookupError::NotText => f.write_str("auth_query response is not text in UTF-8"),
            LookupError::BadPacket => f.write_str("bad packet"),
            LookupError::Unexpected => f.write_str("unexpected response from auth_query"),
            LookupError::InTransaction => f.write_str("auth_query left a transaction open"),
        }
    }
}

impl From<io::Error> for LookupError {
    fn from(error: io::Error) -> LookupError {
        LookupError::Lost(error)
    }
}

/// Runs `sql` with `user` for its parameter and gives what it knows of the user; of several rows, the last. The server
/// is at rest afterwards.
///
/// # Errors
/// See [`LookupError`].
///
/// Not cancel safe: the server is in the middle of something.
pub async fn look_up(server: &mut Server, sql: &str, user: &str) -> Result<Option<KnownUser>, LookupError> {
    let mut batch = Vec::with_capacity(sql.len() + user.len() + 64);
    frontend::query_with(&mut batch, sql, user);
    server.exchange.sync();
    server.stream.send_all(&batch).await?;
    let mut known = None;
    loop {
        let (tag, body) = server.next_message().await?;
        let body = Zeroizing::new(body);
        match Backend::from_byte(tag) {
            Some(Backend::ReadyForQuery) => {
                let status = body.first().copied().unwrap_or_default();
                server.exchange.ready(status).map_err(|_| LookupError::BadPacket)?;
                return match server.exchange.status() {
                    TransactionStatus::Idle => Ok(known),
                    _ => Err(LookupError::InTransaction),
                };
            }
            Some(Backend::RowDescription) => match backend::column_count(&body) {
                Some(2) => {}
                Some(count) => return Err(LookupError::Columns(count)),
                None => return Err(LookupError::BadPacket),
            },
            Some(Backend::DataRow) => known = Some(known_user(&body)?),
            Some(Backend::ErrorResponse) => {
                let fields = ErrorFields::parse(&body);
                return Err(LookupError::Failed(format!("{} {}", fields.severity, fields.message)));
            }
            Some(Backend::ParameterStatus) => server.note_parameter(&body),
            Some(
                Backend::ParseComplete
                | Backend::BindComplete
                | Backend::CommandComplete
                | Backend::NoticeResponse
                | Backend::NotificationResponse,
            ) => {}
            _ => return Err(LookupError::Unexpected),
        }
    }
}

fn known_user(row: &[u8]) -> Result<KnownUser, LookupError> {
    let values = backend::parse_data_row(row).ok_or(LookupError::BadPacket)?;
    let &[name, secret] = values.as_slice() else { return Err(LookupError::Columns(values.len())) };
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| LookupError::NotText);
    let name = text(name.ok_or(LookupError::NullName)?)?;
    let secret = secret.map(text).transpose()?.map(Zeroizing::new);
    Ok(KnownUser { name, secret })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
        let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
        for value in values {
            let len = value.map_or(-1, |value| i32::try_from(value.len()).unwrap());
            body.extend_from_slice(&len.to_be_bytes());
            body.extend_from_slice(value.unwrap_or_default());
        }
        body
    }

    #[test]
    fn a_row_is_a_name_and_a_secret_which_may_be_null() {
        let ann = known_user(&row(&[Some(b"ann"), Some(b"hunter2")])).unwrap();
        assert_eq!((ann.name.as_str(), ann.secret.as_ref().map(|secret| secret.as_str())), ("ann", Some("hunter2")));

        let expired = known_user(&row(&[Some(b"ann"), None])).unwrap();
        assert!(expired.secret.is_none());
        assert!(!format!("{ann:?}").contains("hunter2"));
    }

    #[test]
    fn what_is_no_name_and_secret_is_refused_in_words() {
        let refusal = |values: &[Option<&[u8]>]| known_user(&row(values)).unwrap_err().to_string();

        assert_eq!(refusal(&[None, Some(b"x")]), "auth_query response contained null user name");
        assert_eq!(refusal(&[Some(b"ann")]), "expected 2 columns from auth_query, not 1");
        assert_eq!(refusal(&[Some(b"ann"), None, None]), "expected 2 columns from auth_query, not 3");
        assert_eq!(refusal(&[Some(b"ann"), Some(b"\xff")]), "auth_query response is not text in UTF-8");
        assert_eq!(known_user(b"\0").unwrap_err().to_string(), "bad packet");
    }
}
