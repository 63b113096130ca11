//! A disk in memory that can lose its power, for tests.
//!
//! What was synced survives a [`power_cut`](CrashDisk::power_cut). Of what was written since, every sector of 512 bytes
//! keeps, by the seed, one of the versions that it had, and some sectors are torn between two: so writes are lost, torn and
//! reordered. A file's length is the old or the new one. Names are durable when `rename` and `remove` return, as the trait
//! promises; a name that was only created may be gone.
//! Handles from before the cut are dead: what a killed process still tries to write goes nowhere.
//!
//! A sync is done when it returns, unless the disk was given a clock ([`timed`](CrashDisk::timed)): then it is done at the time
//! that [`sync_until`](CrashDisk::sync_until) names. A simulation runs blocking work at once and lets it cost time afterwards; so
//! the power can go while a sync is under way there too. What was written before it is then lost, torn and reordered, and what
//! was written after it was never written.
//!
//! [`cut_after`](CrashDisk::cut_after) takes the power away at the n-th operation, in the middle of whatever is under way, and
//! [`fail_after`](CrashDisk::fail_after) makes writes and syncs fail while reads go on, as a full or a broken disk does.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use redb::StorageBackend;

use super::files::{Backend, Files};

const SECTOR: usize = 512;
/// Of so many sectors that were being written when the power went, one is torn.
const TORN: usize = 16;

/// A disk. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct CrashDisk(Arc<Mutex<Disk>>);

/// The time since some beginning.
#[derive(Clone)]
struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

#[derive(Clone, Debug, Default)]
struct Disk {
    clock: Option<Clock>,
    /// When the next sync is done.
    sync_until: Option<Duration>,
    /// As a running process sees them.
    names: BTreeMap<String, usize>,
    /// As they are after a power cut; a created name comes here with the first sync of its file.
    durable_names: BTreeMap<String, usize>,
    inodes: Vec<Inode>,
    locked: bool,
    /// Counts the power cuts; a handle of an older one is dead.
    generation: u64,
    operations: u64,
    cut_at: Option<u64>,
    fail_at: Option<(u64, io::ErrorKind)>,
    free: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    durable: Vec<u8>,
    current: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
    /// Syncs under way, in order.
    barriers: VecDeque<Barrier>,
}

/// A sync that is done at some time.
#[derive(Clone, Debug)]
struct Barrier {
    until: Duration,
    /// How many of the writes that are not synced it covers, from the first on.
    writes: usize,
    len: usize,
    /// The whole content, where the length has changed.
    whole: Option<Vec<u8>>,
}

impl CrashDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0
            .lock()
            .expect("no code panics while it holds the disk")
    }

    /// How many operations that change something there were.
    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// The power goes after this many more operations: none has an effect after that. Follow with
    /// [`power_cut`](Self::power_cut).
    pub fn cut_after(&self, operations: u64) {
        let mut disk = self.disk();
        disk.cut_at = Some(disk.operations + operations);
    }

    /// Writes and syncs fail after this many more operations.
    pub fn fail_after(&self, operations: u64, kind: io::ErrorKind) {
        let mut disk = self.disk();
        disk.fail_at = Some((disk.operations + operations, kind));
    }

    /// From now on a sync is done when [`sync_until`](Self::sync_until) says so, by this clock.
    pub fn timed(self, clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        self.disk().clock = Some(Clock(Arc::new(clock)));
        self
    }

    /// The next sync is done then.
    pub fn sync_until(&self, until: Duration) {
        self.disk().sync_until = Some(until);
    }

    /// Sets what [`Files::free_bytes`] answers.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.disk().free = Some(bytes);
    }

    /// The power goes and comes back: the process is dead, the disk is as the seed leaves it.
    pub fn power_cut(&self, seed: u64) {
        let mut random = Splitmix(seed);
        let mut disk = self.disk();
        let now = disk.now();
        for inode in &mut disk.inodes {
            inode.settle(now);
            inode.crash(&mut random);
        }
        for (name, inode) in disk.names.clone() {
            if random.below(2) == 0 {
                disk.durable_names.entry(name).or_insert(inode);
            }
        }
        disk.names = disk.durable_names.clone();
        disk.let_go();
    }

    /// The process dies and nothing else: what was written is there, synced or not. What it wrote after a sync that is still
    /// under way it wrote when that was done; so it was.
    pub fn kill(&self) {
        let mut disk = self.disk();
        for inode in &mut disk.inodes {
            inode.settle(Duration::MAX);
        }
        disk.let_go();
    }

    /// Another disk with the same content, in no process's hands.
    pub fn copy(&self) -> Self {
        let mut disk = self.disk().clone();
        disk.let_go();
        Self(Arc::new(Mutex::new(disk)))
    }

    /// Another disk with what is sure to survive a power cut now: synced content under durable names. To look at only.
    pub fn synced(&self) -> Self {
        let mut disk = self.disk();
        let now = disk.now();
        let mut synced = Disk::default();
        for (name, inode) in disk.durable_names.clone() {
            let inode = &mut disk.inodes[inode];
            inode.settle(now);
            synced.names.insert(name, synced.inodes.len());
            synced.inodes.push(Inode {
                current: inode.durable.clone(),
                ..Inode::default()
            });
        }
        Self(Arc::new(Mutex::new(synced)))
    }

    /// Flips one bit of a file at rest.
    pub fn flip(&self, name: &str, bit: usize) {
        let mut disk = self.disk();
        let inode = disk.names[name];
        let inode = &mut disk.inodes[inode];
        inode.current[bit / 8] ^= 1 << (bit % 8);
        inode.durable = inode.current.clone();
        inode.unsynced.clear();
        inode.barriers.clear();
    }

    /// Cuts a file short at rest.
    pub fn truncate(&self, name: &str, len: usize) {
        let mut disk = self.disk();
        let inode = disk.names[name];
        let inode = &mut disk.inodes[inode];
        inode.current.truncate(len);
        inode.durable = inode.current.clone();
        inode.unsynced.clear();
        inode.barriers.clear();
    }
}

