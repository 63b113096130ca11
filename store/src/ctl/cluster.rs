//! Commands for operators: status, health, members, leadership, genesis, pruning, backup.

use super::args::{LeaderCommand, MemberCommand};
use super::client::{Client, Member, reason};
use super::exit::{CtlError, Outcome};
use super::genesis::read_genesis;
use super::output::Output;
use super::show;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use troika_proto::v1;

/// The gRPC service whose health says "has a leader and is caught up"; the empty name says "process is up".
const READY_SERVICE: &str = "troika.v1.Rounds";

/// How every endpoint sees itself. Exit code 3 if none answers, 1 if some do not.
pub(super) async fn status(client: &Client, out: &Output) -> Result<Outcome, CtlError> {
    let asked = client.members().iter().map(|member| async move {
        let request = v1::StatusRequest {
            meta: client.meta(),
        };
        let answer = client
            .call_member(member, |a| async move {
                a.cluster().status(a.request(request)).await
            })
            .await;
        (member.url.clone(), answer)
    });
    let answers = futures::future::join_all(asked).await;
    let up = answers.iter().filter(|(_, answer)| answer.is_ok()).count();
    let rows: Vec<Value> = answers
        .iter()
        .map(|(url, answer)| match answer {
            Ok(status) => status_row(url, status),
            Err(status) => json!({ "endpoint": url, "error": reason(status) }),
        })
        .collect();
    out.rows(
        &rows,
        &[
            "endpoint",
            "id",
            "role",
            "leader",
            "term",
            "applied_index",
            "revision",
            "log_bytes",
            "state_bytes",
            "open_rounds",
            "error",
        ],
    );
    match up {
        0 => Err(CtlError::Unavailable("no member answered".to_owned())),
        _ if up < rows.len() => Ok(Outcome::No),
        _ => Ok(Outcome::Yes),
    }
}

fn status_row(url: &str, status: &v1::StatusResponse) -> Value {
    let meta = status.meta.unwrap_or_default();
    let mut row = json!({
        "endpoint": url,
        "id": status.id,
        "role": status.role,
        "leader": meta.leader,
        "term": meta.term,
        "revision": meta.revision,
        "version": status.version,
        "cluster_id": show::hex_or_null(&status.cluster_id),
        "incarnation": show::hex_or_null(&status.incarnation),
        "last_log_index": status.last_log_index,
        "committed_index": status.committed_index,
        "applied_index": status.applied_index,
        "checkpoint_index": status.checkpoint_index,
        "purged_index": status.purged_index,
        "state_hash": show::hex_or_null(&status.state_hash),
        "state_hash_index": status.state_hash_index,
        "log_bytes": status.log_bytes,
        "state_bytes": status.state_bytes,
        "free_bytes": status.free_bytes,
        "resident_bytes": status.resident_bytes,
        "dirty_bytes": status.dirty_bytes,
        "feature_level": status.feature_level,
        "max_feature_level": status.max_feature_level,
        "open_rounds": status.open_rounds,
        "divergence": status.divergence,
    });
    if !status.writes_refused.is_empty() {
        row["error"] = format!("writes are refused: {}", status.writes_refused).into();
    } else if !status.divergence.is_empty() {
        row["error"] = format!("divergence: {}", status.divergence.join("; ")).into();
    }
    row
}

/// Pause between two rounds of questions while all are waited for.
const HEALTH_PAUSE: Duration = Duration::from_millis(100);

/// Whether every endpoint is up (process) and ready (has a leader and is caught up).
pub(super) async fn health(client: &Client, out: &Output, wait: bool) -> Result<Outcome, CtlError> {
    let rows = loop {
        let asked = client
            .members()
            .iter()
            .map(|member| ask_health(client, member));
        let rows = futures::future::join_all(asked).await;
        let ready = rows.iter().all(|row| row["ready"] == true);
        if ready || !wait || client.left().is_zero() {
            break rows;
        }
        tokio::time::sleep(HEALTH_PAUSE).await;
    };
    out.rows(&rows, &["endpoint", "up", "ready", "error"]);
    if rows.iter().all(|row| row["up"] == false) {
        return Err(CtlError::Unavailable("no member is up".to_owned()));
    }
    let all_ready = rows.iter().all(|row| row["ready"] == true);
    Ok(if all_ready { Outcome::Yes } else { Outcome::No })
}

async fn ask_health(client: &Client, member: &Member) -> Value {
    let check = async |service: &str| {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        client
            .call_member(member, |a| async move {
                a.health().check(a.request(request)).await
            })
            .await
            .map(|answer| answer.status() == ServingStatus::Serving)
    };
    let up = check("").await;
    let ready = check(READY_SERVICE).await;
    let error = up.as_ref().or(ready.as_ref()).err().map(reason);
    json!({
        "endpoint": member.url,
        "up": up.unwrap_or(false),
        "ready": ready.unwrap_or(false),
        "error": error,
    })
}

