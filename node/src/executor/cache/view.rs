//! Views of a block's state through the cache.
//!
//! A [`CacheView`] does not wait at first: what is not in memory is noted as missing and answered `Unavailable`, and the
//! caller loads all that is missing in one read ([`CacheView::load`]) and goes on where it stopped. A [`Probe`] answers
//! missing values by nothing, so that transactions executed on it name, all in one go, what state they will ask for. Where
//! that has taught all that it can, the caller tells the view to wait ([`CacheView::be_patient`]): from then on a value is read
//! when it is asked for, since executing a long transaction again for every value costs more than the reads.

use super::{StateCache, Value, lock};
use crate::blocking::wait_for;
use crate::execution::{Account, Code, StateView, Transaction, Unavailable, code_of};
use crate::store_client::{BlockId, StateKey, StateValue, StoreClient, StoreError};
use alloy_consensus::Transaction as _;
use alloy_primitives::KECCAK256_EMPTY;
use alloy_primitives::map::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use tokio::runtime::Handle;
use troika_proto::{Address, B256, BlockHashes, U256};

/// Headers that BLOCKHASH can reach.
const BLOCKHASH_REACH: u64 = 256;

/// What a view could not answer.
#[derive(Debug, Default)]
pub struct Missing {
    keys: HashSet<StateKey>,
    codes: HashSet<B256>,
    /// Numbers whose hashes BLOCKHASH asked for.
    hashes: HashSet<u64>,
}

impl Missing {
    /// True if nothing is missing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many values.
    pub fn len(&self) -> usize {
        self.keys.len() + self.codes.len() + self.hashes.len()
    }
}

/// The state after one block.
pub struct CacheView {
    cache: Arc<StateCache>,
    client: StoreClient,
    block: B256,
    number: u64,
    /// In replays BLOCKHASH answers from here alone.
    fixed_hashes: Option<BlockHashes>,
    /// What the cache had no place for.
    own: Mutex<HashMap<StateKey, Value>>,
    hashes: Mutex<HashMap<u64, B256>>,
    missing: Mutex<Missing>,
    /// How often something was asked for in vain.
    misses: AtomicU64,
    /// Whether a miss is waited for, and what for that is needed.
    patient: Mutex<Option<(Handle, Weak<CacheView>)>>,
}

impl CacheView {
    /// The state after `block`, whose number is `number`.
    pub fn new(
        cache: Arc<StateCache>,
        client: StoreClient,
        block: B256,
        number: u64,
        fixed_hashes: Option<BlockHashes>,
    ) -> Self {
        Self {
            cache,
            client,
            block,
            number,
            fixed_hashes,
            own: Mutex::default(),
            hashes: Mutex::default(),
            missing: Mutex::default(),
            misses: AtomicU64::new(0),
            patient: Mutex::default(),
        }
    }