/// A well-known small generator (Steele, Lea and Flood, 2014): enough to spread a seed.
struct Splitmix(u64);

impl Splitmix {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

impl Inode {
    fn write(&mut self, offset: usize, data: &[u8]) {
        if self.current.len() < offset + data.len() {
            self.current.resize(offset + data.len(), 0);
        }
        self.current[offset..offset + data.len()].copy_from_slice(data);
        self.unsynced.push((offset, data.to_vec()));
    }

    fn sync_until(&mut self, until: Duration) {
        let before = self.barriers.back();
        let (len, last) = before.map_or((self.durable.len(), until), |b| (b.len, b.until));
        self.barriers.push_back(Barrier {
            until: until.max(last),
            writes: self.unsynced.len(),
            len: self.current.len(),
            whole: (self.current.len() != len).then(|| self.current.clone()),
        });
    }

    /// Syncs that are done by now have their effect.
    fn settle(&mut self, now: Duration) {
        while let Some(barrier) = self.barriers.pop_front_if(|barrier| barrier.until <= now) {
            let writes = self.unsynced.drain(..barrier.writes);
            match barrier.whole {
                Some(whole) => {
                    self.durable = whole;
                    drop(writes);
                }
                None => {
                    for (offset, data) in writes {
                        let end = (offset + data.len()).min(barrier.len);
                        if offset < end {
                            self.durable[offset..end].copy_from_slice(&data[..end - offset]);
                        }
                    }
                }
            }
            for later in &mut self.barriers {
                later.writes -= barrier.writes;
            }
        }
    }

    fn sync(&mut self) {
        self.settle(Duration::MAX);
        let old_len = self.durable.len();
        self.durable.resize(self.current.len(), 0);
        if self.durable.len() != old_len {
            // Lengths change rarely; then the whole file is the simplest truth.
            self.durable.copy_from_slice(&self.current);
        }
        for (offset, data) in self.unsynced.drain(..) {
            let end = (offset + data.len()).min(self.current.len());
            if offset < end {
                self.durable[offset..end].copy_from_slice(&self.current[offset..end]);
            }
        }
    }

