//! Troika's replicated store.
pub mod raft;
