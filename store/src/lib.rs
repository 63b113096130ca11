//! Troika's replicated store: a small Raft group that decides which proposal of a shard wins.
//!
//! Read the folders downward, as a proposal travels: `service` (checks) -> `raft` (batcher, log, quorum) -> `db` (disk) ->
//! [`state`] (decides). A lower one never knows a higher one.

pub mod clock;
pub mod ctl;
pub mod db;
pub mod limits;
pub mod mutant;
pub mod raft;
pub mod runtime;
pub mod server;
pub mod service;
pub mod state;
#[doc(hidden)]
pub mod testing;
