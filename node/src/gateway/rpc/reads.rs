//! Blocks, accounts and the node itself.

use super::error::{internal, invalid_params, no_block, store};
use super::shapes::{self, RpcBlock};
use super::{Answer, method};
use crate::execution::Transaction;
use crate::gateway::Gateway;
use crate::gateway::chain::Block;
use crate::store_client::{self, StateKey, StateValue, StateValues};
use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::{Address, B256, Bytes, U64, U256, keccak256};
use jsonrpsee::RpcModule;
use jsonrpsee::types::Params;
use std::sync::Arc;

pub(super) fn register(module: &mut RpcModule<Gateway>) {
    constants(module);
    blocks(module);
    accounts(module);
}

fn constants(module: &mut RpcModule<Gateway>) {
    method(module, "eth_chainId", |gateway, _| async move {
        Ok(U64::from(gateway.config.chain_id))
    });
    method(module, "net_version", |gateway, _| async move {
        Ok(gateway.config.chain_id.to_string())
    });
    method(module, "net_listening", |_, _| async { Ok(true) });
    method(module, "net_peerCount", |_, _| async { Ok(U64::ZERO) });
    method(module, "web3_clientVersion", |_, _| async {
        Ok(concat!("troika-node/v", env!("CARGO_PKG_VERSION")))
    });
    method(module, "web3_sha3", |_, params| async move {
        Ok(keccak256(params.one::<Bytes>()?))
    });
    // A gateway knows the head or does not answer at all.
    method(module, "eth_syncing", |_, _| async { Ok(false) });
    method(module, "eth_accounts", |_, _| async {
        Ok(Vec::<Address>::new())
    });
    method(module, "eth_mining", |_, _| async { Ok(false) });
    method(module, "eth_blockNumber", |gateway, _| async move {
        Ok(U64::from(gateway.head().header.number))
    });
}

fn blocks(module: &mut RpcModule<Gateway>) {
    method(
        module,
        "eth_getBlockByNumber",
        |gateway, params| async move {
            let (number, full) = number_and_flag(&params)?;
            gateway.rpc_block(number.into(), full).await
        },
    );
    method(module, "eth_getBlockByHash", |gateway, params| async move {
        let mut params = params.sequence();
        let (hash, full): (B256, _) = (params.next()?, params.optional_next()?);
        gateway.rpc_block(hash.into(), full.unwrap_or(false)).await
    });
    method(
        module,
        "eth_getBlockTransactionCountByNumber",
        |gateway, params| async move {
            let number: BlockNumberOrTag = params.one()?;
            gateway.transaction_count(number.into()).await
        },
    );
    method(
        module,
        "eth_getBlockTransactionCountByHash",
        |gateway, params| async move {
            let hash: B256 = params.one()?;
            gateway.transaction_count(hash.into()).await
        },
    );
    // There are no uncles.
    method(
        module,
        "eth_getUncleCountByBlockNumber",
        |gateway, params| async move {
            let number: BlockNumberOrTag = params.one()?;
            Ok(gateway.find_block(number.into()).await?.map(|_| U64::ZERO))
        },
    );
    method(
        module,
        "eth_getUncleCountByBlockHash",
        |gateway, params| async move {
            let hash: B256 = params.one()?;
            Ok(gateway.find_block(hash.into()).await?.map(|_| U64::ZERO))
        },
    );
    method(module, "eth_getUncleByBlockNumberAndIndex", |_, _| async {
        Ok(None::<RpcBlock>)
    });
    method(module, "eth_getUncleByBlockHashAndIndex", |_, _| async {
        Ok(None::<RpcBlock>)
    });
}

fn number_and_flag(params: &Params<'_>) -> Answer<(BlockNumberOrTag, bool)> {
    let mut params = params.sequence();
    let number = params.next()?;
    Ok((number, params.optional_next()?.unwrap_or(false)))
}

