//! The `troika_` namespace: what Ethereum has no words for. Shards, winners, conflicts, locks, and why a transaction waits.

use super::error::{no_block, store};
use super::{Answer, method};
use crate::gateway::Gateway;
use alloy_eips::BlockId;
use alloy_primitives::{B256, U64, U256};
use jsonrpsee::RpcModule;
use serde_json::{Value, json};
use troika_proto::LockKey;

/// Locks in one answer.
const MAX_LOCKS: u32 = 10_000;

pub(super) fn register(module: &mut RpcModule<Gateway>) {
    method(
        module,
        "troika_getBlockShards",
        |gateway, params| async move {
            let block: Option<BlockId> = params.sequence().optional_next()?;
            gateway.shards(block.unwrap_or_default()).await
        },
    );
    method(
        module,
        "troika_getConflicts",
        |gateway, params| async move {
            let round: U64 = params.one()?;
            let conflicts = gateway.conflicts(round.to());
            let conflicts = conflicts.into_iter().map(|c| {
                let held = c.held.iter().map(|(key, shard)| lock(key, *shard));
                json!({
                    "round": U64::from(c.round),
                    "transactionHash": c.hash,
                    "shard": U64::from(c.shard),
                    "held": held.collect::<Vec<_>>(),
                })
            });
            Ok(conflicts.collect::<Vec<_>>())
        },
    );
    method(module, "troika_getLocks", |gateway, params| async move {
        let round: U64 = params.one()?;
        let locks = gateway
            .chain
            .client()
            .locks(round.to(), None, MAX_LOCKS)
            .await;
        let (locks, more) = locks.map_err(store)?;
        let locks = locks.iter().map(|l| lock(&l.key, l.shard));
        Ok(json!({ "locks": locks.collect::<Vec<_>>(), "more": more }))
    });
    method(
        module,
        "troika_getTransactionStatus",
        |gateway, params| async move { gateway.status(params.one()?).await },
    );
    method(module, "troika_chainConfig", |gateway, _| async move {
        let config = &gateway.config;
        Ok(json!({
            "chainId": U64::from(config.chain_id),
            "shards": U64::from(config.shards),
            "shardGasLimit": U64::from(config.shard_gas_limit),
            "locks": config.lock_rule.to_string(),
            "elasticity": U64::from(config.elasticity),
            "proposeAfterMs": U64::from(config.propose_after_ms),
            "sealAfterMs": U64::from(config.seal_after_ms),
            "spec": config.spec.name(),
            "genesisHash": gateway.genesis_hash,
        }))
    });
}

fn lock(key: &LockKey, shard: u32) -> Value {
    json!({
        "address": key.address,
        "slot": key.slot.map(|slot: U256| B256::from(slot)),
        "shard": U64::from(shard),
    })
}

impl Gateway {
    async fn shards(&self, id: BlockId) -> Answer<Value> {
        let block = self.find_block(id).await?.ok_or_else(no_block)?;
        let shards = block.shards.iter().zip(0u64..).map(|(shard, index)| {
            json!({
                "index": U64::from(index),
                "hash": shard.winner.shard_hash,
                "executor": (!shard.winner.executor.is_empty()).then_some(&*shard.winner.executor),
                "revision": U64::from(shard.winner.revision),
                "transactions": U64::from(shard.header.transaction_count),
                "firstTransactionIndex": U64::from(shard.first_transaction),
                "firstLogIndex": U64::from(shard.first_log),
                "gasUsed": U64::from(shard.header.gas_used),
                "fees": shard.header.fees,
                "transactionsRoot": shard.header.transactions_root,
                "receiptsRoot": shard.header.receipts_root,
                "diffRoot": shard.header.diff_root,
            })
        });
        Ok(json!({
            "blockHash": block.hash,
            "blockNumber": U64::from(block.header.number),
            "round": U64::from(block.round),
            "shards": shards.collect::<Vec<_>>(),
        }))
    }

    /// Where a transaction stands: sealed, pending (and where), dropped (and why), or unknown.
    async fn status(&self, hash: B256) -> Answer<Value> {
        if let Some((block, at)) = self.find_transaction(hash).await? {
            return Ok(json!({
                "status": "sealed",
                "blockHash": block.hash,
                "blockNumber": U64::from(block.header.number),
                "transactionIndex": U64::from(at),
                "shard": U64::from(block.transactions[at].shard),
                "executor": &*block.shards[block.transactions[at].shard].winner.executor,
            }));
        }
        Ok(self.pool(|pool| {
            let mempool = pool.mempool();
            if let Some(pooled) = mempool.get(&hash) {
                let place = pool.place(pooled.sender);
                let ready = mempool.ready(pooled.sender).any(|p| p.hash == hash);
                return json!({
                    "status": if ready { "pending" } else { "queued" },
                    "shard": place.map(|p| U64::from(p.shard)),
                    "fromRound": place.map(|p| U64::from(p.from_round)),
                });
            }
            match mempool.drop_reason(&hash) {
                Some(reason) => json!({ "status": "dropped", "reason": reason.to_string() }),
                None => json!({ "status": "unknown" }),
            }
        }))
    }
}
