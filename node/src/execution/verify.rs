//! Executing a shard in its exact order: what checking another producer's block does, and what losers do with the
//! winner's shard.

use super::builder::{Builder, Push};
use super::invalid::Invalid;
use super::rules::Rules;
use super::transaction::Transaction;
use super::view::{StateView, Unavailable};
use std::sync::Arc;
use troika_proto::{Environment, Shard};

/// Why a list of transactions makes no shard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecutionError {
    /// That transaction cannot be executed at its place: evidence against the shard.
    #[error("transaction {index} of the shard: {reason}")]
    Transaction {
        /// Its place in the shard.
        index: usize,
        /// Why.
        reason: Invalid,
    },
    /// That transaction does not fit the shard's gas, count or bytes any more: evidence against the shard.
    #[error("transaction {index} of the shard: does not fit the shard after {gas_used} gas")]
    Full {
        /// Its place in the shard.
        index: usize,
        /// Gas used by those before it.
        gas_used: u64,
    },
    /// The state could not be read: says nothing about the shard.
    #[error("transaction {index} of the shard: {error}")]
    Unavailable {
        /// Its place in the shard.
        index: usize,
        /// Why.
        error: Unavailable,
    },
}

/// Executes `transactions` in exactly this order. The result equals, bit for bit, what a [`Builder`] makes of them.
///
/// # Errors
/// [`ExecutionError`], naming the transaction that does not fit.
pub fn execute_shard<V: StateView>(
    rules: &Rules,
    environment: &Environment,
    index: u32,
    transactions: &[Arc<Transaction>],
    view: V,
) -> Result<Shard, ExecutionError> {
    let mut builder = Builder::new(rules.clone(), environment.clone(), view);
    execute_rest(&mut builder, transactions, || true)?;
    Ok(builder.finish(index))
}

/// Executes those of `transactions` that are not in `builder` yet, in exactly this order, as long as `go_on` says so.
/// True: all of them are in. After [`ExecutionError::Unavailable`] the same call goes on where it stopped.
///
/// # Errors
/// [`ExecutionError`], naming the transaction that does not fit.
pub fn execute_rest<V: StateView>(
    builder: &mut Builder<V>,
    transactions: &[Arc<Transaction>],
    mut go_on: impl FnMut() -> bool,
) -> Result<bool, ExecutionError> {
    let rest = transactions.get(builder.len()..).unwrap_or_default();
    let mut refused = None;
    let pushed = builder.push_all(rest, |_, push| {
        let included = push.is_included();
        if !included {
            refused = Some(push);
        }
        included && go_on()
    });
    let at = builder.len();
    if let Err(error) = pushed {
        return Err(ExecutionError::Unavailable { index: at, error });
    }
    match refused {
        None => Ok(at >= transactions.len()),
        Some(Push::Skip(reason) | Push::Drop(reason)) => {
            Err(ExecutionError::Transaction { index: at, reason })
        }
        Some(_) => Err(ExecutionError::Full {
            index: at,
            gas_used: builder.gas_used(),
        }),
    }
}
