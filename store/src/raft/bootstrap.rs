//! From a set of empty directories to a group, and from one that has lost its group back to it.
//!
//! Every member says hello to all that it was told of. When each has answered, and none has a cluster yet, the one with
//! the lowest id draws the cluster's id and starts the group, with everybody's incarnation in the first membership. The
//! others learn the cluster from the first message of that group.
//!
//! The same hello tells a member that it may not take part: the group knows its id by another directory (it was
//! wiped), has removed it, or was formed without it. A member that hears of no leader for a while asks again.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use troika_proto::member::v1 as wire;

use super::config::{CALL_TIMEOUT, HELLO_PAUSE};
use super::core::Core;
use super::error::Stopped;
use super::identity::hex;
use super::network::{Kind, MemberId};
use super::peers::Peer;
use super::types::MemberNode;
use crate::mutant::{self, Mutant};
use crate::runtime::Runtime;

/// What this member says of itself.
pub(super) fn hello(core: &Core) -> wire::Hello {
    wire::Hello {
        max_feature_level: core.config.max_feature_level,
        peer_addr: core.config.peer_addr.clone(),
        client_addr: core.config.client_addr.clone(),
    }
}

/// What this member answers to a hello of member `from`.
pub(super) fn hello_reply(core: &Core, from: MemberId) -> wire::HelloReply {
    // Only what is committed: an entry that is taken back must not have driven anybody out.
    let membership = core.group().committed_membership_config;
    let formed = membership.nodes().next().is_some();
    let known = membership.get_node(&from);
    let identity = core.peers.identity();
    wire::HelloReply {
        cluster_id: identity
            .cluster()
            .map(|id| id.to_vec().into())
            .unwrap_or_default(),
        incarnation: identity.incarnation().to_vec().into(),
        max_feature_level: core.config.max_feature_level,
        client_addr: core.config.client_addr.clone(),
        formed,
        sender_incarnation: known
            .map(|node| node.incarnation.to_vec().into())
            .unwrap_or_default(),
        sender_removed: known.is_none() && from <= highest_id(membership.nodes()),
        stopping: core.fault().is_some(),
    }
}

/// The highest id that the group has ever used. A new member's must be higher, so none is used twice.
pub(super) fn highest_id<'a>(
    nodes: impl Iterator<Item = (&'a MemberId, &'a MemberNode)>,
) -> MemberId {
    nodes
        .map(|(id, node)| node.highest_id.max(*id))
        .max()
        .unwrap_or(0)
}

/// Asks everybody of `who` at once. Who does not answer is missing in the result.
pub(super) async fn ask_all(
    core: &Core,
    who: impl IntoIterator<Item = (MemberId, String)>,
) -> BTreeMap<MemberId, wire::HelloReply> {
    let hello = hello(core);
    let calls = who
        .into_iter()
        .filter(|(id, _)| *id != core.id())
        .map(|(id, address)| {
            let hello = &hello;
            async move {
                let peer = Peer::stranger(id, &address);
                match core
                    .peers
                    .ask(&peer, Kind::Hello, hello, CALL_TIMEOUT)
                    .await
                {
                    Ok(reply) => Some((id, reply)),
                    Err(error) => {
                        tracing::debug!(member = id, %error, "no answer to a hello");
                        None
                    }
                }
            }
        });
    join_all(calls).await.into_iter().flatten().collect()
}

