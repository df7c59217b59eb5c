//! Postgres protocol v3 as bytes.
//!
//! Pure: slices in, slices out; no socket, no clock, no state beyond half a message.
//!
//! - [`framing`] walks a buffer as [`framing::Piece`]s: whole messages, or the start and more of a large one
//! - [`frontend`] looks into the few client messages we must understand
//! - [`backend`] writes server messages of our own, and looks into the few we must understand
//! - [`startup`] reads and writes the untagged first packets
//! - [`error`] writes and reads ErrorResponse and NoticeResponse, and names the SQLSTATEs we send
//!
//! The message names are those of the manual's "Message Formats" chapter. A byte means different things in the two
//! directions (`D` is Describe or DataRow, `C` Close or CommandComplete, `E` Execute or ErrorResponse, `S` Sync or
//! ParameterStatus), so there are two enums and mixing them does not compile.

pub mod backend;
pub mod error;
pub mod framing;
pub mod frontend;
pub mod startup;

macro_rules! tags {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $byte:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "the names are the manual's")]
        pub enum $name { $($variant = $byte,)* }

        impl $name {
            /// The message with this tag byte, if the protocol has one in this direction.
            #[inline]
            pub fn from_byte(byte: u8) -> Option<$name> {
                match byte {
                    $($byte => Some($name::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

tags! {
    /// Messages a client sends once it has sent its startup message.
    Frontend {
        Bind = b'B',
        Close = b'C',
        CopyData = b'd',
        CopyDone = b'c',
        CopyFail = b'f',
        Describe = b'D',
        Execute = b'E',
        Flush = b'H',
        FunctionCall = b'F',
        Parse = b'P',
        Password = b'p',
        Query = b'Q',
        Sync = b'S',
        Terminate = b'X',
    }
}

tags! {
    /// Messages a server sends.
    Backend {
        Authentication = b'R',
        BackendKeyData = b'K',
        BindComplete = b'2',
        CloseComplete = b'3',
        CommandComplete = b'C',
        CopyBothResponse = b'W',
        CopyData = b'd',
        CopyDone = b'c',
        CopyInResponse = b'G',
        CopyOutResponse = b'H',
        DataRow = b'D',
        EmptyQueryResponse = b'I',
        ErrorResponse = b'E',
        FunctionCallResponse = b'V',
        NegotiateProtocolVersion = b'v',
        NoData = b'n',
        NoticeResponse = b'N',
        NotificationResponse = b'A',
        ParameterDescription = b't',
        ParameterStatus = b'S',
        ParseComplete = b'1',
        PortalSuspended = b's',
        ReadyForQuery = b'Z',
        RowDescription = b'T',
    }
}
