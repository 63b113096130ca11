//! `troika.v1.Pool`: a gateway's stream, parsed and applied to the pending set in order.
//!
//! Who may send one is taken at its word for the senders of transactions. So behind TLS it takes the role of an executor:
//! a certificate that allows reading the feed is not enough.

use super::super::limits::{GATEWAY_GRACE, GATEWAY_LOST, GATEWAY_SILENCE, GATEWAYS, ROOM_PAUSE};
use super::aged::Aged;
use super::pending::{Full, StreamId};
use super::{Pool, Refused};
use crate::execution::{Transaction, TxError};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use troika_proto::wire::{address, check_name, hash, hash_bytes, required};
use troika_proto::{Address, B256, Malformed, v1};
use troika_store::server::certificate::Subject;
use troika_store::service::access::Role;
use v1::pending_update::Update;

/// The gRPC side of the pool.
pub struct PoolService {
    pool: Arc<Pool>,
    genesis_hash: watch::Receiver<Option<B256>>,
    streams: AtomicU64,
    connected: Arc<AtomicUsize>,
    stop: CancellationToken,
    /// Whether callers show certificates.
    tls: bool,
}

impl PoolService {
    /// Serves `pool`, behind TLS or not. Before the chain is known (`None`) gateways are asked to come again.
    pub fn new(
        pool: Arc<Pool>,
        genesis_hash: watch::Receiver<Option<B256>>,
        stop: CancellationToken,
        tls: bool,
    ) -> Self {
        Self {
            pool,
            genesis_hash,
            streams: AtomicU64::new(1),
            connected: Arc::new(AtomicUsize::new(0)),
            stop,
            tls,
        }
    }

    /// Plain text is for loopback, where whoever calls may do everything.
    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        if !self.tls {
            return Ok(());
        }
        let certificates = request.peer_certs().unwrap_or_default();
        let subject = certificates.first().and_then(|cert| Subject::of(cert));
        let subject = subject.unwrap_or_default();
        if subject.may(Role::Executor) {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "handing in transactions takes the role executor; the certificate of {:?} has the roles: {}",
            subject.name,
            subject.roles_text()
        )))
    }

    fn hello(&self, update: v1::PendingUpdate) -> Result<Arc<str>, Status> {
        let Some(Update::Hello(hello)) = update.update else {
            return Err(Status::invalid_argument(
                "update: the first message must be hello",
            ));
        };
        check_name("hello.gateway", &hello.gateway).map_err(invalid)?;
        let theirs = hash("hello.genesis_hash", &hello.genesis_hash).map_err(invalid)?;
        let Some(ours) = *self.genesis_hash.borrow() else {
            return Err(Status::unavailable(
                "this executor does not know its chain yet",
            ));
        };
        if ours != theirs {
            return Err(Status::failed_precondition(format!(
                "hello.genesis_hash: is {theirs}, this executor's chain has {ours}"
            )));
        }
        Ok(hello.gateway.into())
    }
}

#[tonic::async_trait]
impl v1::pool_server::Pool for PoolService {
    type PendingStream = Pin<Box<dyn Stream<Item = Result<v1::PendingReply, Status>> + Send>>;

    async fn pending(
        &self,
        request: Request<Streaming<v1::PendingUpdate>>,
    ) -> Result<Response<Self::PendingStream>, Status> {
        self.admit(&request)?;
        let seat = Seat::take(&self.connected)?;
        let mut updates = request.into_inner();
        let first = timeout(GATEWAY_LOST, updates.message())
            .await
            .map_err(|_| silent())??
            .ok_or_else(|| Status::invalid_argument("update: the stream is empty"))?;
        let gateway = self.hello(first)?;
        let stream = self.streams.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = self.pool.register(&gateway, stream);
        self.pool
            .pending()
            .connect(&gateway, stream, Instant::now());
        self.pool.announce();
        tracing::info!(%gateway, "gateway connected");
        let session = Session {
            pool: self.pool.clone(),
            gateway,
            stream,
            replies: sender,
            missed: Mutex::default(),
        };
        let (ended, failure) = mpsc::channel(1);
        let stop = self.stop.clone();
        tokio::spawn(async move {
            let _seat = seat;
            let run = async {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => Err(Status::unavailable("the executor stops")),
                    run = session.run(updates) => run,
                }
            };
            if let Err(status) = run.await {
                tracing::warn!(gateway = %session.gateway, %status, "gateway's stream ended");
                let _ = ended.send(Err(status)).await;
            }
            session.end().await;
        });
        let replies = ReceiverStream::new(receiver).map(Ok);
        let stream = replies.merge(ReceiverStream::new(failure));
        Ok(Response::new(Box::pin(stream)))
    }
}

