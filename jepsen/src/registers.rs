//! A history as independent registers, in the form that outside checkers have models for.
//!
//! Every (round, shard) is a register that begins as nil and is set once. A submission that won, or of which nobody knows,
//! is a compare-and-set from nil to its hash; one that lost is a read of the winner; a read is a read. What
//! sealing fills in is a compare-and-set of unknown time. That is Knossos' `cas-register`, and a few lines for Porcupine.

use crate::checker::{Facts, Slot};
use crate::history::{Entry, Kind, Op, Outcome};
use alloy_primitives::B256;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

/// Processes of what sealing filled in: beyond those of clients.
const FILLERS: u64 = 1 << 40;

#[derive(Clone, Copy)]
enum Action {
    Set(B256),
    Read(Option<B256>),
}

/// A call on one register, by the indices of the entries where it began and ended.
struct Call {
    process: u64,
    from: u64,
    to: Option<u64>,
    action: Action,
}

/// All registers as EDN, one map a line, those of a register in order.
pub fn edn(history: &[Entry]) -> String {
    let mut out = String::new();
    for ((round, shard), calls) in registers(history) {
        let mut lines: Vec<(u64, String)> = Vec::new();
        for call in calls {
            let (f, value) = match call.action {
                Action::Set(hash) => (":cas", format!("[nil \"{hash}\"]")),
                Action::Read(None) => (":read", "nil".to_owned()),
                Action::Read(Some(hash)) => (":read", format!("\"{hash}\"")),
            };
            let mut line = |index: u64, kind: &str| {
                let mut text = String::new();
                let _ = write!(
                    text,
                    "{{:index {index}, :process {}, :type {kind}, :f {f}, :value {value}, :key \"{round}/{shard}\"}}",
                    call.process
                );
                lines.push((index, text));
            };
            line(call.from, ":invoke");
            if let Some(to) = call.to {
                line(to, ":ok");
            }
        }
        lines.sort();
        for (_, line) in lines {
            out.push_str(&line);
            out.push('\n');
        }
    }
    out
}

fn registers(history: &[Entry]) -> BTreeMap<Slot, Vec<Call>> {
    let facts = Facts::of(history);
    let mut registers: BTreeMap<Slot, Vec<Call>> = BTreeMap::new();
    let mut filled: BTreeMap<Slot, BTreeSet<B256>> = BTreeMap::new();
    let mut open: HashMap<u64, (u64, Slot, B256)> = HashMap::new();
    for entry in history {
        let from = facts
            .invoked
            .get(&entry.index)
            .copied()
            .unwrap_or(entry.index);
        let mut add = |slot: Slot, action: Action| {
            registers.entry(slot).or_default().push(Call {
                process: entry.process,
                from,
                to: Some(entry.index),
                action,
            });
        };
        match (&entry.op, entry.kind) {
            (Op::Submit(s), Kind::Invoke) => {
                open.insert(entry.process, (entry.index, (s.round, s.shard), s.hash));
            }
            (Op::Submit(s), Kind::Ok) => {
                open.remove(&entry.process);
                let Some(Outcome::Winner { winner, .. }) = &s.outcome else {
                    continue;
                };
                let slot = (s.round, s.shard);
                if winner.executor.is_empty() {
                    filled.entry(slot).or_default().insert(winner.hash);
                }
                let won = winner.hash == s.hash;
                add(
                    slot,
                    if won {
                        Action::Set(s.hash)
                    } else {
                        Action::Read(Some(winner.hash))
                    },
                );
            }
            (Op::Submit(_), Kind::Fail) => {
                open.remove(&entry.process);
            }
            (Op::Get(g), Kind::Ok) => {
                let Some(seen) = &g.seen else { continue };
                for (slot, _) in facts.claims.range((g.round, 0)..=(g.round, u32::MAX)) {
                    let winner = seen
                        .winners
                        .iter()
                        .find(|(shard, _)| *shard == slot.1)
                        .map(|(_, w)| w);
                    if let Some(winner) = winner.filter(|w| w.executor.is_empty()) {
                        filled.entry(*slot).or_default().insert(winner.hash);
                    }
                    // Any member may tell a winner; that there is none yet, only one that has asked the quorum.
                    if winner.is_some() || g.linearizable {
                        add(*slot, Action::Read(winner.map(|w| w.hash)));
                    }
                }
            }
            _ => {}
        }
    }
    for (process, (from, slot, mine)) in open {
        let calls = registers.entry(slot).or_default();
        calls.push(Call {
            process,
            from,
            to: None,
            action: Action::Set(mine),
        });
    }
    for (slot, hashes) in filled {
        for (n, hash) in hashes.into_iter().enumerate() {
            let calls = registers.entry(slot).or_default();
            let process = FILLERS + n as u64;
            calls.push(Call {
                process,
                from: 0,
                to: None,
                action: Action::Set(hash),
            });
        }
    }
    registers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{Size, clean};

    #[test]
    fn every_completion_follows_its_invoke_and_a_won_race_is_set_once() {
        let size = Size {
            entries: 2_000,
            clients: 6,
            shards: 3,
        };
        let text = edn(&clean(3, size));
        let mut open: HashMap<(String, String), String> = HashMap::new();
        let mut set: HashMap<String, BTreeSet<String>> = HashMap::new();
        let field = |line: &str, name: &str| {
            let rest = line.split_once(&format!(":{name} ")).expect("has it").1;
            rest.split([',', '}']).next().expect("a value").to_owned()
        };
        let mut completions = 0;
        for line in text.lines() {
            let who = (field(line, "key"), field(line, "process"));
            let what = format!("{}{}", field(line, "f"), field(line, "value"));
            if field(line, "type") == ":invoke" {
                assert_eq!(open.insert(who, what), None, "{line}");
            } else {
                assert_eq!(open.remove(&who), Some(what.clone()), "{line}");
                completions += 1;
                if what.starts_with(":cas") {
                    set.entry(who.0).or_default().insert(what);
                }
            }
        }
        assert!(completions > 300, "{completions}");
        assert!(set.values().all(|values| values.len() == 1));
    }
}
