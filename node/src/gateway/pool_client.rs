//! Handing the pending set to the executors: one stream to each, for as long as the gateway lives.
//!
//! A stream begins with a snapshot and an end mark, then come the changes, without a gap between them. An executor that
//! is down, restarts or falls too far behind gets a new stream with a new snapshot. It is told only of senders whose
//! shard it owns, and of all whose keys it is to reserve should it open the next round.

use super::limits::{
    ALIVE_EVERY, EXECUTOR_TIMEOUT, FLUSH_EVERY, KEEPALIVE_INTERVAL, MAX_ADD_BYTES,
    MAX_ADD_TRANSACTIONS, MAX_AGED_KEYS, RECONNECT_MAX, RECONNECT_MIN, STREAM_BUFFER,
};
use super::mempool::AfterRefusal;
use super::pool::{Aged, Update};
use super::routing::Placed;
use super::{Config, Gateway, StartError};
use alloy_primitives::{Address, B256, Bytes};
use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Streaming};
use troika_proto::limits::MAX_MESSAGE_BYTES;
use troika_proto::wire::{address_bytes, hash, hash_bytes};
use troika_proto::{LockKey, v1};
use v1::feed_client::FeedClient;
use v1::pending_update::Update as Wire;
use v1::pool_client::PoolClient;

/// Conflicts that are remembered for `troika_conflicts`.
const MAX_CONFLICTS: usize = 10_000;
/// Transaction hashes in one message that removes some.
const MAX_REMOVE_HASHES: usize = 10_000;

/// A transaction that was left out because another shard held its keys.
#[derive(Clone, Debug)]
pub struct Conflict {
    /// The round of the proposal.
    pub round: u64,
    /// The transaction.
    pub hash: B256,
    /// The shard that left it out.
    pub shard: u32,
    /// What was held, and by which shard.
    pub held: Vec<(LockKey, u32)>,
}

/// The conflicts that executors reported lately, oldest out first.
#[derive(Debug, Default)]
pub struct Refusals(VecDeque<Conflict>);

impl Refusals {
    fn note(&mut self, conflict: Conflict) {
        let same = |c: &Conflict| (c.round, c.hash) == (conflict.round, conflict.hash);
        if self.0.iter().rev().take(256).any(same) {
            return;
        }
        self.0.push_back(conflict);
        if self.0.len() > MAX_CONFLICTS {
            self.0.pop_front();
        }
    }

    /// Those of one round.
    pub fn of_round(&self, round: u64) -> Vec<Conflict> {
        let of_round = self.0.iter().filter(|c| c.round == round);
        of_round.cloned().collect()
    }
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("no answer within {} ms", EXECUTOR_TIMEOUT.as_millis())]
    Timeout,
    #[error(transparent)]
    Connect(#[from] tonic::transport::Error),
    #[error("{}: {}", .0.code(), .0.message())]
    Status(Box<tonic::Status>),
    #[error("it is of another chain: its genesis is {0}")]
    OtherChain(String),
    #[error("it fell more than {} changes behind", super::limits::UPDATE_BUFFER)]
    Lagged,
    #[error("it closed the stream")]
    Closed,
}