pub(super) async fn member(
    client: &Client,
    out: &Output,
    command: MemberCommand,
) -> Result<Outcome, CtlError> {
    let meta = client.meta();
    let answer = match command {
        MemberCommand::List { linearizable } => {
            let request = v1::MembersRequest { meta, linearizable };
            client
                .call(|a| {
                    let request = a.request(request.clone());
                    async move { a.cluster().members(request).await }
                })
                .await?
        }
        MemberCommand::Add {
            id,
            peer,
            client: to,
        } => {
            let request = v1::AddLearnerRequest {
                meta,
                id,
                peer_addr: peer,
                client_addr: to,
            };
            client
                .call_patiently(|a| {
                    let request = a.request(request.clone());
                    async move { a.cluster().add_learner(request).await }
                })
                .await?
        }
        MemberCommand::Promote { id } => {
            let request = v1::PromoteRequest { meta, id };
            client
                .call_patiently(|a| {
                    let request = a.request(request.clone());
                    async move { a.cluster().promote(request).await }
                })
                .await?
        }
        MemberCommand::Remove { id } => {
            let request = v1::RemoveRequest { meta, id };
            client
                .call_patiently(|a| {
                    let request = a.request(request.clone());
                    async move { a.cluster().remove(request).await }
                })
                .await?
        }
    };
    show_members(out, &answer);
    Ok(Outcome::Yes)
}

pub(super) async fn leader(
    client: &Client,
    out: &Output,
    command: LeaderCommand,
) -> Result<Outcome, CtlError> {
    let LeaderCommand::Transfer { to } = command;
    let request = v1::TransferLeadershipRequest {
        meta: client.meta(),
        to: to.unwrap_or(0),
    };
    let answer = client
        .call_patiently(|a| {
            let request = a.request(request.clone());
            async move { a.cluster().transfer_leadership(request).await }
        })
        .await?;
    show_members(out, &answer);
    Ok(Outcome::Yes)
}

fn show_members(out: &Output, answer: &v1::MembersResponse) {
    let rows: Vec<Value> = answer.members.iter().map(show::member).collect();
    out.rows(
        &rows,
        &[
            "id",
            "role",
            "peer",
            "client",
            "matched_index",
            "max_feature_level",
        ],
    );
}

/// Starts the chain.
pub(super) async fn init(client: &Client, out: &Output, path: &Path) -> Result<Outcome, CtlError> {
    let genesis = read_genesis(path)?;
    let answer = start_chain(client, v1::Genesis::from(&genesis)).await?;
    let mut value = json!({
        "genesis_hash": show::hex_or_null(&answer.genesis_hash),
        "started": answer.started,
    });
    if let Some(refusal) = &answer.refusal {
        value["refused"] = show::refusal(refusal);
    }
    out.object(&value);
    Ok(if answer.refusal.is_some() {
        Outcome::No
    } else {
        Outcome::Yes
    })
}

/// Starts a chain from `genesis`, or finds that it has been.
pub(super) async fn start_chain(
    client: &Client,
    genesis: v1::Genesis,
) -> Result<v1::InitChainResponse, CtlError> {
    let request = v1::InitChainRequest {
        meta: client.meta(),
        genesis: Some(genesis),
    };
    client
        .call(|a| {
            let request = a.request(request.clone());
            async move { a.cluster().init_chain(request).await }
        })
        .await
}

pub(super) async fn prune(client: &Client, out: &Output, below: u64) -> Result<Outcome, CtlError> {
    let request = v1::PruneRequest {
        meta: client.meta(),
        below_round: below,
    };
    let answer = client
        .call(|a| {
            let request = a.request(request.clone());
            async move { a.cluster().prune(request).await }
        })
        .await?;
    out.object(&json!({ "pruned_below": answer.pruned_below }));
    Ok(Outcome::Yes)
}

/// Streams a member's state into a new file. A copy that broke off leaves no file behind.
pub(super) async fn backup(
    client: &Client,
    out: &Output,
    path: &Path,
) -> Result<Outcome, CtlError> {
    let shown = path.display();
    let mut file = std::fs::File::create_new(path)
        .map_err(|e| CtlError::Usage(format!("cannot create {shown}: {e}")))?;
    match copy(client, &mut file).await {
        Ok(bytes) => {
            out.object(&json!({ "file": path.to_string_lossy(), "bytes": bytes }));
            Ok(Outcome::Yes)
        }
        Err(error) => {
            std::fs::remove_file(path).ok();
            Err(error)
        }
    }
}

async fn copy(client: &Client, file: &mut std::fs::File) -> Result<u64, CtlError> {
    let request = v1::BackupRequest {
        meta: client.meta(),
    };
    let mut stream = client
        .open_stream(|a| {
            let request = a.request(request.clone());
            async move { a.cluster().backup(request).await }
        })
        .await?;
    let mut bytes = 0;
    loop {
        // --timeout bounds each chunk, not the copy: a large state may take long.
        let chunk = tokio::time::timeout(client.timeout(), stream.message())
            .await
            .map_err(|_| CtlError::Deadline("the copy stands still".to_owned()))??;
        let Some(chunk) = chunk else { break };
        bytes += chunk.data.len() as u64;
        file.write_all(&chunk.data).map_err(cannot_write)?;
    }
    file.sync_all().map_err(cannot_write)?;
    Ok(bytes)
}

fn cannot_write(error: std::io::Error) -> CtlError {
    CtlError::Failed(format!("cannot write the backup: {error}"))
}
