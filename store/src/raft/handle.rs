//! What a member offers to those inside the process: its services, its tests, its simulation.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::{oneshot, watch};

use super::admin::{self, Operation};
use super::config::{DRAIN, INLINE_CHECK_BYTES, MAX_COMMAND_BYTES, MemberConfig};
use super::core::{Core, Leadership};
use super::door::Door;
use super::error::{AdminError, ProposeError, Stopped};
use super::handover;
use super::identity::{ClusterId, Incarnation};
use super::machine_store::SnapshotData;
use super::network::MemberId;
use super::pending::{Caller, Outcome, Pending, Proposed, Slot, Work};
use super::status::{MemberInfo, MemberStatus, Role};
use crate::db::DbError;
use crate::mutant::{self, Mutant};
use crate::runtime::{Instant, Runtime};
use crate::state::{Answer, Command, Decision, Machine, RecordKey, Submission};

/// A running member. Cheap to clone; the member runs on when all are dropped, until [`Handle::shutdown`].
#[derive(Clone)]
pub struct Handle {
    pub(super) core: Arc<Core>,
}

/// Where an answer was given: for replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The leader as this member knows it, 0 if it knows none.
    pub leader: MemberId,
    /// Raft term of this member.
    pub term: u64,
    /// Last applied log index of this member.
    pub log_index: u64,
    /// Revision of this member's state.
    pub revision: u64,
    /// This member.
    pub member: MemberId,
}

impl Core {
    /// The winner of a decided shard, from the applied state: it never changes, so it may be answered stale or not.
    fn decided(&self, slot: Option<Slot>) -> Option<Proposed> {
        let (round, shard) = slot?;
        let (winner, revision) = self.shared.read(|machine| {
            let winner = machine.winner_of(round, shard)?;
            Some((winner, machine.revision()))
        })?;
        Some(Proposed {
            answer: Answer {
                revision,
                decision: Decision::Winner(winner),
            },
            log_index: *self.shared.applied().borrow(),
            term: self.term(),
        })
    }

    pub(super) fn term(&self) -> u64 {
        self.raft
            .server_metrics()
            .borrow_watched()
            .vote
            .leader_id
            .term
    }

    /// Takes a command in; its caller is told later. Hands the caller back with an outcome that is there at once.
    pub(super) fn offer(
        self: &Arc<Self>,
        work: Work,
        deadline: Instant,
        caller: Caller,
    ) -> Result<(), (Outcome, Caller)> {
        match self.enter(&work) {
            Ok(share) => {
                self.start(Pending::new(work, deadline, caller, share));
                Ok(())
            }
            Err(outcome) => Err((*outcome, caller)),
        }
    }

    /// A share of the queue for a command, unless it is answered or refused at once.
    fn enter(&self, work: &Work) -> Result<super::pending::Share, Box<Outcome>> {
        if let Some(decided) = self.decided(work.slot()) {
            return Err(Box::new(Ok(decided)));
        }
        if let Some(fault) = self.fault() {
            return Err(Box::new(Err(fault)));
        }
        if !work.frees_space() && self.leads() {
            let refusing = self.refusing.borrow();
            if !refusing.is_empty() {
                return Err(Box::new(Err(ProposeError::NoSpace(refusing.clone()))));
            }
        }
        let bytes = work.bytes();
        if bytes > MAX_COMMAND_BYTES {
            let message = format!(
                "the command has about {bytes} bytes, and MAX_COMMAND_BYTES is {MAX_COMMAND_BYTES}"
            );
            return Err(Box::new(Err(ProposeError::Invalid(message))));
        }
        self.waiting
            .budget
            .take(bytes)
            .map_err(|error| Box::new(Err(error)))
    }

    fn start(self: &Arc<Self>, pending: Pending) {
        if let Some(first) = self.waiting.enter(pending) {
            self.queue(first);
        }
    }

    /// Queues what goes next. On the leader a submission is checked before: on other members it is forwarded as it came.
    pub(super) fn queue(self: &Arc<Self>, pending: Pending) {
        if pending.command().is_some() || !self.leads() {
            self.waiting.queue.push(pending);
        } else if pending.bytes() <= INLINE_CHECK_BYTES {
            self.check(pending);
        } else {
            let core = self.clone();
            Runtime::spawn(async move {
                let checking = core.clone();
                Runtime::spawn_blocking(move || checking.check(pending)).await;
            });
        }
    }

