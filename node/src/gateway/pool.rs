//! All that is pending, with its places: what one lock guards.
//!
//! Ties the pure parts together: [`Mempool`] says what is ready, [`Router`] where it goes, and the difference to what
//! the executors were told before goes to their streams as [`Update`]s. No IO, no await.

use super::limits::{MAX_CACHED_ACCOUNTS, MAX_WAITING_ESTIMATES, UPDATE_BUFFER};
use super::mempool::{AfterRefusal, Limits, Mempool, Pooled, Reject, SenderState};
use super::routing::{Estimate, History, Placed, Policy, Router, estimate};
use crate::execution::Transaction;
use alloy_primitives::{Address, B256, Bytes};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::broadcast;
use troika_proto::{ChainConfig, Diff, Header, LockKey, LockRule, U256};

/// A change of the pending set, for the executors.
#[derive(Clone, Debug)]
pub enum Update {
    /// More transactions of a sender, in nonce order.
    Add(Address, Placed, Vec<Bytes>),
    /// The sender goes elsewhere from a round on. Who did not have it is sent its queue, as it is by then.
    Move(Address, Placed),
    /// Included, replaced or dropped.
    Remove(Vec<B256>),
    /// The transactions that were refused too often, in the order in which their keys are reserved.
    Aged(Vec<Aged>),
}

/// A transaction whose keys whoever opens the next round reserves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aged {
    /// Who signed it.
    pub sender: Address,
    /// The sender's nonce.
    pub nonce: u64,
    /// Where the sender's queue goes.
    pub placed: Placed,
    /// What it writes, as far as its refusals told.
    pub keys: Vec<LockKey>,
}

/// What the executors know of a sender: nonce -> transaction.
type Handed = BTreeMap<u64, (B256, Bytes, Estimate)>;

/// The pending set of a gateway.
pub struct Pool {
    mempool: Mempool,
    router: Router,
    history: History,
    lock_rule: LockRule,
    handed: HashMap<Address, Handed>,
    /// Of transactions that are not handed out.
    estimates: HashMap<B256, Estimate>,
    /// True on a chain that replays a block.
    replays: bool,
    /// Accounts at `head`.
    accounts: HashMap<Address, SenderState>,
    head: B256,
    /// The round that is open, or will be next: new senders are placed from it on.
    round: u64,
    /// As the executors were told.
    aged: Vec<Aged>,
    updates: broadcast::Sender<Arc<Update>>,
}

impl Pool {
    /// Nothing pending yet.
    pub fn new(config: &ChainConfig, policy: Policy) -> Self {
        Self {
            mempool: Mempool::new(Limits::default()),
            router: Router::new(policy, config.shards, config.shard_gas_limit),
            history: History::new(),
            lock_rule: config.lock_rule,
            handed: HashMap::new(),
            estimates: HashMap::new(),
            replays: config.fixed.is_some(),
            accounts: HashMap::new(),
            head: B256::ZERO,
            round: 0,
            aged: Vec::new(),
            updates: broadcast::channel(UPDATE_BUFFER).0,
        }
    }

    /// The pending transactions.
    pub fn mempool(&self) -> &Mempool {
        &self.mempool
    }

    /// The head that this pool stands on.
    pub fn head(&self) -> B256 {
        self.head
    }

    /// The sender's account at the head, if it is known here.
    pub fn account(&self, sender: Address) -> Option<SenderState> {
        self.accounts.get(&sender).copied()
    }

    /// Remembers accounts that were read at `block`; those of another block than the head are not taken.
    pub fn learn_accounts(&mut self, block: B256, accounts: &[(Address, SenderState)]) -> bool {
        if block != self.head {
            return false;
        }
        if self.accounts.len() + accounts.len() > MAX_CACHED_ACCOUNTS {
            self.accounts.clear();
        }
        self.accounts.extend(accounts.iter().copied());
        true
    }

    /// Takes a transaction in. `state` is its sender's account at the head; `estimate` what a simulation said of it.
    ///
    /// # Errors
    /// [`Reject`].
    pub fn add(
        &mut self,
        tx: &Transaction,
        mut state: SenderState,
        estimate: Option<Estimate>,
    ) -> Result<(), Reject> {
        if self.replays {
            // The block that is replayed may itself pay the sender first.
            state.balance = U256::MAX;
        }
        self.mempool.add(
            Pooled {
                hash: tx.hash,
                sender: tx.sender,
                nonce: tx.nonce(),
                fee_cap: tx.max_fee(),
                tip_cap: tx.max_tip(),
                cost: tx.max_cost(),
                raw: tx.raw.clone(),
            },
            state,
        )?;
        // Now, since the transaction is decoded now: that may take long, and flushing holds everybody up.
        let estimate = estimate.unwrap_or_else(|| self.stated(tx));
        self.estimates.insert(tx.hash, estimate);
        Ok(())
    }

