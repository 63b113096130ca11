//! Recovering many senders at once, and none twice.

use super::transaction::{Transaction, TxError};
use alloy_primitives::{B256, Bytes, keccak256};
use std::collections::{HashMap, VecDeque};
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Most threads that one call recovers on.
pub const MAX_RECOVERY_THREADS: usize = 16;
/// Fewer transactions than this are recovered on the calling thread: a thread costs about one recovery.
const MIN_PER_THREAD: usize = 4;

/// Recovers all, in order, on as many threads as the machine has, at most [`MAX_RECOVERY_THREADS`].
pub fn recover_all(raw: &[Bytes]) -> Vec<Result<Transaction, TxError>> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = cores
        .min(MAX_RECOVERY_THREADS)
        .min(raw.len() / MIN_PER_THREAD);
    if threads <= 1 {
        return raw.iter().cloned().map(Transaction::recover).collect();
    }
    let next = AtomicUsize::new(0);
    let results: Vec<OnceLock<Result<Transaction, TxError>>> =
        raw.iter().map(|_| OnceLock::new()).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(bytes) = raw.get(i) else { break };
                    let _ = results[i].set(Transaction::recover(bytes.clone()));
                }
            });
        }
    });
    let unset = || Err(TxError::Undecodable("not recovered".to_owned()));
    let done = results.into_iter();
    done.map(|r| r.into_inner().unwrap_or_else(unset)).collect()
}

/// Transactions whose senders were recovered here, by hash, oldest out first. Bounded in bytes.
///
/// A sender that came from elsewhere ([`Transaction::with_sender`]) is never kept: what this cache holds was checked.
#[derive(Debug)]
pub struct RecoveryCache {
    max_bytes: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    by_hash: HashMap<B256, Arc<Transaction>>,
    order: VecDeque<B256>,
    bytes: usize,
}

impl RecoveryCache {
    /// An empty cache of at most `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            held: Mutex::default(),
        }
    }

    /// Recovers all that are not held yet, on several threads, and answers all in order.
    pub fn recover_all(&self, raw: &[Bytes]) -> Vec<Result<Arc<Transaction>, TxError>> {
        let hashes: Vec<B256> = raw.iter().map(keccak256).collect();
        let mut found: Vec<Option<Result<Arc<Transaction>, TxError>>> = {
            let held = self.lock();
            let known = hashes.iter().map(|h| held.by_hash.get(h).cloned().map(Ok));
            known.collect()
        };
        let missing: Vec<usize> = (0..raw.len()).filter(|i| found[*i].is_none()).collect();
        let bytes: Vec<Bytes> = missing.iter().map(|i| raw[*i].clone()).collect();
        let recovered = recover_all(&bytes);
        let mut held = self.lock();
        for (i, result) in missing.into_iter().zip(recovered) {
            found[i] = Some(result.map(|transaction| {
                let transaction = Arc::new(transaction);
                held.insert(transaction.clone(), self.max_bytes);
                transaction
            }));
        }
        found.into_iter().flatten().collect()
    }

    /// Recovers one, or finds it.
    ///
    /// # Errors
    /// As [`Transaction::recover`].
    pub fn recover(&self, raw: Bytes) -> Result<Arc<Transaction>, TxError> {
        let hash = keccak256(&raw);
        let known = self.lock().by_hash.get(&hash).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let transaction = Arc::new(Transaction::recover(raw)?);
        self.lock().insert(transaction.clone(), self.max_bytes);
        Ok(transaction)
    }

    /// Bytes held now, about.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // Nothing that holds the lock can panic half-way.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn insert(&mut self, transaction: Arc<Transaction>, max_bytes: usize) {
        let (hash, size) = (transaction.hash, transaction.size());
        if size > max_bytes || self.by_hash.insert(hash, transaction).is_some() {
            return;
        }
        self.order.push_back(hash);
        self.bytes += size;
        while self.bytes > max_bytes {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            if let Some(gone) = self.by_hash.remove(&oldest) {
                self.bytes -= gone.size();
            }
        }
    }
}
