//! The storage under openraft's own suite, under restarts, and under power cuts: a file for each property.

mod backup;
mod checkpoint;
mod damage;
mod log;
mod power_cut;
mod snapshot;
mod state;

use std::{collections::BTreeMap, io, sync::Arc};

use bytes::Bytes;
use openraft::{
    EntryPayload, RaftLogReader, StorageError,
    async_runtime::Oneshot,
    storage::{
        IOFlushed, RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder, RaftStateMachine,
    },
    testing::log::{StoreBuilder, Suite},
};

use super::*;
use crate::{
    db::{crash::CrashDisk, log_file::LOG, state_file::STATE},
    raft::types::{Entry, LogId, Membership, TypeConfig, Vote, log_id},
    runtime::Runtime,
    state::{Batch, Command, Machine, StateHash},
};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, MachineStore, tempfile::TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore, MachineStore), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let files = crate::db::DiskFiles::create(directory.path()).unwrap();
        let storage = Storage::open(Arc::new(files), 1, None, None).await.unwrap();
        Ok((directory, storage.log, storage.machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openrafts_own_suite_passes() {
    Suite::test_all(Builder).await.unwrap();
}

async fn open(disk: &CrashDisk) -> Storage {
    Storage::open(Arc::new(disk.clone()), 1, None, None)
        .await
        .unwrap()
}

/// Opens the disk once nobody of the process before it holds it any more.
async fn reopen(disk: &CrashDisk, storage: Storage) -> Storage {
    drop(storage);
    disk.kill();
    open(disk).await
}

fn blank(term: u64, index: u64) -> Entry {
    Entry {
        log_id: log_id(term, 1, index),
        payload: EntryPayload::Blank,
    }
}

/// An entry that changes the state: a command that is never refused.
fn change(index: u64) -> Entry {
    let batch = Batch::new(1, vec![Command::RaiseRevision { by: 1 }]);
    Entry {
        log_id: log_id(1, 1, index),
        payload: EntryPayload::Normal(batch),
    }
}

/// The state hash after that many [`change`]s.
fn state_hash_after(changes: u64) -> StateHash {
    let mut machine = Machine::new();
    for index in 1..=changes {
        if let EntryPayload::Normal(batch) = change(index).payload {
            machine.apply_batch(&batch).unwrap();
        }
    }
    machine.state_hash()
}

async fn append(log: &mut LogStore, entries: Vec<Entry>) -> Result<(), io::Error> {
    log.blocking_append(entries).await.map_err(io::Error::other)
}

async fn indices(log: &mut LogStore) -> Vec<(u64, u64)> {
    let entries = log.try_get_log_entries(..).await.unwrap();
    entries
        .iter()
        .map(|entry| (entry.log_id.leader_id.term, entry.log_id.index))
        .collect()
}

async fn apply(machine: &mut MachineStore, entries: Vec<Entry>) -> Result<(), io::Error> {
    let items = entries.into_iter().map(|entry| Ok((entry, None)));
    machine.apply(futures::stream::iter(items)).await
}
