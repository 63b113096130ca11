//! A whole state on its way to a member that is too far behind for the log.
//!
//! The sender reads frames from a checkpoint, which writers do not disturb, and sends each as one message; the receiver
//! checks and writes it before it acknowledges. A handful is under way at once, so neither side holds more than that.
//! What breaks off begins anew. The receiver replaces nothing before the end was seen and every sum was right.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use prost::Message;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use troika_proto::member::v1::{self as wire, refused::Code};

use super::codec;
use super::config::{SNAPSHOT_FRAMES_IN_FLIGHT, SNAPSHOT_INSTALL, SNAPSHOT_STALL};
use super::core::Core;
use super::machine_store::{SnapshotData, SnapshotReceiver};
use super::network::{Envelope, Incoming, Kind, Lane, NetworkError};
use super::peers::{CallError, Peer, Peers, nonsense, open};
use super::types::{Snapshot, Vote};
use super::wire::decode;
use crate::runtime::Runtime;

/// Sends a state and waits until it is installed. Answers the receiver's vote.
pub async fn send(
    peers: &Peers,
    peer: &Peer,
    vote: Vote,
    snapshot: Snapshot,
) -> Result<Vote, CallError> {
    let (messages, outgoing) = mpsc::channel(SNAPSHOT_FRAMES_IN_FLIGHT);
    let window = Arc::new(Semaphore::new(SNAPSHOT_FRAMES_IN_FLIGHT));
    let opening = peers.stream(peer, Lane::Snapshot, ReceiverStream::new(outgoing).boxed());
    let started = Runtime::now();
    let complete = AtomicBool::new(false);
    let begin = wire::SnapshotBegin {
        vote: Some(codec::vote_to_wire(&vote)),
    };
    let feeding = feed(
        peers,
        peer,
        begin,
        snapshot.snapshot,
        messages,
        window.clone(),
        &complete,
    );
    let answers = async {
        let answered = async {
            let incoming = Runtime::timeout(SNAPSHOT_STALL, opening).await;
            let incoming = incoming.map_err(|_| stalled(peer, SNAPSHOT_STALL))??;
            await_installed(peer, incoming, &window, &complete).await
        };
        let answered = answered.await;
        // However it ended, nothing more is to be sent: who waits for a place in the window must not wait for ever.
        window.close();
        answered
    };
    // Both run: the answers open the window for the frames.
    let (fed, answered) = futures::future::join(feeding, answers).await;
    let sent = fed?;
    let vote = answered?;
    let took = Runtime::now() - started;
    metrics::histogram!("troika_snapshot_seconds", "direction" => "sent").record(took);
    tracing::info!(
        member = peer.id,
        bytes = sent,
        ms = took.as_millis() as u64,
        "snapshot sent"
    );
    Ok(vote)
}

fn stalled(peer: &Peer, timeout: std::time::Duration) -> CallError {
    CallError::Network(NetworkError::Timeout {
        address: peer.address.clone(),
        timeout,
    })
}

/// Hands frames to the stream as the window allows. Ends early when the other side has gone.
async fn feed(
    peers: &Peers,
    peer: &Peer,
    begin: wire::SnapshotBegin,
    mut data: SnapshotData,
    messages: mpsc::Sender<Envelope>,
    window: Arc<Semaphore>,
    complete: &AtomicBool,
) -> Result<u64, CallError> {
    let mut sent = 0;
    let envelope = |kind, payload| peers.envelope(peer, kind, payload);
    let payload = begin.encode_to_vec().into();
    if messages
        .send(envelope(Kind::SnapshotBegin, payload))
        .await
        .is_err()
    {
        return Ok(sent);
    }
    loop {
        let Ok(permit) = window.acquire().await else {
            return Ok(sent);
        };
        permit.forget();
        let frame = data.next_frame().await;
        let message = match frame.map_err(|error| nonsense(peer, error))? {
            Some(data) => {
                let offset = sent;
                sent += data.len() as u64;
                let chunk = wire::SnapshotChunk { offset, data };
                envelope(Kind::SnapshotChunk, chunk.encode_to_vec().into())
            }
            None => {
                complete.store(true, Ordering::Relaxed);
                let end = wire::SnapshotEnd { bytes: sent };
                let _ = messages
                    .send(envelope(Kind::SnapshotEnd, end.encode_to_vec().into()))
                    .await;
                return Ok(sent);
            }
        };
        if messages.send(message).await.is_err() {
            return Ok(sent);
        }
    }
}

/// Reads acknowledgements until the one that says "installed". Installing takes longer than taking a piece.
async fn await_installed(
    peer: &Peer,
    mut incoming: Incoming,
    window: &Semaphore,
    complete: &AtomicBool,
) -> Result<Vote, CallError> {
    loop {
        let is_complete = complete.load(Ordering::Relaxed);
        let patience = match is_complete {
            true => SNAPSHOT_INSTALL,
            false => SNAPSHOT_STALL,
        };
        let Ok(answer) = Runtime::timeout(patience, incoming.next()).await else {
            if complete.load(Ordering::Relaxed) != is_complete {
                continue;
            }
            return Err(stalled(peer, patience));
        };
        let answer = answer.ok_or_else(|| nonsense(peer, "the stream ended early"))??;
        let kind = match Kind::from_number(answer.kind) {
            Some(kind @ (Kind::SnapshotBegin | Kind::SnapshotChunk | Kind::SnapshotEnd)) => kind,
            _ => Kind::SnapshotChunk,
        };
        let reply: wire::SnapshotReply =
            decode(open(peer, kind, answer)?).map_err(|error| nonsense(peer, error))?;
        if !reply.failed.is_empty() {
            return Err(nonsense(peer, reply.failed));
        }
        if let Some(vote) = reply.vote {
            return Ok(codec::vote_from_wire(&vote));
        }
        if kind == Kind::SnapshotChunk {
            window.add_permits(1);
        }
    }
}

