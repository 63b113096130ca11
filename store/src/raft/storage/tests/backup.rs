//! A backup makes a new cluster, and a directory can be looked at without changing it.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_becomes_a_new_cluster_whose_fences_lie_ahead() {
    let (old, new) = (CrashDisk::new(), CrashDisk::new());
    let mut source = open(&old).await;
    source.shared.set_cluster([1; 16]);
    apply(&mut source.machine, (1..=30).map(change).collect())
        .await
        .unwrap();
    let revision = source.shared.read(Machine::revision);
    source.shared.checkpoint().await.unwrap();
    let mut snapshot = source.shared.snapshot().await.unwrap().unwrap();
    let mut backup = Vec::new();
    while let Some(frame) = snapshot.snapshot.next_frame().await.unwrap() {
        backup.extend_from_slice(&frame);
    }

    let files: Arc<dyn Files> = Arc::new(new.clone());
    let cut = crate::raft::restore::restore(&files, &backup[..backup.len() - 1], 7, "a:1", "a:2");
    assert!(cut.unwrap_err().to_string().contains("cut off"));
    let identity = crate::raft::restore::restore(&files, &backup[..], 7, "a:1", "a:2").unwrap();
    assert_ne!(identity.cluster, Some([1; 16]));
    let again = crate::raft::restore::restore(&files, &backup[..], 7, "a:1", "a:2").unwrap_err();
    assert!(
        again.to_string().contains("already holds a member"),
        "{again}"
    );

    let mut storage = Storage::open(files, 7, identity.cluster, None)
        .await
        .unwrap();
    let raised = storage.shared.read(Machine::revision);
    assert_eq!(raised, revision + crate::raft::restore::RESTORE_RAISE);
    let (applied, membership) = storage.machine.applied_state().await.unwrap();
    assert_eq!(applied, Some(log_id(1, 1, 30)));
    assert_eq!(membership.voter_ids().collect::<Vec<_>>(), [7]);
    assert_eq!(
        membership.get_node(&7).unwrap().incarnation,
        identity.incarnation
    );
    assert_eq!(
        storage.log.read_vote().await.unwrap(),
        Some(Vote::new(2, 7))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn inspecting_tells_the_state_at_an_index_and_changes_nothing() {
    let disk = CrashDisk::new();
    let mut storage = open(&disk).await;
    let incarnation = storage.identity.incarnation;
    append(&mut storage.log, (1..=40).map(change).collect())
        .await
        .unwrap();
    apply(&mut storage.machine, (1..=20).map(change).collect())
        .await
        .unwrap();
    storage.shared.checkpoint().await.unwrap();
    storage.log.save_vote(&Vote::new(9, 2)).await.unwrap();
    let in_use = crate::raft::inspect::inspect(&disk, None).unwrap_err();
    assert!(matches!(in_use, OpenError::InUse), "{in_use}");
    drop(storage);
    // As a crash leaves it: both databases need repair.
    disk.power_cut(1);
    let before = [disk.read(LOG).unwrap(), disk.read(STATE).unwrap()];
    for (at, index) in [(None, 20), (Some(33), 33), (Some(1_000), 40), (Some(3), 20)] {
        let found = crate::raft::inspect::inspect(&disk, at).unwrap();
        assert_eq!(
            (found.index, found.state_hash),
            (index, state_hash_after(index)),
            "{at:?}"
        );
        assert_eq!(found.identity.incarnation, incarnation);
        assert_eq!((found.entries, found.vote), (40, Some(Vote::new(9, 2))));
        assert_eq!(found.last, Some(log_id(1, 1, 40)));
        assert!(
            found
                .records
                .values()
                .map(|records| records.count)
                .sum::<u64>()
                > 0
        );
    }
    assert!(before == [disk.read(LOG).unwrap(), disk.read(STATE).unwrap()]);
    let empty = crate::raft::inspect::inspect(&CrashDisk::new(), None).unwrap_err();
    assert!(matches!(empty, OpenError::Empty), "{empty}");
}
