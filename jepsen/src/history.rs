//! The history: everything that the suite's processes asked, were told, and saw, in one real-time order.
//!
//! One [`Entry`] a line in `history.jsonl`, streamed as it happens. A call is an `invoke` entry and later one completion
//! by the same process: `ok` (the answer is in it), `fail` (provably not carried out) or `info` (unknown: timed out, or
//! the connection broke; the process id is then retired). What arrives without having been asked (watch, feed, states
//! read off data directories, faults) is an `ok` or `info` entry without an invoke.

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};

/// Process id of the nemesis.
pub const NEMESIS: u64 = u64::MAX;

/// Where an entry stands in the life of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The call was sent.
    Invoke,
    /// It was answered, or something was seen.
    Ok,
    /// It was provably not carried out.
    Fail,
    /// Nobody knows.
    Info,
}

/// One line of the history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Position in the history, from 0.
    pub index: u64,
    /// Nanoseconds since the run began.
    pub time: u64,
    /// Who: a client's id, or [`NEMESIS`].
    pub process: u64,
    /// What became of it.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// What, and on an `ok` entry the answer.
    #[serde(flatten)]
    pub op: Op,
    /// Why it is `fail` or `info`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// A lock key as text: `0xADDRESS` or `0xADDRESS/0xSLOT`.
pub type Key = String;

/// What was asked or seen. On `ok` the reply is filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "f", content = "value", rename_all = "kebab-case")]
pub enum Op {
    /// Open a round.
    Open(Open),
    /// Submit a proposal.
    Submit(Submit),
    /// Acquire locks.
    Acquire(Acquire),
    /// Seal a round.
    Seal(Seal),
    /// Give up the check of a block; asked and answered as a seal.
    Void(Seal),
    /// Read a round.
    Get(Get),
    /// A watcher saw an event.
    Watch(Watch),
    /// A peer received something from an executor's feed.
    Feed(Feed),
    /// A member's state hash at a log index.
    StateHash(StateHash),
    /// Forget old rounds.
    Prune(Prune),
    /// A transaction handed to the gateway.
    Transfer(Transfer),
    /// The gateway says that a transaction is in a block.
    Receipt(Receipt),
    /// A block as one member has it, read after the heal.
    Block(BlockSeen),
    /// Money or a counter at one block, counted in two ways.
    Balances(Balances),
    /// The nemesis did something.
    Nemesis(Nemesis),
}

/// Where and when a reply was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The member that answered.
    pub member: u64,
    /// Who led, as far as it knew; 0 if it knew of none.
    #[serde(default)]
    pub leader: u64,
    /// Its term.
    pub term: u64,
    /// Log index of the decision, or the last applied.
    pub log_index: u64,
    /// Revision of the decision, or of the answering member's state.
    pub revision: u64,
}

/// A shard's winner.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Winner {
    /// The shard hash.
    pub hash: B256,
    /// Who made it; empty where the round was sealed with the shard undecided.
    pub executor: String,
    /// The fence.
    pub revision: u64,
}

/// A refused key and its holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The key.
    pub key: Key,
    /// Shard that holds it.
    pub shard: u32,
    /// Fence of the lock.
    pub revision: u64,
}

/// What a decision answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The shard is decided.
    Winner {
        /// By whom.
        winner: Winner,
        /// The caller was told that it is the winner.
        won: bool,
    },
    /// Refused keys.
    Conflict(Vec<Held>),
    /// All keys acquired.
    Acquired,
    /// Refused otherwise; the code's name.
    Refused(String),
}

/// A call to open a round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Open {
    /// The block to be checked; absent where one is to be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checks: Option<B256>,
    /// Reply: the round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<u64>,
    /// Reply: hash of its parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<B256>,
    /// Reply: revision at which it was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_at: Option<u64>,
    /// Reply: where and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Meta>,
}

/// A proposal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Submit {
    /// Round.
    pub round: u64,
    /// Shard index.
    pub shard: u32,
    /// Who submits.
    pub executor: String,
    /// Hash of the proposal.
    pub hash: B256,
    /// Its lock keys, ascending.
    pub keys: Vec<Key>,
    /// Reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Reply: where and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Meta>,
}

/// A call to acquire locks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Acquire {
    /// Round.
    pub round: u64,
    /// Shard index.
    pub shard: u32,
    /// The keys, ascending.
    pub keys: Vec<Key>,
    /// Reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Reply: where and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Meta>,
}

/// A call to close a round: to seal it, or to make it void.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seal {
    /// Round.
    pub round: u64,
    /// Reply: the round as it is now, or why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<RoundSeen>,
    /// Reply: a refusal's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Reply: where and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Meta>,
}

/// A read of a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Get {
    /// Round.
    pub round: u64,
    /// Asked for a linearizable answer.
    pub linearizable: bool,
    /// Reply; absent where the member does not know the round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<RoundSeen>,
    /// Reply: where and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Meta>,
}

