//! The applied state of a member: what openraft's apply changes, what everybody reads, what the checkpoint writes.
//!
//! Applying happens in memory. Whatever changed since the last checkpoint is a *generation*; a checkpoint freezes it, writes
//! it with the last applied log id in one transaction off the apply path, and forgets it. A cold record is looked for in the
//! current generation, then in the frozen one, then on disk, so a reader never misses what was applied. After a crash the log
//! is applied again from the checkpoint on; it is purged only up to one.

use std::{
    collections::VecDeque,
    io,
    sync::atomic::{AtomicU32, Ordering},
    sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    codec, journal,
    machine_store::{Effect, effect},
    snapshot_data::{self, Outgoing, SnapshotData, SnapshotReceiver},
    types::{Decisions, Entry, LogId, Snapshot, SnapshotMeta},
};
use crate::{
    db::{Alarm, DbError, SnapshotReader, StateFile},
    limits::{
        CHECKPOINT_BYTES, CHECKPOINT_INTERVAL_MS, MAX_UNWRITTEN_BYTES, STATE_HASH_INTERVAL,
        STATE_HASHES_KEPT,
    },
    mutant::{self, Mutant},
    runtime::Runtime,
    state::{
        Fault, Generation, LoadError, Machine, RecordKey, StateHash, limits::MAX_FEATURE_LEVEL,
    },
};

/// Log indices with the state hash after applying them, oldest first.
pub type StateHashes = Vec<(u64, StateHash)>;

/// Told of every entry as it is applied: its index and the state hash after it. For a simulation's oracle.
pub type Observer = Arc<dyn Fn(u64, StateHash) + Send + Sync>;

/// The applied state of a member.
pub struct Shared {
    memory: RwLock<Memory>,
    state: StateFile,
    alarm: Alarm,
    cluster: RwLock<Option<[u8; 16]>>,
    applied: watch::Sender<u64>,
    revisions: watch::Sender<u64>,
    checkpoints: watch::Sender<u64>,
    /// To the checkpoint task. A request without a reply is a hint.
    requests: mpsc::Sender<Option<Reply>>,
    /// Held while the state file is written or replaced.
    writing: tokio::sync::Mutex<()>,
    hashes: Mutex<VecDeque<(u64, StateHash)>>,
    /// Highest feature level that this member goes along with.
    understands: AtomicU32,
    observer: Option<Observer>,
}

type Reply = oneshot::Sender<Result<(), DbError>>;

struct Memory {
    machine: Machine,
    meta: SnapshotMeta,
    /// What the last checkpoint holds; None before the first.
    written: Option<SnapshotMeta>,
    /// What a checkpoint is writing now.
    frozen: Option<Arc<Generation>>,
}

/// Checkpoint requests that may wait. More need not: one checkpoint answers all that came before it.
const CHECKPOINT_REQUESTS: usize = 16;

impl Shared {
    /// Loads the checkpoint and starts the checkpoint task, which ends when the last `Arc` is dropped.
    pub async fn open(
        state: StateFile,
        alarm: Alarm,
        cluster: Option<[u8; 16]>,
        observer: Option<Observer>,
    ) -> Result<Arc<Self>, DbError> {
        let (machine, written) = {
            let state = state.clone();
            Runtime::spawn_blocking(move || load(&state)).await?
        };
        let (requests, queue) = mpsc::channel(CHECKPOINT_REQUESTS);
        let meta = written.clone().unwrap_or_default();
        let index = index_of(&meta);
        let shared = Arc::new(Self {
            revisions: watch::Sender::new(machine.revision()),
            applied: watch::Sender::new(index),
            checkpoints: watch::Sender::new(index),
            memory: RwLock::new(Memory {
                machine,
                meta,
                written,
                frozen: None,
            }),
            state,
            alarm,
            cluster: RwLock::new(cluster),
            requests,
            writing: tokio::sync::Mutex::new(()),
            hashes: Mutex::default(),
            understands: AtomicU32::new(MAX_FEATURE_LEVEL),
            observer,
        });
        Runtime::spawn(write_checkpoints(Arc::downgrade(&shared), queue));
        Ok(shared)
    }

    /// Says up to which feature level this member goes along, with states that come by a snapshot too.
    pub fn understand(&self, level: u32) -> Result<(), Fault> {
        self.understands.store(level, Ordering::Relaxed);
        self.memory_mut().machine.understand(level)
    }

