//! Wire messages as JSON values. Field names are the wire's; hashes, addresses and bytes are `0x` hex, amounts of money
//! are decimal strings, the rest are numbers. This form is an interface: scripts read it.

use alloy_primitives::{U256, hex};
use serde_json::{Map, Value, json};
use troika_proto::v1;
use troika_proto::wire::{evidence_text, key_text, whole_bloom};

/// `0x` hex; null where empty.
pub(super) fn hex_or_null(bytes: &[u8]) -> Value {
    if bytes.is_empty() {
        Value::Null
    } else {
        Value::String(hex::encode_prefixed(bytes))
    }
}

/// `0x` hex.
pub(super) fn hex_value(bytes: &[u8]) -> Value {
    Value::String(hex::encode_prefixed(bytes))
}

/// A number of the wire as a decimal string.
pub(super) fn decimal(bytes: &[u8]) -> Value {
    match U256::try_from_be_slice(bytes) {
        Some(number) => Value::String(number.to_string()),
        None => hex_value(bytes),
    }
}

fn short_number(bytes: &[u8]) -> Value {
    match U256::try_from_be_slice(bytes) {
        Some(number) => Value::String(format!("{number:#x}")),
        None => hex_value(bytes),
    }
}

pub(super) fn winner(winner: &v1::Winner) -> Value {
    json!({
        "executor": if winner.executor.is_empty() { Value::Null } else { winner.executor.clone().into() },
        "shard_hash": hex_value(&winner.shard_hash),
        "revision": winner.revision,
    })
}

pub(super) fn holder(holder: &v1::LockHolder) -> Value {
    json!({
        "key": holder.key.as_ref().map(key_text),
        "shard": holder.shard,
        "revision": holder.revision,
    })
}

pub(super) fn refusal(refusal: &v1::Refusal) -> Value {
    json!({ "code": refusal_name(refusal), "message": refusal.message })
}

/// The refusal's name without its prefix, for instance `TOO_EARLY`.
pub(super) fn refusal_name(refusal: &v1::Refusal) -> String {
    strip(refusal.code().as_str_name(), "REFUSAL_CODE_")
}

fn strip(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_owned()
}

pub(super) fn status_name(round: &v1::Round) -> String {
    strip(round.status().as_str_name(), "ROUND_STATUS_")
}

pub(super) fn kind_name(round: &v1::Round) -> String {
    strip(round.kind().as_str_name(), "ROUND_KIND_")
}

pub(super) fn void_name(reason: v1::VoidReason) -> String {
    strip(reason.as_str_name(), "VOID_REASON_")
}

fn bad_shard(bad: &v1::BadShard) -> Value {
    json!({
        "shard": bad.shard,
        "expected": hex_value(&bad.expected),
        "computed": hex_or_null(&bad.computed),
        "executors": bad.executors,
        "reason": bad.reason,
    })
}

/// Evidence with a sentence that says what it shows.
pub(super) fn evidence(evidence: &v1::Evidence) -> Value {
    use v1::evidence::Kind;
    let mut value = match &evidence.kind {
        None => return Value::Null,
        Some(Kind::DoubleWrite(double)) => json!({
            "kind": "double_write",
            "key": double.key.as_ref().map(key_text).unwrap_or_default(),
            "first_shard": double.first_shard,
            "second_shard": double.second_shard,
        }),
        Some(Kind::BadHeader(bad)) => json!({
            "kind": "bad_header",
            "field": bad.field,
            "expected": bad.expected,
            "found": bad.found,
        }),
        Some(Kind::BadShard(bad)) => {
            let mut value = bad_shard(bad);
            value["kind"] = "bad_shard".into();
            value
        }
    };
    value["says"] = evidence_text(evidence).into();
    value
}

pub(super) fn environment(environment: &v1::Environment) -> Value {
    json!({
        "number": environment.number,
        "timestamp": environment.timestamp,
        "base_fee": environment.base_fee,
        "gas_limit": environment.gas_limit,
        "beneficiary": hex_value(&environment.beneficiary),
        "prev_randao": hex_value(&environment.prev_randao),
    })
}

