//! The Raft log on disk: the file `log.redb`.
//!
//! | table | key | value (behind its checksum) | lifetime |
//! |---|---|---|---|
//! | `log` | index | the entry's bytes | until truncated or purged |
//! | `meta` | `meta` | [`LogMeta`]: vote, committed, purged, and which entries there are | rewritten by every commit |
//!
//! The meta record says which entries there must be, so that a damaged page cannot make some vanish without being noticed; it
//! is one record, so that none of its parts can vanish alone. Purged entries count as gone although some may still be in the
//! file: removing them takes several commits.
//!
//! What cannot be noticed: after a crash redb takes a newest commit with a wrong checksum for one that was torn, and goes back
//! to the one before. If it was whole once and damaged later, entries that were acknowledged are gone. Such a member counts as
//! failed for good, like one that was wiped; a majority of others has what it lost.
//!
//! Appends, votes, truncations and purges go through one queue, in order, to [one writer](super::log_writer), which commits
//! whatever has queued meanwhile with a single fsync and then calls the completions. This module knows indices and bytes; what
//! an entry or an id means is its caller's business.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use prost::Message;
use redb::{Database, TableDefinition};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use super::{
    alarm::Alarm,
    database::{self, seal},
    error::DbError,
    files::Files,
    log_read::{read, scan},
    log_sizes::Sizes,
    log_writer,
};
use crate::{
    limits::{LOG_CACHE_BYTES, LOG_COMMIT_BYTES, LOG_QUEUE_BYTES},
    mutant::{self, Mutant},
    runtime::Runtime,
};

/// The file's name.
pub const LOG: &str = "log.redb";

pub(super) const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
pub(super) const META_KEY: &str = "meta";

/// What the log holds beside entries. On disk: tags are never reused.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LogMeta {
    /// The member's vote.
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(super) vote: Option<Bytes>,
    /// Id of the last entry known as committed; may lag.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(super) committed: Option<Bytes>,
    /// Index of the last purged entry.
    #[prost(uint64, tag = "3")]
    pub(super) purged_index: u64,
    /// Id of the last purged entry; absent if none was purged.
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub(super) purged_id: Option<Bytes>,
    /// Index of the first entry.
    #[prost(uint64, tag = "5")]
    pub(super) first: u64,
    /// Index after that of the last entry; `first` if there is none.
    #[prost(uint64, tag = "6")]
    pub(super) next: u64,
}

impl LogMeta {
    /// What the meta record says after a change of the log.
    pub(super) fn follow(&mut self, change: &Change) {
        match change {
            Change::Append(records) => {
                if let (Some(first), Some(last)) = (records.first(), records.last()) {
                    if self.first == self.next {
                        self.first = first.index;
                    }
                    self.next = match mutant::on(Mutant::TruncateForgotten) {
                        true => self.next.max(last.index + 1),
                        false => last.index + 1,
                    };
                }
            }
            Change::TruncateFrom(_) if mutant::on(Mutant::TruncateForgotten) => {}
            Change::TruncateFrom(from) => {
                self.next = self.next.min(*from);
                self.first = self.first.min(self.next);
            }
            Change::Purge(index, id) => {
                self.purged_index = *index;
                self.purged_id = Some(id.clone());
                if !mutant::on(Mutant::PurgeMarkLost) {
                    self.first = self.first.max(index + 1);
                }
                self.next = self.next.max(self.first);
            }
            Change::Vote(vote) => self.vote = Some(vote.clone()),
        }
    }
}

/// Called once what was queued is on disk, or cannot be.
pub type Done = Box<dyn FnOnce(Result<(), DbError>) + Send>;

/// An entry: its index and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// One more than the entry's before it.
    pub index: u64,
    /// Opaque here.
    pub bytes: Bytes,
}

/// What the file held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The member's vote.
    pub vote: Option<Bytes>,
    /// Id of the last entry known as committed.
    pub committed: Option<Bytes>,
    /// Index and id of the last purged entry.
    pub purged: Option<(u64, Bytes)>,
    /// The last entry that is not purged.
    pub last: Option<Record>,
    /// How many entries there are.
    pub entries: u64,
}

/// A change of the log, without its completion.
#[derive(Debug)]
pub(super) enum Change {
    Append(Vec<Record>),
    Vote(Bytes),
    /// Removes this index and all after it.
    TruncateFrom(u64),
    Purge(u64, Bytes),
}

/// A change in the queue.
pub(super) struct Queued {
    pub(super) change: Change,
    pub(super) bytes: usize,
    pub(super) done: Option<Done>,
    /// Its part of the queue's bound.
    pub(super) _room: Option<OwnedSemaphorePermit>,
}

