//! What tests across crates share: clusters of real processes, a load from outside, and the simulation of the store.

#[cfg(feature = "node")]
pub mod load;
#[cfg(feature = "node")]
pub mod processes;
pub mod sim;
