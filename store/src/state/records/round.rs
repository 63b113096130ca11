//! 0x05, round (8 bytes big-endian) -> `troika.record.v1.Round`.
//!
//! What is fixed at the opening, how the round ended, and the winners of a closed one, 44 bytes each. (An open round's winners
//! are in its shards' records.) Lives until pruned.

use super::{Corrupt, corrupt, decode as message};
use crate::state::command::RoundKind;
use crate::state::evidence::{Evidence, VoidReason};
use crate::state::round::{Checked, CompactWinner, Dissent, Round, RoundStatus};
use bytes::Bytes;
use prost::Message;
use std::sync::Arc;
use troika_proto::record::v1 as record;
use troika_proto::wire::{hash, hash_bytes, required};
use troika_proto::{B256, Environment, Header, LockKey, Malformed, v1};

const WHAT: &str = "round";
/// Bytes of one winner.
pub const WINNER_BYTES: usize = 44;

/// The record's bytes.
pub fn encode(round: &Round) -> Bytes {
    let mut wire = record::Round {
        parent: hash_bytes(round.parent),
        environment: Some((&round.environment).into()),
        opener: round.opener.to_string(),
        opened_at: round.opened_at,
        closed_at: round.closed_at,
        block_hash: hash_bytes(round.block_hash),
        shards: round.shards(),
        ..record::Round::default()
    };
    wire.set_kind(round.kind.into());
    wire.set_status(round.status.to_wire());
    if let RoundStatus::Void(reason, evidence) = &round.status {
        wire.set_void_reason((*reason).into());
        wire.evidence = evidence.as_ref().map(Into::into);
    }
    if let Some(checked) = &round.checked {
        wire.header = Some((&*checked.header).into());
        wire.shard_hashes = checked.shard_hashes.concat().into();
        wire.attempt = checked.attempt;
    }
    let reserved = round.reserved.iter().map(|(key, shard)| v1::Reservation {
        key: Some((*key).into()),
        shard: *shard,
    });
    wire.reserved = reserved.collect();
    let dissent = round.dissent.iter().map(|dissent| record::Dissent {
        shard: dissent.shard,
        executor: dissent.executor.to_string(),
        computed: dissent.computed.map(hash_bytes).unwrap_or_default(),
        reason: dissent.reason.clone(),
    });
    wire.dissent = dissent.collect();
    if round.status != RoundStatus::Open {
        wire.winners = encode_winners(&round.winners);
    }
    wire.encode_to_vec().into()
}

fn encode_winners(winners: &[CompactWinner]) -> Bytes {
    let mut bytes = Vec::with_capacity(winners.len() * WINNER_BYTES);
    for winner in winners {
        bytes.extend(winner.hash);
        bytes.extend(winner.revision.to_be_bytes());
        bytes.extend(winner.executor.to_be_bytes());
    }
    bytes.into()
}

fn decode_winners(bytes: &[u8]) -> Vec<CompactWinner> {
    let (rows, _) = bytes.as_chunks::<WINNER_BYTES>();
    let winner = |row: &[u8; WINNER_BYTES]| CompactWinner {
        hash: B256::from_slice(&row[..32]),
        revision: u64::from_be_bytes(std::array::from_fn(|i| row[32 + i])),
        executor: u32::from_be_bytes(std::array::from_fn(|i| row[40 + i])),
    };
    rows.iter().map(winner).collect()
}

/// Reads what [`encode`] wrote. An open round comes without winners.
///
/// # Errors
/// [`Corrupt`] naming the field.
pub fn decode(id: u64, bytes: &[u8]) -> Result<Round, Corrupt> {
    let wire: record::Round = message(WHAT, bytes)?;
    from_wire(id, &wire).map_err(corrupt(WHAT))
}

fn from_wire(id: u64, wire: &record::Round) -> Result<Round, Malformed> {
    let status = match wire.status() {
        v1::RoundStatus::Open => RoundStatus::Open,
        v1::RoundStatus::Sealed => RoundStatus::Sealed,
        v1::RoundStatus::Void => {
            let evidence = wire.evidence.as_ref().map(Evidence::try_from).transpose()?;
            RoundStatus::Void(VoidReason::try_from(wire.void_reason())?, evidence)
        }
        v1::RoundStatus::Unspecified => return Err(Malformed::missing("status")),
    };
    let winners = match status {
        RoundStatus::Open => vec![CompactWinner::default(); wire.shards as usize],
        _ => decode_winners(&wire.winners),
    };
    if winners.len() != wire.shards as usize {
        return Err(Malformed::new("winners", "are not one a shard"));
    }
    let checked = match &wire.header {
        None => None,
        Some(header) => Some(Checked {
            header: Arc::new(Header::try_from(header)?),
            shard_hashes: wire
                .shard_hashes
                .chunks_exact(32)
                .map(B256::from_slice)
                .collect(),
            attempt: wire.attempt,
        }),
    };
    let environment = required("environment", wire.environment.as_ref())?;
    Ok(Round {
        id,
        kind: RoundKind::try_from(wire.kind())?,
        status,
        parent: hash("parent", &wire.parent)?,
        environment: Environment::try_from(environment)?,
        opener: wire.opener.as_str().into(),
        opened_at: wire.opened_at,
        closed_at: wire.closed_at,
        block_hash: hash("block_hash", &wire.block_hash)?,
        checked,
        reserved: reserved(&wire.reserved)?,
        dissent: dissent(&wire.dissent)?,
        winners,
    })
}

