//! What an executor counts, and its divergence alarms.

use super::limits::ALARMS;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use troika_proto::B256;

/// Counters of one executor. Each is also a metric `troika_executor_*` with the executor's name as a label.
#[derive(Default)]
pub struct Stats {
    name: String,
    races_won: AtomicU64,
    races_lost: AtomicU64,
    conflicts: AtomicU64,
    verified: AtomicU64,
    second_executions_skipped: AtomicU64,
    senders_recovered: AtomicU64,
    divergence: Mutex<VecDeque<String>>,
}

impl Stats {
    /// All zero.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    fn count(&self, counter: &AtomicU64, metric: &'static str) {
        counter.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(metric, "executor" => self.name.clone()).increment(1);
    }

    /// One of its proposals was accepted.
    pub fn won(&self) {
        self.count(&self.races_won, "troika_executor_races_won_total");
    }

    /// Another executor's proposal was accepted for a shard of its own.
    pub fn lost(&self) {
        self.count(&self.races_lost, "troika_executor_races_lost_total");
    }

    /// A proposal met keys that other shards held.
    pub fn conflict(&self) {
        self.count(&self.conflicts, "troika_executor_conflicts_total");
    }

    /// An accepted shard of another executor was found to be right.
    pub fn verified(&self) {
        self.count(&self.verified, "troika_executor_verified_total");
    }

    /// An accepted shard of another executor was not looked at: there was too much else to do.
    pub fn second_execution_skipped(&self) {
        self.count(
            &self.second_executions_skipped,
            "troika_executor_second_executions_skipped_total",
        );
    }

    /// The sender of an accepted transaction had to be recovered: no gateway had told it.
    pub fn sender_recovered(&self) {
        self.count(
            &self.senders_recovered,
            "troika_executor_senders_recovered_total",
        );
    }

    /// The divergence alarm: this executor computes another outcome than was accepted.
    pub fn diverged(&self, round: u64, shard: u32, winner: &str, accepted: B256, ours: &str) {
        let alarm = format!(
            "round {round} shard {shard}: accepted {accepted} by {winner:?}, {} computes {ours}",
            self.name
        );
        tracing::error!(alarm = "divergence", round, shard, winner, %accepted, ours, "{alarm}");
        metrics::counter!("troika_executor_divergence_total", "executor" => self.name.clone())
            .increment(1);
        let mut alarms = self
            .divergence
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if alarms.len() >= ALARMS {
            alarms.pop_front();
        }
        alarms.push_back(alarm);
    }

    /// As they stand.
    pub fn snapshot(&self) -> StatsSnapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let alarms = self.divergence.lock();
        StatsSnapshot {
            races_won: get(&self.races_won),
            races_lost: get(&self.races_lost),
            conflicts: get(&self.conflicts),
            verified: get(&self.verified),
            second_executions_skipped: get(&self.second_executions_skipped),
            senders_recovered: get(&self.senders_recovered),
            divergence: alarms
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .cloned()
                .collect(),
        }
    }
}

/// Counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// Its proposals that were accepted.
    pub races_won: u64,
    /// Shards of its own that another executor won.
    pub races_lost: u64,
    /// Proposals that met held keys.
    pub conflicts: u64,
    /// Lost shards found to be right.
    pub verified: u64,
    /// Lost shards not looked at.
    pub second_executions_skipped: u64,
    /// Accepted transactions whose senders had to be recovered.
    pub senders_recovered: u64,
    /// Divergence alarms, newest last.
    pub divergence: Vec<String>,
}
