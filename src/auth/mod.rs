//! Who are you: dialogues without sockets.
