//! 0x10, code hash -> the code.
//!
//! A contract's code or an account's delegation. Kept for ever: any account may refer to it again.

use super::Corrupt;
use bytes::Bytes;
use troika_proto::{B256, keccak};

/// The record's bytes.
pub fn encode(code: &Bytes) -> Bytes {
    code.clone()
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`Corrupt`] if the code does not hash to its key.
pub fn decode(hash: &B256, bytes: Bytes) -> Result<Bytes, Corrupt> {
    if keccak(&bytes) != *hash {
        return Err(Corrupt::new("code", "does not hash to its key"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn survives_the_round_trip(code in proptest::collection::vec(any::<u8>(), 1..100)) {
            let code = Bytes::from(code);
            prop_assert!(decode(&B256::ZERO, encode(&code)).is_err());
            prop_assert_eq!(decode(&keccak(&code), encode(&code)).unwrap(), code);
        }
    }
}
