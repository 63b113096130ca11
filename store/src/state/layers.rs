//! The chain's state: a base, and what each recent block changed.
//!
//! Every block above the base is a *layer* that holds the values it changed. An account or slot knows which layers changed
//! it, oldest first; reading it at a block takes the newest of those that is the block or one of its ancestors, else the base.
//! Ancestry is a bit set over the at most 256 held layers, so the test is one instruction, and forks cost nothing.
//!
//! The layer above the base on the head's chain is *folded* into the base when more than [`STATE_BLOCKS`] lie between base and
//! head, or when the layers outgrow a bound. What does not descend from the new base is dropped.

use super::generation::Generation;
use super::limits::{MAX_LAYER_BYTES, MAX_LAYERS, STATE_BLOCKS};
use super::point_map::PointMap;
use super::records::{RecordKey, Value, code};
use super::state_hash::{Digest, Item, StateHash};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use troika_proto::{Address, B256, Header, U256};

/// An account that exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Wei.
    pub balance: U256,
    /// Transactions sent.
    pub nonce: u64,
    /// `None` without code.
    pub code_hash: Option<B256>,
}

impl Account {
    /// An account with nonce 0, balance 0 and no code does not exist.
    pub fn exists(&self) -> bool {
        self.nonce != 0 || !self.balance.is_zero() || self.code_hash.is_some()
    }
}

/// Values that a block changed, as they are after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// `None`: the account does not exist any more. Ascending.
    pub accounts: Vec<(Address, Option<Account>)>,
    /// Ascending.
    pub slots: Vec<(Address, U256, U256)>,
}

/// A block above the base.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Number of the layer: counts sealed blocks, forks included.
    pub seq: u64,
    /// The block's hash.
    pub hash: B256,
    /// The block's header.
    pub header: Arc<Header>,
    /// The round that made or checked it.
    pub round: u64,
    /// What it changed.
    pub changes: Changes,
}

impl Layer {
    /// Bytes in memory, nearly, with the references to it.
    pub fn bytes(&self) -> usize {
        1024 + self.changes.accounts.len() * 136 + self.changes.slots.len() * 120
    }

    fn digests(&self) -> impl Iterator<Item = Digest> + '_ {
        let block = Digest::new(Item::Layer)
            .word(self.seq)
            .hash(&self.hash)
            .word(self.round);
        let accounts = self.changes.accounts.iter().map(|(address, account)| {
            let digest = Digest::new(Item::LayerAccount).word(self.seq);
            digest_account(digest, address, account.as_ref())
        });
        let slots = self.changes.slots.iter().map(|(address, key, value)| {
            let digest = Digest::new(Item::LayerSlot).word(self.seq);
            digest.address(address).number(key).number(value)
        });
        std::iter::once(block).chain(accounts).chain(slots)
    }
}

fn digest_account(digest: Digest, address: &Address, account: Option<&Account>) -> Digest {
    let digest = digest.address(address);
    match account {
        None => digest.word(0),
        Some(account) => digest
            .word(1)
            .number(&account.balance)
            .word(account.nonce)
            .hash(&account.code_hash.unwrap_or_default()),
    }
}

fn digest_base_account(address: &Address, account: &Account) -> Digest {
    digest_account(Digest::new(Item::BaseAccount), address, Some(account))
}

fn digest_base_slot(address: &Address, key: &U256, value: &U256) -> Digest {
    let digest = Digest::new(Item::BaseSlot);
    digest.address(address).number(key).number(value)
}

pub(super) fn digest_code(hash: &B256) -> Digest {
    Digest::new(Item::Code).hash(hash)
}

/// A set of layer tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tags([u64; 4]);

impl Tags {
    fn has(&self, tag: u8) -> bool {
        self.0[usize::from(tag >> 6)] >> (tag & 63) & 1 == 1
    }

    fn set(&mut self, tag: u8, on: bool) {
        let word = &mut self.0[usize::from(tag >> 6)];
        *word = *word & !(1 << (tag & 63)) | u64::from(on) << (tag & 63);
    }
}

/// An account or slot: its base value, and which layers changed it (tag, index in the layer), oldest first.
#[derive(Clone, Debug)]
struct Cell<V> {
    base: Option<V>,
    recent: Vec<(u8, u32)>,
}

