//! The command line. Jepsen's flag names where it has them.

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// A Jepsen-style fault suite for Troika.
#[derive(Debug, Parser)]
#[command(name = "troika-jepsen", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// One run: start a cluster, load it, break it, check what was seen.
    Test(TestArgs),
    /// Many runs: every workload with every fault, or `--swarm N` random mixtures.
    TestAll(TestAllArgs),
    /// Checks a stored history again, without running anything.
    Analyze {
        /// The run's folder.
        dir: PathBuf,
    },
    /// Writes a stored history in another form.
    Export {
        /// The run's folder.
        dir: PathBuf,
        /// Jepsen's own form (the default).
        #[arg(long, conflicts_with = "jsonl")]
        edn: bool,
        /// One JSON object a line.
        #[arg(long)]
        jsonl: bool,
        /// Every shard as a register that is set once, for Knossos, Porcupine and the like.
        #[arg(long, conflicts_with_all = ["edn", "jsonl"])]
        registers: bool,
    },
    /// Serves the reports under a folder as web pages on loopback.
    Serve {
        /// Where the runs are.
        #[arg(long, default_value = "runs")]
        out: PathBuf,
        /// Port on 127.0.0.1.
        #[arg(long, default_value_t = 8080)]
        port: u16,
    },
    /// Shows the schedule of operations and faults that a seed stands for, without running anything.
    Plan {
        /// The run.
        #[command(flatten)]
        test: TestArgs,
        /// Operations of every client that are shown.
        #[arg(long, default_value_t = 5)]
        operations: u64,
    },
    /// Runs wrong systems, one mistake each, until the suite catches them.
    Mutants(MutantsArgs),
    /// Says what this machine can do, and what will be skipped and why.
    Doctor,
    /// Tests the checkers themselves on histories whose truth is known.
    SelfTest {
        /// How many clean histories.
        #[arg(long, default_value_t = 10_000)]
        histories: u64,
        /// Operations of the one large history: calls, each with its completion.
        #[arg(long, default_value_t = 1_000_000)]
        large: usize,
        /// Fails where checking the large history takes more seconds than this.
        #[arg(long)]
        limit: Option<f64>,
    },
}

/// `troika-jepsen test`.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
pub struct TestArgs {
    /// What the clients do.
    #[arg(long, value_enum, default_value_t = Workload::Race)]
    pub workload: Workload,
    /// Faults, separated by commas; `none` for none.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "none")]
    pub nemesis: Vec<Fault>,
    /// How long the load runs, for instance `60s`.
    #[arg(long, default_value = "60s", value_parser = seconds)]
    pub time_limit: Duration,
    /// Concurrent clients.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub concurrency: u32,
    /// Calls a second, over all clients.
    #[arg(long, default_value_t = 400.0)]
    pub rate: f64,
    /// Members of the store.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=5))]
    pub members: u32,
    /// Executors (workloads `broadcast` and `transfer`).
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=5))]
    pub executors: u32,
    /// Shards of a block.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub shards: u32,
    /// Decides the schedule of operations and faults. Printed by every run.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Where runs are written.
    #[arg(long, default_value = "runs")]
    pub out: PathBuf,
    /// Folder of `troika-store` and `troika-node`; the one of this program if not given.
    #[arg(long, env = "TROIKA_BIN")]
    pub bin: Option<PathBuf>,
    /// Seconds within which the system must make progress once the last fault is lifted.
    #[arg(long, default_value_t = 20)]
    pub recovery: u64,
    /// A mistake that the binaries under test were built to make (`troika-store mutants` lists them).
    #[arg(long)]
    pub mutant: Option<String>,
}

/// `troika-jepsen test-all`.
#[derive(Clone, Debug, Args)]
pub struct TestAllArgs {
    /// Settings of every run; workload and nemesis are the matrix's.
    #[command(flatten)]
    pub test: TestArgs,
    /// Instead of the matrix: this many runs, each a random subset of faults and sizes from its seed.
    #[arg(long)]
    pub swarm: Option<u32>,
    /// Instead of the matrix: a few short runs that show that the suite works here, about two minutes.
    #[arg(long, conflicts_with = "swarm")]
    pub smoke: bool,
}

/// `troika-jepsen mutants`.
#[derive(Clone, Debug, Args)]
pub struct MutantsArgs {
    /// Folder of `troika-store` and `troika-node` built with their mistakes (`--features mutants --profile checked`).
    #[arg(long, env = "TROIKA_MUTANT_BIN")]
    pub bin: PathBuf,
    /// Only these, separated by commas.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Runs of each at most, each with another seed, until it is caught.
    #[arg(long, default_value_t = 5)]
    pub tries: u64,
    /// How often each must be caught, for the median.
    #[arg(long, default_value_t = 1)]
    pub repeat: u64,
    /// Where runs are written.
    #[arg(long, default_value = "runs")]
    pub out: PathBuf,
    /// First seed.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Clients submit different proposals for the same shards; retries, reads, seals, watches.
    Race,
    /// Overlapping key sets: acquire, conflict, release by acceptance.
    Locks,
    /// Linearizable reads on every member while shards are decided.
    Read,
    /// Most submissions are sent again, under their own and other names, to other members.
    Retry,
    /// Nine watchers that hop between members every moment, resuming where they were.
    Watch,
    /// Old rounds are forgotten, and logs kept short, so that members that were away come back by a snapshot.
    Prune,
    /// Real executors race with real transactions; peers follow every feed.
    Broadcast,
    /// Transfers through the gateway: money is conserved, what is included stays, once.
    Transfer,
}

