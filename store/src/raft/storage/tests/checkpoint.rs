//! What a checkpoint writes can be read while it is being written.
//!
//! The simulation hardly sees that: there a blocking job runs in one piece, so what is being written is out of reach only
//! while the job waits for a thread. Here the write stands still in its sync.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
    mpsc,
};

use redb::StorageBackend;
use tokio::sync::Notify;

use super::*;
use crate::{
    db::files::Backend,
    state::{
        RecordKey,
        testing::{build, genesis, transfer},
    },
};

/// A disk on which the next sync of the state file waits, once that is asked for.
#[derive(Clone, Debug)]
struct Held {
    disk: CrashDisk,
    hold: Arc<Hold>,
}

#[derive(Debug)]
struct Hold {
    asked: AtomicBool,
    arrived: Notify,
    go: Mutex<mpsc::Receiver<()>>,
}

impl Hold {
    /// Stands still if that was asked for, until it is let go or the test is over.
    fn wait(&self) {
        if self.asked.swap(false, Ordering::SeqCst) {
            self.arrived.notify_one();
            let _ = self.go.lock().unwrap().recv();
        }
    }
}

#[derive(Debug)]
struct HeldFile {
    file: Backend,
    hold: Arc<Hold>,
}

impl Files for Held {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn len(&self, name: &str) -> io::Result<u64> {
        self.disk.len(name)
    }
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.disk.read(name)
    }
    fn create(&self, name: &str) -> io::Result<Backend> {
        self.disk.create(name)
    }
    fn open(&self, name: &str) -> io::Result<Backend> {
        let file = self.disk.open(name)?;
        if name != STATE {
            return Ok(file);
        }
        let hold = self.hold.clone();
        Ok(Backend(Box::new(HeldFile { file, hold })))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
}

impl StorageBackend for HeldFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.hold.wait();
        self.file.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

/// An entry that accepts shard 0 of round 1.
fn acceptance() -> Entry {
    let commands = vec![
        Command::InitChain(Arc::new(genesis(2))),
        build("opener", None),
        Command::AcceptShard(transfer(1, 0, "a", 1, 2, 1)),
    ];
    Entry {
        log_id: log_id(1, 1, 1),
        payload: EntryPayload::Normal(Batch::new(1, commands)),
    }
}

const KEY: RecordKey = RecordKey::Shard { round: 1, shard: 0 };

/// The accepted shard as it is read alone and with others: while a checkpoint with it is being written, and afterwards.
async fn read_during_and_after_a_checkpoint(
    read: impl AsyncFn(&Shared) -> [Option<Bytes>; 2],
) -> [[Option<Bytes>; 2]; 2] {
    let (release, go) = mpsc::channel();
    let hold = Arc::new(Hold {
        asked: AtomicBool::new(false),
        arrived: Notify::new(),
        go: Mutex::new(go),
    });
    let disk = Held {
        disk: CrashDisk::new(),
        hold: hold.clone(),
    };
    let mut storage = Storage::open(Arc::new(disk), 1, None, None).await.unwrap();
    apply(&mut storage.machine, vec![acceptance()])
        .await
        .unwrap();
    hold.asked.store(true, Ordering::SeqCst);
    let shared = storage.shared.clone();
    let writing = Runtime::spawn(async move { shared.checkpoint().await });
    hold.arrived.notified().await;
    let during = read(&storage.shared).await;
    release.send(()).unwrap();
    writing.await.unwrap().unwrap();
    let after = read(&storage.shared).await;
    [during, after]
}

async fn read(shared: &Shared) -> [Option<Bytes>; 2] {
    let alone = shared.cold(&KEY).await.unwrap();
    let mut all = shared.cold_all(&[KEY]).await.unwrap();
    [alone, all.remove(0)]
}

#[tokio::test]
async fn what_a_checkpoint_writes_is_there_while_it_is_being_written() {
    let [during, after] = read_during_and_after_a_checkpoint(read).await;
    assert!(during[0].is_some());
    assert_eq!(during[0], during[1]);
    assert_eq!(during, after);
}

#[cfg(feature = "mutants")]
#[tokio::test]
async fn a_record_that_is_missed_while_it_is_being_written_is_noticed() {
    use crate::mutant::{Mutant, set};
    let wrongly = async |shared: &Shared| {
        // Planted in this thread, which looks into memory; the disk is read by another.
        let before = set(Some(Mutant::ColdMissesFrozen));
        let found = read(shared).await;
        set(before);
        found
    };
    let [during, after] = read_during_and_after_a_checkpoint(wrongly).await;
    assert_eq!(during, [None, None]);
    assert!(after[0].is_some() && after[1].is_some());
}
