//! x
/// x
#[derive(Debug)]
pub struct Statement;
