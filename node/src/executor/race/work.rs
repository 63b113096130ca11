//! One shard in the making: from the pending pool into a builder, on a thread that may block.

use super::super::cache::CacheView;
use super::super::limits::{AGED_KEYS, CONFLICT_READS, FULL_SKIPS, SELECT_SHARDS_OF_GAS};
use super::super::pool::{Refused, Select};
use super::super::shared::Shared;
use super::super::verify::Ground;
use super::Race;
use crate::execution::{Builder, Invalid, Push, Transaction, Unavailable};
use crate::store_client::LockHolder;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use troika_proto::{Address, LockKey, Shard};

/// A shard in the making.
pub struct Work {
    shared: Arc<Shared>,
    race: Arc<Race>,
    shard: u32,
    over: CancellationToken,
    ground: Ground,
    builder: Builder<Arc<CacheView>>,
    /// Next nonce of every sender in the shard.
    taken: HashMap<Address, u64>,
    /// Senders of whom nothing more can go into this shard: a key that they write is held elsewhere.
    out: HashSet<Address>,
    /// Everything up to this version of the pool was tried.
    since: u64,
    /// The next pending transaction does not fit.
    full: bool,
    held: HashMap<LockKey, LockHolder>,
    /// The pass over what is pending that an ended slice interrupted.
    pass: Pass,
}

/// What one pass over everything pending has found beside what it included. It may take several slices.
#[derive(Default)]
struct Pass {
    refused: Vec<Refused>,
    passed: Vec<Arc<Transaction>>,
    /// Senders who are done for this pass.
    parked: HashSet<Address>,
    full_skips: usize,
    full: bool,
}

impl Work {
    pub fn new(shared: &Arc<Shared>, race: &Arc<Race>, shard: u32) -> Self {
        let ground = race.ground(shared);
        let (rules, environment) = (ground.rules.clone(), ground.environment.clone());
        Self {
            builder: Builder::new(rules, environment, ground.view.clone()),
            ground,
            shared: shared.clone(),
            over: race.over(shard),
            race: race.clone(),
            shard,
            taken: HashMap::new(),
            out: HashSet::new(),
            since: 0,
            full: false,
            held: HashMap::new(),
            pass: Pass::default(),
        }
    }

    /// True if the next pending transaction does not fit.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Transactions in the shard.
    pub fn len(&self) -> usize {
        self.builder.len()
    }

    /// True if something pending has not been tried.
    pub fn has_more(&self) -> bool {
        !self.full
            && self
                .shared
                .pool
                .pending()
                .has_changed(self.shard, self.since)
    }

    /// Appends what is pending for at most about `slice`, until the shard is full, all was tried, or the race is over.
    /// True: there is more to try.
    ///
    /// # Errors
    /// [`Unavailable`] where the store does not answer; what was appended stays.
    pub fn append(&mut self, slice: Duration) -> Result<bool, Unavailable> {
        let end = Instant::now() + slice;
        let mut pass = std::mem::take(&mut self.pass);
        let more = self.go_over(&mut pass, end);
        self.shared.pool.passed(&std::mem::take(&mut pass.passed));
        self.shared.pool.refuse(&std::mem::take(&mut pass.refused));
        match more {
            Ok(true) => self.pass = pass,
            Ok(false) => self.full = pass.full || pass.full_skips > 0,
            Err(_) => {}
        }
        more
    }

    /// Tries what is pending until `end`; `false` where nothing is left to try.
    fn go_over(&mut self, pass: &mut Pass, end: Instant) -> Result<bool, Unavailable> {
        loop {
            // Who is parked or out has no next nonce.
            let mut taken = self.taken.clone();
            let done = pass.parked.iter().chain(&self.out);
            taken.extend(done.map(|address| (*address, u64::MAX)));
            let selection = self.shared.pool.pending().select(&Select {
                shard: self.shard,
                round: self.race.round.number,
                base_fee: self.race.environment.base_fee,
                since: self.since,
                taken: &taken,
                gas: self.builder.gas_left().max(1) * SELECT_SHARDS_OF_GAS,
            });
            let transactions: Vec<_> = selection.queues.into_iter().flatten().collect();
            let runtime = &self.ground.runtime;
            self.ground.view.prefetch_blocking(runtime, &transactions)?;
            self.push(&transactions, pass, end)?;
            // Before the next selection, which would find them again.
            self.shared.pool.passed(&std::mem::take(&mut pass.passed));
            if pass.full || self.over.is_cancelled() {
                return Ok(false);
            }
            if Instant::now() >= end {
                return Ok(true);
            }
            if transactions.is_empty() || !selection.more {
                self.since = selection.version;
                return Ok(false);
            }
        }
    }

