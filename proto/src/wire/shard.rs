//! Receipts, shards and headers.

use super::{
    Arena, Malformed, address, address_bytes, at_most, fixed, hash, hash_bytes, number,
    number_bytes, required,
};
use crate::diff::Diff;
use crate::header::Header;
use crate::limits::{MAX_SHARD_TRANSACTIONS, MAX_TOPICS, MAX_TRANSACTION_BYTES};
use crate::receipt::{Log, Receipt};
use crate::shard::{ShardBody, ShardHeader};
use crate::v1;
use alloy_primitives::{B256, Bloom};
use bytes::Bytes;

/// Highest EIP-2718 type that a receipt may name.
const MAX_TX_TYPE: u32 = 4;

impl TryFrom<&v1::Receipt> for Receipt {
    type Error = Malformed;

    fn try_from(wire: &v1::Receipt) -> Result<Self, Malformed> {
        if wire.tx_type > MAX_TX_TYPE {
            return Err(Malformed::new(
                "tx_type",
                format!("is {}, expected at most {MAX_TX_TYPE}", wire.tx_type),
            ));
        }
        let mut logs = Vec::with_capacity(wire.logs.len());
        for (i, log) in wire.logs.iter().enumerate() {
            logs.push(log_from_wire(log).map_err(|e| e.within(format_args!("logs[{i}]")))?);
        }
        Ok(Self {
            tx_type: wire.tx_type as u8,
            success: wire.success,
            cumulative_gas: wire.cumulative_gas,
            logs,
        })
    }
}

fn log_from_wire(wire: &v1::Log) -> Result<Log, Malformed> {
    let (topics, rest) = wire.topics.as_chunks::<32>();
    if !rest.is_empty() || topics.len() > MAX_TOPICS {
        return Err(Malformed::new(
            "topics",
            format!(
                "is {} bytes, expected 32 for each of at most {MAX_TOPICS}",
                wire.topics.len()
            ),
        ));
    }
    Ok(Log {
        address: address("address", &wire.address)?,
        topics: topics.iter().map(B256::from).collect(),
        data: wire.data.clone().into(),
    })
}

/// About the bytes of a log's address and topics.
const LOG_BYTES: usize = 20 + 3 * 32;

impl From<&Receipt> for v1::Receipt {
    fn from(receipt: &Receipt) -> Self {
        receipt_to_wire(receipt, &mut Arena::new(receipt.logs.len() * LOG_BYTES))
    }
}

fn receipt_to_wire(receipt: &Receipt, arena: &mut Arena) -> v1::Receipt {
    let logs = receipt.logs.iter().map(|log| v1::Log {
        address: arena.bytes(log.address.as_slice()),
        topics: arena.concat(log.topics.iter().map(|topic| topic.as_slice())),
        data: log.data.clone().into(),
    });
    v1::Receipt {
        tx_type: receipt.tx_type.into(),
        success: receipt.success,
        cumulative_gas: receipt.cumulative_gas,
        logs: logs.collect(),
    }
}

fn bloom(field: &str, bytes: &[u8]) -> Result<Bloom, Malformed> {
    match bytes {
        [] => Ok(Bloom::ZERO),
        bytes => fixed::<256>(field, bytes).map(Bloom::from),
    }
}

/// A bloom from the wire in full, for whoever shows it.
pub fn whole_bloom(bytes: &Bytes) -> Bytes {
    match bytes.is_empty() {
        true => Bytes::from_static(&[0; 256]),
        false => bytes.clone(),
    }
}

/// Nothing for a bloom of nothing: it would be a quarter of a small proposal.
fn bloom_bytes(bloom: &Bloom) -> Bytes {
    match bloom.is_zero() {
        true => Bytes::new(),
        false => Bytes::copy_from_slice(bloom.as_slice()),
    }
}

impl TryFrom<&v1::ShardHeader> for ShardHeader {
    type Error = Malformed;

    fn try_from(wire: &v1::ShardHeader) -> Result<Self, Malformed> {
        if wire.version != Self::VERSION {
            return Err(Malformed::new(
                "version",
                format!("is {}, expected {}", wire.version, Self::VERSION),
            ));
        }
        Ok(Self {
            version: wire.version,
            index: wire.index,
            transactions_root: hash("transactions_root", &wire.transactions_root)?,
            receipts_root: hash("receipts_root", &wire.receipts_root)?,
            transaction_count: wire.transaction_count,
            log_count: wire.log_count,
            logs_bloom: bloom("logs_bloom", &wire.logs_bloom)?,
            diff_root: hash("diff_root", &wire.diff_root)?,
            gas_used: wire.gas_used,
            fees: number("fees", &wire.fees)?,
        })
    }
}

