//! What a conversation remembers.

pub mod parameters;
pub mod rename;
pub mod shared;
pub mod statements;
