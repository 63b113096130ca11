//! One part of the cache: values at one block, and what the last blocks overwrote.

use crate::execution::Account;
use crate::store_client::StateKey;
use alloy_primitives::KECCAK256_EMPTY;
use alloy_primitives::map::HashMap;
use std::collections::VecDeque;
use troika_proto::{AccountDiff, Address, B256, Delta, U256};

/// Memory that an entry takes, maps included, about.
const ENTRY_BYTES: usize = 224;

/// A cached value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// `None`: there is no such account.
    Account(Option<Account>),
    /// A storage slot.
    Slot(U256),
}

/// What a block changed of this part.
pub(super) enum Change<'a> {
    Account(Address, &'a AccountDiff),
    Slot(Address, U256, U256),
    Fees(Address, U256),
}

/// Values that a block overwrote.
struct Undo {
    parent: B256,
    /// `None`: the value was not known.
    values: HashMap<StateKey, Option<Value>>,
}

/// Two generations: what is read moves to the young one; when that has filled its half, the old one goes.
pub(super) struct Part {
    head: B256,
    young: HashMap<StateKey, Value>,
    old: HashMap<StateKey, Value>,
    /// Oldest first.
    undo: VecDeque<Undo>,
    undo_entries: usize,
    limit_entries: usize,
    undo_blocks: usize,
}

impl Part {
    pub(super) fn new(limit_bytes: usize, undo_blocks: usize) -> Self {
        Self {
            head: B256::ZERO,
            young: HashMap::default(),
            old: HashMap::default(),
            undo: VecDeque::new(),
            undo_entries: 0,
            limit_entries: (limit_bytes / ENTRY_BYTES).max(4),
            undo_blocks,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        (self.young.len() + self.old.len() + self.undo_entries) * ENTRY_BYTES
    }

    pub(super) fn reset(&mut self, block: B256) {
        self.head = block;
        self.young.clear();
        self.old.clear();
        self.undo.clear();
        self.undo_entries = 0;
    }

    /// Index of the first undo that lies after `block`; `None` where the part knows nothing of that block.
    fn after(&self, block: B256) -> Option<usize> {
        if block == self.head {
            return Some(self.undo.len());
        }
        self.undo.iter().position(|undo| undo.parent == block)
    }

    pub(super) fn get(&mut self, block: B256, key: &StateKey) -> Option<Value> {
        let after = self.after(block)?;
        let overwritten = self.undo.range(after..).find_map(|u| u.values.get(key));
        match overwritten {
            Some(value) => *value,
            None => self.current(key),
        }
    }

    pub(super) fn insert(&mut self, block: B256, key: StateKey, value: Value) -> bool {
        let Some(after) = self.after(block) else {
            return false;
        };
        let mut undos = self.undo.range_mut(after..);
        match undos.find_map(|undo| undo.values.get_mut(&key)) {
            Some(overwritten) => *overwritten = Some(value),
            None => self.put(key, value),
        }
        true
    }

    fn current(&mut self, key: &StateKey) -> Option<Value> {
        if let Some(value) = self.young.get(key) {
            return Some(*value);
        }
        let value = self.old.remove(key)?;
        self.put(*key, value);
        Some(value)
    }

    fn put(&mut self, key: StateKey, value: Value) {
        self.old.remove(&key);
        self.young.insert(key, value);
        // A quarter of the bound is for what blocks overwrote.
        if self.young.len() > self.limit_entries * 3 / 8 {
            self.old = std::mem::take(&mut self.young);
        }
    }

    pub(super) fn advance(&mut self, parent: B256, block: B256, changes: &[Change<'_>]) {
        if self.head != parent {
            self.reset(block);
            return;
        }
        let mut undo = Undo {
            parent,
            values: HashMap::default(),
        };
        for change in changes {
            let key = match change {
                Change::Account(address, _) | Change::Fees(address, _) => {
                    StateKey::Account(*address)
                }
                Change::Slot(address, slot, _) => StateKey::Slot(*address, *slot),
            };
            let before = self.current(&key);
            // An account that is paid fees and changed otherwise comes twice: its first old value counts.
            undo.values.entry(key).or_insert(before);
            match changed(before, change) {
                Some(after) => self.put(key, after),
                None => {
                    self.young.remove(&key);
                    self.old.remove(&key);
                }
            }
        }
        self.undo_entries += undo.values.len();
        self.undo.push_back(undo);
        while self.undo.len() > self.undo_blocks || self.undo_entries > self.limit_entries / 4 {
            match self.undo.pop_front() {
                Some(oldest) => self.undo_entries -= oldest.values.len(),
                None => break,
            }
        }
        self.head = block;
    }
}

/// The value after a change; `None` where it cannot be known.
fn changed(before: Option<Value>, change: &Change<'_>) -> Option<Value> {
    let account = match change {
        Change::Slot(_, _, value) => return Some(Value::Slot(*value)),
        Change::Account(_, diff) => {
            let mut account = known(before)?;
            account.balance = diff.balance.apply(account.balance)?;
            account.nonce = diff.nonce.unwrap_or(account.nonce);
            if let Some(code) = &diff.code {
                account.code_hash = if code.is_empty() {
                    KECCAK256_EMPTY
                } else {
                    troika_proto::keccak(code)
                };
            }
            account
        }
        Change::Fees(_, fees) => {
            let mut account = known(before)?;
            account.balance = Delta::rise(*fees).apply(account.balance)?;
            account
        }
    };
    Some(Value::Account((!account.is_empty()).then_some(account)))
}

fn known(before: Option<Value>) -> Option<Account> {
    match before? {
        Value::Account(account) => Some(account.unwrap_or_default()),
        Value::Slot(_) => None,
    }
}
