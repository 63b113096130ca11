//! Every bound of the services, with its unit.

use std::time::Duration;
use troika_proto::limits::MAX_SHARD_MESSAGE_BYTES;

/// How long a call waits where the caller names no deadline (`grpc-timeout`).
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);
/// Longest deadline that a call may name; a longer one is cut to this.
pub const MAX_DEADLINE: Duration = Duration::from_secs(120);
/// Part of a call's time that is kept for sending the answer: 1 / this, and no more than [`ANSWER_TIME`]. Without it the
/// caller gives up at the same moment, and never hears why.
pub const ANSWER_SHARE: u32 = 10;
/// See [`ANSWER_SHARE`].
pub const ANSWER_TIME: Duration = Duration::from_millis(250);
/// Bytes of one stream's submissions that are under way; the stream is not read further until some are answered.
pub const STREAM_WINDOW_BYTES: usize = 32 * 1024 * 1024;
/// Submissions of one stream that are under way.
pub const STREAM_WINDOW: usize = 4_096;
/// Bytes of submissions of all clients that one member checks, or has waiting for their decision.
pub const SUBMIT_BYTES: usize = 128 * 1024 * 1024;
/// Streams of submissions on one member.
pub const SUBMIT_STREAMS: usize = 1_024;
/// Watches on one member.
pub const WATCHERS: usize = 4_096;
/// Backups that one member sends at a time: each holds on to the pages of its checkpoint.
pub const BACKUPS: usize = 4;
/// Most bytes of a request to `Rounds`: a submission, and some more for the names around it.
pub const ROUNDS_REQUEST_BYTES: usize = MAX_SHARD_MESSAGE_BYTES + 64 * 1024;
/// Most bytes of a request to `State`: as many keys and codes as may be asked for.
pub const STATE_REQUEST_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of answers to reads that one member makes at a time, over all clients.
pub const READ_BYTES: usize = 256 * 1024 * 1024;
/// Records that are read from disk in one go; a block's shards are read so many at a time.
pub const RECORDS_PER_READ: usize = 64;
/// Bytes of events that a watcher takes from the state in one go, filtered ones included; a single larger event goes
/// alone. Small, because applying waits meanwhile.
pub const WATCH_BYTES: usize = 64 * 1024;
/// Longest silence of a watch: then a message without events shows life and progress.
pub const WATCH_SILENCE: Duration = Duration::from_secs(1);
/// Rounds that a list answers where the caller names no number.
pub const DEFAULT_LIST_ROUNDS: u32 = 100;
/// Locks that a list answers where the caller names no number.
pub const DEFAULT_LIST_LOCKS: u32 = 1_000;
/// State keys that are read before the machine is let go for a moment.
pub const READ_KEYS_PER_LOOK: usize = 2_048;
/// Most slots of an account whose storage is answered ahead of being asked for.
pub const AHEAD_SLOTS: usize = 512;
/// Most bytes that may be answered ahead.
pub const AHEAD_BYTES: usize = 4 * 1024 * 1024;
/// Most accounts that are looked at for one answer's part ahead: what points to accounts may point to many.
pub const AHEAD_ACCOUNTS: usize = 4_096;
/// Codes of which it is remembered whom they point to.
pub const AHEAD_CODES: usize = 4_096;
/// Addresses that are looked for in one code.
pub const AHEAD_POINTERS: usize = 64;
/// Newest rounds that are searched for executors whose results differed.
pub const DIVERGENCE_ROUNDS: u64 = 1_024;
/// Most such results that a status names.
pub const DIVERGENCE_LINES: usize = 64;
/// Pause between two looks at whether the member is ready.
pub const HEALTH_PAUSE: Duration = Duration::from_millis(250);
