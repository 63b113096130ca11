//! What a shard has read and written so far, over the parent's state.
//!
//! Each entry keeps the parent's value beside the present one, so that the net diff needs no further read, and each
//! commit answers what it changed, so that it can be taken back.

use super::invalid::Invalid;
use super::view::{Account, Code, StateView, Unavailable, code_of};
use alloy_primitives::map::{AddressMap, B256Map, HashMap, HashSet};
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256};
use revm::state::{AccountInfo, EvmState};
use revm::{Database, DatabaseRef};
use std::collections::BTreeMap;
use troika_proto::{AccountDiff, Delta, Diff, LockKey, LockRule};

/// A slot: parent's value and present one.
#[derive(Clone, Copy, Debug)]
struct Slot {
    parent: U256,
    now: U256,
}

/// An account: parent's and present one.
#[derive(Clone, Debug)]
struct Entry {
    parent: Account,
    now: Account,
    /// The contract was created (or created and destroyed) here: a slot that is not in `slots` is zero, whatever the
    /// parent says.
    fresh: bool,
    slots: HashMap<U256, Slot>,
}

impl Entry {
    fn of(parent: Option<Account>) -> Self {
        let parent = parent.unwrap_or_default();
        Self {
            parent,
            now: parent,
            fresh: false,
            slots: HashMap::default(),
        }
    }

    /// True if the account itself takes a lock, judged on its present state against the parent's.
    fn locks_itself(&self, rule: LockRule) -> bool {
        locks(&self.parent, &self.now, rule)
    }
}

fn locks(before: &Account, after: &Account, rule: LockRule) -> bool {
    after.nonce != before.nonce
        || after.code_hash != before.code_hash
        || after.balance < before.balance
        || (rule == LockRule::Strict && after.balance != before.balance)
}

/// One thing that a transaction changed, with what it was before.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Balance, nonce, code, or where the storage begins.
    Account {
        address: Address,
        before: Account,
        was_fresh: bool,
        /// Whether this change by itself takes the account's lock.
        locks: bool,
    },
    /// A storage slot.
    Slot {
        address: Address,
        key: U256,
        before: U256,
    },
}

impl Change {
    /// The key that this change, by itself, would lock.
    pub(super) fn key(&self) -> Option<LockKey> {
        match self {
            Self::Account { address, locks, .. } => locks.then(|| LockKey::account(*address)),
            Self::Slot { address, key, .. } => Some(LockKey::slot(*address, *key)),
        }
    }
}

/// Reads fall through to the view once; writes stay here.
#[derive(Clone, Debug)]
pub(super) struct Overlay<V> {
    view: V,
    accounts: AddressMap<Entry>,
    codes: B256Map<Code>,
    block_hashes: HashMap<u64, B256>,
}

impl<V: StateView> Overlay<V> {
    pub(super) fn new(view: V) -> Self {
        Self {
            view,
            accounts: AddressMap::default(),
            codes: B256Map::default(),
            block_hashes: HashMap::default(),
        }
    }

    /// Begins anew on the parent's state.
    pub(super) fn forget(&mut self) {
        self.accounts.clear();
        self.codes.clear();
        self.block_hashes.clear();
    }

    /// Takes over what a transaction left, and answers what that changed.
    ///
    /// # Errors
    /// The transaction destroys a contract of the parent's state; nothing is taken over then.
    pub(super) fn commit(
        &mut self,
        state: EvmState,
        rule: LockRule,
    ) -> Result<Vec<Change>, Invalid> {
        for (address, account) in &state {
            if account.is_touched() && account.is_selfdestructed() {
                let older = self.accounts.get(address);
                if older.is_some_and(|e| e.parent.has_code() || e.parent.nonce > 0) {
                    return Err(Invalid::DestroysOlder(*address));
                }
            }
        }
        let mut changes = Vec::with_capacity(state.len());
        for (address, account) in state {
            if account.is_touched() {
                self.commit_account(address, account, rule, &mut changes);
            }
        }
        Ok(changes)
    }

