//! Reading the checkpoint: the state at one log index, whatever is written meanwhile.
//!
//! Everything here blocks. What redb panics over is told as damage.

use std::{ops::Bound, sync::Arc};

use bytes::Bytes;
use redb::{ReadTransaction, ReadableDatabase};

use super::{
    database::unseal,
    error::DbError,
    state_file::{APPLIED, META, Opened, RECORDS, STATE},
};

/// The state at one checkpoint.
pub struct StateView {
    transaction: ReadTransaction,
    /// A database that is dropped closes under its readers.
    opened: Arc<Opened>,
}

impl StateView {
    pub(super) fn of(opened: Arc<Opened>) -> Result<Self, DbError> {
        let transaction = opened.with(|database| database.begin_read().map_err(reading))?;
        Ok(Self {
            transaction,
            opened,
        })
    }

    /// What is applied; None before the first checkpoint.
    pub fn applied(&self) -> Result<Option<Bytes>, DbError> {
        self.opened.with(|_| {
            let meta = self.transaction.open_table(META).map_err(reading)?;
            let Some(sealed) = meta.get(APPLIED).map_err(reading)? else {
                return Ok(None);
            };
            match unseal(APPLIED.as_bytes(), sealed.value()) {
                Some(value) => Ok(Some(Bytes::copy_from_slice(value))),
                None => Err(DbError::damaged(
                    STATE,
                    APPLIED,
                    "its checksum does not match",
                )),
            }
        })
    }

    /// One record.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, DbError> {
        self.opened.with(|_| {
            let records = self.transaction.open_table(RECORDS).map_err(reading)?;
            match records.get(key).map_err(reading)? {
                Some(sealed) => open_record(key, sealed.value()).map(Some),
                None => Ok(None),
            }
        })
    }

    /// The records below the key `end`, in the order of keys.
    pub fn records_below(
        &self,
        end: &[u8],
    ) -> Result<impl Iterator<Item = Result<(Bytes, Bytes), DbError>> + use<>, DbError> {
        self.range((Bound::Unbounded, Bound::Excluded(end)))
    }

    /// Every record after the key `after` (all for None), in the order of keys, until `visit` says false.
    pub fn visit(
        &self,
        after: Option<&[u8]>,
        mut visit: impl FnMut(&[u8], Bytes) -> bool,
    ) -> Result<(), DbError> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        for record in self.range((start, Bound::Unbounded))? {
            let (key, value) = record?;
            if !visit(&key, value) {
                break;
            }
        }
        Ok(())
    }

    fn range(&self, keys: (Bound<&[u8]>, Bound<&[u8]>)) -> Result<RecordRange, DbError> {
        let range = self.opened.with(|_| {
            let records = self.transaction.open_table(RECORDS).map_err(reading)?;
            records.range::<&[u8]>(keys).map_err(reading)
        })?;
        Ok(RecordRange {
            range,
            opened: self.opened.clone(),
        })
    }
}

/// Records in the order of keys.
struct RecordRange {
    range: redb::Range<'static, &'static [u8], &'static [u8]>,
    opened: Arc<Opened>,
}

impl Iterator for RecordRange {
    type Item = Result<(Bytes, Bytes), DbError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Self { range, opened } = self;
        let next = opened.with(|_| {
            let Some(item) = range.next() else {
                return Ok(None);
            };
            let (key, sealed) = item.map_err(reading)?;
            let value = open_record(key.value(), sealed.value())?;
            Ok(Some((Bytes::copy_from_slice(key.value()), value)))
        });
        next.transpose()
    }
}

fn open_record(key: &[u8], sealed: &[u8]) -> Result<Bytes, DbError> {
    match unseal(key, sealed) {
        Some(value) => Ok(Bytes::copy_from_slice(value)),
        None => Err(DbError::damaged(
            STATE,
            format!("record {}", super::error::hex(key)),
            "its checksum does not match",
        )),
    }
}

fn reading(error: impl Into<redb::Error>) -> DbError {
    DbError::redb(STATE, "read", error)
}
