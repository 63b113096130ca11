//! The service `Cluster`: operating the members.

use super::context::{Context, unexpected};
use super::limits::{DIVERGENCE_LINES, DIVERGENCE_ROUNDS};
use super::parse;
use super::status::Fault;
use crate::raft::error::{AdminError, ProposeError};
use crate::raft::status::MemberInfo;
use crate::runtime::{Instant, Runtime};
use crate::state::{Command, Decision, Dissent, Machine, Round};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status};
use troika_proto::v1::cluster_server::Cluster;
use troika_proto::wire::hash_bytes;
use troika_proto::{Malformed, v1};

/// Longest HOST:PORT that is taken.
const MAX_ADDRESS_BYTES: usize = 300;

/// See the module.
pub(super) struct ClusterService {
    context: Context,
}

impl ClusterService {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    fn members_response(&self) -> v1::MembersResponse {
        let members = self.context.handle().members();
        v1::MembersResponse {
            meta: self.context.meta(),
            members: members.iter().map(member).collect(),
        }
    }

    /// Waits for a change of the members no longer than its caller does. What was begun goes on.
    async fn changed(
        &self,
        change: impl Future<Output = Result<(), AdminError>>,
        deadline: Instant,
    ) -> Result<Response<v1::MembersResponse>, Status> {
        let late = || AdminError::from(ProposeError::Deadline);
        let done = Runtime::timeout_at(deadline, change).await;
        done.unwrap_or_else(|_| Err(late())).map_err(Fault::from)?;
        Ok(Response::new(self.members_response()))
    }
}

fn member(info: &MemberInfo) -> v1::Member {
    v1::Member {
        id: info.id,
        peer_addr: info.peer_addr.clone(),
        client_addr: info.client_addr.clone(),
        voter: info.voter,
        incarnation: Bytes::copy_from_slice(&info.incarnation),
        leader: info.leader,
        matched_index: info.matched_index,
        max_feature_level: info.max_feature_level,
    }
}

fn member_id(field: &str, id: u64) -> Result<u64, Fault> {
    if id == 0 {
        return Err(Malformed::new(field, "is 0: a member's id is at least 1").into());
    }
    Ok(id)
}

/// HOST:PORT.
fn address(field: &str, text: &str) -> Result<String, Fault> {
    let port = text.rsplit_once(':').and_then(|(host, port)| {
        let port = port.parse::<u16>().ok()?;
        (!host.is_empty() && port != 0).then_some(port)
    });
    let plain = text.chars().all(|c| c.is_ascii_graphic() && c != '/');
    if port.is_some() && plain && text.len() <= MAX_ADDRESS_BYTES {
        return Ok(text.to_owned());
    }
    Err(Malformed::new(field, format!("{text:?} is not HOST:PORT")).into())
}

/// Where executors came to another result than was accepted, or than a checked header gives, in recent rounds; one line
/// each, newest last.
fn divergence(machine: &Machine) -> Vec<String> {
    let from = machine.next_round().saturating_sub(DIVERGENCE_ROUNDS);
    let rounds = machine.rounds(from).filter_map(|id| machine.round(id));
    let reports = rounds.flat_map(|round| {
        let report = move |dissent| divergence_line(machine, round, dissent);
        round.dissent.iter().map(report)
    });
    let mut lines: Vec<String> = reports.collect();
    lines.split_off(lines.len().saturating_sub(DIVERGENCE_LINES))
}

/// One report, with who made what was accepted: either of the two may be the one that is wrong.
fn divergence_line(machine: &Machine, round: &Round, dissent: &Dissent) -> String {
    let computed = match dissent.computed {
        Some(hash) => hash.to_string(),
        None => format!("none ({})", dissent.reason),
    };
    let against = match machine.winner_of(round.id, dissent.shard) {
        Some(winner) => format!("{} accepted from {}", winner.shard_hash, winner.executor),
        None => "the header's".to_owned(),
    };
    let (round, shard, executor) = (round.id, dissent.shard, &dissent.executor);
    format!("round {round} shard {shard}: {executor} computes {computed}, not {against}")
}

