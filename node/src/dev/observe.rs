//! Watches the store and makes a report of every sealed block.

use super::report::BlockReport;
use crate::store_client::{
    BlockId, Event, EventId, EventKind, Head, RoundKind, ShardFilter, StoreClient, Watch,
};
use anyhow::{Context, bail};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tonic::transport::{Channel, Endpoint};
use troika_proto::v1::{FeedInfoRequest, feed_client::FeedClient};
use troika_proto::{B256, Header};

/// Longest that an executor is asked for its counters.
const STATS_TIMEOUT: Duration = Duration::from_secs(1);
/// Rounds whose opening is remembered while they are not closed.
const MAX_OPEN: usize = 1_024;

/// Reports blocks in the order in which they are sealed.
pub struct Observer {
    store: StoreClient,
    watch: Watch,
    feeds: Vec<FeedClient<Channel>>,
    started: Instant,
    /// When each open round was heard of.
    opened: BTreeMap<u64, Instant>,
    /// Events that were received and not looked at yet, with the time at which they came.
    events: VecDeque<(Instant, Event)>,
    /// Sum of the executors' conflict counters at the last block.
    conflicts: u64,
}

impl Observer {
    /// Watches from `head` on. `feeds` are the executors' addresses, for their counters.
    ///
    /// # Errors
    /// An address that is none.
    pub fn new(store: StoreClient, head: &Head, feeds: &[String]) -> anyhow::Result<Self> {
        let watch = store.watch(Some(EventId::end_of(head.revision)), ShardFilter::None);
        let client = |url: &String| {
            let endpoint = Endpoint::from_shared(url.clone())
                .with_context(|| format!("{url} is not an address"))?;
            anyhow::Ok(FeedClient::new(endpoint.connect_lazy()))
        };
        Ok(Self {
            watch,
            feeds: feeds.iter().map(client).collect::<Result<_, _>>()?,
            store,
            started: Instant::now(),
            opened: BTreeMap::new(),
            events: VecDeque::new(),
            conflicts: 0,
        })
    }

    /// The next block that became the head. May be dropped and called again without losing one.
    ///
    /// # Errors
    /// A watch that cannot go on, or a store that does not answer.
    pub async fn next(&mut self) -> anyhow::Result<BlockReport> {
        loop {
            // An event leaves the queue only when its report is complete, so that a dropped call loses nothing.
            while let Some((heard, event)) = self.events.front() {
                let report = match &event.kind {
                    EventKind::RoundSealed {
                        round,
                        block_hash,
                        header,
                        head: true,
                        ..
                    } => {
                        let (heard, round, hash) = (*heard, *round, *block_hash);
                        let header = header.clone();
                        Some(self.report(heard, round, hash, &header).await?)
                    }
                    _ => None,
                };
                let (heard, event) = self.events.pop_front().expect("seen above");
                self.remember(heard, &event.kind);
                if let Some(report) = report {
                    return Ok(report);
                }
            }
            let batch = self.watch.next().await.context("watching the store")?;
            let heard = Instant::now();
            self.events
                .extend(batch.events.into_iter().map(|event| (heard, event)));
        }
    }

    fn remember(&mut self, heard: Instant, event: &EventKind) {
        match event {
            EventKind::RoundOpened(round) if round.kind == RoundKind::Build => {
                self.opened.insert(round.number, heard);
                if self.opened.len() > MAX_OPEN {
                    self.opened.pop_first();
                }
            }
            EventKind::RoundSealed { round, .. } | EventKind::RoundVoided { round, .. } => {
                self.opened.remove(round);
            }
            _ => {}
        }
    }

    async fn report(
        &mut self,
        heard: Instant,
        round: u64,
        hash: B256,
        header: &Header,
    ) -> anyhow::Result<BlockReport> {
        let Some(block) = self.store.block(BlockId::Hash(hash)).await? else {
            bail!("block {hash} was sealed in round {round}, and the store does not have it");
        };
        let opened = self.opened.get(&round).copied().unwrap_or(self.started);
        let transactions = block
            .shards
            .iter()
            .map(|shard| u64::from(shard.header.transaction_count));
        Ok(BlockReport {
            block: header.number,
            hash,
            round,
            transactions: transactions.sum(),
            gas: header.gas_used,
            milliseconds: heard.duration_since(opened).as_secs_f64() * 1_000.0,
            winners: block
                .shards
                .iter()
                .map(|shard| shard.winner.executor.to_string())
                .collect(),
            conflicts: self.new_conflicts().await,
        })
    }

    /// Conflicts that the executors have met since the last call. One that does not answer is left out for now.
    async fn new_conflicts(&mut self) -> u64 {
        let asked = self.feeds.iter_mut().map(|feed| async move {
            let stats = timeout(STATS_TIMEOUT, feed.stats(FeedInfoRequest {})).await;
            stats
                .ok()
                .and_then(Result::ok)
                .map_or(0, |stats| stats.into_inner().conflicts)
        });
        let total: u64 = futures::future::join_all(asked).await.into_iter().sum();
        let new = total.saturating_sub(self.conflicts);
        self.conflicts = self.conflicts.max(total);
        new
    }
}
