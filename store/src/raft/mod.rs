//! Consensus: many commands from many callers become one log.

pub mod codec;
pub mod error;
pub mod log_store;
pub mod network;
pub mod status;
pub mod types;
