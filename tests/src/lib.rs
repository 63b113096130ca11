//! What tests across crates share: clusters of real processes, a load from outside, and the simulation of the store.

pub mod load;
pub mod processes;
pub mod sim;
