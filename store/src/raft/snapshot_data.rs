//! A snapshot on its way out or in. Both sides hold a frame of at most a mebibyte in memory, never the state.

use std::sync::Arc;

use bytes::Bytes;

use super::{codec, types::SnapshotMeta};
use crate::{
    db::{
        DbError, Files, Received, SnapshotError, SnapshotReader, SnapshotWriter,
        snapshot::check_cluster,
    },
    runtime::Runtime,
};

/// What openraft hands to the network and to `install_snapshot`.
pub enum SnapshotData {
    /// A checkpoint of this member, to be read frame by frame.
    Outgoing(Outgoing),
    /// A complete state file that came from another member.
    Incoming(Received),
}

impl SnapshotData {
    /// The next frame to send, at most 1 MiB; None after the last.
    pub async fn next_frame(&mut self) -> Result<Option<Bytes>, DbError> {
        match self {
            Self::Outgoing(outgoing) => outgoing.next_frame().await,
            Self::Incoming(_) => Ok(None),
        }
    }
}

/// The reader of a checkpoint; away while a blocking job has it, and for good if the wait for that job was given up.
pub struct Outgoing(Option<Box<SnapshotReader>>);

impl Outgoing {
    pub(super) fn new(reader: SnapshotReader) -> Self {
        Self(Some(Box::new(reader)))
    }

    async fn next_frame(&mut self) -> Result<Option<Bytes>, DbError> {
        let Some(mut reader) = self.0.take() else {
            return Err(DbError::Closed {
                file: "the snapshot".to_owned(),
            });
        };
        let (reader, frame) = Runtime::spawn_blocking(move || {
            let frame = reader.next_frame();
            (reader, frame)
        })
        .await;
        self.0 = Some(reader);
        frame
    }
}

impl std::fmt::Debug for SnapshotData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Outgoing(_) => f.write_str("Outgoing"),
            Self::Incoming(received) => f.debug_tuple("Incoming").field(received).finish(),
        }
    }
}

/// Takes a snapshot in, checked as it comes.
pub struct SnapshotReceiver {
    /// None after an error: nothing more is taken then.
    writer: Option<Box<SnapshotWriter>>,
    cluster: Option<[u8; 16]>,
}

impl SnapshotReceiver {
    /// Begins a file for a snapshot of `cluster` (None: any).
    pub(super) async fn new(
        files: Arc<dyn Files>,
        cluster: Option<[u8; 16]>,
    ) -> Result<Self, DbError> {
        let writer = Runtime::spawn_blocking(move || SnapshotWriter::new(files)).await?;
        Ok(Self {
            writer: Some(Box::new(writer)),
            cluster,
        })
    }

    /// Takes the next bytes, cut anywhere. After an error nothing more is taken.
    pub async fn push(&mut self, bytes: Bytes) -> Result<(), SnapshotError> {
        let (mut writer, cluster) = (self.taken()?, self.cluster);
        let writer = Runtime::spawn_blocking(move || {
            let known = writer.head().is_some();
            writer.push(&bytes)?;
            if let (false, Some(head), Some(cluster)) = (known, writer.head(), cluster) {
                check_cluster(head, cluster)?;
            }
            Ok::<_, SnapshotError>(writer)
        })
        .await?;
        self.writer = Some(writer);
        Ok(())
    }

    /// The stream is over: what to install, if it is whole.
    pub async fn finish(mut self) -> Result<(SnapshotMeta, SnapshotData), SnapshotError> {
        let writer = self.taken()?;
        let received = Runtime::spawn_blocking(move || writer.finish()).await?;
        let meta = codec::decode_meta(&received.head.applied)
            .map_err(|error| SnapshotError::Damaged(error.to_string()))?;
        Ok((meta, SnapshotData::Incoming(received)))
    }

    fn taken(&mut self) -> Result<Box<SnapshotWriter>, SnapshotError> {
        let gone = || SnapshotError::Damaged("it failed before".to_owned());
        self.writer.take().ok_or_else(gone)
    }
}

/// Copies a checkpoint of this process into a new state file. Blocks.
pub(super) fn copy(outgoing: Outgoing, files: Arc<dyn Files>) -> Result<Received, SnapshotError> {
    let Some(mut reader) = outgoing.0 else {
        return Err(SnapshotError::Damaged(
            "its reading was given up".to_owned(),
        ));
    };
    let mut writer = SnapshotWriter::new(files)?;
    while let Some(frame) = reader.next_frame()? {
        writer.push(&frame)?;
    }
    writer.finish()
}
