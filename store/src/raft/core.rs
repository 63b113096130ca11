//! What all parts of a running member share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;

use super::config::MemberConfig;
use super::error::{ProposeError, Stopped};
use super::identity::Incarnation;
use super::machine_store::{MachineStore, Shared};
use super::network::MemberId;
use super::peers::{Peer, Peers};
use super::pending::lock;
use super::reads::Reads;
use super::stamps::Stamps;
use super::types::{MemberNode, TypeConfig};
use super::waiting::Waiting;
use crate::clock::Clock;
use crate::db::{Alarm, Files, LogFile};
use crate::runtime::{Instant, Runtime};

/// openraft with our types.
pub type Raft = openraft::Raft<TypeConfig, MachineStore>;
/// What openraft tells about the group.
pub type GroupMetrics = openraft::metrics::RaftServerMetrics<TypeConfig>;

/// Who orders the log now, as far as this member knows.
#[derive(Clone, Debug)]
pub enum Leadership {
    /// This member.
    Own,
    /// Another one.
    Other(Peer),
    /// Nobody that it knows of.
    Unknown,
}

/// The shared parts of a running member.
pub struct Core {
    pub(super) config: MemberConfig,
    pub(super) peers: Peers,
    pub(super) raft: Raft,
    pub(super) shared: Arc<Shared>,
    pub(super) log: LogFile,
    pub(super) alarm: Alarm,
    pub(super) files: Arc<dyn Files>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) waiting: Waiting,
    pub(super) reads: Reads,
    pub(super) stamps: Stamps,
    /// Held by the membership operation that is under way.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// Why writes are refused, empty if they are not.
    pub(super) refusing: watch::Sender<String>,
    /// When the leader was heard last.
    pub(super) heard: Mutex<Instant>,
    /// Free bytes of the data directory's disk, as last measured.
    pub(super) free_bytes: AtomicU64,
    /// Length of the state file in bytes, as last measured.
    pub(super) state_bytes: AtomicU64,
    /// Set once, when the member ends.
    pub(super) ended: watch::Sender<Option<Stopped>>,
    /// True from the moment that a stop was asked for.
    pub(super) stopping: watch::Sender<bool>,
}

impl Core {
    pub(super) fn id(&self) -> MemberId {
        self.config.id
    }

    /// What openraft tells about the group now.
    pub(super) fn group(&self) -> GroupMetrics {
        self.raft.server_metrics().borrow_watched().clone()
    }

    /// Who leads.
    pub(super) fn leadership(&self) -> Leadership {
        match self.leader() {
            Some(id) if id == self.id() => Leadership::Own,
            Some(id) => self.peer(id).map_or(Leadership::Unknown, Leadership::Other),
            None => Leadership::Unknown,
        }
    }

    /// The leader as this member knows it.
    pub(super) fn leader(&self) -> Option<MemberId> {
        self.raft.server_metrics().borrow_watched().current_leader
    }

