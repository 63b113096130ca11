//! Taking transactions in.

use super::Gateway;
use super::mempool::{Reject, SenderState};
use crate::execution::{Invalid, Transaction, TxError};
use crate::store_client::{StateKey, StateValue, StoreError};
use alloy_primitives::{Address, B256, Bytes};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

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
        let answers: Vec<_> = self.pool(|pool| {
            let added = checked.into_iter().map(|tx| {
                let tx = tx?;
                // What a block sealed meanwhile is newer than what was read.
                let state = pool
                    .account(tx.sender)
                    .or_else(|| states.get(&tx.sender).copied());
                pool.add(&tx, state.unwrap_or_default())?;
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
