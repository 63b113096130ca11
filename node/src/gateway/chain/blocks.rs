//! A sealed block, seen block-wide, and the cache of such blocks.

use crate::execution::{RecoveryCache, Transaction, TxError};
use crate::store_client::{self, AcceptedShard, Winner};
use alloy_primitives::{B256, Bytes, keccak256};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use troika_proto::{Header, Receipt, ShardHeader};

/// Bytes that a block, a shard and a transaction cost beside their contents, about.
const BLOCK_BYTES: usize = 2_048;
const SHARD_BYTES: usize = 1_024;
const TRANSACTION_BYTES: usize = 768;
const LOG_BYTES: usize = 256;

/// A shard in its block.
#[derive(Clone, Debug)]
pub struct ShardSummary {
    /// Who won it.
    pub winner: Winner,
    /// What its hash covers.
    pub header: ShardHeader,
    /// Block-wide index of its first transaction.
    pub first_transaction: usize,
    /// Block-wide index of its first log.
    pub first_log: u64,
    /// Gas of the shards before it.
    pub gas_before: u64,
}

/// A transaction in its block.
#[derive(Clone, Debug)]
pub struct BlockTransaction {
    /// EIP-2718 envelope.
    pub raw: Bytes,
    /// Keccak-256 of the envelope.
    pub hash: B256,
    /// Its shard.
    pub shard: usize,
    /// Counted within the shard.
    pub receipt: Receipt,
    /// Gas of this transaction alone.
    pub gas_used: u64,
    /// Block-wide index of its first log.
    pub first_log: u64,
}

/// A sealed block: the shards' transactions in index order, one after the other.
#[derive(Debug)]
pub struct Block {
    /// Its hash.
    pub hash: B256,
    /// Its header.
    pub header: Header,
    /// The round that made it.
    pub round: u64,
    /// In index order.
    pub shards: Vec<ShardSummary>,
    /// In order.
    pub transactions: Vec<BlockTransaction>,
    index: HashMap<B256, usize>,
    recovered: OnceLock<Vec<Arc<Transaction>>>,
    bytes: usize,
}

impl Block {
    /// From a block and the bodies of all its shards, in index order.
    pub fn assemble(block: store_client::Block, bodies: Vec<AcceptedShard>) -> Self {
        let mut shards = Vec::with_capacity(bodies.len());
        let mut transactions = Vec::new();
        let (mut logs, mut gas) = (0u64, 0u64);
        let mut bytes = BLOCK_BYTES;
        for (shard, accepted) in bodies.into_iter().enumerate() {
            bytes += SHARD_BYTES;
            let gas_used = accepted.header.gas_used;
            shards.push(ShardSummary {
                winner: accepted.winner,
                header: accepted.header,
                first_transaction: transactions.len(),
                first_log: logs,
                gas_before: gas,
            });
            let mut before = 0;
            let body = accepted.body;
            for (raw, receipt) in body.transactions.into_iter().zip(body.receipts) {
                let data: usize = receipt.logs.iter().map(|l| LOG_BYTES + l.data.len()).sum();
                bytes += TRANSACTION_BYTES + raw.len() + data;
                let count = receipt.logs.len() as u64;
                transactions.push(BlockTransaction {
                    hash: keccak256(&raw),
                    raw,
                    shard,
                    gas_used: receipt.cumulative_gas - before,
                    first_log: logs,
                    receipt,
                });
                before = transactions.last().map_or(0, |t| t.receipt.cumulative_gas);
                logs += count;
            }
            gas += gas_used;
        }
        let index = transactions.iter().enumerate().map(|(i, t)| (t.hash, i));
        Self {
            hash: block.hash,
            header: block.header,
            round: block.round,
            index: index.collect(),
            shards,
            transactions,
            recovered: OnceLock::new(),
            bytes,
        }
    }

    /// Block-wide index of a transaction.
    pub fn position(&self, hash: &B256) -> Option<usize> {
        self.index.get(hash).copied()
    }

    /// Gas of the block up to and including the transaction at `index`.
    pub fn cumulative_gas(&self, index: usize) -> u64 {
        let tx = &self.transactions[index];
        self.shards[tx.shard].gas_before + tx.receipt.cumulative_gas
    }

    /// All transactions with their senders: recovered once, on several threads. Blocks: call it on a blocking thread.
    ///
    /// # Errors
    /// [`TxError`]: a sealed transaction that does not decode, which no correct executor proposes.
    pub fn recovered(&self, cache: &RecoveryCache) -> Result<&[Arc<Transaction>], TxError> {
        if let Some(known) = self.recovered.get() {
            return Ok(known);
        }
        let raws: Vec<Bytes> = self.transactions.iter().map(|t| t.raw.clone()).collect();
        let recovered = cache
            .recover_all(&raws)
            .into_iter()
            .collect::<Result<_, _>>()?;
        Ok(self.recovered.get_or_init(|| recovered))
    }

    /// Bytes that it takes, about; twice for what decoding adds.
    pub fn bytes(&self) -> usize {
        2 * self.bytes
    }
}

/// Sealed blocks that were read lately, bounded in bytes; the oldest read goes first.
#[derive(Debug, Default)]
pub struct BlockCache {
    max_bytes: usize,
    bytes: usize,
    blocks: HashMap<B256, Arc<Block>>,
    order: VecDeque<B256>,
    canonical: BTreeMap<u64, B256>,
}

impl BlockCache {
    /// Empty.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            ..Self::default()
        }
    }

    /// A block of that hash.
    pub fn by_hash(&self, hash: B256) -> Option<Arc<Block>> {
        self.blocks.get(&hash).cloned()
    }

    /// The block of that number on the head's chain.
    pub fn by_number(&self, number: u64) -> Option<Arc<Block>> {
        self.by_hash(*self.canonical.get(&number)?)
    }

    /// Keeps a block; `canonical`: it is the head or an ancestor of it.
    pub fn insert(&mut self, block: Arc<Block>, canonical: bool) {
        if canonical {
            self.canonical.insert(block.header.number, block.hash);
        }
        if self.blocks.contains_key(&block.hash) {
            return;
        }
        self.bytes += block.bytes();
        self.order.push_back(block.hash);
        self.blocks.insert(block.hash, block);
        while self.bytes > self.max_bytes && self.order.len() > 1 {
            let Some(oldest) = self.order.pop_front().and_then(|h| self.blocks.remove(&h)) else {
                break;
            };
            self.bytes -= oldest.bytes();
            if self.canonical.get(&oldest.header.number) == Some(&oldest.hash) {
                self.canonical.remove(&oldest.header.number);
            }
        }
    }
}
