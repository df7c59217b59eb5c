//! What a conversation remembers.
