//! Looks at a data directory without changing a byte of it.
//!
//! Opening a database after a crash repairs it, which writes. So the files are opened under an overlay that keeps all writes
//! in memory. redb's own check of every page runs too, on top of our checksums of every record.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use redb::{Database, StorageBackend};

use super::{
    database,
    directory::check_files,
    error::{DbError, OpenError},
    files::{Backend, Files},
    identity::Identity,
    log_file::{LOG, Record, Recovered},
    log_read,
    state_file::{Opened, STATE},
    state_view::StateView,
};

/// A directory that nobody else has open.
pub struct Inspected {
    /// Whose directory it is.
    pub identity: Identity,
    /// What the log holds beside its entries.
    pub log: Recovered,
    log_database: Database,
    state: StateView,
}

impl Inspected {
    /// Opens a directory and checks the pages and the log. Blocks.
    pub fn open(files: &dyn Files) -> Result<Self, OpenError> {
        let lock = super::directory::lock(files)?;
        let identity = Identity::read(files)?.ok_or(OpenError::Empty)?;
        check_files(files)?;
        let log_database = untouched(files, LOG)?;
        let state_database = untouched(files, STATE)?;
        let opened = Arc::new(Opened::new(state_database, lock));
        let (_, log) = log_read::scan(&log_database, |_| {})?;
        Ok(Self {
            identity,
            log,
            log_database,
            state: StateView::of(opened)?,
        })
    }

    /// Every entry of the log, in order.
    pub fn entries(&self, visit: impl FnMut(&Record)) -> Result<(), DbError> {
        log_read::scan(&self.log_database, visit).map(|_| ())
    }

    /// What the checkpoint has applied; None before the first.
    pub fn applied(&self) -> Result<Option<Bytes>, DbError> {
        self.state.applied()
    }

    /// Every record of the checkpoint, in the order of keys, until `visit` says false.
    pub fn records(&self, visit: impl FnMut(&[u8], Bytes) -> bool) -> Result<(), DbError> {
        self.state.visit(None, visit)
    }

    /// One record of the checkpoint.
    pub fn record(&self, key: &[u8]) -> Result<Option<Bytes>, DbError> {
        self.state.get(key)
    }
}

/// What a log holds of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Logged {
    /// Nothing: the log ends before it.
    Missing,
    /// It was there, and was purged because the checkpoint holds what it did.
    Purged,
    /// The entry with its id, as it was logged.
    Entry(Bytes),
}

/// What a directory's log holds of an entry. For a simulation, which asks what is on a disk; pages are not verified. Blocks.
pub fn logged(files: &dyn Files, index: u64) -> Result<Logged, DbError> {
    log_read::logged(&overlaid(files, LOG, false)?, index)
}

fn untouched(files: &dyn Files, name: &str) -> Result<Database, DbError> {
    overlaid(files, name, true)
}

fn overlaid(files: &dyn Files, name: &str, check_pages: bool) -> Result<Database, DbError> {
    let base = files
        .open(name)
        .map_err(|error| DbError::io(name, "open", &error))?;
    let len = base
        .len()
        .map_err(|error| DbError::io(name, "measure", &error))?;
    let overlay = Overlay {
        base,
        over: Mutex::new(Over {
            len,
            base_len: len,
            pages: BTreeMap::new(),
        }),
    };
    database::open_backend(overlay, name, CACHE_BYTES, check_pages)
}

const CACHE_BYTES: usize = 64 << 20;
const PAGE: u64 = 4_096;

/// A file whose changes stay in memory.
#[derive(Debug)]
struct Overlay {
    base: Backend,
    over: Mutex<Over>,
}

#[derive(Debug)]
struct Over {
    len: u64,
    /// The file shows through up to here.
    base_len: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Overlay {
    fn over(&self) -> std::sync::MutexGuard<'_, Over> {
        self.over
            .lock()
            .expect("no code panics while it holds the overlay")
    }

    fn page(&self, over: &Over, number: u64) -> io::Result<Vec<u8>> {
        if let Some(page) = over.pages.get(&number) {
            return Ok(page.clone());
        }
        let mut page = vec![0; PAGE as usize];
        let start = number * PAGE;
        if start < over.base_len {
            let there = PAGE.min(over.base_len - start) as usize;
            self.base.read(start, &mut page[..there])?;
        }
        Ok(page)
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.over().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let over = self.over();
        if offset + out.len() as u64 > over.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let count = (PAGE as usize - within).min(out.len() - done);
            let page = self.page(&over, at / PAGE)?;
            out[done..done + count].copy_from_slice(&page[within..within + count]);
            done += count;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut over = self.over();
        // What is cut off reads as zeroes if the file grows again.
        over.base_len = over.base_len.min(len);
        over.pages.retain(|number, _| number * PAGE < len);
        let last = len / PAGE;
        if !len.is_multiple_of(PAGE) && over.pages.contains_key(&last) {
            let mut page = self.page(&over, last)?;
            page[(len % PAGE) as usize..].fill(0);
            over.pages.insert(last, page);
        }
        over.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut over = self.over();
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let count = (PAGE as usize - within).min(data.len() - done);
            let mut page = self.page(&over, at / PAGE)?;
            page[within..within + count].copy_from_slice(&data[done..done + count]);
            over.pages.insert(at / PAGE, page);
            done += count;
        }
        over.len = over.len.max(offset + data.len() as u64);
        Ok(())
    }
}
