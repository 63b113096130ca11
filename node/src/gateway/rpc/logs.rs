//! `eth_getLogs`: blocks are passed over by their bloom, before their bodies are read, and by the shards' blooms within.

use super::error::{invalid_params, limit, no_block, pruned, store};
use super::{Answer, method, shapes};
use crate::gateway::Gateway;
use crate::gateway::chain::Block;
use crate::gateway::limits::{MAX_LOG_BLOCKS, MAX_LOGS, READ_AHEAD};
use crate::store_client::BlockId;
use alloy_eips::BlockNumberOrTag;
use alloy_rpc_types_eth::{Filter, FilterBlockOption, Log};
use futures::{StreamExt, stream};
use jsonrpsee::RpcModule;
use std::sync::Arc;
use troika_proto::Header;

pub(super) fn register(module: &mut RpcModule<Gateway>) {
    method(module, "eth_getLogs", |gateway, params| async move {
        let filter: Filter = params.one()?;
        gateway.logs(&filter).await
    });
}

/// The block's logs that pass the filter, in order.
pub(super) fn matching(block: &Block, filter: &Filter) -> Vec<Log> {
    if !filter.matches_bloom(block.header.logs_bloom) {
        return Vec::new();
    }
    let blooms = block
        .shards
        .iter()
        .map(|s| filter.matches_bloom(s.header.logs_bloom));
    let blooms: Vec<bool> = blooms.collect();
    let transactions = block.transactions.iter().enumerate();
    let worth = transactions.filter(|(_, tx)| blooms[tx.shard] && !tx.receipt.logs.is_empty());
    let logs = worth.flat_map(|(at, _)| shapes::logs(block, at));
    let passes =
        |log: &Log| filter.matches_address(log.address()) && filter.matches_topics(log.topics());
    logs.filter(passes).collect()
}

/// Refuses a range of too many blocks.
pub(super) fn bounded(from: u64, to: u64) -> Answer<()> {
    let blocks = to - from + 1;
    if blocks > MAX_LOG_BLOCKS {
        return Err(limit(format!(
            "block range of {blocks} exceeds the limit of {MAX_LOG_BLOCKS} blocks (MAX_LOG_BLOCKS)"
        )));
    }
    Ok(())
}

impl Gateway {
    pub(super) async fn logs(&self, filter: &Filter) -> Answer<Vec<Log>> {
        let (from, to) = match filter.block_option {
            FilterBlockOption::AtBlockHash(hash) => {
                let block = self.find_block(hash.into()).await?.ok_or_else(no_block)?;
                return Ok(matching(&block, filter));
            }
            FilterBlockOption::Range {
                from_block,
                to_block,
            } => (self.number(from_block), self.number(to_block)),
        };
        let to = to.min(self.head().header.number);
        if from > to {
            // Asked in the right order but beyond the head: nothing yet.
            let reversed = filter.get_from_block().zip(filter.get_to_block());
            return match reversed {
                Some((from, to)) if from > to => Err(invalid_params("invalid block range params")),
                _ => Ok(Vec::new()),
            };
        }
        self.logs_between(from, to, filter).await
    }

    /// Of the blocks of this range, both included, up to the head at most.
    pub(super) async fn logs_between(
        &self,
        from: u64,
        to: u64,
        filter: &Filter,
    ) -> Answer<Vec<Log>> {
        bounded(from, to)?;
        let _room = self.room().await?;
        let reads = (from..=to).map(|number| self.block_for(number, filter));
        let mut blocks = stream::iter(reads).buffered(READ_AHEAD);
        let mut logs = Vec::new();
        while let Some(block) = blocks.next().await {
            let Some(block) = block? else { continue };
            logs.extend(matching(&block, filter));
            if logs.len() > MAX_LOGS {
                return Err(limit(format!(
                    "query returned more than {MAX_LOGS} results: narrow the block range (MAX_LOGS)"
                )));
            }
        }
        Ok(logs)
    }

    /// A block of the chain; `None` where none of its logs can pass the filter.
    async fn block_for(&self, number: u64, filter: &Filter) -> Answer<Option<Arc<Block>>> {
        let wanted = |header: &Header| filter.matches_bloom(header.logs_bloom);
        let found = self.chain.block_where(BlockId::Number(number), wanted);
        // Up to the head no block is missing but what has been pruned.
        found.await.map_err(store)?.ok_or_else(|| pruned(number))
    }

    /// The number that a tag means in a range.
    fn number(&self, tag: Option<BlockNumberOrTag>) -> u64 {
        match tag {
            Some(BlockNumberOrTag::Number(number)) => number,
            Some(BlockNumberOrTag::Earliest) => 0,
            _ => self.head().header.number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_more_blocks_than_the_limit_is_refused_with_its_name() {
        assert_eq!(bounded(7, 7 + MAX_LOG_BLOCKS - 1), Ok(()));
        let refused = bounded(7, 7 + MAX_LOG_BLOCKS).unwrap_err();
        assert_eq!(refused.code(), -32_005);
        assert!(refused.message().contains("MAX_LOG_BLOCKS"), "{refused:?}");
    }
}
