//! Linearizable reads on any member: the leader confirms that it leads and names a log index; whoever has applied up to
//! it may answer from its own state.
//!
//! Readers share the question: while one is asked, all that arrive wait for the next one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use openraft::RaftState;
use openraft::raft::AppendEntriesRequest;
use tokio::sync::{Notify, oneshot};
use troika_proto::member::v1;

use super::config::{CALL_TIMEOUT, RETRY_PAUSE};
use super::core::{Core, Leadership};
use super::error::ProposeError;
use super::network::{Kind, Lane, MemberId};
use super::peers::Peer;
use super::pending::lock;
use super::types::{TypeConfig, Vote};
use super::wire;
use crate::mutant::{self, Mutant};
use crate::runtime::{Instant, Runtime};

struct Reader {
    deadline: Instant,
    reply: oneshot::Sender<Result<u64, ProposeError>>,
}

/// Readers that wait for an index.
#[derive(Default)]
pub struct Reads {
    readers: Mutex<Vec<Reader>>,
    more: Notify,
}

impl Reads {
    /// The index up to which the log must be applied for a read that begins now.
    pub async fn index(&self, deadline: Instant) -> Result<u64, ProposeError> {
        let (reply, index) = oneshot::channel();
        lock(&self.readers).push(Reader { deadline, reply });
        self.more.notify_one();
        match Runtime::timeout_at(deadline, index).await {
            Ok(Ok(index)) => index,
            Ok(Err(_)) => Err(ProposeError::Stopping),
            Err(_) => Err(ProposeError::NoLeader),
        }
    }

    async fn take(&self) -> Vec<Reader> {
        loop {
            let readers = std::mem::take(&mut *lock(&self.readers));
            if !readers.is_empty() {
                return readers;
            }
            self.more.notified().await;
        }
    }
}

/// Asks for indices until the member ends.
pub async fn run(core: Arc<Core>) {
    loop {
        let readers = tokio::select! {
            biased;
            _ = core.until_end() => return,
            readers = core.reads.take() => readers,
        };
        let patience = readers.iter().map(|reader| reader.deadline).max();
        let Some(deadline) = patience else { continue };
        let index = tokio::select! {
            biased;
            _ = core.until_end() => return,
            index = ask(&core, deadline) => index,
        };
        for reader in readers {
            // A reader that has gone wants nothing.
            let _ = reader.reply.send(index.clone());
        }
    }
}

async fn ask(core: &Core, deadline: Instant) -> Result<u64, ProposeError> {
    loop {
        let index = match core.leadership() {
            Leadership::Own => own_index(core).await,
            Leadership::Other(peer) => {
                let request = v1::Hello::default();
                let reply = core
                    .peers
                    .ask(&peer, Kind::ReadIndex, &request, CALL_TIMEOUT)
                    .await;
                reply.ok().map(|reply: v1::ReadIndexReply| reply.index)
            }
            Leadership::Unknown => None,
        };
        if let Some(index) = index {
            return Ok(index);
        }
        if Runtime::now() + RETRY_PAUSE >= deadline {
            return Err(ProposeError::NoLeader);
        }
        Runtime::sleep(RETRY_PAUSE).await;
    }
}

/// The index that this member names as the leader; None if it cannot prove that it leads.
///
/// openraft has such a question too, and answers it by the clock of its replication streams. There an answer that comes late
/// counts for every message that was sent meanwhile and ends with the same entry, so that a leader which was cut off and
/// replaced takes old answers, held up on the way, for new ones. Here only answers to messages count that were sent after the
/// question.
async fn own_index(core: &Core) -> Option<u64> {
    if mutant::on(Mutant::ReadWithoutQuorum) {
        return Some(*core.shared.applied().borrow());
    }
    let id = core.id();
    let claim = core.raft.with_raft_state(move |state| Claim::of(id, state));
    let claim = Runtime::timeout(CALL_TIMEOUT, claim).await.ok()?.ok()??;
    claim.is_confirmed(core).await.then_some(claim.index)
}

