//! What execution sees of the parent block's state.

use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256};
use revm::bytecode::Bytecode;
use std::collections::HashMap;
use std::sync::Arc;
use troika_proto::{BlockHashes, Delta, Diff, Genesis, keccak};

/// Analysed byte code: share it (an `Arc` inside), since finding the jump targets costs more than most calls.
pub type Code = Bytecode;

/// Analyses byte code. Bytes that only look like an EIP-7702 delegation stay plain code.
pub fn code_of(bytes: Bytes) -> Code {
    Bytecode::new_raw_checked(bytes.clone()).unwrap_or_else(|_| Bytecode::new_legacy(bytes))
}

/// An account without its storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Wei.
    pub balance: U256,
    /// Transactions sent, or contracts created.
    pub nonce: u64,
    /// Keccak-256 of its code; of nothing where there is none.
    pub code_hash: B256,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            balance: U256::ZERO,
            nonce: 0,
            code_hash: KECCAK256_EMPTY,
        }
    }
}

impl Account {
    /// True if it has no nonce, no balance and no code: such an account does not exist.
    pub fn is_empty(&self) -> bool {
        self.nonce == 0 && self.balance.is_zero() && !self.has_code()
    }

    /// True if it has code, be it a delegation.
    pub fn has_code(&self) -> bool {
        self.code_hash != KECCAK256_EMPTY
    }
}

/// The state could not be read now. Nothing is decided by it: try again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("state unavailable: {0}")]
pub struct Unavailable(pub String);

impl revm::database_interface::DBErrorMarker for Unavailable {}

/// The state after one block: what every transaction of the next round reads. Synchronous, and may block.
///
/// Answers never change during the life of a view.
pub trait StateView: Send + Sync {
    /// The account; `None` if it does not exist.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn account(&self, address: Address) -> Result<Option<Account>, Unavailable>;

    /// The value of a storage slot; zero if it was never written.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn slot(&self, address: Address, key: U256) -> Result<U256, Unavailable>;

    /// The code of that hash, analysed ([`code_of`]). Only asked for hashes that an account of this view names.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn code(&self, hash: B256) -> Result<Code, Unavailable>;

    /// What BLOCKHASH answers for `number`, one of the 256 blocks before the one being executed; zero if unknown.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn block_hash(&self, number: u64) -> Result<B256, Unavailable>;
}

impl<V: StateView + ?Sized> StateView for Arc<V> {
    fn account(&self, address: Address) -> Result<Option<Account>, Unavailable> {
        (**self).account(address)
    }
    fn slot(&self, address: Address, key: U256) -> Result<U256, Unavailable> {
        (**self).slot(address, key)
    }
    fn code(&self, hash: B256) -> Result<Code, Unavailable> {
        (**self).code(hash)
    }
    fn block_hash(&self, number: u64) -> Result<B256, Unavailable> {
        (**self).block_hash(number)
    }
}

impl<V: StateView + ?Sized> StateView for &V {
    fn account(&self, address: Address) -> Result<Option<Account>, Unavailable> {
        (**self).account(address)
    }
    fn slot(&self, address: Address, key: U256) -> Result<U256, Unavailable> {
        (**self).slot(address, key)
    }
    fn code(&self, hash: B256) -> Result<Code, Unavailable> {
        (**self).code(hash)
    }
    fn block_hash(&self, number: u64) -> Result<B256, Unavailable> {
        (**self).block_hash(number)
    }
}

/// A state that is wholly in memory: a genesis, and diffs applied to it.
#[derive(Clone, Debug, Default)]
pub struct MemoryView {
    accounts: HashMap<Address, Account>,
    slots: HashMap<(Address, U256), U256>,
    codes: HashMap<B256, Code>,
    block_hashes: BlockHashes,
}

impl MemoryView {
    /// The state that `genesis` allocates; block hashes are those of its fixed environment, if it has one.
    pub fn of(genesis: &Genesis) -> Self {
        let mut view = Self::default();
        for (address, account) in &genesis.accounts {
            let code_hash = view.codes_insert(&account.code);
            view.accounts.insert(
                *address,
                Account {
                    balance: account.balance,
                    nonce: account.nonce,
                    code_hash,
                },
            );
            let slots = account.storage.iter();
            view.slots.extend(slots.map(|(k, v)| ((*address, *k), *v)));
        }
        if let Some(fixed) = &genesis.config.fixed {
            view.block_hashes.clone_from(&fixed.block_hashes);
        }
        view
    }

    fn codes_insert(&mut self, code: &Bytes) -> B256 {
        if code.is_empty() {
            return KECCAK256_EMPTY;
        }
        let hash = keccak(code);
        self.codes
            .entry(hash)
            .or_insert_with(|| code_of(code.clone()));
        hash
    }

    /// Sets the hash that BLOCKHASH answers for `number`.
    pub fn set_block_hash(&mut self, number: u64, hash: B256) {
        self.block_hashes.insert(number, hash);
    }

    /// Applies a block's merged diff.
    ///
    /// # Errors
    /// The address whose balance would leave 256 bits; the view is then half changed.
    pub fn apply(&mut self, diff: &Diff) -> Result<(), Address> {
        for (address, change) in &diff.accounts {
            let mut account = self.accounts.get(address).copied().unwrap_or_default();
            account.balance = change.balance.apply(account.balance).ok_or(*address)?;
            account.nonce = change.nonce.unwrap_or(account.nonce);
            if let Some(code) = &change.code {
                account.code_hash = self.codes_insert(code);
            }
            if account.is_empty() {
                self.accounts.remove(address);
            } else {
                self.accounts.insert(*address, account);
            }
            for (key, value) in &change.slots {
                if value.is_zero() {
                    self.slots.remove(&(*address, *key));
                } else {
                    self.slots.insert((*address, *key), *value);
                }
            }
        }
        Ok(())
    }

    /// Credits `amount` to `address`: the fees of a sealed block.
    ///
    /// # Errors
    /// The address, if its balance would leave 256 bits.
    pub fn credit(&mut self, address: Address, amount: U256) -> Result<(), Address> {
        if amount.is_zero() {
            return Ok(());
        }
        let account = self.accounts.entry(address).or_default();
        account.balance = Delta::rise(amount).apply(account.balance).ok_or(address)?;
        Ok(())
    }

    /// All balances together, saturating.
    pub fn total_balance(&self) -> U256 {
        let balances = self.accounts.values().map(|a| a.balance);
        balances.fold(U256::ZERO, U256::saturating_add)
    }

    /// True if both hold the same accounts and slots.
    pub fn same_state(&self, other: &Self) -> bool {
        self.accounts == other.accounts && self.slots == other.slots
    }
}

impl StateView for MemoryView {
    fn account(&self, address: Address) -> Result<Option<Account>, Unavailable> {
        Ok(self.accounts.get(&address).copied())
    }
    fn slot(&self, address: Address, key: U256) -> Result<U256, Unavailable> {
        let value = self.slots.get(&(address, key));
        Ok(value.copied().unwrap_or_default())
    }
    fn code(&self, hash: B256) -> Result<Code, Unavailable> {
        let code = self.codes.get(&hash).cloned();
        code.ok_or_else(|| Unavailable(format!("no code {hash}")))
    }
    fn block_hash(&self, number: u64) -> Result<B256, Unavailable> {
        Ok(self.block_hashes.get(&number).copied().unwrap_or_default())
    }
}
