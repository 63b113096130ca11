//! Did the run test anything? Faults that did not bite prove nothing.

use crate::history::{Entry, Kind, NEMESIS, Op, Outcome, WatchEvent};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Faults after which processes are started again.
const RESTARTS: [&str; 15] = [
    "kill",
    "kill-leader",
    "kill-all",
    "power-cut",
    "power-cut-all",
    "rolling-restart",
    "disk-full",
    "disk-error",
    "bit-flip",
    "truncate",
    "wipe",
    "membership",
    "kill-executor",
    "kill-executors",
    "kill-gateway",
];
/// Faults that hold messages or processes up.
const HOLDS_UP: [&str; 10] = [
    "pause",
    "partition-one",
    "partition-leader",
    "partition-majority",
    "partition-ring",
    "partition-bridge",
    "partition-one-way",
    "loss",
    "delay",
    "pause-executor",
];
/// Faults that a correct system need not show to its clients: that nothing was seen of them is no lack.
const QUIET: [&str; 6] = [
    "clock",
    "slow-disk",
    "delay",
    "pause-executor",
    "executors-from-store",
    "gateway-from-executors",
];

/// What a run did, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// Calls by what became of them.
    pub ok: u64,
    /// Calls that provably had no effect.
    pub fail: u64,
    /// Calls of unknown outcome.
    pub info: u64,
    /// Faults by what became of them: `kill: installed` -> 3.
    pub faults: BTreeMap<String, u64>,
    /// Terms that replies carried: more than one means that a leader changed.
    pub terms: u64,
    /// Submissions that were told of another winner.
    pub lost_races: u64,
    /// Submissions and acquisitions that met a conflict.
    pub conflicts: u64,
    /// Slots that were decided.
    pub decided: u64,
    /// Processes that were started again, or members that were replaced.
    #[serde(default)]
    pub restarts: u64,
    /// Packets or processes that were held up: faults that lose, delay or pause.
    #[serde(default)]
    pub held_up: u64,
    /// Blocks that were read after the heal.
    #[serde(default)]
    pub blocks: u64,
    /// Transactions in them.
    #[serde(default)]
    pub transactions: u64,
}

impl Coverage {
    /// Counts.
    pub fn of(history: &[Entry]) -> Self {
        let mut coverage = Self::default();
        let mut terms = BTreeSet::new();
        let mut decided = BTreeSet::new();
        let mut blocks = BTreeSet::new();
        for entry in history {
            if let Op::Nemesis(n) = &entry.op {
                if n.action == "install" {
                    if n.result == "installed" {
                        let restarts = RESTARTS.contains(&n.fault.as_str());
                        coverage.restarts += if restarts { n.targets.len() as u64 } else { 0 };
                        coverage.held_up += u64::from(HOLDS_UP.contains(&n.fault.as_str()));
                    }
                    *coverage
                        .faults
                        .entry(format!("{}: {}", n.fault, n.result))
                        .or_default() += 1;
                }
                continue;
            }
            if entry.process == NEMESIS {
                continue;
            }
            match entry.kind {
                Kind::Invoke => {}
                Kind::Ok => coverage.ok += 1,
                Kind::Fail => coverage.fail += 1,
                Kind::Info => coverage.info += 1,
            }
            if let Op::Block(block) = &entry.op {
                blocks.insert(block.number);
                coverage.transactions += block.transactions.as_ref().map_or(0, Vec::len) as u64;
            }
            let (meta, outcome, slot) = match &entry.op {
                Op::Submit(s) => (s.meta, s.outcome.as_ref(), Some((s.round, s.shard))),
                Op::Watch(w) => {
                    if let WatchEvent::Accepted { round, shard, .. } = &w.event {
                        decided.insert((*round, *shard));
                    }
                    (None, None, None)
                }
                Op::Acquire(a) => (a.meta, a.outcome.as_ref(), None),
                Op::Get(g) => (g.meta, None, None),
                Op::Open(o) => (o.meta, None, None),
                Op::Seal(s) => (s.meta, None, None),
                Op::StateHash(s) => (s.meta, None, None),
                _ => (None, None, None),
            };
            terms.extend(meta.map(|m| m.term));
            match outcome {
                Some(Outcome::Winner { won, .. }) => {
                    coverage.lost_races += u64::from(!won);
                    decided.extend(slot);
                }
                Some(Outcome::Conflict(_)) => coverage.conflicts += 1,
                _ => {}
            }
        }
        coverage.terms = terms.len() as u64;
        coverage.decided = decided.len() as u64;
        coverage.blocks = blocks.len() as u64;
        coverage
    }

    /// Why this run is not worth being called valid, if it is not.
    pub fn missing(&self, faults_asked_for: &[String]) -> Vec<String> {
        let mut missing = Vec::new();
        if self.ok == 0 {
            missing.push("no call succeeded".to_owned());
        }
        if self.decided == 0 {
            missing.push("nothing was decided".to_owned());
        }
        let mut possible = 0;
        for fault in faults_asked_for {
            let installed = self.faults.get(&format!("{fault}: installed"));
            let skipped = self.faults.contains_key(&format!("{fault}: skipped"));
            possible += u32::from(!skipped);
            if installed.is_none() && !skipped {
                missing.push(format!("the fault {fault} never took hold"));
            }
        }
        if possible == 0 && !faults_asked_for.is_empty() {
            missing.push("this machine can do none of the faults".to_owned());
        }
        let bites = self.info + self.fail + self.restarts > 0 || self.terms > 1;
        let installed = self.faults.keys().any(|k| k.ends_with(": installed"));
        let silent = faults_asked_for.iter().all(|f| QUIET.contains(&f.as_str()));
        if installed && !bites && !silent {
            missing.push(
                "no fault bit: no leader changed, nothing was restarted, no call failed or timed out"
                    .to_owned(),
            );
        }
        missing
    }
}
