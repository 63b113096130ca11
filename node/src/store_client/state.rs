//! The calls of `troika.v1.State`.

use super::transport::{StoreClient, StoreError, found};
use super::types::{AcceptedShard, Block, BlockDiff, BlockShard, Head, Place};
use tonic::transport::Channel;
use troika_proto::limits::{MAX_MESSAGE_BYTES, MAX_READ_CODES, MAX_READ_KEYS};
use troika_proto::whole::Whole;
use troika_proto::wire::{address_bytes, at_most, hash, hash_bytes, number, required};
use troika_proto::{
    Address, B256, Bytes, ChainConfig, Diff, Header, Malformed, ShardBody, ShardHeader, U256, v1,
};
use v1::state_client::StateClient;

fn state(channel: Channel) -> StateClient<Whole<Channel>> {
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

/// What to read of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StateKey {
    /// An account.
    Account(Address),
    /// A storage slot.
    Slot(Address, U256),
}

/// An account that exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountState {
    /// Wei.
    pub balance: U256,
    /// Transactions sent.
    pub nonce: u64,
    /// `None`: no code.
    pub code_hash: Option<B256>,
}

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateValue {
    /// `None`: there is no such account.
    Account(Option<AccountState>),
    /// Zero where it was never written.
    Slot(U256),
}

/// The answer to a state read.
#[derive(Clone, Debug)]
pub struct StateValues {
    /// The block that was read.
    pub block: B256,
    /// One a key, in the order asked.
    pub values: Vec<StateValue>,
    /// One a code hash, in the order asked; `None` where unknown.
    pub codes: Vec<Option<Bytes>>,
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

    /// Reads the state at a block (`None`: at the head of whoever answers). Any number of keys and codes: what exceeds
    /// one message is asked for in several, all at the same block.
    ///
    /// # Errors
    /// [`StoreError`] without an answer; [`StoreError::Pruned`] where the block's state is no longer kept.
    pub async fn read(
        &self,
        block: Option<B256>,
        keys: &[StateKey],
        codes: &[B256],
    ) -> Result<StateValues, StoreError> {
        let mut key_pages = keys.chunks(MAX_READ_KEYS);
        let mut code_pages = codes.chunks(MAX_READ_CODES);
        let mut all: Option<StateValues> = None;
        loop {
            let (key_page, code_page) = (key_pages.next(), code_pages.next());
            if key_page.is_none()
                && code_page.is_none()
                && let Some(all) = all
            {
                return Ok(all);
            }
            let at = all.as_ref().map(|all| all.block).or(block);
            let (key_page, code_page) =
                (key_page.unwrap_or_default(), code_page.unwrap_or_default());
            let page = self.read_page(at, key_page, code_page).await?;
            match &mut all {
                None => all = Some(page),
                Some(all) => {
                    all.values.extend(page.values);
                    all.codes.extend(page.codes);
                }
            }
        }
    }

    async fn read_page(
        &self,
        block: Option<B256>,
        keys: &[StateKey],
        codes: &[B256],
    ) -> Result<StateValues, StoreError> {
        let request = v1::ReadRequest {
            meta: self.monotonic(),
            block: block.map(hash_bytes).unwrap_or_default(),
            keys: keys.iter().map(wire_key).collect(),
            codes: codes.iter().map(|code| hash_bytes(*code)).collect(),
            linearizable: false,
        };
        let reply = self
            .call("read state", |channel| {
                let request = request.clone();
                async move { state(channel).read(request).await }
            })
            .await?;
        if reply.values.len() != keys.len() || reply.codes.len() != codes.len() {
            return Err(Malformed::new("values", "are not one for each key").into());
        }
        let values = keys.iter().zip(&reply.values).map(value);
        let codes = reply.codes.into_iter();
        Ok(StateValues {
            block: hash("block", &reply.block)?,
            values: values.collect::<Result<_, _>>()?,
            codes: codes
                .map(|code| (!code.is_empty()).then(|| code.into()))
                .collect(),
        })
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

fn wire_key(key: &StateKey) -> v1::StateKey {
    match key {
        StateKey::Account(address) => v1::StateKey {
            address: address_bytes(*address),
            slot: bytes::Bytes::new(),
        },
        StateKey::Slot(address, slot) => v1::StateKey {
            address: address_bytes(*address),
            slot: bytes::Bytes::copy_from_slice(&slot.to_be_bytes::<32>()),
        },
    }
}

fn value((key, wire): (&StateKey, &v1::StateValue)) -> Result<StateValue, Malformed> {
    Ok(match key {
        StateKey::Slot(..) => StateValue::Slot(number("values.slot", &wire.slot)?),
        StateKey::Account(_) if !wire.exists => StateValue::Account(None),
        StateKey::Account(_) => StateValue::Account(Some(AccountState {
            balance: number("values.balance", &wire.balance)?,
            nonce: wire.nonce,
            code_hash: super::convert::optional_hash("values.code_hash", &wire.code_hash)?,
        })),
    })
}
