//! Submissions: the path that carries the load.
//!
//! Most submissions lose, so what a loser costs is kept small: a winner that this member knows is the answer after a look
//! into its state, and a body is parsed and hashed only on the leader and only when its turn comes (see
//! [`Submission`]). What is final (a winner, a closed round) is answered from here, stale or not; what is not final comes
//! from the log.

use super::context::{Context, unexpected};
use super::limits::{DEFAULT_DEADLINE, STREAM_WINDOW, STREAM_WINDOW_BYTES};
use super::room::Share;
use super::status::{Fault, over_limit};
use crate::mutant::{self, Mutant};
use crate::raft::Proposed;
use crate::runtime::{Instant, Runtime};
use crate::state::{Decision, Machine, Refusal, RefusalCode, Submission, Winner};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use prost::Message;
use tonic::{Status, Streaming};
use troika_proto::{B256, ShardHeader, v1};
use v1::submit_response::Outcome;

/// What this member knows about a shard.
enum Known {
    /// Final: the answer.
    Final(Decision),
    /// The round is open, and no winner is known here.
    Open,
    /// Not heard of here: what to answer if the quorum has not either.
    Unknown(Refusal),
}

fn known(machine: &Machine, round: u64, shard: u32) -> Known {
    match machine.decided(round, shard) {
        Ok(Some(winner)) => Known::Final(Decision::Winner(winner)),
        Err(refusal) => match refusal.code {
            RefusalCode::UnknownRound | RefusalCode::NoChain => Known::Unknown(refusal),
            _ => Known::Final(Decision::Refused(refusal)),
        },
        Ok(None) => Known::Open,
    }
}

/// Takes one submission in and answers it, and counts how it went.
pub(super) async fn submit(
    context: &Context,
    request: v1::SubmitRequest,
    deadline: Instant,
) -> Result<v1::SubmitResponse, Fault> {
    let answered = answer_one(context, request, deadline).await;
    let outcome = match &answered {
        Ok(response) => match &response.outcome {
            Some(Outcome::Winner(_)) if response.won => "won",
            Some(Outcome::Winner(_)) => "lost",
            Some(Outcome::Conflict(_)) => "conflict",
            Some(Outcome::Noted(_)) => "noted",
            Some(Outcome::Refusal(_)) | None => "refused",
        },
        Err(_) => "failed",
    };
    metrics::counter!("troika_submissions_total", "outcome" => outcome).increment(1);
    answered
}

async fn answer_one(
    context: &Context,
    request: v1::SubmitRequest,
    deadline: Instant,
) -> Result<v1::SubmitResponse, Fault> {
    let _share = share(context, &request)?;
    context.admit_until(request.meta.as_ref(), deadline).await?;
    let claim = Claim {
        executor: request.executor.clone(),
        header: request.header.clone(),
    };
    let submission = Submission::parse(request)?;
    let (round, shard) = (submission.round(), submission.shard());
    let mut found = context.read(|m| known(m, round, shard));
    if matches!(found, Known::Unknown(_)) {
        // This member may lag: only the quorum knows whether there is such a round.
        context.linearize(true, deadline).await?;
        found = context.read(|m| known(m, round, shard));
    }
    match found {
        Known::Final(decision) => return Ok(respond(context.meta(), &decision, &claim)),
        Known::Unknown(refusal) => {
            return Ok(respond(context.meta(), &Decision::Refused(refusal), &claim));
        }
        Known::Open => {}
    }
    let proposed = context.submit(submission, deadline).await?;
    if !fits(&proposed) {
        return Err(unexpected(&proposed));
    }
    let meta = context.meta_of(&proposed);
    Ok(respond(meta, &proposed.answer.decision, &claim))
}

/// The submission's part of what this member holds, taken before anything is waited for. A racer that has lost already is
/// answered at once, however full the member is.
fn share(context: &Context, request: &v1::SubmitRequest) -> Result<Option<Share>, Fault> {
    let seen = request.meta.as_ref().map_or(0, |meta| meta.min_revision);
    let at_once = context.read(|m| {
        let found = known(m, request.round, request.shard);
        m.revision() >= seen && matches!(found, Known::Final(_))
    });
    match at_once {
        true => Ok(None),
        false => {
            let bytes = request.encoded_len();
            context.room().submissions.take(bytes).map(Some)
        }
    }
}

/// Who submits what: decides whether a winner is the caller's.
struct Claim {
    executor: String,
    header: Option<v1::ShardHeader>,
}