    fn crash(&mut self, random: &mut Splitmix) {
        // Nothing was written after a sync that is still under way: whoever asked for it waits.
        let len = match std::mem::take(&mut self.barriers).pop_front() {
            Some(barrier) => {
                self.unsynced.truncate(barrier.writes);
                barrier.len
            }
            None => self.current.len(),
        };
        let mut versions: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
        for (offset, data) in self.unsynced.drain(..) {
            let mut at = offset;
            while at < offset + data.len() {
                let sector = at / SECTOR;
                let end = ((sector + 1) * SECTOR).min(offset + data.len());
                let durable = &self.durable;
                let history = versions.entry(sector).or_insert_with(|| {
                    let from = (sector * SECTOR).min(durable.len());
                    let to = ((sector + 1) * SECTOR).min(durable.len());
                    let mut old = durable[from..to].to_vec();
                    old.resize(SECTOR, 0);
                    vec![old]
                });
                let mut next = history.last().expect("there is an old version").clone();
                let within = at - sector * SECTOR;
                next[within..within + end - at].copy_from_slice(&data[at - offset..end - offset]);
                history.push(next);
                at = end;
            }
        }
        if random.below(2) == 0 {
            self.durable.resize(len, 0);
        }
        for (sector, history) in versions {
            let mut survivor = history[random.below(history.len())].clone();
            if random.below(TORN) == 0 {
                // The power went in the middle of the sector: its end is of another version than its beginning.
                let other = &history[random.below(history.len())];
                let at = random.below(SECTOR / 8) * 8;
                survivor[at..].copy_from_slice(&other[at..]);
            }
            let from = sector * SECTOR;
            let to = (from + SECTOR).min(self.durable.len());
            if from < to {
                self.durable[from..to].copy_from_slice(&survivor[..to - from]);
            }
        }
        self.current = self.durable.clone();
    }
}

impl Disk {
    fn now(&self) -> Duration {
        let clock = self.clock.as_ref();
        clock.map_or(Duration::MAX, |clock| (clock.0)())
    }

    /// Handles that there are have no effect from now on, and what was planned for their process is off.
    fn let_go(&mut self) {
        self.generation += 1;
        self.locked = false;
        self.cut_at = None;
        self.fail_at = None;
    }

    /// Before anything that changes something.
    fn operation(&mut self) -> io::Result<()> {
        if self.cut_at.is_some_and(|at| self.operations >= at) {
            return Err(io::Error::other("the power is gone"));
        }
        if let Some((at, kind)) = self.fail_at
            && self.operations >= at
        {
            return Err(kind.into());
        }
        self.operations += 1;
        Ok(())
    }

    fn inode(&self, name: &str) -> io::Result<usize> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

#[derive(Debug)]
struct Held {
    disk: CrashDisk,
    generation: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut disk = self.disk.disk();
        if disk.generation == self.generation {
            disk.locked = false;
        }
    }
}

impl CrashDisk {
    fn handle(&self, disk: &Disk, inode: usize) -> Backend {
        Backend(Box::new(CrashFile {
            disk: self.clone(),
            generation: disk.generation,
            inode,
        }))
    }
}

impl Files for CrashDisk {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let mut disk = self.disk();
        if disk.locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        disk.locked = true;
        Ok(Box::new(Held {
            disk: self.clone(),
            generation: disk.generation,
        }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.disk().names.keys().cloned().collect())
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        let disk = self.disk();
        let inode = disk.inode(name)?;
        Ok(disk.inodes[inode].current.len() as u64)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let disk = self.disk();
        let inode = disk.inode(name)?;
        Ok(disk.inodes[inode].current.clone())
    }

    fn create(&self, name: &str) -> io::Result<Backend> {
        let mut disk = self.disk();
        disk.operation()?;
        disk.inodes.push(Inode::default());
        let inode = disk.inodes.len() - 1;
        disk.names.insert(name.to_owned(), inode);
        // What was there is emptied, and that may be durable before anything else.
        if let Some(emptied) = disk.durable_names.get_mut(name) {
            *emptied = inode;
        }
        Ok(self.handle(&disk, inode))
    }

    fn open(&self, name: &str) -> io::Result<Backend> {
        let disk = self.disk();
        let inode = disk.inode(name)?;
        Ok(self.handle(&disk, inode))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.operation()?;
        if from == to {
            return Ok(());
        }
        let inode = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        // Whoever renames a file has waited for its sync.
        disk.inodes[inode].settle(Duration::MAX);
        disk.names.insert(to.to_owned(), inode);
        disk.durable_names.remove(from);
        disk.durable_names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.operation()?;
        disk.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        disk.durable_names.remove(name);
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.disk().free.unwrap_or(u64::MAX))
    }
}

#[derive(Debug)]
struct CrashFile {
    disk: CrashDisk,
    generation: u64,
    inode: usize,
}

impl CrashFile {
    fn with<T>(
        &self,
        changes: bool,
        act: impl FnOnce(&mut Inode) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut disk = self.disk.disk();
        if disk.generation != self.generation {
            return Err(io::Error::other("the process of this handle is dead"));
        }
        if changes {
            disk.operation()?;
        }
        act(&mut disk.inodes[self.inode])
    }
}

