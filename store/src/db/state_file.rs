//! The checkpoint on disk: the file `state.redb`.
//!
//! | table | key | value (behind its checksum) | lifetime |
//! |---|---|---|---|
//! | `records` | a record's key | the record, as `state` writes it | until the state machine drops it |
//! | `meta` | `applied` | last applied log id and membership (`troika.log.v1.AppliedState`) | replaced by each checkpoint |
//!
//! A checkpoint is one transaction: the file always holds the state at exactly one log index. Installing a snapshot replaces
//! the whole file by a rename. Readers that began before keep the file they began with.
//!
//! What cannot be noticed while it is open: a bit that flips in a page above the records may hide some of them from a lookup.
//! Each record has a checksum, a record that is not found has none; only `troika-store inspect` walks every page.
//!
//! Everything here blocks: off the async threads with it.

use std::{
    iter::Peekable,
    ops::Bound,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use redb::{CursorError, Database, Durability, Table, TableDefinition};

use super::{
    database::{self, seal, seal_into},
    error::DbError,
    files::Files,
    snapshot::Received,
    state_view::StateView,
};
use crate::{
    limits::STATE_CACHE_BYTES,
    mutant::{self, Mutant},
    state::Change,
};

/// The file's name.
pub const STATE: &str = "state.redb";

pub(super) const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");
pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
pub(super) const APPLIED: &str = "applied";

/// A handle to the state file.
#[derive(Clone)]
pub struct StateFile {
    files: Arc<dyn Files>,
    opened: Arc<RwLock<Arc<Opened>>>,
}

/// The open database. Once damage was seen it is let go of as it is: closing it would write, and redb may panic over the
/// damage a second time while it unwinds, which ends the process without a word about why.
pub(super) struct Opened {
    database: Option<Database>,
    damaged: AtomicBool,
    /// Keeps others out of the directory.
    lock: Arc<dyn Send + Sync>,
}

impl Opened {
    pub(super) fn new(database: Database, lock: Arc<dyn Send + Sync>) -> Self {
        Self {
            database: Some(database),
            damaged: AtomicBool::new(false),
            lock,
        }
    }

    /// Work with the database. What redb panics over is told as damage.
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        let database = self
            .database
            .as_ref()
            .expect("it is there until it is dropped");
        let result = database::unpanicked(STATE, || work(database));
        if let Err(DbError::Damaged { .. }) = result {
            self.damaged.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let database = self.database.take();
        if *self.damaged.get_mut() {
            std::mem::forget(database);
            return;
        }
        let closed = database::unpanicked(STATE, || {
            drop(database);
            Ok(())
        });
        if let Err(error) = closed {
            tracing::error!(%error, "the state file could not be closed");
        }
    }
}

/// What a checkpoint wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Records written or removed.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

impl StateFile {
    /// Makes an empty state: complete or not at all.
    pub fn create(files: &dyn Files) -> Result<(), DbError> {
        database::create(files, STATE, STATE_CACHE_BYTES, fill_empty)
    }

    /// Opens the state.
    pub fn open(files: Arc<dyn Files>, lock: Arc<dyn Send + Sync>) -> Result<Self, DbError> {
        let database = database::open(&*files, STATE, STATE_CACHE_BYTES, false)?;
        let opened = Opened::new(database, lock);
        Ok(Self {
            files,
            opened: Arc::new(RwLock::new(Arc::new(opened))),
        })
    }

    fn opened(&self) -> Arc<Opened> {
        self.opened
            .read()
            .expect("no code panics while it swaps the state file")
            .clone()
    }

    /// Writes a checkpoint: every change, in this order, and what is applied with them.
    pub fn write(
        &self,
        changes: impl IntoIterator<Item = Change>,
        applied: &[u8],
    ) -> Result<Written, DbError> {
        let opened = self.opened();
        let write = |database: &Database| -> Result<Written, redb::Error> {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            // The allocator's state goes along, so that opening after a crash does not walk the whole file.
            transaction.set_quick_repair(true);
            let written = {
                let mut records = transaction.open_table(RECORDS)?;
                write_records(&mut records, changes.into_iter())?
            };
            if mutant::on(Mutant::CheckpointInTwoSteps) {
                transaction.commit()?;
                transaction = database.begin_write()?;
            }
            put_applied(&transaction, applied)?;
            transaction.commit()?;
            Ok(written)
        };
        opened
            .with(|database| write(database).map_err(|error| DbError::redb(STATE, "write", error)))
    }

    /// The state as it is now, unmoved by later checkpoints for as long as the view lives.
    pub fn view(&self) -> Result<StateView, DbError> {
        StateView::of(self.opened())
    }

    /// One record.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, DbError> {
        self.view()?.get(key)
    }

    /// The file's length in bytes.
    pub fn len(&self) -> Result<u64, DbError> {
        self.files
            .len(STATE)
            .map_err(|error| DbError::io(STATE, "measure", &error))
    }

    /// True while no checkpoint was ever written.
    pub fn is_empty(&self) -> Result<bool, DbError> {
        Ok(self.view()?.applied()?.is_none())
    }

    /// The directory that the file is in.
    pub fn files(&self) -> Arc<dyn Files> {
        self.files.clone()
    }

    /// Puts a received snapshot in the place of the state: one rename, on disk when it returns.
    pub fn replace(&self, received: &Received) -> Result<(), DbError> {
        self.files
            .rename(received.file(), STATE)
            .map_err(|error| DbError::io(STATE, "replace", &error))?;
        let database = database::open(&*self.files, STATE, STATE_CACHE_BYTES, false)?;
        let mut current = self
            .opened
            .write()
            .expect("no code panics while it swaps the state file");
        *current = Arc::new(Opened::new(database, current.lock.clone()));
        Ok(())
    }
}

