//! The disk of a simulated member: the store's own crash disk, with a price for every operation, a place in the trace,
//! and crashes that are triggered by what the store does with it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redb::StorageBackend;
use troika_store::db::crash::CrashDisk;
use troika_store::db::files::{Backend, Files};

use super::process::Process;
use super::trace::digest;
use super::world::{Moment, World};

/// A member's disk as one process sees it.
#[derive(Clone, Debug)]
pub struct SimFiles {
    disk: CrashDisk,
    world: Arc<World>,
    process: Arc<Process>,
}

impl SimFiles {
    /// The disk in the hands of a process.
    pub fn new(disk: CrashDisk, world: Arc<World>, process: Arc<Process>) -> Self {
        Self {
            disk,
            world,
            process,
        }
    }

    /// Something that changes the disk: charged, told, and perhaps the moment of a crash.
    fn change<T>(&self, what: Change<'_>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if let Some(moment) = what.moment()
            && let Some(operations) = self.world.strike(&self.process, moment)
        {
            self.disk.cut_after(operations);
        }
        if let Change::Rename(troika_store::db::state_file::STATE) = what {
            self.world
                .count("snapshots installed, and directories made");
        }
        let cost = self.world.disk_cost(self.process.member, what.is_slow());
        self.process.charge(cost);
        if let Change::Sync(_) = what {
            self.disk
                .sync_until(self.world.elapsed() + self.process.charged());
        }
        let result = act();
        if let Err(error) = &result
            && error.to_string().contains("the power is gone")
        {
            self.process.cut.store(true, Ordering::Relaxed);
            self.world
                .power_gone(self.process.member, self.process.number);
        }
        let (kind, name, number) = what.parts();
        self.world.note(
            &[
                1,
                self.process.number,
                kind,
                digest(name.as_bytes()),
                number,
                u64::from(result.is_ok()),
            ],
            || {
                let failed = if result.is_ok() { "" } else { " FAILED" };
                format!("member {}: {what:?}{failed}", self.process.member)
            },
        );
        result
    }

    fn file(&self, name: &str, file: Backend) -> Backend {
        Backend(Box::new(SimFile {
            files: self.clone(),
            name: name.into(),
            file,
        }))
    }
}

#[derive(Clone, Copy, Debug)]
enum Change<'a> {
    Create(&'a str),
    Rename(&'a str),
    Remove(&'a str),
    Write(&'a str, u64),
    Resize(&'a str, u64),
    Sync(&'a str),
}

impl<'a> Change<'a> {
    fn parts(self) -> (u64, &'a str, u64) {
        match self {
            Self::Create(name) => (1, name, 0),
            Self::Rename(name) => (2, name, 0),
            Self::Remove(name) => (3, name, 0),
            Self::Write(name, digest) => (4, name, digest),
            Self::Resize(name, len) => (5, name, len),
            Self::Sync(name) => (6, name, 0),
        }
    }

    fn moment(self) -> Option<Moment> {
        match self {
            Self::Create(_) => Some(Moment::Create),
            Self::Rename(_) => Some(Moment::Rename),
            Self::Remove(_) => Some(Moment::Remove),
            Self::Sync(name) if name.starts_with("log") => Some(Moment::LogSync),
            Self::Sync(_) => Some(Moment::StateSync),
            Self::Write(..) | Self::Resize(..) => None,
        }
    }

    fn is_slow(self) -> bool {
        !matches!(self, Self::Write(..) | Self::Resize(..))
    }
}

impl Files for SimFiles {
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
        self.process.charge(Duration::from_micros(100));
        self.disk.read(name)
    }

    fn create(&self, name: &str) -> io::Result<Backend> {
        let file = self.change(Change::Create(name), || self.disk.create(name))?;
        Ok(self.file(name, file))
    }

    fn open(&self, name: &str) -> io::Result<Backend> {
        Ok(self.file(name, self.disk.open(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(Change::Rename(to), || self.disk.rename(from, to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(Change::Remove(name), || self.disk.remove(name))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
}

#[derive(Debug)]
struct SimFile {
    files: SimFiles,
    name: Arc<str>,
    file: Backend,
}

impl StorageBackend for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.files.process.charge(Duration::from_micros(20));
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let act = || self.file.set_len(len);
        self.files.change(Change::Resize(&self.name, len), act)
    }

    fn sync_data(&self) -> io::Result<()> {
        let act = || self.file.sync_data();
        self.files.change(Change::Sync(&self.name), act)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let act = || self.file.write(offset, data);
        let content = digest(data) ^ offset;
        self.files.change(Change::Write(&self.name, content), act)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
