//! What a member knows about itself and about its group, for status calls, health and metrics.

use super::network::MemberId;

/// What part a member plays now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Orders the log.
    Leader,
    /// Votes and follows.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Follows without a vote, or belongs to no group yet.
    Learner,
    /// Is stopping or has stopped.
    Stopping,
}

impl Role {
    /// The word that the status call answers with.
    pub fn name(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
            Self::Stopping => "stopping",
        }
    }
}

/// One member of the group, as the answering member knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its id.
    pub id: MemberId,
    /// HOST:PORT for members.
    pub peer_addr: String,
    /// HOST:PORT for clients.
    pub client_addr: String,
    /// True if it votes.
    pub voter: bool,
    /// Identity of its data directory.
    pub incarnation: [u8; 16],
    /// True if it leads.
    pub leader: bool,
    /// Known to the leader only: last log index that it has on disk, else 0.
    pub matched_index: u64,
    /// Highest feature level that it said it understands.
    pub max_feature_level: u32,
}

/// A member's view of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// This member.
    pub id: MemberId,
    /// The cluster, all zero while there is none.
    pub cluster_id: [u8; 16],
    /// Identity of the data directory.
    pub incarnation: [u8; 16],
    /// Its part.
    pub role: Role,
    /// Who leads, 0 if unknown.
    pub leader: MemberId,
    /// Raft term.
    pub term: u64,
    /// Last index in the log.
    pub last_log_index: u64,
    /// Last index known to be committed.
    pub committed_index: u64,
    /// Last index applied.
    pub applied_index: u64,
    /// Last index that a checkpoint holds.
    pub checkpoint_index: u64,
    /// Last index that is no longer in the log.
    pub purged_index: u64,
    /// Bytes of the log file.
    pub log_bytes: u64,
    /// Bytes of the state file.
    pub state_bytes: u64,
    /// Free bytes on the disk of the data directory.
    pub free_bytes: u64,
    /// Bytes that the next checkpoint will write.
    pub dirty_bytes: u64,
    /// Bytes of commands that wait for a decision here.
    pub queued_bytes: u64,
    /// Why writes are refused, empty if they are not.
    pub writes_refused: String,
    /// True if it follows a leader and has applied what that leader has committed, as far as it knows.
    pub caught_up: bool,
}
