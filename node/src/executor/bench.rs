//! What a cold cache costs: one shard, executed by an executor that knows nothing of the state, and by one that has just
//! executed it.

use super::cache::{CacheView, StateCache};
use super::limits::CACHE_BYTES;
use super::verify::{Ground, Outcome};
use crate::execution::{Rules, Transaction};
use crate::store_client::{Head, StoreClient};
use anyhow::bail;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use troika_proto::{B256, Environment};

/// A shard to be executed, in its order.
#[derive(Clone, Debug)]
pub struct Job {
    /// By which rules.
    pub rules: Rules,
    /// What transactions see.
    pub environment: Environment,
    /// Each can be executed after those before it.
    pub transactions: Vec<Arc<Transaction>>,
}

/// What it took.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Reading, executing, diff, roots and hash.
    pub time: Duration,
    /// Calls of the store.
    pub reads: u64,
}

/// Executes `job` on the state of `head`, first cold, then warm. `client` is a connection that has been used.
///
/// # Errors
/// A store that does not answer, or a transaction that cannot be executed.
pub async fn cold_and_warm(
    client: &StoreClient,
    head: &Head,
    job: &Arc<Job>,
) -> anyhow::Result<(Run, Run)> {
    let cache = Arc::new(StateCache::new(CACHE_BYTES));
    cache.reset(head.hash);
    let (cold, cold_hash) = run(client, head, job, &cache).await?;
    let (warm, warm_hash) = run(client, head, job, &cache).await?;
    if cold_hash != warm_hash {
        bail!("cold it comes to {cold_hash}, warm to {warm_hash}");
    }
    Ok((cold, warm))
}

async fn run(
    client: &StoreClient,
    head: &Head,
    job: &Arc<Job>,
    cache: &Arc<StateCache>,
) -> anyhow::Result<(Run, B256)> {
    let (reads, begun) = (cache.reads(), Instant::now());
    let fixed = head.config.fixed.as_ref();
    let view = Arc::new(CacheView::new(
        cache.clone(),
        client.clone(),
        head.hash,
        head.header.number,
        fixed.map(|fixed| fixed.block_hashes.clone()),
    ));
    view.prefetch(&job.transactions).await?;
    let ground = Ground {
        rules: job.rules.clone(),
        environment: job.environment.clone(),
        view,
        runtime: Handle::current(),
    };
    let job = job.clone();
    let running = tokio::task::spawn_blocking(move || {
        ground.run(0, &job.transactions, &CancellationToken::new())
    });
    match running.await? {
        Outcome::Shard(shard) => Ok((
            Run {
                time: begun.elapsed(),
                reads: cache.reads() - reads,
            },
            shard.hash,
        )),
        Outcome::Impossible(reason) | Outcome::Unavailable(reason) => bail!("{reason}"),
    }
}
