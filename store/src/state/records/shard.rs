//! 0x81, (round, shard) -> `troika.record.v1.Shard`: the accepted proposal, who made it, and the revision.
//!
//! Written with the acceptance, lives until the round is pruned. Shards of open rounds are also in memory.

use super::{Corrupt, corrupt, decode as message};
use crate::state::command::{AcceptShard, put_message};
use crate::state::decision::Revision;
use crate::state::round::Accepted;
use bytes::{Bytes, BytesMut};
use prost::Message;
use troika_proto::record::v1 as record;
use troika_proto::wire::required;

const WHAT: &str = "shard";
/// Number of `accepted` in the record.
const ACCEPTED_TAG: u32 = 1;

/// The record's bytes, from those of the command that was accepted.
pub fn encode(accept: &[u8], revision: Revision) -> Bytes {
    let mut bytes = BytesMut::with_capacity(accept.len() + 24);
    put_message(&mut bytes, ACCEPTED_TAG, accept);
    let rest = record::Shard {
        accepted: None,
        revision,
    };
    // Never fails: the buffer grows.
    let _ = rest.encode(&mut bytes);
    bytes.freeze()
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`Corrupt`] naming the field.
pub fn decode(bytes: Bytes) -> Result<Accepted, Corrupt> {
    let wire = record::Shard::decode(bytes).map_err(|e| Corrupt::new(WHAT, e))?;
    let accept = required("accepted", wire.accepted.as_ref()).map_err(corrupt(WHAT))?;
    let encoded = accept.encode_to_vec().into();
    Ok(Accepted {
        accept: AcceptShard::decode(encoded).map_err(corrupt(WHAT))?,
        revision: wire.revision,
    })
}

/// Reads the wire form without checking it: for answering calls.
///
/// # Errors
/// [`Corrupt`] if it is no protobuf message.
pub fn decode_wire(bytes: Bytes) -> Result<record::Shard, Corrupt> {
    message::<record::Shard>(WHAT, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::transfer;

    #[test]
    fn survives_the_round_trip() {
        let accepted = Accepted {
            accept: transfer(3, 1, "a", 1, 2, 1),
            revision: 17,
        };
        let bytes = encode(accepted.accept.encoded(), accepted.revision);
        assert_eq!(decode(bytes.clone()).unwrap(), accepted);
        assert_eq!(decode_wire(bytes).unwrap().revision, 17);
    }
}
