//! The policies on real blocks, in a model of the rounds: what is deferred, and how parallel the rest is.

use super::*;
use crate::execution::mainnet::MainnetBlock;
use crate::execution::{Builder, MemoryView, Transaction};
use std::path::PathBuf;
use std::sync::Arc;
use troika_proto::{Diff, LockRule};

const SHARDS: u32 = 8;
const MAX_ROUNDS: usize = 64;

/// What a policy made of one or more blocks.
#[derive(Default)]
struct Measured {
    transactions: usize,
    gas: u64,
    deferred: usize,
    deferred_gas: u64,
    /// Gas of the largest shard of every round.
    critical: u64,
    rounds: usize,
    refused: usize,
}

impl Measured {
    fn add(&mut self, other: &Self) {
        self.transactions += other.transactions;
        self.gas += other.gas;
        self.deferred += other.deferred;
        self.deferred_gas += other.deferred_gas;
        self.critical += other.critical;
        self.rounds += other.rounds;
        self.refused += other.refused;
    }

    fn deferred_percent(&self) -> f64 {
        100.0 * self.deferred as f64 / self.transactions as f64
    }

    fn deferred_gas_percent(&self) -> f64 {
        100.0 * self.deferred_gas as f64 / self.gas as f64
    }

    fn parallelism(&self) -> f64 {
        self.gas as f64 / self.critical as f64
    }

    fn print(&self, name: &str) {
        println!(
            "{name:>32}: {:>5} transactions, {:>2} rounds, deferred {:>5.2}% and {:>5.2}% of gas, parallelism {:.2}, refused {}",
            self.transactions,
            self.rounds,
            self.deferred_percent(),
            self.deferred_gas_percent(),
            self.parallelism(),
            self.refused,
        );
    }
}

fn files() -> Vec<PathBuf> {
    let folder = std::env::var_os("TROIKA_MAINNET_BLOCKS").map(PathBuf::from);
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/mainnet-blocks");
    let folder = folder.unwrap_or_else(|| beside.into());
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("skipped: no mainnet blocks in {}", folder.display());
        return Vec::new();
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = paths
        .filter(|p| p.to_string_lossy().ends_with(".json.gz"))
        .collect();
    paths.sort();
    paths
}

/// Rounds until every transaction is in: shards run one after the other, a later one leaves out what an earlier holds.
fn replay(block: &MainnetBlock, policy: Policy, rule: LockRule, cap_percent: u32) -> Measured {
    let rules = block.rules(rule);
    let mut view: MemoryView = block.view();
    let mut pending: Vec<Arc<Transaction>> = block.transactions.clone();
    let mut measured = Measured {
        transactions: pending.len(),
        ..Measured::default()
    };
    while !pending.is_empty() && measured.rounds < MAX_ROUNDS {
        let history = History::new();
        let estimates = estimate::simulated(
            &rules,
            &block.environment,
            &view,
            &pending,
            &history,
            || true,
        );
        let assigned = policy(&Pending {
            transactions: &estimates,
            shards: SHARDS,
            cap_percent,
            cap_floor_gas: 0,
            occupied: &Occupied::default(),
        });
        let mut held: HashMap<LockKey, u32> = HashMap::new();
        let mut merged = Diff::default();
        let (mut fees, mut largest) = (troika_proto::U256::ZERO, 0);
        let mut left = Vec::new();
        for shard in 0..SHARDS {
            let mut builder = Builder::new(rules.clone(), block.environment.clone(), &view);
            builder.bar(held.keys().copied());
            for (tx, _) in pending.iter().zip(&assigned).filter(|(_, s)| **s == shard) {
                if !builder.push(tx).expect("in memory").is_included() {
                    left.push(tx.hash);
                }
            }
            let diff = builder.diff();
            held.extend(diff.lock_keys(rule).into_iter().map(|key| (key, shard)));
            merged.merge(&diff).expect("what others hold was left out");
            fees += builder.fees();
            largest = largest.max(builder.gas_used());
            measured.gas += builder.gas_used();
            if measured.rounds > 0 {
                measured.deferred_gas += builder.gas_used();
            }
        }
        view.apply(&merged).expect("balances fit");
        view.credit(block.environment.beneficiary, fees)
            .expect("balances fit");
        measured.critical += largest;
        measured.rounds += 1;
        if left.len() == pending.len() {
            break;
        }
        pending.retain(|tx| left.contains(&tx.hash));
        if measured.rounds == 1 {
            measured.deferred = pending.len();
        }
    }
    measured.refused = pending.len();
    measured
}

#[test]
fn few_transactions_of_real_blocks_are_deferred_and_the_rest_is_parallel() {
    let files = files();
    if files.is_empty() {
        return;
    }
    let blocks: Vec<MainnetBlock> = files
        .iter()
        .map(|f| MainnetBlock::read(f).unwrap())
        .collect();
    let mut writes = Measured::default();
    for (file, block) in files.iter().zip(&blocks) {
        let measured = replay(block, by_writes, LockRule::Commuting, DEFAULT_CAP_PERCENT);
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        measured.print(&name);
        writes.add(&measured);
    }
    writes.print("by writes, in all");
    for (name, policy) in [
        ("by components", by_components as Policy),
        ("by sender", by_sender),
    ] {
        let mut total = Measured::default();
        for block in &blocks {
            total.add(&replay(
                block,
                policy,
                LockRule::Commuting,
                DEFAULT_CAP_PERCENT,
            ));
        }
        total.print(name);
    }
    assert_eq!(
        writes.refused, 0,
        "every transaction is included in the end"
    );
    assert!(
        writes.deferred_percent() <= 3.0,
        "transactions deferred from the first round"
    );
    assert!(
        writes.deferred_gas_percent() <= 5.0,
        "gas deferred from the first round"
    );
    assert!(writes.parallelism() >= 3.5);
}
