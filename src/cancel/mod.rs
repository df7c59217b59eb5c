//! Stopping a query from another connection.
//!
//! A cancel request comes on a connection of its own and names a key that we gave a client. The server on loan to that
//! client is sent a cancel request with *its* key. What must never happen is that the request reaches the server after
//! it has gone to somebody else; so a server with a request under way is not given to anybody:
//!
//! ```text
//!   cancel:  server.cancels += 1;  still the same loan?          ── yes ─► send, wait for the end ─► cancels -= 1
//!                                                                └─ no ──► cancels -= 1
//!   release: client's link = 0;    is server.cancels 0?  ── no ─► keep it back until it is
//! ```
//!
//! Both sides write before they read, sequentially consistent, so one of them sees the other.
//!
//! A request whose key another process gave goes on to that peer, and a client of the console is told itself.
//!
//! - [`key`] our cancel keys
//! - [`route`] whose key it is: ours, or a peer's
//! - [`table`] key → client
//! - [`forward`] which loan it is meant for, and that it lasts

pub mod forward;
pub mod key;
pub mod route;
pub mod table;
