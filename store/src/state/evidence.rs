//! Why a round is void.

use std::sync::Arc;
use troika_proto::wire::{hash, hash_bytes, required};
use troika_proto::{B256, LockKey, Malformed, v1};

/// Why a round is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoidReason {
    /// BUILD: another block became the head first.
    Stale,
    /// VERIFY: the block is invalid, with evidence. Bars the block for ever.
    Invalid,
    /// VERIFY: not all shards could be checked before the deadline.
    Unavailable,
    /// VERIFY: given up by a call.
    Abandoned,
}

impl From<VoidReason> for v1::VoidReason {
    fn from(reason: VoidReason) -> Self {
        match reason {
            VoidReason::Stale => Self::Stale,
            VoidReason::Invalid => Self::Invalid,
            VoidReason::Unavailable => Self::Unavailable,
            VoidReason::Abandoned => Self::Abandoned,
        }
    }
}

impl TryFrom<v1::VoidReason> for VoidReason {
    type Error = Malformed;

    fn try_from(reason: v1::VoidReason) -> Result<Self, Malformed> {
        match reason {
            v1::VoidReason::Stale => Ok(Self::Stale),
            v1::VoidReason::Invalid => Ok(Self::Invalid),
            v1::VoidReason::Unavailable => Ok(Self::Unavailable),
            v1::VoidReason::Abandoned => Ok(Self::Abandoned),
            v1::VoidReason::Unspecified => Err(Malformed::new("reason", "is unspecified")),
        }
    }
}

/// Why a checked block is invalid: a person understands it and a program checks it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// A lock key in the diffs of two accepted shards.
    DoubleWrite {
        /// The key.
        key: LockKey,
        /// The lower of the two shards.
        first_shard: u32,
        /// The higher of the two shards.
        second_shard: u32,
    },
    /// The header contradicts its parent, the chain config, the shard list or the shards.
    BadHeader {
        /// The field, as in Ethereum's JSON.
        field: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Executors computed another outcome, or the shard's own diff breaks a rule of the chain.
    BadShard {
        /// The shard.
        shard: u32,
        /// The hash that the list gives.
        expected: B256,
        /// What the executors computed; `None` where the shard cannot be executed.
        computed: Option<B256>,
        /// Who computed it.
        executors: Vec<Arc<str>>,
        /// Why it cannot be executed or which rule it breaks.
        reason: String,
    },
}

/// Fields of [`Evidence::BadHeader`] that speak of the list of shard hashes beside the header.
pub(super) const SHARD_HASHES: &str = "shardHashes";
/// The field of the header that commits to that list.
pub(super) const EXTRA_DATA: &str = "extraData";

impl Evidence {
    /// False where only the list beside the header is shown to be wrong. The block's hash does not cover what somebody
    /// sent along with it: with its own list the same block may be good.
    pub(super) fn is_of_the_block(&self) -> bool {
        !matches!(self, Self::BadHeader { field, .. } if [SHARD_HASHES, EXTRA_DATA].contains(field))
    }
}

/// The names that [`Evidence::BadHeader`] uses, as in Ethereum's JSON.
const HEADER_FIELDS: [&str; 15] = [
    "number",
    "timestamp",
    "baseFeePerGas",
    "mixHash",
    "gasLimit",
    "miner",
    "stateRoot",
    "parentBeaconBlockRoot",
    "extraData",
    "transactionsRoot",
    "receiptsRoot",
    "logsBloom",
    "gasUsed",
    "parentHash",
    "shardHashes",
];

impl From<&Evidence> for v1::Evidence {
    fn from(evidence: &Evidence) -> Self {
        use v1::evidence::Kind;
        let kind = match evidence {
            Evidence::DoubleWrite {
                key,
                first_shard,
                second_shard,
            } => Kind::DoubleWrite(v1::DoubleWrite {
                key: Some((*key).into()),
                first_shard: *first_shard,
                second_shard: *second_shard,
            }),
            Evidence::BadHeader {
                field,
                expected,
                found,
            } => Kind::BadHeader(v1::BadHeader {
                field: (*field).to_owned(),
                expected: expected.clone(),
                found: found.clone(),
            }),
            Evidence::BadShard {
                shard,
                expected,
                computed,
                executors,
                reason,
            } => Kind::BadShard(v1::BadShard {
                shard: *shard,
                expected: hash_bytes(*expected),
                computed: computed.map(hash_bytes).unwrap_or_default(),
                executors: executors.iter().map(|e| e.to_string()).collect(),
                reason: reason.clone(),
            }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<&v1::Evidence> for Evidence {
    type Error = Malformed;

    fn try_from(wire: &v1::Evidence) -> Result<Self, Malformed> {
        use v1::evidence::Kind;
        Ok(match required("kind", wire.kind.as_ref())? {
            Kind::DoubleWrite(double) => Self::DoubleWrite {
                key: LockKey::try_from(required("key", double.key.as_ref())?)?,
                first_shard: double.first_shard,
                second_shard: double.second_shard,
            },
            Kind::BadHeader(bad) => Self::BadHeader {
                field: HEADER_FIELDS
                    .into_iter()
                    .find(|name| *name == bad.field)
                    .ok_or_else(|| Malformed::new("field", "is no field of a header"))?,
                expected: bad.expected.clone(),
                found: bad.found.clone(),
            },
            Kind::BadShard(bad) => Self::BadShard {
                shard: bad.shard,
                expected: hash("expected", &bad.expected)?,
                computed: match bad.computed.is_empty() {
                    true => None,
                    false => Some(hash("computed", &bad.computed)?),
                },
                executors: bad.executors.iter().map(|e| e.as_str().into()).collect(),
                reason: bad.reason.clone(),
            },
        })
    }
}
