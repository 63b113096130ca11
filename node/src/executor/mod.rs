//! The executor: a stateless process that owns some shard indices, races to make (or to check) their shards, and feeds
//! the accepted ones to peers. It keeps nothing on disk; started anew it knows from the store all that it needs.
//!
//! [`Executor::start`] gives an [`ExecutorHandle`]. What runs in it, in the order in which a transaction passes:
//! 1. [`pool`]: a gateway's stream fills the pending set;
//! 2. [`conductor`]: the watch of the store tells of an opened round;
//! 3. [`race`]: a task for each shard executes what is pending on the parent's state (read through [`cache`]), proposes,
//!    gives way on a conflict, and stops as soon as a winner is heard of; another task seals after `seal_after`;
//! 4. [`conductor`]: the sealed block's diff moves the cache and the pool on; the next round is opened;
//! 5. [`feed`]: whoever won, the accepted shard goes to the subscribers, as read from the store;
//! 6. [`second`]: what another executor won is executed again when there is time, and a difference raises the alarm.
//!
//! It decides nothing: which proposal wins is the store's to say. It knows nothing of JSON-RPC.

pub mod bench;
mod cache;
mod conductor;
mod config;
mod feed;
mod limits;
mod pool;
mod race;
mod second;
mod seek;
mod shared;
mod stats;
mod verify;
mod verifying;

#[cfg(test)]
mod tests;

pub use config::ExecutorConfig;
pub use stats::StatsSnapshot;
pub use verifying::Body;

use crate::execution::Rules;
use crate::store_client::{Head, StoreClient, StoreError};
use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use cache::StateCache;
use conductor::Conductor;
use feed::{FeedService, RoundBook, Source};
use limits::{PING, REPORTS, RETRY_MAX, START_RETRY, STOP_TIMEOUT};
use pool::{Pool, PoolService};
use shared::{Shared, report};
use stats::Stats;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use troika_proto::limits::MAX_MESSAGE_BYTES;
use troika_proto::wire::check_name;
use troika_proto::{B256, v1};
use v1::feed_server::FeedServer;
use v1::pool_server::PoolServer;
use verifying::Bodies;

/// Starts executors.
pub struct Executor;

/// A running executor. Dropped, it stops without waiting; [`ExecutorHandle::shutdown`] waits.
pub struct ExecutorHandle {
    name: String,
    shards: (u32, u32),
    addr: SocketAddr,
    stats: Arc<Stats>,
    bodies: Arc<Bodies>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Executor {
    /// Starts an executor: it listens when this returns, and takes part in the rounds as soon as the store answers and
    /// has a chain.
    ///
    /// # Errors
    /// A config that cannot work, or an address that cannot be listened on.
    pub async fn start(config: ExecutorConfig) -> anyhow::Result<ExecutorHandle> {
        check_name("name", &config.name)?;
        let (first, last) = config.shards;
        if first > last {
            bail!("shards: {first}-{last} is no range");
        }
        let client = StoreClient::new(config.store.clone())?;
        let listener = TcpListener::bind(config.listen).await;
        let listener = listener.with_context(|| format!("listening on {}", config.listen))?;
        let addr = listener.local_addr()?;

        let stop = CancellationToken::new();
        let parts = Parts {
            stats: Arc::new(Stats::new(&config.name)),
            pool: Arc::new(Pool::new(config.pool_bytes)),
            bodies: Arc::new(Bodies::default()),
            known: watch::Sender::new(None),
            genesis: watch::Sender::new(None),
            stop: stop.clone(),
        };
        let serving = serve(&config, listener, &parts)?;
        let handle = ExecutorHandle {
            name: config.name.clone(),
            shards: config.shards,
            addr,
            stats: parts.stats.clone(),
            bodies: parts.bodies.clone(),
            stop: stop.clone(),
            tasks: vec![
                tokio::spawn(serving),
                tokio::spawn(async move {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => {}
                        () = run(config, client, parts) => {}
                    }
                }),
            ],
        };
        tracing::info!(executor = %handle.name, %addr, first, last, "executor listens");
        Ok(handle)
    }
}

