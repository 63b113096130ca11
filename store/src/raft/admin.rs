//! Changing who belongs to the group, on the leader, one change at a time.
//!
//! **Ids are never used twice.** A new member's id must be higher than any that the group has ever used. The membership
//! itself remembers the highest one: a removal writes it into the leader's own record (`MemberNode::highest_id`), so it
//! goes wherever the membership goes, into snapshots too.

use std::collections::{BTreeMap, BTreeSet};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, Instant as _};
use troika_proto::member::v1 as wire;

use super::bootstrap::{hello, highest_id};
use super::config::{ADMIN_TIMEOUT, CALL_TIMEOUT, PROMOTION_LAG, RETRY_PAUSE};
use super::core::{Core, GroupMetrics, Leadership};
use super::error::{AdminError, ProposeError};
use super::handover::transfer;
use super::identity::hex;
use super::network::{Kind, MemberId};
use super::peers::{CallError, Peer};
use super::types::{MemberNode, Membership, TypeConfig};
use crate::runtime::{Instant, Runtime};

/// A membership operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Add a member that receives the log but has no vote.
    AddLearner {
        /// Its id: higher than any used before.
        id: MemberId,
        /// HOST:PORT for members.
        peer_addr: String,
        /// HOST:PORT for clients; empty: as the member itself says.
        client_addr: String,
    },
    /// Give a learner a vote.
    Promote(MemberId),
    /// Take a member out, for ever.
    Remove(MemberId),
    /// Hand the leadership over; 0: to whoever is most up to date.
    Transfer(MemberId),
}

type Change = ChangeMembers<MemberId, MemberNode>;

pub(super) fn refused(message: impl Into<String>) -> AdminError {
    AdminError::Refused(message.into())
}

pub(super) fn busy(message: impl Into<String>) -> AdminError {
    AdminError::Busy(message.into())
}

/// Does it wherever the leader is.
pub async fn run(core: &Core, operation: Operation) -> Result<(), AdminError> {
    let deadline = Runtime::now() + ADMIN_TIMEOUT;
    let mut named = None;
    loop {
        if let Some(fault) = core.fault() {
            return Err(fault.into());
        }
        let leadership = core.leadership();
        let asked = match (leadership, named.take()) {
            (Leadership::Own, _) => match on_leader(core, &operation, deadline).await? {
                Done::Yes => Asked::Done,
                Done::ElsewhereNow => Asked::InVain,
            },
            (_, Some(peer)) | (Leadership::Other(peer), None) => {
                ask_leader(core, &peer, &operation, deadline).await?
            }
            (Leadership::Unknown, None) => Asked::InVain,
        };
        match asked {
            Asked::Done => return Ok(()),
            Asked::Elsewhere(leader) => named = core.peer(leader),
            Asked::InVain => {}
        }
        if Runtime::now() >= deadline {
            return Err(ProposeError::NoLeader.into());
        }
        Runtime::sleep(RETRY_PAUSE).await;
    }
}

/// What came of asking a member to do it.
enum Asked {
    Done,
    /// Nothing: ask again.
    InVain,
    /// It does not lead; this one does, as far as it knows. A member that the group has lost sight of hears of no leader
    /// otherwise.
    Elsewhere(MemberId),
}

async fn ask_leader(
    core: &Core,
    leader: &Peer,
    operation: &Operation,
    deadline: Instant,
) -> Result<Asked, AdminError> {
    let patience = deadline.saturating_duration_since(Runtime::now());
    let request = to_wire(operation);
    match core
        .peers
        .ask(leader, Kind::Admin, &request, patience)
        .await
    {
        Ok(wire::AdminReply { refused, .. }) if refused.is_empty() => Ok(Asked::Done),
        Ok(wire::AdminReply {
            refused,
            busy: true,
        }) => Err(AdminError::Busy(refused)),
        Ok(wire::AdminReply { refused, .. }) => Err(AdminError::Refused(refused)),
        Err(CallError::Refused { refused, .. }) => Ok(match refused.leader {
            0 => Asked::InVain,
            leader => Asked::Elsewhere(leader),
        }),
        // Every operation may be asked for again: what is done already is answered as done.
        Err(error) => {
            tracing::debug!(%error, "the leader does not answer");
            Ok(Asked::InVain)
        }
    }
}

