//! What transactions pay, and paid.

use super::error::{invalid_params, no_block};
use super::{Answer, method};
use crate::execution::Transaction;
use crate::gateway::Gateway;
use crate::gateway::chain::Block;
use crate::gateway::limits::{MAX_FEE_HISTORY, READ_AHEAD};
use crate::gateway::pool::next_base_fee;
use alloy_eips::BlockNumberOrTag;
use alloy_primitives::{U64, U256};
use alloy_rpc_types_eth::FeeHistory;
use futures::{StreamExt, TryStreamExt, stream};
use jsonrpsee::RpcModule;
use std::sync::Arc;

/// The tip that is suggested where no block says otherwise, wei per gas.
const DEFAULT_TIP: u128 = 1_000_000_000;
/// The suggested tip is the one that this percentile of the newest block's gas paid.
const TIP_PERCENTILE: f64 = 60.0;
/// Most percentiles of one fee history.
const MAX_PERCENTILES: usize = 100;

pub(super) fn register(module: &mut RpcModule<Gateway>) {
    method(module, "eth_gasPrice", |gateway, _| async move {
        let tip = gateway.suggested_tip().await?;
        let base_fee = next_base_fee(&gateway.config, &gateway.head().header);
        Ok(U256::from(tip) + U256::from(base_fee))
    });
    method(
        module,
        "eth_maxPriorityFeePerGas",
        |gateway, _| async move { Ok(U256::from(gateway.suggested_tip().await?)) },
    );
    method(module, "eth_blobBaseFee", |_, _| async {
        Ok(U256::from(1))
    });
    method(module, "eth_feeHistory", |gateway, params| async move {
        let mut params = params.sequence();
        let (count, newest): (U64, BlockNumberOrTag) = (params.next()?, params.next()?);
        let percentiles: Option<Vec<f64>> = params.optional_next()?;
        gateway.fee_history(count.to(), newest, percentiles).await
    });
}

impl Gateway {
    async fn suggested_tip(&self) -> Answer<u128> {
        let Some(block) = self.find_block(BlockNumberOrTag::Latest.into()).await? else {
            return Ok(DEFAULT_TIP);
        };
        if block.transactions.is_empty() {
            return Ok(DEFAULT_TIP);
        }
        let shape =
            |block: &Block, txs: &[Arc<Transaction>]| rewards(block, txs, &[TIP_PERCENTILE]);
        let rewards = self.with_senders(block, shape).await?;
        Ok(rewards.first().copied().unwrap_or(DEFAULT_TIP).max(1))
    }

    async fn fee_history(
        &self,
        count: u64,
        newest: BlockNumberOrTag,
        percentiles: Option<Vec<f64>>,
    ) -> Answer<FeeHistory> {
        check_percentiles(percentiles.as_deref().unwrap_or_default())?;
        if count == 0 {
            return Ok(FeeHistory::default());
        }
        let newest = self.find_block(newest.into()).await?;
        let newest = newest.ok_or_else(no_block)?.header.number;
        let oldest = (newest + 1).saturating_sub(count.min(MAX_FEE_HISTORY));
        let numbers = (oldest..=newest).map(BlockNumberOrTag::Number);
        let reads = numbers.map(|number| self.find_block(number.into()));
        let read: Vec<Option<Arc<Block>>> = stream::iter(reads)
            .buffered(READ_AHEAD)
            .try_collect()
            .await?;
        // The oldest may be forgotten: the history then begins later.
        let missing = read.iter().rposition(Option::is_none).map_or(0, |i| i + 1);
        let blocks: Vec<Arc<Block>> = read.into_iter().skip(missing).flatten().collect();
        let last = blocks.last().ok_or_else(no_block)?;
        let headers = blocks.iter().map(|block| &block.header);
        let mut base_fees: Vec<u128> = headers.clone().map(|h| h.base_fee.into()).collect();
        base_fees.push(next_base_fee(&self.config, &last.header).into());
        let ratios = headers.map(|h| h.gas_used as f64 / h.gas_limit.max(1) as f64);
        let mut history = FeeHistory {
            gas_used_ratio: ratios.collect(),
            base_fee_per_blob_gas: vec![1; base_fees.len()],
            base_fee_per_gas: base_fees,
            blob_gas_used_ratio: vec![0.0; blocks.len()],
            oldest_block: oldest + missing as u64,
            reward: None,
        };
        if let Some(percentiles) = percentiles {
            let mut reward = Vec::with_capacity(blocks.len());
            for block in blocks {
                let percentiles = percentiles.clone();
                let shape = move |block: &Block, txs: &[Arc<Transaction>]| {
                    rewards(block, txs, &percentiles)
                };
                reward.push(self.with_senders(block, shape).await?);
            }
            history.reward = Some(reward);
        }
        Ok(history)
    }
}

fn check_percentiles(percentiles: &[f64]) -> Answer<()> {
    if percentiles.len() > MAX_PERCENTILES {
        let message = format!("over the query limit {MAX_PERCENTILES}");
        return Err(invalid_params(message));
    }
    let in_range = percentiles.iter().all(|p| (0.0..=100.0).contains(p));
    if !in_range || percentiles.windows(2).any(|pair| pair[0] > pair[1]) {
        return Err(invalid_params(
            "invalid reward percentile: each must be between 0 and 100 and not below the one before",
        ));
    }
    Ok(())
}

/// The tips that these percentiles of the block's gas paid at most, wei per gas; zeros for an empty block.
fn rewards(block: &Block, txs: &[Arc<Transaction>], percentiles: &[f64]) -> Vec<u128> {
    let mut tips: Vec<(u128, u64)> = txs
        .iter()
        .zip(&block.transactions)
        .map(|(tx, sealed)| {
            let tip = tx.effective_tip(block.header.base_fee);
            (tip.unwrap_or_default(), sealed.gas_used)
        })
        .collect();
    tips.sort_unstable();
    let mut found = Vec::with_capacity(percentiles.len());
    let mut tips = tips.into_iter();
    let mut current = tips.next().unwrap_or_default();
    let mut gas = current.1;
    for percentile in percentiles {
        let threshold = block.header.gas_used as f64 * percentile / 100.0;
        while (gas as f64) < threshold
            && let Some(next) = tips.next()
        {
            current = next;
            gas += current.1;
        }
        found.push(current.0);
    }
    found
}
