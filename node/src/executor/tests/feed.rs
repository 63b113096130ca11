//! Properties of the feed.

use super::cluster::{Gateway, cluster, executor, genesis, subscribe, transfer};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tonic::Streaming;
use troika_proto::{B256, v1};
use v1::feed_item::Item;

/// What a feed said: (round, shard) -> hash, and round -> block hash.
#[derive(Debug, Default, PartialEq)]
struct Said {
    shards: BTreeMap<(u64, u32), B256>,
    blocks: BTreeMap<u64, B256>,
}

/// Takes items until rounds up to `last` are complete; nothing may come twice or out of order.
async fn take(stream: &mut Streaming<v1::FeedItem>, last: u64) -> Said {
    let mut said = Said::default();
    let mut at = 0;
    loop {
        let item = timeout(Duration::from_secs(10), stream.message()).await;
        let item = item.expect("an item in time").unwrap().expect("goes on");
        match item.item.unwrap() {
            Item::Shard(shard) => {
                assert!(item.round >= at, "round {} after {at}", item.round);
                at = item.round;
                let hash = B256::from_slice(&shard.winner.unwrap().shard_hash);
                let header = troika_proto::ShardHeader::try_from(&shard.header.unwrap()).unwrap();
                assert_eq!(header.hash(), hash);
                let again = said.shards.insert((item.round, shard.index), hash);
                assert_eq!(again, None, "twice");
            }
            Item::Block(block) => {
                assert!(item.round >= at);
                let again = said
                    .blocks
                    .insert(item.round, B256::from_slice(&block.hash));
                assert_eq!(again, None, "twice");
            }
            Item::CaughtUp(round) if round >= last => {
                said.shards.retain(|(round, _), _| *round <= last);
                said.blocks.retain(|round, _| *round <= last);
                return said;
            }
            Item::CaughtUp(_) | Item::Void(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_executor_and_every_restart_publishes_the_same() {
    let genesis = genesis(3, 20, 2_000);
    let (store, addr, mut executors) = cluster(&genesis, 2).await;
    let mut live = subscribe(executors[0].addr(), (0, 2), 1).await.unwrap();
    let mut gateways = Vec::new();
    for executor in &executors {
        let mut gateway = Gateway::connect("g", &genesis, executor.addr()).await;
        gateway.synced().await;
        gateways.push(gateway);
    }
    for nonce in 0..10 {
        let tx = transfer(1, nonce, 0xaa);
        for gateway in &gateways {
            gateway.add(&[&tx], 1, 0).await;
        }
        sleep(Duration::from_millis(30)).await;
    }
    let last = store
        .until("ten rounds", |s| (s.rounds.len() > 10).then_some(10))
        .await;
    let live = take(&mut live, last).await;
    assert_eq!(live.shards.len() as u64, 3 * last);
    assert_eq!(live.blocks.len() as u64, last);

    let mut other = subscribe(executors[1].addr(), (0, 2), 1).await.unwrap();
    assert_eq!(take(&mut other, last).await, live);

    executors.remove(0).shutdown().await;
    let again = executor("e0", addr, (0, 2)).await;
    let mut restarted = subscribe(again.addr(), (0, 2), 1).await.unwrap();
    assert_eq!(take(&mut restarted, last).await, live);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_gets_what_overlaps_and_nothing_without_overlap() {
    let genesis = genesis(4, 10, 200);
    let (store, addr) = crate::testing::FakeStore::start(genesis.clone()).await;
    let executor = executor("e0", addr, (1, 2)).await;
    store
        .until("two rounds", |s| (s.rounds.len() > 2).then_some(()))
        .await;
    let refused = subscribe(executor.addr(), (3, 9), 1).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    let reads = store.state().shard_reads;
    assert_eq!(reads, 0, "who is refused costs nothing");
    let mut stream = subscribe(executor.addr(), (2, 9), 1).await.unwrap();
    let said = take(&mut stream, 2).await;
    let places: Vec<_> = said.shards.keys().copied().collect();
    assert_eq!(places, [(1, 2), (2, 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_subscriber_holds_back_nobody_and_misses_nothing() {
    let genesis = genesis(2, 0, 2_000);
    let (store, _, executors) = cluster(&genesis, 1).await;
    let mut slow = subscribe(executors[0].addr(), (0, 1), 1).await.unwrap();
    let mut gateway = Gateway::connect("g", &genesis, executors[0].addr()).await;
    gateway.synced().await;
    // More rounds than the feed keeps in memory.
    let last = 300;
    store
        .until("many rounds", |s| {
            (s.rounds.len() as u64 > last).then_some(())
        })
        .await;
    let mut quick = subscribe(executors[0].addr(), (0, 1), last - 5)
        .await
        .unwrap();
    take(&mut quick, last).await;
    let said = take(&mut slow, last).await;
    assert_eq!(said.shards.len() as u64, 2 * last);
    assert_eq!(said.blocks.len() as u64, last);
}
