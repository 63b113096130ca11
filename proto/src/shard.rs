//! A shard: transactions, receipts and diff under a header whose hash is the shard's.

use crate::diff::Diff;
use crate::hash::keccak;
use crate::lock::LockRule;
use crate::receipt::Receipt;
use crate::trie::{EMPTY_ROOT, ordered_root};
use alloy_primitives::{B256, Bloom, Bytes, U256};
use alloy_rlp::{Encodable, RlpEncodable};

/// What a shard's hash covers. Field order is the RLP's.
#[derive(Clone, Debug, PartialEq, Eq, RlpEncodable)]
pub struct ShardHeader {
    /// [`ShardHeader::VERSION`].
    pub version: u32,
    /// Shard index in the block.
    pub index: u32,
    /// Ordered trie over the EIP-2718 transactions.
    pub transactions_root: B256,
    /// Ordered trie over the EIP-2718 receipts, shard-local values.
    pub receipts_root: B256,
    /// Number of transactions.
    pub transaction_count: u32,
    /// Number of logs.
    pub log_count: u32,
    /// Union of the receipts' blooms.
    pub logs_bloom: Bloom,
    /// Two-level trie over the diff.
    pub diff_root: B256,
    /// Gas used by all transactions, after refunds.
    pub gas_used: u64,
    /// Priority fees, in wei: credited when the block seals.
    pub fees: U256,
}

impl ShardHeader {
    /// The only version there is.
    pub const VERSION: u32 = 1;

    /// The header of the empty shard at `index`.
    pub fn empty(index: u32) -> Self {
        Self {
            version: Self::VERSION,
            index,
            transactions_root: EMPTY_ROOT,
            receipts_root: EMPTY_ROOT,
            transaction_count: 0,
            log_count: 0,
            logs_bloom: Bloom::ZERO,
            diff_root: EMPTY_ROOT,
            gas_used: 0,
            fees: U256::ZERO,
        }
    }

    /// Computes the header that `body` has at `index`; the fees cannot be read off the body.
    pub fn of(index: u32, body: &ShardBody, fees: U256, rule: LockRule) -> Self {
        let mut logs_bloom = Bloom::ZERO;
        let mut encoded = Vec::with_capacity(body.receipts.len());
        for receipt in &body.receipts {
            let bloom = receipt.bloom();
            let mut bytes = Vec::with_capacity(320);
            receipt.encode_2718(&bloom, &mut bytes);
            logs_bloom |= bloom;
            encoded.push(bytes);
        }
        Self {
            version: Self::VERSION,
            index,
            transactions_root: ordered_root(&body.transactions),
            receipts_root: ordered_root(&encoded),
            transaction_count: body.transactions.len() as u32,
            log_count: body.receipts.iter().map(|r| r.logs.len() as u32).sum(),
            logs_bloom,
            diff_root: body.diff.root(rule),
            gas_used: body.receipts.last().map_or(0, |r| r.cumulative_gas),
            fees,
        }
    }

    /// The shard hash: Keccak-256 of the RLP.
    pub fn hash(&self) -> B256 {
        let mut out = Vec::with_capacity(512);
        self.encode(&mut out);
        keccak(out)
    }

    /// True if the shard has no transaction.
    pub fn is_empty(&self) -> bool {
        self.transaction_count == 0
    }
}

/// Everything that a shard's header commits to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardBody {
    /// EIP-2718 envelopes, in execution order.
    pub transactions: Vec<Bytes>,
    /// One for each transaction.
    pub receipts: Vec<Receipt>,
    /// Net changes against the parent block.
    pub diff: Diff,
}

/// A shard whose header, hash and body belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// What the hash covers.
    pub header: ShardHeader,
    /// Keccak-256 of the header's RLP.
    pub hash: B256,
    /// What the header covers.
    pub body: ShardBody,
}

/// Why a shard is refused before it is logged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardFault {
    /// The header's field is not what the body gives.
    #[error("header.{field}: the body gives {computed}, the header says {found}")]
    Mismatch {
        /// Field of the shard header.
        field: &'static str,
        /// What the body gives.
        computed: String,
        /// What the header says.
        found: String,
    },
    /// Cumulative gas must rise with every receipt.
    #[error("body.receipts[{0}].cumulative_gas: does not rise")]
    GasNotRising(usize),
}

impl Shard {
    /// Makes a shard of a body.
    pub fn new(index: u32, body: ShardBody, fees: U256, rule: LockRule) -> Self {
        let header = ShardHeader::of(index, &body, fees, rule);
        let hash = header.hash();
        Self { header, hash, body }
    }

    /// The empty shard at `index`.
    pub fn empty(index: u32) -> Self {
        let header = ShardHeader::empty(index);
        let hash = header.hash();
        Self {
            header,
            hash,
            body: ShardBody::default(),
        }
    }

    /// Checks that `header` is what `body` gives, and puts them together.
    ///
    /// # Errors
    /// [`ShardFault`], naming the first field that differs.
    pub fn check(header: ShardHeader, body: ShardBody, rule: LockRule) -> Result<Self, ShardFault> {
        let mut gas = 0;
        for (i, receipt) in body.receipts.iter().enumerate() {
            if receipt.cumulative_gas <= gas {
                return Err(ShardFault::GasNotRising(i));
            }
            gas = receipt.cumulative_gas;
        }
        let computed = ShardHeader::of(header.index, &body, header.fees, rule);
        if computed != header {
            return Err(first_difference(&computed, &header));
        }
        let hash = header.hash();
        Ok(Self { header, hash, body })
    }
}

fn first_difference(computed: &ShardHeader, found: &ShardHeader) -> ShardFault {
    macro_rules! compare {
        ($($field:ident),*) => {$(
            if computed.$field != found.$field {
                return ShardFault::Mismatch {
                    field: stringify!($field),
                    computed: format!("{:?}", computed.$field),
                    found: format!("{:?}", found.$field),
                };
            }
        )*};
    }
    compare!(
        version,
        transactions_root,
        receipts_root,
        transaction_count,
        log_count,
        logs_bloom,
        diff_root,
        gas_used
    );
    unreachable!("headers differ only in fields that are compared: index and fees are taken over")
}
