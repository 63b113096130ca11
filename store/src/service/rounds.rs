//! The service `Rounds`.

use super::context::{Context, unexpected};
use super::limits::{DEFAULT_LIST_LOCKS, DEFAULT_LIST_ROUNDS};
use super::status::Fault;
use super::{parse, submit, watch};
use crate::runtime::Instant;
use crate::state::{Command, Decision, Machine, Refusal, RefusalCode, RoundId, RoundStatus};
use futures::stream::BoxStream;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};
use troika_proto::limits::{MAX_LIST_LOCKS, MAX_LIST_ROUNDS};
use troika_proto::v1::rounds_server::Rounds;
use troika_proto::{LockKey, Malformed, v1};

type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// See the module.
pub(super) struct RoundsService {
    context: Context,
}

impl RoundsService {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    async fn open_round(
        &self,
        request: &v1::OpenRoundRequest,
        deadline: Instant,
    ) -> Result<v1::OpenRoundResponse, Fault> {
        let command = parse::open_round(request)?;
        let proposed = self.context.propose(command, deadline).await?;
        let mut response = v1::OpenRoundResponse {
            meta: self.context.meta_of(&proposed),
            ..Default::default()
        };
        match &proposed.answer.decision {
            Decision::Opened { round, opened } => {
                response.opened = *opened;
                let revision = proposed.answer.revision;
                response.round = Some(self.round_at(*round, revision, deadline).await?);
            }
            Decision::Refused(refusal) => response.refusal = Some(refusal.into()),
            _ => return Err(unexpected(&proposed)),
        }
        Ok(response)
    }

    async fn take_locks(
        &self,
        request: &v1::AcquireLocksRequest,
        deadline: Instant,
    ) -> Result<v1::AcquireLocksResponse, Fault> {
        use v1::acquire_locks_response::Outcome;
        let command = Command::AcquireLocks(parse::acquire_locks(request)?);
        let proposed = self.context.propose(command, deadline).await?;
        let outcome = match &proposed.answer.decision {
            Decision::Acquired => Outcome::Acquired(true),
            Decision::Conflict(held) => Outcome::Conflict(v1::Conflict {
                held: held.iter().map(Into::into).collect(),
            }),
            Decision::Winner(winner) => Outcome::Winner(winner.into()),
            Decision::Refused(refusal) => Outcome::Refusal(refusal.into()),
            _ => return Err(unexpected(&proposed)),
        };
        Ok(v1::AcquireLocksResponse {
            meta: self.context.meta_of(&proposed),
            outcome: Some(outcome),
        })
    }

    async fn dissent(
        &self,
        request: v1::ReportDissentRequest,
        deadline: Instant,
    ) -> Result<v1::ReportDissentResponse, Fault> {
        use v1::report_dissent_response::Outcome;
        let report = parse::report_dissent(request)?;
        let command = Command::ReportDissent(Arc::new(report));
        let proposed = self.context.propose(command, deadline).await?;
        let outcome = match &proposed.answer.decision {
            Decision::Noted => Outcome::Noted(true),
            Decision::Winner(winner) => Outcome::Winner(winner.into()),
            Decision::Refused(refusal) => Outcome::Refusal(refusal.into()),
            _ => return Err(unexpected(&proposed)),
        };
        Ok(v1::ReportDissentResponse {
            meta: self.context.meta_of(&proposed),
            outcome: Some(outcome),
        })
    }