fn reserved(wire: &[v1::Reservation]) -> Result<Arc<[(LockKey, u32)]>, Malformed> {
    let reservation = |r: &v1::Reservation| {
        let key = required("reserved.key", r.key.as_ref())?;
        Ok((LockKey::try_from(key)?, r.shard))
    };
    wire.iter().map(reservation).collect()
}

fn dissent(wire: &[record::Dissent]) -> Result<Vec<Dissent>, Malformed> {
    let dissent = |d: &record::Dissent| {
        Ok(Dissent {
            shard: d.shard,
            executor: d.executor.as_str().into(),
            computed: match d.computed.is_empty() {
                true => None,
                false => Some(hash("dissent.computed", &d.computed)?),
            },
            reason: d.reason.clone(),
        })
    };
    wire.iter().map(dissent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{any_lock_key, genesis};
    use proptest::prelude::*;

    fn any_evidence() -> impl Strategy<Value = Evidence> {
        prop_oneof![
            (any_lock_key(), any::<u32>(), any::<u32>()).prop_map(
                |(key, first_shard, second_shard)| {
                    Evidence::DoubleWrite {
                        key,
                        first_shard,
                        second_shard,
                    }
                }
            ),
            Just(Evidence::BadHeader {
                field: "gasUsed",
                expected: "1".into(),
                found: "2".into(),
            }),
            any::<(u32, Option<[u8; 32]>)>().prop_map(|(shard, computed)| Evidence::BadShard {
                shard,
                expected: B256::repeat_byte(1),
                computed: computed.map(B256::from),
                executors: vec!["a".into(), "b".into()],
                reason: "nonce".into(),
            }),
        ]
    }

    fn any_status() -> impl Strategy<Value = RoundStatus> {
        let reason = prop_oneof![
            Just(VoidReason::Stale),
            Just(VoidReason::Invalid),
            Just(VoidReason::Unavailable),
            Just(VoidReason::Abandoned),
        ];
        prop_oneof![
            Just(RoundStatus::Open),
            Just(RoundStatus::Sealed),
            (reason, proptest::option::of(any_evidence()))
                .prop_map(|(r, e)| RoundStatus::Void(r, e)),
        ]
    }

    proptest! {
        #[test]
        fn survives_the_round_trip(
            status in any_status(),
            n in any::<[u64; 4]>(),
            verify in any::<bool>(),
            winners in proptest::collection::vec(any::<([u8; 32], u64, u32)>(), 1..6),
            reserved in proptest::collection::vec((any_lock_key(), any::<u32>()), 0..4),
        ) {
            let genesis = genesis(2);
            let header = genesis.header();
            let open = status == RoundStatus::Open;
            let winner = |(hash, revision, executor): ([u8; 32], u64, u32)| match open {
                true => CompactWinner::default(),
                false => CompactWinner { hash: B256::from(hash), revision, executor },
            };
            let checked = Checked {
                header: Arc::new(header.clone()),
                shard_hashes: vec![B256::repeat_byte(1), B256::repeat_byte(2)].into(),
                attempt: 3,
            };
            let dissent = Dissent {
                shard: 1,
                executor: "x".into(),
                computed: None,
                reason: "bad nonce".into(),
            };
            let round = Round {
                id: n[0],
                kind: if verify { RoundKind::Verify } else { RoundKind::Build },
                status,
                parent: header.hash(),
                environment: genesis.config.environment(&header, header.hash(), n[1]),
                opener: "opener".into(),
                opened_at: n[2],
                closed_at: n[3],
                block_hash: B256::repeat_byte(9),
                checked: verify.then_some(checked),
                reserved: reserved.into(),
                dissent: if verify { vec![dissent] } else { vec![] },
                winners: winners.into_iter().map(winner).collect(),
            };
            prop_assert_eq!(decode(n[0], &encode(&round)).unwrap(), round);
        }
    }
}
