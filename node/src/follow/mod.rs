//! `troika-node follow`: prints what an executor's feed sends, and checks each shard against its hash and each header
//! against its shards.
//!
//! [`check`] decides, this file connects and prints. A feed that goes away is sought again from the last complete round
//! until the patience ends; a feed that contradicts itself ends the run at once.

pub mod check;

use crate::cli::FollowArgs;
use crate::tls::{Tls, url};
use alloy_primitives::B256;
use anyhow::{Context, bail};
use check::{Checked, Checker};
use serde_json::json;
use std::io::Write;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use troika_proto::limits::MAX_MESSAGE_BYTES;
use troika_proto::v1::feed_client::FeedClient;
use troika_proto::{LockRule, v1};

/// Longest that a connection may take to come up, and a call to be answered.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest silence of a feed before it is sought again; a feed gives a sign of life at least every few seconds.
const SILENCE: Duration = Duration::from_secs(15);
/// Pause before a feed is sought again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// What has been checked so far.
#[derive(Debug, Default)]
struct Counts {
    shards: u64,
    blocks: u64,
}

/// What is known of the feed's chain since the first connection.
struct Following {
    genesis_hash: B256,
    checker: Checker,
}

/// Why one connection ended.
enum Ended {
    /// Everything that was asked for has come.
    Done,
    /// The feed went away.
    Lost(String),
}

/// Follows until the last wanted round, Ctrl-C, a fault of the feed, or the end of patience.
///
/// # Errors
/// A fault of the feed, a refused subscription, or a feed that stayed away.
pub async fn run(args: FollowArgs) -> anyhow::Result<()> {
    let mut counts = Counts::default();
    let result = tokio::select! {
        result = follow(&args, &mut counts) => result,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    eprintln!(
        "{} shards and {} block headers checked",
        counts.shards, counts.blocks
    );
    result
}

async fn follow(args: &FollowArgs, counts: &mut Counts) -> anyhow::Result<()> {
    let tls = Tls::read(&args.tls)?;
    let mut endpoint = Endpoint::from_shared(url(&args.from, tls.is_some())?)
        .with_context(|| format!("{} is not an address", args.from))?
        .connect_timeout(CONNECT_TIMEOUT);
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls.client())?;
    }
    let mut following = None;
    let mut last_seen = Instant::now();
    loop {
        let lost = match connection(args, &endpoint, &mut following, counts, &mut last_seen).await?
        {
            Ended::Done => return Ok(()),
            Ended::Lost(reason) => reason,
        };
        if last_seen.elapsed() > args.patience {
            bail!(
                "{}: {lost}; nothing came for {:?}",
                args.from,
                args.patience
            );
        }
        tracing::info!(feed = %args.from, %lost, "the feed went away, seeking it again");
        sleep(RETRY_PAUSE).await;
    }
}

/// One connection, from connecting until it breaks.
async fn connection(
    args: &FollowArgs,
    endpoint: &Endpoint,
    following: &mut Option<Following>,
    counts: &mut Counts,
    last_seen: &mut Instant,
) -> anyhow::Result<Ended> {
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) => return Ok(Ended::Lost(format!("cannot be reached: {error}"))),
    };
    let mut client = FeedClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let following = match known_chain(args, &mut client, following).await {
        Ok(following) => following?,
        Err(status) => return lost_or_refused(args, &status),
    };
    let request = v1::SubscribeRequest {
        first_shard: args.shards.first,
        last_shard: args.shards.last,
        from_round: following.checker.next_round(),
        peer: "follow".into(),
    };
    let mut feed = match within(client.subscribe(request)).await {
        Ok(response) => response.into_inner(),
        Err(status) => return lost_or_refused(args, &status),
    };
    following.checker.connected();
    loop {
        let item = match timeout(SILENCE, feed.message()).await {
            Ok(Ok(Some(item))) => item,
            Ok(Ok(None)) => return Ok(Ended::Lost("ended the stream".into())),
            Ok(Err(status)) => return lost_or_refused(args, &status),
            Err(_) => return Ok(Ended::Lost(format!("was silent for {SILENCE:?}"))),
        };
        *last_seen = Instant::now();
        let past = |round: u64| args.to_round.is_some_and(|last| round > last);
        if past(item.round) {
            return Ok(Ended::Done);
        }
        let checked = following
            .checker
            .accept(&item)
            .with_context(|| format!("{} sent what a feed must never send", args.from))?;
        if let Some(checked) = checked {
            counts.shards += u64::from(matches!(checked, Checked::Shard { .. }));
            counts.blocks += u64::from(matches!(checked, Checked::Block { .. }));
            print(&checked, args.json)?;
        }
        if past(following.checker.next_round()) {
            return Ok(Ended::Done);
        }
    }
}

