//! A command that waits for its decision: what it waits with, what it counts for, and who is told.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::config::QUEUE_COMMANDS;
use super::error::ProposeError;
use crate::runtime::Instant;
use crate::state::{Answer, Command, Ground, RoundId, Submission, SubmissionFault};

/// A decision and where it stands in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposed {
    /// The decision, with the revision of a state that shows it.
    pub answer: Answer,
    /// Index of the entry that decided, or the last applied one where the applied state answered.
    pub log_index: u64,
    /// Term of that entry, or of the member that answered.
    pub term: u64,
}

/// How a command ended.
pub type Outcome = Result<Proposed, ProposeError>;

/// A (round, shard).
pub type Slot = (RoundId, u32);

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded here is consistent between any two statements that can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bounds what waits, in bytes and in number.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    bytes: AtomicUsize,
    commands: AtomicUsize,
}

/// A part of a budget, given back on drop.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// At most `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            bytes: AtomicUsize::new(0),
            commands: AtomicUsize::new(0),
        })
    }

    /// Bytes that wait now.
    pub fn used(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Takes a command's share, or says which limit is reached.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Result<Share, ProposeError> {
        if self.commands.fetch_add(1, Ordering::Relaxed) >= QUEUE_COMMANDS {
            self.commands.fetch_sub(1, Ordering::Relaxed);
            return Err(overloaded("QUEUE_COMMANDS", QUEUE_COMMANDS, "commands"));
        }
        let used = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let share = Share {
            budget: self.clone(),
            bytes,
        };
        // A command larger than the whole budget may still pass alone.
        if used > 0 && used + bytes > self.limit {
            return Err(overloaded("QUEUE_BYTES", self.limit, "bytes"));
        }
        Ok(share)
    }
}

fn overloaded(limit: &'static str, value: usize, unit: &'static str) -> ProposeError {
    ProposeError::Overloaded {
        limit,
        value: value as u64,
        unit,
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.commands.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Gathers the outcomes of commands that another member has forwarded on one stream.
#[derive(Debug, Default)]
pub struct Collector {
    done: Mutex<Vec<(u64, Outcome)>>,
    more: Notify,
    gone: AtomicBool,
}

impl Collector {
    /// An outcome for the command that the other member calls `id`.
    pub fn put(&self, id: u64, outcome: Outcome) {
        lock(&self.done).push((id, outcome));
        self.more.notify_one();
    }

    /// All outcomes that are there; waits for the first.
    pub async fn take(&self) -> Vec<(u64, Outcome)> {
        loop {
            let done = std::mem::take(&mut *lock(&self.done));
            if !done.is_empty() {
                return done;
            }
            self.more.notified().await;
        }
    }

    /// Nobody reads any more.
    pub fn abandon(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

/// Who waits.
#[derive(Debug)]
pub enum Caller {
    /// A caller of this member.
    Local(oneshot::Sender<Outcome>),
    /// A caller of another member.
    Remote {
        /// The other member's number for it.
        id: u64,
        /// Where its outcome goes.
        to: Arc<Collector>,
    },
}

/// What is to be decided.
#[derive(Debug)]
pub enum Work {
    /// A checked command.
    Command(Command),
    /// A submission, which is checked where it is logged. In a box: most of what waits is small.
    Submission(Box<Submission>),
}

impl Work {
    /// The shard it races for.
    pub fn slot(&self) -> Option<Slot> {
        match self {
            Self::Command(Command::AcceptShard(accept)) => Some((accept.round, accept.shard)),
            Self::Command(_) => None,
            Self::Submission(submission) => Some((submission.round(), submission.shard())),
        }
    }

    /// What it counts for in queues.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Command(command) => command.approximate_bytes(),
            Self::Submission(submission) => submission.bytes(),
        }
    }

    /// True for what frees space.
    pub fn frees_space(&self) -> bool {
        matches!(self, Self::Command(Command::Prune { .. }))
    }
}

/// A command that waits for its decision.
#[derive(Debug)]
pub struct Pending {
    /// The command.
    pub work: Work,
    /// As it was when the command came: a submission that turns out to be a dissent keeps its place in the race.
    slot: Option<Slot>,
    /// When the caller gives up.
    pub deadline: Instant,
    /// Set while it may be in the log.
    offered: Arc<AtomicBool>,
    /// Whether it was so before it was offered last.
    offered_before: bool,
    caller: Caller,
    share: Share,
}

impl Pending {
    /// A command with its caller and its share of the budget.
    pub fn new(work: Work, deadline: Instant, caller: Caller, share: Share) -> Self {
        Self {
            slot: work.slot(),
            work,
            deadline,
            offered: Arc::default(),
            offered_before: false,
            caller,
            share,
        }
    }

    /// What it counts for.
    pub fn bytes(&self) -> usize {
        self.share.bytes
    }

    /// For whoever waits: true while it may be in the log.
    pub fn offered(&self) -> Arc<AtomicBool> {
        self.offered.clone()
    }

    /// True while it may be in the log.
    pub fn may_be_logged(&self) -> bool {
        self.offered.load(Ordering::Relaxed)
    }

    /// From now on it may be in the log.
    pub fn offer(&mut self) {
        self.offered_before = self.offered.swap(true, Ordering::Relaxed);
    }

    /// It was refused before it was logged, this time: an offer before that may still be in a log.
    pub fn take_offer_back(&self) {
        self.offered.store(self.offered_before, Ordering::Relaxed);
    }

    /// True if it came from another member, which must not be sent on to a third.
    pub fn is_remote(&self) -> bool {
        matches!(self.caller, Caller::Remote { .. })
    }

    /// False once the caller has gone or its deadline has passed.
    pub fn is_wanted(&self, now: Instant) -> bool {
        self.deadline > now
            && match &self.caller {
                Caller::Local(reply) => !reply.is_closed(),
                Caller::Remote { to, .. } => !to.gone.load(Ordering::Relaxed),
            }
    }

    /// The shard it races for.
    pub fn slot(&self) -> Option<Slot> {
        self.slot
    }

    /// The command to be logged; `None` while it is not checked.
    pub fn command(&self) -> Option<&Command> {
        match &self.work {
            Work::Command(command) => Some(command),
            Work::Submission(_) => None,
        }
    }

    /// Checks a submission; a command is checked already. After a fault there is nothing left but to tell it.
    pub fn check(&mut self, ground: Ground) -> Result<(), SubmissionFault> {
        let nothing = Work::Command(Command::RaiseRevision { by: 0 });
        let work = std::mem::replace(&mut self.work, nothing);
        self.work = match work {
            Work::Submission(submission) => Work::Command(submission.check(ground)?),
            command => command,
        };
        Ok(())
    }

    /// True if logging it twice does what logging it once does. Decisions are write-once and the other commands name the
    /// state that they ask for; only a raise of the revision adds up.
    pub fn is_idempotent(&self) -> bool {
        !matches!(self.work, Work::Command(Command::RaiseRevision { .. }))
    }

    /// Ends it.
    pub(super) fn tell(self, outcome: Outcome) {
        match self.caller {
            // A caller that has gone wants nothing.
            Caller::Local(reply) => drop(reply.send(outcome)),
            Caller::Remote { id, to } => to.put(id, outcome),
        }
    }
}
