//! What a round's accepted shards change, gathered as they are accepted.
//!
//! The next round reads the state after this one, so its work cannot begin before all of it is known. But each shard is known
//! as soon as it is accepted: this executor has proposed the same, or reads the shard's diff then. When the block seals,
//! only what was accepted last may still be on its way.

use super::super::limits::STAGE_READS;
use super::super::shared::Shared;
use crate::store_client::{AcceptedShard, ShardParts, Winner};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};
use troika_proto::{B256, Diff, Shard, U256};

/// An accepted shard, as far as the next round needs it.
#[derive(Clone, Debug)]
pub enum Part {
    /// This executor has made the same.
    Own(Arc<Shard>),
    /// As read from the store: header and diff.
    Read(Arc<AcceptedShard>),
}

impl Part {
    /// What the shard changes, fees left out.
    pub fn diff(&self) -> &Diff {
        match self {
            Self::Own(shard) => &shard.body.diff,
            Self::Read(shard) => &shard.body.diff,
        }
    }

    /// Its fees, wei.
    pub fn fees(&self) -> U256 {
        match self {
            Self::Own(shard) => shard.header.fees,
            Self::Read(shard) => shard.header.fees,
        }
    }

    fn hash(&self) -> B256 {
        match self {
            Self::Own(shard) => shard.hash,
            Self::Read(shard) => shard.winner.shard_hash,
        }
    }
}

enum Stage {
    Reading,
    Known(Part),
    /// The store did not give it.
    Missing,
}

/// The accepted shards of one round.
pub struct Staged {
    stages: watch::Sender<BTreeMap<u32, Stage>>,
    reads: Semaphore,
}

impl Default for Staged {
    fn default() -> Self {
        Self {
            stages: watch::Sender::default(),
            reads: Semaphore::new(STAGE_READS),
        }
    }
}

impl Staged {
    /// A shard was accepted; `own` is this executor's proposal if it is that one. `true`: it is heard of for the first
    /// time, and [`Self::part`] is to be called.
    pub fn accepted(&self, shard: u32, own: Option<Arc<Shard>>) -> bool {
        self.stages.send_if_modified(|stages| {
            let fresh = !stages.contains_key(&shard);
            if fresh {
                let known = own.map(Part::Own).map(Stage::Known);
                stages.insert(shard, known.unwrap_or(Stage::Reading));
            }
            fresh
        })
    }

    /// The shard, read from the store where this executor has not made it. `None` where the store does not give it.
    pub async fn part(
        &self,
        shared: &Shared,
        round: u64,
        shard: u32,
        winner: &Winner,
    ) -> Option<Part> {
        if let Some(Stage::Known(part)) = self.stages.borrow().get(&shard) {
            return Some(part.clone());
        }
        let part = {
            let _permit = self.reads.acquire().await;
            read(shared, round, shard, winner).await
        };
        let stage = part.clone().map_or(Stage::Missing, Stage::Known);
        self.stages.send_modify(|stages| {
            stages.insert(shard, stage);
        });
        part
    }

    /// All shards of the block but the empty ones, as soon as those that are being read are there. `None` where one is
    /// missing: whoever heard of the round late, or whom the store did not answer, has to ask for the whole block.
    pub async fn complete(&self, shard_hashes: &[B256]) -> Option<Vec<Part>> {
        let mut stages = self.stages.subscribe();
        let settled = stages.wait_for(|stages| {
            let mut all = stages.values();
            !all.any(|stage| matches!(stage, Stage::Reading))
        });
        let settled = settled.await.ok()?;
        let mut parts = Vec::with_capacity(shard_hashes.len());
        for (shard, hash) in (0u32..).zip(shard_hashes) {
            match settled.get(&shard) {
                Some(Stage::Known(part)) if part.hash() == *hash => parts.push(part.clone()),
                _ if Shard::empty(shard).hash == *hash => {}
                _ => return None,
            }
        }
        Some(parts)
    }
}

async fn read(shared: &Shared, round: u64, shard: u32, winner: &Winner) -> Option<Part> {
    let parts = ShardParts {
        diff: true,
        ..ShardParts::default()
    };
    let answer = shared.client.shard(round, shard, parts).await;
    match answer {
        Ok(Some(accepted)) if accepted.header.hash() == winner.shard_hash => {
            Some(Part::Read(Arc::new(accepted)))
        }
        Ok(_) => {
            tracing::warn!(round, shard, "the store does not give the winner's shard");
            None
        }
        Err(error) => {
            tracing::debug!(round, shard, %error, "an accepted shard cannot be read");
            None
        }
    }
}
