//! The state changes of a shard.

use crate::lock::{LockKey, LockRule};
use crate::trie;
use alloy_primitives::{Address, B256, Bytes, U256, U512};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// A signed change of a balance, in wei.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Delta {
    fell: bool,
    amount: U256,
}

impl Delta {
    /// No change.
    pub const ZERO: Self = Self {
        fell: false,
        amount: U256::ZERO,
    };

    /// A rise by `amount`.
    pub fn rise(amount: U256) -> Self {
        Self {
            fell: false,
            amount,
        }
    }

    /// A fall by `amount`. A fall by nothing is [`Delta::ZERO`].
    pub fn fall(amount: U256) -> Self {
        Self {
            fell: !amount.is_zero(),
            amount,
        }
    }

    /// The change that leads from `before` to `after`.
    pub fn between(before: U256, after: U256) -> Self {
        if after >= before {
            Self::rise(after - before)
        } else {
            Self::fall(before - after)
        }
    }

    /// Size of the change, without its sign.
    pub fn amount(&self) -> U256 {
        self.amount
    }

    /// True if the balance fell.
    pub fn is_fall(&self) -> bool {
        self.fell
    }

    /// True if nothing changed.
    pub fn is_zero(&self) -> bool {
        self.amount.is_zero()
    }

    /// The balance after the change; `None` if it would fall below zero or rise above 256 bits.
    pub fn apply(&self, balance: U256) -> Option<U256> {
        if self.fell {
            balance.checked_sub(self.amount)
        } else {
            balance.checked_add(self.amount)
        }
    }

    /// Both changes together; `None` if the sum leaves 256 bits.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        if self.fell == other.fell {
            let amount = self.amount.checked_add(other.amount)?;
            return Some(Self {
                fell: self.fell,
                amount,
            });
        }
        let (rise, fall) = if self.fell {
            (other.amount, self.amount)
        } else {
            (self.amount, other.amount)
        };
        Some(Self::between(fall, rise))
    }
}

/// State changes of one account, against the parent block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountDiff {
    /// Change of the balance. Fees are never in here.
    pub balance: Delta,
    /// The new nonce, if it changed; never zero.
    pub nonce: Option<u64>,
    /// The new code, if it changed; empty where a delegation was removed.
    pub code: Option<Bytes>,
    /// Changed storage slots: key -> new value.
    pub slots: BTreeMap<U256, U256>,
}

impl AccountDiff {
    /// True if nothing changed: such an account must not stand in a diff.
    pub fn is_empty(&self) -> bool {
        self.balance.is_zero()
            && self.nonce.is_none()
            && self.code.is_none()
            && self.slots.is_empty()
    }

    /// True if the account itself takes a lock: nonce or code changed, or the balance fell (strict: or rose).
    pub fn locks_itself(&self, rule: LockRule) -> bool {
        self.nonce.is_some()
            || self.code.is_some()
            || self.balance.is_fall()
            || (rule == LockRule::Strict && !self.balance.is_zero())
    }

    /// True if this is a credit: the balance rose and nothing else of the account itself changed.
    pub fn is_credit(&self) -> bool {
        !self.balance.is_zero() && !self.locks_itself(LockRule::Commuting)
    }
}

/// All state changes of a shard, or of several shards merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Changed accounts.
    pub accounts: BTreeMap<Address, AccountDiff>,
}

/// Why two diffs do not merge.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// Both write one key: the block is invalid.
    #[error("both diffs write {0}")]
    Conflict(LockKey),
    /// Balance changes of one account add up to more than 256 bits.
    #[error("balance changes of {0} leave 256 bits")]
    Overflow(Address),
}

impl Diff {
    /// True if nothing changed.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// What the diff's holder must hold alone, ascending.
    pub fn lock_keys(&self, rule: LockRule) -> Vec<LockKey> {
        let mut keys = Vec::new();
        for (address, account) in &self.accounts {
            if account.locks_itself(rule) {
                keys.push(LockKey::account(*address));
            }
            keys.extend(account.slots.keys().map(|k| LockKey::slot(*address, *k)));
        }
        keys
    }

    /// Root of the two-level trie that commits to every change (see `docs/protocol.md`).
    pub fn root(&self, rule: LockRule) -> B256 {
        trie::diff_root(self, rule)
    }

    /// True if the balance changes plus `minted` (fees and burned base fee, in wei) are above zero.
    pub fn makes_money(&self, minted: U256) -> bool {
        let mut rises = U512::from(minted);
        let mut falls = U512::ZERO;
        for account in self.accounts.values() {
            let amount = U512::from(account.balance.amount());
            if account.balance.is_fall() {
                falls += amount;
            } else {
                rises += amount;
            }
        }
        rises > falls
    }

    /// Adds `other`, another shard's diff of the same round. Merging disjoint diffs is free of order.
    ///
    /// Two shards may both change one balance as long as at most one of them locks the account, whatever the rule:
    /// under the strict rule the store has refused the second lock before.
    ///
    /// # Errors
    /// [`MergeError`]; `self` is then in an unspecified state.
    pub fn merge(&mut self, other: &Diff) -> Result<(), MergeError> {
        for (address, theirs) in &other.accounts {
            match self.accounts.entry(*address) {
                Entry::Vacant(entry) => {
                    entry.insert(theirs.clone());
                }
                Entry::Occupied(mut entry) => merge_account(*address, entry.get_mut(), theirs)?,
            }
        }
        // Opposite changes of one balance may cancel out.
        self.accounts.retain(|address, account| {
            !other.accounts.contains_key(address) || !account.is_empty()
        });
        Ok(())
    }
}

fn merge_account(
    address: Address,
    ours: &mut AccountDiff,
    theirs: &AccountDiff,
) -> Result<(), MergeError> {
    let rule = LockRule::Commuting;
    if ours.locks_itself(rule) && theirs.locks_itself(rule) {
        return Err(MergeError::Conflict(LockKey::account(address)));
    }
    ours.balance = ours
        .balance
        .checked_add(theirs.balance)
        .ok_or(MergeError::Overflow(address))?;
    ours.nonce = ours.nonce.or(theirs.nonce);
    if ours.code.is_none() {
        ours.code.clone_from(&theirs.code);
    }
    for (key, value) in &theirs.slots {
        if ours.slots.insert(*key, *value).is_some() {
            return Err(MergeError::Conflict(LockKey::slot(address, *key)));
        }
    }
    Ok(())
}
