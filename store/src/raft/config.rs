//! What a member is started with, and every limit of this module, each with its name and unit.

use std::collections::BTreeMap;
use std::time::Duration;

use super::network::MemberId;
use crate::limits::LOG_KEEP_BYTES;
use crate::state::limits::MAX_FEATURE_LEVEL;

/// Most bytes of commands that wait for a decision on one member: queued, in the log, or on their way to the leader.
/// Above it a call is refused at once.
pub const QUEUE_BYTES: usize = 64 << 20;
/// Most commands that wait for a decision on one member.
pub const QUEUE_COMMANDS: usize = 262_144;
/// Bytes of commands after which a log entry is closed. A larger command gets an entry of its own.
pub const ENTRY_BYTES: usize = 1 << 20;
/// Most commands of a log entry.
pub const ENTRY_COMMANDS: usize = 4_096;
/// Bytes of a proposal above which it is checked on a blocking thread, so that it holds up no other call.
pub const INLINE_CHECK_BYTES: usize = 128 * 1024;
/// Entries of commands that the leader has in flight before it collects more commands into the next one.
pub const ENTRIES_IN_FLIGHT: usize = 4;
/// Messages of forwarded commands that wait for the connection to the leader.
pub const FORWARD_MESSAGES: usize = 4;
/// Longest silence of the leader while it owes answers, before its stream is given up.
pub const FORWARD_STALL: Duration = Duration::from_secs(5);
/// Frames of a snapshot (at most 1 MiB each) under way to a member.
pub const SNAPSHOT_FRAMES_IN_FLIGHT: usize = 4;
/// Longest wait for the acknowledgement of any piece of a snapshot.
pub const SNAPSHOT_STALL: Duration = Duration::from_secs(20);
/// Longest wait for the installation of a complete snapshot.
pub const SNAPSHOT_INSTALL: Duration = Duration::from_secs(120);
/// Longest wait for the acknowledgement of log entries before their stream is given up.
pub const APPEND_STALL: Duration = Duration::from_secs(3);
/// Longest wait for the answer to a small message (hello, read index).
pub const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for the leader to finish a membership operation.
pub const ADMIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Most log entries that a learner may lack to be given a vote.
pub const PROMOTION_LAG: u64 = 1_000;
/// Pause before a command is offered again after "I am not the leader".
pub const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Pause between two rounds of hellos while a group forms or has no leader.
pub const HELLO_PAUSE: Duration = Duration::from_millis(250);
/// Pause between two comparisons of state hashes, and between two looks at the feature levels.
pub const CARE_PAUSE: Duration = Duration::from_secs(5);
/// Pause between two looks at the free space.
pub const SPACE_PAUSE: Duration = Duration::from_secs(1);
/// Between two looks for commands that nobody waits for.
pub const SWEEP_PAUSE: Duration = Duration::from_millis(500);
/// How long a leader waits for another to take over.
pub const HANDOVER: Duration = Duration::from_secs(3);
/// How long a leader waits for the others to say whether they could take over.
pub const HANDOVER_ASK: Duration = Duration::from_millis(500);
/// Silence after which a leader asks its successor once more.
pub const HANDOVER_AGAIN: Duration = Duration::from_millis(700);
/// How long a stopping member waits for decisions under way.
pub const DRAIN: Duration = Duration::from_secs(2);
/// Most bytes of one command: a genesis is the largest. Less than what a message between members may have.
pub const MAX_COMMAND_BYTES: usize = 56 << 20;
/// Most rounds whose opening time is remembered.
pub const KNOWN_ROUNDS: usize = 4_096;

/// What a member is started with.
#[derive(Clone, Debug)]
pub struct MemberConfig {
    /// This member's id.
    pub id: MemberId,
    /// HOST:PORT under which other members reach it.
    pub peer_addr: String,
    /// HOST:PORT under which clients reach it.
    pub client_addr: String,
    /// The members named at the start, this one included: peer addresses. Used until the group is formed, and to find it
    /// again; what counts afterwards is the membership in the log.
    pub members: BTreeMap<MemberId, String>,
    /// True: start empty and wait to be added to a group that is there.
    pub join: bool,
    /// Pause between two heartbeats, and how long a follower waits for the answer to one.
    pub heartbeat: Duration,
    /// Shortest silence of the leader after which a follower asks for votes; the longest is a third more.
    pub election: Duration,
    /// How long `propose` waits where the caller names no deadline.
    pub patience: Duration,
    /// Free bytes below which writes are refused.
    pub reserve_bytes: u64,
    /// Highest feature level that this member says it understands: what the program does, or less to hold an upgrade back.
    pub max_feature_level: u32,
    /// See [`CARE_PAUSE`].
    pub care_pause: Duration,
    /// See [`ENTRIES_IN_FLIGHT`].
    pub entries_in_flight: usize,
    /// See [`QUEUE_BYTES`].
    pub queue_bytes: usize,
    /// See [`LOG_KEEP_BYTES`].
    pub log_keep_bytes: u64,
}

impl MemberConfig {
    /// A configuration with the usual timings.
    pub fn new(id: MemberId, peer_addr: impl Into<String>, client_addr: impl Into<String>) -> Self {
        Self {
            id,
            peer_addr: peer_addr.into(),
            client_addr: client_addr.into(),
            members: BTreeMap::new(),
            join: false,
            heartbeat: Duration::from_millis(200),
            election: Duration::from_millis(1_500),
            patience: Duration::from_secs(10),
            reserve_bytes: 256 << 20,
            max_feature_level: MAX_FEATURE_LEVEL,
            care_pause: CARE_PAUSE,
            entries_in_flight: ENTRIES_IN_FLIGHT,
            queue_bytes: QUEUE_BYTES,
            log_keep_bytes: LOG_KEEP_BYTES,
        }
    }

    /// What openraft is told.
    ///
    /// # Errors
    /// A text that names the setting that cannot be.
    pub fn consensus(&self) -> Result<openraft::Config, String> {
        // A follower waits for its lease to end, which is openraft's longest time-out, and after that for a time-out drawn at
        // random between the shortest and the longest. With a third and two thirds this is between `election` and a third
        // more.
        let third_ms = self.election.as_millis() as u64 / 3;
        openraft::Config {
            cluster_name: "troika".into(),
            heartbeat_interval: self.heartbeat.as_millis() as u64,
            election_timeout_min: third_ms,
            election_timeout_max: third_ms * 2,
            // A restarted voter must win an election: its state machine may be behind its last acknowledged entry.
            enable_leader_restore: Some(false),
            enable_pre_vote: Some(true),
            // Checkpoints, and with them snapshots and purges, are triggered by bytes, not by counts of entries.
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            replication_lag_threshold: u64::MAX,
            install_snapshot_timeout: SNAPSHOT_INSTALL.as_millis() as u64,
            max_payload_entries: 1_024,
            // Entries are few and hold many commands: the queues between tasks need not be long.
            api_channel_size: Some(1_024),
            ..openraft::Config::default()
        }
        .validate()
        .map_err(|error| error.to_string())
    }
}
