//! Reads of the chain's state at a block.

use super::state::state;
use super::transport::{StoreClient, StoreError};
use troika_proto::limits::{MAX_READ_CODES, MAX_READ_KEYS};
use troika_proto::wire::{address_bytes, fixed, hash, hash_bytes, number, required};
use troika_proto::{Address, B256, Bytes, Malformed, U256, v1};

/// What to read of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StateKey {
    /// An account.
    Account(Address),
    /// A storage slot.
    Slot(Address, U256),
}

/// An account that exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountState {
    /// Wei.
    pub balance: U256,
    /// Transactions sent.
    pub nonce: u64,
    /// `None`: no code.
    pub code_hash: Option<B256>,
}

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateValue {
    /// `None`: there is no such account.
    Account(Option<AccountState>),
    /// Zero where it was never written.
    Slot(U256),
}

/// The answer to a state read.
#[derive(Clone, Debug)]
pub struct StateValues {
    /// The block that was read.
    pub block: B256,
    /// One a key, in the order asked.
    pub values: Vec<StateValue>,
    /// One a code hash, in the order asked; `None` where unknown.
    pub codes: Vec<Option<Bytes>>,
    /// What is likely to be asked next, if that was wanted.
    pub ahead: Vec<Ahead>,
}

/// An account with code that was not asked for, or more of one that was.
#[derive(Clone, Debug)]
pub struct Ahead {
    /// Its address.
    pub address: Address,
    /// The account.
    pub account: StateValue,
    /// Its code and that code's hash; `None` where it was not sent.
    pub code: Option<(B256, Bytes)>,
    /// Slots of its storage.
    pub slots: Vec<(U256, U256)>,
    /// True if any other slot is zero.
    pub whole: bool,
}

impl StoreClient {
    /// Reads the state at a block (`None`: at the head of whoever answers). Any number of keys and codes: what exceeds
    /// one message is asked for in several, all at the same block.
    ///
    /// # Errors
    /// [`StoreError`] without an answer; [`StoreError::Pruned`] where the block's state is no longer kept.
    pub async fn read(
        &self,
        block: Option<B256>,
        keys: &[StateKey],
        codes: &[B256],
    ) -> Result<StateValues, StoreError> {
        self.read_pages(block, keys, codes, 0).await
    }

    /// As [`Self::read`], with `ahead_bytes` more, nearly, of what is likely to be asked next.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_ahead(
        &self,
        block: B256,
        keys: &[StateKey],
        ahead_bytes: u32,
    ) -> Result<StateValues, StoreError> {
        self.read_pages(Some(block), keys, &[], ahead_bytes).await
    }

    async fn read_pages(
        &self,
        block: Option<B256>,
        keys: &[StateKey],
        codes: &[B256],
        ahead_bytes: u32,
    ) -> Result<StateValues, StoreError> {
        let mut key_pages = keys.chunks(MAX_READ_KEYS);
        let mut code_pages = codes.chunks(MAX_READ_CODES);
        let mut all: Option<StateValues> = None;
        loop {
            let (key_page, code_page) = (key_pages.next(), code_pages.next());
            if key_page.is_none()
                && code_page.is_none()
                && let Some(all) = all
            {
                return Ok(all);
            }
            let at = all.as_ref().map(|all| all.block).or(block);
            let (key_page, code_page) =
                (key_page.unwrap_or_default(), code_page.unwrap_or_default());
            let page = self.read_page(at, key_page, code_page, ahead_bytes).await?;
            match &mut all {
                None => all = Some(page),
                Some(all) => {
                    all.values.extend(page.values);
                    all.codes.extend(page.codes);
                    all.ahead.extend(page.ahead);
                }
            }
        }
    }

    async fn read_page(
        &self,
        block: Option<B256>,
        keys: &[StateKey],
        codes: &[B256],
        ahead_bytes: u32,
    ) -> Result<StateValues, StoreError> {
        let request = v1::ReadRequest {
            meta: self.monotonic(),
            block: block.map(hash_bytes).unwrap_or_default(),
            keys: keys.iter().map(wire_key).collect(),
            codes: codes.iter().map(|code| hash_bytes(*code)).collect(),
            linearizable: false,
            ahead_bytes,
        };
        let reply = self
            .call("read state", |channel| {
                let request = request.clone();
                async move { state(channel).read(request).await }
            })
            .await?;
        if reply.values.len() != keys.len() || reply.codes.len() != codes.len() {
            return Err(Malformed::new("values", "are not one for each key").into());
        }
        let values = keys.iter().zip(&reply.values).map(value);
        let codes = reply.codes.into_iter();
        Ok(StateValues {
            block: hash("block", &reply.block)?,
            values: values.collect::<Result<_, _>>()?,
            codes: codes
                .map(|code| (!code.is_empty()).then(|| code.into()))
                .collect(),
            ahead: reply
                .ahead
                .into_iter()
                .map(account_ahead)
                .collect::<Result<_, _>>()?,
        })
    }
}

fn wire_key(key: &StateKey) -> v1::StateKey {
    match key {
        StateKey::Account(address) => v1::StateKey {
            address: address_bytes(*address),
            slot: bytes::Bytes::new(),
        },
        StateKey::Slot(address, slot) => v1::StateKey {
            address: address_bytes(*address),
            slot: bytes::Bytes::copy_from_slice(&slot.to_be_bytes::<32>()),
        },
    }
}

fn account_ahead(wire: v1::AccountAhead) -> Result<Ahead, Malformed> {
    let slots = wire.slots.iter().map(|slot| {
        let key = U256::from_be_bytes(fixed::<32>("ahead.slots.slot", &slot.slot)?);
        Ok((key, number("ahead.slots.value", &slot.value)?))
    });
    let address = fixed::<20>("ahead.address", &wire.address)?.into();
    let account = required("ahead.account", wire.account)?;
    Ok(Ahead {
        address,
        account: value((&StateKey::Account(address), &account))?,
        slots: slots.collect::<Result<_, Malformed>>()?,
        whole: wire.whole,
        code: match wire.code.is_empty() {
            true => None,
            false => Some((
                hash("ahead.account.code_hash", &account.code_hash)?,
                wire.code.into(),
            )),
        },
    })
}

fn value((key, wire): (&StateKey, &v1::StateValue)) -> Result<StateValue, Malformed> {
    Ok(match key {
        StateKey::Slot(..) => StateValue::Slot(number("values.slot", &wire.slot)?),
        StateKey::Account(_) if !wire.exists => StateValue::Account(None),
        StateKey::Account(_) => StateValue::Account(Some(AccountState {
            balance: number("values.balance", &wire.balance)?,
            nonce: wire.nonce,
            code_hash: super::convert::optional_hash("values.code_hash", &wire.code_hash)?,
        })),
    })
}
