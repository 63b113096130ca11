//! What the log says is on disk is there after a restart, and nothing is said before.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn vote_log_purge_truncation_and_commit_survive_a_restart() {
    let disk = CrashDisk::new();
    let mut storage = open(&disk).await;
    let incarnation = storage.identity.incarnation;
    storage
        .log
        .save_vote(&Vote::new_committed(3, 1))
        .await
        .unwrap();
    append(
        &mut storage.log,
        (1..=20).map(|index| blank(3, index)).collect(),
    )
    .await
    .unwrap();
    storage
        .log
        .truncate_after(Some(log_id(3, 1, 15)))
        .await
        .unwrap();
    append(&mut storage.log, vec![blank(4, 16)]).await.unwrap();
    storage
        .log
        .save_committed(Some(log_id(3, 1, 12)))
        .await
        .unwrap();
    storage.log.purge(log_id(3, 1, 10)).await.unwrap();
    storage.log.file().flush().await.unwrap();

    let mut storage = reopen(&disk, storage).await;
    assert_eq!(storage.identity.incarnation, incarnation);
    assert_eq!(
        storage.log.read_vote().await.unwrap(),
        Some(Vote::new_committed(3, 1))
    );
    assert_eq!(
        storage.log.read_committed().await.unwrap(),
        Some(log_id(3, 1, 12))
    );
    let state = storage.log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(3, 1, 10)));
    assert_eq!(state.last_log_id, Some(log_id(4, 1, 16)));
    let expected = [(3, 11), (3, 12), (3, 13), (3, 14), (3, 15), (4, 16)];
    assert_eq!(indices(&mut storage.log).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_beyond_the_last_entry_leaves_an_empty_log_that_goes_on_behind_it() {
    let disk = CrashDisk::new();
    let mut storage = open(&disk).await;
    append(
        &mut storage.log,
        (1..=5).map(|index| blank(1, index)).collect(),
    )
    .await
    .unwrap();
    storage.log.purge(log_id(2, 1, 100)).await.unwrap();
    for round in 0..2 {
        let state = storage.log.get_log_state().await.unwrap();
        assert_eq!(
            state.last_purged_log_id,
            Some(log_id(2, 1, 100)),
            "round {round}"
        );
        assert_eq!(state.last_log_id, Some(log_id(2, 1, 100)));
        assert_eq!(indices(&mut storage.log).await, []);
        storage.log.file().flush().await.unwrap();
        storage = reopen(&disk, storage).await;
    }
    append(&mut storage.log, vec![blank(2, 101)]).await.unwrap();
    storage = reopen(&disk, storage).await;
    assert_eq!(indices(&mut storage.log).await, [(2, 101)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_big_purge_is_removed_in_pieces_and_stays_done() {
    let disk = CrashDisk::new();
    let mut storage = open(&disk).await;
    append(
        &mut storage.log,
        (1..=5_000).map(|index| blank(1, index)).collect(),
    )
    .await
    .unwrap();
    storage.log.purge(log_id(1, 1, 4_990)).await.unwrap();
    storage.log.file().flush().await.unwrap();
    let mut storage = reopen(&disk, storage).await;
    assert_eq!(indices(&mut storage.log).await.len(), 10);
    assert_eq!(indices(&mut storage.log).await[0], (1, 4_991));
}

#[tokio::test(flavor = "multi_thread")]
async fn acks_follow_the_flush() {
    let disk = CrashDisk::new();
    let mut storage = open(&disk).await;
    append(&mut storage.log, vec![blank(1, 1)]).await.unwrap();
    disk.fail_after(0, io::ErrorKind::StorageFull);
    let (sender, flushed) = <openraft_rt_tokio::TokioOneshot as Oneshot>::channel();
    storage
        .log
        .append([blank(1, 2)], IOFlushed::signal(sender))
        .await
        .unwrap();
    // Readable at once, and never acknowledged.
    assert_eq!(indices(&mut storage.log).await, [(1, 1), (1, 2)]);
    let error = flushed.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_failed_write_is_the_last() {
    let disk = CrashDisk::new();
    let mut storage = open(&disk).await;
    disk.fail_after(0, io::ErrorKind::StorageFull);
    let error = storage.log.save_vote(&Vote::new(2, 1)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(storage.log.read_vote().await.unwrap(), None);
    let alarm = storage.alarm.wait().await;
    assert!(alarm.to_string().contains("log.redb"), "{alarm}");
    // The disk is well again; the member is not.
    disk.fail_after(u64::MAX / 2, io::ErrorKind::Other);
    assert!(append(&mut storage.log, vec![blank(2, 1)]).await.is_err());
    assert!(storage.log.save_vote(&Vote::new(3, 1)).await.is_err());
    assert!(storage.log.purge(log_id(1, 1, 1)).await.is_err());
    assert!(storage.shared.checkpoint().await.is_err());
    assert!(apply(&mut storage.machine, vec![change(1)]).await.is_err());
}
