//! `troika-node verify`: checks the blocks of another cluster, one after the other, as a node that downloads them does.
//!
//! [`source`] brings what a feed or a file ([`mod@file`]) holds, [`assemble`] puts blocks together, [`checking`] takes each
//! through a VERIFY round. The store is one of its own in this process, or one that is named; the executors are this
//! process's, and make no blocks. `troika-node export` ([`export`]) writes such files.

pub mod assemble;
pub mod checking;
pub mod export;
pub mod file;
pub mod peers;
pub mod source;

use crate::cli::{PolicyName, VerifyArgs};
use crate::dev::cluster::{Cluster, Plan};
use crate::dev::genesis as dev_genesis;
use crate::dev::ports::{free_ports, loopback};
use crate::executor::{Executor, ExecutorConfig, ExecutorHandle};
use crate::store_client::{InitOutcome, StoreClient};
use crate::tls::{Tls, store_options};
use anyhow::{Context, bail};
use assemble::{Assembler, ForeignBlock};
use checking::{Checking, Stream, Verdict};
use peers::Peer;
use serde_json::json;
use source::{Chain, Items};
use std::convert::Infallible;
use std::io::Write;
use std::time::{Duration, Instant};
use troika_proto::Genesis;
use troika_store::ctl::genesis::read_genesis;

/// Longest that peers may stay away before an executor begins with them anew.
const PEER_PATIENCE: Duration = Duration::from_secs(30);
/// First pause before that; doubles up to [`PEER_PAUSE_MAX`].
const PEER_PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest such pause.
const PEER_PAUSE_MAX: Duration = Duration::from_secs(30);

/// What a run has come to.
#[derive(Debug, Default)]
struct Counts {
    imported: u64,
    known: u64,
    transactions: u64,
}

/// Checks until the source ends, a block is invalid, enough blocks are checked, or Ctrl-C. False: a block is invalid.
///
/// # Errors
/// A source or a store that fails, a block that cannot be checked.
pub async fn run(args: VerifyArgs) -> anyhow::Result<bool> {
    let tls = Tls::read(&args.tls)?;
    let (chain, mut items) = open(&args, tls.as_ref()).await?;
    let site = Site::start(&args, tls.as_ref(), &chain).await?;
    let result = tokio::select! {
        result = check_all(&args, &chain, &mut items, &site) => result,
        _ = tokio::signal::ctrl_c() => Ok(true),
    };
    site.stop().await;
    result
}

async fn open(args: &VerifyArgs, tls: Option<&Tls>) -> anyhow::Result<(Chain, Items)> {
    if let Some(file) = &args.file {
        return source::file(file).await;
    }
    let peers = peers::at(&args.from, tls)?;
    let all = (0, u32::MAX);
    let (chain, reached) = peers::chain_of(&peers, args.patience, all).await?;
    let (first, last_shard) = (chain.first_round, chain.config.shards - 1);
    let items = source::feeds(reached, (0, last_shard), first, args.patience);
    Ok((chain, items))
}

/// Where blocks are checked.
enum Site {
    /// A cluster of this process.
    Own(Box<Cluster>),
    /// Executors of this process at a store that is there.
    Named(StoreClient, Vec<ExecutorHandle>),
}

impl Site {
    async fn start(args: &VerifyArgs, tls: Option<&Tls>, chain: &Chain) -> anyhow::Result<Self> {
        if !args.store.is_empty() {
            return Self::at(args, tls, chain).await;
        }
        let plan = Plan {
            genesis: genesis_of(args, chain)?,
            members: args.members,
            executors: args.executors,
            data: args.data.clone(),
            rpc: args.rpc,
            policy: PolicyName::Writes,
            build: false,
        };
        let mut cluster = Cluster::start_without_executors(plan).await?;
        if let Err(error) = cluster.start_executors().await {
            cluster.stop().await;
            return Err(error);
        }
        Ok(Self::Own(Box::new(cluster)))
    }

