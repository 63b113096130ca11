//! Every bound of the services, with its unit.

use std::time::Duration;

/// How long a call waits where the caller names no deadline (`grpc-timeout`).
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);
/// Longest deadline that a call may name; a longer one is cut to this.
pub const MAX_DEADLINE: Duration = Duration::from_secs(120);
/// Part of a call's time that is kept for sending the answer: 1 / this.
pub const ANSWER_SHARE: u32 = 50;
/// Bytes of one stream's submissions that are under way; the stream is not read further until some are answered.
pub const STREAM_WINDOW_BYTES: usize = 32 * 1024 * 1024;
/// Submissions of one stream that are under way.
pub const STREAM_WINDOW: usize = 4_096;
/// Answers of a stream that wait to be sent.
pub const STREAM_ANSWERS: usize = 256;
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
/// Newest rounds that are searched for executors whose results differed.
pub const DIVERGENCE_ROUNDS: u64 = 1_024;
/// Pause between two looks at whether the member is ready.
pub const HEALTH_PAUSE: Duration = Duration::from_millis(250);
