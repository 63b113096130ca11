//! Views of a block's state through the cache.
//!
//! A [`CacheView`] does not wait at first: what is not in memory is noted as missing and answered `Unavailable`, and the
//! caller loads all that is missing in one read ([`CacheView::load`]) and goes on where it stopped. Where looking ahead has
//! taught all that it can, the caller tells the view to wait ([`CacheView::be_patient`]): from then on a value is read when it
//! is asked for, since executing a long transaction again for every value costs more than the reads.

use super::super::limits::{AHEAD_BYTES, AHEAD_BYTES_PER_KEY, NAMED_WORDS, WHOLE_SLOTS};
use super::{StateCache, Value, lock};
use crate::blocking::wait_for;
use crate::execution::{Account, Code, StateView, Transaction, Unavailable};
use crate::store_client::{Ahead, BlockId, StateKey, StateValue, StoreClient, StoreError};
use alloy_consensus::Transaction as _;
use alloy_primitives::KECCAK256_EMPTY;
use alloy_primitives::map::{HashMap, HashSet};
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
        self.keys.is_empty() && self.codes.is_empty() && self.hashes.is_empty()
    }

    /// A value as well.
    pub fn want(&mut self, key: StateKey) {
        self.keys.insert(key);
    }

    /// A code as well.
    pub fn want_code(&mut self, hash: B256) {
        self.codes.insert(hash);
    }

    /// What BLOCKHASH answers for `number` as well.
    pub fn want_block_hash(&mut self, number: u64) {
        self.hashes.insert(number);
    }

    /// All of `other` as well.
    pub fn extend(&mut self, other: Self) {
        self.keys.extend(other.keys);
        self.codes.extend(other.codes);
        self.hashes.extend(other.hashes);
    }
}