/// What the others' answers mean for this member: it may not take part, and why.
fn verdict(core: &Core, replies: &BTreeMap<MemberId, wire::HelloReply>) -> Option<Stopped> {
    if mutant::on(Mutant::WipedVoterReturns) {
        return None;
    }
    let own = core.peers.identity().incarnation();
    let formed = || replies.values().filter(|reply| reply.formed);
    if let Some(reply) = formed()
        .find(|reply| !reply.sender_incarnation.is_empty() && reply.sender_incarnation[..] != own)
    {
        return Some(Stopped::Wiped {
            id: core.id(),
            known: hex(&reply.sender_incarnation),
            own: hex(&own),
        });
    }
    // Somebody who is behind may not know this member yet: one that does know it counts.
    if formed().any(|reply| !reply.sender_incarnation.is_empty()) {
        return None;
    }
    if formed().any(|reply| reply.sender_removed) {
        return Some(Stopped::Removed(core.id()));
    }
    let stranger = !core.config.join && core.peers.identity().cluster().is_none();
    (stranger && formed().next().is_some()).then_some(Stopped::NotAMember(core.id()))
}

/// Takes this member to its group. Ends when it has one, or the member.
pub async fn run(core: Arc<Core>) {
    while core.is_running() && core.group().membership_config.nodes().next().is_none() {
        let replies = ask_all(&core, core.config.members.clone()).await;
        if let Some(why) = verdict(&core, &replies) {
            return core.end(why);
        }
        if may_form(&core, &replies)
            && let Err(reason) = form(&core, &replies).await
        {
            return core.end(Stopped::Failed(reason));
        }
        core.pause(HELLO_PAUSE).await;
    }
}

/// True if it is on this member to start the group, and everybody is there.
fn may_form(core: &Core, replies: &BTreeMap<MemberId, wire::HelloReply>) -> bool {
    let members = &core.config.members;
    let lowest = members
        .first_key_value()
        .is_some_and(|(id, _)| *id == core.id());
    let all = members
        .keys()
        .all(|id| *id == core.id() || replies.contains_key(id));
    let untouched = replies
        .values()
        .all(|reply| !reply.formed && reply.cluster_id.is_empty());
    !core.config.join && lowest && all && untouched
}

async fn form(core: &Core, replies: &BTreeMap<MemberId, wire::HelloReply>) -> Result<(), String> {
    let identity = core.peers.identity();
    // A member that stopped between the two steps has drawn its cluster already.
    let cluster = identity
        .cluster()
        .unwrap_or_else(Runtime::random_bytes::<16>);
    identity.adopt(cluster).await?;
    let mut nodes = BTreeMap::new();
    for (id, address) in &core.config.members {
        let node = match replies.get(id) {
            Some(reply) => MemberNode {
                peer_addr: address.clone(),
                client_addr: reply.client_addr.clone(),
                incarnation: reply.incarnation[..]
                    .try_into()
                    .map_err(|_| format!("member {id} has no incarnation of 16 bytes"))?,
                max_feature_level: reply.max_feature_level,
                highest_id: 0,
            },
            None => own_node(core),
        };
        nodes.insert(*id, node);
    }
    tracing::info!(cluster = %hex(&cluster), members = nodes.len(), "all members answered: the group starts");
    match core.raft.initialize(nodes).await {
        Ok(()) => Ok(()),
        Err(openraft::errors::RaftError::APIError(error)) => {
            // Somebody was quicker, which is as good.
            tracing::debug!(%error, "not initialised");
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    }
}

fn own_node(core: &Core) -> MemberNode {
    MemberNode {
        peer_addr: core.config.peer_addr.clone(),
        client_addr: core.config.client_addr.clone(),
        incarnation: core.peers.identity().incarnation(),
        max_feature_level: core.config.max_feature_level,
        highest_id: 0,
    }
}

/// While no leader is heard of, asks the others whether this member still belongs to them.
pub async fn stay(core: Arc<Core>) {
    let silence = core.config.election * 4;
    while core.is_running() {
        core.pause(core.config.election).await;
        if core.has_leader(silence) {
            continue;
        }
        let mut who: BTreeMap<_, _> = core.config.members.clone();
        who.extend(
            core.others()
                .into_iter()
                .map(|(id, node)| (id, node.peer_addr)),
        );
        let replies = ask_all(&core, who).await;
        if let Some(why) = verdict(&core, &replies) {
            core.end(why);
        }
    }
}