    /// What calls wrote lately says, and what the transaction states.
    pub fn stated(&self, tx: &Transaction) -> Estimate {
        estimate::stated(tx, self.lock_rule, &self.history)
    }

    /// A round was opened.
    pub fn round_opened(&mut self, round: u64) {
        self.round = self.round.max(round);
    }

    /// A block became the head: its transactions leave, accounts and base fee follow.
    pub fn sealed(&mut self, block: &SealedBlock<'_>) {
        let known = block.parent == self.head;
        self.head = block.hash;
        self.round = self.round.max(block.round + 1);
        if !known {
            self.accounts.clear();
        }
        for (address, change) in &block.diff.accounts {
            if let Some(nonce) = change.nonce {
                self.mempool.sealed(*address, nonce, block.included);
            }
            if let Some(account) = self.accounts.get_mut(address) {
                account.nonce = change.nonce.unwrap_or(account.nonce);
                match change.balance.apply(account.balance) {
                    Some(balance) => account.balance = balance,
                    None => drop(self.accounts.remove(address)),
                }
            }
        }
        if let Some(payee) = self.accounts.get_mut(&block.beneficiary) {
            payee.balance = payee.balance.saturating_add(block.fees);
        }
        self.mempool.set_base_fee(block.next_base_fee);
    }

    /// Starts anew on a head, where blocks in between were missed. Returns the senders whose accounts must be read for
    /// [`Self::catch_up`].
    pub fn restart(&mut self, head: B256, next_base_fee: u64, round: u64) -> Vec<Address> {
        self.head = head;
        self.accounts.clear();
        self.round = self.round.max(round);
        self.mempool.set_base_fee(next_base_fee);
        self.mempool.senders()
    }

    /// A sender's account after [`Self::restart`]: what is below its nonce leaves.
    pub fn catch_up(&mut self, sender: Address, state: SenderState) {
        self.mempool.sealed(sender, state.nonce, &HashSet::new());
        self.accounts.insert(sender, state);
    }

    /// Where a sender's transactions go.
    pub fn place(&self, sender: Address) -> Option<Placed> {
        self.router.place(sender)
    }

    /// What sealed blocks taught about calls.
    pub fn history_mut(&mut self) -> &mut History {
        &mut self.history
    }

    /// A refusal tells all that a transaction `writes`, or, without that, what of it was `held`.
    pub fn learn_writes(&mut self, hash: B256, writes: &[LockKey], held: &[LockKey]) {
        self.mempool.learn_writes(hash, writes, held);
    }

    /// An executor left a transaction out. `holder`: the shard that held its keys.
    pub fn refused(
        &mut self,
        hash: B256,
        round: u64,
        holder: Option<u32>,
        reason: &str,
    ) -> AfterRefusal {
        let Some(sender) = self.mempool.get(&hash).map(|p| p.sender) else {
            return AfterRefusal::Ignored;
        };
        let after = self.mempool.refused(hash, round, holder.is_some(), reason);
        let waits = matches!(after, AfterRefusal::Kept | AfterRefusal::Aged);
        if let (true, Some(shard)) = (waits, holder) {
            self.round = self.round.max(round);
            self.follow(sender, shard, round);
        }
        after
    }

    /// Moves a sender to the shard that held its keys, from the next round on: executors ignore routes of other rounds,
    /// so that it is never proposed in two shards of one.
    fn follow(&mut self, sender: Address, shard: u32, refused: u64) {
        if let Some(placed) = self.router.follow(sender, shard, self.round + 1, refused) {
            self.tell(Update::Move(sender, placed));
        }
    }

    /// What the executors were told of a sender, in nonce order.
    pub fn handed(&self, sender: Address) -> Vec<Bytes> {
        let queue = self.handed.get(&sender).into_iter().flatten();
        queue.map(|(_, (_, raw, _))| raw.clone()).collect()
    }

    /// A transaction that can never be executed.
    pub fn invalid(&mut self, hash: B256, reason: &str) -> AfterRefusal {
        self.mempool.invalid(hash, reason)
    }

