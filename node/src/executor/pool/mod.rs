//! The pending pool: pending transactions of this executor's shards, as its gateways hand them in.
//!
//! [`Pending`] is the set itself, pure; [`PoolService`] takes the gateways' streams; [`Pool`] is what the race sees.

mod pending;
mod service;

pub use pending::{Pending, Select, StreamId};
pub use service::PoolService;

use super::limits::{REFUSALS_BUFFER, SENDER_TRANSACTIONS};
use crate::execution::Transaction;
use crate::store_client::LockHolder;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, watch};
use troika_proto::wire::hash_bytes;
use troika_proto::{Diff, v1};

/// A transaction that was left out, and why.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Which.
    pub transaction: Arc<Transaction>,
    /// The round of the proposal.
    pub round: u64,
    /// The shard of the proposal.
    pub shard: u32,
    /// Keys that other shards held.
    pub held: Vec<LockHolder>,
    /// Else why it could not be executed.
    pub reason: String,
    /// It can never be executed: forget it.
    pub drop: bool,
}

/// Where a gateway's newest stream is answered.
type Replies = (StreamId, mpsc::Sender<v1::PendingReply>);

/// The pending pool, shared.
pub struct Pool {
    pending: Mutex<Pending>,
    version: watch::Sender<u64>,
    replies: Mutex<HashMap<Arc<str>, Replies>>,
}

impl Pool {
    /// An empty pool of at most `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            pending: Mutex::new(Pending::new(limit_bytes, SENDER_TRANSACTIONS)),
            version: watch::Sender::new(0),
            replies: Mutex::new(HashMap::new()),
        }
    }

    /// The set, locked. Never held over an await.
    pub fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those who wait for changes.
    pub(super) fn announce(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Notified after each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Forgets what a sealed block included: every transaction below the nonces that it set.
    pub fn sealed(&self, diff: &Diff) {
        let mut pending = self.pending();
        for (address, account) in &diff.accounts {
            if let Some(nonce) = account.nonce {
                pending.advance(*address, nonce);
            }
        }
    }

    /// Tells the gateways of left-out transactions, and forgets those that can never be executed.
    pub fn refuse(&self, refused: &[Refused]) {
        if refused.is_empty() {
            return;
        }
        let mut to = Vec::new();
        {
            let mut pending = self.pending();
            for refused in refused {
                for gateway in pending.gateways_of(&refused.transaction) {
                    to.push((gateway, refused));
                }
                if refused.drop {
                    pending.remove_everywhere(&refused.transaction);
                }
            }
        }
        let replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        for (gateway, refused) in to {
            if let Some((_, sender)) = replies.get(&gateway) {
                // A full buffer is a gateway that does not read: it hears of the next refusal.
                let _ = sender.try_send(refused.into());
            }
        }
    }

    /// Forgets transactions whose nonce the chain has passed: they were included, or another in their place.
    pub fn passed(&self, transactions: &[Arc<Transaction>]) {
        let mut pending = self.pending();
        for transaction in transactions {
            pending.remove_everywhere(transaction);
        }
    }

    fn register(
        &self,
        gateway: &Arc<str>,
        stream: StreamId,
    ) -> (
        mpsc::Sender<v1::PendingReply>,
        mpsc::Receiver<v1::PendingReply>,
    ) {
        let (sender, receiver) = mpsc::channel(REFUSALS_BUFFER);
        let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        replies.insert(gateway.clone(), (stream, sender.clone()));
        (sender, receiver)
    }

    fn unregister(&self, gateway: &str, stream: StreamId) {
        let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        if replies.get(gateway).is_some_and(|(s, _)| *s == stream) {
            replies.remove(gateway);
        }
    }
}

impl From<&Refused> for v1::PendingReply {
    fn from(refused: &Refused) -> Self {
        Self {
            reply: Some(v1::pending_reply::Reply::Refused(v1::PendingRefused {
                hash: hash_bytes(refused.transaction.hash),
                round: refused.round,
                shard: refused.shard,
                held: refused.held.iter().map(Into::into).collect(),
                reason: refused.reason.clone(),
                drop: refused.drop,
            })),
        }
    }
}