/// Storages of which all slots that are not zero are known.
#[derive(Default)]
struct Whole {
    storages: HashMap<Address, HashMap<U256, U256>>,
    slots: usize,
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
    /// Storages that were read whole, as far as [`WHOLE_SLOTS`] go: their other slots are zero. The cache cannot know that,
    /// because it forgets.
    whole: Mutex<Whole>,
    hashes: Mutex<HashMap<u64, B256>>,
    missing: Mutex<Missing>,
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
            whole: Mutex::default(),
            hashes: Mutex::default(),
            missing: Mutex::default(),
            patient: Mutex::default(),
        }
    }

    /// What has been asked for in vain since the last call.
    pub fn take_missing(&self) -> Missing {
        std::mem::take(&mut lock(&self.missing))
    }

    fn known(&self, key: &StateKey) -> Option<Value> {
        let cached = self.cache.get(self.block, key);
        cached.or_else(|| lock(&self.own).get(key).copied())
    }

    /// An account, if it is known.
    pub fn known_account(&self, address: Address) -> Option<Option<Account>> {
        match self.known(&StateKey::Account(address))? {
            Value::Account(account) => Some(account),
            Value::Slot(_) => None,
        }
    }

    /// The value of a slot, if it is known.
    pub fn known_slot(&self, address: Address, slot: U256) -> Option<U256> {
        let key = StateKey::Slot(address, slot);
        if let Some(Value::Slot(value)) = self.known(&key) {
            return Some(value);
        }
        let value = {
            let whole = lock(&self.whole);
            let storage = whole.storages.get(&address)?;
            storage.get(&slot).copied().unwrap_or_default()
        };
        self.keep(key, Value::Slot(value));
        Some(value)
    }

    /// A code, if it is known.
    pub fn known_code(&self, hash: B256) -> Option<Code> {
        self.cache.code(hash)
    }

    /// What BLOCKHASH answers, if it is known.
    pub fn known_block_hash(&self, number: u64) -> Option<B256> {
        if let Some(fixed) = &self.fixed_hashes {
            return Some(fixed.get(&number).copied().unwrap_or_default());
        }
        if number > self.number || self.number - number >= BLOCKHASH_REACH {
            return Some(B256::ZERO);
        }
        if number == self.number {
            return Some(self.block);
        }
        lock(&self.hashes).get(&number).copied()
    }

    /// What is known, or is once this view has waited for it.
    fn find<T>(
        &self,
        known: impl Fn() -> Option<T>,
        note: impl FnOnce(&mut Missing),
    ) -> Result<T, Unavailable> {
        if let Some(value) = known() {
            return Ok(value);
        }
        self.miss(note)?;
        known().ok_or_else(missed)
    }

    fn keep(&self, key: StateKey, value: Value) {
        if !self.cache.insert(self.block, key, value) {
            lock(&self.own).insert(key, value);
        }
    }

    /// Loads, in one read, what `transactions` name themselves: senders, recipients, arguments that may be addresses, access
    /// lists, authorities.
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
            addresses_in(transaction.envelope.input())
                .for_each(|address| want(StateKey::Account(address)));
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
            let ahead_bytes = (keys.len() * AHEAD_BYTES_PER_KEY).min(AHEAD_BYTES) as u32;
            let read = self.client.read_ahead(self.block, &keys, ahead_bytes);
            let answer = read.await?;
            self.keep_ahead(answer.ahead);
            for (key, value) in keys.into_iter().zip(answer.values) {
                let value = Value::from(value);
                if let Value::Account(Some(account)) = &value
                    && account.has_code()
                    && !self.cache.has_code(account.code_hash)
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
                    self.cache.insert_code(hash, &code);
                }
            }
        }
        for number in missing.hashes {
            let hash = self.ancestor(number).await?;
            lock(&self.hashes).insert(number, hash);
        }
        Ok(())
    }

    /// Keeps what was answered ahead of being asked for, as far as the cache has a place for it.
    fn keep_ahead(&self, ahead: Vec<Ahead>) {
        for account in ahead {
            let key = StateKey::Account(account.address);
            self.cache
                .insert(self.block, key, Value::from(account.account));
            for (slot, value) in &account.slots {
                let key = StateKey::Slot(account.address, *slot);
                self.cache.insert(self.block, key, Value::Slot(*value));
            }
            let mut whole = lock(&self.whole);
            if account.whole
                && whole.slots + account.slots.len() < WHOLE_SLOTS
                && !whole.storages.contains_key(&account.address)
            {
                whole.slots += account.slots.len();
                let slots = account.slots.into_iter().collect();
                whole.storages.insert(account.address, slots);
            }
            drop(whole);
            if let Some((hash, code)) = account.code
                && !self.cache.has_code(hash)
            {
                self.cache.insert_code(hash, &code);
            }
        }
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
        note(&mut lock(&self.missing));
        Err(missed())
    }
}

/// The first words of a call's arguments that may be addresses: as numbers neither too large nor too small, nor round.
fn addresses_in(input: &[u8]) -> impl Iterator<Item = Address> + '_ {
    let words = input.get(4..).unwrap_or_default().chunks_exact(32);
    words.take(NAMED_WORDS).filter_map(|word| {
        let address = word.strip_prefix(&[0; 12])?;
        let likely = address[0] != 0 && address[19] != 0;
        likely.then(|| Address::from_slice(address))
    })
}

impl From<StateValue> for Value {
    fn from(value: StateValue) -> Self {
        match value {
            StateValue::Slot(slot) => Self::Slot(slot),
            StateValue::Account(account) => Self::Account(account.map(|a| Account {
                balance: a.balance,
                nonce: a.nonce,
                code_hash: a.code_hash.unwrap_or(KECCAK256_EMPTY),
            })),
        }
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
        self.find(|| self.known_account(address), |missing| missing.want(key))
    }

    fn slot(&self, address: Address, slot: U256) -> Result<U256, Unavailable> {
        let key = StateKey::Slot(address, slot);
        self.find(
            || self.known_slot(address, slot),
            |missing| missing.want(key),
        )
    }

    fn code(&self, hash: B256) -> Result<Code, Unavailable> {
        self.find(|| self.known_code(hash), |missing| missing.want_code(hash))
    }

    fn block_hash(&self, number: u64) -> Result<B256, Unavailable> {
        self.find(
            || self.known_block_hash(number),
            |missing| missing.want_block_hash(number),
        )
    }
}
