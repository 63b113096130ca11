//! `watch`: prints what happens, and goes on at another member where one fails, without a gap or a repeat.

use super::args::WatchArgs;
use super::client::{Client, reason};
use super::exit::{CtlError, Outcome};
use super::output::{Output, note};
use super::show;
use crate::service::limits::WATCH_SILENCE;
use alloy_primitives::hex;
use std::time::Duration;
use tonic::Code;
use troika_proto::v1;
use troika_proto::wire::key_text;
use v1::event::Kind;

/// Pause before a broken watch is taken up again.
const RESUME_PAUSE: Duration = Duration::from_millis(200);
/// Silence after which a member is given up: one that lives says something more often, whatever happens.
const DEAD_SILENCE: Duration = WATCH_SILENCE.saturating_mul(5);

pub(super) async fn watch(
    client: &Client,
    out: &Output,
    args: WatchArgs,
) -> Result<Outcome, CtlError> {
    let mut after = args.after;
    let mut left = args.count.unwrap_or(u64::MAX);
    loop {
        let request = v1::WatchRequest {
            meta: client.meta(),
            after,
            first_shard: args.shards.map_or(0, |s| s.first),
            last_shard: args.shards.map_or(0, |s| s.last),
            all_shards: args.shards.is_none() && !args.no_shards,
            only_shard_zero: args.shards.is_some(),
        };
        let mut stream = client
            .open_stream(|a| {
                let request = a.request(request.clone());
                async move { a.rounds().watch(request).await }
            })
            .await?;
        let broken = loop {
            let message = match tokio::time::timeout(DEAD_SILENCE, stream.message()).await {
                Err(_) => break format!("the member is silent for {DEAD_SILENCE:?}"),
                Ok(message) => message,
            };
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) => break "the member ended the stream".to_owned(),
                Err(status) if resumable(status.code()) => break reason(&status),
                Err(status) => return Err(status.into()),
            };
            for event in &message.events {
                if left == 0 {
                    return Ok(Outcome::Yes);
                }
                left -= 1;
                out.event(&show::event(event), &line(event));
                if closes(event, args.until_closed) {
                    return Ok(Outcome::Yes);
                }
            }
            if left == 0 {
                return Ok(Outcome::Yes);
            }
            after = message.progress.or(after);
        };
        note(&format!(
            "troikactl: the watch broke off ({broken}); going on after {}",
            point(after)
        ));
        tokio::time::sleep(RESUME_PAUSE).await;
    }
}

fn resumable(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Aborted | Code::Internal
    )
}

fn point(after: Option<v1::EventId>) -> String {
    after.map_or_else(
        || "now".to_owned(),
        |id| format!("{}.{}", id.revision, id.ordinal),
    )
}

fn closes(event: &v1::Event, round: Option<u64>) -> bool {
    match &event.kind {
        Some(Kind::RoundSealed(sealed)) => round == Some(sealed.round),
        Some(Kind::RoundVoided(voided)) => round == Some(voided.round),
        _ => false,
    }
}

/// One line for people.
fn line(event: &v1::Event) -> String {
    let text = match &event.kind {
        Some(Kind::ChainStarted(e)) => {
            format!(
                "chain started, genesis {}",
                hex::encode_prefixed(&e.genesis_hash)
            )
        }
        Some(Kind::RoundOpened(e)) => format!(
            "round {} opened by {} ({}, block {})",
            e.round,
            e.opener,
            show::kind_name(e),
            e.environment.as_ref().map_or(0, |e| e.number),
        ),
        Some(Kind::ShardAccepted(e)) => {
            let winner = e.winner.clone().unwrap_or_default();
            let who = if winner.executor.is_empty() {
                "nobody (empty)"
            } else {
                &winner.executor
            };
            format!(
                "round {} shard {} won by {who}: {}",
                e.round,
                e.shard,
                hex::encode_prefixed(&winner.shard_hash)
            )
        }
        Some(Kind::RoundSealed(e)) => format!(
            "round {} sealed as block {} {}{}",
            e.round,
            e.header.as_ref().map_or(0, |h| h.number),
            hex::encode_prefixed(&e.block_hash),
            if e.head { ", the head" } else { "" },
        ),
        Some(Kind::RoundVoided(e)) => {
            let says = e.evidence.as_ref().map(show::evidence);
            let says = says.as_ref().and_then(|e| e["says"].as_str());
            format!(
                "round {} void: {}{}",
                e.round,
                show::void_name(e.reason()),
                says.map_or_else(String::new, |s| format!(" ({s})")),
            )
        }
        Some(Kind::LocksAcquired(e)) => {
            let keys: Vec<String> = e.keys.iter().map(key_text).collect();
            format!(
                "round {} shard {} locked {}",
                e.round,
                e.shard,
                keys.join(" ")
            )
        }
        Some(Kind::Pruned(e)) => format!("rounds below {} forgotten", e.below_round),
        Some(Kind::FeatureLevelRaised(e)) => format!("feature level raised to {}", e.level),
        None => "an event that this version does not know".to_owned(),
    };
    format!("{:>12}  {text}", point(event.id))
}
