//! Consensus: many commands from many callers become one log.

pub mod codec;
pub mod error;
pub mod log_store;
pub mod network;
pub mod status;
pub mod types;
pub mod machine_store;
pub mod shared;
pub mod snapshot_data;
pub mod compaction;
pub mod storage;
