//! Troika's wire format and shared vocabulary.
//!
//! Two halves. The **generated** half ([`v1`], [`member`], [`log`]) is what travels and what is stored, as protobuf. The
//! **checked** half is what the rest of Troika computes with: [`LockKey`], [`Diff`], [`Shard`], [`Header`],
//! [`Genesis`]. A wire value becomes a checked one once, at the boundary ([`wire`], `TryFrom`), which refuses what is
//! malformed with the name of the field; inside nothing is checked again because nothing can be wrong.
//!
//! This crate does no IO and knows nothing of consensus, storage or the EVM. The rules behind every hash stand in
//! `docs/protocol.md`; fixed vectors in `tests/vectors.rs` keep them from moving.

pub mod chain;
pub mod decision;
pub mod diff;
pub mod hash;
pub mod header;
pub mod limits;
pub mod lock;
pub mod receipt;
pub mod shard;
mod trie;
pub mod whole;
pub mod wire;

pub use alloy_primitives::{Address, B256, Bloom, Bytes, U256};
pub use chain::{
    BlockHashes, ChainConfig, Environment, FixedEnvironment, Genesis, GenesisAccount, Spec,
};
pub use decision::{LockHolder, Refusal, Winner};
pub use diff::{AccountDiff, Delta, Diff, MergeError};
pub use hash::keccak;
pub use header::{BlockTotals, Header, shards_root};
pub use lock::{LockKey, LockRule};
pub use receipt::{Log, Receipt};
pub use shard::{Shard, ShardBody, ShardFault, ShardHeader};
pub use trie::{EMPTY_ROOT, ordered_root, ordered_root_of_hashes};
pub use wire::Malformed;

/// The services of `troika.v1`, and their messages.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("troika.v1");
}

/// Member to member.
#[allow(missing_docs, clippy::all)]
pub mod member {
    pub mod v1 {
        tonic::include_proto!("troika.member.v1");
    }
}

/// What a log entry holds.
#[allow(missing_docs, clippy::all)]
pub mod log {
    pub mod v1 {
        tonic::include_proto!("troika.log.v1");
    }
}

/// What the records of a checkpoint hold.
#[allow(missing_docs, clippy::all)]
pub mod record {
    pub mod v1 {
        tonic::include_proto!("troika.record.v1");
    }
}

/// The encoded descriptors of all `.proto` files, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
