//! The losers' second execution: shards that another executor won are executed again when there is nothing else to do,
//! and a difference raises the divergence alarm (here, and in the store). Executors are one operator's own: trusted not
//! to lie, not trusted to be right.

use super::limits::SECOND_EXECUTIONS;
use super::shared::Shared;
use super::verify::{Outcome, Task, execute};
use crate::execution::Transaction;
use crate::store_client::{Round, ShardParts, Winner};
use std::sync::Arc;
use tokio::sync::mpsc;
use troika_proto::{B256, Bytes, Environment};

/// A shard that was lost.
struct Job {
    round: u64,
    parent: B256,
    environment: Environment,
    shard: u32,
    winner: Winner,
}

/// Takes lost shards in.
#[derive(Clone)]
pub struct SecondExecution {
    jobs: mpsc::Sender<Job>,
    shared: Arc<Shared>,
}

impl SecondExecution {
    /// Starts the task.
    pub fn start(shared: &Arc<Shared>) -> Self {
        let (jobs, queue) = mpsc::channel(SECOND_EXECUTIONS);
        tokio::spawn(run(shared.clone(), queue));
        Self {
            jobs,
            shared: shared.clone(),
        }
    }

    /// A shard of this executor's was decided: looks at it if somebody else won it. `ours`: what this executor made of
    /// it, as far as it came.
    pub fn decided(&self, round: &Round, shard: u32, winner: &Winner, ours: Option<B256>) {
        // Filled at the sealing: nobody made it.
        if winner.executor.is_empty() || *winner.executor == *self.shared.name {
            return;
        }
        // The same work has been done here already.
        if ours == Some(winner.shard_hash) {
            self.shared.stats.verified();
            return;
        }
        if !self.shared.second_execution {
            return;
        }
        let job = Job {
            round: round.number,
            parent: round.parent,
            environment: round.environment.clone(),
            shard,
            winner: winner.clone(),
        };
        if self.jobs.try_send(job).is_err() {
            self.shared.stats.second_execution_skipped();
        }
    }
}

async fn run(shared: Arc<Shared>, mut jobs: mpsc::Receiver<Job>) {
    loop {
        let job = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            job = jobs.recv() => job,
        };
        let Some(job) = job else { return };
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            () = look_at(&shared, &job) => {}
        }
    }
}

async fn look_at(shared: &Arc<Shared>, job: &Job) {
    let mut busy = shared.busy.subscribe();
    if busy.wait_for(|running| *running == 0).await.is_err() {
        return;
    }
    let (round, shard) = (job.round, job.shard);
    tracing::debug!(round, shard, winner = %job.winner.executor, "second execution");
    let parts = ShardParts {
        transactions: true,
        ..ShardParts::default()
    };
    let accepted = match shared.client.shard(round, shard, parts).await {
        Ok(Some(accepted)) => accepted,
        Ok(None) => return,
        Err(error) => {
            tracing::debug!(round, shard, %error, "no second execution");
            return;
        }
    };
    // What was executed must be what was accepted: the header binds the transactions, and its hash is the winner's.
    let hash = accepted.header.hash();
    if hash != job.winner.shard_hash {
        tracing::error!(round, shard, %hash, "the store gives a header that is not the winner's");
        return;
    }
    let transactions = senders(shared, accepted.body.transactions).await;
    let outcome = match transactions {
        Ok(transactions) => {
            let task = Task {
                parent: job.parent,
                environment: job.environment.clone(),
                index: shard,
                transactions,
            };
            execute(shared, task, &shared.stop).await
        }
        Err(problem) => Outcome::Impossible(problem),
    };
    match &outcome {
        Outcome::Shard(ours) if ours.hash == job.winner.shard_hash => shared.stats.verified(),
        Outcome::Unavailable(reason) => {
            tracing::debug!(round, shard, reason, "no second execution");
        }
        differing => shared.alarm(round, shard, &job.winner, differing),
    }
}

/// Transactions with their senders: from the pool where it knows them, else recovered.
async fn senders(shared: &Arc<Shared>, raw: Vec<Bytes>) -> Result<Vec<Arc<Transaction>>, String> {
    let known = {
        let pending = shared.pool.pending();
        let hash = |raw: &Bytes| alloy_primitives::keccak256(raw);
        raw.iter()
            .map(|raw| pending.get(hash(raw)))
            .collect::<Vec<_>>()
    };
    let stats = shared.stats.clone();
    let recovering = tokio::task::spawn_blocking(move || {
        let pairs = raw.into_iter().zip(known);
        pairs
            .map(|(raw, known)| match known {
                Some(known) => Ok(known),
                None => {
                    stats.sender_recovered();
                    let recovered = Transaction::recover(raw);
                    recovered.map(Arc::new).map_err(|e| e.to_string())
                }
            })
            .collect()
    });
    recovering.await.unwrap_or_else(|e| Err(e.to_string()))
}
