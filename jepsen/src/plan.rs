//! The schedule of a run: which operations each client does and which faults come, decided by the seed alone.
//!
//! Pure: what the system answers, and how fast, does not change it. A client's operation number `k` is the same in every
//! run of a seed, the round that it goes to is whichever is newest then; a fault's victims are the same, unless it goes for
//! the leader.

use crate::options::{Fault, Workload};
use crate::synthetic::Random;
use alloy_primitives::U256;
use std::time::Duration;

/// Contracts whose slots are written.
pub const CONTRACTS: u64 = 4;
/// Names that scripted clients submit under.
pub const EXECUTORS: [&str; 3] = ["a", "b", "c"];
/// Shortest and longest time without, and with, a fault, milliseconds.
const CALM_MS: (u64, u64) = (1_500, 4_000);
const FAULT_MS: (u64, u64) = (2_000, 6_000);

/// What a client does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// A new proposal.
    Submit,
    /// The last proposal again, perhaps to another member.
    Resubmit,
    /// The last proposal under another executor's name.
    Steal,
    /// Locks.
    Acquire,
    /// A read.
    Get,
    /// Seals the newest round.
    Seal,
    /// Opens a round.
    Open,
    /// Forgets old rounds.
    Prune,
    /// Opens the check of a block that nobody has made, and gives it up.
    Check,
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What.
    pub choice: Choice,
    /// Which member, modulo how many there are.
    pub member: u64,
    /// Which shard.
    pub shard: u32,
    /// How many rounds behind the newest.
    pub back: u64,
    /// Reads: ask the quorum.
    pub linearizable: bool,
    /// Under whose name, an index of [`EXECUTORS`].
    pub executor: usize,
    /// Slots that are written, or locked: (contract, key, value).
    pub slots: Vec<(u64, U256, U256)>,
    /// Makes proposals differ.
    pub nonce: u64,
    /// The pause afterwards, in thousandths of the usual one: clients must not march in step.
    pub pause: u64,
    /// If the round turns out to be closed, ask for the next one.
    pub reopen: bool,
}

/// A fault and when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedFault {
    /// Milliseconds without a fault before it.
    pub calm_ms: u64,
    /// Which.
    pub fault: Fault,
    /// Milliseconds that it lasts.
    pub lasts_ms: u64,
    /// Decides whom it strikes.
    pub choice: u64,
}

/// A generator for one purpose: the same for the same (seed, purpose, number), unlike any other.
pub fn random(seed: u64, purpose: &str, n: u64) -> Random {
    let mut mixed = Random::new(seed).bits();
    for byte in purpose.bytes() {
        mixed = Random::new(mixed ^ u64::from(byte)).bits();
    }
    Random::new(mixed ^ Random::new(n).bits())
}

fn weights(workload: Workload) -> [(Choice, u64); 9] {
    use Choice::{Acquire, Check, Get, Open, Prune, Resubmit, Seal, Steal, Submit};
    let [submit, again, steal, acquire, get, seal, open, prune, check] = match workload {
        Workload::Locks => [35, 5, 0, 40, 10, 6, 4, 0, 0],
        Workload::Read => [30, 5, 0, 0, 55, 6, 4, 0, 0],
        Workload::Retry => [20, 45, 15, 2, 8, 6, 4, 0, 5],
        Workload::Prune => [56, 8, 2, 6, 16, 6, 4, 2, 0],
        Workload::Watch => [60, 10, 0, 5, 15, 6, 4, 0, 5],
        Workload::Race | Workload::Broadcast | Workload::Transfer => [60, 10, 0, 5, 15, 6, 4, 0, 0],
    };
    [
        (Submit, submit),
        (Resubmit, again),
        (Steal, steal),
        (Acquire, acquire),
        (Get, get),
        (Seal, seal),
        (Open, open),
        (Prune, prune),
        (Check, check),
    ]
}

/// Operation number `k` of client number `client`.
pub fn operation(seed: u64, workload: Workload, shards: u32, client: u64, k: u64) -> Operation {
    let mut random = random(seed, "operation", (client << 40) + k);
    let weights = weights(workload);
    let mut at = random.below(weights.iter().map(|(_, w)| w).sum());
    let mut choice = Choice::Get;
    for (which, weight) in weights {
        if at < weight {
            choice = which;
            break;
        }
        at -= weight;
    }
    let shard = random.below(shards.into()) as u32;
    Operation {
        choice,
        member: random.bits(),
        shard,
        back: if random.one_in(6) { random.below(4) } else { 0 },
        linearizable: !random.one_in(4),
        executor: random.below(EXECUTORS.len() as u64) as usize,
        slots: slots(workload, shard, &mut random),
        nonce: (client << 40) + k,
        pause: 500 + random.below(1_000),
        reopen: random.one_in(4),
    }
}