/// A round. What does not apply is left out.
pub(super) fn round(round: &v1::Round) -> Value {
    let mut value = Map::new();
    let mut put = |name: &str, field: Value| {
        value.insert(name.to_owned(), field);
    };
    put("round", round.round.into());
    put("kind", kind_name(round).into());
    put("status", status_name(round).into());
    put("parent", hex_value(&round.parent));
    put("opener", round.opener.clone().into());
    put("shards", round.shards.into());
    put("opened_at", round.opened_at.into());
    put("propose_after_ms", round.propose_after_ms.into());
    put("seal_after_ms", round.seal_after_ms.into());
    if round.closed_at != 0 {
        put("closed_at", round.closed_at.into());
    }
    if !round.block_hash.is_empty() {
        put("block_hash", hex_value(&round.block_hash));
    }
    if round.void_reason != 0 {
        put("void_reason", void_name(round.void_reason()).into());
    }
    if let Some(found) = &round.evidence {
        put("evidence", evidence(found));
    }
    if round.attempt != 0 {
        put("attempt", round.attempt.into());
    }
    if let Some(seen) = &round.environment {
        put("environment", environment(seen));
    }
    let winners = round.winners.iter().filter_map(|status| {
        let mut value = winner(status.winner.as_ref()?);
        value["shard"] = status.shard.into();
        Some(value)
    });
    put("winners", winners.collect());
    if !round.reserved.is_empty() {
        put("reserved", round.reserved.iter().map(holder).collect());
    }
    if !round.dissent.is_empty() {
        put("dissent", round.dissent.iter().map(bad_shard).collect());
    }
    Value::Object(value)
}

pub(super) fn header(header: &v1::Header) -> Value {
    json!({
        "parent_hash": hex_value(&header.parent_hash),
        "beneficiary": hex_value(&header.beneficiary),
        "state_root": hex_value(&header.state_root),
        "transactions_root": hex_value(&header.transactions_root),
        "receipts_root": hex_value(&header.receipts_root),
        "logs_bloom": hex_value(&whole_bloom(&header.logs_bloom)),
        "number": header.number,
        "gas_limit": header.gas_limit,
        "gas_used": header.gas_used,
        "timestamp": header.timestamp,
        "shards_root": hex_value(&header.shards_root),
        "prev_randao": hex_value(&header.prev_randao),
        "base_fee": header.base_fee,
        "parent_beacon_root": hex_value(&header.parent_beacon_root),
    })
}

pub(super) fn shard_header(header: &v1::ShardHeader) -> Value {
    json!({
        "version": header.version,
        "index": header.index,
        "transactions_root": hex_value(&header.transactions_root),
        "receipts_root": hex_value(&header.receipts_root),
        "transaction_count": header.transaction_count,
        "log_count": header.log_count,
        "logs_bloom": hex_value(&whole_bloom(&header.logs_bloom)),
        "diff_root": hex_value(&header.diff_root),
        "gas_used": header.gas_used,
        "fees": decimal(&header.fees),
    })
}

fn receipt(receipt: &v1::Receipt) -> Value {
    let logs = receipt.logs.iter().map(|log| {
        json!({
            "address": hex_value(&log.address),
            "topics": log.topics.chunks(32).map(hex_value).collect::<Value>(),
            "data": hex_value(&log.data),
        })
    });
    json!({
        "tx_type": receipt.tx_type,
        "success": receipt.success,
        "cumulative_gas": receipt.cumulative_gas,
        "logs": logs.collect::<Value>(),
    })
}

/// A diff: address -> what changed.
pub(super) fn diff(diff: &v1::Diff) -> Value {
    let accounts = diff.accounts.iter().map(|account| {
        let mut value = Map::new();
        if !account.amount.is_empty() {
            let sign = if account.fell { "-" } else { "+" };
            let size = decimal(&account.amount);
            let text = format!("{sign}{}", size.as_str().unwrap_or_default());
            value.insert("balance".to_owned(), text.into());
        }
        if let Some(nonce) = account.nonce {
            value.insert("nonce".to_owned(), nonce.into());
        }
        if let Some(code) = &account.code {
            value.insert("code".to_owned(), hex_value(code));
        }
        if !account.slots.is_empty() {
            let slots = account.slots.iter().map(|slot| {
                let key = short_number(&slot.key);
                (
                    key.as_str().unwrap_or_default().to_owned(),
                    short_number(&slot.value),
                )
            });
            value.insert("slots".to_owned(), Value::Object(slots.collect()));
        }
        (hex::encode_prefixed(&account.address), Value::Object(value))
    });
    Value::Object(accounts.collect())
}