    async fn at(args: &VerifyArgs, tls: Option<&Tls>, chain: &Chain) -> anyhow::Result<Self> {
        let options = store_options(&args.store, tls)?;
        let store = StoreClient::new(options.clone())?;
        let found = match store.head().await {
            Ok(head) => head.genesis_hash,
            Err(crate::store_client::StoreError::NoChain) => {
                match store.init_chain(&genesis_of(args, chain)?).await? {
                    InitOutcome::Running(hash, _) => hash,
                    InitOutcome::Refused(refusal) => {
                        bail!("the store refuses the chain: {refusal}")
                    }
                }
            }
            Err(error) => return Err(error.into()),
        };
        if found != chain.genesis_hash {
            bail!(
                "the store holds another chain: its genesis is {found}, the blocks' is {}",
                chain.genesis_hash
            );
        }
        let last = chain.config.shards - 1;
        let mut executors = Vec::new();
        for port in free_ports(args.executors as usize)? {
            let name = format!("verifier-{port}");
            let mut config = ExecutorConfig::new(name, options.clone(), (0, last), loopback(port));
            config.build = false;
            config.owners = args.executors;
            executors.push(Executor::start(config).await?);
        }
        Ok(Self::Named(store, executors))
    }

    fn store(&self) -> &StoreClient {
        match self {
            Self::Own(cluster) => cluster.store(),
            Self::Named(store, _) => store,
        }
    }

    fn executors(&self) -> &[ExecutorHandle] {
        match self {
            Self::Own(cluster) => cluster.executors(),
            Self::Named(_, executors) => executors,
        }
    }

    async fn stop(self) {
        match self {
            Self::Own(cluster) => cluster.stop().await,
            Self::Named(_, executors) => {
                futures::future::join_all(executors.into_iter().map(ExecutorHandle::shutdown))
                    .await;
            }
        }
    }
}

/// The genesis behind a hash: the one that is given, or a development chain's.
fn genesis_of(args: &VerifyArgs, chain: &Chain) -> anyhow::Result<Genesis> {
    let config = &chain.config;
    let genesis = match &args.genesis {
        Some(path) => read_genesis(path).map_err(|error| anyhow::anyhow!("{error}"))?,
        None => {
            let block_time = Duration::from_millis(config.propose_after_ms);
            dev_genesis::genesis(config.shards, block_time)
        }
    };
    let found = genesis.header().hash();
    if found == chain.genesis_hash {
        return Ok(genesis);
    }
    match &args.genesis {
        Some(path) => bail!(
            "{} is another chain's genesis: it hashes to {found}, the blocks' is {}",
            path.display(),
            chain.genesis_hash
        ),
        None => bail!(
            "--genesis FILE is needed: the blocks' genesis {} is not a development chain's",
            chain.genesis_hash
        ),
    }
}

async fn check_all(
    args: &VerifyArgs,
    chain: &Chain,
    items: &mut Items,
    site: &Site,
) -> anyhow::Result<bool> {
    let all = (0, chain.config.shards - 1);
    let assembler = Assembler::new(items.feeds(), chain.first_round, all);
    let checking = Checking::new(site.store(), site.executors(), "verify").await?;
    let mut blocks = Stream::new(assembler, checking);
    let mut counts = Counts::default();
    let started = Instant::now();
    let good = 'source: loop {
        let Some(news) = items.next().await? else {
            break true;
        };
        blocks.take(news)?;
        while let Some((block, verdict)) = blocks.next().await? {
            report(args, &block, &verdict)?;
            if !counts.add(&block, &verdict) {
                break 'source false;
            }
            if args.blocks.is_some_and(|blocks| counts.imported >= blocks) {
                break 'source true;
            }
        }
    };
    if good && let Some(orphan) = blocks.orphan() {
        bail!(
            "block {} ({}) stands on {}, which is not in this store and never came",
            orphan.header.number,
            orphan.hash,
            orphan.header.parent_hash
        );
    }
    counts.print(args.json, started.elapsed());
    Ok(good)
}

