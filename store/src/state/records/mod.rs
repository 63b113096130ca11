//! What a checkpoint holds: one file a record kind, with its key, encoding, meaning, lifetime and round-trip test.
//!
//! A key is one byte for the kind, then the fields big-endian, so that records of a kind lie together and in order.
//! Kinds below 0x80 are **hot**: read into memory by [`Machine::load`](super::Machine::load), ascending. The others are
//! **cold**: read back one by one. A kind's number is never used again for something else.
//!
//! | kind | record | key | lifetime |
//! |---|---|---|---|
//! | 0x01 | [`meta`]: the counters | | for ever |
//! | 0x02 | [`chain`]: config and genesis hash | | for ever |
//! | 0x03 | [`executor`]: a name | number | for ever |
//! | 0x04 | [`barred`]: a block found invalid | block hash | for ever |
//! | 0x05 | [`round`]: a round | round | until pruned |
//! | 0x06 | [`held`]: keys taken ahead | round, shard, revision | until the shard is decided |
//! | 0x07 | [`canonical`]: which block has a number | block number | until pruned and older than BLOCKHASH needs |
//! | 0x08 | [`layer`]: what a recent block changed | layer number | until folded into the base |
//! | 0x09 | [`events`]: a run of events | first event | until all of it is forgotten |
//! | 0x10 | [`code`]: a contract's code | code hash | for ever |
//! | 0x11 | [`account`]: an account at the base block | address | while it exists |
//! | 0x12 | [`slot`]: a storage slot at the base block | address, slot | while it is not zero |
//! | 0x81 | [`shard`]: an accepted shard | round, shard | until pruned |
//! | 0x82 | [`block`]: a sealed block's header | block hash | as `canonical` |
//! | 0x83 | [`transaction`]: where a transaction stands | range of rounds, head or beside, hash | until all rounds of the range are pruned |

pub mod account;
pub mod barred;
pub mod block;
pub mod canonical;
pub mod chain;
pub mod code;
pub mod events;
pub mod executor;
pub mod held;
mod key;
pub mod layer;
pub mod meta;
pub mod round;
pub mod shard;
pub mod slot;
pub mod transaction;

pub use key::RecordKey;
pub use transaction::Place;

use super::decision::Revision;
use super::history::StoredEvent;
use super::layers::{Account, Layer};
use super::round::Round;
use bytes::Bytes;
use std::sync::Arc;
use troika_proto::{Malformed, U256};

/// A record that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} record: {problem}")]
pub struct Corrupt {
    /// The record's kind.
    pub what: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl Corrupt {
    pub(super) fn new(what: &'static str, problem: impl ToString) -> Self {
        Self {
            what,
            problem: problem.to_string(),
        }
    }
}

/// Turns a decoding error into one that names the record's kind.
fn corrupt(what: &'static str) -> impl Fn(Malformed) -> Corrupt {
    move |error| Corrupt::new(what, error)
}

fn decode<M: prost::Message + Default>(what: &'static str, bytes: &[u8]) -> Result<M, Corrupt> {
    M::decode(bytes).map_err(|error| Corrupt::new(what, error))
}

/// A record's value before it is encoded: small or shared.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Encoded(Bytes),
    /// In a box: most values are slots.
    Account(Option<Box<Account>>),
    Slot(U256),
    Round(Arc<Round>),
    Layer(Arc<Layer>),
    /// An accepted proposal as it was logged, which is a quarter of what it takes decoded, and its revision.
    Shard(Bytes, Revision),
    Place(Place),
    Events(Arc<[StoredEvent]>),
    /// Deleted.
    Gone,
}

impl Value {
    /// The record's bytes; `None` where there is to be no record.
    pub(super) fn encode(&self) -> Option<Bytes> {
        match self {
            Self::Encoded(bytes) => Some(bytes.clone()),
            Self::Account(account) => account.as_deref().map(account::encode),
            Self::Slot(value) => slot::encode(*value),
            Self::Round(round) => Some(round::encode(round)),
            Self::Layer(layer) => Some(layer::encode(layer)),
            Self::Shard(accept, revision) => Some(shard::encode(accept, *revision)),
            Self::Place(place) => Some(transaction::encode(*place)),
            Self::Events(events) => Some(events::encode(events)),
            Self::Gone => None,
        }
    }

    pub(super) fn approximate_bytes(&self) -> usize {
        const KEY: usize = 48;
        KEY + match self {
            Self::Encoded(bytes) => bytes.len(),
            Self::Account(_) => 72,
            Self::Slot(_) => 32,
            Self::Round(round) => 512 + round.winners.len() * round::WINNER_BYTES,
            Self::Layer(layer) => layer.bytes(),
            Self::Shard(accept, _) => accept.len(),
            Self::Place(_) => 16,
            Self::Events(events) => events.len() * 40,
            Self::Gone => 0,
        }
    }
}