    /// Checks a submission and queues it, or ends it.
    fn check(&self, mut pending: Pending) {
        let (round, shard) = pending.slot().unwrap_or_default();
        let ground = self.shared.read(|machine| machine.ground(round, shard));
        match pending.check(ground) {
            Ok(()) => self.waiting.queue.push(pending),
            Err(fault) => {
                let error = ProposeError::Invalid(fault.to_string());
                self.waiting.complete(pending, Err(error), Runtime::now());
            }
        }
    }

    /// Proposes a command and waits for its decision.
    pub(super) async fn propose(self: &Arc<Self>, work: Work, deadline: Instant) -> Outcome {
        let share = match self.enter(&work) {
            Ok(share) => share,
            Err(outcome) => return *outcome,
        };
        let (reply, outcome) = oneshot::channel();
        let pending = Pending::new(work, deadline, Caller::Local(reply), share);
        let offered = pending.offered();
        self.start(pending);
        match Runtime::timeout_at(deadline, outcome).await {
            Ok(Ok(Err(ProposeError::Deadline))) | Err(_) => {
                Err(self.late(offered.load(Ordering::Relaxed)))
            }
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(self.fault().unwrap_or(ProposeError::Unknown)),
        }
    }
}

impl Handle {
    /// This member's id.
    pub fn id(&self) -> MemberId {
        self.core.id()
    }

    /// The cluster, all zero while there is none.
    pub fn cluster_id(&self) -> ClusterId {
        self.core.peers.identity().cluster().unwrap_or_default()
    }

    /// Identity of the data directory.
    pub fn incarnation(&self) -> Incarnation {
        self.core.peers.identity().incarnation()
    }

    /// What the member was started with.
    pub fn config(&self) -> &MemberConfig {
        &self.core.config
    }

    /// Proposes a command within the usual time.
    ///
    /// # Errors
    /// See [`ProposeError`]: says whether the command may be in the log.
    pub async fn propose(&self, command: Command) -> Result<Proposed, ProposeError> {
        self.propose_by(command, Runtime::now() + self.core.config.patience)
            .await
    }

    /// Proposes a command, from any member. Dropping the future takes the command back where it is not logged yet.
    ///
    /// A proposal for a decided shard is answered at once. Of the proposals for one shard, one is under way at a time;
    /// its winner answers the others.
    ///
    /// # Errors
    /// As [`Handle::propose`].
    pub async fn propose_by(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<Proposed, ProposeError> {
        self.core.propose(Work::Command(command), deadline).await
    }

    /// As [`Handle::propose_by`], with a submission: it is checked, on the leader, only when its turn comes.
    ///
    /// # Errors
    /// As [`Handle::propose`]; [`ProposeError::Invalid`] names the field that makes no sense.
    pub async fn submit_by(
        &self,
        submission: Submission,
        deadline: Instant,
    ) -> Result<Proposed, ProposeError> {
        let work = Work::Submission(Box::new(submission));
        self.core.propose(work, deadline).await
    }

    /// Reads the applied state of this member. Keep it short: applying waits meanwhile.
    pub fn read<R>(&self, read: impl FnOnce(&Machine) -> R) -> R {
        self.core.shared.read(read)
    }

    /// Reads a cold record: first what is not written yet, then the state file.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged there.
    pub async fn cold(&self, key: RecordKey) -> Result<Option<Bytes>, DbError> {
        self.core.shared.cold(&key).await
    }

    /// The same for several, in the order of their keys, with one visit of the disk.
    ///
    /// # Errors
    /// As [`Handle::cold`].
    pub async fn cold_all(&self, keys: &[RecordKey]) -> Result<Vec<Option<Bytes>>, DbError> {
        self.core.shared.cold_all(keys).await
    }

    /// Ready when this member's state is at least as new as every decision answered before the call.
    ///
    /// # Errors
    /// No leader could confirm it, or this member is too far behind, before the deadline.
    pub async fn linearize(&self, deadline: Instant) -> Result<(), ProposeError> {
        if let Some(fault) = self.core.fault() {
            return Err(fault);
        }
        if mutant::on(Mutant::StaleUndecided) {
            return Ok(());
        }
        let index = self.core.reads.index(deadline).await?;
        self.core.wait_applied(index, deadline).await
    }

    /// Ready when this member's state is at `revision` or later.
    ///
    /// # Errors
    /// [`ProposeError::Deadline`], or the member ends.
    pub async fn wait_revision(
        &self,
        revision: u64,
        deadline: Instant,
    ) -> Result<(), ProposeError> {
        let mut revisions = self.revisions();
        let reached = revisions.wait_for(|now| *now >= revision);
        tokio::select! {
            biased;
            reached = Runtime::timeout_at(deadline, reached) => match reached {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) => Err(ProposeError::Stopping),
                Err(_) => Err(ProposeError::Deadline),
            },
            _ = self.core.until_end() => Err(self.core.fault().unwrap_or(ProposeError::Stopping)),
        }
    }

