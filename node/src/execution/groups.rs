//! How far a block can be cut into shards: transactions that write one key must stand in one shard.

use super::sequential::Outcome;
use std::collections::HashMap;
use troika_proto::LockKey;

/// Transactions that must share a shard, directly or through others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Indices in the block, ascending.
    pub transactions: Vec<usize>,
    /// Gas of all of them.
    pub gas: u64,
}

/// Joins transactions that write a common key. Each item is a transaction's keys and its gas. Largest gas first.
pub fn conflict_groups<'a>(writes: impl IntoIterator<Item = (&'a [LockKey], u64)>) -> Vec<Group> {
    let mut parents: Vec<usize> = Vec::new();
    let mut gas = Vec::new();
    let mut writer: HashMap<LockKey, usize> = HashMap::new();
    for (index, (keys, used)) in writes.into_iter().enumerate() {
        parents.push(index);
        gas.push(used);
        for key in keys {
            let other = *writer.entry(*key).or_insert(index);
            let (a, b) = (root(&mut parents, other), root(&mut parents, index));
            parents[a.max(b)] = a.min(b);
        }
    }
    let mut groups: HashMap<usize, Group> = HashMap::new();
    for (index, used) in gas.into_iter().enumerate() {
        let group = groups.entry(root(&mut parents, index)).or_default();
        group.transactions.push(index);
        group.gas += used;
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_unstable_by_key(|g| (std::cmp::Reverse(g.gas), g.transactions[0]));
    groups
}

fn root(parents: &mut [usize], mut index: usize) -> usize {
    while parents[index] != index {
        parents[index] = parents[parents[index]];
        index = parents[index];
    }
    index
}

/// [`conflict_groups`] of a sequential run; a transaction that could not be executed writes nothing and uses no gas.
pub fn groups_of<E>(outcomes: &[Result<Outcome, E>]) -> Vec<Group> {
    conflict_groups(outcomes.iter().map(|outcome| match outcome {
        Ok(outcome) => (outcome.writes.as_slice(), outcome.gas),
        Err(_) => (&[][..], 0),
    }))
}

/// Puts groups into `shards` shards, the largest first and each where there is least gas. Within a shard
/// transactions keep the block's order.
pub fn pack(groups: &[Group], shards: u32) -> Vec<Vec<usize>> {
    let mut packed = vec![(0u64, Vec::new()); shards.max(1) as usize];
    for group in groups {
        let Some((gas, members)) = packed.iter_mut().min_by_key(|(gas, _)| *gas) else {
            break;
        };
        *gas += group.gas;
        members.extend_from_slice(&group.transactions);
    }
    let mut packed: Vec<Vec<usize>> = packed.into_iter().map(|(_, members)| members).collect();
    for members in &mut packed {
        members.sort_unstable();
    }
    packed
}

/// Gas of the busiest of `shards` shards, at the least: the larger of the largest group and an even share. Parallelism
/// is bounded by the gas of all divided by this.
pub fn least_critical_gas(groups: &[Group], shards: u32) -> u64 {
    let total: u64 = groups.iter().map(|g| g.gas).sum();
    let largest = groups.first().map_or(0, |g| g.gas);
    largest.max(total.div_ceil(u64::from(shards.max(1))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{Address, U256};

    fn key(n: u64) -> LockKey {
        LockKey::slot(Address::ZERO, U256::from(n))
    }

    #[test]
    fn a_common_key_joins_also_through_others() {
        let writes = [
            vec![key(1)],
            vec![key(2)],
            vec![key(3)],
            vec![key(1), key(2)],
        ];
        let groups = conflict_groups(writes.iter().map(|w| (w.as_slice(), 10)));
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[0].transactions, [0, 1, 3]);
        assert_eq!(groups[0].gas, 30);
        assert_eq!(groups[1].transactions, [2]);
    }

    #[test]
    fn packing_loses_nothing_splits_no_group_and_evens_out() {
        let sizes = [50u64, 30, 30, 20, 10, 10];
        let groups: Vec<Group> = (0..)
            .zip(sizes)
            .map(|(i, gas)| Group {
                transactions: vec![i, i + 10],
                gas,
            })
            .collect();
        let packed = pack(&groups, 3);
        assert_eq!(
            packed,
            [vec![0, 10], vec![1, 3, 11, 13], vec![2, 4, 5, 12, 14, 15]]
        );
    }

    #[test]
    fn the_bound_is_the_largest_group_or_an_even_share() {
        let group = |gas| Group {
            transactions: vec![0],
            gas,
        };
        assert_eq!(least_critical_gas(&[group(60), group(40)], 4), 60);
        assert_eq!(least_critical_gas(&vec![group(10); 10], 4), 25);
        assert_eq!(least_critical_gas(&[], 4), 0);
    }
}
