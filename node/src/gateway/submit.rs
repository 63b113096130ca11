//! Taking transactions in.

use super::Gateway;
use super::chain::StoreView;
use super::limits::{MAX_SIMULATED_BEFORE, REPLAY_SIMULATION_BUDGET, SIMULATION_BUDGET};
use super::mempool::{Reject, SenderState};
use super::routing::{Estimate, History, estimate};
use crate::execution::{Invalid, Transaction, TxError};
use crate::store_client::{StateKey, StateValue, StoreError};
use alloy_primitives::{Address, B256, Bytes};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use troika_proto::Environment;

/// How often accounts are read again where the head moved under the read. After that the transaction is refused for the
/// moment: behind the nonce of an older block it might wait for ever for what has been included.
const ACCOUNT_READS: usize = 3;

/// Why a transaction was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SubmitError {
    /// Not a transaction.
    #[error(transparent)]
    Undecodable(#[from] TxError),
    /// Never executable on this chain.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Not now, or not at that price.
    #[error(transparent)]
    Rejected(#[from] Reject),
    /// The sender's account could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The head moved under every read of the sender's account.
    #[error("the chain moves on faster than the sender's account can be read, try again")]
    Moving,
    /// The gateway is stopping.
    #[error("the gateway is stopping")]
    Stopping,
}

impl SubmitError {
    /// True if the same transaction may be taken a little later.
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Rejected(Reject::PoolFull | Reject::SenderFull | Reject::NonceTooHigh { .. })
                | Self::Store(_)
                | Self::Moving
        )
    }
}

impl Gateway {
    /// Takes signed transactions in; one answer each, in order: its hash, or why it was not taken.
    pub async fn submit(&self, raws: Vec<Bytes>) -> Vec<Result<B256, SubmitError>> {
        let count = raws.len();
        let (cache, rules) = (self.recovered.clone(), self.rules.clone());
        let checked = tokio::task::spawn_blocking(move || {
            let recovered = cache.recover_all(&raws).into_iter();
            let checked = recovered.map(|tx| {
                let tx = tx?;
                rules.check(&tx)?;
                Ok(tx)
            });
            checked.collect::<Vec<Result<Arc<Transaction>, SubmitError>>>()
        });
        let Ok(checked) = checked.await else {
            return vec![Err(SubmitError::Stopping); count];
        };
        let senders: BTreeSet<Address> = checked.iter().flatten().map(|tx| tx.sender).collect();
        if let Err(error) = self.learn_accounts(&senders).await {
            let failed = checked.into_iter();
            return failed
                .map(|tx| Err(tx.err().unwrap_or(SubmitError::Store(error.clone()))))
                .collect();
        }
        let mut estimates = self.simulate(self.takeable(checked.iter().flatten())).await;
        let answers: Vec<_> = self.pool(|pool| {
            let added = checked.into_iter().map(|tx| {
                let tx = tx?;
                let state = pool.account(tx.sender).ok_or(SubmitError::Moving)?;
                let estimate = estimates.remove(&tx.hash);
                pool.add(&tx, state, estimate)?;
                Ok(tx.hash)
            });
            added.collect()
        });
        for hash in answers.iter().flatten() {
            // Nobody may be listening.
            let _ = self.entered.send(*hash);
        }
        self.dirty.notify_one();
        answers
    }

