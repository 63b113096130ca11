//! Where commands wait, and the race for one shard.
//!
//! A [`Pending`] is in exactly one place: the [`Queue`], a log entry or forwarded message under way, or behind another
//! one of the same shard in [`Races`]. It ends in [`Waiting::complete`], which tells its caller and lets the next racer
//! go.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::error::ProposeError;
use super::pending::{Budget, Outcome, Pending, Proposed, Slot, lock};
use crate::runtime::Instant;
use crate::state::{Answer, Command, Decision};

/// Commands that wait to be logged or forwarded, first in, first out.
#[derive(Debug, Default)]
pub struct Queue {
    commands: Mutex<VecDeque<Pending>>,
    /// How many must wait before anybody is told.
    wanted: AtomicUsize,
    more: Notify,
}

impl Queue {
    /// Puts a command at the end.
    pub fn push(&self, pending: Pending) {
        let waiting = {
            let mut commands = lock(&self.commands);
            commands.push_back(pending);
            commands.len()
        };
        if waiting >= self.wanted.load(Ordering::Relaxed) {
            self.more.notify_one();
        }
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
        self.holds(1).await;
    }

    /// Ready when so many wait. One caller at a time: what it wants is what it is told of.
    pub async fn holds(&self, wanted: usize) {
        self.wanted.store(wanted, Ordering::Relaxed);
        // Looked at after that, so that a push in between is either seen here or tells.
        while lock(&self.commands).len() < wanted {
            self.more.notified().await;
        }
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        lock(&self.commands).is_empty()
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

    use tokio::sync::oneshot;

    use super::super::pending::{Caller, Work};
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

    #[tokio::test(start_paused = true)]
    async fn whoever_wants_several_commands_is_told_when_they_are_there() {
        let waiting = Arc::new(Waiting::new(1 << 20));
        let (queued, waits) = (waiting.clone(), Duration::from_secs(1));
        let three = Runtime::spawn(async move { queued.queue.holds(3).await });
        let _two: Vec<_> = (0..2).map(|shard| accept(&waiting, shard, "a")).collect();
        Runtime::sleep(waits).await;
        assert!(!three.is_finished());
        let _third = accept(&waiting, 2, "a");
        three.await.unwrap();
        // One that gave up leaves nothing behind: the next who comes is told of one.
        assert!(
            Runtime::timeout(waits, waiting.queue.holds(9))
                .await
                .is_err()
        );
        assert_eq!(waiting.queue.take(1 << 20, 10).len(), 3);
        let queued = waiting.clone();
        let one = Runtime::spawn(async move { queued.queue.ready().await });
        Runtime::sleep(waits).await;
        let _fourth = accept(&waiting, 3, "a");
        one.await.unwrap();
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
