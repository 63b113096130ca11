//! What the store keeps on disk.
//!
//! A data directory holds three files: `identity` (whose directory this is), `log.redb` (the Raft log) and `state.redb` (the
//! checkpoint of the state machine). This module knows bytes, keys, checksums and crashes; it knows neither openraft nor what
//! a record means, only that the state machine hands over [`Change`](crate::state::Change)s to it.
//!
//! Two rules carry the durability of everything above. *A file or a transaction is there complete or not at all.* And *the
//! first write that fails is the last*: the [`Alarm`] is raised, nothing is written after it, and the member stops.

pub mod alarm;
pub mod crash;
mod database;
pub mod directory;
pub mod error;
pub mod files;
pub mod identity;
pub mod inspect;
pub mod log_file;
mod log_read;
mod log_sizes;
mod log_writer;
pub mod snapshot;
pub mod state_file;
mod state_view;

pub use alarm::Alarm;
pub use database::panic_is_caught;
pub use directory::Directory;
pub use error::{DbError, OpenError, SnapshotError};
pub use files::{DiskFiles, Files};
pub use identity::Identity;
pub use log_file::{LogFile, Record, Recovered};
pub use snapshot::{Received, SnapshotReader, SnapshotWriter};
pub use state_file::StateFile;
pub use state_view::StateView;
