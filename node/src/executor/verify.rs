//! Executing somebody's shard in its exact order, on the parent's state: for VERIFY rounds and for second executions.

use super::cache::{CacheView, Probe};
use super::limits::{PROBE_TRANSACTIONS, PROBE_TURNS};
use super::shared::Shared;
use crate::execution::{Builder, ExecutionError, Transaction, Unavailable, execute_rest};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use troika_proto::{B256, Environment, Shard};

/// What came of it.
#[derive(Debug)]
pub enum Outcome {
    /// The shard that these transactions make.
    Shard(Box<Shard>),
    /// They make none: which transaction, and why.
    Impossible(String),
    /// The state could not be read, or nobody wants to know any more: says nothing about the shard.
    Unavailable(String),
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shard(shard) => shard.hash.fmt(f),
            Self::Impossible(reason) | Self::Unavailable(reason) => f.write_str(reason),
        }
    }
}

/// A shard to be executed.
pub struct Task {
    /// The block on whose state.
    pub parent: B256,
    /// Of the header.
    pub environment: Environment,
    /// Its index.
    pub index: u32,
    /// In order.
    pub transactions: Vec<Arc<Transaction>>,
}

/// Executes `task`. Stops between two transactions once `over` is cancelled.
pub async fn execute(shared: &Arc<Shared>, task: Task, over: &CancellationToken) -> Outcome {
    let before = task.environment.number.saturating_sub(1);
    let view = shared.view(task.parent, before);
    if let Err(error) = view.prefetch(&task.transactions).await {
        return Outcome::Unavailable(error.to_string());
    }
    let permit = shared.permits.clone().acquire_owned().await.ok();
    let (shared, over) = (shared.clone(), over.clone());
    let executed = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        run(&shared, &view, &task, &over)
    });
    executed
        .await
        .unwrap_or_else(|error| Outcome::Unavailable(error.to_string()))
}

fn run(shared: &Shared, view: &Arc<CacheView>, task: &Task, over: &CancellationToken) -> Outcome {
    let environment = shared.execution_environment(&task.environment);
    let rules = shared.rules.clone();
    let mut builder = Builder::new(rules, environment.clone(), view.clone());
    let mut turns = 0;
    loop {
        match execute_rest(&mut builder, &task.transactions, || !over.is_cancelled()) {
            Ok(true) => return Outcome::Shard(Box::new(builder.finish(task.index))),
            Ok(false) => return Outcome::Unavailable("nobody waits for it any more".to_owned()),
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
                    let end = task.transactions.len().min(at + PROBE_TRANSACTIONS);
                    let ahead = &task.transactions[at.min(end)..end];
                    if let Err(error) = probe(shared, view, &environment, ahead) {
                        return Outcome::Unavailable(error.to_string());
                    }
                } else {
                    view.be_patient(&shared.runtime);
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
