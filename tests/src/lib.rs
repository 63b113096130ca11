//! What tests across crates share: clusters of real processes, and a load from outside.

pub mod load;
pub mod processes;