/// Mostly slots of the shard's own, sometimes ones that other shards want too; the other way round where locks are the
/// matter.
fn slots(workload: Workload, shard: u32, random: &mut Random) -> Vec<(u64, U256, U256)> {
    let mut slots = Vec::new();
    for _ in 0..1 + random.below(3) {
        let contract = random.below(CONTRACTS);
        let rare = random.one_in(4);
        let shared = rare != (workload == Workload::Locks);
        let owner = if shared { 1 << 20 } else { u64::from(shard) };
        let key = U256::from(owner * 16 + random.below(3));
        slots.push((contract, key, U256::from(random.bits() | 1)));
    }
    slots
}

/// How many faults begin within a load of this length, however long they and the pauses between them last; at least one.
pub fn faults_in(load: Duration) -> usize {
    let each = CALM_MS.1 + FAULT_MS.1;
    let load = u64::try_from(load.as_millis()).unwrap_or(u64::MAX);
    // The last one only has to begin, with a second left to take hold in.
    let begun = load.saturating_add(FAULT_MS.1).saturating_sub(1_000) / each;
    usize::try_from(begun).unwrap_or(usize::MAX).max(1)
}

/// The faults of a run, without end. Every one comes once before any comes again.
pub struct Faults {
    random: Random,
    all: Vec<Fault>,
    bag: Vec<Fault>,
}

impl Faults {
    /// From those that the run was asked for.
    pub fn new(seed: u64, faults: &[Fault]) -> Self {
        let wanted = faults.iter().copied().filter(|f| *f != Fault::None);
        Self {
            random: random(seed, "faults", 0),
            all: wanted.collect(),
            bag: Vec::new(),
        }
    }
}

impl Iterator for Faults {
    type Item = PlannedFault;

    fn next(&mut self) -> Option<PlannedFault> {
        if self.all.is_empty() {
            return None;
        }
        if self.bag.is_empty() {
            self.bag.clone_from(&self.all);
        }
        let random = &mut self.random;
        let mut between = |(low, high): (u64, u64)| low + random.below(high - low);
        let (calm_ms, lasts_ms) = (between(CALM_MS), between(FAULT_MS));
        let at = self.random.below(self.bag.len() as u64) as usize;
        Some(PlannedFault {
            calm_ms,
            fault: self.bag.swap_remove(at),
            lasts_ms,
            choice: self.random.bits(),
        })
    }
}

/// `count` of `from`, without repetition.
pub fn pick<T: Copy>(random: &mut Random, from: &[T], count: usize) -> Vec<T> {
    let mut left = from.to_vec();
    let mut chosen = Vec::new();
    for _ in 0..count.min(from.len()) {
        let at = random.below(left.len() as u64) as usize;
        chosen.push(left.swap_remove(at));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operations(seed: u64) -> Vec<Operation> {
        let one = |n: u64| operation(seed, Workload::Race, 4, n % 5, n / 5);
        (0..500).map(one).collect()
    }

    #[test]
    fn a_seed_is_one_schedule() {
        assert_eq!(operations(7), operations(7));
        assert_ne!(operations(7), operations(8));
        let faults = [Fault::Kill, Fault::Pause, Fault::PartitionOne];
        let schedule = |seed| Faults::new(seed, &faults).take(50).collect::<Vec<_>>();
        assert_eq!(schedule(7), schedule(7));
        assert_ne!(schedule(7), schedule(8));
    }

    #[test]
    fn an_operation_does_not_depend_on_those_before_it() {
        let late = operation(7, Workload::Race, 4, 3, 1_000_000);
        assert_eq!(late, operation(7, Workload::Race, 4, 3, 1_000_000));
    }

    #[test]
    fn no_two_operations_are_one() {
        let mut nonces: Vec<u64> = operations(7).iter().map(|o| o.nonce).collect();
        nonces.sort_unstable();
        nonces.dedup();
        assert_eq!(nonces.len(), 500);
    }

    #[test]
    fn every_fault_comes_once_before_any_comes_again() {
        let faults = [Fault::Kill, Fault::Pause, Fault::PartitionOne];
        let schedule: Vec<Fault> = Faults::new(3, &faults).take(9).map(|p| p.fault).collect();
        for round in schedule.chunks(3) {
            let mut round = round.to_vec();
            round.sort();
            assert_eq!(round, faults);
        }
        assert_eq!(Faults::new(3, &[Fault::None]).next(), None);
    }
}
