//! 0x07, block number (8 bytes big-endian) -> block hash (32 bytes), round (8 bytes big-endian).
//!
//! Which block of the head's chain has a number. Lives until the round is pruned and BLOCKHASH needs it no more.

use super::Corrupt;
use bytes::Bytes;
use troika_proto::B256;

/// The record's bytes.
pub fn encode(hash: &B256, round: u64) -> Bytes {
    let mut bytes = hash.to_vec();
    bytes.extend(round.to_be_bytes());
    bytes.into()
}

/// Reads what [`encode`] wrote: the block's hash and round.
///
/// # Errors
/// [`Corrupt`] for any other length.
pub fn decode(bytes: &[u8]) -> Result<(B256, u64), Corrupt> {
    let wrong = || Corrupt::new("canonical", "is not 40 bytes");
    let (hash, round) = bytes.split_first_chunk::<32>().ok_or_else(wrong)?;
    let round = round.try_into().map_err(|_| wrong())?;
    Ok((B256::from(*hash), u64::from_be_bytes(round)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn survives_the_round_trip(hash in any::<[u8; 32]>(), round in any::<u64>()) {
            let hash = B256::from(hash);
            prop_assert_eq!(decode(&encode(&hash, round)).unwrap(), (hash, round));
        }
    }
}
