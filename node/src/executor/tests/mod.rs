//! Executors against a store in memory, over gRPC.

mod aged;
mod ahead;
pub(super) mod cluster;
mod feed;
mod race;
mod second;
mod seek;
mod slow;
mod view;
