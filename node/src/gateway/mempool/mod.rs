//! The pending transactions: pure bookkeeping, without IO, clock or randomness.
//!
//! Transactions are queued per sender, by nonce. A transaction is **ready** when nothing is missing before it and its
//! queue up to it pays the base fee: ready ones go to the executors. A transaction stays until it is in a sealed block,
//! is replaced, evicted, or dropped with a reason; so no crash of an executor loses it.
//!
//! What the pool must never know: shards, rounds other than as names of refusals, and the wire.

mod queue;
mod refusals;
mod reject;
#[cfg(test)]
mod tests;

pub use reject::{DropReason, Reject};

use super::limits::{
    AGED_AFTER_REFUSALS, MAX_AGED, MAX_DROP_REASONS, MAX_NONCES_AHEAD, MAX_POOL_BYTES,
    MAX_REFUSALS, MAX_SENDER_BYTES, POOLED_OVERHEAD_BYTES, REPLACEMENT_BUMP_PERCENT,
};
use alloy_primitives::{Address, B256, Bytes, U256};
use queue::{Entry, Queue, Worth};
use refusals::Refusals;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use troika_proto::LockKey;
use troika_store::mutant::{self, Mutant};

/// A transaction as the pool sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pooled {
    /// Keccak-256 of the envelope.
    pub hash: B256,
    /// Who signed it.
    pub sender: Address,
    /// The sender's nonce.
    pub nonce: u64,
    /// Wei per gas at most, tip included.
    pub fee_cap: u128,
    /// Wei per gas at most for the beneficiary.
    pub tip_cap: u128,
    /// Wei: gas limit times fee cap, plus value.
    pub cost: U256,
    /// EIP-2718 envelope.
    pub raw: Bytes,
}

impl Pooled {
    fn charged_bytes(&self) -> usize {
        self.raw.len() + POOLED_OVERHEAD_BYTES
    }
}

/// A sender's account at the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderState {
    /// Next nonce.
    pub nonce: u64,
    /// Wei.
    pub balance: U256,
}

/// Bounds of a pool; [`Limits::default`] gives those of [`super::limits`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Nonces ahead of the account.
    pub nonces_ahead: u64,
    /// Bytes of one sender.
    pub sender_bytes: usize,
    /// Bytes in total.
    pub pool_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            nonces_ahead: MAX_NONCES_AHEAD,
            sender_bytes: MAX_SENDER_BYTES,
            pool_bytes: MAX_POOL_BYTES,
        }
    }
}

/// What became of a transaction that was left out of a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AfterRefusal {
    /// It is not pending (any more), or this round has been counted.
    Ignored,
    /// It waits for the next round.
    Kept,
    /// It was left out three times: its keys should be reserved.
    Aged,
    /// It left the pool.
    Dropped(DropReason),
}

/// How many transactions are pending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ready: handed to executors.
    pub ready: usize,
    /// Behind a gap or below the base fee.
    pub queued: usize,
    /// Bytes charged.
    pub bytes: usize,
}

/// The pending transactions of a gateway.
#[derive(Debug, Default)]
pub struct Mempool {
    limits: Limits,
    base_fee: u64,
    queues: HashMap<Address, Queue>,
    by_hash: HashMap<B256, (Address, u64)>,
    worths: BTreeSet<(Worth, Address)>,
    bytes: usize,
    arrivals: u64,
    aged: BTreeSet<B256>,
    dropped: HashMap<B256, DropReason>,
    dropped_order: VecDeque<B256>,
    changed: BTreeSet<Address>,
}

