//! What the store decides, as both sides of the wire speak of it.

use crate::lock::LockKey;
use crate::v1;
use crate::wire::{Malformed, hash, hash_bytes, required};
use alloy_primitives::B256;
use std::sync::Arc;
pub use v1::RefusalCode;

/// Who won a shard. Never changes once given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Winner {
    /// Hash of the accepted shard.
    pub shard_hash: B256,
    /// The executor that made it; empty where the round was sealed with the shard undecided (then the empty shard).
    pub executor: Arc<str>,
    /// The revision of the decision: its fence.
    pub revision: u64,
}

/// A lock key and the shard that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockHolder {
    /// What is locked.
    pub key: LockKey,
    /// The shard that holds it.
    pub shard: u32,
    /// Revision at which it was taken: the fence.
    pub revision: u64,
}

/// Why the store did not do it: an answer, not a fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code:?})")]
pub struct Refusal {
    /// Which rule.
    pub code: RefusalCode,
    /// What was wrong, what was expected.
    pub message: String,
}

impl Refusal {
    /// A code with its message.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl From<&Winner> for v1::Winner {
    fn from(winner: &Winner) -> Self {
        Self {
            shard_hash: hash_bytes(winner.shard_hash),
            executor: winner.executor.to_string(),
            revision: winner.revision,
        }
    }
}

impl TryFrom<&v1::Winner> for Winner {
    type Error = Malformed;

    fn try_from(wire: &v1::Winner) -> Result<Self, Malformed> {
        Ok(Self {
            shard_hash: hash("winner.shard_hash", &wire.shard_hash)?,
            executor: wire.executor.as_str().into(),
            revision: wire.revision,
        })
    }
}

impl TryFrom<v1::Winner> for Winner {
    type Error = Malformed;

    fn try_from(wire: v1::Winner) -> Result<Self, Malformed> {
        Self::try_from(&wire)
    }
}

impl From<&LockHolder> for v1::LockHolder {
    fn from(holder: &LockHolder) -> Self {
        Self {
            key: Some(holder.key.into()),
            shard: holder.shard,
            revision: holder.revision,
        }
    }
}

impl TryFrom<&v1::LockHolder> for LockHolder {
    type Error = Malformed;

    fn try_from(wire: &v1::LockHolder) -> Result<Self, Malformed> {
        Ok(Self {
            key: LockKey::try_from(required("key", wire.key.as_ref())?)?,
            shard: wire.shard,
            revision: wire.revision,
        })
    }
}

impl From<&Refusal> for v1::Refusal {
    fn from(refusal: &Refusal) -> Self {
        Self {
            code: refusal.code.into(),
            message: refusal.message.clone(),
        }
    }
}

impl From<v1::Refusal> for Refusal {
    fn from(wire: v1::Refusal) -> Self {
        Self::new(wire.code(), wire.message)
    }
}
