//! The header of a shard that was built here.
//!
//! It is [`ShardHeader::of`] of the body, made with less hashing: the logs of a shard name the same contracts, events and
//! accounts over and over, and hashing them is most of what their blooms cost.

use alloy_primitives::{Address, B256, Bloom, BloomInput, keccak256};
use troika_proto::{LockRule, Log, Receipt, Shard, ShardBody, ShardHeader, U256, ordered_root};

/// Hashes of topics that are remembered, a power of two. A topic's place follows from its bytes; who comes later has it.
const TOPICS: usize = 2_048;
/// The same for addresses.
const ADDRESSES: usize = 256;
/// Bytes of a receipt without logs, about.
const RECEIPT_BYTES: usize = 320;
/// Bytes of a log with three topics and a word of data, about.
const LOG_BYTES: usize = 192;

/// The shard that `body` makes at `index`.
pub fn shard(index: u32, body: ShardBody, fees: U256, rule: LockRule) -> Shard {
    let (receipts_root, logs_bloom) = receipts(&body.receipts);
    let logs = body.receipts.iter().map(|receipt| receipt.logs.len());
    let header = ShardHeader {
        version: ShardHeader::VERSION,
        index,
        transactions_root: ordered_root(&body.transactions),
        receipts_root,
        transaction_count: body.transactions.len() as u32,
        log_count: logs.sum::<usize>() as u32,
        logs_bloom,
        diff_root: body.diff.root(rule),
        gas_used: body.receipts.last().map_or(0, |r| r.cumulative_gas),
        fees,
    };
    let hash = header.hash();
    Shard { header, hash, body }
}

/// The root of the receipts and the union of their blooms.
pub fn receipts(receipts: &[Receipt]) -> (B256, Bloom) {
    let mut hashes = Hashes::default();
    let mut union = Bloom::ZERO;
    let encode = |receipt: &Receipt| {
        let bloom = hashes.bloom(&receipt.logs);
        union |= bloom;
        let mut bytes = Vec::with_capacity(RECEIPT_BYTES + receipt.logs.len() * LOG_BYTES);
        receipt.encode_2718(&bloom, &mut bytes);
        bytes
    };
    let encoded: Vec<Vec<u8>> = receipts.iter().map(encode).collect();
    (ordered_root(&encoded), union)
}

/// Hashes of what logs named lately.
struct Hashes {
    addresses: Vec<Option<(Address, B256)>>,
    topics: Vec<Option<(B256, B256)>>,
}

impl Default for Hashes {
    fn default() -> Self {
        Self {
            addresses: vec![None; ADDRESSES],
            topics: vec![None; TOPICS],
        }
    }
}

impl Hashes {
    fn bloom(&mut self, logs: &[Log]) -> Bloom {
        let mut bloom = Bloom::ZERO;
        let mut before: Option<&Log> = None;
        for log in logs {
            // What the log before had in the same place is in already.
            if before.is_none_or(|b| b.address != log.address) {
                let hash = remembered(&mut self.addresses, log.address);
                bloom.accrue(BloomInput::Hash(hash));
            }
            for (place, topic) in log.topics.iter().enumerate() {
                if before.is_none_or(|b| b.topics.get(place) != Some(topic)) {
                    let hash = remembered(&mut self.topics, *topic);
                    bloom.accrue(BloomInput::Hash(hash));
                }
            }
            before = Some(log);
        }
        bloom
    }
}

/// Keccak-256 of `value`, from its place or else hashed.
fn remembered<T: AsRef<[u8]> + Copy + PartialEq>(
    places: &mut [Option<(T, B256)>],
    value: T,
) -> B256 {
    let place = &mut places[place_of(value.as_ref()) % places.len()];
    match place {
        Some((known, hash)) if *known == value => *hash,
        _ => {
            let hash = keccak256(value);
            *place = Some((value, hash));
            hash
        }
    }
}

/// Of 16 bytes or more: mixes the last eight, which differ between accounts, and the first, which differ between events.
fn place_of(bytes: &[u8]) -> usize {
    let word = |bytes: &[u8]| {
        let word = <[u8; 8]>::try_from(bytes).unwrap_or_default();
        u64::from_le_bytes(word)
    };
    let mixed = word(&bytes[..8]) ^ word(&bytes[bytes.len() - 8..]).rotate_left(32);
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::Bytes;
    use proptest::prelude::*;
    use troika_proto::Diff;

    /// Few values, so that they repeat, and more than there are places, so that they come into each other's way.
    fn log() -> impl Strategy<Value = Log> {
        let topics = proptest::collection::vec(0..3 * TOPICS as u64, 0..=4);
        (0..3 * ADDRESSES as u64, topics, any::<bool>()).prop_map(|(address, topics, few)| {
            let few = if few { 4 } else { u64::MAX };
            let word = |n: u64| B256::from(U256::from(n % few));
            Log {
                address: Address::from_word(word(address)),
                topics: topics.into_iter().map(word).collect(),
                data: Bytes::from_static(b"data"),
            }
        })
    }

    proptest! {
        #[test]
        fn a_shard_built_here_has_the_header_that_its_body_gives(
            receipts in proptest::collection::vec(proptest::collection::vec(log(), 0..12), 0..60),
        ) {
            let receipts = receipts.into_iter().zip(1..).map(|(logs, n)| Receipt {
                tx_type: (n % 3) as u8,
                success: n % 5 != 0,
                cumulative_gas: 21_000 * n,
                logs,
            });
            let body = ShardBody {
                receipts: receipts.collect(),
                transactions: vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")],
                diff: Diff::default(),
            };
            let fees = U256::from(7);
            let built = shard(3, body.clone(), fees, LockRule::Commuting);
            prop_assert_eq!(built, Shard::new(3, body, fees, LockRule::Commuting));
        }
    }
}
