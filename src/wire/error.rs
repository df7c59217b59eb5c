//! ErrorResponse and NoticeResponse: the writer, a reader that forgives, and every SQLSTATE we ever send.
//!
//! Pure: bytes in, bytes out.
//!
//! Both messages have one body: fields of a letter and a NUL-terminated text, then a NUL. We write severity twice, as
//! Postgres does since 9.6 (`S` may be translated, `V` never is; ours are never translated). What we read may come from
//! anything that listens on a port, so nothing is taken for granted: a field may be missing, repeated, unknown, cut off
//! or not UTF-8, and the rest is still read. Manual: "Error and Notice Message Fields".

use std::borrow::Cow;

/// Severity of an error after which the connection is closed.
pub const FATAL: &str = "FATAL";
/// Severity of an error after which the conversation goes on.
pub const ERROR: &str = "ERROR";
/// Severity of a message that is no error but that nobody should overlook.
pub const WARNING: &str = "WARNING";
/// Severity of a message that is no error.
pub const NOTICE: &str = "NOTICE";

/// The SQLSTATEs we send. PgBouncer sends `08P01` for nearly everything; drivers tell "try again" from "never" by
/// these, so each of ours fits its cause. Manual: "PostgreSQL Error Codes".
pub mod sqlstate {
    /// A notice that only informs.
    pub const SUCCESSFUL_COMPLETION: &str = "00000";
    /// A server could not be reached (refused, no such host, connect timeout).
    pub const CANNOT_ESTABLISH_CONNECTION: &str = "08001";
    /// A server was lost in the middle of a conversation.
    pub const CONNECTION_FAILURE: &str = "08006";
    /// The other side broke the protocol; also what PgBouncer says wherever nothing fits better.
    pub const PROTOCOL_VIOLATION: &str = "08P01";
    /// A protocol version or message we do not do, or something a setting has switched off.
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    /// Text that is not UTF-8 where a name must be.
    pub const CHARACTER_NOT_IN_REPERTOIRE: &str = "22021";
    /// A value a parameter cannot have.
    pub const INVALID_PARAMETER_VALUE: &str = "22023";
    /// A Bind, Describe or Execute of a prepared statement the client does not have.
    pub const UNDEFINED_STATEMENT: &str = "26000";
    /// This user may not log in this way (rejected by rule, wrong method, certificate, no user name).
    pub const INVALID_AUTHORIZATION: &str = "28000";
    /// Wrong password, or no such user: the two must look alike.
    pub const INVALID_PASSWORD: &str = "28P01";
    /// No such database.
    pub const UNKNOWN_DATABASE: &str = "3D000";
    /// A console command that is allowed for administrators only.
    pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
    /// A console command that cannot be read.
    pub const SYNTAX_ERROR: &str = "42601";
    /// A startup or console parameter that does not exist or is not followed.
    pub const UNDEFINED_PARAMETER: &str = "42704";
    /// A Parse for a name that is taken.
    pub const DUPLICATE_STATEMENT: &str = "42P05";
    /// Too many connections: max_client_conn and its kin, or no server within query_wait_timeout.
    pub const TOO_MANY_CONNECTIONS: &str = "53300";
    /// More than we hold for one client (prepared statements, message length).
    pub const PROGRAM_LIMIT_EXCEEDED: &str = "54000";
    /// What the present state or pool mode does not allow: a transaction block in statement pooling, a console command
    /// in the wrong state (not paused, already suspended).
    pub const NOT_IN_PREREQUISITE_STATE: &str = "55000";
    /// query_timeout, transaction_timeout or client_login_timeout passed.
    pub const QUERY_CANCELED: &str = "57014";
    /// An administrator or a shutdown ended the connection: another try may succeed at once.
    pub const ADMIN_SHUTDOWN: &str = "57P01";
    /// Not now: shutting down, paused, disabled, or the server's login keeps failing.
    pub const CANNOT_CONNECT_NOW: &str = "57P03";
    /// The database of a waiting client is no longer configured.
    pub const DATABASE_DROPPED: &str = "57P04";
    /// client_idle_timeout or idle_transaction_timeout passed.
    pub const IDLE_SESSION_TIMEOUT: &str = "57P05";
    /// A RELOAD that found problems, or a login that the configuration makes impossible.
    pub const CONFIG_FILE_ERROR: &str = "F0000";
    /// Our own mistake.
    pub const INTERNAL_ERROR: &str = "XX000";
}

/// Appends an ErrorResponse. A NUL ends a text early.
pub fn error_response(
    out: &mut Vec<u8>,
    severity: &str,
    sqlstate: &str,
    message: &str,
    detail: Option<&str>,
    hint: Option<&str>,
) {
    append(out, b'E', [severity, sqlstate, message], detail, hint);
}

/// Appends a NoticeResponse. A NUL ends a text early.
pub fn notice_response(
    out: &mut Vec<u8>,
    severity: &str,
    sqlstate: &str,
    message: &str,
    detail: Option<&str>,
    hint: Option<&str>,
) {
    append(out, b'N', [severity, sqlstate, message], detail, hint);
}

fn append(
    out: &mut Vec<u8>,
    tag: u8,
    [severity, sqlstate, message]: [&str; 3],
    detail: Option<&str>,
    hint: Option<&str>,
) {
    out.push(tag);
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    field(out, b'S', Some(severity));
    field(out, b'V', Some(severity));
    field(out, b'C', Some(sqlstate));
    field(out, b'M', Some(message));
    field(out, b'D', detail);
    field(out, b'H', hint);
    out.push(0);
    let length = u32::try_from(out.len() - length_at).expect("our own messages are far below 4 GB");
    out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
}

