//! The state at one block, read from the store as it is asked for.

use crate::execution::{Account, Code, StateView, Unavailable, code_of};
use crate::store_client::{BlockId, StateKey, StateValue, StoreClient, StoreError};
use alloy_primitives::{Address, B256, KECCAK256_EMPTY, U256};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use tokio::runtime::Handle;
use troika_proto::BlockHashes;

/// What one call has read. It lives as long as the call, and what it reads never changes.
#[derive(Debug, Default)]
struct Memo {
    accounts: HashMap<Address, Option<Account>>,
    slots: HashMap<(Address, U256), U256>,
    codes: HashMap<B256, Code>,
    block_hashes: BlockHashes,
}

/// The state after one block. Its answers block the calling thread, which must not be a worker of the runtime.
pub struct StoreView {
    client: StoreClient,
    block: B256,
    runtime: Handle,
    /// BLOCKHASH answers from a fixed list alone.
    fixed_hashes: bool,
    /// After this nothing is read any more.
    deadline: Option<Instant>,
    memo: Mutex<Memo>,
}

impl StoreView {
    /// The state after `block`; `block_hashes` are those of a fixed environment. Must be called within the runtime.
    pub fn new(client: StoreClient, block: B256, block_hashes: Option<&BlockHashes>) -> Self {
        Self {
            client,
            block,
            runtime: Handle::current(),
            fixed_hashes: block_hashes.is_some(),
            deadline: None,
            memo: Mutex::new(Memo {
                block_hashes: block_hashes.cloned().unwrap_or_default(),
                ..Memo::default()
            }),
        }
    }

    fn in_time(&self) -> Result<(), Unavailable> {
        match self.deadline {
            Some(deadline) if Instant::now() > deadline => {
                Err(Unavailable("out of time".to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// The same, but after `deadline` what was not read before is unavailable.
    #[must_use]
    pub fn until(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Reads accounts ahead, in one go. What fails is read when it is asked for.
    pub fn prefetch(&self, addresses: impl IntoIterator<Item = Address>) {
        let addresses: Vec<Address> = addresses.into_iter().collect();
        let keys: Vec<StateKey> = addresses.iter().map(|a| StateKey::Account(*a)).collect();
        if let Ok(read) = self.read(&keys, &[]) {
            self.memo(|memo| {
                let read = addresses.into_iter().zip(&read.values);
                memo.accounts
                    .extend(read.map(|(a, value)| (a, account_of(value))));
            });
        }
    }

    fn memo<R>(&self, f: impl FnOnce(&mut Memo) -> R) -> R {
        f(&mut self.memo.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn read(
        &self,
        keys: &[StateKey],
        codes: &[B256],
    ) -> Result<crate::store_client::StateValues, Unavailable> {
        self.in_time()?;
        let read = self.client.read(Some(self.block), keys, codes);
        self.runtime.block_on(read).map_err(unavailable)
    }
}

fn account_of(value: &StateValue) -> Option<Account> {
    match value {
        StateValue::Account(Some(found)) => Some(Account {
            balance: found.balance,
            nonce: found.nonce,
            code_hash: found.code_hash.unwrap_or(KECCAK256_EMPTY),
        }),
        _ => None,
    }
}

fn unavailable(error: StoreError) -> Unavailable {
    Unavailable(error.to_string())
}

impl StateView for StoreView {
    fn account(&self, address: Address) -> Result<Option<Account>, Unavailable> {
        if let Some(known) = self.memo(|memo| memo.accounts.get(&address).copied()) {
            return Ok(known);
        }
        let read = self.read(&[StateKey::Account(address)], &[])?;
        let account = read.values.first().and_then(account_of);
        self.memo(|memo| memo.accounts.insert(address, account));
        Ok(account)
    }

    fn slot(&self, address: Address, key: U256) -> Result<U256, Unavailable> {
        if let Some(known) = self.memo(|memo| memo.slots.get(&(address, key)).copied()) {
            return Ok(known);
        }
        let read = self.read(&[StateKey::Slot(address, key)], &[])?;
        let value = match read.values.first() {
            Some(StateValue::Slot(value)) => *value,
            _ => U256::ZERO,
        };
        self.memo(|memo| memo.slots.insert((address, key), value));
        Ok(value)
    }

    fn code(&self, hash: B256) -> Result<Code, Unavailable> {
        if let Some(known) = self.memo(|memo| memo.codes.get(&hash).cloned()) {
            return Ok(known);
        }
        let read = self.read(&[], &[hash])?;
        let found = read.codes.into_iter().next().flatten();
        let code = found.ok_or_else(|| Unavailable(format!("the store has no code {hash}")))?;
        let code = code_of(code);
        self.memo(|memo| memo.codes.insert(hash, code.clone()));
        Ok(code)
    }

    fn block_hash(&self, number: u64) -> Result<B256, Unavailable> {
        if let Some(known) = self.memo(|memo| memo.block_hashes.get(&number).copied()) {
            return Ok(known);
        }
        if self.fixed_hashes {
            return Ok(B256::ZERO);
        }
        let read = self.client.block(BlockId::Number(number));
        let found = self.runtime.block_on(read).map_err(unavailable)?;
        let hash = found.map_or(B256::ZERO, |block| block.hash);
        self.memo(|memo| memo.block_hashes.insert(number, hash));
        Ok(hash)
    }
}