    /// Closes a round and gives it as it is then, or why it is not closed. A closed round is answered from here.
    async fn close(
        &self,
        round: RoundId,
        command: Command,
        deadline: Instant,
    ) -> Result<(Option<v1::ReplyMeta>, Result<v1::Round, Refusal>), Fault> {
        let closed = self.context.read(|m| {
            let is_open = m.round(round)?.status == RoundStatus::Open;
            if is_open {
                None
            } else {
                m.round_to_wire(round, true)
            }
        });
        if let Some(closed) = closed {
            return Ok((self.context.meta(), Ok(closed)));
        }
        let proposed = self.context.propose(command, deadline).await?;
        let meta = self.context.meta_of(&proposed);
        match &proposed.answer.decision {
            Decision::Closed(round) => {
                let revision = proposed.answer.revision;
                Ok((meta, Ok(self.round_at(*round, revision, deadline).await?)))
            }
            Decision::Refused(refusal) => Ok((meta, Err(refusal.clone()))),
            _ => Err(unexpected(&proposed)),
        }
    }

    /// A round as this member knows it at or after a revision.
    async fn round_at(
        &self,
        round: RoundId,
        revision: u64,
        deadline: Instant,
    ) -> Result<v1::Round, Fault> {
        self.context.reach(revision, deadline).await?;
        self.context.read(|m| find(m, round, true))
    }
}

/// A round, or why there is none.
fn find(machine: &Machine, round: RoundId, with_winners: bool) -> Result<v1::Round, Fault> {
    machine
        .round_to_wire(round, with_winners)
        .ok_or_else(|| no_round(machine, round))
}

/// Why there is no such round.
pub(super) fn no_round(machine: &Machine, round: RoundId) -> Fault {
    // The machine's own words: no round is like no shard of it.
    match machine.decided(round, 0) {
        Err(refusal) => missing(refusal),
        Ok(_) => Fault::NotFound(format!("there is no round {round}")),
    }
}

/// A refusal about what a read asks for, as a fault.
pub(super) fn missing(refusal: Refusal) -> Fault {
    match refusal.code {
        RefusalCode::NoChain => Fault::NoChain,
        RefusalCode::Pruned => Fault::Pruned(refusal.message),
        _ => Fault::NotFound(refusal.message),
    }
}

/// What a page may hold: the limit asked for, or the usual one.
fn page_size(asked: u32, usual: u32, most: u32) -> Result<usize, Fault> {
    if asked > most {
        let problem = format!("is {asked}, the limit is {most}");
        return Err(Malformed::new("limit", problem).into());
    }
    Ok(if asked == 0 { usual } else { asked } as usize)
}

