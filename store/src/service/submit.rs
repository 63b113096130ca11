//! Submissions: the path that carries the load.
//!
//! Most submissions lose, so what a loser costs is kept small: the decided check needs a hash of the header and a look
//! into this member's state; the body is parsed and hashed only if no winner is known yet. What is final (a winner, a
//! closed round) is answered from here, stale or not; what is not final comes from the log.

use super::context::{Context, unexpected};
use super::limits::{DEFAULT_DEADLINE, INLINE_CHECK_BYTES, STREAM_WINDOW, STREAM_WINDOW_BYTES};
use super::parse::{Content, Submission, Unchecked};
use super::status::Fault;
use crate::mutant::{self, Mutant};
use crate::raft::Proposed;
use crate::runtime::{Instant, Runtime};
use crate::state::{
    AcceptShard, Command, Decision, Machine, Refusal, RefusalCode, ReportDissent, Winner,
};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use prost::Message;
use std::sync::Arc;
use tonic::{Status, Streaming};
use troika_proto::{B256, LockRule, Shard, v1};
use v1::submit_response::Outcome;

/// What this member knows about a shard.
enum Known {
    /// Final: the answer.
    Final(Decision),
    /// The round is open, and no winner is known here.
    Open {
        rule: LockRule,
        /// VERIFY: the hash that the header gives.
        expected: Option<B256>,
    },
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
        Ok(None) => {
            let checked = machine
                .round(round)
                .and_then(|found| found.checked.as_ref());
            let chain = machine.current_chain();
            Known::Open {
                rule: chain.map_or_else(LockRule::default, |chain| chain.config.lock_rule),
                expected: checked.and_then(|c| c.shard_hashes.get(shard as usize).copied()),
            }
        }
    }
}

/// Answers one submission.
pub(super) async fn submit(
    context: &Context,
    request: v1::SubmitRequest,
    deadline: Instant,
) -> Result<v1::SubmitResponse, Fault> {
    let submission = Submission::parse(request)?;
    let (round, shard) = (submission.round, submission.shard);
    let mut found = context.read(|m| known(m, round, shard));
    if matches!(found, Known::Unknown(_)) {
        // This member may lag: only the quorum knows whether there is such a round.
        context.linearize(true, deadline).await?;
        found = context.read(|m| known(m, round, shard));
    }
    let claim = submission.claim();
    let (rule, expected) = match found {
        Known::Final(decision) => {
            return Ok(respond(context.meta(), &decision, &claim));
        }
        Known::Unknown(refusal) => {
            return Ok(respond(context.meta(), &Decision::Refused(refusal), &claim));
        }
        Known::Open { rule, expected } => (rule, expected),
    };
    let command = command(submission, rule, expected).await?;
    let proposed = context.propose(command, deadline).await?;
    if !fits(&proposed) {
        return Err(unexpected(&proposed));
    }
    let meta = context.meta_of(&proposed);
    Ok(respond(meta, &proposed.answer.decision, &claim))
}

/// Who submits what: decides whether a winner is the caller's.
struct Claim {
    executor: Arc<str>,
    hash: Option<B256>,
}

impl Submission {
    fn claim(&self) -> Claim {
        Claim {
            executor: self.executor.clone(),
            hash: match &self.content {
                Content::Proposal(proposal) => Some(proposal.hash),
                Content::Failure { .. } => None,
            },
        }
    }
}

/// The costly part: parses and checks the body, and says what the log is to carry.
async fn command(
    submission: Submission,
    rule: LockRule,
    expected: Option<B256>,
) -> Result<Command, Fault> {
    let Submission {
        round,
        shard,
        executor,
        content,
    } = submission;
    let dissent = |computed, reason, owners| {
        Command::ReportDissent(Arc::new(ReportDissent {
            round,
            shard,
            executor: executor.clone(),
            computed,
            reason,
            owners,
        }))
    };
    let proposal = match content {
        Content::Failure { reason, owners } => return Ok(dissent(None, reason, owners)),
        Content::Proposal(proposal) => proposal,
    };
    let owners = proposal.owners;
    let accept = |checked: Shard| {
        if expected.is_some_and(|expected| expected != checked.hash) {
            dissent(Some(checked.hash), String::new(), owners)
        } else {
            let proposal = Arc::new(checked);
            Command::AcceptShard(AcceptShard::new(round, executor.clone(), proposal))
        }
    };
    check(*proposal, rule).await.map(accept)
}

async fn check(proposal: Unchecked, rule: LockRule) -> Result<Shard, Fault> {
    if proposal.bytes <= INLINE_CHECK_BYTES {
        return proposal.check(rule);
    }
    Runtime::spawn_blocking(move || proposal.check(rule)).await
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
        || winner.executor == claim.executor && Some(winner.shard_hash) == claim.hash
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
}

/// Answers a stream of submissions, in the order in which they are decided.
///
/// The stream is read as its answers are taken: a client that does not read is not read from either.
pub(super) fn stream(
    context: Context,
    incoming: Streaming<v1::SubmitRequest>,
) -> BoxStream<'static, Result<v1::SubmitStreamResponse, Status>> {
    let state = SubmitStream {
        context,
        incoming,
        pending: FuturesUnordered::new(),
        bytes: 0,
        open: true,
    };
    futures::stream::unfold(state, |mut state| async move {
        state.next().await.map(|answer| (answer, state))
    })
    .boxed()
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
                        return Some(Err(status));
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
            let meta = request.meta.clone();
            let result = match context.admit_until(meta.as_ref(), deadline).await {
                Ok(()) => submit(&context, request, deadline).await,
                Err(fault) => Err(fault),
            };
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
