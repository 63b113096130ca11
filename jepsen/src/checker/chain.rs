//! The chain as users see it: equal states at equal log indices, money conserved, transactions included once.

use super::Finding;
use crate::history::{Entry, Kind, Op};
use alloy_primitives::B256;
use std::collections::HashMap;

/// Checks state hashes, balances and transfers.
pub fn check(history: &[Entry]) -> Vec<Finding> {
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
                            "at log index {} member {member} has state {hash}, member {} has {}",
                            s.log_index, s.member, s.hash
                        ),
                        vec![shown, entry.index],
                    ));
                }
            }
            Op::Balances(b) if b.total != b.expected => findings.push(Finding::new(
                "money/conserved",
                format!(
                    "at block {} the accounts hold {} wei, expected {}",
                    b.block, b.total, b.expected
                ),
                vec![entry.index],
            )),
            Op::Transfer(t) if t.places.len() > 1 => findings.push(Finding::new(
                "transfer/twice",
                format!("transaction {} is included {} times", t.tx, t.places.len()),
                vec![entry.index],
            )),
            _ => {}
        }
    }
    findings
}
