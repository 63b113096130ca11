//! A data directory: made complete or not at all, opened by one process, refused when something is off.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    alarm::Alarm,
    error::{DbError, OpenError},
    files::{Files, TEMPORARY},
    identity::{IDENTITY, Identity},
    log_file::{LOG, LogFile, Recovered},
    snapshot::Received,
    state_file::{STATE, StateFile},
};
use crate::runtime::Runtime;

/// An open data directory.
pub struct Directory {
    files: Arc<dyn Files>,
    identity: Identity,
    /// The log.
    pub log: LogFile,
    /// What the log held at the start.
    pub recovered: Recovered,
    /// The checkpoint.
    pub state: StateFile,
    /// Raised by the first write that fails.
    pub alarm: Alarm,
}

impl Directory {
    /// Opens `member`'s directory, which is made if it is empty. `cluster`: refuse a directory of another one.
    pub async fn open(
        files: Arc<dyn Files>,
        member: u64,
        cluster: Option<[u8; 16]>,
    ) -> Result<Self, OpenError> {
        let incarnation = Runtime::random_bytes();
        let prepare = {
            let files = files.clone();
            move || {
                let lock = lock(&*files)?;
                remove_temporaries(&*files)?;
                let identity = match Identity::read(&*files)? {
                    Some(identity) => identity,
                    None => make(&*files, member, incarnation, cluster)?,
                };
                identity.check(member, cluster)?;
                check_files(&*files)?;
                Ok::<_, OpenError>((lock, identity))
            }
        };
        let (lock, identity) = Runtime::spawn_blocking(prepare).await?;
        let alarm = Alarm::default();
        let (log, recovered) = LogFile::open(files.clone(), lock.clone(), alarm.clone()).await?;
        let state = {
            let files = files.clone();
            Runtime::spawn_blocking(move || StateFile::open(files, lock)).await?
        };
        Ok(Self {
            files,
            identity,
            log,
            recovered,
            state,
            alarm,
        })
    }

    /// Whose directory this is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The files.
    pub fn files(&self) -> Arc<dyn Files> {
        self.files.clone()
    }
}

/// Makes a directory around a state that comes from elsewhere: a restore. `adapt` may change the state; the log is empty but
/// for the vote. Until the identity is written, last, the directory counts as empty. Blocks.
pub fn restore<E: From<OpenError> + From<DbError>>(
    files: &Arc<dyn Files>,
    identity: &Identity,
    receive: impl FnOnce() -> Result<Received, E>,
    adapt: impl FnOnce(&StateFile) -> Result<Bytes, E>,
) -> Result<(), E> {
    let lock = lock(&**files)?;
    remove_temporaries(&**files)?;
    if Identity::read(&**files)?.is_some() {
        return Err(OpenError::NotEmpty.into());
    }
    let received = receive()?;
    files
        .rename(received.file(), STATE)
        .map_err(|error| DbError::io(STATE, "rename", &error))?;
    // Held to the end: to somebody who starts a member now the directory would be an empty one.
    let vote = adapt(&StateFile::open(files.clone(), lock.clone())?)?;
    LogFile::create(&**files, Some(vote))?;
    identity.write(&**files)?;
    drop(lock);
    Ok(())
}

/// Writes the cluster's id into a directory that does not know it yet. On disk when it returns. Blocks.
pub fn join_cluster(files: &dyn Files, cluster: [u8; 16]) -> Result<Identity, OpenError> {
    let mut identity = Identity::read(files)?.ok_or(OpenError::Empty)?;
    identity.check(identity.member, Some(cluster))?;
    identity.cluster = Some(cluster);
    identity.write(files)?;
    Ok(identity)
}

pub(super) fn lock(files: &dyn Files) -> Result<Arc<dyn Send + Sync>, OpenError> {
    match files.lock() {
        Ok(lock) => Ok(lock.into()),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Err(OpenError::InUse),
        Err(error) => Err(DbError::io("the data directory", "lock", &error).into()),
    }
}

fn listing(error: std::io::Error) -> DbError {
    DbError::io("the data directory", "list", &error)
}

fn remove_temporaries(files: &dyn Files) -> Result<(), DbError> {
    for name in files.list().map_err(listing)? {
        if name.ends_with(TEMPORARY) {
            files
                .remove(&name)
                .map_err(|error| DbError::io(&name, "remove", &error))?;
        }
    }
    Ok(())
}

/// The databases first, the identity last: a directory without one was never a member's, whatever else is in it.
fn make(
    files: &dyn Files,
    member: u64,
    incarnation: [u8; 16],
    cluster: Option<[u8; 16]>,
) -> Result<Identity, OpenError> {
    LogFile::create(files, None)?;
    StateFile::create(files)?;
    let identity = Identity {
        member,
        incarnation,
        cluster,
    };
    identity.write(files)?;
    Ok(identity)
}

pub(super) fn check_files(files: &dyn Files) -> Result<(), OpenError> {
    let names = files.list().map_err(listing)?;
    for file in [IDENTITY, LOG, STATE] {
        if !names.iter().any(|name| name == file) {
            return Err(OpenError::Missing { file });
        }
    }
    Ok(())
}
