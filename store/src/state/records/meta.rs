//! 0x01 -> `troika.record.v1.Meta`: the machine's counters, the base block and the hash of everything else.
//!
//! One record, written with every generation.

use super::{Corrupt, block, corrupt, decode as message};
use crate::state::history::EventId;
use crate::state::state_hash::StateHash;
use bytes::Bytes;
use prost::Message;
use troika_proto::record::v1 as record;
use troika_proto::wire::{fixed, hash, hash_bytes};
use troika_proto::{B256, Header, v1};

const WHAT: &str = "meta";
/// Layout of all records.
pub const FORMAT: u32 = 1;

/// What the record holds.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Meta {
    pub revision: u64,
    pub next_round: u64,
    pub pruned_below: u64,
    pub feature_level: u32,
    pub clock_ms: u64,
    pub next_layer: u64,
    pub oldest_block: u64,
    pub history_floor: EventId,
    /// Hash of the head, and the base block with its round: `None` before genesis.
    pub chain: Option<(B256, Header, u64)>,
    pub state_hash: StateHash,
}

/// The record's bytes.
pub fn encode(meta: &Meta) -> Bytes {
    let (head, base) = match &meta.chain {
        Some((head, base, round)) => (hash_bytes(*head), Some(block::to_wire(base, *round))),
        None => (Bytes::new(), None),
    };
    let wire = record::Meta {
        format: FORMAT,
        revision: meta.revision,
        next_round: meta.next_round,
        pruned_below: meta.pruned_below,
        feature_level: meta.feature_level,
        clock_ms: meta.clock_ms,
        head,
        base,
        next_layer: meta.next_layer,
        history_floor: Some(v1::EventId {
            revision: meta.history_floor.revision,
            ordinal: meta.history_floor.ordinal,
        }),
        state_hash: Bytes::copy_from_slice(&meta.state_hash.to_bytes()),
        oldest_block: meta.oldest_block,
    };
    wire.encode_to_vec().into()
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`Corrupt`] naming the field, or a newer format.
pub fn decode(bytes: &[u8]) -> Result<Meta, Corrupt> {
    let wire: record::Meta = message(WHAT, bytes)?;
    if wire.format != FORMAT {
        let problem = format!(
            "has format {}, this program reads {FORMAT}: upgrade it",
            wire.format
        );
        return Err(Corrupt::new(WHAT, problem));
    }
    let chain = match &wire.base {
        Some(base) => {
            let (header, round) = block::from_wire(base)?;
            let head = hash("head", &wire.head).map_err(corrupt(WHAT))?;
            Some((head, header, round))
        }
        None => None,
    };
    let floor = wire.history_floor.unwrap_or_default();
    let state_hash = fixed("state_hash", &wire.state_hash).map_err(corrupt(WHAT))?;
    Ok(Meta {
        revision: wire.revision,
        next_round: wire.next_round,
        pruned_below: wire.pruned_below,
        feature_level: wire.feature_level,
        clock_ms: wire.clock_ms,
        next_layer: wire.next_layer,
        oldest_block: wire.oldest_block,
        history_floor: EventId {
            revision: floor.revision,
            ordinal: floor.ordinal,
        },
        chain,
        state_hash: StateHash::from_bytes(state_hash),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::genesis;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn survives_the_round_trip(n in any::<[u64; 8]>(), hash in any::<[u8; 32]>(), chain in any::<bool>()) {
            let meta = Meta {
                revision: n[0],
                next_round: n[1],
                pruned_below: n[2],
                feature_level: n[3] as u32,
                clock_ms: n[4],
                next_layer: n[5],
                oldest_block: n[6],
                history_floor: EventId { revision: n[7], ordinal: n[0] as u32 },
                chain: chain.then(|| (B256::from(hash), genesis(2).header(), n[3])),
                state_hash: StateHash::from_bytes(hash),
            };
            prop_assert_eq!(decode(&encode(&meta)).unwrap(), meta);
        }
    }

    #[test]
    fn a_newer_format_is_refused() {
        let wire = record::Meta {
            format: FORMAT + 1,
            ..record::Meta::default()
        };
        let error = decode(&wire.encode_to_vec()).unwrap_err();
        assert!(error.to_string().contains("upgrade"), "{error}");
    }
}
