//! Writes the history as it happens: what is on disk is true even if the run is killed.

use crate::history::{Entry, Kind, Op, write};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The one recorder of a run. Entries get their index and time under one lock, so index order is real-time order.
pub struct Recorder {
    started: Instant,
    inner: Mutex<Inner>,
}

struct Inner {
    out: BufWriter<File>,
    entries: Vec<Entry>,
    next_process: u64,
}

impl Recorder {
    /// Starts `history.jsonl` in `dir`.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(dir: &Path) -> std::io::Result<Self> {
        Ok(Self {
            started: Instant::now(),
            inner: Mutex::new(Inner {
                out: BufWriter::new(File::create(dir.join("history.jsonl"))?),
                entries: Vec::new(),
                next_process: 0,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process id that nobody has had.
    pub fn new_process(&self) -> u64 {
        let mut inner = self.lock();
        inner.next_process += 1;
        inner.next_process
    }

    /// Adds an entry.
    pub fn record(&self, process: u64, kind: Kind, op: Op, error: impl Into<String>) {
        let mut inner = self.lock();
        let entry = Entry {
            index: inner.entries.len() as u64,
            time: self.started.elapsed().as_nanos() as u64,
            process,
            kind,
            op,
            error: error.into(),
        };
        if let Err(e) = write(&entry, &mut inner.out) {
            // The history in memory is checked all the same; say once that the file is not whole.
            eprintln!("history.jsonl: {e}");
        }
        inner.entries.push(entry);
    }

    /// Nanoseconds since the run began.
    pub fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// True before the first entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Flushes the file and hands out the whole history.
    pub fn finish(&self) -> Vec<Entry> {
        let mut inner = self.lock();
        if let Err(e) = inner.out.flush() {
            eprintln!("history.jsonl: {e}");
        }
        std::mem::take(&mut inner.entries)
    }
}
