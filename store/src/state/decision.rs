//! Decisions: what applying a command answers. A refusal is one of them, never an error of the machine.

use bytes::Bytes;
use prost::Message;
use troika_proto::log::v1 as log;
use troika_proto::wire::{hash, hash_bytes, required};
use troika_proto::{B256, Malformed, v1};
pub use troika_proto::{LockHolder as Holder, Refusal, Winner};

/// A round's number. The first round is 1; numbers are never used twice.
pub type RoundId = u64;

/// Counts the commands that changed the state, one each.
pub type Revision = u64;

/// What a command was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The chain is there; `started` if this command started it.
    ChainStarted {
        /// Hash of block 0.
        genesis_hash: B256,
        /// False: the same genesis was there already.
        started: bool,
    },
    /// The round that the opener asked for.
    Opened {
        /// Its number.
        round: RoundId,
        /// True if this command opened it.
        opened: bool,
    },
    /// All the keys are held.
    Acquired,
    /// The shard is decided: perhaps by this command, perhaps long ago.
    Winner(Winner),
    /// Other shards hold some of the keys: every one of them, ascending.
    Conflict(Vec<Holder>),
    /// The dissent is recorded.
    Noted,
    /// The round is closed, now or since earlier; `Machine::round` says how.
    Closed(RoundId),
    /// Rounds below this one are forgotten.
    Pruned(RoundId),
    /// The feature level in force.
    FeatureLevel(u32),
    /// The revision is raised.
    RevisionRaised,
    /// Nothing changed.
    Refused(Refusal),
}

/// A decision with the machine's revision after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// A state at or after this revision shows what the decision did.
    pub revision: Revision,
    /// The decision.
    pub decision: Decision,
}

impl Answer {
    /// The answers of one batch as they travel from the leader to the member that forwarded it.
    pub fn encode_all(answers: &[Self]) -> Bytes {
        let answers = answers.iter().map(Self::to_wire).collect();
        log::Answers { answers }.encode_to_vec().into()
    }

    /// Reads what [`Answer::encode_all`] wrote.
    ///
    /// # Errors
    /// [`Malformed`] where the bytes are something else.
    pub fn decode_all(bytes: Bytes) -> Result<Vec<Self>, Malformed> {
        let wire = log::Answers::decode(bytes)
            .map_err(|e| Malformed::new("answers", format!("is not protobuf: {e}")))?;
        wire.answers.iter().map(Self::from_wire).collect()
    }

    fn to_wire(&self) -> log::Answer {
        use log::answer::Decision as Wire;
        let decision = match &self.decision {
            Decision::ChainStarted {
                genesis_hash,
                started,
            } => Wire::ChainStarted(log::ChainStarted {
                genesis_hash: hash_bytes(*genesis_hash),
                started: *started,
            }),
            Decision::Opened { round, opened } => Wire::Opened(log::Opened {
                round: *round,
                opened: *opened,
            }),
            Decision::Acquired => Wire::Acquired(true),
            Decision::Winner(winner) => Wire::Winner(winner.into()),
            Decision::Conflict(held) => Wire::Conflict(v1::Conflict {
                held: held.iter().map(Into::into).collect(),
            }),
            Decision::Noted => Wire::Noted(true),
            Decision::Closed(round) => Wire::Closed(*round),
            Decision::Pruned(below) => Wire::Pruned(*below),
            Decision::FeatureLevel(level) => Wire::FeatureLevel(*level),
            Decision::RevisionRaised => Wire::RevisionRaised(true),
            Decision::Refused(refusal) => Wire::Refused(refusal.into()),
        };
        log::Answer {
            revision: self.revision,
            decision: Some(decision),
        }
    }

    fn from_wire(wire: &log::Answer) -> Result<Self, Malformed> {
        use log::answer::Decision as Wire;
        let decision = match required("decision", wire.decision.as_ref())? {
            Wire::ChainStarted(chain) => Decision::ChainStarted {
                genesis_hash: hash("genesis_hash", &chain.genesis_hash)?,
                started: chain.started,
            },
            Wire::Opened(opened) => Decision::Opened {
                round: opened.round,
                opened: opened.opened,
            },
            Wire::Acquired(_) => Decision::Acquired,
            Wire::Winner(winner) => Decision::Winner(Winner::try_from(winner)?),
            Wire::Conflict(conflict) => Decision::Conflict(
                conflict
                    .held
                    .iter()
                    .map(Holder::try_from)
                    .collect::<Result<_, _>>()?,
            ),
            Wire::Noted(_) => Decision::Noted,
            Wire::Closed(round) => Decision::Closed(*round),
            Wire::Pruned(below) => Decision::Pruned(*below),
            Wire::FeatureLevel(level) => Decision::FeatureLevel(*level),
            Wire::RevisionRaised(_) => Decision::RevisionRaised,
            Wire::Refused(refusal) => Decision::Refused(refusal.clone().into()),
        };
        Ok(Self {
            revision: wire.revision,
            decision,
        })
    }
}
