//! What the calls of a contract wrote lately, learnt from sealed blocks.
//!
//! A sealed shard tells what it changed, not which transaction changed it. But a receipt names the contracts that wrote
//! logs, and the diff the slots of each contract that changed. So for each (contract, selector) the addresses that its
//! calls touched are remembered, and for each address the slots that change nearly every time somebody touches it: a
//! pool's reserves, a total supply. Those are where strangers collide; a slot that changes once (somebody's own token
//! balance) is not.

use alloy_primitives::{Address, U256};
use std::collections::{BTreeSet, HashMap, VecDeque};
use troika_proto::{Diff, LockKey, Receipt};

/// Most contracts and calls that are remembered, each.
const MAX_REMEMBERED: usize = 20_000;
/// Most slots of one contract that are counted.
const MAX_SLOTS: usize = 64;
/// Most addresses of one call that are remembered.
const MAX_TOUCHED: usize = 16;
/// Seen this often, counts are halved: what was hot long ago cools down.
const HALVE_AT: u32 = 16;

/// A call: the contract and the selector.
pub type Call = (Address, [u8; 4]);

#[derive(Debug, Default)]
struct Contract {
    /// Shards in which it was touched.
    seen: u32,
    /// Shards in which the slot changed.
    slots: HashMap<U256, u32>,
    /// Whether its own account took a lock, how often.
    account: u32,
}

/// What calls wrote lately.
#[derive(Debug, Default)]
pub struct History {
    contracts: HashMap<Address, Contract>,
    calls: HashMap<Call, BTreeSet<Address>>,
    order: VecDeque<Call>,
}

impl History {
    /// Nothing known.
    pub fn new() -> Self {
        Self::default()
    }

    /// Learns from a sealed shard: for each transaction its call (`None` for a plain transfer or a creation) and its
    /// receipt.
    pub fn learn<'a>(
        &mut self,
        transactions: impl Iterator<Item = (Option<Call>, &'a Receipt)>,
        diff: &Diff,
    ) {
        let mut touched = BTreeSet::new();
        for (call, receipt) in transactions {
            let Some(call) = call else { continue };
            let mut addresses = BTreeSet::from([call.0]);
            addresses.extend(receipt.logs.iter().map(|log| log.address));
            touched.extend(&addresses);
            self.remember(call, &addresses);
        }
        for address in touched {
            self.count(address, diff);
        }
    }

    fn remember(&mut self, call: Call, addresses: &BTreeSet<Address>) {
        if !self.calls.contains_key(&call) {
            self.order.push_back(call);
            if self.order.len() > MAX_REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.calls.remove(&oldest);
            }
        }
        let known = self.calls.entry(call).or_default();
        let room = MAX_TOUCHED.saturating_sub(known.len());
        let new: Vec<Address> = addresses.difference(known).copied().take(room).collect();
        known.extend(new);
    }

    fn count(&mut self, address: Address, diff: &Diff) {
        if self.contracts.len() >= MAX_REMEMBERED && !self.contracts.contains_key(&address) {
            self.contracts.retain(|_, contract| contract.seen > 1);
            if self.contracts.len() >= MAX_REMEMBERED {
                self.contracts.clear();
            }
        }
        let contract = self.contracts.entry(address).or_default();
        contract.seen += 1;
        if let Some(change) = diff.accounts.get(&address) {
            contract.account += u32::from(change.locks_itself(troika_proto::LockRule::Commuting));
            for key in change.slots.keys().take(MAX_SLOTS) {
                *contract.slots.entry(*key).or_default() += 1;
            }
        }
        if contract.seen >= HALVE_AT || contract.slots.len() > 4 * MAX_SLOTS {
            contract.seen = contract.seen.div_ceil(2);
            contract.account /= 2;
            contract.slots.retain(|_, count| {
                *count /= 2;
                *count > 0
            });
        }
    }

    /// Lock keys that this call is expected to write; empty where nothing is known.
    pub fn expected(&self, call: &Call) -> Vec<LockKey> {
        let mut keys = Vec::new();
        let addresses = self.calls.get(call).into_iter().flatten();
        for address in addresses.chain(
            [&call.0]
                .into_iter()
                .filter(|_| !self.calls.contains_key(call)),
        ) {
            let Some(contract) = self.contracts.get(address) else {
                continue;
            };
            // Once seen, every slot looks hot; from twice on at least every other time.
            let hot = |count: u32| contract.seen >= 2 && count * 2 >= contract.seen && count >= 2;
            if hot(contract.account) {
                keys.push(LockKey::account(*address));
            }
            let slots = contract.slots.iter().filter(|(_, count)| hot(**count));
            keys.extend(slots.map(|(slot, _)| LockKey::slot(*address, *slot)));
        }
        keys.sort_unstable();
        keys
    }

    /// True if calls of this kind were seen.
    pub fn knows(&self, call: &Call) -> bool {
        self.calls.contains_key(call)
    }
}

/// The call that a transaction makes; `None` where it has no selector.
pub fn call_of(to: Option<Address>, input: &[u8]) -> Option<Call> {
    let selector = input.get(..4)?.try_into().ok()?;
    Some((to?, selector))
}

/// For tests: a topicless log of that address.
#[cfg(test)]
pub(super) fn log_of(address: Address) -> troika_proto::Log {
    troika_proto::Log {
        address,
        topics: vec![troika_proto::B256::ZERO],
        ..Default::default()
    }
}
