//! `troika-node export`: the chain of a store as a file of blocks.

use super::file::BlocksWriter;
use crate::cli::ExportArgs;
use crate::store_client::{Block, BlockId, ShardParts, StoreClient};
use crate::tls::{Tls, store_options};
use anyhow::{Context, bail};
use troika_proto::wire::hash_bytes;
use troika_proto::{B256, v1};
use v1::feed_item::Item;

/// Writes the file.
///
/// # Errors
/// Certificates that cannot be used, a store that does not answer, a block that is no longer kept, a file that cannot be written.
pub async fn run(args: &ExportArgs) -> anyhow::Result<()> {
    let tls = Tls::read(&args.tls)?;
    let store = StoreClient::new(store_options(&args.store.store, tls.as_ref())?)?;
    let head = store.head().await?;
    let newest = head.header.number;
    let last = args.last.unwrap_or(newest);
    if args.first > last || last > newest {
        bail!(
            "blocks {} to {last} are asked for, the chain's head is {newest}",
            args.first
        );
    }
    let info = v1::FeedInfo {
        executor: "export".to_owned(),
        last_shard: head.config.shards - 1,
        genesis_hash: hash_bytes(head.genesis_hash),
        config: Some((&head.config).into()),
        ..v1::FeedInfo::default()
    };
    let mut writer = BlocksWriter::create(&args.file, &info)?;
    for number in args.first..=last {
        let block = store.block(BlockId::Number(number)).await?;
        let block = block.with_context(|| format!("block {number} is no longer kept"))?;
        for item in items(&store, &block).await? {
            writer.item(&item)?;
        }
    }
    writer.finish()?;
    println!(
        "blocks {} to {last} written to {}",
        args.first,
        args.file.display()
    );
    Ok(())
}

/// A block's items in the order in which a feed sends them, without what a check computes anyway.
async fn items(store: &StoreClient, block: &Block) -> anyhow::Result<Vec<v1::FeedItem>> {
    let parts = ShardParts {
        transactions: true,
        ..ShardParts::default()
    };
    let item = |item| v1::FeedItem {
        round: block.round,
        item: Some(item),
    };
    let mut items = Vec::new();
    for (index, shard) in (0..).zip(&block.shards) {
        if shard.header.is_empty() {
            continue;
        }
        let accepted = store.shard(block.round, index, parts).await?;
        let accepted =
            accepted.with_context(|| format!("shard {index} of block {} is gone", block.hash))?;
        let body = v1::ShardBody {
            transactions: accepted
                .body
                .transactions
                .into_iter()
                .map(Into::into)
                .collect(),
            ..v1::ShardBody::default()
        };
        items.push(item(Item::Shard(v1::FeedShard {
            index,
            // Binds the transactions to the shard's hash.
            header: Some((&shard.header).into()),
            body: Some(body),
            ..v1::FeedShard::default()
        })));
    }
    let hashes = block.shards.iter().map(|shard| shard.winner.shard_hash);
    items.push(item(Item::Block(feed_block(block, hashes))));
    Ok(items)
}

fn feed_block(block: &Block, hashes: impl Iterator<Item = B256>) -> v1::FeedBlock {
    v1::FeedBlock {
        hash: hash_bytes(block.hash),
        header: Some((&block.header).into()),
        shard_hashes: hashes.map(hash_bytes).collect(),
        head: block.canonical,
    }
}