/// What this member claimed when it was asked: to lead, and that nothing beyond this index was committed.
struct Claim {
    vote: Vote,
    index: u64,
    /// Who must confirm it: a majority of each.
    voters: Vec<BTreeSet<MemberId>>,
    others: Vec<Peer>,
}

impl Claim {
    /// None if this member does not lead, or has not committed an entry of its own term: until then it does not know what
    /// leaders before it have committed.
    fn of(id: MemberId, state: &RaftState<TypeConfig>) -> Option<Self> {
        let vote = *state.vote_ref();
        let leads = vote.committed && vote.leader_id.node_id == id;
        let committed = state.cluster_committed().max(state.local_committed())?;
        if !leads || committed.leader_id.term != vote.leader_id.term {
            return None;
        }
        let membership = state.membership_state.effective().membership();
        let voters = membership.get_joint_config().clone();
        let all: BTreeSet<MemberId> = voters.iter().flatten().copied().collect();
        let others = all.into_iter().filter(|other| *other != id);
        let peer = |other| Some(Peer::new(other, membership.get_node(&other)?));
        Some(Self {
            vote,
            index: committed.index,
            others: others.filter_map(peer).collect(),
            voters,
        })
    }

    /// True once a majority has said, after it was asked, that it follows nobody newer.
    async fn is_confirmed(&self, core: &Core) -> bool {
        let heartbeat = wire::append_to(&AppendEntriesRequest {
            vote: self.vote,
            prev_log_id: None,
            entries: Vec::new(),
            leader_commit: None,
        });
        let asking = self.others.iter().map(|peer| {
            let (lane, kind, heartbeat) = (Lane::Control, Kind::Append, heartbeat.clone());
            let call = core.peers.call(peer, lane, kind, heartbeat, CALL_TIMEOUT);
            call.map(|answer| (peer.id, answer))
        });
        let mut asking: FuturesUnordered<_> = asking.collect();
        let mut confirmed = BTreeSet::from([core.id()]);
        while !self.has_majority(&confirmed) {
            let Some((id, answer)) = asking.next().await else {
                return false;
            };
            match answer.map(wire::appended_from) {
                Ok(Ok(Ok(_))) => {
                    confirmed.insert(id);
                }
                Ok(Ok(Err(refusal))) => {
                    tracing::debug!(member = id, ?refusal, "another leads, or may");
                }
                Ok(Err(error)) => tracing::debug!(member = id, %error, "an answer without sense"),
                Err(error) => tracing::debug!(member = id, %error, "the lead is not confirmed"),
            }
        }
        true
    }

    fn has_majority(&self, confirmed: &BTreeSet<MemberId>) -> bool {
        let mut configs = self.voters.iter();
        configs.all(|voters| voters.intersection(confirmed).count() * 2 > voters.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_needs_a_majority_of_every_configuration() {
        let vote = Vote::new_committed(3, 1);
        let claim = |voters: &[&[u64]]| Claim {
            vote,
            index: 7,
            voters: voters
                .iter()
                .map(|ids| ids.iter().copied().collect())
                .collect(),
            others: Vec::new(),
        };
        let confirmed = BTreeSet::from([1, 2]);
        assert!(claim(&[&[1, 2, 3]]).has_majority(&confirmed));
        assert!(!claim(&[&[1, 2, 3, 4]]).has_majority(&confirmed));
        assert!(!claim(&[&[1, 2, 3], &[1, 4, 5]]).has_majority(&confirmed));
        assert!(claim(&[&[1, 2, 3], &[2, 3, 1]]).has_majority(&confirmed));
        // A leader that is being removed has no voice of its own.
        assert!(!claim(&[&[2, 3]]).has_majority(&BTreeSet::from([1, 2])));
    }
}
