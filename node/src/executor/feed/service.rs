//! `troika.v1.Feed`.

use super::super::limits::{FEED_BUFFER_ITEMS, FEED_SUBSCRIBERS};
use super::super::shared::Shared;
use super::source::Source;
use super::subscriber::Subscriber;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use troika_proto::limits::MAX_NAME_CHARS;
use troika_proto::v1;
use troika_proto::wire::hash_bytes;

/// The gRPC side of the feed.
pub struct FeedService {
    /// `None` until the chain is known.
    shared: watch::Receiver<Option<(Arc<Shared>, Arc<Source>)>>,
    subscribers: Arc<AtomicUsize>,
}

impl FeedService {
    /// Serves what `shared` becomes once the chain is known.
    pub fn new(shared: watch::Receiver<Option<(Arc<Shared>, Arc<Source>)>>) -> Self {
        Self {
            shared,
            subscribers: Arc::default(),
        }
    }

    fn shared(&self) -> Result<(Arc<Shared>, Arc<Source>), Status> {
        let shared = self.shared.borrow().clone();
        shared.ok_or_else(|| Status::unavailable("this executor does not know its chain yet"))
    }
}

#[tonic::async_trait]
impl v1::feed_server::Feed for FeedService {
    type SubscribeStream = ReceiverStream<Result<v1::FeedItem, Status>>;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (shared, source) = self.shared()?;
        let request = request.into_inner();
        let shards = overlap(&request, shared.shards)?;
        let oldest = source.book.pruned_below();
        if request.from_round != 0 && request.from_round < oldest {
            return Err(Status::out_of_range(format!(
                "from_round: is {}, the oldest round that is kept is {oldest}",
                request.from_round
            )));
        }
        if self.subscribers.fetch_add(1, Ordering::AcqRel) >= FEED_SUBSCRIBERS {
            self.subscribers.fetch_sub(1, Ordering::AcqRel);
            return Err(Status::resource_exhausted(format!(
                "at most {FEED_SUBSCRIBERS} subscribers (FEED_SUBSCRIBERS) at a time"
            )));
        }
        let (items, stream) = mpsc::channel(FEED_BUFFER_ITEMS);
        let subscriber = Subscriber {
            next: match request.from_round {
                0 => from_now_on(&source),
                from => from,
            },
            source,
            shards,
            items,
            begun: BTreeMap::new(),
            told: None,
        };
        tracing::info!(peer = %request.peer, from = subscriber.next, ?shards, "subscriber");
        let subscribers = self.subscribers.clone();
        let stop = shared.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = subscriber.run() => {}
            }
            subscribers.fetch_sub(1, Ordering::AcqRel);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn info(
        &self,
        _request: Request<v1::FeedInfoRequest>,
    ) -> Result<Response<v1::FeedInfo>, Status> {
        let (shared, source) = self.shared()?;
        Ok(Response::new(v1::FeedInfo {
            executor: shared.name.clone(),
            first_shard: shared.shards.0,
            last_shard: shared.shards.1,
            genesis_hash: hash_bytes(shared.genesis_hash),
            config: Some((&shared.config).into()),
            newest_round: source.book.newest(),
            oldest_round: source.book.pruned_below(),
        }))
    }

    async fn stats(
        &self,
        _request: Request<v1::FeedInfoRequest>,
    ) -> Result<Response<v1::ExecutorStats>, Status> {
        let (shared, _) = self.shared()?;
        let stats = shared.stats.snapshot();
        Ok(Response::new(v1::ExecutorStats {
            races_won: stats.races_won,
            races_lost: stats.races_lost,
            conflicts: stats.conflicts,
            cache_bytes: shared.cache.bytes() as u64,
            pending: shared.pool.pending().len() as u64,
            divergence: stats.divergence,
        }))
    }
}

/// The open round, which is sent whole, or else the next.
fn from_now_on(source: &Source) -> u64 {
    let newest = source.book.newest();
    let open = source.book.get(newest).is_some_and(|o| o.close.is_none());
    if open { newest } else { newest + 1 }
}

/// The shards that both have.
fn overlap(request: &v1::SubscribeRequest, ours: (u32, u32)) -> Result<(u32, u32), Status> {
    let (first, last) = (request.first_shard, request.last_shard);
    if first > last {
        return Err(Status::invalid_argument(format!(
            "first_shard: is {first}, above last_shard {last}"
        )));
    }
    if request.peer.chars().count() > MAX_NAME_CHARS {
        return Err(Status::invalid_argument(format!(
            "peer: is longer than {MAX_NAME_CHARS} characters"
        )));
    }
    if first > ours.1 || last < ours.0 {
        return Err(Status::failed_precondition(format!(
            "first_shard, last_shard: {first}-{last} does not overlap this executor's {}-{}",
            ours.0, ours.1
        )));
    }
    Ok((first.max(ours.0), last.min(ours.1)))
}
