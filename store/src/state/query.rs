//! What the service asks an applied machine. Nothing here changes anything.

use super::decision::{Holder, RoundId, Winner};
use super::history::{EventId, EventKind, StoredEvent};
use super::layers::{HeldBlock, StateAt};
use super::limits::ROUNDS_PER_INDEX;
use super::machine::{Chain, Machine};
use super::records::RecordKey;
use super::round::{Accepted, Dissent, NOBODY, Round, RoundStatus};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use troika_proto::wire::hash_bytes;
use troika_proto::{B256, LockKey, v1};

/// The events asked for are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("events after that point are forgotten: the oldest point to resume from is ({}, {})", .oldest.revision, .oldest.ordinal)]
pub struct HistoryGone {
    /// Everything after this one is kept.
    pub oldest: EventId,
}

pub(super) fn transaction_key(round: RoundId, beside: bool, hash: B256) -> RecordKey {
    RecordKey::Transaction {
        range: round / ROUNDS_PER_INDEX,
        beside,
        hash,
    }
}

/// Questions about the chain and its state.
impl Machine {
    /// Counts the commands that changed the state.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Config, genesis and head; `None` before `InitChain`.
    pub fn current_chain(&self) -> Option<&Chain> {
        self.chain.as_ref()
    }

    /// The feature level in force.
    pub fn feature_level(&self) -> u32 {
        self.feature_level
    }

    /// Newest clock stamp of an opening, milliseconds since 1970: the next one is not to be below it.
    pub fn clock_ms(&self) -> u64 {
        self.clock_ms
    }

    /// Rounds below this one are forgotten.
    pub fn pruned_below(&self) -> RoundId {
        self.pruned_below
    }

    /// The number that the next round will have.
    pub fn next_round(&self) -> RoundId {
        self.next_round
    }

    /// Number of the oldest block whose state can be read.
    pub fn oldest_state(&self) -> u64 {
        let chain = self.chain.as_ref();
        chain.map_or(0, |chain| chain.layers.base().header.number)
    }

    /// The state after a block; `None` if it is not held (any more).
    pub fn state_at(&self, block: &B256) -> Option<StateAt<'_>> {
        self.chain.as_ref()?.layers.at(block)
    }

    /// A block whose state is held.
    pub fn held_block(&self, hash: &B256) -> Option<HeldBlock> {
        self.chain.as_ref()?.layers.block(hash)
    }

    /// A code by its hash, whichever block brought it.
    pub fn code(&self, hash: &B256) -> Option<Bytes> {
        self.chain.as_ref()?.layers.code(hash).cloned()
    }

    /// Hash and round of the block with a number on the head's chain; `None` if forgotten or not there yet.
    pub fn canonical_block(&self, number: u64) -> Option<(B256, RoundId)> {
        self.canonical.get(&number).copied()
    }

    /// True if the block is the head or one of its ancestors, as far back as is kept.
    pub fn is_canonical(&self, number: u64, hash: &B256) -> bool {
        self.canonical
            .get(&number)
            .is_some_and(|(canonical, _)| canonical == hash)
    }

    /// Where a transaction can stand, newest rounds first: cold records to be looked up, on the head's chain and beside.
    pub fn transaction_keys(&self, hash: B256) -> impl Iterator<Item = RecordKey> + use<> {
        let oldest = self.pruned_below / ROUNDS_PER_INDEX;
        let newest = self.next_round / ROUNDS_PER_INDEX;
        (oldest..=newest).rev().flat_map(move |range| {
            [false, true].map(|beside| RecordKey::Transaction {
                range,
                beside,
                hash,
            })
        })
    }
}

/// Questions about rounds.
impl Machine {
    /// A round, open or closed; `None` if unknown or pruned.
    pub fn round(&self, id: RoundId) -> Option<&Round> {
        let live = self.live.get(&id).map(|live| &live.round);
        live.or_else(|| self.closed.get(&id).map(|round| &**round))
    }

