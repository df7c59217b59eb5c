//! Pure: reads the four SCRAM messages. Foreign bytes, hence strict, and bounded in every field.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::END_POINT_HEADER;

/// Why a message was refused: a few words for the log, never the message itself. `Display` gives the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::auth) struct Fault(pub(in crate::auth) &'static str);

/// The longest message a client may send: PostgreSQL took 1024 bytes until version 17. Such messages are kept until the
/// login ends, by connections nobody knows yet.
pub(in crate::auth) const CLIENT_MESSAGE_BYTES_MAX: usize = 4096;
/// The longest message a server may send.
pub(in crate::auth) const SERVER_MESSAGE_BYTES_MAX: usize = 65_536;
/// The longest nonce of one side.
pub(in crate::auth) const NONCE_BYTES_MAX: usize = 1024;
/// The longest salt.
pub(in crate::auth) const SALT_BYTES_MAX: usize = 1024;

/// What a client's header says of channel binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    /// `n`: it knows of none.
    None,
    /// `y`: it would, and believes that we would not.
    NotOffered,
    /// `p=tls-server-end-point`.
    EndPoint,
}

/// `n,,n=<ignored>,r=<nonce>[,extensions]`
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientFirst<'a> {
    /// What its header says.
    pub(super) binding: Binding,
    /// The header, which the client must repeat in its final message.
    pub(super) header: &'a [u8],
    /// The message without its header.
    pub(super) bare: &'a [u8],
    pub(super) nonce: &'a [u8],
}

impl<'a> ClientFirst<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<ClientFirst<'a>, Fault> {
        check(message, CLIENT_MESSAGE_BYTES_MAX)?;
        let (binding, bare) = match message {
            [b'n', b',', b',', bare @ ..] => (Binding::None, bare),
            [b'y', b',', b',', bare @ ..] => (Binding::NotOffered, bare),
            _ if message.starts_with(END_POINT_HEADER) => (Binding::EndPoint, &message[END_POINT_HEADER.len()..]),
            [b'p', ..] => return Err(Fault("the client asks for another channel binding than tls-server-end-point")),
            [b'n' | b'y', b',', b'a', ..] => return Err(Fault("the client asks for another authorization identity")),
            _ => return Err(Fault("malformed header of the client's first message")),
        };
        let header = &message[..message.len() - bare.len()];
        if bare.first() == Some(&b'm') {
            return Err(Fault("the client requires an unknown SCRAM extension"));
        }

        let mut attributes = bare.split(|byte| *byte == b',');
        // The name counts for nothing here, as in PostgreSQL: who logs in was said in the startup message.
        value(attributes.next(), b'n')?;
        let nonce = value(attributes.next(), b'r')?;
        if nonce.is_empty() || nonce.len() > NONCE_BYTES_MAX || !nonce.iter().all(u8::is_ascii_graphic) {
            return Err(Fault("the client's nonce is empty, too long or not printable"));
        }
        extensions(attributes)?;
        Ok(ClientFirst { binding, header, bare, nonce })
    }
}

/// `c=<binding>,r=<nonces>[,extensions],p=<proof>`
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientFinal<'a> {
    pub(super) channel_binding: &'a [u8],
    pub(super) nonce: &'a [u8],
    pub(super) without_proof: &'a [u8],
    pub(super) proof: [u8; 32],
}

impl<'a> ClientFinal<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<ClientFinal<'a>, Fault> {
        check(message, CLIENT_MESSAGE_BYTES_MAX)?;
        let Some(comma) = message.iter().rposition(|byte| *byte == b',') else {
            return Err(Fault("malformed final message of the client"));
        };
        let without_proof = &message[..comma];
        let proof = key(value(Some(&message[comma + 1..]), b'p')?)?;

        let mut attributes = without_proof.split(|byte| *byte == b',');
        let channel_binding = value(attributes.next(), b'c')?;
        let nonce = value(attributes.next(), b'r')?;
        extensions(attributes)?;
        Ok(ClientFinal { channel_binding, nonce, without_proof, proof })
    }
}

/// `r=<nonces>,s=<salt>,i=<iterations>[,extensions]`
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServerFirst<'a> {
    pub(super) nonce: &'a [u8],
    pub(super) salt: Vec<u8>,
    /// At least 1; whether they are too many is for the caller to say, who can name the user.
    pub(super) iterations: u32,
}

impl<'a> ServerFirst<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<ServerFirst<'a>, Fault> {
        check(message, SERVER_MESSAGE_BYTES_MAX)?;
        let mut attributes = message.split(|byte| *byte == b',');
        let nonce = value(attributes.next(), b'r')?;
        if nonce.len() > 2 * NONCE_BYTES_MAX || !nonce.iter().all(u8::is_ascii_graphic) {
            return Err(Fault("the server's nonce is too long or not printable"));
        }
        let salt =
            BASE64.decode(value(attributes.next(), b's')?).map_err(|_| Fault("the server's salt is not base64"))?;
        if salt.is_empty() || salt.len() > SALT_BYTES_MAX {
            return Err(Fault("the server's salt is empty or too long"));
        }
        let iterations = number(value(attributes.next(), b'i')?)
            .filter(|count| *count > 0)
            .ok_or(Fault("the server's number of iterations is not a number from 1 to 1000000"))?;
        extensions(attributes)?;
        Ok(ServerFirst { nonce, salt, iterations })
    }
}

/// Reads `v=<signature>[,extensions]`, the server's last message.
pub(super) fn server_final(message: &[u8]) -> Result<[u8; 32], Fault> {
    check(message, SERVER_MESSAGE_BYTES_MAX)?;
    if message.starts_with(b"e=") {
        return Err(Fault("the server reports an error in the SCRAM exchange"));
    }
    let mut attributes = message.split(|byte| *byte == b',');
    let signature = key(value(attributes.next(), b'v')?)?;
    extensions(attributes)?;
    Ok(signature)
}

fn check(message: &[u8], bytes_max: usize) -> Result<(), Fault> {
    if message.len() > bytes_max {
        return Err(Fault("a SCRAM message is too long"));
    }
    if message.contains(&0) {
        return Err(Fault("a SCRAM message contains a zero byte"));
    }
    Ok(())
}

fn value(attribute: Option<&[u8]>, name: u8) -> Result<&[u8], Fault> {
    match attribute {
        Some([found, b'=', value @ ..]) if *found == name => Ok(value),
        _ => Err(Fault("a SCRAM attribute is missing, out of order or malformed")),
    }
}

/// Optional extensions may follow, and are ignored; they must at least look like attributes.
fn extensions<'a>(attributes: impl Iterator<Item = &'a [u8]>) -> Result<(), Fault> {
    for attribute in attributes {
        if !matches!(attribute, [name, b'=', ..] if name.is_ascii_alphabetic() && *name != b'p') {
            return Err(Fault("a SCRAM extension is malformed"));
        }
    }
    Ok(())
}

fn key(text: &[u8]) -> Result<[u8; 32], Fault> {
    let bytes = BASE64.decode(text).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    bytes.ok_or(Fault("a SCRAM proof or signature is not 32 bytes of base64"))
}

fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}
