//! The command line of `troika-node bench`.

use clap::{Args, Subcommand};
use std::path::PathBuf;
use troika_proto::limits::MAX_SHARDS;

/// `troika-node bench`.
#[derive(Clone, Debug, Subcommand)]
pub enum BenchCommand {
    /// Per block: sequential execution against the slowest shard's path, and what hashing and diffs cost beside it.
    Execute(BenchExecuteArgs),
    /// Plain transfers over JSON-RPC, from the ten accounts of the test mnemonic, until all are included. Any node will do.
    Transfers(BenchTransfersArgs),
    /// Each block as one shard on an executor that has to ask the store for all state, and on one that knows it.
    Cold(BenchColdArgs),
}

/// `troika-node bench transfers`.
#[derive(Clone, Debug, Args)]
pub struct BenchTransfersArgs {
    /// JSON-RPC of the node.
    #[arg(long, default_value = "http://127.0.0.1:8545")]
    pub rpc: String,
    /// Transfers in all.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub transfers: u64,
    /// Transfers of one call.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub batch: u32,
    /// Connections, each with its own senders; at most ten are used.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10))]
    pub connections: u32,
    /// Prints one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// `troika-node bench execute`.
#[derive(Clone, Debug, Args)]
pub struct BenchExecuteArgs {
    /// Files as `replay` takes them.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Runs of each block; the fastest counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub runs: u32,
    /// Shards of a block.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SHARDS)))]
    pub shards: u32,
    /// Prints one JSON object a block.
    #[arg(long)]
    pub json: bool,
}

/// `troika-node bench cold`.
#[derive(Clone, Debug, Args)]
pub struct BenchColdArgs {
    /// Files as `replay` takes them.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Runs of each block; the fastest cold and the fastest warm one count.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub runs: u32,
    /// Leaves out blocks of fewer transactions.
    #[arg(long, default_value_t = 200)]
    pub least: usize,
    /// Prints one JSON object a block.
    #[arg(long)]
    pub json: bool,
}
