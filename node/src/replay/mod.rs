//! `troika-node replay`: real mainnet blocks through a cluster, compared with sequential execution.
//!
//! Every block is a chain of its own: its pre-state is the genesis, and all rounds run in the block's own environment.
//! The gateway gets all transactions before the first executor starts, so that the first round sees the whole block.
//! What was sealed is then read back from the store and [`measure`]d.

pub mod measure;
mod show;

use crate::cli::ReplayArgs;
use crate::dev::cluster::{Cluster, Plan};
use crate::execution::mainnet::MainnetBlock;
use crate::execution::sequential;
use crate::load::drive::Untaken;
use crate::store_client::{
    Block, BlockId, EventId, EventKind, ShardFilter, ShardParts, StoreClient, Watch,
};
use anyhow::{Context, bail};
use measure::{Figures, SealedRound, SealedShard, Sequential};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use troika_proto::{B256, LockRule};

/// Longest that a replay goes on without another transaction included.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for the gateway to take a block's transactions, and the pause between two attempts.
const SUBMIT_LIMIT: Duration = Duration::from_secs(20);
const SUBMIT_PAUSE: Duration = Duration::from_millis(200);

/// A replayed block.
#[derive(Debug)]
pub struct Replayed {
    /// Its number on mainnet.
    pub number: u64,
    /// What was measured.
    pub figures: Figures,
    /// Transactions that were refused for good, and why.
    pub refused: BTreeMap<B256, String>,
}

/// Replays all files, one after the other. False: at least one failed.
///
/// # Errors
/// A file that cannot be read, or a cluster that does not start or does not answer.
pub async fn run(args: ReplayArgs) -> anyhow::Result<bool> {
    let mut total = Figures::default();
    let mut good = 0;
    show::headline(&args);
    for file in &args.files {
        match replay_file(&args, file).await {
            Ok(replayed) => {
                show::block(&args, &replayed);
                good += usize::from(replayed.figures.faults().is_empty());
                total.add(&replayed.figures);
            }
            Err(error) => show::failed(&args, file, &error),
        }
    }
    show::total(&args, &total, good);
    Ok(good == args.files.len())
}

async fn replay_file(args: &ReplayArgs, file: &Path) -> anyhow::Result<Replayed> {
    let path = file.to_owned();
    let rule = LockRule::from(args.locks);
    let (block, sequential) = tokio::task::spawn_blocking(move || {
        let block = MainnetBlock::read(&path)?;
        let sequential = run_sequentially(&block, rule)?;
        anyhow::Ok((block, sequential))
    })
    .await
    .context("reading panicked")??;

    let mut cluster = Cluster::start_without_executors(Plan::replay(args, &block)).await?;
    let replayed = replay_block(args, &block, &sequential, &mut cluster).await;
    cluster.stop().await;
    replayed
}

/// Executes the block in order. A transaction that mainnet executed and this run does not is an error.
fn run_sequentially(block: &MainnetBlock, rule: LockRule) -> anyhow::Result<Sequential> {
    let rules = block.rules(rule);
    let run = sequential::run(
        &rules,
        &block.environment,
        &block.transactions,
        block.view(),
    )?;
    let mut transactions = Vec::with_capacity(block.transactions.len());
    for (transaction, outcome) in block.transactions.iter().zip(run.outcomes) {
        let outcome =
            outcome.with_context(|| format!("sequential execution of {}", transaction.hash))?;
        transactions.push((transaction.hash, outcome));
    }
    Ok(Sequential {
        transactions,
        header_gas: block.gas_used,
    })
}

