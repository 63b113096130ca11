//! Commands on rounds and locks.

use super::args::{GiveUp, LockCommand, RoundCommand};
use super::block_file::read_block;
use super::client::Client;
use super::exit::{CtlError, Outcome};
use super::output::{Output, note};
use super::parse::Reserve;
use super::show;
use alloy_primitives::B256;
use bytes::Bytes;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use troika_proto::wire::hash_bytes;
use troika_proto::{LockKey, v1};

/// Pause between two attempts of `round seal --wait`.
const SEAL_PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn round(
    client: &Client,
    out: &Output,
    command: RoundCommand,
) -> Result<Outcome, CtlError> {
    match command {
        RoundCommand::Open {
            opener,
            parent,
            reserve,
            verify,
        } => open(client, out, opener, parent, &reserve, verify.as_deref()).await,
        RoundCommand::Get {
            round,
            linearizable,
        } => {
            out.object(&show::round(&get(client, round, linearizable).await?));
            Ok(Outcome::Yes)
        }
        RoundCommand::List { from, limit, open } => list(client, out, from, limit, open).await,
        RoundCommand::Seal { round, wait } => seal(client, out, round, wait).await,
        RoundCommand::Void { round, reason } => void(client, out, round, reason).await,
    }
}

async fn open(
    client: &Client,
    out: &Output,
    opener: String,
    parent: Option<B256>,
    reserve: &[Reserve],
    verify: Option<&Path>,
) -> Result<Outcome, CtlError> {
    let mut request = v1::OpenRoundRequest {
        meta: client.meta(),
        kind: v1::RoundKind::Build.into(),
        parent: parent.map_or_else(Bytes::new, hash_bytes),
        opener,
        ..Default::default()
    };
    let reservations = reserve.iter().map(|r| v1::Reservation {
        key: Some(r.key.into()),
        shard: r.shard,
    });
    request.reservations = reservations.collect();
    if let Some(path) = verify {
        let (header, shard_hashes) = read_block(path)?;
        request.kind = v1::RoundKind::Verify.into();
        request.header = Some(header);
        request.shard_hashes = shard_hashes;
    }
    let answer = client
        .call(|a| {
            let request = a.request(request.clone());
            async move { a.rounds().open(request).await }
        })
        .await?;
    if let Some(refusal) = &answer.refusal {
        return refused(out, refusal);
    }
    let mut value = answer.round.as_ref().map(show::round).unwrap_or(json!({}));
    value["opened"] = answer.opened.into();
    out.object(&value);
    Ok(Outcome::Yes)
}

/// Prints a refusal. Exit code 1.
pub(super) fn refused(out: &Output, refusal: &v1::Refusal) -> Result<Outcome, CtlError> {
    out.object(&json!({ "refused": show::refusal(refusal) }));
    Ok(Outcome::No)
}

pub(super) async fn get(
    client: &Client,
    round: u64,
    linearizable: bool,
) -> Result<v1::Round, CtlError> {
    let request = v1::GetRoundRequest {
        meta: client.meta(),
        round,
        linearizable,
    };
    let answer = client
        .call(|a| {
            let request = a.request(request.clone());
            async move { a.rounds().get(request).await }
        })
        .await?;
    answer
        .round
        .ok_or_else(|| CtlError::Failed("the member answered without a round".to_owned()))
}

async fn list(
    client: &Client,
    out: &Output,
    from: u64,
    limit: u32,
    open_only: bool,
) -> Result<Outcome, CtlError> {
    let request = v1::ListRoundsRequest {
        meta: client.meta(),
        from,
        limit,
        linearizable: false,
        open_only,
    };
    let answer = client
        .call(|a| {
            let request = a.request(request.clone());
            async move { a.rounds().list(request).await }
        })
        .await?;
    let rows: Vec<Value> = answer.rounds.iter().map(show::round).collect();
    out.rows(
        &rows,
        &[
            "round",
            "kind",
            "status",
            "environment.number as block",
            "opener",
            "parent",
            "block_hash",
        ],
    );
    Ok(Outcome::Yes)
}

