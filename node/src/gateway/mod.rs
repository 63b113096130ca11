//! The door for users: Ethereum JSON-RPC in front of a cluster.
//!
//! A transaction's way through it:
//! 1. [`rpc`] takes `eth_sendRawTransaction`; [`Gateway::submit`] decodes it, recovers its sender on a blocking
//!    thread and checks it against the chain's rules and the sender's account at the head;
//! 2. [`mempool`] queues it by sender and nonce, within limits;
//! 3. [`routing`] gives its sender's queue one shard; [`pool`] ties the two together;
//! 4. [`pool_client`] hands it to that shard's executors, over one stream each;
//! 5. [`head`] sees it in a sealed block, and it leaves the pool. Until then no crash of an executor loses it.
//!
//! Reads go through [`chain`]: sealed blocks from a bounded cache, state from the store at a named block. The gateway
//! keeps nothing on disk: a restarted one starts from the store, and what was pending is lost, as with any Ethereum
//! node. It takes no part in the race and holds no lock.

pub mod chain;
pub mod head;
pub mod limits;
pub mod mempool;
pub mod pool;
pub mod pool_client;
pub mod routing;
pub mod rpc;
mod submit;
#[cfg(test)]
mod tests;

pub use submit::SubmitError;

use crate::execution::{RecoveryCache, Rules};
use crate::store_client::{Head, StoreClient, StoreError};
use alloy_primitives::B256;
use arc_swap::ArcSwap;
use chain::{Block, Chain};
use limits::{HEADS_BUFFER, MAX_BLOCK_CACHE_BYTES, MAX_CALLS, MAX_RECOVERED_BYTES, PENDING_BUFFER};
use pool::Pool;
use routing::Policy;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, Semaphore, broadcast};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::ClientTlsConfig;
use troika_proto::{ChainConfig, Header};

/// What a gateway needs.
#[derive(Clone)]
pub struct Config {
    /// Its name toward the executors: 1 to 64 characters of `[A-Za-z0-9._:-]`, different from every other gateway's.
    pub name: String,
    /// The store.
    pub store: StoreClient,
    /// The executors' URLS. Those that are down are tried again and again.
    pub executors: Vec<String>,
    /// For executors behind TLS.
    pub executor_tls: Option<ClientTlsConfig>,
    /// Where JSON-RPC is served, HTTP and WebSocket. Port 0 takes a free one.
    pub rpc: SocketAddr,
    /// How transactions are grouped into shards.
    pub policy: Policy,
}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store does not answer, or has no chain yet.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The name is not one.
    #[error(transparent)]
    Name(#[from] troika_proto::Malformed),
    /// The address is taken, for instance.
    #[error("JSON-RPC on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// Not a URL.
    #[error("executor {0:?}: not a URL")]
    Executor(String),
}

/// The head as the gateway knows it.
#[derive(Clone, Debug)]
pub struct HeadView {
    /// Its hash.
    pub hash: B256,
    /// Its header.
    pub header: Header,
}

/// A gateway's state, shared by its tasks and its JSON-RPC.
pub struct Gateway {
    name: String,
    config: ChainConfig,
    genesis_hash: B256,
    rules: Rules,
    chain: Chain,
    pool: Mutex<Pool>,
    /// Rings when the pool has changes for the executors.
    dirty: Notify,
    head: ArcSwap<HeadView>,
    /// Every new head, in order.
    heads: broadcast::Sender<Arc<Block>>,
    /// Every transaction that entered the pool.
    entered: broadcast::Sender<B256>,
    recovered: Arc<RecoveryCache>,
    /// Calls, estimates and traces at one time.
    calls: Arc<Semaphore>,
    refusals: Mutex<pool_client::Refusals>,
    /// What clients poll.
    filters: Mutex<rpc::Filters>,
}

impl Gateway {
    /// Reads the chain from the store, then serves. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config) -> Result<Handle, StartError> {
        troika_proto::wire::check_name("name", &config.name)?;
        let endpoints = pool_client::endpoints(&config)?;
        let head = config.store.head().await?;
        let gateway = Arc::new(Self::new(&config, &head));
        let (server, rpc) = rpc::serve(gateway.clone(), config.rpc).await?;
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(run_until(stop.clone(), head::follow(gateway.clone(), head)));
        tasks.spawn(run_until(stop.clone(), pool_client::flush(gateway.clone())));
        for endpoint in endpoints {
            let feed = pool_client::feed(gateway.clone(), endpoint);
            tasks.spawn(run_until(stop.clone(), feed));
        }
        Ok(Handle {
            gateway,
            rpc,
            server,
            stop,
            tasks,
        })
    }

    fn new(config: &Config, head: &Head) -> Self {
        Self {
            name: config.name.clone(),
            rules: Rules::of(&head.config),
            genesis_hash: head.genesis_hash,
            chain: Chain::new(config.store.clone(), MAX_BLOCK_CACHE_BYTES),
            pool: Mutex::new(Pool::new(&head.config, config.policy)),
            config: head.config.clone(),
            dirty: Notify::new(),
            head: ArcSwap::from_pointee(HeadView {
                hash: head.hash,
                header: head.header.clone(),
            }),
            heads: broadcast::channel(HEADS_BUFFER).0,
            entered: broadcast::channel(PENDING_BUFFER).0,
            recovered: Arc::new(RecoveryCache::new(MAX_RECOVERED_BYTES)),
            calls: Arc::new(Semaphore::new(MAX_CALLS)),
            refusals: Mutex::new(pool_client::Refusals::default()),
            filters: Mutex::default(),
        }
    }

    /// The chain's rules.
    pub fn config(&self) -> &ChainConfig {
        &self.config
    }

    /// The newest sealed block that this gateway has taken in.
    pub fn head(&self) -> Arc<HeadView> {
        self.head.load_full()
    }

    /// Every new head from now on.
    pub fn heads(&self) -> broadcast::Receiver<Arc<Block>> {
        self.heads.subscribe()
    }

    /// Works on the pool; never across an await.
    fn pool<R>(&self, f: impl FnOnce(&mut Pool) -> R) -> R {
        f(&mut self.pool.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Number of pending transactions.
    pub fn pending(&self) -> usize {
        self.pool(|pool| pool.mempool().len())
    }
}

async fn run_until(stop: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = task => {}
    }
}

/// A running gateway.
pub struct Handle {
    gateway: Arc<Gateway>,
    rpc: SocketAddr,
    server: jsonrpsee::server::ServerHandle,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Handle {
    /// Where JSON-RPC is served.
    pub fn rpc_addr(&self) -> SocketAddr {
        self.rpc
    }

    /// Its state: for handing in transactions without HTTP.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Stops serving, then its tasks.
    pub async fn shutdown(mut self) {
        // An error says that the server has stopped already.
        let _ = self.server.stop();
        self.server.clone().stopped().await;
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}
