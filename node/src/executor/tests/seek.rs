//! Properties of looking ahead.

use super::super::cache::{CacheView, Missing, StateCache};
use super::super::limits::{SEEK_PROBES, SEEK_READS};
use super::super::seek::seek;
use super::super::verify::Ground;
use super::cluster::{call, genesis, user};
use crate::execution::{Rules, StateView, Transaction, Unavailable};
use crate::store_client::{Options, StoreClient};
use crate::testing::FakeStore;
use alloy_primitives::{Address, Bytes, U256};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::runtime::Handle;
use troika_proto::GenesisAccount;

/// `slot = caller; while slot != 0 { slot = storage[slot] }`
const WALK: &[u8] = &[0x33, 0x5b, 0x54, 0x80, 0x60, 1, 0x57, 0x00];

/// Slot `n` of the chain of a caller.
fn link(caller: Address, n: u64) -> U256 {
    match n {
        0 => U256::from_be_slice(caller.as_slice()),
        n => (U256::from(n) << 160) | U256::from_be_slice(caller.as_slice()),
    }
}

struct Setup {
    store: FakeStore,
    contract: Address,
    ground: Arc<Ground>,
}

/// A contract that walks a chain of `length` slots for each of the callers 1 to `callers`.
async fn setup(callers: u8, length: u64) -> Setup {
    let mut genesis = genesis(1, 100, 30_000);
    let contract = Address::repeat_byte(0xcc);
    let chains = (1..=callers).flat_map(|n| {
        let caller = user(n).address();
        (0..length).map(move |n| (link(caller, n), link(caller, n + 1)))
    });
    let account = GenesisAccount {
        nonce: 1,
        code: Bytes::from_static(WALK),
        storage: chains.collect(),
        ..GenesisAccount::default()
    };
    genesis.accounts.insert(contract, account);
    let (config, rules) = (genesis.config.clone(), Rules::of(&genesis.config));
    let (store, address) = FakeStore::start(genesis).await;
    let client = StoreClient::new(Options::new([address.to_string()])).unwrap();
    let cache = Arc::new(StateCache::new(16 << 20));
    let head = store.state().head;
    let environment = config.environment(&store.state().blocks[&head].header, head, 1_000);
    cache.reset(head);
    let view = Arc::new(CacheView::new(cache, client, head, 0, None));
    let runtime = Handle::current();
    Setup {
        store,
        contract,
        ground: Arc::new(Ground {
            rules,
            environment,
            view,
            runtime,
        }),
    }
}

impl Setup {
    /// Looks ahead at a call by each of these callers, `each` times. Answers how many reads that took.
    async fn seek(&self, callers: u8, each: u64) -> Result<u64, Unavailable> {
        let calls = (0..each).flat_map(|nonce| (1..=callers).map(move |from| (from, nonce)));
        let transactions: Vec<_> = calls
            .map(|(from, nonce)| {
                let signed = call(from, nonce, self.contract, 0, 12_000_000, &[]);
                Arc::new(Transaction::with_sender(signed.raw, signed.sender).unwrap())
            })
            .collect();
        let before = self.store.state().state_reads;
        let ground = self.ground.clone();
        let seeking =
            tokio::task::spawn_blocking(move || seek(&ground, &transactions, Missing::default()));
        seeking.await.unwrap()?;
        Ok((self.store.state().state_reads - before) as u64)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_depends_on_what_was_read_is_read_for_all_transactions_at_once() {
    let length = SEEK_PROBES as u64 + 9;
    let setup = setup(30, length).await;
    let reads = setup.seek(30, 4).await.unwrap();
    for n in 1..=30 {
        let caller = user(n).address();
        let last = setup.ground.view.slot(setup.contract, link(caller, length));
        assert_eq!(last.unwrap(), U256::ZERO);
    }
    // Each of 30 chains is 25 long, and each value depends on the one before. Accounts and their code take two more; callers
    // that do not start together wait for more than one read a step.
    assert!((length..=2 * length + 4).contains(&reads), "{reads} reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_all_reads_nothing() {
    let setup = setup(5, 3).await;
    setup.seek(5, 1).await.unwrap();
    assert_eq!(setup.seek(5, 20).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_ahead_is_not_asked_for() {
    let setup = setup(1, 300).await;
    setup.store.ahead.store(true, Ordering::Relaxed);
    // The sender, then the contract: with it come its code and all of its storage.
    assert_eq!(setup.seek(1, 1).await.unwrap(), 2);
    let known = |n| {
        let slot = link(user(1).address(), n);
        setup.ground.view.known_slot(setup.contract, slot)
    };
    assert_eq!(known(7), Some(link(user(1).address(), 8)));
    assert_eq!(known(300), Some(U256::ZERO));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_without_end_is_given_up() {
    let length = 2 * SEEK_READS;
    let setup = setup(1, length).await;
    let reads = setup.seek(1, 1).await.unwrap();
    assert!(
        reads <= SEEK_READS + SEEK_PROBES as u64 + 4,
        "{reads} reads"
    );
    let last = setup
        .ground
        .view
        .slot(setup.contract, link(user(1).address(), length));
    last.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_ends_it_for_all() {
    let setup = setup(20, SEEK_PROBES as u64 + 9).await;
    let head = setup.store.state().head;
    setup.store.state().blocks.remove(&head);
    setup.seek(20, 2).await.unwrap_err();
}
