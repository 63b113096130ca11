//! The files of one data directory, behind a small trait.
//!
//! Everything that the store keeps on disk goes through [`Files`]: the two databases (redb reads and writes through the
//! [`StorageBackend`] that a file is), the identity, and the half-made copies of both. So a test can cut the power between
//! any two writes ([`crash`](super::crash)), and a simulation can do so from a seed.
//!
//! **A file comes into being complete or not at all**: it is made under a temporary name (`*.tmp`), filled, synced, closed,
//! renamed, and the directory synced. What ends in `.tmp` is rubbish from a crash; opening a data directory removes it.

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::{Path, PathBuf},
};

use redb::StorageBackend;

use crate::mutant::{self, Mutant};

/// What the names of unfinished files end in.
pub const TEMPORARY: &str = ".tmp";

/// One directory. Names are plain file names. Every call may block: off the async threads with it.
pub trait Files: Send + Sync + fmt::Debug {
    /// Takes the directory for this process until the value is dropped; [`io::ErrorKind::WouldBlock`] if another has it.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>>;
    /// The names of all files, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    /// A file's length in bytes.
    fn len(&self, name: &str) -> io::Result<u64>;
    /// A whole small file.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;
    /// A new, empty file; one of that name is emptied.
    fn create(&self, name: &str) -> io::Result<Backend>;
    /// A file that exists, for reading and writing.
    fn open(&self, name: &str) -> io::Result<Backend>;
    /// Gives a file another name, replacing what had it. On disk when it returns.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. On disk when it returns.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Bytes that may still be written here.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// Makes a small file: complete or not at all.
pub fn write_whole(files: &dyn Files, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = match mutant::on(Mutant::CreatedInPlace) {
        true => name.to_owned(),
        false => format!("{name}{TEMPORARY}"),
    };
    let file = files.create(&temporary)?;
    file.write(0, bytes)?;
    file.sync_data()?;
    file.close()?;
    files.rename(&temporary, name)
}

/// An open file, of whatever kind the directory has: what redb takes.
#[derive(Debug)]
pub struct Backend(pub Box<dyn StorageBackend>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        if mutant::on(Mutant::FsyncSkipped) {
            return Ok(());
        }
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}

/// A directory of the file system.
#[derive(Clone, Debug)]
pub struct DiskFiles {
    directory: PathBuf,
}

impl DiskFiles {
    /// The directory, which is made if it is not there.
    pub fn create(directory: &Path) -> io::Result<Self> {
        if !directory.is_dir() {
            fs::create_dir_all(directory)?;
            if let Some(parent) = directory
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
            {
                File::open(parent)?.sync_all()?;
            }
        }
        Self::open(directory)
    }

    /// A directory that exists.
    pub fn open(directory: &Path) -> io::Result<Self> {
        if !fs::metadata(directory)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

const LOCK: &str = "lock";

impl Files for DiskFiles {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.path(LOCK))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_file() && name != LOCK {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.path(name))?.len())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path(name))
    }

    fn create(&self, name: &str) -> io::Result<Backend> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(true);
        Ok(Backend(Box::new(DiskFile(options.open(self.path(name))?))))
    }

    fn open(&self, name: &str) -> io::Result<Backend> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path(name))?;
        Ok(Backend(Box::new(DiskFile(file))))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))?;
        self.sync_directory()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))?;
        self.sync_directory()
    }

    #[allow(unsafe_code)] // statvfs has no safe wrapper in std.
    fn free_bytes(&self) -> io::Result<u64> {
        let path = std::ffi::CString::new(self.directory.as_os_str().as_bytes())?;
        // SAFETY: all zeroes is a valid statvfs, the path ends in NUL, and both outlive the call.
        let (code, stats) = unsafe {
            let mut stats: libc::statvfs = std::mem::zeroed();
            (libc::statvfs(path.as_ptr(), &raw mut stats), stats)
        };
        if code != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stats.f_bavail.saturating_mul(stats.f_frsize))
    }
}

/// A file of the file system. It has no lock of its own: the directory's covers it.
#[derive(Debug)]
struct DiskFile(File);

impl StorageBackend for DiskFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_kept_out_of_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let first = DiskFiles::create(&directory.path().join("a/b")).unwrap();
        let second = DiskFiles::open(&directory.path().join("a/b")).unwrap();
        let held = first.lock().unwrap();
        let Err(error) = second.lock() else {
            panic!("two locks on one directory");
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(held);
        second.lock().unwrap();
    }

    #[test]
    fn files_are_made_renamed_listed_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let files = DiskFiles::create(directory.path()).unwrap();
        let _lock = files.lock().unwrap();
        write_whole(&files, "b", b"one").unwrap();
        write_whole(&files, "b", b"four").unwrap();
        write_whole(&files, "a", b"").unwrap();
        assert_eq!(files.list().unwrap(), ["a", "b"]);
        assert_eq!(files.read("b").unwrap(), b"four");
        assert_eq!(files.len("b").unwrap(), 4);
        files.remove("b").unwrap();
        assert_eq!(files.list().unwrap(), ["a"]);
        assert!(files.free_bytes().unwrap() > 0);
        assert_eq!(files.open("b").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
