//! The state machine as openraft sees it: apply, snapshots, install. What all of it shares is [`Shared`].

use std::{io, sync::Arc};

use futures::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend,
    entry::RaftEntry,
    storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine},
};

use super::types::{Decisions, Entry, LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
pub use super::{
    shared::{Shared, StateHashes},
    snapshot_data::{SnapshotData, SnapshotReceiver},
};
use crate::limits::APPLY_ENTRIES;

/// openraft's state machine. openraft owns the one value; everybody else has its [`Shared`].
pub struct MachineStore {
    shared: Arc<Shared>,
}

impl MachineStore {
    /// The state machine over what is shared. One per member.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl RaftStateMachine<TypeConfig> for MachineStore {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let meta = self.shared.meta();
        Ok((meta.last_log_id, meta.last_membership))
    }

    /// Applies in memory; what is written to disk later is the checkpoint's business. Entries that are there together are
    /// applied under one lock, and nobody hears of any before it is released.
    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunks = entries.ready_chunks(APPLY_ENTRIES);
        while let Some(chunk) = chunks.next().await {
            self.shared.room_to_apply().await?;
            let mut entries = Vec::with_capacity(chunk.len());
            let mut responders = Vec::with_capacity(chunk.len());
            for item in chunk {
                let (entry, responder) = item?;
                entries.push(entry);
                responders.push(responder);
            }
            let decisions = self.shared.apply(&entries)?;
            respond(responders, decisions);
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        Some(SnapshotBuilder {
            shared: self.shared.clone(),
            fresh: force,
        })
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            shared: self.shared.clone(),
            fresh: true,
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        self.shared.install(meta, snapshot).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        self.shared.snapshot().await
    }
}

fn respond(responders: Vec<Option<ApplyResponder<TypeConfig>>>, decisions: Vec<Decisions>) {
    for (responder, decisions) in responders.into_iter().zip(decisions) {
        if let Some(responder) = responder {
            responder.send(decisions);
        }
    }
}

/// A snapshot is the checkpoint itself: building one makes sure that there is one, and opens it.
pub struct SnapshotBuilder {
    shared: Arc<Shared>,
    /// True: of the state as it is now. False: the newest checkpoint will do.
    fresh: bool,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        if !self.fresh
            && let Some(snapshot) = self.shared.snapshot().await?
        {
            return Ok(snapshot);
        }
        self.shared.checkpoint().await?;
        let snapshot = self.shared.snapshot().await?;
        snapshot.ok_or_else(|| io::Error::other("there is no checkpoint after a checkpoint"))
    }
}

/// An entry's part for the machine.
pub(super) enum Effect<'a> {
    /// A new leader's first entry.
    Nothing,
    Commands(&'a crate::state::Batch),
    Membership(StoredMembership),
}

pub(super) fn effect(entry: &Entry) -> Effect<'_> {
    match &entry.payload {
        EntryPayload::Blank => Effect::Nothing,
        EntryPayload::Normal(batch) => Effect::Commands(batch),
        EntryPayload::Membership(membership) => Effect::Membership(StoredMembership::new(
            Some(entry.log_id()),
            membership.clone(),
        )),
    }
}
