//! The command line: what can be typed.

use super::parse::{
    BalanceChange, BlockRef, CodeChange, NonceChange, Reserve, ShardRange, SlotWrite, balance,
    block_ref, cluster_id, code_change, duration, event_id, hash, hex_bytes, key, nonce_change,
    reserve, shard_range, slot_write,
};
use alloy_primitives::{Address, B256, Bytes, U256};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;
use troika_proto::{LockKey, v1};

/// The command line client of a Troika store.
///
/// Exit codes: 0 done (a submission won), 1 the store answered no (lost, conflict, refused, not found), 2 wrong usage,
/// 3 unavailable, 4 out of time (outcome unknown, safe to repeat), 5 not allowed, 6 a limit was reached, 7 other errors.
#[derive(Debug, Parser)]
#[command(name = "troikactl", version, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub(super) struct Global {
    /// Members to talk to; each is tried in turn
    #[arg(
        long,
        global = true,
        env = "TROIKA_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:7001",
        value_name = "URLS"
    )]
    pub(super) endpoints: Vec<String>,
    /// How long a command may take, for instance 500ms, 10s or 2m
    #[arg(long, global = true, env = "TROIKA_TIMEOUT", default_value = "10s", value_parser = duration)]
    pub(super) timeout: Duration,
    /// How answers are printed
    #[arg(short, long, global = true, env = "TROIKA_OUTPUT", value_enum, default_value_t = Format::Table)]
    pub(super) output: Format,
    /// Trust members whose certificate was signed by this one (PEM)
    #[arg(long, global = true, env = "TROIKA_CACERT", value_name = "FILE")]
    pub(super) cacert: Option<PathBuf>,
    /// This client's certificate (PEM)
    #[arg(
        long,
        global = true,
        env = "TROIKA_CERT",
        value_name = "FILE",
        requires = "key"
    )]
    pub(super) cert: Option<PathBuf>,
    /// The key of this client's certificate (PEM)
    #[arg(
        long,
        global = true,
        env = "TROIKA_KEY",
        value_name = "FILE",
        requires = "cert"
    )]
    pub(super) key: Option<PathBuf>,
    /// Refuse to talk to any cluster but this one (16 bytes in hex)
    #[arg(long, global = true, env = "TROIKA_CLUSTER", value_parser = cluster_id, value_name = "HEX")]
    pub(super) cluster: Option<Bytes>,
    /// Answer only from a state at or after this revision (read your writes)
    #[arg(long, global = true, default_value_t = 0, value_name = "REVISION")]
    pub(super) min_revision: u64,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Table,
    /// For scripts.
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show how every endpoint sees itself and the cluster
    Status,
    /// Ask every endpoint whether it is up and ready; exit code 0 if all are
    Health {
        /// Wait until all are, bounded by --timeout
        #[arg(long)]
        wait: bool,
    },
    /// List, add, promote and remove members
    Member {
        #[command(subcommand)]
        command: MemberCommand,
    },
    /// Move leadership
    Leader {
        #[command(subcommand)]
        command: LeaderCommand,
    },
    /// Start the chain from a genesis file (JSON); repeating it is harmless
    Init {
        /// The genesis, see docs/examples/genesis.json
        #[arg(value_name = "GENESIS.json")]
        genesis: PathBuf,
    },
    /// Open, show, list, seal and void rounds
    Round {
        #[command(subcommand)]
        command: RoundCommand,
    },
    /// Submit a proposal for a shard; exit code 0 if it won
    Submit(SubmitArgs),
    /// Take and list locks
    Lock {
        #[command(subcommand)]
        command: LockCommand,
    },
    /// Show the chain's config and its head
    Head {
        /// Ask the quorum first
        #[arg(long)]
        linearizable: bool,
    },
    /// Show a block
    Block {
        /// A block number, a block hash, or "head"
        #[arg(value_parser = block_ref, value_name = "NUMBER|HASH|head")]
        block: BlockRef,
    },
    /// Show an accepted shard
    Shard(ShardArgs),
    /// Read the chain's state
    State {
        #[command(subcommand)]
        command: StateCommand,
    },
    /// Find a transaction by its hash
    Find {
        /// The transaction's hash
        #[arg(value_parser = hash, value_name = "TXHASH")]
        hash: B256,
    },
    /// Print everything that happens, as it happens
    Watch(WatchArgs),
    /// Write a consistent copy of a member's state to a file
    Backup {
        /// Where to; must not exist
        file: PathBuf,
    },
    /// Forget rounds below a number
    Prune {
        /// The first round to keep
        #[arg(long, value_name = "ROUND")]
        below: u64,
    },
    /// Measure a cluster
    Bench {
        #[command(subcommand)]
        command: BenchCommand,
    },
    /// Make certificates for trials: an authority, members, and one client of each role
    Certs(CertsArgs),
    /// Print completions for a shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Clone, Debug, Args)]
