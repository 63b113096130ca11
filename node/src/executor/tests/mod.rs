//! Executors against a store in memory, over gRPC.

mod cluster;
mod feed;
mod race;
mod view;
