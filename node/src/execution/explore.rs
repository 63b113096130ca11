//! Looking ahead: what state transactions will ask for.

use super::evm::{Engine, Mode, Ran};
use super::overlay::Overlay;
use super::rules::Rules;
use super::transaction::Transaction;
use super::view::{StateView, Unavailable};
use std::sync::Arc;
use troika_proto::Environment;

/// Executes each of `transactions` by itself on the state that `view` shows, whatever its nonce, and keeps nothing: the view
/// sees what it asks for. `looked` hears of each afterwards, with the gas that it used.
///
/// # Errors
/// [`Unavailable`], from the view.
pub fn explore<V: StateView>(
    rules: &Rules,
    environment: &Environment,
    transactions: &[Arc<Transaction>],
    view: V,
    mut looked: impl FnMut(&Arc<Transaction>, u64),
) -> Result<(), Unavailable> {
    let mut overlay = Overlay::new(view);
    let mut engine = Engine::new(rules, environment, Mode::Call, &mut overlay);
    for transaction in transactions {
        let gas = match engine.run(transaction)? {
            Ran::Executed(executed) => executed.result.tx_gas_used(),
            Ran::Invalid(_) => 0,
        };
        engine.overlay().forget();
        looked(transaction, gas);
    }
    Ok(())
}