    fn commit_account(
        &mut self,
        address: Address,
        account: revm::state::Account,
        rule: LockRule,
        changes: &mut Vec<Change>,
    ) {
        let destroyed = account.is_selfdestructed();
        let created = account.is_created();
        // revm read every account that it touches.
        let entry = self
            .accounts
            .entry(address)
            .or_insert_with(|| Entry::of(None));
        let after = if destroyed {
            Account::default()
        } else {
            Account {
                balance: account.info.balance,
                nonce: account.info.nonce,
                code_hash: account.info.code_hash,
            }
        };
        let fresh = entry.fresh || created || destroyed;
        if after != entry.now || fresh != entry.fresh {
            changes.push(Change::Account {
                address,
                before: entry.now,
                was_fresh: entry.fresh,
                locks: locks(&entry.now, &after, rule),
            });
            if after.has_code()
                && after.code_hash != entry.now.code_hash
                && let Some(code) = account.info.code
            {
                self.codes.entry(after.code_hash).or_insert(code);
            }
            entry.now = after;
            entry.fresh = fresh;
        }
        if destroyed {
            for (key, slot) in entry.slots.iter_mut().filter(|(_, s)| !s.now.is_zero()) {
                changes.push(Change::Slot {
                    address,
                    key: *key,
                    before: slot.now,
                });
                slot.now = U256::ZERO;
            }
            return;
        }
        for (key, slot) in account.storage.iter().filter(|(_, s)| s.is_changed()) {
            // A created contract's slots were never read: the parent has none.
            let here = entry.slots.entry(*key).or_insert(Slot {
                parent: U256::ZERO,
                now: U256::ZERO,
            });
            if here.now != slot.present_value {
                changes.push(Change::Slot {
                    address,
                    key: *key,
                    before: here.now,
                });
                here.now = slot.present_value;
            }
        }
    }

    /// Takes changes back; the newest transaction's first.
    pub(super) fn undo(&mut self, changes: Vec<Change>) {
        for change in changes.into_iter().rev() {
            match change {
                Change::Account {
                    address,
                    before,
                    was_fresh,
                    ..
                } => {
                    if let Some(entry) = self.accounts.get_mut(&address) {
                        entry.now = before;
                        entry.fresh = was_fresh;
                    }
                }
                Change::Slot {
                    address,
                    key,
                    before,
                } => {
                    let entry = self.accounts.get_mut(&address);
                    if let Some(slot) = entry.and_then(|e| e.slots.get_mut(&key)) {
                        slot.now = before;
                    }
                }
            }
        }
    }

    /// Judges the beneficiary's lock in the newest transaction's `changes` as if it had not been paid its `fee`.
    pub(super) fn forget_fee(
        &self,
        changes: &mut [Change],
        beneficiary: Address,
        fee: U256,
        rule: LockRule,
    ) {
        let Some(now) = self.accounts.get(&beneficiary).map(|e| e.now) else {
            return;
        };
        let unpaid = Account {
            balance: now.balance.saturating_sub(fee),
            ..now
        };
        for change in changes {
            if let Change::Account {
                address,
                before,
                locks: changed,
                ..
            } = change
                && *address == beneficiary
            {
                *changed = locks(before, &unpaid, rule);
            }
        }
    }

    /// Puts other things in an account's place, as if the parent had them: for calls on a state that never was.
    pub(super) fn replace(
        &mut self,
        address: Address,
        change: impl FnOnce(&mut Account),
        code: Option<Bytes>,
        clear_storage: bool,
        slots: impl Iterator<Item = (U256, U256)>,
    ) -> Result<(), Unavailable> {
        self.basic(address)?;
        let Some(entry) = self.accounts.get_mut(&address) else {
            return Ok(());
        };
        change(&mut entry.now);
        if let Some(code) = code {
            let code = code_of(code);
            entry.now.code_hash = code.hash_slow();
            self.codes.insert(entry.now.code_hash, code);
        }
        entry.fresh |= clear_storage;
        for (key, now) in slots {
            let parent = now;
            entry.slots.insert(key, Slot { parent, now });
        }
        Ok(())
    }

    /// True if the shard, as it stands, takes the lock on `key`.
    pub(super) fn is_locked(&self, key: &LockKey, rule: LockRule) -> bool {
        self.accounts
            .get(&key.address)
            .is_some_and(|entry| match key.slot {
                None => entry.locks_itself(rule),
                Some(slot) => entry.slots.get(&slot).is_some_and(|s| s.parent != s.now),
            })
    }

    /// The net changes against the parent.
    pub(super) fn diff(&self) -> Diff {
        let mut changed: Vec<(Address, AccountDiff)> = self
            .accounts
            .iter()
            .map(|(address, entry)| (*address, self.account_diff(entry)))
            .filter(|(_, diff)| !diff.is_empty())
            .collect();
        changed.sort_unstable_by_key(|(address, _)| *address);
        Diff {
            accounts: changed.into_iter().collect(),
        }
    }

