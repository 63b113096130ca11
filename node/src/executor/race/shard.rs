//! One executor's race for one shard.

use super::super::limits::{
    APPEND_INTERVAL, APPEND_SLICE, CONFLICT_TRIES, PROPOSE_SPREAD, PROPOSE_SPREAD_MAX,
    PROPOSE_SPREAD_PER_TRANSACTION, RETRY_MAX, RETRY_MIN,
};
use super::super::pool::Heard;
use super::super::shared::{Busy, Shared};
use super::Race;
use super::work::Work;
use crate::store_client::{LockHolder, RefusalCode, Submitted};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use troika_proto::Shard;
use troika_store::mutant::{self, Mutant};

/// Rebuilds from fresh state that the store's refusal of a proposal as wrong is answered by, at most.
const REBUILDS: usize = 2;

/// Runs until the shard is decided or the round closed.
pub async fn run(shared: Arc<Shared>, race: Arc<Race>, shard: u32) {
    let over = race.over(shard);
    let mut runner = Runner {
        pause: RETRY_MIN,
        busy: Busy::new(&shared.busy),
        pool: shared.pool.changes(),
        work: None,
        conflicts: 0,
        rebuilds: 0,
        shared,
        race,
        shard,
    };
    tokio::select! {
        biased;
        () = over.cancelled() => {}
        () = runner.race() => {}
    }
}

struct Runner {
    shared: Arc<Shared>,
    race: Arc<Race>,
    shard: u32,
    pool: watch::Receiver<u64>,
    busy: Busy,
    /// `None` while it is on a blocking thread, or where nothing was pending so far.
    work: Option<Work>,
    conflicts: usize,
    rebuilds: usize,
    pause: Duration,
}

impl Runner {
    async fn race(&mut self) {
        if mutant::on(Mutant::ProposesAtOnce) {
            return self.propose().await;
        }
        loop {
            self.pool.borrow_and_update();
            // Asked before: what a gateway sent until then is in the pool, and thereby in what is appended.
            let heard = self.shared.pool.pending().heard(Instant::now());
            let more = self.append().await;
            let may_propose = match heard {
                Heard::All => true,
                Heard::Partly => self.work.as_ref().is_some_and(|work| work.len() > 0),
                Heard::NotYet => false,
            };
            if may_propose && self.is_due(more) {
                break;
            }
            if more {
                continue;
            }
            self.busy.set(false);
            self.wait().await;
            self.busy.set(true);
        }
        sleep(self.head_start()).await;
        self.propose().await;
    }

    /// Executes what is pending and has not been tried, for one slice. True: there is more.
    ///
    /// In slices, so that all shards of an executor fill at the same pace, however few threads it has.
    async fn append(&mut self) -> bool {
        let has_work = match &self.work {
            Some(work) => work.has_more(),
            None => self.shared.pool.pending().has_changed(self.shard, 0),
        };
        if !has_work {
            return false;
        }
        match self.on_a_thread(|work| work.append(APPEND_SLICE)).await {
            Ok(more) => more,
            Err(error) => {
                tracing::warn!(round = self.race.round.number, shard = self.shard, %error, "state");
                self.back_off().await;
                false
            }
        }
    }

