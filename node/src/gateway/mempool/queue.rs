//! One sender's transactions, by nonce.

use super::Pooled;
use super::refusals::Refusals;
use std::collections::BTreeMap;

/// A transaction in a queue.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) pooled: Pooled,
    /// Order of arrival, over the whole pool.
    pub(super) arrival: u64,
    pub(super) refusals: Refusals,
}

/// What decides which queue loses its last transaction when the pool is full: the least goes first. Queues with a gap
/// go before those without, since what is behind a gap cannot be executed; then the queue whose cheapest transaction
/// pays least, since nothing behind it can be included before it; then the youngest.
pub(super) type Worth = (bool, u128, std::cmp::Reverse<u64>);

/// One sender's transactions. Never empty inside the pool.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    /// The account's nonce at the head: no entry is below it.
    pub(super) nonce: u64,
    pub(super) entries: BTreeMap<u64, Entry>,
    pub(super) bytes: usize,
    /// How many entries have this fee cap.
    fees: BTreeMap<u128, usize>,
}

impl Queue {
    pub(super) fn new(nonce: u64) -> Self {
        Self {
            nonce,
            ..Self::default()
        }
    }

    /// Adds an entry whose nonce is free.
    pub(super) fn insert(&mut self, entry: Entry) {
        self.bytes += entry.pooled.charged_bytes();
        *self.fees.entry(entry.pooled.fee_cap).or_default() += 1;
        let before = self.entries.insert(entry.pooled.nonce, entry);
        debug_assert!(before.is_none(), "the nonce was free");
    }

    pub(super) fn remove(&mut self, nonce: u64) -> Option<Entry> {
        let entry = self.entries.remove(&nonce)?;
        self.bytes -= entry.pooled.charged_bytes();
        let fee = entry.pooled.fee_cap;
        if let Some(count) = self.fees.get_mut(&fee) {
            *count -= 1;
            if *count == 0 {
                self.fees.remove(&fee);
            }
        }
        Some(entry)
    }

    /// `None` for an empty queue.
    pub(super) fn worth(&self) -> Option<Worth> {
        let (last, entry) = self.entries.last_key_value()?;
        let contiguous = last - self.nonce + 1 == self.entries.len() as u64;
        let cheapest = *self.fees.first_key_value()?.0;
        Some((contiguous, cheapest, std::cmp::Reverse(entry.arrival)))
    }

    /// The entries that follow the account's nonce without a gap.
    pub(super) fn contiguous(&self) -> impl Iterator<Item = &Entry> {
        let first = self.nonce;
        self.entries
            .iter()
            .zip(first..)
            .take_while(|((nonce, _), expected)| **nonce == *expected)
            .map(|((_, entry), _)| entry)
    }

    /// The entries that can be executed now: without a gap, each paying the base fee.
    pub(super) fn ready(&self, base_fee: u64) -> impl Iterator<Item = &Entry> {
        self.contiguous()
            .take_while(move |e| e.pooled.fee_cap >= u128::from(base_fee))
    }
}
