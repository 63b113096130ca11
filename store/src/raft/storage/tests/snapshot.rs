//! A snapshot is checked before it replaces anything.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_streamed_checked_and_installed() {
    let (from, to) = (CrashDisk::new(), CrashDisk::new());
    let mut source = open(&from).await;
    apply(&mut source.machine, (1..=500).map(change).collect())
        .await
        .unwrap();
    let mut builder = source.machine.get_snapshot_builder().await;
    let mut snapshot = builder.build_snapshot().await.unwrap();
    // What is applied later does not change the snapshot.
    let (_, hash) = source.shared.state_hash();
    apply(&mut source.machine, (501..=600).map(change).collect())
        .await
        .unwrap();
    source.shared.checkpoint().await.unwrap();

    let mut target = open(&to).await;
    let mut receiver = target.shared.receive().await.unwrap();
    let mut frames = Vec::new();
    while let Some(frame) = snapshot.snapshot.next_frame().await.unwrap() {
        assert!(frame.len() <= crate::limits::SNAPSHOT_FRAME_BYTES);
        frames.push(frame.clone());
        receiver.push(frame).await.unwrap();
    }
    let (meta, data) = receiver.finish().await.unwrap();
    assert_eq!(meta, snapshot.meta);
    target.machine.install_snapshot(&meta, data).await.unwrap();
    assert_eq!(target.shared.state_hash(), (500, hash));
    let target = reopen(&to, target).await;
    assert_eq!(target.shared.state_hash(), (500, hash));

    // Any damage is noticed, and leaves nothing behind.
    for at in 0..frames.len() {
        let mut receiver = target.shared.receive().await.unwrap();
        let mut refused = false;
        for (i, frame) in frames.iter().enumerate() {
            let mut bytes = frame.to_vec();
            if i == at {
                bytes[12] ^= 1;
            }
            refused |= receiver.push(Bytes::from(bytes)).await.is_err();
        }
        assert!(refused && receiver.finish().await.is_err());
    }
    let mut receiver = target.shared.receive().await.unwrap();
    for frame in &frames[..frames.len() - 1] {
        receiver.push(frame.clone()).await.unwrap();
    }
    assert!(
        receiver
            .finish()
            .await
            .unwrap_err()
            .to_string()
            .contains("cut off")
    );
    assert_eq!(target.files.list().unwrap(), ["identity", LOG, STATE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_snapshot_is_refused() {
    let (from, to) = (CrashDisk::new(), CrashDisk::new());
    let source = open(&from).await;
    source.shared.set_cluster([1; 16]);
    source.shared.checkpoint().await.unwrap();
    let mut snapshot = source.shared.snapshot().await.unwrap().unwrap();
    let target = open(&to).await;
    target.shared.set_cluster([2; 16]);
    let mut receiver = target.shared.receive().await.unwrap();
    let head = snapshot.snapshot.next_frame().await.unwrap().unwrap();
    let error = receiver.push(head).await.unwrap_err().to_string();
    assert!(error.contains("cluster 0101"), "{error}");
    let mut receiver = target.shared.receive().await.unwrap();
    let error = receiver
        .push(Bytes::from_static(b"GIF89a and then some"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("not a snapshot"), "{error}");
}
