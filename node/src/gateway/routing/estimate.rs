//! What transactions are expected to write: from what they state, from history, or from a simulation.

use super::Estimate;
use super::history::{History, call_of};
use crate::execution::{Builder, Push, Rules, StateView, Transaction};
use alloy_consensus::Transaction as _;
use alloy_primitives::Address;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use troika_proto::{Environment, LockKey, LockRule};

/// Gas of a plain transfer.
const TRANSFER_GAS: u64 = 21_000;

/// Without running it: the sender and its authorities, the recipient where credits lock, the created contract, the
/// access list, and what calls of the same kind wrote lately.
pub fn stated(tx: &Transaction, rule: LockRule, history: &History) -> Estimate {
    let mut writes: BTreeSet<LockKey> = tx.authorities().map(LockKey::account).collect();
    match tx.to() {
        None => {
            let created = tx.sender.create(tx.nonce());
            writes.insert(LockKey::account(created));
        }
        Some(to) if rule == LockRule::Strict && !tx.value().is_zero() => {
            writes.insert(LockKey::account(to));
        }
        Some(_) => {}
    }
    let list = tx.envelope.access_list().into_iter().flat_map(|l| l.iter());
    for item in list {
        let slots = item.storage_keys.iter();
        writes.extend(slots.map(|slot| LockKey::slot(item.address, (*slot).into())));
    }
    if let Some(call) = call_of(tx.to(), tx.input()) {
        writes.extend(history.expected(&call));
    }
    Estimate {
        sender: tx.sender,
        recipient: tx.to(),
        gas: if tx.input().is_empty() && tx.to().is_some() {
            tx.gas_limit().min(TRANSFER_GAS)
        } else {
            tx.gas_limit()
        },
        writes: writes.into_iter().collect(),
    }
}

/// By running each sender's transactions, in their order, on the parent's state, every sender for itself. A sender that
/// lacks the funds is expected to be paid by the others first, and goes together with whoever pays it.
///
/// Where the state cannot be read, or `go_on` says between two transactions that there is no time, what is [`stated`] must
/// do: an estimate is no more than that.
pub fn simulated<V: StateView>(
    rules: &Rules,
    environment: &Environment,
    view: &V,
    transactions: &[Arc<Transaction>],
    history: &History,
    go_on: impl Fn() -> bool,
) -> Vec<Estimate> {
    // A sender's queue is one shard's, but it may be longer than one round.
    let rules = Rules {
        shard_gas_limit: u64::MAX,
        ..rules.clone()
    };
    let mut of_sender: BTreeMap<Address, Vec<usize>> = BTreeMap::new();
    for (i, tx) in transactions.iter().enumerate() {
        of_sender.entry(tx.sender).or_default().push(i);
    }
    let stated = |tx: &Transaction| stated(tx, rules.lock_rule, history);
    let mut estimates: Vec<Estimate> = transactions.iter().map(|tx| stated(tx)).collect();
    let mut failed: BTreeSet<Address> = BTreeSet::new();
    let mut payers: HashMap<Address, Vec<usize>> = HashMap::new();
    for (sender, queue) in of_sender {
        let mut builder = Builder::new(rules.clone(), environment.clone(), view);
        let mut included = Vec::with_capacity(queue.len());
        for i in queue.iter().take_while(|_| go_on()) {
            match builder.push(&transactions[*i]) {
                Ok(Push::Included { gas, .. }) => {
                    estimates[*i].gas = gas;
                    included.push(*i);
                }
                Ok(_) => {
                    failed.insert(sender);
                }
                Err(_) => break,
            }
        }
        for (i, writes) in included.iter().zip(builder.writes()) {
            estimates[*i].writes = writes;
        }
        if let Some(last) = included.last() {
            let credited = builder.diff().accounts.into_iter();
            for (address, _) in credited.filter(|(_, change)| change.is_credit()) {
                payers.entry(address).or_default().push(*last);
            }
        }
    }
    for sender in failed {
        for payer in payers.get(&sender).into_iter().flatten() {
            estimates[*payer].writes.push(LockKey::account(sender));
        }
    }
    estimates
}

/// True if running it may write more than sender and recipient: otherwise [`stated`] says it all.
pub fn is_worth_simulating(tx: &Transaction) -> bool {
    tx.to().is_none() || !tx.input().is_empty() || tx.gas_limit() > TRANSFER_GAS
}
