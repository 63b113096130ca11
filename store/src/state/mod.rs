//! The deciding machine: values in, decisions out.
//!
//! Everything that the cluster agrees on is decided here, by [`Machine::apply`], from the log alone. This module has no
//! clock, no randomness, no async, no IO, and never walks a map whose order could differ between members: members that
//! applied the same log index are equal, and their [`StateHash`]es say so.
//!
//! # How it is used
//!
//! - A log entry is a [`Batch`] of [`Command`]s. [`Machine::apply_batch`] answers one [`Answer`] a command. A refusal is
//!   such an answer; a [`Fault`] is not: it means that this member must stop before it differs from the others.
//! - A checkpoint is a [`Generation`]: [`Machine::take_generation`] hands over every record changed since the last one,
//!   cheaply, and [`Generation::changes`] encodes them off the apply thread. [`Machine::load`] makes an equal machine of the
//!   records.
//! - Records are **hot** (in memory, read by `load`) or **cold** (read back by key: bodies of shards, blocks, the index of
//!   transactions). [`Machine::unwritten`] answers what no checkpoint has written yet. See [`records`].
//!
//! # The rules
//!
//! *Decisions are write-once*: a (round, shard) that has a winner has it for ever. Checks come in one order: pruned,
//! unknown, decided (answer: the winner), round closed, wrong kind, conflict (every key with its holder), the diff's own
//! rules, accept. The *revision* counts commands that changed the state; a refused command leaves revision and state hash
//! as they were. Events are ordered by (revision, ordinal).
//!
//! An open round's parent is always held: when a parent's state is folded away, its open rounds become void in the same
//! step (BUILD: `STALE`, VERIFY: `UNAVAILABLE`).

mod accept;
mod batch;
mod command;
mod decision;
mod evidence;
mod fault;
pub mod generation;
pub mod history;
pub mod layers;
pub mod limits;
mod load;
mod machine;
mod open;
mod point_map;
mod query;
pub mod records;
pub mod round;
mod seal;
mod state_hash;
mod submission;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use batch::Batch;
pub use command::{
    AcceptShard, AcquireLocks, Command, OpenRound, OpenTarget, ReportDissent, RoundKind,
    ascending_keys,
};
pub use decision::{Answer, Decision, Holder, Refusal, Revision, RoundId, Winner};
pub use evidence::{Evidence, VoidReason};
pub use fault::Fault;
pub use generation::{Change, Generation};
pub use history::EventId;
pub use layers::{Account, HeldBlock, StateAt};
pub use load::LoadError;
pub use machine::{Chain, Machine};
pub use query::HistoryGone;
pub use records::RecordKey;
pub use round::{Accepted, Dissent, Round, RoundStatus};
pub use state_hash::StateHash;
pub use submission::{Ground, Submission, SubmissionFault};
pub use troika_proto::v1::RefusalCode;
