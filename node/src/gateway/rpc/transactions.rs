//! Transactions: taking them in, and telling where they stand.

use super::error::{internal, store, submit};
use super::reads::index;
use super::shapes::{self, RpcTransaction};
use super::{Answer, method};
use crate::execution::Transaction;
use crate::gateway::Gateway;
use crate::gateway::chain::Block;
use crate::store_client;
use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::{B256, Bytes, U64};
use alloy_rpc_types_eth::TransactionReceipt;
use jsonrpsee::RpcModule;
use std::sync::Arc;

pub(super) fn register(module: &mut RpcModule<Gateway>) {
    method(
        module,
        "eth_sendRawTransaction",
        |gateway, params| async move {
            let raw: Bytes = params.one()?;
            let answers = gateway.submit(vec![raw]).await;
            let answer = answers.into_iter().next();
            answer.ok_or_else(|| internal("no answer"))?.map_err(submit)
        },
    );
    method(
        module,
        "eth_getTransactionByHash",
        |gateway, params| async move { gateway.transaction(params.one()?).await },
    );
    method(
        module,
        "eth_getRawTransactionByHash",
        |gateway, params| async move {
            let hash: B256 = params.one()?;
            if let Some((block, at)) = gateway.find_transaction(hash).await? {
                return Ok(Some(block.transactions[at].raw.clone()));
            }
            Ok(gateway.pool(|pool| pool.mempool().get(&hash).map(|p| p.raw.clone())))
        },
    );
    method(
        module,
        "eth_getTransactionReceipt",
        |gateway, params| async move { gateway.receipt(params.one()?).await },
    );
    method(
        module,
        "eth_getBlockReceipts",
        |gateway, params| async move { gateway.receipts(params.one()?).await },
    );
    method(
        module,
        "eth_getTransactionByBlockHashAndIndex",
        |gateway, params| async move {
            let mut params = params.sequence();
            let (hash, at): (B256, U64) = (params.next()?, params.next()?);
            gateway.transaction_at(hash.into(), index(at)?).await
        },
    );
    method(
        module,
        "eth_getTransactionByBlockNumberAndIndex",
        |gateway, params| async move {
            let mut params = params.sequence();
            let (number, at): (BlockNumberOrTag, U64) = (params.next()?, params.next()?);
            gateway.transaction_at(number.into(), index(at)?).await
        },
    );
}

impl Gateway {
    /// The sealed block that holds a transaction, and its index there.
    pub(super) async fn find_transaction(&self, hash: B256) -> Answer<Option<(Arc<Block>, usize)>> {
        let places = self.chain.client().find_transaction(hash).await;
        let mut places = places.map_err(store)?.into_iter();
        let head = self.head().header.number;
        // Not before the head that every other answer shows.
        let Some(place) = places.find(|p| p.canonical && p.block_number <= head) else {
            return Ok(None);
        };
        let by = store_client::BlockId::Hash(place.block_hash);
        let block = self.chain.block(by).await.map_err(store)?;
        Ok(block.and_then(|block| Some((block.position(&hash)?, block)).map(|(i, b)| (b, i))))
    }

    async fn transaction(&self, hash: B256) -> Answer<Option<RpcTransaction>> {
        if let Some((block, at)) = self.find_transaction(hash).await? {
            let shape = move |block: &Block, txs: &[Arc<Transaction>]| {
                shapes::transaction(&txs[at], Some((block, at)))
            };
            return Ok(Some(self.with_senders(block, shape).await?));
        }
        let pending = self.pool(|pool| {
            let pooled = pool.mempool().get(&hash)?;
            Some((pooled.raw.clone(), pooled.sender))
        });
        let Some((raw, sender)) = pending else {
            return Ok(None);
        };
        let tx = Transaction::with_sender(raw, sender).map_err(internal)?;
        Ok(Some(shapes::transaction(&tx, None)))
    }

    async fn transaction_at(&self, id: BlockId, at: usize) -> Answer<Option<RpcTransaction>> {
        let Some(block) = self.find_block(id).await? else {
            return Ok(None);
        };
        let shape = move |block: &Block, txs: &[Arc<Transaction>]| {
            let tx = txs.get(at)?;
            Some(shapes::transaction(tx, Some((block, at))))
        };
        self.with_senders(block, shape).await
    }

    async fn receipt(&self, hash: B256) -> Answer<Option<TransactionReceipt>> {
        let Some((block, at)) = self.find_transaction(hash).await? else {
            return Ok(None);
        };
        let shape =
            move |block: &Block, txs: &[Arc<Transaction>]| shapes::receipt(block, at, &txs[at]);
        Ok(Some(self.with_senders(block, shape).await?))
    }

    async fn receipts(&self, id: BlockId) -> Answer<Option<Vec<TransactionReceipt>>> {
        let Some(block) = self.find_block(id).await? else {
            return Ok(None);
        };
        let shape = |block: &Block, txs: &[Arc<Transaction>]| {
            let txs = txs.iter().enumerate();
            txs.map(|(at, tx)| shapes::receipt(block, at, tx)).collect()
        };
        Ok(Some(self.with_senders(block, shape).await?))
    }
}
