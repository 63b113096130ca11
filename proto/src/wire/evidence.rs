//! Evidence in a sentence, for people: one wording for every tool.

use crate::v1;
use alloy_primitives::{U256, hex};
use v1::evidence::Kind;

/// A lock key: the address, and `/slot` where it is one.
pub fn key_text(key: &v1::LockKey) -> String {
    let address = hex::encode_prefixed(&key.address);
    if key.slot.is_empty() {
        return address;
    }
    format!(
        "{address}/{:#x}",
        U256::try_from_be_slice(&key.slot).unwrap_or_default()
    )
}

/// What the evidence shows.
pub fn evidence_text(evidence: &v1::Evidence) -> String {
    match &evidence.kind {
        None => "no evidence".to_owned(),
        Some(Kind::DoubleWrite(double)) => {
            let key = double.key.as_ref().map(key_text).unwrap_or_default();
            format!(
                "shards {} and {} both write {key}",
                double.first_shard, double.second_shard
            )
        }
        Some(Kind::BadHeader(bad)) => format!(
            "the header's {} is {}, but must be {}",
            bad.field, bad.found, bad.expected
        ),
        Some(Kind::BadShard(bad)) => {
            let who = bad.executors.join(", ");
            if bad.computed.is_empty() {
                return format!(
                    "shard {} cannot be executed ({}), say {who}",
                    bad.shard, bad.reason
                );
            }
            format!(
                "shard {} comes out as {}, not {}, say {who}",
                bad.shard,
                hex::encode_prefixed(&bad.computed),
                hex::encode_prefixed(&bad.expected)
            )
        }
    }
}