impl Workload {
    /// Every workload.
    pub const ALL: [Self; 8] = [
        Self::Race,
        Self::Locks,
        Self::Read,
        Self::Retry,
        Self::Watch,
        Self::Prune,
        Self::Broadcast,
        Self::Transfer,
    ];

    /// The name on the command line and in reports.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |v| v.get_name().to_owned())
    }

    /// True if executors and a gateway run.
    pub fn is_real(self) -> bool {
        matches!(self, Self::Broadcast | Self::Transfer)
    }
}

/// A fault that the nemesis can bring about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Nothing.
    None,
    /// SIGKILL to a minority of members, then a restart.
    Kill,
    /// SIGKILL to the leader.
    KillLeader,
    /// SIGKILL to all members at once.
    KillAll,
    /// A member's file system stops without flushing and the member is killed: what was not on disk is gone.
    PowerCut,
    /// The same for all members at once.
    PowerCutAll,
    /// SIGSTOP, then SIGCONT.
    Pause,
    /// One member is cut off.
    PartitionOne,
    /// The leader is cut off.
    PartitionLeader,
    /// A majority and a minority.
    PartitionMajority,
    /// Every member sees only its neighbours (five members).
    PartitionRing,
    /// Two halves that only one member in the middle sees (five members).
    PartitionBridge,
    /// Messages from one member are lost, those to it arrive.
    PartitionOneWay,
    /// A share of all packets is lost.
    Loss,
    /// Packets between members arrive late.
    Delay,
    /// SIGTERM and restart, one member after the other.
    RollingRestart,
    /// A member's wall clock jumps (needs faketime).
    Clock,
    /// A member's disk is full for a while (strace injects ENOSPC).
    DiskFull,
    /// fsync takes 200 ms (strace).
    SlowDisk,
    /// fsync fails with EIO (strace); the member must exit and is restarted.
    DiskError,
    /// Bits flip in a file of a stopped member. It counts as failed and comes back under a new id.
    BitFlip,
    /// A file of a stopped member loses its end. As `bit-flip`.
    Truncate,
    /// A member loses its data and comes back under its old id: refused. It is replaced under a new one.
    Wipe,
    /// A member is added, given a vote, and an old one removed.
    Membership,
    /// SIGKILL to some executors, never all, then a restart.
    KillExecutor,
    /// SIGKILL to all executors.
    KillExecutors,
    /// SIGSTOP to some executors.
    PauseExecutor,
    /// SIGKILL to the gateway.
    KillGateway,
    /// Some executors do not reach the store.
    ExecutorsFromStore,
    /// The gateway does not reach some executors.
    GatewayFromExecutors,
    /// Several of the others at the same time.
    AllAtOnce,
}

impl Fault {
    /// The name on the command line and in reports.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |v| v.get_name().to_owned())
    }

    /// True if it cuts, loses or delays messages, which needs network namespaces.
    pub fn needs_namespaces(self) -> bool {
        matches!(
            self,
            Self::PartitionOne
                | Self::PartitionLeader
                | Self::PartitionMajority
                | Self::PartitionRing
                | Self::PartitionBridge
                | Self::PartitionOneWay
                | Self::Loss
                | Self::Delay
                | Self::ExecutorsFromStore
                | Self::GatewayFromExecutors
        )
    }

    /// True if it strikes executors or the gateway, which only some workloads have.
    pub fn needs_executors(self) -> bool {
        matches!(
            self,
            Self::KillExecutor
                | Self::KillExecutors
                | Self::PauseExecutor
                | Self::KillGateway
                | Self::ExecutorsFromStore
                | Self::GatewayFromExecutors
        )
    }

    /// True if it takes a member away for good, so that another joins under a new id.
    pub fn replaces(self) -> bool {
        matches!(
            self,
            Self::BitFlip | Self::Truncate | Self::Wipe | Self::Membership
        )
    }

    /// True if members need a file system of their own.
    pub fn cuts_power(self) -> bool {
        matches!(self, Self::PowerCut | Self::PowerCutAll)
    }

    /// True if it can be in force together with others.
    pub fn combines(self) -> bool {
        !matches!(
            self,
            Self::None
                | Self::RollingRestart
                | Self::Membership
                | Self::BitFlip
                | Self::Truncate
                | Self::Wipe
                | Self::DiskError
                | Self::PowerCut
                | Self::PowerCutAll
                | Self::AllAtOnce
        )
    }
}

/// A duration in seconds, with or without the unit.
fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    match number.parse::<u64>() {
        Ok(n @ 1..=86_400) => Ok(Duration::from_secs(n)),
        _ => Err("expected 1s to 86400s".to_owned()),
    }
}
