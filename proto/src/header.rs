//! The block header: Ethereum's own RLP header at Osaka.

use crate::shard::ShardHeader;
use crate::trie::{EMPTY_ROOT, ordered_root_of_hashes};
use alloy_primitives::{Address, B256, Bloom, U256, b256, keccak256};
use alloy_rlp::{BufMut, Encodable};

/// Keccak-256 of the RLP of an empty list: the hash of no ommers.
const EMPTY_OMMERS: B256 =
    b256!("1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347");
/// SHA-256 of nothing: the hash of no requests (EIP-7685).
const EMPTY_REQUESTS: B256 =
    b256!("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");

/// A block header. What is constant in Troika (ommers, difficulty, nonce, withdrawals, blob gas, requests) appears in
/// the encoding alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Hash of the parent block; zero for genesis.
    pub parent_hash: B256,
    /// Receives the fees.
    pub beneficiary: Address,
    /// Root of the parent's state: zero until that part is built.
    pub state_root: B256,
    /// Ordered trie over the shards' transactions roots; the empty root where the block has no transaction.
    pub transactions_root: B256,
    /// Ordered trie over the shards' receipts roots; the empty root where the block has no transaction.
    pub receipts_root: B256,
    /// Union of the shards' blooms.
    pub logs_bloom: Bloom,
    /// Height; genesis is 0.
    pub number: u64,
    /// Shards times the shard gas limit.
    pub gas_limit: u64,
    /// Sum over the shards.
    pub gas_used: u64,
    /// Seconds since 1970.
    pub timestamp: u64,
    /// `extraData`: ordered trie over the shard hashes; genesis: the hash of config and allocation.
    pub shards_root: B256,
    /// `mixHash`.
    pub prev_randao: B256,
    /// EIP-1559, wei per gas.
    pub base_fee: u64,
    /// `parentBeaconBlockRoot`: kept for the validator's declaration, zero until then.
    pub parent_beacon_root: B256,
}

impl Header {
    /// The block hash: Keccak-256 of the RLP, as any Ethereum client computes it.
    pub fn hash(&self) -> B256 {
        let mut out = Vec::with_capacity(700);
        self.encode(&mut out);
        keccak256(out)
    }
}

impl Encodable for Header {
    fn encode(&self, out: &mut dyn BufMut) {
        let zero = U256::ZERO;
        let fields: [&dyn Encodable; 21] = [
            &self.parent_hash,
            &EMPTY_OMMERS,
            &self.beneficiary,
            &self.state_root,
            &self.transactions_root,
            &self.receipts_root,
            &self.logs_bloom,
            &zero,
            &self.number,
            &self.gas_limit,
            &self.gas_used,
            &self.timestamp,
            &self.shards_root,
            &self.prev_randao,
            &[0u8; 8],
            &self.base_fee,
            &EMPTY_ROOT,
            &0u64,
            &0u64,
            &self.parent_beacon_root,
            &EMPTY_REQUESTS,
        ];
        alloy_rlp::Header {
            list: true,
            payload_length: fields.iter().map(|f| f.length()).sum(),
        }
        .encode(out);
        for field in fields {
            field.encode(out);
        }
    }
}

/// Root that `extraData` carries: the ordered trie over the hash of every shard, in index order.
pub fn shards_root(shard_hashes: &[B256]) -> B256 {
    ordered_root_of_hashes(shard_hashes)
}

/// What a block's header takes from its shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockTotals {
    /// See [`Header::transactions_root`].
    pub transactions_root: B256,
    /// See [`Header::receipts_root`].
    pub receipts_root: B256,
    /// Union of the shards' blooms.
    pub logs_bloom: Bloom,
    /// Sum of the shards' gas.
    pub gas_used: u64,
    /// See [`shards_root`].
    pub shards_root: B256,
    /// Sum of the shards' fees, saturating.
    pub fees: U256,
}

impl BlockTotals {
    /// Totals over all shards in index order; `hashes` are theirs.
    pub fn of<'a>(headers: impl Iterator<Item = &'a ShardHeader>, hashes: &[B256]) -> Self {
        let mut transactions = Vec::with_capacity(hashes.len());
        let mut receipts = Vec::with_capacity(hashes.len());
        let mut totals = Self {
            transactions_root: EMPTY_ROOT,
            receipts_root: EMPTY_ROOT,
            logs_bloom: Bloom::ZERO,
            gas_used: 0,
            shards_root: shards_root(hashes),
            fees: U256::ZERO,
        };
        let mut any = false;
        for header in headers {
            any |= !header.is_empty();
            transactions.push(header.transactions_root);
            receipts.push(header.receipts_root);
            totals.logs_bloom |= header.logs_bloom;
            totals.gas_used = totals.gas_used.saturating_add(header.gas_used);
            totals.fees = totals.fees.saturating_add(header.fees);
        }
        if any {
            totals.transactions_root = ordered_root_of_hashes(&transactions);
            totals.receipts_root = ordered_root_of_hashes(&receipts);
        }
        totals
    }
}
