//! The chain as the gateway reads it: sealed blocks, kept in a bounded cache, and the state at a block.

mod blocks;
mod view;

pub use blocks::{Block, BlockCache, BlockTransaction, ShardSummary};
pub use view::StoreView;

use super::limits::READ_AHEAD;
use crate::store_client::{self, AcceptedShard, BlockId, ShardParts, StoreClient, StoreError};
use futures::{StreamExt, TryStreamExt, stream};
use std::sync::{Arc, Mutex, PoisonError};
use troika_proto::{B256, Diff, Header, U256};

/// Sealed blocks, from the cache or the store.
pub struct Chain {
    client: StoreClient,
    cache: Mutex<BlockCache>,
}

impl Chain {
    /// Reads through this client, and keeps what was read.
    pub fn new(client: StoreClient, max_bytes: usize) -> Self {
        Self {
            client,
            cache: Mutex::new(BlockCache::new(max_bytes)),
        }
    }

    /// The store.
    pub fn client(&self) -> &StoreClient {
        &self.client
    }

    fn cache<R>(&self, f: impl FnOnce(&mut BlockCache) -> R) -> R {
        f(&mut self.cache.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A block with all its transactions and receipts; `None` where there is none (any more).
    ///
    /// # Errors
    /// [`StoreError`] without an answer.
    pub async fn block(&self, id: BlockId) -> Result<Option<Arc<Block>>, StoreError> {
        let found = self.block_where(id, |_| true).await?;
        Ok(found.flatten())
    }

    /// The same, read whole only where its header is `wanted`: `Some(None)` where it is not.
    ///
    /// # Errors
    /// [`StoreError`] without an answer.
    pub async fn block_where(
        &self,
        id: BlockId,
        wanted: impl Fn(&Header) -> bool,
    ) -> Result<Option<Option<Arc<Block>>>, StoreError> {
        let cached = self.cache(|cache| match id {
            BlockId::Hash(hash) => cache.by_hash(hash),
            BlockId::Number(number) => cache.by_number(number),
        });
        if let Some(cached) = cached {
            return Ok(Some(wanted(&cached.header).then_some(cached)));
        }
        let Some(found) = forgotten(self.client.block(id).await)?.flatten() else {
            return Ok(None);
        };
        if !wanted(&found.header) {
            return Ok(Some(None));
        }
        let parts = ShardParts {
            transactions: true,
            receipts: true,
            diff: false,
        };
        let Some(bodies) = forgotten(self.bodies(&found, parts).await)? else {
            return Ok(None);
        };
        let canonical = found.canonical;
        let block = Arc::new(Block::assemble(found, bodies));
        self.cache(|cache| cache.insert(block.clone(), canonical));
        Ok(Some(Some(block)))
    }

    /// A block that has just become the head, with its merged diff and fees. `None` where it is gone already.
    ///
    /// # Errors
    /// [`StoreError`] without an answer.
    pub async fn sealed(&self, hash: B256) -> Result<Option<Sealed>, StoreError> {
        let Some(found) = forgotten(self.client.block(BlockId::Hash(hash)).await)?.flatten() else {
            return Ok(None);
        };
        let Some(bodies) = forgotten(self.bodies(&found, ShardParts::ALL).await)? else {
            return Ok(None);
        };
        let mut diffs = Vec::with_capacity(bodies.len());
        let mut merged = Diff::default();
        let mut fees = U256::ZERO;
        let mut stripped = bodies;
        for body in &mut stripped {
            let diff = std::mem::take(&mut body.body.diff);
            fees = fees.saturating_add(body.header.fees);
            // Accepted shards are disjoint: the store refused what is not.
            if merged.merge(&diff).is_err() {
                tracing::error!(block = %hash, "the accepted shards of a block overlap");
            }
            diffs.push(diff);
        }
        let block = Arc::new(Block::assemble(found, stripped));
        self.cache(|cache| cache.insert(block.clone(), true));
        Ok(Some(Sealed {
            block,
            merged,
            fees,
            diffs,
        }))
    }

    /// All shards of a block in index order; empty ones without asking for them.
    async fn bodies(
        &self,
        block: &store_client::Block,
        parts: ShardParts,
    ) -> Result<Vec<AcceptedShard>, StoreError> {
        let round = block.round;
        let shards = block.shards.clone();
        let reads = shards
            .into_iter()
            .enumerate()
            .map(|(index, shard)| async move {
                if shard.header.is_empty() {
                    return Ok(AcceptedShard {
                        winner: shard.winner,
                        header: shard.header,
                        body: Default::default(),
                    });
                }
                let read = self.client.shard(round, index as u32, parts).await?;
                read.ok_or_else(|| StoreError::Pruned {
                    call: "shard",
                    message: format!("shard {index} of round {round} is gone"),
                })
            });
        stream::iter(reads).buffered(READ_AHEAD).try_collect().await
    }
}

/// A block that became the head.
pub struct Sealed {
    /// With its transactions and receipts.
    pub block: Arc<Block>,
    /// All shards' diffs merged, without the fees.
    pub merged: Diff,
    /// All shards' fees, wei.
    pub fees: U256,
    /// The shards' diffs, in index order.
    pub diffs: Vec<Diff>,
}

/// What is no longer kept is `None`: to a client the same as what never was.
fn forgotten<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(StoreError::Pruned { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