    /// Looks at the applied state. Keep it short: applying waits.
    pub fn read<R>(&self, look: impl FnOnce(&Machine) -> R) -> R {
        look(&self.memory().machine)
    }

    /// As [`read`](Self::read), with the log index and the revision of exactly the state that is looked at.
    pub fn read_at<R>(&self, look: impl FnOnce(&Machine) -> R) -> (u64, u64, R) {
        let memory = self.memory();
        let (index, revision) = (index_of(&memory.meta), memory.machine.revision());
        (index, revision, look(&memory.machine))
    }

    /// A cold record, wherever it is.
    pub async fn cold(&self, key: &RecordKey) -> Result<Option<Bytes>, DbError> {
        let unwritten = {
            let memory = self.memory();
            unwritten_record(&memory, key)
        };
        if let Some(value) = unwritten {
            return Ok(value);
        }
        let (state, key) = (self.state.clone(), key.to_bytes());
        Runtime::spawn_blocking(move || state.get(&key)).await
    }

    /// Cold records, in the order of their keys: one visit of the disk for all that are there.
    pub async fn cold_all(&self, keys: &[RecordKey]) -> Result<Vec<Option<Bytes>>, DbError> {
        let found: Vec<_> = {
            let memory = self.memory();
            let found = keys.iter().map(|key| unwritten_record(&memory, key));
            found.collect()
        };
        let keys: Vec<_> = keys.iter().map(RecordKey::to_bytes).collect();
        let state = self.state.clone();
        // Opened after the look into memory: what is no longer unwritten is in it.
        let read = move || -> Result<_, DbError> {
            let view = state.view()?;
            let found = found.into_iter().zip(&keys);
            found
                .map(|(unwritten, key)| match unwritten {
                    Some(value) => Ok(value),
                    None => view.get(key),
                })
                .collect()
        };
        Runtime::spawn_blocking(read).await
    }

