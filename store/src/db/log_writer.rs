//! The log's one writer: drain the queue, commit, then tell.
//!
//! While a commit is under way the next one's changes gather in the queue, so the busier the member, the more entries share
//! an fsync. An error is for good: redb refuses writes after one, and so does the queue.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use redb::{Durability, ReadableTable, Table};
use std::ops::Bound;

use super::{
    alarm::Alarm,
    database::{seal, seal_into},
    error::DbError,
    log_file::{
        COMMITTED, Change, ENTRIES, LOG, META, Opened, PURGED, Queue, Queued, Record, VOTE,
    },
};
use crate::{
    limits::{LOG_COMMITTED_IDLE_MS, LOG_PURGE_ENTRIES},
    runtime::{Runtime, Worker},
};

/// What one commit writes.
struct Commit {
    changes: Vec<Change>,
    committed: Option<Bytes>,
    /// Entries up to here are purged; the commit removes some of those that are still in the file.
    purged: Option<u64>,
}

/// Writes until the queue is closed and empty, or a write fails.
pub(super) async fn run(
    queue: Arc<Queue>,
    opened: Arc<Opened>,
    alarm: Alarm,
    mut purged: Option<u64>,
) {
    let worker = Worker::new("troika-log");
    while wait_for_work(&queue, purged.is_some()).await {
        let (taken, committed) = queue.take();
        let (changes, told) = split(taken);
        let commit = Commit {
            purged: changes.iter().filter_map(purge_index).max().max(purged),
            changes,
            committed,
        };
        let remaining = commit.purged;
        let started = Runtime::now();
        let opened = opened.clone();
        let result = worker.run(move || write(&opened, commit)).await;
        metrics::histogram!("troika_log_commit_seconds").record(started.elapsed());
        match result {
            Ok(more_to_purge) => {
                purged = remaining.filter(|_| more_to_purge);
                told.into_iter().for_each(|queued| tell(queued, Ok(())));
            }
            Err(error) => {
                alarm.raise(&error);
                // The queue refuses before anybody is told, so that nobody queues behind the failure.
                queue.fail(&error);
                told.into_iter()
                    .for_each(|queued| tell(queued, Err(error.clone())));
                return;
            }
        }
    }
    queue.fail(&DbError::Closed {
        file: LOG.to_owned(),
    });
}

/// True when there is something to write; false when there never will be.
async fn wait_for_work(queue: &Queue, purging: bool) -> bool {
    let mut idle_until = None;
    loop {
        let committed = {
            let state = queue.state();
            if !state.changes.is_empty() || (purging && !state.closed) {
                return true;
            }
            if state.closed {
                return state.committed.is_some();
            }
            state.committed.is_some()
        };
        if !committed {
            queue.work.notified().await;
            continue;
        }
        let idle = Duration::from_millis(LOG_COMMITTED_IDLE_MS);
        let deadline = *idle_until.get_or_insert_with(|| Runtime::now() + idle);
        if Runtime::timeout_at(deadline, queue.work.notified())
            .await
            .is_err()
        {
            return true;
        }
    }
}

/// A queued change that waits to be told, without the change.
type Told = (
    Option<super::log_file::Done>,
    Option<tokio::sync::OwnedSemaphorePermit>,
);

fn split(taken: Vec<Queued>) -> (Vec<Change>, Vec<Told>) {
    let bytes: usize = taken.iter().map(|queued| queued.bytes).sum();
    metrics::histogram!("troika_log_commit_bytes").record(bytes as f64);
    metrics::histogram!("troika_log_commit_changes").record(taken.len() as f64);
    taken
        .into_iter()
        .map(|queued| (queued.change, (queued.done, queued._room)))
        .unzip()
}

fn tell((done, room): Told, result: Result<(), DbError>) {
    drop(room);
    if let Some(done) = done {
        done(result);
    }
}

fn purge_index(change: &Change) -> Option<u64> {
    match change {
        Change::Purge(index, _) => Some(*index),
        _ => None,
    }
}

/// One transaction, one fsync. True if purged entries are left in the file.
fn write(opened: &Opened, commit: Commit) -> Result<bool, DbError> {
    let write = || -> Result<bool, redb::Error> {
        let mut transaction = opened.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let more_to_purge = {
            let mut meta = transaction.open_table(META)?;
            let mut entries = transaction.open_table(ENTRIES)?;
            let mut scratch = Vec::new();
            for change in &commit.changes {
                match change {
                    Change::Append(records) => append(&mut entries, records, &mut scratch)?,
                    Change::TruncateFrom(from) => entries.retain_in(*from.., |_, _| false)?,
                    Change::Vote(vote) => put(&mut meta, VOTE, vote)?,
                    Change::Purge(index, id) => {
                        let value = [&index.to_le_bytes()[..], id].concat();
                        put(&mut meta, PURGED, &value)?;
                    }
                }
            }
            if let Some(committed) = &commit.committed {
                put(&mut meta, COMMITTED, committed)?;
            }
            match commit.purged {
                Some(index) => remove_some(&mut entries, index)?,
                None => false,
            }
        };
        transaction.commit()?;
        Ok(more_to_purge)
    };
    write().map_err(|error| DbError::redb(LOG, "write", error))
}

fn put(meta: &mut Table<&str, &[u8]>, key: &str, value: &[u8]) -> Result<(), redb::Error> {
    meta.insert(key, seal(key.as_bytes(), value).as_slice())?;
    Ok(())
}

/// Puts entries at the end. redb refuses one that does not come after the last: the log never has two of one index.
fn append(
    entries: &mut Table<u64, &[u8]>,
    records: &[Record],
    scratch: &mut Vec<u8>,
) -> Result<(), redb::Error> {
    let mut end = entries.upper_bound_mut(Bound::<u64>::Unbounded)?;
    for record in records {
        scratch.clear();
        seal_into(scratch, &record.index.to_be_bytes(), &record.bytes);
        end.insert_before(record.index, scratch.as_slice())
            .map_err(|error| redb::Error::Io(std::io::Error::other(error.to_string())))?;
    }
    end.close()?;
    Ok(())
}

/// Removes the first entries up to `upto`, not too many at once. True if more are left.
fn remove_some(entries: &mut Table<u64, &[u8]>, upto: u64) -> Result<bool, redb::Error> {
    let mut last = None;
    let mut seen = 0;
    for item in entries.range(..=upto)?.take(LOG_PURGE_ENTRIES) {
        last = Some(item?.0.value());
        seen += 1;
    }
    if let Some(last) = last {
        entries.retain_in(..=last, |_, _| false)?;
    }
    Ok(seen == LOG_PURGE_ENTRIES)
}
