//! What a member does beside its work: it watches its disk, its own consensus task, its place in the group, and whether
//! its state is still the others'.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use openraft::async_runtime::watch::WatchReceiver;
use troika_proto::member::v1 as wire;

use super::bootstrap::ask_all;
use super::config::{CALL_TIMEOUT, SPACE_PAUSE, SWEEP_PAUSE};
use super::core::{Core, Leadership};
use super::error::Stopped;
use super::network::{Kind, MemberId};
use super::peers::Peer;
use super::pending::Work;
use crate::runtime::Runtime;
use crate::state::Command;

/// Ends the member when consensus has ended, which it does for good at the first fault of a file.
pub async fn watch_consensus(core: Arc<Core>) {
    let mut metrics = core.raft.metrics();
    while core.is_running() {
        let state = metrics.borrow_and_update().running_state.clone();
        if let Err(fatal) = state {
            return match *core.stopping.borrow() {
                true => core.end(Stopped::Requested),
                false => core.end(Stopped::Failed(core.reason(&fatal))),
            };
        }
        tokio::select! {
            biased;
            _ = core.until_end() => return,
            changed = metrics.changed() => if changed.is_err() {
                return core.end(Stopped::Failed("consensus has ended".into()));
            },
        }
    }
}

/// Ends the member when the group has removed it.
pub async fn watch_membership(core: Arc<Core>) {
    let mut group = core.raft.server_metrics();
    let mut belonged = false;
    while core.is_running() {
        let committed = group
            .borrow_and_update()
            .committed_membership_config
            .clone();
        let belongs = committed.get_node(&core.id()).is_some();
        if belonged && !belongs {
            return core.end(Stopped::Removed(core.id()));
        }
        belonged = belongs;
        tokio::select! {
            biased;
            _ = core.until_end() => return,
            changed = group.changed() => if changed.is_err() { return },
        }
    }
}

/// Refuses writes while the disk is below its reserve.
pub async fn watch_space(core: Arc<Core>) {
    while core.is_running() {
        let files = core.files.clone();
        let free = Runtime::spawn_blocking(move || files.free_bytes()).await;
        match free {
            Ok(free) => {
                core.note_free_bytes(free);
                if let Ok(bytes) = core.shared.state_bytes().await {
                    core.state_bytes.store(bytes, Ordering::Relaxed);
                }
            }
            Err(error) => tracing::warn!(%error, "cannot measure the free space"),
        }
        core.pause(SPACE_PAUSE).await;
    }
}

/// Frees what callers hold who have left or run out of time, wherever it waits.
pub async fn drop_unwanted(core: Arc<Core>) {
    while core.is_running() {
        core.pause(SWEEP_PAUSE).await;
        core.waiting.drop_unwanted(Runtime::now());
    }
}

/// Ends the member when a write has failed.
pub async fn watch_disk(core: Arc<Core>) {
    tokio::select! {
        biased;
        _ = core.until_end() => {}
        error = core.alarm.wait() => {
            let message = format!("{error}. Mend the disk and start the member again");
            core.end(Stopped::Failed(message));
        }
    }
}

/// Compares state hashes with the others, and on the leader raises the feature level when all understand a higher one.
pub async fn compare(core: Arc<Core>) {
    while core.is_running() {
        core.pause(core.config.care_pause).await;
        if let Some(why) = differs(&core).await {
            return core.end(why);
        }
        if matches!(core.leadership(), Leadership::Own) {
            raise_feature_level(&core).await;
        }
    }
}

/// The state hashes that this member has recorded.
pub(super) fn own_hashes(core: &Core) -> wire::StateHashes {
    let hashes = core
        .shared
        .state_hashes()
        .into_iter()
        .map(|(index, hash)| wire::StateHash {
            index,
            hash: hash.to_bytes().to_vec().into(),
        });
    wire::StateHashes {
        hashes: hashes.collect(),
    }
}

type Hashes = BTreeMap<u64, Vec<u8>>;