fn field(out: &mut Vec<u8>, letter: u8, text: Option<&str>) {
    if let Some(text) = text {
        out.push(letter);
        out.extend_from_slice(text.split('\0').next().unwrap_or_default().as_bytes());
        out.push(0);
    }
}

/// The fields of an ErrorResponse or NoticeResponse that we use. Bytes that are not UTF-8 are replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorFields<'a> {
    /// `V` where it is there, else `S`, which the server may have translated; empty where both are missing.
    pub severity: Cow<'a, str>,
    /// SQLSTATE, five characters by the manual; empty where it is missing (some poolers and old servers leave it out).
    pub code: Cow<'a, str>,
    /// The primary text; empty where it is missing.
    pub message: Cow<'a, str>,
    /// The second sentence.
    pub detail: Option<Cow<'a, str>>,
    /// What to do about it.
    pub hint: Option<Cow<'a, str>>,
}

impl<'a> ErrorFields<'a> {
    /// Reads the body of a message (what follows its length). Takes whatever is there; of a repeated field the last.
    pub fn parse(body: &'a [u8]) -> ErrorFields<'a> {
        let mut fields = ErrorFields::default();
        let mut plain_severity = None;
        let mut rest = body;
        while let Some((&letter, after)) = rest.split_first() {
            if letter == 0 {
                break;
            }
            let end = after.iter().position(|byte| *byte == 0).unwrap_or(after.len());
            let text = String::from_utf8_lossy(&after[..end]);
            rest = after.get(end + 1..).unwrap_or_default();
            match letter {
                b'S' => fields.severity = text,
                b'V' => plain_severity = Some(text),
                b'C' => fields.code = text,
                b'M' => fields.message = text,
                b'D' => fields.detail = Some(text),
                b'H' => fields.hint = Some(text),
                _ => {}
            }
        }
        if let Some(severity) = plain_severity {
            fields.severity = severity;
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_error_is_laid_out_as_the_manual_says() {
        let mut out = b"before".to_vec();

        error_response(&mut out, FATAL, sqlstate::TOO_MANY_CONNECTIONS, "query_wait_timeout", None, None);

        assert_eq!(out, b"beforeE\0\0\0\x2eSFATAL\0VFATAL\0C53300\0Mquery_wait_timeout\0\0");
    }

    #[test]
    fn a_notice_has_the_same_body() {
        let (mut error, mut notice) = (Vec::new(), Vec::new());

        error_response(&mut error, NOTICE, sqlstate::SUCCESSFUL_COMPLETION, "hello", Some("detail"), Some("hint"));
        notice_response(&mut notice, NOTICE, sqlstate::SUCCESSFUL_COMPLETION, "hello", Some("detail"), Some("hint"));

        assert_eq!((error[0], notice[0]), (b'E', b'N'));
        assert_eq!(error[1..], notice[1..]);
    }

    #[test]
    fn a_nul_cannot_smuggle_in_a_field() {
        let mut out = Vec::new();

        error_response(&mut out, ERROR, "42601", "bad\0C00000", None, None);

        assert_eq!(ErrorFields::parse(&out[5..]).message, "bad");
        assert_eq!(ErrorFields::parse(&out[5..]).code, "42601");
    }

    #[test]
    fn the_severity_nobody_translates_wins() {
        assert_eq!(ErrorFields::parse(b"VFATAL\0SFATAL FEHLER\0\0").severity, "FATAL");
        assert_eq!(ErrorFields::parse(b"SFATAL FEHLER\0\0").severity, "FATAL FEHLER");
    }

    #[test]
    fn an_error_without_sqlstate_or_end_is_still_read() {
        let fields = ErrorFields::parse(b"SFATAL\0Mgone \xff\0Zunknown\0Dcut of");

        assert_eq!(fields.code, "");
        assert_eq!(fields.message, "gone \u{fffd}");
        assert_eq!(fields.detail.as_deref(), Some("cut of"));
        assert_eq!(fields.hint, None);
    }

    #[test]
    fn what_follows_the_end_is_not_read() {
        assert_eq!(ErrorFields::parse(b"Mone\0\0Mtwo\0\0").message, "one");
        assert_eq!(ErrorFields::parse(b""), ErrorFields::default());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            texts in prop::array::uniform3("[^\0]{0,20}"),
            detail in prop::option::of("[^\0]{0,20}"),
            hint in prop::option::of("[^\0]{0,20}"),
        ) {
            let mut out = Vec::new();
            let [severity, code, message] = &texts;
            error_response(&mut out, severity, code, message, detail.as_deref(), hint.as_deref());

            let length = u32::from_be_bytes([out[1], out[2], out[3], out[4]]) as usize;
            let fields = ErrorFields::parse(&out[5..]);

            prop_assert_eq!(length, out.len() - 1);
            prop_assert_eq!(&fields.severity, severity);
            prop_assert_eq!(&fields.code, code);
            prop_assert_eq!(&fields.message, message);
            prop_assert_eq!(fields.detail.as_deref(), detail.as_deref());
            prop_assert_eq!(fields.hint.as_deref(), hint.as_deref());
        }

        #[test]
        fn any_bytes_are_read_without_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            ErrorFields::parse(&body);
        }
    }
}
