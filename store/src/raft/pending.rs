//! Commands that wait for a decision: what one waits with, where it waits, and the race for one shard.
//!
//! A [`Pending`] is in exactly one place: the [`Queue`], a log entry or forwarded message under way, or behind another
//! one of the same shard in [`Races`]. It ends in [`Waiting::complete`], which tells its caller and lets the next racer
//! go.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::config::QUEUE_COMMANDS;
use super::error::ProposeError;
use crate::runtime::Instant;
use crate::state::{Answer, Command, Decision, Ground, RoundId, Submission, SubmissionFault};

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

    fn tell(self, outcome: Outcome) {
        match self.caller {
            // A caller that has gone wants nothing.
            Caller::Local(reply) => drop(reply.send(outcome)),
            Caller::Remote { id, to } => to.put(id, outcome),
        }
    }
}

/// Commands that wait to be logged or forwarded, first in, first out.
#[derive(Debug, Default)]
pub struct Queue {
    commands: Mutex<VecDeque<Pending>>,
    more: Notify,
}

impl Queue {
    /// Puts a command at the end.
    pub fn push(&self, pending: Pending) {
        lock(&self.commands).push_back(pending);
        self.more.notify_one();
    }

    /// Puts commands back to the front, in their order.
    pub fn put_back(&self, pendings: Vec<Pending>) {
        let mut commands = lock(&self.commands);
        for pending in pendings.into_iter().rev() {
            commands.push_front(pending);
        }
        drop(commands);
        self.more.notify_one();
    }

    /// Ready when something waits.
    pub async fn ready(&self) {
        while lock(&self.commands).is_empty() {
            self.more.notified().await;
        }
    }

    /// The next commands: at least one if any waits, at most `commands`, and no more than `bytes` unless the first alone
    /// is larger.
    pub fn take(&self, bytes: usize, commands: usize) -> Vec<Pending> {
        let mut queue = lock(&self.commands);
        let (mut count, mut sum) = (0, 0);
        for pending in queue.iter().take(commands) {
            sum += pending.bytes();
            if count > 0 && sum > bytes {
                break;
            }
            count += 1;
        }
        queue.drain(..count).collect()
    }

    /// Takes everything that nobody waits for any more.
    fn take_unwanted(&self, now: Instant) -> Vec<Pending> {
        let mut queue = lock(&self.commands);
        let (wanted, unwanted) = queue.drain(..).partition(|pending| pending.is_wanted(now));
        *queue = wanted;
        Vec::from(unwanted as VecDeque<Pending>)
    }
}

/// For every shard that has a proposal under way, the proposals that wait for its decision.
#[derive(Debug, Default)]
struct Races(Mutex<BTreeMap<Slot, VecDeque<Pending>>>);

impl Races {
    /// Hands the proposal back if it is the first of its shard; else it waits.
    fn enter(&self, slot: Slot, pending: Pending) -> Option<Pending> {
        match lock(&self.0).entry(slot) {
            std::collections::btree_map::Entry::Occupied(mut race) => {
                race.get_mut().push_back(pending);
                None
            }
            std::collections::btree_map::Entry::Vacant(race) => {
                race.insert(VecDeque::new());
                Some(pending)
            }
        }
    }

    /// The shard has a winner: everybody who waited.
    fn finish(&self, slot: Slot) -> VecDeque<Pending> {
        lock(&self.0).remove(&slot).unwrap_or_default()
    }

    /// Takes everybody who waits behind another and has left or run out of time.
    fn take_unwanted(&self, now: Instant) -> Vec<Pending> {
        let mut unwanted = Vec::new();
        for race in lock(&self.0).values_mut() {
            let (wanted, left) = std::mem::take(race)
                .into_iter()
                .partition::<VecDeque<_>, _>(|pending| pending.is_wanted(now));
            *race = wanted;
            unwanted.extend(left);
        }
        unwanted
    }

    /// The shard has no winner yet: the next who goes, and those who have left meanwhile.
    fn next(&self, slot: Slot, now: Instant) -> (Option<Pending>, Vec<Pending>) {
        let mut races = lock(&self.0);
        let mut left = Vec::new();
        let Some(race) = races.get_mut(&slot) else {
            return (None, left);
        };
        while let Some(pending) = race.pop_front() {
            if pending.is_wanted(now) {
                return (Some(pending), left);
            }
            left.push(pending);
        }
        races.remove(&slot);
        (None, left)
    }
}

