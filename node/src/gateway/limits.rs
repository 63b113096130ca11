//! Every limit of the gateway, with its unit. A message that refuses something names one of these.

use std::time::Duration;

/// Most nonces that a transaction may be ahead of its sender's account.
pub const MAX_NONCES_AHEAD: u64 = 4_096;
/// Most bytes of pending envelopes of one sender.
pub const MAX_SENDER_BYTES: usize = 4 * 1024 * 1024;
/// Most bytes of all pending envelopes.
pub const MAX_POOL_BYTES: usize = 256 * 1024 * 1024;
/// Bytes that a pending transaction costs beside its envelope: the indices that hold it.
pub const POOLED_OVERHEAD_BYTES: usize = 512;
/// A replacement pays at least this many percent more, both in fee cap and in tip cap.
pub const REPLACEMENT_BUMP_PERCENT: u128 = 10;
/// Refusals by a held lock after which a transaction is aged: its keys are then reserved for one shard.
pub const AGED_AFTER_REFUSALS: u32 = 3;
/// Most transactions that are aged at one time.
pub const MAX_AGED: usize = 64;
/// Most keys of one transaction that are reserved.
pub const MAX_AGED_KEYS: usize = 64;
/// Refusals without ageing after which a transaction is dropped.
pub const MAX_REFUSALS: u32 = 16;
/// Dropped transactions whose reason is remembered.
pub const MAX_DROP_REASONS: usize = 10_000;
/// Accounts of senders at the head that are remembered.
pub const MAX_CACHED_ACCOUNTS: usize = 100_000;
/// Bytes of sealed blocks that are kept for reading.
pub const MAX_BLOCK_CACHE_BYTES: usize = 128 * 1024 * 1024;
/// Bytes of transactions whose senders were recovered lately.
pub const MAX_RECOVERED_BYTES: usize = 64 * 1024 * 1024;
/// Changes of the pending set that an executor's stream may lag behind; then it starts again with a snapshot.
pub const UPDATE_BUFFER: usize = 16_384;
/// Transactions in one message to an executor.
pub const MAX_ADD_TRANSACTIONS: usize = 1_000;
/// Envelope bytes in one message to an executor.
pub const MAX_ADD_BYTES: usize = 4 * 1024 * 1024;
/// Messages that wait on one executor's stream.
pub const STREAM_BUFFER: usize = 64;
/// Changes of the pending set are gathered for this long before they go to the executors.
pub const FLUSH_EVERY: Duration = Duration::from_millis(2);
/// An executor's stream on which nothing else was sent carries a sign of life this often: executors take a silence of several
/// times that for a lost connection.
pub const ALIVE_EVERY: Duration = Duration::from_millis(200);
/// First pause before an executor is tried again; doubles up to [`RECONNECT_MAX`].
pub const RECONNECT_MIN: Duration = Duration::from_millis(50);
/// Longest pause before an executor is tried again.
pub const RECONNECT_MAX: Duration = Duration::from_secs(2);
/// Longest that a connection to an executor may take to come up, and a call to be answered.
pub const EXECUTOR_TIMEOUT: Duration = Duration::from_secs(2);
/// A silent connection to an executor is probed this often.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// New heads that a subscriber may lag behind.
pub const HEADS_BUFFER: usize = 256;
/// New pending transactions that a subscriber may lag behind.
pub const PENDING_BUFFER: usize = 16_384;
/// Longest that a call, an estimate or a trace may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls, estimates and traces that run at one time.
pub const MAX_CALLS: usize = 64;
/// Bytes of one JSON-RPC request, or batch.
pub const MAX_REQUEST_BYTES: u32 = 15 * 1024 * 1024;
/// Bytes of one JSON-RPC answer, or batch of answers.
pub const MAX_RESPONSE_BYTES: u32 = 64 * 1024 * 1024;
/// Requests in one batch.
pub const MAX_BATCH: u32 = 1_000;
/// Requests of one batch that run at one time.
pub const BATCH_CONCURRENCY: usize = 16;
/// Connections at one time.
pub const MAX_CONNECTIONS: u32 = 1_000;
/// Subscriptions of one connection.
pub const MAX_SUBSCRIPTIONS: u32 = 128;
/// Blocks that one `eth_getLogs` may span.
pub const MAX_LOG_BLOCKS: u64 = 10_000;
/// Logs that one `eth_getLogs` may answer.
pub const MAX_LOGS: usize = 20_000;
/// Filters that are polled, of all clients.
pub const MAX_FILTERS: usize = 1_000;
/// A filter that nobody polls for this long is forgotten.
pub const FILTER_EXPIRY: Duration = Duration::from_secs(300);
/// Blocks that one `eth_feeHistory` may span.
pub const MAX_FEE_HISTORY: u64 = 1_024;
/// Transactions that one `txpool_content` or `txpool_inspect` may answer.
pub const MAX_POOL_CONTENT: usize = 10_000;
/// Blocks that are read from the store at one time for one request.
pub const READ_AHEAD: usize = 16;
/// Estimates of transactions that are queued behind a gap; above it those of transactions that have left are dropped.
pub const MAX_WAITING_ESTIMATES: usize = 50_000;
/// Longest that transactions are simulated for their routing when they are taken in. What is not done by then is
/// routed by what it states and by history.
pub const SIMULATION_BUDGET: Duration = Duration::from_millis(100);
/// The same on a chain that replays a block: there routing is what is measured.
pub const REPLAY_SIMULATION_BUDGET: Duration = Duration::from_secs(60);
/// Pending transactions of a sender that are simulated before a new one; with more, what it states must do.
pub const MAX_SIMULATED_BEFORE: usize = 32;