/// One of the places that the limit leaves.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(connected: &Arc<AtomicUsize>) -> Result<Self, Status> {
        if connected.fetch_add(1, Ordering::AcqRel) >= GATEWAYS {
            connected.fetch_sub(1, Ordering::AcqRel);
            return Err(Status::resource_exhausted(format!(
                "at most {GATEWAYS} gateways (GATEWAYS) are connected at a time"
            )));
        }
        Ok(Self(connected.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One stream of one gateway.
struct Session {
    pool: Arc<Pool>,
    gateway: Arc<str>,
    stream: StreamId,
    replies: mpsc::Sender<v1::PendingReply>,
    /// What there was no room for.
    missed: Mutex<Option<Full>>,
}

impl Session {
    async fn run(&self, mut updates: Streaming<v1::PendingUpdate>) -> Result<(), Status> {
        let mut looks = interval(ROOM_PAUSE);
        let mut heard = Instant::now();
        let mut synced = false;
        loop {
            let update = tokio::select! {
                biased;
                _ = looks.tick() => {
                    self.look_for_room()?;
                    if !self.pool.pending().is_current(&self.gateway, self.stream) {
                        return Err(replaced());
                    }
                    if heard.elapsed() > GATEWAY_LOST {
                        return Err(silent());
                    }
                    continue;
                }
                update = updates.message() => update?,
            };
            let Some(update) = update else {
                return Ok(());
            };
            let update = required("update", update.update).map_err(invalid)?;
            synced |= matches!(update, Update::Synced(_));
            let alive = matches!(update, Update::Alive(_));
            if alive && !synced {
                // It would hold proposals back for as long as it likes.
                let early = "update: a sign of life comes before the set is complete";
                return Err(Status::invalid_argument(early));
            }
            if !self.take(update)? {
                return Err(replaced());
            }
            // After a silence a sign of life is news, too. Taking it may itself have taken long.
            let silence = heard.elapsed();
            heard = Instant::now();
            self.pool.pending().hear(&self.gateway, self.stream, heard);
            if !alive || silence > GATEWAY_SILENCE {
                self.pool.announce();
            }
        }
    }

    /// Ends the stream where there is room again for what was missed: the gateway then sends its whole set.
    fn look_for_room(&self) -> Result<(), Status> {
        let missed = *lock(&self.missed);
        if missed.is_some_and(|missed| self.pool.pending().has_room(&missed)) {
            return Err(Status::aborted(
                "there was no room for some transactions, and is now: send the whole set again",
            ));
        }
        Ok(())
    }

    /// Applies one update; `false` where this stream has been replaced.
    fn take(&self, update: Update) -> Result<bool, Status> {
        // Decoded before the lock is taken.
        let added = match &update {
            Update::Add(add) => decode(add).map_err(invalid)?,
            _ => Added::default(),
        };
        let synced = matches!(update, Update::Synced(_));
        let mut refused = added.undecodable;
        let mut full = Vec::new();
        let (round, mut shard) = (self.pool.pending().round(), 0);
        {
            let mut pending = self.pool.pending();
            if !pending.is_current(&self.gateway, self.stream) {
                return Ok(false);
            }
            match update {
                Update::Hello(_) => {
                    return Err(Status::invalid_argument("update: hello may only be first"));
                }
                Update::Add(add) => {
                    shard = add.shard;
                    for transaction in added.transactions {
                        if let Err(why) = pending.add(&self.gateway, transaction.clone()) {
                            full.push((transaction, why));
                        }
                    }
                    pending.route(&self.gateway, added.sender, add.shard, add.from_round);
                }
                Update::Route(route) => {
                    let sender = address("route.sender", &route.sender).map_err(invalid)?;
                    pending.route(&self.gateway, sender, route.shard, route.from_round);
                }
                Update::Remove(remove) => {
                    for bytes in &remove.hashes {
                        let hash = hash("remove.hashes", bytes).map_err(invalid)?;
                        pending.remove(&self.gateway, hash);
                    }
                }
                Update::Aged(aged) => {
                    let aged = aged.transactions.iter().map(Aged::try_from);
                    let aged: Vec<Aged> = aged.collect::<Result<_, _>>().map_err(invalid)?;
                    pending.aged.told(&self.gateway, aged);
                }
                Update::Synced(_) => pending.synced(&self.gateway, self.stream),
                Update::Alive(_) => {}
            }
        }
        if synced {
            let reply = v1::pending_reply::Reply::Synced(true);
            let _ = self
                .replies
                .try_send(v1::PendingReply { reply: Some(reply) });
        }
        // The set that is sent again brings them back as soon as there is room.
        if let Some((_, why)) = full.last() {
            *lock(&self.missed) = Some(*why);
        }
        refused.extend(full.iter().map(|(transaction, why)| {
            v1::PendingReply::from(&Refused {
                transaction: transaction.clone(),
                round,
                shard,
                held: Vec::new(),
                writes: Vec::new(),
                reason: why.to_string(),
                drop: false,
            })
        }));
        for reply in refused {
            let _ = self.replies.try_send(reply);
        }
        Ok(true)
    }

    /// The set stays for a while: most gateways come back.
    async fn end(self) {
        let (pool, gateway, stream) = (self.pool, self.gateway, self.stream);
        pool.unregister(&gateway, stream);
        pool.pending().disconnect(&gateway, stream);
        pool.announce();
        tracing::info!(%gateway, "gateway disconnected");
        drop(self.replies);
        let (pool, gateway) = (Arc::downgrade(&pool), gateway);
        tokio::spawn(async move {
            tokio::time::sleep(GATEWAY_GRACE).await;
            if let Some(pool) = pool.upgrade() {
                pool.pending().expire(&gateway, stream);
            }
        });
    }
}

fn replaced() -> Status {
    Status::aborted("a newer stream of this gateway took its place")
}

fn silent() -> Status {
    let seconds = GATEWAY_LOST.as_secs();
    Status::deadline_exceeded(format!("nothing came for {seconds} s (GATEWAY_LOST)"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Added {
    sender: Address,
    transactions: Vec<Arc<Transaction>>,
    undecodable: Vec<v1::PendingReply>,
}

/// The sender is the gateway's word: it has recovered it, and belongs to the same operator.
fn decode(add: &v1::PendingAdd) -> Result<Added, Malformed> {
    let sender = address("add.sender", &add.sender)?;
    let mut added = Added {
        sender,
        ..Added::default()
    };
    for raw in &add.transactions {
        match Transaction::with_sender(raw.clone().into(), sender) {
            Ok(transaction) => added.transactions.push(Arc::new(transaction)),
            Err(problem) => added.undecodable.push(undecodable(raw, &problem)),
        }
    }
    Ok(added)
}

fn undecodable(raw: &[u8], problem: &TxError) -> v1::PendingReply {
    v1::PendingReply {
        reply: Some(v1::pending_reply::Reply::Refused(v1::PendingRefused {
            hash: hash_bytes(troika_proto::keccak(raw)),
            reason: problem.to_string(),
            drop: true,
            ..v1::PendingRefused::default()
        })),
    }
}

fn invalid(problem: Malformed) -> Status {
    Status::invalid_argument(problem.to_string())
}