impl ExecutorHandle {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// First and last shard that it owns, as configured.
    pub fn shards(&self) -> (u32, u32) {
        self.shards
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it has counted.
    pub fn stats(&self) -> StatsSnapshot {
        self.stats.snapshot()
    }

    /// Hands in the transactions of a shard of a block that is to be checked. Nothing is believed: they are executed, and
    /// the hash compared.
    pub fn offer(&self, body: Body) {
        self.bodies.offer(body);
    }

    /// Stops, and waits until nothing of it runs any more.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        for mut task in self.tasks.drain(..) {
            if timeout(STOP_TIMEOUT, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

impl Drop for ExecutorHandle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What exists before the chain is known.
struct Parts {
    stats: Arc<Stats>,
    pool: Arc<Pool>,
    bodies: Arc<Bodies>,
    known: watch::Sender<Option<(Arc<Shared>, Arc<Source>)>>,
    genesis: watch::Sender<Option<B256>>,
    stop: CancellationToken,
}

/// Serves the feed and the pool until the executor stops.
fn serve(
    config: &ExecutorConfig,
    listener: TcpListener,
    parts: &Parts,
) -> anyhow::Result<impl Future<Output = ()> + Send + use<>> {
    let feed = FeedServer::new(FeedService::new(parts.known.subscribe()))
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let pool = PoolService::new(
        parts.pool.clone(),
        parts.genesis.subscribe(),
        parts.stop.clone(),
        config.tls.is_some(),
    );
    let pool = PoolServer::new(pool).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut server = Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PING));
    if let Some(tls) = &config.tls {
        server = server.tls_config(tls.clone())?;
    }
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(troika_proto::DESCRIPTORS)
        .build_v1()?;
    let router = server
        .add_service(health_service)
        .add_service(reflection)
        .add_service(feed)
        .add_service(pool);
    let stop = parts.stop.clone();
    Ok(async move {
        health.set_serving::<FeedServer<FeedService>>().await;
        let incoming = TcpListenerStream::new(listener);
        // Streams end by themselves when the executor stops: nothing holds back the graceful end for long.
        let stopped = stop.cancelled_owned();
        if let Err(error) = router.serve_with_incoming_shutdown(incoming, stopped).await {
            tracing::error!(%error, "serving failed");
        }
    })
}

/// Waits for the chain, then takes part in it.
async fn run(config: ExecutorConfig, client: StoreClient, parts: Parts) {
    let head = wait_for_chain(&client).await;
    let last = head.config.shards - 1;
    if config.shards.0 > last {
        tracing::error!(
            first = config.shards.0,
            last,
            "this executor owns no shard of the chain"
        );
        return;
    }
    let mut rules = Rules::of(&head.config);
    rules.spec = config.wrong_spec.unwrap_or(rules.spec);
    let cache = Arc::new(StateCache::new(config.cache_bytes));
    let (reports, reported) = mpsc::channel(REPORTS);
    // Ends with the last sender, which `Shared` holds.
    tokio::spawn(report(client.clone(), config.name.clone(), reported));
    cache.reset(head.hash);
    let shared = Arc::new(Shared {
        name: config.name,
        shards: (config.shards.0, config.shards.1.min(last)),
        config: head.config.clone(),
        genesis_hash: head.genesis_hash,
        rules,
        head: ArcSwap::from_pointee(head.hash),
        pool: parts.pool,
        cache,
        book: Arc::new(RoundBook::default()),
        bodies: parts.bodies,
        stats: parts.stats,
        permits: Arc::new(Semaphore::new(config.threads.max(1))),
        busy: watch::Sender::new(0),
        second_execution: config.second_execution,
        build: config.build,
        owners: config.owners,
        reports,
        runtime: Handle::current(),
        stop: parts.stop,
        client: client.clone(),
    });
    let source = Arc::new(Source::new(client, shared.book.clone()));
    shared.book.reset(0, head.pruned_below);
    let conductor = Conductor::new(shared.clone());
    parts.genesis.send_replace(Some(head.genesis_hash));
    conductor
        .run(head, move || {
            parts.known.send_replace(Some((shared, source)));
        })
        .await;
}

async fn wait_for_chain(client: &StoreClient) -> Head {
    let mut pause = START_RETRY;
    loop {
        match client.head().await {
            Ok(head) => return head,
            Err(StoreError::NoChain) => tracing::debug!("waiting for the chain to be started"),
            Err(error) => tracing::warn!(%error, "waiting for the store"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}
