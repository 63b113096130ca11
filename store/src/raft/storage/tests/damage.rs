//! What cannot be read is named at the start, and nobody else gets into the directory.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_named_at_the_start() {
    let disk = CrashDisk::new();
    let mut storage = open(&disk).await;
    append(&mut storage.log, (1..=49).map(change).collect())
        .await
        .unwrap();
    append(&mut storage.log, vec![change(50)]).await.unwrap();
    apply(&mut storage.machine, (1..=50).map(change).collect())
        .await
        .unwrap();
    storage.shared.checkpoint().await.unwrap();
    drop(storage);
    disk.kill();
    let bits = 8 * disk.len(LOG).unwrap() as usize;
    let mut named = 0;
    for step in 0..1_000 {
        let bit = (step * 7_919 * 8 + step) % bits;
        let disk = disk.copy();
        disk.flip(LOG, bit);
        match Storage::open(Arc::new(disk), 1, None, None).await {
            // A bit that no record uses; or one of the newest commit, which after a crash cannot be told from a torn one.
            Ok(mut storage) => assert!(indices(&mut storage.log).await.len() >= 49, "bit {bit}"),
            Err(error) => {
                assert!(error.to_string().contains("log.redb"), "{error}");
                named += 1;
            }
        }
    }
    assert!(named > 0, "no flip hit a record");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_file_and_an_emptied_one_are_refused() {
    let disk = CrashDisk::new();
    drop(open(&disk).await);
    disk.kill();
    disk.truncate(LOG, 0);
    let error = Storage::open(Arc::new(disk.clone()), 1, None, None)
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("it is empty"), "{error}");
    disk.kill();
    disk.remove(LOG).unwrap();
    let error = Storage::open(Arc::new(disk.clone()), 1, None, None)
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("has lost log.redb"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_member_or_cluster_is_kept_out() {
    let disk = CrashDisk::new();
    let first = open(&disk).await;
    let again = Storage::open(Arc::new(disk.clone()), 1, None, None)
        .await
        .err()
        .unwrap();
    assert!(matches!(again, OpenError::InUse), "{again}");
    drop(first);
    disk.kill();
    let files: Arc<dyn Files> = Arc::new(disk.clone());
    let other = Storage::open(files.clone(), 2, None, None)
        .await
        .err()
        .unwrap();
    assert!(matches!(other, OpenError::OtherMember { .. }), "{other}");
    disk.kill();
    crate::db::directory::join_cluster(&disk, [5; 16]).unwrap();
    let other = Storage::open(files.clone(), 1, Some([6; 16]), None)
        .await
        .err()
        .unwrap();
    assert!(matches!(other, OpenError::OtherCluster { .. }), "{other}");
    disk.kill();
    let storage = Storage::open(files, 1, Some([5; 16]), None).await.unwrap();
    assert_eq!(storage.identity.cluster, Some([5; 16]));
}