impl StorageBackend for CrashFile {
    fn len(&self) -> io::Result<u64> {
        self.with(false, |inode| Ok(inode.current.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(false, |inode| {
            let from = offset as usize;
            let data = inode.current.get(from..from + out.len());
            out.copy_from_slice(data.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(true, |inode| {
            inode.current.resize(len as usize, 0);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let until = self.disk.disk().sync_until.take();
        self.with(true, |inode| {
            match until {
                Some(until) => inode.sync_until(until),
                None => inode.sync(),
            }
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(true, |inode| {
            inode.write(offset as usize, data);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_and_the_rest_may_not() {
        let (mut lost, mut kept, mut torn) = (0, 0, 0);
        for seed in 0..200 {
            let disk = CrashDisk::new();
            let file = disk.create("a.tmp").unwrap();
            file.write(0, &[1; 2048]).unwrap();
            file.sync_data().unwrap();
            disk.rename("a.tmp", "a").unwrap();
            file.write(512, &[2; 1024]).unwrap();
            disk.power_cut(seed);
            let data = disk.read("a").unwrap();
            assert_eq!(data[..512], [1; 512]);
            assert_eq!(data[1536..], [1; 512]);
            match (data[512], data[1024]) {
                (1, 1) => lost += 1,
                (2, 2) => kept += 1,
                _ => torn += 1,
            }
            assert!(
                file.write(0, &[3]).is_err(),
                "a dead process writes nothing"
            );
        }
        assert!(lost > 20 && kept > 20 && torn > 20, "{lost} {kept} {torn}");
    }

    #[test]
    fn nothing_has_an_effect_after_the_cut() {
        let disk = CrashDisk::new();
        let file = disk.create("a").unwrap();
        disk.cut_after(1);
        file.write(0, b"one").unwrap();
        assert!(file.write(0, b"two").is_err());
        assert!(file.sync_data().is_err());
        assert!(disk.rename("a", "b").is_err());
        disk.kill();
        assert_eq!(disk.read("a").unwrap(), b"one");
    }

    #[test]
    fn a_sync_after_a_kill_is_done_when_it_says_though_another_was_under_way() {
        let disk = CrashDisk::new().timed(|| Duration::from_secs(2));
        let file = disk.create("a.tmp").unwrap();
        file.write(0, &[1; 512]).unwrap();
        file.sync_data().unwrap();
        disk.rename("a.tmp", "a").unwrap();
        let file = disk.open("a").unwrap();
        file.write(0, &[2; 512]).unwrap();
        disk.sync_until(Duration::from_secs(9));
        file.sync_data().unwrap();
        file.write(512, &[3; 512]).unwrap();
        assert_eq!(disk.synced().read("a").unwrap(), [1; 512]);
        disk.kill();
        // What came after the sync is not sure, what came before it is.
        assert_eq!(disk.synced().read("a").unwrap(), [2; 512]);
        let file = disk.open("a").unwrap();
        file.write(0, &[4; 512]).unwrap();
        disk.sync_until(Duration::from_secs(2));
        file.sync_data().unwrap();
        assert_eq!(
            disk.synced().read("a").unwrap(),
            [[4; 512], [3; 512]].concat()
        );
    }

    #[test]
    fn while_a_sync_is_under_way_nothing_is_sure_and_nothing_came_after() {
        let clock = Arc::new(Mutex::new(Duration::ZERO));
        let time = clock.clone();
        let mut survived = 0;
        for seed in 0..100 {
            *clock.lock().unwrap() = Duration::ZERO;
            let time = time.clone();
            let disk = CrashDisk::new().timed(move || *time.lock().unwrap());
            let file = disk.create("a.tmp").unwrap();
            file.write(0, &[1; 512]).unwrap();
            file.sync_data().unwrap();
            disk.rename("a.tmp", "a").unwrap();
            for (value, seconds) in [(2, 1), (3, 2)] {
                file.write(0, &[value; 512]).unwrap();
                disk.sync_until(Duration::from_secs(seconds));
                file.sync_data().unwrap();
            }
            assert_eq!(disk.read("a").unwrap(), [3; 512]);
            assert_eq!(disk.synced().read("a").unwrap(), [1; 512]);
            let early = disk.copy();
            early.power_cut(seed);
            let data = early.read("a").unwrap();
            assert!(data.iter().all(|byte| [1, 2].contains(byte)), "{data:?}");
            survived += usize::from(data == [2; 512]);
            *clock.lock().unwrap() = Duration::from_secs(1);
            assert_eq!(disk.synced().read("a").unwrap(), [2; 512]);
            *clock.lock().unwrap() = Duration::from_secs(2);
            disk.power_cut(seed);
            assert_eq!(disk.read("a").unwrap(), [3; 512]);
        }
        assert!((20..80).contains(&survived), "{survived}");
    }
}