type Records<'a> = Table<'a, &'static [u8], &'static [u8]>;

fn write_records(
    records: &mut Records<'_>,
    changes: impl Iterator<Item = Change>,
) -> Result<Written, redb::Error> {
    let mut written = Written::default();
    let mut sealed = Vec::new();
    let mut changes = changes.inspect(|_| written.records += 1).peekable();
    let mut bytes = 0;
    while let Some(change) = changes.next() {
        match change {
            Change::Put(key, value) => {
                bytes += key.len() + value.len();
                sealed.clear();
                seal_into(&mut sealed, &key, &value);
                records.insert(&key[..], sealed.as_slice())?;
            }
            Change::Append(key, value) => {
                bytes += append_run(records, key, value, &mut changes, &mut sealed)?;
            }
            Change::Delete(key) => drop(records.remove(&key[..])?),
            Change::DeleteRange(from, to) => {
                records.retain_in::<&[u8], _>(&from[..]..&to[..], |_, _| false)?;
            }
        }
    }
    drop(changes);
    written.bytes = bytes as u64;
    Ok(written)
}

/// Writes a record and those that are appended after it through one gap of the tree: pages are filled in order instead of
/// being split again and again. What does not fit into the gap is written as any other. Their bytes.
fn append_run<I: Iterator<Item = Change>>(
    records: &mut Records<'_>,
    key: Vec<u8>,
    value: Bytes,
    changes: &mut Peekable<I>,
    sealed: &mut Vec<u8>,
) -> Result<usize, redb::Error> {
    let mut bytes = 0;
    let mut gap = records.upper_bound_mut(Bound::Included(&key[..]))?;
    let mut next = Some((key, value));
    while let Some((key, value)) = &next {
        sealed.clear();
        seal_into(sealed, key, value);
        bytes += key.len() + value.len();
        match gap.insert_before(&key[..], sealed.as_slice()) {
            Ok(()) => {}
            Err(CursorError::UnorderedKey) => break,
            Err(error) => return Err(error.into()),
        }
        next = match changes.next_if(|change| matches!(change, Change::Append(..))) {
            Some(Change::Append(key, value)) => Some((key, value)),
            _ => None,
        };
    }
    gap.close()?;
    if let Some((key, _)) = next {
        records.insert(&key[..], sealed.as_slice())?;
    }
    Ok(bytes)
}

