//! openraft's network over ours: one [`Link`] per target and purpose, each on a lane of its own.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream::{BoxStream, StreamExt};
use futures::{FutureExt, Stream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use troika_proto::member::v1::refused::Code;

use super::config::APPEND_STALL;
use super::network::{Incoming, Kind, Lane, MemberId, NetworkError};
use super::peers::{CallError, Peer, Peers, open};
use super::types::{MemberNode, Snapshot, TypeConfig, Vote};
use super::{snapshot, wire};
use crate::raft::machine_store::SnapshotData;
use crate::runtime::Runtime;

type RpcError = RPCError<TypeConfig>;
type Appended = Result<StreamAppendResult<TypeConfig>, RpcError>;

/// Makes links.
#[derive(Clone)]
pub struct Links {
    peers: Peers,
}

impl Links {
    /// Links over these peers.
    pub fn new(peers: Peers) -> Self {
        Self { peers }
    }

    fn link(&self, target: MemberId, node: &MemberNode, lane: Lane) -> Link {
        Link {
            peers: self.peers.clone(),
            peer: Peer::new(target, node),
            lane,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: MemberId, node: &MemberNode) -> Link {
        self.link(target, node, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: MemberId, node: &MemberNode) -> Link {
        self.link(target, node, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: MemberId, node: &MemberNode) -> Link {
        self.link(target, node, Lane::Snapshot)
    }
}

/// The way from this member to one other.
pub struct Link {
    peers: Peers,
    peer: Peer,
    lane: Lane,
}

/// Everything that keeps a message from being answered makes openraft back off.
fn unreachable(error: CallError) -> RpcError {
    match &error {
        // It starts or stops.
        CallError::Refused { refused, .. } if refused.code() == Code::NotReady => {
            tracing::debug!(%error, "a member is not ready for our messages");
        }
        CallError::Refused { .. } => tracing::warn!(%error, "a member refuses our messages"),
        _ => {}
    }
    RPCError::Unreachable(Unreachable::from_string(error))
}

impl Link {
    async fn call<A>(
        &self,
        kind: Kind,
        payload: bytes::Bytes,
        option: &RPCOption,
        read: impl FnOnce(bytes::Bytes) -> Result<A, wire::Unreadable>,
    ) -> Result<A, RpcError> {
        // Votes and the like are urgent whatever this link was made for.
        let lane = Lane::Control;
        let answer = self
            .peers
            .call(&self.peer, lane, kind, payload, option.soft_ttl());
        let answer = answer.await.map_err(unreachable)?;
        read(answer).map_err(|error| unreachable(super::peers::nonsense(&self.peer, error)))
    }

    async fn append(
        &self,
        request: &AppendEntriesRequest<TypeConfig>,
        option: &RPCOption,
    ) -> Appended {
        self.call(
            Kind::Append,
            wire::append_to(request),
            option,
            wire::appended_from,
        )
        .await
    }

    /// Requests go out as they come, answers come back in the same order.
    async fn pipeline<'s, S>(&'s self, input: S) -> Result<BoxStream<'s, Appended>, RpcError>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let (peers, peer) = (self.peers.clone(), self.peer.clone());
        let unanswered = Arc::new(AtomicU64::new(0));
        let counter = unanswered.clone();
        let outgoing = input.map(move |request| {
            counter.fetch_add(1, Ordering::Relaxed);
            peers.envelope(&peer, Kind::Append, wire::append_to(&request))
        });
        let opening = self.peers.stream(&self.peer, self.lane, outgoing.boxed());
        let incoming = match Runtime::timeout(APPEND_STALL, opening).await {
            Ok(incoming) => incoming.map_err(unreachable)?,
            Err(_) => return Err(self.stalled()),
        };
        let state = Some((incoming, unanswered));
        let answers = futures::stream::unfold(state, move |state| async move {
            let (mut incoming, unanswered) = state?;
            match self.next(&mut incoming, &unanswered).await? {
                Ok(answer) => Some((Ok(answer), Some((incoming, unanswered)))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(answers.boxed())
    }

    /// The next answer; an error once something has been unanswered for too long.
    async fn next(&self, incoming: &mut Incoming, unanswered: &AtomicU64) -> Option<Appended> {
        let answer = loop {
            let waiting = unanswered.load(Ordering::Relaxed) > 0;
            match Runtime::timeout(APPEND_STALL, incoming.next()).await {
                Ok(answer) => break answer?,
                Err(_) if waiting => return Some(Err(self.stalled())),
                Err(_) => {}
            }
        };
        unanswered.fetch_sub(1, Ordering::Relaxed);
        let payload = answer
            .map_err(CallError::from)
            .and_then(|answer| open(&self.peer, Kind::Append, answer));
        let read = payload.and_then(|payload| {
            let read = wire::appended_from(payload);
            read.map_err(|error| super::peers::nonsense(&self.peer, error))
        });
        Some(read.map_err(unreachable))
    }

    fn stalled(&self) -> RpcError {
        unreachable(CallError::Network(NetworkError::Timeout {
            address: self.peer.address.clone(),
            timeout: APPEND_STALL,
        }))
    }
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        Ok(self.append(&request, &option).await?.into())
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> futures::future::BoxFuture<'s, Result<BoxStream<'s, Appended>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        if self.lane == Lane::Append {
            return self.pipeline(input).boxed();
        }
        // Heartbeats come one by one: a call each, so that none waits behind an answer that will not come.
        async move {
            let mut answers = VecDeque::new();
            while let Some(request) = input.next().await {
                answers.push_back(self.append(&request, &option).await);
            }
            Ok(futures::stream::iter(answers).boxed())
        }
        .boxed()
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let payload = wire::vote_request_to(&request);
        self.call(Kind::Vote, payload, &option, wire::vote_reply_from)
            .await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let payload = wire::vote_request_to(&request);
        self.call(Kind::PreVote, payload, &option, wire::vote_reply_from)
            .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let sending = snapshot::send(&self.peers, &self.peer, vote, snapshot);
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = sending => Ok(SnapshotResponse::new(sent.map_err(unreachable)?)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let payload = wire::transfer_to(&request);
        self.call(
            Kind::TransferLeader,
            payload,
            &option,
            wire::transferred_from,
        )
        .await
    }
}