/// How an operation ended on the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It is done.
    Yes,
    /// It takes another leader, and there is one now: ask that one.
    ElsewhereNow,
}

/// Does it here. `Unavailable` if the leadership is lost on the way.
pub async fn on_leader(
    core: &Core,
    operation: &Operation,
    deadline: Instant,
) -> Result<Done, AdminError> {
    let Ok(_one) = core.changing.try_lock() else {
        return Err(busy(
            "another membership operation is under way: try again when it is done",
        ));
    };
    let doing = async {
        match operation {
            Operation::AddLearner {
                id,
                peer_addr,
                client_addr,
            } => add_learner(core, *id, peer_addr, client_addr).await?,
            Operation::Promote(id) => promote(core, *id).await?,
            Operation::Remove(id) => return remove(core, *id).await,
            Operation::Transfer(to) => transfer(core, *to).await?,
        }
        Ok(Done::Yes)
    };
    tracing::info!(?operation, "membership operation");
    match Runtime::timeout_at(deadline, doing).await {
        Ok(done) => done,
        Err(_) => Err(ProposeError::Deadline.into()),
    }
}

async fn add_learner(
    core: &Core,
    id: MemberId,
    peer_addr: &str,
    client_addr: &str,
) -> Result<(), AdminError> {
    let membership = settled(core).await?.membership_config;
    if let Some(node) = membership.get_node(&id) {
        return match node.peer_addr == peer_addr {
            true => Ok(()),
            false => Err(refused(format!(
                "member {id} is there already, at {}",
                node.peer_addr
            ))),
        };
    }
    let highest = highest_id(membership.nodes());
    if id <= highest {
        return Err(refused(format!(
            "member ids are never used twice: choose one above {highest}, the highest that was used"
        )));
    }
    let reply = ask_newcomer(core, id, peer_addr).await?;
    let level = core.shared.read(|machine| machine.feature_level());
    if reply.max_feature_level < level {
        return Err(refused(format!(
            "member {id} understands feature level {} and the cluster is at {level}: start it with a newer release",
            reply.max_feature_level
        )));
    }
    let incarnation = reply.incarnation[..]
        .try_into()
        .map_err(|_| refused(format!("member {id} has no incarnation of 16 bytes")))?;
    let node = MemberNode {
        peer_addr: peer_addr.into(),
        client_addr: match client_addr {
            "" => reply.client_addr,
            given => given.into(),
        },
        incarnation,
        max_feature_level: reply.max_feature_level,
        highest_id: 0,
    };
    written(core.raft.add_learner(id, node, false).await)
}

/// Asks the newcomer who it is.
async fn ask_newcomer(
    core: &Core,
    id: MemberId,
    peer_addr: &str,
) -> Result<wire::HelloReply, AdminError> {
    let peer = Peer::stranger(id, peer_addr);
    let hello = hello(core);
    let asking = core.peers.ask(&peer, Kind::Hello, &hello, CALL_TIMEOUT);
    let reply: wire::HelloReply = match asking.await {
        Ok(reply) => reply,
        Err(CallError::Refused {
            refused: reason, ..
        }) => return Err(refused(reason.message)),
        Err(error) => {
            return Err(busy(format!(
                "member {id} must be up to be added (start it with --join): {error}"
            )));
        }
    };
    let own = core.peers.identity().cluster().unwrap_or_default();
    match &reply.cluster_id[..] {
        [] => Ok(reply),
        // Its id is above any that was used: it was added before, by an entry that was lost with its leader.
        cluster if cluster == own => Ok(reply),
        cluster => Err(refused(format!(
            "the directory of member {id} belongs to cluster {}: start it with an empty one",
            hex(cluster)
        ))),
    }
}

