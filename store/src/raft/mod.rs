//! Consensus: many commands from many callers become one log.
pub mod network;
