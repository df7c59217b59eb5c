//! The untagged first packets: what a client sends before anything else, and what we send as a client of Postgres.
//!
//! Pure: slices in, values and bytes out.
//!
//! A first packet is a length that counts itself, a code, and what belongs to the code. Four codes are requests, all
//! others are the version of a StartupMessage. [`First::read`] takes them off a buffer one at a time: after a refused
//! SSLRequest or GSSENCRequest the client sends another. A client may also start TLS without asking; its first byte
//! then is that of a TLS record, which can be no length we accept.
//!
//! Which parameters are followed, dropped or refused is decided in `protocol::parameters`; here they are only read.
//! Postgres takes any bytes in them. We want UTF-8 where a text picks something (names, user, database, options), since
//! what we compare it with came from a config file, and refuse it otherwise; in other values, such as an
//! application_name in Latin-1, a stray byte becomes `?`, as Postgres itself showed them until version 16.
//! Manual: "Start-up", "Canceling Requests in Progress", "SSL Session Encryption".

use super::error::sqlstate;

/// Most bytes of a first packet after its length field, as in Postgres.
pub const FIRST_PACKET_LEN_MAX: usize = 10_000;

/// Bytes a cancel secret may have: 4 in protocol 3.0, up to 256 in 3.2.
pub const CANCEL_SECRET_LEN: std::ops::RangeInclusive<usize> = 4..=256;

const PROTOCOL_3_0: u32 = 0x0003_0000;
const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const TLS_HANDSHAKE_RECORD: u8 = 0x16;

/// What a client opened with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First {
    /// A TLS handshake without SSLRequest. Nothing of it is consumed.
    DirectTls,
    /// SSLRequest: may we speak TLS?
    Ssl,
    /// GSSENCRequest: may we speak GSSAPI?
    Gss,
    /// CancelRequest: stop what another connection runs.
    Cancel {
        /// Process id from BackendKeyData.
        pid: i32,
        /// Secret from BackendKeyData, 4 to 256 bytes.
        secret: Vec<u8>,
    },
    /// StartupMessage: let me in.
    Startup(StartupMessage),
}

impl First {
    /// The packet at the start of `buf` and how many bytes it takes there; `None` while more bytes are needed.
    ///
    /// # Errors
    /// It is no packet we know, or a broken one. Nothing after it can be trusted.
    pub fn read(buf: &[u8]) -> Result<Option<(First, usize)>, StartupError> {
        if buf.first() == Some(&TLS_HANDSHAKE_RECORD) {
            return Ok(Some((First::DirectTls, 0)));
        }
        let Some(len) = first_packet_len(buf)? else {
            return Ok(None);
        };
        match buf.get(4..len) {
            Some(packet) => Ok(Some((First::parse(packet)?, len))),
            None => Ok(None),
        }
    }

    /// The packet in `packet`, which is whole and begins after the length field.
    ///
    /// # Errors
    /// It is no packet we know, or a broken one.
    pub fn parse(packet: &[u8]) -> Result<First, StartupError> {
        let Some((code, rest)) = packet.split_first_chunk::<4>() else {
            return Err(StartupError::BadLength { header: length_field(packet.len()) });
        };
        match u32::from_be_bytes(*code) {
            SSL_REQUEST if rest.is_empty() => Ok(First::Ssl),
            GSSENC_REQUEST if rest.is_empty() => Ok(First::Gss),
            SSL_REQUEST | GSSENC_REQUEST => Err(StartupError::BadLength { header: length_field(packet.len()) }),
            CANCEL_REQUEST => match rest.split_first_chunk::<4>() {
                Some((pid, secret)) if CANCEL_SECRET_LEN.contains(&secret.len()) => {
                    Ok(First::Cancel { pid: i32::from_be_bytes(*pid), secret: secret.to_vec() })
                }
                _ => Err(StartupError::BadCancel),
            },
            version => match [(version >> 16) as u16, version as u16] {
                [3, minor] => StartupMessage::parse(minor, rest).map(First::Startup),
                [2, _] => Err(StartupError::OldProtocol),
                [major, minor] => Err(StartupError::UnknownProtocol { major, minor }),
            },
        }
    }
}

