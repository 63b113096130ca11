//! The chain as users see it: one chain, equal states at equal log indices, money conserved, transactions included once
//! and for good, no empty blocks while transactions wait.

use super::Finding;
use crate::history::{BlockSeen, Entry, Kind, Op};
use alloy_primitives::B256;
use std::collections::{BTreeMap, HashMap};

/// Checks state hashes, counts, blocks and transfers.
pub fn check(history: &[Entry]) -> Vec<Finding> {
    let mut findings = states_and_counts(history);
    let (blocks, forks) = one_chain(history);
    findings.extend(forks);
    findings.extend(transfers(history, &blocks));
    findings
}

fn states_and_counts(history: &[Entry]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut states: HashMap<u64, (u64, B256, u64)> = HashMap::new();
    for entry in history.iter().filter(|e| e.kind == Kind::Ok) {
        match &entry.op {
            Op::StateHash(s) => {
                let (member, hash, shown) =
                    *states
                        .entry(s.log_index)
                        .or_insert((s.member, s.hash, entry.index));
                if hash != s.hash {
                    findings.push(Finding::new(
                        "state/divergence",
                        format!(
                            "at log index {} member {member} has state {hash}, member {}{} has {}",
                            s.log_index,
                            s.member,
                            if s.from_disk { " (on its disk)" } else { "" },
                            s.hash
                        ),
                        vec![shown, entry.index],
                    ));
                }
            }
            Op::Balances(b) if b.total != b.expected => {
                let (rule, what) = match b.what.as_str() {
                    "money" => ("money/conserved", "the accounts hold wei"),
                    "diff" => (
                        "money/made",
                        "rises, fees and burned fees, against falls, in wei",
                    ),
                    _ => ("counter/lost-update", "the contract has counted calls"),
                };
                findings.push(Finding::new(
                    rule,
                    format!(
                        "at block {} {what}: {}, expected {}",
                        b.block, b.total, b.expected
                    ),
                    vec![entry.index],
                ));
            }
            _ => {}
        }
    }
    findings
}

/// Every member's blocks are one chain. Answers it: number -> (block, entry), with transactions where they were read.
fn one_chain(history: &[Entry]) -> (BTreeMap<u64, (&BlockSeen, u64)>, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut chain: BTreeMap<u64, (&BlockSeen, u64)> = BTreeMap::new();
    for entry in history {
        let Op::Block(block) = &entry.op else {
            continue;
        };
        match chain.get(&block.number).copied() {
            None => {
                chain.insert(block.number, (block, entry.index));
            }
            Some((first, shown)) if (first.hash, &first.shards) != (block.hash, &block.shards) => {
                findings.push(Finding::new(
                    "chain/fork",
                    format!(
                        "block {} is {} on member {} and {} on member {}",
                        block.number, first.hash, first.member, block.hash, block.member
                    ),
                    vec![shown, entry.index],
                ));
            }
            Some((first, _)) if first.transactions.is_none() && block.transactions.is_some() => {
                chain.insert(block.number, (block, entry.index));
            }
            Some(_) => {}
        }
    }
    let pairs = chain.values().zip(chain.values().skip(1));
    for ((parent, shown), (block, entry)) in pairs {
        if block.number == parent.number + 1 && block.parent != parent.hash {
            findings.push(Finding::new(
                "chain/broken",
                format!(
                    "block {} does not name block {} as its parent",
                    block.number, parent.number
                ),
                vec![*shown, *entry],
            ));
        }
    }
    (chain, findings)
}

/// Where transactions are: hash -> block number.
pub(super) fn places(chain: &BTreeMap<u64, (&BlockSeen, u64)>) -> HashMap<B256, (u64, u64)> {
    let mut places = HashMap::new();
    for (number, (block, entry)) in chain {
        for tx in block.transactions.iter().flatten() {
            places.entry(*tx).or_insert((*number, *entry));
        }
    }
    places
}

/// The chain, for other checkers.
pub(super) fn blocks(history: &[Entry]) -> BTreeMap<u64, (&BlockSeen, u64)> {
    one_chain(history).0
}

fn transfers(history: &[Entry], chain: &BTreeMap<u64, (&BlockSeen, u64)>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut first: HashMap<B256, (u64, u64)> = HashMap::new();
    for (number, (block, entry)) in chain {
        for tx in block.transactions.iter().flatten() {
            if let Some((before, shown)) = first.insert(*tx, (*number, *entry)) {
                findings.push(Finding::new(
                    "transfer/twice",
                    format!("transaction {tx} is in block {before} and again in block {number}"),
                    vec![shown, *entry],
                ));
            }
        }
    }
    let mut sent: HashMap<B256, u64> = HashMap::new();
    for entry in history {
        match &entry.op {
            Op::Transfer(t) if entry.kind == Kind::Invoke => {
                sent.entry(t.tx).or_insert(entry.index);
            }
            Op::Receipt(r) => {
                // A pruned block, or one that was not read, says nothing.
                let Some((block, shown)) = chain.get(&r.block) else {
                    continue;
                };
                let inside = block
                    .transactions
                    .as_ref()
                    .is_none_or(|t| t.contains(&r.tx));
                if block.hash != r.hash || !inside {
                    findings.push(Finding::new(
                        "transfer/lost",
                        format!(
                            "the gateway said that transaction {} is in block {} ({}); it is not",
                            r.tx, r.block, r.hash
                        ),
                        vec![entry.index, *shown],
                    ));
                }
            }
            _ => {}
        }
    }
    if !sent.is_empty() {
        for (tx, (number, entry)) in &first {
            if !sent.contains_key(tx) {
                findings.push(Finding::new(
                    "transfer/invented",
                    format!("transaction {tx} is in block {number}, but nobody sent it"),
                    vec![*entry],
                ));
            }
        }
    }
    findings
}
