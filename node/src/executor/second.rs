//! The losers' second execution: shards that another executor won are executed again when there is nothing else to do,
//! and a difference raises the divergence alarm. Executors are one operator's own: trusted not to lie, not trusted to
//! be right.

use super::limits::SECOND_EXECUTIONS;
use super::race::Race;
use super::shared::Shared;
use super::verify::{Outcome, execute};
use crate::execution::Transaction;
use crate::store_client::{ShardParts, Winner};
use std::sync::Arc;
use tokio::sync::mpsc;
use troika_proto::Bytes;

/// A shard that was lost.
struct Job {
    race: Arc<Race>,
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

    /// A shard of this executor's was decided: looks at it if somebody else won it.
    pub fn decided(&self, race: &Arc<Race>, shard: u32, winner: &Winner) {
        // Filled at the sealing: nobody made it.
        if winner.executor.is_empty() || winner.executor == self.shared.name {
            return;
        }
        // The same work has been done here already.
        let ours = race.proposal(shard);
        if ours.is_some_and(|ours| ours.hash == winner.shard_hash) {
            self.shared.stats.verified();
            return;
        }
        if !self.shared.second_execution {
            return;
        }
        let job = Job {
            race: race.clone(),
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
    let round = job.race.round.number;
    let parts = ShardParts {
        transactions: true,
        ..ShardParts::default()
    };
    let accepted = match shared.client.shard(round, job.shard, parts).await {
        Ok(Some(accepted)) => accepted,
        Ok(None) => return,
        Err(error) => {
            tracing::debug!(round, shard = job.shard, %error, "no second execution");
            return;
        }
    };
    // What was executed must be what was accepted: the header binds the transactions, and its hash is the winner's.
    let hash = accepted.header.hash();
    if hash != job.winner.shard_hash {
        let ours = format!("{hash} from the header that the store gives");
        alarm(shared, job, &ours);
        return;
    }
    let transactions = senders(shared, accepted.body.transactions).await;
    let outcome = match transactions {
        Ok(transactions) => {
            execute(
                shared,
                job.race.round.parent,
                &job.race.round.environment,
                job.shard,
                transactions,
            )
            .await
        }
        Err(problem) => Outcome::Impossible(problem),
    };
    match outcome {
        Outcome::Shard(shard) if shard.hash == job.winner.shard_hash => shared.stats.verified(),
        Outcome::Shard(shard) => alarm(shared, job, &shard.hash.to_string()),
        Outcome::Impossible(reason) => alarm(shared, job, &reason),
        Outcome::Unavailable(reason) => {
            tracing::debug!(round, shard = job.shard, reason, "no second execution");
        }
    }
}

fn alarm(shared: &Shared, job: &Job, ours: &str) {
    let winner = &job.winner;
    let round = job.race.round.number;
    let stats = &shared.stats;
    stats.diverged(round, job.shard, &winner.executor, winner.shard_hash, ours);
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
    let recovering = tokio::task::spawn_blocking(move || {
        let pairs = raw.into_iter().zip(known);
        pairs
            .map(|(raw, known)| match known {
                Some(known) => Ok(known),
                None => Transaction::recover(raw)
                    .map(Arc::new)
                    .map_err(|e| e.to_string()),
            })
            .collect()
    });
    recovering.await.unwrap_or_else(|e| Err(e.to_string()))
}
