//! What the executors are told.

use super::fake::{added, on_wire};
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_gets_a_snapshot_then_changes_and_what_is_sealed_leaves() {
    let mut setup = Setup::new().await;
    let hello = setup
        .update(|u| matches!(u, Update::Hello(_)).then_some(()))
        .await;
    let () = hello;
    setup
        .update(|u| matches!(u, Update::Synced(true)).then_some(()))
        .await;
    let (first, second) = (sign(1, transfer(0)), sign(1, transfer(1)));
    // Behind a gap nothing is handed out; the missing nonce brings both, in order.
    setup.send(&second.raw).await;
    setup.send(&first.raw).await;
    let (raws, who) = setup
        .update(|u| added(u).map(|(add, who)| (add.transactions.clone(), who)))
        .await;
    assert_eq!(who, sender(1));
    let expected: Vec<bytes::Bytes> = [&first, &second].map(|t| t.raw.clone().into()).to_vec();
    assert_eq!(raws, expected);
    setup.seal(&[vec![first.clone()]]).await;
    let hashes = setup
        .update(|u| match u {
            Update::Remove(remove) => Some(remove.hashes.clone()),
            _ => None,
        })
        .await;
    assert_eq!(
        hashes,
        [bytes::Bytes::copy_from_slice(first.hash.as_slice())]
    );
    setup.until(|gateway| gateway.pending() == 1).await;
    setup.seal(&[vec![second]]).await;
    setup.until(|gateway| gateway.pending() == 0).await;
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_moves_the_sender_to_the_holder_from_a_later_round_on() {
    let mut setup = Setup::new().await;
    let tx = sign(1, transfer(0));
    setup.send(&tx.raw).await;
    let shard = setup.update(|u| added(u).map(|(add, _)| add.shard)).await;
    let holder = (shard + 1) % fake::SHARDS;
    setup.fake.refuse(&tx, 5, holder);
    let add = setup.update(|u| added(u).map(|(add, _)| add.clone())).await;
    assert_eq!((add.shard, add.from_round), (holder, 6));
    assert_eq!(add.sender, on_wire(sender(1)));
    let conflicts = setup
        .ask("troika_getConflicts", serde_json::json!(["0x5"]))
        .await;
    assert_eq!(conflicts[0]["held"][0]["shard"], format!("{holder:#x}"));
    // The other two executors of the shard say the same: it has moved already.
    setup.fake.refuse(&tx, 5, holder);
    let status = serde_json::json!([tx.hash]);
    let status = setup.ask("troika_getTransactionStatus", status).await;
    assert_eq!(
        (&status["status"], &status["fromRound"]),
        (&"pending".into(), &"0x6".into())
    );
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_third_refusal_whoever_tells_it_ages_a_transaction_for_all_executors() {
    let mut setup = Setup::new().await;
    let tx = sign(1, transfer(0));
    setup.send(&tx.raw).await;
    let not_yet = |u: &Update| {
        assert!(!matches!(u, Update::Aged(_)), "too early: {u:?}");
        added(u).map(|(add, _)| add.shard)
    };
    let mut shard = setup.update(not_yet).await;
    for round in 5..8 {
        // Each refusal moves the sender, and so shows that it has been taken in.
        shard = (shard + 1) % fake::SHARDS;
        setup.fake.refuse(&tx, round, shard);
        assert_eq!(setup.update(not_yet).await, shard);
    }
    let aged = async |setup: &mut Setup| {
        let pick = |u: &Update| match u {
            Update::Aged(aged) => Some(aged.transactions.clone()),
            _ => None,
        };
        setup.update(pick).await
    };
    let told = aged(&mut setup).await;
    assert_eq!(told.len(), 1);
    assert_eq!((&told[0].sender, told[0].nonce), (&on_wire(sender(1)), 0));
    assert_eq!((told[0].shard, told[0].from_round), (shard, 8));
    let key = troika_proto::LockKey::account(sender(1));
    assert_eq!(told[0].keys, [key.into()]);
    // An executor that connects now hears of it too.
    let (snapshot, _) = setup.gateway.gateway().pool(|pool| pool.subscribe());
    let of_it = |u: &pool::Update| matches!(u, pool::Update::Aged(aged) if aged.len() == 1);
    assert!(snapshot.iter().any(of_it));
    setup.seal(&[vec![tx]]).await;
    assert_eq!(aged(&mut setup).await, []);
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leaves_for_the_base_fee_is_handed_out_again() {
    let mut setup = Setup::new().await;
    let low = sign(
        1,
        TxEip1559 {
            max_fee_per_gas: 990_000_000,
            max_priority_fee_per_gas: 0,
            ..transfer(0)
        },
    );
    setup.send(&low.raw).await;
    let pick = |u: &Update| added(u).map(|(add, _)| add.transactions.clone());
    assert_eq!(
        setup.update(pick).await,
        [bytes::Bytes::from(low.raw.clone())]
    );
    let gateway = setup.gateway.gateway();
    gateway.pool(|pool| {
        pool.restart(pool.head(), 1_000_000_000, 1);
        pool.flush();
        pool.restart(pool.head(), 1_000, 1);
        pool.flush();
    });
    let removed = |u: &Update| matches!(u, Update::Remove(_)).then_some(());
    setup.update(removed).await;
    assert_eq!(
        setup.update(pick).await,
        [bytes::Bytes::from(low.raw.clone())]
    );
    setup.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_run_for_a_transaction_that_is_not_taken_anyway() {
    let setup = Setup::new().await;
    let call = |value: u64| TxEip1559 {
        gas_limit: 100_000,
        to: TxKind::Call(fake::CONTRACT),
        value: U256::from(10).pow(U256::from(value)),
        ..transfer(0)
    };
    let good = sign(1, call(1));
    setup.send(&good.raw).await;
    let before = setup.fake.state_reads();
    for refused in [good, sign(1, call(30))] {
        setup.refused(&refused.raw).await;
    }
    // The account is known, and nothing else is read.
    assert_eq!(setup.fake.state_reads(), before);
    setup.gateway.shutdown().await;
}
