//! Second executions.

use super::cluster::{Gateway, Signed, cluster, genesis, transfer};
use crate::execution::{Builder, MemoryView, Rules, Transaction};
use crate::store_client::{Options, StoreClient};
use alloy_primitives::B256;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use troika_proto::wire::hash_bytes;
use troika_proto::{Environment, Genesis, Shard, v1};
use v1::pending_update::Update;

/// Longest that anything here is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Shard 0 of a round on genesis with these transactions.
fn shard(genesis: &Genesis, environment: &Environment, signed: &[&Signed]) -> Shard {
    let environment = genesis.config.execution_environment(environment);
    let rules = Rules::of(&genesis.config);
    let mut builder = Builder::new(rules, environment, MemoryView::of(genesis));
    for one in signed {
        let transaction = Transaction::with_sender(one.raw.clone(), one.sender).unwrap();
        let pushed = builder.push(&Arc::new(transaction)).unwrap();
        assert!(pushed.is_included(), "{pushed:?}");
    }
    builder.finish(0)
}

fn removed(hash: B256) -> Update {
    Update::Remove(v1::PendingRemove {
        hashes: vec![hash_bytes(hash)],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn no_sender_is_recovered_that_a_gateway_has_told_before() {
    let genesis = genesis(2, 600_000, 600_000);
    let (store, addr, executors) = cluster(&genesis, 1).await;
    let mut gateway = Gateway::connect("g", &genesis, executors[0].addr()).await;
    let all: Vec<_> = (0..4).map(|nonce| transfer(1, nonce, 0xaa)).collect();
    gateway.add(&all.iter().collect::<Vec<_>>(), 0, 0).await;
    gateway.synced().await;
    // The gateway hears of the block first, and says that two of them are done with.
    gateway.send(removed(all[0].hash)).await;
    gateway.send(removed(all[1].hash)).await;
    gateway.synced().await;
    store.until("a round", |state| state.open_round()).await;
    let environment = store.state().rounds[&1].environment.clone();
    let accepted = shard(&genesis, &environment, &all[..3].iter().collect::<Vec<_>>());
    let other = StoreClient::new(Options::new([addr.to_string()])).unwrap();
    other.submit(1, "other", &accepted).await.unwrap();
    // Another shard is open still: what is pending must not keep the losers from looking.
    other.submit(1, "other", &Shard::empty(1)).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while executors[0].stats().verified == 0 {
        assert!(Instant::now() < deadline, "{:?}", executors[0].stats());
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(executors[0].stats().senders_recovered, 0);
}
