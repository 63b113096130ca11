//! Groups of senders that share a link, packed into shards largest first.

use super::Pending;
use std::collections::HashMap;
use troika_proto::LockKey;

/// All that one sender has pending.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) gas: u64,
    /// Units that share one of these belong together.
    pub(super) links: Vec<LockKey>,
}

/// Units that are linked, directly or through others.
#[derive(Debug, Default)]
struct Group {
    gas: u64,
    /// In order of arrival.
    units: Vec<usize>,
    /// Gas by the shard where something that it is linked with is already.
    homes: HashMap<u32, u64>,
}

/// One shard for each unit. Groups go largest first to the shard where what they are linked with is, or else to the
/// one with the least gas; a group larger than the cap is cut between units.
pub(super) fn pack(units: &[Unit], pending: &Pending<'_>) -> Vec<u32> {
    let shards = pending.shards.max(1) as usize;
    let mut loads = pending.occupied.gas.clone();
    loads.resize(shards, 0);
    let total: u64 = units
        .iter()
        .map(|u| u.gas)
        .chain(loads.iter().copied())
        .fold(0, u64::saturating_add);
    let cap = cap(total, pending, shards);
    let mut assigned = vec![0; units.len()];
    for group in groups(units, pending) {
        let home = group.home(shards);
        for part in group.parts(units, cap) {
            let gas: u64 = part
                .iter()
                .map(|u| units[*u].gas)
                .fold(0, u64::saturating_add);
            let fits = |shard: &usize| loads[*shard].saturating_add(gas) <= cap;
            let shard = home.filter(fits).unwrap_or_else(|| least(&loads));
            loads[shard] = loads[shard].saturating_add(gas);
            for unit in part {
                assigned[*unit] = shard as u32;
            }
        }
    }
    assigned
}

/// Gas that a shard gets at most; never below an equal share, which would leave units without a place.
fn cap(total: u64, pending: &Pending<'_>, shards: usize) -> u64 {
    let capped = u128::from(total) * u128::from(pending.cap_percent) / 100;
    let capped = capped.max(pending.cap_floor_gas.into());
    let share = u128::from(total).div_ceil(shards as u128);
    u64::try_from(capped.max(share)).unwrap_or(u64::MAX)
}

fn least(loads: &[u64]) -> usize {
    let shards = loads.iter().enumerate();
    shards.min_by_key(|(_, load)| **load).map_or(0, |(i, _)| i)
}

impl Group {
    /// The shard that most of its links point at.
    fn home(&self, shards: usize) -> Option<usize> {
        let homes = self.homes.iter().filter(|(s, _)| (**s as usize) < shards);
        let best = homes.max_by_key(|(shard, gas)| (**gas, std::cmp::Reverse(**shard)));
        best.map(|(shard, _)| *shard as usize)
    }

    /// The group whole where the cap allows it; else in runs of units that each stay within it.
    fn parts(&self, units: &[Unit], cap: u64) -> Vec<&[usize]> {
        if self.gas <= cap {
            return vec![&self.units];
        }
        let mut parts = Vec::new();
        let (mut start, mut gas) = (0, 0u64);
        for (i, unit) in self.units.iter().enumerate() {
            if i > start && gas.saturating_add(units[*unit].gas) > cap {
                parts.push(&self.units[start..i]);
                (start, gas) = (i, 0);
            }
            gas = gas.saturating_add(units[*unit].gas);
        }
        parts.push(&self.units[start..]);
        parts
    }
}

/// The connected components, largest gas first; among equals the one that came first.
fn groups(units: &[Unit], pending: &Pending<'_>) -> Vec<Group> {
    let mut sets = Sets::new(units.len());
    let mut first: HashMap<LockKey, usize> = HashMap::new();
    for (i, unit) in units.iter().enumerate() {
        for link in &unit.links {
            let other = *first.entry(*link).or_insert(i);
            sets.join(i, other);
        }
    }
    let mut index: HashMap<usize, usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for (i, unit) in units.iter().enumerate() {
        let at = *index.entry(sets.root(i)).or_insert_with(|| {
            groups.push(Group::default());
            groups.len() - 1
        });
        let group = &mut groups[at];
        group.gas = group.gas.saturating_add(unit.gas);
        group.units.push(i);
        for link in &unit.links {
            if let Some(home) = pending.occupied.homes.get(link) {
                *group.homes.entry(*home).or_default() += unit.gas.max(1);
            }
        }
    }
    // A stable sort keeps the order of arrival among equals.
    groups.sort_by_key(|group| std::cmp::Reverse(group.gas));
    groups
}

/// Disjoint sets, by halving paths.
struct Sets(Vec<usize>);

impl Sets {
    fn new(len: usize) -> Self {
        Self((0..len).collect())
    }

    fn root(&mut self, mut i: usize) -> usize {
        while self.0[i] != i {
            self.0[i] = self.0[self.0[i]];
            i = self.0[i];
        }
        i
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        // The older root stays: deterministic whatever the links.
        self.0[a.max(b)] = a.min(b);
    }
}
