//! Who gets which server, and when.
//!
//! - [`scheduler`], the policy, with its words in [`orders`] and its parts [`waiting`] (the line), [`idle`] (the shelf)
//!   and [`hosts`]; all pure, simulated in `tests/sim`
//! - [`quota`]: caps across pools, pure
pub mod hosts;
pub mod idle;
pub mod orders;
pub mod quota;
pub mod scheduler;
pub mod waiting;
