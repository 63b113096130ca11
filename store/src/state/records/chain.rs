//! 0x02 -> `troika.record.v1.Chain`: the chain config and the genesis hash.
//!
//! Written by `InitChain`, never changed.

use super::{Corrupt, corrupt, decode as message};
use bytes::Bytes;
use prost::Message;
use troika_proto::record::v1 as record;
use troika_proto::wire::{hash, hash_bytes, required};
use troika_proto::{B256, ChainConfig};

const WHAT: &str = "chain";

/// The record's bytes.
pub fn encode(config: &ChainConfig, genesis_hash: &B256) -> Bytes {
    let wire = record::Chain {
        config: Some(config.into()),
        genesis_hash: hash_bytes(*genesis_hash),
    };
    wire.encode_to_vec().into()
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`Corrupt`] naming the field.
pub fn decode(bytes: &[u8]) -> Result<(ChainConfig, B256), Corrupt> {
    let wire: record::Chain = message(WHAT, bytes)?;
    let config = required("config", wire.config.as_ref()).map_err(corrupt(WHAT))?;
    Ok((
        ChainConfig::try_from(config).map_err(corrupt(WHAT))?,
        hash("genesis_hash", &wire.genesis_hash).map_err(corrupt(WHAT))?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::genesis;

    #[test]
    fn survives_the_round_trip() {
        let config = genesis(4).config;
        let hash = B256::repeat_byte(7);
        assert_eq!(decode(&encode(&config, &hash)).unwrap(), (config, hash));
    }
}
