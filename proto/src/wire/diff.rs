//! Lock keys and diffs.

use super::{Arena, Malformed, address, address_bytes, ascending, at_most, fixed, number};
use crate::diff::{AccountDiff, Delta, Diff};
use crate::limits::{MAX_CODE_BYTES, MAX_DIFF_ACCOUNTS, MAX_DIFF_SLOTS};
use crate::lock::LockKey;
use crate::v1;
use alloy_primitives::U256;
use bytes::Bytes;
use std::collections::BTreeMap;

impl From<LockKey> for v1::LockKey {
    fn from(key: LockKey) -> Self {
        Self {
            address: address_bytes(key.address),
            slot: key.slot.map_or_else(Bytes::new, |slot| {
                Bytes::copy_from_slice(&slot.to_be_bytes::<32>())
            }),
        }
    }
}

impl TryFrom<&v1::LockKey> for LockKey {
    type Error = Malformed;

    fn try_from(key: &v1::LockKey) -> Result<Self, Malformed> {
        let slot = if key.slot.is_empty() {
            None
        } else {
            Some(U256::from_be_bytes(fixed::<32>("slot", &key.slot)?))
        };
        Ok(Self {
            address: address("address", &key.address)?,
            slot,
        })
    }
}

/// Slots of an account: key -> value, from an ascending list.
pub(super) fn slots(list: &[v1::SlotDiff]) -> Result<BTreeMap<U256, U256>, Malformed> {
    let mut slots = Vec::with_capacity(list.len());
    let mut last = None;
    for (i, slot) in list.iter().enumerate() {
        let slot = next_slot(slot, &mut last);
        slots.push(slot.map_err(|e| e.within(format_args!("slots[{i}]")))?);
    }
    // Made of a sorted list, a map is built without a search.
    Ok(slots.into_iter().collect())
}

fn next_slot(slot: &v1::SlotDiff, last: &mut Option<U256>) -> Result<(U256, U256), Malformed> {
    let key = number("key", &slot.key)?;
    ascending("key", last, key)?;
    Ok((key, number("value", &slot.value)?))
}

/// The wire form of slots.
pub(super) fn slots_to_wire(slots: &BTreeMap<U256, U256>, arena: &mut Arena) -> Vec<v1::SlotDiff> {
    slots
        .iter()
        .map(|(key, value)| v1::SlotDiff {
            key: arena.number(*key),
            value: arena.number(*value),
        })
        .collect()
}

impl TryFrom<&v1::AccountDiff> for AccountDiff {
    type Error = Malformed;

    fn try_from(wire: &v1::AccountDiff) -> Result<Self, Malformed> {
        let amount = number("amount", &wire.amount)?;
        if wire.fell && amount.is_zero() {
            return Err(Malformed::new("fell", "is set, but the amount is zero"));
        }
        if wire.nonce == Some(0) {
            return Err(Malformed::new("nonce", "is zero: a changed nonce never is"));
        }
        if let Some(code) = &wire.code {
            at_most("code", code.len(), MAX_CODE_BYTES)?;
        }
        let diff = Self {
            balance: if wire.fell {
                Delta::fall(amount)
            } else {
                Delta::rise(amount)
            },
            nonce: wire.nonce,
            code: wire.code.clone().map(Into::into),
            slots: slots(&wire.slots)?,
        };
        if diff.is_empty() {
            return Err(Malformed::new("address", "is of an account without change"));
        }
        Ok(diff)
    }
}

impl TryFrom<&v1::Diff> for Diff {
    type Error = Malformed;

    fn try_from(wire: &v1::Diff) -> Result<Self, Malformed> {
        at_most("accounts", wire.accounts.len(), MAX_DIFF_ACCOUNTS)?;
        let slots = wire.accounts.iter().map(|a| a.slots.len()).sum();
        at_most("slots of all accounts", slots, MAX_DIFF_SLOTS)?;
        let mut accounts = Vec::with_capacity(wire.accounts.len());
        let mut last = None;
        for (i, account) in wire.accounts.iter().enumerate() {
            let field = || format!("accounts[{i}]");
            let address = address("address", &account.address).map_err(|e| e.within(field()))?;
            ascending("address", &mut last, address).map_err(|e| e.within(field()))?;
            let diff = AccountDiff::try_from(account).map_err(|e| e.within(field()))?;
            accounts.push((address, diff));
        }
        Ok(Self {
            accounts: accounts.into_iter().collect(),
        })
    }
}

impl From<&Diff> for v1::Diff {
    fn from(diff: &Diff) -> Self {
        let slots: usize = diff.accounts.values().map(|a| a.slots.len()).sum();
        let mut arena = Arena::new(diff.accounts.len() * 36 + slots * 64);
        let accounts = diff
            .accounts
            .iter()
            .map(|(address, account)| v1::AccountDiff {
                address: arena.bytes(address.as_slice()),
                fell: account.balance.is_fall(),
                amount: arena.number(account.balance.amount()),
                nonce: account.nonce,
                code: account.code.clone().map(Into::into),
                slots: slots_to_wire(&account.slots, &mut arena),
            });
        Self {
            accounts: accounts.collect(),
        }
    }
}
