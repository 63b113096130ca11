//! The command line of `troika-node`: what can be asked for, and nothing of how it is done.

mod bench;
mod values;

#[cfg(test)]
mod tests;

pub use bench::{BenchColdArgs, BenchCommand, BenchExecuteArgs, BenchTransfersArgs};
pub use values::ShardRange;

use crate::gateway::routing::{self, Policy};
use crate::load::Load;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use troika_proto::LockRule;
use troika_proto::limits::MAX_SHARDS;
use values::{block_time, duration, members, name, shard_range, url};

/// Most executors of one shard that `dev` and `replay` start.
pub const MAX_EXECUTORS: u32 = 5;

/// Executors, the JSON-RPC gateway, and a whole cluster in one process.
#[derive(Debug, Parser)]
#[command(name = "troika-node", version, propagate_version = true)]
pub struct Cli {
    /// What is logged to standard error, for instance `info` or `troika_node=debug`.
    #[arg(long, global = true, value_name = "FILTER", env = "TROIKA_LOG")]
    pub log: Option<String>,
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs a whole cluster in this process: members, executors, a gateway, and a load if asked.
    Dev(DevArgs),
    /// Feeds blocks of Ethereum's mainnet through such a cluster and compares with sequential execution.
    Replay(ReplayArgs),
    /// Races for shards: takes pending transactions, executes, proposes, and publishes what was accepted.
    Executor(ExecutorArgs),
    /// Serves Ethereum's JSON-RPC and hands transactions to the executors.
    Gateway(GatewayArgs),
    /// Prints what an executor's feed sends, and checks it.
    Follow(FollowArgs),
    /// Checks the blocks of another cluster, from its feeds or from a file.
    Verify(VerifyArgs),
    /// Writes blocks of a store into a file, for `verify`.
    Export(ExportArgs),
    /// Prints a development chain's genesis, for `troikactl init`.
    Genesis(GenesisArgs),
    /// Measures.
    #[command(subcommand)]
    Bench(BenchCommand),
}

/// `troika-node dev`.
#[derive(Clone, Debug, Args)]
pub struct DevArgs {
    /// Shards of a block.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SHARDS)))]
    pub shards: u32,
    /// Executors of every shard.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_EXECUTORS)))]
    pub executors: u32,
    /// Members of the store.
    #[arg(long, default_value = "3", value_parser = members)]
    pub members: u32,
    /// Time that a block collects transactions before what there is is proposed, for instance `1s` or `200ms`.
    #[arg(long, default_value = "1s", value_parser = block_time)]
    pub block_time: Duration,
    /// Stops after this many blocks, with every transaction of the load included.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub blocks: Option<u64>,
    /// Load: `demo` (a gentle mix), `none`, `max` (as fast as the cluster takes it), or transactions a second.
    #[arg(long, default_value = "demo")]
    pub load: Load,
    /// Keeps the chain in this folder across runs. Without it the chain ends with the process.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where JSON-RPC is served (HTTP and WebSocket).
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8545")]
    pub rpc: SocketAddr,
    /// Prints one JSON object a block, and one for the summary.
    #[arg(long)]
    pub json: bool,
}

/// `troika-node replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// Gzipped JSON, one block each: `block`, `pre_state`, `codes`, `block_hashes`.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Shards of a block.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SHARDS)))]
    pub shards: u32,
    /// Executors of every shard.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_EXECUTORS)))]
    pub executors: u32,
    /// Members of the store.
    #[arg(long, default_value = "3", value_parser = members)]
    pub members: u32,
    /// Whether a balance that only rises takes a lock.
    #[arg(long, value_enum, default_value_t = Locks::Commuting)]
    pub locks: Locks,
    /// How transactions are grouped into shards.
    #[arg(long, value_enum, default_value_t = PolicyName::Writes)]
    pub policy: PolicyName,
    /// Prints one JSON object a block, and one for the total.
    #[arg(long)]
    pub json: bool,
}

/// The lock rule, as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Locks {
    /// Credits commute.
    Commuting,
    /// Every balance change locks the account.
    Strict,
}

impl From<Locks> for LockRule {
    fn from(locks: Locks) -> Self {
        match locks {
            Locks::Commuting => Self::Commuting,
            Locks::Strict => Self::Strict,
        }
    }
}

/// The grouping policies, as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PolicyName {
    /// By what a transaction is likely to write.
    Writes,
    /// By connected components of (sender, recipient).
    Components,
    /// By sender.
    Sender,
}

impl PolicyName {
    /// The policy of that name.
    pub fn policy(self) -> Policy {
        match self {
            Self::Writes => routing::by_writes,
            Self::Components => routing::by_components,
            Self::Sender => routing::by_sender,
        }
    }
}

/// How to reach the store.
#[derive(Clone, Debug, Args)]
pub struct StoreArgs {
    /// The members' client addresses, separated by commas.
    #[arg(long, required = true, value_delimiter = ',', value_name = "URLS", value_parser = url)]
    pub store: Vec<String>,
}

/// Mutual TLS, toward the store and the executors, and for whoever connects.
#[derive(Clone, Debug, Default, Args)]
pub struct TlsArgs {
    /// Trust certificates that were signed by this one (PEM).
    #[arg(long, env = "TROIKA_CACERT", value_name = "FILE", requires_all = ["cert", "key"])]
    pub cacert: Option<PathBuf>,
    /// This process's certificate (PEM).
    #[arg(long, env = "TROIKA_CERT", value_name = "FILE", requires_all = ["cacert", "key"])]
    pub cert: Option<PathBuf>,
    /// The key of this process's certificate (PEM).
    #[arg(long, env = "TROIKA_KEY", value_name = "FILE", requires_all = ["cacert", "cert"])]
    pub key: Option<PathBuf>,
}

