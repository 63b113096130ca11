//! Watchers, peers of the feeds, and the members' state hashes: all that is seen without being asked for.

use super::{CALL_TIMEOUT, Shared, state_hash};
use crate::history::{Feed, Op, Watch, WatchEvent};
use alloy_primitives::B256;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Channel;
use troika_proto::v1::cluster_client::ClusterClient;
use troika_proto::v1::feed_client::FeedClient;
use troika_proto::v1::rounds_client::RoundsClient;
use troika_proto::v1::{self, event, feed_item};
use troika_proto::{Header, LockRule, Shard, ShardBody, ShardHeader};

/// A stream that is silent for this long is given up for another member's.
const SILENCE: Duration = Duration::from_secs(3);
/// Pause between two backups, and how long one may take.
const BACKUP_PAUSE: Duration = Duration::from_millis(1_500);
const BACKUP_LIMIT: Duration = Duration::from_secs(10);
/// Pause before connecting again.
const PAUSE: Duration = Duration::from_millis(100);

fn hash(bytes: &[u8]) -> B256 {
    // A hash of another length agrees with nothing.
    B256::try_from(bytes).unwrap_or(B256::repeat_byte(0xff))
}

async fn connect(address: &str) -> Result<Channel, tonic::Status> {
    let unavailable = |e: tonic::transport::Error| tonic::Status::unavailable(e.to_string());
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .map_err(unavailable)?
        .connect_timeout(Duration::from_secs(1));
    endpoint.connect().await.map_err(unavailable)
}

