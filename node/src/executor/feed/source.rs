//! Where a subscriber's items come from: memory for what is recent, the store for the rest.

use super::super::limits::FEED_CACHE_BYTES;
use super::book::{Close, Outline, RoundBook};
use crate::store_client::{BlockId, RoundKind, RoundStatus, StoreClient, StoreError};
use prost::Message;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use troika_proto::{ShardHeader, v1};

/// The feed's view of the store.
pub struct Source {
    client: StoreClient,
    /// Recent rounds.
    pub book: Arc<RoundBook>,
    shards: Mutex<Shards>,
}

/// Shards as they were sent lately, oldest out first.
#[derive(Default)]
struct Shards {
    by_place: HashMap<(u64, u32), Arc<v1::FeedShard>>,
    order: VecDeque<((u64, u32), usize)>,
    bytes: usize,
}

impl Source {
    /// Reads from `client` what `book` does not have.
    pub fn new(client: StoreClient, book: Arc<RoundBook>) -> Self {
        Self {
            client,
            book,
            shards: Mutex::default(),
        }
    }

    /// The outline of a round; `None` where there is none of that number.
    ///
    /// # Errors
    /// [`StoreError`] without an answer; [`StoreError::Pruned`] for one that is forgotten.
    pub async fn outline(&self, round: u64) -> Result<Option<Arc<Outline>>, StoreError> {
        if let Some(outline) = self.book.get(round) {
            return Ok(Some(outline));
        }
        let Some(found) = self.client.round(round, false).await? else {
            return Ok(None);
        };
        let close = match (found.status, found.block_hash) {
            (RoundStatus::Void(reason), _) => Some(Close::Void(reason)),
            (RoundStatus::Sealed, Some(hash)) => {
                let block = self.client.block(BlockId::Hash(hash)).await?;
                block.map(|block| Close::Sealed {
                    hash,
                    shard_hashes: block.shards.iter().map(|s| s.winner.shard_hash).collect(),
                    header: Box::new(block.header),
                    head: block.canonical,
                })
            }
            _ => None,
        };
        Ok(Some(Arc::new(Outline {
            kind: found.kind,
            winners: found.winners,
            close,
        })))
    }

    /// An accepted shard, as read from the store; `None` if it is undecided.
    ///
    /// # Errors
    /// [`StoreError`] without an answer.
    pub async fn shard(
        &self,
        round: u64,
        shard: u32,
    ) -> Result<Option<Arc<v1::FeedShard>>, StoreError> {
        if let Some(own) = self.book.own(round, shard) {
            return Ok(Some(own));
        }
        let place = (round, shard);
        if let Some(known) = self.shards().by_place.get(&place) {
            return Ok(Some(known.clone()));
        }
        let Some(reply) = self.client.shard_on_the_wire(round, shard).await? else {
            return Ok(None);
        };
        let item = v1::FeedShard {
            index: shard,
            winner: reply.winner,
            header: reply.header,
            body: reply.body,
        };
        check(&item)?;
        let item = Arc::new(item);
        self.shards().keep(place, item.clone());
        Ok(Some(item))
    }

    fn shards(&self) -> std::sync::MutexGuard<'_, Shards> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A member that answers a shard with another's hash is not passed on.
fn check(item: &v1::FeedShard) -> Result<(), StoreError> {
    use troika_proto::wire::{hash, required};
    let header = ShardHeader::try_from(required("header", item.header.as_ref())?)?;
    let winner = required("winner", item.winner.as_ref())?;
    if header.hash() != hash("winner.shard_hash", &winner.shard_hash)? {
        return Err(troika_proto::Malformed::new("header", "is not the winner's").into());
    }
    Ok(())
}

impl Shards {
    fn keep(&mut self, place: (u64, u32), item: Arc<v1::FeedShard>) {
        let bytes = item.encoded_len();
        if self.by_place.insert(place, item).is_some() {
            return;
        }
        self.order.push_back((place, bytes));
        self.bytes += bytes;
        while self.bytes > FEED_CACHE_BYTES {
            let Some((oldest, bytes)) = self.order.pop_front() else {
                return;
            };
            self.by_place.remove(&oldest);
            self.bytes -= bytes;
        }
    }
}

/// VERIFY rounds are fed once their block is known to be good, BUILD rounds as they go.
pub(super) fn may_send_shards(outline: &Outline) -> bool {
    match outline.kind {
        RoundKind::Build => true,
        RoundKind::Verify => matches!(outline.close, Some(Close::Sealed { .. })),
    }
}
