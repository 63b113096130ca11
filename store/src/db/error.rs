//! What can go wrong with files.

use std::io;

/// A read or a write that failed. Cheap to clone: one failure is told to everybody who waits.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DbError {
    /// The file system refused.
    #[error("{file}: cannot {action}: {reason}")]
    Io {
        /// Which file.
        file: String,
        /// What was tried.
        action: &'static str,
        /// The system's words.
        reason: String,
        /// The system's kind.
        kind: io::ErrorKind,
    },
    /// What was read is not what was written.
    #[error(
        "{file} is damaged: {what}: {reason}. This member's data cannot be trusted: remove it from the cluster and join \
         under a new id, or restore a backup"
    )]
    Damaged {
        /// Which file.
        file: String,
        /// Which record.
        what: String,
        /// How it shows.
        reason: String,
    },
    /// The file was closed; the member is stopping.
    #[error("{file} is closed: the member is stopping")]
    Closed {
        /// Which file.
        file: String,
    },
}

impl DbError {
    /// The file system refused.
    pub fn io(file: &str, action: &'static str, error: &io::Error) -> Self {
        Self::Io {
            file: file.to_owned(),
            action,
            reason: error.to_string(),
            kind: error.kind(),
        }
    }

    /// What was read is not what was written.
    pub fn damaged(file: &str, what: impl ToString, reason: impl ToString) -> Self {
        Self::Damaged {
            file: file.to_owned(),
            what: what.to_string(),
            reason: reason.to_string(),
        }
    }

    /// An error of redb in our words.
    pub fn redb(file: &str, action: &'static str, error: impl Into<redb::Error>) -> Self {
        match error.into() {
            redb::Error::Io(error) => Self::io(file, action, &error),
            redb::Error::Corrupted(reason) => Self::damaged(file, "its pages", reason),
            other => Self::Io {
                file: file.to_owned(),
                action,
                reason: other.to_string(),
                kind: io::ErrorKind::Other,
            },
        }
    }
}

impl From<DbError> for io::Error {
    fn from(error: DbError) -> Self {
        let kind = match &error {
            DbError::Io { kind, .. } => *kind,
            DbError::Damaged { .. } => io::ErrorKind::InvalidData,
            DbError::Closed { .. } => io::ErrorKind::BrokenPipe,
        };
        Self::new(kind, error)
    }
}

/// Why a data directory is not opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the data directory is in use by another process")]
    InUse,
    /// A newer version wrote it.
    #[error(
        "the data directory has format {found}, this program understands up to {supported}: run a newer version"
    )]
    NewerFormat {
        /// What it has.
        found: u32,
        /// What this build understands.
        supported: u32,
    },
    /// It is another member's.
    #[error("the data directory is of member {found}, not of member {expected}")]
    OtherMember {
        /// Whose it is.
        found: u64,
        /// Whose it should be.
        expected: u64,
    },
    /// It is another cluster's.
    #[error("the data directory is of cluster {found}, not of cluster {expected}")]
    OtherCluster {
        /// Whose it is, in hex.
        found: String,
        /// Whose it should be, in hex.
        expected: String,
    },
    /// There is nothing in it.
    #[error("the data directory holds no member")]
    Empty,
    /// There is something in it already.
    #[error("the data directory already holds a member: give an empty one")]
    NotEmpty,
    /// A file that must be there is not.
    #[error(
        "the data directory has lost {file}: its data cannot be trusted; remove this member from the cluster and join under \
         a new id"
    )]
    Missing {
        /// Which file.
        file: &'static str,
    },
    /// A read or a write failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Why a snapshot or a backup is not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It is no snapshot at all.
    #[error("not a snapshot of a Troika store")]
    Foreign,
    /// A newer version wrote it.
    #[error(
        "the snapshot has format {found}, this program understands up to {supported}: use a newer version"
    )]
    NewerFormat {
        /// What it has.
        found: u32,
        /// What this build understands.
        supported: u32,
    },
    /// It is another cluster's.
    #[error("the snapshot is of cluster {found}, not of cluster {expected}")]
    OtherCluster {
        /// Whose it is, in hex.
        found: String,
        /// Whose it should be, in hex.
        expected: String,
    },
    /// What arrived is not what was sent.
    #[error("the snapshot is damaged: {0}")]
    Damaged(String),
    /// It ends before its end mark.
    #[error("the snapshot is cut off after {bytes} bytes")]
    CutOff {
        /// How much of it there is.
        bytes: u64,
    },
    /// A read or a write failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Db(error) => error.into(),
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// Lower-case hexadecimal, for ids in messages.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
