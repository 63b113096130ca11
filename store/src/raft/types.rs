//! What openraft is told about Troika: its entries, answers, members and runtime.

use std::fmt;

use openraft::{
    EntryPayload,
    type_config::alias::{
        CommittedLeaderIdOf, EntryOf, LeaderIdOf, LogIdOf, StoredMembershipOf, VoteOf,
    },
};

use super::snapshot_data::SnapshotData;
use crate::{
    runtime::Runtime,
    state::{Answer, Batch},
};

openraft::declare_raft_types!(
    /// Troika's configuration of openraft.
    pub TypeConfig:
        D = Batch,
        R = Decisions,
        NodeId = u64,
        Node = MemberNode,
        AsyncRuntime = Runtime,
);

/// A log entry.
pub type Entry = EntryOf<TypeConfig>;
/// What an entry carries: nothing, a batch of commands, or a membership.
pub type Payload = EntryPayload<Batch, u64, MemberNode>;
/// Term, leader and index of an entry.
pub type LogId = LogIdOf<TypeConfig>;
/// Term and leader.
pub type LeaderId = LeaderIdOf<TypeConfig>;
/// Term and leader of an entry.
pub type CommittedLeaderId = CommittedLeaderIdOf<TypeConfig>;
/// A member's vote.
pub type Vote = VoteOf<TypeConfig>;
/// The voters and all members.
pub type Membership = openraft::Membership<u64, MemberNode>;
/// A membership with the id of the entry that it came with.
pub type StoredMembership = StoredMembershipOf<TypeConfig>;
/// What a snapshot holds: last log id and membership.
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;

/// A snapshot on its way: its meta data and its bytes.
pub type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// The id of the entry `index` of `leader` in `term`.
pub fn log_id(term: u64, leader: u64, index: u64) -> LogId {
    LogId::new(
        LeaderId {
            term,
            node_id: leader,
        },
        index,
    )
}

/// What the members know of one of them. Stands in the membership, so in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberNode {
    /// HOST:PORT for members.
    pub peer_addr: String,
    /// HOST:PORT for clients.
    pub client_addr: String,
    /// Random identity of the member's data directory.
    pub incarnation: [u8; 16],
    /// Highest feature level that the member understands.
    pub max_feature_level: u32,
    /// At the removal of a member the leader writes the highest id that was ever used into its own record: ids are never
    /// used twice. 0 before.
    pub highest_id: u64,
}

impl fmt::Display for MemberNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.peer_addr)
    }
}

/// The decisions on an entry's commands, in their order. Empty for an entry that is no batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decisions(pub Vec<Answer>);

impl fmt::Display for Decisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} decisions", self.0.len())
    }
}
