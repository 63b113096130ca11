//! Numbers for Prometheus: what is offered, and the task that keeps the gauges.
//!
//! Counters and histograms are recorded where things happen; what a member *is* (its place, its sizes) is read from it
//! once a second and given the label `member`. [`METRICS`] names everything, for `HELP` lines and for the test that looks
//! whether a running member offers it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

use crate::raft::network::MemberId;
use crate::raft::{Handle, Role};
use crate::runtime::Runtime;
use crate::state::Machine;

/// Pause between two readings of the gauges.
const PAUSE: Duration = Duration::from_secs(1);

/// Upper bounds of the buckets for seconds: from a quick fsync to a stuck disk.
const SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 60.0,
];
/// For bytes.
const BYTES: &[f64] = &[
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
];
/// For everything that is counted.
const COUNTS: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0,
];

/// How a number behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Is what it is now.
    Gauge,
    /// How often which size came.
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

/// Every number of a member: its name, its kind and what it says.
pub const METRICS: &[(&str, Kind, &str)] = &[
    ("troika_is_leader", Gauge, "1 if this member leads, else 0"),
    (
        "troika_has_leader",
        Gauge,
        "1 if this member hears of a leader and is caught up, else 0",
    ),
    ("troika_term", Gauge, "Raft term"),
    (
        "troika_voters",
        Gauge,
        "Members with a vote, as this member knows them",
    ),
    (
        "troika_log_index",
        Gauge,
        "Last log index that is logged, committed, applied, checkpointed and purged, by stage",
    ),
    (
        "troika_applied_lag",
        Gauge,
        "Committed log entries that this member has not applied yet",
    ),
    (
        "troika_follower_lag",
        Gauge,
        "On the leader: log entries that each other member does not have yet",
    ),
    ("troika_revision", Gauge, "Revision of the state"),
    ("troika_open_rounds", Gauge, "Rounds that are open"),
    ("troika_head_number", Gauge, "Number of the head block"),
    (
        "troika_queue_bytes",
        Gauge,
        "Bytes of commands that wait for their decision here",
    ),
    (
        "troika_submit_bytes",
        Gauge,
        "Bytes of submissions that the services hold",
    ),
    (
        "troika_dirty_bytes",
        Gauge,
        "Bytes of state that the next checkpoint will write",
    ),
    (
        "troika_log_file_bytes",
        Gauge,
        "Size of the log in its file",
    ),
    ("troika_state_file_bytes", Gauge, "Size of the state file"),
    (
        "troika_free_bytes",
        Gauge,
        "Free bytes on the data directory's disk",
    ),
    ("troika_resident_bytes", Gauge, "Memory of the process"),
    (
        "troika_writes_refused",
        Gauge,
        "1 while writes are refused for want of space, else 0",
    ),
    ("troika_watchers", Gauge, "Watches that are open"),
    (
        "troika_watch_lag_revisions",
        Histogram,
        "How far behind the newest revision a message to a watcher ends",
    ),
    (
        "troika_submissions_total",
        Counter,
        "Submissions answered, by outcome: won, lost, conflict, refused, noted, failed",
    ),
    (
        "troika_commit_seconds",
        Histogram,
        "From taking a command in to its decision",
    ),
    (
        "troika_batch_commands",
        Histogram,
        "Commands in a log entry",
    ),
    (
        "troika_log_commit_seconds",
        Histogram,
        "One commit of the log, its fsync included",
    ),
    (
        "troika_log_commit_bytes",
        Histogram,
        "Bytes of entries in one commit of the log",
    ),
    (
        "troika_log_commit_changes",
        Histogram,
        "Changes in one commit of the log",
    ),
    (
        "troika_checkpoint_seconds",
        Histogram,
        "Writing a checkpoint",
    ),
    (
        "troika_checkpoint_bytes",
        Histogram,
        "Bytes of a checkpoint",
    ),
    (
        "troika_snapshot_seconds",
        Histogram,
        "A snapshot to or from another member, by direction",
    ),
    (
        "troika_member_messages_refused",
        Counter,
        "Messages of other members that were refused",
    ),
    (
        "troika_calls_denied_total",
        Counter,
        "Calls denied for want of a role, or for a false name",
    ),
    (
        "troika_connections_refused_total",
        Counter,
        "Connections closed because there were too many",
    ),
];