impl<V> Default for Cell<V> {
    fn default() -> Self {
        Self {
            base: None,
            recent: Vec::new(),
        }
    }
}

impl<V> Cell<V> {
    fn newest(&self, line: &Tags) -> Option<(u8, u32)> {
        let mut newest_first = self.recent.iter().rev();
        newest_first.find(|(tag, _)| line.has(*tag)).copied()
    }

    fn forget(&mut self, tag: u8) {
        self.recent.retain(|(t, _)| *t != tag);
        if self.recent.is_empty() {
            self.recent = Vec::new();
        }
    }

    fn is_empty(&self) -> bool {
        self.base.is_none() && self.recent.is_empty()
    }
}

#[derive(Clone, Debug)]
struct HeldLayer {
    layer: Arc<Layer>,
    ancestors: Tags,
}

/// A block whose state can be read.
#[derive(Clone, Debug)]
pub struct HeldBlock {
    /// Its hash.
    pub hash: B256,
    /// Its header.
    pub header: Arc<Header>,
    /// The round that made or checked it; 0 for genesis.
    pub round: u64,
}

/// Base, layers and codes.
#[derive(Debug)]
pub(super) struct Layers {
    base: HeldBlock,
    accounts: PointMap<Address, Cell<Account>>,
    /// By account: what belongs together is read together.
    slots: PointMap<Address, BTreeMap<U256, Cell<U256>>>,
    codes: PointMap<B256, Bytes>,
    /// By tag.
    held: Vec<Option<HeldLayer>>,
    tags: BTreeMap<B256, u8>,
    next_seq: u64,
    bytes: usize,
}

/// The state after one block.
#[derive(Clone, Copy, Debug)]
pub struct StateAt<'a> {
    layers: &'a Layers,
    line: Tags,
}

impl StateAt<'_> {
    /// An account; `None` if it does not exist.
    pub fn account(&self, address: &Address) -> Option<Account> {
        let cell = self.layers.accounts.get(address)?;
        match cell.newest(&self.line) {
            Some((tag, index)) => self.layers.layer(tag)?.changes.accounts[index as usize].1,
            None => cell.base,
        }
    }

    /// The value of a storage slot.
    pub fn slot(&self, address: &Address, key: &U256) -> U256 {
        let storage = self.layers.slots.get(address);
        storage
            .and_then(|storage| storage.get(key))
            .map_or(U256::ZERO, |cell| self.value(cell))
    }

    /// All slots of an account that were ever written, ascending, if there are at most `most`; those that are zero at this
    /// block may be among them.
    pub fn storage(
        &self,
        address: &Address,
        most: usize,
    ) -> Option<impl Iterator<Item = (U256, U256)> + '_> {
        let storage = self.layers.slots.get(address);
        if storage.is_some_and(|storage| storage.len() > most) {
            return None;
        }
        let cells = storage.into_iter().flatten();
        Some(cells.map(|(key, cell)| (*key, self.value(cell))))
    }

    fn value(&self, cell: &Cell<U256>) -> U256 {
        let recent = cell.newest(&self.line).and_then(|(tag, index)| {
            let layer = self.layers.layer(tag)?;
            Some(layer.changes.slots[index as usize].2)
        });
        recent.or(cell.base).unwrap_or_default()
    }
}

impl Layers {
    pub(super) fn new(base: HeldBlock, next_seq: u64) -> Self {
        Self {
            base,
            accounts: PointMap::default(),
            slots: PointMap::default(),
            codes: PointMap::default(),
            held: Vec::new(),
            tags: BTreeMap::new(),
            next_seq,
            bytes: 0,
        }
    }

    pub(super) fn base(&self) -> &HeldBlock {
        &self.base
    }

    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    pub(super) fn code(&self, hash: &B256) -> Option<&Bytes> {
        self.codes.get(hash)
    }

    fn layer(&self, tag: u8) -> Option<&Layer> {
        let held = self.held.get(usize::from(tag))?.as_ref()?;
        Some(&held.layer)
    }

    /// The block, if its state can be read.
    pub(super) fn block(&self, hash: &B256) -> Option<HeldBlock> {
        if *hash == self.base.hash {
            return Some(self.base.clone());
        }
        let layer = self.layer(*self.tags.get(hash)?)?;
        Some(HeldBlock {
            hash: layer.hash,
            header: layer.header.clone(),
            round: layer.round,
        })
    }