#[derive(Default)]
pub(super) struct QueueState {
    pub(super) changes: VecDeque<Queued>,
    /// Written with the next commit, or after a while.
    pub(super) committed: Option<Bytes>,
    /// Why nothing is written any more.
    pub(super) failed: Option<DbError>,
    pub(super) closed: bool,
    sizes: Sizes,
}

/// What waits for the writer.
pub(super) struct Queue {
    state: Mutex<QueueState>,
    pub(super) work: Notify,
    room: Arc<Semaphore>,
}

impl Queue {
    pub(super) fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state
            .lock()
            .expect("no code panics while it holds the log's queue")
    }

    /// The next changes for one commit, as many as fit into it.
    pub(super) fn take(&self) -> (Vec<Queued>, Option<Bytes>) {
        let mut state = self.state();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(next) = state.changes.front() {
            if !taken.is_empty() && bytes + next.bytes > LOG_COMMIT_BYTES {
                break;
            }
            bytes += next.bytes;
            taken.extend(state.changes.pop_front());
        }
        // The committed entry may still be in the queue: it is not to be on disk before what it commits.
        let committed = match state.changes.is_empty() {
            true => state.committed.take(),
            false => None,
        };
        (taken, committed)
    }

    /// Nothing is written any more: whoever waits hears why.
    pub(super) fn fail(&self, error: &DbError) {
        let waiting = {
            let mut state = self.state();
            state.failed.get_or_insert_with(|| error.clone());
            std::mem::take(&mut state.changes)
        };
        self.room.close();
        for queued in waiting {
            if let Some(done) = queued.done {
                done(Err(error.clone()));
            }
        }
    }
}

/// The database, and the directory's lock for as long as anybody uses it.
pub(super) struct Opened {
    pub(super) database: Database,
    pub(super) _lock: Arc<dyn Send + Sync>,
}

/// Closes the queue when the last handle is gone.
struct Handles(Arc<Queue>);

impl Drop for Handles {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.work.notify_one();
    }
}

/// A handle to the log file. The writer ends when the last handle is dropped, after it has written what is queued.
#[derive(Clone)]
pub struct LogFile {
    queue: Arc<Queue>,
    opened: Arc<Opened>,
    _handles: Arc<Handles>,
}

impl LogFile {
    /// Makes an empty log with a vote, if there is one: complete or not at all. Blocks.
    pub fn create(files: &dyn Files, vote: Option<Bytes>) -> Result<(), DbError> {
        let meta = LogMeta {
            vote,
            ..LogMeta::default()
        };
        database::create(files, LOG, LOG_CACHE_BYTES, |database| {
            let fill = || -> Result<(), redb::Error> {
                let transaction = database.begin_write()?;
                transaction.open_table(ENTRIES)?;
                let empty = seal(META_KEY.as_bytes(), &meta.encode_to_vec());
                transaction
                    .open_table(META)?
                    .insert(META_KEY, empty.as_slice())?;
                Ok(transaction.commit()?)
            };
            fill().map_err(|error| DbError::redb(LOG, "create", error))
        })
    }

    /// Opens the log, reads and checks every entry, and starts its writer.
    pub async fn open(
        files: Arc<dyn Files>,
        lock: Arc<dyn Send + Sync>,
        alarm: Alarm,
    ) -> Result<(Self, Recovered), DbError> {
        let (database, meta, recovered, sizes) = Runtime::spawn_blocking(move || {
            let database = database::open(&*files, LOG, LOG_CACHE_BYTES, true)?;
            let mut sizes = Sizes::default();
            let scanned = scan(&database, |record| {
                sizes.push(record.index, record.bytes.len() as u64);
            });
            match scanned {
                Ok((meta, recovered)) => Ok((database, meta, recovered, sizes)),
                Err(error) => {
                    // Closing it would write.
                    std::mem::forget(database);
                    Err(error)
                }
            }
        })
        .await?;
        let opened = Arc::new(Opened {
            database,
            _lock: lock,
        });
        let queue = Arc::new(Queue {
            state: Mutex::new(QueueState {
                sizes,
                ..QueueState::default()
            }),
            work: Notify::new(),
            room: Arc::new(Semaphore::new(LOG_QUEUE_BYTES)),
        });
        Runtime::spawn(log_writer::run(queue.clone(), opened.clone(), alarm, meta));
        let log = Self {
            _handles: Arc::new(Handles(queue.clone())),
            queue,
            opened,
        };
        Ok((log, recovered))
    }

    /// Queues entries; waits only while the queue is full. `done` hears when they are on disk.
    pub async fn append(&self, entries: Vec<Record>, done: Done) -> Result<(), DbError> {
        let bytes: usize = entries.iter().map(|entry| entry.bytes.len()).sum();
        let permits = bytes.clamp(1, LOG_QUEUE_BYTES) as u32;
        let Ok(room) = self.queue.room.clone().acquire_many_owned(permits).await else {
            return Err(self.failure());
        };
        {
            let mut state = self.queue.state();
            for entry in &entries {
                state.sizes.push(entry.index, entry.bytes.len() as u64);
            }
        }
        self.push(Queued {
            change: Change::Append(entries),
            bytes,
            done: Some(done),
            _room: Some(room),
        });
        Ok(())
    }

