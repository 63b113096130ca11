//! The state on the stopped members' disks, at one log index, computed by `troika-store inspect`.

use crate::checker::Finding;
use crate::cluster::Cluster;
use crate::history::{NEMESIS, Op, StateHash};
use crate::workload::Shared;
use alloy_primitives::B256;
use std::collections::BTreeMap;

/// What a data directory can tell of.
#[derive(Clone, Copy, Debug)]
struct Reach {
    /// Index of its checkpoint: nothing older can be computed.
    checkpoint: u64,
    /// The newest index that it knows to be committed: what its log has beyond may never have been.
    committed: u64,
}

/// Records the state of every member that reaches one common log index. Says what could not be compared.
pub fn compare(shared: &Shared, cluster: &Cluster) -> Option<String> {
    let mut reach = BTreeMap::new();
    for id in cluster.members() {
        match cluster.inspect(id, None) {
            Ok(said) => {
                let checkpoint = field(&said, "state at index");
                let committed = committed_index(&said).max(checkpoint);
                reach.insert(
                    id,
                    Reach {
                        checkpoint,
                        committed,
                    },
                );
            }
            Err(e) => shared.found(Finding::new(
                "state/inspect",
                format!("member {id}: its data directory is refused: {e:#}"),
                vec![],
            )),
        }
    }
    let (index, ids) = common(&reach)?;
    let mut compared = 0;
    for id in ids {
        let Some(hash) = cluster.inspect(id, Some(index)).ok().and_then(|said| {
            // A directory that does not reach there tells of another index.
            (field(&said, "state at index") == index).then(|| state_hash(&said))?
        }) else {
            continue;
        };
        compared += 1;
        let state = StateHash {
            member: id.into(),
            log_index: index,
            hash,
            from_disk: true,
            meta: None,
        };
        shared.saw(NEMESIS, Op::StateHash(state));
    }
    (compared < 2).then(|| {
        format!("the states on disk could not be compared: {compared} of {} members reach log index {index}: {reach:?}", reach.len())
    })
}

/// The newest index that all members know to be committed, or, where some checkpoint is newer, that one; and who reaches it.
fn common(reach: &BTreeMap<u32, Reach>) -> Option<(u64, Vec<u32>)> {
    let oldest = reach.values().map(|r| r.committed).min()?;
    let newest = reach.values().map(|r| r.checkpoint).max()?;
    let index = oldest.max(newest);
    let reaching = reach.iter().filter(|(_, r)| r.committed >= index);
    Some((index, reaching.map(|(id, _)| *id).collect()))
}

fn state_hash(said: &str) -> Option<B256> {
    let mut lines = said.lines();
    let hash = lines.find_map(|l| l.trim().strip_prefix("state hash"))?;
    hash.trim().parse().ok()
}

/// The number behind `name` at the start of a line.
fn field(said: &str, name: &str) -> u64 {
    let line = said.lines().find_map(|l| l.trim().strip_prefix(name));
    line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
}

/// The index of the log id that is known to be committed: `committed    <T3-N1:Q>.77 or later`.
fn committed_index(said: &str) -> u64 {
    let line = said
        .lines()
        .find_map(|l| l.trim().strip_prefix("committed"));
    let id = line.and_then(|rest| rest.split_whitespace().next());
    let index = id.and_then(|id| id.rsplit(['.', '-']).next());
    index.and_then(|i| i.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(reach: &[(u64, u64)]) -> Option<(u64, Vec<u32>)> {
        let reach = reach
            .iter()
            .zip(1..)
            .map(|((checkpoint, committed), id)| {
                let (checkpoint, committed) = (*checkpoint, *committed);
                (
                    id,
                    Reach {
                        checkpoint,
                        committed,
                    },
                )
            })
            .collect();
        common(&reach)
    }

    #[test]
    fn states_are_compared_at_an_index_that_no_checkpoint_has_passed() {
        assert_eq!(at(&[(5, 9), (7, 12), (0, 10)]), Some((9, vec![1, 2, 3])));
        // Member 1 lags behind what the others have in their checkpoints: they are compared without it.
        assert_eq!(at(&[(5, 9), (11, 12), (3, 14)]), Some((11, vec![2, 3])));
        assert_eq!(at(&[(5, 9), (20, 20), (3, 14)]), Some((20, vec![2])));
        assert_eq!(at(&[]), None);
    }

    #[test]
    fn what_inspect_says_is_read() {
        let said = "  committed    <T3-N1:Q>.77 or later\nstate at index 70\n  state hash   0x1111111111111111111111111111111111111111111111111111111111111111\n";
        assert_eq!(
            (committed_index(said), field(said, "state at index")),
            (77, 70)
        );
        assert_eq!(state_hash(said), Some(B256::repeat_byte(0x11)));
    }
}