    fn account_diff(&self, entry: &Entry) -> AccountDiff {
        let slots = entry.slots.iter().filter(|(_, s)| s.parent != s.now);
        let slots: BTreeMap<U256, U256> = slots.map(|(key, s)| (*key, s.now)).collect();
        AccountDiff {
            balance: Delta::between(entry.parent.balance, entry.now.balance),
            nonce: (entry.now.nonce != entry.parent.nonce).then_some(entry.now.nonce),
            code: (entry.now.code_hash != entry.parent.code_hash).then(|| {
                let code = self.codes.get(&entry.now.code_hash);
                code.map(Code::original_bytes).unwrap_or_default()
            }),
            slots,
        }
    }

    /// Accounts and slots that were read so far, written ones included.
    pub(super) fn reads(&self) -> HashSet<LockKey> {
        let mut keys = HashSet::default();
        for (address, entry) in &self.accounts {
            keys.insert(LockKey::account(*address));
            keys.extend(entry.slots.keys().map(|k| LockKey::slot(*address, *k)));
        }
        keys
    }

    fn info(&self, account: &Account) -> Option<AccountInfo> {
        if account.is_empty() {
            return None;
        }
        let code = if account.has_code() {
            self.codes.get(&account.code_hash).cloned()
        } else {
            Some(Code::default())
        };
        Some(AccountInfo {
            balance: account.balance,
            nonce: account.nonce,
            code_hash: account.code_hash,
            account_id: None,
            code,
        })
    }
}

impl<V: StateView> Database for Overlay<V> {
    type Error = Unavailable;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, Unavailable> {
        if let Some(entry) = self.accounts.get(&address) {
            return Ok(self.info(&entry.now));
        }
        let entry = Entry::of(self.view.account(address)?);
        let info = self.info(&entry.now);
        self.accounts.insert(address, entry);
        Ok(info)
    }

    fn code_by_hash(&mut self, hash: B256) -> Result<Code, Unavailable> {
        if let Some(code) = self.codes.get(&hash) {
            return Ok(code.clone());
        }
        let code = read_code(&self.view, hash)?;
        self.codes.insert(hash, code.clone());
        Ok(code)
    }

    fn storage(&mut self, address: Address, key: U256) -> Result<U256, Unavailable> {
        if !self.accounts.contains_key(&address) {
            self.basic(address)?;
        }
        let Some(entry) = self.accounts.get_mut(&address) else {
            return self.view.slot(address, key);
        };
        if let Some(slot) = entry.slots.get(&key) {
            return Ok(slot.now);
        }
        if entry.fresh {
            return Ok(U256::ZERO);
        }
        let parent = self.view.slot(address, key)?;
        let slot = Slot {
            parent,
            now: parent,
        };
        entry.slots.insert(key, slot);
        Ok(parent)
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, Unavailable> {
        if let Some(hash) = self.block_hashes.get(&number) {
            return Ok(*hash);
        }
        let hash = self.view.block_hash(number)?;
        self.block_hashes.insert(number, hash);
        Ok(hash)
    }
}

/// The same reads without keeping them: tracers look back at the state before a transaction.
impl<V: StateView> DatabaseRef for Overlay<V> {
    type Error = Unavailable;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, Unavailable> {
        match self.accounts.get(&address) {
            Some(entry) => Ok(self.info(&entry.now)),
            None => Ok(self.info(&self.view.account(address)?.unwrap_or_default())),
        }
    }

    fn code_by_hash_ref(&self, hash: B256) -> Result<Code, Unavailable> {
        match self.codes.get(&hash) {
            Some(code) => Ok(code.clone()),
            None => read_code(&self.view, hash),
        }
    }

    fn storage_ref(&self, address: Address, key: U256) -> Result<U256, Unavailable> {
        if let Some(entry) = self.accounts.get(&address) {
            if let Some(slot) = entry.slots.get(&key) {
                return Ok(slot.now);
            }
            if entry.fresh {
                return Ok(U256::ZERO);
            }
        }
        self.view.slot(address, key)
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, Unavailable> {
        match self.block_hashes.get(&number) {
            Some(hash) => Ok(*hash),
            None => self.view.block_hash(number),
        }
    }
}

fn read_code<V: StateView>(view: &V, hash: B256) -> Result<Code, Unavailable> {
    if hash == KECCAK256_EMPTY {
        return Ok(Code::default());
    }
    view.code(hash)
}
