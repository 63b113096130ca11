//! What an executor is told at its start.

use super::limits::{CACHE_BYTES, POOL_BYTES};
use crate::store_client;
use std::net::SocketAddr;
use tonic::transport::ServerTlsConfig;
use troika_proto::Spec;

/// What an executor is told at its start.
#[derive(Clone, Debug)]
pub struct ExecutorConfig {
    /// Its name, which winners carry: 1 to 64 characters of `[A-Za-z0-9._:-]`. No other executor may have it.
    pub name: String,
    /// How to reach the store.
    pub store: store_client::Options,
    /// First and last shard index that it owns.
    pub shards: (u32, u32),
    /// Where it serves its feed and takes pending transactions; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Set for TLS.
    pub tls: Option<ServerTlsConfig>,
    /// Most bytes of the state cache.
    pub cache_bytes: usize,
    /// Most bytes of pending transactions.
    pub pool_bytes: usize,
    /// Shards that are executed at the same time.
    pub threads: usize,
    /// Whether lost shards are executed a second time when there is nothing else to do.
    pub second_execution: bool,
    /// Whether it takes part in making blocks. Without, it checks other producers' blocks and opens no round.
    pub build: bool,
    /// How many executors own each of its shards, this one included: so many may be asked whether a checked block is
    /// invalid, and two must agree unless there is but one. 0: unknown, two must agree.
    pub owners: u32,
    /// Rules by which it executes instead of the chain's. Only good for showing what a wrong executor can do.
    #[doc(hidden)]
    pub wrong_spec: Option<Spec>,
}

impl ExecutorConfig {
    /// With the usual bounds.
    pub fn new(
        name: impl Into<String>,
        store: store_client::Options,
        shards: (u32, u32),
        listen: SocketAddr,
    ) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            name: name.into(),
            store,
            shards,
            listen,
            tls: None,
            cache_bytes: CACHE_BYTES,
            pool_bytes: POOL_BYTES,
            threads,
            second_execution: true,
            build: true,
            owners: 0,
            wrong_spec: None,
        }
    }
}
