//! Executors of other clusters: who of them can be reached, and whether they have every shard together.

use super::source::Chain;
use crate::tls::{Tls, url};
use anyhow::{Context, bail};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::fmt;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::transport::{Channel, Endpoint};
use troika_proto::limits::MAX_MESSAGE_BYTES;
use troika_proto::v1;
use v1::feed_client::FeedClient;

/// Longest that a connection may take to come up, and a call to be answered.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before a peer is sought again.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Peers that have not answered are waited for this long once the others have every shard.
const COVERED_GRACE: Duration = Duration::from_secs(2);
/// A silent connection is asked for a sign of life this often, and ended without one after as long again.
const PING: Duration = Duration::from_secs(5);

/// An executor of another cluster, whose feed is read.
#[derive(Clone, Debug)]
pub struct Peer {
    url: String,
    endpoint: Endpoint,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// The executors at these addresses, which ask for a certificate where `tls` is given.
///
/// # Errors
/// What is no address, or has another scheme than the certificates ask for.
pub fn at(addresses: &[String], tls: Option<&Tls>) -> anyhow::Result<Vec<Peer>> {
    let peer = |address: &String| {
        let url = url(address, tls.is_some())?;
        let mut endpoint = Endpoint::from_shared(url.clone())
            .with_context(|| format!("{url} is not an address"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PING);
        if let Some(tls) = tls {
            endpoint = endpoint.tls_config(tls.client())?;
        }
        Ok(Peer { url, endpoint })
    };
    addresses.iter().map(peer).collect()
}

/// A peer that has answered.
#[derive(Clone, Debug)]
pub struct Reached {
    /// Who.
    pub peer: Peer,
    /// First and last shard that it owns.
    pub shards: (u32, u32),
}

/// What the peers' feeds say of their chain, all the same, and who of them answered: together they have the `wanted` shards
/// (first and last, cut to what the chain has).
///
/// # Errors
/// Another chain, or a shard that nobody has who can be reached.
pub async fn chain_of(
    peers: &[Peer],
    patience: Duration,
    wanted: (u32, u32),
) -> anyhow::Result<(Chain, Vec<Reached>)> {
    let ask = |peer: &Peer| {
        let peer = peer.clone();
        async move { (info(&peer, patience).await, peer) }
    };
    let mut asked: FuturesUnordered<_> = peers.iter().map(ask).collect();
    let mut found: Option<Chain> = None;
    let mut reached: Vec<Reached> = Vec::new();
    let mut unreached = None;
    let mut missing = None;
    let mut until = Instant::now() + patience + 2 * CONNECT_TIMEOUT;
    while let Ok(Some((info, peer))) = timeout_at(until, asked.next()).await {
        let info = match info {
            Ok(info) => info,
            Err(error) => {
                tracing::warn!(%peer, error = format!("{error:#}"), "going on without a peer");
                unreached = Some(error);
                continue;
            }
        };
        let chain = Chain::of(&info).with_context(|| peer.to_string())?;
        let chain = same_chain(found, chain, &peer)?;
        let shards = (info.first_shard, info.last_shard);
        reached.push(Reached { peer, shards });
        let last = wanted.1.min(chain.config.shards - 1);
        let mut ranges: Vec<_> = reached.iter().map(|peer| peer.shards).collect();
        missing = uncovered((wanted.0, last), &mut ranges);
        if missing.is_none() {
            until = until.min(Instant::now() + COVERED_GRACE);
        }
        found = Some(chain);
    }
    let away = || unreached.unwrap_or_else(|| anyhow::anyhow!("no feed is given, or none answers"));
    match (found, missing) {
        (Some(chain), None) => Ok((chain, reached)),
        (Some(_), Some(shard)) => bail!(
            "no feed that can be reached has shard {shard}: name more of that cluster's executors"
        ),
        (None, _) => Err(away()),
    }
}

/// A peer's chain, which must be the one that was found before.
fn same_chain(found: Option<Chain>, chain: Chain, peer: &Peer) -> anyhow::Result<Chain> {
    match found {
        None => Ok(chain),
        Some(known) if known.genesis_hash != chain.genesis_hash => bail!(
            "{peer} is of another chain: its genesis is {}, another feed's {}",
            chain.genesis_hash,
            known.genesis_hash
        ),
        Some(known) => Ok(Chain {
            first_round: known.first_round.max(chain.first_round),
            ..known
        }),
    }
}

/// The first of the wanted shards that no range has.
pub(super) fn uncovered(wanted: (u32, u32), ranges: &mut [(u32, u32)]) -> Option<u32> {
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

async fn info(peer: &Peer, patience: Duration) -> anyhow::Result<v1::FeedInfo> {
    let deadline = Instant::now() + patience;
    loop {
        let asked = async {
            let mut client = connect(peer).await?;
            let info = timeout(CONNECT_TIMEOUT, client.info(v1::FeedInfoRequest {})).await;
            anyhow::Ok(info.context("no answer")??.into_inner())
        };
        match asked.await {
            Ok(info) => return Ok(info),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("{peer} does not answer"));
            }
            Err(_) => sleep(RETRY_PAUSE).await,
        }
    }
}

pub(super) async fn connect(peer: &Peer) -> anyhow::Result<FeedClient<Channel>> {
    let channel = peer.endpoint.connect().await?;
    Ok(FeedClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
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

    #[tokio::test]
    async fn without_a_peer_that_answers_there_is_no_chain() {
        let nobody = at(&["127.0.0.1:1".to_owned()], None).expect("an address");
        let alone = chain_of(&nobody, Duration::ZERO, (0, 3)).await;
        let error = format!("{:#}", alone.unwrap_err());
        assert!(error.contains("127.0.0.1:1 does not answer"), "{error}");
    }
}
