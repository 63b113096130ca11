//! Lock keys: the things that a diff may write alone.

use alloy_primitives::{Address, U256};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A thing that only one shard of a round may write. Ordered by address, an account before its slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LockKey {
    /// The account.
    pub address: Address,
    /// `None`: the account itself (nonce, code, falling balance). Else that storage slot.
    pub slot: Option<U256>,
}

impl LockKey {
    /// The lock on an account's nonce, code and falling balance.
    pub fn account(address: Address) -> Self {
        Self {
            address,
            slot: None,
        }
    }

    /// The lock on one storage slot.
    pub fn slot(address: Address, slot: U256) -> Self {
        Self {
            address,
            slot: Some(slot),
        }
    }
}

impl fmt::Display for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.slot {
            None => write!(f, "account {}", self.address),
            Some(slot) => write!(f, "slot {}/{slot:#x}", self.address),
        }
    }
}

/// How balances that only rise are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LockRule {
    /// A credit needs no lock: paying one popular account from many shards is no conflict.
    #[default]
    Commuting,
    /// Every balance change locks the account: the rule of the original proposal.
    Strict,
}

impl fmt::Display for LockRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Commuting => "commuting",
            Self::Strict => "strict",
        })
    }
}
