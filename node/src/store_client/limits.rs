//! Every wait, size and retry of the client, with its unit.

use std::time::Duration;

/// Longest that a whole call takes, its retries included, unless the options say otherwise.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Longest that one attempt at one member takes.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest that a connection to one member may take to come up.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// First pause between two attempts; doubles up to [`BACKOFF_MAX`], each drawn between half and the whole.
pub const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// Longest pause between two attempts.
pub const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// A call that a member refuses as exhausted is repeated at most this often: the limit may be a lasting one.
pub const EXHAUSTED_RETRIES: u32 = 3;
/// HTTP/2 pings find a dead connection: one this often ...
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// ... answered within this long.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// HTTP/2 window of one stream, bytes: a whole shard fits.
pub const STREAM_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// HTTP/2 window of a connection, bytes.
pub const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// A watch that stays silent this long (not even a sign of life) goes on at another member.
pub const WATCH_SILENCE: Duration = Duration::from_secs(10);
/// A watch that stays this long behind a revision known from elsewhere goes on at another member: this one may be cut
/// off from the others.
pub const WATCH_LAG: Duration = Duration::from_secs(2);
