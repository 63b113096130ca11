//! 0x09, (revision, ordinal) of the first -> `troika.record.v1.Events`: a run of events, ascending.
//!
//! How events are cut into runs depends on when a member makes checkpoints and means nothing. Lives until all of the run is
//! forgotten; what of a run lies at or before the history's floor counts as forgotten.

use super::{Corrupt, corrupt, decode as message};
use crate::state::ascending_keys;
use crate::state::history::{EventId, EventKind, LocksEvent, SealedEvent, StoredEvent};
use bytes::Bytes;
use prost::Message;
use std::sync::Arc;
use troika_proto::record::v1 as record;
use troika_proto::wire::{hash, hash_bytes, required};
use troika_proto::{Header, Malformed, v1};

const WHAT: &str = "events";

/// The record's bytes.
pub fn encode(events: &[StoredEvent]) -> Bytes {
    let events = events.iter().map(to_wire).collect();
    record::Events { events }.encode_to_vec().into()
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`Corrupt`] naming the field.
pub fn decode(bytes: &[u8]) -> Result<Vec<StoredEvent>, Corrupt> {
    let wire: record::Events = message(WHAT, bytes)?;
    let events = wire.events.iter().map(from_wire);
    events.collect::<Result<_, _>>().map_err(corrupt(WHAT))
}

fn to_wire(event: &StoredEvent) -> record::Event {
    use record::event::Kind;
    let kind = match &event.kind {
        EventKind::ChainStarted(hash) => Kind::ChainStarted(hash_bytes(*hash)),
        EventKind::RoundOpened(round) => Kind::RoundOpened(*round),
        EventKind::ShardAccepted { round, shard } => Kind::ShardAccepted(record::ShardRef {
            round: *round,
            shard: *shard,
        }),
        EventKind::RoundSealed(sealed) => Kind::RoundSealed(record::RoundSealed {
            round: sealed.round,
            header: Some((&*sealed.header).into()),
            head: sealed.head,
        }),
        EventKind::RoundVoided(round) => Kind::RoundVoided(*round),
        EventKind::LocksAcquired(event) => Kind::LocksAcquired(v1::LocksAcquired {
            round: event.round,
            shard: event.shard,
            keys: event.keys.iter().map(|key| (*key).into()).collect(),
        }),
        EventKind::Pruned(round) => Kind::Pruned(*round),
        EventKind::FeatureLevelRaised(level) => Kind::FeatureLevelRaised(*level),
    };
    record::Event {
        id: Some(v1::EventId {
            revision: event.id.revision,
            ordinal: event.id.ordinal,
        }),
        kind: Some(kind),
    }
}

fn from_wire(wire: &record::Event) -> Result<StoredEvent, Malformed> {
    use record::event::Kind;
    let id = required("id", wire.id.as_ref())?;
    let kind = match required("kind", wire.kind.as_ref())? {
        Kind::ChainStarted(bytes) => EventKind::ChainStarted(hash("chain_started", bytes)?),
        Kind::RoundOpened(round) => EventKind::RoundOpened(*round),
        Kind::ShardAccepted(shard) => EventKind::ShardAccepted {
            round: shard.round,
            shard: shard.shard,
        },
        Kind::RoundSealed(sealed) => EventKind::RoundSealed(Arc::new(SealedEvent {
            round: sealed.round,
            header: Arc::new(Header::try_from(required(
                "header",
                sealed.header.as_ref(),
            )?)?),
            head: sealed.head,
        })),
        Kind::RoundVoided(round) => EventKind::RoundVoided(*round),
        Kind::LocksAcquired(event) => EventKind::LocksAcquired(Arc::new(LocksEvent {
            round: event.round,
            shard: event.shard,
            keys: ascending_keys(&event.keys)?,
        })),
        Kind::Pruned(round) => EventKind::Pruned(*round),
        Kind::FeatureLevelRaised(level) => EventKind::FeatureLevelRaised(*level),
    };
    Ok(StoredEvent {
        id: EventId {
            revision: id.revision,
            ordinal: id.ordinal,
        },
        kind,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{any_lock_key, genesis};
    use proptest::prelude::*;
    use troika_proto::B256;

    fn any_kind() -> impl Strategy<Value = EventKind> {
        let keys = proptest::collection::btree_set(any_lock_key(), 0..5);
        prop_oneof![
            any::<[u8; 32]>().prop_map(|h| EventKind::ChainStarted(B256::from(h))),
            any::<u64>().prop_map(EventKind::RoundOpened),
            any::<(u64, u32)>()
                .prop_map(|(round, shard)| EventKind::ShardAccepted { round, shard }),
            any::<(u64, bool)>().prop_map(|(round, head)| {
                let header = Arc::new(genesis(2).header());
                EventKind::RoundSealed(Arc::new(SealedEvent {
                    round,
                    header,
                    head,
                }))
            }),
            any::<u64>().prop_map(EventKind::RoundVoided),
            (any::<(u64, u32)>(), keys).prop_map(|((round, shard), keys)| {
                let keys = keys.into_iter().collect();
                EventKind::LocksAcquired(Arc::new(LocksEvent { round, shard, keys }))
            }),
            any::<u64>().prop_map(EventKind::Pruned),
            any::<u32>().prop_map(EventKind::FeatureLevelRaised),
        ]
    }

    proptest! {
        #[test]
        fn survives_the_round_trip(kinds in proptest::collection::vec((any::<(u64, u32)>(), any_kind()), 0..10)) {
            let events: Vec<_> = kinds
                .into_iter()
                .map(|((revision, ordinal), kind)| StoredEvent { id: EventId { revision, ordinal }, kind })
                .collect();
            prop_assert_eq!(decode(&encode(&events)).unwrap(), events);
        }
    }
}
