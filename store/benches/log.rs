//! What the log file costs: a commit of few and of many entries, reading entries back, and opening a log at a start.
#![allow(
    missing_docs,
    reason = "criterion's macros make undocumented functions"
)]

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use troika_store::db::{Alarm, DiskFiles, LogFile, Record, Recovered};
use troika_store::runtime;

const ENTRY_BYTES: usize = 300;
/// Entries in a commit: a lone caller's, a busy member's, a burst.
const COMMITS: [u64; 3] = [1, 16, 256];
const READ_ENTRIES: u64 = 1_000;
const OPENED_ENTRIES: u64 = 20_000;

/// A log in a folder of its own.
struct Place {
    files: Arc<DiskFiles>,
    _folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let files = Arc::new(DiskFiles::open(folder.path()).expect("the folder"));
        LogFile::create(&*files, None).expect("an empty log");
        Self {
            files,
            _folder: folder,
        }
    }

    /// The log, and what is dropped when nobody uses the file any more.
    async fn open(&self) -> (LogFile, Recovered, Arc<()>) {
        let used = Arc::new(());
        let opened = LogFile::open(self.files.clone(), used.clone(), Alarm::default()).await;
        let (log, recovered) = opened.expect("a sound log");
        (log, recovered, used)
    }

    /// Closes the log and waits until its writer has let go of the file.
    async fn close(log: LogFile, used: &Arc<()>) {
        drop(log);
        while Arc::strong_count(used) > 1 {
            runtime::Runtime::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn threads() -> Runtime {
    let threads = Builder::new_multi_thread().enable_all().build();
    threads.expect("threads")
}

/// Entries from `first` on.
fn entries(first: u64, count: u64) -> Vec<Record> {
    let entry = |index| Record {
        index,
        bytes: Bytes::from(vec![index as u8; ENTRY_BYTES]),
    };
    (first..first + count).map(entry).collect()
}

/// Puts entries at the end and waits until they are on disk.
async fn append(log: &LogFile, entries: Vec<Record>) {
    let (written, on_disk) = tokio::sync::oneshot::channel();
    let done = Box::new(move |result| written.send(result).expect("somebody waits"));
    log.append(entries, done).await.expect("queued");
    on_disk.await.expect("an answer").expect("written");
}

fn commit(c: &mut Criterion) {
    let threads = threads();
    let mut group = c.benchmark_group("a commit of entries of 300 bytes");
    for count in COMMITS {
        // It grows as it is measured, as a member's does between two purges.
        let place = Place::new();
        let (log, _, used) = threads.block_on(place.open());
        let mut next = 1;
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                threads.block_on(append(&log, entries(next, count)));
                next += count;
            });
        });
        threads.block_on(Place::close(log, &used));
    }
    group.finish();
}

fn read(c: &mut Criterion) {
    let threads = threads();
    let place = Place::new();
    let (log, _, used) = threads.block_on(place.open());
    threads.block_on(append(&log, entries(1, READ_ENTRIES)));
    c.bench_function("reading 1000 entries of the log", |b| {
        b.iter(|| {
            let read = log.read(1, READ_ENTRIES + 1, usize::MAX);
            black_box(threads.block_on(read).expect("they are there"))
        });
    });
    threads.block_on(Place::close(log, &used));
}

fn open(c: &mut Criterion) {
    let threads = threads();
    let place = Place::new();
    threads.block_on(async {
        let (log, _, used) = place.open().await;
        append(&log, entries(1, OPENED_ENTRIES)).await;
        Place::close(log, &used).await;
    });
    c.bench_function("opening a log of 20000 entries", |b| {
        b.iter_custom(|times| {
            threads.block_on(async {
                let mut taken = Duration::ZERO;
                for _ in 0..times {
                    let started = runtime::Runtime::now();
                    let (log, recovered, used) = place.open().await;
                    taken += started.elapsed();
                    assert_eq!(recovered.entries, OPENED_ENTRIES);
                    Place::close(log, &used).await;
                }
                taken
            })
        });
    });
}

criterion_group!(benches, commit, read, open);
criterion_main!(benches);
