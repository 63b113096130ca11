//! Feeds: an executor never contradicts itself, across restarts too, nor sends a shard twice in one life.
//!
//! That feeds name the accepted winner is the agreement checker's matter.

use super::Finding;
use crate::history::{Entry, Op};
use alloy_primitives::B256;
use std::collections::HashMap;

/// Checks every executor's feed.
pub fn check(history: &[Entry]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut blocks: HashMap<(&str, u64), (B256, u64)> = HashMap::new();
    let mut sent: HashMap<(&str, u32, u64, u64, u32), u64> = HashMap::new();
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
        }
    }
    findings
}