    /// Runs `job` on the shard in the making, on a blocking thread, when it is this shard's turn.
    async fn on_a_thread<R: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut Work) -> R + Send + 'static,
    ) -> R {
        let work = self.work.take();
        let (shared, race, shard) = (self.shared.clone(), self.race.clone(), self.shard);
        // Only closed when the process ends, and never by us.
        let permit = self.shared.permits.clone().acquire_owned().await.ok();
        let done = tokio::task::spawn_blocking(move || {
            let mut work = work.unwrap_or_else(|| Work::new(&shared, &race, shard));
            let result = job(&mut work);
            drop(permit);
            (work, result)
        });
        match done.await {
            Ok((work, result)) => {
                self.work = Some(work);
                result
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime shuts down: nothing is waiting for this task any more.
            Err(_) => std::future::pending().await,
        }
    }

    /// A full shard at once, what there is after `propose_after`. Who has more to try then goes on for a while, but leaves
    /// time to propose what it has.
    fn is_due(&self, more: bool) -> bool {
        let full = self.work.as_ref().is_some_and(Work::is_full);
        let at = if more {
            self.race.fill_until()
        } else {
            self.race.propose_at()
        };
        full || Instant::now() >= at
    }

    /// Until something may have changed: pending transactions (which are taken in batches), or the time to propose.
    async fn wait(&mut self) {
        let propose_at = self.race.propose_at();
        let due = Instant::now() >= propose_at;
        tokio::select! {
            biased;
            () = sleep_until(propose_at), if !due => {}
            changed = self.pool.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
                if !due {
                    let next = Instant::now() + APPEND_INTERVAL;
                    sleep_until(next.min(propose_at)).await;
                }
            }
        }
    }

    /// Lets executors of a lower rank go first, the longer the more work hearing of their win would save.
    fn head_start(&self) -> Duration {
        let transactions = self.work.as_ref().map_or(0, Work::len);
        let per_transaction = PROPOSE_SPREAD_PER_TRANSACTION * transactions as u32;
        let spread = (PROPOSE_SPREAD + per_transaction).min(PROPOSE_SPREAD_MAX);
        self.race.rank(self.shard, spread)
    }

    async fn propose(&mut self) {
        let round = self.race.round.number;
        let mut proposal = self.finish().await;
        tracing::debug!(
            executor = self.shared.name,
            round,
            shard = self.shard,
            transactions = proposal.body.transactions.len(),
            after_ms = self.race.heard.elapsed().as_secs_f64() * 1e3,
            "proposes"
        );
        loop {
            self.race.proposing(proposal.clone());
            // A winner that is heard of meanwhile ends this task, and the call with it.
            let answer = self
                .shared
                .client
                .submit(round, &self.shared.name, &proposal)
                .await;
            match answer {
                Ok(Submitted::Decided { winner, won }) => {
                    tracing::debug!(round, shard = self.shard, won, "decided");
                    self.race.heard_winner(self.shard, &winner);
                    return;
                }
                Ok(Submitted::Conflict(held)) => proposal = self.conflict(held).await,
                Ok(Submitted::Refused(refusal)) => match refusal.code {
                    RefusalCode::RoundClosed
                    | RefusalCode::Pruned
                    | RefusalCode::UnknownRound
                    | RefusalCode::WrongKind
                    | RefusalCode::ShardOutOfRange => return,
                    _ => {
                        let shard = self.shard;
                        tracing::error!(round, shard, %refusal, "the store finds a proposal wrong");
                        let Some(again) = self.rebuild().await else {
                            return;
                        };
                        proposal = again;
                    }
                },
                Ok(Submitted::Noted) => return,
                Err(error) => {
                    tracing::warn!(round, shard = self.shard, %error, "proposal failed");
                    self.back_off().await;
                }
            }
        }
    }

    async fn finish(&mut self) -> Arc<Shard> {
        if self.work.as_ref().is_none_or(|work| work.len() == 0) {
            return Arc::new(Shard::empty(self.shard));
        }
        Arc::new(self.on_a_thread(|work| work.finish()).await)
    }

    /// Leaves out what writes held keys. After too many conflicts the shard is proposed empty, which conflicts with
    /// nothing: a round must not hang on one shard.
    async fn conflict(&mut self, held: Vec<LockHolder>) -> Arc<Shard> {
        self.shared.stats.conflict();
        self.conflicts += 1;
        let bound = CONFLICT_TRIES.max(self.race.round.shards as usize);
        if self.conflicts > bound {
            return Arc::new(Shard::empty(self.shard));
        }
        let (round, shard, keys) = (self.race.round.number, self.shard, held.len());
        tracing::debug!(round, shard, keys, "conflict");
        self.on_a_thread(move |work| work.leave_out(&held)).await;
        self.finish().await
    }

    /// The store says that the proposal contradicts the parent's state: what is cached of it cannot be trusted.
    async fn rebuild(&mut self) -> Option<Arc<Shard>> {
        self.rebuilds += 1;
        if self.rebuilds > REBUILDS {
            return None;
        }
        self.shared.cache.reset(self.race.round.parent);
        self.back_off().await;
        self.work = None;
        while self.append().await && Instant::now() < self.race.fill_until() {}
        Some(self.finish().await)
    }

    async fn back_off(&mut self) {
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(RETRY_MAX);
    }
}