fn by_index(hashes: wire::StateHashes) -> Hashes {
    hashes
        .hashes
        .into_iter()
        .map(|hash| (hash.index, hash.hash.to_vec()))
        .collect()
}

async fn differs(core: &Core) -> Option<Stopped> {
    let own = by_index(own_hashes(core));
    own.last_key_value()?;
    let mut theirs = Vec::new();
    let group = core.group().membership_config;
    let voters: BTreeSet<MemberId> = group.voter_ids().collect();
    // Learners have no say, here as elsewhere: they may be more than the voters.
    for (id, node) in core.others() {
        if !voters.contains(&id) {
            continue;
        }
        let request = wire::StateHashes::default();
        let peer = Peer::new(id, &node);
        let asking = core
            .peers
            .ask(&peer, Kind::StateHashes, &request, CALL_TIMEOUT);
        if let Ok(reply) = asking.await {
            theirs.push((id, by_index(reply)));
        }
    }
    let (index, members) = outvoted(&own, &theirs, voters.len())?;
    Some(Stopped::Failed(format!(
        "the state of member {} at log index {index} differs from that of members {members:?}: this member is damaged or \
         runs a faulty build. Remove it and add a new one with an empty directory; keep this directory for analysis",
        core.id()
    )))
}

/// The newest index at which a majority of all voters agrees on another hash than ours, and who they are.
fn outvoted(
    own: &Hashes,
    theirs: &[(MemberId, Hashes)],
    voters: usize,
) -> Option<(u64, Vec<MemberId>)> {
    own.iter().rev().find_map(|(index, hash)| {
        let mut groups: BTreeMap<&Vec<u8>, Vec<MemberId>> = BTreeMap::new();
        for (id, hashes) in theirs {
            if let Some(other) = hashes.get(index).filter(|other| *other != hash) {
                groups.entry(other).or_default().push(*id);
            }
        }
        let majority = groups
            .into_values()
            .find(|members| members.len() * 2 > voters)?;
        Some((*index, majority))
    })
}

async fn raise_feature_level(core: &Arc<Core>) {
    let level = core.shared.read(|machine| machine.feature_level());
    let own = core.config.max_feature_level;
    if level >= own {
        return;
    }
    let others = core.others();
    let addresses = others
        .iter()
        .map(|(id, node)| (*id, node.peer_addr.clone()));
    let replies = ask_all(core, addresses).await;
    // A member that does not answer may be an old one.
    if replies.len() < others.len() {
        return;
    }
    let understood = replies.values().map(|reply| reply.max_feature_level).min();
    let understood = understood.unwrap_or(own).min(own);
    if understood > level {
        let command = Command::SetFeatureLevel { level: understood };
        let deadline = Runtime::now() + core.config.patience;
        match core.propose(Work::Command(command), deadline).await {
            Ok(_) => tracing::info!(level = understood, "feature level raised"),
            Err(error) => tracing::warn!(%error, "feature level not raised"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(pairs: &[(u64, u8)]) -> Hashes {
        pairs
            .iter()
            .map(|(index, hash)| (*index, vec![*hash; 32]))
            .collect()
    }

    #[test]
    fn only_a_majority_that_agrees_outvotes_a_member() {
        let own = hashes(&[(1, 1), (2, 2)]);
        let same = hashes(&[(1, 1), (2, 2)]);
        let other = hashes(&[(1, 1), (2, 3)]);
        let third = hashes(&[(2, 4)]);
        let ahead = hashes(&[(3, 9)]);
        assert_eq!(outvoted(&own, &[(2, other.clone()), (3, same)], 3), None);
        assert_eq!(outvoted(&own, &[(2, other.clone()), (3, third)], 3), None);
        assert_eq!(outvoted(&own, &[(2, other.clone()), (3, ahead)], 3), None);
        let found = outvoted(&own, &[(2, other.clone()), (3, other)], 3);
        assert_eq!(found, Some((2, vec![2, 3])));
    }
}