/// The parts of a body that are there.
pub(super) fn body(body: &v1::ShardBody) -> Map<String, Value> {
    let mut value = Map::new();
    if !body.transactions.is_empty() {
        let transactions = body.transactions.iter().map(|tx| hex_value(tx));
        value.insert("transactions".to_owned(), transactions.collect());
    }
    if !body.receipts.is_empty() {
        value.insert(
            "receipts".to_owned(),
            body.receipts.iter().map(receipt).collect(),
        );
    }
    if let Some(changes) = &body.diff {
        value.insert("diff".to_owned(), diff(changes));
    }
    value
}

pub(super) fn config(config: &v1::ChainConfig) -> Value {
    let rule = strip(config.lock_rule().as_str_name(), "LOCK_RULE_").to_lowercase();
    json!({
        "chain_id": config.chain_id,
        "shards": config.shards,
        "shard_gas_limit": config.shard_gas_limit,
        "lock_rule": rule,
        "elasticity": config.elasticity,
        "beneficiary": hex_value(&config.beneficiary),
        "propose_after_ms": config.propose_after_ms,
        "seal_after_ms": config.seal_after_ms,
        "seconds_per_slot": config.seconds_per_slot,
        "spec": config.spec,
        "genesis_base_fee": config.genesis_base_fee,
        "genesis_timestamp": config.genesis_timestamp,
        "fixed_environment": config.fixed.is_some(),
    })
}

pub(super) fn member(member: &v1::Member) -> Value {
    json!({
        "id": member.id,
        "role": match (member.leader, member.voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "learner",
        },
        "peer": member.peer_addr,
        "client": member.client_addr,
        // Only the leader knows.
        "matched_index": (member.matched_index > 0).then_some(member.matched_index),
        "max_feature_level": member.max_feature_level,
        "incarnation": hex_or_null(&member.incarnation),
    })
}

/// An event: its id, its kind, and what it tells.
pub(super) fn event(event: &v1::Event) -> Value {
    use v1::event::Kind;
    let (kind, mut value) = match &event.kind {
        Some(Kind::ChainStarted(e)) => (
            "chain_started",
            json!({ "genesis_hash": hex_value(&e.genesis_hash) }),
        ),
        Some(Kind::RoundOpened(e)) => ("round_opened", round(e)),
        Some(Kind::ShardAccepted(e)) => (
            "shard_accepted",
            json!({ "round": e.round, "shard": e.shard, "winner": e.winner.as_ref().map(winner) }),
        ),
        Some(Kind::RoundSealed(e)) => (
            "round_sealed",
            json!({
                "round": e.round,
                "block_hash": hex_value(&e.block_hash),
                "number": e.header.as_ref().map(|h| h.number),
                "gas_used": e.header.as_ref().map(|h| h.gas_used),
                "shard_hashes": e.shard_hashes.iter().map(|h| hex_value(h)).collect::<Value>(),
                "head": e.head,
            }),
        ),
        Some(Kind::RoundVoided(e)) => (
            "round_voided",
            json!({
                "round": e.round,
                "reason": void_name(e.reason()),
                "evidence": e.evidence.as_ref().map(evidence),
            }),
        ),
        Some(Kind::LocksAcquired(e)) => (
            "locks_acquired",
            json!({
                "round": e.round,
                "shard": e.shard,
                "keys": e.keys.iter().map(key_text).collect::<Vec<_>>(),
            }),
        ),
        Some(Kind::Pruned(e)) => ("pruned", json!({ "below_round": e.below_round })),
        Some(Kind::FeatureLevelRaised(e)) => ("feature_level_raised", json!({ "level": e.level })),
        None => ("unknown", json!({})),
    };
    let id = event.id.unwrap_or_default();
    value["event"] = kind.into();
    value["revision"] = id.revision.into();
    value["ordinal"] = id.ordinal.into();
    value
}
