//! Every limit that a peer or a client can run into, with its unit. A message that refuses something names one of these.

/// Most shards of a block.
pub const MAX_SHARDS: u32 = 16_384;
/// Least gas of a shard: Osaka's cap for one transaction (EIP-7825).
pub const MIN_SHARD_GAS: u64 = 1 << 24;
/// Most gas of a shard.
pub const MAX_SHARD_GAS: u64 = 1 << 40;
/// Most transactions in a shard.
pub const MAX_SHARD_TRANSACTIONS: usize = 65_536;
/// Most accounts in a diff.
pub const MAX_DIFF_ACCOUNTS: usize = 262_144;
/// Most changed slots in a diff, over all its accounts.
pub const MAX_DIFF_SLOTS: usize = 1_048_576;
/// Most bytes of an account's code (EIP-170).
pub const MAX_CODE_BYTES: usize = 24_576;
/// Most bytes of one transaction's envelope.
pub const MAX_TRANSACTION_BYTES: usize = 128 * 1024;
/// Most bytes of a message that carries a shard.
pub const MAX_SHARD_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Most bytes of a genesis message.
pub const MAX_GENESIS_BYTES: usize = 48 * 1024 * 1024;
/// Most bytes of any message: what decoders are set to.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
/// Most characters of an executor's, opener's or gateway's name.
pub const MAX_NAME_CHARS: usize = 64;
/// Most bytes of the reason in a failure report.
pub const MAX_REASON_BYTES: usize = 1_024;
/// Most keys in one call to acquire locks.
pub const MAX_ACQUIRE_KEYS: usize = 65_536;
/// Most keys reserved at the opening of a round.
pub const MAX_RESERVATIONS: usize = 4_096;
/// Most keys in one state read.
pub const MAX_READ_KEYS: usize = 16_384;
/// Most codes in one state read.
pub const MAX_READ_CODES: usize = 256;
/// Most rounds in one page of a list.
pub const MAX_LIST_ROUNDS: u32 = 1_000;
/// Most locks in one page of a list.
pub const MAX_LIST_LOCKS: u32 = 65_536;
/// Most topics of a log.
pub const MAX_TOPICS: usize = 4;
/// Most accounts in a genesis.
pub const MAX_GENESIS_ACCOUNTS: usize = 1_000_000;
/// Longest `seal_after_ms`.
pub const MAX_SEAL_AFTER_MS: u64 = 3_600_000;
/// Most block hashes that a fixed environment carries.
pub const MAX_BLOCK_HASHES: usize = 256;