    /// The last applied log index, as it rises.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// The revision, as it rises. What it says is visible to [`read`](Self::read).
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revisions.subscribe()
    }

    /// The last applied log index of the newest checkpoint, as it rises.
    pub fn checkpoints(&self) -> watch::Receiver<u64> {
        self.checkpoints.subscribe()
    }

    /// Last applied log id and membership.
    pub fn meta(&self) -> SnapshotMeta {
        self.memory().meta.clone()
    }

    /// State hash and the index that it is of.
    pub fn state_hash(&self) -> (u64, StateHash) {
        let memory = self.memory();
        (index_of(&memory.meta), memory.machine.state_hash())
    }

    /// State hashes at every [`STATE_HASH_INTERVAL`]th index, the last ones.
    pub fn state_hashes(&self) -> StateHashes {
        let hashes = self
            .hashes
            .lock()
            .expect("no code panics while it holds the hashes");
        hashes.iter().copied().collect()
    }

    /// Bytes of state that the next checkpoint will write, those of one under way included.
    pub fn unwritten_bytes(&self) -> usize {
        unwritten(&self.memory())
    }

    /// Length of the state file in bytes.
    pub async fn state_bytes(&self) -> Result<u64, DbError> {
        let state = self.state.clone();
        Runtime::spawn_blocking(move || state.len()).await
    }

    /// The cluster's id is known from now on: snapshots carry it, and another cluster's are refused.
    pub fn set_cluster(&self, cluster: [u8; 16]) {
        *self
            .cluster
            .write()
            .expect("no code panics while it holds the id") = Some(cluster);
    }

    /// Writes a checkpoint of at least what is applied now.
    pub async fn checkpoint(&self) -> Result<(), DbError> {
        let (reply, written) = oneshot::channel();
        let closed = || DbError::Closed {
            file: crate::db::state_file::STATE.to_owned(),
        };
        self.requests
            .send(Some(reply))
            .await
            .map_err(|_| closed())?;
        written.await.unwrap_or_else(|_| Err(closed()))
    }

    /// The newest checkpoint as a snapshot; None before the first. Later checkpoints do not move it.
    pub async fn snapshot(&self) -> Result<Option<Snapshot>, io::Error> {
        let state = self.state.clone();
        let cluster = self.cluster().unwrap_or_default();
        let opened = move || -> Result<Option<Snapshot>, io::Error> {
            let view = Arc::new(state.view()?);
            let Some(applied) = view.applied()? else {
                return Ok(None);
            };
            let meta = codec::decode_meta(&applied)?;
            let reader = SnapshotReader::new(view, cluster)?;
            Ok(reader.map(|reader| Snapshot {
                meta,
                snapshot: SnapshotData::Outgoing(Outgoing::new(reader)),
            }))
        };
        Runtime::spawn_blocking(opened).await
    }

    /// Begins to take in a snapshot of this member's cluster.
    pub async fn receive(&self) -> Result<SnapshotReceiver, DbError> {
        SnapshotReceiver::new(self.state.files(), self.cluster()).await
    }

    fn cluster(&self) -> Option<[u8; 16]> {
        *self
            .cluster
            .read()
            .expect("no code panics while it holds the id")
    }

    fn memory(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().expect("no code panics while it applies")
    }

    fn memory_mut(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory
            .write()
            .expect("no code panics while it applies")
    }

    /// Waits while too much is unwritten.
    pub(super) async fn room_to_apply(&self) -> Result<(), DbError> {
        while self.unwritten_bytes() > MAX_UNWRITTEN_BYTES {
            self.checkpoint().await?;
        }
        match self.alarm.raised() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Applies entries in order; the decisions of each.
    pub(super) fn apply(&self, entries: &[Entry]) -> Result<Vec<Decisions>, io::Error> {
        let mut decisions = Vec::with_capacity(entries.len());
        let (index, revision, unwritten) = {
            let mut memory = self.memory_mut();
            for entry in entries {
                decisions.push(self.apply_one(&mut memory, entry)?);
            }
            (
                index_of(&memory.meta),
                memory.machine.revision(),
                unwritten(&memory),
            )
        };
        self.applied.send_replace(index);
        self.revisions
            .send_if_modified(|known| std::mem::replace(known, revision) != revision);
        if unwritten > CHECKPOINT_BYTES {
            // A full queue means that one is asked for already.
            let _ = self.requests.try_send(None);
        }
        Ok(decisions)
    }

    fn apply_one(&self, memory: &mut Memory, entry: &Entry) -> Result<Decisions, io::Error> {
        let mut decisions = Decisions::default();
        match effect(entry) {
            Effect::Nothing if mutant::on(Mutant::LocksDroppedAtLeaderChange) => {
                memory.machine.forget_locks();
            }
            Effect::Nothing => {}
            Effect::Commands(batch) => {
                let answers = memory.machine.apply_batch(batch);
                decisions.0 =
                    answers.map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault))?;
                journal::tell(entry.log_id, batch.commands(), &decisions.0);
            }
            Effect::Membership(membership) => memory.meta.last_membership = membership,
        }
        memory.meta.last_log_id = Some(entry.log_id);
        let index = entry.log_id.index;
        if let Some(observer) = &self.observer {
            observer(index, memory.machine.state_hash());
        }
        if index.is_multiple_of(STATE_HASH_INTERVAL) {
            let mut hashes = self
                .hashes
                .lock()
                .expect("no code panics while it holds the hashes");
            if hashes.len() == STATE_HASHES_KEPT {
                hashes.pop_front();
            }
            hashes.push_back((index, memory.machine.state_hash()));
        }
        Ok(decisions)
    }

    /// Freezes what is unwritten and writes it. Only the checkpoint task calls this: whoever gave up half-way would leave a
    /// generation behind that nobody writes.
    async fn write_checkpoint(&self) -> Result<(), DbError> {
        let _alone = self.writing.lock().await;
        if let Some(error) = self.alarm.raised() {
            return Err(error);
        }
        let (generation, meta) = {
            let mut memory = self.memory_mut();
            if memory.written.as_ref() == Some(&memory.meta) {
                return Ok(());
            }
            let generation = Arc::new(memory.machine.take_generation());
            memory.frozen = Some(generation.clone());
            (generation, memory.meta.clone())
        };
        let mut meta = meta;
        if mutant::on(Mutant::CheckpointAheadOfState) {
            Runtime::sleep(Duration::from_millis(50)).await;
            meta = self.meta();
        }
        if mutant::on(Mutant::SnapshotOffByOne)
            && let Some(id) = &mut meta.last_log_id
        {
            id.index += 1;
        }
        let started = Runtime::now();
        let (state, applied) = (self.state.clone(), codec::encode_meta(&meta));
        let written =
            Runtime::spawn_blocking(move || state.write(generation.changes(), &applied)).await;
        let written = written.inspect_err(|error| self.alarm.raise(error))?;
        metrics::histogram!("troika_checkpoint_seconds").record(started.elapsed());
        metrics::histogram!("troika_checkpoint_bytes").record(written.bytes as f64);
        let index = index_of(&meta);
        let _written_generation = {
            let mut memory = self.memory_mut();
            memory.written = Some(meta);
            memory.frozen.take()
        };
        tracing::debug!(
            index,
            records = written.records,
            bytes = written.bytes,
            "checkpoint written"
        );
        self.checkpoints.send_replace(index);
        Ok(())
    }

    /// Puts a snapshot in the place of the whole state, on disk and in memory.
    pub(super) async fn install(
        &self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let _alone = self.writing.lock().await;
        if let Some(error) = self.alarm.raised() {
            return Err(error.into());
        }
        let (state, expected) = (self.state.clone(), meta.clone());
        let replace = move || -> Result<Machine, io::Error> {
            let received = match snapshot {
                SnapshotData::Incoming(received) => received,
                SnapshotData::Outgoing(outgoing) => snapshot_data::copy(outgoing, state.files())?,
            };
            if codec::decode_meta(&received.head.applied)? != expected {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the snapshot is not of the log id that it was announced with",
                ));
            }
            state.replace(&received)?;
            Ok(load(&state)?.0)
        };
        let mut machine = Runtime::spawn_blocking(replace).await?;
        let understood = machine.understand(self.understands.load(Ordering::Relaxed));
        understood.map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault))?;
        let revision = machine.revision();
        let _replaced = {
            let mut memory = self.memory_mut();
            memory.meta = meta.clone();
            memory.written = Some(meta.clone());
            (
                memory.frozen.take(),
                std::mem::replace(&mut memory.machine, machine),
            )
        };
        let index = index_of(meta);
        tracing::info!(index, revision, "snapshot installed");
        self.applied.send_replace(index);
        self.checkpoints.send_replace(index);
        self.revisions.send_replace(revision);
        Ok(())
    }
}

