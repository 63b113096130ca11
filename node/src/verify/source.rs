//! Where blocks to be checked come from: the feeds of another cluster, or a file.

use super::file::BlocksReader;
use anyhow::{Context, bail};
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use troika_proto::limits::MAX_MESSAGE_BYTES;
use troika_proto::wire::{hash, required};
use troika_proto::{B256, ChainConfig, v1};
use v1::feed_client::FeedClient;
use v1::feed_item::Item;

/// Items that wait to be put together, of all feeds.
const WAITING_ITEMS: usize = 64;
/// Longest that a connection may take to come up, and a call to be answered.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest silence of a feed before it is sought again; a feed gives a sign of life at least every few seconds.
const SILENCE: Duration = Duration::from_secs(15);
/// Pause before a feed is sought again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

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
    fn of(info: &v1::FeedInfo) -> anyhow::Result<Self> {
        let config = required("config", info.config.as_ref())?;
        Ok(Self {
            genesis_hash: hash("genesis_hash", &info.genesis_hash)?,
            config: ChainConfig::try_from(config)?,
            first_round: info.oldest_round.max(1),
        })
    }
}

/// An item and which of the feeds it is from. A file is feed 0.
pub type Sent = (usize, v1::FeedItem);

/// Items as they come, until the source ends or fails.
pub struct Items {
    /// How many feeds there are.
    pub feeds: usize,
    received: mpsc::Receiver<anyhow::Result<Sent>>,
}

impl Items {
    /// The next item; `None` at the end of a file.
    ///
    /// # Errors
    /// A feed that stayed away or that refuses, a file that is damaged.
    pub async fn next(&mut self) -> anyhow::Result<Option<Sent>> {
        self.received.recv().await.transpose()
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
            let item = reader.item().map(|item| item.map(|item| (0, item)));
            let over = !matches!(item, Ok(Some(_)));
            let Some(item) = item.transpose() else { return };
            if items.blocking_send(item).is_err() || over {
                return;
            }
        }
    });
    Ok((Chain::of(&info)?, Items { feeds: 1, received }))
}

/// What the feeds say of their chain; all the same, and together they have the `wanted` shards (first and last, cut to
/// what the chain has).
///
/// # Errors
/// A feed that cannot be reached, another chain, or a shard that nobody has.
pub async fn chain_of(
    feeds: &[String],
    patience: Duration,
    wanted: (u32, u32),
) -> anyhow::Result<Chain> {
    let mut found: Option<Chain> = None;
    let mut ranges = Vec::new();
    for url in feeds {
        let info = info(url, patience).await?;
        let chain = Chain::of(&info).with_context(|| url.clone())?;
        ranges.push((info.first_shard, info.last_shard));
        found = Some(match found {
            None => chain,
            Some(known) if known.genesis_hash != chain.genesis_hash => bail!(
                "{url} is of another chain: its genesis is {}, the first feed's {}",
                chain.genesis_hash,
                known.genesis_hash
            ),
            Some(known) => Chain {
                first_round: known.first_round.max(chain.first_round),
                ..known
            },
        });
    }
    let chain = found.context("no feed is given")?;
    let last = wanted.1.min(chain.config.shards - 1);
    if let Some(shard) = uncovered((wanted.0, last), &mut ranges) {
        bail!("no feed of those has shard {shard}: name more of that cluster's executors");
    }
    Ok(chain)
}

/// The first of the wanted shards that no range has.
fn uncovered(wanted: (u32, u32), ranges: &mut [(u32, u32)]) -> Option<u32> {
    ranges.sort_unstable();
    let mut next = wanted.0;
    for (first, last) in ranges {
        if *first > next {
            break;
        }
        next = next.max(last.saturating_add(1));
    }
    (next <= wanted.1).then_some(next)
}

