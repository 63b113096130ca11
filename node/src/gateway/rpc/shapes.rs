//! Ethereum's JSON of what was sealed. Indices, cumulative gas and log index count block-wide (rule 10).

use crate::execution::{Envelope, Transaction};
use crate::gateway::chain::Block;
use alloy_consensus::transaction::Recovered;
use alloy_consensus::{
    EMPTY_OMMER_ROOT_HASH, Eip658Value, ReceiptEnvelope, ReceiptWithBloom, Sealed, TxType,
};
use alloy_eips::eip4895::Withdrawals;
use alloy_eips::eip7685::EMPTY_REQUESTS_HASH;
use alloy_primitives::{B64, LogData, U256};
use alloy_rlp::{Encodable, Header as RlpHeader, length_of_length};
use alloy_rpc_types_eth as eth;
use eth::{BlockTransactions, TransactionReceipt};
use std::sync::Arc;
use troika_proto::{EMPTY_ROOT, Header};

/// A transaction, sealed or pending.
pub type RpcTransaction = eth::Transaction<Envelope>;
/// A block.
pub type RpcBlock = eth::Block<RpcTransaction>;

/// All 21 fields of an Osaka header, so that a client that hashes them gets the block's hash.
pub fn consensus_header(header: &Header) -> alloy_consensus::Header {
    alloy_consensus::Header {
        parent_hash: header.parent_hash,
        ommers_hash: EMPTY_OMMER_ROOT_HASH,
        beneficiary: header.beneficiary,
        state_root: header.state_root,
        transactions_root: header.transactions_root,
        receipts_root: header.receipts_root,
        logs_bloom: header.logs_bloom,
        difficulty: U256::ZERO,
        number: header.number,
        gas_limit: header.gas_limit,
        gas_used: header.gas_used,
        timestamp: header.timestamp,
        extra_data: header.shards_root.to_vec().into(),
        mix_hash: header.prev_randao,
        nonce: B64::ZERO,
        base_fee_per_gas: Some(header.base_fee),
        withdrawals_root: Some(EMPTY_ROOT),
        blob_gas_used: Some(0),
        excess_blob_gas: Some(0),
        parent_beacon_block_root: Some(header.parent_beacon_root),
        requests_hash: Some(EMPTY_REQUESTS_HASH),
        ..Default::default()
    }
}

/// A header as `eth_subscribe` sends it.
pub fn header(block: &Block) -> eth::Header {
    let consensus = consensus_header(&block.header);
    let size = U256::from(rlp_size(block, &consensus));
    eth::Header::from_consensus(
        Sealed::new_unchecked(consensus, block.hash),
        None,
        Some(size),
    )
}

/// Bytes of the block's RLP: header, transactions, no ommers, no withdrawals.
fn rlp_size(block: &Block, header: &alloy_consensus::Header) -> usize {
    let transactions = block.transactions.iter().map(|tx| match tx.raw.first() {
        // A legacy transaction is a list of its own, a typed one travels as a string.
        Some(first) if *first >= 0xc0 => tx.raw.len(),
        _ => tx.raw.length(),
    });
    let transactions: usize = transactions.sum();
    let list = RlpHeader {
        list: true,
        payload_length: transactions,
    };
    let payload = header.length() + list.length_with_payload() + 2;
    payload + length_of_length(payload)
}

/// A block, with hashes of its transactions or, where they are given, the transactions themselves.
pub fn block(block: &Block, recovered: Option<&[Arc<Transaction>]>) -> RpcBlock {
    let transactions = match recovered {
        None => BlockTransactions::Hashes(block.transactions.iter().map(|t| t.hash).collect()),
        Some(recovered) => BlockTransactions::Full(
            recovered
                .iter()
                .enumerate()
                .map(|(i, tx)| transaction(tx, Some((block, i))))
                .collect(),
        ),
    };
    eth::Block {
        header: header(block),
        uncles: Vec::new(),
        transactions,
        withdrawals: Some(Withdrawals::default()),
    }
}

/// A transaction; with its block and its index there, or pending.
pub fn transaction(tx: &Transaction, place: Option<(&Block, usize)>) -> RpcTransaction {
    let base_fee = place.map(|(block, _)| block.header.base_fee);
    RpcTransaction {
        inner: Recovered::new_unchecked(tx.envelope.clone(), tx.sender),
        block_hash: place.map(|(block, _)| block.hash),
        block_number: place.map(|(block, _)| block.header.number),
        transaction_index: place.map(|(_, index)| index as u64),
        effective_gas_price: Some(base_fee.map_or(tx.max_fee(), |fee| tx.effective_price(fee))),
        block_timestamp: place.map(|(block, _)| block.header.timestamp),
    }
}

/// The logs of the transaction at `index`.
pub fn logs(block: &Block, index: usize) -> Vec<eth::Log> {
    let tx = &block.transactions[index];
    let logs = tx.receipt.logs.iter().zip(tx.first_log..);
    let logs = logs.map(|(log, log_index)| eth::Log {
        inner: alloy_primitives::Log {
            address: log.address,
            data: LogData::new_unchecked(log.topics.clone(), log.data.clone()),
        },
        block_hash: Some(block.hash),
        block_number: Some(block.header.number),
        block_timestamp: Some(block.header.timestamp),
        transaction_hash: Some(tx.hash),
        transaction_index: Some(index as u64),
        log_index: Some(log_index),
        removed: false,
    });
    logs.collect()
}

/// The receipt of the transaction at `index`; `tx` is that transaction.
pub fn receipt(block: &Block, index: usize, tx: &Transaction) -> TransactionReceipt {
    let sealed = &block.transactions[index];
    let tx_type = TxType::try_from(sealed.receipt.tx_type).unwrap_or(TxType::Legacy);
    let inner = ReceiptWithBloom {
        receipt: alloy_consensus::Receipt {
            status: Eip658Value::Eip658(sealed.receipt.success),
            cumulative_gas_used: block.cumulative_gas(index),
            logs: logs(block, index),
        },
        logs_bloom: sealed.receipt.bloom(),
    };
    let created = tx.to().is_none().then(|| tx.sender.create(tx.nonce()));
    TransactionReceipt {
        inner: ReceiptEnvelope::from_typed(tx_type, inner),
        transaction_hash: sealed.hash,
        transaction_index: Some(index as u64),
        block_hash: Some(block.hash),
        block_number: Some(block.header.number),
        gas_used: sealed.gas_used,
        effective_gas_price: tx.effective_price(block.header.base_fee),
        blob_gas_used: None,
        blob_gas_price: None,
        from: tx.sender,
        to: tx.to(),
        contract_address: created,
    }
}