/// Lets an executor follow peers of other clusters for ever: it takes the transactions of its shards from their feeds and
/// opens a round for each of their blocks, as every executor that follows them does; the store makes one of it.
pub async fn follow_peers(peers: &[Peer], store: &StoreClient, executor: &ExecutorHandle) {
    let mut pause = PEER_PAUSE_MIN;
    loop {
        let Err(ended) = follow_once(peers, store, executor).await;
        let peers: Vec<String> = peers.iter().map(Peer::to_string).collect();
        tracing::warn!(
            ?peers,
            error = format!("{ended:#}"),
            "peers are followed anew"
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PEER_PAUSE_MAX);
    }
}

async fn follow_once(
    peers: &[Peer],
    store: &StoreClient,
    executor: &ExecutorHandle,
) -> anyhow::Result<Infallible> {
    let (chain, reached) = peers::chain_of(peers, PEER_PATIENCE, executor.shards()).await?;
    let genesis_hash = store.head().await?.genesis_hash;
    if genesis_hash != chain.genesis_hash {
        bail!(
            "the peers have another chain: their genesis is {}, this cluster's {genesis_hash}",
            chain.genesis_hash
        );
    }
    let last = executor.shards().1.min(chain.config.shards - 1);
    let range = (executor.shards().0, last);
    let mut items = source::feeds(reached, range, chain.first_round, PEER_PATIENCE);
    let assembler = Assembler::new(items.feeds(), chain.first_round, range);
    let executors = std::slice::from_ref(executor);
    let checking = Checking::new(store, executors, executor.name()).await?;
    let mut blocks = Stream::new(assembler, checking);
    loop {
        let news = items.next().await?;
        blocks.take(news.context("the peers' feeds ended")?)?;
        while let Some((block, verdict)) = blocks.next().await? {
            let (number, hash) = (block.header.number, block.hash);
            match verdict {
                Verdict::Invalid { because, .. } => {
                    tracing::error!(number, %hash, because, "a peer's block is invalid");
                }
                verdict => tracing::debug!(number, %hash, ?verdict, "a peer's block"),
            }
        }
    }
}

impl Counts {
    /// False: the block is invalid.
    fn add(&mut self, block: &ForeignBlock, verdict: &Verdict) -> bool {
        match verdict {
            Verdict::Imported { .. } => {
                self.imported += 1;
                self.transactions += block.transactions() as u64;
            }
            Verdict::Known => self.known += 1,
            Verdict::Invalid { .. } => return false,
            Verdict::Unchecked { .. } | Verdict::NoParent => {}
        }
        true
    }

    fn print(&self, json: bool, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        if json {
            let summary = json!({ "summary": {
                "imported": self.imported,
                "known": self.known,
                "transactions": self.transactions,
                "seconds": seconds,
            }});
            println!("{summary}");
        } else {
            println!(
                "{} blocks checked and imported with {} transactions in {seconds:.1} s, {} known before",
                self.imported, self.transactions, self.known
            );
        }
    }
}

fn report(args: &VerifyArgs, block: &ForeignBlock, verdict: &Verdict) -> anyhow::Result<()> {
    let (number, hash) = (block.header.number, block.hash);
    let (status, round, because) = match verdict {
        Verdict::Imported { round, head: true } => ("imported", Some(*round), None),
        Verdict::Imported { round, head: false } => ("beside", Some(*round), None),
        Verdict::Invalid { round, because } => ("invalid", *round, Some(because.as_str())),
        // Told once it is decided, or not at all where it was before.
        Verdict::Known | Verdict::NoParent | Verdict::Unchecked { .. } => return Ok(()),
    };
    let transactions = block.transactions();
    let line = if args.json {
        let line = json!({
            "block": number,
            "hash": hash,
            "status": status,
            "round": round,
            "transactions": transactions,
            "because": because,
        });
        line.to_string()
    } else {
        let because = because.map(|b| format!(": {b}")).unwrap_or_default();
        format!("block {number:>6}  {hash}  {transactions:>6} tx  {status}{because}")
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("standard output is closed")
}
