//! From the wire to checked values.

use super::types::{Event, EventId, EventKind, LockHolder, Round, RoundKind, RoundStatus, Winner};
use std::time::Duration;
use troika_proto::wire::{hash, required};
use troika_proto::{B256, Environment, Header, LockKey, Malformed, v1};

/// A hash that may be absent (empty).
pub(super) fn optional_hash(field: &str, bytes: &[u8]) -> Result<Option<B256>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    hash(field, bytes).map(Some)
}

fn hashes(field: &str, list: &[bytes::Bytes]) -> Result<Vec<B256>, Malformed> {
    list.iter().map(|bytes| hash(field, bytes)).collect()
}

impl From<v1::EventId> for EventId {
    fn from(wire: v1::EventId) -> Self {
        Self {
            revision: wire.revision,
            ordinal: wire.ordinal,
        }
    }
}

impl From<EventId> for v1::EventId {
    fn from(id: EventId) -> Self {
        Self {
            revision: id.revision,
            ordinal: id.ordinal,
        }
    }
}

pub(super) fn holders(field: &str, list: &[v1::LockHolder]) -> Result<Vec<LockHolder>, Malformed> {
    list.iter()
        .map(|holder| LockHolder::try_from(holder).map_err(|e| e.within(field)))
        .collect()
}

fn status(wire: &v1::Round) -> Result<RoundStatus, Malformed> {
    match v1::RoundStatus::try_from(wire.status) {
        Ok(v1::RoundStatus::Open) => Ok(RoundStatus::Open),
        Ok(v1::RoundStatus::Sealed) => Ok(RoundStatus::Sealed),
        Ok(v1::RoundStatus::Void) => Ok(RoundStatus::Void(wire.void_reason())),
        _ => Err(Malformed::new("round.status", "is not a known status")),
    }
}

impl TryFrom<v1::Round> for Round {
    type Error = Malformed;

    fn try_from(wire: v1::Round) -> Result<Self, Malformed> {
        let kind = match wire.kind() {
            v1::RoundKind::Build => RoundKind::Build,
            v1::RoundKind::Verify => RoundKind::Verify,
            v1::RoundKind::Unspecified => {
                return Err(Malformed::new("round.kind", "is not a known kind"));
            }
        };
        let status = status(&wire)?;
        let environment = required("round.environment", wire.environment.as_ref())?;
        let header = wire.header.as_ref().map(Header::try_from).transpose()?;
        let reserved = holders("round.reserved", &wire.reserved)?;
        let winners = wire.winners.into_iter().map(|shard| {
            let winner = required("round.winners.winner", shard.winner)?;
            Ok((shard.shard, Winner::try_from(winner)?))
        });
        Ok(Self {
            number: wire.round,
            kind,
            status,
            parent: hash("round.parent", &wire.parent)?,
            environment: Environment::try_from(environment)
                .map_err(|e| e.within("round.environment"))?,
            opener: wire.opener,
            winners: winners.collect::<Result<_, Malformed>>()?,
            block_hash: optional_hash("round.block_hash", &wire.block_hash)?,
            evidence: wire.evidence,
            opened_at: wire.opened_at,
            closed_at: wire.closed_at,
            header,
            shard_hashes: hashes("round.shard_hashes", &wire.shard_hashes)?,
            attempt: wire.attempt,
            reserved,
            propose_after: Duration::from_millis(wire.propose_after_ms),
            seal_after: Duration::from_millis(wire.seal_after_ms),
            dissent: wire.dissent,
            shards: wire.shards,
        })
    }
}

impl TryFrom<v1::Event> for Event {
    type Error = Malformed;

    fn try_from(wire: v1::Event) -> Result<Self, Malformed> {
        Ok(Self {
            id: required("event.id", wire.id)?.into(),
            kind: event_kind(required("event.kind", wire.kind)?)?,
        })
    }
}

fn event_kind(wire: v1::event::Kind) -> Result<EventKind, Malformed> {
    use v1::event::Kind;
    Ok(match wire {
        Kind::ChainStarted(e) => EventKind::ChainStarted {
            genesis_hash: hash("chain_started.genesis_hash", &e.genesis_hash)?,
        },
        Kind::RoundOpened(round) => EventKind::RoundOpened(Box::new(round.try_into()?)),
        Kind::ShardAccepted(e) => EventKind::ShardAccepted {
            round: e.round,
            shard: e.shard,
            winner: required("shard_accepted.winner", e.winner)?.try_into()?,
        },
        Kind::RoundSealed(e) => {
            let header = required("round_sealed.header", e.header.as_ref())?;
            EventKind::RoundSealed {
                round: e.round,
                block_hash: hash("round_sealed.block_hash", &e.block_hash)?,
                header: Box::new(Header::try_from(header)?),
                shard_hashes: hashes("round_sealed.shard_hashes", &e.shard_hashes)?,
                head: e.head,
            }
        }
        Kind::RoundVoided(e) => EventKind::RoundVoided {
            round: e.round,
            reason: e.reason(),
            evidence: e.evidence.map(Box::new),
        },
        Kind::LocksAcquired(e) => EventKind::LocksAcquired {
            round: e.round,
            shard: e.shard,
            keys: e
                .keys
                .iter()
                .map(LockKey::try_from)
                .collect::<Result<_, _>>()?,
        },
        Kind::Pruned(e) => EventKind::Pruned {
            below_round: e.below_round,
        },
        Kind::FeatureLevelRaised(e) => EventKind::FeatureLevelRaised { level: e.level },
    })
}
