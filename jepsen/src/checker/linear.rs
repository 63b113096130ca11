//! Linearizability of each (round, shard) as a write-once register, with porcupine.
//!
//! The search blows up where many outcomes are unknown, so a slot with more than [`MAX_UNKNOWN`] of them is left to the
//! revision checker, which needs no search. How many slots were left out, and why, is counted ([`Searched`]).

use super::{Facts, Finding, Slot};
use crate::history::{Entry, Kind, Op, Outcome};
use alloy_primitives::B256;
use alloy_primitives::map::HashMap;
use porcupine_rs::{CheckResult, Model, Operation, check_operations_timeout};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Most calls of unknown outcome that a slot may have for the search to be worth it.
const MAX_UNKNOWN: usize = 8;
/// Most calls of one slot.
const MAX_CALLS: usize = 400;
/// How long one slot's search may take.
const SEARCH_LIMIT: Duration = Duration::from_secs(5);
/// How long the fewest calls that show a violation are looked for.
const SHRINK_LIMIT: Duration = Duration::from_secs(10);

/// A call on a write-once register and what it answered.
#[derive(Clone, Debug)]
enum Call {
    /// Submitted `mine`; the register then held this.
    Decide { mine: B256, then: Option<B256> },
    /// A linearizable read.
    Read(Option<B256>),
    /// Sealed with the shard undecided: the register may have been filled.
    Fill(B256),
}

#[derive(Clone, Debug)]
struct Register;

impl Model for Register {
    type State = Option<B256>;
    type Op = Call;
    type Metadata = u64;

    fn init() -> Self::State {
        None
    }

    fn step(state: &Self::State, call: &Call) -> (bool, Self::State) {
        match call {
            // Of unknown outcome: decides if nothing was decided.
            Call::Decide { mine, then: None } => (true, state.or(Some(*mine))),
            Call::Decide {
                mine,
                then: Some(then),
            } => match state {
                Some(held) => (held == then, *state),
                None => (mine == then, Some(*mine)),
            },
            Call::Read(seen) => (seen == state, *state),
            Call::Fill(hash) => match state {
                Some(held) => (held == hash, *state),
                None => (true, Some(*hash)),
            },
        }
    }
}

/// Of how many slots it is known whether they are registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Searched {
    /// Slots with calls.
    pub slots: usize,
    /// Left out: too many calls of unknown outcome.
    pub unknown: usize,
    /// Left out: too many calls.
    pub large: usize,
    /// Given up: the search took too long.
    pub slow: usize,
}

impl Searched {
    /// Slots of which nothing is known.
    pub fn left_out(&self) -> usize {
        self.unknown + self.large + self.slow
    }
}

impl std::fmt::Display for Searched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} of {} shards not searched ({} with more than {MAX_UNKNOWN} unknown outcomes, {} with more than {MAX_CALLS} \
             calls, {} given up after {SEARCH_LIMIT:?})",
            self.left_out(),
            self.slots,
            self.unknown,
            self.large,
            self.slow
        )
    }
}

