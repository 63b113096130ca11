//! `troika-node bench execute`: what shards cost beside plain revm, per block.
//!
//! Two questions. What does everything that is not revm cost (roots, diff, encoding, decoding), measured over the
//! whole block as one shard? And how long is the critical path of a block cut into shards, when every shard has a
//! machine of its own: the slowest shard's time (executing, diff, roots, encoding) plus what is done once for the
//! block (routing, and taking all locks)? Shards are run one after the other on one thread, so that two cores can show
//! what many machines would do.
//!
//! Every time is the least of several runs: what else the machine does can only add to it. Sender recovery is given
//! apart: it is done once per transaction and cluster, before a round begins.

use super::builder::Builder;
use super::cache::recover_all;
use super::evm::{Mode, Runner, evm, tx_env};
use super::groups::{Group, groups_of, least_critical_gas, pack};
use super::header;
use super::mainnet::MainnetBlock;
use super::overlay::Overlay;
use super::rules::block_env;
use super::transaction::Transaction;
use super::view::{MemoryView, Unavailable};
use super::{Rules, sequential};
use alloy_primitives::Bytes;
use prost::Message;
use revm::context::{ContextTr, JournalTr};
use revm::database::CacheDB;
use revm::handler::{EvmTr, Handler};
use revm::{DatabaseCommit, context::result::EVMError};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};
use troika_proto::{LockKey, LockRule, Shard, ShardBody, ordered_root, v1};

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Shards of a block.
    pub shards: u32,
    /// Whether credits lock.
    pub lock_rule: LockRule,
    /// Runs of which the fastest counts.
    pub runs: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shards: 8,
            lock_rule: LockRule::Commuting,
            runs: 5,
        }
    }
}

/// Where the time of one block goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Transactions of the block.
    pub transactions: usize,
    /// Gas of the block, executed sequentially.
    pub gas: u64,
    /// Decoding and recovering all senders, on all cores.
    pub recovery: Duration,
    /// Serial revm: executing and committing, nothing else.
    pub revm: Duration,
    /// Executing the whole block as one shard, with everything that a builder keeps.
    pub executing: Duration,
    /// The net diff.
    pub diff: Duration,
    /// Root of the transactions.
    pub transactions_root: Duration,
    /// Root of the receipts, with their blooms.
    pub receipts_root: Duration,
    /// Root of the diff.
    pub diff_root: Duration,
    /// The shard's message, to bytes.
    pub encoding: Duration,
    /// And back, checked.
    pub decoding: Duration,
    /// Packing known conflict groups into shards.
    pub routing: Duration,
    /// Taking the locks of all shards.
    pub locking: Duration,
    /// The slowest shard: executing, diff, roots, encoding.
    pub slowest_shard: Duration,
    /// Transactions that did not run in their shard, since their inputs stand in another.
    pub left_out: usize,
    /// Gas of all over the least that the busiest shard can have.
    pub parallelism_bound: f64,
}

impl Figures {
    /// The three roots.
    pub fn roots(&self) -> Duration {
        self.transactions_root + self.receipts_root + self.diff_root
    }

    /// What a shard costs beside revm and the roots: bookkeeping, diff, encoding, decoding.
    pub fn everything_else(&self) -> Duration {
        self.executing.saturating_sub(self.revm) + self.diff + self.encoding + self.decoding
    }

    /// What one block takes when every shard has a machine.
    pub fn critical_path(&self) -> Duration {
        self.routing + self.slowest_shard + self.locking
    }

    /// Serial revm over the critical path.
    pub fn speed_up(&self) -> f64 {
        self.revm.as_secs_f64() / self.critical_path().as_secs_f64().max(1e-9)
    }

    /// Adds another block's figures; the bound becomes the mean weighted by gas.
    pub fn add(&mut self, other: &Self) {
        let gas = (self.gas + other.gas).max(1) as f64;
        self.parallelism_bound = (self.parallelism_bound * self.gas as f64
            + other.parallelism_bound * other.gas as f64)
            / gas;
        self.transactions += other.transactions;
        self.gas += other.gas;
        self.left_out += other.left_out;
        self.recovery += other.recovery;
        self.revm += other.revm;
        self.executing += other.executing;
        self.diff += other.diff;
        self.transactions_root += other.transactions_root;
        self.receipts_root += other.receipts_root;
        self.diff_root += other.diff_root;
        self.encoding += other.encoding;
        self.decoding += other.decoding;
        self.routing += other.routing;
        self.locking += other.locking;
        self.slowest_shard += other.slowest_shard;
    }
}

/// Measures one block.
///
/// # Errors
/// [`Unavailable`], if the file lacks something that the block reads.
pub fn execute(block: &MainnetBlock, options: Options) -> Result<Figures, Unavailable> {
    let rules = block.rules(options.lock_rule);
    let view = block.view();
    let run = sequential::run(&rules, &block.environment, &block.transactions, &view)?;
    let groups = groups_of(&run.outcomes);
    let mut best: Option<Figures> = None;
    for _ in 0..options.runs.max(1) {
        let mut now = Figures {
            transactions: block.transactions.len(),
            gas: run.gas_used(),
            ..Figures::default()
        };
        let raw: Vec<Bytes> = block.transactions.iter().map(|t| t.raw.clone()).collect();
        now.recovery = timed(|| recover_all(&raw)).1;
        now.revm = revm_alone(&rules, block, &view)?;
        one_shard(&rules, block, &view, &mut now)?;
        many_shards(&rules, block, &view, &groups, options.shards, &mut now)?;
        best = Some(match best {
            Some(best) => least(&best, &now),
            None => now,
        });
    }
    Ok(best.unwrap_or_default())
}

