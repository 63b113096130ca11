//! One subscriber: a cursor over the rounds.

use super::super::limits::{FEED_KEEPALIVE, FEED_READS, RETRY_MAX, RETRY_MIN};
use super::book::{Close, Outline};
use super::source::{Source, may_send_shards};
use crate::store_client::{RoundKind, StoreError};
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::Status;
use troika_proto::v1;
use troika_proto::wire::hash_bytes;
use v1::feed_item::Item;

/// A subscriber's connection.
pub(super) type Items = mpsc::Sender<Result<v1::FeedItem, Status>>;

/// Why a subscription ends.
enum End {
    /// The subscriber is gone.
    Gone,
    Failed(Status),
}

pub(super) struct Subscriber {
    pub(super) source: Arc<Source>,
    /// First and last shard that are sent.
    pub(super) shards: (u32, u32),
    pub(super) items: Items,
    /// The next round to begin with.
    pub(super) next: u64,
    /// Rounds that were begun and are not closed: what was sent of them.
    pub(super) begun: BTreeMap<u64, BTreeSet<u32>>,
    /// The round up to which the subscriber has been told that it has everything.
    pub(super) told: Option<u64>,
}

impl Subscriber {
    /// Sends until the subscriber is gone.
    pub(super) async fn run(mut self) {
        if let Err(End::Failed(status)) = self.follow().await {
            let _ = self.items.send(Err(status)).await;
        }
    }

    async fn follow(&mut self) -> Result<(), End> {
        let mut changes = self.source.book.changes();
        let mut pause = RETRY_MIN;
        loop {
            changes.borrow_and_update();
            match self.turn().await {
                Ok(()) => pause = RETRY_MIN,
                Err(Stop::End(end)) => return Err(end),
                Err(Stop::Retry(error)) => {
                    tracing::debug!(%error, "feed waits for the store");
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                    continue;
                }
            }
            self.caught_up().await?;
            let waited = tokio::select! {
                biased;
                () = self.items.closed() => return Err(End::Gone),
                waited = timeout(FEED_KEEPALIVE, changes.changed()) => waited,
            };
            match waited {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(End::Failed(Status::unavailable("the executor stops"))),
                Err(_) => {
                    self.told = None;
                    self.caught_up().await?;
                }
            }
        }
    }

    /// All rounds up to it are closed and sent.
    fn complete(&self) -> u64 {
        let open = self.begun.first_key_value().map(|(round, _)| *round);
        open.unwrap_or(self.next).saturating_sub(1)
    }

    /// Says up to where everything was sent, unless that has been said.
    async fn caught_up(&mut self) -> Result<(), End> {
        let complete = self.complete();
        if self.told == Some(complete) {
            return Ok(());
        }
        self.told = Some(complete);
        self.send(complete, Item::CaughtUp(complete)).await
    }

    /// Sends everything that there is to send, in the order of rounds.
    async fn turn(&mut self) -> Result<(), Stop> {
        loop {
            let begun: Vec<u64> = self.begun.keys().copied().collect();
            for round in begun {
                self.round(round).await?;
            }
            // A BUILD round that is open holds the later ones back: rounds are sent in order. A VERIFY round, which
            // may take its time, does not.
            if self.waits() || self.next > self.source.book.newest() {
                return Ok(());
            }
            self.begun.insert(self.next, BTreeSet::new());
            self.next += 1;
        }
    }

    /// True if a round that was begun must be finished first.
    fn waits(&self) -> bool {
        self.begun.keys().any(|round| {
            let outline = self.source.book.get(*round);
            outline.is_none_or(|outline| outline.kind == RoundKind::Build)
        })
    }

    /// Sends what is new of a round that was begun.
    async fn round(&mut self, round: u64) -> Result<(), Stop> {
        let outline = match self.source.outline(round).await {
            Ok(Some(outline)) => outline,
            // Never opened (or below the first): nothing to say.
            Ok(None) => {
                self.begun.remove(&round);
                return Ok(());
            }
            Err(StoreError::Pruned { message, .. }) => {
                return Err(Stop::End(End::Failed(Status::out_of_range(format!(
                    "round {round} is no longer kept: {message}"
                )))));
            }
            Err(error) => return Err(Stop::Retry(error.to_string())),
        };
        if may_send_shards(&outline) {
            self.shards_of(round, &outline).await?;
        }
        let Some(close) = &outline.close else {
            return Ok(());
        };
        let item = match close {
            Close::Void(reason) => Item::Void((*reason).into()),
            Close::Sealed {
                hash,
                header,
                shard_hashes,
                head,
            } => Item::Block(v1::FeedBlock {
                hash: hash_bytes(*hash),
                header: Some(header.as_ref().into()),
                shard_hashes: shard_hashes.iter().map(|h| hash_bytes(*h)).collect(),
                head: *head,
            }),
        };
        self.send(round, item).await.map_err(Stop::End)?;
        self.begun.remove(&round);
        // Also where a subscriber never comes to rest.
        self.caught_up().await.map_err(Stop::End)
    }

    async fn shards_of(&mut self, round: u64, outline: &Outline) -> Result<(), Stop> {
        let sealed = matches!(outline.close, Some(Close::Sealed { .. }));
        let decided: Vec<u32> = if sealed {
            // Every shard of a sealed round is decided, heard of or not.
            (self.shards.0..=self.shards.1).collect()
        } else {
            let range = outline.winners.range(self.shards.0..=self.shards.1);
            range.map(|(shard, _)| *shard).collect()
        };
        let sent = self.begun.entry(round).or_default();
        let unsent = decided.into_iter().filter(|shard| !sent.contains(shard));
        let source = self.source.clone();
        // Read ahead, sent in order.
        let mut found = futures::stream::iter(unsent.collect::<Vec<_>>())
            .map(|shard| {
                let source = source.clone();
                async move { (shard, source.shard(round, shard).await) }
            })
            .buffered(FEED_READS);
        while let Some((shard, found)) = found.next().await {
            let Some(item) = found.map_err(|e| Stop::Retry(e.to_string()))? else {
                // The answering member is behind.
                let problem = format!("round {round} shard {shard} is not there yet");
                return Err(Stop::Retry(problem));
            };
            let item = Item::Shard(Arc::unwrap_or_clone(item));
            self.send(round, item).await.map_err(Stop::End)?;
            self.begun.entry(round).or_default().insert(shard);
        }
        Ok(())
    }

    async fn send(&self, round: u64, item: Item) -> Result<(), End> {
        let item = v1::FeedItem {
            round,
            item: Some(item),
        };
        self.items.send(Ok(item)).await.map_err(|_| End::Gone)
    }
}

enum Stop {
    End(End),
    Retry(String),
}