impl Claim {
    /// The shard hash of what was submitted. Only asked for where the caller's name won: a header is costly to hash.
    fn hash(&self) -> Option<B256> {
        let header = ShardHeader::try_from(self.header.as_ref()?).ok()?;
        Some(header.hash())
    }
}

fn fits(proposed: &Proposed) -> bool {
    matches!(
        proposed.answer.decision,
        Decision::Winner(_)
            | Decision::Conflict(_)
            | Decision::Noted
            | Decision::Closed(_)
            | Decision::Refused(_)
    )
}

fn respond(meta: Option<v1::ReplyMeta>, decision: &Decision, claim: &Claim) -> v1::SubmitResponse {
    let mut won = false;
    let outcome = match decision {
        Decision::Winner(winner) => {
            won = is_won(winner, claim);
            Some(Outcome::Winner(winner.into()))
        }
        Decision::Conflict(held) => Some(Outcome::Conflict(v1::Conflict {
            held: held.iter().map(Into::into).collect(),
        })),
        Decision::Noted => Some(Outcome::Noted(true)),
        Decision::Refused(refused) => Some(Outcome::Refusal(refused.into())),
        // VERIFY: this very acceptance proved the block invalid, and the round is void.
        Decision::Closed(round) => Some(Outcome::Refusal(v1::Refusal {
            code: v1::RefusalCode::RoundClosed.into(),
            message: format!("round {round} is void: this shard proved its block invalid"),
        })),
        _ => None,
    };
    v1::SubmitResponse { meta, outcome, won }
}

fn is_won(winner: &Winner, claim: &Claim) -> bool {
    mutant::on(Mutant::LoserToldItWon)
        || *winner.executor == *claim.executor && claim.hash() == Some(winner.shard_hash)
}

/// A submission of a stream: its id, its bytes, and how it ended.
type Pending = BoxFuture<'static, (usize, v1::SubmitStreamResponse)>;

/// Many submissions under way at once, bounded in number and in bytes.
struct SubmitStream {
    context: Context,
    incoming: Streaming<v1::SubmitRequest>,
    pending: FuturesUnordered<Pending>,
    bytes: usize,
    open: bool,
    _share: Share,
}

/// Answers a stream of submissions, in the order in which they are decided.
///
/// The stream is read as its answers are taken: a client that does not read is not read from either.
pub(super) fn stream(
    context: Context,
    incoming: Streaming<v1::SubmitRequest>,
) -> Result<BoxStream<'static, Result<v1::SubmitStreamResponse, Status>>, Fault> {
    let state = SubmitStream {
        _share: context.room().streams.take(1)?,
        context,
        incoming,
        pending: FuturesUnordered::new(),
        bytes: 0,
        open: true,
    };
    let answers = futures::stream::unfold(state, |mut state| async move {
        state.next().await.map(|answer| (answer, state))
    });
    Ok(answers.boxed())
}

impl SubmitStream {
    async fn next(&mut self) -> Option<Result<v1::SubmitStreamResponse, Status>> {
        loop {
            let room = self.pending.len() < STREAM_WINDOW && self.bytes < STREAM_WINDOW_BYTES;
            if !self.open && self.pending.is_empty() {
                return None;
            }
            tokio::select! {
                biased;
                Some((bytes, answer)) = self.pending.next(), if !self.pending.is_empty() => {
                    self.bytes -= bytes;
                    return Some(Ok(answer));
                }
                message = self.incoming.message(), if self.open && room => match message {
                    Ok(Some(request)) => self.take(request),
                    Ok(None) => self.open = false,
                    // What is under way is decided all the same; the caller may ask again.
                    Err(status) => {
                        self.open = false;
                        self.pending.clear();
                        return Some(Err(over_limit(&status).unwrap_or(status)));
                    }
                },
            }
        }
    }

    fn take(&mut self, request: v1::SubmitRequest) {
        let bytes = request.encoded_len();
        self.bytes += bytes;
        let context = self.context.clone();
        self.pending.push(Box::pin(async move {
            let id = request.id;
            let deadline = Runtime::now() + DEFAULT_DEADLINE;
            let result = submit(&context, request, deadline).await;
            (bytes, answer(id, result))
        }));
    }
}

fn answer(id: u64, result: Result<v1::SubmitResponse, Fault>) -> v1::SubmitStreamResponse {
    match result {
        Ok(response) => v1::SubmitStreamResponse {
            id,
            response: Some(response),
            ..Default::default()
        },
        Err(fault) => v1::SubmitStreamResponse {
            id,
            response: None,
            code: fault.code().into(),
            message: fault.to_string(),
        },
    }
}