    /// Numbers of kept rounds from `from` on, ascending.
    pub fn rounds(&self, from: RoundId) -> impl Iterator<Item = RoundId> + '_ {
        (from.max(self.pruned_below)..self.next_round).filter(|id| self.round(*id).is_some())
    }

    /// Numbers of the open rounds, ascending.
    pub fn open_rounds(&self) -> impl ExactSizeIterator<Item = RoundId> + '_ {
        self.live.keys().copied()
    }

    /// The open BUILD round on the head.
    pub fn open_build_round(&self) -> Option<RoundId> {
        let id = self.build_round_on(&self.chain.as_ref()?.head.hash)?;
        self.live.contains_key(&id).then_some(id)
    }

    /// Who won a shard, if it is decided: never changes, so any member may answer it.
    pub fn winner_of(&self, round: RoundId, shard: u32) -> Option<Winner> {
        let winner = self.round(round)?.winner(shard)?;
        Some(self.winner(winner))
    }

    /// An accepted shard of an open round. Those of closed rounds are cold records.
    pub fn accepted(&self, round: RoundId, shard: u32) -> Option<Arc<Accepted>> {
        self.live.get(&round)?.accepted.get(shard as usize)?.clone()
    }

    /// True if nobody made the accepted shard: its round was sealed with the empty one.
    pub fn is_filled(&self, round: RoundId, shard: u32) -> bool {
        let winner = self.round(round).and_then(|r| r.winner(shard));
        winner.is_some_and(|winner| winner.executor == NOBODY)
    }

    /// Locks of an open round after a key, ascending, at most `limit`, and whether there are more. Empty for a closed round.
    pub fn locks(
        &self,
        round: RoundId,
        after: Option<LockKey>,
        limit: usize,
    ) -> (Vec<Holder>, bool) {
        let (Some(live), Some(chain)) = (self.live.get(&round), &self.chain) else {
            return (Vec::new(), false);
        };
        let rule = chain.config.lock_rule;
        let accepted = live.accepted.iter().flatten();
        let diffs = accepted.map(|a| &a.accept.proposal.body.diff);
        let written = diffs.flat_map(|diff| super::accept::lock_keys(diff, rule));
        let held = live.held.values().flat_map(|keys| keys.iter().copied());
        let reserved = live.round.reserved.iter().map(|(key, _)| *key);
        let named = written.chain(held).chain(reserved);
        // What was reserved or held for a shard that is decided now may be free again.
        let holders: BTreeMap<_, _> = named
            .filter(|key| after.is_none_or(|after| *key > after))
            .filter_map(|key| Some((key, *live.locks.get(&key)?)))
            .collect();
        let more = holders.len() > limit;
        let page = holders.into_iter().take(limit).map(|(key, lock)| Holder {
            key,
            shard: lock.shard,
            revision: lock.revision,
        });
        (page.collect(), more)
    }

    /// A round as calls answer it. Without `winners` the list of decided shards stays empty.
    pub fn round_to_wire(&self, id: RoundId, winners: bool) -> Option<v1::Round> {
        let round = self.round(id)?;
        let mut wire = self.opening_to_wire(round)?;
        wire.set_status(round.status.to_wire());
        wire.block_hash = match round.block_hash.is_zero() {
            true => Bytes::new(),
            false => hash_bytes(round.block_hash),
        };
        if let RoundStatus::Void(reason, evidence) = &round.status {
            wire.set_void_reason((*reason).into());
            wire.evidence = evidence.as_ref().map(Into::into);
        }
        wire.closed_at = round.closed_at;
        wire.dissent = dissent_to_wire(round);
        if winners {
            let decided = (0..round.shards()).filter_map(|shard| {
                let winner = self.winner(round.winner(shard)?);
                Some(v1::ShardStatus {
                    shard,
                    winner: Some((&winner).into()),
                })
            });
            wire.winners = decided.collect();
        }
        Some(wire)
    }

    /// A round as it was when it was opened.
    fn opening_to_wire(&self, round: &Round) -> Option<v1::Round> {
        let config = &self.chain.as_ref()?.config;
        let reserved = round.reserved.iter().map(|(key, shard)| v1::LockHolder {
            key: Some((*key).into()),
            shard: *shard,
            revision: round.opened_at,
        });
        let mut wire = v1::Round {
            round: round.id,
            parent: hash_bytes(round.parent),
            environment: Some((&round.environment).into()),
            opener: round.opener.to_string(),
            opened_at: round.opened_at,
            reserved: reserved.collect(),
            propose_after_ms: config.propose_after_ms,
            seal_after_ms: config.seal_after_ms,
            shards: round.shards(),
            ..v1::Round::default()
        };
        wire.set_kind(round.kind.into());
        wire.set_status(v1::RoundStatus::Open);
        if let Some(checked) = &round.checked {
            wire.block_hash = hash_bytes(round.block_hash);
            wire.header = Some((&*checked.header).into());
            wire.shard_hashes = checked
                .shard_hashes
                .iter()
                .map(|h| hash_bytes(*h))
                .collect();
            wire.attempt = checked.attempt;
        }
        Some(wire)
    }
}

/// Questions of watchers.
impl Machine {
    /// The newest event's place.
    pub fn newest_event(&self) -> EventId {
        self.history.newest()
    }

    /// Everything after this place is kept.
    pub fn oldest_event(&self) -> EventId {
        self.history.floor()
    }

