//! The executor's one thread of control: takes events in the order in which they happened, and starts and stops the rest.
//!
//! Nothing in here waits for long: races, openings, feeds and second executions are tasks of their own. The one thing
//! that is awaited between two events is what a sealed block changed, because the next round reads that; a race has
//! gathered it shard by shard while the round ran.

use super::feed::Close;
use super::limits::{RETRY_MAX, START_RETRY};
use super::race::{self, Part, Race};
use super::second::SecondExecution;
use super::shared::Shared;
use super::verifying::Verifying;
use crate::store_client::{
    BlockDiff, BlockId, Event, EventId, EventKind, Head, Round, RoundKind, ShardFilter, StoreError,
    Watch, WatchError, Winner,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use troika_proto::{B256, Diff, EMPTY_ROOT, Header, U256};

/// Rounds that openings report before the watch does.
const OPENED_BUFFER: usize = 16;
/// Open rounds that are listed at once when starting.
const LISTED_ROUNDS: u32 = 1_000;

/// The executor's one thread of control.
pub struct Conductor {
    shared: Arc<Shared>,
    second: SecondExecution,
    /// BUILD rounds that are open.
    races: BTreeMap<u64, Arc<Race>>,
    verifying: BTreeMap<u64, Verifying>,
    /// Cancelled when a BUILD round on the head was heard of.
    opening: CancellationToken,
    opened: mpsc::Sender<Round>,
    openings: mpsc::Receiver<Round>,
    newest_closed: u64,
}

impl Conductor {
    /// For the chain of `shared`.
    pub fn new(shared: Arc<Shared>) -> Self {
        let (opened, openings) = mpsc::channel(OPENED_BUFFER);
        Self {
            second: SecondExecution::start(&shared),
            races: BTreeMap::new(),
            verifying: BTreeMap::new(),
            opening: CancellationToken::new(),
            opened,
            openings,
            newest_closed: 0,
            shared,
        }
    }

    /// Runs until the executor stops. `head` is the chain as it was found at the start; `begun` is called once the
    /// rounds are known, so that the feed can be served.
    pub async fn run(mut self, head: Head, begun: impl FnOnce()) {
        let stop = self.shared.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.conduct(head, begun) => {}
        }
    }

    async fn conduct(&mut self, head: Head, begun: impl FnOnce()) {
        let mut first = Some(begun);
        let mut found = Some(head);
        let mut pause = START_RETRY;
        loop {
            let begun = match found.take() {
                Some(head) => self.begin(head).await,
                None => match self.shared.client.head().await {
                    Ok(head) => self.begin(head).await,
                    Err(error) => Err(error),
                },
            };
            match begun {
                Ok(watch) => {
                    if let Some(begun) = first.take() {
                        begun();
                    }
                    pause = START_RETRY;
                    let end = self.follow(watch).await;
                    tracing::warn!(%end, "starting over from the head");
                }
                Err(error) => tracing::warn!(%error, "the store cannot be read"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Takes over the chain as it stands; answers a watch of everything after.
    async fn begin(&mut self, head: Head) -> Result<Watch, StoreError> {
        let client = self.shared.client.clone();
        // Whatever was missed may have closed them.
        self.races.values().for_each(|race| race.close());
        self.races.clear();
        self.verifying.clear();
        let block = client.block(BlockId::Hash(head.hash)).await?;
        let head_round = block.map_or(0, |block| block.round);
        let open = client
            .rounds(head.pruned_below, LISTED_ROUNDS, true)
            .await?;
        let newest = open.iter().map(|round| round.number).max().unwrap_or(0);
        let shared = &self.shared;
        shared.book.reset(newest.max(head_round), head.pruned_below);
        if **shared.head.load() != head.hash {
            shared.cache.reset(head.hash);
        }
        self.newest_closed = self.newest_closed.max(head_round);
        shared.cache.link(head.hash, &head.header);
        shared.pool.followed(head.hash);
        self.new_head(head.hash);
        for round in open {
            // The list is without the winners.
            if let Some(round) = client.round(round.number, false).await?
                && round.is_open()
            {
                self.round_opened(round);
            }
        }
        // Of every shard: the next round reads what any of them changes.
        let after = EventId::end_of(head.revision);
        Ok(client.watch(Some(after), ShardFilter::All))
    }

    async fn follow(&mut self, mut watch: Watch) -> WatchError {
        loop {
            tokio::select! {
                biased;
                batch = watch.next() => match batch {
                    Ok(batch) => {
                        for event in batch.events {
                            self.event(event).await;
                        }
                    }
                    Err(end) => return end,
                },
                Some(round) = self.openings.recv() => self.round_opened(round),
            }
        }
    }

    async fn event(&mut self, event: Event) {
        match event.kind {
            EventKind::RoundOpened(round) => self.round_opened(*round),
            EventKind::ShardAccepted {
                round,
                shard,
                winner,
            } => self.shard_accepted(round, shard, &winner),
            EventKind::RoundSealed {
                round,
                block_hash,
                header,
                shard_hashes,
                head,
            } => {
                let close = Close::Sealed {
                    hash: block_hash,
                    header: header.clone(),
                    shard_hashes: shard_hashes.clone(),
                    head,
                };
                let race = self.round_closed(round, close);
                self.shared.cache.link(block_hash, &header);
                if head {
                    self.sealed(race, block_hash, *header, &shard_hashes).await;
                }
            }
            EventKind::RoundVoided { round, reason, .. } => {
                tracing::info!(round, ?reason, "round is void");
                self.round_closed(round, Close::Void(reason));
            }
            EventKind::Pruned { below_round } => self.shared.book.pruned(below_round),
            EventKind::ChainStarted { .. }
            | EventKind::LocksAcquired { .. }
            | EventKind::FeatureLevelRaised { .. } => {}
        }
    }

    fn round_opened(&mut self, round: Round) {
        // The opener's own answer may come after the round's end.
        let known = self.races.contains_key(&round.number)
            || self.verifying.contains_key(&round.number)
            || self
                .shared
                .book
                .get(round.number)
                .is_some_and(|outline| outline.close.is_some());
        if known || !round.is_open() {
            return;
        }
        self.shared.book.opened(&round);
        tracing::debug!(executor = self.shared.name, round = round.number, kind = ?round.kind, "round");
        match round.kind {
            RoundKind::Build => {
                if round.parent == **self.shared.head.load() {
                    self.opening.cancel();
                }
                if !self.shared.build {
                    return;
                }
                self.shared.pool.pending().set_round(round.number);
                let number = round.number;
                let race = Race::start(&self.shared, round);
                self.races.insert(number, race);
            }
            RoundKind::Verify => {
                let number = round.number;
                let verifying = Verifying::start(&self.shared, round);
                self.verifying.insert(number, verifying);
            }
        }
    }

    fn shard_accepted(&mut self, round: u64, shard: u32, winner: &Winner) {
        self.shared.book.decided(round, shard, winner);
        let own = self.shared.own().contains(&shard);
        if let Some(race) = self.races.get(&round) {
            race.heard_winner(shard, winner);
            if own {
                let ours = race.proposal(shard).map(|ours| ours.hash);
                self.second.decided(&race.round, shard, winner, ours);
            }
        }
        if let Some(verifying) = self.verifying.get(&round) {
            let ours = verifying.decided(shard);
            if own {
                self.second.decided(&verifying.round, shard, winner, ours);
            }
        }
    }

    fn round_closed(&mut self, round: u64, close: Close) -> Option<Arc<Race>> {
        self.shared.book.closed(round, close);
        self.newest_closed = self.newest_closed.max(round);
        // Dropped, it stops.
        self.verifying.remove(&round);
        let race = self.races.remove(&round)?;
        race.close();
        Some(race)
    }

    /// A block became the head: the next round is opened while the cache and the pool follow its diff.
    async fn sealed(
        &mut self,
        race: Option<Arc<Race>>,
        block: B256,
        header: Header,
        shard_hashes: &[B256],
    ) {
        let heard = Instant::now();
        let parent = header.parent_hash;
        let payee = self.shared.config.beneficiary;
        let odd_payee = header.beneficiary != payee;
        let empty = header.transactions_root == EMPTY_ROOT;
        self.new_head(block);
        let shared = &self.shared;
        let changes = if empty {
            Some(Changes::Shards(Vec::new()))
        } else {
            changes(shared, race, block, shard_hashes).await
        };
        let changed = heard.elapsed();
        match &changes {
            Some(changes) => {
                let (diffs, fees) = (changes.diffs(), changes.fees());
                if odd_payee && !fees.is_zero() {
                    // In a replay the header's payee is another one than the config's: whom the fees reach is the
                    // store's to say, so that nothing is kept.
                    shared.cache.reset(block);
                } else {
                    shared.cache.advance(parent, block, &diffs, payee, fees);
                }
                shared.pool.sealed(&diffs);
            }
            None => shared.cache.reset(block),
        }
        shared.pool.followed(block);
        tracing::debug!(
            executor = shared.name,
            %block,
            staged = matches!(changes, Some(Changes::Shards(_))),
            changes_ms = changed.as_secs_f64() * 1e3,
            after_ms = heard.elapsed().as_secs_f64() * 1e3,
            "follows"
        );
        shared.gauge();
    }

    /// Goes over to a new head, and opens the round after it.
    fn new_head(&mut self, hash: B256) {
        let shared = &self.shared;
        shared.head.store(Arc::new(hash));
        self.opening.cancel();
        self.opening = shared.stop.child_token();
        if !shared.build {
            return;
        }
        let next_round = self.newest_closed + 1;
        tokio::spawn(race::open(
            shared.clone(),
            hash,
            next_round,
            self.opening.clone(),
            self.opened.clone(),
        ));
    }
}

/// What a sealed block changed.
enum Changes {
    /// Shard by shard, as they were accepted.
    Shards(Vec<Part>),
    /// All in one.
    Block(BlockDiff),
}

impl Changes {
    fn diffs(&self) -> Vec<&Diff> {
        match self {
            Self::Shards(parts) => parts.iter().map(Part::diff).collect(),
            Self::Block(block) => vec![&block.diff],
        }
    }

    fn fees(&self) -> U256 {
        match self {
            Self::Shards(parts) => {
                let fees = parts.iter().map(Part::fees);
                fees.fold(U256::ZERO, U256::saturating_add)
            }
            Self::Block(block) => block.fees,
        }
    }
}

/// From what was gathered while the round ran, or else from the store.
async fn changes(
    shared: &Shared,
    race: Option<Arc<Race>>,
    block: B256,
    shard_hashes: &[B256],
) -> Option<Changes> {
    if let Some(race) = race
        && let Some(parts) = race.parts(shard_hashes).await
    {
        return Some(Changes::Shards(parts));
    }
    match shared.client.block_diff(block).await {
        Ok(changes) => changes.map(Changes::Block),
        Err(error) => {
            tracing::warn!(%block, %error, "the block's diff cannot be read");
            None
        }
    }
}