async fn seal(client: &Client, out: &Output, round: u64, wait: bool) -> Result<Outcome, CtlError> {
    loop {
        let request = v1::SealRoundRequest {
            meta: client.meta(),
            round,
        };
        let answer = client
            .call(|a| {
                let request = a.request(request.clone());
                async move { a.rounds().seal(request).await }
            })
            .await?;
        let Some(refusal) = answer.refusal else {
            return Ok(closed(out, answer.round, v1::RoundStatus::Sealed));
        };
        let early = refusal.code() == v1::RefusalCode::TooEarly;
        if !(wait && early && !client.left().is_zero()) {
            return refused(out, &refusal);
        }
        tokio::time::sleep(SEAL_PAUSE).await;
    }
}

async fn void(
    client: &Client,
    out: &Output,
    round: u64,
    reason: GiveUp,
) -> Result<Outcome, CtlError> {
    let reason = match reason {
        GiveUp::Unavailable => v1::VoidReason::Unavailable,
        GiveUp::Abandoned => v1::VoidReason::Abandoned,
    };
    let request = v1::VoidRoundRequest {
        meta: client.meta(),
        round,
        reason: reason.into(),
    };
    let answer = client
        .call(|a| {
            let request = a.request(request.clone());
            async move { a.rounds().void(request).await }
        })
        .await?;
    if let Some(refusal) = &answer.refusal {
        return refused(out, refusal);
    }
    Ok(closed(out, answer.round, v1::RoundStatus::Void))
}

/// Prints a closed round. It may have been closed before, in another way than was asked for: exit code 1.
fn closed(out: &Output, round: Option<v1::Round>, wanted: v1::RoundStatus) -> Outcome {
    let round = round.unwrap_or_default();
    out.object(&show::round(&round));
    if round.status() == wanted {
        Outcome::Yes
    } else {
        Outcome::No
    }
}

pub(super) async fn lock(
    client: &Client,
    out: &Output,
    command: LockCommand,
) -> Result<Outcome, CtlError> {
    match command {
        LockCommand::Acquire { round, shard, keys } => {
            acquire(client, out, round, shard, keys).await
        }
        LockCommand::List {
            round,
            limit,
            after,
            linearizable,
        } => {
            let request = v1::ListLocksRequest {
                meta: client.meta(),
                round,
                after: after.map(Into::into),
                limit,
                linearizable,
            };
            let answer = client
                .call(|a| {
                    let request = a.request(request.clone());
                    async move { a.rounds().list_locks(request).await }
                })
                .await?;
            let rows: Vec<Value> = answer.locks.iter().map(show::holder).collect();
            out.rows(&rows, &["key", "shard", "revision"]);
            if answer.more {
                note("there are more: continue with --after");
            }
            Ok(Outcome::Yes)
        }
    }
}

async fn acquire(
    client: &Client,
    out: &Output,
    round: u64,
    shard: u32,
    mut keys: Vec<LockKey>,
) -> Result<Outcome, CtlError> {
    keys.sort_unstable();
    keys.dedup();
    let request = v1::AcquireLocksRequest {
        meta: client.meta(),
        round,
        shard,
        keys: keys.into_iter().map(Into::into).collect(),
    };
    let answer = client
        .call(|a| {
            let request = a.request(request.clone());
            async move { a.rounds().acquire_locks(request).await }
        })
        .await?;
    use v1::acquire_locks_response::Outcome as Answer;
    let (outcome, value) = match answer.outcome {
        Some(Answer::Acquired(_)) => {
            let revision = answer.meta.unwrap_or_default().revision;
            (
                Outcome::Yes,
                json!({ "acquired": true, "revision": revision }),
            )
        }
        Some(Answer::Conflict(conflict)) => (
            Outcome::No,
            json!({
                "acquired": false,
                "conflict": conflict.held.iter().map(show::holder).collect::<Value>(),
            }),
        ),
        Some(Answer::Winner(winner)) => (
            Outcome::No,
            json!({ "acquired": false, "decided": show::winner(&winner) }),
        ),
        Some(Answer::Refusal(refusal)) => (
            Outcome::No,
            json!({ "acquired": false, "refused": show::refusal(&refusal) }),
        ),
        None => {
            return Err(CtlError::Failed("the member gave no outcome".to_owned()));
        }
    };
    out.object(&value);
    Ok(outcome)
}
