//! 0x03, number (4 bytes big-endian) -> name, UTF-8.
//!
//! Names of executors that won a shard, numbered as they first won, so that a winner is 44 bytes. Kept for ever.

use super::Corrupt;
use bytes::Bytes;
use std::sync::Arc;

/// The record's bytes.
pub fn encode(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`Corrupt`] if it is not UTF-8.
pub fn decode(bytes: &[u8]) -> Result<Arc<str>, Corrupt> {
    let name = std::str::from_utf8(bytes).map_err(|e| Corrupt::new("executor", e))?;
    Ok(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn survives_the_round_trip(name in "[A-Za-z0-9._:-]{1,64}") {
            prop_assert_eq!(&*decode(&encode(&name)).unwrap(), name.as_str());
        }
    }
}