fn index_of(meta: &SnapshotMeta) -> u64 {
    meta.last_log_id.as_ref().map_or(0, |id: &LogId| id.index)
}

/// A cold record as memory has it: `None` if only the disk can say, `Some(None)` if it is gone.
fn unwritten_record(memory: &Memory, key: &RecordKey) -> Option<Option<Bytes>> {
    let frozen = memory.frozen.as_ref();
    let frozen = frozen.filter(|_| !mutant::on(Mutant::ColdMissesFrozen));
    let current = memory.machine.unwritten(key);
    current.or_else(|| frozen.and_then(|generation| generation.cold(key)))
}

fn unwritten(memory: &Memory) -> usize {
    let frozen = memory
        .frozen
        .as_ref()
        .map_or(0, |generation| generation.bytes());
    frozen + memory.machine.unwritten_bytes()
}

/// The machine and its place in the log, as the checkpoint has them.
pub(super) fn load(state: &StateFile) -> Result<(Machine, Option<SnapshotMeta>), DbError> {
    let damaged = |error: &dyn std::fmt::Display| {
        DbError::damaged(crate::db::state_file::STATE, "the state", error)
    };
    let view = state.view()?;
    let meta = match view.applied()? {
        Some(applied) => Some(codec::decode_meta(&applied).map_err(|error| damaged(&error))?),
        None => None,
    };
    let mut records = view.records_below(&RecordKey::cold_from())?.peekable();
    if meta.is_some() && records.peek().is_none() {
        return Err(damaged(&"no record is left of it"));
    }
    match Machine::load(records, |key| view.get(&key.to_bytes())) {
        Ok(machine) => Ok((machine, meta)),
        Err(LoadError::Storage(error)) => Err(error),
        Err(error) => Err(damaged(&error)),
    }
}

/// The checkpoint task: on request, when much is unwritten, and now and then.
async fn write_checkpoints(shared: Weak<Shared>, mut requests: mpsc::Receiver<Option<Reply>>) {
    let interval = Duration::from_millis(CHECKPOINT_INTERVAL_MS);
    loop {
        let first = match Runtime::timeout(interval, requests.recv()).await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(_) => None,
        };
        let Some(shared) = shared.upgrade() else {
            return;
        };
        // One checkpoint answers everybody who asked before it began.
        let mut waiting: Vec<Reply> = first.into_iter().collect();
        while let Ok(request) = requests.try_recv() {
            waiting.extend(request);
        }
        let result = shared.write_checkpoint().await;
        for reply in waiting {
            // Whoever asked may have gone.
            let _ = reply.send(result.clone());
        }
        if result.is_err() {
            return;
        }
    }
}
