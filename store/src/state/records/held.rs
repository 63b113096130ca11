//! 0x06, (round, shard, revision) -> `troika.record.v1.Held`: keys that a shard took ahead.
//!
//! Lives until the shard is decided or its round closes.

use super::{Corrupt, corrupt, decode as message};
use crate::state::ascending_keys;
use bytes::Bytes;
use prost::Message;
use std::sync::Arc;
use troika_proto::LockKey;
use troika_proto::record::v1 as record;

const WHAT: &str = "held";

/// The record's bytes.
pub fn encode(keys: &[LockKey]) -> Bytes {
    let keys = keys.iter().map(|key| (*key).into()).collect();
    record::Held { keys }.encode_to_vec().into()
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`Corrupt`] naming the field.
pub fn decode(bytes: &[u8]) -> Result<Arc<[LockKey]>, Corrupt> {
    let wire: record::Held = message(WHAT, bytes)?;
    ascending_keys(&wire.keys).map_err(corrupt(WHAT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::any_lock_key;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn survives_the_round_trip(keys in proptest::collection::btree_set(any_lock_key(), 0..20)) {
            let keys: Vec<_> = keys.into_iter().collect();
            prop_assert_eq!(&*decode(&encode(&keys)).unwrap(), keys.as_slice());
        }
    }
}
