//! What the store answers, as checked values.

use std::collections::BTreeMap;
use std::time::Duration;
use troika_proto::{
    B256, ChainConfig, Diff, Environment, Header, LockKey, Shard, ShardBody, ShardHeader, U256, v1,
};

pub use troika_proto::{LockHolder, Refusal, Winner};
pub use v1::RefusalCode;

/// A point in the order of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// Revision of the command that caused it.
    pub revision: u64,
    /// Position among the events of that revision.
    pub ordinal: u32,
}

impl EventId {
    /// After everything that happened up to and including `revision`.
    pub fn end_of(revision: u64) -> Self {
        Self {
            revision,
            ordinal: u32::MAX,
        }
    }
}

/// Making or checking a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundKind {
    /// Making one.
    Build,
    /// Checking somebody else's.
    Verify,
}

/// Where a round stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundStatus {
    /// Shards may be submitted.
    Open,
    /// Its block is final.
    Sealed,
    /// It came to nothing.
    Void(v1::VoidReason),
}

/// A round.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    /// Its number; never used twice.
    pub number: u64,
    /// Making or checking.
    pub kind: RoundKind,
    /// Where it stands.
    pub status: RoundStatus,
    /// Hash of the parent block.
    pub parent: B256,
    /// The header's environment (see `ChainConfig::execution_environment` for what transactions see).
    pub environment: Environment,
    /// Who opened it.
    pub opener: String,
    /// The decided shards.
    pub winners: BTreeMap<u32, Winner>,
    /// SEALED: the block. VERIFY: the block that is checked.
    pub block_hash: Option<B256>,
    /// Why it is void as INVALID.
    pub evidence: Option<v1::Evidence>,
    /// Revision of the opening.
    pub opened_at: u64,
    /// Revision of the closing, 0 while open.
    pub closed_at: u64,
    /// VERIFY: the header that is checked.
    pub header: Option<Header>,
    /// VERIFY: its shard hashes.
    pub shard_hashes: Vec<B256>,
    /// VERIFY: from 1.
    pub attempt: u32,
    /// Keys reserved at the opening.
    pub reserved: Vec<LockHolder>,
    /// Before this long after hearing of the round only a full shard is proposed.
    pub propose_after: Duration,
    /// After this long the round may be sealed.
    pub seal_after: Duration,
    /// Outcomes reported so far that are not the header's or the winner's.
    pub dissent: Vec<v1::BadShard>,
    /// Number of shards.
    pub shards: u32,
}

impl Round {
    /// True while shards may be submitted.
    pub fn is_open(&self) -> bool {
        self.status == RoundStatus::Open
    }
}

/// The answer to an opening.
#[derive(Clone, Debug)]
pub enum Opened {
    /// The round, opened by this call (`true`) or by somebody before.
    Round(Box<Round>, bool),
    /// No round was opened.
    Refused(Refusal),
}

/// The answer to a submission.
#[derive(Clone, Debug)]
pub enum Submitted {
    /// The shard is decided.
    Decided {
        /// Who won.
        winner: Winner,
        /// True if that is this very proposal.
        won: bool,
    },
    /// Other shards hold some of its keys; ascending by key.
    Conflict(Vec<LockHolder>),
    /// Refused for another reason.
    Refused(Refusal),
    /// VERIFY: the outcome differs from the header's and is noted as dissent.
    Noted,
}

/// The answer to a report that an accepted shard comes out differently.
#[derive(Clone, Debug)]
pub enum Reported {
    /// It stands beside the decision.
    Noted,
    /// It does not differ from the winner's, or nobody made that.
    Agrees(Winner),
    /// Refused for another reason.
    Refused(Refusal),
}

/// The answer to taking locks ahead.
#[derive(Clone, Debug)]
pub enum Acquired {
    /// All keys are held.
    All,
    /// None was taken.
    Conflict(Vec<LockHolder>),
    /// The shard is decided.
    Decided(Winner),
    /// Refused for another reason.
    Refused(Refusal),
}

/// The answer to a sealing.
#[derive(Clone, Debug)]
pub enum Seal {
    /// The round is closed now; also where it was before.
    Closed(Box<Round>),
    /// It stays open.
    Refused(Refusal),
}

/// The chain as one member knows it.
#[derive(Clone, Debug)]
pub struct Head {
    /// The chain's rules.
    pub config: ChainConfig,
    /// Hash of block 0.
    pub genesis_hash: B256,
    /// Hash of the head.
    pub hash: B256,
    /// The head's header.
    pub header: Header,
    /// The open BUILD round on the head.
    pub open_round: Option<u64>,
    /// Oldest block number whose state can be read.
    pub oldest_state: u64,
    /// Rounds below this number are forgotten.
    pub pruned_below: u64,
    /// 16 bytes.
    pub cluster_id: Vec<u8>,
    /// Revision of the state that this was read from: watch after [`EventId::end_of`] it to miss nothing.
    pub revision: u64,
}

/// A shard of a sealed block, without its body.
#[derive(Clone, Debug)]
pub struct BlockShard {
    /// Who won it.
    pub winner: Winner,
    /// What its hash covers.
    pub header: ShardHeader,
}

/// A sealed block.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its hash.
    pub hash: B256,
    /// Its header.
    pub header: Header,
    /// The round that made it; 0 for genesis.
    pub round: u64,
    /// In index order; none for genesis.
    pub shards: Vec<BlockShard>,
    /// True if it is the head or an ancestor of the head.
    pub canonical: bool,
}

/// An accepted shard with the parts that were asked for; the others are empty.
#[derive(Clone, Debug)]
pub struct AcceptedShard {
    /// Who won it.
    pub winner: Winner,
    /// What its hash covers.
    pub header: ShardHeader,
    /// What the header covers.
    pub body: ShardBody,
}

impl AcceptedShard {
    /// The whole shard. Only where all parts were asked for.
    pub fn into_shard(self) -> Shard {
        Shard {
            hash: self.winner.shard_hash,
            header: self.header,
            body: self.body,
        }
    }
}

/// What a block changed.
#[derive(Clone, Debug)]
pub struct BlockDiff {
    /// All shards' diffs merged, without the fees.
    pub diff: Diff,
    /// Fees of all shards, in wei, credited to the payees.
    pub fees: U256,
    /// The parent block.
    pub parent: B256,
}

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The block.
    pub block_hash: B256,
    /// Its number.
    pub block_number: u64,
    /// The round that made it.
    pub round: u64,
    /// The shard.
    pub shard: u32,
    /// Index in the shard.
    pub index: u32,
    /// True if the block is the head or an ancestor of it.
    pub canonical: bool,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its place in the order.
    pub id: EventId,
    /// What it was.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // field names are those of `proto/troika/v1/rounds.proto`, which describes them
pub enum EventKind {
    ChainStarted {
        genesis_hash: B256,
    },
    RoundOpened(Box<Round>),
    ShardAccepted {
        round: u64,
        shard: u32,
        winner: Winner,
    },
    RoundSealed {
        round: u64,
        block_hash: B256,
        header: Box<Header>,
        shard_hashes: Vec<B256>,
        head: bool,
    },
    RoundVoided {
        round: u64,
        reason: v1::VoidReason,
        evidence: Option<Box<v1::Evidence>>,
    },
    LocksAcquired {
        round: u64,
        shard: u32,
        keys: Vec<LockKey>,
    },
    Pruned {
        below_round: u64,
    },
    FeatureLevelRaised {
        level: u32,
    },
}