/// The length in bytes, length field included, of the first packet at the start of `buf`; `None` while fewer than four
/// bytes are there.
///
/// # Errors
/// The length is impossible or above the limit: whatever this is, it is not our protocol.
pub fn first_packet_len(buf: &[u8]) -> Result<Option<usize>, StartupError> {
    let Some(header) = buf.first_chunk::<4>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes(*header) as usize;
    if !(8..=FIRST_PACKET_LEN_MAX + 4).contains(&len) {
        return Err(StartupError::BadLength { header: *header });
    }
    Ok(Some(len))
}

/// The length field of a packet whose rest has `len` bytes, for an error text.
fn length_field(len: usize) -> [u8; 4] {
    u32::try_from(len + 4).unwrap_or(u32::MAX).to_be_bytes()
}

/// Whether a client asks for the replication protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Replication {
    /// An ordinary conversation.
    #[default]
    Off,
    /// `replication=true`: physical.
    Physical,
    /// `replication=database`: logical.
    Logical,
}

impl Replication {
    /// The value of the startup parameter; also the log's word.
    pub fn word(self) -> &'static str {
        match self {
            Replication::Off => "no",
            Replication::Physical => "yes",
            Replication::Logical => "database",
        }
    }

    /// The word of SHOW CLIENTS and SHOW SERVERS.
    pub fn name(self) -> &'static str {
        match self {
            Replication::Off => "none",
            Replication::Physical => "physical",
            Replication::Logical => "logical",
        }
    }

    /// Reads the value of the `replication` parameter, spelled as any boolean of Postgres or `database`.
    fn parse(value: &str) -> Option<Replication> {
        let value = value.to_ascii_lowercase();
        let is_start_of = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
        match value.as_str() {
            "database" => Some(Replication::Logical),
            "on" | "1" => Some(Replication::Physical),
            "0" => Some(Replication::Off),
            _ if is_start_of("true", 1) || is_start_of("yes", 1) => Some(Replication::Physical),
            _ if is_start_of("false", 1) || is_start_of("no", 1) || is_start_of("off", 2) => Some(Replication::Off),
            _ => None,
        }
    }
}

/// What a client asks for when it wants to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartupMessage {
    /// Minor version of the protocol asked for; the major one is 3. We speak 3.0.
    pub minor: u16,
    /// User name, never empty.
    pub user: String,
    /// Database name; the user's where the client gave none.
    pub database: String,
    /// Whether this is to be a replication connection.
    pub replication: Replication,
    /// What stands for `replication` and is no word for it: see [`StartupMessage::check`].
    pub bad_replication: Option<String>,
    /// The `options` parameter as it came, see [`parse_options`]. A replication connection passes it on as it is.
    pub options: Option<String>,
    /// Names of the protocol options (`_pq_.…`) asked for; we know none.
    pub protocol_options: Vec<String>,
    /// All other parameters in the order given; a name may come twice, then the last one counts.
    pub parameters: Vec<(String, String)>,
}

impl StartupMessage {
    /// Must the client be told that we speak 3.0 and none of its protocol options?
    pub fn needs_negotiation(&self) -> bool {
        self.minor > 0 || !self.protocol_options.is_empty()
    }

    /// Is what is asked for something that can be asked for? To be called once it is noted who asks.
    ///
    /// # Errors
    /// Postgres refuses an unknown word for `replication`, PgBouncer takes it for "no": who asks for replication and
    /// gets none would only find out later.
    pub fn check(&self) -> Result<(), StartupError> {
        match &self.bad_replication {
            Some(value) => Err(StartupError::BadReplication { value: value.clone() }),
            None => Ok(()),
        }
    }

    /// Reads what follows the version.
    fn parse(minor: u16, packet: &[u8]) -> Result<StartupMessage, StartupError> {
        let mut message = StartupMessage {
            minor,
            user: String::new(),
            database: String::new(),
            replication: Replication::Off,
            bad_replication: None,
            options: None,
            protocol_options: Vec::new(),
            parameters: Vec::new(),
        };
        let mut rest = packet;
        loop {
            let name = take_text(&mut rest)?;
            if name.is_empty() {
                break;
            }
            let value = take_text(&mut rest)?;
            message.take_parameter(utf8(name, "parameter name")?, value)?;
        }
        if !rest.is_empty() {
            return Err(StartupError::BadLayout);
        }
        if message.user.is_empty() {
            return Err(StartupError::NoUser);
        }
        if message.database.is_empty() {
            message.database.clone_from(&message.user);
        }
        Ok(message)
    }