async fn replay_block(
    args: &ReplayArgs,
    block: &MainnetBlock,
    sequential: &Sequential,
    cluster: &mut Cluster,
) -> anyhow::Result<Replayed> {
    let started = Instant::now();
    let submit = cluster.submit();
    let mut refused = BTreeMap::new();
    let mut waiting: Vec<_> = block.transactions.iter().collect();
    while !waiting.is_empty() {
        let raw = waiting.iter().map(|t| t.raw.clone()).collect();
        let answers = submit(raw).await;
        let mut later = Vec::new();
        for (transaction, answer) in waiting.into_iter().zip(answers) {
            match answer {
                Ok(()) => {}
                Err(Untaken::Never(reason)) => {
                    refused.insert(transaction.hash, reason);
                }
                Err(Untaken::Later) => later.push(transaction),
            }
        }
        waiting = later;
        if !waiting.is_empty() {
            // The pool is full until a block seals, or the store does not answer yet.
            if started.elapsed() > SUBMIT_LIMIT {
                bail!("the gateway did not take {} transactions", waiting.len());
            }
            tokio::time::sleep(SUBMIT_PAUSE).await;
        }
    }
    let store = cluster.store().clone();
    let head = store.head().await?;
    let watch = store.watch(Some(EventId::end_of(head.revision)), ShardFilter::None);
    cluster.start_executors().await?;
    let mut waiting: BTreeSet<B256> = block.transactions.iter().map(|t| t.hash).collect();
    waiting.retain(|hash| !refused.contains_key(hash));
    let rounds = sealed_rounds(cluster, watch, &mut waiting, &mut refused).await?;
    let elapsed = started.elapsed();

    let mut figures = Figures::of(sequential, &rounds, refused.len() as u64, args.shards);
    figures.seconds = elapsed.as_secs_f64();
    figures.conflicts = cluster.conflicts();
    Ok(Replayed {
        number: block.environment.number,
        figures,
        refused,
    })
}

/// Reads every sealed round until nothing is `waiting` any more: all of it is included, or dropped for good. What is
/// still waiting when the patience ends stays so; the figures then say that it is missing.
async fn sealed_rounds(
    cluster: &Cluster,
    mut watch: Watch,
    waiting: &mut BTreeSet<B256>,
    refused: &mut BTreeMap<B256, String>,
) -> anyhow::Result<Vec<SealedRound>> {
    let store = cluster.store();
    let rule = store.head().await?.config.lock_rule;
    let mut rounds = Vec::new();
    let mut last = Instant::now();
    while !waiting.is_empty() && last.elapsed() < PATIENCE {
        let Ok(batch) = timeout(PATIENCE, watch.next()).await else {
            break;
        };
        for event in batch.context("watching the store")?.events {
            let EventKind::RoundSealed {
                block_hash,
                head: true,
                ..
            } = event.kind
            else {
                continue;
            };
            let Some(block) = store.block(BlockId::Hash(block_hash)).await? else {
                bail!("block {block_hash} was sealed, and the store does not have it");
            };
            let round = sealed_round(store, &block, rule).await?;
            for (hash, _) in round.shards.iter().flat_map(|shard| &shard.transactions) {
                waiting.remove(hash);
                last = Instant::now();
            }
            rounds.push(round);
        }
        for hash in waiting.iter() {
            if let Some(reason) = cluster.gateway().drop_reason(hash) {
                refused.insert(*hash, reason);
            }
        }
        waiting.retain(|hash| !refused.contains_key(hash));
    }
    Ok(rounds)
}

/// Reads the shards of a sealed block as the store accepted them.
async fn sealed_round(
    store: &StoreClient,
    block: &Block,
    rule: LockRule,
) -> anyhow::Result<SealedRound> {
    let parts = ShardParts {
        transactions: true,
        receipts: true,
        diff: true,
    };
    let mut round = SealedRound::default();
    for (index, outline) in block.shards.iter().enumerate() {
        if outline.header.is_empty() {
            round.shards.push(SealedShard::default());
            continue;
        }
        let Some(shard) = store.shard(block.round, index as u32, parts).await? else {
            bail!(
                "round {}, shard {index} was accepted, and the store does not have it",
                block.round
            );
        };
        let mut gas_before = 0;
        let body = shard.body;
        let transactions = body.transactions.iter().zip(&body.receipts);
        let transactions = transactions.map(|(raw, receipt)| {
            let gas = receipt.cumulative_gas - gas_before;
            gas_before = receipt.cumulative_gas;
            // The hash of an envelope is the Keccak-256 of its bytes.
            (troika_proto::keccak(raw), (receipt.success, gas))
        });
        round.shards.push(SealedShard {
            transactions: transactions.collect(),
            keys: body.diff.lock_keys(rule),
        });
    }
    Ok(round)
}
