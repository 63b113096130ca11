//! What a replay measures, as arithmetic on what happened. Pure.

use crate::execution::groups::{conflict_groups, least_critical_gas};
use crate::execution::sequential::Outcome;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use troika_proto::{B256, LockKey};

/// How a transaction ended: whether it succeeded, and its gas after refunds.
pub type Ending = (bool, u64);

/// The same block, executed in order by one executor.
#[derive(Clone, Debug)]
pub struct Sequential {
    /// In the block's order: the hash, and how it went.
    pub transactions: Vec<(B256, Outcome)>,
    /// What the original header says.
    pub header_gas: u64,
}

/// A sealed round: for every shard its transactions and what its diff locks.
#[derive(Clone, Debug, Default)]
pub struct SealedRound {
    /// In index order.
    pub shards: Vec<SealedShard>,
}

/// A shard of a sealed round.
#[derive(Clone, Debug, Default)]
pub struct SealedShard {
    /// In execution order.
    pub transactions: Vec<(B256, Ending)>,
    /// The diff's lock keys.
    pub keys: Vec<LockKey>,
}

impl SealedShard {
    fn gas(&self) -> u64 {
        self.transactions.iter().map(|(_, (_, gas))| gas).sum()
    }
}

/// The figures of one block, or of all together.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Transactions in the file.
    pub transactions: u64,
    /// Of them, those in a sealed block of the cluster.
    pub included: u64,
    /// Of them, those refused for good, with a reason.
    pub refused: u64,
    /// Rounds with at least one transaction.
    pub rounds: u64,
    /// Transactions that were not in the first of those rounds.
    pub deferred: u64,
    /// Their sequential gas.
    pub deferred_gas: u64,
    /// Proposals that were refused for a conflict.
    pub conflicts: u64,
    /// Transactions whose status or gas differs from sequential execution.
    pub outcomes_differ: u64,
    /// Gas used in the cluster's blocks.
    pub gas: u64,
    /// Gas used in sequential execution.
    pub sequential_gas: u64,
    /// Gas that the original header names.
    pub header_gas: u64,
    /// Sum over all rounds of the largest shard's gas.
    pub critical_gas: u64,
    /// Larger of the largest conflict group's gas and gas / shards: no schedule has a shorter critical path.
    pub bound_gas: u64,
    /// Keys held by two shards of one accepted block. Anything but zero is a broken promise.
    pub double_writes: u64,
    /// From the first transaction handed over to the last included, seconds.
    pub seconds: f64,
}

impl Figures {
    /// Compares what the cluster made with sequential execution. `refused` are transactions refused for good.
    pub fn of(sequential: &Sequential, rounds: &[SealedRound], refused: u64, shards: u32) -> Self {
        let transactions = &sequential.transactions;
        let expected: HashMap<B256, Ending> = transactions
            .iter()
            .map(|(hash, outcome)| (*hash, (outcome.success, outcome.gas)))
            .collect();
        let mut figures = Self {
            transactions: transactions.len() as u64,
            refused,
            sequential_gas: transactions.iter().map(|(_, o)| o.gas).sum(),
            header_gas: sequential.header_gas,
            ..Self::default()
        };
        let mut first: BTreeSet<B256> = BTreeSet::new();
        for round in rounds {
            let sealed = || round.shards.iter().flat_map(|s| &s.transactions);
            if sealed().next().is_none() {
                continue;
            }
            figures.rounds += 1;
            figures.double_writes += double_writes(round);
            figures.gas += round.shards.iter().map(SealedShard::gas).sum::<u64>();
            figures.critical_gas += round.shards.iter().map(SealedShard::gas).max().unwrap_or(0);
            for (hash, ending) in sealed() {
                let Some(sequential) = expected.get(hash) else {
                    continue;
                };
                figures.included += 1;
                figures.outcomes_differ += u64::from(sequential != ending);
                if figures.rounds == 1 {
                    first.insert(*hash);
                }
            }
        }
        for (hash, outcome) in transactions {
            if !first.contains(hash) {
                figures.deferred += 1;
                figures.deferred_gas += outcome.gas;
            }
        }
        let groups = conflict_groups(transactions.iter().map(|(_, o)| (&o.writes[..], o.gas)));
        figures.bound_gas = least_critical_gas(&groups, shards);
        figures
    }

    /// Adds another block's figures.
    pub fn add(&mut self, other: &Self) {
        self.transactions += other.transactions;
        self.included += other.included;
        self.refused += other.refused;
        self.rounds += other.rounds;
        self.deferred += other.deferred;
        self.deferred_gas += other.deferred_gas;
        self.conflicts += other.conflicts;
        self.outcomes_differ += other.outcomes_differ;
        self.gas += other.gas;
        self.sequential_gas += other.sequential_gas;
        self.header_gas += other.header_gas;
        self.critical_gas += other.critical_gas;
        self.bound_gas += other.bound_gas;
        self.double_writes += other.double_writes;
        self.seconds += other.seconds;
    }

    /// Total gas over the sum of every round's largest shard.
    pub fn parallelism(&self) -> f64 {
        ratio(self.gas, self.critical_gas)
    }

    /// What no schedule can exceed.
    pub fn parallelism_bound(&self) -> f64 {
        ratio(self.sequential_gas, self.bound_gas)
    }