impl Mempool {
    /// An empty pool.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Takes a transaction in. `state` is the sender's account at the head: what is below its nonce leaves.
    ///
    /// # Errors
    /// [`Reject`]; the pool is then as it was, but for that.
    pub fn add(&mut self, pooled: Pooled, state: SenderState) -> Result<(), Reject> {
        if self.by_hash.contains_key(&pooled.hash) {
            return Err(Reject::AlreadyKnown);
        }
        let sender = pooled.sender;
        // Or what is taken now would wait for what is past.
        if self
            .queues
            .get(&sender)
            .is_some_and(|q| q.nonce < state.nonce)
        {
            self.sealed(sender, state.nonce, &HashSet::new());
        }
        let queue = self.queues.get(&sender);
        let next = queue.map_or(state.nonce, |q| q.nonce.max(state.nonce));
        let found = pooled.nonce;
        let next = match mutant::on(Mutant::IncludedTwice) {
            true => next.min(found),
            false => next,
        };
        if found < next {
            return Err(Reject::NonceTooLow { next, found });
        }
        if found - next >= self.limits.nonces_ahead {
            return Err(Reject::NonceTooHigh { next, found });
        }
        if pooled.cost > state.balance {
            return Err(Reject::InsufficientFunds {
                balance: state.balance,
                cost: pooled.cost,
            });
        }
        let replaced = queue.and_then(|q| q.entries.get(&found)).cloned();
        if let Some(old) = &replaced {
            check_bump(&old.pooled, &pooled)?;
        }
        let freed = replaced.as_ref().map_or(0, |e| e.pooled.charged_bytes());
        let held = queue.map_or(0, |q| q.bytes) - freed;
        if held + pooled.charged_bytes() > self.limits.sender_bytes {
            return Err(Reject::SenderFull);
        }
        self.insert_within_limits(pooled, next, replaced)
    }

    /// Inserts, then evicts what pays least; undoes it all if that is the newcomer.
    fn insert_within_limits(
        &mut self,
        pooled: Pooled,
        nonce: u64,
        replaced: Option<Entry>,
    ) -> Result<(), Reject> {
        let hash = pooled.hash;
        if let Some(old) = &replaced {
            self.take(old.pooled.hash);
        }
        self.arrivals += 1;
        let entry = Entry {
            pooled,
            arrival: self.arrivals,
            refusals: Refusals::default(),
        };
        self.put(entry, nonce);
        let mut evicted = Vec::new();
        while self.bytes > self.limits.pool_bytes {
            let Some((entry, start)) = self.take_least() else {
                break;
            };
            if entry.pooled.hash == hash {
                let replaced = replaced.map(|old| (old, nonce));
                for (entry, start) in evicted.into_iter().chain(replaced).rev() {
                    self.restore(entry, start);
                }
                return Err(Reject::PoolFull);
            }
            evicted.push((entry, start));
        }
        if let Some(old) = replaced {
            self.remember_drop(old.pooled.hash, DropReason::Replaced(hash));
        }
        for (entry, _) in evicted {
            self.remember_drop(entry.pooled.hash, DropReason::Evicted);
        }
        self.dropped.remove(&hash);
        Ok(())
    }

    /// A sealed block gave this account a new nonce: what is below it leaves. `included` are the block's transactions.
    pub fn sealed(&mut self, sender: Address, nonce: u64, included: &HashSet<B256>) {
        for entry in self.advance(sender, nonce) {
            let hash = entry.pooled.hash;
            if !included.contains(&hash) {
                self.remember_drop(hash, DropReason::Stale(entry.pooled.nonce));
            }
        }
    }

    /// A pending transaction was left out of a proposal. `held`: another shard held its keys.
    pub fn refused(&mut self, hash: B256, round: u64, held: bool, reason: &str) -> AfterRefusal {
        let room = self.aged.len() < MAX_AGED;
        let base_fee = u128::from(self.base_fee);
        let first = self.is_first(hash);
        let Some(entry) = self.entry_mut(hash) else {
            return AfterRefusal::Ignored;
        };
        // Waiting for the base fee to fall is no refusal, nor is waiting for what is before it in the queue.
        let waits = !held && (!first || entry.pooled.fee_cap < base_fee);
        if entry.refusals.round >= round || waits {
            return AfterRefusal::Ignored;
        }
        let refusals = &mut entry.refusals;
        refusals.round = round;
        let count = if held {
            &mut refusals.held
        } else {
            &mut refusals.other
        };
        *count += 1;
        let exhausted = *count >= MAX_REFUSALS && !(held && refusals.aged);
        if exhausted {
            return self.drop_with(hash, DropReason::RefusedTooOften(reason.to_owned()));
        }
        if held && refusals.held >= AGED_AFTER_REFUSALS && (refusals.aged || room) {
            refusals.aged = true;
            self.aged.insert(hash);
            return AfterRefusal::Aged;
        }
        AfterRefusal::Kept
    }