/// What the receiver has so far.
struct Receiving {
    core: Arc<Core>,
    head: Envelope,
    vote: Vote,
    receiver: Option<SnapshotReceiver>,
    received: u64,
    started: crate::runtime::Instant,
}

/// Takes a state in: answers every message of the stream.
pub fn receive(
    core: Arc<Core>,
    first: Envelope,
    rest: BoxStream<'static, Envelope>,
) -> BoxStream<'static, Envelope> {
    let opening = async move {
        let mut receiving = match Receiving::begin(core.clone(), first.clone()).await {
            Ok(receiving) => receiving,
            Err(error) => {
                let refusal = core
                    .peers
                    .identity()
                    .refuse(&first, Code::NotReady, error, None);
                return futures::stream::iter([refusal]).boxed();
            }
        };
        let begun = receiving.reply(Kind::SnapshotBegin, Ok(None));
        let state = Some((receiving, rest));
        let answers = futures::stream::unfold(state, |state| async move {
            let (mut receiving, mut rest) = state?;
            let message = rest.next().await?;
            let (answer, more) = receiving.step(message).await;
            Some((answer, more.then_some((receiving, rest))))
        });
        futures::stream::iter([begun]).chain(answers).boxed()
    };
    futures::stream::once(opening).flatten().boxed()
}

impl Receiving {
    async fn begin(core: Arc<Core>, head: Envelope) -> Result<Self, String> {
        let begin: wire::SnapshotBegin =
            decode(head.payload.clone()).map_err(|error| error.to_string())?;
        let vote = begin.vote.as_ref().ok_or("a snapshot without a vote")?;
        let receiver = core.shared.receive().await;
        tracing::info!(from = head.from, "a snapshot begins");
        Ok(Self {
            vote: codec::vote_from_wire(vote),
            receiver: Some(receiver.map_err(|error| error.to_string())?),
            received: 0,
            started: Runtime::now(),
            core,
            head,
        })
    }

    fn reply(&mut self, kind: Kind, done: Result<Option<Vote>, String>) -> Envelope {
        let (vote, failed) = match done {
            Ok(vote) => (vote, String::new()),
            Err(failed) => (None, failed),
        };
        let reply = wire::SnapshotReply {
            received: self.received,
            vote: vote.as_ref().map(codec::vote_to_wire),
            failed,
        };
        self.core.peers.identity().answer(&self.head, kind, &reply)
    }

    /// The answer to a message, and whether more may come.
    async fn step(&mut self, message: Envelope) -> (Envelope, bool) {
        let kind = Kind::from_number(message.kind);
        let (kind, done) = match kind {
            Some(Kind::SnapshotEnd) => (Kind::SnapshotEnd, self.install(message.payload).await),
            _ => (Kind::SnapshotChunk, self.take(kind, message.payload).await),
        };
        if let Err(error) = &done {
            tracing::warn!(from = self.head.from, %error, "snapshot not taken");
        }
        let more = matches!(done, Ok(None));
        (self.reply(kind, done), more)
    }

    async fn take(&mut self, kind: Option<Kind>, payload: Bytes) -> Result<Option<Vote>, String> {
        if kind != Some(Kind::SnapshotChunk) {
            return Err("a message that does not belong into a snapshot".into());
        }
        let chunk: wire::SnapshotChunk = decode(payload).map_err(|error| error.to_string())?;
        if chunk.offset != self.received {
            return Err(format!(
                "a piece at {} where {} was expected",
                chunk.offset, self.received
            ));
        }
        let receiver = self.receiver.as_mut().ok_or("the snapshot is complete")?;
        self.received += chunk.data.len() as u64;
        receiver
            .push(chunk.data)
            .await
            .map_err(|error| error.to_string())?;
        Ok(None)
    }

    async fn install(&mut self, payload: Bytes) -> Result<Option<Vote>, String> {
        let end: wire::SnapshotEnd = decode(payload).map_err(|error| error.to_string())?;
        if end.bytes != self.received {
            return Err(format!("{} bytes of {} arrived", self.received, end.bytes));
        }
        let receiver = self.receiver.take().ok_or("the snapshot is complete")?;
        let (meta, snapshot) = receiver.finish().await.map_err(|error| error.to_string())?;
        let snapshot = Snapshot { meta, snapshot };
        let installed = self
            .core
            .raft
            .install_full_snapshot(self.vote, snapshot)
            .await;
        let response = installed.map_err(|error| error.to_string())?;
        let took = Runtime::now() - self.started;
        metrics::histogram!("troika_snapshot_seconds", "direction" => "received").record(took);
        tracing::info!(
            from = self.head.from,
            bytes = self.received,
            "snapshot installed"
        );
        Ok(Some(response.vote))
    }
}