    /// Tells the executors what has changed since the last call.
    pub fn flush(&mut self) {
        let mut removed = Vec::new();
        let mut fresh: Vec<(Address, Vec<u64>)> = Vec::new();
        let mut estimates = Vec::new();
        for sender in self.mempool.take_changed() {
            let gone = self.forget_gone(sender, &mut removed);
            let handed = self.handed.entry(sender).or_default();
            if gone {
                let kept: Vec<Estimate> = handed.values().map(|(_, _, e)| e.clone()).collect();
                self.router.refresh(sender, &kept);
            }
            let mut nonces = Vec::new();
            for pooled in self.mempool.ready(sender) {
                if handed.contains_key(&pooled.nonce) {
                    continue;
                }
                // Decoding costs the recovery of its authorities: only where no estimate is left of it.
                let estimate = match self.estimates.remove(&pooled.hash) {
                    Some(estimate) => estimate,
                    None => match Transaction::with_sender(pooled.raw.clone(), sender) {
                        Ok(tx) => estimate::stated(&tx, self.lock_rule, &self.history),
                        Err(_) => continue,
                    },
                };
                estimates.push(estimate.clone());
                handed.insert(pooled.nonce, (pooled.hash, pooled.raw.clone(), estimate));
                nonces.push(pooled.nonce);
            }
            if handed.is_empty() {
                self.handed.remove(&sender);
            }
            if !nonces.is_empty() {
                fresh.push((sender, nonces));
            }
        }
        if self.estimates.len() > MAX_WAITING_ESTIMATES {
            let mempool = &self.mempool;
            self.estimates.retain(|hash, _| mempool.get(hash).is_some());
        }
        self.router.route(&estimates, self.round);
        if !removed.is_empty() {
            self.tell(Update::Remove(removed));
        }
        for (sender, nonces) in fresh {
            let (Some(placed), Some(handed)) =
                (self.router.place(sender), self.handed.get(&sender))
            else {
                continue;
            };
            let raws = nonces.iter().filter_map(|n| handed.get(n));
            let raws = raws.map(|(_, raw, _)| raw.clone()).collect();
            self.tell(Update::Add(sender, placed, raws));
        }
        self.tell_aged();
    }

    /// Tells the executors whose keys are to be reserved, where that has changed.
    fn tell_aged(&mut self) {
        let aged = self.mempool.aged().filter(|(_, keys)| !keys.is_empty());
        let aged = aged.filter_map(|(pooled, keys)| {
            Some(Aged {
                sender: pooled.sender,
                nonce: pooled.nonce,
                placed: self.router.place(pooled.sender)?,
                keys: keys.to_vec(),
            })
        });
        let aged: Vec<Aged> = aged.collect();
        if aged != self.aged {
            self.aged.clone_from(&aged);
            self.tell(Update::Aged(aged));
        }
    }

    /// Forgets what executors were handed of a sender and is no longer ready as it was. True if there was something.
    fn forget_gone(&mut self, sender: Address, removed: &mut Vec<B256>) -> bool {
        let Some(handed) = self.handed.get_mut(&sender) else {
            return false;
        };
        let before = removed.len();
        let mut ready = self.mempool.ready(sender).peekable();
        let (mempool, estimates) = (&self.mempool, &mut self.estimates);
        handed.retain(|nonce, (hash, _, estimate)| {
            while ready.peek().is_some_and(|p| p.nonce < *nonce) {
                ready.next();
            }
            let kept = ready.peek().is_some_and(|p| p.hash == *hash);
            if !kept {
                removed.push(*hash);
                if mempool.get(hash).is_some() {
                    // It may be ready again.
                    estimates.insert(*hash, estimate.clone());
                }
            }
            kept
        });
        removed.len() > before
    }

    /// Everything that executors should have now, and all changes from here on, without a gap between them.
    pub fn subscribe(&self) -> (Vec<Update>, broadcast::Receiver<Arc<Update>>) {
        let snapshot = self.handed.iter().filter_map(|(sender, handed)| {
            let placed = self.router.place(*sender)?;
            let raws = handed.values().map(|(_, raw, _)| raw.clone()).collect();
            Some(Update::Add(*sender, placed, raws))
        });
        let aged = (!self.aged.is_empty()).then(|| Update::Aged(self.aged.clone()));
        (snapshot.chain(aged).collect(), self.updates.subscribe())
    }

    fn tell(&self, update: Update) {
        // Nobody listens while no executor is connected: the snapshot will tell.
        let _ = self.updates.send(Arc::new(update));
    }
}

/// What the pool takes from a block that became the head.
#[derive(Clone, Copy, Debug)]
pub struct SealedBlock<'a> {
    /// Its hash.
    pub hash: B256,
    /// Its parent.
    pub parent: B256,
    /// Its round.
    pub round: u64,
    /// All shards' diffs merged.
    pub diff: &'a Diff,
    /// All shards' fees, wei.
    pub fees: U256,
    /// Who gets them.
    pub beneficiary: Address,
    /// Hashes of its transactions.
    pub included: &'a HashSet<B256>,
    /// Base fee of the block after it, wei per gas.
    pub next_base_fee: u64,
}

impl<'a> SealedBlock<'a> {
    /// From its parts.
    pub fn new(
        config: &ChainConfig,
        (hash, header): (B256, &Header),
        round: u64,
        (diff, fees): (&'a Diff, U256),
        included: &'a HashSet<B256>,
    ) -> Self {
        Self {
            hash,
            parent: header.parent_hash,
            round,
            diff,
            fees,
            beneficiary: config.beneficiary,
            included,
            next_base_fee: next_base_fee(config, header),
        }
    }
}

/// Base fee of transactions after `head`: a replayed block's own in a replay.
pub fn next_base_fee(config: &ChainConfig, head: &Header) -> u64 {
    match &config.fixed {
        Some(fixed) => fixed.environment.base_fee,
        None => config.next_base_fee(head),
    }
}
