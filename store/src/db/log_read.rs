//! Reading the log's file: as a whole when it is opened, entries for those who are behind, one entry for who inspects it.

use bytes::Bytes;
use prost::Message;
use redb::{Database, ReadTransaction, ReadableDatabase};

use super::{
    database::{unpanicked, unseal},
    error::DbError,
    inspect::Logged,
    log_file::{ENTRIES, LOG, LogMeta, META, META_KEY, Record, Recovered},
};

/// What a log holds of one entry.
pub(super) fn logged(database: &impl ReadableDatabase, index: u64) -> Result<Logged, DbError> {
    unpanicked(LOG, || {
        let transaction = database.begin_read().map_err(reading)?;
        let meta = read_meta(&transaction)?;
        if meta.purged_id.is_some() && index <= meta.purged_index {
            return Ok(Logged::Purged);
        }
        let entries = transaction.open_table(ENTRIES).map_err(reading)?;
        match entries.get(index).map_err(reading)? {
            Some(sealed) if index < meta.next => {
                Ok(Logged::Entry(open_entry(index, sealed.value())?.bytes))
            }
            _ => Ok(Logged::Missing),
        }
    })
}

fn read_meta(transaction: &ReadTransaction) -> Result<LogMeta, DbError> {
    let table = transaction.open_table(META).map_err(reading)?;
    let sealed = table.get(META_KEY).map_err(reading)?;
    let sealed = sealed.ok_or_else(|| damaged("the meta record", "it is missing"))?;
    let value = unseal(META_KEY.as_bytes(), sealed.value())
        .ok_or_else(|| damaged("the meta record", "its checksum does not match"))?;
    LogMeta::decode(value).map_err(|error| damaged("the meta record", &error.to_string()))
}

/// Reads and checks the whole log, in order.
pub(super) fn scan(
    database: &impl ReadableDatabase,
    mut visit: impl FnMut(&Record),
) -> Result<(LogMeta, Recovered), DbError> {
    unpanicked(LOG, || {
        let transaction = database.begin_read().map_err(reading)?;
        let meta = read_meta(&transaction)?;
        let mut last = None;
        let mut expected = meta.first;
        let entries = transaction.open_table(ENTRIES).map_err(reading)?;
        for item in entries.range(meta.first..).map_err(reading)? {
            let (key, sealed) = item.map_err(reading)?;
            if key.value() != expected || expected == meta.next {
                break;
            }
            let record = open_entry(expected, sealed.value())?;
            visit(&record);
            expected += 1;
            last = Some(record);
        }
        if expected != meta.next {
            return Err(damaged(&format!("entry {expected}"), "it is missing"));
        }
        let recovered = Recovered {
            vote: meta.vote.clone(),
            committed: meta.committed.clone(),
            purged: meta.purged_id.clone().map(|id| (meta.purged_index, id)),
            last,
            entries: meta.next - meta.first,
        };
        Ok((meta, recovered))
    })
}

/// Entries of a range, as many as fit.
pub(super) fn read(
    database: &Database,
    from: u64,
    until: u64,
    max_bytes: usize,
) -> Result<Vec<Bytes>, DbError> {
    unpanicked(LOG, || {
        let transaction = database.begin_read().map_err(reading)?;
        let entries = transaction.open_table(ENTRIES).map_err(reading)?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        for item in entries.range(from..until).map_err(reading)? {
            let (key, sealed) = item.map_err(reading)?;
            let expected = from + found.len() as u64;
            if key.value() != expected {
                return Err(damaged(&format!("entry {expected}"), "it is missing"));
            }
            bytes += sealed.value().len();
            if bytes > max_bytes && !found.is_empty() {
                return Ok(found);
            }
            found.push(open_entry(expected, sealed.value())?.bytes);
        }
        if found.len() as u64 != until.saturating_sub(from) {
            let expected = from + found.len() as u64;
            return Err(damaged(&format!("entry {expected}"), "it is missing"));
        }
        Ok(found)
    })
}

fn open_entry(index: u64, sealed: &[u8]) -> Result<Record, DbError> {
    match unseal(&index.to_be_bytes(), sealed) {
        Some(bytes) => Ok(Record {
            index,
            bytes: Bytes::copy_from_slice(bytes),
        }),
        None => Err(damaged(
            &format!("entry {index}"),
            "its checksum does not match",
        )),
    }
}

fn reading(error: impl Into<redb::Error>) -> DbError {
    DbError::redb(LOG, "read", error)
}

fn damaged(what: &str, reason: &str) -> DbError {
    DbError::damaged(LOG, what, reason)
}
