//! What the state machine decided, told to the operator: one line an event, each with its log index, its revision, and its
//! round and shard where it has them.
//!
//! What happens with every block is told at `debug`, what happens once in a while at `info`. With neither asked for, telling
//! costs one look at a level.

use super::types::LogId;
use crate::state::{Answer, Command, Decision};

/// Tells of an entry's commands and their answers.
pub(super) fn tell(id: LogId, commands: &[Command], answers: &[Answer]) {
    if !tracing::enabled!(tracing::Level::INFO) {
        return;
    }
    for (command, answer) in commands.iter().zip(answers) {
        tell_one(id.index, command, answer);
    }
}

fn tell_one(log_index: u64, command: &Command, answer: &Answer) {
    let revision = answer.revision;
    let (round, shard) = place(command);
    match &answer.decision {
        Decision::ChainStarted {
            genesis_hash,
            started: true,
        } => {
            tracing::info!(log_index, revision, genesis = %genesis_hash, "chain started");
        }
        Decision::FeatureLevel(level) => {
            tracing::info!(log_index, revision, level, "feature level in force");
        }
        Decision::RevisionRaised => tracing::info!(log_index, revision, "revision raised"),
        Decision::Pruned(below) => tracing::debug!(log_index, revision, below, "rounds forgotten"),
        Decision::Opened {
            round,
            opened: true,
        } => {
            tracing::debug!(log_index, revision, round, "round opened");
        }
        // Decided by this very command: a loser hears of an older revision.
        Decision::Winner(winner) if winner.revision == revision => {
            let (executor, hash) = (&*winner.executor, winner.shard_hash);
            tracing::debug!(log_index, revision, round, shard, executor, %hash, "shard accepted");
        }
        Decision::Acquired => tracing::debug!(log_index, revision, round, shard, "locks acquired"),
        Decision::Conflict(held) => {
            let keys = held.len();
            tracing::debug!(log_index, revision, round, shard, keys, "conflict");
        }
        Decision::Noted => tracing::debug!(log_index, revision, round, shard, "dissent noted"),
        Decision::Closed(round) => tracing::debug!(log_index, revision, round, "round closed"),
        Decision::Refused(refusal) => {
            let (code, message) = (refusal.code, &*refusal.message);
            tracing::debug!(log_index, revision, round, shard, ?code, message, "refused");
        }
        Decision::ChainStarted { .. } | Decision::Opened { .. } | Decision::Winner(_) => {}
    }
}

/// The round and the shard that a command is about.
fn place(command: &Command) -> (Option<u64>, Option<u32>) {
    match command {
        Command::AcceptShard(accept) => (Some(accept.round), Some(accept.shard)),
        Command::AcquireLocks(locks) => (Some(locks.round), Some(locks.shard)),
        Command::ReportDissent(dissent) => (Some(dissent.round), Some(dissent.shard)),
        Command::SealRound { round, .. } | Command::VoidRound { round, .. } => (Some(*round), None),
        _ => (None, None),
    }
}
