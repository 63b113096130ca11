//! Did the run test anything? Faults that did not bite prove nothing.

use crate::history::{Entry, Kind, NEMESIS, Op, Outcome};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

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
}

impl Coverage {
    /// Counts.
    pub fn of(history: &[Entry]) -> Self {
        let mut coverage = Self::default();
        let mut terms = BTreeSet::new();
        let mut decided = BTreeSet::new();
        for entry in history {
            if let Op::Nemesis(n) = &entry.op {
                if n.action == "install" {
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
            let (meta, outcome, slot) = match &entry.op {
                Op::Submit(s) => (s.meta, s.outcome.as_ref(), Some((s.round, s.shard))),
                Op::Acquire(a) => (a.meta, a.outcome.as_ref(), None),
                Op::Get(g) => (g.meta, None, None),
                Op::Open(o) => (o.meta, None, None),
                Op::Seal(s) => (s.meta, None, None),
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
        coverage
    }

    /// Why this run is not worth being called valid, if it is not.
    pub fn missing(&self, faults_asked_for: &[String]) -> Vec<String> {
        let mut missing = Vec::new();
        if self.ok == 0 {
            missing.push("no call succeeded".to_owned());
        }
        for fault in faults_asked_for {
            let installed = self.faults.get(&format!("{fault}: installed"));
            let skipped = self.faults.contains_key(&format!("{fault}: skipped"));
            if installed.is_none() && !skipped {
                missing.push(format!("the fault {fault} never took hold"));
            }
        }
        let bites = self.info + self.fail > 0 || self.terms > 1;
        let installed = self.faults.keys().any(|k| k.ends_with(": installed"));
        if installed && !bites {
            missing
                .push("no fault bit: no leader changed and no call failed or timed out".to_owned());
        }
        missing
    }
}
