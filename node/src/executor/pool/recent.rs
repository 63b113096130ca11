//! Transactions that have left the pending set: second executions ask for their senders, which nobody is to recover again.

use crate::execution::Transaction;
use std::collections::HashMap;
use std::sync::Arc;
use troika_proto::B256;

/// What left lately, in two generations: the older one goes when the younger one is full.
pub struct Recent {
    limit_bytes: usize,
    /// Of the younger generation.
    bytes: usize,
    generations: [HashMap<B256, Arc<Transaction>>; 2],
}

impl Recent {
    /// Of at most about `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            bytes: 0,
            generations: Default::default(),
        }
    }

    /// A transaction has left.
    pub fn insert(&mut self, transaction: Arc<Transaction>) {
        let size = transaction.size();
        if self.bytes + size > self.limit_bytes / 2 {
            self.generations.swap(0, 1);
            self.generations[0].clear();
            self.bytes = 0;
        }
        if self.generations[0]
            .insert(transaction.hash, transaction)
            .is_none()
        {
            self.bytes += size;
        }
    }

    /// One that left lately.
    pub fn get(&self, hash: &B256) -> Option<&Arc<Transaction>> {
        let mut generations = self.generations.iter();
        generations.find_map(|generation| generation.get(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::cluster::transfer;
    use super::*;

    #[test]
    fn what_left_last_is_kept_within_the_bytes_that_it_may_take() {
        let left = |nonce| {
            let signed = transfer(1, nonce, 0xaa);
            Arc::new(Transaction::with_sender(signed.raw, signed.sender).expect("a transaction"))
        };
        let size = left(0).size();
        let mut recent = Recent::new(10 * size);
        for nonce in 0..100 {
            let transaction = left(nonce);
            recent.insert(transaction.clone());
            recent.insert(transaction.clone());
            assert!(recent.get(&transaction.hash).is_some());
            let held: usize = recent.generations.iter().map(HashMap::len).sum();
            assert!(held * size <= recent.limit_bytes, "{held}");
        }
        assert!(recent.get(&left(96).hash).is_some());
        assert!(recent.get(&left(50).hash).is_none());
    }
}