/// A watcher: follows one member after the other, resuming where it was. `hop`: changes the member after this long.
pub async fn watcher(shared: Arc<Shared>, number: u64, hop: Option<Duration>) {
    let process = shared.recorder.new_process();
    let mut watcher = number;
    let mut after: Option<v1::EventId> = Some(v1::EventId::default());
    let mut at = number as usize;
    while !shared.ended() {
        let members = shared.members();
        at = (at + 1) % members.len();
        let stay = hop.unwrap_or(Duration::from_secs(86_400));
        let once = watch_once(&shared, watcher, process, &members[at], &mut after);
        // An `Err` of the outer result: time to hop.
        if let Ok(Err(e)) = tokio::time::timeout(stay, once).await
            && e.code() == tonic::Code::OutOfRange
        {
            // The history is gone: a watcher of another name begins with the oldest there is.
            watcher += 1_000;
            after = Some(v1::EventId::default());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn watch_once(
    shared: &Shared,
    watcher: u64,
    process: u64,
    (member, address): &(u32, String),
    after: &mut Option<v1::EventId>,
) -> Result<(), tonic::Status> {
    let request = v1::WatchRequest {
        after: *after,
        all_shards: true,
        ..Default::default()
    };
    let mut rounds = RoundsClient::new(connect(address).await?);
    let mut stream = tokio::time::timeout(CALL_TIMEOUT, rounds.watch(request))
        .await
        .map_err(|_| tonic::Status::deadline_exceeded("watch"))??
        .into_inner();
    let member = u64::from(*member);
    while !shared.ended() {
        let Ok(next) = tokio::time::timeout(SILENCE, stream.message()).await else {
            return Ok(()); // Quiet for long: perhaps cut off. Another member.
        };
        let Some(response) = next? else {
            return Ok(());
        };
        for event in &response.events {
            record_event(shared, watcher, process, member, event);
            *after = event.id.or(*after);
        }
        if let Some(progress) = response.progress {
            let at = after.map_or((0, 0), |a| (a.revision, a.ordinal));
            let id = (progress.revision, progress.ordinal);
            if id > at {
                let event = WatchEvent::Progress;
                let watch = Watch {
                    watcher,
                    member,
                    id,
                    event,
                };
                shared.saw(process, Op::Watch(watch));
                *after = Some(progress);
            }
        }
    }
    Ok(())
}

fn record_event(shared: &Shared, watcher: u64, process: u64, member: u64, event: &v1::Event) {
    let seen = match event.kind.clone() {
        Some(event::Kind::RoundOpened(r)) => {
            // Of a block that is checked nobody makes shards.
            if r.kind() == v1::RoundKind::Build {
                shared.heard_of(r.round);
            }
            WatchEvent::Opened { round: r.round }
        }
        Some(event::Kind::ShardAccepted(a)) => WatchEvent::Accepted {
            round: a.round,
            shard: a.shard,
            winner: crate::client::winner(a.winner.unwrap_or_default()),
        },
        Some(event::Kind::RoundSealed(s)) => WatchEvent::Sealed {
            round: s.round,
            block: hash(&s.block_hash),
            shards: s.shard_hashes.iter().map(|h| hash(h)).collect(),
            gas: s.header.map_or(0, |h| h.gas_used),
        },
        Some(event::Kind::RoundVoided(v)) => WatchEvent::Voided { round: v.round },
        other => WatchEvent::Other(format!("{other:?}").chars().take(60).collect()),
    };
    let id = event.id.unwrap_or_default();
    let watch = Watch {
        watcher,
        member,
        id: (id.revision, id.ordinal),
        event: seen,
    };
    shared.saw(process, Op::Watch(watch));
}

/// A peer of one executor: follows its feed from the first round, resuming after what was complete. Ends with the run, or
/// once everything up to `until` has been sent.
pub async fn peer(shared: Arc<Shared>, executor: String, address: String, until: Option<u64>) {
    let mut from = 1;
    while !shared.ended() && until.is_none_or(|until| from <= until) {
        // A connection is a peer of its own: what it is sent again after a reconnect is no repeat.
        let process = shared.recorder.new_process();
        let _ = follow(&shared, process, &executor, &address, &mut from, until).await;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn follow(
    shared: &Shared,
    process: u64,
    executor: &str,
    address: &str,
    from: &mut u64,
    until: Option<u64>,
) -> Result<(), tonic::Status> {
    let request = v1::SubscribeRequest {
        first_shard: 0,
        last_shard: shared.shards - 1,
        from_round: *from,
        peer: "jepsen".to_owned(),
    };
    let limit = troika_proto::limits::MAX_MESSAGE_BYTES;
    let mut feed = FeedClient::new(connect(address).await?).max_decoding_message_size(limit);
    let mut stream = tokio::time::timeout(CALL_TIMEOUT, feed.subscribe(request))
        .await
        .map_err(|_| tonic::Status::deadline_exceeded("subscribe"))??
        .into_inner();
    let first = *from;
    while !shared.ended() {
        let Ok(next) = tokio::time::timeout(SILENCE, stream.message()).await else {
            return Ok(());
        };
        let Some(item) = next? else {
            return Ok(());
        };
        let mut seen = Feed {
            executor: executor.to_owned(),
            life: 0,
            round: item.round,
            shard: None,
            block: None,
            complete: None,
        };
        match item.item {
            Some(feed_item::Item::Shard(shard)) => {
                seen.shard = Some((shard.index, recomputed(&shard)));
            }
            Some(feed_item::Item::Block(block)) => {
                let header = block.header.as_ref().map(Header::try_from);
                let own = matches!(&header, Some(Ok(header)) if header.hash() == hash(&block.hash));
                let named = if own {
                    hash(&block.hash)
                } else {
                    B256::repeat_byte(0xfd)
                };
                let shards = block.shard_hashes.iter().map(|h| hash(h)).collect();
                seen.block = Some((named, shards));
            }
            Some(feed_item::Item::CaughtUp(upto)) => {
                if upto < *from {
                    continue;
                }
                seen.round = upto;
                seen.complete = Some((first, upto));
                *from = upto + 1;
            }
            Some(feed_item::Item::Void(_)) | None => continue,
        }
        shared.saw(process, Op::Feed(seen));
        if until.is_some_and(|until| *from > until) {
            return Ok(());
        }
    }
    Ok(())
}

/// The hash of what was sent, not what it is said to be: a shard whose body is not its header's hashes to nothing.
fn recomputed(shard: &v1::FeedShard) -> B256 {
    let header = shard.header.as_ref().map(ShardHeader::try_from);
    let body = shard.body.as_ref().map(ShardBody::try_from);
    match (header, body) {
        (Some(Ok(header)), Some(Ok(body))) => Shard::check(header, body, LockRule::Commuting)
            .map_or(B256::repeat_byte(0xfe), |s| s.hash),
        _ => B256::repeat_byte(0xfc),
    }
}

/// Takes a backup of one member after the other, and throws it away. Each makes its member write a checkpoint, so that
/// members that are killed come back from checkpoints of all ages.
pub async fn backups(shared: Arc<Shared>) {
    for n in 0.. {
        tokio::time::sleep(BACKUP_PAUSE).await;
        if shared.stopped() {
            return;
        }
        let members = shared.members();
        let (_, address) = &members[n % members.len()];
        // A member that is down or cut off has none to give.
        let _ = tokio::time::timeout(BACKUP_LIMIT, backup(address)).await;
    }
}

async fn backup(address: &str) -> Result<(), tonic::Status> {
    let limit = troika_proto::limits::MAX_MESSAGE_BYTES;
    let cluster = ClusterClient::new(connect(address).await?);
    let mut cluster = cluster.max_decoding_message_size(limit);
    let request = v1::BackupRequest { meta: None };
    let mut chunks = cluster.backup(request).await?.into_inner();
    while chunks.message().await?.is_some() {}
    Ok(())
}

/// Asks every member for its state hash, over and over.
pub async fn state_hashes(shared: Arc<Shared>) {
    let process = shared.recorder.new_process();
    while !shared.ended() {
        for (id, address) in shared.members() {
            if let Ok(state) = state_hash(&address, u64::from(id)).await {
                shared.saw(process, Op::StateHash(state));
            }
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}
