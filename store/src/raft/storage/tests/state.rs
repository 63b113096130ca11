//! The state is the checkpoint and what the log has after it.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_state_comes_back_from_checkpoint_and_log() {
    let disk = CrashDisk::new();
    let mut storage = open(&disk).await;
    let entries: Vec<Entry> = (1..=40).map(change).collect();
    append(&mut storage.log, entries.clone()).await.unwrap();
    apply(&mut storage.machine, entries[..30].to_vec())
        .await
        .unwrap();
    storage.shared.checkpoint().await.unwrap();
    apply(&mut storage.machine, entries[30..].to_vec())
        .await
        .unwrap();
    let (index, hash) = storage.shared.state_hash();
    assert_eq!(index, 40);

    let mut storage = reopen(&disk, storage).await;
    let (applied, _) = storage.machine.applied_state().await.unwrap();
    assert_eq!(applied, Some(log_id(1, 1, 30)));
    let rest = storage.log.try_get_log_entries(31..).await.unwrap();
    apply(&mut storage.machine, rest).await.unwrap();
    assert_eq!(storage.shared.state_hash(), (40, hash));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_ahead_of_its_own_log_is_taken_up() {
    let disk = CrashDisk::new();
    let mut storage = open(&disk).await;
    append(&mut storage.log, (1..=5).map(change).collect())
        .await
        .unwrap();
    // A follower may apply what a majority has before its own disk has it; then the power goes.
    apply(&mut storage.machine, (1..=9).map(change).collect())
        .await
        .unwrap();
    storage.shared.checkpoint().await.unwrap();
    let mut storage = reopen(&disk, storage).await;
    openraft::storage::StorageHelper::new(&mut storage.log, &mut storage.machine)
        .with_id(1)
        .get_initial_state()
        .await
        .unwrap();
    let state = storage.log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 1, 9)));
    append(&mut storage.log, vec![change(10)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_kept_with_the_state() {
    let disk = CrashDisk::new();
    let mut storage = open(&disk).await;
    let node = crate::raft::types::MemberNode {
        peer_addr: "a:1".into(),
        ..Default::default()
    };
    let membership = Membership::new(vec![[1].into()], BTreeMap::from([(1, node)])).unwrap();
    let entry = Entry {
        log_id: log_id(1, 1, 1),
        payload: EntryPayload::Membership(membership.clone()),
    };
    apply(&mut storage.machine, vec![entry]).await.unwrap();
    storage.shared.checkpoint().await.unwrap();
    let mut storage = reopen(&disk, storage).await;
    let (_, stored) = storage.machine.applied_state().await.unwrap();
    assert_eq!(stored.membership(), &membership);
    assert_eq!(stored.log_id(), &Some(log_id(1, 1, 1)));
}