    /// Events strictly after a place, ascending, until `max_bytes` are reached; at least one if there is one. (0, 0) means
    /// from the oldest that is kept.
    ///
    /// # Errors
    /// [`HistoryGone`] where some of them are forgotten.
    pub fn events_after(
        &self,
        after: EventId,
        max_bytes: usize,
    ) -> Result<Vec<v1::Event>, HistoryGone> {
        let oldest = self.history.floor();
        let after = match after == EventId::default() {
            true => oldest,
            false => after,
        };
        let kept = self.history.after(after).ok_or(HistoryGone { oldest })?;
        let mut events = Vec::new();
        let mut bytes = 0;
        for event in kept {
            let wire = self.event_to_wire(event);
            bytes += prost::Message::encoded_len(&wire) + 8;
            if bytes > max_bytes && !events.is_empty() {
                break;
            }
            events.push(wire);
        }
        Ok(events)
    }

    fn event_to_wire(&self, event: &StoredEvent) -> v1::Event {
        use v1::event::Kind;
        let kind = match &event.kind {
            EventKind::ChainStarted(hash) => Kind::ChainStarted(v1::ChainStarted {
                genesis_hash: hash_bytes(*hash),
            }),
            EventKind::RoundOpened(id) => {
                let round = self.round(*id).and_then(|r| self.opening_to_wire(r));
                Kind::RoundOpened(round.unwrap_or_default())
            }
            EventKind::ShardAccepted { round, shard } => Kind::ShardAccepted(v1::ShardAccepted {
                round: *round,
                shard: *shard,
                winner: self.winner_of(*round, *shard).as_ref().map(Into::into),
            }),
            EventKind::RoundSealed(sealed) => {
                let winners = self.round(sealed.round).map(|r| r.winners.iter());
                let hashes = winners.into_iter().flatten().map(|w| hash_bytes(w.hash));
                Kind::RoundSealed(v1::RoundSealed {
                    round: sealed.round,
                    block_hash: hash_bytes(sealed.header.hash()),
                    header: Some((&*sealed.header).into()),
                    shard_hashes: hashes.collect(),
                    head: sealed.head,
                })
            }
            EventKind::RoundVoided(id) => Kind::RoundVoided(self.void_to_wire(*id)),
            EventKind::LocksAcquired(event) => Kind::LocksAcquired(v1::LocksAcquired {
                round: event.round,
                shard: event.shard,
                keys: event.keys.iter().map(|key| (*key).into()).collect(),
            }),
            EventKind::Pruned(below_round) => Kind::Pruned(v1::Pruned {
                below_round: *below_round,
            }),
            EventKind::FeatureLevelRaised(level) => {
                Kind::FeatureLevelRaised(v1::FeatureLevelRaised { level: *level })
            }
        };
        v1::Event {
            id: Some(event.id.into()),
            kind: Some(kind),
        }
    }

    fn void_to_wire(&self, id: RoundId) -> v1::RoundVoided {
        let mut wire = v1::RoundVoided {
            round: id,
            ..v1::RoundVoided::default()
        };
        if let Some(RoundStatus::Void(reason, evidence)) = self.round(id).map(|r| &r.status) {
            wire.set_reason((*reason).into());
            wire.evidence = evidence.as_ref().map(Into::into);
        }
        wire
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

impl From<v1::EventId> for EventId {
    fn from(id: v1::EventId) -> Self {
        Self {
            revision: id.revision,
            ordinal: id.ordinal,
        }
    }
}

/// Reports about one shard with one outcome, together.
fn dissent_to_wire(round: &Round) -> Vec<v1::BadShard> {
    // From the header's list; where there is none, from what was accepted.
    let expected = |shard: u32| match &round.checked {
        Some(checked) => checked.shard_hashes.get(shard as usize).copied(),
        None => round.winner(shard).map(|winner| winner.hash),
    };
    let mut grouped: BTreeMap<(u32, Option<B256>), Vec<&Dissent>> = BTreeMap::new();
    for dissent in &round.dissent {
        let key = (dissent.shard, dissent.computed);
        grouped.entry(key).or_default().push(dissent);
    }
    let bad = grouped
        .into_iter()
        .map(|((shard, computed), reports)| v1::BadShard {
            shard,
            expected: expected(shard).map(hash_bytes).unwrap_or_default(),
            computed: computed.map(hash_bytes).unwrap_or_default(),
            executors: reports.iter().map(|d| d.executor.to_string()).collect(),
            reason: reports
                .first()
                .map(|d| d.reason.clone())
                .unwrap_or_default(),
        });
    bad.collect()
}
