//! Every wait, size and retry of an executor, with its unit.

use std::time::Duration;

/// Default bound of the state cache, bytes.
pub const CACHE_BYTES: usize = 256 * 1024 * 1024;
/// Default bound of the pending pool, bytes.
pub const POOL_BYTES: usize = 256 * 1024 * 1024;
/// Bound of the shards that the feed keeps in memory for its subscribers, bytes.
pub const FEED_CACHE_BYTES: usize = 64 * 1024 * 1024;
/// Rounds whose outline the feed keeps in memory; older ones are read from the store.
pub const FEED_ROUNDS: usize = 256;
/// Most subscribers of a feed at a time.
pub const FEED_SUBSCRIBERS: usize = 256;
/// Items that wait for a subscriber's connection; a slower one is served from the store later on.
pub const FEED_BUFFER_ITEMS: usize = 8;
/// Shards that a subscriber's task reads from the store at a time.
pub const FEED_READS: usize = 4;
/// A feed that has nothing to say gives a sign of life this often.
pub const FEED_KEEPALIVE: Duration = Duration::from_secs(1);

/// Most gateways connected at a time.
pub const GATEWAYS: usize = 64;
/// Silence of a gateway after which it may have taken what this executor has not heard of: a few of its signs of life.
pub const GATEWAY_SILENCE: Duration = Duration::from_secs(1);
/// Silence of a gateway after which its stream is ended. Until its snapshot is complete nothing is proposed, so that a
/// gateway which hangs must not count for longer.
pub const GATEWAY_LOST: Duration = Duration::from_secs(3);
/// A silent connection is asked for a sign of life this often, and ended without one after as long again.
pub const PING: Duration = Duration::from_secs(20);
/// Refusals that wait for a gateway's connection; what exceeds them is dropped, the gateway hears of the next refusal.
pub const REFUSALS_BUFFER: usize = 4_096;
/// An executor that had no room for transactions looks this often whether there is room again.
pub const ROOM_PAUSE: Duration = Duration::from_millis(500);
/// The pending set of a gateway that went away is kept this long for its return.
pub const GATEWAY_GRACE: Duration = Duration::from_secs(30);
/// Bound of the transactions that are kept after they left the pending pool, for second executions, bytes.
pub const RECENT_BYTES: usize = 64 * 1024 * 1024;
/// Most transactions of one sender that are kept.
pub const SENDER_TRANSACTIONS: usize = 4_096;

/// Executors spread their first moves over this long, so that not all of them do the same work at once.
pub const OPEN_SPREAD: Duration = Duration::from_millis(2);
/// As [`OPEN_SPREAD`], for the order in which shards are proposed.
pub const PROPOSE_SPREAD: Duration = Duration::from_millis(6);
/// The spread of a proposal grows by this for every transaction in it: so much work is saved where a winner is heard.
pub const PROPOSE_SPREAD_PER_TRANSACTION: Duration = Duration::from_micros(20);
/// Most that the spread of a proposal grows to.
pub const PROPOSE_SPREAD_MAX: Duration = Duration::from_millis(40);
/// Sealing is spread over this long after `seal_after`.
pub const SEAL_SPREAD: Duration = Duration::from_millis(40);
/// First pause after a refused or failed opening, proposal or sealing; doubles up to [`RETRY_MAX`].
pub const RETRY_MIN: Duration = Duration::from_millis(20);
/// Longest such pause.
pub const RETRY_MAX: Duration = Duration::from_secs(1);
/// While a round is open, new transactions are appended at most this often.
pub const APPEND_INTERVAL: Duration = Duration::from_millis(20);
/// A proposal that conflicts is made again at most this often (or once a shard, where that is more); then the shard is
/// proposed empty, which conflicts with nothing.
pub const CONFLICT_TRIES: usize = 8;
/// Pending gas that is taken at a time, in shard gas limits.
pub const SELECT_SHARDS_OF_GAS: u64 = 2;
/// Transactions that do not fit are skipped this often before the shard counts as full.
pub const FULL_SKIPS: usize = 8;
/// Longest that one shard is filled before another one of the executor gets the thread.
pub const APPEND_SLICE: Duration = Duration::from_millis(50);
/// A shard that is not full is filled until this share (1 / it) of the time from `propose_after` to `seal_after` is over.
pub const FILL_SHARE: u32 = 2;

/// Accepted shards of a round that are read at a time while it runs.
pub const STAGE_READS: usize = 4;
/// Longest that they are waited for once the block is sealed; then what the block changed is read as a whole.
pub const STAGE_WAIT: Duration = Duration::from_secs(1);
/// Transactions that are executed ahead to learn what state they will ask for.
pub const SEEK_TRANSACTIONS: usize = 2_048;
/// So many of them are looked at first, and the others if at least one in [`SEEK_COLD_SHARE`] of these missed something.
pub const SEEK_FIRST: usize = 32;
/// See [`SEEK_FIRST`].
pub const SEEK_COLD_SHARE: usize = 32;
/// Most such looks ahead in one go over a shard, before what is missing is read one by one.
pub const SEEK_TURNS: usize = 4;
/// Most passes over them that do not wait for what they miss.
pub const SEEK_PROBES: usize = 16;
/// Fewer transactions than these are worth no pass, and no thread, of their own.
pub const SEEK_FEW: usize = 4;
/// Most reads that are waited for after that: a single transaction can make thousands, one after the other.
pub const SEEK_READS: u64 = 512;
/// Threads that wait for what single transactions miss.
pub const SEEK_THREADS: usize = 32;
/// Bytes that a read of the state may bring of what was not asked for, for each key that was: an executor that asks for much
/// knows little.
pub const AHEAD_BYTES_PER_KEY: usize = 16 * 1024;
/// Most such bytes.
pub const AHEAD_BYTES: usize = 4 * 1024 * 1024;
/// Slots of storages that a view of one block knows to be whole.
pub const WHOLE_SLOTS: usize = 65_536;
/// Words of a call's arguments that are looked at for addresses.
pub const NAMED_WORDS: usize = 64;
/// Most reads for state that only shows when a shard is executed again after a conflict.
pub const CONFLICT_READS: usize = 6;
/// Blocks whose old values are kept, so that the parent's state stays readable while the next round runs.
pub const UNDO_BLOCKS: usize = 8;
/// Parts of the cache, each under its own lock.
pub const CACHE_PARTS: usize = 64;

/// Most aged transactions whose keys are reserved in one round.
pub const AGED_TRANSACTIONS: usize = 64;
/// Most keys of one transaction that are reserved.
pub const AGED_KEYS: usize = 64;
/// Longest that an opening with reservations waits until what the parent included has left the pool.
pub const FOLLOW_WAIT: Duration = Duration::from_millis(50);

/// Lost shards that wait for their second execution; what exceeds them is skipped.
pub const SECOND_EXECUTIONS: usize = 64;
/// Divergence alarms that wait to be reported to the store; what exceeds them stays in the log and in the executor.
pub const REPORTS: usize = 64;
/// Divergence alarms that are kept for tools.
pub const ALARMS: usize = 64;
/// A VERIFY round is given up after this long.
pub const VERIFY_DEADLINE: Duration = Duration::from_secs(30);
/// First pause after a failed start; doubles up to [`RETRY_MAX`].
pub const START_RETRY: Duration = Duration::from_millis(50);
/// Bound of the transactions of shards that wait to be checked, bytes.
pub const BODIES_BYTES: usize = 128 * 1024 * 1024;
/// Longest that a stopping executor waits for its connections.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(2);
