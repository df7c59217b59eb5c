//! The outside world: clock, entropy, threads, sockets.
pub mod workers;
pub mod world;
