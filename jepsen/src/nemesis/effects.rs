//! What faults are seen to do, counted where it happens: a fault that was brought about and had no effect tests nothing.

use crate::cluster::Cluster;
use std::collections::BTreeMap;
use std::path::Path;

/// Counts that only grow, but for those of what is in force now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    /// Processes that were started.
    pub starts: u64,
    /// Packets that the bridge dropped.
    pub dropped: u64,
    /// Packets that were held back.
    pub held: u64,
    /// System calls that were made to fail or to wait.
    pub injected: u64,
    /// Processes that stand still now.
    pub stood: u64,
    /// Members whose clock is off now.
    pub clock: u64,
}

impl Effects {
    /// What the cluster and its network show now; what the nemesis itself counts is left at zero.
    pub fn of(cluster: &Cluster) -> Self {
        Self {
            starts: cluster.starts(),
            dropped: cluster.net().dropped().unwrap_or(0),
            stood: cluster.standing_still(),
            clock: cluster.clocks_off(),
            ..Self::default()
        }
    }

    /// What came to it since `before`, by name; without zeros.
    pub fn since(self, before: Self) -> BTreeMap<String, u64> {
        let counts = [
            ("starts", self.starts.saturating_sub(before.starts)),
            ("dropped", self.dropped.saturating_sub(before.dropped)),
            ("held", self.held.saturating_sub(before.held)),
            ("injected", self.injected.saturating_sub(before.injected)),
            ("stood", self.stood),
            ("clock", self.clock),
        ];
        let seen = counts.into_iter().filter(|(_, count)| *count > 0);
        seen.map(|(name, count)| (name.to_owned(), count)).collect()
    }
}

/// System calls that a tracer says it made fail or wait.
pub(super) fn injected(log: &Path) -> u64 {
    let log = std::fs::read(log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let struck = |line: &&str| line.contains("(INJECTED)") || line.contains("(DELAYED)");
    log.lines().filter(struck).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_since_is_told_without_zeros_and_what_is_in_force_as_it_is() {
        let before = Effects {
            starts: 3,
            dropped: 10,
            stood: 1,
            ..Effects::default()
        };
        let now = Effects {
            starts: 5,
            dropped: 10,
            stood: 2,
            ..Effects::default()
        };
        let told = [("starts".to_owned(), 2), ("stood".to_owned(), 2)];
        assert_eq!(now.since(before), BTreeMap::from(told));
    }

    #[test]
    fn only_calls_that_were_tampered_with_count() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("strace");
        std::fs::write(
            &log,
            "11 fdatasync(9) = 0\n\
             11 fdatasync(9) = 0 (DELAYED)\n\
             12 pwrite64(9, \"\"..., 1, 0) = -1 ENOSPC (No space left on device) (INJECTED)\n",
        )
        .unwrap();
        assert_eq!(injected(&log), 2);
        assert_eq!(injected(&dir.path().join("none")), 0);
    }
}
