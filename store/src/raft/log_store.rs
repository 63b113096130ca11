//! The log as openraft sees it: [`LogFile`] plus the recent entries in memory.
//!
//! `append` puts entries into the tail, queues their bytes and returns; openraft hears from the writer when they are on disk.
//! Readers take what they can from the tail, so replication and applying do not read the disk unless somebody lags far behind.
//! An entry leaves the tail only after it is on disk, so together the two hold the whole log at any moment.
//!
//! Votes, appends, truncations and purges go to disk in the order in which openraft asked for them. Only a vote is waited for.

use std::{
    collections::VecDeque,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use openraft::{
    OptionalSend, RaftLogReader,
    storage::{IOFlushed, LogState, RaftLogStorage},
};

use super::{
    codec,
    types::{Entry, LogId, TypeConfig, Vote},
};
use crate::{
    db::{DbError, LogFile, Record, Recovered},
    limits::{LOG_READ_BYTES, LOG_TAIL_BYTES},
    mutant::{self, Mutant},
};

/// openraft's log storage, and its reader. Clones share one log.
#[derive(Clone)]
pub struct LogStore {
    file: LogFile,
    memory: Arc<Mutex<Memory>>,
    /// Appends up to this one are on disk.
    flushed: Arc<AtomicU64>,
}

/// What is known without reading the disk.
struct Memory {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// The first index that is there, or the next to come in an empty log. A log that was never purged begins where its
    /// first writer chose: at 0 for openraft, at 1 for some of its tests.
    first: u64,
    /// The last entries, without a gap.
    tail: VecDeque<Recent>,
    /// Index of the first entry of the tail, or of the next entry to come if it is empty.
    tail_first: u64,
    tail_bytes: usize,
    /// Numbers the appends.
    appends: u64,
    /// Counts truncations, so that a reader sees that what it read from disk was replaced meanwhile.
    truncations: u64,
}

struct Recent {
    entry: Entry,
    bytes: usize,
    append: u64,
}

impl Memory {
    fn next(&self) -> u64 {
        self.tail_first + self.tail.len() as u64
    }

    /// Drops what is on disk from the front until the tail is within its bound.
    fn shrink(&mut self, flushed: u64) {
        while self.tail_bytes > LOG_TAIL_BYTES
            && let Some(oldest) = self.tail.front()
            && oldest.append <= flushed
        {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(oldest) = self.tail.pop_front() {
            self.tail_bytes -= oldest.bytes;
            self.tail_first += 1;
        }
    }

    fn drop_last(&mut self) {
        if let Some(newest) = self.tail.pop_back() {
            self.tail_bytes -= newest.bytes;
        }
    }
}

impl LogStore {
    /// The log of an open file.
    pub fn new(file: LogFile, recovered: &Recovered) -> Result<Self, io::Error> {
        let id = |bytes: &Bytes| codec::decode_log_id(bytes);
        let purged = recovered
            .purged
            .as_ref()
            .map(|(_, bytes)| id(bytes))
            .transpose()?;
        let last = match &recovered.last {
            Some(record) => Some(codec::decode_entry_id(&record.bytes)?),
            None => purged,
        };
        // Known as committed is at most what is there.
        let committed = recovered.committed.as_ref().map(id).transpose()?;
        let committed = committed.min(last);
        let next = last.as_ref().map_or(0, |id| id.index + 1);
        let memory = Memory {
            first: next - recovered.entries,
            vote: recovered
                .vote
                .as_ref()
                .map(|vote| codec::decode_vote(vote))
                .transpose()?,
            committed,
            purged,
            tail: VecDeque::new(),
            tail_first: next,
            last,
            tail_bytes: 0,
            appends: 0,
            truncations: 0,
        };
        Ok(Self {
            file,
            memory: Arc::new(Mutex::new(memory)),
            flushed: Arc::new(AtomicU64::new(0)),
        })
    }

    /// The file beneath: its sizes, and its flush.
    pub fn file(&self) -> &LogFile {
        &self.file
    }

    /// Index of the last purged entry, 0 if none was.
    pub fn purged_index(&self) -> u64 {
        self.memory().purged.as_ref().map_or(0, |id| id.index)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory
            .lock()
            .expect("no code panics while it holds the log's memory")
    }

    /// The entries `from..until` that are there, cut after `max_bytes` but never before the first.
    async fn entries(
        &self,
        from: u64,
        until: u64,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, io::Error> {
        loop {
            let (from, on_disk_until, truncations) = {
                let memory = self.memory();
                let from = from.max(memory.first);
                let until = until.min(memory.next());
                if from >= memory.tail_first || from >= until {
                    return Ok(from_tail(&memory, from, until, max_bytes));
                }
                (from, until.min(memory.tail_first), memory.truncations)
            };
            let read = self.file.read(from, on_disk_until, max_bytes).await;
            {
                let memory = self.memory();
                if memory.truncations != truncations || memory.first > from {
                    // What was read may be gone or replaced: read again what is there now.
                    continue;
                }
            }
            let read = read?;
            let bytes: usize = read.iter().map(Bytes::len).sum();
            let mut entries = Vec::with_capacity(read.len());
            for bytes in read {
                entries.push(codec::decode_entry(bytes)?);
            }
            let next = from + entries.len() as u64;
            if next < on_disk_until || bytes >= max_bytes || next >= until {
                return Ok(entries);
            }
            // The rest comes from the tail, or from disk if the tail has moved on meanwhile.
            let rest = Box::pin(self.entries(next, until, max_bytes - bytes)).await?;
            let unchanged = self.memory().truncations == truncations;
            if unchanged {
                entries.extend(rest);
                return Ok(entries);
            }
        }
    }
}

fn from_tail(memory: &Memory, from: u64, until: u64, max_bytes: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    if from >= until {
        return entries;
    }
    let skip = (from - memory.tail_first) as usize;
    for recent in memory.tail.iter().skip(skip).take((until - from) as usize) {
        bytes += recent.bytes;
        if bytes > max_bytes && !entries.is_empty() {
            break;
        }
        entries.push(recent.entry.clone());
    }
    entries
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let until = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(from, until, usize::MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.memory().vote)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.entries(start, end, LOG_READ_BYTES).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let memory = self.memory();
        Ok(LogState {
            last_purged_log_id: memory.purged,
            last_log_id: memory.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        if !mutant::on(Mutant::VoteNotPersisted) {
            self.file.save_vote(codec::encode_vote(vote)).await?;
        }
        self.memory().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(id) = &committed {
            self.file.save_committed(codec::encode_log_id(id));
        }
        self.memory().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.memory().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let records: Vec<Record> = entries
            .iter()
            .map(|entry| Record {
                index: entry.log_id.index,
                bytes: codec::encode_entry(entry),
            })
            .collect();
        let append = {
            let mut memory = self.memory();
            memory.appends += 1;
            let append = memory.appends;
            for (entry, record) in entries.into_iter().zip(&records) {
                push(&mut memory, entry, record.bytes.len(), append)?;
            }
            let flushed = self.flushed.load(Ordering::Acquire);
            memory.shrink(flushed);
            append
        };
        let flushed = self.flushed.clone();
        let done = move |result: Result<(), DbError>| {
            if result.is_ok() {
                flushed.fetch_max(append, Ordering::Release);
            }
            callback.io_completed(result.map_err(io::Error::from));
        };
        Ok(self.file.append(records, Box::new(done)).await?)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.as_ref().map_or(0, |id| id.index + 1);
        {
            let mut memory = self.memory();
            if from >= memory.next() {
                return Ok(());
            }
            while memory.next() > from && !memory.tail.is_empty() {
                memory.drop_last();
            }
            memory.tail_first = memory.tail_first.min(from);
            memory.first = memory.first.min(from);
            memory.truncations += 1;
            // An id below the purged one is not in the log any more.
            memory.last = last.max(memory.purged);
        }
        Ok(self.file.truncate_from(from)?)
    }

    async fn purge(&mut self, id: LogId) -> Result<(), io::Error> {
        {
            let mut memory = self.memory();
            if memory.purged.as_ref() >= Some(&id) {
                return Ok(());
            }
            while memory.tail_first <= id.index && !memory.tail.is_empty() {
                memory.drop_first();
            }
            memory.tail_first = memory.tail_first.max(id.index + 1);
            memory.first = id.index + 1;
            memory.purged = Some(id);
            // A snapshot may lie ahead of the whole log.
            memory.last = memory.last.max(Some(id));
        }
        Ok(self.file.purge(id.index, codec::encode_log_id(&id))?)
    }
}

fn push(memory: &mut Memory, entry: Entry, bytes: usize, append: u64) -> Result<(), io::Error> {
    let index = entry.log_id.index;
    if memory.last.is_none() {
        // The first entry of an empty log chooses where it begins.
        memory.tail_first = index;
        memory.first = index;
    }
    let next = memory.next();
    if index != next {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("an entry of index {index} was appended where {next} comes next"),
        ));
    }
    memory.last = Some(entry.log_id);
    memory.tail_bytes += bytes;
    memory.tail.push_back(Recent {
        entry,
        bytes,
        append,
    });
    Ok(())
}
