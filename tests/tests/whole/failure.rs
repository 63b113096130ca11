//! The race when things go wrong, and transactions that stand in each other's way.

use super::fixture::{
    HOT_A, HOT_B, HOT_BOTH, genesis_of, included, plan, send, start, transaction, until,
};
use std::time::Duration;
use troika_node::cli::PolicyName;
use troika_node::dev::cluster::{Cluster, Plan};
use troika_node::executor::ExecutorConfig;
use troika_node::load::accounts::load_accounts;

#[tokio::test(flavor = "multi_thread")]
async fn with_all_executors_of_a_shard_gone_blocks_go_on_and_its_transactions_wait() {
    let mut genesis = genesis_of(2, Duration::from_millis(100));
    genesis.config.seal_after_ms = 600;
    let plan = Plan {
        policy: PolicyName::Sender,
        ..plan(&genesis, 2)
    };
    let mut cluster = Cluster::start_without_executors(plan)
        .await
        .expect("starts");
    // Each shard has one executor.
    let one_shard = |n: usize, config: &mut ExecutorConfig| {
        config.shards = (n as u32, n as u32);
    };
    cluster
        .start_executors_as(one_shard)
        .await
        .expect("executors start");
    let senders = load_accounts(16);
    let first: Vec<_> = senders
        .iter()
        .map(|s| transaction(s, 0, s.address, 1))
        .collect();
    send(&cluster, &first).await;
    for tx in &first {
        included(cluster.store(), tx.hash).await;
    }
    let gone = cluster.stop_executor(1).await;
    let before = cluster.store().head().await.unwrap().header.number;
    let second: Vec<_> = senders
        .iter()
        .map(|s| transaction(s, 1, s.address, 1))
        .collect();
    send(&cluster, &second).await;
    let head = until("blocks without that shard", async || {
        let head = cluster.store().head().await.unwrap().header;
        (head.number > before + 3).then_some(head)
    })
    .await;
    let block = troika_node::store_client::BlockId::Number(head.number);
    let block = cluster.store().block(block).await.unwrap().expect("kept");
    assert!(block.shards[1].header.is_empty());
    assert_eq!(
        &*block.shards[1].winner.executor, "",
        "filled at the sealing"
    );
    // The other shard's are in, those of the dead one come with its return.
    cluster.start_executor(gone).await.expect("starts again");
    for tx in &second {
        included(cluster.store(), tx.hash).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_starves_under_hot_contracts_nor_under_two_hot_keys_that_one_transaction_needs() {
    let genesis = genesis_of(4, Duration::from_millis(150));
    // By sender alone: the policy that knows nothing of what is hot.
    let cluster = start(Plan {
        policy: PolicyName::Sender,
        ..plan(&genesis, 3)
    })
    .await;
    let senders = load_accounts(48);
    // For a while new calls of both contracts come all the time, from every shard.
    let mut all = Vec::new();
    let mut torn = Vec::new();
    for nonce in 0..3 {
        let mut batch = Vec::new();
        for (index, sender) in senders.iter().enumerate() {
            let to = match index % 12 {
                0 => HOT_BOTH,
                n if n % 2 == 0 => HOT_A,
                _ => HOT_B,
            };
            let tx = transaction(sender, nonce, to, 0);
            if to == HOT_BOTH {
                torn.push(tx.hash);
            }
            batch.push(tx);
        }
        send(&cluster, &batch).await;
        all.extend(batch);
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    for tx in &all {
        let reason = cluster.gateway().drop_reason(&tx.hash);
        assert_eq!(reason, None, "{} was dropped", tx.hash);
        included(cluster.store(), tx.hash).await;
    }
    assert!(cluster.conflicts() > 0, "nothing was hot");
    let read = |address| troika_node::store_client::StateKey::Slot(address, Default::default());
    let keys = [read(HOT_A), read(HOT_B)];
    let values = cluster.store().read(None, &keys, &[]).await.unwrap().values;
    let counted: u64 = values
        .iter()
        .map(|value| match value {
            troika_node::store_client::StateValue::Slot(value) => value.to::<u64>(),
            other => panic!("{other:?}"),
        })
        .sum();
    // Those that need both count in both: every call took effect once.
    assert_eq!(counted, (all.len() + torn.len()) as u64);
    cluster.stop().await;
}
