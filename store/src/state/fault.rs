//! What stops a member.

/// The machine cannot go on without differing from the other members: the member must stop. Never a refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The entry is for newer members.
    #[error(
        "the log needs feature level {needed}, this member understands {understood}: upgrade it"
    )]
    FeatureLevel {
        /// The level that the entry names.
        needed: u32,
        /// The highest that this member goes along with.
        understood: u32,
    },
    /// A command of a kind that this program does not know.
    #[error(
        "the log holds a command that this program does not know (number {index} of its entry): upgrade this member"
    )]
    UnknownCommand {
        /// Index in the batch.
        index: usize,
    },
    /// The entry's bytes are not what was written.
    #[error("a log entry cannot be decoded: {0}")]
    Undecodable(String),
    /// A counter ran out.
    #[error("the revision cannot rise further")]
    RevisionExhausted,
}
