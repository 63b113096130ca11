//! Did the run test anything? Faults that did not bite prove nothing.

use crate::history::{Entry, Kind, NEMESIS, Nemesis, Op, Outcome, WatchEvent};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What shows that a fault had its effect: a count of its own, and words for its absence. See `Nemesis::effects`.
fn proof(fault: &str) -> Option<(&'static str, &'static str)> {
    Some(match fault {
        "kill" | "kill-leader" | "kill-all" | "power-cut" | "power-cut-all" | "rolling-restart"
        | "bit-flip" | "truncate" | "wipe" | "membership" | "kill-executor" | "kill-executors"
        | "kill-gateway" => ("starts", "no process was started again"),
        "partition-one"
        | "partition-leader"
        | "partition-majority"
        | "partition-ring"
        | "partition-bridge"
        | "partition-one-way"
        | "executors-from-store"
        | "gateway-from-executors"
        | "loss" => ("dropped", "no packet was dropped"),
        "delay" => ("held", "no packet was held back"),
        "pause" | "pause-executor" => ("stood", "no process stood still"),
        "clock" => ("clock", "no member's clock was off"),
        "disk-full" | "disk-error" | "slow-disk" => ("injected", "no system call was struck"),
        // Several at once: any of it.
        _ => return None,
    })
}

/// What a run did, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// Calls that were answered.
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
    /// Packets that were dropped or held back.
    #[serde(default)]
    pub held_up: u64,
    /// What each fault was seen to do, of its own kind: `loss` -> packets dropped.
    #[serde(default)]
    pub effects: BTreeMap<String, u64>,
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
        let mut called = BTreeSet::new();
        for entry in history {
            if let Op::Nemesis(n) = &entry.op {
                coverage.note_fault(n);
                continue;
            }
            if entry.process == NEMESIS {
                continue;
            }
            // What was seen without having been asked for is no call.
            if entry.kind == Kind::Invoke {
                called.insert(entry.process);
            } else if called.remove(&entry.process) {
                match entry.kind {
                    Kind::Fail => coverage.fail += 1,
                    Kind::Info => coverage.info += 1,
                    _ => coverage.ok += 1,
                }
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
                Op::Seal(s) | Op::Void(s) => (s.meta, None, None),
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

    fn note_fault(&mut self, n: &Nemesis) {
        if n.action == "install" || n.result == "failed" {
            let what = match n.action.as_str() {
                "install" => n.result.clone(),
                action => format!("{action} {}", n.result),
            };
            *self
                .faults
                .entry(format!("{}: {what}", n.fault))
                .or_default() += 1;
        }
        let count = |name: &str| n.effects.get(name).copied().unwrap_or(0);
        self.restarts += count("starts");
        self.held_up += count("dropped") + count("held");
        let own = match proof(&n.fault) {
            Some((name, _)) => count(name),
            None => n.effects.values().sum(),
        };
        if own > 0 {
            *self.effects.entry(n.fault.clone()).or_default() += own;
        }
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
            let installed = self.faults.contains_key(&format!("{fault}: installed"));
            let skipped = self.faults.contains_key(&format!("{fault}: skipped"));
            possible += u32::from(installed || !skipped);
            if !installed && !skipped {
                missing.push(format!("the fault {fault} never took hold"));
            }
            if installed && !self.effects.contains_key(fault) {
                let why = proof(fault).map_or("nothing came of it", |(_, why)| why);
                missing.push(format!("the fault {fault} did not bite: {why}"));
            }
        }
        if possible == 0 && !faults_asked_for.is_empty() {
            missing.push("this machine can do none of the faults".to_owned());
        }
        for (fault, count) in self.faults.iter().filter(|(f, _)| f.ends_with("failed")) {
            missing.push(format!(
                "a fault could not be brought about or undone: {fault} x{count}"
            ));
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Fault;
    use clap::ValueEnum;

    #[test]
    fn every_fault_but_the_mixture_has_a_proof_of_its_own() {
        let without = Fault::value_variants()
            .iter()
            .filter(|f| proof(&f.name()).is_none());
        let without: Vec<&Fault> = without.collect();
        assert_eq!(without, [&Fault::None, &Fault::AllAtOnce]);
    }
}
