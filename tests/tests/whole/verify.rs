//! Checking other producers' blocks.

use super::fixture::{
    Forge, HOT_A, NEW_OPCODE, checker, genesis_of, included, plan, send, start, transaction, until,
};
use alloy_primitives::{Address, U256};
use clap::Parser;
use std::sync::Arc;
use std::time::Duration;
use troika_node::cli::{Cli, Command, VerifyArgs};
use troika_node::dev::cluster::{Cluster, Plan};
use troika_node::execution::Transaction;
use troika_node::executor::ExecutorConfig;
use troika_node::load::accounts::dev_accounts;
use troika_node::load::contracts::TOKEN_0;
use troika_node::store_client::{BlockId, Opened, RoundStatus, StateKey};
use troika_node::verify::checking::{Checking, Verdict};
use troika_node::verify::{self, peers};
use troika_proto::v1::evidence::Kind;
use troika_proto::{Shard, Spec, v1};

const NOBODY: Address = Address::repeat_byte(0x77);

fn verify_args(line: &str) -> VerifyArgs {
    let line = format!("troika-node verify {line}");
    match Cli::try_parse_from(line.split(' '))
        .expect("parsed")
        .command
    {
        Command::Verify(args) => args,
        other => panic!("{other:?}"),
    }
}

/// The first `count` blocks of two clusters are the same, to the last bit and with the same state.
async fn assert_same(built: &Cluster, checked: &Cluster, count: u64) {
    let (ours, theirs) = (built.store(), checked.store());
    for number in 1..=count {
        let by = BlockId::Number(number);
        let block = ours.block(by).await.unwrap().expect("kept");
        let copy = theirs.block(by).await.unwrap().expect("imported");
        assert_eq!((copy.hash, &copy.header), (block.hash, &block.header));
        let hash = |b: &troika_node::store_client::BlockShard| b.winner.shard_hash;
        assert!(
            block
                .shards
                .iter()
                .map(hash)
                .eq(copy.shards.iter().map(hash))
        );
    }
    let block = ours
        .block(BlockId::Number(count))
        .await
        .unwrap()
        .unwrap()
        .hash;
    let accounts = dev_accounts();
    let mut keys: Vec<_> = accounts
        .iter()
        .map(|a| StateKey::Account(a.address))
        .collect();
    keys.extend([
        StateKey::Account(NOBODY),
        StateKey::Account(built.genesis().config.beneficiary),
        StateKey::Slot(HOT_A, U256::ZERO),
    ]);
    let read = ours.read(Some(block), &keys, &[]).await.unwrap();
    let copy = theirs.read(Some(block), &keys, &[]).await.unwrap();
    assert_eq!(read.values, copy.values);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_built_by_one_cluster_is_imported_by_others_with_equal_hashes() {
    let genesis = genesis_of(2, Duration::from_millis(100));
    let built = start(plan(&genesis, 2)).await;
    let senders = dev_accounts();
    let mut last = 0;
    for nonce in 0..4 {
        let mut transactions: Vec<Arc<Transaction>> = Vec::new();
        for (index, sender) in senders.iter().enumerate() {
            let to = [NOBODY, HOT_A, TOKEN_0][index % 3];
            transactions.push(transaction(sender, nonce, to, u64::from(to == NOBODY)));
        }
        send(&built, &transactions).await;
        for tx in &transactions {
            last = last.max(included(built.store(), tx.hash).await.block_number);
        }
    }

    // Over the feed, into a store that is there.
    let checked = checker(&genesis, 1).await;
    let store = checked.store().endpoints().join(",");
    // One of the executors that are named is not there.
    let feeds = format!("127.0.0.1:1,{}", built.feeds().join(","));
    let blocks = format!("--blocks {last} --json");
    let into =
        |store: &str, from: &str| verify_args(&format!("--store {store} --from {from} {blocks}"));
    assert!(verify::run(into(&store, &feeds)).await.expect("checked"));
    assert_same(&built, &checked, last).await;
    assert_eq!(checked.store().head().await.unwrap().header.number, last);

    // The one that checked them feeds them on, here to executors that own a shard each and follow it by themselves.
    let mut third = Cluster::start_without_executors(Plan {
        build: false,
        ..plan(&genesis, 2)
    })
    .await
    .expect("starts");
    let one_shard = |n: usize, config: &mut ExecutorConfig| {
        config.shards = (n as u32, n as u32);
        config.owners = 1;
    };
    third
        .start_executors_as(one_shard)
        .await
        .expect("executors start");
    let peers = peers::at(checked.feeds(), None).expect("addresses");
    let follow = |n: usize| verify::follow_peers(&peers, third.store(), &third.executors()[n]);
    let imported = until("all blocks are imported", async || {
        let head = third.store().head().await.expect("answers");
        (head.header.number >= last).then_some(())
    });
    tokio::select! {
        () = imported => {}
        () = follow(0) => panic!("ended"),
        () = follow(1) => panic!("ended"),
    }
    assert_same(&built, &third, last).await;

    // And from a file.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("blocks");
    let genesis_file = folder.path().join("genesis.json");
    let readable = troika_node::dev::genesis::readable(&genesis);
    std::fs::write(&genesis_file, readable.to_string()).unwrap();
    let (file, genesis_file) = (file.display(), genesis_file.display());
    let store = built.store().endpoints().join(",");
    let line = format!("troika-node export --store {store} --last {last} {file}");
    let Command::Export(export) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
        panic!("not parsed");
    };
    verify::export::run(&export).await.expect("exported");
    let args = verify_args(&format!("{file} --genesis {genesis_file} --json"));
    assert!(verify::run(args).await.expect("checked"));
    for cluster in [built, checked, third] {
        cluster.stop().await;
    }
}