/// The group as a majority has it. What is not committed yet may go with its leader, so nothing is called done by it.
async fn settled(core: &Core) -> Result<GroupMetrics, AdminError> {
    let deadline = Runtime::now() + CALL_TIMEOUT;
    loop {
        let group = core.group();
        if group.membership_config.log_id() == group.committed_membership_config.log_id() {
            return Ok(group);
        }
        if Runtime::now() >= deadline {
            return Err(busy(
                "another change of the members is under way, and no majority has it yet: try again",
            ));
        }
        Runtime::sleep(RETRY_PAUSE).await;
    }
}

/// True if nothing is left to do for this member's vote. A leader that ended between the two steps of a change has left the
/// group in both memberships, in which it votes already; promoting it again then ends the change.
fn has_its_vote(membership: &Membership, id: MemberId) -> bool {
    match &membership.get_joint_config()[..] {
        [voters] => voters.contains(&id),
        _ => false,
    }
}

async fn promote(core: &Core, id: MemberId) -> Result<(), AdminError> {
    let membership = settled(core).await?.membership_config;
    if has_its_vote(membership.membership(), id) {
        return Ok(());
    }
    if membership.get_node(&id).is_none() {
        return Err(refused(format!(
            "member {id} is not there: add it as a learner first"
        )));
    }
    let behind = {
        let metrics = core.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics
            .replication
            .as_ref()
            .and_then(|all| all.get(&id).copied().flatten());
        let last = metrics.last_log_index.unwrap_or(0);
        last.saturating_sub(matched.map_or(0, |id| id.index))
    };
    if behind > PROMOTION_LAG {
        return Err(busy(format!(
            "member {id} is {behind} log entries behind: wait until it has caught up"
        )));
    }
    change(core, ChangeMembers::AddVoterIds(BTreeSet::from([id])), true).await
}

async fn remove(core: &Core, id: MemberId) -> Result<Done, AdminError> {
    let membership = settled(core).await?.membership_config;
    let highest = highest_id(membership.nodes());
    if membership.get_node(&id).is_none() {
        return match id <= highest {
            true => Ok(Done::Yes),
            false => Err(refused(format!("there is no member {id}"))),
        };
    }
    let voters: BTreeSet<MemberId> = membership.voter_ids().collect();
    let votes = voters.contains(&id);
    if votes {
        keeps_a_majority(core, &voters, id)?;
    }
    if id == core.id() {
        // The leader cannot write its own removal and see it through: somebody else does.
        transfer(core, 0).await?;
        return Ok(Done::ElsewhereNow);
    }
    let own = membership.get_node(&core.id()).cloned();
    let Some(mut own) = own else {
        return Err(busy("this leader is being removed itself: try again"));
    };
    own.highest_id = highest;
    let remember: Change = ChangeMembers::SetNodes(BTreeMap::from([(core.id(), own)]));
    let ids = BTreeSet::from([id]);
    let removal = match votes {
        true => ChangeMembers::RemoveVoters(ids),
        false => ChangeMembers::RemoveNodes(ids),
    };
    let removed = ChangeMembers::Batch(vec![remember, removal]);
    change(core, removed, false).await?;
    Ok(Done::Yes)
}

/// Refuses a removal after which those voters that answer are no majority: the group would stand still.
fn keeps_a_majority(
    core: &Core,
    voters: &BTreeSet<MemberId>,
    id: MemberId,
) -> Result<(), AdminError> {
    let left: Vec<MemberId> = voters
        .iter()
        .copied()
        .filter(|voter| *voter != id)
        .collect();
    if left.is_empty() {
        return Err(refused("the last voter cannot be removed"));
    }
    let alive = alive(core, &left);
    if alive * 2 <= left.len() {
        return Err(refused(format!(
            "without member {id} only {alive} of {} voters answer, which is no majority: bring another one back first",
            left.len()
        )));
    }
    Ok(())
}

