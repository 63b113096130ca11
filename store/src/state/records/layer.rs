//! 0x08, layer number (8 bytes big-endian) -> `troika.record.v1.Layer`: a block's header, round and every value that it
//! changed.
//!
//! Lives until the block is folded into the base or dropped with its fork.

use super::{Corrupt, account, corrupt, decode as message};
use crate::state::layers::{Changes, Layer};
use bytes::Bytes;
use prost::Message;
use std::sync::Arc;
use troika_proto::Header;
use troika_proto::record::v1 as record;
use troika_proto::wire::{address, address_bytes, number, number_bytes, required};

const WHAT: &str = "layer";

/// The record's bytes.
pub fn encode(layer: &Layer) -> Bytes {
    let accounts = layer.changes.accounts.iter();
    let slots = layer.changes.slots.iter();
    let wire = record::Layer {
        header: Some((&*layer.header).into()),
        round: layer.round,
        accounts: accounts
            .map(|(address, account)| record::AccountChange {
                address: address_bytes(*address),
                account: account.as_ref().map(account::encode).unwrap_or_default(),
            })
            .collect(),
        slots: slots
            .map(|(address, key, value)| record::SlotChange {
                address: address_bytes(*address),
                key: number_bytes(*key),
                value: number_bytes(*value),
            })
            .collect(),
    };
    wire.encode_to_vec().into()
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`Corrupt`] naming the field.
pub fn decode(seq: u64, bytes: &[u8]) -> Result<Layer, Corrupt> {
    let wire: record::Layer = message(WHAT, bytes)?;
    let bad = corrupt(WHAT);
    let header = required("header", wire.header.as_ref()).map_err(&bad)?;
    let header = Header::try_from(header).map_err(&bad)?;
    let mut changes = Changes::default();
    for change in &wire.accounts {
        let address = address("address", &change.address).map_err(&bad)?;
        let account = match change.account.is_empty() {
            true => None,
            false => Some(account::decode(&change.account)?),
        };
        changes.accounts.push((address, account));
    }
    for change in &wire.slots {
        changes.slots.push((
            address("address", &change.address).map_err(&bad)?,
            number("key", &change.key).map_err(&bad)?,
            number("value", &change.value).map_err(&bad)?,
        ));
    }
    Ok(Layer {
        seq,
        hash: header.hash(),
        header: Arc::new(header),
        round: wire.round,
        changes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::layers::Account;
    use crate::state::testing::genesis;
    use proptest::prelude::*;
    use troika_proto::{Address, B256, U256};

    proptest! {
        #[test]
        fn survives_the_round_trip(
            accounts in proptest::collection::vec((any::<[u8; 20]>(), any::<Option<(u64, bool)>>()), 0..8),
            slots in proptest::collection::vec((any::<[u8; 20]>(), any::<[u8; 32]>(), any::<[u8; 32]>()), 0..8),
        ) {
            let account = |(nonce, code): (u64, bool)| Account {
                balance: U256::from(nonce) << 100,
                nonce,
                code_hash: code.then_some(B256::repeat_byte(3)),
            };
            let header = genesis(3).header();
            let layer = Layer {
                seq: 5,
                hash: header.hash(),
                header: Arc::new(header),
                round: 4,
                changes: Changes {
                    accounts: accounts.into_iter().map(|(a, c)| (Address::from(a), c.map(account))).collect(),
                    slots: slots
                        .into_iter()
                        .map(|(a, k, v)| (Address::from(a), U256::from_be_bytes(k), U256::from_be_bytes(v)))
                        .collect(),
                },
            };
            prop_assert_eq!(decode(5, &encode(&layer)).unwrap(), layer);
        }
    }
}
