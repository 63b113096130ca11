//! Keeps the log short: what a checkpoint holds, the log need not.
//!
//! openraft's own policy counts entries; ours counts bytes, so openraft is configured never to take a snapshot by itself and
//! never to purge by itself. After each checkpoint this task makes openraft take notice of it (to openraft it is a snapshot that
//! took no time to build), and has it purge what lies before the last bytes of the log that are to be kept
//! ([`LOG_KEEP_BYTES`](crate::limits::LOG_KEEP_BYTES), unless configured) and before the checkpoint.
//! The entries that are kept spare a member that lags a little from being sent the whole state.

use std::{sync::Arc, time::Duration};

use openraft::{Raft, async_runtime::watch::WatchReceiver};

use super::{
    log_store::LogStore,
    machine_store::{MachineStore, Shared},
    types::TypeConfig,
};
use crate::runtime::Runtime;

/// How long openraft may take to notice a checkpoint before the next one is waited for.
const NOTICE: Duration = Duration::from_secs(10);

/// Runs until the member stops. `keep`: bytes of the log that are kept behind a checkpoint.
pub async fn run(
    raft: Raft<TypeConfig, MachineStore>,
    shared: Arc<Shared>,
    log: LogStore,
    keep: u64,
) {
    let mut checkpoints = shared.checkpoints();
    loop {
        let checkpoint = *checkpoints.borrow_and_update();
        if checkpoint > 0 && log.file().purge_point(keep).is_some() {
            if raft.trigger().snapshot().await.is_err() {
                return;
            }
            if noticed(&raft, checkpoint).await
                && let Some(upto) = log.file().purge_point(keep)
                && raft
                    .trigger()
                    .purge_log(upto.min(checkpoint))
                    .await
                    .is_err()
            {
                return;
            }
        }
        if checkpoints.changed().await.is_err() {
            return;
        }
    }
}

/// True once openraft knows a snapshot of at least `index`.
async fn noticed(raft: &Raft<TypeConfig, MachineStore>, index: u64) -> bool {
    let mut metrics = raft.metrics();
    let deadline = Runtime::now() + NOTICE;
    loop {
        let known = metrics
            .borrow_watched()
            .snapshot
            .as_ref()
            .map_or(0, |id| id.index);
        if known >= index {
            return true;
        }
        match Runtime::timeout_at(deadline, metrics.changed()).await {
            Ok(Ok(())) => {}
            _ => return false,
        }
    }
}