/// How many of `voters` have answered this leader lately.
fn alive(core: &Core, voters: &[MemberId]) -> usize {
    let metrics = core.raft.metrics();
    let metrics = metrics.borrow_watched();
    let lately = core.config.election * 2;
    let heard = |id: &MemberId| {
        let heartbeat = metrics
            .heartbeat
            .as_ref()
            .and_then(|all| all.get(id).copied().flatten());
        heartbeat.is_some_and(|at| at.elapsed() < lately)
    };
    voters
        .iter()
        .filter(|id| **id == core.id() || heard(id))
        .count()
}

async fn change(core: &Core, change: Change, retain: bool) -> Result<(), AdminError> {
    let raft = core.raft.clone();
    // A task of its own: a change has two steps, and a caller that gives up must not leave the group between them.
    let changing = Runtime::spawn(async move { raft.change_membership(change, retain).await });
    match changing.await {
        Ok(result) => written(result),
        Err(_) => Err(ProposeError::Unknown.into()),
    }
}

fn written<T>(
    result: Result<T, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>,
) -> Result<(), AdminError> {
    use ChangeMembershipError::{InProgress, UncommittedLeaderLog};
    match result {
        Ok(_) => Ok(()),
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => match error {
            InProgress(_) | UncommittedLeaderLog(_) => Err(busy(format!(
                "another change is under way, try again: {error}"
            ))),
            error => Err(refused(error.to_string())),
        },
        Err(RaftError::APIError(_)) => Err(busy("the leadership changed, try again")),
        Err(RaftError::Fatal(error)) => Err(AdminError::Unavailable(ProposeError::Failed(
            error.to_string(),
        ))),
    }
}

/// An operation as it travels.
pub fn to_wire(operation: &Operation) -> wire::AdminRequest {
    use wire::admin_request::Operation as Wire;
    let operation = match operation {
        Operation::AddLearner {
            id,
            peer_addr,
            client_addr,
        } => Wire::AddLearner(wire::AddLearner {
            id: *id,
            peer_addr: peer_addr.clone(),
            client_addr: client_addr.clone(),
        }),
        Operation::Promote(id) => Wire::Promote(*id),
        Operation::Remove(id) => Wire::Remove(*id),
        Operation::Transfer(to) => Wire::TransferLeadership(*to),
    };
    wire::AdminRequest {
        operation: Some(operation),
    }
}

/// The operation that came.
pub fn from_wire(request: wire::AdminRequest) -> Option<Operation> {
    use wire::admin_request::Operation as Wire;
    Some(match request.operation? {
        Wire::AddLearner(add) => Operation::AddLearner {
            id: add.id,
            peer_addr: add.peer_addr,
            client_addr: add.client_addr,
        },
        Wire::Promote(id) => Operation::Promote(id),
        Wire::Remove(id) => Operation::Remove(id),
        Wire::TransferLeadership(to) => Operation::Transfer(to),
    })
}

/// The answer as it travels.
pub fn reply(done: Result<(), AdminError>) -> wire::AdminReply {
    match done {
        Ok(()) => wire::AdminReply::default(),
        Err(AdminError::Refused(refused)) => wire::AdminReply {
            refused,
            busy: false,
        },
        Err(error) => wire::AdminReply {
            refused: error.to_string(),
            busy: true,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_in_one_of_two_memberships_does_not_have_its_vote_yet() {
        let nodes: BTreeMap<MemberId, MemberNode> =
            (1..=4).map(|id| (id, MemberNode::default())).collect();
        let of = |configs: &[&[MemberId]]| {
            let configs = configs.iter().map(|ids| ids.iter().copied().collect());
            Membership::new(configs.collect::<Vec<BTreeSet<_>>>(), nodes.clone())
        };
        let old = of(&[&[1, 2, 3]]).unwrap();
        let both = of(&[&[1, 2, 3], &[1, 2, 3, 4]]).unwrap();
        let new = of(&[&[1, 2, 3, 4]]).unwrap();
        assert!(!has_its_vote(&old, 4));
        assert!(both.voter_ids().any(|id| id == 4) && !has_its_vote(&both, 4));
        assert!(has_its_vote(&new, 4));
    }
}
