//! A request that was cancelled while it waited for a server: answered as PostgreSQL answers what it cancels, and
//! dropped.
//!
//! | first of the request | the client is told | what is dropped |
//! |---|---|---|
//! | Query, FunctionCall | the error, ReadyForQuery | that message |
//! | another message that asks for something | the error, and ReadyForQuery for the Sync | all up to the Sync |
//! | Sync, in front of one of these | ReadyForQuery | the Sync |
//!
//! No server is needed for that, and no transaction is open while a client waits. Parts may come later: what is still
//! to be dropped is remembered.

use super::farewell::Farewell;
use super::relay::Fault;
use super::session::Client;
use crate::wire::error::{self, sqlstate};
use crate::wire::framing::{HEADER_LEN, Header, Partial, Piece};
use crate::wire::{Frontend, backend};

/// PostgreSQL's words.
const CANCELED: &str = "canceling statement due to user request";

/// What is still to be dropped of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Dropping {
    /// Nothing.
    #[default]
    Nothing,
    /// One message.
    Message,
    /// All up to the Sync, which is answered.
    Batch,
}

impl Client {
    /// The request that waited was cancelled. Its first message is in the inbox.
    pub(super) fn withdraw(&mut self) {
        while let Ok(Some(header)) = Header::parse(self.inbox.fresh(), self.limits.message_len_max) {
            let whole = self.inbox.fresh().len() >= header.len;
            match Frontend::from_byte(header.tag) {
                Some(Frontend::Query | Frontend::FunctionCall) => {
                    self.say_cancelled();
                    backend::ready_for_query(self.outbox.bytes(), b'I');
                    self.dropping = Dropping::Message;
                    return;
                }
                Some(Frontend::Sync) if whole => {
                    self.answer_sync(header.len);
                    self.inbox.skip(header.len);
                }
                Some(Frontend::Flush | Frontend::CopyData | Frontend::CopyDone | Frontend::CopyFail) if whole => {
                    self.inbox.skip(header.len);
                }
                Some(Frontend::Parse | Frontend::Bind | Frontend::Describe | Frontend::Execute | Frontend::Close) => {
                    self.say_cancelled();
                    self.dropping = Dropping::Batch;
                    return;
                }
                // Nothing to cancel.
                _ => return,
            }
        }
    }

    /// Answers a Sync of this length. One with a body is an error, and a Sync all the same.
    fn answer_sync(&mut self, len: usize) {
        let out = self.outbox.bytes();
        if len > HEADER_LEN {
            error::error_response(
                out,
                error::ERROR,
                sqlstate::PROTOCOL_VIOLATION,
                "invalid message format",
                None,
                None,
            );
        }
        backend::ready_for_query(out, b'I');
    }

    fn say_cancelled(&mut self) {
        error::error_response(self.outbox.bytes(), error::ERROR, sqlstate::QUERY_CANCELED, CANCELED, None, None);
    }

    /// Drops what is still to be dropped, as far as it is there.
    ///
    /// # Errors
    /// It is not what a client may send.
    #[inline]
    pub(super) fn drop_withdrawn(&mut self) -> Result<(), Farewell> {
        match self.dropping {
            Dropping::Nothing => Ok(()),
            Dropping::Message | Dropping::Batch => self.drop_some(),
        }
    }

    #[cold]
    fn drop_some(&mut self) -> Result<(), Farewell> {
        while self.dropping != Dropping::Nothing {
            let fresh = self.inbox.fresh();
            if self.framer.between_messages() && fresh.first() == Some(&(Frontend::Terminate as u8)) {
                self.dropping = Dropping::Nothing;
                return Ok(());
            }
            let piece = self.framer.next(fresh, self.limits.message_len_max, |_| Partial::Stream);
            let (tag, len, ends) = match piece.map_err(|broken| Farewell::BadPacket(broken.to_string()))? {
                None => return Ok(()),
                Some(Piece::Whole(tag, bytes)) => (Some(tag), bytes.len(), true),
                Some(Piece::Start(header, bytes)) => (Some(header.tag), bytes.len(), false),
                Some(Piece::More { bytes, last }) => (None, bytes.len(), last),
            };
            let message = tag.map(|tag| match Frontend::from_byte(tag) {
                None | Some(Frontend::Password) => Err(Farewell::Fault(Fault::UnknownMessage(tag))),
                Some(message) => Ok(message),
            });
            let message = message.transpose()?;
            self.inbox.skip(len);
            match self.dropping {
                Dropping::Batch if message == Some(Frontend::Sync) && ends => {
                    self.answer_sync(len);
                    self.dropping = Dropping::Nothing;
                }
                Dropping::Message if ends => self.dropping = Dropping::Nothing,
                _ => {}
            }
        }
        Ok(())
    }
}