/// Everything that waits on this member.
#[derive(Debug)]
pub struct Waiting {
    /// What is to be logged or forwarded.
    pub queue: Queue,
    /// The bound on all of it.
    pub budget: Arc<Budget>,
    races: Races,
}

impl Waiting {
    /// Nothing waits yet; at most `limit` bytes will.
    pub fn new(limit: usize) -> Self {
        Self {
            queue: Queue::default(),
            budget: Budget::new(limit),
            races: Races::default(),
        }
    }

    /// Hands a command back that goes at once; lets it wait if a proposal of its shard is under way.
    #[must_use = "what is handed back is to be queued"]
    pub fn enter(&self, pending: Pending) -> Option<Pending> {
        match pending.slot() {
            Some(slot) => self.races.enter(slot, pending),
            None => Some(pending),
        }
    }

    /// Ends a command. A winner answers everybody who raced for the shard; after anything else the next one goes.
    pub fn complete(&self, pending: Pending, outcome: Outcome, now: Instant) {
        let slot = pending.slot();
        if let Some(slot) = slot {
            if matches!(&outcome, Ok(proposed) if matches!(proposed.answer.decision, Decision::Winner(_)))
            {
                for loser in self.races.finish(slot) {
                    loser.tell(outcome.clone());
                }
            } else {
                let (next, left) = self.races.next(slot, now);
                left.into_iter()
                    .for_each(|pending| pending.tell(Err(ProposeError::Deadline)));
                if let Some(next) = next {
                    self.queue.push(next);
                }
            }
        }
        pending.tell(outcome);
    }

    /// The mistake of [`Mutant::AnsweredBeforeCommit`](crate::mutant::Mutant::AnsweredBeforeCommit).
    pub(super) fn answer_early(&self, commands: &[Pending], revision: u64) {
        for pending in commands {
            let Some(Command::AcceptShard(accept)) = pending.command() else {
                continue;
            };
            let decision = Decision::Winner(crate::state::Winner {
                shard_hash: accept.proposal.hash,
                executor: accept.executor.clone(),
                revision,
            });
            let mut races = lock(&self.races.0);
            let waiting = races.get_mut(&(accept.round, accept.shard));
            for loser in waiting.into_iter().flat_map(std::mem::take) {
                loser.tell(Ok(Proposed {
                    answer: Answer {
                        revision,
                        decision: decision.clone(),
                    },
                    log_index: 0,
                    term: 0,
                }));
            }
        }
    }

    /// Ends what nobody waits for, in the queue and behind proposals under way: those may wait long, for a majority.
    pub fn drop_unwanted(&self, now: Instant) {
        for pending in self.races.take_unwanted(now) {
            pending.tell(Err(ProposeError::Deadline));
        }
        for pending in self.queue.take_unwanted(now) {
            self.complete(pending, Err(ProposeError::Deadline), now);
        }
    }