    /// Those that the pool may take: what it has, what is past and what nobody pays for is not worth running.
    fn takeable<'a>(
        &self,
        new: impl Iterator<Item = &'a Arc<Transaction>>,
    ) -> Vec<Arc<Transaction>> {
        let replays = self.config.fixed.is_some();
        self.pool(|pool| {
            let takeable = new.filter(|tx| {
                let state = pool.account(tx.sender).unwrap_or_default();
                let affordable = replays || tx.max_cost() <= state.balance;
                let known = pool.mempool().get(&tx.hash).is_some();
                affordable && !known && tx.nonce() >= state.nonce
            });
            takeable.cloned().collect()
        })
    }

    /// What transactions would write on the head's state, for their routing. Empty where it is not worth it, or nothing
    /// can be read in time.
    async fn simulate(&self, new: Vec<Arc<Transaction>>) -> HashMap<B256, Estimate> {
        if !new.iter().any(|tx| estimate::is_worth_simulating(tx)) {
            return HashMap::new();
        }
        let Ok(permit) = self.calls.clone().try_acquire_owned() else {
            return HashMap::new();
        };
        let head = self.head();
        let queued = self.queued_before(&new);
        let budget = match self.config.fixed {
            Some(_) => REPLAY_SIMULATION_BUDGET,
            None => SIMULATION_BUDGET,
        };
        let until = Instant::now() + budget;
        let view = self.view(head.hash).until(until);
        let environment = self.next_environment(&head);
        let rules = self.rules.clone();
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let senders = new.iter().map(|tx| tx.sender);
            let touched: BTreeSet<Address> =
                senders.chain(new.iter().filter_map(|tx| tx.to())).collect();
            view.prefetch(touched);
            let mut transactions: Vec<Arc<Transaction>> = queued
                .into_iter()
                .filter_map(|(raw, sender)| Transaction::with_sender(raw, sender).ok())
                .map(Arc::new)
                .collect();
            let before = transactions.len();
            transactions.extend(new);
            let history = History::new();
            let in_time = || Instant::now() < until;
            let estimates = estimate::simulated(
                &rules,
                &environment,
                &view,
                &transactions,
                &history,
                in_time,
            );
            let hashes = transactions.iter().map(|tx| tx.hash);
            hashes.zip(estimates).skip(before).collect()
        });
        work.await.unwrap_or_default()
    }

    /// What is pending before these transactions and has to run first.
    fn queued_before(&self, new: &[Arc<Transaction>]) -> Vec<(Bytes, Address)> {
        let firsts: BTreeMap<Address, u64> =
            new.iter().rev().map(|tx| (tx.sender, tx.nonce())).collect();
        self.pool(|pool| {
            let mut queued = Vec::new();
            for (sender, first) in firsts {
                let ready = pool.mempool().ready(sender).take(MAX_SIMULATED_BEFORE);
                let before = ready.take_while(|p| p.nonce < first);
                queued.extend(before.map(|p| (p.raw.clone(), sender)));
            }
            queued
        })
    }

    /// The environment of the next round, as far as it can be known.
    fn next_environment(&self, head: &super::HeadView) -> Environment {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let next = self
            .config
            .environment(&head.header, head.hash, now.as_millis() as u64);
        self.config.execution_environment(&next)
    }

    /// The state after a block.
    pub(super) fn view(&self, block: B256) -> StoreView {
        let fixed = self.config.fixed.as_ref().map(|fixed| &fixed.block_hashes);
        StoreView::new(self.chain.client().clone(), block, fixed)
    }

    /// Why a transaction was dropped, while that is remembered.
    pub fn drop_reason(&self, hash: &B256) -> Option<String> {
        self.pool(|pool| pool.mempool().drop_reason(hash).map(ToString::to_string))
    }

    /// Sees to it that the pool knows the senders' accounts at the head: those that it does not are read in one go.
    async fn learn_accounts(&self, senders: &BTreeSet<Address>) -> Result<(), StoreError> {
        for _ in 0..ACCOUNT_READS {
            let (head, unknown) = self.pool(|pool| {
                let unknown = senders.iter().filter(|s| pool.account(**s).is_none());
                (pool.head(), unknown.copied().collect::<Vec<_>>())
            });
            if unknown.is_empty() {
                break;
            }
            let read = self.read_accounts(head, &unknown).await?;
            if self.pool(|pool| pool.learn_accounts(head, &read)) {
                break;
            }
        }
        Ok(())
    }

    /// Accounts at a block.
    pub(super) async fn read_accounts(
        &self,
        block: B256,
        addresses: &[Address],
    ) -> Result<Vec<(Address, SenderState)>, StoreError> {
        let keys: Vec<StateKey> = addresses.iter().map(|a| StateKey::Account(*a)).collect();
        let read = self.chain.client().read(Some(block), &keys, &[]).await?;
        let values = addresses.iter().zip(read.values);
        let states = values.map(|(address, value)| {
            let state = match value {
                StateValue::Account(Some(account)) => SenderState {
                    nonce: account.nonce,
                    balance: account.balance,
                },
                _ => SenderState::default(),
            };
            (*address, state)
        });
        Ok(states.collect())
    }
}
