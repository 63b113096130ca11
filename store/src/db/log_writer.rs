//! The log's one writer: drain the queue, commit, then tell.
//!
//! While a commit is under way the next one's changes gather in the queue, so the busier the member, the more entries share
//! an fsync. An error is for good: redb refuses writes after one, and so does the queue.

use std::{sync::Arc, time::Duration};

use prost::Message;
use redb::{Durability, ReadableTable, Table};
use std::ops::Bound;

use super::{
    alarm::Alarm,
    database::{seal, seal_into, unpanicked},
    error::DbError,
    log_file::{Change, ENTRIES, LOG, LogMeta, META, META_KEY, Opened, Queue, Queued, Record},
};
use crate::{
    limits::{LOG_COMMITTED_IDLE_MS, LOG_PURGE_ENTRIES},
    mutant::{self, Mutant},
    runtime::{Runtime, Worker},
};

/// What one commit writes.
struct Commit {
    changes: Vec<Change>,
    /// As it is after the changes.
    meta: LogMeta,
    /// Whether purged entries may be in the file.
    purging: bool,
}

/// Writes until the queue is closed and empty, or a write fails.
pub(super) async fn run(queue: Arc<Queue>, opened: Arc<Opened>, alarm: Alarm, mut meta: LogMeta) {
    let worker = Worker::new("troika-log");
    let mut purging = meta.purged_id.is_some();
    while wait_for_work(&queue, purging).await {
        let (taken, committed) = queue.take();
        let (changes, mut told) = split(taken);
        if mutant::on(Mutant::AckBeforeFsync) {
            told.drain(..).for_each(|queued| tell(queued, Ok(())));
        }
        changes.iter().for_each(|change| meta.follow(change));
        meta.committed = committed.or(meta.committed.take());
        purging |= changes.iter().any(|c| matches!(c, Change::Purge(..)));
        let commit = Commit {
            changes,
            meta: meta.clone(),
            purging,
        };
        let started = Runtime::now();
        let opened = opened.clone();
        let write = move || unpanicked(LOG, || write(&opened, &commit));
        let result = worker.run(write).await;
        metrics::histogram!("troika_log_commit_seconds").record(started.elapsed());
        match result {
            Ok(more_to_purge) => {
                purging = more_to_purge;
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

/// One transaction, one fsync. True if purged entries are left in the file.
fn write(opened: &Opened, commit: &Commit) -> Result<bool, DbError> {
    let write = || -> Result<bool, redb::Error> {
        let mut transaction = opened.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let more_to_purge = {
            let mut entries = transaction.open_table(ENTRIES)?;
            let mut scratch = Vec::new();
            for change in &commit.changes {
                match change {
                    Change::Append(records) => append(&mut entries, records, &mut scratch)?,
                    Change::TruncateFrom(_) if mutant::on(Mutant::TruncateForgotten) => {}
                    Change::TruncateFrom(from) => entries.retain_in(*from.., |_, _| false)?,
                    // In the meta record.
                    Change::Vote(_) | Change::Purge(..) => {}
                }
            }
            let mut meta = transaction.open_table(META)?;
            let value = seal(META_KEY.as_bytes(), &commit.meta.encode_to_vec());
            meta.insert(META_KEY, value.as_slice())?;
            commit.purging && remove_some(&mut entries, commit.meta.purged_index)?
        };
        transaction.commit()?;
        Ok(more_to_purge)
    };
    write().map_err(|error| DbError::redb(LOG, "write", error))
}

/// Puts entries at the end. redb refuses one that does not come after the last: the log never has two of one index.
fn append(
    entries: &mut Table<u64, &[u8]>,
    records: &[Record],
    scratch: &mut Vec<u8>,
) -> Result<(), redb::Error> {
    if mutant::on(Mutant::TruncateForgotten) {
        for record in records {
            entries.insert(
                record.index,
                &seal(&record.index.to_be_bytes(), &record.bytes)[..],
            )?;
        }
        return Ok(());
    }
    let mut end = entries.upper_bound_mut(Bound::<u64>::Unbounded)?;
    for record in records {
        scratch.clear();
        seal_into(scratch, &record.index.to_be_bytes(), &record.bytes);
        end.insert_before(record.index, scratch.as_slice())?;
    }
    end.close()?;
    Ok(())
}

/// Removes the first entries up to `upto`, not too many at once. True if more may be left.
fn remove_some(entries: &mut Table<u64, &[u8]>, upto: u64) -> Result<bool, redb::Error> {
    let first = entries.first()?.map(|(index, _)| index.value());
    let Some(first) = first.filter(|first| *first <= upto) else {
        return Ok(false);
    };
    let last = upto.min(first.saturating_add(LOG_PURGE_ENTRIES - 1));
    entries.retain_in(..=last, |_, _| false)?;
    Ok(last < upto)
}
