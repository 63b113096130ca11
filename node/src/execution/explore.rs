//! Looking ahead: what state transactions will ask for.

use super::evm::{Engine, Mode};
use super::overlay::Overlay;
use super::rules::Rules;
use super::transaction::Transaction;
use super::view::{StateView, Unavailable};
use std::sync::Arc;
use troika_proto::Environment;

/// Executes each of `transactions` by itself on the state that `view` shows, whatever its nonce, and keeps nothing: the view
/// sees what it asks for. `looked` hears of each afterwards.
///
/// # Errors
/// [`Unavailable`], from the view.
pub fn explore<'a, V: StateView>(
    rules: &Rules,
    environment: &Environment,
    transactions: impl Iterator<Item = &'a Arc<Transaction>>,
    view: V,
    mut looked: impl FnMut(&'a Arc<Transaction>),
) -> Result<(), Unavailable> {
    let mut overlay = Overlay::new(view);
    let mut engine = Engine::new(rules, environment, Mode::Call, &mut overlay);
    for transaction in transactions {
        // What comes of it does not matter here.
        let _ran = engine.run(transaction)?;
        engine.overlay().forget();
        looked(transaction);
    }
    Ok(())
}
