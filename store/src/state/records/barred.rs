//! 0x04, block hash -> the round that found it invalid, 8 bytes big-endian.
//!
//! A block that is never to be checked again. Kept for ever.

use super::Corrupt;
use bytes::Bytes;

/// The record's bytes.
pub fn encode(round: u64) -> Bytes {
    Bytes::copy_from_slice(&round.to_be_bytes())
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`Corrupt`] for any other length.
pub fn decode(bytes: &[u8]) -> Result<u64, Corrupt> {
    let bytes = bytes.try_into();
    bytes
        .map(u64::from_be_bytes)
        .map_err(|_| Corrupt::new("barred", "is not 8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn survives_the_round_trip(round in any::<u64>()) {
            prop_assert_eq!(decode(&encode(round)).unwrap(), round);
        }
    }
}
