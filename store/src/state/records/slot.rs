//! 0x12, (address, slot) -> value, big-endian without leading zeros.
//!
//! A storage slot as it is at the base block. Lives while it is not zero.

use super::Corrupt;
use bytes::Bytes;
use troika_proto::U256;
use troika_proto::wire::{number, number_bytes};

/// The record's bytes; `None` for zero, which has no record.
pub fn encode(value: U256) -> Option<Bytes> {
    (!value.is_zero()).then(|| number_bytes(value))
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`Corrupt`] for a zero or more than 32 bytes.
pub fn decode(bytes: &[u8]) -> Result<U256, Corrupt> {
    let value = number("value", bytes).map_err(super::corrupt("slot"))?;
    if value.is_zero() {
        return Err(Corrupt::new("slot", "holds zero"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn survives_the_round_trip(value in any::<[u8; 32]>()) {
            let value = U256::from_be_bytes(value);
            match encode(value) {
                Some(bytes) => prop_assert_eq!(decode(&bytes).unwrap(), value),
                None => prop_assert!(value.is_zero()),
            }
        }
    }
}
