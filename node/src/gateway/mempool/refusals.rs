//! How often a transaction was left out of proposals, and what it writes.

use crate::gateway::limits::MAX_AGED_KEYS;
use troika_proto::LockKey;

/// How often a transaction was left out of a proposal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refusals {
    /// By a lock that another shard held.
    pub(super) held: u32,
    /// For another reason.
    pub(super) other: u32,
    /// Newest round that counted: three executors of a shard report the same refusal.
    pub(super) round: u64,
    pub(super) aged: bool,
    /// What it writes, as far as its refusals told.
    pub(super) keys: Vec<LockKey>,
}

impl Refusals {
    /// A refusal tells all that the transaction `writes`, or nothing of it: then what was `held` adds to what is known.
    pub(super) fn learn(&mut self, writes: &[LockKey], held: &[LockKey]) {
        if !writes.is_empty() {
            self.keys.clear();
        }
        for key in writes.iter().chain(held) {
            if self.keys.len() < MAX_AGED_KEYS && !self.keys.contains(key) {
                self.keys.push(*key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use troika_proto::Address;

    #[test]
    fn what_is_written_counts_before_what_was_held_and_that_adds_up() {
        let key = |n| LockKey::account(Address::repeat_byte(n));
        let mut refusals = Refusals::default();
        refusals.learn(&[], &[key(1)]);
        refusals.learn(&[], &[key(2), key(1)]);
        assert_eq!(refusals.keys, [key(1), key(2)]);
        refusals.learn(&[key(2), key(3)], &[key(3)]);
        assert_eq!(refusals.keys, [key(2), key(3)]);
        let many: Vec<_> = (0..200).map(key).collect();
        refusals.learn(&[], &many);
        assert_eq!(refusals.keys.len(), MAX_AGED_KEYS);
    }
}
