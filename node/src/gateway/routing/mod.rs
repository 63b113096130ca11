//! Which shard a pending transaction goes to.
//!
//! A [`Policy`] is a pure function: pending transactions with what they are expected to write and to cost, the number
//! of shards, and what is placed already, to one shard a transaction. No rule of the chain depends on it: a bad
//! estimate costs a conflict, and the transaction comes one round later. Every policy keeps a sender's transactions in
//! one shard, since the second would otherwise fail on its nonce.
//!
//! - [`by_sender`]: nothing but that. The baseline.
//! - [`by_components`]: whoever pays or calls the same address goes together.
//! - [`by_writes`]: whoever is expected to write the same thing goes together. The default; [`estimate`] says what is
//!   expected.
//!
//! [`Router`] remembers for a running gateway where each sender is and what that occupies.

pub mod estimate;
mod groups;
mod history;
#[cfg(test)]
mod mainnet_tests;
mod router;
#[cfg(test)]
mod tests;

pub use history::{Call, History, call_of};
pub use router::{Placed, Router};

use alloy_primitives::Address;
use groups::{Unit, pack};
use std::collections::HashMap;
use troika_proto::LockKey;

/// What a transaction is expected to write and to cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Who signed it.
    pub sender: Address,
    /// Whom it calls or pays; `None` creates a contract.
    pub recipient: Option<Address>,
    /// Gas that it is expected to use.
    pub gas: u64,
    /// Lock keys that it is expected to write. The sender's account is always meant.
    pub writes: Vec<LockKey>,
}

/// What a policy decides on.
#[derive(Clone, Copy, Debug)]
pub struct Pending<'a> {
    /// In the order in which they should be executed.
    pub transactions: &'a [Estimate],
    /// Number of shards, at least 1.
    pub shards: u32,
    /// Most percent of all pending gas that one shard should get. Groups above it are cut, between senders.
    pub cap_percent: u32,
    /// The cap is never below this much gas: what fits one round anyway need not be spread.
    pub cap_floor_gas: u64,
    /// What earlier decisions occupy.
    pub occupied: &'a Occupied,
}

/// What earlier decisions occupy.
#[derive(Clone, Debug, Default)]
pub struct Occupied {
    /// Gas a shard; missing ones are zero.
    pub gas: Vec<u64>,
    /// Where the writers of a key are.
    pub homes: HashMap<LockKey, u32>,
}

/// A grouping policy: one shard for each of the pending transactions, in their order.
pub type Policy = fn(&Pending<'_>) -> Vec<u32>;

/// The policies by name, the default first.
pub const POLICIES: [(&str, Policy); 3] = [
    ("writes", by_writes),
    ("components", by_components),
    ("sender", by_sender),
];

/// The policy of that name.
pub fn policy(name: &str) -> Option<Policy> {
    let found = POLICIES.iter().find(|(known, _)| *known == name);
    found.map(|(_, policy)| *policy)
}

/// Most percent of the pending gas that the policies give one shard unless told otherwise. Cutting a group of
/// conflicting transactions only defers what was cut off, so this is no more than a guard against one group that
/// starves all others.
pub const DEFAULT_CAP_PERCENT: u32 = 75;

/// Balances senders by gas, whatever they do.
pub fn by_sender(pending: &Pending<'_>) -> Vec<u32> {
    assign(pending, |_, _| {})
}

/// Keeps transactions together that share a sender or a recipient.
pub fn by_components(pending: &Pending<'_>) -> Vec<u32> {
    assign(pending, |estimate, links| {
        links.extend(estimate.recipient.map(LockKey::account));
    })
}

/// Keeps transactions together that are expected to write the same lock key.
pub fn by_writes(pending: &Pending<'_>) -> Vec<u32> {
    assign(pending, |estimate, links| links.extend(&estimate.writes))
}

/// One unit a sender, linked by what `links` gives beside the sender itself; then packed.
fn assign(pending: &Pending<'_>, links: impl Fn(&Estimate, &mut Vec<LockKey>)) -> Vec<u32> {
    let mut of_sender: HashMap<Address, usize> = HashMap::new();
    let mut units: Vec<Unit> = Vec::new();
    let mut unit_of = Vec::with_capacity(pending.transactions.len());
    for estimate in pending.transactions {
        let unit = *of_sender.entry(estimate.sender).or_insert_with(|| {
            units.push(Unit {
                gas: 0,
                links: vec![LockKey::account(estimate.sender)],
            });
            units.len() - 1
        });
        units[unit].gas = units[unit].gas.saturating_add(estimate.gas);
        links(estimate, &mut units[unit].links);
        unit_of.push(unit);
    }
    let shards = pack(&units, pending);
    unit_of.into_iter().map(|unit| shards[unit]).collect()
}