    /// Writes the vote; on disk when it returns.
    pub async fn save_vote(&self, vote: Bytes) -> Result<(), DbError> {
        self.written(Change::Vote(vote)).await
    }

    /// Queues the removal of `from` and all entries after it.
    pub fn truncate_from(&self, from: u64) -> Result<(), DbError> {
        self.queue.state().sizes.truncate(from);
        self.queued(Change::TruncateFrom(from))
    }

    /// Queues the removal of all entries up to `index`, which may lie behind the last one; `id` stands for it from now on.
    pub fn purge(&self, index: u64, id: Bytes) -> Result<(), DbError> {
        self.queue.state().sizes.purge(index);
        self.queued(Change::Purge(index, id))
    }

    /// Remembers the committed id. It goes to disk with another write or, if none comes, after
    /// [`LOG_COMMITTED_IDLE_MS`](crate::limits::LOG_COMMITTED_IDLE_MS): it only saves time at a restart.
    pub fn save_committed(&self, id: Bytes) {
        let first = self.queue.state().committed.replace(id).is_none();
        if first {
            self.queue.work.notify_one();
        }
    }

    /// Waits until everything queued before is on disk.
    pub async fn flush(&self) -> Result<(), DbError> {
        self.written(Change::Append(Vec::new())).await
    }

    /// The entries `from..until` as they are in the file, cut after `max_bytes` but never before the first.
    pub async fn read(
        &self,
        from: u64,
        until: u64,
        max_bytes: usize,
    ) -> Result<Vec<Bytes>, DbError> {
        let opened = self.opened.clone();
        Runtime::spawn_blocking(move || read(&opened.database, from, until, max_bytes)).await
    }

    /// Bytes that wait for the writer.
    pub fn queued_bytes(&self) -> usize {
        LOG_QUEUE_BYTES - self.queue.room.available_permits().min(LOG_QUEUE_BYTES)
    }

    /// Bytes of all entries.
    pub fn bytes(&self) -> u64 {
        self.queue.state().sizes.total()
    }

    /// The highest index after which at least `keep` bytes of entries remain, if there are that many.
    pub fn purge_point(&self, keep: u64) -> Option<u64> {
        self.queue.state().sizes.purge_point(keep)
    }

    fn failure(&self) -> DbError {
        let failed = self.queue.state().failed.clone();
        failed.unwrap_or(DbError::Closed {
            file: LOG.to_owned(),
        })
    }

    async fn written(&self, change: Change) -> Result<(), DbError> {
        let (sender, written) = oneshot::channel();
        self.push(Queued {
            change,
            bytes: 0,
            done: Some(Box::new(move |result| {
                // Whoever asked may have been dropped.
                let _ = sender.send(result);
            })),
            _room: None,
        });
        written.await.unwrap_or_else(|_| Err(self.failure()))
    }

    fn queued(&self, change: Change) -> Result<(), DbError> {
        if let Some(error) = self.queue.state().failed.clone() {
            return Err(error);
        }
        self.push(Queued {
            change,
            bytes: 0,
            done: None,
            _room: None,
        });
        Ok(())
    }

    fn push(&self, queued: Queued) {
        let refused = {
            let mut state = self.queue.state();
            match state.failed.clone() {
                Some(error) => Some((queued, error)),
                None => {
                    state.changes.push_back(queued);
                    None
                }
            }
        };
        match refused {
            None => self.queue.work.notify_one(),
            Some((queued, error)) => {
                if let Some(done) = queued.done {
                    done(Err(error));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(index: u64, bytes: usize) -> Queued {
        let record = Record {
            index,
            bytes: Bytes::new(),
        };
        Queued {
            change: Change::Append(vec![record]),
            bytes,
            done: None,
            _room: None,
        }
    }

    #[test]
    fn what_is_committed_goes_to_disk_with_its_entry_and_not_before() {
        let queue = Queue {
            state: Mutex::default(),
            work: Notify::new(),
            room: Arc::new(Semaphore::new(0)),
        };
        let two = [1, 2].map(|index| queued(index, LOG_COMMIT_BYTES));
        queue.state().changes.extend(two);
        let id = Bytes::from_static(b"2");
        queue.state().committed = Some(id.clone());
        let (first, committed) = queue.take();
        assert_eq!((first.len(), committed), (1, None));
        let (second, committed) = queue.take();
        assert_eq!((second.len(), committed), (1, Some(id)));
    }
}
