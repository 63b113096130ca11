//! Execution as Ethereum does it: one transaction after the other over the whole block, each seeing all before it, the
//! beneficiary paid at once. What shards are compared with, and how transactions' writes are known beforehand.

use super::builder::write_keys;
use super::evm::{Engine, Mode, Ran};
use super::invalid::Invalid;
use super::overlay::Overlay;
use super::rules::Rules;
use super::transaction::Transaction;
use super::view::{StateView, Unavailable};
use std::sync::Arc;
use troika_proto::{Diff, Environment, LockKey};

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// False if it was reverted or ran out of gas.
    pub success: bool,
    /// Gas used, after refunds.
    pub gas: u64,
    /// What it wrote, by itself: the keys that it would lock if it stood alone in a shard, ascending. The
    /// beneficiary's fee is left out, as in shards.
    pub writes: Vec<LockKey>,
}

/// A sequential run.
#[derive(Clone, Debug)]
pub struct Sequential {
    /// One for each transaction; the reason where it could not be executed.
    pub outcomes: Vec<Result<Outcome, Invalid>>,
    /// All changes against the parent, the beneficiary's fees included.
    pub diff: Diff,
}

impl Sequential {
    /// Gas of all transactions: what the header of a real block says.
    pub fn gas_used(&self) -> u64 {
        let executed = self.outcomes.iter().flatten();
        executed.map(|o| o.gas).sum()
    }
}

/// Executes all of `transactions` in order. Locks are judged by `rules.lock_rule`.
///
/// # Errors
/// [`Unavailable`].
pub fn run<V: StateView>(
    rules: &Rules,
    environment: &Environment,
    transactions: &[Arc<Transaction>],
    view: V,
) -> Result<Sequential, Unavailable> {
    let mut overlay = Overlay::new(view);
    let mut engine = Engine::new(rules, environment, Mode::Sequential, &mut overlay);
    let mut outcomes = Vec::with_capacity(transactions.len());
    for transaction in transactions {
        outcomes.push(match engine.run(transaction)? {
            Ran::Invalid(invalid) => Err(invalid),
            Ran::Executed(executed) => {
                let mut changes = executed.changes;
                let overlay = engine.overlay();
                overlay.forget_fee(
                    &mut changes,
                    environment.beneficiary,
                    executed.fee,
                    rules.lock_rule,
                );
                Ok(Outcome {
                    success: executed.result.is_success(),
                    gas: executed.result.tx_gas_used(),
                    writes: write_keys(&changes),
                })
            }
        });
    }
    Ok(Sequential {
        outcomes,
        diff: overlay.diff(),
    })
}
