//! `submit`: a proposal by hand.

use super::args::SubmitArgs;
use super::chain::chain_head;
use super::client::Client;
use super::exit::{CtlError, Outcome};
use super::genesis::read_json;
use super::output::Output;
use super::proposal::{MAX_PROPOSAL_FILE_BYTES, Proposal};
use super::rounds;
use super::show;
use serde_json::{Value, json};
use troika_proto::{ChainConfig, Shard, v1};

/// Submits a proposal and says who won. Exit code 0 if it was this one.
pub(super) async fn submit(
    client: &Client,
    out: &Output,
    args: SubmitArgs,
) -> Result<Outcome, CtlError> {
    let mut request = v1::SubmitRequest {
        meta: client.meta(),
        round: args.round,
        shard: args.shard,
        executor: args.executor.clone(),
        ..Default::default()
    };
    let mut hash = Value::Null;
    if let Some(failure) = args.failure {
        request.failure = failure;
    } else {
        let shard = shard(client, &args).await?;
        hash = show::hex_value(shard.hash.as_slice());
        request.header = Some((&shard.header).into());
        request.body = Some((&shard.body).into());
    }
    let answer = client
        .call(|a| {
            let request = a.request(request.clone());
            async move { a.rounds().submit(request).await }
        })
        .await?;
    let (outcome, mut value) = outcome(answer)?;
    value["proposal"] = hash;
    out.object(&value);
    Ok(outcome)
}

async fn shard(client: &Client, args: &SubmitArgs) -> Result<Shard, CtlError> {
    let proposal = match &args.file {
        Some(path) => read_json(path, MAX_PROPOSAL_FILE_BYTES)?,
        None => Proposal::from(args),
    };
    let head = chain_head(client, false).await?;
    let config = head
        .config
        .ok_or_else(|| CtlError::Refused("there is no chain yet: `troikactl init`".to_owned()))?;
    let config = ChainConfig::try_from(&config)
        .map_err(|e| CtlError::Failed(format!("the member's chain config: {e}")))?;
    let round = rounds::get(client, args.round, false).await?;
    let base_fee = round.environment.map_or(0, |e| e.base_fee);
    proposal
        .shard(args.shard, base_fee, config.lock_rule)
        .map_err(CtlError::Usage)
}

fn outcome(answer: v1::SubmitResponse) -> Result<(Outcome, Value), CtlError> {
    use v1::submit_response::Outcome as Answer;
    Ok(match answer.outcome {
        Some(Answer::Winner(winner)) => {
            let outcome = if answer.won {
                Outcome::Yes
            } else {
                Outcome::No
            };
            (
                outcome,
                json!({ "won": answer.won, "winner": show::winner(&winner) }),
            )
        }
        Some(Answer::Conflict(conflict)) => (
            Outcome::No,
            json!({
                "won": false,
                "conflict": conflict.held.iter().map(show::holder).collect::<Value>(),
            }),
        ),
        Some(Answer::Refusal(refusal)) => (
            Outcome::No,
            json!({ "won": false, "refused": show::refusal(&refusal) }),
        ),
        Some(Answer::Noted(_)) => (Outcome::Yes, json!({ "won": false, "noted": true })),
        None => return Err(CtlError::Failed("the member gave no outcome".to_owned())),
    })
}
