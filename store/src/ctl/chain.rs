//! Commands that read the chain: head, blocks, shards, state, transactions.

use super::args::{ShardArgs, StateCommand};
use super::client::Client;
use super::exit::{CtlError, Outcome};
use super::output::Output;
use super::parse::BlockRef;
use super::show;
use alloy_primitives::B256;
use bytes::Bytes;
use serde_json::{Value, json};
use troika_proto::wire::{hash_bytes, key_text};
use troika_proto::{LockKey, v1};

pub(super) async fn chain_head(
    client: &Client,
    linearizable: bool,
) -> Result<v1::HeadResponse, CtlError> {
    let request = v1::HeadRequest {
        meta: client.meta(),
        linearizable,
    };
    client
        .call(|a| {
            let request = a.request(request.clone());
            async move { a.state().head(request).await }
        })
        .await
}

pub(super) async fn head(
    client: &Client,
    out: &Output,
    linearizable: bool,
) -> Result<Outcome, CtlError> {
    let head = chain_head(client, linearizable).await?;
    let Some(config) = &head.config else {
        return Err(CtlError::Refused(
            "there is no chain yet: `troikactl init GENESIS.json`".to_owned(),
        ));
    };
    let header = head.header.clone().unwrap_or_default();
    out.object(&json!({
        "config": show::config(config),
        "cluster_id": show::hex_value(&head.cluster_id),
        "genesis_hash": show::hex_value(&head.genesis_hash),
        "block_hash": show::hex_value(&head.block_hash),
        "number": header.number,
        "timestamp": header.timestamp,
        "base_fee": header.base_fee,
        "gas_used": header.gas_used,
        "open_round": match head.open_round { 0 => Value::Null, round => round.into() },
        "oldest_state": head.oldest_state,
        "pruned_below": head.pruned_below,
        "revision": head.meta.unwrap_or_default().revision,
    }));
    Ok(Outcome::Yes)
}

pub(super) async fn block(
    client: &Client,
    out: &Output,
    block: &BlockRef,
) -> Result<Outcome, CtlError> {
    use v1::block_request::Which;
    let which = match block {
        BlockRef::Number(number) => Which::Number(*number),
        BlockRef::Hash(hash) => Which::Hash(hash_bytes(*hash)),
        BlockRef::Head => Which::Hash(chain_head(client, false).await?.block_hash),
    };
    let request = v1::BlockRequest {
        meta: client.meta(),
        which: Some(which),
    };
    let answer = client
        .call(|a| {
            let request = a.request(request.clone());
            async move { a.state().block(request).await }
        })
        .await?;
    let winners = answer.shards.iter().filter_map(|s| s.winner.as_ref());
    let shards = answer.shards.iter().map(|shard| {
        let mut value = shard.winner.as_ref().map(show::winner).unwrap_or(json!({}));
        value["shard"] = shard.index.into();
        if let Some(header) = &shard.header {
            value["transactions"] = header.transaction_count.into();
            value["gas_used"] = header.gas_used.into();
        }
        value
    });
    let mut value = json!({
        "hash": show::hex_value(&answer.hash),
        "round": answer.round,
        "canonical": answer.canonical,
        "header": answer.header.as_ref().map(show::header),
        "shards": shards.collect::<Value>(),
    });
    if out.is_json() {
        // What `round open --verify` reads back.
        let hashes = winners.map(|w| show::hex_value(&w.shard_hash));
        value["shard_hashes"] = hashes.collect();
    }
    out.object(&value);
    Ok(Outcome::Yes)
}

pub(super) async fn shard(
    client: &Client,
    out: &Output,
    args: &ShardArgs,
) -> Result<Outcome, CtlError> {
    let request = v1::ShardRequest {
        meta: client.meta(),
        round: args.round,
        shard: args.shard,
        transactions: args.transactions || args.all,
        receipts: args.receipts || args.all,
        diff: args.diff || args.all,
    };
    let answer = client
        .call(|a| {
            let request = a.request(request.clone());
            async move { a.state().shard(request).await }
        })
        .await?;
    let mut value = json!({
        "round": args.round,
        "shard": args.shard,
        "winner": answer.winner.as_ref().map(show::winner),
        "header": answer.header.as_ref().map(show::shard_header),
    });
    for (name, part) in answer.body.as_ref().map(show::body).unwrap_or_default() {
        value[name] = part;
    }
    out.object(&value);
    Ok(Outcome::Yes)
}

