//! Keys of records.

use super::Corrupt;
use troika_proto::{Address, B256, U256};

/// Which record. Ordered as its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum RecordKey {
    Meta,
    Chain,
    Executor(u32),
    Barred(B256),
    Round(u64),
    Held {
        round: u64,
        shard: u32,
        revision: u64,
    },
    Canonical(u64),
    Layer(u64),
    /// Revision and ordinal of the first event.
    Events(u64, u32),
    Code(B256),
    Account(Address),
    Slot(Address, U256),
    Shard {
        round: u64,
        shard: u32,
    },
    Block(B256),
    /// `range` is the round divided by [`ROUNDS_PER_INDEX`](crate::state::limits::ROUNDS_PER_INDEX).
    Transaction {
        range: u64,
        beside: bool,
        hash: B256,
    },
}

/// First byte of all cold keys.
pub(super) const FIRST_COLD_KIND: u8 = 0x80;

impl RecordKey {
    fn kind(&self) -> u8 {
        match self {
            Self::Meta => 0x01,
            Self::Chain => 0x02,
            Self::Executor(_) => 0x03,
            Self::Barred(_) => 0x04,
            Self::Round(_) => 0x05,
            Self::Held { .. } => 0x06,
            Self::Canonical(_) => 0x07,
            Self::Layer(_) => 0x08,
            Self::Events(..) => 0x09,
            Self::Code(_) => 0x10,
            Self::Account(_) => 0x11,
            Self::Slot(..) => 0x12,
            Self::Shard { .. } => 0x81,
            Self::Block(_) => 0x82,
            Self::Transaction { .. } => 0x83,
        }
    }

    /// What records of a kind, the first byte of their keys, are: for people.
    pub fn kind_name(kind: u8) -> &'static str {
        match kind {
            0x01 => "counters",
            0x02 => "chain",
            0x03 => "executors",
            0x04 => "barred blocks",
            0x05 => "rounds",
            0x06 => "locks taken ahead",
            0x07 => "blocks by number",
            0x08 => "state layers",
            0x09 => "events",
            0x10 => "codes",
            0x11 => "accounts",
            0x12 => "slots",
            0x81 => "shards",
            0x82 => "block headers",
            0x83 => "transactions",
            _ => "unknown",
        }
    }

    /// True if the record is read back by key, and not held in memory.
    pub fn is_cold(&self) -> bool {
        self.kind() >= FIRST_COLD_KIND
    }

    /// The first key that is cold: hot records lie before it.
    pub fn cold_from() -> Vec<u8> {
        vec![FIRST_COLD_KIND]
    }

    /// The key's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(56);
        bytes.push(self.kind());
        match self {
            Self::Meta | Self::Chain => {}
            Self::Executor(number) => bytes.extend(number.to_be_bytes()),
            Self::Barred(hash) | Self::Code(hash) | Self::Block(hash) => bytes.extend(hash),
            Self::Round(number) | Self::Canonical(number) | Self::Layer(number) => {
                bytes.extend(number.to_be_bytes());
            }
            Self::Held {
                round,
                shard,
                revision,
            } => {
                bytes.extend(round.to_be_bytes());
                bytes.extend(shard.to_be_bytes());
                bytes.extend(revision.to_be_bytes());
            }
            Self::Events(revision, ordinal) => {
                bytes.extend(revision.to_be_bytes());
                bytes.extend(ordinal.to_be_bytes());
            }
            Self::Account(address) => bytes.extend(address),
            Self::Slot(address, slot) => {
                bytes.extend(address);
                bytes.extend(slot.to_be_bytes::<32>());
            }
            Self::Shard { round, shard } => {
                bytes.extend(round.to_be_bytes());
                bytes.extend(shard.to_be_bytes());
            }
            Self::Transaction {
                range,
                beside,
                hash,
            } => {
                bytes.extend(range.to_be_bytes());
                bytes.push(u8::from(*beside));
                bytes.extend(hash);
            }
        }
        bytes
    }

    /// Reads what [`RecordKey::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`Corrupt`] for a kind that this program does not know, or a wrong length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Corrupt> {
        let wrong = || Corrupt::new("key", format!("{bytes:02x?} is no record's key"));
        let (kind, rest) = bytes.split_first().ok_or_else(wrong)?;
        let mut rest = Fields(rest);
        let key = match kind {
            0x01 => Some(Self::Meta),
            0x02 => Some(Self::Chain),
            0x03 => rest.u32().map(Self::Executor),
            0x04 => rest.hash().map(Self::Barred),
            0x05 => rest.u64().map(Self::Round),
            0x06 => rest.held(),
            0x07 => rest.u64().map(Self::Canonical),
            0x08 => rest.u64().map(Self::Layer),
            0x09 => rest.u64().zip(rest.u32()).map(|(r, o)| Self::Events(r, o)),
            0x10 => rest.hash().map(Self::Code),
            0x11 => rest.take().map(Address::from).map(Self::Account),
            0x12 => rest.slot(),
            0x81 => rest.shard(),
            0x82 => rest.hash().map(Self::Block),
            0x83 => rest.transaction(),
            _ => None,
        };
        key.filter(|_| rest.0.is_empty()).ok_or_else(wrong)
    }
}

