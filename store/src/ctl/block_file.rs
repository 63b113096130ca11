//! Blocks as JSON files: what `troikactl -o json block` prints and `round open --verify` reads.

use super::exit::CtlError;
use super::genesis::read_json;
use alloy_primitives::{Address, B256, Bytes};
use serde::Deserialize;
use std::path::Path;
use troika_proto::v1;
use troika_proto::wire::{address_bytes, hash_bytes};

/// Most bytes of a block file: 16,384 shards with their winners and headers.
const MAX_BLOCK_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// A header and the hash of every shard. Other fields are ignored.
#[derive(Debug, Deserialize)]
pub(super) struct BlockFile {
    header: HeaderFile,
    shard_hashes: Vec<B256>,
}

#[derive(Debug, Deserialize)]
struct HeaderFile {
    parent_hash: B256,
    beneficiary: Address,
    state_root: B256,
    transactions_root: B256,
    receipts_root: B256,
    logs_bloom: Bytes,
    number: u64,
    gas_limit: u64,
    gas_used: u64,
    timestamp: u64,
    shards_root: B256,
    prev_randao: B256,
    base_fee: u64,
    parent_beacon_root: B256,
}

/// Reads a block: its header and its shard hashes.
pub(super) fn read_block(path: &Path) -> Result<(v1::Header, Vec<bytes::Bytes>), CtlError> {
    let file: BlockFile = read_json(path, MAX_BLOCK_FILE_BYTES)?;
    let header = file.header;
    let wire = v1::Header {
        parent_hash: hash_bytes(header.parent_hash),
        beneficiary: address_bytes(header.beneficiary),
        state_root: hash_bytes(header.state_root),
        transactions_root: hash_bytes(header.transactions_root),
        receipts_root: hash_bytes(header.receipts_root),
        logs_bloom: header.logs_bloom.into(),
        number: header.number,
        gas_limit: header.gas_limit,
        gas_used: header.gas_used,
        timestamp: header.timestamp,
        shards_root: hash_bytes(header.shards_root),
        prev_randao: hash_bytes(header.prev_randao),
        base_fee: header.base_fee,
        parent_beacon_root: hash_bytes(header.parent_beacon_root),
    };
    let hashes = file.shard_hashes.into_iter().map(hash_bytes).collect();
    Ok((wire, hashes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::show;

    #[test]
    fn a_printed_block_is_read_back() {
        let header = troika_proto::Header {
            number: 7,
            base_fee: 9,
            ..Default::default()
        };
        let printed = serde_json::json!({
            "hash": "0x00",
            "header": show::header(&v1::Header::from(&header)),
            "shard_hashes": [show::hex_value(&[3; 32])],
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), printed.to_string()).unwrap();
        let (read, hashes) = read_block(file.path()).unwrap();
        assert_eq!(troika_proto::Header::try_from(&read).unwrap(), header);
        assert_eq!(hashes, [bytes::Bytes::from(vec![3; 32])]);
    }
}
