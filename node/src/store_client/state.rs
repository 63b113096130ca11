//! The calls of `troika.v1.State`.

use super::transport::{StoreClient, StoreError, found};
use super::types::{AcceptedShard, Block, BlockDiff, BlockShard, Head, Place};
use tonic::transport::Channel;
use troika_proto::limits::MAX_MESSAGE_BYTES;
use troika_proto::whole::Whole;
use troika_proto::wire::{at_most, hash, hash_bytes, number, required};
use troika_proto::{B256, ChainConfig, Diff, Header, Malformed, ShardBody, ShardHeader, v1};
use v1::state_client::StateClient;

pub(super) fn state(channel: Channel) -> StateClient<Whole<Channel>> {
    StateClient::new(Whole(channel))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// Which block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockId {
    /// By hash: any block that is kept.
    Hash(B256),
    /// By number: on the head's chain.
    Number(u64),
}

/// Which parts of a shard's body to fetch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardParts {
    /// The envelopes.
    pub transactions: bool,
    /// The receipts.
    pub receipts: bool,
    /// The diff.
    pub diff: bool,
}

impl ShardParts {
    /// Everything.
    pub const ALL: Self = Self {
        transactions: true,
        receipts: true,
        diff: true,
    };
}

impl StoreClient {
    /// The chain's config and head.
    ///
    /// # Errors
    /// [`StoreError::NoChain`] before genesis, else [`StoreError`] without an answer.
    pub async fn head(&self) -> Result<Head, StoreError> {
        self.head_with(false).await
    }

    /// The chain's config and head, after asking the quorum.
    ///
    /// # Errors
    /// As [`Self::head`].
    pub async fn linearizable_head(&self) -> Result<Head, StoreError> {
        self.head_with(true).await
    }

    async fn head_with(&self, linearizable: bool) -> Result<Head, StoreError> {
        let request = v1::HeadRequest {
            meta: self.monotonic(),
            linearizable,
        };
        let reply = self
            .call("head", |channel| {
                let request = request.clone();
                async move { state(channel).head(request).await }
            })
            .await?;
        let Some(config) = &reply.config else {
            return Err(StoreError::NoChain);
        };
        let header = required("header", reply.header.as_ref())?;
        Ok(Head {
            config: ChainConfig::try_from(config).map_err(|e| e.within("config"))?,
            genesis_hash: hash("genesis_hash", &reply.genesis_hash)?,
            hash: hash("block_hash", &reply.block_hash)?,
            header: Header::try_from(header).map_err(|e| e.within("header"))?,
            open_round: (reply.open_round != 0).then_some(reply.open_round),
            oldest_state: reply.oldest_state,
            pruned_below: reply.pruned_below,
            cluster_id: reply.cluster_id.to_vec(),
            revision: reply.meta.map_or(0, |meta| meta.revision),
        })
    }

    /// A block; `None` where there is none.
    ///
    /// # Errors
    /// [`StoreError`] without an answer; [`StoreError::Pruned`] for one that is forgotten.
    pub async fn block(&self, id: BlockId) -> Result<Option<Block>, StoreError> {
        use v1::block_request::Which;
        let request = v1::BlockRequest {
            meta: self.monotonic(),
            which: Some(match id {
                BlockId::Hash(hash) => Which::Hash(hash_bytes(hash)),
                BlockId::Number(number) => Which::Number(number),
            }),
        };
        let reply = self.call("block", |channel| {
            let request = request.clone();
            async move { state(channel).block(request).await }
        });
        let Some(reply) = found(reply.await)? else {
            return Ok(None);
        };
        let header = required("header", reply.header.as_ref())?;
        let shards = reply.shards.into_iter().map(block_shard);
        Ok(Some(Block {
            hash: hash("hash", &reply.hash)?,
            header: Header::try_from(header)?,
            round: reply.round,
            shards: shards.collect::<Result<_, _>>()?,
            canonical: reply.canonical,
        }))
    }

    /// An accepted shard; `None` while it is undecided or where there is no such round.
    ///
    /// # Errors
    /// [`StoreError`] without an answer; [`StoreError::Pruned`] for one that is forgotten.
    pub async fn shard(
        &self,
        round: u64,
        shard: u32,
        parts: ShardParts,
    ) -> Result<Option<AcceptedShard>, StoreError> {
        let Some(reply) = found(self.ask_shard(round, shard, parts).await)? else {
            return Ok(None);
        };
        let Some(winner) = reply.winner else {
            return Ok(None);
        };
        Ok(Some(AcceptedShard {
            winner: winner.try_into()?,
            header: ShardHeader::try_from(&required("header", reply.header)?)?,
            body: parts_of(reply.body.unwrap_or_default(), parts)?,
        }))
    }