/// A shard that these transactions do not make, with everything in it that depends on the tampering right.
fn tampered(good: &Shard, tamper: impl FnOnce(&mut troika_proto::ShardBody)) -> Shard {
    let mut body = good.body.clone();
    tamper(&mut body);
    let rule = troika_proto::LockRule::Commuting;
    Shard::new(good.header.index, body, good.header.fees, rule)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_invalid_block_is_rejected_with_its_evidence() {
    let genesis = genesis_of(2, Duration::from_secs(1));
    let cluster = checker(&genesis, 3).await;
    let forge = Forge::new(&genesis);
    let senders = dev_accounts();
    let pay = |sender: usize, nonce| transaction(&senders[sender], nonce, NOBODY, 5);
    let call = |sender: usize| transaction(&senders[sender], 0, HOT_A, 0);
    let good = [
        forge.shard(9, 0, &[pay(0, 0), pay(0, 1)]),
        forge.shard(9, 1, &[call(1)]),
    ];
    let richer = tampered(&good[0], |body| {
        let account = body.diff.accounts.get_mut(&NOBODY).expect("is paid");
        account.balance = troika_proto::Delta::rise(U256::from(4));
    });
    let gap = tampered(&good[0], |body| {
        body.transactions.remove(0);
        body.receipts.remove(0);
    });
    let twice = |seconds| {
        [
            forge.shard(seconds, 0, &[call(0)]),
            forge.shard(seconds, 1, &[call(1)]),
        ]
    };
    let header = |edit: fn(&mut troika_proto::Header)| forge.block(9, &good, edit);
    let cases = [
        ("number", header(|h| h.number += 1)),
        ("timestamp", header(|h| h.timestamp = 1)),
        ("baseFeePerGas", header(|h| h.base_fee += 1)),
        ("gasLimit", header(|h| h.gas_limit += 1)),
        ("extraData", header(|h| h.shards_root.0[0] ^= 1)),
        ("gasUsed", header(|h| h.gas_used += 1)),
        (
            "transactionsRoot",
            header(|h| h.transactions_root.0[0] ^= 1),
        ),
        (
            "shards 0 and 1 both write",
            forge.block(9, &twice(9), |_| {}),
        ),
        (
            "shard 0 comes out as",
            forge.block(9, &[richer, good[1].clone()], |_| {}),
        ),
        (
            "shard 0 cannot be executed (transaction 0",
            forge.block(9, &[gap, good[1].clone()], |_| {}),
        ),
    ];
    let store = cluster.store();
    let mut checking = Checking::new(store, cluster.executors(), "test")
        .await
        .unwrap();
    for (expected, block) in cases {
        let verdict = checking.check(&block).await.expect(expected);
        let Verdict::Invalid {
            round: Some(round),
            because,
        } = verdict
        else {
            panic!("{expected}: {verdict:?}");
        };
        assert!(because.contains(expected), "{expected}: {because}");
        let found = store.round(round, true).await.unwrap().expect("kept");
        assert_eq!(found.status, RoundStatus::Void(v1::VoidReason::Invalid));
        let kind = found.evidence.expect("evidence").kind.expect("a kind");
        if let Kind::BadShard(bad) = kind {
            assert_eq!(bad.executors.len(), 2, "{bad:?}");
            assert_ne!(bad.executors[0], bad.executors[1]);
        }
        // For good; but a list that the header does not commit to says nothing of the block.
        let again = checking.check(&block).await.expect(expected);
        let Verdict::Invalid { round, .. } = again else {
            panic!("{expected}: {again:?}");
        };
        assert_eq!(round.is_some(), expected == "extraData", "{expected}");
    }
    let orphan = header(|h| h.parent_hash.0[0] ^= 1);
    assert_eq!(checking.check(&orphan).await.unwrap(), Verdict::NoParent);

    // Whichever shard finishes first: the other one's transactions come only then.
    for (seconds, first) in [(10, 0), (11, 1)] {
        let block = forge.block(seconds, &twice(seconds), |_| {});
        let opened = store
            .open_verify("test", &block.header, &block.shard_hashes)
            .await;
        let Opened::Round(round, true) = opened.unwrap() else {
            panic!("not opened");
        };
        for index in [first, 1 - first] {
            for executor in cluster.executors() {
                executor.offer(block.bodies[&(index as u32)].clone());
            }
            until("the shard is checked", async || {
                let round = store
                    .round(round.number, true)
                    .await
                    .unwrap()
                    .expect("kept");
                let decided = round.winners.contains_key(&(index as u32));
                (decided || !round.is_open()).then_some(())
            })
            .await;
        }
        let found = store
            .round(round.number, true)
            .await
            .unwrap()
            .expect("kept");
        let Some(Kind::DoubleWrite(double)) = found.evidence.expect("evidence").kind else {
            panic!("other evidence");
        };
        assert_eq!((double.first_shard, double.second_shard), (0, 1));
    }

    // None of it moved the head; the good block does.
    assert_eq!(store.head().await.unwrap().header.number, 0);
    let block = forge.block(9, &good, |_| {});
    let verdict = checking.check(&block).await.unwrap();
    assert!(
        matches!(verdict, Verdict::Imported { head: true, .. }),
        "{verdict:?}"
    );
    assert_eq!(store.head().await.unwrap().hash, block.hash);
    assert_eq!(checking.check(&block).await.unwrap(), Verdict::Known);
    cluster.stop().await;
}

/// The alarms that the store's members tell of.
async fn alarms(cluster: &Cluster) -> Vec<String> {
    let statuses = cluster.store().statuses().await;
    let status = statuses.into_iter().filter_map(|member| member.status);
    status.flat_map(|status| status.divergence).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_executor_neither_voids_a_good_block_nor_gets_a_bad_one_in_and_is_named() {
    let genesis = genesis_of(1, Duration::from_secs(1));
    let mut cluster = Cluster::start_without_executors(Plan {
        build: false,
        ..plan(&genesis, 3)
    })
    .await
    .unwrap();
    // The third executor does not know the newest opcode.
    let outdated = |n: usize, config: &mut ExecutorConfig| {
        if n == 2 {
            config.wrong_spec = Some(Spec::Prague);
        }
    };
    cluster.start_executors_as(outdated).await.unwrap();
    let forge = Forge::new(&genesis);
    let sender = &dev_accounts()[0];
    let good = forge.shard(9, 0, &[transaction(sender, 0, NEW_OPCODE, 0)]);
    let bad = tampered(&good, |body| body.receipts[0].success = false);
    let mut checking = Checking::new(cluster.store(), cluster.executors(), "test")
        .await
        .unwrap();
    let verdict = checking
        .check(&forge.block(9, &[bad], |_| {}))
        .await
        .unwrap();
    assert!(matches!(verdict, Verdict::Invalid { .. }), "{verdict:?}");
    let verdict = checking
        .check(&forge.block(9, &[good], |_| {}))
        .await
        .unwrap();
    assert!(
        matches!(verdict, Verdict::Imported { head: true, .. }),
        "{verdict:?}"
    );
    until("the wrong executor is named", async || {
        let alarms = alarms(&cluster).await;
        // Of the imported block only: of the bad one all three say that it is.
        let good = alarms.iter().filter(|line| line.starts_with("round 2 "));
        let good: Vec<_> = good.collect();
        assert!(
            good.iter()
                .all(|line| line.contains(": executor-3 computes")),
            "{good:?}"
        );
        (!good.is_empty()).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_build_the_second_execution_finds_a_wrong_executor_out() {
    let genesis = genesis_of(1, Duration::from_millis(100));
    let cluster = Cluster::start_without_executors(plan(&genesis, 2)).await;
    let mut cluster = cluster.unwrap();
    let outdated = |n: usize, config: &mut ExecutorConfig| {
        if n == 1 {
            config.wrong_spec = Some(Spec::Prague);
        }
    };
    cluster.start_executors_as(outdated).await.unwrap();
    let sender = &dev_accounts()[0];
    let mut nonce = 0;
    let alarm = until("a difference is found", async || {
        let tx = transaction(sender, nonce, NEW_OPCODE, 0);
        nonce += 1;
        send(&cluster, std::slice::from_ref(&tx)).await;
        included(cluster.store(), tx.hash).await;
        let stats = cluster.executors().iter().map(|executor| executor.stats());
        tracing::info!(nonce, stats = ?stats.collect::<Vec<_>>());
        alarms(&cluster).await.pop()
    })
    .await;
    // Who of the two is right no alarm can tell: it names both.
    assert!(
        alarm.contains("executor-1") && alarm.contains("executor-2"),
        "{alarm}"
    );
    let stats = cluster.executors().iter().map(|executor| executor.stats());
    assert!(stats.map(|stats| stats.divergence.len()).sum::<usize>() > 0);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn build_and_verify_on_one_parent_at_once_end_with_one_head() {
    let genesis = genesis_of(1, Duration::from_secs(3));
    let cluster = start(plan(&genesis, 2)).await;
    let store = cluster.store();
    let round = until("the first round is open", async || {
        store.head().await.unwrap().open_round
    })
    .await;
    let senders = dev_accounts();
    let ours = transaction(&senders[1], 0, NOBODY, 5);
    send(&cluster, std::slice::from_ref(&ours)).await;
    let forge = Forge::new(&genesis);
    let theirs = forge.shard(9, 0, &[transaction(&senders[0], 0, NOBODY, 5)]);
    let block = forge.block(9, &[theirs], |_| {});
    let mut checking = Checking::new(store, cluster.executors(), "test")
        .await
        .unwrap();
    let verdict = checking.check(&block).await.unwrap();
    assert!(matches!(verdict, Verdict::Imported { .. }), "{verdict:?}");
    // Whoever of the two was first: one of them is the head's ancestor, and our transaction is in once.
    let place = included(store, ours.hash).await;
    let first = store
        .block(BlockId::Number(1))
        .await
        .unwrap()
        .expect("kept");
    let other = store.round(round, true).await.unwrap().expect("kept");
    if first.hash == block.hash {
        assert_eq!(other.status, RoundStatus::Void(v1::VoidReason::Stale));
        assert!(place.block_number > 1);
    } else {
        assert_eq!(other.status, RoundStatus::Sealed);
        let beside = store
            .block(BlockId::Hash(block.hash))
            .await
            .unwrap()
            .expect("kept");
        assert!(!beside.canonical);
    }
    let next = until("a block upon it", async || {
        store.block(BlockId::Number(2)).await.unwrap()
    })
    .await;
    assert_eq!(next.header.parent_hash, first.hash);
    cluster.stop().await;
}
