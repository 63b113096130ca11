//! Executing somebody's shard in its exact order, on the parent's state: for VERIFY rounds and for second executions.

use super::cache::CacheView;
use super::limits::{SEEK_TRANSACTIONS, SEEK_TURNS};
use super::seek::seek;
use super::shared::Shared;
use crate::execution::{Builder, ExecutionError, Rules, Transaction, Unavailable, execute_rest};
use std::sync::Arc;
use tokio::runtime::Handle;
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
    let ground = Ground {
        rules: shared.rules.clone(),
        environment: shared.execution_environment(&task.environment),
        view,
        runtime: shared.runtime.clone(),
    };
    let permit = shared.permits.clone().acquire_owned().await.ok();
    let over = over.clone();
    let executed = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        ground.run(task.index, &task.transactions, &over)
    });
    executed
        .await
        .unwrap_or_else(|error| Outcome::Unavailable(error.to_string()))
}

/// What a shard is executed on, from a thread that may block.
pub struct Ground {
    /// By which rules.
    pub rules: Rules,
    /// What transactions see.
    pub environment: Environment,
    /// The parent's state.
    pub view: Arc<CacheView>,
    /// Where reads of the store run.
    pub runtime: Handle,
}

impl Ground {
    /// Executes `transactions` as the shard `index`, in their order; what the view misses on the way is loaded, for all
    /// of them together.
    pub fn run(
        &self,
        index: u32,
        transactions: &[Arc<Transaction>],
        over: &CancellationToken,
    ) -> Outcome {
        let (rules, environment) = (self.rules.clone(), self.environment.clone());
        let mut builder = Builder::new(rules, environment, self.view.clone());
        let mut turns = 0;
        loop {
            match execute_rest(&mut builder, transactions, || !over.is_cancelled()) {
                Ok(true) => return Outcome::Shard(Box::new(builder.finish(index))),
                Ok(false) => {
                    return Outcome::Unavailable("nobody waits for it any more".to_owned());
                }
                Err(ExecutionError::Unavailable { index: at, error }) => {
                    let rest = transactions.get(at..).unwrap_or_default();
                    if let Err(error) = self.catch_up(error, rest, &mut turns) {
                        return Outcome::Unavailable(error.to_string());
                    }
                }
                Err(impossible) => return Outcome::Impossible(impossible.to_string()),
            }
        }
    }

    /// After an execution ended with `error`: loads what the view misses, and looks ahead what `rest`, the transactions that were
    /// not executed yet, will miss. After some such `turns` the view waits for every single value from then on.
    ///
    /// # Errors
    /// `error`, where nothing is missing; [`Unavailable`] where the store does not answer.
    pub fn catch_up(
        &self,
        error: Unavailable,
        rest: &[Arc<Transaction>],
        turns: &mut usize,
    ) -> Result<(), Unavailable> {
        let missing = self.view.take_missing();
        if missing.is_empty() {
            return Err(error);
        }
        if *turns == SEEK_TURNS {
            self.view.load_blocking(&self.runtime, missing)?;
            self.view.be_patient(&self.runtime);
            return Ok(());
        }
        *turns += 1;
        let ahead = rest.len().min(SEEK_TRANSACTIONS);
        seek(self, &rest[..ahead], missing)
    }
}
