//! Transactions that were refused too often, as the gateways tell of them: whoever opens the next round reserves their keys,
//! whether it owns their shards or not. Pure.

use super::super::limits::{AGED_KEYS, AGED_TRANSACTIONS};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use troika_proto::wire::address;
use troika_proto::{Address, LockKey, Malformed, v1};

/// A transaction that was refused too often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aged {
    /// Who signed it.
    pub sender: Address,
    /// The sender's nonce.
    pub nonce: u64,
    /// The sender's shard ...
    pub shard: u32,
    /// ... from this round on.
    pub from_round: u64,
    /// What it writes, as far as its refusals told.
    pub keys: Vec<LockKey>,
}

impl TryFrom<&v1::AgedTransaction> for Aged {
    type Error = Malformed;

    fn try_from(aged: &v1::AgedTransaction) -> Result<Self, Malformed> {
        let keys = aged.keys.iter().take(AGED_KEYS).map(LockKey::try_from);
        Ok(Self {
            sender: address("aged.sender", &aged.sender)?,
            nonce: aged.nonce,
            shard: aged.shard,
            from_round: aged.from_round,
            keys: keys.collect::<Result<_, _>>()?,
        })
    }
}

/// What each gateway said last.
#[derive(Default)]
pub struct AgedSet {
    by_gateway: BTreeMap<Arc<str>, Vec<Aged>>,
}

impl AgedSet {
    /// All that the gateway knows of: replaces what it said before.
    pub fn told(&mut self, gateway: &Arc<str>, mut aged: Vec<Aged>) {
        aged.truncate(AGED_TRANSACTIONS);
        if aged.is_empty() {
            self.by_gateway.remove(gateway);
        } else {
            self.by_gateway.insert(gateway.clone(), aged);
        }
    }

    /// The gateway's set is void.
    pub fn forget(&mut self, gateway: &str) {
        self.by_gateway.remove(gateway);
    }

    /// True if no key is to be reserved.
    pub fn is_empty(&self) -> bool {
        self.by_gateway.values().all(Vec::is_empty)
    }

    /// The sender's nonce is `nonce` now: what is below needs no reservation.
    pub fn advance(&mut self, sender: Address, nonce: u64) {
        for aged in self.by_gateway.values_mut() {
            aged.retain(|aged| aged.sender != sender || aged.nonce >= nonce);
        }
    }

    /// The keys of at most [`AGED_TRANSACTIONS`], each for one shard: where `place` says that the transaction goes.
    pub fn reservations(&self, place: impl Fn(&Aged) -> Option<u32>) -> Vec<(LockKey, u32)> {
        let mut reserved = Vec::new();
        let mut holders = HashMap::new();
        let all = self.by_gateway.values().flatten();
        for aged in all.take(AGED_TRANSACTIONS) {
            let Some(shard) = place(aged) else {
                continue;
            };
            // Half a transaction's keys are of no use: all or none.
            let elsewhere = |key| holders.get(key).is_some_and(|holder| *holder != shard);
            if aged.keys.iter().any(elsewhere) {
                continue;
            }
            for key in &aged.keys {
                if holders.insert(*key, shard).is_none() {
                    reserved.push((*key, shard));
                }
            }
        }
        reserved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> LockKey {
        LockKey::account(Address::repeat_byte(n))
    }

    fn aged(sender: u8, shard: u32, keys: &[u8]) -> Aged {
        Aged {
            sender: Address::repeat_byte(sender),
            nonce: 3,
            shard,
            from_round: 1,
            keys: keys.iter().copied().map(key).collect(),
        }
    }

    #[test]
    fn a_transactions_keys_are_reserved_all_or_none_each_for_one_shard() {
        let mut set = AgedSet::default();
        set.told(&"b".into(), vec![aged(4, 1, &[5]), aged(5, 0, &[1, 6])]);
        set.told(
            &"a".into(),
            vec![
                aged(1, 0, &[1, 2]),
                aged(2, 1, &[2, 3]),
                aged(3, 0, &[2, 4]),
            ],
        );
        let own = |aged: &Aged| Some(aged.shard);
        let expected = [(1, 0), (2, 0), (4, 0), (5, 1), (6, 0)].map(|(n, shard)| (key(n), shard));
        assert_eq!(set.reservations(own), expected);
        // Who has no place in the round has no keys there.
        let not_the_first = |aged: &Aged| (aged.keys[0] != key(1)).then_some(aged.shard);
        let expected = [(2, 1), (3, 1), (5, 1)].map(|(n, shard)| (key(n), shard));
        assert_eq!(set.reservations(not_the_first), expected);
    }

    #[test]
    fn what_a_block_included_is_reserved_no_more_and_a_gateways_word_replaces_its_last() {
        let mut set = AgedSet::default();
        set.told(&"a".into(), vec![aged(1, 0, &[1]), aged(2, 0, &[2])]);
        set.advance(Address::repeat_byte(1), 3);
        set.advance(Address::repeat_byte(2), 4);
        let own = |aged: &Aged| Some(aged.shard);
        assert_eq!(set.reservations(own), [(key(1), 0)]);
        set.told(&"a".into(), vec![aged(3, 1, &[7])]);
        assert_eq!(set.reservations(own), [(key(7), 1)]);
        set.forget("a");
        assert!(set.is_empty());
        let many = (0..AGED_TRANSACTIONS as u8 + 9).map(|n| aged(n, 0, &[n]));
        set.told(&"a".into(), many.collect());
        assert_eq!(set.reservations(own).len(), AGED_TRANSACTIONS);
    }
}