    /// How often something was asked for in vain so far.
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }

    /// What has been asked for in vain since the last call.
    pub fn take_missing(&self) -> Missing {
        std::mem::take(&mut lock(&self.missing))
    }

    fn known(&self, key: &StateKey) -> Option<Value> {
        let cached = self.cache.get(self.block, key);
        cached.or_else(|| lock(&self.own).get(key).copied())
    }

    fn find(&self, key: StateKey) -> Result<Value, Unavailable> {
        if let Some(value) = self.known(&key) {
            return Ok(value);
        }
        self.miss(|missing| {
            missing.keys.insert(key);
        })?;
        self.known(&key).ok_or_else(missed)
    }

    fn keep(&self, key: StateKey, value: Value) {
        if !self.cache.insert(self.block, key, value) {
            lock(&self.own).insert(key, value);
        }
    }

    /// Loads, in one read, what `transactions` name themselves: senders, recipients, access lists, authorities.
    ///
    /// # Errors
    /// [`StoreError`] without an answer.
    pub async fn prefetch(&self, transactions: &[Arc<Transaction>]) -> Result<(), StoreError> {
        self.load(self.named(transactions)).await
    }

    /// What `transactions` name themselves and is not known.
    fn named(&self, transactions: &[Arc<Transaction>]) -> Missing {
        let mut missing = Missing::default();
        let mut want = |key: StateKey| {
            if self.known(&key).is_none() {
                missing.keys.insert(key);
            }
        };
        for transaction in transactions {
            want(StateKey::Account(transaction.sender));
            if let Some(to) = transaction.to() {
                want(StateKey::Account(to));
            }
            transaction
                .authorities()
                .for_each(|authority| want(StateKey::Account(authority)));
            for item in transaction
                .envelope
                .access_list()
                .iter()
                .flat_map(|l| l.iter())
            {
                want(StateKey::Account(item.address));
                for slot in &item.storage_keys {
                    want(StateKey::Slot(item.address, (*slot).into()));
                }
            }
        }
        missing
    }

    /// Loads what is missing, and the code of every account among it.
    ///
    /// # Errors
    /// [`StoreError`] without an answer.
    pub async fn load(&self, missing: Missing) -> Result<(), StoreError> {
        let keys: Vec<StateKey> = missing.keys.into_iter().collect();
        let mut codes: Vec<B256> = missing.codes.into_iter().collect();
        if !keys.is_empty() {
            self.cache.count_read();
            let answer = self.client.read(Some(self.block), &keys, &[]).await?;
            for (key, value) in keys.into_iter().zip(answer.values) {
                let value = match value {
                    StateValue::Slot(slot) => Value::Slot(slot),
                    StateValue::Account(account) => Value::Account(account.map(|a| Account {
                        balance: a.balance,
                        nonce: a.nonce,
                        code_hash: a.code_hash.unwrap_or(KECCAK256_EMPTY),
                    })),
                };
                if let Value::Account(Some(account)) = &value
                    && account.has_code()
                    && self.cache.code(account.code_hash).is_none()
                {
                    codes.push(account.code_hash);
                }
                self.keep(key, value);
            }
        }
        if !codes.is_empty() {
            codes.sort_unstable();
            codes.dedup();
            self.cache.count_read();
            let answer = self.client.read(Some(self.block), &[], &codes).await?;
            for (hash, code) in codes.into_iter().zip(answer.codes) {
                if let Some(code) = code {
                    self.cache.insert_code(hash, code_of(code));
                }
            }
        }
        for number in missing.hashes {
            let hash = self.ancestor(number).await?;
            lock(&self.hashes).insert(number, hash);
        }
        Ok(())
    }

    /// As [`Self::load`], from a thread that may block.
    ///
    /// # Errors
    /// [`Unavailable`] without an answer.
    pub fn load_blocking(
        self: &Arc<Self>,
        runtime: &Handle,
        missing: Missing,
    ) -> Result<(), Unavailable> {
        let view = self.clone();
        answered(wait_for(runtime, async move { view.load(missing).await }))
    }

    /// As [`Self::prefetch`], from a thread that may block. `false`: there was nothing to load.
    ///
    /// # Errors
    /// [`Unavailable`] without an answer.
    pub fn prefetch_blocking(
        self: &Arc<Self>,
        runtime: &Handle,
        transactions: &[Arc<Transaction>],
    ) -> Result<bool, Unavailable> {
        let named = self.named(transactions);
        if named.is_empty() {
            return Ok(false);
        }
        self.load_blocking(runtime, named)?;
        Ok(true)
    }

    /// The hash of this block's ancestor `number`, zero where there is none: along the links, so right on any branch.
    async fn ancestor(&self, number: u64) -> Result<B256, StoreError> {
        let (mut hash, mut at) = (self.block, self.number);
        while at > number {
            let parent = match self.cache.parent(hash) {
                Some((_, parent)) => parent,
                None => match self.client.block(BlockId::Hash(hash)).await? {
                    Some(block) => {
                        self.cache.link(hash, &block.header);
                        block.header.parent_hash
                    }
                    None => return Ok(B256::ZERO),
                },
            };
            hash = parent;
            at -= 1;
        }
        Ok(hash)
    }

    /// From now on a thread that misses a value waits for it: only for threads that may block.
    pub fn be_patient(self: &Arc<Self>, runtime: &Handle) {
        *lock(&self.patient) = Some((runtime.clone(), Arc::downgrade(self)));
    }

    /// From now on misses are noted again.
    pub fn be_quick(&self) {
        *lock(&self.patient) = None;
    }

    /// Notes what is missing; a patient view has it when this returns `Ok`.
    fn miss(&self, note: impl FnOnce(&mut Missing)) -> Result<(), Unavailable> {
        let patient = lock(&self.patient).clone();
        if let Some((runtime, view)) = patient
            && let Some(view) = view.upgrade()
        {
            let mut missing = Missing::default();
            note(&mut missing);
            return view.load_blocking(&runtime, missing);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        note(&mut lock(&self.missing));
        Err(missed())
    }
}

fn missed() -> Unavailable {
    Unavailable("not in the cache yet".to_owned())
}

fn answered(loaded: Option<Result<(), StoreError>>) -> Result<(), Unavailable> {
    match loaded {
        Some(loaded) => loaded.map_err(|error| Unavailable(error.to_string())),
        None => Err(Unavailable("the executor stops".to_owned())),
    }
}

impl StateView for CacheView {
    fn account(&self, address: Address) -> Result<Option<Account>, Unavailable> {
        let key = StateKey::Account(address);
        match self.find(key)? {
            Value::Account(account) => Ok(account),
            Value::Slot(_) => Err(missed()),
        }
    }

    fn slot(&self, address: Address, slot: U256) -> Result<U256, Unavailable> {
        let key = StateKey::Slot(address, slot);
        match self.find(key)? {
            Value::Slot(value) => Ok(value),
            Value::Account(_) => Err(missed()),
        }
    }

    fn code(&self, hash: B256) -> Result<Code, Unavailable> {
        if let Some(code) = self.cache.code(hash) {
            return Ok(code);
        }
        self.miss(|missing| {
            missing.codes.insert(hash);
        })?;
        self.cache.code(hash).ok_or_else(missed)
    }

    fn block_hash(&self, number: u64) -> Result<B256, Unavailable> {
        if let Some(fixed) = &self.fixed_hashes {
            return Ok(fixed.get(&number).copied().unwrap_or_default());
        }
        if number > self.number || self.number - number >= BLOCKHASH_REACH {
            return Ok(B256::ZERO);
        }
        if number == self.number {
            return Ok(self.block);
        }
        if let Some(hash) = lock(&self.hashes).get(&number) {
            return Ok(*hash);
        }
        self.miss(|missing| {
            missing.hashes.insert(number);
        })?;
        lock(&self.hashes).get(&number).copied().ok_or_else(missed)
    }
}

/// Answers what is missing by nothing, and notes it.
pub struct Probe(pub Arc<CacheView>);

impl StateView for Probe {
    fn account(&self, address: Address) -> Result<Option<Account>, Unavailable> {
        Ok(self.0.account(address).unwrap_or_default())
    }

    fn slot(&self, address: Address, slot: U256) -> Result<U256, Unavailable> {
        Ok(self.0.slot(address, slot).unwrap_or_default())
    }

    fn code(&self, hash: B256) -> Result<Code, Unavailable> {
        Ok(self.0.code(hash).unwrap_or_default())
    }

    fn block_hash(&self, number: u64) -> Result<B256, Unavailable> {
        Ok(self.0.block_hash(number).unwrap_or_default())
    }
}