impl From<tonic::Status> for Ended {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// One endpoint an executor.
pub(super) fn endpoints(config: &Config) -> Result<Vec<Endpoint>, StartError> {
    let one = |url: &String| {
        let scheme = if config.executor_tls.is_some() {
            "https"
        } else {
            "http"
        };
        let full = if url.contains("://") {
            url.clone()
        } else {
            format!("{scheme}://{url}")
        };
        let refused = |_| StartError::Executor(url.clone());
        let endpoint = Endpoint::from_shared(full).map_err(refused)?;
        let endpoint = endpoint
            .connect_timeout(EXECUTOR_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(EXECUTOR_TIMEOUT)
            .keep_alive_while_idle(true);
        match &config.executor_tls {
            Some(tls) => endpoint.tls_config(tls.clone()).map_err(refused),
            None => Ok(endpoint),
        }
    };
    config.executors.iter().map(one).collect()
}

/// Gathers changes for a moment, then tells the streams.
pub(super) async fn flush(gateway: Arc<Gateway>) {
    loop {
        gateway.dirty.notified().await;
        sleep(FLUSH_EVERY).await;
        gateway.pool(super::pool::Pool::flush);
    }
}

/// Keeps one executor fed, for ever.
pub(super) async fn feed(gateway: Arc<Gateway>, endpoint: Endpoint) {
    let mut pause = RECONNECT_MIN;
    loop {
        let ended = match connect(&gateway, &endpoint).await {
            Ok(session) => {
                pause = RECONNECT_MIN;
                session.run(&gateway).await
            }
            Err(ended) => ended,
        };
        let executor = endpoint.uri();
        match &ended {
            Ended::Status(status) if status.code() == Code::PermissionDenied => {
                tracing::error!(%executor, %ended, "the executor takes no transactions from this gateway");
            }
            _ => tracing::debug!(%executor, %ended, "executor stream ended"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(RECONNECT_MAX);
    }
}

/// A stream to one executor.
struct Session {
    shards: RangeInclusive<u32>,
    out: mpsc::Sender<v1::PendingUpdate>,
    replies: Streaming<v1::PendingReply>,
}

async fn within<T>(call: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, Ended> {
    let answer = timeout(EXECUTOR_TIMEOUT, call).await;
    Ok(answer.map_err(|_| Ended::Timeout)??)
}

async fn connect(gateway: &Gateway, endpoint: &Endpoint) -> Result<Session, Ended> {
    let channel = endpoint.connect().await?;
    let mut feed = FeedClient::new(channel.clone());
    let info = within(feed.info(v1::FeedInfoRequest {}))
        .await?
        .into_inner();
    if info.genesis_hash.as_ref() != gateway.genesis_hash.as_slice() {
        let theirs = alloy_primitives::hex::encode_prefixed(&info.genesis_hash);
        return Err(Ended::OtherChain(theirs));
    }
    let (out, updates) = mpsc::channel(STREAM_BUFFER);
    // The executor may answer only once it has read the first message.
    let hello = Wire::Hello(v1::PendingHello {
        gateway: gateway.name.clone(),
        genesis_hash: hash_bytes(gateway.genesis_hash),
    });
    out.try_send(wire(hello)).map_err(|_| Ended::Closed)?;
    let mut pool = PoolClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let replies = within(pool.pending(ReceiverStream::new(updates))).await?;
    Ok(Session {
        shards: info.first_shard..=info.last_shard,
        out,
        replies: replies.into_inner(),
    })
}

fn wire(update: Wire) -> v1::PendingUpdate {
    v1::PendingUpdate {
        update: Some(update),
    }
}

impl Session {
    /// Sends and listens until one of the two ends.
    async fn run(self, gateway: &Gateway) -> Ended {
        let Self {
            shards,
            out,
            replies,
        } = self;
        tokio::select! {
            ended = listen(gateway, replies) => ended,
            ended = pump(gateway, &shards, &out) => ended,
        }
    }
}

async fn pump(
    gateway: &Gateway,
    shards: &RangeInclusive<u32>,
    out: &mpsc::Sender<v1::PendingUpdate>,
) -> Ended {
    let (snapshot, mut changes) = gateway.pool(|pool| {
        pool.flush();
        pool.subscribe()
    });
    for update in &snapshot {
        if send(gateway, out, shards, update).await.is_err() {
            return Ended::Closed;
        }
    }
    if out.send(wire(Wire::Synced(true))).await.is_err() {
        return Ended::Closed;
    }
    loop {
        let sent = match timeout(ALIVE_EVERY, changes.recv()).await {
            Ok(Ok(update)) => send(gateway, out, shards, &update).await,
            Ok(Err(broadcast::error::RecvError::Lagged(_))) => return Ended::Lagged,
            Ok(Err(broadcast::error::RecvError::Closed)) => return Ended::Closed,
            Err(_) => out.send(wire(Wire::Alive(true))).await,
        };
        if sent.is_err() {
            return Ended::Closed;
        }
    }
}

type Closed = mpsc::error::SendError<v1::PendingUpdate>;

/// Sends what of an update concerns an executor of these shards.
async fn send(
    gateway: &Gateway,
    out: &mpsc::Sender<v1::PendingUpdate>,
    shards: &RangeInclusive<u32>,
    update: &Update,
) -> Result<(), Closed> {
    match update {
        Update::Add(sender, placed, raws) => {
            if shards.contains(&placed.shard) {
                add(out, *sender, *placed, raws).await?;
            }
        }
        Update::Move(sender, placed) => {
            if shards.contains(&placed.shard) {
                let queue = gateway.pool(|pool| pool.handed(*sender));
                add(out, *sender, *placed, &queue).await?;
            } else {
                // Whoever had the sender so far must let go of it from that round on.
                let route = v1::PendingRoute {
                    sender: address_bytes(*sender),
                    shard: placed.shard,
                    from_round: placed.from_round,
                };
                out.send(wire(Wire::Route(route))).await?;
            }
        }
        Update::Aged(aged) => {
            let transactions = aged.iter().map(aged_on_wire).collect();
            out.send(wire(Wire::Aged(v1::PendingAged { transactions })))
                .await?;
        }
        Update::Remove(hashes) => {
            for page in hashes.chunks(MAX_REMOVE_HASHES) {
                let hashes = page.iter().map(|hash| hash_bytes(*hash)).collect();
                out.send(wire(Wire::Remove(v1::PendingRemove { hashes })))
                    .await?;
            }
        }
    }
    Ok(())
}

fn aged_on_wire(aged: &Aged) -> v1::AgedTransaction {
    v1::AgedTransaction {
        sender: address_bytes(aged.sender),
        nonce: aged.nonce,
        shard: aged.placed.shard,
        from_round: aged.placed.from_round,
        keys: aged.keys.iter().map(|key| (*key).into()).collect(),
    }
}

/// In messages of bounded size.
async fn add(
    out: &mpsc::Sender<v1::PendingUpdate>,
    sender: Address,
    placed: Placed,
    raws: &[Bytes],
) -> Result<(), Closed> {
    let mut rest = raws;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take(MAX_ADD_TRANSACTIONS).take_while(|raw| {
            bytes += raw.len();
            bytes <= MAX_ADD_BYTES
        });
        let (page, after) = rest.split_at(fits.count().max(1));
        rest = after;
        let add = v1::PendingAdd {
            transactions: page.iter().map(|raw| raw.clone().into()).collect(),
            sender: address_bytes(sender),
            shard: placed.shard,
            from_round: placed.from_round,
        };
        out.send(wire(Wire::Add(add))).await?;
    }
    Ok(())
}

async fn listen(gateway: &Gateway, mut replies: Streaming<v1::PendingReply>) -> Ended {
    loop {
        match replies.message().await {
            Ok(Some(reply)) => {
                if let Some(v1::pending_reply::Reply::Refused(refused)) = reply.reply {
                    gateway.refused(&refused);
                }
            }
            Ok(None) => return Ended::Closed,
            Err(status) => return status.into(),
        }
    }
}

impl Gateway {
    /// An executor left a transaction out. What is malformed is passed over: no harm but a transaction that waits.
    fn refused(&self, refused: &v1::PendingRefused) {
        let Ok(tx) = hash("hash", &refused.hash) else {
            return;
        };
        let held: Vec<(LockKey, u32)> = refused
            .held
            .iter()
            .filter_map(|h| Some((LockKey::try_from(h.key.as_ref()?).ok()?, h.shard)))
            .collect();
        let writes = refused.writes.iter().take(MAX_AGED_KEYS);
        let writes = writes.filter_map(|key| LockKey::try_from(key).ok());
        let writes: Vec<LockKey> = writes.collect();
        let reason = match held.first() {
            Some((key, shard)) => format!("shard {shard} held {key}"),
            None => refused.reason.clone(),
        };
        let holder = holder(&held);
        let after = self.pool(|pool| {
            if refused.drop {
                pool.invalid(tx, &reason)
            } else {
                let held: Vec<LockKey> = held.iter().map(|(key, _)| *key).collect();
                pool.learn_writes(tx, &writes, &held);
                pool.refused(tx, refused.round, holder, &reason)
            }
        });
        if holder.is_some() && after != AfterRefusal::Ignored {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            refusals.note(Conflict {
                round: refused.round,
                hash: tx,
                shard: refused.shard,
                held,
            });
        }
        self.dirty.notify_one();
    }

    /// Conflicts that executors reported for a round.
    pub fn conflicts(&self, round: u64) -> Vec<Conflict> {
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.of_round(round)
    }
}

/// The shard that held most of the keys.
fn holder(held: &[(LockKey, u32)]) -> Option<u32> {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for (_, shard) in held {
        *counts.entry(*shard).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, n)| *n).map(|(s, _)| s)
}
