//! One TLS conversation without its socket: bytes in, bytes out.
//!
//! Pure: rustls' unbuffered interface, which owns no buffers of its own. What comes in stays in the caller's lent
//! buffer until it makes a record, and what goes out is made when there is something to send; a session at rest holds
//! its keys and nothing else.

use std::fmt;

use rustls::CommonState;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedConnectionCommon, UnbufferedStatus,
};

use crate::net::buffers::Inbox;

/// One end of a conversation.
#[derive(Debug)]
pub(super) struct Session {
    side: Side,
    /// It has failed: nothing more can come of it.
    failed: bool,
}

/// Which end it is.
pub(super) enum Side {
    /// We are the TLS server.
    Accepting(UnbufferedServerConnection),
    /// We are the TLS client.
    Connecting(UnbufferedClientConnection),
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The handshake goes on when more has come.
    Handshaking,
    /// Both sides may speak.
    Open,
    /// The other side will say no more.
    Ended,
}

/// What we have to say, once we may.
#[derive(Clone, Copy)]
pub(super) enum Words<'a> {
    /// Nothing.
    None,
    /// These bytes.
    Bytes(&'a [u8]),
    /// That no more comes.
    Close,
}

/// The buffers of a step.
pub(super) struct Buffers<'a> {
    /// What has come. What is not a whole record yet stays here. rustls remembers places in it between two steps, so
    /// that it must be there in each, whatever the step is for.
    pub(super) incoming: &'a mut Inbox,
    /// What it means for us is added here.
    pub(super) plain: &'a mut Inbox,
    /// What is to be sent is added here.
    pub(super) out: &'a mut Vec<u8>,
}

impl Session {
    pub(super) fn new(side: Side) -> Session {
        Session { side, failed: false }
    }

    /// Takes in what has come, and says what there is to say.
    ///
    /// # Errors
    /// The other side broke the rules or is not trusted, and `out` has what it is to be told; or there is no saying
    /// anything yet.
    pub(super) fn step(&mut self, buffers: Buffers<'_>, words: Words<'_>) -> Result<Progress, rustls::Error> {
        if self.failed {
            return Err(rustls::Error::General("the session has failed before".to_owned()));
        }
        let outcome = match &mut self.side {
            Side::Accepting(session) => {
                step(session, UnbufferedConnectionCommon::<ServerConnectionData>::process_tls_records, buffers, words)
            }
            Side::Connecting(session) => {
                step(session, UnbufferedConnectionCommon::<ClientConnectionData>::process_tls_records, buffers, words)
            }
        };
        self.failed = outcome.is_err();
        outcome
    }

    /// Are we the TLS server?
    pub(super) fn accepts(&self) -> bool {
        matches!(self.side, Side::Accepting(_))
    }

    /// What was agreed on.
    pub(super) fn common(&self) -> &CommonState {
        match &self.side {
            Side::Accepting(session) => session,
            Side::Connecting(session) => session,
        }
    }
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Accepting(_) => "Accepting",
            Side::Connecting(_) => "Connecting",
        })
    }
}

/// rustls' step, which is one function for each side.
type Step<Data> =
    for<'c, 'i> fn(&'c mut UnbufferedConnectionCommon<Data>, &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Data>;

fn step<Data>(
    session: &mut UnbufferedConnectionCommon<Data>,
    step: Step<Data>,
    Buffers { incoming, plain, out }: Buffers<'_>,
    words: Words<'_>,
) -> Result<Progress, rustls::Error> {
    let mut ended = false;
    loop {
        let UnbufferedStatus { mut discard, state, .. } = step(session, incoming.fresh_mut());
        let progress = match state {
            Err(error) => {
                incoming.skip(discard);
                // Once more, for the alert that tells the other side; and not again, after that rustls is done for.
                if let Ok(ConnectionState::EncodeTlsData(mut alert)) = step(session, incoming.fresh_mut()).state {
                    encode(out, |room| alert.encode(room))?;
                }
                return Err(error);
            }
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    plain.put(record.payload);
                }
                None
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(out, |room| data.encode(room))?;
                None
            }
            Ok(ConnectionState::TransmitTlsData(sending)) => {
                // Whoever has `out` sends it before it waits for anything.
                sending.done();
                None
            }
            Ok(ConnectionState::PeerClosed) => {
                ended = true;
                None
            }
            Ok(ConnectionState::BlockedHandshake) if matches!(words, Words::Bytes(_)) => {
                return Err(rustls::Error::HandshakeNotComplete);
            }
            Ok(ConnectionState::BlockedHandshake) => Some(Progress::Handshaking),
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                match words {
                    Words::None => {}
                    Words::Bytes(bytes) => encrypt(out, bytes.len(), |room| traffic.encrypt(bytes, room))?,
                    Words::Close => encrypt(out, 0, |room| traffic.queue_close_notify(room))?,
                }
                Some(Progress::Open)
            }
            Ok(_) => Some(Progress::Ended),
        };
        incoming.skip(discard);
        match progress {
            Some(_) if ended => return Ok(Progress::Ended),
            Some(progress) => return Ok(progress),
            None => {}
        }
    }
}

/// The most that a record adds to its bytes, and how many of them it takes.
const RECORD_OVERHEAD: usize = 64;
const RECORD_BYTES: usize = 16 * 1024;

fn encrypt(
    out: &mut Vec<u8>,
    len: usize,
    mut make: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), rustls::Error> {
    let start = out.len();
    let mut room = len + (len / RECORD_BYTES + 1) * RECORD_OVERHEAD;
    loop {
        out.resize(start + room, 0);
        match make(&mut out[start..]) {
            Ok(made) => {
                out.truncate(start + made);
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) if required_size > room => {
                room = required_size;
            }
            Err(_) => {
                out.truncate(start);
                return Err(rustls::Error::EncryptError);
            }
        }
    }
}

fn encode(
    out: &mut Vec<u8>,
    mut make: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), rustls::Error> {
    let start = out.len();
    // The first call only asks how much it is.
    let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = make(&mut []) else {
        return Ok(());
    };
    out.resize(start + required_size, 0);
    let made = make(&mut out[start..]).map_err(|_| rustls::Error::EncryptError)?;
    out.truncate(start + made);
    Ok(())
}
