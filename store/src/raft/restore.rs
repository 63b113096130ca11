//! A new cluster from a backup.
//!
//! A backup is a snapshot's stream in a file. Restoring it makes the data directory of the only member of a **new** cluster:
//! a new cluster id, so that no old member can join by mistake; a membership of this one member, to which others are added
//! as to any cluster; and a revision raised by 2^32, so that no fence that was handed out after the backup comes again.

use std::{collections::BTreeMap, io::Read, sync::Arc};

use bytes::Bytes;

use super::{
    codec,
    shared::load,
    types::{MemberNode, Membership, SnapshotMeta, StoredMembership, Vote},
};
use crate::{
    db::{
        DbError, Files, Identity, OpenError, SnapshotError, SnapshotWriter, StateFile, directory,
        state_file::STATE,
    },
    limits::SNAPSHOT_FRAME_BYTES,
    runtime::Runtime,
    state::{Batch, Command, limits::MAX_FEATURE_LEVEL},
};

/// By how much a restore raises the revision.
pub const RESTORE_RAISE: u64 = 1 << 32;

/// Why a backup is not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The directory.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The backup.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The state in it cannot be used by this program.
    #[error("the backup's state cannot be used: {0}")]
    State(String),
    /// The backup cannot be read.
    #[error("cannot read the backup: {0}")]
    Read(#[from] std::io::Error),
}

impl From<DbError> for RestoreError {
    fn from(error: DbError) -> Self {
        Self::Open(error.into())
    }
}

/// Makes the directory of `member`, the only one of a new cluster, from a backup. Blocks.
pub fn restore(
    files: &Arc<dyn Files>,
    backup: impl Read,
    member: u64,
    peer_addr: &str,
    client_addr: &str,
) -> Result<Identity, RestoreError> {
    let identity = Identity {
        member,
        incarnation: Runtime::random_bytes(),
        cluster: Some(Runtime::random_bytes()),
    };
    let node = MemberNode {
        peer_addr: peer_addr.to_owned(),
        client_addr: client_addr.to_owned(),
        incarnation: identity.incarnation,
        max_feature_level: MAX_FEATURE_LEVEL,
        highest_id: 0,
    };
    let receive = || {
        let mut writer = SnapshotWriter::new(files.clone())?;
        copy(backup, &mut writer)?;
        Ok::<_, RestoreError>(writer.finish()?)
    };
    directory::restore(files, &identity, receive, |state| {
        adapt(state, member, node)
    })?;
    Ok(identity)
}

fn copy(mut backup: impl Read, writer: &mut SnapshotWriter) -> Result<(), RestoreError> {
    let mut buffer = vec![0; SNAPSHOT_FRAME_BYTES];
    loop {
        match backup.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => writer.push(&buffer[..count])?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Raises the revision and puts the new membership in. The vote that it returns makes the first term later than any in the
/// backup, because the ids of entries must keep rising.
fn adapt(state: &StateFile, member: u64, node: MemberNode) -> Result<Bytes, RestoreError> {
    let (mut machine, meta) = load(state)?;
    let meta = meta.ok_or_else(|| DbError::damaged(STATE, "the state", "it is of no log index"))?;
    let raise = Command::RaiseRevision { by: RESTORE_RAISE };
    machine
        .apply_batch(&Batch::new(0, vec![raise]))
        .map_err(|fault| RestoreError::State(fault.to_string()))?;
    let membership = Membership::new(vec![[member].into()], BTreeMap::from([(member, node)]))
        .map_err(|error| RestoreError::State(error.to_string()))?;
    let adapted = SnapshotMeta {
        last_log_id: meta.last_log_id,
        last_membership: StoredMembership::new(meta.last_log_id, membership),
    };
    state.write(
        machine.take_generation().changes(),
        &codec::encode_meta(&adapted),
    )?;
    let term = meta.last_log_id.map_or(0, |id| id.leader_id.term);
    Ok(codec::encode_vote(&Vote::new(term + 1, member)))
}
