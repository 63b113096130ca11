//! Hands signed transactions to a gateway at the wanted pace, and knows afterwards whether all were included.
//!
//! A transaction is included exactly when its sender's nonce has passed it: that is how this module counts, by reading
//! the senders' nonces after each block. It knows nothing of the gateway but a function that takes signed bytes.

use super::generate::{Generator, Signed};
use super::pace::Pace;
use crate::store_client::{StateKey, StateValue, StoreClient, StoreError};
use alloy_primitives::Bytes;
use futures::future::BoxFuture;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

/// How often the pace is looked at.
const TICK: Duration = Duration::from_millis(10);
/// Pause after the gateway's pool was full.
const FULL_PAUSE: Duration = Duration::from_millis(50);
/// Transactions that are signed in one go once those signed ahead are used up.
const SIGN_BATCH: usize = 64;
/// Most transactions that are planned before they are signed: planned ones take more memory.
const SIGN_AT_ONCE: usize = 16_384;
/// How often the nonces are read while the last transactions are awaited.
const DRAIN_POLL: Duration = Duration::from_millis(50);

/// Why a gateway did not take a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Untaken {
    /// Its pool is full: later it may.
    Later,
    /// Never, and why.
    Never(String),
}

/// Hands envelopes to a gateway; one answer each, in order.
pub type Submit =
    Arc<dyn Fn(Vec<Bytes>) -> BoxFuture<'static, Vec<Result<(), Untaken>>> + Send + Sync>;

/// What became of the load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Transactions that the gateway took.
    pub sent: u64,
    /// Of them, those in sealed blocks when last looked.
    pub included: u64,
    /// Transactions that the gateway refused for good.
    pub refused: u64,
    /// Why, of the first.
    pub first_refusal: Option<String>,
}

impl Tally {
    /// True if nothing was lost and nothing refused.
    pub fn is_complete(&self) -> bool {
        self.sent == self.included && self.refused == 0
    }
}

/// A load on its way.
pub struct Driver {
    generator: Generator,
    store: StoreClient,
    submit: Submit,
    pace: Pace,
    ahead: VecDeque<Signed>,
    /// The senders' nonces when the load started.
    started_at: Vec<u64>,
    tally: Tally,
}

impl Driver {
    /// Reads where the senders stand, so that a kept chain goes on, and makes the generator for them.
    ///
    /// # Errors
    /// The store's.
    pub async fn new(
        make: impl FnOnce(Vec<u64>) -> Generator,
        senders: &[super::Keyed],
        store: StoreClient,
        submit: Submit,
        pace: Pace,
    ) -> Result<Self, StoreError> {
        let started_at = nonces(&store, senders).await?;
        Ok(Self {
            generator: make(started_at.clone()),
            store,
            submit,
            pace,
            ahead: VecDeque::new(),
            started_at,
            tally: Tally::default(),
        })
    }

    /// Signs `count` transactions now, so that the run itself does not.
    pub async fn sign_ahead(&mut self, count: usize) {
        let mut generator = self.generator.clone();
        let signed = tokio::task::spawn_blocking(move || {
            let mut signed = VecDeque::with_capacity(count);
            while signed.len() < count {
                let more = SIGN_AT_ONCE.min(count - signed.len());
                signed.extend(generator.sign_many(more));
            }
            (generator, signed)
        });
        let (generator, signed) = signed.await.expect("signing does not panic");
        self.generator = generator;
        self.ahead.extend(signed);
    }

    /// Sends until `stop`. `sealed` changes with every block.
    ///
    /// # Errors
    /// The store's, where nonces cannot be read.
    pub async fn send(
        &mut self,
        stop: &CancellationToken,
        mut sealed: watch::Receiver<u64>,
    ) -> Result<(), StoreError> {
        let started = Instant::now();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            if sealed.has_changed().unwrap_or(false) {
                sealed.mark_unchanged();
                self.count_included().await?;
            }
            let under_way = self.tally.sent.saturating_sub(self.tally.included);
            // Refused ones count as sent here, or a load that is refused would hand over without pause.
            let handed_over = self.tally.sent + self.tally.refused;
            let due = self.pace.due(started.elapsed(), handed_over, under_way);
            if due > 0 {
                self.hand_over(due).await;
            }
            if due == 0 || self.pace.rate.is_some() {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    _ = ticks.tick() => {}
                }
            }
        }
        Ok(())
    }

    async fn hand_over(&mut self, due: usize) {
        if self.ahead.is_empty() {
            self.sign_ahead(due.max(SIGN_BATCH)).await;
        }
        let count = due.min(self.ahead.len());
        let batch: Vec<Signed> = self.ahead.drain(..count).collect();
        free_places(&mut self.ahead);
        let answers = (self.submit)(batch.iter().map(|s| s.raw.clone()).collect()).await;
        let mut later = Vec::new();
        for (signed, answer) in batch.into_iter().zip(answers) {
            match answer {
                Ok(()) => self.tally.sent += 1,
                Err(Untaken::Later) => later.push(signed),
                Err(Untaken::Never(reason)) => {
                    self.tally.refused += 1;
                    self.tally.first_refusal.get_or_insert(reason);
                }
            }
        }
        if !later.is_empty() {
            for signed in later.into_iter().rev() {
                self.ahead.push_front(signed);
            }
            sleep(FULL_PAUSE).await;
        }
    }

    /// Waits until everything that was sent is included, or until nothing more is for `patience`.
    ///
    /// # Errors
    /// The store's, where nonces cannot be read.
    pub async fn drain(&mut self, patience: Duration) -> Result<(), StoreError> {
        let mut last = (self.tally.included, Instant::now());
        loop {
            self.count_included().await?;
            if self.tally.included >= self.tally.sent {
                return Ok(());
            }
            if self.tally.included != last.0 {
                last = (self.tally.included, Instant::now());
            } else if last.1.elapsed() > patience {
                return Ok(());
            }
            sleep(DRAIN_POLL).await;
        }
    }

    /// What became of the load, as of the last look.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    async fn count_included(&mut self) -> Result<(), StoreError> {
        let now = nonces(&self.store, self.generator.accounts()).await?;
        let passed = now.iter().zip(&self.started_at);
        self.tally.included = passed.map(|(now, start)| now.saturating_sub(*start)).sum();
        Ok(())
    }
}

/// Gives back the memory where transactions stood that were sent.
fn free_places(ahead: &mut VecDeque<Signed>) {
    let kept = 2 * ahead.len().max(SIGN_BATCH);
    if ahead.capacity() > 2 * kept {
        ahead.shrink_to(kept);
    }
}

async fn nonces(store: &StoreClient, accounts: &[super::Keyed]) -> Result<Vec<u64>, StoreError> {
    let keys: Vec<_> = accounts
        .iter()
        .map(|account| StateKey::Account(account.address))
        .collect();
    let read = store.read(None, &keys, &[]).await?;
    let nonce = |value: &StateValue| match value {
        StateValue::Account(Some(account)) => account.nonce,
        _ => 0,
    };
    Ok(read.values.iter().map(nonce).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_takes_no_memory_any_more() {
        let signed = |nonce| Signed {
            sender: 0,
            nonce,
            raw: Bytes::new(),
        };
        let mut ahead: VecDeque<Signed> = (0..100_000).map(signed).collect();
        while ahead.pop_front().is_some() {
            free_places(&mut ahead);
            assert!(ahead.capacity() <= 4 * ahead.len().max(SIGN_BATCH));
        }
    }
}
