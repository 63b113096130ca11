//! How entries, votes and memberships look on disk and between members.
//!
//! An entry is a fixed head and a body:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | kind: 0 blank, 1 batch, 2 membership |
//! | 8 | term, little endian |
//! | 8 | leader of the term |
//! | 8 | index |
//! | rest | batch: `troika.log.v1.Batch`; membership: `troika.log.v1.Membership` |
//!
//! Everything else is a message of `troika.log.v1`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use openraft::EntryPayload;
use prost::Message;
use troika_proto::log::v1 as wire;

use super::types::{
    Entry, LogId, MemberNode, Membership, SnapshotMeta, StoredMembership, Vote, log_id,
};
use crate::state::Batch;

/// Bytes before an entry's body.
pub const ENTRY_HEAD_BYTES: usize = 25;

const BLANK: u8 = 0;
const BATCH: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Bytes that are not what they should be. Whoever reads them names where they stood.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot read {what}: {reason}")]
pub struct Unreadable {
    what: &'static str,
    reason: String,
}

fn unreadable(what: &'static str, reason: impl ToString) -> Unreadable {
    Unreadable {
        what,
        reason: reason.to_string(),
    }
}

impl From<Unreadable> for std::io::Error {
    fn from(error: Unreadable) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// Writes an entry.
pub fn encode_entry(entry: &Entry) -> Bytes {
    let (kind, body) = match &entry.payload {
        EntryPayload::Blank => (BLANK, Bytes::new()),
        EntryPayload::Normal(batch) => (BATCH, batch.encode()),
        EntryPayload::Membership(membership) => (
            MEMBERSHIP,
            membership_to_wire(membership).encode_to_vec().into(),
        ),
    };
    let mut bytes = BytesMut::with_capacity(ENTRY_HEAD_BYTES + body.len());
    bytes.put_u8(kind);
    bytes.put_u64_le(entry.log_id.leader_id.term);
    bytes.put_u64_le(entry.log_id.leader_id.node_id);
    bytes.put_u64_le(entry.log_id.index);
    bytes.put_slice(&body);
    bytes.freeze()
}

/// Reads the id of an entry from its head alone.
pub fn decode_entry_id(bytes: &[u8]) -> Result<LogId, Unreadable> {
    let word = |at: usize| {
        let bytes = bytes.get(at..at + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    match (word(1), word(9), word(17)) {
        (Some(term), Some(leader), Some(index)) => Ok(log_id(term, leader, index)),
        _ => Err(unreadable("a log entry", "shorter than its head")),
    }
}

/// Reads an entry; its batch keeps a slice of `bytes`.
pub fn decode_entry(bytes: Bytes) -> Result<Entry, Unreadable> {
    let log_id = decode_entry_id(&bytes)?;
    let body = bytes.slice(ENTRY_HEAD_BYTES..);
    let payload = match bytes[0] {
        BLANK if body.is_empty() => EntryPayload::Blank,
        BATCH => {
            let batch = Batch::decode(body).map_err(|error| unreadable("a batch", error))?;
            EntryPayload::Normal(batch)
        }
        MEMBERSHIP => {
            let message = decode("a membership", &body)?;
            EntryPayload::Membership(membership_from_wire(message)?)
        }
        kind => return Err(unreadable("a log entry", format!("unknown kind {kind}"))),
    };
    Ok(Entry { log_id, payload })
}

/// Writes a vote.
pub fn encode_vote(vote: &Vote) -> Bytes {
    vote_to_wire(vote).encode_to_vec().into()
}

/// Reads a vote.
pub fn decode_vote(bytes: &[u8]) -> Result<Vote, Unreadable> {
    Ok(vote_from_wire(&decode("a vote", bytes)?))
}

/// A vote as a message.
pub(super) fn vote_to_wire(vote: &Vote) -> wire::Vote {
    wire::Vote {
        term: vote.leader_id.term,
        leader: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

/// A vote from a message.
pub(super) fn vote_from_wire(vote: &wire::Vote) -> Vote {
    let mut read = Vote::new(vote.term, vote.leader);
    read.committed = vote.committed;
    read
}

/// Writes a log id.
pub fn encode_log_id(id: &LogId) -> Bytes {
    log_id_to_wire(id).encode_to_vec().into()
}

/// Reads a log id.
pub fn decode_log_id(bytes: &[u8]) -> Result<LogId, Unreadable> {
    Ok(log_id_from_wire(&decode("a log id", bytes)?))
}

/// Writes what a checkpoint or a snapshot holds.
pub fn encode_meta(meta: &SnapshotMeta) -> Bytes {
    let membership = &meta.last_membership;
    wire::AppliedState {
        last_applied: meta.last_log_id.as_ref().map(log_id_to_wire),
        membership_log_id: membership.log_id().as_ref().map(log_id_to_wire),
        membership: Some(membership_to_wire(membership.membership())),
    }
    .encode_to_vec()
    .into()
}

/// Reads what a checkpoint or a snapshot holds.
pub fn decode_meta(bytes: &[u8]) -> Result<SnapshotMeta, Unreadable> {
    let state: wire::AppliedState = decode("an applied state", bytes)?;
    let membership = membership_from_wire(state.membership.unwrap_or_default())?;
    Ok(SnapshotMeta {
        last_log_id: state.last_applied.as_ref().map(log_id_from_wire),
        last_membership: StoredMembership::new(
            state.membership_log_id.as_ref().map(log_id_from_wire),
            membership,
        ),
    })
}

fn decode<M: Message + Default>(what: &'static str, bytes: &[u8]) -> Result<M, Unreadable> {
    M::decode(bytes).map_err(|error| unreadable(what, error))
}

/// A log id as a message.
pub(super) fn log_id_to_wire(id: &LogId) -> wire::LogId {
    wire::LogId {
        term: id.leader_id.term,
        leader: id.leader_id.node_id,
        index: id.index,
    }
}

/// A log id from a message.
pub(super) fn log_id_from_wire(id: &wire::LogId) -> LogId {
    log_id(id.term, id.leader, id.index)
}

fn membership_to_wire(membership: &Membership) -> wire::Membership {
    let configs = membership.get_joint_config().iter();
    wire::Membership {
        configs: configs
            .map(|ids| wire::Voters {
                ids: ids.iter().copied().collect(),
            })
            .collect(),
        members: membership
            .nodes()
            .map(|(id, node)| member_to_wire(*id, node))
            .collect(),
    }
}

fn member_to_wire(id: u64, node: &MemberNode) -> wire::MemberNode {
    wire::MemberNode {
        id,
        peer_addr: node.peer_addr.clone(),
        client_addr: node.client_addr.clone(),
        incarnation: Bytes::copy_from_slice(&node.incarnation),
        max_feature_level: node.max_feature_level,
        highest_id: node.highest_id,
    }
}

fn membership_from_wire(message: wire::Membership) -> Result<Membership, Unreadable> {
    let configs: Vec<BTreeSet<u64>> = message
        .configs
        .into_iter()
        .map(|voters| voters.ids.into_iter().collect())
        .collect();
    let mut nodes = BTreeMap::new();
    for member in message.members {
        let incarnation = member
            .incarnation
            .as_ref()
            .try_into()
            .map_err(|_| unreadable("a membership", "an incarnation is not 16 bytes"))?;
        let node = MemberNode {
            peer_addr: member.peer_addr,
            client_addr: member.client_addr,
            incarnation,
            max_feature_level: member.max_feature_level,
            highest_id: member.highest_id,
        };
        nodes.insert(member.id, node);
    }
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|error| unreadable("a membership", error))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(seed: u8) -> MemberNode {
        MemberNode {
            peer_addr: format!("127.0.0.1:{seed}"),
            client_addr: format!("localhost:{seed}"),
            incarnation: [seed; 16],
            max_feature_level: u32::from(seed),
            highest_id: u64::from(seed) + 3,
        }
    }

    fn joint() -> Membership {
        let nodes: BTreeMap<u64, MemberNode> = (1..=5).map(|id| (id, node(id as u8))).collect();
        let configs = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([2, 3, 4])];
        Membership::new(configs, nodes).unwrap()
    }

    #[test]
    fn membership_entries_survive_the_round_trip() {
        let entry = Entry {
            log_id: log_id(3, 2, 17),
            payload: EntryPayload::Membership(joint()),
        };
        assert_eq!(decode_entry(encode_entry(&entry)).unwrap(), entry);
    }

    #[test]
    fn meta_and_vote_survive_the_round_trip() {
        for meta in [
            SnapshotMeta::default(),
            SnapshotMeta {
                last_log_id: Some(log_id(4, 1, 99)),
                last_membership: StoredMembership::new(Some(log_id(3, 2, 17)), joint()),
            },
        ] {
            assert_eq!(decode_meta(&encode_meta(&meta)).unwrap(), meta);
        }
        for vote in [Vote::new(0, 0), Vote::new(7, 3), Vote::new_committed(7, 3)] {
            assert_eq!(decode_vote(&encode_vote(&vote)).unwrap(), vote);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from(bytes);
            let _ = (decode_vote(&bytes), decode_meta(&bytes), decode_log_id(&bytes));
            if let Ok(entry) = decode_entry(bytes.clone()) {
                prop_assert_eq!(decode_entry_id(&bytes).unwrap(), entry.log_id);
            }
        }
    }
}
