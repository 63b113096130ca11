//! The one table from what can go wrong to gRPC codes.
//!
//! A refusal of the state machine is not here: it is an answer, and travels as one. What is here means that there is no
//! answer: the request makes no sense, the member cannot serve it now, or what it asks for is not there.

use crate::raft::error::{AdminError, ProposeError};
use tonic::{Code, Status};
use troika_proto::{Malformed, ShardFault};

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    /// A field is not what it must be, or exceeds a limit.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A proposal's header is not that of its body.
    #[error(transparent)]
    Shard(#[from] ShardFault),
    /// No decision, or no linearizable read.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// A membership operation was not done.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The caller means another cluster.
    #[error("meta.cluster_id: is {named}, but this is cluster {own}")]
    OtherCluster {
        /// What the caller named, in hex.
        named: String,
        /// This cluster, in hex.
        own: String,
    },
    /// This member has not applied what the caller has seen already.
    #[error(
        "meta.min_revision: is {wanted}, but this member has applied {own} and got no further in time: ask another one"
    )]
    Behind {
        /// The revision that was asked for.
        wanted: u64,
        /// The member's.
        own: u64,
    },
    /// There is no genesis yet.
    #[error("there is no chain yet: start one with InitChain (`troikactl init GENESIS.json`)")]
    NoChain,
    /// Nothing of that name.
    #[error("{0}")]
    NotFound(String),
    /// It was there, but is forgotten.
    #[error("{0}")]
    Pruned(String),
    /// The request does not fit what is there.
    #[error("{0}")]
    Precondition(String),
    /// The answer would be above a limit.
    #[error("{0}")]
    TooLarge(String),
    /// A bound of this member's services is reached.
    #[error("{limit} is reached ({value} {unit}): try again later, or ask another member")]
    Exhausted {
        /// The limit's name, as in `service::limits`.
        limit: &'static str,
        /// The limit.
        value: usize,
        /// What it counts.
        unit: &'static str,
    },
    /// Bytes on this member's disk are not what was written.
    #[error("{0}")]
    Damaged(String),
}

impl Fault {
    /// The gRPC code.
    pub fn code(&self) -> Code {
        match self {
            Self::Malformed(_) | Self::Shard(_) => Code::InvalidArgument,
            Self::Propose(error) => propose_code(error),
            Self::Admin(AdminError::Refused(_) | AdminError::Busy(_)) => Code::FailedPrecondition,
            Self::Admin(AdminError::Unavailable(error)) => propose_code(error),
            Self::OtherCluster { .. } | Self::NoChain | Self::Precondition(_) => {
                Code::FailedPrecondition
            }
            Self::Behind { .. } => Code::DeadlineExceeded,
            Self::NotFound(_) => Code::NotFound,
            Self::Pruned(_) => Code::OutOfRange,
            Self::TooLarge(_) | Self::Exhausted { .. } => Code::ResourceExhausted,
            Self::Damaged(_) => Code::DataLoss,
        }
    }
}

fn propose_code(error: &ProposeError) -> Code {
    match error {
        // The last two: another member may well answer, and asking again is safe.
        ProposeError::NoLeader
        | ProposeError::Stopping
        | ProposeError::Failed(_)
        | ProposeError::Unknown => Code::Unavailable,
        ProposeError::Deadline => Code::DeadlineExceeded,
        ProposeError::Overloaded { .. } | ProposeError::NoSpace(_) => Code::ResourceExhausted,
        ProposeError::Invalid(_) => Code::InvalidArgument,
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        Self::new(fault.code(), fault.to_string())
    }
}

/// The refusal of a message that is above its service's limit, if this is tonic's word for that: its code means "pruned"
/// here.
pub fn over_limit(status: &Status) -> Option<Status> {
    let sizes = status.message().split_once("message length too large: ")?.1;
    let message = format!("the message is above the limit of its service: {sizes}");
    (status.code() == Code::OutOfRange).then(|| Status::resource_exhausted(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_the_code_that_clients_act_on() {
        let cases: Vec<(Fault, Code)> = vec![
            (Malformed::missing("x").into(), Code::InvalidArgument),
            (ShardFault::GasNotRising(1).into(), Code::InvalidArgument),
            (ProposeError::NoLeader.into(), Code::Unavailable),
            (ProposeError::Deadline.into(), Code::DeadlineExceeded),
            (ProposeError::Stopping.into(), Code::Unavailable),
            (
                ProposeError::Overloaded {
                    limit: "QUEUE_BYTES",
                    value: 1,
                    unit: "bytes",
                }
                .into(),
                Code::ResourceExhausted,
            ),
            (
                ProposeError::NoSpace("full".to_owned()).into(),
                Code::ResourceExhausted,
            ),
            (
                AdminError::Busy("other change".to_owned()).into(),
                Code::FailedPrecondition,
            ),
            (Fault::NoChain, Code::FailedPrecondition),
            (Fault::NotFound("x".to_owned()), Code::NotFound),
            (Fault::Pruned("x".to_owned()), Code::OutOfRange),
        ];
        for (fault, code) in cases {
            assert_eq!(Status::from(fault.clone()).code(), code, "{fault}");
        }
    }

    #[test]
    fn only_the_word_for_a_large_message_is_put_into_ours() {
        let large = Status::out_of_range(
            "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes",
        );
        let ours = over_limit(&large).unwrap();
        assert_eq!(ours.code(), Code::ResourceExhausted);
        assert!(ours.message().contains("found 9 bytes"), "{ours}");
        assert_eq!(
            over_limit(&Status::out_of_range("after: it is pruned")).map(|s| s.code()),
            None
        );
    }
}