fn least(a: &Figures, b: &Figures) -> Figures {
    Figures {
        recovery: a.recovery.min(b.recovery),
        revm: a.revm.min(b.revm),
        executing: a.executing.min(b.executing),
        diff: a.diff.min(b.diff),
        transactions_root: a.transactions_root.min(b.transactions_root),
        receipts_root: a.receipts_root.min(b.receipts_root),
        diff_root: a.diff_root.min(b.diff_root),
        encoding: a.encoding.min(b.encoding),
        decoding: a.decoding.min(b.decoding),
        routing: a.routing.min(b.routing),
        locking: a.locking.min(b.locking),
        slowest_shard: a.slowest_shard.min(b.slowest_shard),
        ..*a
    }
}

fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let value = what();
    (value, begun.elapsed())
}

/// revm over its own cache, as anybody would run it: no builder, no diff.
fn revm_alone(
    rules: &Rules,
    block: &MainnetBlock,
    view: &MemoryView,
) -> Result<Duration, Unavailable> {
    let envs: Vec<_> = block.transactions.iter().map(|t| tx_env(t)).collect();
    let parent = Overlay::new(view);
    let database = CacheDB::new(&parent);
    let begun = Instant::now();
    let mut evm = evm(rules.cfg(), block_env(&block.environment), database);
    for env in envs {
        evm.ctx.tx = env;
        let outcome = Runner::new(Mode::Sequential).run(&mut evm);
        let state = evm.ctx.journal_mut().finalize();
        match outcome {
            Ok(_) => evm.ctx().db_mut().commit(state),
            Err(EVMError::Database(unavailable)) => return Err(unavailable),
            Err(_) => {}
        }
    }
    Ok(begun.elapsed())
}

fn one_shard(
    rules: &Rules,
    block: &MainnetBlock,
    view: &MemoryView,
    figures: &mut Figures,
) -> Result<(), Unavailable> {
    let mut builder = Builder::new(rules.clone(), block.environment.clone(), view);
    let all = &block.transactions;
    let (pushed, executing) = timed(|| builder.push_all(all, |_, _| true));
    pushed?;
    figures.executing = executing;
    let (diff, time) = timed(|| builder.diff());
    figures.diff = time;
    let shard = builder.finish(0);
    let body = &shard.body;
    figures.transactions_root = timed(|| ordered_root(&body.transactions)).1;
    figures.diff_root = timed(|| diff.root(rules.lock_rule)).1;
    figures.receipts_root = timed(|| header::receipts(&body.receipts)).1;
    let (bytes, time) = timed(|| encode(&shard));
    figures.encoding = time;
    let (decoded, time) = timed(|| decode(bytes));
    figures.decoding = time;
    debug_assert!(decoded.is_some_and(|decoded| decoded == *body));
    Ok(())
}

fn encode(shard: &Shard) -> Bytes {
    v1::ShardBody::from(&shard.body).encode_to_vec().into()
}

fn decode(bytes: Bytes) -> Option<ShardBody> {
    let wire = v1::ShardBody::decode(bytes::Bytes::from(bytes)).ok()?;
    ShardBody::try_from(&wire).ok()
}

fn many_shards(
    rules: &Rules,
    block: &MainnetBlock,
    view: &MemoryView,
    groups: &[Group],
    shards: u32,
    figures: &mut Figures,
) -> Result<(), Unavailable> {
    let (packed, routing) = timed(|| pack(groups, shards));
    figures.routing = routing;
    let busiest = least_critical_gas(groups, shards).max(1);
    figures.parallelism_bound = figures.gas as f64 / busiest as f64;
    let mut built = Vec::new();
    for (index, members) in (0u32..).zip(&packed) {
        let list: Vec<Arc<Transaction>> = members
            .iter()
            .map(|i| block.transactions[*i].clone())
            .collect();
        let begun = Instant::now();
        let mut builder = Builder::new(rules.clone(), block.environment.clone(), view);
        builder.push_all(&list, |_, _| true)?;
        let shard = builder.finish(index);
        let message = encode(&shard);
        figures.slowest_shard = figures.slowest_shard.max(begun.elapsed());
        figures.left_out += list.len() - builder.len();
        debug_assert!(list.is_empty() || !message.is_empty());
        built.push(shard);
    }
    figures.locking = timed(|| take_locks(&built, rules.lock_rule)).1;
    Ok(())
}

/// What the store does with the diffs: every key to its first holder. Answers how many keys had two.
fn take_locks(shards: &[Shard], rule: LockRule) -> usize {
    let mut holders: BTreeMap<LockKey, u32> = BTreeMap::new();
    let mut conflicts = 0;
    for shard in shards {
        for key in shard.body.diff.lock_keys(rule) {
            match holders.entry(key) {
                Entry::Vacant(free) => {
                    free.insert(shard.header.index);
                }
                Entry::Occupied(_) => conflicts += 1,
            }
        }
    }
    conflicts
}