pub(super) struct CertsArgs {
    /// Where to; what is there already is kept
    #[arg(value_name = "DIR")]
    pub(super) directory: PathBuf,
    /// Members to certify: member-1 to this one
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(super) members: u64,
    /// Host names and addresses under which members and executors are reached
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "localhost,127.0.0.1,::1",
        value_name = "HOSTS"
    )]
    pub(super) hosts: Vec<String>,
    /// Days until they end
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(super) days: u32,
}

#[derive(Debug, Subcommand)]
pub(super) enum MemberCommand {
    /// List the members
    List {
        /// Ask the quorum first
        #[arg(long)]
        linearizable: bool,
    },
    /// Add a member without a vote; its id must never have been used
    Add {
        /// The new member's id
        id: u64,
        /// Where members reach it, HOST:PORT
        #[arg(long)]
        peer: String,
        /// Where clients reach it, HOST:PORT
        #[arg(long)]
        client: String,
    },
    /// Give a member a vote
    Promote {
        /// The member's id
        id: u64,
    },
    /// Take a member out for ever
    Remove {
        /// The member's id
        id: u64,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum LeaderCommand {
    /// Hand leadership to a member, or to whoever is most up to date
    Transfer {
        /// The member's id
        to: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum RoundCommand {
    /// Open a round on the head; the second opener gets the first's round
    Open {
        /// Who opens
        #[arg(long, default_value = "troikactl")]
        opener: String,
        /// Parent block: must be the head
        #[arg(long, value_parser = hash)]
        parent: Option<B256>,
        /// Reserve a lock key for a shard: KEY@SHARD, a key being ADDRESS or ADDRESS/SLOT
        #[arg(long, value_parser = reserve, value_name = "KEY@SHARD")]
        reserve: Vec<Reserve>,
        /// Check this block instead of making one (JSON, as `troikactl -o json block` prints it)
        #[arg(long, value_name = "BLOCK.json", conflicts_with_all = ["parent", "reserve"])]
        verify: Option<PathBuf>,
    },
    /// Show a round with its winners
    Get {
        /// The round's number
        round: u64,
        /// Ask the quorum first
        #[arg(long)]
        linearizable: bool,
    },
    /// List rounds
    List {
        /// First round number
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// How many at most
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Only open ones
        #[arg(long)]
        open: bool,
    },
    /// Seal a round, filling undecided shards with the empty one
    Seal {
        /// The round's number
        round: u64,
        /// If it is too early, wait for the round's seal time (bounded by --timeout)
        #[arg(long)]
        wait: bool,
    },
    /// Give up a VERIFY round
    Void {
        /// The round's number
        round: u64,
        /// Why
        #[arg(long, value_enum, default_value_t = GiveUp::Abandoned)]
        reason: GiveUp,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum GiveUp {
    /// Not all shards could be checked
    Unavailable,
    /// Given up by hand
    Abandoned,
}

#[derive(Debug, Args)]
pub(super) struct SubmitArgs {
    /// The round's number
    #[arg(long)]
    pub(super) round: u64,
    /// The shard's index
    #[arg(long)]
    pub(super) shard: u32,
    /// Who submits
    #[arg(long)]
    pub(super) executor: String,
    /// Set a storage slot: ADDRESS/SLOT=VALUE
    #[arg(long, value_parser = slot_write, value_name = "ADDRESS/SLOT=VALUE")]
    pub(super) write: Vec<SlotWrite>,
    /// Change a balance: ADDRESS=+WEI or ADDRESS=-WEI
    #[arg(long, value_parser = balance, value_name = "ADDRESS=+WEI", allow_hyphen_values = true)]
    pub(super) balance: Vec<BalanceChange>,
    /// Set a nonce: ADDRESS=NONCE
    #[arg(long, value_parser = nonce_change, value_name = "ADDRESS=NONCE")]
    pub(super) nonce: Vec<NonceChange>,
    /// Set code: ADDRESS=HEX
    #[arg(long, value_parser = code_change, value_name = "ADDRESS=HEX")]
    pub(super) code: Vec<CodeChange>,
    /// A transaction's bytes; the store does not decode them. Without any, one is made up
    #[arg(long, value_parser = hex_bytes, value_name = "HEX")]
    pub(super) tx: Vec<Bytes>,
    /// Gas used by each transaction
    #[arg(long, default_value_t = 21_000)]
    pub(super) gas: u64,
    /// Priority fees of the shard, wei
    #[arg(long, value_parser = super::parse::number, default_value = "0")]
    pub(super) fees: U256,
    /// Whose balance pays the fees and the burned base fee
    #[arg(long, value_parser = super::parse::address, value_name = "ADDRESS")]
    pub(super) payer: Option<Address>,
    /// Read the proposal from a JSON file instead, see docs/examples/proposal.json
    #[arg(long, conflicts_with_all = ["write", "balance", "nonce", "code", "tx", "fees", "payer"], value_name = "PROPOSAL.json")]
    pub(super) file: Option<PathBuf>,
    /// VERIFY: report that the shard cannot be executed, and why
    #[arg(long, conflicts_with_all = ["file", "write", "balance", "nonce", "code", "tx"], value_name = "REASON")]
    pub(super) failure: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum LockCommand {
    /// Take locks for a shard, all or nothing; exit code 0 if they were taken
    Acquire {
        /// The round's number
        #[arg(long)]
        round: u64,
        /// The shard's index
        #[arg(long)]
        shard: u32,
        /// Lock keys: ADDRESS, or ADDRESS/SLOT
        #[arg(required = true, value_parser = key, value_name = "KEY")]
        keys: Vec<LockKey>,
    },
    /// List the locks held in an open round
    List {
        /// The round's number
        round: u64,
        /// How many at most
        #[arg(long, default_value_t = 1_000)]
        limit: u32,
        /// Continue after this key
        #[arg(long, value_parser = key, value_name = "KEY")]
        after: Option<LockKey>,
        /// Ask the quorum first
        #[arg(long)]
        linearizable: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct ShardArgs {
    /// The round's number
    pub(super) round: u64,
    /// The shard's index
    pub(super) shard: u32,
    /// With its transactions
    #[arg(long)]
    pub(super) transactions: bool,
    /// With its receipts
    #[arg(long)]
    pub(super) receipts: bool,
    /// With its diff
    #[arg(long)]
    pub(super) diff: bool,
    /// With everything
    #[arg(long)]
    pub(super) all: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum StateCommand {
    /// Read accounts and slots at a block
    Get {
        /// ADDRESS, or ADDRESS/SLOT
        #[arg(required_unless_present = "code", value_parser = key, value_name = "KEY")]
        keys: Vec<LockKey>,
        /// Block hash; the head without it
        #[arg(long, value_parser = hash)]
        block: Option<B256>,
        /// Also fetch the code of this hash
        #[arg(long, value_parser = hash, value_name = "HASH")]
        code: Vec<B256>,
        /// Ask the quorum first
        #[arg(long)]
        linearizable: bool,
    },
    /// Show everything that a block changed
    Diff {
        /// Block hash
        #[arg(value_parser = hash, value_name = "HASH")]
        block: B256,
    },
}

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// Resume after this event: REVISION or REVISION.ORDINAL; 0 for everything that is kept
    #[arg(long, value_parser = event_id, value_name = "REVISION[.ORDINAL]")]
    pub(super) after: Option<v1::EventId>,
    /// Only shard events of these shards: A-B
    #[arg(long, value_parser = shard_range, conflicts_with = "no_shards", value_name = "A-B")]
    pub(super) shards: Option<ShardRange>,
    /// No shard events
    #[arg(long)]
    pub(super) no_shards: bool,
    /// Stop after this many events
    #[arg(long, value_name = "N")]
    pub(super) count: Option<u64>,
    /// Stop when this round is sealed or void
    #[arg(long, value_name = "ROUND")]
    pub(super) until_closed: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Race for shards: R submissions for every slot, one winner each
    Race(RaceArgs),
    /// Take locks, contended and not
    Locks(LoadArgs),
    /// Read: linearizable, and at a block
    Read(LoadArgs),
}

#[derive(Clone, Debug, Args)]
pub(super) struct RaceArgs {
    /// Clients, each with its own connection, spread over the endpoints
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) clients: u32,
    /// Slots to decide: (round, shard) pairs
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) slots: u64,
    /// Bytes of transactions in each proposal
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(24..=8_388_608))]
    pub(super) bytes: u32,
    /// Different proposals for each slot
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) racers: u32,
    /// Submit on one stream per client instead of one call per submission
    #[arg(long)]
    pub(super) stream: bool,
    /// Submissions outstanding per client
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) window: u32,
    /// Shards of the chain that is started
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub(super) shards: u32,
    /// Slots decided before the clock starts [default: a tenth of --slots, at most --shards]
    #[arg(long)]
    pub(super) warmup: Option<u64>,
    /// Forget rounds that are this many behind the newest; 0 forgets none
    #[arg(long, default_value_t = 0, value_name = "ROUNDS")]
    pub(super) prune_behind: u64,
    /// Print one line of JSON instead of a table (the same as -o json)
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(super) struct LoadArgs {
    /// Clients, each with its own connection, spread over the endpoints
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) clients: u32,
    /// Operations
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) operations: u64,
    /// Keys in each operation
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) keys: u32,
    /// Operations outstanding per client
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) window: u32,
    /// Shards of the chain that is started
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(2..=16_384))]
    pub(super) shards: u32,
    /// Print one line of JSON per measurement instead of a table (the same as -o json)
    #[arg(long)]
    pub(super) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
