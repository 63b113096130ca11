//! Races between executors that do not own the same shards.

use super::fixture::{genesis_of, included, plan, send, transaction, until};
use std::collections::BTreeSet;
use std::time::Duration;
use troika_node::cli::PolicyName;
use troika_node::dev::cluster::{Cluster, Plan};
use troika_node::executor::ExecutorConfig;
use troika_node::load::accounts::load_accounts;
use troika_node::store_client::BlockId;

#[tokio::test(flavor = "multi_thread")]
async fn with_overlapping_ranges_all_is_sealed_and_every_shard_is_made_by_an_owner() {
    const RANGES: [(u32, u32); 3] = [(0, 1), (1, 2), (2, 3)];
    let genesis = genesis_of(4, Duration::from_millis(100));
    let plan = Plan {
        policy: PolicyName::Sender,
        ..plan(&genesis, 3)
    };
    let cluster = Cluster::start_without_executors(plan).await;
    let mut cluster = cluster.expect("starts");
    let own = |n: usize, config: &mut ExecutorConfig| config.shards = RANGES[n];
    cluster
        .start_executors_as(own)
        .await
        .expect("executors start");
    let senders = load_accounts(40);
    let mut made = BTreeSet::new();
    for nonce in 0..3 {
        let batch: Vec<_> = senders
            .iter()
            .map(|sender| transaction(sender, nonce, sender.address, 1))
            .collect();
        send(&cluster, &batch).await;
        for tx in &batch {
            let place = included(cluster.store(), tx.hash).await;
            made.insert((place.block_number, place.shard));
        }
    }
    let shards: BTreeSet<u32> = made.iter().map(|(_, shard)| *shard).collect();
    assert_eq!(shards, BTreeSet::from([0, 1, 2, 3]));
    let names = cluster.executor_names();
    for (number, shard) in made {
        let block = cluster.store().block(BlockId::Number(number)).await;
        let block = block.unwrap().expect("kept");
        let winner = &block.shards[shard as usize].winner.executor;
        let owner = names.iter().position(|name| **name == **winner);
        let (first, last) = RANGES[owner.expect("an executor of this cluster")];
        assert!(
            (first..=last).contains(&shard),
            "{winner} made shard {shard}"
        );
    }
    until("nothing waits", async || {
        (cluster.gateway().pending() == 0).then_some(())
    })
    .await;
    cluster.stop().await;
}
