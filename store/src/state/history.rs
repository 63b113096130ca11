//! Recent events, for watchers.
//!
//! An event is kept as a reference to what it tells of, because rounds and winners are in memory anyway: pruning a round
//! therefore also forgets the events up to its end. What is kept follows from the log alone.

use super::decision::{Revision, RoundId};
use super::generation::Generation;
use super::limits::MAX_HISTORY_BYTES;
use super::records::{RecordKey, Value};
use super::state_hash::{Digest, Item, StateHash};
use std::collections::VecDeque;
use std::sync::Arc;
use troika_proto::{B256, Header, LockKey};

/// Place of an event: unique and ascending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    /// Revision of the command.
    pub revision: Revision,
    /// Counts the events of one command, from 0.
    pub ordinal: u32,
}

/// An event as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEvent {
    /// Its place.
    pub id: EventId,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum EventKind {
    ChainStarted(B256),
    RoundOpened(RoundId),
    ShardAccepted { round: RoundId, shard: u32 },
    RoundSealed(Arc<SealedEvent>),
    RoundVoided(RoundId),
    LocksAcquired(Arc<LocksEvent>),
    Pruned(RoundId),
    FeatureLevelRaised(u32),
}

/// A round that ended in a block.
#[derive(Clone, Debug, PartialEq)]
pub struct SealedEvent {
    /// The round.
    pub round: RoundId,
    /// The block's header.
    pub header: Arc<Header>,
    /// True if the block became the head.
    pub head: bool,
}

/// Keys taken ahead.
#[derive(Clone, Debug, PartialEq)]
pub struct LocksEvent {
    /// The round.
    pub round: RoundId,
    /// The shard that holds them.
    pub shard: u32,
    /// The keys.
    pub keys: Arc<[LockKey]>,
}

impl StoredEvent {
    fn bytes(&self) -> usize {
        size_of::<Self>()
            + match &self.kind {
                EventKind::RoundSealed(_) => 768,
                EventKind::LocksAcquired(event) => 64 + event.keys.len() * 56,
                _ => 0,
            }
    }

    pub(super) fn digest(&self) -> Digest {
        let digest = Digest::new(Item::Event)
            .word(self.id.revision)
            .word(self.id.ordinal.into());
        match &self.kind {
            EventKind::ChainStarted(hash) => digest.word(1).hash(hash),
            EventKind::RoundOpened(round) => digest.word(2).word(*round),
            EventKind::ShardAccepted { round, shard } => {
                digest.word(3).word(*round).word((*shard).into())
            }
            EventKind::RoundSealed(event) => {
                digest.word(4).word(event.round).word(event.head.into())
            }
            EventKind::RoundVoided(round) => digest.word(5).word(*round),
            EventKind::LocksAcquired(event) => {
                let keys = event.keys.len() as u64;
                digest.word(6).word(event.round).word(keys)
            }
            EventKind::Pruned(round) => digest.word(7).word(*round),
            EventKind::FeatureLevelRaised(level) => digest.word(8).word((*level).into()),
        }
    }
}

/// Events in one record of a checkpoint, at most.
const EVENTS_PER_RECORD: usize = 4096;

/// The kept events, and what of them is written.
#[derive(Debug, Default)]
pub(super) struct History {
    events: VecDeque<StoredEvent>,
    bytes: usize,
    /// Everything up to and including this one is forgotten.
    floor: EventId,
    /// Not in any checkpoint yet.
    unwritten: Vec<StoredEvent>,
    /// First and last event of each record that was written.
    written: VecDeque<(EventId, EventId)>,
}

impl History {
    pub(super) fn floor(&self) -> EventId {
        self.floor
    }

    pub(super) fn newest(&self) -> EventId {
        self.events.back().map_or(self.floor, |event| event.id)
    }

    pub(super) fn push(
        &mut self,
        event: StoredEvent,
        generation: &mut Generation,
        hash: &mut StateHash,
    ) {
        hash.add(event.digest());
        self.bytes += event.bytes();
        self.unwritten.push(event.clone());
        self.events.push_back(event);
        while self.bytes > MAX_HISTORY_BYTES {
            self.pop(hash);
        }
        self.forget_records(generation);
    }

    /// Forgets everything up to and including `revision`.
    pub(super) fn trim(
        &mut self,
        revision: Revision,
        generation: &mut Generation,
        hash: &mut StateHash,
    ) {
        while self
            .events
            .front()
            .is_some_and(|event| event.id.revision <= revision)
        {
            self.pop(hash);
        }
        self.forget_records(generation);
    }

    fn pop(&mut self, hash: &mut StateHash) {
        if let Some(event) = self.events.pop_front() {
            hash.remove(event.digest());
            self.bytes -= event.bytes();
            self.floor = event.id;
        }
    }

    fn forget_records(&mut self, generation: &mut Generation) {
        while let Some((first, last)) = self.written.front()
            && *last <= self.floor
        {
            generation.delete(RecordKey::Events(first.revision, first.ordinal));
            self.written.pop_front();
        }
    }

    /// Hands the new events to a checkpoint.
    pub(super) fn write(&mut self, generation: &mut Generation) {
        let events = std::mem::take(&mut self.unwritten);
        let kept: Vec<_> = events.into_iter().filter(|e| e.id > self.floor).collect();
        for run in kept.chunks(EVENTS_PER_RECORD) {
            let (first, last) = (run[0].id, run[run.len() - 1].id);
            let key = RecordKey::Events(first.revision, first.ordinal);
            generation.put(key, Value::Events(run.into()));
            self.written.push_back((first, last));
        }
    }

    /// Takes a record over from a checkpoint; they come in ascending order.
    pub(super) fn load(&mut self, floor: EventId, events: Vec<StoredEvent>, hash: &mut StateHash) {
        self.floor = floor;
        if let (Some(first), Some(last)) = (events.first(), events.last()) {
            self.written.push_back((first.id, last.id));
        }
        for event in events.into_iter().filter(|event| event.id > floor) {
            hash.add(event.digest());
            self.bytes += event.bytes();
            self.events.push_back(event);
        }
    }

    /// Sets what is forgotten where no event is left to say so.
    pub(super) fn set_floor(&mut self, floor: EventId) {
        self.floor = floor;
    }

    /// Events strictly after a point, ascending; `None` if some of them are forgotten.
    pub(super) fn after(&self, after: EventId) -> Option<impl Iterator<Item = &StoredEvent>> {
        if after < self.floor {
            return None;
        }
        let from = self.events.partition_point(|event| event.id <= after);
        Some(self.events.range(from..))
    }
}
