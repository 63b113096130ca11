//! A member's data directory as openraft's storage: opened in one go, with everything that the member needs of it.

use std::sync::Arc;

use super::{
    log_store::LogStore,
    machine_store::{MachineStore, Shared},
    shared::Observer,
};
use crate::db::{Alarm, DbError, Directory, Files, Identity, OpenError, log_file::LOG};

/// An open data directory.
pub struct Storage {
    /// Whose directory this is.
    pub identity: Identity,
    /// For openraft.
    pub log: LogStore,
    /// For openraft.
    pub machine: MachineStore,
    /// The applied state, for everybody else.
    pub shared: Arc<Shared>,
    /// Raised by the first write that fails; the member must stop then.
    pub alarm: Alarm,
    /// The directory.
    pub files: Arc<dyn Files>,
}

impl Storage {
    /// Opens `member`'s directory, which is made if it is empty. `cluster`: refuse another one's directory.
    pub async fn open(
        files: Arc<dyn Files>,
        member: u64,
        cluster: Option<[u8; 16]>,
        observer: Option<Observer>,
    ) -> Result<Self, OpenError> {
        let directory = Directory::open(files.clone(), member, cluster).await?;
        let identity = directory.identity().clone();
        let log = LogStore::new(directory.log, &directory.recovered)
            .map_err(|error| DbError::damaged(LOG, "an id", error))?;
        let alarm = directory.alarm;
        let cluster = identity.cluster;
        let shared = Shared::open(directory.state, alarm.clone(), cluster, observer).await?;
        Ok(Self {
            identity,
            log,
            machine: MachineStore::new(shared.clone()),
            shared,
            alarm,
            files,
        })
    }
}

#[cfg(test)]
mod tests;
