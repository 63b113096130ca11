//! Handing the leadership over: on request, before the leader is removed, and before it ends.

use std::collections::BTreeSet;

use openraft::async_runtime::watch::WatchReceiver;
use troika_proto::member::v1 as wire;

use super::admin::{busy, refused};
use super::bootstrap::hello;
use super::config::{HANDOVER, HANDOVER_AGAIN, HANDOVER_ASK};
use super::core::{Core, Leadership};
use super::error::{AdminError, ProposeError};
use super::network::{Kind, MemberId};
use super::peers::Peer;
use crate::runtime::Runtime;

/// Hands the leadership over and waits until somebody has it.
///
/// Only to somebody who answers and does not stop: a leader that has handed over takes no commands until it hears of the
/// next one.
pub(super) async fn transfer(core: &Core, to: MemberId) -> Result<(), AdminError> {
    if to == core.id() {
        return Ok(());
    }
    let group = core.group();
    let voters: BTreeSet<MemberId> = group.membership_config.voter_ids().collect();
    if to != 0 && !voters.contains(&to) {
        return Err(refused(format!("member {to} is no voter")));
    }
    if to == 0 && voters.len() < 2 {
        return Err(refused("there is no other voter"));
    }
    let able = able_to_lead(core, &voters).await;
    let to = match to {
        0 => most_up_to_date(core, &able)
            .ok_or_else(|| busy("no other voter answers: nobody could take over"))?,
        to if able.contains(&to) => to,
        to => return Err(busy(format!("member {to} does not answer, or is stopping"))),
    };
    let deadline = Runtime::now() + HANDOVER;
    let mut metrics = core.raft.server_metrics();
    while Runtime::now() < deadline {
        if core.raft.trigger().transfer_leader(to).await.is_err() {
            return Err(AdminError::Unavailable(ProposeError::Stopping));
        }
        // The successor refuses if its disk is too slow with what it must have first: then it is asked once more.
        let again = deadline.min(Runtime::now() + HANDOVER_AGAIN);
        loop {
            match core.leadership() {
                Leadership::Other(_) => return Ok(()),
                Leadership::Own | Leadership::Unknown => {}
            }
            if Runtime::timeout_at(again, metrics.changed()).await.is_err() {
                break;
            }
        }
    }
    Err(busy(format!("member {to} did not take over in time")))
}

/// The other voters that answer now and are not about to stop.
async fn able_to_lead(core: &Core, voters: &BTreeSet<MemberId>) -> BTreeSet<MemberId> {
    let hello = hello(core);
    let others = core.others().into_iter();
    let asking = others
        .filter(|(id, _)| voters.contains(id))
        .map(|(id, node)| {
            let hello = &hello;
            async move {
                let peer = Peer::new(id, &node);
                let asked = core.peers.ask(&peer, Kind::Hello, hello, HANDOVER_ASK);
                let reply: wire::HelloReply = asked.await.ok()?;
                (!reply.stopping).then_some(id)
            }
        });
    let able = futures::future::join_all(asking).await;
    able.into_iter().flatten().collect()
}

/// The one of them that has most of the log.
fn most_up_to_date(core: &Core, able: &BTreeSet<MemberId>) -> Option<MemberId> {
    let metrics = core.raft.metrics();
    let metrics = metrics.borrow_watched();
    let matched = |id: &MemberId| {
        let matched = metrics
            .replication
            .as_ref()
            .and_then(|all| all.get(id).copied().flatten());
        matched.map_or(0, |id| id.index)
    };
    able.iter()
        .copied()
        .max_by_key(|id| (matched(id), u64::MAX - id))
}
