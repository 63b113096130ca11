//! Locks (contended and not) and reads (linearizable, and at a block).

use super::report::{Line, Seen};
use super::{account, connect, open_round, prepare_chain, rounds_of, seal_round};
use crate::ctl::args::{Format, Global, LoadArgs};
use crate::ctl::chain::chain_head;
use crate::ctl::client::Client;
use crate::ctl::exit::{CtlError, Outcome};
use crate::ctl::output::Output;
use alloy_primitives::U256;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tonic::Status;
use tonic::transport::Channel;
use troika_proto::limits::MAX_MESSAGE_BYTES;
use troika_proto::v1::acquire_locks_response::Outcome as Answer;
use troika_proto::v1::state_client::StateClient;
use troika_proto::whole::Whole;
use troika_proto::{LockKey, v1};

/// How long one operation may take before the benchmark gives up.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(60);
/// Shards that want the same keys in the contended run.
const RIVALS: u64 = 2;

/// Runs operations `0..operations` on all lanes of all clients. An operation says whether it got what it asked for.
async fn drive<Fut>(
    channels: &[Channel],
    args: &LoadArgs,
    operations: u64,
    operation: impl Fn(Channel, u64) -> Fut + Clone + Send + 'static,
) -> Result<(Seen, f64), CtlError>
where
    Fut: Future<Output = Result<bool, Status>> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..args.window {
        for channel in channels {
            let (next, operation, channel) = (next.clone(), operation.clone(), channel.clone());
            tasks.spawn(async move {
                let mut seen = Seen::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= operations {
                        return Ok(seen);
                    }
                    let sent = Instant::now();
                    let call = operation(channel.clone(), n);
                    let ok = tokio::time::timeout(OPERATION_TIMEOUT, call)
                        .await
                        .map_err(|_| CtlError::Deadline(format!("operation {n}: no answer")))??;
                    seen.record(ok, sent.elapsed().as_micros() as u64);
                }
            });
        }
    }
    let mut seen = Seen::new();
    while let Some(done) = tasks.join_next().await {
        let one: Result<Seen, CtlError> =
            done.map_err(|e| CtlError::Failed(format!("a lane broke: {e}")))?;
        seen.add(&one?);
    }
    Ok((seen, started.elapsed().as_secs_f64()))
}

fn warm_up(args: &LoadArgs) -> u64 {
    (args.operations / 10).max(1)
}

fn output(global: &Global, args: &LoadArgs) -> Output {
    let json = args.json || global.output == Format::Json;
    Output::new(if json { Format::Json } else { Format::Table })
}

fn finish(line: Line, args: &LoadArgs, out: &Output) {
    line.with("clients", args.clients)
        .with("window", args.window)
        .with("keys", args.keys)
        .print(out);
}

/// Acquires locks: first keys that nobody else wants, then keys that two shards want.
pub(super) async fn locks(global: &Global, args: LoadArgs) -> Result<Outcome, CtlError> {
    let client = Client::new(global)?;
    prepare_chain(&client, args.shards).await?;
    let channels = connect(global, args.clients).await?;
    let out = output(global, &args);
    for (name, rivals) in [("locks uncontended", 1), ("locks contended", RIVALS)] {
        acquire(&client, &channels, &args, rivals, warm_up(&args)).await?;
        let (seen, seconds) = acquire(&client, &channels, &args, rivals, args.operations).await?;
        finish(
            Line::load(name, args.operations, &seen, seconds),
            &args,
            &out,
        );
    }
    Ok(Outcome::Yes)
}

/// Acquires locks in a round of its own, and checks that every set of keys was given once.
async fn acquire(
    client: &Client,
    channels: &[Channel],
    args: &LoadArgs,
    rivals: u64,
    operations: u64,
) -> Result<(Seen, f64), CtlError> {
    let round = open_round(client).await?;
    let (keys, shards) = (args.keys, u64::from(args.shards));
    let (seen, seconds) = drive(channels, args, operations, move |channel, n| {
        let set = n / rivals;
        // Rivals are different shards, and one shard takes many sets.
        let shard = (set + n % rivals) % shards;
        let slots = (0..keys).map(|k| U256::from(set) << 32 | U256::from(k));
        let request = v1::AcquireLocksRequest {
            meta: None,
            round,
            shard: shard as u32,
            keys: slots
                .map(|slot| LockKey::slot(account(0), slot).into())
                .collect(),
        };
        async move {
            let answer = rounds_of(&channel)
                .acquire_locks(request)
                .await?
                .into_inner();
            match answer.outcome {
                Some(Answer::Acquired(_)) => Ok(true),
                Some(Answer::Conflict(_)) => Ok(false),
                other => Err(Status::internal(format!("unexpected answer {other:?}"))),
            }
        }
    })
    .await?;
    seal_round(client, round).await?;
    let sets = operations.div_ceil(rivals);
    if seen.wins() != sets {
        return Err(CtlError::Failed(format!(
            "{} acquisitions (and {} conflicts) of {sets} sets of keys",
            seen.wins(),
            seen.losses()
        )));
    }
    Ok((seen, seconds))
}

/// Reads: the head through the quorum, then accounts and slots at the head's block.
pub(super) async fn reads(global: &Global, args: LoadArgs) -> Result<Outcome, CtlError> {
    let client = Client::new(global)?;
    prepare_chain(&client, args.shards).await?;
    let channels = connect(global, args.clients).await?;
    let out = output(global, &args);
    let block = chain_head(&client, true).await?.block_hash;
    for operations in [warm_up(&args), args.operations] {
        let (seen, seconds) = drive(&channels, &args, operations, |channel, _| async move {
            let request = v1::HeadRequest {
                meta: None,
                linearizable: true,
            };
            state_of(channel).head(request).await.map(|_| true)
        })
        .await?;
        if operations == args.operations {
            finish(
                Line::load("read linearizable", operations, &seen, seconds),
                &args,
                &out,
            );
        }
    }
    let (keys, shards) = (u64::from(args.keys), u64::from(args.shards));
    for operations in [warm_up(&args), args.operations] {
        let block = block.clone();
        let (seen, seconds) = drive(&channels, &args, operations, move |channel, n| {
            let places = (0..keys).map(|k| v1::StateKey {
                address: account(((n * keys + k) % shards) as u32).to_vec().into(),
                slot: bytes::Bytes::new(),
            });
            let request = v1::ReadRequest {
                meta: None,
                block: block.clone(),
                keys: places.collect(),
                codes: Vec::new(),
                linearizable: false,
                ahead_bytes: 0,
            };
            async move { state_of(channel).read(request).await.map(|_| true) }
        })
        .await?;
        if operations == args.operations {
            finish(
                Line::load("read at a block", operations, &seen, seconds),
                &args,
                &out,
            );
        }
    }
    Ok(Outcome::Yes)
}

fn state_of(channel: Channel) -> StateClient<Whole<Channel>> {
    StateClient::new(Whole(channel)).max_decoding_message_size(MAX_MESSAGE_BYTES)
}