pub(super) async fn state(
    client: &Client,
    out: &Output,
    command: StateCommand,
) -> Result<Outcome, CtlError> {
    match command {
        StateCommand::Get {
            keys,
            block,
            code,
            linearizable,
        } => get(client, out, &keys, block, &code, linearizable).await,
        StateCommand::Diff { block } => diff(client, out, block).await,
    }
}

async fn get(
    client: &Client,
    out: &Output,
    keys: &[LockKey],
    block: Option<B256>,
    codes: &[B256],
    linearizable: bool,
) -> Result<Outcome, CtlError> {
    let wire = keys.iter().map(|key| {
        let key = v1::LockKey::from(*key);
        v1::StateKey {
            address: key.address,
            slot: key.slot,
        }
    });
    let request = v1::ReadRequest {
        meta: client.meta(),
        block: block.map_or_else(Bytes::new, hash_bytes),
        keys: wire.collect(),
        codes: codes.iter().copied().map(hash_bytes).collect(),
        linearizable,
        ahead_bytes: 0,
    };
    let answer = client
        .call(|a| {
            let request = a.request(request.clone());
            async move { a.state().read(request).await }
        })
        .await?;
    let mut rows: Vec<Value> = Vec::new();
    for (key, value) in keys.iter().zip(&answer.values) {
        let text = key_text(&(*key).into());
        rows.push(if key.slot.is_some() {
            json!({ "key": text, "value": show::decimal(&value.slot), "block": show::hex_value(&answer.block) })
        } else {
            json!({
                "key": text,
                "exists": value.exists,
                "balance": show::decimal(&value.balance),
                "nonce": value.nonce,
                "code_hash": show::hex_or_null(&value.code_hash),
                "block": show::hex_value(&answer.block),
            })
        });
    }
    for (hash, code) in codes.iter().zip(&answer.codes) {
        rows.push(json!({
            "key": show::hex_value(hash.as_slice()),
            "code": show::hex_or_null(code),
            "block": show::hex_value(&answer.block),
        }));
    }
    let columns: &[&str] = if codes.is_empty() {
        &["key", "exists", "balance", "nonce", "code_hash", "value"]
    } else {
        &[
            "key",
            "exists",
            "balance",
            "nonce",
            "code_hash",
            "value",
            "code",
        ]
    };
    out.rows(&rows, columns);
    Ok(Outcome::Yes)
}

async fn diff(client: &Client, out: &Output, block: B256) -> Result<Outcome, CtlError> {
    let request = v1::BlockDiffRequest {
        meta: client.meta(),
        block: hash_bytes(block),
    };
    let answer = client
        .call(|a| {
            let request = a.request(request.clone());
            async move { a.state().block_diff(request).await }
        })
        .await?;
    out.object(&json!({
        "parent": show::hex_value(&answer.parent),
        "fees": show::decimal(&answer.fees),
        "diff": answer.diff.as_ref().map(show::diff),
    }));
    Ok(Outcome::Yes)
}

/// Where a transaction stands. Exit code 1 if nowhere.
pub(super) async fn find(client: &Client, out: &Output, hash: B256) -> Result<Outcome, CtlError> {
    let request = v1::FindTransactionRequest {
        meta: client.meta(),
        hash: hash_bytes(hash),
    };
    let answer = client
        .call(|a| {
            let request = a.request(request.clone());
            async move { a.state().find_transaction(request).await }
        })
        .await?;
    let rows: Vec<Value> = answer
        .places
        .iter()
        .map(|place| {
            json!({
                "block_hash": show::hex_value(&place.block_hash),
                "block_number": place.block_number,
                "round": place.round,
                "shard": place.shard,
                "index": place.index,
                "canonical": place.canonical,
            })
        })
        .collect();
    if rows.is_empty() && !out.is_json() {
        return Err(CtlError::Refused(format!("no block holds {hash}")));
    }
    out.rows(
        &rows,
        &[
            "block_number",
            "block_hash",
            "round",
            "shard",
            "index",
            "canonical",
        ],
    );
    Ok(if rows.is_empty() {
        Outcome::No
    } else {
        Outcome::Yes
    })
}
