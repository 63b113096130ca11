//! The state machine.

use bytes::Bytes;

/// What a log entry carries.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch(Bytes);

impl Batch {
    /// As it stands in the log.
    pub fn encode(&self) -> Bytes {
        self.0.clone()
    }

    /// Reads what `encode` wrote.
    pub fn decode(bytes: Bytes) -> Result<Self, BatchError> {
        Ok(Self(bytes))
    }
}

impl std::fmt::Display for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "batch of {} bytes", self.0.len())
    }
}

/// Why bytes are no batch.
#[derive(Clone, Debug, thiserror::Error)]
#[error("not a batch")]
pub struct BatchError;

/// What applying a command answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {}