    /// A member of the group.
    pub(super) fn peer(&self, id: MemberId) -> Option<Peer> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let node = metrics.membership_config.get_node(&id)?;
        Some(Peer::new(id, node))
    }

    /// True if this member orders the log, as far as it knows.
    pub(super) fn leads(&self) -> bool {
        self.leader() == Some(self.id())
    }

    /// The incarnation under which the group knows a member.
    pub(super) fn known_incarnation(&self, id: MemberId) -> Option<Incarnation> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics
            .membership_config
            .get_node(&id)
            .map(|node| node.incarnation)
    }

    /// The other members of the group.
    pub(super) fn others(&self) -> Vec<(MemberId, MemberNode)> {
        let group = self.group();
        let nodes = group.membership_config.nodes();
        nodes
            .filter(|(id, _)| **id != self.id())
            .map(|(id, node)| (*id, node.clone()))
            .collect()
    }

    /// Why nothing can be asked of this member any more, if so.
    pub(super) fn fault(&self) -> Option<ProposeError> {
        if let Some(ended) = &*self.ended.borrow() {
            return Some(match ended {
                Stopped::Requested => ProposeError::Stopping,
                other => ProposeError::Failed(other.to_string()),
            });
        }
        self.stopping.borrow().then_some(ProposeError::Stopping)
    }

    /// The error of a call whose deadline has passed.
    pub(super) fn late(&self, offered: bool) -> ProposeError {
        match (offered, self.leadership()) {
            (false, Leadership::Unknown) => ProposeError::NoLeader,
            _ => ProposeError::Deadline,
        }
    }

    /// Ends the member. The first reason counts.
    pub(super) fn end(&self, why: Stopped) {
        let first = self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(why.clone());
            }
            first
        });
        if first {
            match &why {
                Stopped::Requested => tracing::info!("stopped"),
                other => tracing::error!(reason = %other, "this member stops"),
            }
            let error = self.fault().unwrap_or(ProposeError::Stopping);
            self.waiting.close(&error);
        }
    }

    /// A leader's message has come.
    pub(super) fn note_leader(&self) {
        *lock(&self.heard) = Runtime::now();
    }

    /// True if this member has a leader that it hears of, or is one that a majority answers. (openraft remembers a leader
    /// however long it is silent.)
    pub(super) fn has_leader(&self, silence: Duration) -> bool {
        match self.leadership() {
            Leadership::Unknown => false,
            Leadership::Other(_) => Runtime::now() - *lock(&self.heard) < silence,
            Leadership::Own => {
                let metrics = self.raft.metrics();
                let metrics = metrics.borrow_watched();
                let alone = metrics.membership_config.voter_ids().count() <= 1;
                alone
                    || metrics
                        .last_quorum_acked
                        .is_some_and(|at| at.elapsed() < silence)
            }
        }
    }

    /// Waits, but not beyond the member's end.
    pub(super) async fn pause(&self, pause: Duration) {
        // Either way the wait is over.
        let _ = Runtime::timeout(pause, self.until_end()).await;
    }

    /// True until the member ends.
    pub(super) fn is_running(&self) -> bool {
        self.ended.borrow().is_none()
    }

    /// Ready when the member has ended, for any reason.
    pub(super) async fn until_end(&self) -> Stopped {
        let mut ended = self.ended.subscribe();
        loop {
            if let Some(why) = &*ended.borrow_and_update() {
                return why.clone();
            }
            // The sender is in `self`, so it lives.
            if ended.changed().await.is_err() {
                return Stopped::Requested;
            }
        }
    }

    /// Ready when the log is applied here up to `index`, or the time is over.
    pub(super) async fn wait_applied(
        &self,
        index: u64,
        deadline: Instant,
    ) -> Result<(), ProposeError> {
        let mut applied = self.shared.applied();
        loop {
            if *applied.borrow_and_update() >= index {
                return Ok(());
            }
            let changed = Runtime::timeout_at(deadline, applied.changed()).await;
            if let Some(fault) = self.fault()
                && !self.is_running()
            {
                return Err(fault);
            }
            if !matches!(changed, Ok(Ok(()))) {
                return Err(ProposeError::Deadline);
            }
        }
    }

    /// Why consensus has ended: the disk's own words where it was the disk.
    pub(super) fn reason(&self, fatal: &openraft::errors::Fatal<TypeConfig>) -> String {
        match self.alarm.raised() {
            Some(error) => format!("{error}. Mend the disk and start the member again"),
            None => fatal.to_string(),
        }
    }

    /// Refuses or admits writes by the space that is left.
    pub(super) fn note_free_bytes(&self, free: u64) {
        self.free_bytes.store(free, Ordering::Relaxed);
        let reserve = self.config.reserve_bytes;
        let why = match free < reserve {
            true => format!(
                "the leader's disk has {free} bytes left, less than its reserve of {reserve}: writes are refused until \
                 there is space again"
            ),
            false => String::new(),
        };
        let changed = self.refusing.send_if_modified(|refusing| {
            let changed = refusing.is_empty() != why.is_empty();
            refusing.clone_from(&why);
            changed
        });
        if changed {
            tracing::warn!(free, reserve, refusing = !why.is_empty(), "free space");
        }
    }

    /// Ends consensus and sees everything that was accepted onto the disk.
    pub(super) async fn close(&self) {
        if self.raft.shutdown().await.is_err() {
            tracing::debug!("consensus had ended before");
        }
        if let Err(error) = self.log.flush().await {
            tracing::warn!(%error, "the log could not be flushed at the end");
        }
    }
}
