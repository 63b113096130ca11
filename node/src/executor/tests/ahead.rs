//! Work for the next round before this one is sealed, and reads of a cold executor.

use super::cluster::{Gateway, call, cluster, executor, genesis, transfer};
use crate::execution::{Builder, MemoryView, Rules, Transaction};
use crate::store_client::{Options, StoreClient};
use crate::testing::FakeStore;
use alloy_primitives::{Address, Bytes};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use troika_proto::{Genesis, GenesisAccount, Shard};

/// Of round 1: one transfer.
fn paying(genesis: &Genesis, store: &FakeStore, index: u32, from: u8, to: u8) -> Shard {
    let environment = store.state().rounds[&1].environment.clone();
    let view = MemoryView::of(genesis);
    let mut builder = Builder::new(Rules::of(&genesis.config), environment, &view);
    let signed = transfer(from, 0, to);
    let transaction = Transaction::with_sender(signed.raw, signed.sender).unwrap();
    let pushed = builder.push(&Arc::new(transaction)).unwrap();
    assert!(pushed.is_included(), "{pushed:?}");
    builder.finish(index)
}

#[tokio::test(flavor = "multi_thread")]
async fn work_for_the_next_round_begins_before_this_one_is_sealed() {
    // Three shards, of which the executor owns the first: the round stays open until all are decided.
    let genesis = genesis(3, 20, 600_000);
    let (store, addr) = FakeStore::start(genesis.clone()).await;
    let executor = executor("e0", addr, (0, 0)).await;
    let mut gateway = Gateway::connect("g", &genesis, executor.addr()).await;
    let first = transfer(1, 0, 0xaa);
    gateway.add(&[&first], 0, 0).await;
    gateway.synced().await;
    let place = store.until("its own shard is accepted", |s| s.places(first.hash).pop());
    assert_eq!(place.await, (1, 0));

    // What will stand in the next round is known now, and the state that it names is read now.
    let next = transfer(2, 0, 0xbb);
    gateway.add(&[&next], 0, 0).await;
    let paid = Address::repeat_byte(0xbb);
    let is_read = store.until("the next round's state is read", |s| {
        s.accounts_read.contains(&paid).then_some(())
    });
    is_read.await;

    // So is what another executor's accepted shard changes.
    let other = StoreClient::new(Options::new([addr.to_string()])).unwrap();
    let theirs = paying(&genesis, &store, 1, 3, 0xbb);
    other.submit(1, "other", &theirs).await.unwrap();
    let is_staged = store.until("the accepted shard is read", |s| {
        (s.diff_reads == [(1, 1)]).then_some(())
    });
    is_staged.await;
    assert!(store.state().rounds[&1].block.is_none(), "it is not sealed");

    // Once it is, nothing has to be read for the next round any more.
    let reads = store.state().state_reads;
    other.submit(1, "other", &Shard::empty(2)).await.unwrap();
    let place = store.until("the next round goes on", |s| s.places(next.hash).pop());
    assert_eq!(place.await, (2, 0));
    let state = store.state();
    assert_eq!((state.state_reads, state.block_diff_reads), (reads, 0));
    assert_eq!(state.diff_reads, [(1, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_shard_by_shard_is_read_as_a_block() {
    let genesis = genesis(2, 20, 600_000);
    let (store, addr) = FakeStore::start(genesis.clone()).await;
    store.no_diffs.store(true, Ordering::Release);
    let executor = executor("e0", addr, (0, 0)).await;
    let mut gateway = Gateway::connect("g", &genesis, executor.addr()).await;
    let first = transfer(1, 0, 0xaa);
    gateway.add(&[&first], 0, 0).await;
    gateway.synced().await;
    let accepted = store.until("its own shard is accepted", |s| s.places(first.hash).pop());
    accepted.await;
    let second = transfer(1, 1, 0xbb);
    gateway.add(&[&second], 0, 0).await;
    let paid = Address::repeat_byte(0xbb);
    let is_known = store.until("the next round's transaction is known", |s| {
        s.accounts_read.contains(&paid).then_some(())
    });
    is_known.await;
    let other = StoreClient::new(Options::new([addr.to_string()])).unwrap();
    let theirs = paying(&genesis, &store, 1, 3, 0xcc);
    other.submit(1, "other", &theirs).await.unwrap();
    let place = store.until("the next round goes on", |s| s.places(second.hash).pop());
    assert_eq!(place.await, (2, 0));
    assert_eq!(store.state().block_diff_reads, 1);
}

/// `slot of the caller += 1`
const COUNT_CALLER: &[u8] = &[0x33, 0x54, 0x60, 1, 0x01, 0x33, 0x55, 0x00];

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_executor_reads_what_contracts_ask_for_in_a_few_batches() {
    let mut genesis = genesis(1, 100, 30_000);
    let contract = Address::repeat_byte(0xcc);
    let account = GenesisAccount {
        nonce: 1,
        code: Bytes::from_static(COUNT_CALLER),
        ..GenesisAccount::default()
    };
    genesis.accounts.insert(contract, account);
    let (store, _, executors) = cluster(&genesis, 1).await;
    let mut gateway = Gateway::connect("g", &genesis, executors[0].addr()).await;
    let queues: Vec<_> = (1..=40u8)
        .map(|from| {
            let one = |nonce| call(from, nonce, contract, 0, 60_000, &[]);
            (0..6).map(one).collect::<Vec<_>>()
        })
        .collect();
    for queue in &queues {
        gateway.add(&queue.iter().collect::<Vec<_>>(), 0, 0).await;
    }
    gateway.synced().await;
    let last = queues.last().unwrap().last().unwrap().hash;
    let place = store.until("all are included", |s| s.places(last).pop());
    let (round, _) = place.await;
    let state = store.state();
    assert_eq!(state.included(round).len(), 240);
    // Accounts, the code, the first slot that is missed, and what looks ahead miss: at the first transactions, then at the others.
    assert!(state.state_reads <= 8, "{} reads", state.state_reads);
}