/// A round as somebody saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundSeen {
    /// "open", "sealed" or "void".
    pub status: String,
    /// Decided shards, ascending.
    pub winners: Vec<(u32, Winner)>,
    /// Sealed: the block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<B256>,
    /// Revision of its opening.
    pub opened_at: u64,
    /// Revision of its sealing, or 0.
    pub closed_at: u64,
}

/// An event at a watcher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// Which watcher: its position survives reconnects.
    pub watcher: u64,
    /// Member that sent it.
    pub member: u64,
    /// Revision and ordinal.
    pub id: (u64, u32),
    /// What it said.
    pub event: WatchEvent,
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WatchEvent {
    /// A round was opened.
    Opened {
        /// Round.
        round: u64,
    },
    /// A shard was decided.
    Accepted {
        /// Round.
        round: u64,
        /// Shard.
        shard: u32,
        /// By whom.
        winner: Winner,
    },
    /// A round was sealed.
    Sealed {
        /// Round.
        round: u64,
        /// The block.
        block: B256,
        /// Every shard's hash, in index order.
        shards: Vec<B256>,
        /// Gas that its transactions used: 0 for an empty block.
        #[serde(default)]
        gas: u64,
    },
    /// A round became void.
    Voided {
        /// Round.
        round: u64,
    },
    /// All events up to the entry's id have been sent: nothing else happened there.
    Progress,
    /// Another kind of event.
    Other(String),
}

/// Something on an executor's feed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feed {
    /// The executor.
    pub executor: String,
    /// How often it has been started, from 0.
    pub life: u32,
    /// Round.
    pub round: u64,
    /// A shard and its hash, recomputed from what was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<(u32, B256)>,
    /// A block and the hashes of its shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<(B256, Vec<B256>)>,
    /// "Everything from the first of these rounds to the second has been sent".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete: Option<(u64, u64)>,
}

/// A member's state hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateHash {
    /// Member.
    pub member: u64,
    /// Log index that the state is at.
    pub log_index: u64,
    /// Its hash.
    pub hash: B256,
    /// True if it was computed from the data directory of a member that had been stopped.
    #[serde(default)]
    pub from_disk: bool,
    /// Where and when, if the member was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Meta>,
}

/// A call to forget old rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prune {
    /// Rounds below this number.
    pub below: u64,
    /// Reply: rounds below this number are forgotten now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruned_below: Option<u64>,
}

/// A transaction handed to the gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    /// Transaction hash.
    pub tx: B256,
    /// Number of the account that pays.
    pub sender: u32,
    /// Its nonce.
    pub nonce: u64,
}

/// The gateway said that a transaction is in a block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Transaction hash.
    pub tx: B256,
    /// Number of the block.
    pub block: u64,
    /// Its hash.
    pub hash: B256,
}

/// A block as one member has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockSeen {
    /// The member.
    pub member: u64,
    /// Block number.
    pub number: u64,
    /// Block hash.
    pub hash: B256,
    /// Its parent's.
    pub parent: B256,
    /// The round that made it.
    pub round: u64,
    /// Every shard's hash, in index order.
    pub shards: Vec<B256>,
    /// Hashes of its transactions, in block order, where they were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transactions: Option<Vec<B256>>,
}

/// Something that can be counted in two ways, at one block: all money of a closed set of accounts, or a counter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Balances {
    /// "money" and "diff" (decimal wei) or "counter" (calls).
    pub what: String,
    /// Block number.
    pub block: u64,
    /// What is there.
    pub total: String,
    /// What must be there: the money of the start less the burned base fees; what others lost; the calls that are included.
    pub expected: String,
}

/// Something that the nemesis did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Nemesis {
    /// The fault's name.
    pub fault: String,
    /// "install" or "lift".
    pub action: String,
    /// "installed", "lifted", "skipped" or "failed".
    pub result: String,
    /// What exactly, for people.
    pub detail: String,
    /// The processes that it struck: `member-1`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    /// When it was begun, nanoseconds since the run began: what takes long is noted when it is done. 0: not told.
    #[serde(default)]
    pub since: u64,
    /// On lifting: what it was seen to do, counted where it happens: "starts" of processes, packets "dropped" and "held"
    /// back, processes that "stood" still, system calls that were "injected", members with a wrong "clock".
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub effects: BTreeMap<String, u64>,
}

/// Reads `history.jsonl`.
///
/// # Errors
/// An unreadable line, with its number. A torn last line (the run was killed) is left out.
pub fn read(input: impl BufRead) -> anyhow::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut torn: Option<anyhow::Error> = None;
    for (number, line) in input.lines().enumerate() {
        if let Some(error) = torn {
            return Err(error);
        }
        match serde_json::from_str(&line?) {
            Ok(entry) => entries.push(entry),
            Err(e) => torn = Some(anyhow::anyhow!("line {}: {e}", number + 1)),
        }
    }
    Ok(entries)
}

/// Writes an entry as a line of `history.jsonl`.
///
/// # Errors
/// What the writer says.
pub fn write(entry: &Entry, out: &mut impl Write) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, entry)?;
    out.write_all(b"\n")
}