    /// Share of the gas that was deferred from the first round, 0 to 1.
    pub fn deferred_share(&self) -> f64 {
        ratio(self.deferred_gas, self.sequential_gas)
    }

    /// Why the replay of this block counts as failed; empty where it does not.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.sequential_gas != self.header_gas {
            faults.push(format!(
                "sequential execution used {} gas, the header says {}",
                self.sequential_gas, self.header_gas
            ));
        }
        if self.included + self.refused != self.transactions {
            faults.push(format!(
                "{} transactions are neither included nor refused",
                self.transactions as i64 - (self.included + self.refused) as i64
            ));
        }
        if self.double_writes > 0 {
            faults.push(format!(
                "{} keys are held by two shards of an accepted block",
                self.double_writes
            ));
        }
        faults
    }
}

fn ratio(numerator: u64, denominator: u64) -> f64 {
    if denominator == 0 {
        return 0.0;
    }
    numerator as f64 / denominator as f64
}

/// Keys that stand in the diffs of two shards.
fn double_writes(round: &SealedRound) -> u64 {
    let mut holders: BTreeMap<LockKey, usize> = BTreeMap::new();
    let mut doubles = 0;
    for (index, shard) in round.shards.iter().enumerate() {
        for key in &shard.keys {
            if *holders.entry(*key).or_insert(index) != index {
                doubles += 1;
            }
        }
    }
    doubles
}

#[cfg(test)]
mod tests {
    use super::*;
    use troika_proto::Address;

    fn hash(n: u8) -> B256 {
        B256::repeat_byte(n)
    }

    fn key(n: u8) -> LockKey {
        LockKey::account(Address::repeat_byte(n))
    }

    /// Four transactions; 1 and 2 write one key, 2 and 3 another.
    fn sequential() -> Sequential {
        let transaction = |n, gas, keys: &[u8]| {
            let outcome = Outcome {
                success: true,
                gas,
                writes: keys.iter().map(|k| key(*k)).collect(),
            };
            (hash(n), outcome)
        };
        Sequential {
            transactions: vec![
                transaction(1, 100, &[1, 9]),
                transaction(2, 50, &[9, 8]),
                transaction(3, 30, &[8]),
                transaction(4, 60, &[4]),
            ],
            header_gas: 240,
        }
    }

    fn shard(transactions: &[(u8, u64)], keys: &[u8]) -> SealedShard {
        SealedShard {
            transactions: transactions
                .iter()
                .map(|(n, gas)| (hash(*n), (true, *gas)))
                .collect(),
            keys: keys.iter().map(|k| key(*k)).collect(),
        }
    }

    #[test]
    fn rounds_deferral_and_parallelism_are_counted_from_what_was_sealed() {
        let rounds = [
            SealedRound::default(),
            SealedRound {
                shards: vec![shard(&[(1, 100), (3, 30)], &[1]), shard(&[(4, 60)], &[4])],
            },
            SealedRound {
                shards: vec![shard(&[], &[]), shard(&[(2, 55)], &[9])],
            },
        ];
        let figures = Figures::of(&sequential(), &rounds, 0, 2);
        assert_eq!((figures.transactions, figures.included), (4, 4));
        assert_eq!(figures.rounds, 2, "an empty round is not counted");
        assert_eq!((figures.deferred, figures.deferred_gas), (1, 50));
        assert_eq!(
            figures.outcomes_differ, 1,
            "transaction 2 used 55 instead of 50"
        );
        assert_eq!((figures.gas, figures.sequential_gas), (245, 240));
        assert_eq!(figures.critical_gas, 130 + 55);
        assert_eq!(figures.bound_gas, 180, "1, 2 and 3 hang together");
        assert!((figures.parallelism() - 245.0 / 185.0).abs() < 1e-9);
        assert!((figures.parallelism_bound() - 240.0 / 180.0).abs() < 1e-9);
        assert_eq!(figures.faults(), Vec::<String>::new());
    }

    #[test]
    fn the_bound_is_the_even_share_where_nothing_hangs_together() {
        let mut sequential = sequential();
        for (_, outcome) in &mut sequential.transactions {
            outcome.writes.clear();
        }
        assert_eq!(Figures::of(&sequential, &[], 0, 2).bound_gas, 120);
    }

    #[test]
    fn a_key_in_two_shards_a_lost_transaction_and_wrong_gas_are_faults() {
        let rounds = [SealedRound {
            shards: vec![shard(&[(1, 100)], &[1, 5]), shard(&[(4, 60)], &[5])],
        }];
        let mut sequential = sequential();
        sequential.header_gas = 1;
        let figures = Figures::of(&sequential, &rounds, 1, 2);
        assert_eq!(figures.double_writes, 1);
        let faults = figures.faults().join("; ");
        assert!(faults.contains("1 transactions are neither"), "{faults}");
        assert!(faults.contains("held by two shards"), "{faults}");
        assert!(faults.contains("the header says 1"), "{faults}");
    }

    #[test]
    fn totals_add_up() {
        let mut total = Figures::default();
        let figures = Figures::of(&sequential(), &[], 4, 2);
        total.add(&figures);
        total.add(&figures);
        assert_eq!(total.refused, 8);
        assert_eq!(total.bound_gas, 2 * figures.bound_gas);
        assert!((total.parallelism_bound() - figures.parallelism_bound()).abs() < 1e-9);
    }
}
