//! Exit codes, and errors that say what to do.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done; a submission won; all locks were taken |
//! | 1 | the store answered no: lost race, conflict, refusal, nothing of that name |
//! | 2 | the command line or an input file is wrong |
//! | 3 | no member could be reached, or there is no leader; nothing is known to have happened |
//! | 4 | the time ran out: the outcome is unknown; sending the same again is safe |
//! | 5 | this client may not do that (certificate, role) |
//! | 6 | a limit of the store was reached: try again later |
//! | 7 | anything else that went wrong |

use super::output::note;
use std::process::ExitCode;
use tonic::{Code, Status};

/// How a command that got its answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0.
    Yes,
    /// Exit code 1: an answer, but not the one that was hoped for.
    No,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Yes => Self::SUCCESS,
            Outcome::No => Self::from(1),
        }
    }
}

/// Why a command got no answer, or none worth printing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CtlError {
    /// The store refused with a status instead of an answer.
    #[error("{0}")]
    Refused(String),
    /// The arguments or an input file are wrong.
    #[error("{0}")]
    Usage(String),
    /// No member answered.
    #[error("{0}")]
    Unavailable(String),
    /// The time ran out.
    #[error("{0}")]
    Deadline(String),
    /// Not allowed.
    #[error("{0}")]
    Denied(String),
    /// A limit was reached.
    #[error("{0}")]
    Exhausted(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl CtlError {
    /// The exit code, as the table of this module has it.
    pub fn code(&self) -> u8 {
        match self {
            Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::Unavailable(_) => 3,
            Self::Deadline(_) => 4,
            Self::Denied(_) => 5,
            Self::Exhausted(_) => 6,
            Self::Failed(_) => 7,
        }
    }

    /// Prints the error to standard error and gives its exit code.
    pub fn report(&self) -> ExitCode {
        note(&format!("troikactl: {self}"));
        if let Some(hint) = self.hint() {
            note(&format!("  {hint}"));
        }
        ExitCode::from(self.code())
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Usage(_) => Some("see `troikactl help`"),
            Self::Unavailable(_) => Some(
                "check --endpoints (or TROIKA_ENDPOINTS), that a majority of the members is up (`troikactl status`), and over TLS that \
                 they take this client's certificate",
            ),
            Self::Deadline(_) => Some(
                "the outcome is unknown; the same command may be sent again safely, with a longer --timeout",
            ),
            Self::Denied(_) => Some("check --cacert, --cert and --key, and the certificate's role"),
            Self::Exhausted(_) => {
                Some("the store is at a limit: try again later, or send less at once")
            }
            Self::Refused(_) | Self::Failed(_) => None,
        }
    }
}

impl From<Status> for CtlError {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::InvalidArgument => Self::Usage(message),
            Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Aborted => Self::Refused(message),
            Code::Unavailable => Self::Unavailable(message),
            Code::DeadlineExceeded | Code::Cancelled => Self::Deadline(message),
            Code::PermissionDenied | Code::Unauthenticated => Self::Denied(message),
            Code::ResourceExhausted => Self::Exhausted(message),
            code => Self::Failed(format!("{code:?}: {message}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_code_has_its_documented_exit_code() {
        let cases = [
            (Code::InvalidArgument, 2),
            (Code::NotFound, 1),
            (Code::FailedPrecondition, 1),
            (Code::OutOfRange, 1),
            (Code::Unavailable, 3),
            (Code::DeadlineExceeded, 4),
            (Code::PermissionDenied, 5),
            (Code::Unauthenticated, 5),
            (Code::ResourceExhausted, 6),
            (Code::Internal, 7),
            (Code::DataLoss, 7),
        ];
        for (code, exit) in cases {
            assert_eq!(
                CtlError::from(Status::new(code, "x")).code(),
                exit,
                "{code:?}"
            );
        }
    }
}
