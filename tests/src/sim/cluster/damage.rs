//! What is lost with a disk: members that are wiped, and members whose files rot.

use std::time::Duration;

use troika_store::db::Files;
use troika_store::db::crash::CrashDisk;
use troika_store::db::log_file::LOG;
use troika_store::runtime::Runtime;

use super::super::network::address;
use super::super::world::lock;
use super::{Cluster, Death};

impl Cluster {
    /// A member loses all its data and comes back under its old id. It does not count as one that is meant to run.
    pub fn wipe(&self, id: u64) {
        self.crash(id, Death::PowerCut);
        self.lose(id);
        let disk = self.new_disk();
        if let Some(slot) = lock(&self.slots).get_mut(&id) {
            slot.disk = disk;
            slot.gone = true;
            slot.wiped = true;
        }
        self.start(id);
    }

    /// Stops a member as an operator does, flips bits of its files, and starts it again.
    pub async fn rot(&self, id: u64) {
        let handle = lock(&self.slots)
            .get(&id)
            .and_then(|slot| slot.handle.clone());
        if let Some(slot) = lock(&self.slots).get_mut(&id) {
            slot.rotten = true;
        }
        if let Some(handle) = handle {
            let stopping = self.on(id, async move { handle.shutdown().await });
            // Cut off from everybody it may never come to an end by itself.
            let _ = Runtime::timeout(Duration::from_secs(20), stopping).await;
            lock(&self.world.doors).remove(&address(id));
            if let Some(slot) = lock(&self.slots).get_mut(&id) {
                slot.handle = None;
            }
            // Calls under way let go of it, and its files are closed.
            Runtime::sleep(Duration::from_secs(4)).await;
        }
        self.crash(id, Death::Kill);
        self.lose(id);
        if let Some(disk) = self.disk(id) {
            self.flip(&disk);
        }
        self.world
            .tell(|| format!("member {id}: bits of its files have flipped"));
        if let Some(slot) = lock(&self.slots).get_mut(&id) {
            slot.gone = false;
        }
        self.start(id);
    }

    fn flip(&self, disk: &CrashDisk) {
        let mut random = self.world.random().fork();
        let mut names = disk.list().unwrap_or_default();
        // After a crash redb takes a damaged newest commit for one that was torn, and goes back to the one before: what the
        // log loses so cannot be noticed. (The store's page about the log says so.)
        names.retain(|name| name != LOG || is_closed(disk, name));
        for _ in 0..random.between(1, 4) {
            let Some(name) = random.pick(&names) else {
                continue;
            };
            let bits = disk.len(name).unwrap_or(0) * 8;
            if bits > 0 {
                disk.flip(name, random.below(bits) as usize);
            }
        }
    }

    /// A member's copy of the log is lost, or may be.
    fn lose(&self, id: u64) {
        if let Some(slot) = lock(&self.slots).get_mut(&id) {
            slot.lost = Some(slot.disk.synced());
        }
    }
}

/// True if a database was closed and needs no repair: redb's own mark in the byte after its magic number.
fn is_closed(disk: &CrashDisk, name: &str) -> bool {
    const MARKS: usize = 9;
    const REPAIR: u8 = 2;
    let bytes = disk.read(name).unwrap_or_default();
    bytes.get(MARKS).is_some_and(|marks| marks & REPAIR == 0)
}
