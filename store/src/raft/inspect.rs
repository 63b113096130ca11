//! What is in a data directory: for `troika-store inspect`. Every checksum is verified, nothing is changed.

use std::{collections::BTreeMap, io};

use openraft::EntryPayload;

use super::{
    codec,
    types::{Entry, LogId, SnapshotMeta, Vote},
};
use crate::{
    db::{
        DbError, Files, Identity, OpenError, inspect::Inspected, log_file::LOG, state_file::STATE,
    },
    state::{LoadError, Machine, RecordKey, StateHash},
};

/// What was found.
#[derive(Debug)]
pub struct Inspection {
    /// Whose directory it is.
    pub identity: Identity,
    /// The member's vote.
    pub vote: Option<Vote>,
    /// The last purged entry.
    pub purged: Option<LogId>,
    /// The last entry known as committed; may lag.
    pub committed: Option<LogId>,
    /// The last entry.
    pub last: Option<LogId>,
    /// How many entries there are.
    pub entries: u64,
    /// Bytes of the entries.
    pub entry_bytes: u64,
    /// What the checkpoint holds; None before the first.
    pub checkpoint: Option<SnapshotMeta>,
    /// Records and their bytes, by kind.
    pub records: BTreeMap<u8, Records>,
    /// The index that the following are of: the checkpoint's, or a later one if it was asked for and the log reaches there.
    pub index: u64,
    /// The revision at that index.
    pub revision: u64,
    /// The state hash at that index.
    pub state_hash: StateHash,
}

/// Records of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// How many.
    pub count: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// Looks at a directory, and computes the state at index `at` (None: at the checkpoint) from checkpoint and log. Blocks.
pub fn inspect(files: &dyn Files, at: Option<u64>) -> Result<Inspection, OpenError> {
    let directory = Inspected::open(files)?;
    let unreadable = |error: codec::Unreadable| DbError::damaged(LOG, "an id", error);
    let id = |bytes: &bytes::Bytes| codec::decode_log_id(bytes).map_err(unreadable);
    let checkpoint = match directory.applied()? {
        Some(bytes) => {
            let meta = codec::decode_meta(&bytes);
            Some(meta.map_err(|error| DbError::damaged(STATE, "the state", error))?)
        }
        None => None,
    };
    let mut records: BTreeMap<u8, Records> = BTreeMap::new();
    let mut hot = Vec::new();
    directory.records(|key, value| {
        let kind = records
            .entry(key.first().copied().unwrap_or_default())
            .or_default();
        kind.count += 1;
        kind.bytes += (key.len() + value.len()) as u64;
        if key < &RecordKey::cold_from()[..] {
            hot.push(Ok((bytes::Bytes::copy_from_slice(key), value)));
        }
        true
    })?;
    let loaded = Machine::load(hot, |key| directory.record(&key.to_bytes()));
    let mut machine = loaded.map_err(|error| match error {
        LoadError::Storage(error) => error,
        error => DbError::damaged(STATE, "the state", error),
    })?;
    let start = checkpoint
        .as_ref()
        .and_then(|meta| meta.last_log_id.as_ref())
        .map_or(0, |id| id.index);
    let mut replay = Replay {
        machine: &mut machine,
        index: start,
        until: at.unwrap_or(start),
        bytes: 0,
        failed: None,
    };
    directory.entries(|record| replay.take(record.index, &record.bytes))?;
    if let Some(error) = replay.failed {
        return Err(DbError::damaged(LOG, "an entry", error).into());
    }
    let (index, entry_bytes) = (replay.index, replay.bytes);
    let log = &directory.log;
    let last = log
        .last
        .as_ref()
        .map(|record| codec::decode_entry_id(&record.bytes));
    Ok(Inspection {
        identity: directory.identity.clone(),
        vote: log
            .vote
            .as_ref()
            .map(|vote| codec::decode_vote(vote))
            .transpose()
            .map_err(unreadable)?,
        purged: log
            .purged
            .as_ref()
            .map(|(_, bytes)| id(bytes))
            .transpose()?,
        committed: log.committed.as_ref().map(id).transpose()?,
        last: last.transpose().map_err(unreadable)?,
        entries: log.entries,
        entry_bytes,
        checkpoint,
        records,
        index,
        revision: machine.revision(),
        state_hash: machine.state_hash(),
    })
}

/// Applies the log to a machine up to an index, and checks every entry on the way.
struct Replay<'a> {
    machine: &'a mut Machine,
    index: u64,
    until: u64,
    bytes: u64,
    failed: Option<io::Error>,
}

impl Replay<'_> {
    fn take(&mut self, index: u64, bytes: &bytes::Bytes) {
        self.bytes += bytes.len() as u64;
        if self.failed.is_some() {
            return;
        }
        let applied = codec::decode_entry(bytes.clone())
            .map_err(io::Error::from)
            .and_then(|entry| self.apply(index, &entry));
        self.failed = applied.err();
    }

    fn apply(&mut self, index: u64, entry: &Entry) -> Result<(), io::Error> {
        if entry.log_id.index != index {
            return Err(io::Error::other(format!(
                "entry {index} says it is {}",
                entry.log_id.index
            )));
        }
        // The log of openraft begins at 0, before anything is applied.
        let next = index > self.index || (index == 0 && self.index == 0);
        if index <= self.until && next {
            if let EntryPayload::Normal(batch) = &entry.payload {
                self.machine.apply_batch(batch).map_err(io::Error::other)?;
            }
            self.index = index;
        }
        Ok(())
    }
}
