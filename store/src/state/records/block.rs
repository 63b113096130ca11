//! 0x82, block hash -> `troika.record.v1.Block`: header and round.
//!
//! A sealed block. Its shards' hashes are the round's winners; its shards are cold records of their own. Lives until the round
//! is pruned and BLOCKHASH needs it no more.

use super::{Corrupt, corrupt, decode as message};
use bytes::Bytes;
use prost::Message;
use troika_proto::Header;
use troika_proto::record::v1 as record;
use troika_proto::wire::required;

const WHAT: &str = "block";

pub(super) fn to_wire(header: &Header, round: u64) -> record::Block {
    record::Block {
        header: Some(header.into()),
        round,
    }
}

/// The record's bytes.
pub fn encode(header: &Header, round: u64) -> Bytes {
    to_wire(header, round).encode_to_vec().into()
}

pub(super) fn from_wire(wire: &record::Block) -> Result<(Header, u64), Corrupt> {
    let header = required("header", wire.header.as_ref()).map_err(corrupt(WHAT))?;
    let header = Header::try_from(header).map_err(corrupt(WHAT))?;
    Ok((header, wire.round))
}

/// Reads what [`encode`] wrote: the header and the round (0 for genesis).
///
/// # Errors
/// [`Corrupt`] naming the field.
pub fn decode(bytes: &[u8]) -> Result<(Header, u64), Corrupt> {
    from_wire(&message(WHAT, bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::genesis;

    #[test]
    fn survives_the_round_trip() {
        let header = genesis(4).header();
        assert_eq!(decode(&encode(&header, 9)).unwrap(), (header, 9));
    }
}
