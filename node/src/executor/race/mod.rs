//! The race of one BUILD round.
//!
//! [`Race::start`] runs a task for each of the executor's shards and one that seals. Whatever is heard of the round
//! (a winner, its end) cancels what it makes pointless, at once. What an accepted shard changes is [`staged`] then, and
//! the state that the next round will ask for is read [`ahead`].

mod ahead;
mod open;
mod shard;
mod staged;
mod work;

pub use open::open;
pub use staged::Part;

use super::limits::{FILL_SHARE, RETRY_MAX, RETRY_MIN, SEAL_SPREAD, STAGE_WAIT};
use super::shared::Shared;
use super::verify::Ground;
use crate::store_client::{Round, Seal, Winner};
use staged::Staged;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use troika_proto::{B256, Environment, Shard};

/// A round that this executor takes part in.
pub struct Race {
    shared: Arc<Shared>,
    /// As it was opened.
    pub round: Round,
    /// What transactions see.
    pub environment: Environment,
    /// When this executor heard of it: its durations count from here.
    heard: Instant,
    /// Cancelled when the round closes.
    closed: CancellationToken,
    decided: BTreeMap<u32, CancellationToken>,
    state: Mutex<State>,
    staged: Staged,
}

#[derive(Default)]
struct State {
    winners: BTreeMap<u32, Winner>,
    /// This executor's last proposals.
    proposals: HashMap<u32, Arc<Shard>>,
}

impl Race {
    /// Takes part in `round`.
    pub fn start(shared: &Arc<Shared>, round: Round) -> Arc<Self> {
        let closed = shared.stop.child_token();
        let decided = shared.own().map(|shard| (shard, closed.child_token()));
        let race = Arc::new(Self {
            shared: shared.clone(),
            environment: shared.execution_environment(&round.environment),
            heard: Instant::now(),
            decided: decided.collect(),
            closed,
            state: Mutex::default(),
            staged: Staged::default(),
            round,
        });
        for (shard, winner) in &race.round.winners {
            race.heard_winner(*shard, winner);
        }
        tokio::spawn(race.clone().run());
        race
    }

    async fn run(self: Arc<Self>) {
        let mut tasks = JoinSet::new();
        // Every executor begins at another shard, and goes on from there.
        let mut shards: Vec<u32> = self.shared.own().collect();
        shards.sort_by_key(|shard| self.rank(*shard, Duration::from_secs(1)));
        for shard in shards {
            tasks.spawn(shard::run(self.shared.clone(), self.clone(), shard));
        }
        tasks.spawn(seal(self.shared.clone(), self.clone()));
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(round = self.round.number, %error, "a task of the race failed");
            }
        }
    }

    /// This executor's place in the race for a shard, as a share of `spread`.
    fn rank(&self, shard: u32, spread: Duration) -> Duration {
        let mut occasion = [0; 12];
        occasion[..8].copy_from_slice(&self.round.number.to_be_bytes());
        occasion[8..].copy_from_slice(&shard.to_be_bytes());
        self.shared.stagger(&occasion, spread)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancelled when the shard is decided or the round closed.
    fn over(&self, shard: u32) -> CancellationToken {
        let token = self.decided.get(&shard);
        token.unwrap_or(&self.closed).clone()
    }

    /// On what a shard of this round is executed.
    fn ground(&self, shared: &Shared) -> Ground {
        let before = self.round.environment.number.saturating_sub(1);
        Ground {
            rules: shared.rules.clone(),
            environment: self.environment.clone(),
            view: shared.view(self.round.parent, before),
            runtime: shared.runtime.clone(),
        }
    }

    /// A shard is decided: whoever works on it stops, and the next round's work for it begins. `true` the first time.
    pub fn heard_winner(self: &Arc<Self>, shard: u32, winner: &Winner) -> bool {
        let first = {
            let mut state = self.state();
            state.winners.insert(shard, winner.clone()).is_none()
        };
        if let Some(token) = self.decided.get(&shard) {
            token.cancel();
        }
        if first && self.decided.contains_key(&shard) {
            if *winner.executor == *self.shared.name {
                self.shared.stats.won();
            } else {
                self.shared.stats.lost();
            }
        }
        self.stage(shard, winner);
        first
    }

    /// Begins what the next round needs of an accepted shard, unless it has begun.
    fn stage(self: &Arc<Self>, shard: u32, winner: &Winner) {
        let known = [self.proposal(shard), Some(Arc::new(Shard::empty(shard)))];
        let mut known = known.into_iter().flatten();
        let own = known.find(|known| known.hash == winner.shard_hash);
        if !self.staged.accepted(shard, own) {
            return;
        }
        let (race, winner) = (self.clone(), winner.clone());
        tokio::spawn(async move {
            let shared = race.shared.clone();
            let stop = shared.stop.clone();
            let staging = async {
                let part = race.staged.part(&shared, race.round.number, shard, &winner);
                if let Some(part) = part.await
                    && race.decided.contains_key(&shard)
                {
                    ahead::read_ahead(shared, race.clone(), shard, &part).await;
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = staging => {}
            }
        });
    }

    /// The sealed block's shards but the empty ones, if they are known or come in a moment: see [`Staged::complete`].
    pub async fn parts(&self, shard_hashes: &[B256]) -> Option<Vec<Part>> {
        let complete = timeout(STAGE_WAIT, self.staged.complete(shard_hashes));
        complete.await.ok().flatten()
    }

    /// The round is closed: everything stops.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// This executor's last proposal for a shard.
    pub fn proposal(&self, shard: u32) -> Option<Arc<Shard>> {
        self.state().proposals.get(&shard).cloned()
    }

    fn proposing(&self, shard: Arc<Shard>) {
        self.shared
            .book
            .proposing(self.round.number, &self.shared.name, &shard);
        self.state().proposals.insert(shard.header.index, shard);
    }

    fn propose_at(&self) -> Instant {
        self.heard + self.round.propose_after
    }

    /// Until when a shard may be filled that is not full: half the time is left to make the proposal of it, on a machine
    /// that is as slow at that as it was at filling.
    fn fill_until(&self) -> Instant {
        let left = self
            .round
            .seal_after
            .saturating_sub(self.round.propose_after);
        self.propose_at() + left / FILL_SHARE
    }
}

/// Seals the round once that is allowed, if nobody else has.
async fn seal(shared: Arc<Shared>, race: Arc<Race>) {
    let round = race.round.number;
    let spread = shared.stagger(&round.to_be_bytes(), SEAL_SPREAD);
    let at = race.heard + race.round.seal_after + spread;
    let sealing = async {
        sleep_until(at).await;
        let mut pause = RETRY_MIN;
        loop {
            match shared.client.seal(round).await {
                Ok(Seal::Closed(closed)) => {
                    tracing::debug!(round, status = ?closed.status, "sealed, or closed before");
                    // The watch brings the rest.
                    return;
                }
                Ok(Seal::Refused(refusal)) => tracing::debug!(round, %refusal, "not sealed"),
                Err(error) => tracing::warn!(round, %error, "sealing failed"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    };
    tokio::select! {
        biased;
        () = race.closed.cancelled() => {}
        () = sealing => {}
    }
}
