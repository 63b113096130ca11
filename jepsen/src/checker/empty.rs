//! No empty blocks while transactions wait and executors live.
//!
//! A sealed round without gas is a finding if, well before it was opened, the gateway had taken a transaction whose turn
//! it was, and which came to be included only later. What excuses it is a fault in force (or just lifted) that keeps
//! executors, as a whole, from working. The loss of some executors excuses nothing: that is what the others are for.

use super::Finding;
use super::chain::{blocks, places};
use crate::history::{Entry, Kind, NEMESIS, Op, Transfer, WatchEvent};
use alloy_primitives::B256;
use std::collections::{BTreeMap, HashMap};

/// How long before the opening the gateway must have had the transaction, nanoseconds: it hands it to the executors at
/// once, but the machine may be busy.
const SLACK: u64 = 2_500_000_000;
/// How long after a fault the executors may take to find their way back, nanoseconds.
const GRACE: u64 = 8_000_000_000;
/// Faults that some executors survive.
const SURVIVED: [&str; 4] = [
    "kill-executor",
    "pause-executor",
    "executors-from-store",
    "gateway-from-executors",
];

/// Checks every sealed round that used no gas.
pub fn check(history: &[Entry]) -> Vec<Finding> {
    let chain = blocks(history);
    let places = places(&chain);
    if places.is_empty() {
        return Vec::new();
    }
    let number_of: HashMap<u64, u64> = chain.values().map(|(b, _)| (b.round, b.number)).collect();
    let taken = taken(history);
    let turns = turns(&taken, &places);
    let excused = excuses(history);
    let mut opened: HashMap<u64, u64> = HashMap::new();
    let mut findings = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for entry in history {
        let Op::Watch(watch) = &entry.op else {
            continue;
        };
        match &watch.event {
            WatchEvent::Opened { round } => {
                opened.entry(*round).or_insert(entry.time);
            }
            WatchEvent::Sealed { round, gas: 0, .. } if seen.insert(*round) => {
                let (Some(from), Some(number)) = (opened.get(round), number_of.get(round)) else {
                    continue;
                };
                if excused
                    .iter()
                    .any(|(a, b)| *a <= entry.time && *from <= b + GRACE)
                {
                    continue;
                }
                if let Some((tx, shown)) = waiting(&turns, from.saturating_sub(SLACK), *number) {
                    findings.push(Finding::new(
                        "empty/waiting",
                        format!(
                            "block {number} (round {round}) is empty, but the gateway had taken transaction {tx} {:.1} s before the \
                             round was opened, and executors lived",
                            (from - taken[&tx].1) as f64 / 1e9
                        ),
                        vec![shown, entry.index],
                    ));
                }
            }
            _ => {}
        }
    }
    findings
}

/// Transactions that the gateway took: hash -> (call, first time, entry).
fn taken(history: &[Entry]) -> BTreeMap<B256, (&Transfer, u64, u64)> {
    let mut taken = BTreeMap::new();
    for entry in history.iter().filter(|e| e.kind == Kind::Ok) {
        if let Op::Transfer(t) = &entry.op {
            taken.entry(t.tx).or_insert((t, entry.time, entry.index));
        }
    }
    taken
}

/// A transaction that waited: when it was taken, from which block on it was its turn, in which it was included.
struct Turn {
    tx: B256,
    taken: u64,
    entry: u64,
    after: u64,
    included: u64,
}

fn turns(
    taken: &BTreeMap<B256, (&Transfer, u64, u64)>,
    places: &HashMap<B256, (u64, u64)>,
) -> Vec<Turn> {
    let by_nonce: HashMap<(u32, u64), B256> = taken
        .iter()
        .map(|(tx, (t, ..))| ((t.sender, t.nonce), *tx))
        .collect();
    let mut turns = Vec::new();
    for (tx, (t, time, entry)) in taken {
        let Some((included, _)) = places.get(tx) else {
            continue;
        };
        let after = match t.nonce.checked_sub(1) {
            None => Some(0),
            Some(before) => by_nonce
                .get(&(t.sender, before))
                .and_then(|tx| places.get(tx))
                .map(|p| p.0),
        };
        let Some(after) = after else { continue };
        turns.push(Turn {
            tx: *tx,
            taken: *time,
            entry: *entry,
            after,
            included: *included,
        });
    }
    turns.sort_by_key(|t| t.taken);
    turns
}

/// A transaction that was there by `time`, could have been in block `number`, and was not.
fn waiting(turns: &[Turn], time: u64, number: u64) -> Option<(B256, u64)> {
    let there = turns.iter().take_while(|t| t.taken <= time);
    let mut waited = there.filter(|t| t.after < number && number < t.included);
    waited.next().map(|t| (t.tx, t.entry))
}

/// Times at which executors as a whole were kept from working, or the gateway may have lost what it had taken.
fn excuses(history: &[Entry]) -> Vec<(u64, u64)> {
    let mut excuses: Vec<(String, u64, u64)> = Vec::new();
    // The load has ended, and with it what is promised here: what follows is sent again in bulk.
    let end = history.last().map_or(0, |e| e.time);
    for entry in history.iter().filter(|e| e.process == NEMESIS) {
        let Op::Nemesis(n) = &entry.op else { continue };
        if SURVIVED.contains(&n.fault.as_str()) {
            continue;
        }
        if n.action == "install" {
            // One that was skipped did nothing; one that failed may have done a part, until that was undone.
            if n.result != "skipped" {
                let begun = if n.since == 0 { entry.time } else { n.since };
                excuses.push((n.fault.clone(), begun, end));
            }
        } else if let Some(open) = excuses.iter_mut().rev().find(|e| e.0 == n.fault) {
            open.2 = entry.time;
        }
    }
    excuses
        .into_iter()
        .map(|(_, from, to)| (from, to))
        .collect()
}