    fn take_parameter(&mut self, name: &str, value: &[u8]) -> Result<(), StartupError> {
        match name {
            "user" => utf8(value, "user")?.clone_into(&mut self.user),
            "database" => utf8(value, "database")?.clone_into(&mut self.database),
            "options" => self.options = Some(utf8(value, "options")?.to_owned()),
            "replication" => {
                let word = utf8(value, "replication")?;
                let known = Replication::parse(word);
                self.replication = known.unwrap_or(Replication::Off);
                self.bad_replication = known.is_none().then(|| word.to_owned());
            }
            _ if name.starts_with("_pq_.") => self.protocol_options.push(name.to_owned()),
            _ => self.parameters.push((name.to_owned(), printable(value))),
        }
        Ok(())
    }
}

/// Takes a NUL-terminated text off the start of `rest`.
fn take_text<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], StartupError> {
    let end = rest.iter().position(|byte| *byte == 0).ok_or(StartupError::BadLayout)?;
    let text = &rest[..end];
    *rest = &rest[end + 1..];
    Ok(text)
}

fn utf8<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a str, StartupError> {
    std::str::from_utf8(bytes).map_err(|_| StartupError::NotUtf8 { what })
}

/// The text with a `?` for each byte that is not UTF-8.
fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '?'));
    }
    text
}

/// Reads the `options` parameter: a command line of `-c name=value`, `-cname=value` and `--name=value`, separated by
/// white space, in which a backslash takes the next character's meaning away. In a name `-` stands for `_`, as in
/// Postgres.
///
/// # Errors
/// [`StartupError::BadOptions`]: there is anything else in it. Postgres knows more, which all can be said with `-c`.
pub fn parse_options(options: &str) -> Result<Vec<(String, String)>, StartupError> {
    let mut pairs = Vec::new();
    let mut rest = options.trim_start_matches(is_space);
    while !rest.is_empty() {
        rest = match rest.strip_prefix("-c") {
            Some(after) => after.trim_start_matches(is_space),
            None => rest.strip_prefix("--").ok_or(StartupError::BadOptions)?,
        };
        let (token, after) = take_token(rest);
        let (name, value) = token.split_once('=').ok_or(StartupError::BadOptions)?;
        pairs.push((name.replace('-', "_"), value.to_owned()));
        rest = after.trim_start_matches(is_space);
    }
    Ok(pairs)
}

/// Takes a token off the start of `text`: up to the next bare white space, its backslashes resolved.
fn take_token(text: &str) -> (String, &str) {
    let mut token = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => token.extend(chars.next().map(|(_, escaped)| escaped)),
            _ if is_space(char) => return (token, &text[at..]),
            _ => token.push(char),
        }
    }
    (token, "")
}

/// White space as C sees it; Rust's own idea lacks the vertical tab.
fn is_space(char: char) -> bool {
    matches!(char, ' ' | '\t'..='\r')
}

/// Why a first packet, or what it asks for, is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartupError {
    /// A length no first packet has.
    BadLength {
        /// The length field as received.
        header: [u8; 4],
    },
    /// Protocol 2, last spoken by Postgres 13.
    OldProtocol,
    /// A protocol that does not exist.
    UnknownProtocol {
        /// Major version asked for.
        major: u16,
        /// Minor version asked for.
        minor: u16,
    },
    /// A CancelRequest whose key cannot be one. Its sender listens to no answer.
    BadCancel,
    /// A StartupMessage that ends early or late.
    BadLayout,
    /// A StartupMessage without user.
    NoUser,
    /// Bytes that are not UTF-8 in a text that picks something.
    NotUtf8 {
        /// Which text.
        what: &'static str,
    },
    /// A `replication` that is neither a boolean nor `database`.
    BadReplication {
        /// What it is.
        value: String,
    },
    /// Something else than `-c` and `--` in `options`.
    BadOptions,
    /// A parameter that is neither followed nor ignored.
    Unsupported {
        /// Its name as the client wrote it.
        name: String,
        /// Its value, for the log.
        value: String,
    },
    /// The same inside `options`.
    UnsupportedInOptions {
        /// Its name as the client wrote it.
        name: String,
        /// Its value, for the log.
        value: String,
    },
}

