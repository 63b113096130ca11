//! Where blocks to be checked come from: the feeds of another cluster, or a file.
//!
//! A feed that is away is sought on for ever, and missed only where no other one has its shards.

use super::file::BlocksReader;
use super::peers::{CONNECT_TIMEOUT, Peer, RETRY_PAUSE, Reached, connect, uncovered};
use anyhow::{Context, bail};
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;
use troika_proto::wire::{hash, required};
use troika_proto::{B256, ChainConfig, v1};
use v1::feed_item::Item;

/// Items that wait to be put together, of all feeds.
const WAITING_ITEMS: usize = 64;
/// Longest silence of a feed before it is sought again; a feed gives a sign of life at least every few seconds.
const SILENCE: Duration = Duration::from_secs(15);
/// Pause before a feed that counts as away is sought again.
const AWAY_PAUSE: Duration = Duration::from_secs(5);

/// The chain that a source is of.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Hash of block 0.
    pub genesis_hash: B256,
    /// Its rules.
    pub config: ChainConfig,
    /// The first round that can be had.
    pub first_round: u64,
}

impl Chain {
    /// As a feed or a file tells it.
    ///
    /// # Errors
    /// A config that is none.
    pub(super) fn of(info: &v1::FeedInfo) -> anyhow::Result<Self> {
        let config = required("config", info.config.as_ref())?;
        Ok(Self {
            genesis_hash: hash("genesis_hash", &info.genesis_hash)?,
            config: ChainConfig::try_from(config)?,
            first_round: info.oldest_round.max(1),
        })
    }
}

/// What a source tells.
#[derive(Debug)]
pub enum News {
    /// An item, and which of the feeds it is from. A file is feed 0.
    Item(usize, Box<v1::FeedItem>),
    /// This feed is away; the others have its shards.
    Away(usize),
}

/// What the task of a feed sends.
enum Sent {
    Item(usize, Box<v1::FeedItem>),
    /// It is away, for this reason.
    Away(usize, String),
    /// Nothing more can come.
    Failed(anyhow::Error),
}

/// News as they come, until the source ends or fails.
pub struct Items {
    feeds: Vec<Feed>,
    /// First and last shard that are wanted.
    wanted: (u32, u32),
    received: mpsc::Receiver<Sent>,
}

struct Feed {
    shards: (u32, u32),
    away: bool,
}

impl Items {
    /// How many feeds there are.
    pub fn feeds(&self) -> usize {
        self.feeds.len()
    }

    /// What comes next; `None` at the end of a file.
    ///
    /// # Errors
    /// Feeds of which so many stay away or refuse that a shard is missing, a file that is damaged.
    pub async fn next(&mut self) -> anyhow::Result<Option<News>> {
        match self.received.recv().await {
            None => Ok(None),
            Some(Sent::Failed(error)) => Err(error),
            Some(Sent::Item(feed, item)) => {
                self.feeds[feed].away = false;
                Ok(Some(News::Item(feed, item)))
            }
            Some(Sent::Away(feed, reason)) => {
                self.feeds[feed].away = true;
                let present = self.feeds.iter().filter(|feed| !feed.away);
                let mut ranges: Vec<_> = present.map(|feed| feed.shards).collect();
                if let Some(shard) = uncovered(self.wanted, &mut ranges) {
                    bail!("{reason}; no other feed has shard {shard}");
                }
                tracing::warn!(reason, "going on without a feed");
                Ok(Some(News::Away(feed)))
            }
        }
    }
}

/// A file of blocks.
///
/// # Errors
/// A file that is something else.
pub async fn file(path: &Path) -> anyhow::Result<(Chain, Items)> {
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || BlocksReader::open(&path));
    let (info, mut reader) = opened.await.context("reading panicked")??;
    let (items, received) = mpsc::channel(WAITING_ITEMS);
    tokio::task::spawn_blocking(move || {
        loop {
            let (sent, over) = match reader.item() {
                Ok(Some(item)) => (Sent::Item(0, Box::new(item)), false),
                Ok(None) => return,
                Err(error) => (Sent::Failed(error), true),
            };
            if items.blocking_send(sent).is_err() || over {
                return;
            }
        }
    });
    let chain = Chain::of(&info)?;
    let wanted = (0, chain.config.shards - 1);
    let items = Items {
        feeds: vec![Feed {
            shards: wanted,
            away: false,
        }],
        wanted,
        received,
    };
    Ok((chain, items))
}

/// Subscribes to the feeds for these shards (first and last), from a round on; seeks each again when it goes away. One that
/// stays away for `patience` counts as such, and is sought on.
pub fn feeds(
    peers: Vec<Reached>,
    wanted: (u32, u32),
    from_round: u64,
    patience: Duration,
) -> Items {
    let (items, received) = mpsc::channel(WAITING_ITEMS);
    let mut feeds = Vec::with_capacity(peers.len());
    for (feed, reached) in peers.into_iter().enumerate() {
        feeds.push(Feed {
            shards: reached.shards,
            away: false,
        });
        let following = Following {
            feed,
            peer: reached.peer,
            shards: wanted,
            next: from_round,
            patience,
            away: false,
            items: items.clone(),
        };
        tokio::spawn(following.run());
    }
    Items {
        feeds,
        wanted,
        received,
    }
}