async fn info(url: &str, patience: Duration) -> anyhow::Result<v1::FeedInfo> {
    let deadline = Instant::now() + patience;
    loop {
        let asked = async {
            let mut client = connect(url).await?;
            let info = timeout(CONNECT_TIMEOUT, client.info(v1::FeedInfoRequest {})).await;
            anyhow::Ok(info.context("no answer")??.into_inner())
        };
        match asked.await {
            Ok(info) => return Ok(info),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("{url} does not answer"));
            }
            Err(_) => sleep(RETRY_PAUSE).await,
        }
    }
}

async fn connect(url: &str) -> anyhow::Result<FeedClient<Channel>> {
    let endpoint = Endpoint::from_shared(crate::tls::url(url, false)?)
        .with_context(|| format!("{url} is not an address"))?
        .connect_timeout(CONNECT_TIMEOUT);
    let channel = endpoint.connect().await?;
    Ok(FeedClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

/// Subscribes to the feeds for these shards (first and last), from a round on; seeks each again when it goes away, for as long as `patience` lasts.
pub fn feeds(urls: &[String], shards: (u32, u32), from_round: u64, patience: Duration) -> Items {
    let (items, received) = mpsc::channel(WAITING_ITEMS);
    for (feed, url) in urls.iter().enumerate() {
        let following = Following {
            feed,
            url: url.clone(),
            shards,
            next: from_round,
            patience,
            items: items.clone(),
        };
        tokio::spawn(following.run());
    }
    Items {
        feeds: urls.len(),
        received,
    }
}

/// One feed over any number of connections.
struct Following {
    feed: usize,
    url: String,
    /// First and last that are asked for.
    shards: (u32, u32),
    /// The first round that has not come whole.
    next: u64,
    patience: Duration,
    items: mpsc::Sender<anyhow::Result<Sent>>,
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
            let lost = match self.connection(&mut last_seen).await {
                Ended::Done => return,
                Ended::Lost(reason) if last_seen.elapsed() <= self.patience => reason,
                Ended::Lost(reason) | Ended::Refused(reason) => {
                    let error = anyhow::anyhow!("{}: {reason}", self.url);
                    // Nobody may be left to hear it.
                    self.items.send(Err(error)).await.ok();
                    return;
                }
            };
            tracing::info!(feed = %self.url, %lost, "the feed went away, seeking it again");
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn connection(&mut self, last_seen: &mut Instant) -> Ended {
        let mut client = match connect(&self.url).await {
            Ok(client) => client,
            Err(error) => return Ended::Lost(format!("cannot be reached: {error:#}")),
        };
        let request = v1::SubscribeRequest {
            first_shard: self.shards.0,
            last_shard: self.shards.1,
            from_round: self.next,
            peer: "verify".into(),
        };
        let mut feed = match client.subscribe(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return lost_or_refused(&status),
        };
        loop {
            let item = match timeout(SILENCE, feed.message()).await {
                Ok(Ok(Some(item))) => item,
                Ok(Ok(None)) => return Ended::Lost("ended the stream".into()),
                Ok(Err(status)) => return lost_or_refused(&status),
                Err(_) => return Ended::Lost(format!("was silent for {SILENCE:?}")),
            };
            *last_seen = Instant::now();
            if let Some(Item::CaughtUp(round)) = item.item {
                self.next = self.next.max(round + 1);
            }
            if self.items.send(Ok((self.feed, item))).await.is_err() {
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
    use super::*;

    #[test]
    fn a_shard_that_no_feed_has_is_found() {
        for (wanted, ranges, expected) in [
            ((0, 3), vec![(0, 3)], None),
            ((0, 3), vec![(2, 9), (0, 1)], None),
            ((0, 3), vec![(0, 1), (3, 3)], Some(2)),
            ((0, 3), vec![(1, 3)], Some(0)),
            ((0, 3), vec![(0, 2), (0, 1)], Some(3)),
            ((2, 3), vec![(0, 1), (2, 5)], None),
            ((2, 3), vec![(3, 3)], Some(2)),
        ] {
            let found = uncovered(wanted, &mut ranges.clone());
            assert_eq!(found, expected, "{ranges:?}");
        }
    }
}