/// Makes the tables of an empty state.
pub(super) fn fill_empty(database: &Database) -> Result<(), DbError> {
    let fill = || -> Result<(), redb::Error> {
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        transaction.open_table(RECORDS)?;
        transaction.open_table(META)?;
        Ok(transaction.commit()?)
    };
    fill().map_err(|error| DbError::redb(STATE, "create", error))
}

/// Writes what is applied, as the last thing of a received snapshot.
pub(super) fn put_applied(
    transaction: &redb::WriteTransaction,
    applied: &[u8],
) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    meta.insert(APPLIED, seal(APPLIED.as_bytes(), applied).as_slice())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::crash::CrashDisk;

    fn key(number: u8) -> Vec<u8> {
        vec![0x81, number]
    }

    fn append(number: u8, bytes: usize) -> Change {
        Change::Append(key(number), vec![number; bytes].into())
    }

    #[test]
    fn what_is_appended_is_there_whatever_was_there_before() {
        let disk = CrashDisk::default();
        StateFile::create(&disk).unwrap();
        let file = StateFile::open(Arc::new(disk), Arc::new(())).unwrap();
        let put = |number| Change::Put(key(number), vec![number].into());
        // 5 and 9 lie in the way of the run, and 7 is there already, with another value.
        let first = [put(5), put(7), put(9), append(20, 3_000), append(30, 10)];
        assert_eq!(file.write(first, b"1").unwrap().records, 5);
        let run = (1..=10).chain([25, 40]).map(|number| append(number, 700));
        let more = run.chain([Change::Delete(key(2)), append(50, 1), put(51)]);
        let written = file.write(more, b"2").unwrap();
        assert_eq!((written.records, written.bytes), (15, 12 * 702 + 3 + 3));
        let mut found = Vec::new();
        let view = file.view().unwrap();
        view.visit(None, |key, value| {
            assert!(value.iter().all(|byte| *byte == key[1]));
            found.push((key[1], value.len()));
            true
        })
        .unwrap();
        let run = [1, 3, 4, 5, 6, 7, 8, 9, 10].map(|number| (number, 700));
        let rest = [
            (20, 3_000),
            (25, 700),
            (30, 10),
            (40, 700),
            (50, 1),
            (51, 1),
        ];
        assert_eq!(found, [&run[..], &rest[..]].concat());
    }

    /// What is read of a file, or why not: everything, one way and the other.
    fn read_all(file: &StateFile) -> Result<usize, DbError> {
        let view = file.view()?;
        view.applied()?;
        let mut read = 0;
        for record in view.records_below(&key(200))? {
            let (key, _) = record?;
            view.get(&key)?;
            read += 1;
        }
        view.visit(None, |_, _| true)?;
        Ok(read)
    }

    #[test]
    fn what_a_damaged_file_makes_redb_panic_over_is_told_as_damage() {
        let whole = CrashDisk::default();
        StateFile::create(&whole).unwrap();
        let open = |disk: &CrashDisk| StateFile::open(Arc::new(disk.clone()), Arc::new(()));
        let file = open(&whole).unwrap();
        let records = (0..200).map(|number| Change::Put(key(number), vec![number; 150].into()));
        file.write(records, b"1").unwrap();
        drop(file);
        let bits = whole.len(STATE).unwrap() as usize * 8;
        let (mut refused, mut random) = (0, 7_usize);
        for _ in 0..1_500 {
            let disk = whole.copy();
            for _ in 0..8 {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                disk.flip(STATE, (random >> 20) % bits);
            }
            let file = open(&disk);
            let read = file.as_ref().map_err(DbError::clone).and_then(read_all);
            // What closing it would make of damage that was not seen is another matter.
            std::mem::forget(file);
            match read {
                Ok(read) => assert!(read <= 200),
                Err(error) => {
                    assert!(matches!(error, DbError::Damaged { .. }), "{error}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0);
    }
}