impl From<&ShardHeader> for v1::ShardHeader {
    fn from(header: &ShardHeader) -> Self {
        Self {
            version: header.version,
            index: header.index,
            transactions_root: hash_bytes(header.transactions_root),
            receipts_root: hash_bytes(header.receipts_root),
            transaction_count: header.transaction_count,
            log_count: header.log_count,
            logs_bloom: bloom_bytes(&header.logs_bloom),
            diff_root: hash_bytes(header.diff_root),
            gas_used: header.gas_used,
            fees: number_bytes(header.fees),
        }
    }
}

impl TryFrom<&v1::ShardBody> for ShardBody {
    type Error = Malformed;

    fn try_from(wire: &v1::ShardBody) -> Result<Self, Malformed> {
        at_most(
            "transactions",
            wire.transactions.len(),
            MAX_SHARD_TRANSACTIONS,
        )?;
        if wire.receipts.len() != wire.transactions.len() {
            return Err(Malformed::new(
                "receipts",
                format!(
                    "has {}, expected one for each of {} transactions",
                    wire.receipts.len(),
                    wire.transactions.len()
                ),
            ));
        }
        let mut transactions = Vec::with_capacity(wire.transactions.len());
        for (i, tx) in wire.transactions.iter().enumerate() {
            if tx.is_empty() || tx.len() > MAX_TRANSACTION_BYTES {
                return Err(Malformed::new(
                    format!("transactions[{i}]"),
                    format!(
                        "is {} bytes, expected 1 to {MAX_TRANSACTION_BYTES}",
                        tx.len()
                    ),
                ));
            }
            transactions.push(tx.clone().into());
        }
        let mut receipts = Vec::with_capacity(wire.receipts.len());
        for (i, receipt) in wire.receipts.iter().enumerate() {
            let receipt =
                Receipt::try_from(receipt).map_err(|e| e.within(format_args!("receipts[{i}]")))?;
            receipts.push(receipt);
        }
        let diff = required("diff", wire.diff.as_ref())?;
        Ok(Self {
            transactions,
            receipts,
            diff: Diff::try_from(diff).map_err(|e| e.within("diff"))?,
        })
    }
}

impl From<&ShardBody> for v1::ShardBody {
    fn from(body: &ShardBody) -> Self {
        let logs: usize = body.receipts.iter().map(|r| r.logs.len()).sum();
        let mut arena = Arena::new(logs * LOG_BYTES);
        Self {
            transactions: body
                .transactions
                .iter()
                .map(|tx| tx.clone().into())
                .collect(),
            receipts: body
                .receipts
                .iter()
                .map(|receipt| receipt_to_wire(receipt, &mut arena))
                .collect(),
            diff: Some((&body.diff).into()),
        }
    }
}

impl TryFrom<&v1::Header> for Header {
    type Error = Malformed;

    fn try_from(wire: &v1::Header) -> Result<Self, Malformed> {
        Ok(Self {
            parent_hash: hash("parent_hash", &wire.parent_hash)?,
            beneficiary: address("beneficiary", &wire.beneficiary)?,
            state_root: hash("state_root", &wire.state_root)?,
            transactions_root: hash("transactions_root", &wire.transactions_root)?,
            receipts_root: hash("receipts_root", &wire.receipts_root)?,
            logs_bloom: bloom("logs_bloom", &wire.logs_bloom)?,
            number: wire.number,
            gas_limit: wire.gas_limit,
            gas_used: wire.gas_used,
            timestamp: wire.timestamp,
            shards_root: hash("shards_root", &wire.shards_root)?,
            prev_randao: hash("prev_randao", &wire.prev_randao)?,
            base_fee: wire.base_fee,
            parent_beacon_root: hash("parent_beacon_root", &wire.parent_beacon_root)?,
        })
    }
}

impl From<&Header> for v1::Header {
    fn from(header: &Header) -> Self {
        Self {
            parent_hash: hash_bytes(header.parent_hash),
            beneficiary: address_bytes(header.beneficiary),
            state_root: hash_bytes(header.state_root),
            transactions_root: hash_bytes(header.transactions_root),
            receipts_root: hash_bytes(header.receipts_root),
            logs_bloom: bloom_bytes(&header.logs_bloom),
            number: header.number,
            gas_limit: header.gas_limit,
            gas_used: header.gas_used,
            timestamp: header.timestamp,
            shards_root: hash_bytes(header.shards_root),
            prev_randao: hash_bytes(header.prev_randao),
            base_fee: header.base_fee,
            parent_beacon_root: hash_bytes(header.parent_beacon_root),
        }
    }
}
