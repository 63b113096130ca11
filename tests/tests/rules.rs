//! The rules of the chain as a cluster keeps them: what two shards may write in one block, and what not.
//!
//! Real members decide, over gRPC; this test is both executors. No time passes: a round seals with its last shard.

use alloy_consensus::TxEip1559;
use alloy_primitives::{Address, Bytes, TxKind, U256, address, hex};
use std::sync::Arc;
use std::time::Duration;
use troika_node::cli::PolicyName;
use troika_node::dev::cluster::{Cluster, Plan};
use troika_node::dev::genesis::{BENEFICIARY, CHAIN_ID, genesis};
use troika_node::execution::{MemoryView, Rules, Transaction, execute_shard};
use troika_node::load::accounts::{Keyed, dev_accounts};
use troika_node::load::contracts::{ONE_TOKEN, TOKEN_0, transfer_call};
use troika_node::store_client::{LockHolder, Opened, Round, StateKey, StateValue, Submitted};
use troika_proto::{GenesisAccount, LockKey, LockRule, Shard};

/// With call data K: slot K = slot (K xor 1) + 1.
const SKEW: Address = address!("0000000000000000000000000000000000005ce0");
const SKEW_CODE: [u8; 14] = hex!("6000358060011854600101905500");
/// An account that only receives.
const POPULAR: Address = address!("00000000000000000000000000000000000ca5e1");

/// A cluster of one member whose two executors are this test.
struct Chain {
    cluster: Cluster,
    rules: Rules,
    /// The state after the head.
    view: MemoryView,
}

impl Chain {
    async fn start(lock_rule: LockRule) -> Self {
        let mut genesis = genesis(2, Duration::from_secs(3_600 / 2));
        genesis.config.lock_rule = lock_rule;
        let account = GenesisAccount {
            nonce: 1,
            code: Bytes::from_static(&SKEW_CODE),
            ..GenesisAccount::default()
        };
        genesis.accounts.insert(SKEW, account);
        let (rules, view) = (Rules::of(&genesis.config), MemoryView::of(&genesis));
        let plan = Plan {
            genesis,
            members: 1,
            executors: 2,
            data: None,
            rpc: ([127, 0, 0, 1], 0).into(),
            policy: PolicyName::Writes,
            build: true,
        };
        let cluster = Cluster::start_without_executors(plan).await;
        Self {
            cluster: cluster.expect("the cluster starts"),
            rules,
            view,
        }
    }

    async fn open(&self) -> Round {
        let opened = self.cluster.store().open_build(None, "test", 0, &[]).await;
        match opened.expect("the store answers") {
            Opened::Round(round, _) => *round,
            Opened::Refused(refusal) => panic!("no round: {refusal}"),
        }
    }

    /// Executes on the head's state, as an executor does.
    fn execute(&self, round: &Round, index: u32, transactions: &[Arc<Transaction>]) -> Shard {
        let shard = execute_shard(
            &self.rules,
            &round.environment,
            index,
            transactions,
            &self.view,
        );
        shard.expect("executable")
    }

    async fn submit(&self, round: &Round, shard: &Shard) -> Submitted {
        let name = format!("executor-{}", shard.header.index + 1);
        let answer = self
            .cluster
            .store()
            .submit(round.number, &name, shard)
            .await;
        answer.expect("the store answers")
    }

    async fn accepted(&self, round: &Round, shard: &Shard) {
        match self.submit(round, shard).await {
            Submitted::Decided { won: true, .. } => {}
            other => panic!("shard {}: {other:?}", shard.header.index),
        }
    }

    async fn conflicts(&self, round: &Round, shard: &Shard) -> Vec<LockHolder> {
        match self.submit(round, shard).await {
            Submitted::Conflict(held) => held,
            other => panic!("shard {}: {other:?}", shard.header.index),
        }
    }

    /// After the last shard: the block is the head, and this is its state.
    async fn sealed(&mut self, round: &Round, shards: [&Shard; 2]) {
        let head = self.cluster.store().head().await.expect("answers");
        assert_eq!(
            head.header.number, round.environment.number,
            "sealed with its last shard"
        );
        for shard in shards {
            self.view.apply(&shard.body.diff).expect("fits");
            self.view
                .credit(BENEFICIARY, shard.header.fees)
                .expect("fits");
        }
    }

    async fn read(&self, key: StateKey) -> StateValue {
        let read = self.cluster.store().read(None, &[key], &[]).await;
        read.expect("the store answers").values.remove(0)
    }
}

