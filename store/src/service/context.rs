//! What all handlers share: the member, deadlines, and the head of every reply.

use super::ahead::Pointers;
use super::limits::{ANSWER_SHARE, ANSWER_TIME, DEFAULT_DEADLINE, MAX_DEADLINE};
use super::room::Room;
use super::status::Fault;
use crate::raft::error::ProposeError;
use crate::raft::{Handle, Proposed};
use crate::runtime::{Instant, Runtime};
use crate::state::{Command, Machine, Submission};
use alloy_primitives::hex;
use std::sync::Arc;
use std::time::Duration;
use tonic::metadata::MetadataMap;
use troika_proto::v1;
use troika_proto::wire::fixed;

/// The member behind the services. Cheap to clone.
#[derive(Clone)]
pub(super) struct Context {
    handle: Handle,
    room: Room,
    pointers: Arc<Pointers>,
}

impl Context {
    pub(super) fn new(handle: Handle) -> Self {
        let room = Room::new();
        Self {
            handle,
            room,
            pointers: Arc::default(),
        }
    }

    /// Whom codes point to.
    pub(super) fn pointers(&self) -> &Pointers {
        &self.pointers
    }

    /// What the services may hold.
    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Looks at this member's applied state. Short: all applying waits for it.
    pub(super) fn read<R>(&self, look: impl FnOnce(&Machine) -> R) -> R {
        self.handle.read(look)
    }

    /// Takes a call in: checks which cluster it means, waits for the state it has seen, and gives its deadline.
    pub(super) async fn admit(
        &self,
        metadata: &MetadataMap,
        meta: Option<&v1::RequestMeta>,
    ) -> Result<Instant, Fault> {
        let deadline = self.deadline(metadata);
        self.admit_until(meta, deadline).await?;
        Ok(deadline)
    }

    /// Until when a call may take.
    pub(super) fn deadline(&self, metadata: &MetadataMap) -> Instant {
        Runtime::now() + patience(metadata)
    }

    /// The same, with a deadline that is known.
    pub(super) async fn admit_until(
        &self,
        meta: Option<&v1::RequestMeta>,
        deadline: Instant,
    ) -> Result<(), Fault> {
        let Some(meta) = meta else { return Ok(()) };
        if !meta.cluster_id.is_empty() {
            let named = fixed::<16>("meta.cluster_id", &meta.cluster_id)?;
            let own = self.handle.cluster_id();
            if named != own {
                return Err(Fault::OtherCluster {
                    named: hex::encode(named),
                    own: hex::encode(own),
                });
            }
        }
        self.reach(meta.min_revision, deadline).await
    }

    /// Waits until this member has applied `revision`.
    pub(super) async fn reach(&self, revision: u64, deadline: Instant) -> Result<(), Fault> {
        match self.handle.wait_revision(revision, deadline).await {
            Ok(()) => Ok(()),
            Err(ProposeError::Deadline) => Err(Fault::Behind {
                wanted: revision,
                own: self.read(Machine::revision),
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes what is read afterwards linearizable, if asked for.
    pub(super) async fn linearize(&self, asked: bool, deadline: Instant) -> Result<(), Fault> {
        if asked {
            self.handle.linearize(deadline).await?;
        }
        Ok(())
    }

    /// Has a command decided.
    pub(super) async fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<Proposed, Fault> {
        let taken = Runtime::now();
        let proposed = self.handle.propose_by(command, deadline).await?;
        metrics::histogram!("troika_commit_seconds").record(Runtime::now() - taken);
        Ok(proposed)
    }

    /// Has a submission decided.
    pub(super) async fn submit(
        &self,
        submission: Submission,
        deadline: Instant,
    ) -> Result<Proposed, Fault> {
        let taken = Runtime::now();
        let proposed = self.handle.submit_by(submission, deadline).await?;
        metrics::histogram!("troika_commit_seconds").record(Runtime::now() - taken);
        Ok(proposed)
    }

    /// The head of a reply from this member's state.
    pub(super) fn meta(&self) -> Option<v1::ReplyMeta> {
        self.look(|_| ()).0
    }

    /// Looks at the state, for a reply whose head names exactly that state: what is not decided in it is not decided at
    /// the head's revision.
    pub(super) fn look<R>(&self, look: impl FnOnce(&Machine) -> R) -> (Option<v1::ReplyMeta>, R) {
        let (position, seen) = self.handle.read_at(look);
        let meta = v1::ReplyMeta {
            leader: position.leader,
            term: position.term,
            log_index: position.log_index,
            revision: position.revision,
            member: position.member,
        };
        (Some(meta), seen)
    }

    /// The head of a reply that tells a decision.
    pub(super) fn meta_of(&self, proposed: &Proposed) -> Option<v1::ReplyMeta> {
        let position = self.handle.position();
        Some(v1::ReplyMeta {
            leader: position.leader,
            term: proposed.term,
            log_index: proposed.log_index,
            revision: proposed.answer.revision,
            member: position.member,
        })
    }
}

/// An answer that no command of this kind can have: a bug, told as one.
pub(super) fn unexpected(proposed: &Proposed) -> Fault {
    let text = format!("this answer makes no sense here: {:?}", proposed.answer);
    ProposeError::Failed(text).into()
}

/// How long a call may take: what its caller allows, less what sending the answer takes.
fn patience(metadata: &MetadataMap) -> Duration {
    let named = metadata
        .get("grpc-timeout")
        .and_then(|value| value.to_str().ok())
        .and_then(parse_timeout)
        .unwrap_or(DEFAULT_DEADLINE)
        .min(MAX_DEADLINE);
    named - (named / ANSWER_SHARE).min(ANSWER_TIME)
}

/// gRPC's own form: up to eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_deadline_is_honoured_and_bounded() {
        let of = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            patience(&metadata)
        };
        assert_eq!(of("1000m"), Duration::from_millis(900));
        assert_eq!(of("5S"), Duration::from_millis(4_750));
        assert_eq!(of("99999999H"), MAX_DEADLINE - ANSWER_TIME);
        for nonsense in ["", "S", "12", "123456789S", "-1S", "1x"] {
            assert_eq!(of(nonsense), patience(&MetadataMap::new()), "{nonsense:?}");
        }
    }
}
