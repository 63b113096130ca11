//! What can go wrong when a member is asked to do something. A refusal by the state machine is not here: it is a
//! decision, an answer like any other.

use super::network::MemberId;

/// Why a command has no decision, or a read no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader could be reached before the deadline. The command was not logged.
    #[error("no leader could be reached in time: is a majority of the members up?")]
    NoLeader,
    /// The deadline passed. The command is perhaps logged: all of them but a raise of the revision may be sent again.
    #[error("not decided in time; the outcome is unknown, ask again")]
    Deadline,
    /// The leader changed under the command, and it may not be repeated blindly.
    #[error("the leader changed while this was under way; its outcome is unknown")]
    Unknown,
    /// A bounded queue is full. Not logged.
    #[error("{limit} is reached ({value} {unit}): slow down and try again")]
    Overloaded {
        /// The limit's name, as in `raft::limits`.
        limit: &'static str,
        /// The limit.
        value: u64,
        /// What it counts.
        unit: &'static str,
    },
    /// The leader's disk is below its reserve of free space. Not logged; goes away by itself when there is space.
    #[error("{0}")]
    NoSpace(String),
    /// The command does not fit into a log entry, or cannot be read by the leader.
    #[error("{0}")]
    Invalid(String),
    /// This member is stopping. Not logged: ask another one.
    #[error("this member is stopping: ask another one")]
    Stopping,
    /// This member has failed and is about to exit.
    #[error("this member has failed: {0}")]
    Failed(String),
}

impl ProposeError {
    /// True if the command is certainly not in the log, so that anything may be sent again.
    pub fn is_not_logged(&self) -> bool {
        !matches!(self, Self::Deadline | Self::Unknown | Self::Failed(_))
    }
}

/// Why a membership operation was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// It will never be done: why, and what to do instead.
    #[error("{0}")]
    Refused(String),
    /// Not now: another change is under way, or the member is not caught up.
    #[error("{0}")]
    Busy(String),
    /// The leader could not be asked, or not in time. It may have been done: look at the members and ask again.
    #[error(transparent)]
    Unavailable(#[from] ProposeError),
}

/// How a member ended. Nothing in a member ends the process; `main` does, with the exit code of this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// It was asked to.
    #[error("stopped as asked")]
    Requested,
    /// Its data directory is not the one that the cluster knows under this id.
    #[error(
        "member {id} is known to its cluster by another data directory (incarnation {known}, this one is {own}): this \
         directory was wiped or swapped. Voting with it could undo acknowledged decisions. Remove id {id} from the \
         cluster (`troikactl member remove {id}`), then start this member with --join under an id that was never used \
         and add it (`troikactl member add`)"
    )]
    Wiped {
        /// This member.
        id: MemberId,
        /// The incarnation that the cluster knows, in hex.
        known: String,
        /// This directory's, in hex.
        own: String,
    },
    /// The cluster has removed this id.
    #[error(
        "member {0} was removed from its cluster, and ids are never used again: start with an empty data directory, \
         --join and a new id"
    )]
    Removed(MemberId),
    /// The cluster is formed and does not know this id.
    #[error(
        "the cluster of these members is formed already and does not hold member {0}: start with --join and add it \
         (`troikactl member add`)"
    )]
    NotAMember(MemberId),
    /// A fault of the disk, of the files, or of the program. The message says which.
    #[error("{0}")]
    Failed(String),
}

impl Stopped {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Requested => 0,
            Self::Failed(_) => 1,
            Self::Wiped { .. } => 3,
            Self::Removed(_) => 4,
            Self::NotAMember(_) => 5,
        }
    }
}