fn transaction(sender: &Keyed, to: Address, value: u64, input: Bytes) -> Arc<Transaction> {
    let raw = sender.sign(TxEip1559 {
        chain_id: CHAIN_ID,
        nonce: 0,
        gas_limit: 200_000,
        max_fee_per_gas: 10_000_000_000,
        max_priority_fee_per_gas: 1_000,
        to: TxKind::Call(to),
        value: U256::from(value),
        access_list: Default::default(),
        input,
    });
    Arc::new(Transaction::recover(raw).expect("signed"))
}

fn skew(sender: &Keyed, slot: u64) -> Arc<Transaction> {
    transaction(sender, SKEW, 0, U256::from(slot).to_be_bytes_vec().into())
}

fn pay(sender: &Keyed, wei: u64) -> Arc<Transaction> {
    transaction(sender, POPULAR, wei, Bytes::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn write_skew_is_allowed() {
    let senders = dev_accounts();
    let mut chain = Chain::start(LockRule::Commuting).await;
    let round = chain.open().await;
    // Each reads the slot that the other writes: in any order, one of them would have seen a 1 and written a 2.
    let first = chain.execute(&round, 0, &[skew(&senders[0], 0)]);
    let second = chain.execute(&round, 1, &[skew(&senders[1], 1)]);
    chain.accepted(&round, &first).await;
    chain.accepted(&round, &second).await;
    chain.sealed(&round, [&first, &second]).await;
    for slot in 0..2 {
        let value = chain.read(StateKey::Slot(SKEW, U256::from(slot))).await;
        assert!(
            matches!(value, StateValue::Slot(v) if v == U256::from(1)),
            "slot {slot}: {value:?}"
        );
    }
    chain.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_refused_and_the_transaction_comes_one_round_later() {
    let senders = dev_accounts();
    let mut chain = Chain::start(LockRule::Commuting).await;
    let transfer = |sender: &Keyed| {
        let call = transfer_call(POPULAR, U256::from(ONE_TOKEN));
        transaction(sender, TOKEN_0, 0, call)
    };
    let round = chain.open().await;
    let first = chain.execute(&round, 0, &[transfer(&senders[0])]);
    chain.accepted(&round, &first).await;
    // Both raise the recipient's token balance: one slot.
    let late = transfer(&senders[1]);
    let second = chain.execute(&round, 1, std::slice::from_ref(&late));
    let held = chain.conflicts(&round, &second).await;
    assert_eq!(held.len(), 1, "{held:?}");
    assert_eq!((held[0].key.address, held[0].shard), (TOKEN_0, 0));
    assert!(held[0].key.slot.is_some());
    let empty = Shard::empty(1);
    chain.accepted(&round, &empty).await;
    chain.sealed(&round, [&first, &empty]).await;

    let next = chain.open().await;
    let second = chain.execute(&next, 1, std::slice::from_ref(&late));
    let empty = Shard::empty(0);
    chain.accepted(&next, &second).await;
    chain.accepted(&next, &empty).await;
    chain.sealed(&next, [&second, &empty]).await;
    let places = chain
        .cluster
        .store()
        .find_transaction(late.hash)
        .await
        .expect("answers");
    assert_eq!(places.len(), 1, "included once: {places:?}");
    assert_eq!(places[0].block_number, round.environment.number + 1);
    chain.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_shards_pay_one_account_without_a_conflict() {
    let senders = dev_accounts();
    let mut chain = Chain::start(LockRule::Commuting).await;
    let round = chain.open().await;
    let first = chain.execute(&round, 0, &[pay(&senders[0], 5)]);
    let second = chain.execute(&round, 1, &[pay(&senders[1], 7)]);
    chain.accepted(&round, &first).await;
    chain.accepted(&round, &second).await;
    chain.sealed(&round, [&first, &second]).await;
    let StateValue::Account(Some(account)) = chain.read(StateKey::Account(POPULAR)).await else {
        panic!("nobody was paid");
    };
    assert_eq!(account.balance, U256::from(12));
    chain.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_the_strict_rule_two_shards_that_pay_one_account_conflict() {
    let senders = dev_accounts();
    let chain = Chain::start(LockRule::Strict).await;
    let round = chain.open().await;
    let first = chain.execute(&round, 0, &[pay(&senders[0], 5)]);
    let second = chain.execute(&round, 1, &[pay(&senders[1], 7)]);
    chain.accepted(&round, &first).await;
    let held = chain.conflicts(&round, &second).await;
    let keys: Vec<_> = held.iter().map(|held| held.key).collect();
    assert_eq!(keys, [LockKey::account(POPULAR)]);
    chain.cluster.stop().await;
}