/// A feed that answers nothing is a feed that is away.
async fn within<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let answer = timeout(CONNECT_TIMEOUT, call).await;
    answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("does not answer")))
}

/// Learns the chain at the first connection, and sees to it that later ones serve the same.
async fn known_chain<'a>(
    args: &FollowArgs,
    client: &mut FeedClient<Channel>,
    following: &'a mut Option<Following>,
) -> Result<anyhow::Result<&'a mut Following>, tonic::Status> {
    let info = within(client.info(v1::FeedInfoRequest {}))
        .await?
        .into_inner();
    Ok(adopt(args, &info, following))
}

fn adopt<'a>(
    args: &FollowArgs,
    info: &v1::FeedInfo,
    following: &'a mut Option<Following>,
) -> anyhow::Result<&'a mut Following> {
    let genesis_hash = troika_proto::wire::hash("genesis_hash", &info.genesis_hash)?;
    if let Some(known) = following
        && known.genesis_hash != genesis_hash
    {
        bail!(
            "{} serves another chain now: genesis {genesis_hash}, before {}",
            args.from,
            known.genesis_hash
        );
    }
    if following.is_none() {
        let config = info
            .config
            .as_ref()
            .context("the feed names no chain config")?;
        let rule = LockRule::try_from(config.lock_rule)?;
        let from = match args.from_round {
            0 => info.newest_round + 1,
            round => round,
        };
        *following = Some(Following {
            genesis_hash,
            checker: Checker::new(rule, config.shards, from),
        });
    }
    Ok(following.as_mut().expect("set above"))
}

/// Tells a feed that is away for the moment from one that will never serve this request.
fn lost_or_refused(args: &FollowArgs, status: &tonic::Status) -> anyhow::Result<Ended> {
    match status.code() {
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => {
            bail!("{} refused: {}", args.from, status.message())
        }
        _ => Ok(Ended::Lost(status.message().to_owned())),
    }
}

fn print(checked: &Checked, json: bool) -> anyhow::Result<()> {
    let line = if json {
        json_line(checked).to_string()
    } else {
        text_line(checked)
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("standard output is closed")
}

fn text_line(checked: &Checked) -> String {
    match checked {
        Checked::Shard {
            round,
            header,
            hash,
            executor,
            ..
        } => {
            let executor = if executor.is_empty() {
                "nobody"
            } else {
                executor
            };
            format!(
                "round {round:>6}  shard {:>3}  {hash}  {executor}  {} tx  {} gas",
                header.index, header.transaction_count, header.gas_used
            )
        }
        Checked::Block {
            round,
            hash,
            header,
            shards,
            head,
        } => {
            let beside = if *head { "" } else { "  beside the head" };
            format!(
                "round {round:>6}  block {:>3}  {hash}  {shards} shards checked  {} gas{beside}",
                header.number, header.gas_used
            )
        }
        Checked::Void { round, reason } => {
            format!("round {round:>6}  void: {}", reason.as_str_name())
        }
    }
}

fn json_line(checked: &Checked) -> serde_json::Value {
    match checked {
        Checked::Shard {
            round,
            header,
            hash,
            executor,
            revision,
        } => json!({
            "round": round,
            "shard": header.index,
            "hash": hash,
            "executor": executor,
            "revision": revision,
            "transactions": header.transaction_count,
            "gas": header.gas_used,
        }),
        Checked::Block {
            round,
            hash,
            header,
            shards,
            head,
        } => json!({
            "round": round,
            "block": header.number,
            "hash": hash,
            "shards_checked": shards,
            "gas": header.gas_used,
            "head": head,
        }),
        Checked::Void { round, reason } => json!({
            "round": round,
            "void": reason.as_str_name(),
        }),
    }
}