    /// Pushes one after the other until `end`; what the view misses on the way is loaded, for all of them together.
    fn push(
        &mut self,
        transactions: &[Arc<Transaction>],
        pass: &mut Pass,
        end: Instant,
    ) -> Result<(), Unavailable> {
        let mut turns = 0;
        self.ground.view.be_quick();
        let tried = Cell::new(0);
        loop {
            let rest = &transactions[tried.get()..];
            let gas_floor = GAS_FLOOR;
            let pushed = {
                let pass = RefCell::new(&mut *pass);
                let (taken, race, shard, held) =
                    (&mut self.taken, &self.race, self.shard, &self.held);
                let (out, over) = (&mut self.out, &self.over);
                let shard_gas_limit = self.shared.rules.shard_gas_limit;
                let mut gas_used = self.builder.gas_used();
                let candidates = rest.iter().filter(|transaction| {
                    let parked = pass.borrow().parked.contains(&transaction.sender);
                    if parked {
                        tried.set(tried.get() + 1);
                    }
                    !parked
                });
                self.builder.push_all(candidates, |transaction, push| {
                    tried.set(tried.get() + 1);
                    let mut pass = pass.borrow_mut();
                    if let Push::Included { gas, .. } = &push {
                        gas_used += gas;
                        taken.insert(transaction.sender, transaction.nonce() + 1);
                    } else {
                        pass.left_out(transaction, push, race.round.number, shard, held, out);
                        pass.full = pass.full
                            || pass.full_skips >= FULL_SKIPS
                            || (pass.full_skips > 0 && shard_gas_limit - gas_used < gas_floor);
                    }
                    !pass.full && !over.is_cancelled() && Instant::now() < end
                })
            };
            let Err(error) = pushed else {
                return Ok(());
            };
            let rest = &transactions[tried.get()..];
            self.ground.catch_up(error, rest, &mut turns)?;
        }
    }

    /// Leaves out what writes these keys, which other shards hold, and what depends on it.
    pub fn leave_out(&mut self, holders: &[LockHolder]) {
        self.held.extend(holders.iter().map(|h| (h.key, *h)));
        // What each would have locked: to be reserved for those that are refused too often.
        let writes = self.builder.writes();
        let writes: HashMap<_, _> = self
            .builder
            .transactions()
            .map(|transaction| transaction.hash)
            .zip(writes)
            .filter(|(_, keys)| keys.iter().any(|key| self.held.contains_key(key)))
            .collect();
        let mut turns = 0;
        let mut removed = self.builder.bar(holders.iter().map(|h| h.key));
        // State that only shows now: load it, and put back what was not tried.
        while removed.iter().any(|r| r.reason.is_err()) && turns < CONFLICT_READS {
            turns += 1;
            let Ground { view, runtime, .. } = &self.ground;
            let missing = view.take_missing();
            if missing.is_empty() || view.load_blocking(runtime, missing).is_err() {
                break;
            }
            let mut again = Vec::with_capacity(removed.len());
            for mut one in removed {
                if one.reason.is_err() {
                    one.reason = self.builder.push(&one.transaction);
                }
                if !matches!(one.reason, Ok(Push::Included { .. })) {
                    again.push(one);
                }
            }
            removed = again;
        }
        let mut refused = Vec::new();
        for one in removed {
            self.out.insert(one.transaction.sender);
            if let Ok(Push::Held(key)) = one.reason {
                let keys = writes.get(&one.transaction.hash);
                let keys = keys.map_or(std::slice::from_ref(&key), Vec::as_slice);
                let held = keys.iter().filter_map(|key| self.held.get(key)).copied();
                let writes = keys.iter().filter(|_| keys.len() <= AGED_KEYS);
                refused.push(Refused {
                    held: held.collect(),
                    writes: writes.copied().collect(),
                    transaction: one.transaction,
                    round: self.race.round.number,
                    shard: self.shard,
                    reason: String::new(),
                    drop: false,
                });
            }
        }
        self.taken.clear();
        for transaction in self.builder.transactions() {
            self.taken
                .insert(transaction.sender, transaction.nonce() + 1);
        }
        self.shared.pool.refuse(&refused);
    }

    /// The shard as it stands.
    pub fn finish(&self) -> Shard {
        self.builder.finish(self.shard)
    }
}

/// Below this much gas nothing fits: a plain transfer's.
const GAS_FLOOR: u64 = 21_000;

impl Pass {
    fn left_out(
        &mut self,
        transaction: &Arc<Transaction>,
        push: Push,
        round: u64,
        shard: u32,
        holders: &HashMap<LockKey, LockHolder>,
        out: &mut HashSet<Address>,
    ) {
        let (held, reason, drop) = match push {
            Push::Included { .. } => return,
            // Included before, or another in its place: the sender's next one may be fine.
            Push::Drop(Invalid::NonceTooLow { .. }) => {
                self.passed.push(transaction.clone());
                return;
            }
            Push::Full => {
                self.full_skips += 1;
                self.parked.insert(transaction.sender);
                return;
            }
            // Waits for an earlier one: nothing to tell.
            Push::Skip(Invalid::NonceTooHigh { .. }) => {
                self.parked.insert(transaction.sender);
                return;
            }
            Push::Held(key) => {
                out.insert(transaction.sender);
                (
                    holders.get(&key).copied().into_iter().collect(),
                    String::new(),
                    false,
                )
            }
            Push::Skip(reason) => (Vec::new(), reason.to_string(), false),
            Push::Drop(reason) => (Vec::new(), reason.to_string(), true),
        };
        self.parked.insert(transaction.sender);
        self.refused.push(Refused {
            transaction: transaction.clone(),
            round,
            shard,
            held,
            writes: Vec::new(),
            reason,
            drop,
        });
    }
}
