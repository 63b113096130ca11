//! Every bound of the machine, with its unit. All are part of the deciding rules: they are the same on every member, and
//! changing one takes a new feature level.

/// Highest feature level that this program understands.
pub const MAX_FEATURE_LEVEL: u32 = 1;

/// Most VERIFY rounds that are open at once.
pub const MAX_OPEN_CHECKS: usize = 256;

/// Seconds that a checked block's timestamp may be ahead of the opening's clock. A block from farther ahead is refused, not
/// barred: it becomes the head when its time has come.
pub const MAX_FUTURE_SECONDS: u64 = 15;

/// Most keys that `AcquireLocks` and reservations hold in one round.
pub const MAX_HELD_KEYS: usize = 1 << 21;

/// Most dissenting reports about one shard of a round.
pub const MAX_DISSENT_PER_SHARD: usize = 16;

/// Blocks back from the head at which state can be read.
pub const STATE_BLOCKS: u64 = 128;

/// Most blocks above the base whose changes are held, forks included. At most 256: a block's ancestors are a bit set.
pub const MAX_LAYERS: usize = 240;

/// Most bytes of changes in all layers together; above it the oldest are folded early.
pub const MAX_LAYER_BYTES: usize = 32 << 20;

/// Block headers back from the head that BLOCKHASH needs: their index survives pruning.
pub const BLOCK_HASHES: u64 = 256;

/// Most bytes of events that are kept for watchers.
pub const MAX_HISTORY_BYTES: usize = 8 << 20;

/// Rounds that share one range of the transaction index: a pruned range goes as a whole.
pub const ROUNDS_PER_INDEX: u64 = 256;
