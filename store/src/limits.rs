//! Every bound of the store, with its unit.

// --- disk ---

/// Bytes of appended entries that may wait for the log's writer. An append waits for room.
pub const LOG_QUEUE_BYTES: usize = 64 << 20;
/// Bytes of entries in one commit of the log.
pub const LOG_COMMIT_BYTES: usize = 8 << 20;
/// Bytes of recent entries kept in memory, so that replication does not read the disk: about half a second of a heavy load.
/// Small commands take several times as much decoded.
pub const LOG_TAIL_BYTES: usize = 4 << 20;
/// Bytes of the log file's page cache.
pub const LOG_CACHE_BYTES: usize = 8 << 20;
/// Bytes of entries read from the log at once for replication.
pub const LOG_READ_BYTES: usize = 4 << 20;
/// Purged entries that one commit of the log removes from the file.
pub const LOG_PURGE_ENTRIES: u64 = 1_024;
/// Entries that the log keeps behind a checkpoint for members that lag, bytes.
pub const LOG_KEEP_BYTES: u64 = 64 << 20;
/// How long the committed log id waits for another write that it can go along with, milliseconds.
pub const LOG_COMMITTED_IDLE_MS: u64 = 250;

/// Bytes of the state file's page cache.
pub const STATE_CACHE_BYTES: usize = 16 << 20;
/// Unwritten bytes of state at which a checkpoint starts.
pub const CHECKPOINT_BYTES: usize = 8 << 20;
/// Unwritten bytes of state at which applying waits for the checkpoint that is under way.
pub const MAX_UNWRITTEN_BYTES: usize = 64 << 20;
/// Longest time between two checkpoints while anything changes, milliseconds.
pub const CHECKPOINT_INTERVAL_MS: u64 = 20_000;
/// Log entries applied under one hold of the state machine's lock.
pub const APPLY_ENTRIES: usize = 64;
/// Log entries between two recorded state hashes.
pub const STATE_HASH_INTERVAL: u64 = 4_096;
/// Recorded state hashes that are kept.
pub const STATE_HASHES_KEPT: usize = 64;

/// Bytes of a snapshot's frame, its head included.
pub const SNAPSHOT_FRAME_BYTES: usize = 1 << 20;
/// Bytes of a record in a snapshot: a shard's message and its key.
pub const SNAPSHOT_RECORD_BYTES: usize = 80 << 20;
/// Bytes of records that one transaction of a snapshot's installation holds.
pub const SNAPSHOT_TRANSACTION_BYTES: usize = 16 << 20;
