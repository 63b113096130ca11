//! Consensus: many commands from many callers become one log.

pub mod codec;
pub mod compaction;
pub mod error;
pub mod inspect;
pub mod log_store;
pub mod machine_store;
pub mod network;
pub mod restore;
pub mod shared;
pub mod snapshot_data;
pub mod status;
pub mod storage;
pub mod types;