fn accounts(module: &mut RpcModule<Gateway>) {
    method(module, "eth_getBalance", |gateway, params| async move {
        let (address, block) = address_and_block(&params)?;
        let read = gateway
            .read_at(block, &[StateKey::Account(address)], &[])
            .await?;
        Ok(account(&read).map_or(U256::ZERO, |account| account.balance))
    });
    method(
        module,
        "eth_getTransactionCount",
        |gateway, params| async move {
            let (address, block) = address_and_block(&params)?;
            let read = gateway
                .read_at(block, &[StateKey::Account(address)], &[])
                .await?;
            let nonce = account(&read).map_or(0, |account| account.nonce);
            let pending = block == BlockId::pending();
            let next =
                |pool: &mut crate::gateway::pool::Pool| pool.mempool().next_nonce(address, nonce);
            Ok(U64::from(if pending { gateway.pool(next) } else { nonce }))
        },
    );
    method(module, "eth_getCode", |gateway, params| async move {
        let (address, block) = address_and_block(&params)?;
        let read = gateway
            .read_at(block, &[StateKey::Account(address)], &[])
            .await?;
        let Some(hash) = account(&read).and_then(|account| account.code_hash) else {
            return Ok(Bytes::new());
        };
        let read = gateway.read_at(block, &[], &[hash]).await?;
        let code = read.codes.into_iter().next().flatten();
        code.ok_or_else(|| internal(format!("the store has no code {hash}")))
    });
    method(module, "eth_getStorageAt", |gateway, params| async move {
        let mut params = params.sequence();
        let (address, key): (Address, U256) = (params.next()?, params.next()?);
        let block: Option<BlockId> = params.optional_next()?;
        let block = block.unwrap_or_default();
        let read = gateway
            .read_at(block, &[StateKey::Slot(address, key)], &[])
            .await?;
        Ok(match read.values.first() {
            Some(StateValue::Slot(value)) => B256::from(*value),
            _ => B256::ZERO,
        })
    });
}

fn address_and_block(params: &Params<'_>) -> Answer<(Address, BlockId)> {
    let mut params = params.sequence();
    let address = params.next()?;
    let block: Option<BlockId> = params.optional_next()?;
    Ok((address, block.unwrap_or_default()))
}

fn account(read: &StateValues) -> Option<store_client::AccountState> {
    match read.values.first() {
        Some(StateValue::Account(account)) => *account,
        _ => None,
    }
}

impl Gateway {
    /// The block that a client means; `None` where there is none.
    pub(super) async fn find_block(&self, id: BlockId) -> Answer<Option<Arc<Block>>> {
        let head = self.head();
        let by = match id {
            BlockId::Hash(hash) => store_client::BlockId::Hash(hash.block_hash),
            BlockId::Number(BlockNumberOrTag::Earliest) => store_client::BlockId::Number(0),
            // What this gateway has not taken in yet is not there yet: one head for all answers.
            BlockId::Number(BlockNumberOrTag::Number(n)) if n > head.header.number => {
                return Ok(None);
            }
            BlockId::Number(BlockNumberOrTag::Number(n)) => store_client::BlockId::Number(n),
            BlockId::Number(_) => store_client::BlockId::Hash(head.hash),
        };
        self.chain.block(by).await.map_err(store)
    }

    /// Reads the state at the block that a client means.
    pub(super) async fn read_at(
        &self,
        block: BlockId,
        keys: &[StateKey],
        codes: &[B256],
    ) -> Answer<StateValues> {
        let hash = self.block_hash(block).await?;
        let read = self.chain.client().read(Some(hash), keys, codes).await;
        read.map_err(store)
    }

    /// The hash of the block that a client means.
    pub(super) async fn block_hash(&self, block: BlockId) -> Answer<B256> {
        match block {
            BlockId::Hash(hash) => Ok(hash.block_hash),
            BlockId::Number(BlockNumberOrTag::Number(_) | BlockNumberOrTag::Earliest) => {
                let found = self.find_block(block).await?;
                found.map(|block| block.hash).ok_or_else(no_block)
            }
            BlockId::Number(_) => Ok(self.head().hash),
        }
    }

    async fn rpc_block(&self, id: BlockId, full: bool) -> Answer<Option<RpcBlock>> {
        let Some(block) = self.find_block(id).await? else {
            return Ok(None);
        };
        if !full {
            return Ok(Some(shapes::block(&block, None)));
        }
        let shaped = self.with_senders(block, |block, txs| shapes::block(block, Some(txs)));
        Ok(Some(shaped.await?))
    }

    async fn transaction_count(&self, id: BlockId) -> Answer<Option<U64>> {
        let block = self.find_block(id).await?;
        Ok(block.map(|block| U64::from(block.transactions.len())))
    }

    /// Works on a block's transactions with their senders, on a blocking thread: recovering them takes long.
    pub(super) async fn with_senders<R: Send + 'static>(
        &self,
        block: Arc<Block>,
        f: impl FnOnce(&Block, &[Arc<Transaction>]) -> R + Send + 'static,
    ) -> Answer<R> {
        let cache = self.recovered.clone();
        let work = tokio::task::spawn_blocking(move || {
            let recovered = block.recovered(&cache);
            recovered.map(|transactions| f(&block, transactions))
        });
        work.await.map_err(internal)?.map_err(internal)
    }
}

/// A transaction index; Geth's words where it is none.
pub(super) fn index(index: U64) -> Answer<usize> {
    usize::try_from(index.to::<u64>()).map_err(|_| invalid_params("index out of range"))
}
