//! Rounds: what is fixed at the opening, who won each shard, and how it ended.

use super::command::{AcceptShard, RoundKind};
use super::decision::{Holder, Revision, RoundId};
use super::evidence::{Evidence, VoidReason};
use super::point_map::PointMap;
use super::state_hash::{Digest, Item, StateHash};
use crate::mutant::{self, Mutant};
use std::collections::BTreeMap;
use std::sync::Arc;
use troika_proto::{B256, Environment, Header, LockKey, v1};

/// How far a round is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoundStatus {
    /// Shards may be accepted.
    Open,
    /// Ended in a block.
    Sealed,
    /// Ended without one.
    Void(VoidReason, Option<Evidence>),
}

impl RoundStatus {
    /// For the wire.
    pub fn to_wire(&self) -> v1::RoundStatus {
        match self {
            Self::Open => v1::RoundStatus::Open,
            Self::Sealed => v1::RoundStatus::Sealed,
            Self::Void(..) => v1::RoundStatus::Void,
        }
    }
}

/// Stands for the executor where a round was sealed with the shard undecided.
pub(super) const NOBODY: u32 = u32::MAX;

/// A decided shard as it is kept for ever: 48 bytes. The executor's name is in the machine's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactWinner {
    /// Hash of the accepted shard.
    pub hash: B256,
    /// 0: undecided.
    pub revision: Revision,
    /// Number of the executor.
    pub executor: u32,
}

/// What a VERIFY round checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The block's header.
    pub header: Arc<Header>,
    /// The hash of every shard.
    pub shard_hashes: Arc<[B256]>,
    /// Counts the rounds about this block, from 1.
    pub attempt: u32,
}

/// An outcome that is not the header's (VERIFY) or not the winner's, of the same transactions (BUILD).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dissent {
    /// The shard.
    pub shard: u32,
    /// Who computed it.
    pub executor: Arc<str>,
    /// What it computed; `None` where the shard cannot be executed.
    pub computed: Option<B256>,
    /// Why it cannot be executed.
    pub reason: String,
}

/// A round as it is kept: also after it closed, until it is pruned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// Its number.
    pub id: RoundId,
    /// What it is for.
    pub kind: RoundKind,
    /// How far it is.
    pub status: RoundStatus,
    /// Hash of the parent block.
    pub parent: B256,
    /// What transactions see; fixed at the opening.
    pub environment: Environment,
    /// Who opened it.
    pub opener: Arc<str>,
    /// Revision of the opening.
    pub opened_at: Revision,
    /// Revision of the end, 0 while open.
    pub closed_at: Revision,
    /// The sealed or checked block; zero for an unsealed BUILD round.
    pub block_hash: B256,
    /// VERIFY only.
    pub checked: Option<Checked>,
    /// Keys locked for shards at the opening.
    pub reserved: Arc<[(LockKey, u32)]>,
    /// Outcomes that are not the header's or the winner's.
    pub dissent: Vec<Dissent>,
    /// One a shard.
    pub winners: Vec<CompactWinner>,
}

impl Round {
    /// Number of shards.
    pub fn shards(&self) -> u32 {
        self.winners.len() as u32
    }

    /// The decision on a shard, if there is one.
    pub fn winner(&self, shard: u32) -> Option<&CompactWinner> {
        let winner = self.winners.get(shard as usize)?;
        (winner.revision != 0).then_some(winner)
    }

    pub(super) fn digest_opened(&self) -> Digest {
        let mut digest = Digest::new(Item::RoundOpened)
            .word(self.id)
            .word((self.kind == RoundKind::Verify).into())
            .hash(&self.parent)
            .word(self.environment.number)
            .word(self.environment.timestamp)
            .word(self.environment.base_fee)
            .hash(&self.environment.prev_randao)
            .bytes(self.opener.as_bytes())
            .word(self.opened_at)
            .word(self.winners.len() as u64);
        if let Some(checked) = &self.checked {
            digest = digest
                .hash(&checked.header.hash())
                .word(checked.attempt.into());
        }
        for (key, shard) in self.reserved.iter() {
            digest = digest_key(digest, key).word((*shard).into());
        }
        digest
    }

    pub(super) fn digest_closed(&self) -> Digest {
        let status = match &self.status {
            RoundStatus::Open => 0,
            RoundStatus::Sealed => 1,
            RoundStatus::Void(reason, _) => 2 + *reason as u64,
        };
        Digest::new(Item::RoundClosed)
            .word(self.id)
            .word(status)
            .word(self.closed_at)
            .hash(&self.block_hash)
    }

    pub(super) fn digest_winner(&self, shard: u32, winner: &CompactWinner) -> Digest {
        Digest::new(Item::Winner)
            .word(self.id)
            .word(shard.into())
            .hash(&winner.hash)
            .word(winner.revision)
            .word(winner.executor.into())
    }

    /// Notes an outcome that is not the header's or the winner's.
    pub(super) fn add_dissent(&mut self, dissent: Dissent, items: &mut StateHash) {
        items.add(self.digest_dissent(&dissent));
        self.dissent.push(dissent);
    }

