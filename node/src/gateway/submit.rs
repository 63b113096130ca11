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

/// How often accounts are read again where the head moved under the read. After that the older answer is used: it can
/// only make a transaction wait or be refused that the next try would take.
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
        let states = match self.accounts(&senders).await {
            Ok(states) => states,
            Err(error) => {
                let failed = checked.into_iter();
                return failed
                    .map(|tx| Err(tx.err().unwrap_or(SubmitError::Store(error.clone()))))
                    .collect();
            }
        };
        let mut estimates = self.simulate(checked.iter().flatten()).await;
        let answers: Vec<_> = self.pool(|pool| {
            let added = checked.into_iter().map(|tx| {
                let tx = tx?;
                // What a block sealed meanwhile is newer than what was read.
                let state = pool
                    .account(tx.sender)
                    .or_else(|| states.get(&tx.sender).copied());
                let estimate = estimates.remove(&tx.hash);
                pool.add(&tx, state.unwrap_or_default(), estimate)?;
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

    /// What transactions would write on the head's state, for their routing. Empty where it is not worth it, or nothing
    /// can be read in time.
    async fn simulate(
        &self,
        new: impl Iterator<Item = &Arc<Transaction>>,
    ) -> HashMap<B256, Estimate> {
        let new: Vec<Arc<Transaction>> = new.cloned().collect();
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
        let view = self.view(head.hash).until(Instant::now() + budget);
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
            let estimates =
                estimate::simulated(&rules, &environment, &view, &transactions, &history);
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

    /// The senders' accounts at the head: remembered, or read in one go.
    async fn accounts(
        &self,
        senders: &BTreeSet<Address>,
    ) -> Result<HashMap<Address, SenderState>, StoreError> {
        let mut states = HashMap::new();
        for _ in 0..ACCOUNT_READS {
            let (head, unknown) = self.pool(|pool| {
                let (mut known, mut unknown) = (HashMap::new(), Vec::new());
                for sender in senders {
                    match pool.account(*sender) {
                        Some(state) => drop(known.insert(*sender, state)),
                        None => unknown.push(*sender),
                    }
                }
                states.extend(known);
                (pool.head(), unknown)
            });
            if unknown.is_empty() {
                break;
            }
            let read = self.read_accounts(head, &unknown).await?;
            states.extend(read.iter().copied());
            if self.pool(|pool| pool.learn_accounts(head, &read)) {
                break;
            }
        }
        Ok(states)
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
