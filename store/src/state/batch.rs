//! A batch: what one log entry carries.

use super::Fault;
use super::command::Command;
use super::limits::MAX_FEATURE_LEVEL;
use bytes::Bytes;
use prost::Message;
use std::sync::{Arc, OnceLock};

/// Commands of one log entry, with the feature level that a member must understand to apply them.
///
/// Cloning is cheap. The bytes are encoded once, or are those that the batch was decoded from.
#[derive(Clone, Debug)]
pub struct Batch(Arc<Inner>);

/// A `troika.log.v1.Batch` whose commands are still encoded, so that large ones are not encoded twice.
#[derive(Clone, PartialEq, prost::Message)]
struct Encoded {
    #[prost(uint32, tag = "1")]
    feature_level: u32,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    commands: Vec<Bytes>,
}

#[derive(Debug)]
struct Inner {
    feature_level: u32,
    commands: Vec<Command>,
    encoded: OnceLock<Bytes>,
}

impl PartialEq for Batch {
    fn eq(&self, other: &Self) -> bool {
        self.0.feature_level == other.0.feature_level && self.0.commands == other.0.commands
    }
}

impl std::fmt::Display for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "batch of {} commands", self.0.commands.len())
    }
}

impl Batch {
    /// A batch of commands. `feature_level` is the lowest that understands all of them.
    pub fn new(feature_level: u32, commands: Vec<Command>) -> Self {
        Self(Arc::new(Inner {
            feature_level,
            commands,
            encoded: OnceLock::new(),
        }))
    }

    /// The feature level that its commands need.
    pub fn feature_level(&self) -> u32 {
        self.0.feature_level
    }

    /// The commands, in the order in which they are applied.
    pub fn commands(&self) -> &[Command] {
        &self.0.commands
    }

    /// The entry's bytes (`troika.log.v1.Batch`).
    pub fn encode(&self) -> Bytes {
        let encoded = self.0.encoded.get_or_init(|| {
            let commands = self.0.commands.iter().map(Command::encode).collect();
            let wire = Encoded {
                feature_level: self.0.feature_level,
                commands,
            };
            wire.encode_to_vec().into()
        });
        encoded.clone()
    }

    /// Reads an entry and keeps its bytes.
    ///
    /// # Errors
    /// [`Fault`]: the entry needs a newer member, or is damaged. The member must stop.
    pub fn decode(bytes: Bytes) -> Result<Self, Fault> {
        let wire = Encoded::decode(bytes.clone())
            .map_err(|e| Fault::Undecodable(format!("not a batch: {e}")))?;
        if wire.feature_level > MAX_FEATURE_LEVEL {
            return Err(Fault::FeatureLevel {
                needed: wire.feature_level,
                understood: MAX_FEATURE_LEVEL,
            });
        }
        let mut commands = Vec::with_capacity(wire.commands.len());
        for (i, command) in wire.commands.into_iter().enumerate() {
            let command = Command::decode(command)
                .map_err(|e| Fault::Undecodable(format!("commands[{i}].{e}")))?;
            commands.push(command.ok_or(Fault::UnknownCommand { index: i })?);
        }
        let batch = Self::new(wire.feature_level, commands);
        // Nobody else has seen the batch, so the cell is empty.
        let _ = batch.0.encoded.set(bytes);
        Ok(batch)
    }
}
