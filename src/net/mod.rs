//! The outside world: clock, entropy, threads, sockets.
//!
//! - [`world`] the only reader of clock and entropy
//! - [`workers`] the threads that carry connections, by number; [`compute`] those that derive keys and sign
//! - [`buffers`] buffers lent to connections while they have bytes in hand
//! - [`stream`] one socket, whatever its kind
//! - [`tls`] TLS on it
//! - [`dns`] names to addresses
//! - [`dial`] from a host to a connected stream
//! - [`outside`] where others check passwords, [`ldap`] directories, [`pam`] PAM
//! - [`listen`] where clients arrive
//! - [`inherit`] listening sockets that a service manager passes
//! - [`sockopt`] the tcp_* settings

pub mod buffers;
pub mod compute;
pub mod descriptors;
pub mod dial;
pub mod dns;
pub mod inherit;
pub mod interfaces;
pub mod ldap;
pub mod listen;
pub mod outside;
pub mod pam;
pub mod sockopt;
pub mod stream;
pub mod tls;
pub mod workers;
pub mod world;