/// Bytes of memory that this process has in use; 0 where the system does not say.
pub fn resident_bytes() -> u64 {
    const PAGE: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split_whitespace()
        .nth(1)
        .and_then(|p| p.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn init_chain(
        &self,
        request: Request<v1::InitChainRequest>,
    ) -> Result<Response<v1::InitChainResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deadline = self.context.admit(&metadata, request.meta.as_ref()).await?;
        let genesis = parse::init_chain(&request).map_err(Fault::from)?;
        let proposed = self
            .context
            .propose(Command::InitChain(genesis), deadline)
            .await?;
        let mut response = v1::InitChainResponse {
            meta: self.context.meta_of(&proposed),
            ..Default::default()
        };
        match &proposed.answer.decision {
            Decision::ChainStarted {
                genesis_hash,
                started,
            } => {
                response.genesis_hash = hash_bytes(*genesis_hash);
                response.started = *started;
            }
            Decision::Refused(refusal) => response.refusal = Some(refusal.into()),
            _ => return Err(unexpected(&proposed).into()),
        }
        Ok(Response::new(response))
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.context.admit(&metadata, request.meta.as_ref()).await?;
        let handle = self.context.handle();
        let status = handle.status();
        let (state_hash_index, state_hash) = handle.state_hash();
        let (feature_level, open_rounds, divergence) = self.context.read(|m| {
            (
                m.feature_level(),
                m.open_rounds().len() as u64,
                divergence(m),
            )
        });
        Ok(Response::new(v1::StatusResponse {
            meta: self.context.meta(),
            id: status.id,
            cluster_id: Bytes::copy_from_slice(&status.cluster_id),
            incarnation: Bytes::copy_from_slice(&status.incarnation),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: status.role.name().to_owned(),
            last_log_index: status.last_log_index,
            committed_index: status.committed_index,
            applied_index: status.applied_index,
            checkpoint_index: status.checkpoint_index,
            purged_index: status.purged_index,
            state_hash: Bytes::copy_from_slice(&state_hash.to_bytes()),
            state_hash_index,
            log_bytes: status.log_bytes,
            state_bytes: status.state_bytes,
            free_bytes: status.free_bytes,
            feature_level,
            max_feature_level: handle.config().max_feature_level,
            open_rounds,
            resident_bytes: resident_bytes(),
            dirty_bytes: status.dirty_bytes,
            writes_refused: status.writes_refused,
            divergence,
        }))
    }

    async fn members(
        &self,
        request: Request<v1::MembersRequest>,
    ) -> Result<Response<v1::MembersResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deadline = self.context.admit(&metadata, request.meta.as_ref()).await?;
        self.context
            .linearize(request.linearizable, deadline)
            .await?;
        Ok(Response::new(self.members_response()))
    }

    async fn add_learner(
        &self,
        request: Request<v1::AddLearnerRequest>,
    ) -> Result<Response<v1::MembersResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deadline = self.context.admit(&metadata, request.meta.as_ref()).await?;
        let id = member_id("id", request.id)?;
        let peer = address("peer_addr", &request.peer_addr)?;
        let client = address("client_addr", &request.client_addr)?;
        let change = self.context.handle().add_learner(id, peer, client);
        self.changed(change, deadline).await
    }

    async fn promote(
        &self,
        request: Request<v1::PromoteRequest>,
    ) -> Result<Response<v1::MembersResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deadline = self.context.admit(&metadata, request.meta.as_ref()).await?;
        let id = member_id("id", request.id)?;
        let change = self.context.handle().promote(id);
        self.changed(change, deadline).await
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveRequest>,
    ) -> Result<Response<v1::MembersResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deadline = self.context.admit(&metadata, request.meta.as_ref()).await?;
        let id = member_id("id", request.id)?;
        let change = self.context.handle().remove(id);
        self.changed(change, deadline).await
    }

    async fn transfer_leadership(
        &self,
        request: Request<v1::TransferLeadershipRequest>,
    ) -> Result<Response<v1::MembersResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deadline = self.context.admit(&metadata, request.meta.as_ref()).await?;
        let change = self.context.handle().transfer_leadership(request.to);
        self.changed(change, deadline).await
    }

    async fn prune(
        &self,
        request: Request<v1::PruneRequest>,
    ) -> Result<Response<v1::PruneResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deadline = self.context.admit(&metadata, request.meta.as_ref()).await?;
        let command = Command::Prune {
            below_round: request.below_round,
        };
        let proposed = self.context.propose(command, deadline).await?;
        match &proposed.answer.decision {
            Decision::Pruned(below) => Ok(Response::new(v1::PruneResponse {
                meta: self.context.meta_of(&proposed),
                pruned_below: *below,
            })),
            Decision::Refused(refusal) => Err(Fault::Precondition(refusal.message.clone()).into()),
            _ => Err(unexpected(&proposed).into()),
        }
    }

    type BackupStream = BoxStream<'static, Result<v1::BackupChunk, Status>>;

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.context.admit(&metadata, request.meta.as_ref()).await?;
        let share = self.context.room().backups.take(1)?;
        let snapshot = self.context.handle().backup().await;
        let snapshot =
            snapshot.map_err(|e| Fault::Damaged(format!("no copy can be made here: {e}")))?;
        // Frames are read as the caller takes them: one is in memory at a time.
        let state = (snapshot, share);
        let frames = futures::stream::try_unfold(state, |(mut snapshot, share)| async move {
            let frame = snapshot.next_frame().await;
            let frame = frame.map_err(|e| Fault::Damaged(format!("the copy broke off: {e}")))?;
            Ok(frame.map(|data| (v1::BackupChunk { data }, (snapshot, share))))
        });
        Ok(Response::new(frames.boxed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["10.0.0.1:7001", "store-1.example:7001", "[::1]:7001"] {
            assert!(address("peer_addr", good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "host",
            ":1",
            "host:0",
            "host:99999",
            "http://host:1",
            "a b:1",
        ] {
            let error = address("peer_addr", bad).unwrap_err();
            assert!(error.to_string().starts_with("peer_addr"), "{error}");
        }
    }
}
