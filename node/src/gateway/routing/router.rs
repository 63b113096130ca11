//! Where each sender is, from which round on, and what that occupies. Pure.

use super::{DEFAULT_CAP_PERCENT, Estimate, Occupied, Pending, Policy};
use alloy_primitives::Address;
use std::collections::{BTreeMap, HashMap, HashSet};
use troika_proto::LockKey;

/// A sender's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its shard ...
    pub shard: u32,
    /// ... from this round on.
    pub from_round: u64,
}

/// What a sender's transactions occupy.
#[derive(Debug, Default)]
struct Holding {
    gas: u64,
    keys: HashSet<LockKey>,
}

/// The places of all senders with ready transactions.
#[derive(Debug)]
pub struct Router {
    policy: Policy,
    shards: u32,
    shard_gas_limit: u64,
    places: HashMap<Address, Placed>,
    holdings: HashMap<Address, Holding>,
    occupied: Occupied,
    /// How many holdings have the key: its home goes with the last.
    holders: HashMap<LockKey, usize>,
}

impl Router {
    /// Nobody placed yet.
    pub fn new(policy: Policy, shards: u32, shard_gas_limit: u64) -> Self {
        Self {
            policy,
            shards: shards.max(1),
            shard_gas_limit,
            places: HashMap::new(),
            holdings: HashMap::new(),
            occupied: Occupied {
                gas: vec![0; shards.max(1) as usize],
                homes: HashMap::new(),
            },
            holders: HashMap::new(),
        }
    }

    /// Where the sender is.
    pub fn place(&self, sender: Address) -> Option<Placed> {
        self.places.get(&sender).copied()
    }

    /// Gas that is placed, a shard.
    pub fn loads(&self) -> &[u64] {
        &self.occupied.gas
    }

    /// Takes in newly ready transactions. Senders that have no place yet get one, from `round` on; the others stay where
    /// they are, since their earlier transactions are there. Returns the new places.
    pub fn route(&mut self, new: &[Estimate], round: u64) -> BTreeMap<Address, Placed> {
        let unplaced: Vec<Estimate> = new
            .iter()
            .filter(|e| !self.places.contains_key(&e.sender))
            .cloned()
            .collect();
        let mut fresh = BTreeMap::new();
        if !unplaced.is_empty() {
            let shards = (self.policy)(&Pending {
                transactions: &unplaced,
                shards: self.shards,
                cap_percent: DEFAULT_CAP_PERCENT,
                cap_floor_gas: self.shard_gas_limit,
                occupied: &self.occupied,
            });
            for (estimate, shard) in unplaced.iter().zip(shards) {
                let placed = Placed {
                    shard,
                    from_round: round,
                };
                self.places.insert(estimate.sender, placed);
                fresh.insert(estimate.sender, placed);
            }
        }
        for estimate in new {
            self.hold(estimate);
        }
        fresh
    }

    /// A transaction of the sender conflicted: its queue goes to the shard that held the keys, from `round` on. `None` if
    /// it is there already, or is moving (an earlier refusal moved it, and this one is of a round before that).
    pub fn follow(
        &mut self,
        sender: Address,
        shard: u32,
        round: u64,
        refused: u64,
    ) -> Option<Placed> {
        let place = self.places.get_mut(&sender)?;
        if place.shard == shard || place.from_round > refused || shard >= self.shards {
            return None;
        }
        let (from, to) = (place.shard, shard);
        *place = Placed {
            shard,
            from_round: round,
        };
        let moved = *place;
        if let Some(holding) = self.holdings.get(&sender) {
            let loads = &mut self.occupied.gas;
            loads[from as usize] = loads[from as usize].saturating_sub(holding.gas);
            loads[to as usize] = loads[to as usize].saturating_add(holding.gas);
            for key in &holding.keys {
                self.occupied.homes.insert(*key, shard);
            }
        }
        Some(moved)
    }

    /// The sender's ready transactions are now these: what it occupied before is forgotten. Without any it loses its
    /// place, and the next transaction may be placed anew.
    pub fn refresh(&mut self, sender: Address, now: &[Estimate]) {
        self.release(sender);
        for estimate in now {
            self.hold(estimate);
        }
        if now.is_empty() {
            self.places.remove(&sender);
        }
    }

    fn hold(&mut self, estimate: &Estimate) {
        let Some(place) = self.places.get(&estimate.sender) else {
            return;
        };
        let load = &mut self.occupied.gas[place.shard as usize];
        *load = load.saturating_add(estimate.gas);
        let holding = self.holdings.entry(estimate.sender).or_default();
        holding.gas = holding.gas.saturating_add(estimate.gas);
        for key in &estimate.writes {
            if holding.keys.insert(*key) {
                *self.holders.entry(*key).or_default() += 1;
                self.occupied.homes.entry(*key).or_insert(place.shard);
            }
        }
    }

    fn release(&mut self, sender: Address) {
        let Some(holding) = self.holdings.remove(&sender) else {
            return;
        };
        if let Some(place) = self.places.get(&sender) {
            let load = &mut self.occupied.gas[place.shard as usize];
            *load = load.saturating_sub(holding.gas);
        }
        for key in holding.keys {
            if let Some(count) = self.holders.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.holders.remove(&key);
                    self.occupied.homes.remove(&key);
                }
            }
        }
    }
}