/// One feed over any number of connections.
struct Following {
    feed: usize,
    peer: Peer,
    /// First and last that are asked for.
    shards: (u32, u32),
    /// The first round that has not come whole.
    next: u64,
    patience: Duration,
    /// Whether that has been told.
    away: bool,
    items: mpsc::Sender<Sent>,
}

/// Why a connection ended.
enum Ended {
    /// Nobody wants more.
    Done,
    /// The feed went away.
    Lost(String),
    /// It will never serve this.
    Refused(String),
}

impl Following {
    async fn run(mut self) {
        let mut last_seen = Instant::now();
        loop {
            let (lost, for_good) = match self.connection(&mut last_seen).await {
                Ended::Done => return,
                Ended::Lost(reason) => (reason, false),
                Ended::Refused(reason) => (reason, true),
            };
            let away = for_good || last_seen.elapsed() > self.patience;
            if away && !self.away {
                self.away = true;
                let reason = format!("{}: {lost}", self.peer);
                if self
                    .items
                    .send(Sent::Away(self.feed, reason))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            if for_good {
                return;
            }
            tracing::info!(feed = %self.peer, %lost, "the feed went away, seeking it again");
            let pause = if self.away { AWAY_PAUSE } else { RETRY_PAUSE };
            tokio::select! {
                // Nobody wants it any more.
                () = self.items.closed() => return,
                () = sleep(pause) => {}
            }
        }
    }

    async fn connection(&mut self, last_seen: &mut Instant) -> Ended {
        let mut client = match connect(&self.peer).await {
            Ok(client) => client,
            Err(error) => return Ended::Lost(format!("cannot be reached: {error:#}")),
        };
        let request = v1::SubscribeRequest {
            first_shard: self.shards.0,
            last_shard: self.shards.1,
            from_round: self.next,
            peer: "verify".into(),
        };
        let mut feed = match timeout(CONNECT_TIMEOUT, client.subscribe(request)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return lost_or_refused(&status),
            Err(_) => return Ended::Lost("does not answer".into()),
        };
        loop {
            let item = match timeout(SILENCE, feed.message()).await {
                Ok(Ok(Some(item))) => item,
                Ok(Ok(None)) => return Ended::Lost("ended the stream".into()),
                Ok(Err(status)) => return lost_or_refused(&status),
                Err(_) => return Ended::Lost(format!("was silent for {SILENCE:?}")),
            };
            *last_seen = Instant::now();
            self.away = false;
            if let Some(Item::CaughtUp(round)) = item.item {
                self.next = self.next.max(round.saturating_add(1));
            }
            let sent = Sent::Item(self.feed, Box::new(item));
            if self.items.send(sent).await.is_err() {
                return Ended::Done;
            }
        }
    }
}

/// Tells a feed that is away for the moment from one that will never serve this request.
fn lost_or_refused(status: &tonic::Status) -> Ended {
    let message = status.message().to_owned();
    match status.code() {
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => Ended::Refused(message),
        _ => Ended::Lost(message),
    }
}

#[cfg(test)]
mod tests {
    use super::super::peers::at;
    use super::*;

    /// A peer where nobody listens.
    fn nobody() -> Peer {
        let mut peers = at(&["127.0.0.1:1".to_owned()], None).expect("an address");
        peers.remove(0)
    }

    fn items(shards: &[(u32, u32)]) -> (mpsc::Sender<Sent>, Items) {
        let (sender, received) = mpsc::channel(WAITING_ITEMS);
        let feed = |shards: &(u32, u32)| Feed {
            shards: *shards,
            away: false,
        };
        let items = Items {
            feeds: shards.iter().map(feed).collect(),
            wanted: (0, 3),
            received,
        };
        (sender, items)
    }

    #[tokio::test]
    async fn a_feed_is_missed_only_where_no_other_one_has_its_shards() {
        let (sender, mut items) = items(&[(0, 3), (0, 1), (2, 3)]);
        let away = async |feed: usize| sender.send(Sent::Away(feed, "gone".into())).await.unwrap();
        away(1).await;
        assert!(matches!(items.next().await, Ok(Some(News::Away(1)))));
        // It is back, and another one goes.
        let item = Box::new(v1::FeedItem::default());
        sender.send(Sent::Item(1, item)).await.unwrap();
        assert!(matches!(items.next().await, Ok(Some(News::Item(1, _)))));
        away(0).await;
        assert!(matches!(items.next().await, Ok(Some(News::Away(0)))));
        away(2).await;
        let missed = items.next().await.unwrap_err().to_string();
        assert!(
            missed.contains("gone") && missed.contains("shard 2"),
            "{missed}"
        );
    }

    #[tokio::test]
    async fn a_peer_that_nobody_reaches_is_told_to_be_away_once_and_sought_on() {
        let reached = Reached {
            peer: nobody(),
            shards: (0, 3),
        };
        let mut items = feeds(vec![reached], (0, 3), 1, Duration::ZERO);
        assert!(matches!(
            items.received.recv().await,
            Some(Sent::Away(0, _))
        ));
        assert!(!items.received.is_closed(), "it is sought on");
    }
}
