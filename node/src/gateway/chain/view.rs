//! The state at one block, read from the store as it is asked for.

use crate::blocking::wait_for;
use crate::execution::{Account, Code, StateView, Unavailable, code_of};
use crate::store_client::{BlockId, StateKey, StateValue, StoreClient, StoreError};
use alloy_primitives::{Address, B256, KECCAK256_EMPTY, U256};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use tokio::runtime::Handle;
use troika_proto::BlockHashes;

/// Values that are read one by one before a run that guesses finds out what else is wanted.
const SINGLE_READS: u32 = 4;
/// Most such runs of one call.
const PROBE_TURNS: u32 = 6;

/// What one call has read. It lives as long as the call, and what it reads never changes.
#[derive(Debug, Default)]
struct Memo {
    accounts: HashMap<Address, Option<Account>>,
    slots: HashMap<(Address, U256), U256>,
    codes: HashMap<B256, Code>,
    block_hashes: BlockHashes,
    /// How many values may still be read one by one; `None`: any number.
    reads_left: Option<u32>,
    /// A value would have been read, had there been reads left.
    starved: bool,
    /// Answers what is not known by nothing, and notes it.
    probing: bool,
    wanted: BTreeSet<StateKey>,
    wanted_codes: BTreeSet<B256>,
}

/// What to do about a value that has not been read.
enum Miss {
    Read,
    Guess,
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

    /// Runs what reads this state. A few values are read one by one; where there are more, runs that guess what they do
    /// not know find out what is wanted, and all of it is read in one go. `is_unavailable` knows a result that only says
    /// that something could not be read.
    pub fn batched<R>(&self, is_unavailable: impl Fn(&R) -> bool, run: impl Fn() -> R) -> R {
        for _ in 0..PROBE_TURNS {
            self.memo(|memo| (memo.reads_left, memo.starved) = (Some(SINGLE_READS), false));
            let result = run();
            if !self.memo(|memo| memo.starved) || !is_unavailable(&result) {
                return result;
            }
            self.memo(|memo| memo.probing = true);
            drop(run());
            self.memo(|memo| memo.probing = false);
            if self.read_wanted().is_err() {
                break;
            }
        }
        // What one value says of where the next stands has to be read one by one.
        self.memo(|memo| memo.reads_left = None);
        run()
    }

    fn read_wanted(&self) -> Result<(), Unavailable> {
        let (keys, mut codes) = self.memo(|memo| {
            let keys = std::mem::take(&mut memo.wanted);
            (keys, std::mem::take(&mut memo.wanted_codes))
        });
        let keys: Vec<StateKey> = keys.into_iter().collect();
        let read = self.read(&keys, &[])?;
        self.memo(|memo| {
            for (key, value) in keys.iter().zip(&read.values) {
                match (key, value) {
                    (StateKey::Account(address), _) => {
                        let account = account_of(value);
                        let code = account.filter(Account::has_code).map(|a| a.code_hash);
                        codes.extend(code.filter(|hash| !memo.codes.contains_key(hash)));
                        memo.accounts.insert(*address, account);
                    }
                    (StateKey::Slot(address, slot), StateValue::Slot(value)) => {
                        memo.slots.insert((*address, *slot), *value);
                    }
                    (StateKey::Slot(..), StateValue::Account(_)) => {}
                }
            }
        });
        if codes.is_empty() {
            return Ok(());
        }
        let codes: Vec<B256> = codes.into_iter().collect();
        let read = self.read(&[], &codes)?;
        self.memo(|memo| {
            let found = codes.into_iter().zip(read.codes);
            memo.codes
                .extend(found.filter_map(|(hash, code)| Some((hash, code_of(code?)))));
        });
        Ok(())
    }

    fn miss(&self, want: impl FnOnce(&mut Memo)) -> Result<Miss, Unavailable> {
        self.memo(|memo| {
            if memo.probing {
                want(memo);
                return Ok(Miss::Guess);
            }
            match &mut memo.reads_left {
                None => Ok(Miss::Read),
                Some(0) => {
                    memo.starved = true;
                    Err(Unavailable("to be read with others".to_owned()))
                }
                Some(left) => {
                    *left -= 1;
                    Ok(Miss::Read)
                }
            }
        })
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
        let (client, block) = (self.client.clone(), self.block);
        let (keys, codes) = (keys.to_vec(), codes.to_vec());
        self.wait(async move { client.read(Some(block), &keys, &codes).await })
    }

    fn wait<R: Send + 'static>(
        &self,
        read: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, Unavailable> {
        match wait_for(&self.runtime, read) {
            Some(read) => read.map_err(unavailable),
            None => Err(Unavailable("the gateway stops".to_owned())),
        }
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
        let key = StateKey::Account(address);
        if let Miss::Guess = self.miss(|memo| {
            memo.wanted.insert(key);
        })? {
            return Ok(None);
        }
        let read = self.read(&[key], &[])?;
        let account = read.values.first().and_then(account_of);
        self.memo(|memo| memo.accounts.insert(address, account));
        Ok(account)
    }

    fn slot(&self, address: Address, key: U256) -> Result<U256, Unavailable> {
        if let Some(known) = self.memo(|memo| memo.slots.get(&(address, key)).copied()) {
            return Ok(known);
        }
        let wanted = StateKey::Slot(address, key);
        if let Miss::Guess = self.miss(|memo| {
            memo.wanted.insert(wanted);
        })? {
            return Ok(U256::ZERO);
        }
        let read = self.read(&[wanted], &[])?;
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
        if let Miss::Guess = self.miss(|memo| {
            memo.wanted_codes.insert(hash);
        })? {
            return Ok(Code::default());
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
        self.in_time()?;
        let client = self.client.clone();
        let found = self.wait(async move { client.block(BlockId::Number(number)).await })?;
        let hash = found.map_or(B256::ZERO, |block| block.hash);
        self.memo(|memo| memo.block_hashes.insert(number, hash));
        Ok(hash)
    }
}