    pub(super) fn digest_dissent(&self, dissent: &Dissent) -> Digest {
        Digest::new(Item::Dissent)
            .word(self.id)
            .word(dissent.shard.into())
            .bytes(dissent.executor.as_bytes())
            .hash(&dissent.computed.unwrap_or_default())
            .bytes(dissent.reason.as_bytes())
    }

    /// Everything that the state hash holds of the round.
    pub(super) fn for_each_digest(&self, mut each: impl FnMut(Digest)) {
        each(self.digest_opened());
        if self.status != RoundStatus::Open {
            each(self.digest_closed());
        }
        for (shard, winner) in self.winners.iter().enumerate() {
            if winner.revision != 0 {
                each(self.digest_winner(shard as u32, winner));
            }
        }
        for dissent in &self.dissent {
            each(self.digest_dissent(dissent));
        }
    }
}

pub(super) fn digest_key(digest: Digest, key: &LockKey) -> Digest {
    let digest = digest.address(&key.address);
    match &key.slot {
        None => digest.word(0),
        Some(slot) => digest.word(1).number(slot),
    }
}

/// An accepted shard with its fence.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// The proposal and who made it.
    pub accept: AcceptShard,
    /// Revision of the acceptance.
    pub revision: Revision,
}

/// Who holds a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lock {
    pub(super) shard: u32,
    pub(super) revision: Revision,
}

/// An open round: what is kept of it, and what is needed only until it closes.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) round: Round,
    pub(super) undecided: u32,
    pub(super) accepted: Vec<Option<Arc<Accepted>>>,
    pub(super) locks: PointMap<LockKey, Lock>,
    /// Keys that undecided shards took ahead, by (shard, revision).
    pub(super) held: BTreeMap<(u32, Revision), Arc<[LockKey]>>,
    /// How many keys `held` and the reservations name.
    pub(super) held_keys: usize,
}

impl Live {
    pub(super) fn new(round: Round) -> Self {
        let shards = round.shards();
        let mut live = Self {
            undecided: shards,
            accepted: vec![None; shards as usize],
            locks: PointMap::default(),
            held: BTreeMap::new(),
            held_keys: round.reserved.len(),
            round,
        };
        let revision = live.round.opened_at;
        for (key, shard) in live.round.reserved.iter() {
            live.locks.insert(
                *key,
                Lock {
                    shard: *shard,
                    revision,
                },
            );
        }
        live
    }

    /// The holder of a key, unless it is `shard` itself.
    pub(super) fn other_holder(&self, key: &LockKey, shard: u32) -> Option<Holder> {
        let lock = self.locks.get(key).filter(|lock| lock.shard != shard)?;
        Some(Holder {
            key: *key,
            shard: lock.shard,
            revision: lock.revision,
        })
    }

    /// Takes keys for a shard; those that it holds already keep their fence.
    pub(super) fn take_ahead(&mut self, shard: u32, revision: Revision, keys: &Arc<[LockKey]>) {
        for key in keys.iter() {
            self.locks.insert(*key, Lock { shard, revision });
        }
        self.held_keys += keys.len();
        self.held.insert((shard, revision), keys.clone());
    }

    /// Gives back what a shard took ahead: its proposal is accepted now. Returns the revisions of what it took.
    pub(super) fn release_ahead(&mut self, shard: u32) -> Vec<(Revision, Arc<[LockKey]>)> {
        let range = (shard, 0)..=(shard, Revision::MAX);
        let revisions: Vec<_> = self.held.range(range).map(|(id, _)| *id).collect();
        let mut released = Vec::with_capacity(revisions.len());
        for id in revisions {
            if let Some(keys) = self.held.remove(&id) {
                for key in keys.iter() {
                    if !mutant::on(Mutant::LockReleaseForgotten) {
                        self.unlock(key, shard);
                    }
                }
                self.held_keys -= keys.len();
                released.push((id.1, keys));
            }
        }
        let reserved = self.round.reserved.clone();
        for (key, _) in reserved.iter().filter(|(_, owner)| *owner == shard) {
            self.unlock(key, shard);
        }
        released
    }

    /// Gives back a key that `shard` took ahead. Another shard may have it by now: while a round is loaded, the
    /// reservations are there again before the accepted shards come, in the order of shards.
    fn unlock(&mut self, key: &LockKey, shard: u32) {
        if self.locks.get(key).is_some_and(|lock| lock.shard == shard) {
            self.locks.remove(key);
        }
    }
}

pub(super) fn digest_held(
    round: RoundId,
    shard: u32,
    revision: Revision,
    keys: &[LockKey],
) -> Digest {
    let digest = Digest::new(Item::Held)
        .word(round)
        .word(shard.into())
        .word(revision);
    keys.iter().fold(digest, digest_key)
}

/// Adds or removes all that the state hash holds of a round.
pub(super) fn sum_round(hash: &mut StateHash, round: &Round, add: bool) {
    round.for_each_digest(|digest| match add {
        true => hash.add(digest),
        false => hash.remove(digest),
    });
}