impl StartupError {
    /// The SQLSTATE that goes with it.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            StartupError::BadLength { .. } | StartupError::BadCancel | StartupError::BadLayout => {
                sqlstate::PROTOCOL_VIOLATION
            }
            StartupError::OldProtocol | StartupError::UnknownProtocol { .. } | StartupError::BadOptions => {
                sqlstate::FEATURE_NOT_SUPPORTED
            }
            StartupError::NoUser => sqlstate::INVALID_AUTHORIZATION,
            StartupError::NotUtf8 { .. } => sqlstate::CHARACTER_NOT_IN_REPERTOIRE,
            StartupError::BadReplication { .. } => sqlstate::INVALID_PARAMETER_VALUE,
            StartupError::Unsupported { .. } | StartupError::UnsupportedInOptions { .. } => {
                sqlstate::UNDEFINED_PARAMETER
            }
        }
    }
}

impl std::fmt::Display for StartupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartupError::BadLength { header: [a, b, c, d] } => {
                write!(f, "bad packet header: '{a:02x}{b:02x}{c:02x}{d:02x}'")
            }
            StartupError::OldProtocol => write!(f, "old V2 protocol not supported"),
            StartupError::UnknownProtocol { major, minor } => {
                write!(f, "unsupported frontend protocol {major}.{minor}")
            }
            StartupError::BadCancel => write!(f, "bad cancel request"),
            StartupError::BadLayout => {
                write!(f, "invalid startup packet layout: expected terminator as last byte")
            }
            StartupError::NoUser => write!(f, "no username supplied"),
            StartupError::NotUtf8 { what } => write!(f, "invalid startup packet: {what} is not UTF-8"),
            StartupError::BadReplication { value } => {
                write!(f, "invalid value for parameter \"replication\": \"{value}\"")
            }
            StartupError::BadOptions => {
                write!(f, "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed")
            }
            StartupError::Unsupported { name, .. } => write!(f, "unsupported startup parameter: {name}"),
            StartupError::UnsupportedInOptions { name, .. } => {
                write!(f, "unsupported startup parameter in options: {name}")
            }
        }
    }
}

impl std::error::Error for StartupError {}

/// Appends a NegotiateProtocolVersion: we speak 3.0 and know none of these protocol options.
pub fn negotiate_protocol_version(out: &mut Vec<u8>, unknown_options: &[String]) {
    out.push(b'v');
    with_length(out, |out| {
        // The manual speaks of the minor version alone; Postgres sends, and libpq reads, both halves.
        out.extend_from_slice(&PROTOCOL_3_0.to_be_bytes());
        let count = u32::try_from(unknown_options.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_be_bytes());
        unknown_options.iter().for_each(|name| put_text(out, name));
    });
}

/// Appends a StartupMessage of protocol 3.0. A NUL ends a text early; a parameter without name is left out.
pub fn startup_message(out: &mut Vec<u8>, parameters: &[(&str, &str)]) {
    with_length(out, |out| {
        out.extend_from_slice(&PROTOCOL_3_0.to_be_bytes());
        for (name, value) in parameters.iter().filter(|(name, _)| !name.is_empty() && !name.starts_with('\0')) {
            put_text(out, name);
            put_text(out, value);
        }
        out.push(0);
    });
}

/// Appends a CancelRequest.
pub fn cancel_request(out: &mut Vec<u8>, pid: i32, secret: &[u8]) {
    with_length(out, |out| {
        out.extend_from_slice(&CANCEL_REQUEST.to_be_bytes());
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(secret);
    });
}

/// Appends an SSLRequest.
pub fn ssl_request(out: &mut Vec<u8>) {
    with_length(out, |out| out.extend_from_slice(&SSL_REQUEST.to_be_bytes()));
}

/// Appends a GSSENCRequest.
pub fn gssenc_request(out: &mut Vec<u8>) {
    with_length(out, |out| out.extend_from_slice(&GSSENC_REQUEST.to_be_bytes()));
}

/// Appends a length field and what `body` appends, which must be less than 4 GB.
fn with_length(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let len = u32::try_from(out.len() - start).expect("our own messages are far below 4 GB");
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.split('\0').next().unwrap_or_default().as_bytes());
    out.push(0);
}

#[cfg(test)]
mod tests;