    /// Follows the revision of the applied state.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.core.shared.revisions()
    }

    /// Where answers of this member's state are given now.
    pub fn position(&self) -> Position {
        self.read_at(|_| ()).0
    }

    /// Looks at the applied state, and tells which state that is. Not what [`revisions`](Self::revisions) says at that
    /// moment: that follows a little later, and an answer must not name an older state than the one that it tells of.
    pub fn read_at<R>(&self, look: impl FnOnce(&Machine) -> R) -> (Position, R) {
        let (leader, term) = {
            let metrics = self.core.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            let leader = metrics.current_leader.unwrap_or(0);
            (leader, metrics.vote.leader_id.term)
        };
        let (log_index, revision, seen) = self.core.shared.read_at(look);
        let position = Position {
            leader,
            term,
            log_index,
            revision,
            member: self.core.id(),
        };
        (position, seen)
    }

    /// This member's view of itself.
    pub fn status(&self) -> MemberStatus {
        let core = &self.core;
        let metrics = core.raft.metrics().borrow_watched().clone();
        let applied = *core.shared.applied().borrow();
        let committed = metrics.cluster_committed.as_ref().map_or(0, |id| id.index);
        let leader = metrics.current_leader.unwrap_or(0);
        let role = match metrics.state {
            _ if core.fault().is_some() => Role::Stopping,
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner | ServerState::Shutdown => Role::Learner,
        };
        MemberStatus {
            id: core.id(),
            cluster_id: self.cluster_id(),
            incarnation: self.incarnation(),
            role,
            leader,
            term: metrics.current_term,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            committed_index: metrics.local_committed.as_ref().map_or(0, |id| id.index),
            applied_index: applied,
            checkpoint_index: *core.shared.checkpoints().borrow(),
            purged_index: metrics.purged.as_ref().map_or(0, |id| id.index),
            log_bytes: core.log.bytes(),
            state_bytes: core.state_bytes.load(Ordering::Relaxed),
            free_bytes: core.free_bytes.load(Ordering::Relaxed),
            dirty_bytes: core.shared.unwritten_bytes() as u64,
            queued_bytes: core.waiting.budget.used() as u64,
            writes_refused: core.refusing.borrow().clone(),
            caught_up: core.has_leader(core.config.election * 2)
                && applied >= committed
                && role != Role::Stopping,
        }
    }

    /// Log index and hash of the applied state.
    pub fn state_hash(&self) -> (u64, crate::state::StateHash) {
        self.core.shared.state_hash()
    }

    /// The members of the group, as this member knows them.
    pub fn members(&self) -> Vec<MemberInfo> {
        let metrics = self.core.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config;
        let voters: std::collections::BTreeSet<_> = membership.voter_ids().collect();
        let matched = |id: &MemberId| {
            let matched = (*metrics.replication.as_ref()?.get(id)?)?;
            Some(matched.index)
        };
        let info = |(id, node): (&MemberId, &super::types::MemberNode)| MemberInfo {
            id: *id,
            peer_addr: node.peer_addr.clone(),
            client_addr: node.client_addr.clone(),
            voter: voters.contains(id),
            incarnation: node.incarnation,
            leader: metrics.current_leader == Some(*id),
            matched_index: matched(id).unwrap_or(0),
            max_feature_level: node.max_feature_level,
        };
        membership.nodes().map(info).collect()
    }

    /// Adds a member that receives the log but has no vote. Its id must be higher than any used before.
    ///
    /// # Errors
    /// See [`AdminError`]. Asking again for what is done already succeeds: so for the other operations.
    pub async fn add_learner(
        &self,
        id: MemberId,
        peer_addr: String,
        client_addr: String,
    ) -> Result<(), AdminError> {
        let operation = Operation::AddLearner {
            id,
            peer_addr,
            client_addr,
        };
        admin::run(&self.core, operation).await
    }

    /// Gives a learner a vote.
    ///
    /// # Errors
    /// As [`Handle::add_learner`]; busy while it is far behind.
    pub async fn promote(&self, id: MemberId) -> Result<(), AdminError> {
        admin::run(&self.core, Operation::Promote(id)).await
    }

    /// Takes a member out of the group, for ever.
    ///
    /// # Errors
    /// As [`Handle::add_learner`]; refused where the voters left that answer would be no majority.
    pub async fn remove(&self, id: MemberId) -> Result<(), AdminError> {
        admin::run(&self.core, Operation::Remove(id)).await
    }

    /// Hands the leadership to `to`, or to whoever has most of the log if it is 0.
    ///
    /// # Errors
    /// As [`Handle::add_learner`]; busy if nobody took over in time.
    pub async fn transfer_leadership(&self, to: MemberId) -> Result<(), AdminError> {
        admin::run(&self.core, Operation::Transfer(to)).await
    }

    /// A consistent copy of this member's state, as it is now or later. Its frames make a backup file.
    ///
    /// # Errors
    /// The state file cannot be written or read.
    pub async fn backup(&self) -> std::io::Result<SnapshotData> {
        self.core.shared.checkpoint().await?;
        let snapshot = self.core.shared.snapshot().await?;
        let snapshot = snapshot.ok_or_else(|| std::io::Error::other("nothing is applied yet"))?;
        Ok(snapshot.snapshot)
    }

    /// Writes a checkpoint and lets go of the whole log behind it, where usually some is kept for members that lag: those
    /// get the state itself then.
    ///
    /// # Errors
    /// The state file cannot be written, or the member ends.
    pub async fn compact(&self) -> Result<(), ProposeError> {
        let failed = |error: &dyn std::fmt::Display| ProposeError::Failed(error.to_string());
        let core = &self.core;
        core.shared
            .checkpoint()
            .await
            .map_err(|error| failed(&error))?;
        let checkpoint = *core.shared.checkpoints().borrow();
        core.raft
            .trigger()
            .snapshot()
            .await
            .map_err(|error| failed(&error))?;
        let deadline = Runtime::now() + core.config.patience;
        let index = |id: &Option<super::types::LogId>| id.as_ref().map_or(0, |id| id.index);
        let mut metrics = core.raft.metrics();
        let mut asked = false;
        loop {
            let (snapshot, purged) = {
                let metrics = metrics.borrow_and_update();
                (index(&metrics.snapshot), index(&metrics.purged))
            };
            if purged >= checkpoint {
                return Ok(());
            }
            if snapshot >= checkpoint && !asked {
                asked = true;
                core.raft
                    .trigger()
                    .purge_log(checkpoint)
                    .await
                    .map_err(|error| failed(&error))?;
            }
            match Runtime::timeout_at(deadline, metrics.changed()).await {
                Ok(Ok(())) => {}
                _ => return Err(core.fault().unwrap_or(ProposeError::Deadline)),
            }
        }
    }

    /// The way in for other members' messages.
    pub fn door(&self) -> Door {
        Door::new(self.core.clone())
    }

    /// Ready when the member has ended, with the reason.
    pub async fn stopped(&self) -> Stopped {
        self.core.until_end().await
    }

    /// Stops: a leader hands over first, what is under way is decided if that is quick, then everything is closed.
    pub async fn shutdown(&self) {
        let core = &self.core;
        if matches!(core.leadership(), Leadership::Own) && core.is_running() {
            let members = core.group().membership_config;
            if members.voter_ids().count() > 1
                && let Err(error) = handover::transfer(core, 0).await
            {
                tracing::warn!(%error, "stopping without a successor");
            }
        }
        core.stopping.send_replace(true);
        let drained = Runtime::now() + DRAIN;
        while core.waiting.budget.used() > 0 && Runtime::now() < drained && core.is_running() {
            Runtime::sleep(super::config::RETRY_PAUSE).await;
        }
        core.close().await;
        core.end(Stopped::Requested);
    }
}
