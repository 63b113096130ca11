//! Executing somebody's shard in its exact order, on the parent's state: for VERIFY rounds and for second executions.

use super::cache::{CacheView, Probe};
use super::limits::{PROBE_TRANSACTIONS, PROBE_TURNS};
use super::shared::Shared;
use crate::execution::{Builder, ExecutionError, Transaction, Unavailable, execute_shard};
use std::sync::Arc;
use troika_proto::{B256, Environment, Shard};

/// What came of it.
#[derive(Debug)]
pub enum Outcome {
    /// The shard that these transactions make.
    Shard(Box<Shard>),
    /// They make none: which transaction, and why.
    Impossible(String),
    /// The state could not be read: says nothing about the shard.
    Unavailable(String),
}

/// Executes `transactions` as shard `index` of a block on `parent`, whose header has `environment`.
pub async fn execute(
    shared: &Arc<Shared>,
    parent: B256,
    environment: &Environment,
    index: u32,
    transactions: Vec<Arc<Transaction>>,
) -> Outcome {
    let view = shared.view(parent, environment.number.saturating_sub(1));
    if let Err(error) = view.prefetch(&transactions).await {
        return Outcome::Unavailable(error.to_string());
    }
    let permit = shared.permits.clone().acquire_owned().await.ok();
    let environment = shared.execution_environment(environment);
    let shared = shared.clone();
    let executed = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        run(&shared, &view, &environment, index, &transactions)
    });
    executed
        .await
        .unwrap_or_else(|error| Outcome::Unavailable(error.to_string()))
}

fn run(
    shared: &Shared,
    view: &Arc<CacheView>,
    environment: &Environment,
    index: u32,
    transactions: &[Arc<Transaction>],
) -> Outcome {
    let mut turns = 0;
    loop {
        let rules = &shared.rules;
        match execute_shard(rules, environment, index, transactions, view.clone()) {
            Ok(shard) => return Outcome::Shard(Box::new(shard)),
            Err(ExecutionError::Unavailable { index: at, error }) => {
                let missing = view.take_missing();
                if missing.is_empty() {
                    return Outcome::Unavailable(error.to_string());
                }
                if let Err(error) = view.load_blocking(&shared.runtime, missing) {
                    return Outcome::Unavailable(error.to_string());
                }
                if turns < PROBE_TURNS {
                    turns += 1;
                    let end = transactions.len().min(at + PROBE_TRANSACTIONS);
                    let ahead = &transactions[at.min(end)..end];
                    if let Err(error) = probe(shared, view, environment, ahead) {
                        return Outcome::Unavailable(error.to_string());
                    }
                }
            }
            Err(impossible) => return Outcome::Impossible(impossible.to_string()),
        }
    }
}

/// Executes ahead on a view that answers missing values by nothing, and loads what was asked for in vain.
///
/// # Errors
/// [`Unavailable`] where the store does not answer.
pub fn probe(
    shared: &Shared,
    view: &Arc<CacheView>,
    environment: &Environment,
    ahead: &[Arc<Transaction>],
) -> Result<(), Unavailable> {
    let rules = shared.rules.clone();
    let mut scratch = Builder::new(rules, environment.clone(), Probe(view.clone()));
    scratch.push_all(ahead, |_, _| true)?;
    let missing = view.take_missing();
    if missing.is_empty() {
        return Ok(());
    }
    view.load_blocking(&shared.runtime, missing)
}
