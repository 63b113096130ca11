//! 0x83, (range of rounds, 0 on the head's chain or 1 beside it, transaction hash) -> round (8 bytes), shard (4 bytes), index
//! in the shard (4 bytes), all big-endian.
//!
//! Where a transaction of a sealed block stands. A range is 256 rounds and is forgotten as a whole. On the head's chain a
//! transaction stands once; beside it the newest place counts.

use super::Corrupt;
use bytes::Bytes;

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The round.
    pub round: u64,
    /// The shard.
    pub shard: u32,
    /// Index in the shard.
    pub index: u32,
}

/// The record's bytes.
pub fn encode(place: Place) -> Bytes {
    let mut bytes = Vec::with_capacity(16);
    bytes.extend(place.round.to_be_bytes());
    bytes.extend(place.shard.to_be_bytes());
    bytes.extend(place.index.to_be_bytes());
    bytes.into()
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`Corrupt`] for any other length.
pub fn decode(bytes: &[u8]) -> Result<Place, Corrupt> {
    let wrong = || Corrupt::new("transaction", "is not 16 bytes");
    let (round, rest) = bytes.split_first_chunk::<8>().ok_or_else(wrong)?;
    let (shard, rest) = rest.split_first_chunk::<4>().ok_or_else(wrong)?;
    let index = rest.try_into().map_err(|_| wrong())?;
    Ok(Place {
        round: u64::from_be_bytes(*round),
        shard: u32::from_be_bytes(*shard),
        index: u32::from_be_bytes(index),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn survives_the_round_trip(round in any::<u64>(), shard in any::<u32>(), index in any::<u32>()) {
            let place = Place { round, shard, index };
            prop_assert_eq!(decode(&encode(place)).unwrap(), place);
        }
    }
}