/// Fixed-length fields, one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn hash(&mut self) -> Option<B256> {
        self.take::<32>().map(B256::from)
    }

    fn held(&mut self) -> Option<RecordKey> {
        Some(RecordKey::Held {
            round: self.u64()?,
            shard: self.u32()?,
            revision: self.u64()?,
        })
    }

    fn slot(&mut self) -> Option<RecordKey> {
        let address = self.take().map(Address::from)?;
        Some(RecordKey::Slot(
            address,
            U256::from_be_bytes(self.take::<32>()?),
        ))
    }

    fn shard(&mut self) -> Option<RecordKey> {
        Some(RecordKey::Shard {
            round: self.u64()?,
            shard: self.u32()?,
        })
    }

    fn transaction(&mut self) -> Option<RecordKey> {
        let range = self.u64()?;
        let [beside] = self.take::<1>()?;
        Some(RecordKey::Transaction {
            range,
            beside: match beside {
                0 => false,
                1 => true,
                _ => return None,
            },
            hash: self.hash()?,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_key() -> impl Strategy<Value = RecordKey> {
        let hash = any::<[u8; 32]>().prop_map(B256::from).boxed();
        let address = any::<[u8; 20]>().prop_map(Address::from).boxed();
        prop_oneof![
            Just(RecordKey::Meta),
            Just(RecordKey::Chain),
            any::<u32>().prop_map(RecordKey::Executor),
            hash.clone().prop_map(RecordKey::Barred),
            any::<u64>().prop_map(RecordKey::Round),
            (any::<u64>(), any::<u32>(), any::<u64>()).prop_map(|(round, shard, revision)| {
                RecordKey::Held {
                    round,
                    shard,
                    revision,
                }
            }),
            any::<u64>().prop_map(RecordKey::Canonical),
            any::<u64>().prop_map(RecordKey::Layer),
            any::<(u64, u32)>().prop_map(|(r, o)| RecordKey::Events(r, o)),
            hash.clone().prop_map(RecordKey::Code),
            address.clone().prop_map(RecordKey::Account),
            (address, any::<[u8; 32]>())
                .prop_map(|(a, s)| RecordKey::Slot(a, U256::from_be_bytes(s))),
            any::<(u64, u32)>().prop_map(|(round, shard)| RecordKey::Shard { round, shard }),
            hash.clone().prop_map(RecordKey::Block),
            (any::<u64>(), any::<bool>(), hash).prop_map(|(range, beside, hash)| {
                RecordKey::Transaction {
                    range,
                    beside,
                    hash,
                }
            }),
        ]
    }

    proptest! {
        #[test]
        fn keys_survive_the_round_trip(key in any_key()) {
            prop_assert_eq!(RecordKey::from_bytes(&key.to_bytes()).unwrap(), key);
        }

        #[test]
        fn keys_are_ordered_as_their_bytes(a in any_key(), b in any_key()) {
            prop_assert_eq!(a.cmp(&b), a.to_bytes().cmp(&b.to_bytes()));
            prop_assert_eq!(a.is_cold(), a.to_bytes() >= RecordKey::cold_from());
        }

        #[test]
        fn any_bytes_are_a_key_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(key) = RecordKey::from_bytes(&bytes) {
                prop_assert_eq!(key.to_bytes(), bytes);
            }
        }
    }
}
