//! Every limit of the gateway, with its unit. A message that refuses something names one of these.

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
/// Refusals without ageing after which a transaction is dropped.
pub const MAX_REFUSALS: u32 = 16;
/// Dropped transactions whose reason is remembered.
pub const MAX_DROP_REASONS: usize = 10_000;