    /// A refusal tells all that a pending transaction `writes`, or, without that, what of it was `held`.
    pub fn learn_writes(&mut self, hash: B256, writes: &[LockKey], held: &[LockKey]) {
        if let Some(entry) = self.entry_mut(hash) {
            entry.refusals.learn(writes, held);
        }
    }

    /// A pending transaction can never be executed.
    pub fn invalid(&mut self, hash: B256, reason: &str) -> AfterRefusal {
        if !self.by_hash.contains_key(&hash) {
            return AfterRefusal::Ignored;
        }
        self.drop_with(hash, DropReason::Invalid(reason.to_owned()))
    }

    /// The base fee of the next block, wei per gas: decides what is ready.
    pub fn set_base_fee(&mut self, base_fee: u64) {
        if base_fee != self.base_fee {
            let (low, high) = (
                base_fee.min(self.base_fee).into(),
                base_fee.max(self.base_fee).into(),
            );
            // Only queues with a fee cap between the two change.
            let touched = self.queues.iter().filter(|(_, queue)| {
                let mut caps = queue.entries.values().map(|e| e.pooled.fee_cap);
                caps.any(|cap: u128| (low..high).contains(&cap))
            });
            self.changed.extend(touched.map(|(sender, _)| *sender));
            self.base_fee = base_fee;
        }
    }

