//! Properties of the views that executors read state through.

use super::super::cache::{CacheView, StateCache};
use super::cluster::{genesis, user};
use crate::execution::StateView;
use crate::store_client::{Options, StoreClient};
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