    /// Ends everything that is queued or waits for a race.
    pub fn close(&self, why: &ProposeError) {
        let queued = std::mem::take(&mut *lock(&self.queue.commands));
        let races = std::mem::take(&mut *lock(&self.races.0));
        let waiting = races.into_values().flatten();
        queued
            .into_iter()
            .chain(waiting)
            .for_each(|pending| pending.tell(Err(why.clone())));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::runtime::Runtime;
    use crate::state::{Holder, Winner};
    use troika_proto::{LockKey, Shard};

    fn accept(waiting: &Waiting, shard: u32, name: &str) -> oneshot::Receiver<Outcome> {
        let mut proposal = Shard::empty(shard);
        proposal.header.gas_used = name.len() as u64;
        let command = Command::AcceptShard(crate::state::AcceptShard::new(
            1,
            name.into(),
            Arc::new(proposal),
        ));
        offer(waiting, command, Duration::from_secs(60))
    }

    fn offer(
        waiting: &Waiting,
        command: Command,
        patience: Duration,
    ) -> oneshot::Receiver<Outcome> {
        let (reply, outcome) = oneshot::channel();
        let share = waiting.budget.take(100).unwrap();
        let deadline = Runtime::now() + patience;
        let work = Work::Command(command);
        let pending = Pending::new(work, deadline, Caller::Local(reply), share);
        if let Some(first) = waiting.enter(pending) {
            waiting.queue.push(first);
        }
        outcome
    }

    fn answered(decision: Decision) -> Outcome {
        Ok(Proposed {
            answer: Answer {
                revision: 5,
                decision,
            },
            log_index: 9,
            term: 2,
        })
    }

    fn winner() -> Outcome {
        answered(Decision::Winner(Winner {
            shard_hash: Default::default(),
            executor: "a".into(),
            revision: 5,
        }))
    }

    fn conflict() -> Outcome {
        answered(Decision::Conflict(vec![Holder {
            key: LockKey {
                address: Default::default(),
                slot: None,
            },
            shard: 3,
            revision: 4,
        }]))
    }

    fn take_one(waiting: &Waiting) -> Pending {
        let mut taken = waiting.queue.take(1 << 20, 10);
        assert_eq!(
            taken.len(),
            1,
            "exactly one proposal of a shard is under way"
        );
        taken.remove(0)
    }

    #[tokio::test]
    async fn one_proposal_of_a_shard_is_under_way_and_its_winner_answers_all() {
        let waiting = Waiting::new(1 << 20);
        let outcomes: Vec<_> = ["a", "b", "c"].map(|name| accept(&waiting, 0, name)).into();
        let first = take_one(&waiting);
        waiting.complete(first, winner(), Runtime::now());
        for outcome in outcomes {
            assert_eq!(outcome.await.unwrap(), winner());
        }
        assert_eq!(waiting.budget.used(), 0);
        accept(&waiting, 0, "d");
        take_one(&waiting);
    }

    #[tokio::test]
    async fn after_a_conflict_the_next_racer_goes() {
        let waiting = Waiting::new(1 << 20);
        let first = accept(&waiting, 0, "a");
        let gone = accept(&waiting, 0, "b");
        let third = accept(&waiting, 0, "c");
        drop(gone);
        waiting.complete(take_one(&waiting), conflict(), Runtime::now());
        assert_eq!(first.await.unwrap(), conflict());
        waiting.complete(take_one(&waiting), winner(), Runtime::now());
        assert_eq!(third.await.unwrap(), winner());
    }

    #[tokio::test]
    async fn a_caller_that_leaves_the_queue_lets_the_next_racer_go() {
        let waiting = Waiting::new(1 << 20);
        let first = accept(&waiting, 0, "a");
        let _second = accept(&waiting, 0, "b");
        drop(first);
        waiting.drop_unwanted(Runtime::now());
        take_one(&waiting);
    }

    #[tokio::test]
    async fn whoever_leaves_a_race_without_a_decision_frees_its_place() {
        let waiting = Waiting::new(1 << 20);
        let _first = accept(&waiting, 0, "a");
        let second = accept(&waiting, 0, "b");
        let _third = accept(&waiting, 0, "c");
        // The first is in the log of a leader without a majority: nothing is decided.
        let under_way = take_one(&waiting);
        drop(second);
        waiting.drop_unwanted(Runtime::now());
        assert_eq!(waiting.budget.used(), 200);
        waiting.complete(under_way, conflict(), Runtime::now());
        take_one(&waiting);
    }

    #[tokio::test]
    async fn a_refusal_does_not_undo_an_offer_that_came_before() {
        let waiting = Waiting::new(1 << 20);
        let _outcome = accept(&waiting, 0, "a");
        let mut pending = take_one(&waiting);
        pending.offer();
        pending.take_offer_back();
        assert!(!pending.may_be_logged());
        // Logged by a leader that is gone, then refused by one that is none.
        pending.offer();
        pending.offer();
        pending.take_offer_back();
        assert!(pending.may_be_logged());
    }

    #[tokio::test]
    async fn what_waits_is_bounded_and_the_bound_is_given_back() {
        let waiting = Waiting::new(250);
        let seal = Command::SealRound {
            round: 1,
            waited_ms: 0,
        };
        let _one = offer(&waiting, seal.clone(), Duration::from_secs(1));
        let _two = offer(&waiting, seal, Duration::from_secs(1));
        let error = waiting.budget.take(100).unwrap_err();
        assert!(matches!(
            error,
            ProposeError::Overloaded {
                limit: "QUEUE_BYTES",
                value: 250,
                ..
            }
        ));
        waiting.close(&ProposeError::Stopping);
        assert_eq!(waiting.budget.used(), 0);
        waiting.budget.take(1_000).unwrap();
    }

    #[tokio::test]
    async fn batches_keep_to_their_bounds_and_large_commands_go_alone() {
        let waiting = Waiting::new(1 << 20);
        let _outcomes: Vec<_> = (0..10).map(|shard| accept(&waiting, shard, "a")).collect();
        assert_eq!(waiting.queue.take(350, 10).len(), 3);
        assert_eq!(waiting.queue.take(1 << 20, 2).len(), 2);
        assert_eq!(waiting.queue.take(10, 10).len(), 1);
    }
}