    /// The senders whose ready transactions may have changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<Address> {
        std::mem::take(&mut self.changed)
    }

    /// The sender's ready transactions, in nonce order.
    pub fn ready(&self, sender: Address) -> impl Iterator<Item = &Pooled> {
        let base_fee = self.base_fee;
        let queue = self.queues.get(&sender).into_iter();
        queue
            .flat_map(move |q| q.ready(base_fee))
            .map(|e| &e.pooled)
    }

    /// All pending transactions of a sender by nonce, ready or not.
    pub fn queue(&self, sender: Address) -> impl Iterator<Item = &Pooled> {
        let queue = self.queues.get(&sender).into_iter();
        queue.flat_map(|q| q.entries.values()).map(|e| &e.pooled)
    }

    /// All senders with pending transactions, ascending.
    pub fn senders(&self) -> Vec<Address> {
        let mut senders: Vec<Address> = self.queues.keys().copied().collect();
        senders.sort_unstable();
        senders
    }

    /// The nonce after the sender's pending transactions: `at_head` where there are none without a gap.
    pub fn next_nonce(&self, sender: Address, at_head: u64) -> u64 {
        self.queues.get(&sender).map_or(at_head, |queue| {
            let after = queue.nonce + queue.contiguous().count() as u64;
            after.max(at_head)
        })
    }

    /// A pending transaction.
    pub fn get(&self, hash: &B256) -> Option<&Pooled> {
        self.entry(hash).map(|entry| &entry.pooled)
    }

    /// Why a transaction was dropped, while that is remembered.
    pub fn drop_reason(&self, hash: &B256) -> Option<&DropReason> {
        self.dropped.get(hash)
    }

    /// The transactions whose keys should be reserved, at most [`MAX_AGED`], and those keys; the most refused first.
    pub fn aged(&self) -> impl Iterator<Item = (&Pooled, &[LockKey])> {
        let mut aged: Vec<&Entry> = self.aged.iter().filter_map(|h| self.entry(h)).collect();
        aged.sort_by_key(|entry| Reverse(entry.refusals.held));
        aged.into_iter()
            .map(|entry| (&entry.pooled, entry.refusals.keys.as_slice()))
    }

    /// How many transactions are pending.
    pub fn counts(&self) -> Counts {
        let ready = self.queues.values();
        let ready = ready.map(|q| q.ready(self.base_fee).count()).sum();
        Counts {
            ready,
            queued: self.by_hash.len() - ready,
            bytes: self.bytes,
        }
    }

    /// Number of pending transactions.
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// True if nothing is pending.
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    fn is_first(&self, hash: B256) -> bool {
        let place = self.by_hash.get(&hash);
        place.is_some_and(|(sender, nonce)| {
            let queue = self.queues.get(sender);
            queue.is_some_and(|q| q.entries.keys().next() == Some(nonce))
        })
    }

    fn entry(&self, hash: &B256) -> Option<&Entry> {
        let (sender, nonce) = self.by_hash.get(hash)?;
        self.queues.get(sender)?.entries.get(nonce)
    }

    fn entry_mut(&mut self, hash: B256) -> Option<&mut Entry> {
        let (sender, nonce) = self.by_hash.get(&hash)?;
        self.queues.get_mut(sender)?.entries.get_mut(nonce)
    }

    /// Moves the queue's start up to `nonce`, and returns what is below it.
    fn advance(&mut self, sender: Address, nonce: u64) -> Vec<Entry> {
        let Some(queue) = self.queues.get(&sender) else {
            return Vec::new();
        };
        if queue.nonce == nonce {
            return Vec::new();
        }
        let below = queue.entries.range(..nonce).map(|(_, e)| e.pooled.hash);
        let below: Vec<B256> = below.collect();
        let gone = below.into_iter().filter_map(|h| self.take(h)).collect();
        self.update(sender, |queue| queue.nonce = nonce);
        gone
    }

    fn drop_with(&mut self, hash: B256, reason: DropReason) -> AfterRefusal {
        self.take(hash);
        self.remember_drop(hash, reason.clone());
        AfterRefusal::Dropped(reason)
    }

    fn remember_drop(&mut self, hash: B256, reason: DropReason) {
        if self.dropped.insert(hash, reason).is_none() {
            self.dropped_order.push_back(hash);
        }
        if self.dropped_order.len() > MAX_DROP_REASONS
            && let Some(oldest) = self.dropped_order.pop_front()
        {
            self.dropped.remove(&oldest);
        }
    }

    /// Takes the last transaction of the least worthy queue, with the nonce that the queue starts at.
    fn take_least(&mut self) -> Option<(Entry, u64)> {
        let (_, sender) = self.worths.first()?;
        let queue = self.queues.get(sender)?;
        let start = queue.nonce;
        let (_, entry) = queue.entries.last_key_value()?;
        Some((self.take(entry.pooled.hash)?, start))
    }

    fn take(&mut self, hash: B256) -> Option<Entry> {
        let (sender, nonce) = self.by_hash.remove(&hash)?;
        self.aged.remove(&hash);
        let mut taken = None;
        self.update(sender, |queue| taken = queue.remove(nonce));
        if let Some(entry) = &taken {
            self.bytes -= entry.pooled.charged_bytes();
        }
        taken
    }

    fn restore(&mut self, entry: Entry, start: u64) {
        if entry.refusals.aged {
            self.aged.insert(entry.pooled.hash);
        }
        self.put(entry, start);
    }

    /// Puts an entry into its queue, which starts at `start` where it is new.
    fn put(&mut self, entry: Entry, start: u64) {
        let sender = entry.pooled.sender;
        self.bytes += entry.pooled.charged_bytes();
        self.by_hash
            .insert(entry.pooled.hash, (sender, entry.pooled.nonce));
        self.queues
            .entry(sender)
            .or_insert_with(|| Queue::new(start));
        self.update(sender, |queue| queue.insert(entry));
    }

    /// Changes a queue and keeps the order of eviction true to it. An emptied queue goes.
    fn update(&mut self, sender: Address, change: impl FnOnce(&mut Queue)) {
        let Some(queue) = self.queues.get_mut(&sender) else {
            return;
        };
        if let Some(worth) = queue.worth() {
            self.worths.remove(&(worth, sender));
        }
        change(queue);
        match queue.worth() {
            Some(worth) => {
                self.worths.insert((worth, sender));
            }
            None => {
                self.queues.remove(&sender);
            }
        }
        self.changed.insert(sender);
    }
}

/// Both caps must rise by the bump, rounded up.
fn check_bump(old: &Pooled, new: &Pooled) -> Result<(), Reject> {
    let bumped = |cap: u128| {
        cap.saturating_add(
            cap.saturating_mul(REPLACEMENT_BUMP_PERCENT)
                .div_ceil(100)
                .max(1),
        )
    };
    let (fee_cap, tip_cap) = (bumped(old.fee_cap), bumped(old.tip_cap));
    // A tip cap of zero need not rise: there is no ten percent of nothing.
    let tip_cap = if old.tip_cap == 0 { 0 } else { tip_cap };
    if new.fee_cap < fee_cap || new.tip_cap < tip_cap {
        return Err(Reject::ReplacementUnderpriced { fee_cap, tip_cap });
    }
    Ok(())
}