/// Serves `/metrics`.
///
/// # Errors
/// A text that names the address.
pub fn serve(address: SocketAddr) -> Result<(), String> {
    let failed = |error| format!("cannot serve metrics on {address}: {error}");
    let builder = PrometheusBuilder::new().with_http_listener(address);
    let builder = builder
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)
        .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), BYTES))
        .and_then(|b| b.set_buckets(COUNTS))
        .map_err(failed)?;
    builder.install().map_err(failed)?;
    for (name, kind, says) in METRICS {
        match kind {
            Counter => {
                metrics::describe_counter!(*name, *says);
                // There from the start: an alarm on a counter that does not exist yet never rings.
                metrics::counter!(*name).absolute(0);
            }
            Gauge => metrics::describe_gauge!(*name, *says),
            Histogram => metrics::describe_histogram!(*name, *says),
        }
    }
    Ok(())
}

/// Keeps the gauges until the member has ended.
pub(super) async fn keep(handle: Handle) {
    let mut followers = BTreeSet::new();
    while Runtime::timeout(PAUSE, handle.stopped()).await.is_err() {
        set(&handle);
        set_lags(&handle, &mut followers);
    }
    let member = handle.id().to_string();
    for name in ["troika_is_leader", "troika_has_leader"] {
        metrics::gauge!(name, "member" => member.clone()).set(0.0);
    }
}

fn set(handle: &Handle) {
    let status = handle.status();
    let member = status.id.to_string();
    let gauge = |name: &'static str, value: f64| {
        metrics::gauge!(name, "member" => member.clone()).set(value);
    };
    let flag = |name, value: bool| gauge(name, f64::from(u8::from(value)));
    flag("troika_is_leader", status.role == Role::Leader);
    flag("troika_has_leader", status.caught_up);
    flag("troika_writes_refused", !status.writes_refused.is_empty());
    gauge("troika_term", status.term as f64);
    for (stage, index) in [
        ("logged", status.last_log_index),
        ("committed", status.committed_index),
        ("applied", status.applied_index),
        ("checkpointed", status.checkpoint_index),
        ("purged", status.purged_index),
    ] {
        let gauge =
            metrics::gauge!("troika_log_index", "member" => member.clone(), "stage" => stage);
        gauge.set(index as f64);
    }
    let lag = status.committed_index.saturating_sub(status.applied_index);
    gauge("troika_applied_lag", lag as f64);
    gauge("troika_queue_bytes", status.queued_bytes as f64);
    gauge("troika_dirty_bytes", status.dirty_bytes as f64);
    gauge("troika_log_file_bytes", status.log_bytes as f64);
    gauge("troika_state_file_bytes", status.state_bytes as f64);
    gauge("troika_free_bytes", status.free_bytes as f64);
    gauge(
        "troika_resident_bytes",
        crate::service::resident_bytes() as f64,
    );
    let (revision, open, head) = handle.read(|machine: &Machine| {
        let head = machine.current_chain().map_or(0, |c| c.head.header.number);
        (machine.revision(), machine.open_rounds().len(), head)
    });
    gauge("troika_revision", revision as f64);
    gauge("troika_open_rounds", open as f64);
    gauge("troika_head_number", head as f64);
    let members = handle.members();
    let voters = members.iter().filter(|member| member.voter).count();
    gauge("troika_voters", voters as f64);
}

/// How far the others are behind this leader. `followers`: those that were told of before; a removed one lags no more, and
/// who does not lead knows of none.
fn set_lags(handle: &Handle, followers: &mut BTreeSet<MemberId>) {
    let status = handle.status();
    let mut lags: BTreeMap<MemberId, u64> = followers.iter().map(|id| (*id, 0)).collect();
    if status.role == Role::Leader {
        let members = handle.members();
        for other in members.iter().filter(|other| other.id != status.id) {
            let lag = status.last_log_index.saturating_sub(other.matched_index);
            lags.insert(other.id, lag);
            followers.insert(other.id);
        }
    }
    let member = status.id.to_string();
    for (follower, lag) in lags {
        let follower = follower.to_string();
        metrics::gauge!("troika_follower_lag", "member" => member.clone(), "follower" => follower)
            .set(lag as f64);
    }
}