#[tonic::async_trait]
impl Rounds for RoundsService {
    async fn open(
        &self,
        request: Request<v1::OpenRoundRequest>,
    ) -> Result<Response<v1::OpenRoundResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deadline = self.context.admit(&metadata, request.meta.as_ref()).await?;
        Ok(Response::new(self.open_round(&request, deadline).await?))
    }

    async fn submit(
        &self,
        request: Request<v1::SubmitRequest>,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deadline = self.context.deadline(&metadata);
        let response = submit::submit(&self.context, request, deadline).await?;
        Ok(Response::new(response))
    }

    type SubmitStreamStream = Answers<v1::SubmitStreamResponse>;

    async fn submit_stream(
        &self,
        request: Request<Streaming<v1::SubmitRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        let incoming = request.into_inner();
        let answers = submit::stream(self.context.clone(), incoming)?;
        Ok(Response::new(answers))
    }

    async fn acquire_locks(
        &self,
        request: Request<v1::AcquireLocksRequest>,
    ) -> Result<Response<v1::AcquireLocksResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deadline = self.context.admit(&metadata, request.meta.as_ref()).await?;
        Ok(Response::new(self.take_locks(&request, deadline).await?))
    }

    async fn get(
        &self,
        request: Request<v1::GetRoundRequest>,
    ) -> Result<Response<v1::GetRoundResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deadline = self.context.admit(&metadata, request.meta.as_ref()).await?;
        self.context
            .linearize(request.linearizable, deadline)
            .await?;
        let (mut meta, mut round) = self.context.look(|m| find(m, request.round, true));
        if let Err(Fault::NotFound(_)) = round {
            // This member may lag behind the one that told the caller of the round: only the quorum knows.
            self.context.linearize(true, deadline).await?;
            (meta, round) = self.context.look(|m| find(m, request.round, true));
        }
        Ok(Response::new(v1::GetRoundResponse {
            meta,
            round: Some(round?),
        }))
    }

    async fn list(
        &self,
        request: Request<v1::ListRoundsRequest>,
    ) -> Result<Response<v1::ListRoundsResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deadline = self.context.admit(&metadata, request.meta.as_ref()).await?;
        let limit = page_size(request.limit, DEFAULT_LIST_ROUNDS, MAX_LIST_ROUNDS)?;
        self.context
            .linearize(request.linearizable, deadline)
            .await?;
        let (meta, rounds) = self.context.look(|m| {
            let wire = |id| m.round_to_wire(id, false);
            if request.open_only {
                let open = m.open_rounds().filter(|id| *id >= request.from);
                return open.take(limit).filter_map(wire).collect();
            }
            m.rounds(request.from)
                .take(limit)
                .filter_map(wire)
                .collect()
        });
        Ok(Response::new(v1::ListRoundsResponse { meta, rounds }))
    }

    async fn list_locks(
        &self,
        request: Request<v1::ListLocksRequest>,
    ) -> Result<Response<v1::ListLocksResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deadline = self.context.admit(&metadata, request.meta.as_ref()).await?;
        let limit = page_size(request.limit, DEFAULT_LIST_LOCKS, MAX_LIST_LOCKS)?;
        let after = request.after.as_ref().map(LockKey::try_from).transpose();
        let after = after.map_err(|e| Fault::from(e.within("after")))?;
        self.context
            .linearize(request.linearizable, deadline)
            .await?;
        let (meta, listed) = self.context.look(|m| {
            m.round(request.round)
                .ok_or_else(|| no_round(m, request.round))?;
            Ok::<_, Fault>(m.locks(request.round, after, limit))
        });
        let (locks, more) = listed?;
        Ok(Response::new(v1::ListLocksResponse {
            meta,
            locks: locks.iter().map(Into::into).collect(),
            more,
        }))
    }

    async fn seal(
        &self,
        request: Request<v1::SealRoundRequest>,
    ) -> Result<Response<v1::SealRoundResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deadline = self.context.admit(&metadata, request.meta.as_ref()).await?;
        let command = Command::SealRound {
            round: request.round,
            waited_ms: 0,
        };
        let (meta, closed) = self.close(request.round, command, deadline).await?;
        Ok(Response::new(match closed {
            Ok(round) => v1::SealRoundResponse {
                meta,
                round: Some(round),
                refusal: None,
            },
            Err(refusal) => v1::SealRoundResponse {
                meta,
                round: None,
                refusal: Some((&refusal).into()),
            },
        }))
    }

    async fn void(
        &self,
        request: Request<v1::VoidRoundRequest>,
    ) -> Result<Response<v1::VoidRoundResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deadline = self.context.admit(&metadata, request.meta.as_ref()).await?;
        let command = parse::void_round(&request).map_err(Fault::from)?;
        let (meta, closed) = self.close(request.round, command, deadline).await?;
        Ok(Response::new(match closed {
            Ok(round) => v1::VoidRoundResponse {
                meta,
                round: Some(round),
                refusal: None,
            },
            Err(refusal) => v1::VoidRoundResponse {
                meta,
                round: None,
                refusal: Some((&refusal).into()),
            },
        }))
    }

    async fn report_dissent(
        &self,
        request: Request<v1::ReportDissentRequest>,
    ) -> Result<Response<v1::ReportDissentResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deadline = self.context.admit(&metadata, request.meta.as_ref()).await?;
        Ok(Response::new(self.dissent(request, deadline).await?))
    }

    type WatchStream = Answers<v1::WatchResponse>;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.context.admit(&metadata, request.meta.as_ref()).await?;
        let stream = watch::watch(self.context.clone(), &request)?;
        Ok(Response::new(stream))
    }
}
