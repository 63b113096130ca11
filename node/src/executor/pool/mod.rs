//! The pending pool: pending transactions of this executor's shards, as its gateways hand them in.
//!
//! [`Pending`] is the set itself, pure; [`PoolService`] takes the gateways' streams; [`Pool`] is what the race sees.

mod aged;
mod pending;
mod recent;
mod service;

pub use pending::{Heard, Pending, Select, StreamId};
pub use service::PoolService;

use super::limits::{FOLLOW_WAIT, REFUSALS_BUFFER, SENDER_TRANSACTIONS};
use crate::execution::Transaction;
use crate::store_client::LockHolder;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use troika_proto::wire::hash_bytes;
use troika_proto::{B256, Diff, LockKey, v1};

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
    /// With `held`: all that it would lock, where that is known.
    pub writes: Vec<LockKey>,
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
    /// The newest head whose transactions have left.
    followed: watch::Sender<B256>,
    replies: Mutex<HashMap<Arc<str>, Replies>>,
}

impl Pool {
    /// An empty pool of at most `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            pending: Mutex::new(Pending::new(limit_bytes, SENDER_TRANSACTIONS)),
            version: watch::Sender::new(0),
            followed: watch::Sender::new(B256::ZERO),
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

    /// Forgets what a sealed block included: every transaction below the nonces that its shards set.
    pub fn sealed(&self, diffs: &[&Diff]) {
        let mut pending = self.pending();
        for (address, account) in diffs.iter().flat_map(|diff| &diff.accounts) {
            if let Some(nonce) = account.nonce {
                pending.advance(*address, nonce);
            }
        }
    }

    /// All that the block `head` included has left, as far as that is known here.
    pub fn followed(&self, head: B256) {
        self.followed.send_replace(head);
    }

    /// Keys to reserve in `round` on `parent`, each for one shard. Where there are any, waits a moment for the pool to follow
    /// that block: what it included would keep them from others for a whole round.
    pub async fn reservations(&self, parent: B256, round: u64) -> Vec<(LockKey, u32)> {
        if self.pending().aged.is_empty() {
            return Vec::new();
        }
        let mut followed = self.followed.subscribe();
        let following = followed.wait_for(|head| *head == parent);
        // Too late is no harm: the gateways' next word mends it.
        timeout(FOLLOW_WAIT, following).await.ok();
        self.pending().reservations(round)
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
                writes: refused.writes.iter().map(|key| (*key).into()).collect(),
                reason: refused.reason.clone(),
                drop: refused.drop,
            })),
        }
    }
}
