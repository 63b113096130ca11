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
