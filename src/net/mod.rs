//! The outside world: clock, entropy, threads, sockets.
//!
//! - [`world`] the only reader of clock and entropy
//! - [`workers`] the threads that carry connections, by number
//! - [`buffers`] buffers lent to connections while they have bytes in hand
//! - [`stream`] one socket, whatever its kind
//! - [`dial`] names to addresses to a connected stream
//! - [`listen`] where clients arrive
//! - [`sockopt`] the tcp_* settings

pub mod buffers;
pub mod dial;
pub mod listen;
pub mod sockopt;
pub mod stream;
pub mod workers;
pub mod world;
