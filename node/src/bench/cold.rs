//! `troika-node bench cold`: what it costs an executor that it knows nothing of the state.
//!
//! Each block is a chain of its own on three members with their data on disk, and one shard of it. A cold executor reads
//! over gRPC on loopback what the shard asks for; a warm one finds it in its cache. Both times go from the transactions to
//! the shard's hash.

use super::milliseconds;
use crate::cli::{BenchColdArgs, PolicyName};
use crate::dev::cluster::{Cluster, Plan};
use crate::dev::ports::loopback;
use crate::execution::Builder;
use crate::execution::mainnet::MainnetBlock;
use crate::executor::bench::{Job, Run, cold_and_warm};
use anyhow::Context;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use troika_proto::LockRule;

const HEADLINE: &str = "    block    txs       cold  reads       warm  ratio";

/// What one block took, the least of several runs.
struct Figures {
    transactions: usize,
    cold: Run,
    warm: Run,
}

impl Figures {
    fn ratio(&self) -> f64 {
        self.cold.time.as_secs_f64() / self.warm.time.as_secs_f64().max(1e-9)
    }

    fn add(&mut self, other: &Self) {
        self.transactions += other.transactions;
        for (sum, one) in [(&mut self.cold, other.cold), (&mut self.warm, other.warm)] {
            sum.time += one.time;
            sum.reads += one.reads;
        }
    }
}

/// Measures every file that has enough transactions, and prints a table or JSON lines.
///
/// # Errors
/// A file that cannot be read or executed, or a store that does not come up.
pub async fn cold(args: &BenchColdArgs) -> anyhow::Result<()> {
    if !args.json {
        println!("{HEADLINE}");
    }
    let mut total: Option<Figures> = None;
    for file in &args.files {
        let measured = measure(file, args).await;
        let measured = measured.with_context(|| file.display().to_string())?;
        let Some((number, figures)) = measured else {
            continue;
        };
        print(args, &number.to_string(), &figures);
        match &mut total {
            Some(total) => total.add(&figures),
            None => total = Some(figures),
        }
    }
    if let Some(total) = total {
        print(args, "total", &total);
    }
    Ok(())
}

async fn measure(file: &Path, args: &BenchColdArgs) -> anyhow::Result<Option<(u64, Figures)>> {
    let block = MainnetBlock::read(file)?;
    let job = Arc::new(job(&block)?);
    if job.transactions.len() < args.least {
        return Ok(None);
    }
    let plan = Plan {
        genesis: block.genesis(1, LockRule::Commuting),
        members: 3,
        executors: 0,
        data: None,
        rpc: loopback(0),
        policy: PolicyName::Writes,
        build: true,
    };
    let cluster = Cluster::start_without_executors(plan).await?;
    let figures = least(&cluster, &job, args.runs).await;
    cluster.stop().await;
    Ok(Some((block.environment.number, figures?)))
}

/// The block as one shard, without what cannot stand in it.
fn job(block: &MainnetBlock) -> anyhow::Result<Job> {
    let rules = block.rules(LockRule::Commuting);
    let mut builder = Builder::new(rules.clone(), block.environment.clone(), block.view());
    builder.push_all(&block.transactions, |_, _| true)?;
    Ok(Job {
        rules,
        environment: block.environment.clone(),
        transactions: builder.transactions().cloned().collect(),
    })
}

async fn least(cluster: &Cluster, job: &Arc<Job>, runs: u32) -> anyhow::Result<Figures> {
    let client = cluster.store();
    let head = client.head().await?;
    let mut best: Option<Figures> = None;
    for _ in 0..runs {
        let (cold, warm) = cold_and_warm(client, &head, job).await?;
        let best = best.get_or_insert(Figures {
            transactions: job.transactions.len(),
            cold,
            warm,
        });
        best.cold.time = best.cold.time.min(cold.time);
        best.warm.time = best.warm.time.min(warm.time);
    }
    best.context("not run once")
}

fn print(args: &BenchColdArgs, block: &str, figures: &Figures) {
    let (cold, warm) = (
        milliseconds(figures.cold.time),
        milliseconds(figures.warm.time),
    );
    if args.json {
        let line = json!({
            "block": block,
            "transactions": figures.transactions,
            "cold_ms": cold,
            "cold_reads": figures.cold.reads,
            "warm_ms": warm,
            "warm_reads": figures.warm.reads,
            "ratio": figures.ratio(),
        });
        println!("{line}");
        return;
    }
    println!(
        "{block:>9} {:>6} {cold:>7.2} ms {:>6} {warm:>7.2} ms {:>6.2}",
        figures.transactions,
        figures.cold.reads,
        figures.ratio(),
    );
}
