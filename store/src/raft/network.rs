//! How members reach each other: a trait of messages, so that the same member runs over TLS, in a test's memory and in
//! the simulation.
//!
//! A message is an [`Envelope`]: who sends it, to whom, both incarnations, the cluster, what kind it is, and a payload
//! of bytes. [`Network`] carries envelopes *out*; what comes *in* is handed to the member's
//! [`Door`](super::door::Door), which checks the envelope before anything else sees it. An adapter (tonic in
//! production) therefore knows addresses and bytes, and nothing of consensus.
//!
//! Every answer is an envelope too. A refusal is an answer of [`Kind::Refused`], so that adapters need no table of
//! errors; [`NetworkError`] is only about not getting an answer.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
pub use troika_proto::member::v1::Envelope;

/// A member's number, chosen by the operator, at least 1 and never used twice in a cluster's life.
pub type MemberId = u64;

/// What an envelope's payload is. On the wire: numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Kind {
    /// "Who are you?": the only kind that may name no cluster. Carries [`Hello`](troika_proto::member::v1::Hello).
    Hello = 1,
    /// Log entries, or none of them as a heartbeat.
    Append = 2,
    /// A request for a vote.
    Vote = 3,
    /// Whether a vote would be granted.
    PreVote = 4,
    /// The leader asks the receiver to take over.
    TransferLeader = 5,
    /// Starts a snapshot transfer; on a stream.
    SnapshotBegin = 6,
    /// A piece of a snapshot; on a stream.
    SnapshotChunk = 7,
    /// The snapshot is complete; on a stream.
    SnapshotEnd = 8,
    /// Commands for the leader; on a stream, answered in any order.
    Forward = 9,
    /// Up to which log index must be applied for a linearizable read.
    ReadIndex = 10,
    /// A membership operation for the leader.
    Admin = 11,
    /// The state hashes that the sender has recorded.
    StateHashes = 12,
    /// The answer of a member that does not take the message. Carries
    /// [`Refused`](troika_proto::member::v1::Refused).
    Refused = 13,
}

impl Kind {
    /// The kind with this number, if this build knows it.
    pub fn from_number(number: u32) -> Option<Self> {
        use Kind::*;
        [
            Hello,
            Append,
            Vote,
            PreVote,
            TransferLeader,
            SnapshotBegin,
            SnapshotChunk,
            SnapshotEnd,
            Forward,
            ReadIndex,
            Admin,
            StateHashes,
            Refused,
        ]
        .into_iter()
        .find(|kind| *kind as u32 == number)
    }
}

/// Which connection a message takes. Each lane has its own, so that a snapshot or a burst of entries never holds up a
/// heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Heartbeats, votes, hellos, read indices, membership operations: small and urgent.
    Control,
    /// Log entries.
    Append,
    /// Snapshots.
    Snapshot,
    /// Commands on their way to the leader.
    Forward,
}

/// Why no answer came. Whether the message was acted on is unknown in both cases.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NetworkError {
    /// The peer cannot be reached, or the connection broke.
    #[error("cannot reach {address}: {reason}")]
    Unreachable {
        /// HOST:PORT.
        address: String,
        /// The transport's own words.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer from {address} within {timeout:?}")]
    Timeout {
        /// HOST:PORT.
        address: String,
        /// How long the call waited.
        timeout: Duration,
    },
}

/// Envelopes on their way in, until the stream breaks.
pub type Incoming = BoxStream<'static, Result<Envelope, NetworkError>>;
/// Envelopes on their way out.
pub type Outgoing = BoxStream<'static, Envelope>;

/// Carries envelopes to other members. Implementations may lose, delay, repeat and (between calls) reorder messages;
/// within one stream they must keep the order.
pub trait Network: Send + Sync + 'static {
    /// One message, one answer.
    fn call(
        &self,
        address: &str,
        lane: Lane,
        message: Envelope,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Envelope, NetworkError>>;

    /// A stream each way with the member `to`, whom all messages of `outgoing` are for. The returned stream ends after
    /// `outgoing` has ended and the peer has answered all of it, or with an error.
    fn stream(
        &self,
        to: MemberId,
        address: &str,
        lane: Lane,
        outgoing: Outgoing,
    ) -> BoxFuture<'static, Result<Incoming, NetworkError>>;
}

#[cfg(test)]
mod tests {
    use super::Kind;

    #[test]
    fn every_kind_is_found_by_its_number() {
        for number in 1..=13 {
            assert_eq!(
                Kind::from_number(number).map(|kind| kind as u32),
                Some(number)
            );
        }
        assert_eq!(Kind::from_number(0), None);
        assert_eq!(Kind::from_number(14), None);
    }
}