/// `troika-node executor`.
#[derive(Clone, Debug, Args)]
pub struct ExecutorArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub store: StoreArgs,
    /// The shards to race for, first and last, for instance `0-3`.
    #[arg(long, value_name = "A-B", value_parser = shard_range)]
    pub shards: ShardRange,
    /// Where the feed and the pool are served.
    #[arg(long, value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Name in the races; must differ between executors. Default: `executor-` and the port.
    #[arg(long, value_parser = name)]
    pub name: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub tls: TlsArgs,
    /// Serve on other addresses than loopback without TLS.
    #[arg(long)]
    pub insecure: bool,
    /// How many executors own each of these shards, this one included: two of them must agree that a checked block is
    /// invalid, unless there is but one.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_EXECUTORS)))]
    pub owners: u32,
    /// Checks other producers' blocks alone, and takes no part in making blocks.
    #[arg(long)]
    pub check_only: bool,
    /// Executors of other clusters, separated by commas, whose blocks are checked; together they must have these shards.
    #[arg(long, value_delimiter = ',', value_name = "URLS", value_parser = url)]
    pub peers: Vec<String>,
    /// Serves Prometheus metrics here.
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<SocketAddr>,
}

/// `troika-node gateway`.
#[derive(Clone, Debug, Args)]
pub struct GatewayArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub store: StoreArgs,
    /// The executors' addresses, separated by commas.
    #[arg(long, required = true, value_delimiter = ',', value_name = "URLS", value_parser = url)]
    pub executors: Vec<String>,
    /// Where JSON-RPC is served (HTTP and WebSocket).
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8545")]
    pub rpc: SocketAddr,
    /// Name toward the executors; must differ between gateways. Default: `gateway-` and the port.
    #[arg(long, value_parser = name)]
    pub name: Option<String>,
    /// How transactions are grouped into shards.
    #[arg(long, value_enum, default_value_t = PolicyName::Writes)]
    pub policy: PolicyName,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub tls: TlsArgs,
    /// Serve on other addresses than loopback without TLS.
    #[arg(long)]
    pub insecure: bool,
    /// Serves Prometheus metrics here.
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<SocketAddr>,
}

/// `troika-node follow`.
#[derive(Clone, Debug, Args)]
pub struct FollowArgs {
    /// The executor whose feed to follow.
    #[arg(long, value_name = "URL", value_parser = url)]
    pub from: String,
    /// The shards to ask for, first and last, for instance `0-3`.
    #[arg(long, value_name = "A-B", value_parser = shard_range)]
    pub shards: ShardRange,
    /// First round to print. Default: from now on.
    #[arg(long, value_name = "ROUND", default_value_t = 0)]
    pub from_round: u64,
    /// Stops after this round.
    #[arg(long, value_name = "ROUND")]
    pub to_round: Option<u64>,
    /// Gives up when the feed cannot be reached for this long.
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub patience: Duration,
    /// Prints one JSON object a line.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub tls: TlsArgs,
}

/// `troika-node verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// A file of blocks, as `export` writes it.
    #[arg(
        value_name = "FILE",
        required_unless_present = "from",
        conflicts_with = "from"
    )]
    pub file: Option<PathBuf>,
    /// Executors of the other cluster, separated by commas; together they must have every shard.
    #[arg(long, value_delimiter = ',', value_name = "URLS", value_parser = url)]
    pub from: Vec<String>,
    /// Checks into the store of these members, and not into one of this process.
    #[arg(long, value_delimiter = ',', value_name = "URLS", value_parser = url, conflicts_with_all = ["members", "data", "rpc"])]
    pub store: Vec<String>,
    /// The chain's genesis, as `troikactl init` takes it. Not needed for a development chain, nor for a store that has it.
    #[arg(long, value_name = "FILE")]
    pub genesis: Option<PathBuf>,
    /// Executors of this process, each of every shard.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_EXECUTORS)))]
    pub executors: u32,
    /// Members of this process's store.
    #[arg(long, default_value = "1", value_parser = members)]
    pub members: u32,
    /// Keeps this process's store in this folder across runs.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where JSON-RPC on the checked chain is served.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub rpc: SocketAddr,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub tls: TlsArgs,
    /// Stops after so many blocks were imported.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub blocks: Option<u64>,
    /// Gives up when a feed cannot be reached for this long.
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub patience: Duration,
    /// Prints one JSON object a block, and one for the summary.
    #[arg(long)]
    pub json: bool,
}

/// `troika-node export`.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub store: StoreArgs,
    /// The first block.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub first: u64,
    /// The last block. Default: the head.
    #[arg(long, value_name = "NUMBER")]
    pub last: Option<u64>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub tls: TlsArgs,
    /// The file to write.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// `troika-node genesis`.
#[derive(Clone, Debug, Args)]
pub struct GenesisArgs {
    /// Shards of a block.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SHARDS)))]
    pub shards: u32,
    /// Time that a block collects transactions before what there is is proposed.
    #[arg(long, default_value = "1s", value_parser = block_time)]
    pub block_time: Duration,
}