    /// The state after a block, if it can be read.
    pub(super) fn at(&self, hash: &B256) -> Option<StateAt<'_>> {
        let line = if *hash == self.base.hash {
            Tags::default()
        } else {
            self.line(*self.tags.get(hash)?)?
        };
        Some(StateAt { layers: self, line })
    }

    /// A layer and its ancestors.
    fn line(&self, tag: u8) -> Option<Tags> {
        let mut line = self.held.get(usize::from(tag))?.as_ref()?.ancestors;
        line.set(tag, true);
        Some(line)
    }

    pub(super) fn set_base_account(
        &mut self,
        address: Address,
        account: Option<Account>,
        hash: &mut StateHash,
    ) {
        let cell = self.accounts.or_default(address);
        if let Some(old) = &cell.base {
            hash.remove(digest_base_account(&address, old));
        }
        if let Some(new) = &account {
            hash.add(digest_base_account(&address, new));
        }
        cell.base = account;
        if cell.is_empty() {
            self.accounts.remove(&address);
        }
    }

    pub(super) fn set_base_slot(
        &mut self,
        address: Address,
        key: U256,
        value: U256,
        hash: &mut StateHash,
    ) {
        self.change_slot(address, key, |cell| {
            if let Some(old) = &cell.base {
                hash.remove(digest_base_slot(&address, &key, old));
            }
            cell.base = (!value.is_zero()).then_some(value);
            if let Some(new) = &cell.base {
                hash.add(digest_base_slot(&address, &key, new));
            }
        });
    }

    /// Changes what is known of a slot; nothing is kept of one of which nothing is known.
    fn change_slot(&mut self, address: Address, key: U256, change: impl FnOnce(&mut Cell<U256>)) {
        let storage = self.slots.or_default(address);
        let cell = storage.entry(key).or_default();
        change(cell);
        if cell.is_empty() {
            storage.remove(&key);
        }
        if storage.is_empty() {
            self.slots.remove(&address);
        }
    }

    /// Keeps a code. True if it is new.
    pub(super) fn add_code(&mut self, code_hash: B256, bytes: Bytes, hash: &mut StateHash) -> bool {
        if self.codes.contains(&code_hash) {
            return false;
        }
        hash.add(digest_code(&code_hash));
        self.codes.insert(code_hash, bytes);
        true
    }

    /// Keeps a code that a block brought.
    pub(super) fn deploy(
        &mut self,
        code_hash: B256,
        bytes: Bytes,
        generation: &mut Generation,
        hash: &mut StateHash,
    ) {
        if self.add_code(code_hash, bytes.clone(), hash) {
            let value = Value::Encoded(code::encode(&bytes));
            generation.put(RecordKey::Code(code_hash), value);
        }
    }

    /// Puts a sealed block on its parent, which is held.
    pub(super) fn push(
        &mut self,
        header: Arc<Header>,
        block_hash: B256,
        round: u64,
        changes: Changes,
        generation: &mut Generation,
        hash: &mut StateHash,
    ) {
        let layer = Arc::new(Layer {
            seq: self.next_seq,
            hash: block_hash,
            header,
            round,
            changes,
        });
        generation.put(RecordKey::Layer(layer.seq), Value::Layer(layer.clone()));
        self.load(layer, hash);
    }

    /// Takes over a layer: a new one, or one from a checkpoint, parents first.
    pub(super) fn load(&mut self, layer: Arc<Layer>, hash: &mut StateHash) {
        layer.digests().for_each(|digest| hash.add(digest));
        let parent = self.tags.get(&layer.header.parent_hash).copied();
        let ancestors = parent.and_then(|tag| self.line(tag)).unwrap_or_default();
        let free = self.held.iter().position(Option::is_none);
        let tag = free.unwrap_or_else(|| {
            self.held.push(None);
            self.held.len() - 1
        });
        // `MAX_LAYERS` keeps tags below 256.
        let short = tag as u8;
        for (index, (address, _)) in layer.changes.accounts.iter().enumerate() {
            let cell = self.accounts.or_default(*address);
            cell.recent.push((short, index as u32));
        }
        for (index, (address, key, _)) in layer.changes.slots.iter().enumerate() {
            self.change_slot(*address, *key, |cell| {
                cell.recent.push((short, index as u32));
            });
        }
        self.bytes += layer.bytes();
        self.tags.insert(layer.hash, short);
        self.next_seq = self.next_seq.max(layer.seq + 1);
        self.held[tag] = Some(HeldLayer { layer, ancestors });
    }

    /// Folds and drops until the bounds hold. `head` is held and stays so.
    pub(super) fn fold(&mut self, head: &B256, generation: &mut Generation, hash: &mut StateHash) {
        loop {
            let head_number = self.block(head).map_or(0, |block| block.header.number);
            let deep = head_number - self.base.header.number > STATE_BLOCKS;
            let large = self.bytes > MAX_LAYER_BYTES || self.tags.len() > MAX_LAYERS;
            if !deep && !large {
                return;
            }
            if *head != self.base.hash {
                self.fold_one(head, generation, hash);
            } else {
                // Only blocks beside the head are left: the oldest goes, with all that stands on it.
                let seqs = self.held.iter().flatten().map(|h| h.layer.seq);
                let Some(oldest) = seqs.min() else { return };
                self.drop_line(oldest, generation, hash);
            }
        }
    }

    /// Makes the base's child on the head's chain the new base.
    fn fold_one(&mut self, head: &B256, generation: &mut Generation, hash: &mut StateHash) {
        let line = self.tags.get(head).and_then(|tag| self.line(*tag));
        let line = line.unwrap_or_default();
        let child = self.held.iter().enumerate().find_map(|(tag, held)| {
            let layer = &held.as_ref()?.layer;
            let child = line.has(tag as u8) && layer.header.parent_hash == self.base.hash;
            child.then(|| (tag as u8, layer.clone()))
        });
        let Some((tag, layer)) = child else { return };
        let forks = self.held.iter().enumerate().filter_map(|(other, held)| {
            let held = held.as_ref()?;
            (other != usize::from(tag) && !held.ancestors.has(tag)).then_some(other as u8)
        });
        for fork in forks.collect::<Vec<_>>() {
            self.remove(fork, generation, hash);
        }
        self.remove(tag, generation, hash);
        for (address, account) in &layer.changes.accounts {
            self.set_base_account(*address, *account, hash);
            generation.put(
                RecordKey::Account(*address),
                Value::Account(account.map(Box::new)),
            );
        }
        for (address, key, value) in &layer.changes.slots {
            self.set_base_slot(*address, *key, *value, hash);
            generation.put(RecordKey::Slot(*address, *key), Value::Slot(*value));
        }
        self.base = HeldBlock {
            hash: layer.hash,
            header: layer.header.clone(),
            round: layer.round,
        };
    }

    /// Drops a layer and its descendants.
    fn drop_line(&mut self, seq: u64, generation: &mut Generation, hash: &mut StateHash) {
        let root = self
            .held
            .iter()
            .position(|held| held.as_ref().is_some_and(|held| held.layer.seq == seq));
        let Some(root) = root else { return };
        let line = self.held.iter().enumerate().filter_map(|(tag, held)| {
            let held = held.as_ref()?;
            (tag == root || held.ancestors.has(root as u8)).then_some(tag as u8)
        });
        for tag in line.collect::<Vec<_>>() {
            self.remove(tag, generation, hash);
        }
    }

    /// Forgets one layer: nothing refers to its tag afterwards.
    fn remove(&mut self, tag: u8, generation: &mut Generation, hash: &mut StateHash) {
        let Some(HeldLayer { layer, .. }) = self.held[usize::from(tag)].take() else {
            return;
        };
        layer.digests().for_each(|digest| hash.remove(digest));
        generation.delete(RecordKey::Layer(layer.seq));
        for (address, _) in &layer.changes.accounts {
            let cell = self.accounts.or_default(*address);
            cell.forget(tag);
            if cell.is_empty() {
                self.accounts.remove(address);
            }
        }
        for (address, key, _) in &layer.changes.slots {
            self.change_slot(*address, *key, |cell| cell.forget(tag));
        }
        self.bytes -= layer.bytes();
        self.tags.remove(&layer.hash);
        for held in self.held.iter_mut().flatten() {
            held.ancestors.set(tag, false);
        }
    }
}
