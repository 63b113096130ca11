//! What the tasks of one executor share once it knows its chain.

use super::cache::{CacheView, StateCache};
use super::feed::RoundBook;
use super::limits::{RETRY_MAX, RETRY_MIN};
use super::pool::Pool;
use super::stats::Stats;
use super::verify::Outcome;
use super::verifying::Bodies;
use crate::execution::Rules;
use crate::store_client::{StoreClient, StoreError, Winner};
use arc_swap::ArcSwap;
use std::hash::Hasher;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use troika_proto::{B256, ChainConfig, Environment};

/// A divergence alarm for the store.
pub struct Report {
    /// The round.
    pub round: u64,
    /// The shard.
    pub shard: u32,
    /// What came out here; `None`: it cannot be executed.
    pub computed: Option<B256>,
    /// Why it cannot.
    pub reason: String,
}

/// Reports alarms to the store, each until it is heard.
pub async fn report(client: StoreClient, executor: String, mut reports: mpsc::Receiver<Report>) {
    while let Some(report) = reports.recv().await {
        let mut pause = RETRY_MIN;
        loop {
            let (round, shard, computed) = (report.round, report.shard, report.computed);
            let answer = client
                .report_dissent(round, shard, &executor, computed, &report.reason)
                .await;
            match answer {
                Ok(answer) => {
                    tracing::debug!(round, shard, ?answer, "alarm reported");
                    break;
                }
                // It will not be otherwise another time.
                Err(error @ (StoreError::Rejected { .. } | StoreError::Pruned { .. })) => {
                    tracing::warn!(round, shard, %error, "alarm not reported");
                    break;
                }
                Err(error) => tracing::debug!(round, shard, %error, "alarm not reported yet"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
}

/// What the tasks of one executor share.
pub struct Shared {
    /// The executor's name.
    pub name: String,
    /// First and last shard that it owns, cut to what the chain has.
    pub shards: (u32, u32),
    /// The way to the store.
    pub client: StoreClient,
    /// The chain's config.
    pub config: ChainConfig,
    /// Hash of block 0.
    pub genesis_hash: B256,
    /// What execution needs of the config.
    pub rules: Rules,
    /// Hash of the chain's head.
    pub head: ArcSwap<B256>,
    /// Pending transactions.
    pub pool: Arc<Pool>,
    /// Cached state.
    pub cache: Arc<StateCache>,
    /// Recent rounds, for the feed.
    pub book: Arc<RoundBook>,
    /// Transactions of shards to be checked.
    pub bodies: Arc<Bodies>,
    /// Counters.
    pub stats: Arc<Stats>,
    /// One for each shard that may be executed at a time.
    pub permits: Arc<Semaphore>,
    /// Shards of the open rounds that still want to be executed: while there are some, nothing else is.
    pub busy: watch::Sender<usize>,
    /// Whether lost shards are executed a second time.
    pub second_execution: bool,
    /// Whether it takes part in making blocks, or in checking alone.
    pub build: bool,
    /// How many executors own each of its shards; 0: unknown.
    pub owners: u32,
    /// Alarms on their way to the store.
    pub reports: mpsc::Sender<Report>,
    /// For blocking threads that must wait for the store.
    pub runtime: Handle,
    /// Cancelled when the executor stops.
    pub stop: CancellationToken,
}

impl Shared {
    /// The shards that it owns.
    pub fn own(&self) -> RangeInclusive<u32> {
        self.shards.0..=self.shards.1
    }

    /// A view of the state after `block`.
    pub fn view(&self, block: B256, number: u64) -> Arc<CacheView> {
        let fixed = self.config.fixed.as_ref();
        Arc::new(CacheView::new(
            self.cache.clone(),
            self.client.clone(),
            block,
            number,
            fixed.map(|fixed| fixed.block_hashes.clone()),
        ))
    }

    /// What transactions see in a round of `environment`.
    pub fn execution_environment(&self, environment: &Environment) -> Environment {
        self.config.execution_environment(environment)
    }

    /// This executor's share of `spread` for one occasion: the same at every call, another one for every executor.
    /// That is how executors with the same work come to begin at different ends.
    pub fn stagger(&self, occasion: &[u8], spread: Duration) -> Duration {
        // FNV-1a: all that is asked of it is to differ.
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        hasher.write(self.name.as_bytes());
        hasher.write(occasion);
        let share = (hasher.finish() >> 40) as f64 / (1u64 << 24) as f64;
        spread.mul_f64(share)
    }

    /// The divergence alarm: this executor comes to another outcome than was accepted. Told to the log, the metrics, and
    /// in time to the store, where every tool sees it.
    pub fn alarm(&self, round: u64, shard: u32, winner: &Winner, outcome: &Outcome) {
        let ours = outcome.to_string();
        let stats = &self.stats;
        stats.diverged(round, shard, &winner.executor, winner.shard_hash, &ours);
        let report = Report {
            round,
            shard,
            computed: match outcome {
                Outcome::Shard(shard) => Some(shard.hash),
                Outcome::Impossible(_) | Outcome::Unavailable(_) => None,
            },
            reason: ours,
        };
        if self.reports.try_send(report).is_err() {
            tracing::warn!(round, shard, "too many alarms: this one stays here");
        }
    }

    /// Sets the gauges that show how much memory is in use.
    pub fn gauge(&self) {
        let (transactions, bytes) = {
            let pending = self.pool.pending();
            (pending.len(), pending.bytes())
        };
        for (metric, value) in [
            ("troika_executor_pending_transactions", transactions),
            ("troika_executor_pending_bytes", bytes),
            ("troika_executor_cache_bytes", self.cache.bytes()),
            ("troika_executor_state_reads", self.cache.reads() as usize),
        ] {
            metrics::gauge!(metric, "executor" => self.name.clone()).set(value as f64);
        }
    }
}

/// Counts this shard among those that want to be executed, as long as it does.
pub struct Busy {
    count: watch::Sender<usize>,
    counted: bool,
}

impl Busy {
    /// Counts from now on.
    pub fn new(count: &watch::Sender<usize>) -> Self {
        let mut busy = Self {
            count: count.clone(),
            counted: false,
        };
        busy.set(true);
        busy
    }

    /// Counts, or does not.
    pub fn set(&mut self, on: bool) {
        if on != self.counted {
            self.counted = on;
            self.count
                .send_modify(|n| *n = if on { *n + 1 } else { *n - 1 });
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.set(false);
    }
}

struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        // The last steps of MurmurHash3: spreads the low bits over the high ones.
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        mixed ^ (mixed >> 33)
    }
}