    /// An accepted shard, whole and as it came over the wire, for passing on; `None` as for [`Self::shard`].
    ///
    /// # Errors
    /// As [`Self::shard`].
    pub async fn shard_on_the_wire(
        &self,
        round: u64,
        shard: u32,
    ) -> Result<Option<v1::ShardResponse>, StoreError> {
        let reply = found(self.ask_shard(round, shard, ShardParts::ALL).await)?;
        Ok(reply.filter(|reply| reply.winner.is_some()))
    }

    async fn ask_shard(
        &self,
        round: u64,
        shard: u32,
        parts: ShardParts,
    ) -> Result<v1::ShardResponse, StoreError> {
        let request = v1::ShardRequest {
            meta: self.monotonic(),
            round,
            shard,
            transactions: parts.transactions,
            receipts: parts.receipts,
            diff: parts.diff,
        };
        self.call("shard", |channel| {
            let request = request.clone();
            async move { state(channel).shard(request).await }
        })
        .await
    }

    /// What a sealed block changed; `None` where there is no such block.
    ///
    /// # Errors
    /// [`StoreError`] without an answer; [`StoreError::Pruned`] for one that is forgotten.
    pub async fn block_diff(&self, block: B256) -> Result<Option<BlockDiff>, StoreError> {
        let request = v1::BlockDiffRequest {
            meta: self.monotonic(),
            block: hash_bytes(block),
        };
        let reply = self.call("block diff", |channel| {
            let request = request.clone();
            async move { state(channel).block_diff(request).await }
        });
        let Some(reply) = found(reply.await)? else {
            return Ok(None);
        };
        Ok(Some(BlockDiff {
            diff: Diff::try_from(&reply.diff.unwrap_or_default()).map_err(|e| e.within("diff"))?,
            fees: number("fees", &reply.fees)?,
            parent: hash("parent", &reply.parent)?,
        }))
    }

    /// Where a transaction stands: one place, or several on a fork, or none.
    ///
    /// # Errors
    /// [`StoreError`] without an answer.
    pub async fn find_transaction(&self, tx: B256) -> Result<Vec<Place>, StoreError> {
        let request = v1::FindTransactionRequest {
            meta: self.monotonic(),
            hash: hash_bytes(tx),
        };
        let reply = self.call("find transaction", |channel| {
            let request = request.clone();
            async move { state(channel).find_transaction(request).await }
        });
        let Some(reply) = found(reply.await)? else {
            return Ok(Vec::new());
        };
        let places = reply.places.iter().map(|place| {
            Ok(Place {
                block_hash: hash("places.block_hash", &place.block_hash)?,
                block_number: place.block_number,
                round: place.round,
                shard: place.shard,
                index: place.index,
                canonical: place.canonical,
            })
        });
        Ok(places.collect::<Result<_, Malformed>>()?)
    }
}

fn block_shard(wire: v1::BlockShard) -> Result<BlockShard, Malformed> {
    Ok(BlockShard {
        winner: required("shards.winner", wire.winner)?.try_into()?,
        header: ShardHeader::try_from(&required("shards.header", wire.header)?)?,
    })
}

/// The parts that were asked for; the wire's own check wants a whole body.
fn parts_of(wire: v1::ShardBody, parts: ShardParts) -> Result<ShardBody, Malformed> {
    at_most(
        "body.transactions",
        wire.transactions.len(),
        troika_proto::limits::MAX_SHARD_TRANSACTIONS,
    )?;
    let receipts = wire.receipts.iter().map(TryFrom::try_from);
    let receipts = receipts.collect::<Result<Vec<_>, Malformed>>()?;
    if parts.transactions && parts.receipts && receipts.len() != wire.transactions.len() {
        return Err(Malformed::new("body.receipts", "are not one a transaction"));
    }
    let diff = wire.diff.unwrap_or_default();
    Ok(ShardBody {
        transactions: wire.transactions.into_iter().map(Into::into).collect(),
        receipts,
        diff: Diff::try_from(&diff).map_err(|e| e.within("body.diff"))?,
    })
}
