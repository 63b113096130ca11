//! Feeds: an executor never contradicts itself, across restarts too, sends a shard once on a connection, and what it says
//! is complete is.
//!
//! That feeds name the accepted winner is the agreement checker's matter.

use super::Finding;
use crate::history::{Entry, Kind, Op, WatchEvent};
use alloy_primitives::B256;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A shard on a connection: executor, its life, the connection, round, shard.
type Sent<'a> = (&'a str, u32, u64, u64, u32);

/// Checks every executor's feed.
pub fn check(history: &[Entry]) -> Vec<Finding> {
    let sealed = sealed(history);
    let mut findings = Vec::new();
    let mut blocks: HashMap<(&str, u64), (B256, u64)> = HashMap::new();
    let mut sent: HashMap<Sent<'_>, u64> = HashMap::new();
    // What came on a connection, by round: shards, and the block as `None`.
    let mut came: HashMap<u64, BTreeMap<u64, BTreeSet<Option<u32>>>> = HashMap::new();
    // The first round of each connection that no mark has covered.
    let mut unmarked: HashMap<u64, u64> = HashMap::new();
    for entry in history {
        let Op::Feed(feed) = &entry.op else { continue };
        let executor = feed.executor.as_str();
        if let Some((shard, _)) = feed.shard {
            // The subscriber is the process: each has a stream of its own.
            let key = (executor, feed.life, entry.process, feed.round, shard);
            if let Some(before) = sent.insert(key, entry.index) {
                findings.push(Finding::new(
                    "feed/repeat",
                    format!(
                        "{executor} sent round {} shard {shard} twice to one peer",
                        feed.round
                    ),
                    vec![before, entry.index],
                ));
            }
            let rounds = came.entry(entry.process).or_default();
            rounds.entry(feed.round).or_default().insert(Some(shard));
        }
        if let Some((hash, _)) = &feed.block {
            let (before, shown) = *blocks
                .entry((executor, feed.round))
                .or_insert((*hash, entry.index));
            if before != *hash {
                findings.push(Finding::new(
                    "feed/contradiction",
                    format!(
                        "{executor} sent block {before} for round {}, and later {hash}",
                        feed.round
                    ),
                    vec![shown, entry.index],
                ));
            }
            let rounds = came.entry(entry.process).or_default();
            rounds.entry(feed.round).or_default().insert(None);
        }
        if let Some((from, to)) = feed.complete {
            let rounds = came.entry(entry.process).or_default();
            let first = unmarked.entry(entry.process).or_insert(from);
            let unchecked = (*first, to);
            findings.extend(gap(executor, entry.index, unchecked, rounds, &sealed));
            // What has been checked needs not be checked again at the next mark.
            *rounds = rounds.split_off(&(to + 1));
            *first = (*first).max(to + 1);
        }
    }
    findings
}

/// Sealed rounds: how many shards they have, and an entry that shows it.
fn sealed(history: &[Entry]) -> BTreeMap<u64, (u32, u64)> {
    let mut sealed = BTreeMap::new();
    for entry in history.iter().filter(|e| e.kind == Kind::Ok) {
        if let Op::Watch(watch) = &entry.op
            && let WatchEvent::Sealed { round, shards, .. } = &watch.event
        {
            sealed
                .entry(*round)
                .or_insert((shards.len() as u32, entry.index));
        }
    }
    sealed
}

/// A sealed round, said to be complete, of which something did not come: all of it, perhaps.
fn gap(
    executor: &str,
    mark: u64,
    (from, to): (u64, u64),
    came: &BTreeMap<u64, BTreeSet<Option<u32>>>,
    sealed: &BTreeMap<u64, (u32, u64)>,
) -> Option<Finding> {
    if from > to {
        return None;
    }
    for (round, (shards, shown)) in sealed.range(from..=to) {
        let none = BTreeSet::new();
        let came = came.get(round).unwrap_or(&none);
        let wanted = (0..*shards).map(Some).chain([None]);
        if let Some(missing) = wanted.into_iter().find(|item| !came.contains(item)) {
            let what = missing.map_or("its block".to_owned(), |shard| format!("shard {shard}"));
            return Some(Finding::new(
                "feed/gap",
                format!(
                    "{executor} said that it had sent all of rounds {from} to {to}, but {what} of round {round} never came"
                ),
                vec![*shown, mark],
            ));
        }
    }
    None
}
