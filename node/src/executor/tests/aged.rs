//! Transactions that were refused too often.

use super::cluster::{Gateway, executor, genesis, transfer};
use crate::testing::FakeStore;
use std::collections::BTreeSet;
use troika_proto::wire::address_bytes;
use troika_proto::{LockKey, v1};
use v1::pending_update::Update;

#[tokio::test(flavor = "multi_thread")]
async fn an_aged_transactions_keys_are_reserved_by_whoever_opens_and_none_before() {
    let genesis = genesis(2, 10, 2_000);
    let (store, addr) = FakeStore::start(genesis.clone()).await;
    // Of the two only one owns the shard.
    let executors = [
        executor("e0", addr, (0, 0)).await,
        executor("e1", addr, (1, 1)).await,
    ];
    let mut gateways = Vec::new();
    for executor in &executors {
        let mut gateway = Gateway::connect("g", &genesis, executor.addr()).await;
        gateway.synced().await;
        gateways.push(gateway);
    }
    store
        .until("a few rounds", |s| (s.rounds.len() > 3).then_some(()))
        .await;
    // It never comes, so that it stays aged.
    let tx = transfer(1, 7, 0xaa);
    let key = LockKey::account(tx.sender);
    for gateway in &mut gateways {
        let aged = v1::AgedTransaction {
            sender: address_bytes(tx.sender),
            nonce: 7,
            shard: 1,
            from_round: 0,
            keys: vec![key.into()],
        };
        let transactions = vec![aged];
        gateway
            .send(Update::Aged(v1::PendingAged { transactions }))
            .await;
        gateway.synced().await;
    }
    // The next round's opening may have been on its way.
    let told = store.state().rounds.keys().last().copied().unwrap() + 2;
    let openers = store
        .until("both have opened", |state| {
            let since = state.rounds.range(told..);
            let openers: BTreeSet<_> = since.map(|(_, round)| round.opener.clone()).collect();
            (openers.len() == 2).then_some(openers)
        })
        .await;
    let state = store.state();
    for (number, round) in state.rounds.range(told..) {
        assert_eq!(
            round.reservations,
            [(key, 1)],
            "{number} by {}",
            round.opener
        );
    }
    let before = state.rounds.range(..4);
    assert!(
        before
            .into_iter()
            .all(|(_, round)| round.reservations.is_empty())
    );
    println!("opened by {openers:?}");
}
