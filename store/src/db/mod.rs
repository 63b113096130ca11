//! What the store keeps on disk.
//!
//! A data directory holds three files: `identity` (whose directory this is), `log.redb` (the Raft log) and `state.redb` (the
//! checkpoint of the state machine). This module knows bytes, keys, checksums and crashes; it knows neither openraft nor what
//! a record means.

pub mod files;