/// Checks every slot that enough is known about.
pub fn check(history: &[Entry], facts: &Facts<'_>) -> (Vec<Finding>, Searched) {
    let mut slots: BTreeMap<Slot, Vec<Operation<Register>>> = BTreeMap::new();
    let mut unknown: HashMap<Slot, usize> = HashMap::default();
    let mut open: HashMap<u64, (u64, Slot, B256)> = HashMap::default();
    let add = |slots: &mut BTreeMap<Slot, Vec<_>>, slot, from: u64, to: i64, op, entry| {
        slots.entry(slot).or_default().push(Operation {
            client_id: None,
            call_time: from as i64,
            return_time: to,
            op,
            metadata: Some(entry),
        });
    };
    for entry in history {
        let invoked = facts.invoked.get(&entry.index).copied();
        let to = entry.index as i64;
        match (&entry.op, entry.kind) {
            (Op::Submit(s), Kind::Invoke) => {
                open.insert(entry.process, (entry.index, (s.round, s.shard), s.hash));
            }
            (Op::Submit(s), Kind::Ok) => {
                open.remove(&entry.process);
                if let Some(Outcome::Winner { winner, .. }) = &s.outcome {
                    let call = if winner.executor.is_empty() {
                        Call::Fill(winner.hash)
                    } else if winner.hash == s.hash {
                        Call::Decide {
                            mine: s.hash,
                            then: Some(winner.hash),
                        }
                    } else {
                        Call::Read(Some(winner.hash))
                    };
                    let from = invoked.unwrap_or(entry.index);
                    add(&mut slots, (s.round, s.shard), from, to, call, entry.index);
                }
            }
            (Op::Submit(_), Kind::Fail) => {
                open.remove(&entry.process);
            }
            (Op::Get(g), Kind::Ok) if g.linearizable => {
                let Some(seen) = &g.seen else { continue };
                let from = invoked.unwrap_or(entry.index);
                for (shard, winner) in &seen.winners {
                    let call = if winner.executor.is_empty() {
                        Call::Fill(winner.hash)
                    } else {
                        Call::Read(Some(winner.hash))
                    };
                    add(&mut slots, (g.round, *shard), from, to, call, entry.index);
                }
                let known = facts.claims.range((g.round, 0)..=(g.round, u32::MAX));
                for (slot, _) in known {
                    if seen.winners.iter().all(|(shard, _)| *shard != slot.1) {
                        add(&mut slots, *slot, from, to, Call::Read(None), entry.index);
                    }
                }
            }
            _ => {}
        }
    }
    // What never completed may still take effect, at any later time.
    for (from, slot, mine) in open.into_values() {
        *unknown.entry(slot).or_default() += 1;
        let call = Call::Decide { mine, then: None };
        add(&mut slots, slot, from, i64::MAX, call, from);
    }
    let mut findings = Vec::new();
    let mut searched = Searched {
        slots: slots.len(),
        ..Searched::default()
    };
    for ((round, shard), calls) in slots {
        if trivially_linear(&calls) {
            continue;
        }
        let doubtful = unknown.get(&(round, shard)).copied().unwrap_or(0);
        if doubtful > MAX_UNKNOWN {
            searched.unknown += 1;
            continue;
        }
        if calls.len() > MAX_CALLS {
            searched.large += 1;
            continue;
        }
        match search(&calls) {
            CheckResult::Ok => {}
            CheckResult::Unknown => searched.slow += 1,
            CheckResult::Illegal => {
                let calls = smallest(calls);
                let entries = calls.iter().filter_map(|c| c.metadata).collect();
                findings.push(Finding::new(
                    "linear/register",
                    format!("round {round} shard {shard}: no order of these calls is that of a register that is set once"),
                    entries,
                ));
            }
        }
    }
    (findings, searched)
}

fn search(calls: &[Operation<Register>]) -> CheckResult {
    check_operations_timeout(calls, SEARCH_LIMIT)
}

fn illegal(calls: &[Operation<Register>]) -> bool {
    search(calls) == CheckResult::Illegal
}

/// The fewest of these calls that are still illegal together. The first call that sets a value which others read is kept:
/// without it the reads would be illegal for another reason.
fn smallest(mut calls: Vec<Operation<Register>>) -> Vec<Operation<Register>> {
    let started = Instant::now();
    let mut at = calls.len();
    while at > 0 && started.elapsed() < SHRINK_LIMIT {
        at -= 1;
        let sets = match calls[at].op {
            Call::Read(_) => None,
            Call::Decide { mine, .. } | Call::Fill(mine) => Some(mine),
        };
        let named = |c: &Operation<Register>| match c.op {
            Call::Read(seen) => seen,
            Call::Decide { then, .. } => then,
            Call::Fill(hash) => Some(hash),
        };
        let earlier = |c: &Operation<Register>| match c.op {
            Call::Decide { mine, .. } | Call::Fill(mine) => {
                Some(mine) == sets && c.call_time < calls[at].call_time
            }
            Call::Read(_) => false,
        };
        let others = || calls.iter().enumerate().filter(|(i, _)| *i != at);
        let needed = others().any(|(_, c)| named(c) == sets) && !others().any(|(_, c)| earlier(c));
        if sets.is_some() && needed {
            continue;
        }
        let without = calls.remove(at);
        if !illegal(&calls) {
            calls.insert(at, without);
        }
    }
    calls
}

/// True if there is a moment at which the register can have been set: every call names the one winner, some call that sets
/// it was asked before that moment, every read without a winner too, and no answer that names the winner came before it.
/// Then "reads without a winner, that call, all others" is a legal order and no search is needed. (Most slots.)
fn trivially_linear(calls: &[Operation<Register>]) -> bool {
    let mut winner = None;
    let mut first_answer = i64::MAX;
    let mut last_undecided = i64::MIN;
    for call in calls {
        let named = match &call.op {
            Call::Decide { then: None, .. } => continue,
            Call::Read(None) => {
                last_undecided = last_undecided.max(call.call_time);
                continue;
            }
            Call::Decide { then, .. } => *then,
            Call::Read(Some(hash)) | Call::Fill(hash) => Some(*hash),
        };
        if winner.is_some() && winner != named {
            return false;
        }
        winner = named;
        first_answer = first_answer.min(call.return_time);
    }
    let sets = |call: &&Operation<Register>| match call.op {
        Call::Decide { mine, .. } | Call::Fill(mine) => Some(mine) == winner,
        Call::Read(_) => false,
    };
    let first_set = calls.iter().filter(sets).map(|c| c.call_time).min();
    winner.is_none() || first_set.is_some_and(|set| set.max(last_undecided) <= first_answer)
}
