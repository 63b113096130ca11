//! Properties of the views that executors read state through.

use super::super::cache::{CacheView, StateCache};
use super::cluster::{genesis, transfer, user};
use crate::execution::{StateView, Transaction};
use crate::store_client::{Options, StoreClient, StoreError};
use crate::testing::FakeStore;
use alloy_primitives::U256;
use std::sync::Arc;
use tokio::runtime::Handle;

#[tokio::test(flavor = "multi_thread")]
async fn a_patient_view_reads_what_it_misses_and_a_quick_one_only_notes_it() {
    let (store, address) = FakeStore::start(genesis(1, 50, 1_500)).await;
    let client = StoreClient::new(Options::new([address.to_string()])).unwrap();
    let cache = Arc::new(StateCache::new(1 << 20));
    let head = store.state().head;
    let view = Arc::new(CacheView::new(cache, client, head, 0, None));
    let runtime = Handle::current();
    let first = user(1).address();
    let reads = || store.state().state_reads;

    view.slot(first, U256::ZERO).unwrap_err();
    assert_eq!(reads(), 0);
    assert!(!view.take_missing().is_empty());

    let patient = view.clone();
    tokio::task::spawn_blocking(move || {
        patient.be_patient(&runtime);
        // Each value depends on the one before, as in a loop of a contract: nothing is asked for twice.
        let mut slot = U256::ZERO;
        for _ in 0..20 {
            let value = patient.slot(first, slot).unwrap();
            assert_eq!(patient.slot(first, slot).unwrap(), value);
            slot += U256::from(1);
        }
        let account = patient.account(first).unwrap().unwrap();
        assert_eq!(account.balance, U256::from(10u64).pow(U256::from(20)));
    })
    .await
    .unwrap();
    assert_eq!(reads(), 21);
    assert!(view.take_missing().is_empty());

    view.be_quick();
    view.slot(user(2).address(), U256::ZERO).unwrap_err();
    assert_eq!(reads(), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_as_pruned_leaves_nothing_wrong_behind() {
    let genesis = genesis(1, 600_000, 600_000);
    let (store, address) = FakeStore::start(genesis.clone()).await;
    let client = StoreClient::new(Options::new([address.to_string()])).unwrap();
    let cache = Arc::new(StateCache::new(1 << 20));
    let old = store.state().head;
    cache.reset(old);
    let payer = Arc::new({
        let signed = transfer(1, 0, 0xaa);
        Transaction::with_sender(signed.raw, signed.sender).unwrap()
    });
    let head = store.seal(&[vec![payer.clone()]]);
    store.state().blocks.remove(&old);

    let before = CacheView::new(cache.clone(), client.clone(), old, 0, None);
    let refused = before.prefetch(std::slice::from_ref(&payer)).await;
    assert!(
        matches!(refused, Err(StoreError::Pruned { .. })),
        "{refused:?}"
    );
    before.account(payer.sender).unwrap_err();

    cache.reset(head);
    let after = CacheView::new(cache, client, head, 1, None);
    after.prefetch(std::slice::from_ref(&payer)).await.unwrap();
    let account = after.account(payer.sender).unwrap().unwrap();
    assert_eq!(account.nonce, 1);
    // The forgotten block is not answered by what is known of another.
    before.account(payer.sender).unwrap_err();
}
